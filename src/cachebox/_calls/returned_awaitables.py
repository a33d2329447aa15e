"""Cached functions that are plain, but return awaitables."""

from __future__ import annotations

from _functools import partial  # type: ignore[import-not-found]  # functools itself is slow to import

from cachebox._platform.awaitables import called

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from typing import Any


def _called(function: Any, *args: Any, **kwargs: Any) -> Any:
    return called(function, args, kwargs)


class Begun:
    """Takes the place of a cached function in `coroutines.load_async` after a call has returned an awaitable."""

    def __init__(self, wrapper: Any, awaitable: Any) -> None:
        self._wrapper = wrapper
        self._awaitable = awaitable
        self._counted = awaitable is not None   # as a miss

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapper, name)

    def _join_or_lead(self, key: Any, hashed: int, counted: bool, alone: bool) -> Any:
        return self._wrapper._join_or_lead(key, hashed, counted or self._counted, alone)

    def __wrapped__(self, *args: Any, **kwargs: Any) -> Any:
        awaitable, self._awaitable = self._awaitable, None
        return awaitable if awaitable is not None else called(self._wrapper.__wrapped__, args, kwargs)

    def _function_anew(self) -> Any:
        return self.__wrapped__ if self._awaitable is not None else partial(_called, self._wrapper._function_anew())

    def drop(self) -> None:
        """Close the awaitable, if it was not awaited."""
        awaitable, self._awaitable = self._awaitable, None
        if awaitable is not None and hasattr(awaitable, "close"):
            awaitable.close()


async def load_begun(
    wrapper: Any,
    awaitable: Any,
    key: Any,
    hashed: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    receiver: Any,
    anew: bool = False,
) -> Any:
    """`coroutines.load_async` for a plain function that returns awaitables.

    `awaitable` is the first one that it returned; None: it has to be called. `anew`: do as `coroutines.reload_async`.
    """
    from cachebox._calls import coroutines  # which imports asyncio

    load_async = coroutines.reload_async if anew else coroutines.load_async
    begun: Any = Begun(wrapper, awaitable)
    try:
        return await load_async(begun, key, hashed, args, kwargs, receiver)
    finally:
        begun.drop()


async def load_called(
    wrapper: Any, key: Any, hashed: int, args: tuple[Any, ...], kwargs: dict[str, Any], receiver: Any
) -> Any:
    """`coroutines.load_async` for a plain function that has returned an awaitable before."""
    return await load_begun(wrapper, None, key, hashed, args, kwargs, receiver)


async def reload_called(
    wrapper: Any, key: Any, hashed: int, args: tuple[Any, ...], kwargs: dict[str, Any], receiver: Any
) -> Any:
    """`coroutines.reload_async` for a plain function that has returned an awaitable before."""
    return await load_begun(wrapper, None, key, hashed, args, kwargs, receiver, True)
