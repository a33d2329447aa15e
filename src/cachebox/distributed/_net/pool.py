"""The connections to one server: a bounded number, of which those that stay idle are closed.

Threads share one stack of idle connections, and so do the tasks of each event loop. The connection used last is used
next, so the oldest lies at the bottom of its stack. One bound holds for all of them: a *place* stands for a connection
that is open or being opened. A caller that finds neither an idle connection nor a free place waits in a queue, and is
handed the next one that becomes free.
"""

from __future__ import annotations

import contextlib
import itertools
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
"""Seconds without use after which a connection must answer a PING before it is used."""
TRUSTED_ONCE = 1.0
"""The same for a command that must not be sent a second time."""
RECENT = 0.25
"""Seconds without use up to which the network has hardly forgotten a connection, so that a caller waits longer for
it."""
LARGE = 65536
"""Bytes from which a request is not sent a second time to a server that may only be slow."""

_numbers = itertools.count()


class PoolWaiter:
    """A caller that waits for a connection: what it was handed, and how it is woken. `home`: its event loop, or
    None."""

    def __init__(self, home: Any, wake: Callable[[], object]) -> None:
        self.home = home
        self.wake = wake
        self.connection: Any = None
        self.place: Place | None = None


class Place:
    """The right to have one connection open: its owner leaves it, or drops it.

    It is taken by one step, when its number is entered in the pool, and left by one step, when that is removed.
    """

    _pool: ConnectionPool | None = None

    def __init__(self, pool: ConnectionPool) -> None:
        self.number = next(_numbers)
        self._pool = pool

    def leave(self) -> None:
        """Give the place back. May be called twice, and in the child of a fork."""
        if self._pool is not None:
            self._pool.give_place(self)

    __del__ = leave


class ConnectionPool:
    """The connections to one server. Thread-safe; everything is O(1), except closing many connections.

    Any thread may pop from `idle` without the lock.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.idle: list[Connection] = []
        self.by_loop: dict[Any, LoopConnections] = {}       # by event loop
        self.is_closed = False
        self.on_open: Callable[[], object] | None = None
        self.renew()

    def renew(self) -> None:
        """Drop all connections: at first, and in the child of a fork, which must not use its parent's."""
        self._lock = Section()
        self._taken: set[int] = set()           # the numbers of the places
        self.queue: deque[PoolWaiter] = deque()
        for connection in self.idle:
            connection.close()
        for own in self.by_loop.values():
            for other in own.idle:
                other.close_socket()
        self.idle = []
        self.by_loop = {}

    # --- places -------------------------------------------------------------------------------------------------------

    def take_place(self) -> Place | None:
        """A place for a new connection, if there is one."""
        place = self._reserve()
        if place is not None and self.on_open is not None:
            self.on_open()
        return place

    @property
    def size(self) -> int:
        """How many places are taken."""
        return len(self._taken)

    def _reserve(self) -> Place | None:
        place = Place(self)
        with self._lock:
            if len(self._taken) >= self.limit:
                return None
            self._taken.add(place.number)
        return place

    def give_place(self, place: Place) -> None:
        """A connection is gone: give its place to the first waiter, if there is one."""
        if place.number not in self._taken:
            return
        waiter = None
        following = Place(self)
        with self._lock:
            if self.queue and place.number in self._taken:
                self._taken.add(following.number)
                waiter = self.queue[0]
                waiter.place = following
                self.queue.popleft()
            self._taken.discard(place.number)
        if waiter is not None:
            waiter.wake()

    def enqueue(self, waiter: PoolWaiter) -> bool:
        """Enter the queue. Returns False if `waiter` got a connection or a place at once."""
        with self._lock:
            own = self.idle if waiter.home is None else self.by_loop[waiter.home].idle
            with contextlib.suppress(IndexError):
                waiter.connection = own.pop()
                return False
            waiter.place = self._reserve()
            spare = None if waiter.place is not None else self._pop_spare()
            if spare is not None:
                waiter.place = spare[0].place
            elif waiter.place is None:
                self.queue.append(waiter)
        if spare is not None:
            _close(*spare)
        return waiter.place is None

    def _pop_spare(self) -> tuple[Any, Any] | None:
        """An idle connection of another home, and that home's event loop."""
        with contextlib.suppress(IndexError):
            return self.idle.pop(0), None
        for home, own in list(self.by_loop.items()):
            with contextlib.suppress(IndexError):
                return own.idle.pop(0), home
        return None

    def withdraw(self, waiter: PoolWaiter) -> None:
        """Leave the queue; pass on what was handed over meanwhile."""
        with self._lock:
            if waiter in self.queue:
                self.queue.remove(waiter)
        if waiter.connection is not None:
            self.give_back(waiter.connection, waiter.home)
        elif waiter.place is not None:
            waiter.place.leave()

    # --- connections --------------------------------------------------------------------------------------------------

    def give_back(self, connection: Any, home: Any = None) -> None:
        """Make a connection idle, or hand it to the first waiter."""
        idle: list[Any] = self.idle if home is None else self.by_loop[home].idle
        idle.append(connection)
        if self.queue:
            self._hand_over(idle, home)
        if self.is_closed:
            self.close()

    def _hand_over(self, idle: list[Any], home: Any) -> None:
        with self._lock:
            if not self.queue or not idle:
                return
            waiter = self.queue.popleft()
            connection = idle.pop()
            if waiter.home is home:
                waiter.connection, connection = connection, None
            else:
                waiter.place = connection.place
        if connection is not None:
            _close(connection, home)
        waiter.wake()

    def discard(self, connection: Any) -> None:
        """Close a connection that was in use, and let another one be opened."""
        connection.abort()
        connection.place.leave()

    def close(self, until: float = float("inf")) -> None:
        """Close the idle connections that were used last at or before a monotonic time."""
        stacks: list[tuple[Any, list[Any]]] = [(None, self.idle)]
        stacks += [(home, own.idle) for home, own in list(self.by_loop.items())]
        for home, stack in stacks:
            with contextlib.suppress(IndexError):       # other callers may take some meanwhile
                while stack[0].used_at <= until:
                    connection = stack.pop(0)
                    _close(connection, home)
                    connection.place.leave()

    def reap(self) -> None:
        """Close connections that were idle for long, and those of event loops that have ended."""
        self.close(time.monotonic() - IDLE)
        self.forget_closed_loops()

    def forget_closed_loops(self) -> None:
        """Close the connections of event loops that are closed."""
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
    """Whether a connection has been idle for so long that the network may have forgotten it."""
    return now - connection.used_at > (TRUSTED_ONCE if once else TRUSTED)


def patience(connection: Connection | AsyncConnection, now: float, deadline: float, size: int) -> float:
    """Until when to wait for an answer over this connection alone. If it is forgotten, another one needs time, too."""
    idle = now - connection.used_at
    if size > LARGE and idle < TRUSTED_ONCE:
        return deadline
    return (now + deadline) / 2 if idle > RECENT else (now + 3.0 * deadline) / 4


def share(deadline: float, part: float) -> float:
    """The end of a part of the time that is left."""
    now = time.monotonic()
    return now + max(0.0, deadline - now) * part
