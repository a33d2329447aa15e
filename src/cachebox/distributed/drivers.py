"""Doing what the core asks for: input and output, waiting, and calling factories, blocking or with asyncio.

The core (`core`) is made of generators. They yield what is to be done, one of the effects below, and get the outcome
sent back. `Blocking` and `Async` differ in nothing else, which is why the two caches cannot drift apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from cachebox.distributed.breaker import Breaker
from cachebox.distributed.resp import INCOMPLETE, Push, Replies
from cachebox.distributed.servers import (
    FAILURES,
    Address,
    Servers,
    connect,
    connect_async,
    is_cut,
    is_timeout,
    left,
)

T = TypeVar("T")
CHUNK = 65536
LANES = 16                          # connections of an event loop to one server
GRACE = 0.02                        # seconds to collect what other servers have answered when one of them has not


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
    """Wait until a waiter is woken, or until a monotonic time (None: without end). Returns nothing."""

    waiter: Any
    until: float | None


@dataclass
class Run:
    """Call a function of the user's, and return what it returns."""

    function: Callable[[], Any]


Effects = Generator[Any, Any, T]


# --- blocking -------------------------------------------------------------------------------------------------------


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
        while True:
            reply = replies.next()
            if reply is INCOMPLETE:
                self.sock.settimeout(left(deadline))
                data = self.sock.recv(max(CHUNK, replies.missing))
                if not data:
                    raise ConnectionResetError("the server closed the connection")
                replies.feed(data)
            elif type(reply) is not Push:
                found.append(reply)
                if len(found) == n:
                    return found

    def close(self) -> None:
        self.sock.close()


def open_channel(node: Node, deadline: float) -> Channel:
    """A new connection to a node."""
    return Channel(connect(node.servers, node.address, deadline, node.for_sentinel))


class Waiter:
    """What a thread waits for: to be woken, by any thread."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.wake = self._event.set

    def wait(self, seconds: float | None) -> None:
        """Until it is woken, or the time is over."""
        self._event.wait(seconds)


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
            effect.waiter.wait(None if effect.until is None else max(0.0, effect.until - time.monotonic()))
            return None
        if type(effect) is MakeWaiter:
            return Waiter()
        return effect.function()


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


# --- asyncio --------------------------------------------------------------------------------------------------------


class AsyncChannel:
    """A connection of an event loop."""

    def __init__(self, reader: Any, writer: Any) -> None:
        self.reader = reader
        self.writer = writer
        self.replies = Replies()
        self.is_talking = False
        self.talks = 0                  # how many there were
        self.is_late = False

    def expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """The deadline has passed: give the connection up, which ends the wait for it.

        But first let the loop, which may be late itself, hand over what has come before.
        """
        loop.call_soon(self._expire, self.talks)

    def _expire(self, talk: int) -> None:
        if self.is_talking and self.talks == talk:
            self.is_late = True
            self.writer.transport.abort()

    async def talk(self, data: bytes, n: int) -> list[Any]:
        """Send, and receive n replies."""
        replies = self.replies
        found: list[Any] = []
        self.is_talking = True
        self.talks += 1
        try:
            self.writer.write(data)
            while True:
                reply = replies.next()
                if reply is INCOMPLETE:
                    received = await self.reader.read(CHUNK)
                    if not received:
                        raise ConnectionResetError("the server closed the connection")
                    replies.feed(received)
                elif type(reply) is not Push:
                    found.append(reply)
                    if len(found) == n:
                        return found
        finally:
            self.is_talking = False

    def close(self) -> None:
        """At once, whatever is under way; also where the event loop is closed already."""
        try:
            self.writer.transport.abort()
        except RuntimeError:                        # the loop is closed: only the socket is left to close
            self.close_socket()

    def close_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """`close`, in whatever thread the loop runs, if it does."""
        try:
            if loop.is_running() and loop is not running_loop():
                loop.call_soon_threadsafe(self.close)
                return
        except RuntimeError:                        # it has been closed since
            pass
        self.close()

    def close_socket(self) -> None:
        """Only the socket, without the loop, which may be closed or belong to the process that forked."""
        transport = self.writer.transport
        sock = getattr(transport.get_extra_info("socket"), "_sock", None)
        if sock is not None:
            sock.close()
        if getattr(transport, "_sock", None) is not None:
            transport._sock = None                  # or it would warn, when it ends, that nobody closed it


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class Lanes:
    """The connections of one event loop to a node: at most `LANES` at a time, and who wants more stands in line.

    A thousand tasks at once would else make a thousand connections, which takes longer than a call may.
    """

    def __init__(self) -> None:
        self.idle: list[AsyncChannel] = []
        self._free = LANES
        self._line: deque[asyncio.Future[bool]] = deque()

    async def enter(self, seconds: float) -> None:
        """Wait for a lane, in order of arrival. TimeoutError where none becomes free in time."""
        if self._free:
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[bool] = loop.create_future()
        self._line.append(mine)
        timer = loop.call_later(seconds, self._give_up, mine)
        try:
            if not await mine:
                raise TimeoutError("no connection became free in time")
        except asyncio.CancelledError:
            if not mine.cancelled() and mine.result():
                self.leave()                        # it came, and nobody wants it any more
            raise
        finally:
            timer.cancel()

    @staticmethod
    def _give_up(waiting: asyncio.Future[bool]) -> None:
        if not waiting.done():
            waiting.set_result(False)

    def leave(self) -> None:
        """Let the next one in."""
        while self._line:
            first = self._line.popleft()
            if not first.done():
                first.set_result(True)
                return
        self._free += 1


class AsyncWaiter:
    """What a task waits for: to be woken, by any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def wake(self) -> None:
        """May be called from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:                        # the loop is closed: nobody waits any more
            pass

    async def wait(self, seconds: float | None) -> None:
        """Until it is woken, or the time is over."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except asyncio.TimeoutError:
            pass


class Async:
    """Runs the core's generators in the calling task."""

    async def run(self, steps: Effects[T]) -> T:
        """Do all that the generator asks for, and return what it returns."""
        try:
            effect = next(steps)
            while True:
                try:
                    outcome = await self.do(effect)
                except BaseException as error:
                    effect = steps.throw(error)
                else:
                    effect = steps.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result

    async def do(self, effect: Any) -> Any:
        """One effect."""
        if type(effect) is Exchange:
            if len(effect.requests) == 1:
                return [await exchange_async(*effect.requests[0], effect.deadline)]
            return await asyncio.gather(*(exchange_async(*request, effect.deadline) for request in effect.requests))
        if type(effect) is Wait:
            await effect.waiter.wait(None if effect.until is None else max(0.0, effect.until - time.monotonic()))
            return None
        if type(effect) is MakeWaiter:
            return AsyncWaiter()
        result = effect.function()
        return await result if inspect.isawaitable(result) else result


async def exchange_async(node: Node, data: bytes, n: int, deadline: float) -> list[Any] | Failure:
    """Send, and receive n replies, over one connection."""
    loop = asyncio.get_running_loop()
    lanes = node.lanes.get(loop)
    if lanes is None:
        lanes = node.lanes[loop] = Lanes()
    try:
        await lanes.enter(left(deadline))
    except TimeoutError as error:
        return Failure(error, False, False, is_ours=True)
    try:
        return await exchange_in_lane(node, lanes, data, n, deadline)
    finally:
        lanes.leave()


async def exchange_in_lane(node: Node, lanes: Lanes, data: bytes, n: int, deadline: float) -> list[Any] | Failure:
    loop = asyncio.get_running_loop()
    channel = timer = None
    was_sent = was_reused = False
    try:
        while lanes.idle and channel is None:
            channel = lanes.idle.pop()
            if channel.reader.at_eof():
                channel.close()
                channel = None
        was_reused = channel is not None
        if channel is None:
            channel = await open_async_channel(node, deadline)
        timer = loop.call_later(left(deadline), channel.expire, loop)
        was_sent = True
        replies = await channel.talk(data, n)
        timer.cancel()
    except FAILURES as error:
        if timer is not None:
            timer.cancel()
        late = is_timeout(error)
        if channel is not None:
            late = late or channel.is_late
            channel.close()
        if late and not is_timeout(error):
            error = TimeoutError("no answer in time")
        return Failure(error, was_sent, is_cut(error) or (was_sent and not late), was_reused)
    except BaseException:
        if timer is not None:
            timer.cancel()
        if channel is not None:
            channel.close()
        raise
    if channel.is_late or node.is_over:
        channel.close()
    else:
        lanes.idle.append(channel)
    return replies


async def open_async_channel(node: Node, deadline: float) -> AsyncChannel:
    """A new connection to a node."""
    for loop in [loop for loop in list(node.lanes) if loop.is_closed()]:    # each brought its own
        lanes = node.lanes.pop(loop, None)
        while lanes is not None and lanes.idle:
            lanes.idle.pop().close()
    seconds = left(deadline)
    reader, writer = await asyncio.wait_for(
        connect_async(node.servers, node.address, deadline, node.for_sentinel), seconds
    )
    return AsyncChannel(reader, writer)
