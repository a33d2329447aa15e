"""The driver that carries out effects in the calling task, so that its event loop goes on."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import deque
from typing import Any

from cachebox._loading.tasks import TaskWaiter
from cachebox._platform.thread import Thread
from cachebox.distributed._net.effects import (
    Block,
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
from cachebox.distributed._net.pool import Place, PoolWaiter, needs_sign_of_life, patience, share
from cachebox.distributed._net.servers import connect_async, failures, forget_unsent, is_cut, is_timeout, left
from cachebox.distributed._wire.replies import verify
from cachebox.distributed._wire.resp import CHUNK, Replies, packed_all

PING = packed_all([[b"PING"]])
PER_LOOP = 16                       # connections of an event loop to one server


class AsyncConnection:
    """A connection of an event loop."""

    def __init__(self, reader: Any, writer: Any, place: Place | None = None) -> None:
        self.reader = reader
        self.writer = writer
        self.place: Any = place         # None: it belongs to no pool
        self.replies = Replies()
        self.used_at = time.monotonic()
        self.is_busy = False
        self.requests = 0               # the number of exchanges so far
        self.is_late = False

    def expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the connection up, which ends the wait for it, because the deadline has passed.

        Before that, the loop hands over what has arrived, because it may be late itself.
        """
        loop.call_soon(self._expire, self.requests)

    def _expire(self, request: int) -> None:
        if self.is_busy and self.requests == request:
            self.is_late = True
            self.abort()

    async def request(self, data: bytes, n: int) -> list[Any]:
        """Send, and receive n replies."""
        replies = self.replies
        found: list[Any] = []
        self.is_busy = True
        self.requests += 1
        try:
            self.writer.write(data)
            while not replies.collect(found, n):
                received = await self.reader.read(CHUNK)
                if not received:
                    raise ConnectionResetError("the server closed the connection")
                replies.feed(received)
            return found
        finally:
            self.is_busy = False

    def close(self) -> None:
        """Close at once, whatever is under way, even if the event loop is closed."""
        try:
            self.writer.transport.abort()
        except RuntimeError:                        # the loop is closed: only the socket is left to close
            self.close_socket()

    def abort(self) -> None:
        """Close in the middle of a request."""
        sock = self.writer.transport.get_extra_info("socket")
        if sock is not None:
            forget_unsent(sock)
        self.close()

    def close_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """`close`, from any thread, even while the loop runs in another."""
        try:
            if loop.is_running() and loop is not running_loop():
                loop.call_soon_threadsafe(self.close)
                return
        except RuntimeError:                        # the loop was closed meanwhile
            pass
        self.close()

    def close_socket(self) -> None:
        """Close only the socket, without the loop, which may be closed or belong to the parent of a fork."""
        transport = self.writer.transport
        sock = getattr(transport.get_extra_info("socket"), "_sock", None)
        if sock is not None:
            sock.close()
        if getattr(transport, "_sock", None) is not None:
            transport._sock = None                  # otherwise its finaliser warns that nobody closed it


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class LoopConnections:
    """The connections of one event loop to a node: at most `PER_LOOP` at a time; further tasks wait in a queue.

    Otherwise a thousand tasks would open a thousand connections, which takes longer than a call may.
    """

    def __init__(self, limit: int = PER_LOOP) -> None:
        self.idle: list[AsyncConnection] = []
        self._free = limit
        self._queue: deque[asyncio.Future[bool]] = deque()

    async def acquire(self, seconds: float) -> None:
        """Wait for a slot, in order of arrival. Raises TimeoutError if none becomes free in time."""
        if self._free:
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[bool] = loop.create_future()
        self._queue.append(mine)
        timer = loop.call_later(seconds, self._give_up, mine)
        try:
            if not await mine:
                raise TimeoutError("no connection became free in time")
        except asyncio.CancelledError:
            if not mine.cancelled() and mine.result():
                self.release()                      # the slot came, but the task was cancelled
            raise
        finally:
            timer.cancel()

    @staticmethod
    def _give_up(waiting: asyncio.Future[bool]) -> None:
        if not waiting.done():
            waiting.set_result(False)

    def release(self) -> None:
        """Free a slot, or give it to the next task in the queue."""
        while self._queue:
            first = self._queue.popleft()
            if not first.done():
                first.set_result(True)
                return
        self._free += 1


class Async:
    """Runs the operations' generators in the calling task."""

    async def run(self, steps: Effects[T]) -> T:
        """Carry out every effect of the generator, and return its result."""
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
        """Carry out one effect."""
        if type(effect) is Exchange:
            if len(effect.requests) == 1:
                return [await exchange_async(*effect.requests[0], effect.deadline, effect.once)]
            return await asyncio.gather(*(exchange_async(*request, effect.deadline) for request in effect.requests))
        if type(effect) is Wait:
            return await effect.waiter.wait(None if effect.until is None else effect.until - time.monotonic())
        if type(effect) is NewWaiter:
            return TaskWaiter()
        if type(effect) is Spawn:
            # What the task waits for keeps it alive. Nothing else does: it must not outlive a loop that ends without
            # it.
            asyncio.ensure_future(self.run(effect.steps()))  # noqa: RUF006
            return True
        if type(effect) is Block:
            return await in_thread(effect)
        result = effect.function()
        return await result if inspect.isawaitable(result) else result


async def in_thread(effect: Block) -> Any:
    """Call a function in a thread of its own, and return its result.

    A cancelled caller waits for its end all the same, because it must not act after what the task does next.
    """
    waiter = TaskWaiter()
    outcome: list[Any] = []

    def call() -> None:
        try:
            outcome.append((effect.function(), None))
        except BaseException as error:
            outcome.append((None, error))
        waiter.wake()

    try:
        Thread("cachebox-wait", call).start()
    except RuntimeError:                            # no thread can be started
        return effect.function()
    cancelled: BaseException | None = None
    while not outcome:
        try:
            await waiter.wait()
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    result, raised = outcome[0]
    if raised is not None:
        raise raised
    return result


async def exchange_async(
    node: Node, commands: Commands, deadline: float, once: bool = False
) -> list[Any] | Failure:
    """Send commands and receive their replies over one connection."""
    loop = asyncio.get_running_loop()
    own = node.by_loop.get(loop)
    if own is None:
        own = node.by_loop[loop] = LoopConnections(min(PER_LOOP, node.pool.limit))
    try:
        await own.acquire(left(deadline))
    except TimeoutError as error:
        return Failure(error, False, False, is_internal=True)
    try:
        return await exchange_in_slot(node, commands, deadline, once)
    finally:
        own.release()


async def exchange_in_slot(node: Node, commands: Commands, deadline: float, once: bool) -> list[Any] | Failure:
    loop = asyncio.get_running_loop()
    pool = node.pool
    connection = hedge = None
    was_sent = was_reused = is_waiting = False
    try:
        data = packed_all(commands)
        now = time.monotonic()
        connection = await idle_connection(node, loop, now, deadline, once)
        if connection is not None:
            was_reused = True
        elif (place := pool.take_place()) is not None:
            connection = await new_connection(node, deadline, place)
        else:
            is_waiting = True
            connection, was_reused = await next_connection(node, loop, deadline)
            is_waiting = False
        was_sent = True
        if once or not was_reused:
            replies = await request_until(connection, data, commands, deadline)
        else:
            hedge = HedgedRequest(node, commands, connection, patience(connection, now, deadline, len(data)), deadline)
            replies = await connection.request(data, len(commands))
            verify(commands, replies, connection.replies)
        connection.used_at = now
    except failures() as error:
        late = is_timeout(error)
        if connection is not None:
            late = late or connection.is_late
            pool.discard(connection)
        if hedge is not None:
            outcome = await hedge.outcome()
            if outcome is not None:
                return outcome
        if late and not is_timeout(error):
            error = TimeoutError("no answer in time")
        is_broken = is_cut(error) or (was_sent and not late)
        return Failure(error, was_sent, is_broken, was_reused, is_internal=is_waiting and late)
    except BaseException:
        if hedge is not None:
            hedge.cancel()
        if connection is not None:
            pool.discard(connection)
        raise
    if hedge is not None:
        hedge.cancel()
    if connection.is_late or pool.is_closed:
        pool.discard(connection)
    else:
        pool.give_back(connection, loop)
    return replies


async def request_until(connection: AsyncConnection, data: bytes, commands: Commands, deadline: float) -> list[Any]:
    """Send commands and receive their replies before the deadline; otherwise close the connection."""
    loop = asyncio.get_running_loop()
    timer = loop.call_later(left(deadline), connection.expire, loop)
    try:
        replies = await connection.request(data, len(commands))
        verify(commands, replies, connection.replies)
        return replies
    finally:
        timer.cancel()


class HedgedRequest:
    """A hedged request: a second one, over a new connection, if the answer over the old one takes long.

    The network may have forgotten the old connection, but the server may as well be slow. So both are listened to, and
    the one that answers first ends the other.
    """

    def __init__(self, node: Node, commands: Commands, old: AsyncConnection, begin: float, deadline: float) -> None:
        self._node = node
        self._commands = commands
        self._old = old
        self._deadline = deadline
        self._task: asyncio.Task[list[Any]] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(begin - time.monotonic(), self._start)

    def _start(self) -> None:
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:                        # nothing was to begin before the deadline
            self._old.expire(self._loop)
            return
        self._timer = self._loop.call_later(seconds, self._old.expire, self._loop)
        self._task = asyncio.ensure_future(self._ask())
        self._task.add_done_callback(self._over)

    async def _ask(self) -> list[Any]:
        pool = self._node.pool
        while (place := pool.take_place()) is None:     # no place for both: the old one's becomes free when it ends
            self._old.abort()
            await asyncio.sleep(min(0.01, left(self._deadline)))
        connection = await new_connection(self._node, self._deadline, place)
        try:
            replies = await request_until(connection, packed_all(self._commands), self._commands, self._deadline)
        except BaseException:
            pool.discard(connection)
            raise
        pool.give_back(connection, asyncio.get_running_loop())
        pool.close(self._old.used_at)           # the others were idle for longer
        return replies

    def _over(self, task: asyncio.Task[list[Any]]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._old.abort()                   # this ends the wait for it

    async def outcome(self) -> list[Any] | None:
        """The second request's replies, after the old connection failed; None: it failed, too, or was not sent."""
        self._timer.cancel()
        if self._task is None:
            return None
        try:
            await asyncio.wait({self._task})
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        return None if self._task.cancelled() or self._task.exception() is not None else self._task.result()

    def cancel(self) -> None:
        """Give the second request up: it is not needed."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


async def idle_connection(
    node: Node, loop: asyncio.AbstractEventLoop, now: float, deadline: float, once: bool
) -> AsyncConnection | None:
    """An idle connection that is believed to be alive, or None."""
    idle, pool = node.by_loop[loop].idle, node.pool
    while True:
        try:
            connection = idle.pop()
        except IndexError:
            return None
        if connection.reader.at_eof():
            pool.discard(connection)
        elif not needs_sign_of_life(connection, now, once):
            return connection
        else:
            try:
                await request_until(connection, PING, [[b"PING"]], share(deadline, 0.25))
            except failures():
                pool.discard(connection)
                pool.close(connection.used_at)  # the others were idle for longer
            except BaseException:
                pool.discard(connection)
                raise
            else:
                connection.used_at = time.monotonic()
                return connection


async def new_connection(node: Node, deadline: float, place: Place) -> AsyncConnection:
    """A new connection, in a place of its own."""
    try:
        return await open_connection(node, deadline, place)
    except BaseException:
        place.leave()
        raise


async def next_connection(
    node: Node, loop: asyncio.AbstractEventLoop, deadline: float
) -> tuple[AsyncConnection, bool]:
    """The next connection that becomes free, and whether it was used before. Raises TimeoutError if none does in
    time."""
    waiter = TaskWaiter()
    queued = PoolWaiter(loop, waiter.wake)
    try:
        if node.pool.enqueue(queued):
            await waiter.wait(left(deadline))
        connection, queued.connection = queued.connection, None
        if connection is not None:
            return connection, True
        place, queued.place = queued.place, None
        if place is not None:
            return await new_connection(node, deadline, place), False
    finally:
        node.pool.withdraw(queued)
    raise TimeoutError("no connection became free in time")


async def open_connection(node: Node, deadline: float, place: Place | None = None) -> AsyncConnection:
    """A new connection to a node."""
    node.pool.forget_closed_loops()
    seconds = left(deadline)
    opening = asyncio.ensure_future(connect_async(node.servers, node.address, deadline, node.for_sentinel))
    try:
        if not (await asyncio.wait({opening}, timeout=seconds))[0]:
            raise TimeoutError
    except BaseException:                           # the attempt may succeed even so, at the last moment
        opening.cancel()
        try:
            await asyncio.wait({opening})
        finally:
            opening.add_done_callback(abandoned)
        raise
    reader, writer = opening.result()
    connection = AsyncConnection(reader, writer, place)
    if node.health.is_troubled:
        node.health.lets_in()
    return connection


def abandoned(opening: asyncio.Future[Any]) -> None:
    """Close a connection that nobody waits for any more."""
    if not opening.cancelled() and opening.exception() is None:
        AsyncConnection(*opening.result()).close()
