"""Decorators with the interface of `functools.lru_cache`, one for each kind of cache.

Safe between threads: one thread computes a value, and others that want the same value wait for it.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, MutableMapping
from threading import Condition
from typing import Any

from cachebox.contrib.cachetools import keys
from cachebox.contrib.cachetools._caches import FIFOCache, LFUCache, LRUCache, RRCache
from cachebox.contrib.cachetools._functions import cached
from cachebox.contrib.cachetools._timed_caches import TTLCache

__all__ = ["fifo_cache", "lfu_cache", "lru_cache", "rr_cache", "ttl_cache"]


class _EndlessTTLCache(TTLCache[Any, Any]):
    """A cache without a bound, whose `maxsize` is None as in `functools`."""

    @property
    def maxsize(self) -> Any:
        """None: no bound."""
        return None


def _decorator(
    maxsize: Any, typed: bool, bounded: Callable[[Any], Any], unbounded: Callable[[], MutableMapping[Any, Any]] = dict
) -> Any:
    """The decorator for a `maxsize`, or the decorated function if it was used without parentheses."""
    if callable(maxsize):
        return _decorator(128, typed, bounded, unbounded)(maxsize)
    cache = unbounded() if maxsize is None else bounded(maxsize)

    def decorate(function: Callable[..., Any]) -> Any:
        key = keys.typedkey if typed else keys.hashkey
        wrapper = cached(cache, key, condition=Condition(), info=True)(function)
        wrapper.cache_parameters = lambda: {"maxsize": maxsize, "typed": typed}
        return wrapper

    return decorate


def fifo_cache(maxsize: Any = 128, typed: bool = False) -> Any:
    """A decorator that keeps up to `maxsize` results, and drops the one that was stored first.

    `maxsize` is an int from 0 on; None: no bound. With `typed`, 1 and 1.0 are different calls.
    """
    return _decorator(maxsize, typed, FIFOCache)


def lfu_cache(maxsize: Any = 128, typed: bool = False) -> Any:
    """A decorator that keeps up to `maxsize` results, and drops the least frequently used one. See `fifo_cache`."""
    return _decorator(maxsize, typed, LFUCache)


def lru_cache(maxsize: Any = 128, typed: bool = False) -> Any:
    """A decorator that keeps up to `maxsize` results, and drops the least recently used one. See `fifo_cache`."""
    return _decorator(maxsize, typed, LRUCache)


def rr_cache(maxsize: Any = 128, choice: Callable[..., Any] = random.choice, typed: bool = False) -> Any:
    """A decorator that keeps up to `maxsize` results, and drops one that `choice` picks. See `fifo_cache`."""
    return _decorator(maxsize, typed, lambda size: RRCache(size, choice))


def ttl_cache(
    maxsize: Any = 128, ttl: Any = 600, timer: Callable[[], Any] = time.monotonic, typed: bool = False
) -> Any:
    """A decorator that keeps up to `maxsize` results for `ttl` of `timer`, seconds by default. See `fifo_cache`."""
    return _decorator(
        maxsize, typed, lambda size: TTLCache(size, ttl, timer), lambda: _EndlessTTLCache(math.inf, ttl, timer)
    )
