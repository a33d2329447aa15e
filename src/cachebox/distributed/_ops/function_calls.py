"""Calls of cached functions: what becomes of their results, and how they are awaited."""

from __future__ import annotations

import functools
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from cachebox._platform.awaitables import called, refuse_awaitable
from cachebox.distributed._net.asyncio_driver import Async
from cachebox.distributed._ops.schema import Schema

if TYPE_CHECKING:
    from cachebox.distributed.functions import DistributedFunction


class Remembered(Exception):
    """A call failed a moment ago, and is not made again. Users get the `error`."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Consumed(BaseException):
    """A call returned something that can be consumed only once: its caller gets it, and each waiter makes its own
    call."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.value = value


def sync_result(name: str, result: Any) -> Any:
    """The result of a user's function; raises TypeError if it must be awaited."""
    refuse_awaitable(name, result)
    return result


class CallDecision:
    """What `cached` decides about the result of one call."""

    __slots__ = ("_args", "_function", "_kwargs")

    def __init__(self, function: DistributedFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._function = function
        self._args = args
        self._kwargs = kwargs

    @property
    def name(self) -> str:
        return self._function._name

    @property
    def schema(self) -> Schema | None:
        return self._function._schema

    @property
    def share(self) -> float | None:
        return self._function._share

    @property
    def kept(self) -> int | None:
        return self._function._kept_ms

    def __call__(self, value: Any) -> tuple[bool, float, tuple[str, ...]]:
        return self._function._decide(value, self._args, self._kwargs)

    def lifetime_of(self, value: Any) -> float:
        return self._function._lifetime_of(value)


class AsyncCalls:
    """Calls of an ``async def`` function, or of one that has returned an awaitable."""

    def __init__(self, function: DistributedFunction, begun: Awaitable[Any] | None = None) -> None:
        self._function = function
        self._begun = begun

    async def call(self, args: tuple[Any, ...], kwargs: dict[str, Any], reload: bool = False) -> Any:
        """The value of a call. `reload`: even if there is a value already."""
        function = self._function
        missed = True
        try:
            key = function._key_of(args, kwargs)
            if reload:
                function._forget_failures(key)
            value, missed = await Async().run(self._steps(key, args, kwargs, reload))
        except Consumed as passed:
            value = passed.value
            function._report(value)
        except Remembered as known:
            missed = False
            raise known.error from None
        finally:
            if not reload:
                function._count(missed)
            drop = getattr(self._begun, "close", None)
            if drop is not None:
                drop()                      # nobody awaits what was begun
        return value

    def _steps(self, key: str, args: tuple[Any, ...], kwargs: dict[str, Any], reload: bool) -> Any:
        run = functools.partial(self._run, key, args, kwargs, reload)
        return (yield from self._function._loaded(key, run, CallDecision(self._function, args, kwargs), reload))

    async def _run(self, key: str, args: tuple[Any, ...], kwargs: dict[str, Any], reload: bool) -> Any:
        """Make a call, unless it failed a moment ago."""
        function = self._function
        forgotten = function._forgotten
        function._raise_known(key)
        begun, self._begun = self._begun, None
        try:
            return function._kept(await (called(function._function(reload), args, kwargs) if begun is None else begun))
        except Exception as error:
            if function._failures is not None:
                function._remember(key, error, forgotten)
            raise
