"""What each call on a cache counts, exactly."""

from __future__ import annotations

import pytest

from cachebox import MISSING, Cache

COUNTERS = (
    "hits", "misses", "sets", "deletes", "evictions", "expired", "load_success", "load_failure", "load_time",
    "stale_serves", "refreshes", "refresh_failures", "negative_hits",
)


def refused(call, *arguments, error=(TypeError, ValueError)):
    with pytest.raises(error):
        call(*arguments)


# What a call counts on a full cache of a=1, b=2, c=3.
CALLS = {
    "get, found": (lambda c: c.get("a"), {"hits": 1}),
    "get, absent": (lambda c: c.get("x"), {"misses": 1}),
    "get with a default": (lambda c: c.get("x", 1), {"misses": 1}),
    "c[key], found": (lambda c: c["a"], {"hits": 1}),
    "c[key], absent": (lambda c: refused(c.__getitem__, "x", error=KeyError), {"misses": 1}),
    "get_many": (lambda c: c.get_many(["a", "x", "b", "a"]), {"hits": 3, "misses": 1}),
    "get_or_set, found": (lambda c: c.get_or_set("a", int), {"hits": 1}),
    "get_or_set, absent": (lambda c: c.get_or_set("x", int), {"misses": 1, "sets": 1, "evictions": 1}),
    "get_or_set, failing": (
        lambda c: refused(c.get_or_set, "x", lambda: 1 / 0, error=ZeroDivisionError),
        {"misses": 1},
    ),
    "setdefault, found": (lambda c: c.setdefault("a", 1), {"hits": 1}),
    "setdefault, absent": (lambda c: c.setdefault("x", 1), {"misses": 1, "sets": 1, "evictions": 1}),
    "peek": (lambda c: (c.peek("a"), c.peek("x")), {}),
    "in": (lambda c: ("a" in c, "x" in c), {}),
    "iteration": (lambda c: (list(c), list(c.keys()), list(c.values()), list(c.items())), {}),
    "ttl": (lambda c: c.ttl("a"), {}),
    "touch": (lambda c: (c.touch("a", 60), c.touch("x")), {}),
    "set, new": (lambda c: c.set("x", 1), {"sets": 1, "evictions": 1}),
    "set, overwriting": (lambda c: c.set("a", 1), {"sets": 1}),
    "c[key] = v": (lambda c: c.__setitem__("a", 5), {"sets": 1}),
    "set_many": (lambda c: c.set_many({"a": 1, "x": 2}), {"sets": 2, "evictions": 1}),
    "update": (lambda c: c.update([("a", 1), ("a", 2)], x=2), {"sets": 3, "evictions": 1}),
    "delete": (lambda c: c.delete("a"), {"deletes": 1}),
    "delete of nothing": (lambda c: c.delete("x"), {}),
    "del": (lambda c: c.__delitem__("a"), {"deletes": 1}),
    "del of nothing": (lambda c: refused(c.__delitem__, "x", error=KeyError), {}),
    "pop": (lambda c: c.pop("a"), {"deletes": 1}),
    "pop of nothing": (lambda c: (c.pop("x", None), refused(c.pop, "x", error=KeyError)), {}),
    "popitem": (lambda c: c.popitem(), {"deletes": 1}),
    "delete_many": (lambda c: c.delete_many(["a", "x", "b"]), {"deletes": 2}),
    "increment": (lambda c: c.increment("a"), {"sets": 1}),
    "increment, new": (lambda c: c.increment("x"), {"sets": 1, "evictions": 1}),
    "compute, overwriting": (lambda c: c.compute("a", lambda old: 1), {"sets": 1}),
    "compute, new": (lambda c: c.compute("x", lambda old: 1), {"sets": 1, "evictions": 1}),
    "compute, deleting": (lambda c: c.compute("a", lambda old: MISSING), {"deletes": 1}),
    "compute, deleting nothing": (lambda c: c.compute("x", lambda old: MISSING), {}),
    "compute, failing": (lambda c: refused(c.compute, "a", lambda old: 1 / 0, error=ZeroDivisionError), {}),
    "resize": (lambda c: c.resize(1), {"evictions": 2}),
    "purge_expired": (lambda c: c.purge_expired(), {}),
    "copy, ==, repr, len, weight": (lambda c: (c.copy(), c == {}, repr(c), len(c), c.weight), {}),
    "a refused ttl": (
        lambda c: (refused(c.set, "a", 1, 0), refused(c.touch, "a", -1), refused(c.get_or_set, "a", int, 0)),
        {},
    ),
    "a refused bulk write": (lambda c: (refused(c.set_many, {"a": 1}, 0), refused(c.update, [("a", 1), ("b",)])), {}),
    "a refused key": (lambda c: (refused(c.get, []), refused(c.set, [], 1), refused(c.get_many, ["a", []])), {}),
    "a refused factory": (lambda c: (refused(c.get_or_set, "a", None), refused(c.compute, "a", None)), {}),
    "a refused amount": (lambda c: refused(c.increment, "a", 1.5), {}),
    "a refused size": (lambda c: refused(c.resize, 0), {}),
}


@pytest.mark.parametrize("call", CALLS)
def test_each_call_counts_this_and_nothing_else(any_policy, clock, call):
    cache = Cache(3, policy=any_policy, clock=clock)
    cache.update(a=1, b=2, c=3)
    before = cache.stats.snapshot()
    act, counted = CALLS[call]
    act(cache)
    difference = (cache.stats.snapshot() - before).get_all()
    assert difference == {**dict.fromkeys(COUNTERS, 0), **counted}


def test_eviction_of_several_for_weight_counts_each(any_policy):
    cache = Cache(policy=any_policy, max_weight=3, weigher=lambda key, value: value)
    cache.update(a=1, b=1, c=1)
    cache["d"] = 3
    assert (cache.stats.evictions, cache.stats.sets) == (3, 4)


def test_an_expired_entry_that_had_to_make_room_counts_as_expired_not_evicted(any_policy, clock):
    cache = Cache(2, policy=any_policy, clock=clock)
    cache.set("a", 1, ttl=1)
    cache.set("b", 1, ttl=1)
    clock.now += 1
    cache["c"] = 1
    assert (cache.stats.expired, cache.stats.evictions) == (1, 0)
    assert len(cache) == 1
    assert (cache.stats.expired, cache.stats.evictions) == (2, 0)


def test_every_entry_that_came_is_still_there_or_counted_as_gone(any_policy, clock):
    cache = Cache(20, policy=any_policy, clock=clock)
    overwrites = 0
    for n in range(2000):
        key = n * 31 % 47
        overwrites += key in cache
        cache.set(key, n, ttl=n % 5 or None)
        if n % 3 == 0:
            cache.delete(n * 17 % 47)
        if n % 7 == 0:
            clock.now += 1
    left, stats = len(cache), cache.stats
    assert left == stats.sets - overwrites - stats.deletes - stats.evictions - stats.expired
    assert min(stats.deletes, stats.evictions, stats.expired, overwrites) > 0


def test_clear_and_reset_set_all_to_zero_and_counting_goes_on(any_policy):
    cache = Cache(2, policy=any_policy)
    for forget in (cache.clear, cache.stats.reset):
        cache.update(a=1, b=2, c=3)
        cache.get("c")
        cache.get("x")
        cache.delete("c")
        forget()
        assert cache.stats.get_all() == dict.fromkeys(COUNTERS, 0)
        cache.get("x")
        assert cache.stats.misses == 1
        cache.stats.reset()


def test_the_hit_rate_of_a_cache(any_policy):
    cache = Cache(policy=any_policy)
    assert cache.stats.hit_rate() == 0.0
    cache["a"] = 1
    for key in "aaax":
        cache.get(key)
    assert cache.stats.hit_rate() == 0.75


def test_a_hit_of_none_and_of_a_false_value_counts_as_a_hit(any_policy):
    cache = Cache(policy=any_policy)
    cache.update(a=None, b=0)
    cache.get("a"), cache["b"], cache.setdefault("a"), cache.get_or_set("b", int)
    assert (cache.stats.hits, cache.stats.misses) == (4, 0)


def test_caches_count_apart(any_policy):
    one, other = Cache(policy=any_policy), Cache(policy=any_policy)
    one["a"] = 1
    assert (one.stats.sets, other.stats.sets) == (1, 0)
