"""`DistributedCache` and `AsyncDistributedCache`: what users call. What they do is in `core` and `loading`.

Both classes consist of calls of the same generators; one runs them in the calling thread, the other in the calling
task.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cachebox._loading.warming import Warmed
from cachebox.cache import MISSING
from cachebox.distributed._near.hits import BlockingFront, Front, with_own_get
from cachebox.distributed._net.asyncio_driver import Async
from cachebox.distributed._net.blocking_driver import Blocking
from cachebox.distributed._ops.warming import Warming
from cachebox.distributed.base import Common
from cachebox.distributed.functions import AsyncDistributedFunction, DistributedFunction, decorated
from cachebox.distributed.options import Seconds

if TYPE_CHECKING:
    from typing import Self


@with_own_get
class DistributedCache(Common, BlockingFront):
    """A cache in two tiers: a `Cache` in the process, and Redis, Valkey or a folder behind it, that processes share.

    Args:
        redis_host, redis_port, redis_db: where the server is, unless `url` or `client` says so.
        max_size: the most entries of the first tier, an int from 1 on; None: no bound.
        default_ttl: how long an entry lives unless `set` says otherwise: seconds or a `timedelta`; None: for ever.
        url: ``redis://``, ``rediss://`` (TLS), ``unix://``, ``redis+sentinel://host[,host]/service``. A server that
            belongs to a cluster is asked for the others. Or ``file:///directory``, without a server: a folder that the
            processes of one machine share; or ``memory://``: a private one.
        client: a ready client of redis-py or valkey-py itself, of which the address and credentials are used; it stays
            open.
        namespace: what the names on the server begin with; caches with the same one share their entries.
        policy: which entry leaves a full first tier, as for `Cache`.
        serializer: ``"json"``, ``"msgpack"``, ``"pickle"`` (only with `secret`), or an object with `dumps` and `loads`.
        secret: bytes or a str; every value is signed with it, and unsigned ones are not read.
        invalidation: whether to listen to what the server says about changes. Without, first-tier entries are served
            for at most `max_staleness`.
        max_staleness: seconds after which first-tier hits stop when the server is not heard of.
        timeout: seconds that one call may spend on talking to servers, retries included.
        on_unavailable: ``"local"``: while no server can be reached, serve what the first tier holds and compute the
            rest; ``"raise"``: raise `BackendUnavailable`. Writes raise it in both modes.
        isolate: whether every hit returns a value of its own.
        name: what it is called in `cachebox.caches()` and in metrics, a str; None: nothing.
        jitter: the share, from 0 to 1, by which chance shortens every lifetime at most.
        stale_ttl: seconds, or a `timedelta`, for which an entry is kept on the server beyond its end, 49 days at most.
            `get_or_set` and decorated calls serve it meanwhile, as long as one process of all computes a newer value in
            the background, or cannot; for all else it has ended. None: not at all.
        refresh_ahead: the share of an entry's lifetime, between 0 and 1, at its end in which `get_or_set` and decorated
            calls have it computed anew in the background, by one process of all; None: never.
        compress: ``"zlib"`` or ``"zstd"``: values of 2 KB and more are compressed where that saves a fifth; None: none
            are. ``"zstd"`` needs Python 3.14 or the extra ``zstd``; a process without it counts a miss.
        max_connections: the most connections to each server, an int from 1 on; the link comes on top.
        size_limit: of a folder, the most bytes that it takes on the disk, an int or a text such as ``"500MB"``; 32 MiB
            at least.
        durability: of a folder, ``"process"``: what was written survives the process; ``"machine"``: a power cut, too,
            for which each write waits.
        clock: called without arguments, returns the time in seconds, for tests: entries of the first tier and of a
            folder end by it; a server keeps its own time. None: the system's.

    Raises ValueError or TypeError, with the name of the argument, where one makes no sense, and `BackendUnavailable`
    where ``on_unavailable="raise"`` and there is no server.

    Keys are str. Values are what the serializer gives back equal; others are a TypeError. A context manager. All of
    it is safe from any thread, and in the children of a fork. The guarantees are spelt out in ``docs/distributed.md``.
    """

    _driver: Blocking = Blocking()

    def _begin(self) -> None:
        """See whether there is a server, where the user wants to know."""
        if not self._core.is_local:
            try:
                self._driver.run(self._core.check())
            except BaseException:
                self.close()
                raise

    def _get(self, key: Any, default: Any) -> Any:
        """`get`, where the first tier cannot tell."""
        fast_path = self._core.fast_path
        if fast_path is not None:
            value = fast_path.get(key)
            if value is not MISSING:
                return default if value is fast_path.absent else value
        return self._driver.run(self._core.get(key, default))

    def set(self, key: str, value: Any, ttl: Seconds | None = None, *, tags: str | Iterable[str] = ()) -> None:
        """Store a value on the server, and drop the key from every first tier. One round trip.

        Args:
            key: a str.
            value: what the serializer gives back equal.
            ttl: how long it lives, seconds or a `timedelta`; None: `default_ttl`; infinity: for ever.
            tags: a str or several: what `invalidate_tag` knows it by. An overwrite replaces them.

        Raises `BackendUnavailable` where the server was not reached; TypeError or ValueError, and changes nothing, for
        bad input.
        """
        fast_path = self._core.fast_path
        if fast_path is None or tags or not fast_path.set(key, value, ttl):
            self._driver.run(self._core.set(key, value, ttl, tags))

    def delete(self, key: str) -> bool:
        """Remove a key everywhere. True where a live entry was removed. One round trip."""
        return self._driver.run(self._core.delete(key))

    def increment(self, key: str, amount: int = 1) -> int:
        """Add `amount` to the int stored under `key`, on the server, and return the sum. One round trip; two where the
        entry has tags, or is not a counter yet and there is a `secret`.

        A missing key starts at 0 and gets `default_ttl`; an entry that is there keeps its expiry. It happens exactly
        once when this returns, and at most once when it raises. TypeError where `amount` or the value is not an int.
        """
        return self._driver.run(self._core.increment(key, amount))

    def add(self, key: str, value: Any, ttl: Seconds | None = None, *, tags: str | Iterable[str] = ()) -> bool:
        """Store a value where there is no live entry. True where it was stored: of all processes, one wins. One round
        trip. Arguments and errors are those of `set`. Where it raises `BackendUnavailable`, it may have been stored."""
        return self._driver.run(self._core.add(key, value, ttl, tags))

    def compute(self, key: str, fn: Callable[[Any], Any]) -> Any:
        """Replace a value by ``fn(value)``, as one step over all processes, and return the new one.

        Args:
            key: a str.
            fn: called with the value, or with `MISSING` where there is none; what it returns is stored, and `MISSING`
                deletes the entry. It runs without any lock, and again if somebody else has written the key meanwhile.

        An entry that is there keeps its lifetime and its tags; a new one gets `default_ttl`. Two round trips. Raises
        what `fn` raises, and `BackendUnavailable`, after which it may have been stored.
        """
        return self._driver.run(self._core.compute(key, fn))

    def get_or_set(
        self,
        key: str,
        factory: Callable[[], Any],
        ttl: Seconds | None = None,
        *,
        tags: str | Iterable[str] = (),
    ) -> Any:
        """The value of `key`; where it is absent, what ``factory()`` returns, stored for `ttl`.

        Of all threads and processes that miss the key at the same time one runs its factory, and the others wait for
        its value, or for its exception; one that cannot travel to other processes does not reach them, and the next
        one there runs its own factory. A write or delete of the key meanwhile wins: the value is returned, but not
        stored. Two round trips beside the factory, one where the value is there.
        """
        return self._driver.run(self._loader.get_or_set(key, factory, ttl, tags))

    def touch(self, key: str, ttl: Seconds | None = None) -> bool:
        """Give an entry a new expiry, on the server. True where there is one."""
        return self._driver.run(self._core.touch(key, ttl))

    def ttl(self, key: str) -> float | None:
        """Seconds that the entry lives on, as the server says; None: for ever. KeyError where it is absent."""
        return self._driver.run(self._core.ttl(key))

    def contains(self, key: str) -> bool:
        """Whether there is a live entry: ``key in cache``. Counts nothing."""
        return self._driver.run(self._core.contains(key))

    def __contains__(self, key: object) -> bool:
        return self._driver.run(self._core.contains(key))

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those keys that have one. One round trip per server for all that the first tier cannot tell."""
        return self._driver.run(self._core.get_many(keys))

    def set_many(
        self, mapping: Mapping[str, Any], ttl: Seconds | None = None, *, tags: str | Iterable[str] = ()
    ) -> None:
        """Store many values, all with the same tags. One round trip per server. TypeError, and nothing stored, where
        one cannot be encoded."""
        self._driver.run(self._core.set_many(mapping, ttl, tags))

    def delete_many(self, keys: Iterable[str]) -> int:
        """Remove many keys; returns how many live entries were removed. One round trip per server."""
        return self._driver.run(self._core.delete_many(keys))

    def clear(self) -> None:
        """Remove all entries of this namespace, for everybody. One round trip per server, whatever their number.

        The server's memory is given back in the background, within seconds.
        """
        self._driver.run(self._whole.clear())

    def invalidate_tag(self, tag: str) -> int:
        """Remove all entries with a tag, for everybody; returns how many the first tier here held. O(1)."""
        return self._driver.run(self._whole.invalidate_tag(tag))

    def invalidate_prefix(self, prefix: str, timeout: Seconds | None = None) -> int:
        """Remove all entries whose key begins so; returns how many. The server's names are scanned, page by page: O(n).

        Args:
            prefix: a str.
            timeout: seconds for the whole of it; None: the cache's, which is enough for about a million names.

        Raises `BackendUnavailable` where that was too short; what was removed before stays removed.
        """
        return self._driver.run(self._whole.invalidate_prefix(prefix, timeout))

    def invalidate_glob(self, pattern: str, timeout: Seconds | None = None) -> int:
        """Remove all entries whose key matches a pattern with ``*``, ``?``, ``[a-z]``, ``[!a-z]``; returns how many.

        As `invalidate_prefix`; the server sends only names that begin with what comes before the first wildcard.
        """
        return self._driver.run(self._whole.invalidate_glob(pattern, timeout))

    def invalidate_where(self, predicate: Callable[[str, Any], object], timeout: Seconds | None = None) -> int:
        """Remove all entries for which ``predicate(key, value)`` is true; returns how many. O(n): all values travel.

        Args:
            predicate: called without any lock; where it raises, nothing is removed. What changes meanwhile is
                removed or not as it was when it was looked at.
            timeout: seconds for talking to the server; None: the cache's.
        """
        return self._driver.run(self._whole.invalidate_where(predicate, timeout))

    def warm(
        self,
        keys: Mapping[str, Any] | Iterable[str],
        loader: Any = None,
        *,
        workers: int | None = None,
        progress: Callable[[int, int], object] | bool | None = None,
    ) -> Warmed:
        """Fill the server before anybody asks: load keys, or store items. What is there already stays, and is not
        loaded.

        Args:
            keys: a mapping is taken for items to store, any other iterable for keys to load.
            loader: a callable of the key, or a store with ``load(key)`` and perhaps ``load_many(keys)``; a KeyError
                says that there is none. A mapping needs none.
            workers: how many threads load, an int from 1 on; None: 1 for a mapping or `load_many`, else 8.
            progress: called as ``progress(done, total)`` after each batch of keys, failures included; True: a progress
                bar on the terminal (extra ``cli``); None: nothing.

        Returns counts with the attributes `loaded`, `failed`, `skipped`, `total` and `first_error`. A key that cannot
        be loaded or stored counts as failed, and does not keep the others from being loaded. Called again, in any
        process, it goes on where it was interrupted. Values live for `default_ttl`. A write or a delete of a key
        meanwhile wins; what somebody else is computing is waited for. What is there comes into the first tier.

        Three round trips for a batch: of up to 500 keys for a mapping or `load_many`, else of up to 20. Raises
        TypeError or ValueError for bad input, and what `progress` raises.
        """
        return Warming(self._core, self._loader, keys, loader, workers, progress, False).run_in_threads(self._driver)

    def barrier(self, timeout: Seconds | None = None) -> None:
        """When it returns, every write that had returned in any process before the call is visible here.

        Args:
            timeout: seconds to wait at most; None: the cache's.

        Raises `BackendUnavailable` where that cannot be known in time. One round trip.
        """
        self._driver.run(self._core.barrier(timeout))

    def close(self) -> None:
        """End the cache's threads, close its connections and drop its first tier. May be called twice."""
        self._finalizer.detach()
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _decorate(self, function: Any, **options: Any) -> DistributedFunction:
        """What `cached` calls with a function and its options. An async one does not block its event loop."""
        wrapper: DistributedFunction = decorated(self, self._names, function, **options)
        return wrapper


class AsyncDistributedCache(Common, Front):
    """`DistributedCache` for asyncio: the same arguments, and the same methods to await.

    ``await cache.contains(key)`` stands for ``key in cache``. Factories may be plain or ``async``. One cache serves
    several event loops; a thread of its own hears of changes, so a busy loop does not make the first tier stale.

    >>> import asyncio
    >>> async def main():
    ...     async with AsyncDistributedCache(redis_port=1) as cache:        # nobody is there
    ...         return await cache.get_or_set("answer", lambda: 42)
    >>> asyncio.run(main())
    42
    """

    _driver: Async = Async()

    async def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`, from the first tier or else from the server; `default` where neither has it."""
        value = self._quick(key, MISSING)
        fast_path = self._core.fast_path
        if value is MISSING and fast_path is not None:
            value = fast_path.get(key)
            if value is fast_path.absent:
                return default
        if value is not MISSING:
            return value
        return await self._driver.run(self._core.get(key, default))

    async def set(self, key: str, value: Any, ttl: Seconds | None = None, *, tags: str | Iterable[str] = ()) -> None:
        """Store a value on the server, and drop the key from every first tier."""
        fast_path = self._core.fast_path
        if fast_path is None or tags or not fast_path.set(key, value, ttl):
            await self._driver.run(self._core.set(key, value, ttl, tags))

    async def delete(self, key: str) -> bool:
        """Remove a key everywhere. True where a live entry was removed."""
        return await self._driver.run(self._core.delete(key))

    async def increment(self, key: str, amount: int = 1) -> int:
        """Add `amount` to the int stored under `key`, on the server, and return the sum."""
        return await self._driver.run(self._core.increment(key, amount))

    async def add(self, key: str, value: Any, ttl: Seconds | None = None, *, tags: str | Iterable[str] = ()) -> bool:
        """Store a value where there is no live entry. True where it was stored: of all processes, one wins."""
        return await self._driver.run(self._core.add(key, value, ttl, tags))

    async def compute(self, key: str, fn: Callable[[Any], Any]) -> Any:
        """Replace a value by ``fn(value)``, as one step over all processes, and return the new one. `fn` is plain."""
        return await self._driver.run(self._core.compute(key, fn))

    async def get_or_set(
        self,
        key: str,
        factory: Callable[[], Awaitable[Any] | Any],
        ttl: Seconds | None = None,
        *,
        tags: str | Iterable[str] = (),
    ) -> Any:
        """The value of `key`; where it is absent, what the factory returns, awaited if need be, stored for `ttl`."""
        return await self._driver.run(self._loader.get_or_set(key, factory, ttl, tags))

    async def touch(self, key: str, ttl: Seconds | None = None) -> bool:
        """Give an entry a new expiry, on the server. True where there is one."""
        return await self._driver.run(self._core.touch(key, ttl))

    async def ttl(self, key: str) -> float | None:
        """Seconds that the entry lives on, as the server says; None: for ever. KeyError where it is absent."""
        return await self._driver.run(self._core.ttl(key))

    async def contains(self, key: str) -> bool:
        """Whether there is a live entry. Counts nothing."""
        return await self._driver.run(self._core.contains(key))

    def __contains__(self, key: object) -> bool:
        raise TypeError("`in` cannot wait for a server: use `await cache.contains(key)`")

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those keys that have one."""
        return await self._driver.run(self._core.get_many(keys))

    async def set_many(
        self, mapping: Mapping[str, Any], ttl: Seconds | None = None, *, tags: str | Iterable[str] = ()
    ) -> None:
        """Store many values, all with the same tags."""
        await self._driver.run(self._core.set_many(mapping, ttl, tags))

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Remove many keys; returns how many live entries were removed."""
        return await self._driver.run(self._core.delete_many(keys))

    async def clear(self) -> None:
        """Remove all entries of this namespace, for everybody."""
        await self._driver.run(self._whole.clear())

    async def invalidate_tag(self, tag: str) -> int:
        """Remove all entries with a tag, for everybody; returns how many of them left this process's first tier."""
        return await self._driver.run(self._whole.invalidate_tag(tag))

    async def invalidate_prefix(self, prefix: str, timeout: Seconds | None = None) -> int:
        """Remove all entries whose key begins so; returns how many. `timeout`: seconds for the whole of it."""
        return await self._driver.run(self._whole.invalidate_prefix(prefix, timeout))

    async def invalidate_glob(self, pattern: str, timeout: Seconds | None = None) -> int:
        """Remove all entries whose key matches a pattern; returns how many. `timeout`: seconds for the whole of it."""
        return await self._driver.run(self._whole.invalidate_glob(pattern, timeout))

    async def invalidate_where(self, predicate: Callable[[str, Any], object], timeout: Seconds | None = None) -> int:
        """Remove all entries for which ``predicate(key, value)`` is true; returns how many."""
        return await self._driver.run(self._whole.invalidate_where(predicate, timeout))

    async def warm(
        self,
        keys: Mapping[str, Any] | Iterable[str],
        loader: Any = None,
        *,
        workers: int | None = None,
        progress: Callable[[int, int], object] | bool | None = None,
    ) -> Warmed:
        """Load keys, or store items, before anybody asks; `workers` are tasks, and the loader may be ``async``."""
        return await Warming(self._core, self._loader, keys, loader, workers, progress, True).run_in_tasks(self._driver)

    async def barrier(self, timeout: Seconds | None = None) -> None:
        """When it returns, every write that had returned in any process before the call is visible here."""
        await self._driver.run(self._core.barrier(timeout))

    async def close(self) -> None:
        """End the cache's threads, close its connections and drop its first tier. May be called twice."""
        from asyncio import get_running_loop, sleep
        from concurrent.futures import ThreadPoolExecutor

        self._finalizer.detach()
        waits = ThreadPoolExecutor(1, "cachebox-close")     # for threads; not the loop's, which would stay
        try:
            await get_running_loop().run_in_executor(waits, self._core.stop)
        except BaseException:
            waits.shutdown(wait=False)
            raise
        waits.shutdown()
        self._core.close()
        await sleep(0)                          # the loop closes the connections now

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _decorate(self, function: Any, **options: Any) -> AsyncDistributedFunction:
        """What `cached` calls with a function and its options. TypeError for one that cannot wait."""
        if not options["is_coroutine"]:
            raise TypeError("an AsyncDistributedCache decorates async functions; plain ones need a DistributedCache")
        wrapper: AsyncDistributedFunction = decorated(self, self._names, function, **options)
        return wrapper
