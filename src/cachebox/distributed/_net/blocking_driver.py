"""The driver that carries out effects in the calling thread."""

from __future__ import annotations

import select
import time
from typing import Any

from cachebox._platform.awaitables import plain_call
from cachebox._platform.callers import waiter
from cachebox._platform.guard import report
from cachebox._platform.steps import run
from cachebox.distributed._net.effects import (
    Call,
    Commands,
    Effects,
    Exchange,
    Failure,
    NewWaiter,
    Node,
    Spawn,
    T,
    Wait,
)
from cachebox.distributed._net.pool import TRUSTED_ONCE, Place, PoolWaiter, needs_sign_of_life, patience, share
from cachebox.distributed._net.servers import connect, failures, forget_unsent, is_cut, is_timeout, left
from cachebox.distributed._wire.replies import verify
from cachebox.distributed._wire.resp import CHUNK, LARGEST_CHUNK, Replies, packed_all

PING = packed_all([[b"PING"]])
GRACE = 0.02                        # seconds to collect the other servers' answers after one of them has not answered


class Connection:
    """A blocking connection."""

    def __init__(self, sock: Any, place: Place | None = None) -> None:
        self.sock = sock
        self.place: Any = place         # None: it belongs to no pool
        self.replies = Replies()
        self.used_at = time.monotonic()

    def send(self, data: bytes, deadline: float) -> None:
        self.sock.settimeout(left(deadline))
        self.sock.sendall(data)

    def receive(self, n: int, deadline: float) -> list[Any]:
        """The next n replies."""
        replies = self.replies
        found: list[Any] = []
        while not replies.collect(found, n):
            self.sock.settimeout(left(deadline))
            data = self.sock.recv(min(max(CHUNK, replies.missing), LARGEST_CHUNK))
            if not data:
                raise ConnectionResetError("the server closed the connection")
            replies.feed(data)
        return found

    def lives(self, deadline: float) -> bool:
        """Whether the server still answers."""
        try:
            self.send(PING, deadline)
            self.receive(1, deadline)
        except failures():
            return False
        return True

    def close(self) -> None:
        self.sock.close()

    def abort(self) -> None:
        """Close in the middle of a request."""
        forget_unsent(self.sock)
        self.sock.close()


def open_connection(node: Node, deadline: float, place: Place | None = None) -> Connection:
    """A new connection to a node."""
    connection = Connection(connect(node.servers, node.address, deadline, node.for_sentinel), place)
    if node.health.is_troubled:
        node.health.lets_in()
    return connection


class Blocking:
    """Runs the operations' generators in the calling thread."""

    def run(self, steps: Effects[T]) -> T:
        """Carry out every effect of the generator, and return its result."""
        return run(steps, self.do)

    def do(self, effect: Any) -> Any:
        """Carry out one effect."""
        if type(effect) is Exchange:
            if len(effect.requests) == 1:
                return [exchange(*effect.requests[0], effect.deadline, effect.once)]
            return exchange_with_many(effect.requests, effect.deadline)
        if type(effect) is Wait:
            return effect.waiter.wait(None if effect.until is None else effect.until - time.monotonic())
        if type(effect) is NewWaiter:
            return waiter()
        if type(effect) is Spawn:
            # the pool is imported late, because most programs need none
            from cachebox._loading.refresh_pool import submit

            return submit(InBackground(effect))
        if type(effect) is Call:
            return plain_call(effect.name, effect.function)
        return effect.function()


class InBackground:
    """Steps that a thread of the pool runs."""

    def __init__(self, what: Spawn) -> None:
        self._steps = what.steps

    def run(self) -> None:
        """Run them, in that thread."""
        try:
            Blocking().run(self._steps())
        except BaseException as error:              # nobody waits for the result
            report(error, self._steps)


def idle_connection(node: Node, now: float, deadline: float, once: bool = False) -> Connection | None:
    """An idle connection that is believed to be alive, or None."""
    pool = node.pool
    while True:
        try:
            connection = pool.idle.pop()
        except IndexError:
            return None
        if now - connection.used_at <= TRUSTED_ONCE or not needs_sign_of_life(connection, now, once):
            return connection
        try:
            lives = connection.lives(share(deadline, 0.25))
        except BaseException:
            pool.discard(connection)
            raise
        if lives:
            connection.used_at = time.monotonic()
            return connection
        pool.discard(connection)
        pool.close(connection.used_at)          # the others were idle for longer


def new_connection(node: Node, deadline: float, place: Place) -> Connection:
    """A new connection, in a place of its own."""
    try:
        return open_connection(node, deadline, place)
    except BaseException:
        place.leave()
        raise


def next_connection(node: Node, deadline: float) -> tuple[Connection, bool]:
    """The next connection that becomes free, and whether it was used before. Raises TimeoutError if none does in
    time."""
    waiting = waiter()
    queued = PoolWaiter(None, waiting.wake)
    try:
        if node.pool.enqueue(queued):
            waiting.wait(max(0.0, deadline - time.monotonic()))
        connection, queued.connection = queued.connection, None
        if connection is not None:
            return connection, True
        place, queued.place = queued.place, None
        if place is not None:
            return new_connection(node, deadline, place), False
    finally:
        node.pool.withdraw(queued)
        waiting.close()
    raise TimeoutError("no connection became free in time")


def exchange(node: Node, commands: Commands, deadline: float, once: bool = False) -> list[Any] | Failure:
    """Send commands and receive their replies over one connection."""
    data = packed_all(commands)
    connection = None
    was_sent = was_reused = is_waiting = False
    try:
        until = deadline
        now = time.monotonic()
        connection = idle_connection(node, now, deadline, once)
        if connection is not None:
            was_reused = True
            if not once:
                until = patience(connection, now, deadline, len(data))
        elif (place := node.pool.take_place()) is not None:
            connection = new_connection(node, deadline, place)
        else:
            is_waiting = True
            connection, was_reused = next_connection(node, deadline)
            is_waiting = False
        was_sent = True
        connection.used_at = now
        connection.send(data, until)
        replies = connection.receive(len(commands), until)
        verify(commands, replies, connection.replies)
    except failures() as error:
        if connection is not None and is_timeout(error) and until < deadline:
            return hedged_exchange(node, commands, connection, deadline)
        if connection is not None:
            node.pool.discard(connection)
        return failure_of(error, was_sent, was_reused, is_waiting)
    except BaseException:
        if connection is not None:
            node.pool.discard(connection)
        raise
    node.pool.give_back(connection)
    return replies


def failure_of(error: BaseException, was_sent: bool, was_reused: bool, is_waiting: bool = False) -> Failure:
    """The Failure of an exchange."""
    is_broken = is_cut(error) or (was_sent and not is_timeout(error))
    return Failure(error, was_sent, is_broken, was_reused, is_internal=is_waiting and is_timeout(error))


def hedged_exchange(node: Node, commands: Commands, old: Connection, deadline: float) -> list[Any] | Failure:
    """Ask over a new connection after no answer came over `old`, but go on listening to both.

    The network may have forgotten the old connection. But the server may as well be slow, and answer there.
    """
    pool = node.pool
    connections = [old]
    try:
        place = pool.take_place()
        if place is None:
            connections.pop().abort()           # without a place for both, the new one takes the old one's
            place = old.place
        new = new_connection(node, deadline, place)
        connections.append(new)
        if connections[0] is new or not readable([old.sock], 0.0):
            new.send(packed_all(commands), deadline)
        ready = readable([connection.sock for connection in connections], left(deadline))
        winner = next((connection for connection in connections if connection.sock in ready), new)
        replies = collect(winner, commands, deadline)
    except failures() as error:
        return last_look(node, commands, connections, old, failure_of(error, True, True))
    except BaseException:
        for connection in connections:
            pool.discard(connection)
        raise
    connections.remove(winner)
    for connection in connections:
        pool.discard(connection)
    if winner is new:
        pool.close(old.used_at)                 # the others were idle for longer
    pool.give_back(winner)
    return replies


def collect(connection: Connection, commands: Commands, deadline: float) -> list[Any]:
    """The replies to commands that were sent."""
    replies = connection.receive(len(commands), deadline)
    verify(commands, replies, connection.replies)
    return replies


def last_look(
    node: Node, commands: Commands, connections: list[Connection], old: Connection, failure: Failure
) -> list[Any] | Failure:
    """Take the old connection's answer, if it came, after the new connection brought none."""
    outcome: list[Any] | Failure = failure
    if old in connections and readable([old.sock], 0.0):
        try:
            outcome = collect(old, commands, time.monotonic() + GRACE)
        except failures():
            pass
        else:
            connections.remove(old)
            node.pool.give_back(old)
    for connection in connections:
        node.pool.discard(connection)
    return outcome


def exchange_with_many(requests: list[tuple[Node, Commands]], deadline: float) -> list[Any]:
    """Send to all servers, then receive from all: one round trip's time for any number of servers.

    Servers with an idle connection go first, so that a server which refuses connections cannot hold up the others.
    Servers without a free connection go last, when this call holds none that another caller may wait for.
    """
    outcomes: list[Any] = [None] * len(requests)
    under_way: dict[int, tuple[Connection, bool]] = {}
    waiting = []
    order = sorted(range(len(requests)), key=lambda i: not requests[i][0].pool.idle)
    until = deadline
    connecting = sum(not requests[i][0].pool.idle for i in order)
    try:
        for i in order:
            node, commands = requests[i]
            connection = None
            was_reused = False
            try:
                now = time.monotonic()
                connection = idle_connection(node, now, deadline)
                if connection is not None:
                    was_reused = True
                    until = min(until, patience(connection, now, deadline, 0))
                place = node.pool.take_place() if connection is None else None
                if connection is None and place is None:
                    waiting.append(i)
                    continue
                if place is not None:
                    connection = new_connection(node, share(deadline, 1 / max(1, connecting)), place)
                    connecting -= 1
                assert connection is not None
                connection.used_at = now
                connection.send(packed_all(commands), deadline)
                under_way[i] = (connection, was_reused)
            except failures() as error:
                if connection is not None:
                    node.pool.discard(connection)
                outcomes[i] = failure_of(error, connection is not None, was_reused)
        while under_way:
            by_sock = {connection.sock: i for i, (connection, _) in under_way.items()}
            ready = readable(list(by_sock), max(0.0, until - time.monotonic()))
            if not ready and until < deadline:
                until = deadline
                for i in [i for i, (_, was_reused) in under_way.items() if was_reused]:
                    connection, _ = under_way.pop(i)
                    outcomes[i] = hedged_exchange(*requests[i], connection, share(deadline, 1 / (1 + len(under_way))))
                continue
            for sock in ready or list(by_sock):
                i = by_sock[sock]
                node, commands = requests[i]
                connection, was_reused = under_way.pop(i)
                try:
                    outcomes[i] = collect(connection, commands, max(deadline, time.monotonic() + GRACE))
                    node.pool.give_back(connection)
                except failures() as error:
                    node.pool.discard(connection)
                    outcomes[i] = failure_of(error, True, was_reused)
                except BaseException:
                    node.pool.discard(connection)
                    raise
    except BaseException:
        for i, (connection, _) in under_way.items():
            requests[i][0].pool.discard(connection)
        raise
    for i in waiting:
        outcomes[i] = exchange(*requests[i], deadline)
    return outcomes


def readable(socks: list[Any], seconds: float) -> list[Any]:
    """The sockets that have something to read; waits until one has."""
    for sock in socks:
        if getattr(sock, "pending", int)():         # TLS may have read ahead
            return [sock]
    if not hasattr(select, "poll"):
        return select.select(socks, [], [], seconds)[0]
    poll = select.poll()
    by_number = {sock.fileno(): sock for sock in socks}
    for number in by_number:
        poll.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poll.poll(seconds * 1000)]
