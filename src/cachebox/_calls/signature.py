"""Makes a cached function look like the function that it wraps."""

from __future__ import annotations

import sys
from functools import update_wrapper

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from typing import Any


def dress(wrapper: Any, function: Any, is_async: bool) -> None:
    """Give a wrapper the name, documentation and attributes of the wrapped function, except attributes of its own.

    The wrapped function may have one of these, for example the `cache_clear` of another cache.
    """
    update_wrapper(wrapper, function)
    for name in list(wrapper.__dict__):
        if not name.startswith("__") and any(name in vars(cls) for cls in type(wrapper).__mro__):
            del wrapper.__dict__[name]
    if sys.version_info >= (3, 14):   # `update_wrapper` copies only what makes annotations, and the class has that, too
        try:
            wrapper.__annotations__ = function.__annotations__
        except Exception:               # there are none, or they name what is defined later
            pass
    if is_async and sys.version_info >= (3, 12):
        from inspect import markcoroutinefunction

        markcoroutinefunction(wrapper)
    elif is_async:
        from asyncio.coroutines import _is_coroutine  # type: ignore[attr-defined]

        wrapper._is_coroutine = _is_coroutine
