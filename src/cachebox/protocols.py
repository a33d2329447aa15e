"""What all caches have in common, for type checkers and ``isinstance``: `CacheLike`, and `AsyncCacheLike` to await."""

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
    """What the counters of all caches have in common."""

    def get(self, name: str) -> Any:
        """One counter by its name. ValueError for a name that is none."""

    def get_all(self) -> Mapping[str, Any]:
        """All counters by name."""

    def increment(self, name: str, amount: int = 1) -> None:
        """Add to a counter."""

    def hit_rate(self) -> float:
        """The share of lookups that were served; 0.0 where there were none."""

    def reset(self) -> None:
        """Set all counters to zero."""

    def report(self) -> str:
        """The lines that a person wants."""

    def snapshot(self) -> Any:
        """The counters as they are now. The difference of two snapshots is what was counted between them."""


@runtime_checkable
class CacheLike(Protocol[_K_contra, _V_contra]):
    """What `Cache`, `DistributedCache`, `WriteThrough` and `WriteBehind` have in common.

    The table in ``docs/caches.md`` says what a method means where there is a server or a store.

    >>> from cachebox import Cache
    >>> isinstance(Cache(), CacheLike), isinstance({}, CacheLike)
    (True, False)
    """

    def get(self, key: _K_contra, default: Any = None) -> Any:
        """The value of `key`, or `default`."""

    def set(self, key: _K_contra, value: _V_contra, ttl: _Seconds | None = None, *, tags: _Tags = ()) -> None:
        """Store a value for `ttl`, and with these tags."""

    def add(self, key: _K_contra, value: _V_contra, ttl: _Seconds | None = None, *, tags: _Tags = ()) -> bool:
        """Store a value where the key has none. True where it was stored."""

    def delete(self, key: _K_contra) -> bool:
        """Remove a key. True where it had a value."""

    def get_many(self, keys: Iterable[_K_contra]) -> dict[Any, Any]:
        """The values of those keys that have one."""

    def set_many(self, mapping: Mapping[Any, _V_contra], ttl: _Seconds | None = None, *, tags: _Tags = ()) -> None:
        """Store many values."""

    def delete_many(self, keys: Iterable[_K_contra]) -> int:
        """Remove many keys; returns how many had a value."""

    def get_or_set(
        self, key: _K_contra, factory: Callable[[], _V_contra], ttl: _Seconds | None = None, *, tags: _Tags = ()
    ) -> Any:
        """The value of `key`; where it has none, what ``factory()`` returns, stored."""

    def contains(self, key: _K_contra) -> bool:
        """Whether the key has a value. Counts nothing."""

    def ttl(self, key: _K_contra) -> float | None:
        """Seconds that the cache keeps the value yet; None: for ever. KeyError where it has none."""

    def touch(self, key: _K_contra, ttl: _Seconds | None = None) -> bool:
        """Give the value in the cache a new lifetime. True where there is one."""

    def increment(self, key: _K_contra, amount: int = 1) -> int:
        """Add to an int, which begins at 0, and return the sum."""

    def invalidate_tag(self, tag: Any) -> int:
        """Have the cache forget all values with a tag."""

    def invalidate_prefix(self, prefix: str) -> int:
        """Have the cache forget all values whose key is a str that begins so."""

    def clear(self) -> None:
        """Have the cache forget everything."""

    def close(self) -> object:
        """End what runs in the background, and let connections go."""

    @property
    def stats(self) -> StatsLike:
        """The counters of the cache."""


@runtime_checkable
class AsyncCacheLike(Protocol[_K_contra, _V_contra]):
    """What `AsyncDistributedCache`, `AsyncWriteThrough` and `AsyncWriteBehind` have in common: `CacheLike`, awaited.

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
        """Store a value where the key has none. True where it was stored."""

    async def delete(self, key: _K_contra) -> bool:
        """Remove a key. True where it had a value."""

    async def get_many(self, keys: Iterable[_K_contra]) -> dict[Any, Any]:
        """The values of those keys that have one."""

    async def set_many(
        self, mapping: Mapping[Any, _V_contra], ttl: _Seconds | None = None, *, tags: _Tags = ()
    ) -> None:
        """Store many values."""

    async def delete_many(self, keys: Iterable[_K_contra]) -> int:
        """Remove many keys; returns how many had a value."""

    async def get_or_set(
        self,
        key: _K_contra,
        factory: Callable[[], Awaitable[_V_contra] | _V_contra],
        ttl: _Seconds | None = None,
        *,
        tags: _Tags = (),
    ) -> Any:
        """The value of `key`; where it has none, what the factory returns, awaited if need be, stored."""

    async def contains(self, key: _K_contra) -> bool:
        """Whether the key has a value. Counts nothing."""

    async def ttl(self, key: _K_contra) -> float | None:
        """Seconds that the cache keeps the value yet; None: for ever. KeyError where it has none."""

    async def touch(self, key: _K_contra, ttl: _Seconds | None = None) -> bool:
        """Give the value in the cache a new lifetime. True where there is one."""

    async def increment(self, key: _K_contra, amount: int = 1) -> int:
        """Add to an int, which begins at 0, and return the sum."""

    async def invalidate_tag(self, tag: Any) -> int:
        """Have the cache forget all values with a tag."""

    async def invalidate_prefix(self, prefix: str) -> int:
        """Have the cache forget all values whose key is a str that begins so."""

    async def clear(self) -> None:
        """Have the cache forget everything."""

    async def close(self) -> object:
        """End what runs in the background, and let connections go."""

    @property
    def stats(self) -> StatsLike:
        """The counters of the cache."""
