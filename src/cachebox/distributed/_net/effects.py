"""What the operations ask to be done, and the servers that it is about.

The operations (`_ops`) are generators. They yield one of the effects below, and are sent the outcome. A driver does
what is asked for, in the calling thread (`blocking_driver`) or in the calling task (`asyncio_driver`). The drivers
differ in nothing else, so the two caches cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from cachebox.distributed._net.breaker import Breaker
from cachebox.distributed._net.health import Health
from cachebox.distributed._net.pool import ConnectionPool
from cachebox.distributed._net.servers import Address, Servers

if TYPE_CHECKING:
    from cachebox.distributed._net.asyncio_driver import LoopConnections
    from cachebox.distributed._net.blocking_driver import Connection

T = TypeVar("T")

Commands = Sequence[Sequence[Any]]
"""Commands for one server, in order; each as `resp.packed_list` takes it, with a name in bytes."""


class Node:
    """One server: its address, what is wrong with it, and the connections to it."""

    def __init__(self, servers: Servers, address: Address, for_sentinel: bool = False) -> None:
        self.servers = servers
        self.address = address
        self.for_sentinel = for_sentinel
        self.health = Health(self)
        self.pool = ConnectionPool(servers.max_connections)

    def renew(self) -> None:
        """In the child of a fork."""
        self.health.renew()
        self.pool.renew()

    def close(self, for_good: bool = False) -> None:
        """Close the connections that nobody uses; `for_good`: the others too, when they come back."""
        self.pool.is_over = self.pool.is_over or for_good
        self.pool.close()

    @property
    def idle(self) -> list[Connection]:
        """The connections that no thread uses now."""
        return self.pool.idle

    @property
    def by_loop(self) -> dict[Any, LoopConnections]:
        """Those of event loops."""
        return self.pool.by_loop

    @property
    def breaker(self) -> Breaker:
        """Whether it is asked."""
        return self.health.breaker

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
    """Send to each node its commands, and return a list: their replies, checked by `replies.verify`, or a Failure."""

    requests: list[tuple[Node, Commands]]
    deadline: float
    once: bool = False              # not to be sent a second time, whatever happens


class NewWaiter:
    """Create a waiter for the driver that runs this, and return it. Any thread may call its `wake()`."""


@dataclass
class Wait:
    """Wait until a waiter is woken, or until a monotonic time (None: without end). Returns whether it was woken."""

    waiter: Any
    until: float | None


@dataclass
class Call:
    """Call a function of the user's, and return what it returns."""

    function: Callable[[], Any]


@dataclass
class Block:
    """Call a function of ours that may block for a while, and return what it returns."""

    function: Callable[[], Any]


@dataclass
class Spawn:
    """Have steps run in the background: in a thread of the pool, or in a task. Returns whether they will."""

    steps: Callable[[], Effects[None]]


Effects = Generator[Any, Any, T]
