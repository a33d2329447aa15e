"""`increment`, `compute`, `setdefault` and `get_or_set`, called from one thread."""

from __future__ import annotations

import sys
from enum import IntEnum

import pytest

from cachebox import MISSING, Cache
from conftest import named


@pytest.fixture
def cache(any_policy, clock):
    return Cache(3, policy=any_policy, default_ttl=100, clock=clock)


# --- MISSING --------------------------------------------------------------------------------------------------------


def test_missing_is_false_and_shows_its_name():
    assert not MISSING and repr(MISSING) == "MISSING"


# --- increment ------------------------------------------------------------------------------------------------------


def test_a_missing_key_starts_at_zero(cache):
    assert cache.increment("a") == 1
    assert cache.increment("b", 5) == 5
    assert cache.increment("c", -5) == -5
    assert cache.increment("a") == 2
    assert dict(cache.items()) == {"a": 2, "b": 5, "c": -5}


def test_a_new_counter_gets_the_default_ttl_and_an_old_one_keeps_its_expiry(cache, clock):
    cache.increment("a")
    assert cache.ttl("a") == 100
    clock.now += 30
    cache.increment("a")
    assert cache.ttl("a") == 70
    cache.set("b", 1, ttl=5)
    cache.increment("b")
    assert cache.ttl("b") == 5
    cache.set("c", 1, ttl=float("inf"))
    cache.increment("c")
    assert cache.ttl("c") is None


def test_amounts_and_sums_may_be_of_any_size(cache):
    assert cache.increment("a", 2**62) == 2**62
    assert cache.increment("a", 2**62) == 2**63
    assert cache.increment("a", 10**40) == 2**63 + 10**40
    assert cache.increment("a", -(10**40)) == 2**63
    assert cache.increment("a", 0) == 2**63


def test_the_sum_is_a_plain_int(any_policy):
    class Colour(IntEnum):
        RED = 3

    class Loud(int):
        def __add__(self, other):
            raise AssertionError

        __radd__ = __add__

    for options in ({}, {"max_weight": 10, "weigher": lambda key, value: 1}):
        cache = Cache(policy=any_policy, **options)
        cache["a"] = Colour.RED
        assert cache.increment("a") == 4 and type(cache.peek("a")) is int
        cache["b"] = True
        assert cache.increment("b", True) == 2 and type(cache.peek("b")) is int
        cache["c"] = Loud(5)
        assert cache.increment("c", Loud(6)) == 11 and type(cache.peek("c")) is int


@pytest.mark.parametrize("value", [None, "1", 1.0, []], ids=named)
def test_increment_of_what_is_no_int_is_a_type_error_and_changes_nothing(any_policy, value):
    for options in ({}, {"max_weight": 10, "weigher": lambda key, value: 1}):
        cache = Cache(policy=any_policy, **options)
        cache["a"] = value
        with pytest.raises(TypeError, match="int"):
            cache.increment("a")
        assert cache.peek("a") is value and cache.stats.sets == 1


def test_increment_promotes_as_a_set_does():
    cache = Cache(2)
    cache.update(a=1, b=1)
    cache.increment("a")
    assert list(cache) == ["b", "a"]


def test_increment_of_a_new_key_evicts_in_a_full_cache(cache):
    cache.update(a=1, b=2, c=3)
    cache.increment("d")
    assert list(cache) == ["b", "c", "d"]


# --- compute --------------------------------------------------------------------------------------------------------


def test_compute_passes_the_old_value_and_stores_and_returns_the_new_one(cache):
    seen = []
    assert cache.compute("a", lambda old: seen.append(old) or 1) == 1
    assert cache.compute("a", lambda old: seen.append(old) or 2) == 2
    assert seen == [MISSING, 1] and cache.peek("a") == 2


def test_none_is_an_old_value_and_a_new_one(cache):
    cache["a"] = None
    seen = []
    assert cache.compute("a", seen.append) is None
    assert seen == [None] and cache.peek("a", "absent") is None and "a" in cache


def test_returning_missing_deletes(cache):
    cache["a"] = 1
    assert cache.compute("a", lambda old: MISSING) is MISSING
    assert cache.compute("a", lambda old: MISSING) is MISSING
    assert len(cache) == 0 and cache.stats.deletes == 1


def test_a_new_entry_gets_the_default_ttl_and_an_old_one_keeps_its_expiry(cache, clock):
    cache.compute("a", lambda old: 1)
    assert cache.ttl("a") == 100
    clock.now += 30
    cache.compute("a", lambda old: 2)
    assert cache.ttl("a") == 70
    cache.set("b", 1, ttl=float("inf"))
    cache.compute("b", lambda old: 2)
    assert cache.ttl("b") is None


def test_fn_that_raises_changes_nothing(cache, clock):
    cache["a"] = 1
    clock.now += 30
    for key in ("a", "b"):
        with pytest.raises(ZeroDivisionError):
            cache.compute(key, lambda old: 1 / 0)
    assert dict(cache.items()) == {"a": 1} and cache.ttl("a") == 70


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupted_fn_changes_nothing(cache, interruption):
    def fn(old):
        raise interruption

    cache["a"] = 1
    for key in ("a", "b"):
        with pytest.raises(interruption):
            cache.compute(key, fn)
    assert dict(cache.items()) == {"a": 1}
    assert cache.compute("b", lambda old: 2) == 2


WITHIN = {
    "set": lambda cache, key: cache.set(key, "inner"),
    "delete": lambda cache, key: cache.delete(key),
    "set and delete": lambda cache, key: (cache.set(key, "inner"), cache.delete(key)),
    "compute": lambda cache, key: cache.compute(key, lambda old: "inner"),
    "increment": lambda cache, key: (cache.delete(key), cache.increment(key)),
    "clear": lambda cache, key: cache.clear(),
    "clear and set": lambda cache, key: (cache.clear(), cache.set(key, "inner")),
    "set and clear": lambda cache, key: (cache.set(key, "inner"), cache.clear()),
    "get_or_set": lambda cache, key: cache.get_or_set(key, lambda: "inner"),
    "pop everything": lambda cache, key: [cache.popitem() for _ in range(len(cache))],
    "evict everything": lambda cache, key: cache.update(x=1, y=2, z=3),
    "read": lambda cache, key: (cache.get(key), list(cache), cache == {}),
}


@pytest.mark.parametrize("act", WITHIN)
@pytest.mark.parametrize("key", ["a", "absent"])
def test_what_fn_itself_did_to_the_key_is_overwritten(cache, act, key):
    calls = []

    def fn(old):
        calls.append(old)
        WITHIN[act](cache, key)
        return "outer"

    cache["a"] = 1
    assert cache.compute(key, fn) == "outer"
    assert cache.peek(key) == "outer" and calls == [1 if key == "a" else MISSING]


@pytest.mark.parametrize("act", WITHIN)
def test_fn_that_changed_the_key_and_then_raised_leaves_its_own_changes(cache, act):
    def fn(old):
        WITHIN[act](cache, "a")
        raise LookupError

    cache["a"] = 1
    with pytest.raises(LookupError):
        cache.compute("a", fn)
    cache["a"] = 2
    assert cache.compute("a", lambda old: old + 1) == 3


@pytest.mark.parametrize("act", WITHIN)
def test_fn_that_changed_the_key_may_delete_it(cache, act):
    def fn(old):
        WITHIN[act](cache, "a")
        return MISSING

    cache["a"] = 1
    assert cache.compute("a", fn) is MISSING
    assert "a" not in cache


def test_fn_runs_again_if_the_entry_expired_while_it_ran(cache, clock):
    seen = []

    def fn(old):
        seen.append(old)
        clock.now += 60
        return "new"

    cache["a"] = "old"
    clock.now += 50
    assert cache.compute("a", fn) == "new"
    assert seen == ["old", MISSING]
    assert cache.stats.expired == 1 and cache.ttl("a") <= 100


def test_compute_promotes_as_a_set_does():
    cache = Cache(2)
    cache.update(a=1, b=1)
    cache.compute("a", lambda old: 2)
    assert list(cache) == ["b", "a"]


def test_compute_of_a_new_key_evicts_in_a_full_cache(cache):
    cache.update(a=1, b=2, c=3)
    cache.compute("d", lambda old: 4)
    assert list(cache) == ["b", "c", "d"]


def test_a_key_that_is_being_computed_is_not_there_yet(cache):
    def fn(old):
        assert "a" not in cache and len(cache) == 0 and list(cache) == [] and cache.get("a") is None
        return 1

    assert cache.compute("a", fn) == 1 and len(cache) == 1


def test_compute_of_many_keys_one_inside_the_other(cache):
    def deeper(n):
        return n if n == 0 else cache.compute(n, lambda old: n + deeper(n - 1))

    assert deeper(100) == 5050 and len(cache) == 3


# --- setdefault -----------------------------------------------------------------------------------------------------


def test_setdefault_returns_what_is_there_or_stores_the_default(cache):
    assert cache.setdefault("a", 1) == 1
    assert cache.setdefault("a", 2) == 1
    assert cache.setdefault("b") is None
    assert dict(cache.items()) == {"a": 1, "b": None}


def test_setdefault_uses_the_default_ttl_and_keeps_the_expiry_of_what_is_there(cache, clock):
    cache.setdefault("a", 1)
    assert cache.ttl("a") == 100
    clock.now += 30
    cache.setdefault("a", 2)
    assert cache.ttl("a") == 70


def test_setdefault_promotes_what_is_there():
    cache = Cache(2)
    cache.update(a=1, b=1)
    cache.setdefault("a", 0)
    assert list(cache) == ["b", "a"]


def test_setdefault_returns_the_very_object(cache):
    value = []
    assert cache.setdefault("a", value) is value and cache.setdefault("a", []) is value


# --- get_or_set -----------------------------------------------------------------------------------------------------


def test_get_or_set_runs_the_factory_only_for_a_missing_key(cache):
    calls = []
    for _ in range(3):
        assert cache.get_or_set("a", lambda: calls.append(1) or "value") == "value"
    assert calls == [1] and dict(cache.items()) == {"a": "value"}


def test_get_or_set_takes_a_ttl_else_the_default(cache):
    cache.get_or_set("a", int, ttl=5)
    cache.get_or_set("b", int)
    cache.get_or_set("c", int, float("inf"))
    assert (cache.ttl("a"), cache.ttl("b"), cache.ttl("c")) == (5, 100, None)
    cache.get_or_set("a", int, ttl=50)
    assert cache.ttl("a") == 5


def test_get_or_set_caches_none(cache):
    assert cache.get_or_set("a", lambda: None) is None
    assert cache.get_or_set("a", lambda: 1) is None


def test_a_factory_that_raises_stores_nothing_and_may_be_tried_again(cache):
    error = LookupError("factory")

    def factory():
        raise error

    with pytest.raises(LookupError) as raised:
        cache.get_or_set("a", factory)
    assert raised.value is error and len(cache) == 0
    assert cache.get_or_set("a", lambda: 1) == 1


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupted_factory_stores_nothing_and_may_be_tried_again(cache, interruption):
    def factory():
        raise interruption

    with pytest.raises(interruption):
        cache.get_or_set("a", factory)
    assert len(cache) == 0 and cache.get_or_set("a", lambda: 1) == 1


def test_the_expiry_runs_from_the_end_of_the_factory(cache, clock):
    def factory():
        clock.now += 50
        return 1

    cache.get_or_set("a", factory, ttl=10)
    assert cache.ttl("a") == 10


@pytest.mark.parametrize(
    "act, left",
    [
        (lambda cache: cache.set("a", "written"), {"a": "written"}),
        (lambda cache: cache.delete("a"), {}),
        (lambda cache: cache.clear(), {}),
        (lambda cache: cache.compute("a", lambda old: "written"), {"a": "written"}),
        (lambda cache: (cache.clear(), cache.set("a", "written")), {"a": "written"}),
    ],
    ids=["set", "delete", "clear", "compute", "clear and set"],
)
def test_a_write_a_delete_or_a_clear_during_the_load_wins(cache, act, left):
    def factory():
        act(cache)
        return "loaded"

    assert cache.get_or_set("a", factory) == "loaded"
    assert dict(cache.items()) == left


def test_other_changes_during_the_load_do_not_matter(cache):
    def factory():
        cache.update(b=1, c=2)
        cache.delete("b")
        cache.resize(2)
        list(cache)
        return "loaded"

    assert cache.get_or_set("a", factory) == "loaded"
    assert dict(cache.items()) == {"c": 2, "a": "loaded"}


def test_coming_back_to_the_same_key_from_inside_the_factory_runs_it_again(cache):
    depth = []

    def factory():
        depth.append(len(depth))
        return "bottom" if len(depth) == 3 else cache.get_or_set("a", factory)

    assert cache.get_or_set("a", factory) == "bottom"
    assert depth == [0, 1, 2] and cache.get("a") == "bottom"


def test_factories_may_load_other_keys_from_inside(cache):
    def fib(n):
        return n if n < 2 else cache.get_or_set(n - 1, lambda: fib(n - 1)) + cache.get_or_set(n - 2, lambda: fib(n - 2))

    cache.resize(None)
    assert cache.get_or_set(80, lambda: fib(80)) == 23416728348467685
    assert len(cache) == 81


def test_a_key_that_is_being_loaded_is_not_there_yet(cache):
    def factory():
        assert "a" not in cache and len(cache) == 0 and not list(cache.items()) and cache.peek("a") is None
        assert cache.weight == 0 and cache == {} and cache.pop("b", None) is None and len(cache.copy()) == 0
        return 1

    assert cache.get_or_set("a", factory) == 1 and len(cache) == 1


def test_loads_under_way_take_no_room(any_policy):
    cache = Cache(1, policy=any_policy)

    def nested(n):
        return n if n == 0 else cache.get_or_set(n, lambda: nested(n - 1)) + 1

    cache["stays"] = True
    assert cache.get_or_set("x", lambda: "stays" in cache and nested(50)) == 50
    assert list(cache) == ["x"]


def test_a_failed_load_keeps_no_reference_to_key_or_error(cache):
    key, error = object(), LookupError()
    before = sys.getrefcount(key)

    def factory():
        raise error

    for _ in range(3):
        with pytest.raises(LookupError):
            cache.get_or_set(key, factory)
    assert sys.getrefcount(key) == before


def test_get_or_set_evicts_in_a_full_cache(cache):
    cache.update(a=1, b=2, c=3)
    cache.get_or_set("d", int)
    assert list(cache) == ["b", "c", "d"]
