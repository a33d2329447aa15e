"""Write-behind for asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any

from cachebox._platform.at_fork import renew_in_child
from cachebox.cache import MISSING
from cachebox.strategies.async_write_through import AsyncWriteThrough
from cachebox.strategies.cache_methods import UNKNOWN
from cachebox.strategies.dead_letters import DeadLetter
from cachebox.strategies.errors import QueueFull
from cachebox.strategies.store import Store, awaited, check_entry, check_key, checked_items, checked_keys
from cachebox.strategies.until import Until
from cachebox.strategies.watches import Watch
from cachebox.strategies.write_behind import WriteBehind

LOOKS_EVERY = 1.0
"""Seconds after which a thread that waits for an event loop looks whether that still runs."""


class AsyncWriteBehind(AsyncWriteThrough):
    """`WriteBehind` with methods to await, for one event loop.

    Args:
        cache: a `Cache`, or one whose methods are to be awaited.
        store: a store whose methods are coroutine functions, or plain ones. They run in the event loop.
        options: those of `WriteBehind`.

    Its promises are those of `WriteBehind`, and the same thread decides what goes out when; the store's methods run in
    the loop in which the first method of this was awaited. So it has to be closed before that loop ends: ``async
    with``, or ``await close()``. What is pending when the loop is gone waits until a method is awaited in another one,
    or the journal is opened again.
    """

    def __init__(self, cache: Any, store: Any, *, on_full: str = "block", **options: Any) -> None:
        super().__init__(cache, store)
        if on_full not in ("block", "raise"):
            raise ValueError(f"on_full must be one of 'block', 'raise', not {on_full!r}")
        self._waits = on_full == "block"
        self._slow = options.get("durability") == "power"
        self._in_loop = _StoreInLoop(self._store)
        self._behind = WriteBehind(cache, self._in_loop, on_full="raise", **options)
        self._side.doubts = self._behind._side.doubts   # of what the journal replayed
        self._watches = self._behind._watches

    async def get(self, key: Any, default: Any = None) -> Any:
        """The newest value that was accepted, from the queue or the cache, else from the store; else `default`."""
        value = self._pending(key)
        if value is not UNKNOWN:
            return default if value is MISSING else value
        if key in self._behind._backlog.setting:        # in the store by now perhaps, but not yet in the cache
            return await self._get_past(key, default)
        return await super().get(key, default)

    def _pending(self, key: Any) -> Any:
        return self._behind._pending(key)

    async def _is_late(self, key: Any) -> bool:
        return key in self._behind._backlog.setting or await self._side.doubted(key)

    async def _ask_store(self, key: Any) -> Any:
        write = self._behind._queue.find(key)   # it may have been accepted, and evicted, since `get` looked
        if write is None:
            try:
                value = await super()._ask_store(key)
            except KeyError:
                value = MISSING
            write = self._behind._queue.find(key)
        if write is not None:
            value = write.value
        if value is MISSING:
            raise KeyError(key)
        return value

    async def set(self, key: Any, value: Any, ttl: Any = None, *, tags: Any = ()) -> None:
        """Accept a value for the store, and set it in the cache."""
        check_entry(self.cache, key, value, ttl, tags)
        self._behind._check_value(key, value)
        async with self._accepted() as numbers:
            await self._accept(key, value, numbers)
            await self._side.set(key, value, ttl, tags)

    async def delete(self, key: Any) -> bool:
        """Accept the delete of a key for the store, and delete it from the cache. True where one of the cache and the
        queue had a value."""
        check_key(self.cache, key)
        self._store.delete                      # noqa: B018  # raises where there is none
        write = self._behind._queue.find(key)
        had = write is not None and write.value is not MISSING
        async with self._accepted() as numbers:
            await self._accept(key, MISSING, numbers)
            return await self._side.delete(key) or had

    async def set_many(self, mapping: Any, ttl: Any = None, *, tags: Any = ()) -> None:
        """`set` for every item of a mapping, after all of them have been checked."""
        items = checked_items(self.cache, mapping, ttl, tags)
        for key, value in items.items():
            self._behind._check_value(key, value)
        self._behind._backlog.check_open()
        failure = None
        async with self._accepted() as numbers:
            try:
                for key, value in items.items():
                    await self._accept(key, value, numbers)
            except BaseException as error:      # those that there was room for are accepted
                failure = error
            if numbers:
                await self._side.set_many({key: items[key] for key in numbers}, ttl, tags)
        if failure is not None:
            raise failure

    async def delete_many(self, keys: Any) -> int:
        """`delete` for every key. Returns how many of them had a value in the cache or in the queue."""
        doomed = checked_keys(self.cache, keys)
        self._behind._backlog.check_open()
        return sum([await self.delete(key) for key in doomed])

    async def _change(self, key: Any, change: Callable[[Any], Any], tell: Callable[[Any], Any]) -> None:
        while True:
            if self._slow:
                await asyncio.to_thread(self._behind._backlog.wait_until_settled_in, key)
            with self._watches.over((key,)) as watch:
                value = change(await self._newest(key))
                if value is MISSING:
                    return
                async with self._accepted() as numbers:
                    await self._accept(key, value, numbers, watch)
                    if numbers:
                        await tell(value)
                        return

    async def _save_unless_written(self, watch: Watch, key: Any, value: Any, ttl: Any, tags: Any) -> None:
        check_entry(self.cache, key, value, ttl, tags)
        self._behind._check_value(key, value)
        async with self._accepted() as numbers:
            await self._accept(key, value, numbers, watch)
            if numbers:
                await self._side.set(key, value, ttl, tags)

    async def flush(self, timeout: float | timedelta | None = None) -> bool:
        """See `WriteBehind.flush`."""
        self._in_loop.attach()
        return bool(await self._wait(self._behind._backlog.flush, timeout))

    async def close(self, timeout: float | timedelta | None = None) -> bool:
        """See `WriteBehind.close`."""
        self._in_loop.attach()
        return bool(await self._wait(self._behind._backlog.close, timeout))

    async def _wait(self, wait: Callable[..., Any], timeout: float | timedelta | None, *arguments: Any) -> Any:
        """Wait in a thread, which does not go on waiting when the task is cancelled."""
        until = Until(timeout)
        try:
            return await asyncio.to_thread(wait, *arguments, until)
        except BaseException:
            self._behind._backlog.give_up(until)
            raise

    @property
    def pending(self) -> int:
        """How many writes the store lacks."""
        return self._behind.pending

    async def __aenter__(self) -> AsyncWriteBehind:
        self._in_loop.attach()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """See `WriteBehind.dead_letters`."""
        return self._behind.dead_letters

    async def retry_dead_letters(self) -> int:
        """See `WriteBehind.retry_dead_letters`."""
        self._in_loop.attach()
        async with self._accepted() as numbers:
            numbers.update(self._behind._backlog.retry_dead_letters())
            self._side.doubts.add(numbers)
            await self._side.settle()
        return len(numbers)

    def discard_dead_letters(self) -> list[DeadLetter]:
        """See `WriteBehind.discard_dead_letters`."""
        return self._behind.discard_dead_letters()

    async def _accept(self, key: Any, value: Any, numbers: dict[Any, int], watch: Watch | None = None) -> None:
        self._in_loop.attach()
        self._loads.pop(key, None)              # what is being loaded is older
        backlog = self._behind._backlog
        while True:
            try:
                if not self._slow:
                    return backlog.accept(key, value, numbers, watch)
                return await _to_the_end(backlog.accept, key, value, numbers, watch)    # it waits for the disk
            except QueueFull:
                if not self._waits:
                    raise
            await self._wait(backlog.wait_until_there_is_room, None, key)

    @asynccontextmanager
    async def _accepted(self) -> AsyncIterator[dict[Any, int]]:
        """See `WriteBehind`."""
        numbers: dict[Any, int] = {}
        late: Any = numbers
        try:
            yield numbers
            late = ()
        finally:
            late = [*self._behind._backlog.done_with(numbers), *late]
            if late:
                self._side.doubts.add(late)
                await self._side.settle()


async def _to_the_end(function: Callable[..., None], *arguments: Any) -> None:
    """Run a function in a thread. A task that is cancelled waits all the same: what it began comes before what it does
    next."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    cancelled = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        running.exception()
        raise cancelled
    running.result()


class _StoreInLoop:
    """A store whose methods run in an event loop, for the thread that calls them and waits."""

    def __init__(self, store: Store) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._attached = threading.Event()
        renew_in_child(self)
        for name in ("save", "save_many", "delete", "delete_many"):
            method = getattr(store.given, name, None)
            if method is not None:
                setattr(self, name, self._made_to_wait(method))

    def attach(self) -> None:
        """The running loop is the one to use, unless another one is, and runs."""
        if self._loop is None or not self._loop.is_running():
            self._loop = asyncio.get_running_loop()
            self._attached.set()

    def _after_fork(self) -> None:
        """In the child of a fork, where that loop does not run."""
        self._loop = None
        self._attached = threading.Event()

    def _made_to_wait(self, method: Any) -> Any:
        async def call(arguments: tuple[Any, ...]) -> Any:
            return await awaited(method(*arguments))

        def called(*arguments: Any) -> Any:
            self._attached.wait()               # writes that a journal replays may be there before the loop is
            loop = self._loop
            assert loop is not None
            done: Future[Any] = Future()
            tasks: list[asyncio.Task[Any]] = []

            def start() -> None:
                if done.set_running_or_notify_cancel():
                    tasks.append(loop.create_task(call(arguments)))
                    tasks[0].add_done_callback(lambda task: _copy_outcome(task, done))

            loop.call_soon_threadsafe(start)    # RuntimeError: it has been closed
            while True:
                try:
                    return done.result(LOOKS_EVERY)
                except TimeoutError:
                    if done.done():             # the store's own
                        raise
                if loop.is_closed() or self._loop is not loop or (not loop.is_running() and done.cancel()):
                    for task in tasks:                  # should that loop ever go on
                        with suppress(RuntimeError):
                            loop.call_soon_threadsafe(task.cancel)
                    raise RuntimeError("the event loop of this AsyncWriteBehind has ended, or does not run")

        return called


def _copy_outcome(task: asyncio.Task[Any], done: Future[Any]) -> None:
    if task.cancelled():
        done.set_exception(asyncio.CancelledError())
        return
    error = task.exception()
    if error is None:
        done.set_result(task.result())
    else:
        done.set_exception(error)
