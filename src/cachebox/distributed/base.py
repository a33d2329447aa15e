"""The common base of the two distributed caches: construction, properties, forks, and the end."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from importlib import import_module
from typing import Any

from cachebox._calls.naming import SharedNames
from cachebox._loading.loader import check_refreshing
from cachebox._platform.byte_sizes import bytes_of
from cachebox._platform.keywords import refuse_unknown
from cachebox._platform.registry import register
from cachebox._store.options import checked_name, jitter_of
from cachebox.cache import Cache
from cachebox.distributed._near.near_cache import Tier
from cachebox.distributed._net.asyncio_driver import Async
from cachebox.distributed._net.blocking_driver import Blocking
from cachebox.distributed._net.clients import from_client
from cachebox.distributed._net.servers import Servers
from cachebox.distributed._net.topology import Topology
from cachebox.distributed._net.urls import from_url
from cachebox.distributed._ops.namespace import Namespace
from cachebox.distributed._ops.operations import Core
from cachebox.distributed._ops.refresh import Refreshing
from cachebox.distributed._ops.single_flight import Loader
from cachebox.distributed._wire.codec import Codec
from cachebox.distributed.options import Seconds, checked_int, checked_key, seconds_of
from cachebox.distributed.stats import DistributedStats

_living: weakref.WeakSet[CacheBase] = weakref.WeakSet()
FOREIGN_OPTIONS = {                 # parameter names of other libraries -> names here
    "host": "redis_host", "port": "redis_port", "db": "redis_db", "maxsize": "max_size", "size": "max_size",
    "ttl": "default_ttl", "expire": "default_ttl", "prefix": "namespace", "key_prefix": "namespace", "redis": "client",
    "redis_client": "client", "redis_url": "url", "location": "url",
}


class CacheBase:
    """A cache made of a core and a driver. Its subclasses have the operations."""

    _driver: Blocking | Async
    _tier: Any

    def __init__(
        self,
        redis_host: str = "localhost",
        redis_port: int = 6379,
        redis_db: int = 0,
        max_size: int | None = 1000,
        default_ttl: Seconds | None = None,
        *,
        url: str | None = None,
        client: Any = None,
        namespace: str = "cachebox",
        policy: Any = "LRU",
        serializer: Any = "json",
        secret: bytes | str | None = None,
        invalidation: bool = True,
        max_staleness: Seconds = 1.0,
        timeout: Seconds = 0.5,
        on_unavailable: str = "local",
        isolate: bool = False,
        name: str | None = None,
        jitter: float = 0.0,
        stale_ttl: Seconds | None = None,
        refresh_ahead: float | None = None,
        compress: str | None = None,
        max_connections: int = 64,
        size_limit: int | str = "1GB",
        durability: str = "process",
        clock: Callable[[], float] | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            refuse_unknown(type(self).__name__, unknown, OPTIONS, FOREIGN_OPTIONS)
        if not isinstance(redis_host, str):
            raise TypeError(f"redis_host must be a str, not {type(redis_host).__name__}")
        if "://" in redis_host:
            raise ValueError("redis_host must be the name of a host, and no URL: give that as url=")
        checked_int(redis_port, "redis_port", 1, 65535)
        checked_int(redis_db, "redis_db", 0, 2**31 - 1)
        checked_int(max_connections, "max_connections", 1, 2**31 - 1)
        if not isinstance(namespace, str):
            raise TypeError(f"namespace must be a str, not {type(namespace).__name__}")
        if not namespace:
            raise ValueError("namespace must not be empty")
        if on_unavailable not in ("local", "raise"):
            raise ValueError(f'on_unavailable must be "local" or "raise", not {on_unavailable!r}')
        if url is not None and client is not None:
            raise ValueError("url and client cannot go together: each says where the server is")
        if url is not None or client is not None:
            other = "url" if client is None else "client"
            for option, given, default in (
                ("redis_host", redis_host, "localhost"), ("redis_port", redis_port, 6379), ("redis_db", redis_db, 0)
            ):
                if given != default:
                    raise ValueError(f"{option} and {other} cannot go together: each says where the server is")
        lifetime = seconds_of(default_ttl, "default_ttl")
        staleness = seconds_of(max_staleness, "max_staleness")
        seconds = seconds_of(timeout, "timeout", infinite=False)
        if max_staleness is None:
            raise TypeError("max_staleness must be a number of seconds, not None")
        for option, given in (("invalidation", invalidation), ("isolate", isolate)):
            if not isinstance(given, bool):
                raise TypeError(f"{option} must be True or False, not {given!r}")
        check_refreshing({"refresh_ahead": refresh_ahead})
        limit = bytes_of(size_limit, "size_limit")
        if durability not in ("process", "machine"):
            raise ValueError(f'durability must be "process" or "machine", not {durability!r}')
        has_folder = isinstance(url, str) and url.lower().startswith(("file:", "memory:"))
        if not has_folder and (size_limit, durability) != ("1GB", "process"):
            raise ValueError("size_limit and durability are for url=\"file:///...\": a server has its own")
        name = checked_name(name)
        shortens = jitter_of(jitter)
        stale = 0.0 if stale_ttl is None else seconds_of(stale_ttl, "stale_ttl", infinite=False)
        first: Cache[str, Any] = Cache(max_size, policy=policy, clock=clock)
        codec = Codec(serializer, secret, namespace, compress)
        self._tier = Tier(first, not isolate)
        topology: Any
        if has_folder:
            if not invalidation:
                raise ValueError("invalidation=False makes no sense without a server: every hit is checked, at no cost")
            from cachebox.distributed._embedded.directory import open_directory

            topology = open_directory(str(url), namespace, limit, durability == "machine", seconds, self._tier, clock)
        else:
            topology = Topology(servers_of(client, url, redis_host, redis_port, redis_db), namespace)
            topology.servers.max_connections = max_connections
        self._core = Core(
            topology,
            codec,
            self._tier,
            lifetime=lifetime,
            timeout=seconds,
            max_staleness=staleness,
            invalidation=invalidation,
            is_local=on_unavailable == "local",
            isolate=isolate,
            jitter=shortens,
            stale=stale,
        )
        if has_folder:
            from cachebox.distributed._near.folder_fast_path import FolderFastPath

            self._core.fast_path = FolderFastPath(self._core)
        self._loader = Loader(self._core)
        if refresh_ahead is not None or stale:
            self._loader.refreshing = Refreshing(self._core, self._loader, float(refresh_ahead or 0.0))
        self._of_all = Namespace(self._core)
        self._names = SharedNames()
        self._stats = DistributedStats(self._core)
        self._default_ttl = default_ttl
        self._namespace = namespace
        self._name = name
        self._finalizer = weakref.finalize(self, _abandon, self._core)
        _living.add(self)
        register(name, self)
        self._begin()

    def _begin(self) -> None:
        """The rest of the constructor."""

    @property
    def stats(self) -> DistributedStats:
        """The counters of both tiers: one object, always up to date."""
        return self._stats

    @property
    def max_size(self) -> int | None:
        """The most entries that the first tier holds; None: no bound."""
        found: int | None = self._core.tier.first.max_size
        return found

    @property
    def default_ttl(self) -> float | None:
        """Seconds that an entry lives unless `set` says otherwise, as given to the constructor; None: no expiry."""
        given = self._default_ttl
        return given if given is None or isinstance(given, (int, float)) else given.total_seconds()

    @property
    def policy(self) -> Any:
        """The policy of the first tier: its name, or the object that was given."""
        return self._core.tier.first.policy

    @property
    def name(self) -> str | None:
        """The name given to the constructor."""
        return self._name

    @property
    def size(self) -> int | None:
        """Bytes that the second tier takes on the disk; None if it is a server. O(number of files)."""
        found: int | None = self._core.topology.size
        return found

    @property
    def namespace(self) -> str:
        """The namespace, with which all names on the server begin."""
        return self._namespace

    def __repr__(self) -> str:
        state = "closed" if self._core.is_closed else f"breaker {self._core.topology.worst}"
        return (
            f"<{type(self).__name__} {self._namespace!r} at {self._core.topology.servers!r}, "
            f"{len(self._core.tier.first)} entries here, {state}>"
        )

    def __reduce__(self) -> Any:
        raise TypeError(f"{type(self).__name__} cannot be pickled: it belongs to a process; make one in each")

    def _check_entry(self, key: Any, value: Any, ttl: Any, tags: Any) -> None:
        """Raise what `set` would raise for these arguments, without asking a server."""
        self._core.check_entry(key, value, ttl, tags)

    def _check_ttl(self, ttl: Any) -> None:
        """Raise what `set_many` would raise for that lifetime and an empty mapping, without asking a server."""
        self._core.check_open()
        seconds_of(ttl, "ttl")

    def _check_key(self, key: Any) -> None:
        """Raise what `delete` would raise for this argument, without asking a server."""
        self._core.check_open()
        checked_key(key)

    def _renew(self) -> None:
        """After a fork, in the child."""
        self._core.renew()
        self._loader.renew()


OPTIONS = CacheBase.__init__.__code__.co_varnames[1:CacheBase.__init__.__code__.co_argcount] + tuple(
    CacheBase.__init__.__kwdefaults__ or ()
)


def servers_of(client: Any, url: str | None, host: str, port: int, db: int) -> Servers:
    """The servers that the arguments name. Raises ImportError if redis-py is not installed."""
    try:
        import_module("redis.connection")       # imported now: later it would take time from a call
    except ImportError as error:
        text = 'a cache on a server needs redis-py: pip install "cachebox-cython[redis]"'
        raise ImportError(text, name="redis") from error
    if client is not None:
        return from_client(client)
    return from_url(url) if url is not None else Servers([(host, port)], options={"db": db} if db else {})


def _abandon(core: Core) -> None:
    """Release a cache that was dropped without being closed, or whose process ends."""
    core.abandon()


def _before_fork() -> None:
    for cache in list(_living):
        cache._core.pause()


def _after_fork_in_parent() -> None:
    for cache in list(_living):
        cache._core.resume()


def _after_fork_in_child() -> None:
    for cache in list(_living):
        cache._renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
