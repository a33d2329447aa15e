"""Cached `async def` functions: the calls that the fast path did not find.

Loading works like `Cache.get_or_set`, with tasks in place of threads: one task leads, the others wait for it. If a
leader is cancelled, or its event loop has ended, a waiter takes over. One function may serve several event loops and
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
    """Return a value that was there."""
    return value


async def load_async(
    wrapper: CachedFunction[..., Any],
    key: Hashable,
    hashed: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    receiver: object,
) -> Any:
    """The value of a call that the fast path did not find."""
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
        alone = not await tasks.over(known)          # then the wait would be circular
        if not alone and not known.was_abandoned:
            try:
                return known.get()
            finally:
                del known                       # it refers to the error, whose traceback refers to this frame
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
    """The value of a call that is made even if there is one."""
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
    """Make the call, and end the load with its result."""
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
