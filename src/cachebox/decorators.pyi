"""Types of `cachebox.decorators`; the documentation is in the module."""

from collections.abc import Callable, Coroutine, Hashable, Iterable
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
_Policy: TypeAlias = str | type[EvictionPolicy[Any]] | EvictionPolicy[Any]

class _Decorates(Protocol):
    """A cache of another kind, such as `DistributedCache`."""

    def _decorate(self, function: Any, **options: Any) -> Any: ...

class _Decorator(Protocol):
    """What `cached` returns when it is not given the function yet."""

    @overload
    def __call__(self, function: classmethod[_S, _P, _R], /) -> CachedClassMethod[_S, _P, _R]: ...
    @overload
    def __call__(self, function: property, /) -> property: ...
    @overload
    def __call__(self, function: Callable[_P, _R], /) -> CachedFunction[_P, _R]: ...

class _SharedDecorator(Protocol):
    """The same over two tiers: what concerns an async function is awaited."""

    @overload
    def __call__(self, function: classmethod[_S, _P, _R], /) -> CachedClassMethod[_S, _P, _R]: ...
    @overload
    def __call__(self, function: property, /) -> property: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[_P, Coroutine[Any, Any, _R]], /
    ) -> _AwaitedFunction[_P, Coroutine[Any, Any, _R]]: ...
    @overload
    def __call__(self, function: Callable[_P, _R], /) -> CachedFunction[_P, _R]: ...

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
) -> _SharedDecorator: ...
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
