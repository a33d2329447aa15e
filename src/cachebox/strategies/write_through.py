"""Write-through: the store has a value before the cache shows it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cachebox.cache import MISSING
from cachebox.strategies.cache_methods import CacheMethods
from cachebox.strategies.cache_side import CacheSide
from cachebox.strategies.errors import Absent
from cachebox.strategies.key_locks import KeyLocks
from cachebox.strategies.store import Store, check_cache, check_entry, check_key, checked_items, checked_keys
from cachebox.strategies.watches import Watch, Watches

if TYPE_CHECKING:
    from typing import Self


class WriteThrough(CacheMethods):
    """A cache in front of a store, which every write reaches first.

    Args:
        cache: any cache with the methods of a `Cache`.
        store: an object with ``load(key)``, ``save(key, value)`` and perhaps ``save_many(dict)``, ``delete(key)`` and
            ``delete_many(keys)``.

    Raises TypeError where the store has no `save`.

    A write is sent to the store; when that has returned, the cache gets it. If the store raises, so does the call, and
    the cache stays as it was. Writes of one key take turns, so that in the end store and cache agree; those of
    different keys do not wait for each other, and nobody who reads waits for a writer. Bad input (an unhashable key, a
    ttl that makes no sense, a value too heavy, or one that a distributed cache cannot encode) reaches neither side.
    Safe from any thread, and in the child of a fork. What only the store can tell is what it has after it raised: a
    write that it made all the same is not in the cache until the next load.

    Where the store has a write, but the cache raises (a distributed one whose server cannot be reached), so does the
    call. What the cache still has under the key is not served: `get` loads it from the store, until the cache could be
    told.

    >>> from cachebox import Cache
    >>> class Rows(dict):
    ...     load, save, delete = dict.__getitem__, dict.__setitem__, dict.__delitem__
    >>> rows = Rows(a=1)
    >>> cache = WriteThrough(Cache(), rows)
    >>> cache.set("b", 2)
    >>> rows["b"], cache.get("a"), cache.get("c", "nothing")
    (2, 1, 'nothing')
    >>> cache.add("a", 5), cache.increment("b"), rows["b"]
    (False, 3, 3)
    """

    def __init__(self, cache: Any, store: Any) -> None:
        self.cache = check_cache(cache)
        self.store = store
        self._store = Store(store, "sync")
        self._side = CacheSide(cache)
        self._locks = KeyLocks()
        self._watches = Watches()

    def get(self, key: Any, default: Any = None) -> Any:
        """The value of a key, loaded from the store if the cache has none; where the store has none, `default`.

        One load per key at a time, as in `Cache.get_or_set`. Raises what the store raises, but for KeyError.
        """
        if self._store.load is None:
            return self.cache.get(key, default)
        try:
            if self._side.doubted(key):
                return self._load(key)
            return self.cache.get_or_set(key, partial(self._load, key))
        except Absent:
            return default

    def _load(self, key: Any) -> Any:
        try:
            return self._store.load(key)
        except KeyError as error:
            raise Absent(key) from error

    def set(self, key: Any, value: Any, ttl: Any = None, *, tags: Any = ()) -> None:
        """Save a value in the store, then set it in the cache. Arguments are those of `Cache.set`."""
        check_entry(self.cache, key, value, ttl, tags)
        with self._locks.hold((key,)):
            self._watches.note((key,))
            self._store.save(key, value)
            self._side.set(key, value, ttl, tags)

    def delete(self, key: Any) -> bool:
        """Delete a key from the store, then from the cache. True where the cache had it, or the store returned true.

        A KeyError of the store says that it has no such key, which is no failure. TypeError where it cannot delete.
        """
        check_key(self.cache, key)
        delete = self._store.delete
        with self._locks.hold((key,)):
            self._watches.note((key,))
            try:
                had = delete(key)
            except KeyError:
                had = False
            return self._side.delete(key) or had is True

    def set_many(self, mapping: Any, ttl: Any = None, *, tags: Any = ()) -> None:
        """Save every item in the store, by one `save_many` if it has that, then set them in the cache.

        Without `save_many` it is `set` for one after the other; where one fails, those before it are done.
        """
        items = checked_items(self.cache, mapping, ttl, tags)
        if self._store.save_many is None:
            for key, value in items.items():
                self.set(key, value, ttl, tags=tags)
            return
        if not items:
            return
        with self._locks.hold(items):
            self._watches.note(items)
            self._store.save_many(dict(items))
            self._side.set_many(items, ttl, tags)

    def delete_many(self, keys: Any) -> int:
        """Delete keys from the store, by one `delete_many` if it has that, then from the cache. Returns how many
        of them the cache had."""
        doomed = checked_keys(self.cache, keys)
        delete_many = self._store.delete_many
        if delete_many is None:
            return sum([self.delete(key) for key in doomed])
        if not doomed:
            return 0
        with self._locks.hold(doomed):
            self._watches.note(doomed)
            delete_many(list(doomed))
            return self._side.delete_many(doomed)

    def _change(self, key: Any, change: Callable[[Any], Any], tell: Callable[[Any], None]) -> None:
        with self._locks.hold((key,)):
            value = change(self._newest(key))
            if value is not MISSING:
                self._watches.note((key,))
                self._store.save(key, value)
                tell(value)

    def _save_unless_written(self, watch: Watch, key: Any, value: Any) -> None:
        with self._locks.hold((key,)):
            if not watch.was_written:
                self._watches.note((key,), watch)
                self._store.save(key, value)

    def close(self, timeout: float | timedelta | None = None) -> bool:
        """True: nothing is ever pending. The cache stays open, for it is whose it was."""
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
