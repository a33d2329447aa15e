"""What `cache_info()` returns; a module of its own because named tuples are slow to import and rarely asked for."""

from typing import NamedTuple


class CacheInfo(NamedTuple):
    """Hits, misses, the bound (None: no bound) and the number of entries now, as functools has them."""

    hits: int
    misses: int
    maxsize: int | None
    currsize: int
