"""Objects that are made at their first use are made once, however many threads use them first at the same moment."""

from __future__ import annotations

import threading

import pytest

from cachebox import Cache, EvictionPolicy, cached
from in_threads import LIMIT, must_end, run_all

THREADS = 4
ROUNDS = 150


def at_the_same_moment(make, use):
    """Have every thread `use` the same new thing, again and again: the objects that each made, round by round."""
    barrier = threading.Barrier(THREADS)
    made = [make() for _ in range(ROUNDS)]

    def work(n):
        results = []
        for thing in made:
            barrier.wait(LIMIT)
            results.append(use(thing, n))
        return results

    return made, list(zip(*run_all(*[lambda n=n: work(n) for n in range(THREADS)]), strict=True))


@must_end
def test_the_first_tags():
    def use(cache, n):
        for step in range(20):
            cache.set((n, step), step, tags=("all", f"{n} {step}"))
        return cache.invalidate_tag(f"{n} 3")

    made, removed = at_the_same_moment(Cache, use)
    assert set(removed) == {(1,) * THREADS}
    for cache in made:
        assert len(cache) == 19 * THREADS and cache.invalidate_tag("all") == 19 * THREADS
        cache._check()


@must_end
def test_the_first_unused_tags():
    def use(cache, n):
        for step in range(70):
            cache.set("key", n, tags=f"{n} {step}")

    made, _ = at_the_same_moment(Cache, use)
    for cache in made:
        assert len(cache) == 1
        cache._check()


@must_end
def test_the_first_deadline(clock):
    made, _ = at_the_same_moment(Cache, lambda cache, n: cache.set(n, n, ttl=60))
    assert all(len(cache) == THREADS for cache in made)


@must_end
def test_the_first_removal():
    def make():
        told = []
        return told, Cache(on_removal=lambda *removal: told.append(removal))

    def use(pair, n):
        pair[1].set(n, n)
        pair[1].delete(n)

    made, _ = at_the_same_moment(make, use)
    assert all(len(told) == THREADS for told, _ in made)


@must_end
def test_the_first_call_without_arguments():
    def make():
        return cached(lambda: [])

    made, results = at_the_same_moment(make, lambda function, n: (function(), function()))
    for function, pairs in zip(made, results, strict=True):
        assert len({id(result) for pair in pairs for result in pair}) == 1
        assert function.cache_info().misses + function.cache_info().hits == 2 * THREADS


@must_end
def test_the_first_miss_of_what_may_be_a_method():
    def make():
        class Thing:
            @cached
            def double(self, x):
                return [x, x]

        return Thing()

    _, results = at_the_same_moment(make, lambda thing, n: thing.double(n))
    assert all(of_all == tuple([n, n] for n in range(THREADS)) for of_all in results)

    def make_class():
        class Thing:
            @classmethod
            @cached
            def double(cls, x):
                return [x, x]

        return Thing

    _, results = at_the_same_moment(make_class, lambda thing, n: thing.double(n))
    assert all(of_all == tuple([n, n] for n in range(THREADS)) for of_all in results)


@pytest.mark.parametrize("policy", ["LRU", "LFU", "FIFO", "AUTO", "own"])
@must_end
def test_a_size_that_changes_while_it_is_read(policy):
    class Own(EvictionPolicy):
        add = remove = access = lambda self, key: None
        __iter__ = __len__ = __contains__ = evict = clear = lambda self, *key: None

    cache = Cache(10_000, policy=Own() if policy == "own" else policy)
    sizes = range(10_000, 10_400)

    def resize():
        for size in sizes:
            cache.resize(size)

    def read():
        for _ in range(2000):
            assert cache.max_size in sizes
            if policy == "own":
                assert cache.policy.max_size in sizes

    run_all(resize, resize, read, read)
