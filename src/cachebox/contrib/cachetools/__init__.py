"""A drop-in module for cachetools: the same classes, decorators and key functions, ordered by CacheBox's engines.

>>> from cachebox.contrib.cachetools import LRUCache, cached
>>> @cached(LRUCache(maxsize=2), info=True)
... def square(x):
...     return x * x
>>> square(3), square(3)
(9, 9)
>>> square.cache_info()
CacheInfo(hits=1, misses=1, maxsize=2, currsize=1)

As in cachetools, a cache is not safe to share between threads without a lock: give the decorators ``lock=`` or
``condition=``. ``docs/adapters.md`` lists the differences from cachetools.
"""

from cachebox.contrib.cachetools import keys
from cachebox.contrib.cachetools._caches import Cache, FIFOCache, LFUCache, LRUCache, RRCache
from cachebox.contrib.cachetools._functions import CacheInfo, cached
from cachebox.contrib.cachetools._methods import cachedmethod
from cachebox.contrib.cachetools._timed_caches import TLRUCache, TTLCache

__all__ = [
    "Cache",
    "CacheInfo",
    "FIFOCache",
    "LFUCache",
    "LRUCache",
    "RRCache",
    "TLRUCache",
    "TTLCache",
    "cached",
    "cachedmethod",
    "keys",
]
