"""`cachedmethod`: a descriptor, which makes a wrapper with its own counts for each object."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Hashable
from typing import Any

from cachebox.contrib.cachetools._functions import CacheInfo, Calls
from cachebox.contrib.cachetools.keys import methodkey

# key in an object's ``__dict__``: wrappers of methods that a subclass overrides
_OVERRIDDEN = "__cachebox_cachedmethods"


class CachedMethod(Calls):
    """A method of one object, behind the object's cache."""

    def __init__(self, instance: Any, descriptor: Descriptor) -> None:
        functools.update_wrapper(self, descriptor.method)
        super().__init__(types.MethodType(descriptor.method, instance))
        self._instance = instance
        self._descriptor = descriptor
        self.cache_key = functools.partial(descriptor.key, instance)

    @property
    def cache(self) -> Any:
        """The cache of the object."""
        return self._descriptor.cache(self._instance)

    @property
    def cache_lock(self) -> Any:
        """The lock of the object, or None."""
        lock = self._descriptor.lock or self._descriptor.condition
        return None if lock is None else lock(self._instance)

    @property
    def cache_condition(self) -> Any:
        """The condition of the object, or None."""
        condition = self._descriptor.condition
        return None if condition is None else condition(self._instance)

    def __reduce__(self) -> Any:
        return self._descriptor.__get__, (self._instance,)

    def __repr__(self) -> str:
        return f"<cachedmethod {self._descriptor.method!r} of {object.__repr__(self._instance)}>"


class CountedMethod(CachedMethod):
    """A `CachedMethod` with `cache_info`."""

    def cache_info(self) -> CacheInfo:
        """Hits, misses and sizes. O(1)."""
        return self._info()


class Unbound:
    """The attribute of the class: called with an object as the first argument."""

    def __init__(self, descriptor: Descriptor) -> None:
        functools.update_wrapper(self, descriptor.method)
        self._descriptor = descriptor

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else self._descriptor.__get__(instance)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        if args:
            instance, *args = args          # type: ignore[assignment]      # a list will do
        else:
            code = getattr(self._descriptor.method, "__code__", None)
            name = code.co_varnames[0] if code and code.co_argcount > code.co_posonlyargcount == 0 else ""
            if name not in kwargs:
                raise TypeError("a cached method that is called through its class needs an object")
            instance = kwargs.pop(name)
        return self._descriptor.__get__(instance)(*args, **kwargs)

    def __reduce__(self) -> Any:
        return self._descriptor.__get__, (None,)

    def __repr__(self) -> str:
        return f"<cachedmethod {self._descriptor.method!r}>"


class Descriptor:
    """The descriptor in the class. It makes a wrapper for each object, and stores it in the object's ``__dict__``."""

    def __init__(
        self, method: Callable[..., Any], cache: Any, key: Any, lock: Any, condition: Any, kind: type[CachedMethod]
    ) -> None:
        self.method, self.cache, self.key, self.lock, self.condition = method, cache, key, lock, condition
        self._kind = kind
        self._owner: Any = None
        self._name: str | None = None
        self._unbound = Unbound(self)
        functools.update_wrapper(self, method)

    def __set_name__(self, owner: type, name: str) -> None:
        if self._name is None:
            self._owner, self._name = owner, name
        elif name != self._name:
            raise TypeError(f"one cached method cannot have two names, {self._name!r} and {name!r}")

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if self._name is None:
            if isinstance(instance, type):
                self()                      # below a @classmethod
            raise TypeError("a cached method has to be defined in a class: __set_name__ was not called")
        if instance is None:
            return self._unbound
        found = next((vars(kind)[self._name] for kind in type(instance).__mro__ if self._name in vars(kind)), None)
        try:
            if found is self:
                return instance.__dict__.setdefault(self._name, self._kind(instance, self))
            wrappers = instance.__dict__.setdefault(_OVERRIDDEN, {})    # called through `super()`
        except (AttributeError, TypeError):
            raise TypeError(
                f"an object with cached methods needs a __dict__ to write to: {type(instance).__name__!r},"
                f" method {self._name!r}"
            ) from None
        return wrappers.get(self) or wrappers.setdefault(self, self._kind(instance, self))

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "@cachedmethod must be the outermost decorator of a method; class methods, static methods and properties"
            " cannot be cached by it"
        )

    def __reduce__(self) -> Any:
        return _find, (self._owner, self._name)


def _find(owner: type, name: str) -> Any:
    """The descriptor of a class, which is pickled by name."""
    return vars(owner)[name]


def cachedmethod(
    cache: Callable[[Any], Any],
    key: Callable[..., Hashable] = methodkey,
    lock: Callable[[Any], Any] | None = None,
    condition: Callable[[Any], Any] | None = None,
    info: bool = False,
) -> Callable[[Callable[..., Any]], Any]:
    """A decorator that keeps the results of a method in a cache of the object.

    Args:
        cache: called with the object, returns its cache, a mapping.
        key: called with the object and the arguments, returns the key of the result.
        lock, condition: called with the object, return the arguments of the same names for `cached`.
        info: whether each object's method has `cache_info`.

    Raises TypeError if `cache` is not callable. The object needs a ``__dict__``. Safe between threads with a lock or a
    condition.
    """
    if not callable(cache):
        raise TypeError(f"cache must be callable with the object, not {type(cache).__name__}")
    kind = CountedMethod if info else CachedMethod
    return lambda method: Descriptor(method, cache, key, lock, condition, kind)
