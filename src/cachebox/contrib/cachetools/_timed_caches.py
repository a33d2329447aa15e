"""The caches whose entries expire: a heap of deadlines in addition to the order of `LRUPolicy`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, Self, TypeVar

from cachebox.contrib.cachetools._caches import _REQUIRED, Cache, OrderedCache
from cachebox.policies import LRUPolicy

_K = TypeVar("_K")
_V = TypeVar("_V")


class Timer:
    """A timer that stands still between its `__enter__` and `__exit__`, so that one operation sees one time."""

    def __init__(self, timer: Callable[[], Any]) -> None:
        self._timer = timer
        self._depth = 0
        self._time: Any = None

    def __call__(self) -> Any:
        return self._time if self._depth else self._timer()

    def __enter__(self) -> Any:
        if not self._depth:
            self._time = self._timer()
        self._depth += 1
        return self._time

    def __exit__(self, *raised: object) -> None:
        self._depth -= 1

    def __reduce__(self) -> Any:
        return Timer, (self._timer,)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_timer":
            raise AttributeError(name)
        return getattr(self._timer, name)


class TimedCache(OrderedCache[_K, _V]):
    """A cache of entries with deadlines; when it is full, the least recently used one leaves."""

    _policy = LRUPolicy

    def __init__(
        self, maxsize: float, timer: Callable[[], Any], getsizeof: Callable[[_V], float] | None = None
    ) -> None:
        super().__init__(maxsize, getsizeof)
        self.__timer = Timer(timer)
        self.__numbers = count()
        self.__ends: dict[_K, tuple[Any, int, _K]] = {}         # deadline, a number (a heap must not compare keys), key
        self.__heap: list[tuple[Any, int, _K]] = []             # the same tuples, and outdated ones

    def __getitem__(self, key: _K) -> _V:
        end = self.__ends.get(key)
        if end is not None and not self.timer() < end[0]:
            return self.__missing__(key)
        return OrderedCache.__getitem__(self, key)

    def __delitem__(self, key: _K) -> None:
        super().__delitem__(key)
        if not self.timer() < self.__ends.pop(key)[0]:
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        end = self.__ends.get(key)          # type: ignore[arg-type]        # any object may be looked up
        return end is not None and bool(self.timer() < end[0])

    def __iter__(self) -> Iterator[_K]:
        return (key for key in list(super().__iter__()) if TimedCache.__contains__(self, key))

    def __len__(self) -> int:
        with self.timer as now:
            self.expire(now)
            return super().__len__()

    def __repr__(self) -> str:
        with self.timer as now:
            self.expire(now)
            return super().__repr__()

    def __copy__(self) -> Self:
        other = super().__copy__()
        other.__timer = Timer(self.__timer._timer)
        other.__numbers = count(next(self.__numbers))
        other.__ends = self.__ends.copy()
        other.__heap = self.__heap.copy()
        return other

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_TimedCache__numbers"] = next(self.__numbers)    # a `count` cannot be pickled
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__numbers = count(state["_TimedCache__numbers"])

    def _store(self, key: _K, value: _V, end: Any) -> None:
        """Store an entry with the deadline `end`."""
        OrderedCache.__setitem__(self, key, value)
        self.__ends[key] = entry = (end, next(self.__numbers), key)
        heappush(self.__heap, entry)
        if len(self.__heap) > 2 * len(self.__ends) + 16:
            self.__heap = list(self.__ends.values())
            heapify(self.__heap)

    def _drop(self, key: _K) -> None:
        """Remove an entry, if there is one, even if it has expired. Calls no override of a subclass."""
        if self.__ends.pop(key, None) is not None:
            OrderedCache.__delitem__(self, key)

    def expire(self, time: Any = None) -> list[tuple[_K, _V]]:
        """Remove the entries that have expired at `time`, by default now, and return their keys and values.

        O(log n) for each of them.
        """
        if time is None:
            time = self.timer()
        expired: list[tuple[_K, _V]] = []
        while self.__heap and not time < self.__heap[0][0]:
            entry = heappop(self.__heap)
            key = entry[2]
            if self.__ends.get(key) is entry:
                expired.append((key, Cache.__getitem__(self, key)))
                self._drop(key)
        return expired

    def get(self, key: _K, default: Any = None) -> Any:
        """The value of `key`, or `default`. Never calls ``__missing__``. O(1)."""
        with self.timer:
            return super().get(key, default)

    def pop(self, key: _K, default: Any = _REQUIRED) -> Any:
        """Remove a key and return its value, or `default`. Raises KeyError if there is neither. O(1)."""
        with self.timer:
            return super().pop(key, default)

    def setdefault(self, key: _K, default: Any = None) -> Any:
        """The value of `key`; if it is absent, `default`, which is stored. O(log n)."""
        with self.timer:
            return super().setdefault(key, default)

    def popitem(self) -> tuple[_K, _V]:
        """Remove the least recently used entry that has not expired, and return its key and value.

        Raises KeyError if there is none. O(1), and O(log n) for each expired entry.
        """
        with self.timer as now:
            self.expire(now)
            return super().popitem()

    def clear(self) -> None:
        """Remove all entries, without calling `popitem`. O(n)."""
        super().clear()
        self.__ends.clear()
        self.__heap.clear()

    @property
    def currsize(self) -> float:
        """The sum of the sizes of all values that have not expired."""
        with self.timer as now:
            self.expire(now)
            return super().currsize

    @property
    def timer(self) -> Timer:
        """The timer: call it for the time; it stands still while it is entered as a context."""
        return self.__timer


class TTLCache(TimedCache[_K, _V]):
    """A cache whose entries all have the same lifetime.

    Args:
        maxsize, getsizeof: those of `Cache`.
        ttl: how long an entry lives, in the unit of `timer`; ``timer() + ttl`` is its deadline.
        timer: returns the time, seconds by default.

    >>> now = [0]
    >>> cache = TTLCache(maxsize=10, ttl=5, timer=lambda: now[0])
    >>> cache["a"] = 1
    >>> now[0] = 5
    >>> "a" in cache, cache.expire()
    (False, [('a', 1)])
    """

    def __init__(
        self,
        maxsize: float,
        ttl: Any,
        timer: Callable[[], Any] = time.monotonic,
        getsizeof: Callable[[_V], float] | None = None,
    ) -> None:
        super().__init__(maxsize, timer, getsizeof)
        self.__ttl = ttl

    def __setitem__(self, key: _K, value: _V) -> None:
        with self.timer as now:
            self.expire(now)
            self._store(key, value, now + self.__ttl)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.expire()

    @property
    def ttl(self) -> Any:
        """How long an entry lives."""
        return self.__ttl


class TLRUCache(TimedCache[_K, _V]):
    """A cache for which a function computes each entry's deadline.

    Args:
        maxsize, getsizeof: those of `Cache`.
        ttu: called with a key, a value and the time, returns the entry's deadline. If that is not later than the time,
            the entry is not stored, and an earlier one of the key leaves.
        timer: returns the time, seconds by default.
    """

    def __init__(
        self,
        maxsize: float,
        ttu: Callable[[_K, _V, Any], Any],
        timer: Callable[[], Any] = time.monotonic,
        getsizeof: Callable[[_V], float] | None = None,
    ) -> None:
        super().__init__(maxsize, timer, getsizeof)
        self.__ttu = ttu

    def __setitem__(self, key: _K, value: _V) -> None:
        with self.timer as now:
            self.expire(now)
            end = self.__ttu(key, value, now)
            if now < end:
                self._store(key, value, end)
            else:
                self._drop(key)

    @property
    def ttu(self) -> Callable[[_K, _V, Any], Any]:
        """The function that computes the deadlines."""
        return self.__ttu
