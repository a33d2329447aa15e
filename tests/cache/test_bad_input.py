"""Bad input, one row each: the exception's type, that its message names the parameter, and that nothing has changed."""

from __future__ import annotations

import copy
import datetime
import math
import pickle
from decimal import Decimal

import pytest

from cachebox import Cache, CacheStats, EvictionPolicy, LFUPolicy, LRUPolicy
from conftest import named

NAN = float("nan")


class NoNumber:
    """An object of no type that any parameter takes."""


def shown(thing):
    """A short name that is the same in every run."""
    name = getattr(thing, "__name__", None) or repr(thing)
    return type(thing).__name__ if " at 0x" in name or len(name) > 50 else name


BAD_TTLS = [
    (0, ValueError),
    (0.0, ValueError),
    (-0.0, ValueError),
    (-1, ValueError),
    (-0.001, ValueError),
    (-math.inf, ValueError),
    (NAN, ValueError),
    (-(10**400), ValueError),
    (Decimal(0), ValueError),
    (Decimal("-1"), ValueError),
    (Decimal("nan"), ValueError),
    (datetime.timedelta(0), ValueError),
    (datetime.timedelta(seconds=-1), ValueError),
    (datetime.timedelta.min, ValueError),
    (True, TypeError),
    (False, TypeError),
    ("5", TypeError),
    (b"5", TypeError),
    ("", TypeError),
    (1j, TypeError),
    ([], TypeError),
    ([5], TypeError),
    ((), TypeError),
    ({}, TypeError),
    (NoNumber(), TypeError),
    (int, TypeError),
    (datetime.date(2000, 1, 1), TypeError),
    (datetime.time(1), TypeError),
    (datetime.timedelta, TypeError),
    (lambda: 5, TypeError),
]
BAD_SIZES = [
    (0, ValueError),
    (-1, ValueError),
    (-(10**30), ValueError),
    (1.0, TypeError),
    (1.5, TypeError),
    (math.inf, TypeError),
    (NAN, TypeError),
    (True, TypeError),
    (False, TypeError),
    ("5", TypeError),
    (Decimal(5), TypeError),
    ([], TypeError),
    (NoNumber(), TypeError),
    (int, TypeError),
]
NOT_CALLABLE = [(5, TypeError), ("print", TypeError), ([], TypeError), (False, TypeError), (0, TypeError)]
BAD_WEIGHTS = [
    (-1, ValueError),
    (-0.5, ValueError),
    (NAN, ValueError),
    (-math.inf, ValueError),
    (math.inf, ValueError),
    (10.5, ValueError),
    (11, ValueError),
    (10**400, ValueError),
    (-(10**400), ValueError),
    (None, TypeError),
    (True, TypeError),
    ("1", TypeError),
    (1j, TypeError),
    ([], TypeError),
]
BAD_MAX_WEIGHTS = [
    (0, ValueError),
    (-1, ValueError),
    (-math.inf, ValueError),
    (NAN, ValueError),
    (-(10**400), ValueError),
    (True, TypeError),
    ("5", TypeError),
    (1j, TypeError),
    ([], TypeError),
]
BAD_POLICIES = [
    ("MRU", ValueError),
    ("", ValueError),
    ("LRU ", ValueError),
    (None, TypeError),
    (5, TypeError),
    (b"LRU", TypeError),
    (dict, TypeError),
    (object(), TypeError),
    (Cache, TypeError),
    (["LRU"], TypeError),
]
NOT_ITERABLE = [(5, TypeError), (None, TypeError), (NoNumber(), TypeError)]
NO_PAIRS = [
    (5, TypeError),
    (None, TypeError),
    (NoNumber(), TypeError),
    ([5], TypeError),
    ([("a", 1), None], TypeError),
    ([("a", 1), ("b",)], ValueError),
    ([("a", 1), ("b", 2, 3)], ValueError),
    (["abc"], ValueError),
]

CONSTRUCTOR = [
    *(("max_size", {"max_size": bad}, error) for bad, error in BAD_SIZES),
    *(("default_ttl", {"default_ttl": bad}, error) for bad, error in BAD_TTLS[:-1]),     # a function is valid here
    *(("time_to_idle", {"time_to_idle": bad}, error) for bad, error in BAD_TTLS),
    *(("policy", {"policy": bad}, error) for bad, error in BAD_POLICIES),
    *((name, {name: bad}, error) for name in ("on_evict", "on_removal", "clock") for bad, error in NOT_CALLABLE),
    *(("weigher", {"max_weight": 5, "weigher": bad}, error) for bad, error in NOT_CALLABLE),
    *(("max_weight", {"max_weight": bad, "weigher": len}, error) for bad, error in BAD_MAX_WEIGHTS),
    ("weigher", {"max_weight": 5}, ValueError),
    ("max_weight", {"weigher": len}, ValueError),
]


@pytest.mark.parametrize("name, options, error", CONSTRUCTOR, ids=shown)
def test_the_constructor_refuses(name, options, error):
    order = LFUPolicy(3)
    with pytest.raises(error, match=rf"\b{name}\b"):
        Cache(**{"policy": order, **options})
    Cache(3, policy=order)["a"] = 1  # no cache has taken it


@pytest.mark.parametrize("option", ["maxsize", "ttl", "loader_", "lock"])
def test_the_constructor_refuses_options_that_it_does_not_have(option):
    with pytest.raises(TypeError, match=option):
        Cache(**{option: 1})


def test_an_unknown_policy_is_told_the_known_ones():
    with pytest.raises(ValueError, match=r"LRU.*LFU.*FIFO.*'MRU'"):
        Cache(policy="MRU")


def test_a_policy_that_serves_another_cache_is_refused():
    order = LRUPolicy(3)
    cache = Cache(3, policy=order)
    with pytest.raises(ValueError, match="policy"):
        Cache(3, policy=order)
    cache["a"] = 1
    assert list(order) == ["a"]


# Each call goes to a cache of a=1 (which expires), b=2 (which does not), and is given the bad thing.
CALLS = {
    "set": ("ttl", BAD_TTLS, lambda cache, bad: cache.set("a", 9, bad)),
    "set of a new key": ("ttl", BAD_TTLS, lambda cache, bad: cache.set("x", 9, ttl=bad)),
    "set_many": ("ttl", BAD_TTLS, lambda cache, bad: cache.set_many({"a": 9, "x": 9}, ttl=bad)),
    "touch": ("ttl", BAD_TTLS, lambda cache, bad: cache.touch("a", bad)),
    "touch of nothing": ("ttl", BAD_TTLS, lambda cache, bad: cache.touch("x", bad)),
    "get_or_set": ("ttl", BAD_TTLS, lambda cache, bad: cache.get_or_set("x", int, bad)),
    "get_or_set of what is there": ("ttl", BAD_TTLS, lambda cache, bad: cache.get_or_set("a", int, bad)),
    "resize": ("max_size", BAD_SIZES, lambda cache, bad: cache.resize(bad)),
    "get_or_set without a factory": ("factory", NOT_CALLABLE, lambda cache, bad: cache.get_or_set("a", bad)),
    "compute": ("fn", NOT_CALLABLE, lambda cache, bad: cache.compute("a", bad)),
    "increment": (
        "amount",
        [
            (1.0, TypeError),
            ("1", TypeError),
            (None, TypeError),
            (NAN, TypeError),
            (Decimal(1), TypeError),
            ([], TypeError),
        ],
        lambda cache, bad: cache.increment("b", bad),
    ),
    "get_many": ("keys", NOT_ITERABLE, lambda cache, bad: cache.get_many(bad)),
    "delete_many": ("keys", NOT_ITERABLE, lambda cache, bad: cache.delete_many(bad)),
    "set_many without a mapping": (
        "mapping",
        [*NOT_ITERABLE, ([("a", 1)], TypeError), ("abc", TypeError)],
        lambda cache, bad: cache.set_many(bad),
    ),
    "update": ("other", NO_PAIRS, lambda cache, bad: cache.update(bad)),
    "update with keywords": ("other", NO_PAIRS, lambda cache, bad: cache.update(bad, a=9)),
}
CALL_ROWS = [(call, bad, error) for call, (_, bads, _) in CALLS.items() for bad, error in bads]


def state(cache):
    lifetimes = {key: cache.ttl(key) for key in cache}
    return (
        list(cache.items()),
        lifetimes,
        cache.stats.get_all(),
        cache.max_size,
        cache.default_ttl,
        cache.policy,
        cache.weight,
    )


@pytest.mark.parametrize("call, bad, error", CALL_ROWS, ids=shown)
def test_a_call_refuses(clock, call, bad, error):
    name, _, act = CALLS[call]
    told = []
    for options in ({}, {"max_weight": 10, "weigher": lambda key, value: 1}, {"policy": LeastRecent}):
        cache = Cache(3, 60, clock=clock, on_evict=lambda *args: told.append(args), **options)
        cache["a"] = 1
        cache.set("b", 2, ttl=math.inf)
        before = state(cache)
        with pytest.raises(error, match=rf"\b{name}\b"):
            act(cache, bad)
        assert state(cache) == before and told == []


class LeastRecent(LRUPolicy):
    """A policy that only Python code can ask."""


WEIGHED = {
    "set": lambda cache: cache.set("x", "bad"),
    "set, overwriting": lambda cache: cache.set("a", "bad"),
    "c[key] = v": lambda cache: cache.__setitem__("x", "bad"),
    "update": lambda cache: cache.update([("x", "good"), ("y", "bad")]),
    "set_many": lambda cache: cache.set_many({"x": "good", "y": "bad"}),
    "setdefault": lambda cache: cache.setdefault("x", "bad"),
    "compute": lambda cache: cache.compute("a", lambda old: "bad"),
    "compute of a new key": lambda cache: cache.compute("x", lambda old: "bad"),
}


@pytest.mark.parametrize("weight, error", BAD_WEIGHTS, ids=shown)
def test_a_weigher_that_returns_what_is_no_weight_is_refused(any_policy, clock, weight, error):
    weights = {"good": 1, "bad": weight}
    for act in WEIGHED.values():
        cache = Cache(
            policy=any_policy, max_weight=10, weigher=lambda key, value: weights[value], default_ttl=60, clock=clock
        )
        cache.update(a="good", b="good")
        before = state(cache)
        with pytest.raises(error, match="weigher"):
            act(cache)
        assert state(cache) == before


BAD_CLOCKS = [
    (None, TypeError),
    ("5", TypeError),
    (True, TypeError),
    ([], TypeError),
    (1j, TypeError),
    (NAN, ValueError),
]


@pytest.mark.parametrize("told, error", BAD_CLOCKS, ids=shown)
def test_a_clock_that_tells_no_time_is_refused(any_policy, told, error):
    now = [5.0]
    cache = Cache(policy=any_policy, clock=lambda: now[0])
    cache.set("a", 1, ttl=10)
    before = state(cache)
    now[0] = told
    for act in (lambda: cache.get("a"), lambda: cache.set("a", 2, ttl=5), lambda: len(cache), lambda: cache.ttl("a")):
        with pytest.raises(error, match="clock"):
            act()
    now[0] = 5.0
    assert state(cache) == before


BAD_NAMES = ["hit", "", "HITS", "load", None, 5, [], b"hits", "hit_rate"]
BAD_AMOUNTS = [
    (-1, ValueError),
    (1.0, TypeError),
    (True, TypeError),
    ("1", TypeError),
    (None, TypeError),
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=named)
def test_an_unknown_statistic_is_a_value_error_that_lists_the_known_ones(name):
    stats = CacheStats()
    for call in (stats.get, stats.increment, stats.snapshot().get):
        with pytest.raises(ValueError, match=r"name.*hits, misses, sets, deletes, evictions, expired"):
            call(name)
    assert set(stats.get_all().values()) == {0}


@pytest.mark.parametrize("amount, error", BAD_AMOUNTS, ids=shown)
def test_a_statistic_grows_by_ints_only(amount, error):
    stats = CacheStats()
    with pytest.raises(error, match="amount"):
        stats.increment("hits", amount)
    assert stats.hits == 0


@pytest.mark.parametrize("kind", [LRUPolicy, LFUPolicy], ids=shown)
@pytest.mark.parametrize("bad, error", BAD_SIZES, ids=shown)
def test_a_policy_refuses_a_bad_size(kind, bad, error):
    with pytest.raises(error, match="max_size"):
        kind(bad)


@pytest.mark.parametrize("damage", ["options", "entries", "policy"])
def test_a_damaged_pickle_is_an_exception_not_a_broken_cache(damage):
    cache = Cache(3)
    cache.update(a=1, b=2)
    make, arguments, state = cache.__reduce__()
    del state[damage]
    made = make(*arguments)
    with pytest.raises(KeyError, match=damage):
        made.__setstate__(state)


def test_a_state_without_the_weights_of_its_entries_is_refused():
    """Entries that weighed nothing would let a cache hold more than its bound."""
    cache = Cache(max_bytes=1000)
    cache.update(a=1, b=2)
    make, arguments, state = cache.__reduce__()
    weights = list(cache.__reduce__()[2]["entries"]).index([cache.entry(key).weight for key in "ab"])
    state["entries"] = tuple(None if n == weights else column for n, column in enumerate(state["entries"]))
    with pytest.raises(ValueError, match="damaged state"):
        make(*arguments).__setstate__(state)
    assert pickle.loads(pickle.dumps(Cache(max_bytes=1000))) == {}


def test_a_state_is_set_only_once():
    cache = Cache(3)
    cache["a"] = 1
    with pytest.raises(RuntimeError):
        cache.__setstate__(pickle.loads(pickle.dumps(cache)).__reduce__()[2])
    assert cache == {"a": 1} and copy.copy(cache) == cache


def test_a_policy_class_that_fails_to_be_made_reaches_the_caller():
    class Failing(EvictionPolicy):
        def __init__(self, max_size):
            raise OSError("no policy today")

    with pytest.raises(OSError, match="no policy today"):
        Cache(3, policy=Failing)


@pytest.mark.parametrize(
    "call", ["get", "set", "delete", "peek", "pop", "ttl", "touch", "compute", "get_or_set", "resize"]
)
def test_a_call_without_its_arguments_is_a_type_error(call):
    cache = Cache()
    cache["a"] = 1
    with pytest.raises(TypeError):
        getattr(cache, call)()
    assert cache == {"a": 1}
