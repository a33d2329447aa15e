"""The cache of a strategy: how it is told of writes that the store has, or will have.

A cache may fail: a distributed one whose server cannot be reached. Then what it holds under a key may be older than the
store. Such a key is *doubted*, and not read from the cache until the cache has forgotten it: whoever asks for it loads
it from the store. Invariant: a key that nobody is writing and that is not doubted is in the cache as the store has it,
or as it will, or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cachebox._platform.at_fork import renew_in_child
from cachebox._platform.section import Section
from cachebox._platform.trouble import Trouble
from cachebox.strategies.store import awaited, contained, with_tags

MOST_DOUBTS = 100_000
"""Keys that are doubted one by one; if there are more, the cache is to forget everything."""
UNTOLD = "a cache could not be told of a write; until it can, what it may have is loaded from the store instead"
TOLD = "the cache has been told of all writes"


class Doubts:
    """The keys that are doubted. Safe from any thread.

    Args:
        can_clear: whether the cache can forget everything; if not, there is no bound on the keys.
    """

    def __init__(self, can_clear: bool) -> None:
        self.keys: dict[Any, object] = {}       # each with a token, so that a newer doubt is told from an older one
        self.of_all: object = None              # the token of a doubt of everything
        self._most = MOST_DOUBTS if can_clear else float("inf")
        self._lock = Section()          # re-entrant: comparing keys, or a collection, may run code that writes
        renew_in_child(self)

    def __bool__(self) -> bool:
        return self.of_all is not None or bool(self.keys)

    def __contains__(self, key: Any) -> bool:
        return self.of_all is not None or key in self.keys

    def add(self, keys: Iterable[Any]) -> None:
        """The cache may have something older under these. O(keys)."""
        token = object()
        with self._lock:
            if self.of_all is not None:
                self.of_all = token
                return
            self.keys.update(dict.fromkeys(keys, token))
            if len(self.keys) > self._most:
                self.of_all = token
                self.keys = {}

    def seen(self) -> tuple[object, dict[Any, object]]:
        """What is doubted now, for `settle`."""
        with self._lock:
            return self.of_all, dict(self.keys)

    def settle(self, seen: tuple[object, dict[Any, object]]) -> None:
        """The cache has forgotten what was doubted then. O(keys)."""
        of_all, keys = seen
        with self._lock:
            if of_all is self.of_all:
                self.of_all = None
            for key, token in keys.items():
                if self.keys.get(key) is token:
                    known = self.keys.pop(key, token)
                    if known is not token:      # a collection wrote the key between the two
                        self.keys.setdefault(key, known)

    def _after_fork(self) -> None:
        """In the child of a fork: another thread of the parent may have held the lock."""
        self._lock = Section()

    def remove(self, keys: Iterable[Any]) -> None:
        """The cache has been told of a later write of these."""
        with self._lock:
            for key in keys:
                self.keys.pop(key, None)


class CacheSide:
    """A cache that may fail, as a strategy writes to it. Each method raises what the cache raises."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        self.doubts = Doubts(callable(getattr(cache, "clear", None)))
        self._trouble = Trouble(UNTOLD, TOLD)

    def doubted(self, key: Any) -> bool:
        """Whether the cache must not be asked for a key. Tries to put that right."""
        if self.doubts and key in self.doubts:
            self.settle()
            return key in self.doubts
        return False

    def set(self, key: Any, value: Any, ttl: Any, tags: Any) -> None:
        """Set a value in the cache, or at least have it forget an older one."""
        try:
            self.cache.set(key, value, ttl, **with_tags(tags))
        except BaseException:
            self.forget((key,))
            raise
        self._told((key,))

    def increment(self, key: Any, amount: int, sum_: int) -> None:
        """Have the cache hold a sum, with lifetime and tags as they are where it holds what was added to."""
        is_done = False
        try:
            if not (self.doubts and key in self.doubts) and contained(self.cache, key):
                is_done = self.cache.increment(key, amount) == sum_
        except TypeError:                       # it holds something that is no int
            pass
        except BaseException:
            self.forget((key,))
            raise
        if not is_done:
            self.set(key, sum_, None, ())

    def fill(self, items: Mapping[Any, Any]) -> None:
        """Put what was loaded into the cache, but where that has something. What fails is loaded again."""
        if items and hasattr(self.cache, "warm"):
            self.cache.warm(items)

    def set_many(self, items: Mapping[Any, Any], ttl: Any, tags: Any) -> None:
        """`set` for many, in one go where the cache can do that."""
        try:
            if hasattr(self.cache, "set_many"):
                self.cache.set_many(items, ttl, **with_tags(tags))
            else:
                for key, value in items.items():
                    self.cache.set(key, value, ttl, **with_tags(tags))
        except BaseException:
            self.forget(items)
            raise
        self._told(items)

    def delete(self, key: Any) -> bool:
        """Delete a key from the cache. True where it was there."""
        try:
            deleted = bool(self.cache.delete(key))
        except BaseException:
            self.forget((key,))
            raise
        self._told((key,))
        return deleted

    def delete_many(self, keys: Iterable[Any]) -> int:
        """`delete` for many, in one go where the cache can do that. Returns how many were there."""
        try:
            deleted = self._delete_all(keys)
        except BaseException:
            self.forget(keys)
            raise
        self._told(keys)
        return deleted

    def forget(self, keys: Iterable[Any]) -> None:
        """Have the cache forget keys, now or before they are asked for again."""
        self.doubts.add(keys)
        self.settle()

    def settle(self) -> None:
        """Try to have the cache forget all that is doubted."""
        seen = self.doubts.seen()
        try:
            if seen[0] is not None:
                self.cache.clear()
            if seen[1]:
                self._delete_all(seen[1])
        except Exception as error:
            self._trouble.begin(error)          # the doubts remain, which is the answer
            return
        self.doubts.settle(seen)
        self._trouble.end()

    def _told(self, keys: Iterable[Any]) -> None:
        """The cache can be reached, and knows better about these."""
        if self.doubts:
            self.doubts.remove(keys)
            self.settle()

    def _delete_all(self, keys: Iterable[Any]) -> int:
        if hasattr(self.cache, "delete_many"):
            deleted: int = self.cache.delete_many(keys)
            return deleted
        return sum([bool(self.cache.delete(key)) for key in keys])


class AsyncCacheSide:
    """`CacheSide` with methods to await, of a cache whose methods may be plain ones, or are to be awaited."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        self.doubts = Doubts(callable(getattr(cache, "clear", None)))
        self._trouble = Trouble(UNTOLD, TOLD)

    async def doubted(self, key: Any) -> bool:
        """Whether the cache must not be asked for a key. Tries to put that right."""
        if self.doubts and key in self.doubts:
            await self.settle()
            return key in self.doubts
        return False

    async def set(self, key: Any, value: Any, ttl: Any, tags: Any) -> None:
        """Set a value in the cache, or at least have it forget an older one."""
        try:
            await awaited(self.cache.set(key, value, ttl, **with_tags(tags)))
        except BaseException as error:
            await self._failed((key,), error)
            raise
        await self._told((key,))

    async def increment(self, key: Any, amount: int, sum_: int) -> None:
        """Have the cache hold a sum, with lifetime and tags as they are where it holds what was added to."""
        is_done = False
        try:
            if not (self.doubts and key in self.doubts) and await awaited(contained(self.cache, key)):
                is_done = await awaited(self.cache.increment(key, amount)) == sum_
        except TypeError:                       # it holds something that is no int
            pass
        except BaseException as error:
            await self._failed((key,), error)
            raise
        if not is_done:
            await self.set(key, sum_, None, ())

    async def fill(self, items: Mapping[Any, Any]) -> None:
        """Put what was loaded into the cache, but where that has something. What fails is loaded again."""
        if items and hasattr(self.cache, "warm"):
            await awaited(self.cache.warm(items))

    async def forget(self, keys: Iterable[Any]) -> None:
        """Have the cache forget keys, now or before they are asked for again."""
        self.doubts.add(keys)
        await self.settle()

    async def set_many(self, items: Mapping[Any, Any], ttl: Any, tags: Any) -> None:
        """`set` for many, in one go where the cache can do that."""
        try:
            if hasattr(self.cache, "set_many"):
                await awaited(self.cache.set_many(items, ttl, **with_tags(tags)))
            else:
                for key, value in items.items():
                    await awaited(self.cache.set(key, value, ttl, **with_tags(tags)))
        except BaseException as error:
            await self._failed(items, error)
            raise
        await self._told(items)

    async def delete(self, key: Any) -> bool:
        """Delete a key from the cache. True where it was there."""
        try:
            deleted = bool(await awaited(self.cache.delete(key)))
        except BaseException as error:
            await self._failed((key,), error)
            raise
        await self._told((key,))
        return deleted

    async def delete_many(self, keys: Iterable[Any]) -> int:
        """`delete` for many, in one go where the cache can do that. Returns how many were there."""
        try:
            deleted = await self._delete_all(keys)
        except BaseException as error:
            await self._failed(keys, error)
            raise
        await self._told(keys)
        return deleted

    async def settle(self) -> None:
        """Try to have the cache forget all that is doubted."""
        seen = self.doubts.seen()
        try:
            if seen[0] is not None:
                await awaited(self.cache.clear())
            if seen[1]:
                await self._delete_all(seen[1])
        except Exception as error:
            self._trouble.begin(error)          # the doubts remain, which is the answer
            return
        self.doubts.settle(seen)
        self._trouble.end()

    async def _failed(self, keys: Iterable[Any], error: BaseException) -> None:
        self.doubts.add(keys)
        if isinstance(error, Exception):        # a task that was cancelled is not to wait any more
            await self.settle()

    async def _told(self, keys: Iterable[Any]) -> None:
        if self.doubts:
            self.doubts.remove(keys)
            await self.settle()

    async def _delete_all(self, keys: Iterable[Any]) -> int:
        if hasattr(self.cache, "delete_many"):
            deleted: int = await awaited(self.cache.delete_many(keys))
            return deleted
        return sum([bool(await awaited(self.cache.delete(key))) for key in keys])
