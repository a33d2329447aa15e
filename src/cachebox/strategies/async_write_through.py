"""Write-through for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from inspect import iscoroutinefunction
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cachebox._loading import tasks
from cachebox._loading.flight import Flight
from cachebox._platform.at_fork import renew_in_child
from cachebox.cache import MISSING
from cachebox.strategies.cache_methods import AsyncCacheMethods
from cachebox.strategies.cache_side import AsyncCacheSide
from cachebox.strategies.errors import Absent
from cachebox.strategies.key_locks import AsyncKeyLocks
from cachebox.strategies.store import (
    Store,
    awaited,
    check_cache,
    check_entry,
    check_key,
    check_lifetime,
    checked_items,
    checked_keys,
)
from cachebox.strategies.watches import Watch, Watches

if TYPE_CHECKING:
    from typing import Self


class AsyncWriteThrough(AsyncCacheMethods):
    """`WriteThrough` with methods to await, for one event loop.

    Args:
        cache: a `Cache`, or one whose methods are to be awaited.
        store: a store whose methods are coroutine functions, or plain ones that do not block for long.

    Its promises are those of `WriteThrough`, with tasks for threads: writes of one key take turns, a task that reads
    never waits for one that writes, and of all that miss one key at the same time one loads it.
    """

    def __init__(self, cache: Any, store: Any) -> None:
        self.cache = check_cache(cache)
        self.store = store
        self._store = Store(store, "any")
        self._side = AsyncCacheSide(cache)
        self._cache_loads = self._store.load is not None and iscoroutinefunction(cache.get_or_set)
        self._locks = AsyncKeyLocks()
        self._watches = Watches()
        self._loads: dict[Any, Flight] = {}
        self._makes: dict[Any, Flight] = {}                 # those of `get_or_set`
        self._tasks: set[asyncio.Task[None]] = set()        # those that load: the event loop keeps them weakly
        renew_in_child(self)

    async def get(self, key: Any, default: Any = None) -> Any:
        """The value of a key, loaded from the store if the cache has none; where the store has none, `default`."""
        if self._side.doubts and await self._side.doubted(key):
            return await self._get_past(key, default)
        if self._cache_loads:
            return await self._get_through(key, default)
        missing = object()
        value = await awaited(self.cache.get(key, missing))
        if value is not missing:
            return value
        if self._store.load is None:
            return default
        while True:
            load = self._loads.get(key)
            if load is None or load.lost():
                load = self._begin(self._loads, key, self._load)
            if not await tasks.over(load):      # it would wait for itself
                return await self._get_past(key, default)
            if not load.was_abandoned:
                found, value = load.get()
                return value if found else default

    async def _get_through(self, key: Any, default: Any) -> Any:
        """`get` where the cache is one for asyncio, which knows best how to load."""

        async def load() -> Any:
            try:
                return await self._ask_store(key)
            except KeyError as error:
                raise Absent(key) from error

        try:
            return await self.cache.get_or_set(key, load)
        except Absent:
            return default

    async def _get_past(self, key: Any, default: Any) -> Any:
        """`get` where the cache must not be asked: it may have something older."""
        if self._store.load is None:
            return default
        try:
            return await self._ask_store(key)
        except KeyError:
            return default

    async def _ask_store(self, key: Any) -> Any:
        """What a load gives; KeyError where there is none."""
        return await awaited(self._store.load(key))

    def _begin(self, flights: dict[Any, Flight], key: Any, work: Callable[[Any, Flight], Any]) -> Flight:
        """Load in a task of its own: who is cancelled does not take the others along."""
        load = flights[key] = Flight()
        task = asyncio.ensure_future(work(key, load))
        load.hand_to(task, tasks.current()[1])
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return load

    async def _load(self, key: Any, load: Flight) -> None:
        try:
            with load:
                try:
                    found, value = True, await self._ask_store(key)
                except KeyError:
                    found, value = False, None
                if found and self._loads.get(key) is load:      # nobody wrote the key meanwhile
                    await awaited(self.cache.set(key, value))
            load.complete((found, value))
        except Exception as error:
            load.fail(error)
        finally:
            if self._loads.get(key) is load:
                del self._loads[key]
            load.give_up()

    async def set(self, key: Any, value: Any, ttl: Any = None, *, tags: Any = ()) -> None:
        """Save a value in the store, then set it in the cache."""
        check_entry(self.cache, key, value, ttl, tags)
        async with self._locks.hold((key,)):
            self._watches.note((key,))
            await awaited(self._store.save(key, value))
            self._loads.pop(key, None)          # what is being loaded is older
            await self._side.set(key, value, ttl, tags)

    async def delete(self, key: Any) -> bool:
        """Delete a key from the store, then from the cache. True where the cache had it, or the store returned true."""
        check_key(self.cache, key)
        delete = self._store.delete
        async with self._locks.hold((key,)):
            self._watches.note((key,))
            try:
                had = await awaited(delete(key))
            except KeyError:
                had = False
            self._loads.pop(key, None)
            return await self._side.delete(key) or had is True

    async def set_many(self, mapping: Any, ttl: Any = None, *, tags: Any = ()) -> None:
        """Save every item in the store, by one `save_many` if it has that, then set them in the cache."""
        items = checked_items(self.cache, mapping, ttl, tags)
        if self._store.save_many is None:
            for key, value in items.items():
                await self.set(key, value, ttl, tags=tags)
            return
        if items:
            async with self._locks.hold(items):
                self._watches.note(items)
                await awaited(self._store.save_many(dict(items)))
                for key in items:
                    self._loads.pop(key, None)
                await self._side.set_many(items, ttl, tags)

    async def delete_many(self, keys: Any) -> int:
        """Delete keys from the store, by one `delete_many` if it has that, then from the cache. Returns how many of
        them the cache had."""
        doomed = checked_keys(self.cache, keys)
        delete_many = self._store.delete_many
        if delete_many is None:
            return sum([await self.delete(key) for key in doomed])
        if not doomed:
            return 0
        async with self._locks.hold(doomed):
            self._watches.note(doomed)
            await awaited(delete_many(list(doomed)))
            for key in doomed:
                self._loads.pop(key, None)
            return await self._side.delete_many(doomed)

    async def _change(self, key: Any, change: Callable[[Any], Any], tell: Callable[[Any], Any]) -> None:
        async with self._locks.hold((key,)):
            value = change(await self._newest(key))
            if value is not MISSING:
                self._watches.note((key,))
                await awaited(self._store.save(key, value))
                self._loads.pop(key, None)      # what is being loaded is older
                await tell(value)

    async def get_or_set(self, key: Any, factory: Callable[[], Any], ttl: Any = None, *, tags: Any = ()) -> Any:
        """The value of a key, from the cache or the store; where neither has it, what the factory returns, awaited if
        need be, written to the store and then in the cache. See `WriteThrough.get_or_set`."""
        check_key(self.cache, key)
        check_lifetime(self.cache, ttl)
        if not callable(factory):
            raise TypeError(f"factory must be callable, not {type(factory).__name__}")
        while True:
            value = await self.get(key, MISSING)
            if value is not MISSING:
                return value
            make = self._makes.get(key)
            if make is None or make.lost():
                make = self._begin(self._makes, key, partial(self._make, factory, ttl, tags))
            if not await tasks.over(make):      # it would wait for itself
                return await awaited(factory())
            if not make.was_abandoned:
                return make.get()

    async def _make(self, factory: Callable[[], Any], ttl: Any, tags: Any, key: Any, make: Flight) -> None:
        """Call the factory, and write what it makes, unless somebody has written the key meanwhile."""
        try:
            with make, self._watches.over((key,)) as watch:
                value = await self.get(key, MISSING)        # written since the caller looked
                if value is MISSING:
                    value = await awaited(factory())
                    await self._save_unless_written(watch, key, value, ttl, tags)
            make.complete(value)
        except Exception as error:
            make.fail(error)
        finally:
            if self._makes.get(key) is make:
                del self._makes[key]
            make.give_up()

    async def _save_unless_written(self, watch: Watch, key: Any, value: Any, ttl: Any, tags: Any) -> None:
        async with self._locks.hold((key,)):
            if not watch.was_written:
                self._watches.note((key,), watch)
                await awaited(self._store.save(key, value))
                self._loads.pop(key, None)
                await self._side.set(key, value, ttl, tags)

    async def close(self, timeout: float | timedelta | None = None) -> bool:
        """True: nothing is ever pending. The cache stays open, for it is whose it was."""
        return True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _after_fork(self) -> None:
        """In the child of a fork: nobody loads for us in the parent's event loop."""
        self._loads = {}
        self._makes = {}
