"""CacheBox: a fast, thread-safe in-memory cache: eviction policies, lifetimes, statistics, callbacks, decorators.

>>> from cachebox import Cache, cached
>>> cache = Cache(max_size=1000, default_ttl=300)
>>> cache["answer"] = 42
>>> cache.get("answer")
42
>>> @cached(max_size=100)
... def slow(x):
...     return x * x
>>> slow(7)
49
"""

from cachebox._platform import _interpreter  # noqa: F401, I001 (first: its error says why others would fail)
from cachebox._calls.disabling import disabled
from cachebox._platform.registry import caches, clear_all
from cachebox._store.sizes import sizeof
from cachebox.cache import MISSING, Cache
from cachebox.decorators import cached, cached_many, lru_cache
from cachebox.policies import AutoPolicy, EvictionPolicy, FIFOPolicy, LFUPolicy, LRUPolicy
from cachebox.stats import CacheStats

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from cachebox._simulation.recorder import record
    from cachebox._simulation.simulation import simulate
    from cachebox._store.entry import Entry
    from cachebox.distributed import AsyncDistributedCache, BackendRefused, BackendUnavailable, DistributedCache
    from cachebox.protocols import AsyncCacheLike, CacheLike
    from cachebox.removal import RemovalCause
    from cachebox.strategies import AsyncWriteBehind, AsyncWriteThrough, QueueFull, WriteBehind, WriteThrough

    __version__: str

__all__ = [
    "MISSING",
    "AsyncCacheLike",
    "AsyncDistributedCache",
    "AsyncWriteBehind",
    "AsyncWriteThrough",
    "AutoPolicy",
    "BackendRefused",
    "BackendUnavailable",
    "Cache",
    "CacheLike",
    "CacheStats",
    "DistributedCache",
    "Entry",
    "EvictionPolicy",
    "FIFOPolicy",
    "LFUPolicy",
    "LRUPolicy",
    "QueueFull",
    "RemovalCause",
    "WriteBehind",
    "WriteThrough",
    "cached",
    "cached_many",
    "caches",
    "clear_all",
    "disabled",
    "lru_cache",
    "record",
    "simulate",
    "sizeof",
]

_DISTRIBUTED = ("AsyncDistributedCache", "BackendRefused", "BackendUnavailable", "DistributedCache")


if not TYPE_CHECKING:               # type checkers should know only the names above

    def __getattr__(name: str) -> object:
        """Import a name at its first use, to keep ``import cachebox`` light."""
        if name == "RemovalCause":
            from cachebox.removal import RemovalCause as found
        elif name == "Entry":
            from cachebox._store.entry import Entry as found
        elif name == "simulate":
            from cachebox._simulation.simulation import simulate as found
        elif name == "record":
            from cachebox._simulation.recorder import record as found
        elif name in ("CacheLike", "AsyncCacheLike"):
            from cachebox import protocols

            found = getattr(protocols, name)
        elif name in ("WriteThrough", "WriteBehind", "AsyncWriteThrough", "AsyncWriteBehind", "QueueFull"):
            from cachebox import strategies

            found = getattr(strategies, name)
        elif name in _DISTRIBUTED:
            from cachebox import distributed

            found = getattr(distributed, name)
        elif name == "__version__":
            from importlib.metadata import version

            found = version("cachebox-cython")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, "__version__"})


del TYPE_CHECKING
