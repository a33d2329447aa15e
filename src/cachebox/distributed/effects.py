"""What the core asks to be done, and the servers that it is about.

The core (`core`) is made of generators. They yield one of the effects below, and get the outcome sent back. `blocking`
and `awaiting` do what is asked for, in the calling thread or in the calling task, and differ in nothing else, which is
why the two caches cannot drift apart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from cachebox.distributed.breaker import Breaker
from cachebox.distributed.servers import Address, Servers

if TYPE_CHECKING:
    from cachebox.distributed.awaiting import Lanes
    from cachebox.distributed.blocking import Channel

T = TypeVar("T")


class Node:
    """One server: its address, its breaker, and connections to it that nobody uses now."""

    def __init__(self, servers: Servers, address: Address, for_sentinel: bool = False) -> None:
        self.servers = servers
        self.address = address
        self.for_sentinel = for_sentinel
        self.breaker = Breaker()
        self.is_over = False
        self.idle: list[Channel] = []
        self.lanes: dict[Any, Lanes] = {}       # by event loop
        self.renew()

    def renew(self) -> None:
        """Without connections: at first, and in the child of a fork, which must not talk over its parent's."""
        self.breaker.reset()
        for channel in self.idle:
            channel.close()
        for lanes in self.lanes.values():
            for other in lanes.idle:
                other.close_socket()
        self.idle = []
        self.lanes = {}

    def close(self, for_good: bool = False) -> None:
        """Close the connections that nobody uses; `for_good`: the others too, when they come back."""
        self.is_over = self.is_over or for_good
        with contextlib.suppress(IndexError):       # others may take some meanwhile
            while True:
                self.idle.pop().close()
        for loop, lanes in list(self.lanes.items()):
            with contextlib.suppress(IndexError):
                while True:
                    lanes.idle.pop().close_on(loop)

    def give_back(self, channel: Channel) -> None:
        """A connection that is not used any more."""
        self.idle.append(channel)
        if self.is_over:
            self.close()

    def __repr__(self) -> str:
        host, port = self.address
        return f"{host}:{port}" if port else host


@dataclass
class Failure:
    """An exchange that went wrong: how, and whether the server may have done what it was told."""

    error: BaseException
    was_sent: bool
    is_broken: bool                 # the connection, as opposed to a server that does not answer in time
    was_reused: bool = False
    is_ours: bool = False           # no connection became free in time, which says nothing about the server


@dataclass
class Exchange:
    """Send to each node its bytes, and return a list: so many replies of each, or a Failure."""

    requests: list[tuple[Node, bytes, int]]
    deadline: float


class MakeWaiter:
    """Make what the one who runs this can wait for: its `wake` may be called by any thread. Returns it."""


@dataclass
class Wait:
    """Wait until a waiter is woken, or until a monotonic time (None: without end). Returns whether it was woken."""

    waiter: Any
    until: float | None


@dataclass
class Run:
    """Call a function of the user's, and return what it returns."""

    function: Callable[[], Any]


@dataclass
class Start:
    """Have steps run in the background: in a thread of the pool, or in a task. Returns whether they will."""

    steps: Callable[[], Effects[None]]


Effects = Generator[Any, Any, T]
