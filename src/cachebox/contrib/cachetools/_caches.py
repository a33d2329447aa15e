"""The caches without time. The engines of `cachebox.policies` keep the order, a dict keeps the values."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any, ClassVar, Self, TypeVar

from cachebox.policies import EvictionPolicy, FIFOPolicy, LFUPolicy, LRUPolicy

_K = TypeVar("_K")
_V = TypeVar("_V")
_REQUIRED: Any = object()


class Cache(MutableMapping[_K, _V]):
    """A mapping with a bound; when it is full, an arbitrary entry leaves. The base class of the others.

    Args:
        maxsize: the most that the sizes of all values may add up to, a number from 0 on.
        getsizeof: called with a value, returns its size, a number from 0 on; None: every value counts 1. A subclass may
            define it as a method instead.

    Raises ValueError for a negative `maxsize`. Storing a value larger than `maxsize` raises ValueError, and changes
    nothing. A subclass may define ``__missing__(key)``, whose result ``cache[key]`` returns for an absent key. Not safe
    to share between threads without a lock.
    """

    __sizes: dict[_K, float] | None

    def __init__(self, maxsize: float, getsizeof: Callable[[_V], float] | None = None) -> None:
        if maxsize < 0:
            raise ValueError(f"maxsize must be 0 or more, not {maxsize!r}")
        if getsizeof is not None:
            self.getsizeof = getsizeof      # type: ignore[method-assign, assignment]   # it hides the method
        self.__sizes = None if self.getsizeof is Cache.getsizeof else {}
        self.__values: dict[_K, _V] = {}
        self.__currsize: float = 0
        self.__maxsize = maxsize

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.__values!r}, maxsize={self.__maxsize!r}, currsize={self.__currsize!r})"

    def __getitem__(self, key: _K) -> _V:
        try:
            return self.__values[key]
        except KeyError:
            return self.__missing__(key)

    def __setitem__(self, key: _K, value: _V) -> None:
        sizes, values = self.__sizes, self.__values
        size: float = 1 if sizes is None else self.getsizeof(value)
        if size > self.__maxsize:
            raise ValueError("value too large")
        if size < 0:
            raise ValueError(f"getsizeof must return 0 or more, not {size!r}")
        more = size
        if key in values:
            more -= 1 if sizes is None else sizes[key]
        while self.__currsize + more > self.__maxsize:
            self.popitem()
            if key not in values:           # it was the key's own entry
                more = size
        self.__currsize += more
        values[key] = value
        if sizes is not None:
            sizes[key] = size

    def __delitem__(self, key: _K) -> None:
        del self.__values[key]
        self.__currsize -= 1 if self.__sizes is None else self.__sizes.pop(key)

    def __contains__(self, key: object) -> bool:
        return key in self.__values

    def __missing__(self, key: _K) -> _V:
        raise KeyError(key)

    def __iter__(self) -> Iterator[_K]:
        return iter(self.__values)

    def __len__(self) -> int:
        return len(self.__values)

    def __copy__(self) -> Self:
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)        # attributes of subclasses are shared
        other.__values = self.__values.copy()
        other.__sizes = None if self.__sizes is None else self.__sizes.copy()
        return other

    # The mixins of MutableMapping expect a KeyError for a miss, which a class with __missing__ does not raise.

    def get(self, key: _K, default: Any = None) -> Any:
        """The value of `key`, or `default`. Never calls ``__missing__``. O(1)."""
        return self[key] if key in self else default

    def pop(self, key: _K, default: Any = _REQUIRED) -> Any:
        """Remove a key and return its value, or `default`. Raises KeyError if there is neither. O(1)."""
        if key in self:
            value = self[key]
            del self[key]
            return value
        if default is _REQUIRED:
            raise KeyError(key)
        return default

    def setdefault(self, key: _K, default: Any = None) -> Any:
        """The value of `key`; if it is absent, `default`, which is stored. O(1)."""
        if key in self:
            return self[key]
        self[key] = default
        return default

    def clear(self) -> None:
        """Remove all entries, without calling `popitem`. O(n)."""
        self.__values.clear()
        if self.__sizes is not None:
            self.__sizes.clear()
        self.__currsize = 0

    @property
    def maxsize(self) -> float:
        """The most that the sizes of all values may add up to."""
        return self.__maxsize

    @property
    def currsize(self) -> float:
        """The sum of the sizes of all values."""
        return self.__currsize

    @staticmethod
    def getsizeof(value: Any) -> float:
        """The size of a value: 1, unless the constructor or a subclass says otherwise."""
        return 1


class OrderedCache(Cache[_K, _V]):
    """A cache whose keys leave in the order of a policy of `cachebox.policies`."""

    _policy: ClassVar[type[EvictionPolicy[Any]]]

    def __init__(self, maxsize: float, getsizeof: Callable[[_V], float] | None = None) -> None:
        super().__init__(maxsize, getsizeof)
        self._eviction_order: EvictionPolicy[_K] = self._policy()

    def __getitem__(self, key: _K) -> _V:
        value = Cache.__getitem__(self, key)
        try:
            self._eviction_order.access(key)
        except KeyError:                    # __missing__ need not have stored the key
            pass
        return value

    def __setitem__(self, key: _K, value: _V) -> None:
        Cache.__setitem__(self, key, value)
        self._eviction_order.add(key)

    def __delitem__(self, key: _K) -> None:
        Cache.__delitem__(self, key)
        if key in self._eviction_order:     # `popitem` may have removed it
            self._eviction_order.remove(key)

    def __copy__(self) -> Self:
        other = super().__copy__()
        other._eviction_order = copy.copy(self._eviction_order)
        return other

    def popitem(self) -> tuple[_K, _V]:
        """Remove the entry that is next to leave, and return its key and value. Raises KeyError if the cache is empty.
        O(1).

        A full cache calls it, and it removes the key with ``del self[key]``: subclasses may override both.
        """
        if not Cache.__len__(self):
            raise KeyError(f"{type(self).__name__} is empty") from None
        key: Any = self._eviction_order.evict()
        value = Cache.__getitem__(self, key)
        try:
            del self[key]
        except BaseException:
            if Cache.__contains__(self, key):       # a subclass kept the key
                self._eviction_order.add(key)
            raise
        return key, value

    def clear(self) -> None:
        """Remove all entries, without calling `popitem`. O(n)."""
        super().clear()
        self._eviction_order.clear()


class LRUCache(OrderedCache[_K, _V]):
    """A cache from which the least recently used entry leaves when it is full. The arguments are those of `Cache`.

    >>> cache = LRUCache(maxsize=2)
    >>> cache["a"], cache["b"] = 1, 2
    >>> cache["a"]
    1
    >>> cache["c"] = 3
    >>> list(cache)
    ['a', 'c']
    """

    _policy = LRUPolicy


class LFUCache(OrderedCache[_K, _V]):
    """A cache from which the least frequently used entry leaves when it is full.

    Of several such entries, the one used longest ago leaves. The arguments are those of `Cache`.
    """

    _policy = LFUPolicy


class FIFOCache(OrderedCache[_K, _V]):
    """A cache from which the entry that was stored first leaves when it is full. The arguments are those of `Cache`."""

    _policy = FIFOPolicy
    __getitem__ = Cache.__getitem__         # a lookup does not change the order

    def __setitem__(self, key: _K, value: _V) -> None:
        Cache.__setitem__(self, key, value)
        if key in self._eviction_order:
            self._eviction_order.remove(key)        # an overwrite counts as a new entry, as in cachetools
        self._eviction_order.add(key)


class RRCache(Cache[_K, _V]):
    """A cache from which a random entry leaves when it is full.

    Args:
        maxsize, getsizeof: those of `Cache`.
        choice: called with a sequence of all keys, returns one of them.
    """

    def __init__(
        self,
        maxsize: float,
        choice: Callable[[Sequence[_K]], _K] = random.choice,
        getsizeof: Callable[[_V], float] | None = None,
    ) -> None:
        super().__init__(maxsize, getsizeof)
        self.__choice = choice
        self.__keys: list[_K] = []
        self.__places: dict[_K, int] = {}

    @property
    def choice(self) -> Callable[[Sequence[_K]], _K]:
        """The function that chooses the key to leave."""
        return self.__choice

    def __setitem__(self, key: _K, value: _V) -> None:
        super().__setitem__(key, value)
        if key not in self.__places:
            self.__places[key] = len(self.__keys)
            self.__keys.append(key)

    def __delitem__(self, key: _K) -> None:
        super().__delitem__(key)
        place = self.__places.pop(key)
        last = self.__keys.pop()
        if place < len(self.__keys):        # the last key fills the gap
            self.__keys[place] = last
            self.__places[last] = place

    def __copy__(self) -> Self:
        other = super().__copy__()
        other.__keys = self.__keys.copy()
        other.__places = self.__places.copy()
        return other

    def popitem(self) -> tuple[_K, _V]:
        """Remove a random entry, and return its key and value. Raises KeyError if the cache is empty. O(1)."""
        if not self.__keys:
            raise KeyError(f"{type(self).__name__} is empty") from None
        key = self.__choice(self.__keys)
        value = Cache.__getitem__(self, key)
        del self[key]
        return key, value

    def clear(self) -> None:
        """Remove all entries, without calling `popitem`. O(n)."""
        super().clear()
        self.__keys.clear()
        self.__places.clear()
