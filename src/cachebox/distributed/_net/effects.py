"""The effects that operations ask for, and the servers that they concern.

The operations (`_ops`) are generators. They yield one of the effects below and are sent its outcome. A driver carries
out the effect in the calling thread (`blocking_driver`) or the calling task (`asyncio_driver`). The drivers differ in
nothing else, so the two caches cannot drift apart.
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
    """One server: its address, its health, and the connections to it."""

    def __init__(self, servers: Servers, address: Address, for_sentinel: bool = False) -> None:
        self.servers = servers
        self.address = address
        self.for_sentinel = for_sentinel
        self.health = Health(self)
        self.pool = ConnectionPool(servers.max_connections)

    def renew(self) -> None:
        """After a fork, in the child."""
        self.health.renew()
        self.pool.renew()

    def close(self, for_good: bool = False) -> None:
        """Close the idle connections; `for_good`: also close the others as soon as they are given back."""
        self.pool.is_closed = self.pool.is_closed or for_good
        self.pool.close()

    @property
    def idle(self) -> list[Connection]:
        """The idle connections of all threads."""
        return self.pool.idle

    @property
    def by_loop(self) -> dict[Any, LoopConnections]:
        """The connections of each event loop."""
        return self.pool.by_loop

    @property
    def breaker(self) -> Breaker:
        """The breaker, which says whether the server is asked."""
        return self.health.breaker

    def __repr__(self) -> str:
        host, port = self.address
        return f"{host}:{port}" if port else host


@dataclass
class Failure:
    """A failed exchange: the error, and whether the server may have carried out the commands."""

    error: BaseException
    was_sent: bool
    is_broken: bool                 # the connection broke; False: the server did not answer in time
    was_reused: bool = False        # the connection had been used before
    is_internal: bool = False       # a failure of this process, such as no free connection; not of the server


@dataclass
class Exchange:
    """Send each node its commands. The outcome is a list with the replies of each, checked by `replies.verify`, or a
    Failure."""

    requests: list[tuple[Node, Commands]]
    deadline: float
    once: bool = False              # never send the commands a second time


class NewWaiter:
    """Create a waiter for the running driver, and return it. Any thread may call its `wake()`."""


@dataclass
class Wait:
    """Wait until a waiter is woken, or until a monotonic time (None: no limit). Returns whether it was woken."""

    waiter: Any
    until: float | None


@dataclass
class Call:
    """Call a function of the user's, and return its result, awaited by those who can."""

    function: Callable[[], Any]
    name: str
    """What the function is called in an error."""


@dataclass
class Block:
    """Call a function of this package that may block for a while, and return its result."""

    function: Callable[[], Any]


@dataclass
class Spawn:
    """Run steps in the background: in a thread of the pool, or in a task. Returns whether they will run."""

    steps: Callable[[], Effects[None]]


Effects = Generator[Any, Any, T]
