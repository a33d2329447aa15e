"""`max_weight` and `weigher`: the bound on what all entries weigh together."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest

from cachebox import Cache
from conftest import named


def by_value(key, value):
    return value


@pytest.fixture
def left():
    """Notes what left the caches of a test."""
    return []


@pytest.fixture
def cache(any_policy, left):
    return Cache(
        None, policy=any_policy, max_weight=10, weigher=by_value, on_removal=lambda k, v, c: left.append((k, v, c.name))
    )


def test_weight_is_what_the_live_entries_weigh_together(cache):
    assert cache.weight == 0
    cache.update(a=3, b=4)
    assert cache.weight == 7
    cache["a"] = 1
    assert cache.weight == 5
    del cache["b"]
    assert cache.weight == 1
    cache.clear()
    assert cache.weight == 0


def test_without_a_weigher_every_entry_weighs_one(any_policy):
    cache = Cache(policy=any_policy)
    cache.update(a=100, b=200)
    assert cache.weight == 2


def test_the_expired_weigh_nothing(any_policy, clock):
    cache = Cache(policy=any_policy, max_weight=10, weigher=by_value, clock=clock)
    cache.set("a", 4, ttl=5)
    cache["b"] = 3
    clock.now += 5
    assert cache.weight == 3


def test_the_weigher_sees_key_and_value(any_policy):
    seen = []
    cache = Cache(policy=any_policy, max_weight=10, weigher=lambda *args: seen.append(args) or 1)
    cache["a"] = "x"
    cache.set_many({"b": "y"})
    assert seen == [("a", "x"), ("b", "y")]


def test_never_more_than_max_weight(any_policy):
    weights = []
    cache = Cache(
        None, policy=any_policy, max_weight=10, weigher=by_value, on_evict=lambda k, v: weights.append(cache.weight)
    )
    for n in range(200):
        cache[n % 17] = n * 7 % 11
        weights.append(cache.weight)
    assert max(weights) <= 10 and len(weights) > 200


def test_several_entries_may_leave_for_one_heavy_one(cache, left):
    cache.update(a=3, b=3, c=3)
    cache["d"] = 7
    assert left == [("a", 3, "SIZE"), ("b", 3, "SIZE")]
    assert (list(cache), cache.weight, cache.stats.evictions) == (["c", "d"], 10, 2)
    cache["e"] = 10
    assert (list(cache), cache.weight, cache.stats.evictions) == (["e"], 10, 4)


def test_an_entry_of_exactly_max_weight_fits(cache):
    cache["a"] = 10
    assert cache == {"a": 10}


def test_a_weight_that_alone_exceeds_max_weight_is_refused(cache, left):
    cache.update(a=3, b=3)
    counted = cache.stats.get_all()
    with pytest.raises(ValueError, match="max_weight"):
        cache["c"] = 11
    assert (list(cache.items()), left, cache.stats.get_all()) == ([("a", 3), ("b", 3)], [], counted)


def test_an_overwrite_that_would_not_fit_leaves_the_old_entry(cache, left, clock):
    cache.set("a", 3, ttl=math.inf)
    for refused in (
        lambda: cache.set("a", 11),
        lambda: cache.__setitem__("a", 11),
        lambda: cache.compute("a", lambda old: 11),
        lambda: cache.increment("a", 8),
    ):
        with pytest.raises(ValueError, match="max_weight"):
            refused()
    assert (list(cache.items()), cache.weight, left) == ([("a", 3)], 3, [])


def test_a_heavier_overwrite_evicts_others_never_itself(policy, left):
    cache = Cache(
        None, policy=policy, max_weight=10, weigher=by_value, on_removal=lambda k, v, c: left.append((k, v, c.name))
    )
    cache.update(a=3, b=3, c=3)
    cache["a"] = 8
    assert left == [("b", 3, "SIZE"), ("c", 3, "SIZE"), ("a", 3, "REPLACED")]
    assert (list(cache.items()), cache.weight) == ([("a", 8)], 8)


def test_a_heavier_overwrite_under_a_policy_in_python_keeps_the_bound(cache):
    cache.update(a=3, b=3, c=3)
    cache["a"] = 8
    assert cache.peek("a") == 8 and cache.weight <= 10


def test_a_lighter_overwrite_evicts_nothing(cache, left):
    cache.update(a=5, b=5)
    cache["a"] = 1
    assert left == [("a", 5, "REPLACED")] and cache.weight == 6


def test_entries_of_no_weight_are_free(cache):
    cache.update(dict.fromkeys(range(100), 0))
    cache["full"] = 10
    cache["more"] = 0
    assert len(cache) == 102 and cache.weight == 10


def test_max_size_and_max_weight_hold_together(any_policy):
    cache = Cache(3, policy=any_policy, max_weight=10, weigher=by_value)
    cache.update(a=1, b=1, c=1, d=1)
    assert list(cache) == ["b", "c", "d"]
    cache["e"] = 9
    assert list(cache) == ["d", "e"]


def test_with_max_size_none_only_the_weight_is_bound(any_policy):
    cache = Cache(None, policy=any_policy, max_weight=1000, weigher=lambda key, value: 1)
    cache.update(dict.fromkeys(range(1500)))
    assert (len(cache), cache.weight, cache.max_size) == (1000, 1000, None)


@pytest.mark.parametrize("one", [1, 1.0, Fraction(2, 2), Decimal(1)], ids=named)
def test_weights_are_any_numbers(any_policy, one):
    cache = Cache(policy=any_policy, max_weight=one * 2, weigher=lambda key, value: one)
    cache.update(a=1, b=2, c=3)
    assert list(cache) == ["b", "c"] and cache.weight == 2


def test_weights_may_be_fractions_and_an_empty_cache_weighs_nothing(any_policy):
    cache = Cache(None, policy=any_policy, max_weight=1, weigher=lambda key, value: 0.1)
    for n in range(1000):
        cache[n] = n
        assert cache.weight <= 1
    assert cache.weight == pytest.approx(0.1 * len(cache)) and len(cache) in (9, 10)
    cache.delete_many(list(cache))
    assert cache.weight == 0


def test_an_infinite_max_weight_only_adds_up(any_policy):
    cache = Cache(None, policy=any_policy, max_weight=math.inf, weigher=by_value)
    cache.update(a=1e300, b=5)
    assert cache.weight == 1e300 and len(cache) == 2
    with pytest.raises(ValueError, match="weigher"):
        cache["c"] = math.inf
    del cache["a"]
    assert len(cache) == 1 and math.isfinite(cache.weight)


def test_the_expired_go_before_live_entries_for_weight_too(cache, clock, any_policy, left):
    cache = Cache(
        policy=any_policy,
        max_weight=10,
        weigher=by_value,
        clock=clock,
        on_removal=lambda k, v, c: left.append((k, v, c.name)),
    )
    cache["a"] = 3
    cache.set("b", 6, ttl=5)
    clock.now += 5
    cache["c"] = 7
    assert left == [("b", 6, "EXPIRED")] and list(cache) == ["a", "c"]


def test_bad_input_in_a_bulk_write_is_refused_before_the_first_item_is_stored(cache):
    for call in (
        lambda: cache.update({"a": 1, "b": 11}),
        lambda: cache.update([("a", 1), ("b", -1)]),
        lambda: cache.set_many({"a": 1, "b": math.nan}),
    ):
        with pytest.raises(ValueError, match="weigh"):
            call()
    assert len(cache) == 0 and cache.stats.sets == 0


def test_a_bulk_write_that_fits_only_in_part_evicts_in_order(cache):
    cache.update(a=6, b=6, c=3)
    assert list(cache.items()) == [("b", 6), ("c", 3)]


def test_a_weigher_runs_before_the_lock_is_taken_and_may_use_the_cache(any_policy):
    def weigher(key, value):
        return 1 + len(cache) + cache.get("absent", 0) + (key in cache)

    cache = Cache(policy=any_policy, max_weight=100, weigher=weigher)
    cache.update(a=1)
    cache["b"] = 1
    cache["b"] = 2
    assert cache.weight == 1 + 4


def test_an_exception_from_the_weigher_reaches_the_caller_and_changes_nothing(any_policy):
    def weigher(key, value):
        if value is None:
            raise LookupError("no scales")
        return 1

    cache = Cache(policy=any_policy, max_weight=10, weigher=weigher)
    cache["a"] = 1
    counted = cache.stats.get_all()
    for call in (
        lambda: cache.set("a", None),
        lambda: cache.update([("b", 1), ("a", None)]),
        lambda: cache.setdefault("c", None),
        lambda: cache.compute("a", lambda old: None),
    ):
        with pytest.raises(LookupError, match="no scales"):
            call()
    assert list(cache.items()) == [("a", 1)] and cache.stats.get_all() == counted


def test_setdefault_weighs_the_default_only_where_it_is_stored(cache, any_policy, clock):
    for options in ({}, {"clock": clock}, {"time_to_idle": 5}):
        cache = Cache(policy=any_policy, max_weight=10, weigher=lambda key, value: len(value), **options)
        cache["a"] = "abc"
        assert cache.setdefault("a") == "abc"
        assert cache.setdefault("a", "x" * 11) == "abc"
        assert cache.setdefault("b", "xy") == "xy"
        with pytest.raises(ValueError, match="max_weight"):
            cache.setdefault("c", "x" * 11)
        assert cache.weight == 5 and (cache.stats.hits, cache.stats.misses, cache.stats.sets) == (2, 1, 2)


def test_a_loaded_value_over_max_weight_is_returned_and_not_stored(cache, left):
    cache["a"] = 5
    assert cache.get_or_set("b", lambda: 11) == 11
    assert (list(cache), left, cache.stats.misses, cache.stats.sets) == (["a"], [], 1, 1)


def test_a_loaded_value_of_an_impossible_weight_is_an_error(cache):
    with pytest.raises(ValueError, match="weigher"):
        cache.get_or_set("a", lambda: -1)
    assert len(cache) == 0 and cache.get_or_set("a", lambda: 2) == 2


def test_increment_weighs_the_sum(cache):
    cache.increment("a", 4)
    assert cache.weight == 4
    cache.increment("a", 5)
    assert cache.weight == 9
    cache.update(b=1)
    cache.increment("b", 3)
    assert cache.weight <= 10 and cache.peek("b") == 4


def test_resize_bounds_the_entries_not_the_weight(cache):
    cache.update(a=1, b=2, c=3)
    cache.resize(2)
    assert list(cache) == ["b", "c"] and cache.weight == 5
