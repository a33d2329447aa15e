"""Doing what the core asks for in the calling task, which lets its event loop go on."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections import deque
from typing import Any

from cachebox.distributed.effects import Effects, Exchange, Failure, MakeWaiter, Node, Start, T, Wait
from cachebox.distributed.resp import CHUNK, Replies
from cachebox.distributed.servers import FAILURES, connect_async, is_cut, is_timeout, left
from cachebox.tasks import TaskWaiter

LANES = 16                          # connections of an event loop to one server


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
            while not replies.collect(found, n):
                received = await self.reader.read(CHUNK)
                if not received:
                    raise ConnectionResetError("the server closed the connection")
                replies.feed(received)
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
            return await effect.waiter.wait(None if effect.until is None else effect.until - time.monotonic())
        if type(effect) is MakeWaiter:
            return TaskWaiter()
        if type(effect) is Start:
            # What it waits for keeps it alive. Nothing else does: it must not outlive a loop that ends without it.
            asyncio.ensure_future(self.run(effect.steps()))  # noqa: RUF006
            return True
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
    opening = asyncio.ensure_future(connect_async(node.servers, node.address, deadline, node.for_sentinel))
    try:
        if not (await asyncio.wait({opening}, timeout=seconds))[0]:
            raise TimeoutError
    except BaseException:                           # it may succeed even so, at the last moment
        opening.cancel()
        try:
            await asyncio.wait({opening})
        finally:
            opening.add_done_callback(abandoned)
        raise
    return AsyncChannel(*opening.result())


def abandoned(opening: asyncio.Future[Any]) -> None:
    """Close a connection that nobody waits for any more."""
    if not opening.cancelled() and opening.exception() is None:
        AsyncChannel(*opening.result()).close()
