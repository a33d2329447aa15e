"""Cached `async def` functions: what happens when the value is not there.

Loading follows `Cache.get_or_set`, with tasks for threads: one task leads, the others wait for it. A leader that is
cancelled, or whose event loop has ended, hands over to a waiter. One function may serve several event loops and
threads.
"""

from __future__ import annotations

from cachebox._loading import tasks

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Hashable
    from typing import Any

    from cachebox._calls.cached_function import CachedFunction


async def ready(value: Any) -> Any:
    """A value that was there."""
    return value


async def load_async(
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
    refreshing = wrapper._refreshing(key)
    if refreshing is not None:
        await tasks.over(refreshing)
    alone = not wrapper._single_flight
    lead, known = wrapper._join_or_lead(key, hashed, False, alone)
    while lead is None:
        if type(known) is tuple:
            return known[0]
        alone = not await tasks.over(known)          # waiting would be for ourselves
        if not alone and not known.was_abandoned:
            try:
                return known.get()
            finally:
                del known                       # it keeps the error, the error its traceback, and that keeps this frame
        lead, known = wrapper._join_or_lead(key, hashed, True, alone)
    return await _lead(wrapper, lead, wrapper.__wrapped__, key, hashed, args, kwargs, receiver)


async def reload_async(
    wrapper: CachedFunction[..., Any],
    key: Hashable,
    hashed: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    receiver: object,
) -> Any:
    """The value of a call that is made whatever is there."""
    lead = wrapper._lead_anew(key, hashed)
    return await _lead(wrapper, lead, wrapper._function_anew(), key, hashed, args, kwargs, receiver)


async def _lead(
    wrapper: CachedFunction[..., Any],
    lead: Any,
    function: Any,
    key: Hashable,
    hashed: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    receiver: object,
) -> Any:
    """Make a call, and land with its result."""
    course = None
    try:
        course = lead.begin(*tasks.current())
        value = await function(*args, **kwargs)
        wrapper._complete(lead, key, hashed, value, receiver, args, kwargs)
    except BaseException as error:
        wrapper._failed(lead, key, error)
        lead.fail(error)
        raise
    finally:
        if course is not None:
            course.leave()
        del lead
    return value
