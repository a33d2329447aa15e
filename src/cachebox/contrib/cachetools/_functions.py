"""`cached`, and the base of its wrappers and those of methods: one call through a cache like cachetools'."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Hashable, MutableMapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from cachebox.contrib.cachetools._caches import Cache
from cachebox.contrib.cachetools.keys import hashkey


class CacheInfo(NamedTuple):
    """The result of `cache_info` of a decorated function."""

    hits: int
    misses: int
    maxsize: float | None
    currsize: float


class Calls:
    """Calls of a function through a cache.

    Subclasses have `cache`, `cache_key`, `cache_lock` and `cache_condition` as attributes or properties.
    """

    cache: Any
    cache_key: Any
    cache_lock: Any
    cache_condition: Any

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._pending: set[Any] = set()     # with a condition: keys that a thread computes
        self._hits = self._misses = 0

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        key = self.cache_key(*args, **kwargs)
        if self.cache_condition is not None:
            return self._call_alone(key, args, kwargs)
        lock = self.cache_lock
        if lock is not None:
            return self._call_locked(lock, key, args, kwargs)
        cache = self.cache
        try:
            value = cache[key]
        except KeyError:
            self._misses += 1
        else:
            self._hits += 1
            return value
        value = self._function(*args, **kwargs)
        try:
            cache[key] = value
        except ValueError:                  # too large
            pass
        return value

    def _call_locked(
        self, lock: AbstractContextManager[Any], key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A call that holds the lock while it uses the cache, but not while the function runs."""
        cache = self.cache
        with lock:
            try:
                value = cache[key]
            except KeyError:
                self._misses += 1
            else:
                self._hits += 1
                return value
        value = self._function(*args, **kwargs)
        with lock:
            try:
                return cache.setdefault(key, value)     # the thread that is ready first wins
            except ValueError:              # too large
                return value

    def _call_alone(self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that waits while another thread computes the same."""
        cache, lock, condition = self.cache, self.cache_lock, self.cache_condition
        with lock:
            while key in self._pending:
                condition.wait()
            try:
                value = cache[key]
            except KeyError:
                self._misses += 1
                self._pending.add(key)
            else:
                self._hits += 1
                return value
        try:
            value = self._function(*args, **kwargs)
            with lock:
                try:
                    cache[key] = value
                except ValueError:          # too large
                    pass
            return value
        finally:
            with lock:
                self._pending.discard(key)
                condition.notify_all()

    def cache_clear(self) -> None:
        """Remove all entries, and count from zero."""
        lock = self.cache_lock
        if lock is None:
            self._clear()
        else:
            with lock:
                self._clear()

    def _clear(self) -> None:
        self.cache.clear()
        self._hits = self._misses = 0

    def _info(self) -> CacheInfo:
        """Hits, misses and sizes. Only wrappers with ``info=True`` offer it, as `cache_info`."""
        lock = self.cache_lock
        if lock is None:
            return self._read()
        with lock:
            return self._read()

    def _read(self) -> CacheInfo:
        cache = self.cache
        if isinstance(cache, Cache):
            return CacheInfo(self._hits, self._misses, cache.maxsize, cache.currsize)
        return CacheInfo(self._hits, self._misses, None, len(cache))


class CachedFunction(Calls):
    """A function behind a cache."""

    def __init__(
        self,
        function: Callable[..., Any],
        cache: MutableMapping[Any, Any],
        key: Callable[..., Hashable],
        lock: Any,
        condition: Any,
    ) -> None:
        # first, because it copies attributes of what may be a CachedFunction
        functools.update_wrapper(self, function)
        super().__init__(function)
        self.cache = cache
        self.cache_key = key
        self.cache_lock = condition if lock is None else lock
        self.cache_condition = condition

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __copy__(self) -> CachedFunction:
        return self

    def __deepcopy__(self, memo: Any) -> CachedFunction:
        return self

    def __reduce__(self) -> str:
        return str(self.__qualname__)       # type: ignore[attr-defined]    # of update_wrapper

    def __repr__(self) -> str:
        return f"<cached {self._function!r}>"


class CountedFunction(CachedFunction):
    """A `CachedFunction` with `cache_info`."""

    def cache_info(self) -> CacheInfo:
        """Hits, misses and sizes. O(1)."""
        return self._info()


def cached(
    cache: MutableMapping[Any, Any],
    key: Callable[..., Hashable] = hashkey,
    lock: Any = None,
    condition: Any = None,
    info: bool = False,
) -> Callable[[Callable[..., Any]], Any]:
    """A decorator that keeps the results of a function in `cache`.

    Args:
        cache: a mapping, such as the caches of this module.
        key: called with the arguments, returns the key of the result.
        lock: a context manager that is held while the cache is used, but not while the function runs.
        condition: a `threading.Condition`: one thread computes a value, and others that want the same value wait for
            it.
        info: whether the function has `cache_info`.

    Raises TypeError if `cache` is None. A value too large for the cache is returned, but not stored. Safe between
    threads with a lock or a condition.
    """
    if cache is None:
        raise TypeError("cache must be a mapping, not None")
    kind = CountedFunction if info else CachedFunction
    return lambda function: kind(function, cache, key, lock, condition)
