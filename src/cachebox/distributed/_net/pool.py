"""The connections to one server: at most so many, whoever uses them, and those that nobody uses for long are closed.

Threads share one stack of idle connections, and so do the tasks of each event loop; what is used last is used next, so
in each stack the oldest lies first. All of them together are bound: a *place* stands for a connection that is open or
being opened. Who finds neither an idle one nor a place stands in line, and is handed the next that becomes free.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cachebox._platform.section import Section

if TYPE_CHECKING:
    from cachebox.distributed._net.asyncio_driver import AsyncConnection, LoopConnections
    from cachebox.distributed._net.blocking_driver import Connection

IDLE = 30.0
"""Seconds without use after which a connection is closed."""
TRUSTED = 5.0
"""Seconds without use after which a connection is used only after a sign of life."""
TRUSTED_ONCE = 1.0
"""The same for what cannot be asked again over another one."""
RECENT = 0.25
"""Seconds without use up to which a connection is hardly forgotten: who waits for an answer waits longer."""
LARGE = 65536
"""Bytes that are not sent again where it need not be: a server that is slow has enough to do."""


class Turn:
    """Somebody who waits for a connection: what was handed over, and how it is told. `home`: an event loop, or None."""

    def __init__(self, home: Any, wake: Callable[[], object]) -> None:
        self.home = home
        self.wake = wake
        self.connection: Any = None
        self.has_place = False


class ConnectionPool:
    """The connections to one server. Thread-safe; everything is O(1) but for the closing of many.

    `idle` may be popped by anybody without the lock.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.idle: list[Connection] = []
        self.by_loop: dict[Any, LoopConnections] = {}       # by event loop
        self.is_over = False
        self.on_open: Callable[[], object] | None = None
        self.renew()

    def renew(self) -> None:
        """Without connections: at first, and in the child of a fork, which must not talk over its parent's."""
        self._lock = Section()
        for connection in self.idle:
            connection.close()
        for own in self.by_loop.values():
            for other in own.idle:
                other.close_socket()
        self.idle = []
        self.by_loop = {}
        self.size = 0                           # places that are taken
        self.line: deque[Turn] = deque()

    # --- places -----------------------------------------------------------------------------------------------------

    def take_place(self) -> bool:
        """Whether one more connection may be opened: then whoever asks has its place."""
        taken = self._reserve()
        if taken and self.on_open is not None:
            self.on_open()
        return taken

    def _reserve(self) -> bool:
        with self._lock:
            if self.size >= self.limit:
                return False
            self.size += 1
            return True

    def give_place(self) -> None:
        """A connection is gone: the first in line has its place, if anybody is."""
        with self._lock:
            turn = self.line.popleft() if self.line else None
            if turn is None:
                self.size -= 1
            else:
                turn.has_place = True
        if turn is not None:
            turn.wake()

    def line_up(self, turn: Turn) -> bool:
        """Stand in line. False: not necessary, there was something after all."""
        with self._lock:
            own = self.idle if turn.home is None else self.by_loop[turn.home].idle
            with contextlib.suppress(IndexError):
                turn.connection = own.pop()
                return False
            turn.has_place = self._reserve()
            spare = None if turn.has_place else self._pop_spare()
            if spare is not None:
                turn.has_place = True
            elif not turn.has_place:
                self.line.append(turn)
        if spare is not None:
            _close(*spare)
        return not turn.has_place

    def _pop_spare(self) -> tuple[Any, Any] | None:
        """An idle connection of somebody else's, and its event loop."""
        with contextlib.suppress(IndexError):
            return self.idle.pop(0), None
        for home, own in list(self.by_loop.items()):
            with contextlib.suppress(IndexError):
                return own.idle.pop(0), home
        return None

    def step_out(self, turn: Turn) -> None:
        """Do not wait any more; what was handed over meanwhile goes on."""
        with self._lock:
            if turn in self.line:
                self.line.remove(turn)
        if turn.connection is not None:
            self.give_back(turn.connection, turn.home)
        elif turn.has_place:
            self.give_place()

    # --- connections ------------------------------------------------------------------------------------------------

    def give_back(self, connection: Any, home: Any = None) -> None:
        """A connection is not used any more: it is idle, or the next one's."""
        idle: list[Any] = self.idle if home is None else self.by_loop[home].idle
        idle.append(connection)
        if self.line:
            self._hand_over(idle, home)
        if self.is_over:
            self.close()

    def _hand_over(self, idle: list[Any], home: Any) -> None:
        with self._lock:
            if not self.line or not idle:
                return
            turn = self.line.popleft()
            connection = idle.pop()
            if turn.home is home:
                turn.connection, connection = connection, None
            else:
                turn.has_place = True
        if connection is not None:
            _close(connection, home)
        turn.wake()

    def discard(self, connection: Any) -> None:
        """Close a connection that was in use, and let another one be opened."""
        connection.close()
        self.give_place()

    def close(self, until: float = float("inf")) -> None:
        """Close the connections that nobody uses, and has not used since a monotonic time."""
        stacks: list[tuple[Any, list[Any]]] = [(None, self.idle)]
        stacks += [(home, own.idle) for home, own in list(self.by_loop.items())]
        for home, stack in stacks:
            with contextlib.suppress(IndexError):       # others may take some meanwhile
                while stack[0].used_at <= until:
                    connection = stack.pop(0)
                    _close(connection, home)
                    self.give_place()

    def reap(self) -> None:
        """Close those that nobody has used for long, and those of event loops that have ended."""
        self.close(time.monotonic() - IDLE)
        self.forget_closed_loops()

    def forget_closed_loops(self) -> None:
        """Each loop brought connections of its own."""
        for loop in [loop for loop in list(self.by_loop) if loop.is_closed()]:
            own = self.by_loop.pop(loop, None)
            while own is not None and own.idle:
                self.discard(own.idle.pop())


def _close(connection: Any, home: Any) -> None:
    if home is None:
        connection.close()
    else:
        connection.close_on(home)


def needs_sign_of_life(connection: Connection | AsyncConnection, now: float, once: bool) -> bool:
    """Whether a connection has been idle so long that the network may have forgotten it."""
    return now - connection.used_at > (TRUSTED_ONCE if once else TRUSTED)


def patience(connection: Connection | AsyncConnection, now: float, deadline: float, size: int) -> float:
    """Until when to wait for an answer over this connection alone: if it is forgotten, another one needs time, too."""
    idle = now - connection.used_at
    if size > LARGE and idle < TRUSTED_ONCE:
        return deadline
    return (now + deadline) / 2 if idle > RECENT else (now + 3.0 * deadline) / 4


def share(deadline: float, part: float) -> float:
    """The end of a part of the time that is left."""
    now = time.monotonic()
    return now + max(0.0, deadline - now) * part
