"""Caches in caches: deep, in circles, in themselves."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

from cachebox import Cache, cached


def a_hundred_thousand_deep(policy):
    """Nested caches are freed at once, without filling the C stack: as values, as keys' attributes, after evictions."""
    for options in ({}, {"default_ttl": 60, "on_evict": print}):
        inner = Cache(policy=policy)
        last = weakref.ref(inner)
        for _ in range(100_000):
            outer = Cache(2, policy=policy, **options)
            outer["inner"] = inner
            inner = outer
        del outer
        inner.clear()
        assert last() is None
        del inner


def deep_and_found_by_the_collector(policy):
    inner = end = Cache(policy=policy)
    last = weakref.ref(inner)
    for _ in range(50_000):
        outer = Cache(2, policy=policy)
        outer["inner"] = inner
        inner = outer
    end["circle"] = inner
    del outer, inner, end
    gc.collect()
    assert last() is None


def in_itself(policy):
    for _ in range(100):
        holder = []
        cache = Cache(3, policy=policy, on_evict=lambda key, value, holder=holder: holder[0].get("x"))
        holder.append(cache)
        cache["itself"] = cache
        assert cache["itself"] is cache and cache == cache
        assert "Cache" in repr(cache)
        for clone in (copy.copy(cache), cache.copy()):
            assert clone["itself"] is cache
        cache["a"] = 1
        cache["b"] = 2
        reference = weakref.ref(cache)
        del cache, clone, holder
        gc.collect()
        assert reference() is None


def copied_in_circles(policy):
    cache = Cache(3, policy=policy)
    other = Cache(3, policy=policy)
    cache["other"], other["other"] = other, cache
    cache["itself"] = cache
    for clone in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert clone["itself"] is clone and clone["other"]["other"] is clone
        assert clone is not cache
        clone._check()


def compared_in_circles(policy):
    """An endless comparison is a RecursionError, as with dicts."""
    caches = []
    for _ in range(2):
        cache, other = Cache(3, policy=policy), Cache(3, policy=policy)
        cache["other"], other["other"] = other, cache
        caches.append(cache)
    try:
        assert caches[0] == caches[1]
    except RecursionError:
        pass
    else:
        raise AssertionError("the comparison ended")


def functions_in_caches(policy):
    """Cached functions whose results are cached functions, a thousand deep."""
    function = cached(lambda: None)
    last = weakref.ref(function)
    for _ in range(20_000):
        outer = cached(max_size=2, policy=policy)(lambda function=function: function)
        outer()
        function = outer
    del outer, function
    gc.collect()
    assert last() is None
