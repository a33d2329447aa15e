"""The methods that all caches have in common, as far as the strategies make them of a few of their own.

Lifetimes, tags and statistics are the cache's: a store knows nothing of them. What is in doubt in the cache
(`cache_side`) counts as absent there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from cachebox.cache import MISSING
from cachebox.strategies.cache_side import AsyncCacheSide, CacheSide
from cachebox.strategies.errors import Absent
from cachebox.strategies.store import Store, awaited, check_entry, check_key, checked_keys, contained, with_tags
from cachebox.strategies.watches import Watch, Watches

UNKNOWN = object()
"""What `_pending` answers where the cache, or the store, has to be asked."""


def sum_of(key: Any, old: Any, amount: int) -> int:
    """What `increment` makes of the value that is there. TypeError where that, or the amount, is no int."""
    if not isinstance(amount, int):
        raise TypeError(f"amount must be an int, not {type(amount).__name__}")
    if old is MISSING:
        return int(amount)
    if not isinstance(old, int):
        raise TypeError(f"increment needs an int, but the value of {key!r} is of type {type(old).__name__}")
    return int(old) + int(amount)


class CacheMethods:
    """The methods of `WriteThrough` and `WriteBehind` beside those that each has of its own."""

    cache: Any
    _store: Store
    _side: CacheSide
    _watches: Watches

    # --- what each does in its own way --------------------------------------------------------------------------------

    def _pending(self, key: Any) -> Any:
        """A value that the store lacks yet, MISSING for a delete, or UNKNOWN."""
        return UNKNOWN

    def _is_late(self, key: Any) -> bool:
        """Whether the cache must not be asked for a key."""
        return self._side.doubted(key)

    def _load(self, key: Any) -> Any:
        """The newest value past the cache. Raises `Absent`."""
        raise NotImplementedError

    def _change(self, key: Any, change: Callable[[Any], Any], tell: Callable[[Any], None]) -> None:
        """Write what ``change(newest value or MISSING)`` returns, unless that is MISSING, and `tell` the cache: in one
        step, as seen by those who write."""
        raise NotImplementedError

    def _save_unless_written(self, watch: Watch, key: Any, value: Any) -> None:
        """Write a value to the store, unless somebody has written the key since the watch began."""
        raise NotImplementedError

    # --- and what follows from that -----------------------------------------------------------------------------------

    def _newest(self, key: Any) -> Any:
        """The newest value, from the store if that can load, or MISSING."""
        if self._store.load is None:
            value = self._pending(key)
            if value is not UNKNOWN:
                return value
            return MISSING if self._is_late(key) else self.cache.get(key, MISSING)
        try:
            return self._load(key)
        except Absent:
            return MISSING

    def get_many(self, keys: Any) -> dict[Any, Any]:
        """The values of those keys that have one, loaded from the store as far as the cache has none; by one
        `load_many` if the store has that."""
        wanted = checked_keys(self.cache, keys)
        found: dict[Any, Any] = {}
        asked: list[Any] = []
        absent: list[Any] = []
        for key in wanted:
            value = self._pending(key)
            if value is UNKNOWN:
                (absent if self._is_late(key) else asked).append(key)
            elif value is not MISSING:
                found[key] = value
        if asked:
            held = self.cache.get_many(asked)
            found.update(held)
            absent += [key for key in asked if key not in held]
        if absent and self._store.load is not None:
            found.update(self._load_many(absent))
        return {key: found[key] for key in wanted if key in found}

    def _load_many(self, keys: list[Any]) -> dict[Any, Any]:
        """What the store has, which then is in the cache, too, but for what was written meanwhile."""
        with self._watches.over(keys) as watch:
            loaded = {} if self._store.load_many is None else self._store.load_many(keys)
            found = {}
            for key in keys:
                value = self._pending(key)
                if value is UNKNOWN and self._store.load_many is not None:
                    value = loaded.get(key, MISSING)
                elif value is UNKNOWN:
                    value = self._newest(key)
                if value is not MISSING:
                    found[key] = value
            if not watch.was_written:
                self._side.fill(found)
            if watch.was_written:
                self._side.forget(keys)         # what came in between may be older
        return found

    def add(self, key: Any, value: Any, ttl: Any = None, *, tags: Any = ()) -> bool:
        """`set`, where neither the store nor, if that cannot load, the cache has the key. True where it was set.

        One step, as seen by all who write through this object.
        """
        check_entry(self.cache, key, value, ttl, tags)
        added: list[bool] = []

        def change(old: Any) -> Any:
            added[:] = [old is MISSING]
            return value if old is MISSING else MISSING

        self._change(key, change, lambda new: self._side.set(key, new, ttl, tags))
        return added == [True]

    def increment(self, key: Any, amount: int = 1) -> int:
        """Add to the int that the store has, or, if that cannot load, the cache; a missing one is 0. Returns the sum.

        One step, as seen by all who write through this object. The cache keeps lifetime and tags. TypeError where
        the value or `amount` is no int.
        """
        check_key(self.cache, key)
        sums = [0]

        def change(old: Any) -> Any:
            sums[0] = sum_of(key, old, amount)
            check_entry(self.cache, key, sums[0], None, ())
            return sums[0]

        self._change(key, change, lambda new: self._side.increment(key, int(amount), new))
        return sums[0]

    def get_or_set(self, key: Any, factory: Callable[[], Any], ttl: Any = None, *, tags: Any = ()) -> Any:
        """The value of a key, from the cache or the store; where neither has it, what ``factory()`` returns, written
        to the store and then in the cache.

        One load or factory per key at a time, as in `Cache.get_or_set`. A write of the key meanwhile wins: the value is
        returned, and written nowhere.
        """
        check_key(self.cache, key)
        if not callable(factory):
            raise TypeError(f"factory must be callable, not {type(factory).__name__}")
        value = self._pending(key)
        if value is not UNKNOWN and value is not MISSING:
            return value
        make = partial(self._load_or_make, key, factory)
        if value is MISSING or self._is_late(key):
            return make()
        return self.cache.get_or_set(key, make, ttl, **with_tags(tags))

    def _load_or_make(self, key: Any, factory: Callable[[], Any]) -> Any:
        with self._watches.over((key,)) as watch:
            if self._store.load is not None:
                try:
                    return self._load(key)
                except Absent:
                    pass
            value = factory()
            self._save_unless_written(watch, key, value)
            return value

    def contains(self, key: Any) -> bool:
        """Whether the cache, or else the store, has a key: ``key in strategy``. Counts nothing; may load."""
        check_key(self.cache, key)
        value = self._pending(key)
        if value is not UNKNOWN:
            return value is not MISSING
        if not self._is_late(key) and contained(self.cache, key):
            return True
        return self._store.load is not None and self._newest(key) is not MISSING

    def __contains__(self, key: Any) -> bool:
        return self.contains(key)

    def ttl(self, key: Any) -> float | None:
        """Seconds that the cache keeps a value yet; None: for ever. KeyError where the cache has none."""
        if self._is_late(check_key(self.cache, key)):
            raise KeyError(key)
        left: float | None = self.cache.ttl(key)
        return left

    def touch(self, key: Any, ttl: Any = None) -> bool:
        """Give a value in the cache a new lifetime. True where the cache has one."""
        return not self._is_late(check_key(self.cache, key)) and bool(self.cache.touch(key, ttl))

    def invalidate_tag(self, tag: Any) -> int:
        """Have the cache forget what has a tag; the store keeps it. Returns what the cache returns."""
        count: int = self.cache.invalidate_tag(tag)
        return count

    def invalidate_prefix(self, prefix: str) -> int:
        """Have the cache forget what has a key that begins so; the store keeps it. Returns what the cache returns."""
        count: int = self.cache.invalidate_prefix(prefix)
        return count

    def clear(self) -> None:
        """Have the cache forget everything; the store keeps it."""
        self.cache.clear()

    @property
    def stats(self) -> Any:
        """The counters of the cache."""
        return self.cache.stats


class AsyncCacheMethods:
    """`CacheMethods`, awaited: of a cache whose methods may be plain ones, or are to be awaited."""

    cache: Any
    _store: Store
    _side: AsyncCacheSide
    _watches: Watches

    def _pending(self, key: Any) -> Any:
        """A value that the store lacks yet, MISSING for a delete, or UNKNOWN."""
        return UNKNOWN

    async def _is_late(self, key: Any) -> bool:
        """Whether the cache must not be asked for a key."""
        return await self._side.doubted(key)

    async def _ask_store(self, key: Any) -> Any:
        """The newest value past the cache. Raises KeyError."""
        raise NotImplementedError

    async def _change(self, key: Any, change: Callable[[Any], Any], tell: Callable[[Any], Any]) -> None:
        """See `CacheMethods`."""
        raise NotImplementedError

    async def _newest(self, key: Any) -> Any:
        """The newest value, from the store if that can load, or MISSING."""
        if self._store.load is None:
            value = self._pending(key)
            if value is not UNKNOWN:
                return value
            return MISSING if await self._is_late(key) else await awaited(self.cache.get(key, MISSING))
        try:
            return await self._ask_store(key)
        except KeyError:
            return MISSING

    async def get_many(self, keys: Any) -> dict[Any, Any]:
        """The values of those keys that have one, loaded from the store as far as the cache has none; by one
        `load_many` if the store has that."""
        wanted = checked_keys(self.cache, keys)
        found: dict[Any, Any] = {}
        asked: list[Any] = []
        absent: list[Any] = []
        for key in wanted:
            value = self._pending(key)
            if value is UNKNOWN:
                (absent if await self._is_late(key) else asked).append(key)
            elif value is not MISSING:
                found[key] = value
        if asked:
            held = await awaited(self.cache.get_many(asked))
            found.update(held)
            absent += [key for key in asked if key not in held]
        if absent and self._store.load is not None:
            found.update(await self._load_many(absent))
        return {key: found[key] for key in wanted if key in found}

    async def _load_many(self, keys: list[Any]) -> dict[Any, Any]:
        """See `CacheMethods`."""
        with self._watches.over(keys) as watch:
            loaded = {} if self._store.load_many is None else await awaited(self._store.load_many(keys))
            found = {}
            for key in keys:
                value = self._pending(key)
                if value is UNKNOWN and self._store.load_many is not None:
                    value = loaded.get(key, MISSING)
                elif value is UNKNOWN:
                    value = await self._newest(key)
                if value is not MISSING:
                    found[key] = value
            if not watch.was_written:
                await self._side.fill(found)
            if watch.was_written:
                await self._side.forget(keys)
        return found

    async def add(self, key: Any, value: Any, ttl: Any = None, *, tags: Any = ()) -> bool:
        """`set`, where neither the store nor, if that cannot load, the cache has the key. True where it was set."""
        check_entry(self.cache, key, value, ttl, tags)
        added: list[bool] = []

        def change(old: Any) -> Any:
            added[:] = [old is MISSING]
            return value if old is MISSING else MISSING

        await self._change(key, change, lambda new: self._side.set(key, new, ttl, tags))
        return added == [True]

    async def increment(self, key: Any, amount: int = 1) -> int:
        """Add to the int that the store has, or, if that cannot load, the cache; a missing one is 0. Returns the
        sum."""
        check_key(self.cache, key)
        sums = [0]

        def change(old: Any) -> Any:
            sums[0] = sum_of(key, old, amount)
            check_entry(self.cache, key, sums[0], None, ())
            return sums[0]

        await self._change(key, change, lambda new: self._side.increment(key, int(amount), new))
        return sums[0]

    async def contains(self, key: Any) -> bool:
        """Whether the cache, or else the store, has a key. Counts nothing; may load."""
        check_key(self.cache, key)
        value = self._pending(key)
        if value is not UNKNOWN:
            return value is not MISSING
        if not await self._is_late(key) and await awaited(contained(self.cache, key)):
            return True
        return self._store.load is not None and await self._newest(key) is not MISSING

    def __contains__(self, key: object) -> bool:
        raise TypeError("`in` cannot wait for a store: use `await strategy.contains(key)`")

    async def ttl(self, key: Any) -> float | None:
        """Seconds that the cache keeps a value yet; None: for ever. KeyError where the cache has none."""
        if await self._is_late(check_key(self.cache, key)):
            raise KeyError(key)
        left: float | None = await awaited(self.cache.ttl(key))
        return left

    async def touch(self, key: Any, ttl: Any = None) -> bool:
        """Give a value in the cache a new lifetime. True where the cache has one."""
        return not await self._is_late(check_key(self.cache, key)) and bool(await awaited(self.cache.touch(key, ttl)))

    async def invalidate_tag(self, tag: Any) -> int:
        """Have the cache forget what has a tag; the store keeps it. Returns what the cache returns."""
        count: int = await awaited(self.cache.invalidate_tag(tag))
        return count

    async def invalidate_prefix(self, prefix: str) -> int:
        """Have the cache forget what has a key that begins so; the store keeps it. Returns what the cache returns."""
        count: int = await awaited(self.cache.invalidate_prefix(prefix))
        return count

    async def clear(self) -> None:
        """Have the cache forget everything; the store keeps it."""
        await awaited(self.cache.clear())

    @property
    def stats(self) -> Any:
        """The counters of the cache."""
        return self.cache.stats
