"""Waiting in a task, of asyncio or of trio, while its event loop runs other tasks."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from weakref import ref

from cachebox._loading.flight import Wait
from cachebox._platform.callers import PULSE

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cachebox._loading.flight import Flight


def current() -> tuple[Any, Callable[[], bool] | None]:
    """The running task, and a function that says whether its event loop runs; (None, None): there is no task."""
    loop = asyncio._get_running_loop()
    task: Any = asyncio.current_task(loop) if loop is not None else None
    if task is not None and loop is not None:
        return task, partial(goes_on, ref(loop))
    if "trio" in sys.modules:
        trio = sys.modules["trio"].lowlevel
        try:
            return trio.current_task(), partial(_runs_in_trio, ref(trio.current_trio_token()))
        except RuntimeError:
            pass
    return None, None


def waiter() -> TaskWaiter | TrioWaiter:
    """A waiter for the running task."""
    try:
        return TaskWaiter()
    except RuntimeError:
        return TrioWaiter()


async def over(flight: Flight) -> bool:
    """Wait until a flight is done. False: the caller has to load alone."""
    if current()[0] is None:                    # there is no known way to wait
        return False
    bell = waiter()
    wait = Wait(flight, bell)
    try:
        if wait.may_begin() and wait.begins():
            while not await bell.wait(PULSE) and not wait.is_in_vain():
                pass
    finally:
        wait.ends()
    return flight.is_done


def goes_on(loop: ref[asyncio.AbstractEventLoop]) -> bool:
    """Whether an event loop exists and runs."""
    known = loop()
    return known is not None and known.is_running()


def _runs_in_trio(token: ref[Any]) -> bool:
    known = token()
    try:
        if known is not None:
            known.run_sync_soon(int)
    except Exception:                           # trio.RunFinishedError
        return False
    return known is not None


class TaskWaiter:
    """One wait of an asyncio task. Any thread may end it by `wake`."""

    is_green = False

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.task = asyncio.current_task()
        self._bell: asyncio.Future[None] | None = None
        self._woken = False

    def wake(self) -> None:
        """End the wait. May be called more than once, and from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:                    # the loop is closed, and the wait has ended with it
            pass

    def _wake(self) -> None:
        self._woken = True
        if self._bell is not None:
            _ring(self._bell)

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait until `wake` is called: True; or until the seconds have passed: False."""
        if not self._woken:
            self._bell = self._loop.create_future()
            timer = None if seconds is None else self._loop.call_later(max(seconds, 0.0), _ring, self._bell)
            try:
                await self._bell
            finally:
                if timer is not None:
                    timer.cancel()
                self._bell = None
        return self._woken

    def close(self) -> None:
        """The wait will not be used any more."""


def _ring(bell: asyncio.Future[None]) -> None:
    if not bell.done():
        bell.set_result(None)


class TrioWaiter:
    """One wait of a trio task. Any thread may end it by `wake`."""

    is_green = False

    def __init__(self) -> None:
        self._trio = sys.modules["trio"]
        self._token = self._trio.lowlevel.current_trio_token()
        self.task = self._trio.lowlevel.current_task()
        self._bell = self._trio.Event()

    def wake(self) -> None:
        """End the wait. May be called more than once, and from any thread."""
        try:
            self._token.run_sync_soon(self._bell.set)
        except Exception:                       # trio.RunFinishedError: the wait has ended with the run
            pass

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait until `wake` is called: True; or until the seconds have passed: False."""
        with self._trio.move_on_after(float("inf") if seconds is None else max(seconds, 0.0)):
            await self._bell.wait()
        return bool(self._bell.is_set())

    def close(self) -> None:
        """The wait will not be used any more."""
