"""Applies a strategy's writes to its cache, and tracks the keys under which the cache may be older than the store.

A cache may fail, such as a distributed one whose server cannot be reached. Then its value of a key may be older than
the store's. Such a key is *stale*: it is read from the store until the cache has forgotten it. Invariant: for a key
that nobody is writing and that is not stale, the cache has the value that the store has or will have, or no value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from cachebox._platform.at_fork import renew_in_child
from cachebox._platform.section import Section
from cachebox._platform.trouble import Trouble
from cachebox.strategies.steps import Steps
from cachebox.strategies.store import contained, with_tags

MOST_STALE = 100_000
"""Stale keys that are kept one by one; if there are more, the cache must forget everything."""
UNREACHED = "a cache could not be reached with a write; until it can, the key is loaded from the store instead"
REACHED = "the cache has been reached with all writes"


class StaleKeys:
    """The stale keys of a cache. Safe from any thread.

    Args:
        can_clear: whether the cache can forget everything; if not, the number of keys has no bound.
    """

    def __init__(self, can_clear: bool) -> None:
        self.keys: dict[Any, object] = {}       # key: a stamp, which tells a newer failure from an older one
        self.of_all: object = None              # a stamp, if all keys are stale
        self._most = MOST_STALE if can_clear else float("inf")
        self._lock = Section()          # re-entrant, because comparing keys or a collection may run code that writes
        renew_in_child(self)

    def __bool__(self) -> bool:
        return self.of_all is not None or bool(self.keys)

    def __contains__(self, key: Any) -> bool:
        return self.of_all is not None or key in self.keys

    def add(self, keys: Iterable[Any]) -> None:
        """Mark keys as stale. O(keys)."""
        stamp = object()
        with self._lock:
            if self.of_all is not None:
                self.of_all = stamp
                return
            self.keys.update(dict.fromkeys(keys, stamp))
            if len(self.keys) > self._most:
                self.of_all = stamp
                self.keys = {}

    def seen(self) -> tuple[object, dict[Any, object]]:
        """A snapshot of what is stale, for `settle`."""
        with self._lock:
            return self.of_all, dict(self.keys)

    def settle(self, seen: tuple[object, dict[Any, object]]) -> None:
        """Unmark what was stale in a snapshot, because the cache has forgotten it. O(keys)."""
        of_all, keys = seen
        with self._lock:
            if of_all is self.of_all:
                self.of_all = None
            self.unmark(keys)

    def unmark(self, stamps: Mapping[Any, object]) -> None:
        """Unmark keys, unless they were marked once more since these stamps were read."""
        with self._lock:
            for key, stamp in stamps.items():
                if self.keys.get(key) is stamp:
                    known = self.keys.pop(key, stamp)
                    if known is not stamp:      # a finalizer marked the key in between
                        self.keys.setdefault(key, known)

    def _after_fork(self) -> None:
        """After a fork, in the child: another thread of the parent may have held the lock."""
        self._lock = Section()

    def of(self, keys: Iterable[Any]) -> dict[Any, object]:
        """Those of some keys that are marked one by one, with their stamps, for `unmark`."""
        if not self.keys:
            return {}
        with self._lock:
            return {key: self.keys[key] for key in keys if key in self.keys}


class CacheSide:
    """A strategy's access to its cache, which may fail. Each method raises what the cache raises."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        self.stale = StaleKeys(callable(getattr(cache, "clear", None)))
        self._trouble = Trouble(UNREACHED, REACHED)

    def is_stale(self, key: Any) -> Steps[bool]:
        """Whether a key is stale, after an attempt to settle it."""
        if self.stale and key in self.stale:
            yield from self.settle()
            return key in self.stale
        return False

    def setting(self, key: Any, value: Any, ttl: Any, tags: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The step that sets a value in the cache. The caller calls `has_failed` if it raises, else `was_reached`."""
        set_: Callable[..., Any] = partial(self.cache.set, tags=tags) if tags else self.cache.set
        return set_, (key, value, ttl)

    def set(self, key: Any, value: Any, ttl: Any, tags: Any) -> Steps[None]:
        """Set a value in the cache; if that fails, have the cache forget the key."""
        before = self.stale.of((key,))
        try:
            yield self.setting(key, value, ttl, tags)
        except BaseException as error:
            yield from self.has_failed((key,), error)
            raise
        if self.stale:
            yield from self.was_reached(before)

    def set_many(self, items: Mapping[Any, Any], ttl: Any, tags: Any) -> Steps[None]:
        """`set` for many keys, by one call if the cache has `set_many`."""
        before = self.stale.of(items)
        try:
            if hasattr(self.cache, "set_many"):
                yield partial(self.cache.set_many, **with_tags(tags)), (items, ttl)
            else:
                for key, value in items.items():
                    yield partial(self.cache.set, **with_tags(tags)), (key, value, ttl)
        except BaseException as error:
            yield from self.has_failed(items, error)
            raise
        yield from self.was_reached(before)

    def increment(self, key: Any, amount: int, sum_: int) -> Steps[None]:
        """Set a sum in the cache. If the cache has the old value, the entry keeps its lifetime and tags."""
        is_done = False
        try:
            if self.stale and key in self.stale:
                pass
            elif hasattr(self.cache, "compute"):        # right even if the entry leaves in between
                yield self.cache.compute, (key, lambda old: sum_)
                is_done = True
            elif (yield contained, (self.cache, key)):
                is_done = (yield self.cache.increment, (key, amount)) == sum_
        except TypeError:                       # the cached value is no int
            pass
        except BaseException as error:
            yield from self.has_failed((key,), error)
            raise
        if not is_done:
            yield from self.set(key, sum_, None, ())

    def fill(self, items: Mapping[Any, Any]) -> Steps[None]:
        """Store loaded values in the cache, for keys without an entry. A value that is not stored is loaded again."""
        if items and hasattr(self.cache, "warm"):
            yield self.cache.warm, (items,)

    def delete(self, key: Any) -> Steps[bool]:
        """Delete a key from the cache. Returns whether it was there."""
        before = self.stale.of((key,))
        try:
            deleted = bool((yield self.cache.delete, (key,)))
        except BaseException as error:
            yield from self.has_failed((key,), error)
            raise
        if self.stale:
            yield from self.was_reached(before)
        return deleted

    def delete_many(self, keys: Iterable[Any]) -> Steps[int]:
        """`delete` for many keys, by one call if the cache has `delete_many`. Returns how many were there."""
        before = self.stale.of(keys)
        try:
            deleted = yield from self._delete_all(keys)
        except BaseException as error:
            yield from self.has_failed(keys, error)
            raise
        yield from self.was_reached(before)
        return deleted

    def forget(self, keys: Iterable[Any]) -> Steps[None]:
        """Have the cache forget keys, now or before they are read next."""
        self.stale.add(keys)
        yield from self.settle()

    def has_failed(self, keys: Iterable[Any], error: BaseException) -> Steps[None]:
        """Mark keys as stale after an error of the cache, and try to settle them."""
        self.stale.add(keys)
        if isinstance(error, Exception):        # else it was interrupted: a cancelled task must not wait any more
            yield from self.settle()

    def settle(self) -> Steps[None]:
        """Try to have the cache forget everything that is stale."""
        seen = self.stale.seen()
        try:
            if seen[0] is not None:
                yield self.cache.clear, ()
            if seen[1]:
                yield from self._delete_all(seen[1])
        except Exception as error:
            self._trouble.begin(error)          # the keys stay stale, so nothing more is needed
            return
        self.stale.settle(seen)
        self._trouble.end()

    def was_reached(self, before: Mapping[Any, object]) -> Steps[None]:
        """The cache was reached, and has something newer under the keys that were stale `before` that."""
        if self.stale:
            self.stale.unmark(before)           # another caller may have marked a key since
            yield from self.settle()

    def _delete_all(self, keys: Iterable[Any]) -> Steps[int]:
        if hasattr(self.cache, "delete_many"):
            deleted: int = yield self.cache.delete_many, (keys,)
            return deleted
        total = 0
        for key in keys:
            total += bool((yield self.cache.delete, (key,)))
        return total
