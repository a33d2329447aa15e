"""`pickle`, `copy.copy`, `copy.deepcopy` and `copy()`: entries, order, lifetimes and configuration go along."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import time

import pytest

import cachebox
from cachebox import MISSING, Cache, LFUPolicy
from conftest import PythonFIFO

NOW = [1000.0]


def clock():
    return NOW[0]


def weigh(key, value):
    return len(value)


def on_evict(key, value):
    TOLD.append((key, value))


def on_removal(key, value, cause):
    TOLD.append((key, value, cause.name))


TOLD = []


@pytest.fixture(autouse=True)
def start_anew():
    NOW[0] = 1000.0
    TOLD.clear()


CLONES = {
    "copy()": lambda cache: cache.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    **{
        f"pickle {protocol}": lambda cache, protocol=protocol: pickle.loads(pickle.dumps(cache, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


@pytest.fixture(params=CLONES)
def clone(request):
    return CLONES[request.param]


class Named(Cache):
    """A subclass with a constructor and attributes of its own."""

    def __init__(self, name, **options):
        super().__init__(5, **options)
        self.name = name
        self.tags = [name]


class RecencyInPython(PythonFIFO):
    def access(self, key):
        self.order[key] = self.order.pop(key)


class Twofold(LFUPolicy):
    """A subclass of a built-in policy that counts its calls."""

    calls = 0

    def access(self, key):
        self.calls += 1
        super().access(key)
        super().access(key)


def test_entries_and_order_are_kept(any_policy, clone):
    cache = Cache(5, policy=any_policy)
    cache.update(a=1, b=None, c=[3], d=4)
    cache.get("a")
    cache.get("c")
    cloned = clone(cache)
    assert type(cloned) is Cache and cloned is not cache
    assert list(cloned.items()) == list(cache.items())
    assert cloned == cache


def test_an_empty_cache(any_policy, clone):
    cloned = clone(Cache(5, policy=any_policy))
    assert len(cloned) == 0
    cloned["a"] = 1
    assert cloned == {"a": 1}


def test_the_two_live_apart(any_policy, clone):
    cache = Cache(2, policy=any_policy)
    cache.update(a=1, b=2)
    cloned = clone(cache)
    cloned["c"] = 3
    del cache["b"]
    assert (list(cache), list(cloned)) == (["a"], ["b", "c"])


def test_both_go_on_in_the_same_order(any_policy, clone):
    cache = Cache(4, policy=any_policy)
    cache.update(a=1, b=2, c=3, d=4)
    for key in "aab":
        cache.get(key)
    cloned = clone(cache)
    for each in (cache, cloned):
        for key in "cdc":
            each.get(key)
        each["e"] = 5
    assert list(cloned) == list(cache)


def test_frequencies_of_lfu_travel_along(clone):
    cache = Cache(3, policy="LFU")
    cache.update(a=1, b=2, c=3)
    for key in "aaaabb":
        cache.get(key)
    cloned = clone(cache)
    for _ in range(3):
        cloned.get("c")
    assert list(cloned) == ["b", "c", "a"]


def test_remaining_lifetimes_are_kept(any_policy, clone):
    cache = Cache(policy=any_policy, default_ttl=60, clock=clock)
    cache["a"] = 1
    cache.set("b", 2, ttl=float("inf"))
    cache.set("c", 3, ttl=10)
    NOW[0] += 4
    cloned = clone(cache)
    assert [cloned.ttl(key) for key in "abc"] == [56, None, 6]
    NOW[0] += 6
    assert list(cloned) == ["a", "b"] == list(cache)


def test_a_pickle_holds_durations_not_instants(any_policy):
    cache = Cache(policy=any_policy, clock=clock)
    cache.set("a", 1, ttl=10)
    NOW[0] += 3
    pickled = pickle.dumps(cache)
    for start in (-50.0, 0.0, 1e9):
        NOW[0] = start
        cloned = pickle.loads(pickled)
        assert cloned.ttl("a") == 7
        NOW[0] += 7
        assert cloned.get("a") is None


def test_lifetimes_by_the_default_clock_are_kept(any_policy, clone):
    cache = Cache(policy=any_policy, default_ttl=3600)
    before = time.monotonic()
    cache["a"] = 1
    cloned = clone(cache)
    assert 3600 - (time.monotonic() - before) - 0.01 <= cloned.ttl("a") <= 3600.001


def test_a_time_to_idle_and_the_end_that_hits_do_not_move_are_kept(any_policy, clone):
    cache = Cache(policy=any_policy, time_to_idle=10, clock=clock)
    cache.set("a", 1, ttl=25)
    cache["b"] = 2
    NOW[0] += 4
    cloned = clone(cache)
    assert (cloned.ttl("a"), cloned.ttl("b")) == (6, 6)
    for _ in range(4):
        NOW[0] += 5
        cloned.get("a")
    assert cloned.ttl("a") == 1 and "b" not in cloned


def test_what_has_expired_does_not_travel(any_policy, clone):
    cache = Cache(policy=any_policy, clock=clock)
    cache.set("a", 1, ttl=1)
    cache["b"] = 2
    NOW[0] += 1
    assert dict(clone(cache).items()) == {"b": 2}


def test_weights_are_kept_and_not_weighed_again(any_policy, clone):
    cache = Cache(policy=any_policy, max_weight=10, weigher=weigh)
    cache.update(a="xxx", b="xxxx")
    cloned = clone(cache)
    assert cloned.weight == 7
    cloned["c"] = "xxxxxx"
    assert list(cloned) == ["b", "c"] and cloned.weight == 10
    with pytest.raises(ValueError, match="max_weight=10"):
        cloned["d"] = "x" * 11


def test_configuration_is_kept(any_policy, clone):
    cache = Cache(
        7,
        2.5,
        any_policy,
        on_evict,
        time_to_idle=3,
        max_weight=9,
        weigher=weigh,
        on_removal=on_removal,
        clock=clock,
    )
    cloned = clone(cache)
    assert (cloned.max_size, cloned.default_ttl) == (7, 2.5)
    assert type(cloned.policy) is type(cache.policy)
    if isinstance(any_policy, str):
        assert cloned.policy == any_policy
    cloned["a"] = "x"
    assert (cloned.ttl("a"), cloned.weight) == (2.5, 1)
    del cloned["a"]
    assert TOLD == [("a", "x"), ("a", "x", "EXPLICIT")]


@pytest.mark.parametrize("max_size", [1, None, 10**12])
def test_the_bound_is_kept(any_policy, clone, max_size):
    assert clone(Cache(max_size, policy=any_policy)).max_size == max_size


def test_a_resized_cache_keeps_its_new_bound(any_policy, clone):
    cache = Cache(3, policy=any_policy)
    cache.resize(7)
    assert clone(cache).max_size == 7


def test_statistics_start_at_zero(any_policy, clone):
    cache = Cache(2, policy=any_policy)
    cache.update(a=1, b=2, c=3)
    cache.get("b")
    cache.get("x")
    counted = cache.stats.get_all()
    cloned = clone(cache)
    assert set(cloned.stats.get_all().values()) == {0}
    assert cache.stats.get_all() == counted


def test_cloning_tells_nobody_and_changes_nothing(any_policy, clone):
    cache = Cache(3, policy=any_policy, on_evict=on_evict)
    cache.update(a=1, b=2, c=3)
    cache.get("a")
    order = list(cache)
    clone(cache)
    assert TOLD == [] and list(cache) == order


def test_a_subclass_keeps_its_attributes_and_its_init_does_not_run_again(any_policy, clone):
    cache = Named("mine", policy=any_policy)
    cache["a"] = 1
    cloned = clone(cache)
    assert (type(cloned), cloned.name, cloned.tags, cloned.max_size, dict(cloned.items())) == (
        Named,
        "mine",
        ["mine"],
        5,
        {"a": 1},
    )


def test_a_copy_shares_keys_and_values_a_deep_copy_does_not(any_policy):
    cache = Cache(policy=any_policy)
    key, value = (1, "x"), ["value"]
    cache[key] = value
    for shallow in (cache.copy(), copy.copy(cache)):
        assert shallow[key] is value and next(iter(shallow)) is key
    deep = copy.deepcopy(cache)
    assert deep[key] == value and deep[key] is not value


def test_a_deep_copy_of_a_cache_that_holds_itself(any_policy):
    cache = Cache(policy=any_policy)
    cache["self"] = cache
    assert copy.copy(cache)["self"] is cache
    deep = copy.deepcopy(cache)
    assert deep["self"] is deep
    loaded = pickle.loads(pickle.dumps(cache))
    assert loaded["self"] is loaded


@pytest.mark.parametrize("order", [RecencyInPython, Twofold], ids=lambda order: order.__name__)
def test_a_policy_written_in_python_travels_with_its_state(clone, order):
    cache = Cache(4, policy=order)
    cache.update(a=1, b=2, c=3, d=4)
    cache.get("a")
    cache.get("b")
    cloned = clone(cache)
    assert type(cloned.policy) is order and cloned.policy is not cache.policy
    assert list(cloned) == list(cache) == list(cloned.policy)
    for each in (cache, cloned):
        each.update(c=5, e=6)
    assert list(cloned) == list(cache) and cloned.policy.__dict__.keys() == cache.policy.__dict__.keys()


def test_a_copy_of_a_cache_with_an_instance_of_a_built_in_policy_has_one_of_its_own(clone):
    order = LFUPolicy(3)
    cache = Cache(3, policy=order)
    cache.update(a=1, b=2)
    cloned = clone(cache)
    cloned["c"] = 3
    assert list(order) == ["a", "b"] and list(cloned) == ["a", "b", "c"]


def test_a_callback_that_cannot_be_pickled_is_an_error_as_pickle_has_it(any_policy):
    cache = Cache(policy=any_policy, on_evict=lambda key, value: None)
    cache["a"] = 1
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        pickle.dumps(cache)
    assert cache.copy() == {"a": 1}


def test_a_value_that_cannot_be_pickled_is_an_error_and_the_cache_stays_usable(any_policy):
    cache = Cache(policy=any_policy)
    cache["a"] = (n for n in "x")
    with pytest.raises(TypeError, match="generator"):
        pickle.dumps(cache)
    cache["b"] = 2
    assert len(cache) == 2


def test_thousands_of_entries(any_policy, clone):
    cache = Cache(5000, policy=any_policy, default_ttl=60, clock=clock)
    for n in range(7000):
        cache.set(n, str(n), ttl=n + 1)
        cache.get(n * 7 % 5000)
    cloned = clone(cache)
    assert list(cloned.items()) == list(cache.items())
    NOW[0] += 5000
    assert len(cloned) == len(cache) < 5000


def test_a_pickle_can_be_read_by_another_process(policy):
    cache = Cache(5, policy=policy, default_ttl=3600)
    cache.update(a=1, b=2)
    cache.get("a")
    code = (
        "import pickle, sys\n"
        "cache = pickle.load(sys.stdin.buffer)\n"
        "print(type(cache).__name__, list(cache.items()), cache.policy, 3000 < cache.ttl('a') < 3601)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(cache), capture_output=True, timeout=120, check=True
    )
    assert done.stdout.decode().strip() == f"Cache {list(cache.items())} {policy} True"


def test_missing_is_one_object_in_copies_and_pickles():
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(MISSING, protocol)) is MISSING
    assert copy.copy(MISSING) is MISSING and copy.deepcopy(MISSING) is MISSING


def test_removal_causes_and_snapshots_can_be_pickled():
    cause = cachebox.RemovalCause.SIZE
    assert pickle.loads(pickle.dumps(cause)) is cause
    cache = Cache()
    cache["a"] = 1
    snapshot = cache.stats.snapshot()
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot == copy.deepcopy(snapshot)
