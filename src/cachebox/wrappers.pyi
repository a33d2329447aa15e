"""Types of `cachebox.wrappers`: what `cached` and `lru_cache` return."""

from collections.abc import Callable, Hashable
from inspect import Signature
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from typing_extensions import Self

from cachebox.cache import Cache
from cachebox.cache_info import CacheInfo
from cachebox.flight import Lead

_P = ParamSpec("_P")
_Q = ParamSpec("_Q")
_R = TypeVar("_R", covariant=True)
_S = TypeVar("_S")
_C = TypeVar("_C", bound=type[object])

class _Wrapper(Generic[_P, _R]):
    """What a wrapper offers, bound to an instance or not; a bound one finds most of it in the function."""

    __wrapped__: Callable[_P, _R]
    __name__: str
    __qualname__: str
    @property
    def cache(self) -> Cache[Any, Any]: ...
    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R: ...
    def cache_info(self) -> CacheInfo: ...
    def cache_clear(self) -> None: ...
    def cache_parameters(self) -> dict[str, Any]: ...
    def cache_key(self, *args: _P.args, **kwargs: _P.kwargs) -> Hashable: ...
    def invalidate(self, *args: _P.args, **kwargs: _P.kwargs) -> bool: ...

class CachedFunction(_Wrapper[_P, _R]):
    # In this order: a class method, whose first argument is the owner; anything else looked up on the class; a method;
    # a static method looked up on an instance. `self` is a Callable because mypy ignores what precedes a ParamSpec in
    # the arguments of any other class. A static method whose first argument is Any or object passes for a class method.
    @overload
    def __get__(self: Callable[Concatenate[_C, _Q], _R], instance: object, owner: _C, /) -> BoundFunction[_Q, _R]: ...
    @overload
    def __get__(self, instance: None, owner: type[object], /) -> CachedFunction[_P, _R]: ...
    @overload
    def __get__(
        self: Callable[Concatenate[_S, _Q], _R], instance: _S, owner: type[object] | None = None, /
    ) -> BoundFunction[_Q, _R]: ...
    @overload
    def __get__(self, instance: object, owner: type[object] | None = None, /) -> CachedFunction[_P, _R]: ...

    def __set_name__(self, owner: type[object], name: str) -> None: ...
    def __copy__(self) -> Self: ...
    def __deepcopy__(self, memo: object) -> Self: ...

    # for coroutines
    def _board(self, key: Hashable, hashed: int, counted: bool, alone: bool) -> tuple[Lead | None, Any]: ...
    def _land(
        self,
        lead: Lead,
        key: Hashable,
        hashed: int,
        value: object,
        receiver: object,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None: ...
    def _known_failure(self, key: Hashable) -> Exception | None: ...
    def _failed(self, lead: Lead, key: Hashable, error: BaseException) -> None: ...
    @property
    def _single_flight(self) -> bool: ...

class CachedMethod(CachedFunction[_P, _R]): ...

class BoundFunction(_Wrapper[_P, _R]):
    @property
    def __func__(self) -> CachedFunction[..., _R]: ...
    @property
    def __self__(self) -> object: ...
    @property
    def __signature__(self) -> Signature: ...
