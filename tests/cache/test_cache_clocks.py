"""Clocks: the default one, injected ones, and those that step back, raise, or use the cache."""

from __future__ import annotations

import time
from decimal import Decimal
from fractions import Fraction

import pytest

from cachebox import Cache


@pytest.fixture
def cache(any_policy, clock):
    return Cache(policy=any_policy, clock=clock)


def test_a_clock_that_steps_back_never_revives_an_entry_and_never_raises(any_policy, clock):
    cache = Cache(3, policy=any_policy, clock=clock, time_to_idle=100)
    cache.set("a", 1, ttl=10)
    cache.set("b", 2, ttl=50)
    clock.now += 20
    assert "a" not in cache
    clock.now -= 5000
    assert "a" not in cache and cache.get("a") is None and cache.peek("a") is None
    assert cache.get("b") == 2 and cache.ttl("b") == 30
    cache.set("c", 3, ttl=10)
    assert cache.ttl("c") == 10 and cache.touch("c", 5) and cache.ttl("c") == 5
    cache.update(d=4, e=5)
    cache.purge_expired()
    cache.resize(1)
    assert len(cache) == 1


def test_after_a_step_back_time_goes_on_from_the_latest_that_was_told(cache, clock):
    cache.set("a", 1, ttl=10)
    clock.now += 5
    assert cache.ttl("a") == 5
    clock.now -= 100
    assert cache.ttl("a") == 5
    clock.now += 102
    assert cache.ttl("a") == 3
    clock.now += 3
    assert "a" not in cache


def test_a_clock_may_start_anywhere_and_return_any_number(any_policy):
    for start in (-1e9, 0, 1e9, Fraction(1, 3), Decimal(10)):
        now = [start]
        cache = Cache(policy=any_policy, clock=lambda now=now: now[0])
        cache.set("a", 1, ttl=10)
        assert cache.ttl("a") == pytest.approx(10)
        now[0] += 10
        assert cache.get("a") is None


def test_a_cache_that_never_expires_anything_asks_no_clock(any_policy):
    def clock():
        raise AssertionError("asked")

    cache = Cache(policy=any_policy, clock=clock)
    cache["a"] = 1
    assert (
        cache.get("a") == 1 and "a" in cache and cache.increment("a") == 2 and cache.touch("a") and cache.pop("a") == 2
    )


def test_the_default_clock_is_monotonic_and_lags_by_no_more_than_a_tick(any_policy):
    cache = Cache(policy=any_policy)
    before = time.monotonic()
    cache.set("a", 1, ttl=3600)
    left = cache.ttl("a")
    after = time.monotonic()
    assert 3600 - (after - before) - 0.005 <= left <= 3600.001


def test_monotonic_as_the_clock_is_not_a_tick_late(any_policy):
    """If possible, it is read without Python. Both ways must give the same time."""
    cache = Cache(policy=any_policy, clock=time.monotonic)
    cache.set("long", 1, ttl=3600)
    for _ in range(200):
        before = time.monotonic()
        left = cache.ttl("long")
        cache.set("a", 1, ttl=0.0002)
        while cache.get("a") == 1:
            assert time.monotonic() - before < 10
        assert time.monotonic() - before >= 0.0002
        assert cache.ttl("long") <= left - 0.00019
    before = time.monotonic()
    cache.set("b", 1, ttl=3600)
    left = cache.ttl("b")
    assert 3600 - (time.monotonic() - before) <= left <= 3600
    assert Cache(clock=time.monotonic).copy()._clock is time.monotonic


def test_monotonic_as_the_clock_is_exact_for_an_entry_that_lives_long():
    """While an entry has a second left the coarse clock is good enough, but not at its end."""
    cache = Cache(clock=time.monotonic)
    cache.set("a", 1, ttl=1.01)
    end = time.monotonic() + 1.01
    hits = 0
    while True:
        before = time.monotonic()
        if cache.get("a") is None:
            break
        assert before < end
        hits += 1
    assert hits > 0


def test_a_clock_put_in_the_place_of_monotonic_is_asked(any_policy, monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    cache = Cache(policy=any_policy, clock=time.monotonic, default_ttl=10)
    cache["a"] = 1
    now = 9.0
    assert cache.get("a") == 1 and cache.ttl("a") == 1
    now = 10.0
    assert cache.get("a") is None


def test_a_clock_may_use_the_cache(any_policy):
    asked = []

    def clock():
        if not asked:
            asked.append(len(cache))
            cache.get("a")
        return 5.0

    cache = Cache(policy=any_policy, clock=clock)
    cache.set("a", 1, ttl=10)
    assert cache.ttl("a") == 10 and asked == [0]


def test_an_exception_from_the_clock_reaches_the_caller_and_changes_nothing(any_policy, clock):
    broken = []

    def ticking():
        if broken:
            raise OSError("no time")
        return clock.now

    cache = Cache(policy=any_policy, clock=ticking)
    cache.set("a", 1, ttl=10)
    broken.append(True)
    for call in (
        lambda: cache.get("a"),
        lambda: cache.set("a", 2),
        lambda: cache.set("b", 2, ttl=5),
        lambda: cache.delete("a"),
        lambda: cache.increment("a"),
        lambda: cache.compute("a", lambda old: 2),
        lambda: cache.touch("a", 5),
        lambda: cache.purge_expired(),
        lambda: list(cache),
    ):
        with pytest.raises(OSError, match="no time"):
            call()
    broken.clear()
    assert list(cache.items()) == [("a", 1)] and cache.ttl("a") == 10
    assert (cache.stats.sets, cache.stats.hits) == (1, 0)
