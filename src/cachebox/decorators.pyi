"""Types of `cachebox.decorators`; the documentation is in the module."""

from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, Generic, ParamSpec, Protocol, Self, TypeAlias, TypeVar, overload

from cachebox._calls.cache_info import CacheInfo
from cachebox._calls.cached_function import BoundFunction, CachedFunction, _AwaitedFunction
from cachebox.cache import Cache
from cachebox.policies import EvictionPolicy

_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S")
_K = TypeVar("_K")
_V = TypeVar("_V")
_M = TypeVar("_M", covariant=True)

_TimeToLive: TypeAlias = float | timedelta | Callable[[Any], float | timedelta | None]
_Tags: TypeAlias = str | Iterable[Hashable] | Callable[..., str | Iterable[Hashable] | None]
_Vary: TypeAlias = ContextVar[Any] | Callable[[], Hashable]
_Policy: TypeAlias = str | type[EvictionPolicy[Any]] | EvictionPolicy[Any]

class _Decorates(Protocol):
    """A blocking cache of another kind, such as `DistributedCache`."""

    def _decorate(self, function: Any, **options: Any) -> Any: ...
    def close(self) -> None: ...

class _DecoratesAwaited(Protocol):
    """An asyncio cache of another kind."""

    def _decorate(self, function: Any, **options: Any) -> Any: ...
    def close(self) -> Coroutine[Any, Any, None]: ...

class _Decorator(Protocol):
    """The decorator that `cached` returns if it is not given the function."""

    @overload
    def __call__(self, function: classmethod[_S, _P, _R], /) -> CachedClassMethod[_S, _P, _R]: ...
    @overload
    def __call__(self, function: property, /) -> property: ...
    @overload
    def __call__(self, function: Callable[_P, _R], /) -> CachedFunction[_P, _R]: ...

class _AwaitedDecorator(Protocol):
    """The decorator over an asyncio cache. It takes async functions; methods that use the cache are awaited."""

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
# --- functions of many keys ---

class _ManyCalls(Generic[_K, _V]):
    """The members of a function of many keys, bound to an instance or not."""

    @property
    def cache(self) -> Cache[Any, Any]: ...
    def cache_info(self) -> CacheInfo: ...
    def cache_parameters(self) -> dict[str, Any]: ...
    def cache_key(self, key: _K) -> Hashable: ...

class _Many(_ManyCalls[_K, _V]):
    def __call__(self, keys: Iterable[_K]) -> dict[_K, _V]: ...
    def peek(self, keys: Iterable[_K]) -> dict[_K, _V]: ...
    def refresh(self, keys: Iterable[_K]) -> dict[_K, _V]: ...
    def set(self, mapping: Mapping[_K, _V]) -> None: ...
    def invalidate(self, keys: Iterable[_K]) -> int: ...
    def cache_clear(self) -> None: ...

class _AsyncMany(_ManyCalls[_K, _V]):
    def __call__(self, keys: Iterable[_K]) -> Coroutine[Any, Any, dict[_K, _V]]: ...
    def peek(self, keys: Iterable[_K]) -> dict[_K, _V]: ...
    def refresh(self, keys: Iterable[_K]) -> Coroutine[Any, Any, dict[_K, _V]]: ...
    def set(self, mapping: Mapping[_K, _V]) -> None: ...
    def invalidate(self, keys: Iterable[_K]) -> int: ...
    def cache_clear(self) -> None: ...

class _AwaitedMany(_ManyCalls[_K, _V]):
    """The members over an asyncio cache; those that use the cache are awaited."""

    def __call__(self, keys: Iterable[_K]) -> Coroutine[Any, Any, dict[_K, _V]]: ...
    def peek(self, keys: Iterable[_K]) -> Coroutine[Any, Any, dict[_K, _V]]: ...
    def refresh(self, keys: Iterable[_K]) -> Coroutine[Any, Any, dict[_K, _V]]: ...
    def set(self, mapping: Mapping[_K, _V]) -> Coroutine[Any, Any, None]: ...
    def invalidate(self, keys: Iterable[_K]) -> Coroutine[Any, Any, int]: ...
    def cache_clear(self) -> Coroutine[Any, Any, None]: ...

class _ManyMethod(Generic[_M]):
    """A method of many keys; looked up on an instance, it is bound."""

    @overload
    def __get__(self, instance: None, owner: type[object], /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[object] | None = None, /) -> _M: ...

class _ManyDecorator(Protocol):
    @overload
    def __call__(
        self, function: Callable[[list[_K]], Coroutine[Any, Any, Mapping[_K, _V]]], /
    ) -> _AsyncMany[_K, _V]: ...
    @overload
    def __call__(self, function: Callable[[list[_K]], Mapping[_K, _V]], /) -> _Many[_K, _V]: ...
    @overload
    def __call__(
        self, function: Callable[[Any, list[_K]], Coroutine[Any, Any, Mapping[_K, _V]]], /
    ) -> _ManyMethod[_AsyncMany[_K, _V]]: ...
    @overload
    def __call__(
        self, function: Callable[[Any, list[_K]], Mapping[_K, _V]], /
    ) -> _ManyMethod[_Many[_K, _V]]: ...

class _AwaitedManyDecorator(Protocol):
    @overload
    def __call__(
        self, function: Callable[[list[_K]], Coroutine[Any, Any, Mapping[_K, _V]]], /
    ) -> _AwaitedMany[_K, _V]: ...
    @overload
    def __call__(
        self, function: Callable[[Any, list[_K]], Coroutine[Any, Any, Mapping[_K, _V]]], /
    ) -> _ManyMethod[_AwaitedMany[_K, _V]]: ...

@overload
def cached_many(
    cache: Callable[[list[_K]], Coroutine[Any, Any, Mapping[_K, _V]]],
) -> _AsyncMany[_K, _V]: ...
@overload
def cached_many(cache: Callable[[list[_K]], Mapping[_K, _V]]) -> _Many[_K, _V]: ...
@overload
def cached_many(
    cache: Callable[[Any, list[_K]], Coroutine[Any, Any, Mapping[_K, _V]]],
) -> _ManyMethod[_AsyncMany[_K, _V]]: ...
@overload
def cached_many(cache: Callable[[Any, list[_K]], Mapping[_K, _V]]) -> _ManyMethod[_Many[_K, _V]]: ...
@overload
def cached_many(
    cache: None = None,
    *,
    ttl: _TimeToLive | None = None,
    missing_ttl: float | timedelta | None = None,
    key_func: Callable[..., Hashable] | None = None,
    max_size: int | None = ...,
    policy: _Policy = ...,
    typed: bool = False,
    condition: Callable[[Any], object] | None = None,
    tags: _Tags | None = None,
    clock: Callable[[], float] | None = None,
    name: str | None = None,
    version: object = None,
    vary: _Vary | Iterable[_Vary] = (),
    returns: object = None,
    time_to_idle: float | timedelta | None = None,
    jitter: float = 0.0,
    isolate: bool | Callable[[Any], Any] = False,
) -> _ManyDecorator: ...
@overload
def cached_many(
    cache: Cache[Any, Any] | _Decorates,
    *,
    ttl: _TimeToLive | None = None,
    missing_ttl: float | timedelta | None = None,
    key_func: Callable[..., Hashable] | None = None,
    typed: bool = False,
    condition: Callable[[Any], object] | None = None,
    tags: _Tags | None = None,
    name: str | None = None,
    version: object = None,
    vary: _Vary | Iterable[_Vary] = (),
    returns: object = None,
) -> _ManyDecorator: ...
@overload
def cached_many(
    cache: _DecoratesAwaited,
    *,
    ttl: _TimeToLive | None = None,
    missing_ttl: float | timedelta | None = None,
    key_func: Callable[..., Hashable] | None = None,
    typed: bool = False,
    condition: Callable[[Any], object] | None = None,
    tags: _Tags | None = None,
    name: str | None = None,
    version: object = None,
    vary: _Vary | Iterable[_Vary] = (),
    returns: object = None,
) -> _AwaitedManyDecorator: ...
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
def check_missing_ttl(given: Any) -> None: ...
