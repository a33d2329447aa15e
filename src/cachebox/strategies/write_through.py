"""Write-through: the store has a value before the cache shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from cachebox.cache import MISSING
from cachebox.strategies.errors import Absent
from cachebox.strategies.key_locks import KeyLocks, Locks
from cachebox.strategies.methods import BlockingMethods
from cachebox.strategies.operations import Operations
from cachebox.strategies.steps import Steps
from cachebox.strategies.store import check_entry, check_key, checked_items, checked_keys
from cachebox.strategies.watches import Watch, Watches


class WritingThrough(Operations):
    """The operations of `WriteThrough` and `AsyncWriteThrough`."""

    _locks: Locks

    def __init__(self, cache: Any, store: Any) -> None:
        super().__init__(cache, store)
        self._watches = Watches()

    def _load(self, key: Any) -> Steps[Any]:
        try:
            return (yield self._store.load, (key,))
        except KeyError as error:
            raise Absent(key) from error

    def _write(self, keys: Iterable[Any], method: Callable[..., Any], *arguments: Any) -> Steps[Any]:
        """Call a method of the store that writes these keys."""
        returned = yield method, arguments
        self._watches.note(keys)                # not after an error: a value that was made meanwhile is newer
        return returned

    def _set(self, key: Any, value: Any, ttl: Any, tags: Any) -> Steps[None]:
        check_entry(self.cache, key, value, ttl, tags)
        with self._locks.of((key,)) as locks:
            yield locks.take, ()
            yield from self._write((key,), self._store.save, key, value)
            yield from self._side.set(key, value, ttl, tags)

    def _delete(self, key: Any) -> Steps[bool]:
        check_key(self.cache, key)
        delete = self._store.delete
        with self._locks.of((key,)) as locks:
            yield locks.take, ()
            try:
                had = yield from self._write((key,), delete, key)
            except KeyError:
                self._watches.note((key,))
                had = False
            return (yield from self._side.delete(key)) or had is True

    def _set_many(self, mapping: Any, ttl: Any, tags: Any) -> Steps[None]:
        items = checked_items(self.cache, mapping, ttl, tags)
        if self._store.save_many is None:
            for key, value in items.items():
                yield from self._set(key, value, ttl, tags)
        elif items:
            with self._locks.of(items) as locks:
                yield locks.take, ()
                yield from self._write(items, self._store.save_many, dict(items))
                yield from self._side.set_many(items, ttl, tags)

    def _delete_many(self, keys: Any) -> Steps[int]:
        doomed = checked_keys(self.cache, keys)
        delete_many = self._store.delete_many
        had = 0
        if delete_many is None:
            for key in doomed:
                had += yield from self._delete(key)
        elif doomed:
            with self._locks.of(doomed) as locks:
                yield locks.take, ()
                yield from self._write(doomed, delete_many, list(doomed))
                had = yield from self._side.delete_many(doomed)
        return had

    def _change(self, key: Any, change: Callable[[Any], Any], tell: Callable[[Any], Steps[None]]) -> Steps[None]:
        with self._locks.of((key,)) as locks:
            yield locks.take, ()
            value = change((yield from self._newest(key)))
            if value is not MISSING:
                yield from self._write((key,), self._store.save, key, value)
                yield from tell(value)

    def _save_unless_written(self, watch: Watch, key: Any, value: Any, ttl: Any, tags: Any) -> Steps[None]:
        with self._locks.of((key,)) as locks:
            yield locks.take, ()
            if not watch.was_written:
                yield from self._write((key,), self._store.save, key, value)
                if self._store.load is None:
                    yield from self._show(key, value, ttl, tags)


class WriteThrough(WritingThrough, BlockingMethods):
    """A cache in front of a store, which every write reaches first.

    Args:
        cache: any cache with the methods of a `Cache`.
        store: an object with ``load(key)``, ``save(key, value)`` and optionally ``save_many(dict)``, ``delete(key)``
            and ``delete_many(keys)``.

    Raises TypeError if the store has no `save`.

    A write goes to the store first; when the store has returned, the cache gets the write. If the store raises, so does
    the call, and the cache stays as it was. Writes of one key take turns, so that store and cache agree in the end.
    Writes of different keys do not wait for each other, and a reader never waits for a writer. Bad input reaches
    neither side: an unhashable key, an invalid ttl, a value too heavy, or one that a distributed cache cannot encode.
    Safe from any thread, and in the child of a fork. Only the store knows what it has after it raised: a write that it
    made all the same is not in the cache until the next load.

    If the store has a write, but the cache raises (such as a distributed one whose server cannot be reached), the call
    raises, too. The cache's old value of the key is not served: `get` loads the key from the store, until the cache has
    been updated.

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
        super().__init__(cache, store)
        self._locks = KeyLocks()
