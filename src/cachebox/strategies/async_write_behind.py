"""Write-behind for asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from datetime import timedelta
from functools import partial
from inspect import isawaitable
from typing import Any

from cachebox._platform.at_fork import renew_in_child
from cachebox.strategies.errors import QueueFull
from cachebox.strategies.key_locks import AsyncKeyLocks
from cachebox.strategies.methods import AwaitedMethods
from cachebox.strategies.steps import run_awaited
from cachebox.strategies.store import Store
from cachebox.strategies.until import Until
from cachebox.strategies.watches import Watch
from cachebox.strategies.write_behind import WritingBehind

LOOKS_EVERY = 1.0
"""Seconds after which a thread that waits for an event loop checks whether the loop still runs."""


class AsyncWriteBehind(WritingBehind, AwaitedMethods):
    """`WriteBehind` with methods to await, for one event loop.

    Args:
        cache: a `Cache`, or one whose methods must be awaited.
        store: a store whose methods are coroutine functions or plain functions. They run in the event loop.
        options: those of `WriteBehind`.

    It keeps the promises of `WriteBehind`, and the same thread decides which writes go out when. The store's methods
    run in the loop in which the first method of this object was awaited. So it must be closed before that loop ends:
    ``async with``, or ``await close()``. Writes that are pending when the loop is gone wait until a method is awaited
    in another loop, or the journal is opened again.
    """

    def _begin(self) -> None:
        self._locks = AsyncKeyLocks()

    def _delivered_to(self) -> Store:
        self._in_loop = _StoreInLoop(self._store)
        return Store(self._in_loop, False)

    async def _accept(self, key: Any, value: Any, numbers: dict[Any, int], watch: Watch | None = None) -> None:
        self._in_loop.attach()
        backlog = self._backlog
        while True:
            try:
                if self._journal is None or not self._journal.waits_for_disk:
                    return backlog.accept(key, value, numbers, watch)
                return await _to_the_end(backlog.accept, key, value, numbers, watch)
            except QueueFull:
                if not self._waits:
                    raise
            await self._wait(backlog.wait_until_there_is_room, None, key)

    async def _settled_in(self, key: Any) -> None:
        if self._journal is not None and self._journal.waits_for_disk:
            await asyncio.to_thread(self._backlog.wait_until_settled_in, key)

    async def flush(self, timeout: float | timedelta | None = None) -> bool:
        """See `WriteBehind.flush`."""
        self._in_loop.attach()
        return bool(await self._wait(self._backlog.flush, timeout))

    async def close(self, timeout: float | timedelta | None = None) -> bool:
        """See `WriteBehind.close`."""
        self._in_loop.attach()
        return bool(await self._wait(self._backlog.close, timeout))

    async def _wait(self, wait: Callable[..., Any], timeout: float | timedelta | None, *arguments: Any) -> Any:
        """Wait in a thread; if the task is cancelled, the thread's wait ends, too."""
        until = Until(timeout)
        try:
            return await asyncio.to_thread(wait, *arguments, until)
        except BaseException:
            self._backlog.give_up(until)
            raise

    async def retry_dead_letters(self) -> int:
        """See `WriteBehind.retry_dead_letters`."""
        self._in_loop.attach()
        return await run_awaited(self._retry_dead_letters())

    async def __aenter__(self) -> AsyncWriteBehind:
        self._in_loop.attach()
        return self


async def _to_the_end(function: Callable[..., None], *arguments: Any) -> None:
    """Run a function in a thread, and wait for its end even if the task is cancelled.

    So the function's effects come before anything that the task does next.
    """
    # no task, because the end of `asyncio.run` would cancel that while the function goes on
    call = partial(copy_context().run, function, *arguments)
    running = asyncio.get_running_loop().run_in_executor(None, call)
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
    """A store whose methods run in an event loop, for a thread that calls them and waits."""

    def __init__(self, store: Store) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._attached = threading.Event()
        renew_in_child(self)
        for name in ("save", "save_many", "delete", "delete_many"):
            method = getattr(store.given, name, None)
            if method is not None:
                setattr(self, name, self._made_to_wait(method))

    def attach(self) -> None:
        """Use the running loop, unless another loop is attached and runs."""
        if self._loop is None or not self._loop.is_running():
            self._loop = asyncio.get_running_loop()
            self._attached.set()

    def _after_fork(self) -> None:
        """After a fork, in the child: forget the parent's loop, which does not run here."""
        self._loop = None
        self._attached = threading.Event()

    def _made_to_wait(self, method: Any) -> Any:
        async def call(arguments: tuple[Any, ...]) -> Any:
            result = method(*arguments)
            return await result if isawaitable(result) else result

        def called(*arguments: Any) -> Any:
            self._attached.wait()               # writes that a journal replays may come before a loop is attached
            loop = self._loop
            assert loop is not None
            done: Future[Any] = Future()
            tasks: list[asyncio.Task[Any]] = []

            def start() -> None:
                if done.set_running_or_notify_cancel():
                    tasks.append(loop.create_task(call(arguments)))
                    tasks[0].add_done_callback(lambda task: _copy_outcome(task, done))

            loop.call_soon_threadsafe(start)    # raises RuntimeError if the loop was closed
            while True:
                try:
                    return done.result(LOOKS_EVERY)
                except TimeoutError:
                    if done.done():             # the store raised it
                        raise
                if loop.is_closed() or self._loop is not loop or (not loop.is_running() and done.cancel()):
                    for task in tasks:                  # in case that loop ever runs again
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
