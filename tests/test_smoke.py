"""The test of every wheel: each compiled part once, with nothing but pytest."""

import asyncio
import pickle
import threading

import pytest

import cachebox
from cachebox import MISSING, Cache, CacheStats, RemovalCause, cached, lru_cache


def test_evicts_the_least_recently_used():
    cache = Cache(max_size=2)
    cache["a"] = 1
    cache["b"] = 2
    assert cache.get("a") == 1
    cache["c"] = 3
    assert list(cache) == ["a", "c"]


def test_policies_order_keys(any_policy):
    cache = Cache(max_size=3, policy=any_policy)
    cache.update(a=1, b=2, c=3, d=4)
    assert list(cache) == ["b", "c", "d"]
    assert cache.popitem() == ("b", 2)


def test_entries_expire(clock):
    left = []
    cache = Cache(default_ttl=10, clock=clock, on_removal=lambda key, value, cause: left.append((key, cause)))
    cache["a"] = 1
    clock.now += 10
    assert cache.get("a", "gone") == "gone"
    assert left == [("a", RemovalCause.EXPIRED)]


def test_compute_increment_and_statistics():
    cache = Cache()
    assert cache.increment("n", 5) == 5
    assert cache.compute("n", lambda old: old + 1) == 6
    assert cache.compute("n", lambda old: MISSING) is MISSING
    assert cache.get("n") is None
    assert cache.stats.get_all() | {"sets": 2, "deletes": 1, "misses": 1} == cache.stats.get_all()
    assert "hits" in CacheStats().report()


def test_pickles_with_order():
    cache = Cache(max_size=3, policy="LFU")
    cache.update(a=1, b=2)
    cache.get("a")
    copied = pickle.loads(pickle.dumps(cache))
    assert list(copied.items()) == [("b", 2), ("a", 1)]


def test_cached_functions_methods_and_coroutines():
    calls = []

    @cached(max_size=10)
    def function(x):
        calls.append(x)
        return x * 2

    class Service:
        @cached
        def method(self, x):
            calls.append(x)
            return x * 3

    @cached
    async def coroutine(x):
        calls.append(x)
        return x * 4

    async def twice():
        return await asyncio.gather(coroutine(1), coroutine(1))

    service = Service()
    assert (function(1), function(1), service.method(1), service.method(1)) == (2, 2, 3, 3)
    assert asyncio.run(twice()) == [4, 4]
    assert calls == [1, 1, 1]
    assert function.invalidate(1)
    assert service.method.invalidate(1)


def test_lru_cache_is_that_of_functools():
    @lru_cache(maxsize=2)
    def double(x):
        return x * 2

    assert [double(x) for x in (1, 1, 2, 3)] == [2, 2, 4, 6]
    assert double.cache_info() == (1, 3, 2, 2)


def test_threads_lose_nothing():
    cache = Cache()
    threads = [threading.Thread(target=lambda: [cache.increment("n") for _ in range(1000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache["n"] == 4000


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="max_size must be at least 1"):
        Cache(max_size=0)


def test_the_version_is_that_of_the_distribution():
    assert cachebox.__version__.count(".") >= 2
