"""A policy written in Python knows exactly the keys of its cache, also after operations in the middle of others."""

from __future__ import annotations

import contextlib
import gc

import pytest

from cachebox import Cache, EvictionPolicy


class Ordered(EvictionPolicy):
    """Keeps its keys in a list: a key that it gets twice is there twice."""

    def __init__(self, max_size=None):
        super().__init__(max_size)
        self.keys = []

    def add(self, key):
        assert key not in self.keys, "added twice"
        self.keys.append(key)

    def remove(self, key):
        self.keys.remove(key)

    def access(self, key):
        pass

    def evict(self):
        return self.keys.pop(0) if self.keys else None

    def clear(self):
        self.keys.clear()

    def __len__(self):
        return len(self.keys)

    def __contains__(self, key):
        return key in self.keys

    def __iter__(self):
        return iter(list(self.keys))


class Meddling:
    """A key whose hash is asked for at some time: then something happens to the cache."""

    def __init__(self):
        self.do = None

    def __hash__(self):
        do, self.do = self.do, None
        if do is not None:
            do()
        return 1


INNER = {
    "nothing is left": lambda cache, key: cache.clear(),
    "the victim goes": lambda cache, key: cache.delete(key),
    "the victim goes and comes again": lambda cache, key: (cache.delete(key), cache.set(key, 2)),
    "the victim has another value": lambda cache, key: cache.set(key, 2),
    "another one comes": lambda cache, key: cache.set("inner", 1),
    "one is evicted": lambda cache, key: cache.popitem(),
}


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("outer", ["set", "popitem", "_import", "compute"])
def test_policy_agrees_after_an_operation_in_the_middle_of_an_eviction(outer, inner):
    cache = Cache(max_size=3, policy=Ordered)
    victim = Meddling()
    cache.update({victim: 1, "b": 1, "c": 1})
    named = Ordered.evict

    def evict(policy):
        key = named(policy)
        if key is victim and not happened:
            happened.append(True)
            victim.do = lambda: INNER[inner](cache, victim)  # the cache asks for its hash, to find it
        return key

    happened = []
    cache.policy.evict = evict.__get__(cache.policy)
    with contextlib.suppress(RuntimeError, KeyError):  # the policy named a key that is gone
        if outer == "set":
            cache["d"] = 1
        elif outer == "popitem":
            cache.popitem()
        elif outer == "_import":
            cache._import([(n, 1, 5.0, 1, ()) for n in range(3)])
        else:
            cache.compute("d", lambda old: 1)
    assert happened
    assert set(cache.policy) == set(cache)
    cache._check()
    cache.update(dict.fromkeys(range(10), 1))
    assert set(cache.policy) == set(cache)


def test_policy_cleared_in_the_middle_of_its_method_agrees():
    class Clearing(Ordered):
        def add(self, key):
            if key == "clears":
                cache.clear()
            super().add(key)

    cache = Cache(max_size=3, policy=Clearing)
    cache["a"] = 1
    cache["clears"] = 1
    assert set(cache.policy) == set(cache)
    cache._check()


def test_failure_forgotten_by_a_key_that_changes_the_cache():
    """Between a write and the policy's call about it, the key is asked for its hash."""
    cache = Cache(max_size=3, policy=Ordered, loader=lambda key: 1 / 0, cache_exceptions=ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        cache.get("failed")
    key = Meddling()
    hashed = 0

    def delete():
        nonlocal hashed
        hashed += 1
        cache.delete(key)
        if hashed < 5:
            key.do = delete

    key.do = delete
    cache.compute(key, lambda old: 1)
    assert set(cache.policy) == set(cache)
    cache._check()


class Clears:
    def __init__(self, cache):
        self.cache, self.itself = cache, self

    def __del__(self):
        self.cache.clear()


@pytest.mark.parametrize("policy", ["AUTO", "LRU", "LFU", "FIFO"])
def test_collector_in_the_middle_of_a_check(policy):
    cache = Cache(max_size=300, policy=policy)
    cache.update({n: n for n in range(1000)})
    enabled, before = gc.isenabled(), gc.get_threshold()
    gc.disable()
    Clears(cache)
    try:
        gc.set_threshold(1, 1, 1)
        gc.enable()
        cache._check()
    finally:
        gc.set_threshold(*before)
        gc.enable() if enabled else gc.disable()
    gc.collect()
    assert len(cache) == 0
    cache._check()
