"""`Cache`: its constructor, storing, finding and removing one key or many, what counts as equal keys, the bound."""

from __future__ import annotations

import inspect
import math
import sys

import pytest

from cachebox import Cache, CacheStats, LRUPolicy
from conftest import named

# --- the constructor and what it shows ------------------------------------------------------------------------------


def test_the_defaults_are_a_thousand_entries_for_ever_under_lru():
    cache = Cache()
    assert (cache.max_size, cache.default_ttl, cache.policy, cache.weight, len(cache)) == (1000, None, "LRU", 0, 0)


def test_the_first_four_arguments_may_be_positional():
    left = []
    cache = Cache(1, 60, "FIFO", lambda key, value: left.append(key))
    cache.update(a=1, b=2)
    assert (cache.max_size, cache.default_ttl, cache.policy, left) == (1, 60, "FIFO", ["a"])


@pytest.mark.parametrize("name", ["time_to_idle", "max_weight", "weigher", "on_removal", "clock"])
def test_the_other_arguments_are_keywords_only(name):
    assert inspect.signature(Cache).parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
    with pytest.raises(TypeError):
        Cache(10, None, "LRU", None, None)


def test_none_is_the_default_of_every_option_that_can_be_left_out():
    cache = Cache(
        default_ttl=None, on_evict=None, time_to_idle=None, max_weight=None, weigher=None, on_removal=None, clock=None
    )
    cache["a"] = 1
    assert cache.ttl("a") is None and cache.weight == 1


SIGNATURES = {
    "get": "key, default=None",
    "set": "key, value, ttl=None, *, tags=()",
    "delete": "key",
    "clear": "",
    "peek": "key, default=None",
    "get_many": "keys",
    "set_many": "mapping, ttl=None, *, tags=()",
    "delete_many": "keys",
    "get_or_set": "key, factory, ttl=None, *, tags=()",
    "add": "key, value, ttl=None, *, tags=()",
    "entry": "key",
    "contains": "key",
    "aget": "key, default=None",
    "aget_many": "keys",
    "aget_or_set": "key, factory, ttl=None, *, tags=()",
    "increment": "key, amount=1",
    "compute": "key, fn",
    "ttl": "key",
    "touch": "key, ttl=None",
    "purge_expired": "",
    "resize": "max_size",
    "setdefault": "key, default=None",
    "popitem": "",
    "keys": "",
    "values": "",
    "items": "",
    "copy": "",
}


@pytest.mark.parametrize("method", SIGNATURES)
def test_methods_have_the_parameters_of_the_contract(method):
    parameters = list(inspect.signature(getattr(Cache, method)).parameters.values())[1:]
    assert str(inspect.Signature(parameters)) == f"({SIGNATURES[method]})"


def test_the_signature_of_pop_can_be_read():
    assert list(inspect.signature(Cache.pop).parameters) == ["self", "key", "default"]


def test_arguments_may_be_given_by_name(any_policy):
    cache = Cache(policy=any_policy)
    cache.set(key="a", value=1, ttl=60)
    cache.set_many(mapping={"b": 2}, ttl=60)
    assert cache.get(key="a", default=0) == cache.peek(key="a", default=0) == cache.setdefault(key="a", default=0) == 1
    assert cache.get_many(keys=["a", "b"]) == {"a": 1, "b": 2}
    assert cache.increment(key="a", amount=2) == 3
    assert cache.get_or_set(key="a", factory=int, ttl=9) == 3
    assert cache.compute(key="a", fn=lambda old: old + 1) == 4
    assert cache.touch(key="a", ttl=10) is True
    assert cache.ttl(key="a") <= 10
    assert cache.pop(key="a", default=None) == 4
    assert cache.delete(key="a") is False
    assert cache.delete_many(keys=["b"]) == 1
    cache.resize(max_size=5)
    assert cache.max_size == 5


def test_init_cannot_run_again_under_the_feet_of_stored_entries():
    cache = Cache(max_size=5)
    cache["a"] = 1
    with pytest.raises(RuntimeError, match="__init__"):
        cache.__init__(max_size=1)
    assert (cache.max_size, dict(cache.items())) == (5, {"a": 1})


def test_the_attributes_cannot_be_assigned():
    cache = Cache(max_size=5)
    for name in ("max_size", "default_ttl", "policy", "weight", "stats"):
        with pytest.raises(AttributeError):
            setattr(cache, name, 1)
    assert cache.max_size == 5


# --- get, set, delete -----------------------------------------------------------------------------------------------


def test_get_returns_the_value_or_the_default(any_policy):
    cache = Cache(policy=any_policy)
    cache.set("a", 1)
    assert cache.get("a") == 1
    assert cache.get("a", "nothing") == 1
    assert cache.get("b") is None
    assert cache.get("b", "nothing") == "nothing"


def test_set_returns_none_and_replaces(any_policy):
    cache = Cache(policy=any_policy)
    assert cache.set("a", 1) is None
    assert cache.set("a", 2) is None
    assert (cache.get("a"), len(cache)) == (2, 1)


def test_values_are_handed_out_as_they_were_stored_not_copied(any_policy):
    cache = Cache(policy=any_policy)
    value = []
    cache.set("a", value)
    assert cache.get("a") is value and cache["a"] is value and cache.peek("a") is value and cache.pop("a") is value


def test_delete_tells_whether_it_removed_a_live_entry(any_policy):
    cache = Cache(policy=any_policy)
    cache.set("a", 1)
    assert cache.delete("a") is True
    assert cache.delete("a") is False
    assert "a" not in cache and len(cache) == 0


def test_delete_of_an_expired_entry_is_false(any_policy, clock):
    cache = Cache(policy=any_policy, clock=clock)
    cache.set("a", 1, ttl=5)
    clock.now += 5
    assert cache.delete("a") is False
    assert (cache.stats.deletes, cache.stats.expired) == (0, 1)


@pytest.mark.parametrize("value", [None, False, 0, "", (), float("nan"), NotImplemented, ..., KeyError, int], ids=named)
def test_any_object_is_a_value_none_included(any_policy, value):
    cache = Cache(policy=any_policy)
    cache["a"] = value
    assert cache.get("a", "default") is value
    assert cache["a"] is value
    assert cache.peek("a", "default") is value
    assert cache.setdefault("a", "default") is value
    assert cache.get_or_set("a", lambda: "default") is value
    assert cache.get_many(["a"])["a"] is value
    assert "a" in cache and len(cache) == 1 and cache.stats.misses == 0
    assert cache.pop("a", "default") is value
    cache.set("a", value)
    assert cache.popitem()[1] is value


def test_a_cached_none_is_a_hit(any_policy):
    cache = Cache(policy=any_policy)
    cache["a"] = None
    assert cache.get("a", 1) is None
    assert (cache.stats.hits, cache.stats.misses) == (1, 0)


def test_clear_empties_the_cache_resets_the_statistics_and_calls_nobody(any_policy):
    told = []
    cache = Cache(policy=any_policy, on_evict=lambda *a: told.append(a), on_removal=lambda *a: told.append(a))
    cache.update(a=1, b=2)
    cache.get("a")
    assert cache.clear() is None
    assert (len(cache), list(cache), told) == (0, [], [])
    assert set(cache.stats.get_all().values()) == {0}
    cache["a"] = 3
    assert dict(cache.items()) == {"a": 3}


def test_a_cleared_cache_orders_anew(any_policy):
    cache = Cache(max_size=2, policy=any_policy)
    cache.update(a=1, b=2)
    for _ in range(5):
        cache.get("b")
    cache.clear()
    cache.update(b=1, a=2, c=3)
    assert list(cache) == ["a", "c"]


LOOKS = {
    "in": lambda cache: "a" in cache,
    "not in": lambda cache: "absent" in cache,
    "len": len,
    "bool": bool,
    "peek": lambda cache: cache.peek("a"),
    "peek at nothing": lambda cache: cache.peek("absent"),
    "ttl": lambda cache: cache.ttl("a"),
    "touch": lambda cache: cache.touch("a"),
    "iter": list,
    "keys": lambda cache: list(cache.keys()),
    "values": lambda cache: list(cache.values()),
    "items": lambda cache: list(cache.items()),
    "in keys": lambda cache: "a" in cache.keys(),
    "in values": lambda cache: 1 in cache.values(),
    "in items": lambda cache: ("a", 1) in cache.items(),
    "==": lambda cache: cache == {"a": 1},
    "repr": repr,
    "weight": lambda cache: cache.weight,
    "copy": lambda cache: cache.copy(),
    "purge_expired": lambda cache: cache.purge_expired(),
    "resize upwards": lambda cache: cache.resize(100),
    "pop of nothing": lambda cache: cache.pop("absent", None),
    "delete of nothing": lambda cache: cache.delete("absent"),
    "delete_many of nothing": lambda cache: cache.delete_many(["absent"]),
}


@pytest.mark.parametrize("look", LOOKS)
def test_looking_neither_counts_nor_promotes(any_policy, look):
    cache = Cache(max_size=3, policy=any_policy)
    cache.update(a=1, b=2, c=3)
    counted = cache.stats.get_all()
    LOOKS[look](cache)
    assert cache.stats.get_all() == counted
    assert list(cache) == ["a", "b", "c"]


# --- many keys ------------------------------------------------------------------------------------------------------


def test_get_many_returns_a_dict_of_what_is_there_and_counts_per_key(any_policy):
    cache = Cache(policy=any_policy)
    cache.update(a=1, b=None)
    found = cache.get_many(["b", "absent", "a"])
    assert type(found) is dict and list(found.items()) == [("b", None), ("a", 1)]
    assert (cache.stats.hits, cache.stats.misses) == (2, 1)


def test_get_many_takes_any_iterable_and_counts_a_key_as_often_as_it_is_named(any_policy):
    cache = Cache(policy=any_policy)
    cache.update(a=1, b=2)
    assert cache.get_many(iter("aab")) == {"a": 1, "b": 2}
    assert cache.get_many(()) == {}
    assert cache.stats.hits == 3


def test_get_many_promotes():
    cache = Cache(max_size=3)
    cache.update(a=1, b=2, c=3)
    cache.get_many(["b", "a"])
    assert list(cache) == ["c", "b", "a"]


def test_set_many_is_a_set_per_item(any_policy, clock):
    cache = Cache(max_size=2, policy=any_policy, default_ttl=60, clock=clock)
    assert cache.set_many({"a": 1, "b": 2, "c": 3}) is None
    assert (list(cache.items()), cache.ttl("c")) == ([("b", 2), ("c", 3)], 60)
    cache.set_many({"c": 4}, ttl=5)
    assert (cache.ttl("c"), cache.ttl("b")) == (5, 60)
    assert (cache.stats.sets, cache.stats.evictions) == (4, 1)


def test_set_many_takes_any_mapping_a_cache_included(any_policy):
    other = Cache()
    other["a"] = 1
    cache = Cache(policy=any_policy)
    cache.set_many(other)
    assert cache == {"a": 1}


def test_set_many_of_the_cache_itself(any_policy):
    cache = Cache(policy=any_policy)
    cache.update(a=1, b=2)
    cache.set_many(cache)
    assert cache == {"a": 1, "b": 2} and cache.stats.sets == 4


def test_delete_many_tells_how_many_live_entries_it_removed(any_policy, clock):
    cache = Cache(policy=any_policy, clock=clock)
    cache.update(a=1, b=2, c=3)
    cache.set("expired", 4, ttl=1)
    clock.now += 1
    assert cache.delete_many(iter(["a", "absent", "c", "a", "expired"])) == 2
    assert cache == {"b": 2} and (cache.stats.deletes, cache.stats.expired) == (2, 1)


def test_delete_many_of_the_cache_itself(any_policy):
    cache = Cache(policy=any_policy)
    cache.update(a=1, b=2)
    assert cache.delete_many(cache) == 2 and len(cache) == 0


# --- the bound ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_size", [1, 2, 3, 7, 64, 100])
def test_there_are_never_more_than_max_size_entries(any_policy, max_size):
    sizes = []
    cache = Cache(max_size, policy=any_policy, on_evict=lambda key, value: sizes.append(len(cache)))
    for n in range(3 * max_size):
        cache[n] = n
        sizes.append(len(cache))
    assert max(sizes) == max_size
    assert any_policy == "AUTO" or list(cache) == list(range(2 * max_size, 3 * max_size))
    assert cache.stats.evictions == 2 * max_size


def test_a_cache_of_one_entry_keeps_the_latest(any_policy):
    cache = Cache(max_size=1, policy=any_policy)
    cache["a"] = 1
    cache["a"] = 2
    cache["b"] = 3
    assert list(cache.items()) == [("b", 3)]
    assert (cache.stats.sets, cache.stats.evictions) == (3, 1)


def test_max_size_none_means_no_bound(any_policy):
    cache = Cache(max_size=None, policy=any_policy)
    assert cache.max_size is None
    for n in range(3000):
        cache[n] = n
    assert (len(cache), cache.stats.evictions) == (3000, 0)


@pytest.mark.parametrize("max_size", [10**12, sys.maxsize, 10**30])
def test_memory_follows_the_entries_not_the_bound(policy, max_size):
    cache = Cache(max_size, policy=policy)
    assert sys.getsizeof(cache) < 10_000
    cache["a"] = 1
    assert sys.getsizeof(cache) < 10_000
    assert cache == {"a": 1}
    assert cache.max_size == min(max_size, sys.maxsize)


def test_the_largest_bound_is_not_taken_for_none(any_policy):
    cache = Cache(sys.maxsize, policy=any_policy)
    assert (cache.max_size, cache.copy().max_size) == (sys.maxsize, sys.maxsize)
    assert f"max_size={sys.maxsize}" in repr(cache)
    cache.resize(None)
    assert cache.max_size is None
    cache.resize(sys.maxsize)
    assert cache.max_size == sys.maxsize


def test_memory_is_given_back_when_the_entries_go(policy):
    cache = Cache(max_size=None, policy=policy)
    cache.update(dict.fromkeys(range(10_000)))
    full = sys.getsizeof(cache)
    cache.delete_many(range(10_000))
    assert sys.getsizeof(cache) < full / 10
    cache.update(dict.fromkeys(range(10_000)))
    cache.clear()
    assert sys.getsizeof(cache) < full / 10


def test_an_int_by_index_is_a_max_size(policy):
    class Five:
        def __index__(self):
            return 5

    cache = Cache(Five(), policy=policy)
    assert cache.max_size == 5
    cache.resize(Five())
    assert cache.max_size == 5


def test_overwriting_in_a_full_cache_evicts_nothing(any_policy):
    cache = Cache(max_size=2, policy=any_policy)
    cache.update(a=1, b=2)
    cache["a"] = 3
    assert cache == {"a": 3, "b": 2} and cache.stats.evictions == 0


# --- resize ---------------------------------------------------------------------------------------------------------


def test_resize_evicts_down_in_policy_order(any_policy):
    left = []
    cache = Cache(max_size=5, policy=any_policy, on_evict=lambda key, value: left.append((key, value)))
    cache.update(a=1, b=2, c=3, d=4, e=5)
    cache.get("b")
    order = list(cache.items())
    assert cache.resize(2) is None
    assert (left, list(cache.items()), cache.max_size) == (order[:3], order[3:], 2)
    assert (cache.stats.evictions, cache.stats.deletes) == (3, 0)
    cache["f"] = 6
    assert len(cache) == 2


def test_resize_up_makes_room(any_policy):
    cache = Cache(max_size=2, policy=any_policy)
    cache.update(a=1, b=2)
    cache.resize(4)
    cache.update(c=3, d=4)
    assert list(cache) == ["a", "b", "c", "d"]
    cache["e"] = 5
    assert list(cache) == ["b", "c", "d", "e"]


def test_resize_to_none_and_back(any_policy):
    cache = Cache(max_size=2, policy=any_policy)
    cache.resize(None)
    cache.update(dict.fromkeys(range(50)))
    assert (cache.max_size, len(cache)) == (None, 50)
    cache.resize(3)
    assert list(cache) == [47, 48, 49]


def test_resize_drops_the_expired_before_any_live_entry(any_policy, clock):
    cache = Cache(max_size=4, policy=any_policy, clock=clock)
    cache.update(a=1, b=2)
    cache.set("x", 3, ttl=1)
    cache.set("y", 4, ttl=1)
    clock.now += 1
    cache.resize(2)
    assert list(cache) == ["a", "b"]
    assert (cache.stats.expired, cache.stats.evictions) == (2, 0)


def test_the_policy_object_learns_of_the_new_bound():
    order = LRUPolicy(5)
    cache = Cache(max_size=5, policy=order)
    cache.resize(2)
    assert order.max_size == 2


# --- statistics of a cache are one object ---------------------------------------------------------------------------


def test_stats_stays_one_object(any_policy):
    cache = Cache(policy=any_policy)
    stats = cache.stats
    assert type(stats) is CacheStats
    cache.update(a=1)
    cache.clear()
    cache.resize(3)
    cache["a"] = 1
    assert cache.stats is stats and stats.sets == 1


def test_infinity_as_default_ttl_means_never(any_policy):
    cache = Cache(policy=any_policy, default_ttl=math.inf)
    cache["a"] = 1
    assert cache.ttl("a") is None
