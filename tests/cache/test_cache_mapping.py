"""`Cache` as a `MutableMapping`: item access, iteration, views, `pop`, `popitem`, `update`, `==`."""

from __future__ import annotations

import collections
import types
from collections.abc import Hashable, ItemsView, KeysView, Mapping, MutableMapping, ValuesView

import pytest

from cachebox import Cache
from conftest import named


def of(policy, **entries):
    cache = Cache(policy=policy)
    cache.update(entries)
    return cache


# --- c[key] ---------------------------------------------------------------------------------------------------------


def test_a_cache_is_a_mutable_mapping():
    assert issubclass(Cache, MutableMapping) and isinstance(Cache(), Mapping)


def test_every_method_of_a_mutable_mapping_is_there():
    for name in dir(MutableMapping):
        if not name.startswith("_") or name in MutableMapping.__abstractmethods__:
            assert callable(getattr(Cache, name)), name


def test_an_item_is_a_get_that_raises_key_error(any_policy):
    cache = of(any_policy, a=1)
    assert cache["a"] == 1
    with pytest.raises(KeyError) as raised:
        cache["b"]
    assert raised.value.args == ("b",)
    assert (cache.stats.hits, cache.stats.misses) == (1, 1)


def test_a_missing_tuple_key_is_reported_whole():
    with pytest.raises(KeyError) as raised:
        Cache()[1, 2]
    assert raised.value.args == ((1, 2),)


def test_item_access_promotes():
    cache = of("LRU", a=1, b=2)
    assert cache["a"] == 1
    assert list(cache) == ["b", "a"]


def test_item_assignment_is_a_set_with_the_default_ttl(any_policy, clock):
    cache = Cache(policy=any_policy, default_ttl=60, clock=clock)
    cache["a"] = 1
    assert (cache.ttl("a"), cache.stats.sets) == (60, 1)


def test_item_deletion_is_a_delete_that_raises_key_error(any_policy):
    cache = of(any_policy, a=1)
    del cache["a"]
    with pytest.raises(KeyError) as raised:
        del cache["a"]
    assert raised.value.args == ("a",)
    assert (len(cache), cache.stats.deletes) == (0, 1)


def test_a_cache_is_true_if_it_holds_something(any_policy):
    cache = of(any_policy)
    assert not cache
    cache["a"] = None
    assert cache


def test_a_cache_matches_mapping_patterns(any_policy):
    match of(any_policy, a=1, b=2):
        case {"a": found, **rest}:
            assert (found, rest) == (1, {"b": 2})
        case _:
            pytest.fail("no mapping to `match`")


def test_a_mapping_has_no_reverse():
    with pytest.raises(TypeError):
        reversed(Cache())


def test_a_cache_unpacks_like_a_dict(any_policy):
    cache = of(any_policy, a=1, b=2)
    assert {**cache} == dict(cache) == {"a": 1, "b": 2}
    assert sorted([*cache]) == ["a", "b"]


# --- iteration ------------------------------------------------------------------------------------------------------


def test_iteration_runs_in_eviction_order_next_victim_first(any_policy):
    cache = Cache(max_size=4, policy=any_policy)
    cache.update(a=1, b=2, c=3, d=4)
    cache.get("a")
    cache.get("b")
    order = list(cache)
    assert list(cache.keys()) == order
    assert list(cache.values()) == [cache.peek(key) for key in order]
    assert list(cache.items()) == [(key, cache.peek(key)) for key in order]
    left = []
    while cache:
        left.append(cache.popitem()[0])
    assert left == order


EVICTION_ORDERS = {"LRU": ["c", "a", "b"], "LFU": ["c", "b", "a"], "FIFO": ["a", "b", "c"], "AUTO": ["c", "a", "b"]}


def test_each_policy_has_its_order(policy):
    cache = Cache(max_size=3, policy=policy)
    cache.update(a=1, b=2, c=3)
    for key in "aab":
        cache.get(key)
    assert list(cache) == EVICTION_ORDERS[policy]


@pytest.mark.parametrize(
    "change",
    [
        lambda cache: cache.clear(),
        lambda cache: cache.delete("b"),
        lambda cache: cache.update(dict.fromkeys(range(500))),
        lambda cache: cache.set("b", "new"),
        lambda cache: cache.resize(1),
        lambda cache: cache.get("a"),
        lambda cache: cache.popitem(),
    ],
    ids=["clear", "delete", "growth", "overwrite", "resize", "promotion", "popitem"],
)
def test_iteration_runs_over_a_snapshot_and_never_raises_because_the_cache_changed(any_policy, change):
    for view in (iter, Cache.keys, Cache.values, Cache.items):
        cache = of(any_policy, a=1, b=2, c=3)
        expected = list(view(cache))
        running = iter(view(cache))
        seen = [next(running)]
        change(cache)
        seen += running
        assert seen == expected


def test_deleting_while_iterating_empties_the_cache(any_policy):
    cache = of(any_policy, a=1, b=2, c=3)
    for key in cache:
        del cache[key]
    assert len(cache) == 0


def test_iteration_sees_no_expired_entry(any_policy, clock):
    cache = Cache(policy=any_policy, clock=clock)
    cache.set("a", 1, ttl=1)
    cache["b"] = 2
    clock.now += 1
    assert list(cache) == list(cache.keys()) == ["b"]
    assert list(cache.values()) == [2]
    assert list(cache.items()) == [("b", 2)]


def test_an_iterator_keeps_what_expires_while_it_runs(any_policy, clock):
    cache = Cache(policy=any_policy, clock=clock)
    cache.set("a", 1, ttl=1)
    running = iter(cache.items())
    clock.now += 1
    assert list(running) == [("a", 1)] and len(cache) == 0


# --- views ----------------------------------------------------------------------------------------------------------


def test_views_are_those_of_a_mapping(any_policy):
    cache = of(any_policy, a=1)
    assert isinstance(cache.keys(), KeysView)
    assert isinstance(cache.values(), ValuesView)
    assert isinstance(cache.items(), ItemsView)


def test_views_show_the_cache_as_it_is_now(any_policy):
    cache = of(any_policy)
    keys, values, items = cache.keys(), cache.values(), cache.items()
    cache["a"] = 1
    assert (list(keys), list(values), list(items)) == (["a"], [1], [("a", 1)])
    assert len(keys) == len(values) == len(items) == 1
    cache.clear()
    assert not keys and not values and not items


def test_views_can_be_iterated_again(any_policy):
    keys = of(any_policy, a=1, b=2).keys()
    assert list(keys) == list(keys) == ["a", "b"]


def test_keys_and_items_are_sets(any_policy):
    cache = of(any_policy, a=1, b=2)
    assert cache.keys() & {"a", "x"} == {"a"}
    assert cache.keys() | {"x"} == {"a", "b", "x"}
    assert cache.keys() - {"a"} == {"b"}
    assert cache.keys() ^ {"a", "x"} == {"b", "x"}
    assert {"a", "x"} - cache.keys() == {"x"}
    assert cache.keys() == {"a", "b"} and cache.keys() <= {"a", "b", "c"} and cache.keys() > {"a"}
    assert cache.keys().isdisjoint({"x"})
    assert cache.items() & {("a", 1), ("b", 3)} == {("a", 1)}
    assert cache.items() == {("a", 1), ("b", 2)}
    assert cache.items() == {"a": 1, "b": 2}.items()


def test_membership_in_views(any_policy):
    nan = float("nan")
    cache = of(any_policy, a=1, b=None, c=nan)
    assert "a" in cache.keys() and "x" not in cache.keys()
    assert 1.0 in cache.values() and None in cache.values() and nan in cache.values() and 7 not in cache.values()
    assert ("a", 1.0) in cache.items() and ("c", nan) in cache.items()
    assert ("a", 2) not in cache.items() and ("x", None) not in cache.items()


@pytest.mark.parametrize("thing", [5, "abc", ("a",), ("a", 1, 2), None], ids=named)
def test_what_is_no_pair_is_no_item_as_in_a_dict(any_policy, thing):
    cache = of(any_policy, a=1)
    assert thing not in {"a": 1}.items()
    assert thing not in cache.items()


def test_the_repr_of_a_view_shows_no_contents(any_policy):
    cache = of(any_policy, hidden="secret")
    for view in (cache.keys(), cache.values(), cache.items()):
        assert "hidden" not in repr(view) and "secret" not in repr(view)


# --- pop, popitem, setdefault, update -------------------------------------------------------------------------------


def test_pop_removes_and_returns(any_policy):
    cache = of(any_policy, a=1)
    assert cache.pop("a") == 1
    assert cache.pop("a", "nothing") == "nothing"
    assert cache.pop("a", None) is None
    with pytest.raises(KeyError) as raised:
        cache.pop("a")
    assert raised.value.args == ("a",)


def test_pop_counts_a_delete_but_no_hit_or_miss(any_policy):
    cache = of(any_policy, a=1)
    cache.pop("a")
    cache.pop("a", None)
    assert (cache.stats.deletes, cache.stats.hits, cache.stats.misses) == (1, 0, 0)


def test_pop_of_an_expired_entry_finds_nothing(any_policy, clock):
    cache = Cache(policy=any_policy, clock=clock)
    cache.set("a", 1, ttl=1)
    clock.now += 1
    assert cache.pop("a", "nothing") == "nothing"
    assert (cache.stats.deletes, cache.stats.expired) == (0, 1)


def test_popitem_removes_the_next_victim(any_policy):
    cache = Cache(max_size=3, policy=any_policy)
    cache.update(a=1, b=2, c=3)
    cache.get("a")
    order = list(cache.items())
    assert [cache.popitem(), cache.popitem(), cache.popitem()] == order
    assert (cache.stats.deletes, cache.stats.evictions, cache.stats.hits) == (3, 0, 1)


def test_popitem_of_an_empty_cache_is_a_key_error(any_policy):
    cache = of(any_policy)
    with pytest.raises(KeyError, match="empty"):
        cache.popitem()
    assert cache.stats.deletes == 0


def test_popitem_never_returns_an_expired_entry(any_policy, clock):
    cache = Cache(policy=any_policy, clock=clock)
    cache.set("a", 1, ttl=1)
    cache["b"] = 2
    clock.now += 1
    assert cache.popitem() == ("b", 2)
    with pytest.raises(KeyError):
        cache.popitem()
    assert (cache.stats.deletes, cache.stats.expired) == (1, 1)


def test_update_takes_mappings_pairs_and_keywords(any_policy):
    cache = of(any_policy)
    cache.update({"a": 1}, b=2)
    cache.update([("c", 3), ["d", 4]])
    cache.update(iter({"e": 5}.items()))
    cache.update(collections.ChainMap({"f": 6}))
    cache.update()
    assert cache == dict(a=1, b=2, c=3, d=4, e=5, f=6) and cache.stats.sets == 6


def test_update_takes_what_has_only_keys(any_policy):
    class Keyed:
        def keys(self):
            return ["a", "b"]

        def __getitem__(self, key):
            return key * 2

    cache = of(any_policy)
    cache.update(Keyed())
    assert cache == {"a": "aa", "b": "bb"}


def test_update_leaves_every_name_to_the_keywords(any_policy):
    cache = of(any_policy)
    cache.update({"a": 1}, self=2, other=3, ttl=4, mapping=5)
    assert cache == dict(a=1, self=2, other=3, ttl=4, mapping=5)


def test_keywords_come_after_the_mapping(any_policy):
    cache = of(any_policy)
    cache.update({"a": 1, "b": 2}, a=3)
    assert cache == {"a": 3, "b": 2} and cache.stats.sets == 3


def test_update_is_a_set_per_item(any_policy, clock):
    cache = Cache(max_size=2, policy=any_policy, default_ttl=60, clock=clock)
    cache.update(a=1, b=2, c=3)
    assert list(cache) == ["b", "c"] and cache.ttl("c") == 60
    assert (cache.stats.sets, cache.stats.evictions) == (3, 1)


def test_update_with_a_cache_copies_its_values_and_counts_no_hit(any_policy):
    source = of("LRU", a=1, b=2)
    cache = of(any_policy)
    cache.update(source)
    assert cache == source and source.stats.hits == 0


# --- == -------------------------------------------------------------------------------------------------------------


def test_equality_compares_items_with_any_mapping(any_policy):
    cache = of(any_policy, a=1, b=2)
    for other in (
        {"b": 2, "a": 1},
        collections.OrderedDict(b=2, a=1),
        types.MappingProxyType({"a": 1.0, "b": 2}),
        of("LRU", b=2, a=1),
    ):
        assert cache == other and other == cache
        assert not cache != other and not other != cache
    for other in ({"a": 1}, {"a": 1, "b": 3}, {"a": 1, "c": 2}, {}, of("LRU", a=1)):
        assert cache != other and other != cache
        assert not cache == other


def test_a_cache_is_equal_to_no_other_thing(any_policy):
    cache = of(any_policy, a=1)
    for other in (None, 1, "a", [("a", 1)], {"a"}, object(), cache.items()):
        assert cache != other and not cache == other


def test_equality_ignores_configuration_order_and_lifetimes(any_policy, clock):
    cache = Cache(max_size=5, policy=any_policy, default_ttl=60, clock=clock)
    cache.update(a=1, b=2)
    assert cache == of("LFU", b=2, a=1)


def test_equality_sees_no_expired_entry(any_policy, clock):
    cache = Cache(policy=any_policy, clock=clock)
    other = Cache(policy=any_policy, clock=clock)
    cache.set("a", 1, ttl=1)
    other.set("b", 1, ttl=1)
    clock.now += 1
    assert cache == {} and cache == other


def test_a_cache_equals_itself_and_its_copy(any_policy):
    cache = of(any_policy, a=float("nan"), b=[])
    assert cache == cache and cache == cache.copy()


def test_a_cache_is_unhashable():
    assert not isinstance(Cache(), Hashable)
    with pytest.raises(TypeError, match="unhashable"):
        hash(Cache())
    with pytest.raises(TypeError, match="unhashable"):
        Cache()[Cache()] = 1
