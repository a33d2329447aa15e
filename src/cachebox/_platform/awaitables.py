"""Async callables given instead of plain ones, and results that can be consumed only once."""

from __future__ import annotations

import sys
from _functools import partial  # type: ignore[import-not-found]  # functools itself is slow to import

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from typing import Any

_CO_COROUTINE, _CO_ASYNC_GENERATOR = 0x80, 0x200        # as in inspect, which is slow to import

# The context managers of contextlib that can be entered only once.
_USED_UP = ("_GeneratorContextManagerBase", "closing", "aclosing", "ExitStack", "AsyncExitStack")


def is_async(function: Any) -> bool:
    """Whether a call of `function` returns a coroutine, as far as can be known without calling it."""
    while isinstance(function, partial):
        function = function.func
    inner = getattr(function, "__func__", function)
    code = getattr(inner, "__code__", None)
    if code is None:
        code = getattr(getattr(type(inner), "__call__", None), "__code__", None)  # noqa: B004
    flags: int = getattr(code, "co_flags", 0)
    return bool(flags & (_CO_COROUTINE | _CO_ASYNC_GENERATOR)) or is_marked(inner)


def is_marked(function: Any) -> bool:
    """Whether a function is marked as async.

    Then the module that marks functions has been imported already.
    """
    module = sys.modules.get("inspect" if sys.version_info >= (3, 12) else "asyncio.coroutines")
    is_coroutine_function = getattr(module, "iscoroutinefunction", None)
    return is_coroutine_function is not None and bool(is_coroutine_function(function))


def refuse_async(name: str, function: Any, instead: str = "") -> None:
    """Raise TypeError if the callable given under that name is async; the text names the method to use instead."""
    if callable(function) and is_async(function):
        way_out = f"; use {instead} for an async one" if instead else ""
        raise TypeError(
            f"{name} must be a plain function, not an async one: nobody would await what it returns{way_out}"
        )


def refuse_awaitable(name: str, result: Any) -> None:
    """Raise TypeError if a call returned an awaitable, after closing the awaitable if it can be closed."""
    if hasattr(type(result), "__await__"):
        close = getattr(result, "close", None) or getattr(result, "cancel", None)
        if close is not None:
            close()
        raise TypeError(
            f"{name} returned {type(result).__name__}, which somebody would have to await: it must be a plain function"
        )


def plain_call(name: str, function: Any, *args: Any) -> Any:
    """The result of a user's function. Raises TypeError if it must be awaited."""
    result = function(*args)
    refuse_awaitable(name, result)
    return result


def is_context(value: Any) -> bool:
    """Whether a value is a context manager of contextlib that can be entered only once."""
    module = sys.modules.get("contextlib")
    kinds = tuple(kind for kind in (getattr(module, name, None) for name in _USED_UP) if kind is not None)
    return isinstance(value, kinds)


def warn_of_one_shot(name: str, value: Any) -> None:
    """Warn that a function's results are not stored, because they can be consumed only once."""
    import warnings

    warnings.warn(
        f"{name} returned {type(value).__name__}, which can be consumed only once: results of that kind are returned, "
        "but not cached; return a list or a tuple, or cache what is made of it",
        UserWarning,
        stacklevel=2,
    )


async def ready(value: Any) -> Any:
    """Return a value that exists already."""
    return value


def lookup_to_await(get: Any, nothing: object) -> Any:
    """A coroutine function that looks keys up with `get`; raises KeyError if `get` returns `nothing`."""

    async def look(key: Any) -> Any:
        value = await get(key, nothing)
        if value is nothing:
            raise KeyError(key)
        return value

    return look


async def called(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of a function that may return an awaitable."""
    result = function(*args, **kwargs)
    return await result if hasattr(type(result), "__await__") else result
