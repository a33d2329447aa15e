"""Doing what the core asks for in the calling thread, which waits."""

from __future__ import annotations

import select
import time
from typing import Any

from cachebox.callers import waiter
from cachebox.distributed.effects import Effects, Exchange, Failure, MakeWaiter, Node, Start, T, Wait
from cachebox.distributed.resp import CHUNK, Replies
from cachebox.distributed.servers import FAILURES, connect, is_cut, is_timeout, left
from cachebox.refreshing import report

GRACE = 0.02                        # seconds to collect what other servers have answered when one of them has not


class Channel:
    """A connection that blocks."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.replies = Replies()

    def send(self, data: bytes, deadline: float) -> None:
        self.sock.settimeout(left(deadline))
        self.sock.sendall(data)

    def receive(self, n: int, deadline: float) -> list[Any]:
        """The next n replies."""
        replies = self.replies
        found: list[Any] = []
        while not replies.collect(found, n):
            self.sock.settimeout(left(deadline))
            data = self.sock.recv(max(CHUNK, replies.missing))
            if not data:
                raise ConnectionResetError("the server closed the connection")
            replies.feed(data)
        return found

    def close(self) -> None:
        self.sock.close()


def open_channel(node: Node, deadline: float) -> Channel:
    """A new connection to a node."""
    return Channel(connect(node.servers, node.address, deadline, node.for_sentinel))


class Blocking:
    """Runs the core's generators in the calling thread."""

    def run(self, steps: Effects[T]) -> T:
        """Do all that the generator asks for, and return what it returns."""
        try:
            effect = next(steps)
            while True:
                try:
                    outcome = self.do(effect)
                except BaseException as error:
                    effect = steps.throw(error)
                else:
                    effect = steps.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result

    def do(self, effect: Any) -> Any:
        """One effect."""
        if type(effect) is Exchange:
            if len(effect.requests) == 1:
                node, data, n = effect.requests[0]
                return [exchange(node, data, n, effect.deadline)]
            return exchange_with_many(effect.requests, effect.deadline)
        if type(effect) is Wait:
            return effect.waiter.wait(None if effect.until is None else effect.until - time.monotonic())
        if type(effect) is MakeWaiter:
            return waiter()
        if type(effect) is Start:
            from cachebox.workers import submit  # a pool: most need none

            return submit(InBackground(effect))
        return effect.function()


class InBackground:
    """Steps that a thread of the pool runs."""

    def __init__(self, what: Start) -> None:
        self._steps = what.steps

    def run(self) -> None:
        """In that thread."""
        try:
            Blocking().run(self._steps())
        except BaseException as error:              # nobody waits for it, but somebody must know
            report(error, self._steps)


def exchange(node: Node, data: bytes, n: int, deadline: float) -> list[Any] | Failure:
    """Send, and receive n replies, over one connection."""
    channel = None
    was_sent = was_reused = False
    try:
        try:
            channel = node.idle.pop()
            was_reused = True
        except IndexError:
            channel = open_channel(node, deadline)
        was_sent = True
        channel.send(data, deadline)
        replies = channel.receive(n, deadline)
    except FAILURES as error:
        if channel is not None:
            channel.close()
        return Failure(error, was_sent, is_cut(error) or (was_sent and not is_timeout(error)), was_reused)
    except BaseException:
        if channel is not None:
            channel.close()
        raise
    node.give_back(channel)
    return replies


def exchange_with_many(requests: list[tuple[Node, bytes, int]], deadline: float) -> list[Any]:
    """Send to all, then receive from all: the time of one round trip, however many servers there are.

    Servers to which there is a connection go first, so that one which does not let us in cannot hold up the others.
    """
    outcomes: list[Any] = [None] * len(requests)
    under_way: dict[int, tuple[Channel, bool]] = {}
    order = sorted(range(len(requests)), key=lambda i: not requests[i][0].idle)
    connecting = sum(not requests[i][0].idle for i in order)
    try:
        for i in order:
            node, data, _ = requests[i]
            channel = None
            was_reused = False
            try:
                try:
                    channel = node.idle.pop()
                    was_reused = True
                except IndexError:
                    share = left(deadline) / max(1, connecting)
                    connecting -= 1
                    channel = open_channel(node, time.monotonic() + share)
                channel.send(data, deadline)
                under_way[i] = (channel, was_reused)
            except FAILURES as error:
                if channel is not None:
                    channel.close()
                was_sent = channel is not None
                outcomes[i] = Failure(
                    error, was_sent, is_cut(error) or (was_sent and not is_timeout(error)), was_reused
                )
        while under_way:
            waiting = {channel.sock: i for i, (channel, _) in under_way.items()}
            ready = readable(list(waiting), max(0.0, deadline - time.monotonic()))
            if not ready:
                ready = list(waiting)
            for sock in ready:
                i = waiting[sock]
                channel, was_reused = under_way[i]
                try:
                    outcomes[i] = channel.receive(requests[i][2], max(deadline, time.monotonic() + GRACE))
                    requests[i][0].give_back(channel)
                except FAILURES as error:
                    channel.close()
                    outcomes[i] = Failure(error, True, not is_timeout(error), was_reused)
                del under_way[i]
    except BaseException:
        for channel, _ in under_way.values():
            channel.close()
        raise
    return outcomes


def readable(socks: list[Any], seconds: float) -> list[Any]:
    """Which of the sockets have something to read, waiting until one has."""
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
