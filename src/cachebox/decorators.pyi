"""Types of `cachebox.decorators`; the documentation is in the module."""

from collections.abc import Callable, Coroutine, Hashable, Iterable
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar, overload

from cachebox._calls.cached_function import BoundFunction, CachedFunction, _AwaitedFunction
from cachebox.cache import Cache
from cachebox.policies import EvictionPolicy

_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S")

_TimeToLive: TypeAlias = float | timedelta | Callable[[Any], float | timedelta | None]
_Tags: TypeAlias = str | Iterable[Hashable] | Callable[..., str | Iterable[Hashable] | None]
_Vary: TypeAlias = ContextVar[Any] | Callable[[], Hashable]
_Policy: TypeAlias = str | type[EvictionPolicy[Any]] | EvictionPolicy[Any]

class _Decorates(Protocol):
    """A blocking cache of another kind, such as `DistributedCache`."""

    def _decorate(self, function: Any, **options: Any) -> Any: ...
    def close(self) -> None: ...

class _DecoratesAwaited(Protocol):
    """An asyncio one."""

    def _decorate(self, function: Any, **options: Any) -> Any: ...
    def close(self) -> Coroutine[Any, Any, None]: ...

class _Decorator(Protocol):
    """What `cached` returns when it is not given the function yet."""

    @overload
    def __call__(self, function: classmethod[_S, _P, _R], /) -> CachedClassMethod[_S, _P, _R]: ...
    @overload
    def __call__(self, function: property, /) -> property: ...
    @overload
    def __call__(self, function: Callable[_P, _R], /) -> CachedFunction[_P, _R]: ...

class _AwaitedDecorator(Protocol):
    """The same over an asyncio cache, which takes async functions: what concerns the cache is awaited."""

    @overload
    def __call__(
        self, function: classmethod[_S, _P, Coroutine[Any, Any, _R]], /
    ) -> CachedClassMethod[_S, _P, Coroutine[Any, Any, _R]]: ...
    @overload
    def __call__(
        self, function: Callable[_P, Coroutine[Any, Any, _R]], /
    ) -> _AwaitedFunction[_P, Coroutine[Any, Any, _R]]: ...

@overload
def cached(
    cache: classmethod[_S, _P, _R],
    *,
    ttl: _TimeToLive | None = None,
    key_func: Callable[..., Hashable] | None = None,
    max_size: int | None = ...,
    policy: _Policy = ...,
    typed: bool = False,
    condition: Callable[[Any], object] | None = None,
    single_flight: bool = True,
    tags: _Tags | None = None,
    cache_exceptions: type[Exception] | tuple[type[Exception], ...] = (),
    exception_ttl: float | timedelta | None = None,
    clock: Callable[[], float] | None = None,
    name: str | None = None,
    version: object = None,
    ignore: str | Iterable[str] = (),
    normalize: bool = False,
    vary: _Vary | Iterable[_Vary] = (),
    returns: object = None,
    time_to_idle: float | timedelta | None = None,
    refresh_ahead: float | None = None,
    stale_ttl: float | timedelta | None = None,
    jitter: float = 0.0,
    isolate: bool | Callable[[Any], Any] = False,
) -> CachedClassMethod[_S, _P, _R]: ...
@overload
def cached(cache: property) -> property: ...
@overload
def cached(
    cache: Callable[_P, _R],
    *,
    ttl: _TimeToLive | None = None,
    key_func: Callable[..., Hashable] | None = None,
    max_size: int | None = ...,
    policy: _Policy = ...,
    typed: bool = False,
    condition: Callable[[Any], object] | None = None,
    single_flight: bool = True,
    tags: _Tags | None = None,
    cache_exceptions: type[Exception] | tuple[type[Exception], ...] = (),
    exception_ttl: float | timedelta | None = None,
    clock: Callable[[], float] | None = None,
    name: str | None = None,
    version: object = None,
    ignore: str | Iterable[str] = (),
    normalize: bool = False,
    vary: _Vary | Iterable[_Vary] = (),
    returns: object = None,
    time_to_idle: float | timedelta | None = None,
    refresh_ahead: float | None = None,
    stale_ttl: float | timedelta | None = None,
    jitter: float = 0.0,
    isolate: bool | Callable[[Any], Any] = False,
) -> CachedFunction[_P, _R]: ...
@overload
def cached(
    cache: None = None,
    *,
    ttl: _TimeToLive | None = None,
    key_func: Callable[..., Hashable] | None = None,
    max_size: int | None = ...,
    policy: _Policy = ...,
    typed: bool = False,
    condition: Callable[[Any], object] | None = None,
    single_flight: bool = True,
    tags: _Tags | None = None,
    cache_exceptions: type[Exception] | tuple[type[Exception], ...] = (),
    exception_ttl: float | timedelta | None = None,
    clock: Callable[[], float] | None = None,
    name: str | None = None,
    version: object = None,
    ignore: str | Iterable[str] = (),
    normalize: bool = False,
    vary: _Vary | Iterable[_Vary] = (),
    returns: object = None,
    time_to_idle: float | timedelta | None = None,
    refresh_ahead: float | None = None,
    stale_ttl: float | timedelta | None = None,
    jitter: float = 0.0,
    isolate: bool | Callable[[Any], Any] = False,
) -> _Decorator: ...
@overload
def cached(
    cache: Cache[Any, Any],
    *,
    ttl: _TimeToLive | None = None,
    key_func: Callable[..., Hashable] | None = None,
    typed: bool = False,
    condition: Callable[[Any], object] | None = None,
    single_flight: bool = True,
    tags: _Tags | None = None,
    cache_exceptions: type[Exception] | tuple[type[Exception], ...] = (),
    exception_ttl: float | timedelta | None = None,
    name: str | None = None,
    version: object = None,
    ignore: str | Iterable[str] = (),
    normalize: bool = False,
    vary: _Vary | Iterable[_Vary] = (),
    returns: object = None,
    refresh_ahead: float | None = None,
    stale_ttl: float | timedelta | None = None,
) -> _Decorator: ...
@overload
def cached(
    cache: _Decorates,
    *,
    ttl: _TimeToLive | None = None,
    key_func: Callable[..., Hashable] | None = None,
    typed: bool = False,
    condition: Callable[[Any], object] | None = None,
    single_flight: bool = True,
    tags: _Tags | None = None,
    cache_exceptions: type[Exception] | tuple[type[Exception], ...] = (),
    exception_ttl: float | timedelta | None = None,
    name: str | None = None,
    version: object = None,
    ignore: str | Iterable[str] = (),
    normalize: bool = False,
    vary: _Vary | Iterable[_Vary] = (),
    returns: object = None,
    refresh_ahead: float | None = None,
    stale_ttl: float | timedelta | None = None,
) -> _Decorator: ...
@overload
def cached(
    cache: _DecoratesAwaited,
    *,
    ttl: _TimeToLive | None = None,
    key_func: Callable[..., Hashable] | None = None,
    typed: bool = False,
    condition: Callable[[Any], object] | None = None,
    single_flight: bool = True,
    tags: _Tags | None = None,
    cache_exceptions: type[Exception] | tuple[type[Exception], ...] = (),
    exception_ttl: float | timedelta | None = None,
    name: str | None = None,
    version: object = None,
    ignore: str | Iterable[str] = (),
    normalize: bool = False,
    vary: _Vary | Iterable[_Vary] = (),
    returns: object = None,
    refresh_ahead: float | None = None,
    stale_ttl: float | timedelta | None = None,
) -> _AwaitedDecorator: ...
@overload
def lru_cache(maxsize: Callable[_P, _R], typed: bool = False) -> CachedFunction[_P, _R]: ...
@overload
def lru_cache(
    maxsize: int | None = 128, typed: bool = False
) -> Callable[[Callable[_P, _R]], CachedFunction[_P, _R]]: ...

class CachedClassMethod(classmethod[_S, _P, _R]):
    def __get__(self, instance: _S | None, owner: type[_S] | None = None, /) -> BoundFunction[_P, _R]: ...

def is_received(wrapper: Any, first: object) -> bool: ...
def warn_of_slots(wrapper: Any, instance: object) -> None: ...
