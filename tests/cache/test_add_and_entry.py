"""`add`, `entry`, `contains`, and tags wherever a value is stored."""

from __future__ import annotations

import math

import pytest

from cachebox import Cache, Entry
from conftest import named
from in_threads import run_all


def test_add_stores_only_where_there_is_nothing(any_policy, clock):
    cache = Cache(2, policy=any_policy, clock=clock)
    assert cache.add("a", 1, ttl=10) is True and cache.add("a", 2) is False and cache.add("a", None, ttl=50) is False
    assert cache["a"] == 1 and cache.ttl("a") == 10
    clock.now += 10
    assert cache.add("a", 3) is True and cache.ttl("a") is None
    assert cache.stats.sets == 2 and cache.stats.misses == 0 and cache.stats.expired == 1
    cache._check()


def test_an_add_that_adds_nothing_changes_and_counts_nothing(any_policy):
    cache = Cache(2, policy=any_policy)
    cache.update(a=1, b=2)
    before = cache.stats.get_all(), list(cache.items())
    assert not cache.add("a", 5, tags="t")
    assert (cache.stats.get_all(), list(cache.items())) == before and cache.entry("a").tags == ()


def test_one_of_many_threads_adds(any_policy):
    for _ in range(20):
        cache = Cache(policy=any_policy)
        added = run_all(*[lambda n=n: cache.add("a", n) for n in range(4)])
        assert sorted(added) == [False, False, False, True] and cache["a"] == added.index(True)


@pytest.mark.parametrize("arguments, name", [
    ({"ttl": 0}, "ttl"), ({"ttl": "5"}, "ttl"), ({"tags": 5}, "tags"), ({"tags": [[]]}, "tags"),
], ids=named)
def test_bad_input_is_refused_whether_the_key_is_there_or_not(arguments, name):
    cache = Cache()
    cache["there"] = 1
    for key in ("there", "not there"):
        for call in (lambda: cache.add(key, 1, **arguments), lambda: cache.get_or_set(key, int, **arguments)):
            with pytest.raises((TypeError, ValueError), match=name):
                call()
    with pytest.raises(TypeError, match="unhashable"):
        cache.add([], 1)
    assert dict(cache) == {"there": 1}


def test_an_added_value_has_to_fit():
    cache = Cache(max_weight=5, weigher=lambda key, value: value)
    cache["a"] = 1
    with pytest.raises(ValueError, match="max_weight"):
        cache.add("b", 6)
    assert cache.add("a", 6) is False and list(cache) == ["a"]


def test_a_write_by_add_forgets_a_failure_and_ends_a_load():
    def fail(key):
        raise LookupError(key)

    cache = Cache(loader=fail, cache_exceptions=LookupError, exception_ttl=60)
    with pytest.raises(LookupError):
        cache["a"]
    assert cache.add("a", 1) and cache["a"] == 1
    assert cache.get_or_set("b", lambda: cache.add("b", "added") and "loaded") == "loaded" and cache["b"] == "added"


def test_an_entry_tells_all_and_counts_nothing(clock):
    cache = Cache(2, max_weight=10, weigher=lambda key, value: value / 2, clock=clock, time_to_idle=100)
    cache.set("a", 3, ttl=50, tags=("t", "u"))
    cache.set("b", 4)
    clock.now += 10
    before = cache.stats.get_all(), list(cache)
    assert cache.entry("a") == Entry("a", 3, 40.0, 1.5, ("t", "u")) == ("a", 3, 40.0, 1.5, ("t", "u"))
    assert cache.entry("b") == ("b", 4, 90.0, 2, ()) and type(cache.entry("b").weight) is int
    assert cache.entry("c") is None
    assert (cache.stats.get_all(), list(cache)) == before
    clock.now += 40
    assert cache.entry("a") is None and not cache.contains("a") and cache.contains("b")
    with pytest.raises(TypeError, match="unhashable"):
        cache.entry([])


def test_an_entry_shows_the_key_that_is_stored():
    cache = Cache()
    cache[1] = "one"
    assert repr(cache.entry(True)) == "Entry(key=1, value='one', ttl=None, weight=1, tags=())"


def test_tags_keep_their_order_in_copies():
    cache = Cache()
    cache.set("a", 1, tags=["x", "y", "z"])
    for _ in range(3):
        cache = cache.copy()
        assert cache.entry("a").tags == ("x", "y", "z")


def test_tags_wherever_a_value_is_stored():
    cache = Cache()
    cache.add("a", 1, tags="t")
    cache.set_many({"b": 2, "c": 3}, tags=("t", "u"))
    assert cache.get_or_set("d", lambda: 4, tags="t") == 4
    assert [cache.entry(key).tags for key in "abcd"] == [("t",), ("t", "u"), ("t", "u"), ("t",)]
    assert cache.get_or_set("a", int, tags="other") == 1 and cache.entry("a").tags == ("t",)
    assert cache.invalidate_tag("u") == 2 and cache.invalidate_tag("t") == 2 and len(cache) == 0


def test_nothing_is_allocated_for_lifetimes_that_there_are_not():
    plain, added = Cache(), Cache()
    for n in range(1000):
        plain[n] = added[n] = n
    for n in range(1000, 2000):
        plain.setdefault(n, n)
        added.add(n, n, ttl=math.inf)
    assert added.__sizeof__() == plain.__sizeof__()
