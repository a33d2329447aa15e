"""`DistributedCache` and `AsyncDistributedCache`, the public classes. Their operations are in `_ops`.

Both classes run the same generators: one in the calling thread, the other in the calling task.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cachebox._loading.warming import Warmed
from cachebox._platform.awaitables import refuse_async
from cachebox.cache import MISSING
from cachebox.distributed._near.hits import BlockingNearCacheBase, NearCacheBase, with_own_get
from cachebox.distributed._net.asyncio_driver import Async
from cachebox.distributed._net.blocking_driver import Blocking
from cachebox.distributed._ops.warming import Warming
from cachebox.distributed.base import CacheBase
from cachebox.distributed.functions import AsyncDistributedFunction, DistributedFunction, decorated
from cachebox.distributed.options import Seconds

if TYPE_CHECKING:
    from typing import Self


@with_own_get
class DistributedCache(CacheBase, BlockingNearCacheBase):
    """A cache in two tiers: a `Cache` in the process, in front of Redis, Valkey or a folder that processes share.

    Args:
        redis_host, redis_port, redis_db: the address of the server, unless `url` or `client` is given.
        max_size: the most entries of the first tier, an int from 1 on; None: no bound.
        default_ttl: how long an entry lives unless `set` says otherwise: seconds or a `timedelta`; None: no expiry.
        url: ``redis://``, ``rediss://`` (TLS), ``unix://``, ``redis+sentinel://host[,host]/service``. A server that
            belongs to a cluster is asked for the others. Without a server: ``file:///directory``, a folder that the
            processes of one machine share, or ``memory://``, a private one.
        client: a ready client of redis-py or valkey-py itself. Its address and credentials are used; it stays open.
        namespace: how the names on the server begin; caches with the same namespace share their entries.
        policy: which entry leaves a full first tier, as for `Cache`.
        serializer: ``"json"``, ``"msgpack"``, ``"pickle"`` (only with `secret`), or an object with `dumps` and `loads`.
        secret: bytes or a str. Every value is signed with it, and unsigned ones are not read.
        invalidation: whether to listen to the server's pushes about changes. Otherwise first-tier entries are served
            for at most `max_staleness`.
        max_staleness: seconds without news of the server after which first-tier hits stop.
        timeout: seconds that one call may spend on talking to servers, retries included.
        on_unavailable: what to do while no server can be reached. ``"local"``: serve the entries of the first tier and
            compute the rest; ``"raise"``: raise `BackendUnavailable`. Writes raise it in both modes.
        isolate: whether every hit returns its own copy of the value.
        name: the cache's name in `cachebox.caches()` and in metrics, a str; None: no name.
        jitter: the largest share, from 0 to 1, by which each lifetime is shortened at random.
        stale_ttl: seconds, or a `timedelta`, for which an entry is kept on the server after its end, 49 days at most.
            During that time `get_or_set` and decorated calls serve it, while one of all processes computes a newer
            value in the background, or fails to. For all other operations the entry has ended. None: do not keep it.
        refresh_ahead: the share at the end of an entry's lifetime, between 0 and 1, in which `get_or_set` and decorated
            calls have it refreshed in the background, by one of all processes; None: never.
        compress: ``"zlib"`` or ``"zstd"``: compress values of 2 KB and more, if that saves a fifth; None: do not.
            ``"zstd"`` needs Python 3.14 or the extra ``zstd``; a process without it counts a miss.
        max_connections: the most connections to each server, an int from 1 on, not counting the tracking connection.
        size_limit: for a folder: the most bytes that it takes on the disk, an int or a text such as ``"500MB"``; at
            least 32 MiB.
        durability: for a folder: ``"process"``: writes survive the process; ``"machine"``: they survive a power cut,
            too, and each write waits for the disk.
        clock: called without arguments, returns the time in seconds, for tests. Entries of the first tier and of a
            folder expire by it; a server keeps its own time. None: the system's time.

    Raises ValueError or TypeError, with the name of the argument, for an invalid argument; `BackendUnavailable` if
    there is no server and ``on_unavailable="raise"``.

    Keys are str. A value must come back equal from the serializer; others raise TypeError. A context manager. All
    methods are safe from any thread, and in the children of a fork. ``docs/distributed.md`` spells out the guarantees.
    """

    _driver: Blocking = Blocking()

    def _begin(self) -> None:
        """Check that there is a server, if the user wants to know."""
        if not self._core.is_local:
            try:
                self._driver.run(self._core.check())
            except BaseException:
                self.close()
                raise

    def _get(self, key: Any, default: Any) -> Any:
        """`get`, after there was no fast answer."""
        return self._driver.run(self._core.get(key, default))

    def set(self, key: str, value: Any, ttl: Seconds | None = None, *, tags: str | Iterable[str] = ()) -> None:
        """Store a value on the server, and drop the key from every first tier. One round trip.

        Args:
            key: a str.
            value: any value that comes back equal from the serializer.
            ttl: how long the entry lives: seconds or a `timedelta`; None: `default_ttl`; infinity: no expiry.
            tags: a str or several, for `invalidate_tag`. An overwrite replaces them.

        Raises `BackendUnavailable` if the server was not reached; TypeError or ValueError, without any change, for bad
        input.
        """
        fast_path = self._core.fast_path
        if fast_path is None or tags or not fast_path.set(key, value, ttl):
            self._driver.run(self._core.set(key, value, ttl, tags))

    def delete(self, key: str) -> bool:
        """Remove a key everywhere. Returns whether a live entry was removed. One round trip."""
        return self._driver.run(self._core.delete(key))

    def increment(self, key: str, amount: int = 1) -> int:
        """Add `amount` to the int stored under `key`, on the server, and return the sum.

        A missing key starts at 0 and gets `default_ttl`; an existing entry keeps its expiry. The addition happens
        exactly once if this returns, and at most once if it raises. One round trip; two if the entry has tags, or is
        not a counter yet and there is a `secret`. Raises TypeError if `amount` or the value is not an int.
        """
        return self._driver.run(self._core.increment(key, amount))

    def add(self, key: str, value: Any, ttl: Seconds | None = None, *, tags: str | Iterable[str] = ()) -> bool:
        """Store a value if there is no live entry. Returns whether it was stored: of all processes, one wins.

        Arguments and errors are those of `set`. After a `BackendUnavailable` the value may have been stored. One round
        trip.
        """
        return self._driver.run(self._core.add(key, value, ttl, tags))

    def compute(self, key: str, fn: Callable[[Any], Any]) -> Any:
        """Replace a value by ``fn(value)``, as one step across all processes, and return the new one.

        Args:
            key: a str.
            fn: called with the value, or with `MISSING` if there is none. Its result is stored; `MISSING` deletes the
                entry. It runs without any lock, and again if another caller has written the key meanwhile.

        An existing entry keeps its lifetime and its tags; a new one gets `default_ttl`. Two round trips. Raises what
        `fn` raises, and `BackendUnavailable`, after which the value may have been stored.
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
        """The value of `key`; if it is absent, the result of ``factory()``, stored for `ttl`.

        Of all threads and processes that miss the key at the same time, one runs its factory. The others wait for its
        value or its exception. An exception that cannot travel to another process does not reach it, and the next
        caller there runs its own factory. If the key is written or deleted meanwhile, that wins: the value is returned,
        but not stored. Two round trips plus the factory; one if the value is present.
        """
        return self._driver.run(self._loader.get_or_set(key, factory, ttl, tags))

    def touch(self, key: str, ttl: Seconds | None = None) -> bool:
        """Give an entry a new expiry, on the server. Returns whether there is an entry."""
        return self._driver.run(self._core.touch(key, ttl))

    def ttl(self, key: str) -> float | None:
        """Seconds until the entry expires, as the server says; None: never. Raises KeyError if it is absent."""
        return self._driver.run(self._core.ttl(key))

    def contains(self, key: str) -> bool:
        """Whether there is a live entry: ``key in cache``. Counts nothing."""
        return self._driver.run(self._core.contains(key))

    def __contains__(self, key: object) -> bool:
        return self._driver.run(self._core.contains(key))

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of the keys that have one. One round trip per server for the keys that the first tier cannot
        answer."""
        return self._driver.run(self._core.get_many(keys))

    def set_many(
        self, mapping: Mapping[str, Any], ttl: Seconds | None = None, *, tags: str | Iterable[str] = ()
    ) -> None:
        """Store many values, all with the same tags. One round trip per server.

        Raises TypeError, and stores nothing, if a value cannot be encoded.
        """
        self._driver.run(self._core.set_many(mapping, ttl, tags))

    def delete_many(self, keys: Iterable[str]) -> int:
        """Remove many keys; returns how many live entries were removed. One round trip per server."""
        return self._driver.run(self._core.delete_many(keys))

    def clear(self) -> None:
        """Remove all entries of this namespace, for everybody. One round trip per server, however many entries there
        are.

        The server's memory is freed in the background, within seconds.
        """
        self._driver.run(self._of_all.clear())

    def invalidate_tag(self, tag: str) -> int:
        """Remove all entries with a tag, for everybody; returns how many the first tier here held. O(1)."""
        return self._driver.run(self._of_all.invalidate_tag(tag))

    def invalidate_prefix(self, prefix: str, timeout: Seconds | None = None) -> int:
        """Remove all entries whose key begins with a prefix; returns how many. Scans the server's names, page by page:
        O(n).

        Args:
            prefix: a str.
            timeout: seconds for the whole scan; None: the cache's, which is enough for about a million names.

        Raises `BackendUnavailable` if that was too short; entries removed before that stay removed.
        """
        return self._driver.run(self._of_all.invalidate_prefix(prefix, timeout))

    def invalidate_glob(self, pattern: str, timeout: Seconds | None = None) -> int:
        """Remove all entries whose key matches a pattern with ``*``, ``?``, ``[a-z]``, ``[!a-z]``; returns how many.

        Like `invalidate_prefix`; the server sends only names that begin with the part before the first wildcard.
        """
        return self._driver.run(self._of_all.invalidate_glob(pattern, timeout))

    def invalidate_where(self, predicate: Callable[[str, Any], object], timeout: Seconds | None = None) -> int:
        """Remove all entries for which ``predicate(key, value)`` is true; returns how many. O(n): all values travel.

        Args:
            predicate: called without any lock; if it raises, nothing is removed. An entry that changes meanwhile is
                judged by the value that was read.
            timeout: seconds for talking to the server; None: the cache's.
        """
        refuse_async("predicate", predicate, "AsyncDistributedCache")
        return self._driver.run(self._of_all.invalidate_where(predicate, timeout))

    def warm(
        self,
        keys: Mapping[str, Any] | Iterable[str],
        loader: Any = None,
        *,
        workers: int | None = None,
        progress: Callable[[int, int], object] | bool | None = None,
    ) -> Warmed:
        """Fill the server before the first request: load keys, or store items. Present keys stay, and are not loaded.

        Args:
            keys: a mapping of items to store, or an iterable of keys to load.
            loader: a callable of the key, or a store with ``load(key)`` and optionally ``load_many(keys)``. A KeyError
                means that a key has no value. A mapping needs no loader.
            workers: how many threads load, an int from 1 on; None: 1 for a mapping or `load_many`, else 8.
            progress: called as ``progress(done, total)`` after each batch of keys, failures included; True: a progress
                bar on the terminal (extra ``cli``); None: nothing.

        Returns counts with the attributes `loaded`, `failed`, `skipped`, `total` and `first_error`. A key that cannot
        be loaded or stored counts as failed, and does not stop the others. After an interruption, a new call in any
        process goes on with the rest. Values live for `default_ttl`. A write or a delete of a key meanwhile wins; a key
        that another caller is computing is waited for. Present entries come into the first tier.

        Three round trips per batch: of up to 500 keys for a mapping or `load_many`, else of up to 20. Raises TypeError
        or ValueError for bad input, and what `progress` raises.
        """
        return Warming(self._core, self._loader, keys, loader, workers, progress, False).run_in_threads(self._driver)

    def barrier(self, timeout: Seconds | None = None) -> None:
        """Wait until every write that returned in any process before this call is visible here.

        Args:
            timeout: seconds to wait at most; None: the cache's.

        Raises `BackendUnavailable` if that cannot be known in time. One round trip.
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
        """Called by `cached` with a function and its options. An async function does not block its event loop."""
        wrapper: DistributedFunction = decorated(self, self._names, function, **options)
        return wrapper


class AsyncDistributedCache(CacheBase, NearCacheBase):
    """`DistributedCache` for asyncio: the same arguments, and the same methods to await.

    ``await cache.contains(key)`` replaces ``key in cache``. Factories may be plain or ``async``. One cache serves
    several event loops. A thread of its own reads the servers' pushes, so a busy loop does not make the first tier
    stale.

    >>> import asyncio
    >>> async def main():
    ...     async with AsyncDistributedCache(redis_port=1) as cache:        # nobody is there
    ...         return await cache.get_or_set("answer", lambda: 42)
    >>> asyncio.run(main())
    42
    """

    _driver: Async = Async()

    async def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`, from the first tier or else from the server; `default` if neither has it."""
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
        """Remove a key everywhere. Returns whether a live entry was removed."""
        return await self._driver.run(self._core.delete(key))

    async def increment(self, key: str, amount: int = 1) -> int:
        """Add `amount` to the int stored under `key`, on the server, and return the sum."""
        return await self._driver.run(self._core.increment(key, amount))

    async def add(self, key: str, value: Any, ttl: Seconds | None = None, *, tags: str | Iterable[str] = ()) -> bool:
        """Store a value if there is no live entry. Returns whether it was stored: of all processes, one wins."""
        return await self._driver.run(self._core.add(key, value, ttl, tags))

    async def compute(self, key: str, fn: Callable[[Any], Any]) -> Any:
        """Replace a value by ``fn(value)``, as one step across all processes, and return the new one. `fn` is not
        async."""
        return await self._driver.run(self._core.compute(key, fn))

    async def get_or_set(
        self,
        key: str,
        factory: Callable[[], Awaitable[Any] | Any],
        ttl: Seconds | None = None,
        *,
        tags: str | Iterable[str] = (),
    ) -> Any:
        """The value of `key`; if it is absent, the factory's result, awaited if need be, stored for `ttl`."""
        return await self._driver.run(self._loader.get_or_set(key, factory, ttl, tags))

    async def touch(self, key: str, ttl: Seconds | None = None) -> bool:
        """Give an entry a new expiry, on the server. Returns whether there is an entry."""
        return await self._driver.run(self._core.touch(key, ttl))

    async def ttl(self, key: str) -> float | None:
        """Seconds until the entry expires, as the server says; None: never. Raises KeyError if it is absent."""
        return await self._driver.run(self._core.ttl(key))

    async def contains(self, key: str) -> bool:
        """Whether there is a live entry. Counts nothing."""
        return await self._driver.run(self._core.contains(key))

    def __contains__(self, key: object) -> bool:
        raise TypeError("`in` cannot wait for a server: use `await cache.contains(key)`")

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of the keys that have one."""
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
        await self._driver.run(self._of_all.clear())

    async def invalidate_tag(self, tag: str) -> int:
        """Remove all entries with a tag, for everybody; returns how many the first tier here held."""
        return await self._driver.run(self._of_all.invalidate_tag(tag))

    async def invalidate_prefix(self, prefix: str, timeout: Seconds | None = None) -> int:
        """Remove all entries whose key begins with a prefix; returns how many. `timeout`: seconds for the whole
        scan."""
        return await self._driver.run(self._of_all.invalidate_prefix(prefix, timeout))

    async def invalidate_glob(self, pattern: str, timeout: Seconds | None = None) -> int:
        """Remove all entries whose key matches a pattern; returns how many. `timeout`: seconds for the whole scan."""
        return await self._driver.run(self._of_all.invalidate_glob(pattern, timeout))

    async def invalidate_where(self, predicate: Callable[[str, Any], object], timeout: Seconds | None = None) -> int:
        """Remove all entries for which ``predicate(key, value)`` is true; returns how many."""
        return await self._driver.run(self._of_all.invalidate_where(predicate, timeout))

    async def warm(
        self,
        keys: Mapping[str, Any] | Iterable[str],
        loader: Any = None,
        *,
        workers: int | None = None,
        progress: Callable[[int, int], object] | bool | None = None,
    ) -> Warmed:
        """Fill the server before the first request; `workers` are tasks, and the loader may be ``async``."""
        return await Warming(self._core, self._loader, keys, loader, workers, progress, True).run_in_tasks(self._driver)

    async def barrier(self, timeout: Seconds | None = None) -> None:
        """Wait until every write that returned in any process before this call is visible here."""
        await self._driver.run(self._core.barrier(timeout))

    async def close(self) -> None:
        """End the cache's threads, close its connections and drop its first tier. May be called twice."""
        from asyncio import get_running_loop, sleep
        from concurrent.futures import ThreadPoolExecutor

        self._finalizer.detach()
        # joins the threads; not the loop's own pool, whose thread would stay
        waits = ThreadPoolExecutor(1, "cachebox-close")
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
        """Called by `cached` with a function and its options. Raises TypeError for a plain function."""
        if not options["is_coroutine"]:
            raise TypeError("an AsyncDistributedCache decorates async functions; plain ones need a DistributedCache")
        wrapper: AsyncDistributedFunction = decorated(self, self._names, function, **options)
        return wrapper
