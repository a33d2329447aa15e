"""The result of `cache_info()`, in a module of its own because named tuples are slow to import and rarely needed."""

from typing import NamedTuple


class CacheInfo(NamedTuple):
    """Hits, misses, the bound (None: no bound) and the current number of entries, in the shape that functools has."""

    hits: int
    misses: int
    maxsize: int | None
    currsize: int
