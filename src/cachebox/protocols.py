"""The methods that all caches have, for type checkers and ``isinstance``: `CacheLike` and `AsyncCacheLike`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import cachebox._platform  # noqa: F401 (it checks whose files are in this folder)

_K_contra = TypeVar("_K_contra", contravariant=True)
_V_contra = TypeVar("_V_contra", contravariant=True)
_Seconds: TypeAlias = float | timedelta
_Tags: TypeAlias = str | Iterable[Any]


class StatsLike(Protocol):
    """The methods that the counters of all caches have."""

    def get(self, name: str) -> Any:
        """One counter by its name. Raises ValueError for an unknown name."""

    def get_all(self) -> Mapping[str, Any]:
        """All counters by name."""

    def increment(self, name: str, amount: int = 1) -> None:
        """Add to a counter."""

    def hit_rate(self) -> float:
        """The share of lookups that were hits; 0.0 if there were none."""

    def reset(self) -> None:
        """Set all counters to zero."""

    def report(self) -> str:
        """The counters as lines of text for a person to read."""

    def snapshot(self) -> Any:
        """The counters at this instant. The difference of two snapshots is what was counted between them."""


@runtime_checkable
class CacheLike(Protocol[_K_contra, _V_contra]):
    """The methods that `Cache`, `DistributedCache`, `WriteThrough` and `WriteBehind` have.

    The table in ``docs/caches.md`` says what a method does if there is a server or a backing store.

    >>> from cachebox import Cache
    >>> isinstance(Cache(), CacheLike), isinstance({}, CacheLike)
    (True, False)
    """

    def get(self, key: _K_contra, default: Any = None) -> Any:
        """The value of `key`, or `default`."""

    def set(self, key: _K_contra, value: _V_contra, ttl: _Seconds | None = None, *, tags: _Tags = ()) -> None:
        """Store a value for `ttl`, and with these tags."""

    def add(self, key: _K_contra, value: _V_contra, ttl: _Seconds | None = None, *, tags: _Tags = ()) -> bool:
        """Store a value if the key has none. Returns True if it was stored."""

    def delete(self, key: _K_contra) -> bool:
        """Remove a key. Returns True if it had a value."""

    def get_many(self, keys: Iterable[_K_contra]) -> dict[Any, Any]:
        """The values of those keys that have one."""

    def set_many(self, mapping: Mapping[Any, _V_contra], ttl: _Seconds | None = None, *, tags: _Tags = ()) -> None:
        """Store many values."""

    def delete_many(self, keys: Iterable[_K_contra]) -> int:
        """Remove many keys. Returns how many had a value."""

    def get_or_set(
        self, key: _K_contra, factory: Callable[[], _V_contra], ttl: _Seconds | None = None, *, tags: _Tags = ()
    ) -> Any:
        """The value of `key`; if it has none, store the result of ``factory()`` and return it."""

    def contains(self, key: _K_contra) -> bool:
        """Whether the key has a value. Counts nothing."""

    def ttl(self, key: _K_contra) -> float | None:
        """Seconds to the value's deadline; None: it has none. Raises KeyError if the key has no value."""

    def touch(self, key: _K_contra, ttl: _Seconds | None = None) -> bool:
        """Give the value in the cache a new lifetime. Returns True if there is one."""

    def increment(self, key: _K_contra, amount: int = 1) -> int:
        """Add to an int, which starts at 0, and return the sum."""

    def invalidate_tag(self, tag: Any) -> int:
        """Remove all values with a tag from the cache."""

    def invalidate_prefix(self, prefix: str) -> int:
        """Remove all values whose key is a str with this prefix from the cache."""

    def clear(self) -> None:
        """Remove all values from the cache."""

    def close(self) -> object:
        """End background work, and close connections."""

    @property
    def stats(self) -> StatsLike:
        """The counters of the cache."""


@runtime_checkable
class AsyncCacheLike(Protocol[_K_contra, _V_contra]):
    """The methods that `AsyncDistributedCache`, `AsyncWriteThrough` and `AsyncWriteBehind` have: `CacheLike`, awaited.

    >>> from cachebox import AsyncWriteThrough, Cache
    >>> class Rows(dict):
    ...     load, save, delete = dict.__getitem__, dict.__setitem__, dict.__delitem__
    >>> isinstance(AsyncWriteThrough(Cache(), Rows()), AsyncCacheLike)
    True
    """

    async def get(self, key: _K_contra, default: Any = None) -> Any:
        """The value of `key`, or `default`."""

    async def set(self, key: _K_contra, value: _V_contra, ttl: _Seconds | None = None, *, tags: _Tags = ()) -> None:
        """Store a value for `ttl`, and with these tags."""

    async def add(self, key: _K_contra, value: _V_contra, ttl: _Seconds | None = None, *, tags: _Tags = ()) -> bool:
        """Store a value if the key has none. Returns True if it was stored."""

    async def delete(self, key: _K_contra) -> bool:
        """Remove a key. Returns True if it had a value."""

    async def get_many(self, keys: Iterable[_K_contra]) -> dict[Any, Any]:
        """The values of those keys that have one."""

    async def set_many(
        self, mapping: Mapping[Any, _V_contra], ttl: _Seconds | None = None, *, tags: _Tags = ()
    ) -> None:
        """Store many values."""

    async def delete_many(self, keys: Iterable[_K_contra]) -> int:
        """Remove many keys. Returns how many had a value."""

    async def get_or_set(
        self,
        key: _K_contra,
        factory: Callable[[], Awaitable[_V_contra] | _V_contra],
        ttl: _Seconds | None = None,
        *,
        tags: _Tags = (),
    ) -> Any:
        """The value of `key`; if it has none, store the factory's result, awaited if need be, and return it."""

    async def contains(self, key: _K_contra) -> bool:
        """Whether the key has a value. Counts nothing."""

    async def ttl(self, key: _K_contra) -> float | None:
        """Seconds to the value's deadline; None: it has none. Raises KeyError if the key has no value."""

    async def touch(self, key: _K_contra, ttl: _Seconds | None = None) -> bool:
        """Give the value in the cache a new lifetime. Returns True if there is one."""

    async def increment(self, key: _K_contra, amount: int = 1) -> int:
        """Add to an int, which starts at 0, and return the sum."""

    async def invalidate_tag(self, tag: Any) -> int:
        """Remove all values with a tag from the cache."""

    async def invalidate_prefix(self, prefix: str) -> int:
        """Remove all values whose key is a str with this prefix from the cache."""

    async def clear(self) -> None:
        """Remove all values from the cache."""

    async def close(self) -> object:
        """End background work, and close connections."""

    @property
    def stats(self) -> StatsLike:
        """The counters of the cache."""
