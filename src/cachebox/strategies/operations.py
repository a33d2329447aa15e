"""The operations of a cache with a store, as steps, common to write-through and write-behind.

Lifetimes, tags and statistics belong to the cache; a store knows nothing of them. A stale entry of the cache
(`cache_side`) counts as absent.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from cachebox._platform.awaitables import plain_call
from cachebox.cache import MISSING
from cachebox.strategies.cache_side import CacheSide
from cachebox.strategies.errors import Absent
from cachebox.strategies.steps import Steps
from cachebox.strategies.store import (
    Store,
    check_cache,
    check_entry,
    check_key,
    check_lifetime,
    checked_keys,
    contained,
    with_tags,
)
from cachebox.strategies.unfinished import UNKNOWN
from cachebox.strategies.watches import Watch, Watches


def sum_of(key: Any, old: Any, amount: int) -> int:
    """The result of `increment` for an old value or MISSING. Raises TypeError if that, or the amount, is no int."""
    if not isinstance(amount, int):
        raise TypeError(f"amount must be an int, not {type(amount).__name__}")
    if old is MISSING:
        return int(amount)
    if not isinstance(old, int):
        raise TypeError(f"increment needs an int, but the value of {key!r} is of type {type(old).__name__}")
    return int(old) + int(amount)


class Operations:
    """The operations of a cache with a store, blocking or awaited."""

    cache: Any
    store: Any
    _is_async: bool
    _watches: Watches

    def __init__(self, cache: Any, store: Any) -> None:
        self.cache = check_cache(cache, self._is_async)
        self.store = store
        self._store = Store(store, self._is_async)
        self._side = CacheSide(cache)
        # calls a factory for a key that the cache lacks, once for all callers at the same time
        self._make_once = getattr(cache, "aget_or_set", cache.get_or_set) if self._is_async else cache.get_or_set

    # --- to be implemented by each strategy ---------------------------------------------------------------------------

    def _pending(self, key: Any) -> Any:
        """The value that the store still lacks, MISSING for a delete, or UNKNOWN."""
        return UNKNOWN

    def _may_be_late(self, key: Any) -> bool:
        """Whether `_is_late` must be asked."""
        return bool(self._side.stale)

    def _is_late(self, key: Any) -> Steps[bool]:
        """Whether the cache must not be asked for a key."""
        return self._side.is_stale(key)

    def _load(self, key: Any) -> Steps[Any]:
        """The newest value, not from the cache. Raises `Absent`."""
        raise NotImplementedError

    def _set(self, key: Any, value: Any, ttl: Any, tags: Any) -> Steps[None]:
        raise NotImplementedError

    def _delete(self, key: Any) -> Steps[bool]:
        raise NotImplementedError

    def _set_many(self, mapping: Any, ttl: Any, tags: Any) -> Steps[None]:
        raise NotImplementedError

    def _delete_many(self, keys: Any) -> Steps[int]:
        raise NotImplementedError

    def _change(self, key: Any, change: Callable[[Any], Any], tell: Callable[[Any], Steps[None]]) -> Steps[None]:
        """Write the result of ``change(newest value or MISSING)``, then `tell` the cache; MISSING changes nothing.

        One step, as seen by all callers that write.
        """
        raise NotImplementedError

    def _save_unless_written(self, watch: Watch, key: Any, value: Any, ttl: Any, tags: Any) -> Steps[None]:
        """Write a value to the store, unless the key was written since the watch began; also to the cache, with
        `_show`, if the store cannot load."""
        raise NotImplementedError

    # --- to be implemented by the blocking and the async classes ------------------------------------------------------

    def _do(self, operation: Callable[..., Steps[Any]], *arguments: Any) -> Any:
        """Run the steps of an operation, here or in a coroutine."""
        raise NotImplementedError

    # --- reading ------------------------------------------------------------------------------------------------------

    def _get(self, key: Any, default: Any) -> Steps[Any]:
        value = self._pending(key)
        if value is not UNKNOWN:
            return default if value is MISSING else value
        is_late = self._may_be_late(key) and (yield from self._is_late(key))
        if self._store.load is None:
            return default if is_late else (yield self.cache.get, (key, default))
        try:
            if is_late:
                return (yield from self._load(key))
            return (yield self._make_once, (key, partial(self._do, self._load, key)))
        except Absent:
            return default

    def _newest(self, key: Any) -> Steps[Any]:
        """The newest value, from the store if it can load; else MISSING."""
        if self._store.load is None:
            value = self._pending(key)
            if value is not UNKNOWN:
                return value
            is_late = yield from self._is_late(key)
            return MISSING if is_late else (yield self.cache.get, (key, MISSING))
        try:
            return (yield from self._load(key))
        except Absent:
            return MISSING

    def _get_many(self, keys: Any) -> Steps[dict[Any, Any]]:
        wanted = checked_keys(self.cache, keys)
        found: dict[Any, Any] = {}
        asked: list[Any] = []
        absent: list[Any] = []
        for key in wanted:
            value = self._pending(key)
            if value is UNKNOWN:
                (absent if (yield from self._is_late(key)) else asked).append(key)
            elif value is not MISSING:
                found[key] = value
        if asked:
            held = yield self.cache.get_many, (asked,)
            found.update(held)
            absent += [key for key in asked if key not in held]
        if absent and self._store.load is not None:
            found.update((yield from self._load_many(absent)))
        return {key: found[key] for key in wanted if key in found}

    def _load_many(self, keys: list[Any]) -> Steps[dict[Any, Any]]:
        """The values in the store, which are also stored in the cache, unless a key was written meanwhile."""
        with self._watches.over(keys) as watch:
            loaded = {} if self._store.load_many is None else (yield self._store.load_many, (keys,))
            found = {}
            for key in keys:
                value = self._pending(key)
                if value is UNKNOWN and self._store.load_many is not None:
                    value = loaded.get(key, MISSING)
                elif value is UNKNOWN:
                    value = yield from self._newest(key)
                if value is not MISSING:
                    found[key] = value
            if not watch.was_written:
                yield from self._side.fill(found)
            if watch.was_written:
                yield from self._side.forget(keys)          # values stored in between may be older
        return found

    def _contains(self, key: Any) -> Steps[bool]:
        check_key(self.cache, key)
        value = self._pending(key)
        if value is not UNKNOWN:
            return value is not MISSING
        is_late = yield from self._is_late(key)
        if not is_late and (yield contained, (self.cache, key)):
            return True
        return self._store.load is not None and (yield from self._newest(key)) is not MISSING

    def _ttl(self, key: Any) -> Steps[float | None]:
        if (yield from self._is_late(check_key(self.cache, key))):
            raise KeyError(key)
        left: float | None = yield self.cache.ttl, (key,)
        return left

    # --- writes that depend on the old value --------------------------------------------------------------------------

    def _add(self, key: Any, value: Any, ttl: Any, tags: Any) -> Steps[bool]:
        check_entry(self.cache, key, value, ttl, tags)
        added: list[bool] = []

        def change(old: Any) -> Any:
            added[:] = [old is MISSING]
            return value if old is MISSING else MISSING

        yield from self._change(key, change, lambda new: self._side.set(key, new, ttl, tags))
        return added == [True]

    def _increment(self, key: Any, amount: Any) -> Steps[int]:
        check_key(self.cache, key)
        sums = [0]

        def change(old: Any) -> Any:
            sums[0] = sum_of(key, old, amount)
            check_entry(self.cache, key, sums[0], None, ())
            return sums[0]

        yield from self._change(key, change, lambda new: self._side.increment(key, int(amount), new))
        return sums[0]

    def _get_or_set(self, key: Any, factory: Any, ttl: Any, tags: Any) -> Steps[Any]:
        check_key(self.cache, key)
        check_lifetime(self.cache, ttl)
        if not callable(factory):
            raise TypeError(f"factory must be callable, not {type(factory).__name__}")
        value = self._pending(key)
        if value is not UNKNOWN and value is not MISSING:
            return value
        if value is MISSING or (yield from self._is_late(key)):
            return (yield from self._load_or_make(key, factory, ttl, tags))
        make = partial(self._do, self._load_or_make, key, factory, ttl, tags)
        return (yield partial(self._make_once, **with_tags(tags)), (key, make, ttl))

    def _load_or_make(self, key: Any, factory: Callable[[], Any], ttl: Any, tags: Any) -> Steps[Any]:
        with self._watches.over((key,)) as watch:
            if self._store.load is not None:
                value = yield from self._newest(key)
            else:                               # it may have been written since the cache was asked
                value = self._pending(key)
                if value is UNKNOWN:
                    is_there = not (yield from self._is_late(key)) and (yield contained, (self.cache, key))
                    value = (yield self.cache.get, (key, MISSING)) if is_there else MISSING
            if value is MISSING:
                value = yield (factory, ()) if self._is_async else (plain_call, ("factory", factory))
                yield from self._save_unless_written(watch, key, value, ttl, tags)
            return value

    def _show(self, key: Any, value: Any, ttl: Any, tags: Any) -> Steps[None]:
        """Set a made value in the cache at once, if the store cannot load: a change that comes next reads it there.

        The caller of the cache's `get_or_set` would do it too late. A cache that fails is no failure of the call.
        """
        with suppress(Exception):               # the key is stale then
            yield from self._side.set(key, value, ttl, tags)

    # --- the cache alone ----------------------------------------------------------------------------------------------

    def _touch(self, key: Any, ttl: Any) -> Steps[bool]:
        is_late = yield from self._is_late(check_key(self.cache, key))
        return not is_late and bool((yield self.cache.touch, (key, ttl)))

    def _of_cache(self, method: str, *arguments: Any) -> Steps[Any]:
        return (yield getattr(self.cache, method), arguments)

    @property
    def stats(self) -> Any:
        """The counters of the cache."""
        return self.cache.stats
