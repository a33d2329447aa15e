"""`default_ttl` as a function of key and value, and `jitter`."""

from __future__ import annotations

import asyncio
import math
import pickle
import random
from datetime import timedelta

import pytest

from cachebox import MISSING, Cache, cached
from conftest import named
from in_threads import wait_until


def by_value(key, value):
    """A function of key and value: in these tests a value says how long it lives."""
    return value


async def aget_or_set(cache, key, value):
    return await cache.aget_or_set(key, lambda: value)


WAYS = {
    "set": lambda cache, key, value: cache.set(key, value),
    "c[key]": lambda cache, key, value: cache.__setitem__(key, value),
    "set with tags": lambda cache, key, value: cache.set(key, value, tags="t"),
    "add": lambda cache, key, value: cache.add(key, value),
    "setdefault": lambda cache, key, value: cache.setdefault(key, value),
    "update": lambda cache, key, value: cache.update({key: value}),
    "set_many": lambda cache, key, value: cache.set_many({key: value}),
    "get_or_set": lambda cache, key, value: cache.get_or_set(key, lambda: value),
    "compute": lambda cache, key, value: cache.compute(key, lambda old: value),
    "aget_or_set": lambda cache, key, value: asyncio.run(aget_or_set(cache, key, value)),
    "warm": lambda cache, key, value: cache.warm({key: value}),
    "increment": lambda cache, key, value: cache.increment(key, value),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_storing_asks_for_the_lifetime(way, clock, any_policy):
    cache = Cache(default_ttl=by_value, clock=clock, policy=any_policy)
    WAYS[way](cache, "a", 10)
    assert cache.ttl("a") == 10
    WAYS[way](cache, "b", 20)
    assert (cache.ttl("a"), cache.ttl("b")) == (10, 20)
    clock.now += 10
    assert list(cache) == ["b"]
    cache._check()


def test_each_way_of_loading_asks_for_the_lifetime(clock):
    class Source:
        def load(self, key):
            return len(key)

        def load_many(self, keys):
            return {key: len(key) for key in keys}

    cache = Cache(default_ttl=by_value, clock=clock, loader=Source())
    cache["a"] = 5
    assert cache["bb"] == 2 and cache.get_many(["ccc", "dddd"]) == {"ccc": 3, "dddd": 4}
    asyncio.run(load(cache, "eeeee"))
    cache.warm(["ffffff"])
    assert {key: cache.ttl(key) for key in cache} == {"a": 5, "bb": 2, "ccc": 3, "dddd": 4, "eeeee": 5, "ffffff": 6}


async def load(cache, key):
    return await cache.aget(key)


@pytest.mark.parametrize(
    "given, lifetime", [(None, None), (5, 5), (timedelta(minutes=1), 60), (math.inf, None)], ids=named
)
def test_it_returns_what_a_ttl_may_be(given, lifetime, clock):
    cache = Cache(default_ttl=lambda key, value: given, clock=clock)
    cache["a"] = 1
    assert cache.ttl("a") == lifetime
    cache.set("a", 1, ttl=7)
    assert cache.ttl("a") == 7
    assert cache.touch("a") is True and cache.ttl("a") == lifetime
    assert cache.default_ttl(1, 2) == given


@pytest.mark.parametrize("wrong, error", [
    (0, ValueError), (-1, ValueError), (math.nan, ValueError), (True, TypeError), ("5", TypeError), ([], TypeError),
], ids=named)
def test_what_makes_no_sense_names_the_argument_and_changes_nothing(wrong, error):
    cache = Cache(default_ttl=lambda key, value: wrong if value == 2 else None)
    cache["a"] = 1
    for call in (
        lambda: cache.set("a", 2), lambda: cache.update(b=1, a=2), lambda: cache.setdefault("b", 2),
        lambda: cache.add("b", 2), lambda: cache.compute("b", lambda old: 2),
    ):
        with pytest.raises(error, match="default_ttl"):
            call()
    assert dict(cache) == {"a": 1} and cache.stats.sets == 1


def test_a_loaded_value_without_a_sensible_lifetime_reaches_nobody():
    cache = Cache(default_ttl=lambda key, value: "x", loader=str)
    with pytest.raises(TypeError, match="default_ttl"):
        cache[5]
    assert len(cache) == 0
    cache._check()


def test_an_async_function_of_lifetimes_is_refused():
    async def lifetime(key, value):
        return 5

    with pytest.raises(TypeError, match="default_ttl"):
        Cache(default_ttl=lifetime)
    cache = Cache(default_ttl=lambda key, value: lifetime(key, value))
    with pytest.raises(TypeError, match="default_ttl"):
        cache["a"] = 1
    assert len(cache) == 0


def test_it_may_use_the_cache():
    cache = Cache(default_ttl=lambda key, value: cache.get("ttl", 5), clock=lambda: 0.0)
    cache.set("ttl", 9, ttl=math.inf)
    cache["a"] = 1
    assert cache.ttl("a") == 9


def test_an_overwrite_by_compute_keeps_its_end(clock):
    cache = Cache(default_ttl=by_value, clock=clock)
    cache.set("a", 1, ttl=50)
    cache.compute("a", lambda old: 10)
    cache.increment("a", 5)
    assert cache.ttl("a") == 50 and cache["a"] == 15
    assert cache.compute("a", lambda old: MISSING) is MISSING


def test_touch_takes_the_value_that_is_there(clock):
    cache = Cache(default_ttl=by_value, clock=clock)
    cache["a"] = 10
    clock.now += 5
    assert cache.touch("a") and cache.ttl("a") == 10
    assert cache.touch("b") is False


def test_functions_over_such_a_cache_ask_it(clock):
    cache = Cache(default_ttl=by_value, clock=clock)
    f = cached(cache)(lambda x: x)
    g = cached(cache, ttl=3)(lambda x: x)
    f(10), g(10)
    assert cache.ttl(f.cache_key(10)) == 10 and cache.ttl(g.cache_key(10)) == 3


def test_copies_and_pickles_keep_it(clock):
    cache = Cache(default_ttl=by_value)
    cache["a"] = 100
    for other in (cache.copy(), pickle.loads(pickle.dumps(cache))):
        other["b"] = 50
        assert 90 < other.ttl("a") <= 100 and 40 < other.ttl("b") <= 50


def test_a_refreshed_value_gets_a_lifetime_of_its_own(clock):
    values = iter([10, 40])
    cache = Cache(default_ttl=by_value, clock=clock, loader=lambda key: next(values), stale_ttl=5)
    assert cache["a"] == 10
    clock.now += 11
    assert cache["a"] == 10
    wait_until(lambda: cache.stats.refreshes == 1 and not cache._refreshing("a"))
    assert cache["a"] == 40 and cache.ttl("a") == 40


# --- jitter -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [way for way in WAYS if way != "increment"])
def test_each_way_of_storing_shortens_lifetimes_at_random(way, clock):
    cache = Cache(None, default_ttl=100, jitter=0.25, clock=clock)
    for n in range(200):
        WAYS[way](cache, n, 1)
    lifetimes = [cache.ttl(n) for n in range(200)]
    assert all(75 <= lifetime <= 100 for lifetime in lifetimes)
    assert len(set(lifetimes)) > 190 and max(lifetimes) - min(lifetimes) > 20


def test_explicit_lifetimes_loads_and_touch_too(clock):
    cache = Cache(None, jitter=0.5, clock=clock, loader=len, default_ttl=by_value)
    for n in range(100):
        cache.set(n, 1, ttl=100)
        cache.set(f"{n:02d}" * 50, 100)
        assert cache[f"{n:03d}"] == 3
    stored, valued, loaded = [*range(100)], [f"{n:02d}" * 50 for n in range(100)], [f"{n:03d}" for n in range(100)]
    for keys, ttl in ((stored, 100), (valued, 100), (loaded, 3)):
        lifetimes = [cache.ttl(key) for key in keys]
        assert all(ttl / 2 <= lifetime <= ttl for lifetime in lifetimes) and len(set(lifetimes)) > 90
    for n in range(100):
        cache.touch(n, ttl=1000)
    assert len({cache.ttl(n) for n in range(100)}) > 90 and all(500 <= cache.ttl(n) <= 1000 for n in range(100))


def test_what_lives_for_ever_goes_on_doing_so():
    cache = Cache(jitter=1.0)
    cache["a"] = 1
    cache.set("b", 1, ttl=math.inf)
    assert cache.ttl("a") is None and cache.ttl("b") is None


def test_copies_dumps_and_refreshes_do_not_shorten_again(clock, tmp_path):
    cache = Cache(default_ttl=1000, jitter=0.5, clock=clock)
    cache["a"] = 1
    left = cache.ttl("a")
    assert cache.copy().ttl("a") == left
    cache.dump(tmp_path / "dump")
    other = Cache(jitter=0.5, clock=clock)
    other.load(tmp_path / "dump")
    assert left - 5 < other.ttl("a") <= left
    refreshed = Cache(default_ttl=100, jitter=0.5, stale_ttl=1000, clock=clock, loader=lambda key: clock.now)
    refreshed["a"]
    lifetime = refreshed.ttl("a")
    for n in range(2, 10):
        clock.now += 101
        refreshed["a"]
        wait_until(lambda: refreshed.stats.load_success == n and not refreshed._refreshing("a"))
        assert refreshed.ttl("a") == pytest.approx(lifetime)


def test_an_entry_that_was_shortened_is_not_due_at_once(clock):
    cache = Cache(None, default_ttl=100, jitter=1.0, refresh_ahead=0.5, clock=clock, loader=lambda key: key)
    for key in range(100):
        cache[key], cache[key]
    assert cache.stats.load_success == 100


@pytest.mark.parametrize("wrong, error", [
    (-0.1, ValueError), (1.1, ValueError), (math.nan, ValueError), ("0.1", TypeError), (True, TypeError),
    ([], TypeError),
], ids=named)
def test_jitter_is_a_share(wrong, error):
    with pytest.raises(error, match="jitter"):
        Cache(jitter=wrong)


def test_jitter_needs_no_seed_and_takes_none_from_random():
    """If jitter used `random`, all processes of a program that seeds it would expire entries at once."""
    found = []
    for _ in range(2):
        random.seed(7)
        cache = Cache(default_ttl=1000, jitter=1.0, clock=lambda: 0.0)
        cache["a"] = 1
        found.append(cache.ttl("a"))
    assert found[0] != found[1]
