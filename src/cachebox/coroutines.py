"""Cached `async def` functions: what happens when the value is not there.

Loading follows `Cache.get_or_set`, with tasks for threads: one task leads, the others wait for a future. A leader that
is cancelled hands over to a waiter. One function may serve several event loops and threads.
"""

from __future__ import annotations

import asyncio
import functools
from contextvars import ContextVar

from cachebox import flight as flights

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Hashable
    from typing import Any
    from weakref import ref

    from cachebox.flight import Flight, Lead
    from cachebox.wrappers import CachedFunction

# Tasks started by a leader inherit what it leads; weakly, for they may outlive its result by far.
_led: ContextVar[tuple[ref[Lead], ...]] = ContextVar("cachebox_led", default=())
flights.use_context(_led)


async def ready(value: Any) -> Any:
    """A value that was there."""
    return value


async def fly(
    wrapper: CachedFunction[..., Any],
    key: Hashable,
    hashed: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    receiver: object,
) -> Any:
    """The value of a call that was not there at first sight."""
    failure = wrapper._known_failure(key)
    if failure is not None:
        raise failure
    alone = not wrapper._single_flight
    lead, known = wrapper._board(key, hashed, False, alone)
    while lead is None:
        if type(known) is tuple:
            return known[0]
        alone = not await _over(known)          # waiting would be for ourselves
        if not alone and not known.was_abandoned:
            try:
                return known.get()
            finally:
                del known                       # it keeps the error, the error its traceback, and that keeps this frame
        lead, known = wrapper._board(key, hashed, True, alone)
    led = _led.get()
    leading = led
    try:
        leading = lead.begin(_current_task(), led)
        _led.set(leading)
        value = await wrapper.__wrapped__(*args, **kwargs)
        wrapper._land(lead, key, hashed, value, receiver, args, kwargs)
    except BaseException as error:
        wrapper._failed(lead, key, error)
        lead.crashed(error)
        raise
    finally:
        if _led.get() is leading:               # else something else closes this coroutine, in a context of its own
            _led.set(led)
        del lead
    return value


async def _over(flight: Flight) -> bool:
    """Wait until a flight is over. False, at once: that would close a circle, or there is no asyncio to wait with."""
    task = _current_task()
    if task is None:
        return False
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    wait = flights.Wait(flight, task, functools.partial(_wake, loop, over))
    try:
        if not wait.may_begin():
            return False
        if wait.begins():
            await over
    finally:
        wait.ends()
    return True


def _wake(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    """Called by whoever ended the flight, in any thread."""
    try:
        loop.call_soon_threadsafe(_finish, future)
    except RuntimeError:                        # the loop was closed: nobody waits any more
        pass


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:                        # another framework's event loop
        return None
