"""Lifetimes: `ttl`, `default_ttl`, `time_to_idle`, `touch`, `purge_expired`, clocks that misbehave."""

from __future__ import annotations

import datetime
import math
from decimal import Decimal
from fractions import Fraction

import pytest

from cachebox import Cache
from conftest import named


@pytest.fixture
def cache(any_policy, clock):
    return Cache(policy=any_policy, clock=clock)


# --- time to live ---------------------------------------------------------------------------------------------------


def test_an_entry_is_gone_at_the_very_moment_of_its_expiry(cache, clock):
    cache.set("a", 1, ttl=10)
    clock.now += 9.999
    assert cache.get("a") == 1
    clock.now = 1010.0
    assert cache.get("a") is None


GONE = {
    "get": lambda cache: cache.get("a"),
    "in": lambda cache: "a" in cache or None,
    "peek": lambda cache: cache.peek("a"),
    "pop": lambda cache: cache.pop("a", None),
    "delete": lambda cache: cache.delete("a") or None,
    "get_many": lambda cache: cache.get_many(["a"]) or None,
    "delete_many": lambda cache: cache.delete_many(["a"]) or None,
    "touch": lambda cache: cache.touch("a") or None,
    "len": lambda cache: len(cache) or None,
    "iter": lambda cache: list(cache) or None,
    "values": lambda cache: list(cache.values()) or None,
    "keys": lambda cache: "a" in cache.keys() or None,
    "items": lambda cache: ("a", 1) in cache.items() or None,
    "==": lambda cache: cache != {} or None,
    "weight": lambda cache: cache.weight or None,
    "copy": lambda cache: len(cache.copy()) or None,
    "compute": lambda cache: cache.compute("a", lambda old: None if not old else old),
    "setdefault": lambda cache: cache.setdefault("a"),
    "get_or_set": lambda cache: cache.get_or_set("a", lambda: None),
}


@pytest.mark.parametrize("look", GONE)
def test_nothing_finds_an_expired_entry(cache, clock, look):
    cache.set("a", 1, ttl=10)
    clock.now += 10
    assert GONE[look](cache) is None


def test_key_errors_of_an_expired_entry(cache, clock):
    cache.set("a", 1, ttl=10)
    clock.now += 10
    for call in (cache.__getitem__, cache.__delitem__, cache.pop, cache.ttl):
        cache.set("a", 1, ttl=10)
        clock.now += 10
        with pytest.raises(KeyError) as raised:
            call("a")
        assert raised.value.args == ("a",)


def test_increment_of_an_expired_counter_starts_at_zero(cache, clock):
    cache.set("a", 41, ttl=10)
    clock.now += 10
    assert cache.increment("a") == 1
    assert cache.ttl("a") is None


FIVE_SECONDS = [5, 5.0, datetime.timedelta(seconds=5), Decimal(5), Fraction(10, 2)]


@pytest.mark.parametrize("five", FIVE_SECONDS, ids=named)
def test_a_ttl_is_any_number_of_seconds_or_a_timedelta(cache, clock, five):
    cache.set("a", 1, ttl=five)
    cache.set_many({"b": 2}, ttl=five)
    cache.get_or_set("c", lambda: 3, ttl=five)
    cache["d"] = 4
    cache.touch("d", five)
    assert {key: cache.ttl(key) for key in cache} == dict.fromkeys("abcd", 5.0)
    clock.now += 5
    assert len(cache) == 0


@pytest.mark.parametrize("five", FIVE_SECONDS, ids=named)
def test_default_ttl_and_time_to_idle_too(any_policy, clock, five):
    for option in ("default_ttl", "time_to_idle"):
        cache = Cache(policy=any_policy, clock=clock, **{option: five})
        cache["a"] = 1
        assert cache.ttl("a") == 5.0
        clock.now += 5
        assert "a" not in cache
    assert Cache(default_ttl=five).default_ttl == 5


def test_what_looks_like_a_float_is_a_ttl(cache):
    class Seconds:
        def __float__(self):
            return 2.5

    cache.set("a", 1, ttl=Seconds())
    assert cache.ttl("a") == 2.5


@pytest.mark.parametrize(
    "ever",
    [math.inf, Decimal("Infinity"), Decimal("1e400"), 10**400, Fraction(10**400), 1e308, 2**1023],
    ids=["inf", "Decimal inf", "huge Decimal", "huge int", "huge Fraction", "large float", "large int"],
)
def test_infinity_and_what_is_too_large_for_a_float_mean_never(any_policy, clock, ever):
    cache = Cache(policy=any_policy, clock=clock, default_ttl=60)
    cache.set("a", 1, ttl=ever)
    assert cache.ttl("a") is None or cache.ttl("a") > 1e300
    clock.now += 1e15
    assert cache.get("a") == 1
    assert cache.touch("a", 5) and cache.ttl("a") == 5
    assert cache.touch("a", ever) and (cache.ttl("a") is None or cache.ttl("a") > 1e300)
    Cache(default_ttl=ever, time_to_idle=ever)["a"] = 1


def test_the_longest_timedelta_is_a_ttl(cache):
    cache.set("a", 1, ttl=datetime.timedelta.max)
    assert cache.ttl("a") == pytest.approx(datetime.timedelta.max.total_seconds())


def test_the_shortest_lifetimes_expire_at_once(cache):
    cache.set("a", 1, ttl=5e-324)
    assert "a" not in cache and len(cache) == 0


def test_none_means_default_ttl(any_policy, clock):
    cache = Cache(policy=any_policy, default_ttl=60, clock=clock)
    cache.set("a", 1)
    cache.set("b", 1, ttl=None)
    cache["c"] = 1
    cache.update(d=1)
    cache.set_many({"e": 1}, ttl=None)
    cache.setdefault("f", 1)
    cache.get_or_set("g", lambda: 1)
    cache.increment("h")
    cache.compute("i", lambda old: 1)
    assert {key: cache.ttl(key) for key in cache} == dict.fromkeys("abcdefghi", 60.0)


def test_infinity_overrides_default_ttl(any_policy, clock):
    cache = Cache(policy=any_policy, default_ttl=60, clock=clock)
    cache.set("a", 1, ttl=math.inf)
    clock.now += 1000
    assert cache.ttl("a") is None and cache.get("a") == 1


def test_default_ttl_is_shown_in_seconds():
    assert Cache().default_ttl is None
    assert Cache(default_ttl=2.5).default_ttl == 2.5
    assert Cache(default_ttl=datetime.timedelta(minutes=1)).default_ttl == 60


@pytest.mark.parametrize("later", [None, math.inf, 5, 50])
def test_an_overwrite_replaces_the_old_expiry_too(cache, later):
    cache.set("a", 1, ttl=10)
    cache.set("a", 2, ttl=later)
    assert cache.ttl("a") == (later if later in (5, 50) else None)


def test_an_overwrite_by_item_or_update_replaces_the_expiry(cache, clock):
    for overwrite in (lambda: cache.__setitem__("a", 2), lambda: cache.update(a=2), lambda: cache.set_many({"a": 2})):
        cache.set("a", 1, ttl=10)
        overwrite()
        assert cache.ttl("a") is None
    clock.now += 10
    assert cache.get("a") == 2


def test_overwriting_an_expired_entry_is_an_expiry_and_an_insertion(any_policy, clock):
    left = []
    cache = Cache(policy=any_policy, clock=clock, on_removal=lambda key, value, cause: left.append((value, cause.name)))
    cache.set("a", 1, ttl=10)
    cache["b"] = 2
    clock.now += 10
    cache["a"] = 3
    assert left == [(1, "EXPIRED")]
    assert list(cache.items()) == [("b", 2), ("a", 3)]
    assert (cache.stats.expired, cache.stats.sets, len(cache)) == (1, 3, 2)


def test_ttl_tells_the_remaining_seconds(cache, clock):
    cache.set("a", 1, ttl=10)
    cache["b"] = 2
    assert cache.ttl("a") == 10.0
    clock.now += 2.5
    assert (cache.ttl("a"), cache.ttl("b")) == (7.5, None)
    assert isinstance(cache.ttl("a"), float)
    with pytest.raises(KeyError, match="absent"):
        cache.ttl("absent")


def test_a_hit_does_not_prolong_a_time_to_live(cache, clock):
    cache.set("a", 1, ttl=10)
    clock.now += 6
    cache.get("a")
    assert cache.ttl("a") == 4


# --- counting and evicting the expired ------------------------------------------------------------------------------


NOTICE = {
    "get": (lambda cache: cache.get("a"), 1),
    "c[key]": (lambda cache: pytest.raises(KeyError, cache.__getitem__, "a"), 1),
    "get_many": (lambda cache: cache.get_many(["a"]), 1),
    "setdefault": (lambda cache: cache.setdefault("a", 1), 1),
    "get_or_set": (lambda cache: cache.get_or_set("a", lambda: 1), 1),
    "set": (lambda cache: cache.set("a", 1), 0),
    "increment": (lambda cache: cache.increment("a"), 0),
    "compute": (lambda cache: cache.compute("a", lambda old: 1), 0),
    "pop": (lambda cache: cache.pop("a", None), 0),
    "delete": (lambda cache: cache.delete("a"), 0),
    "delete_many": (lambda cache: cache.delete_many(["a"]), 0),
    "len": (len, 0),
    "iter": (list, 0),
    "==": (lambda cache: cache == {}, 0),
    "weight": (lambda cache: cache.weight, 0),
    "purge_expired": (lambda cache: cache.purge_expired(), 0),
    "popitem": (lambda cache: pytest.raises(KeyError, cache.popitem), 0),
}


@pytest.mark.parametrize("who", NOTICE)
def test_an_expired_entry_counts_once_as_expired_whoever_noticed_and_as_a_miss_for_a_lookup(cache, clock, who):
    notice, misses = NOTICE[who]
    cache.set("a", 1, ttl=10)
    clock.now += 10
    notice(cache)
    cache.purge_expired()
    assert (cache.stats.expired, cache.stats.misses, cache.stats.hits) == (1, misses, 0)
    assert (cache.stats.deletes, cache.stats.evictions) == (0, 0)


def test_an_expired_entry_is_evicted_before_any_live_one(any_policy, clock):
    left = []
    cache = Cache(
        4, policy=any_policy, clock=clock, on_removal=lambda key, value, cause: left.append((key, cause.name))
    )
    cache["oldest"] = 1
    cache.set("late", 2, ttl=20)
    cache.set("soon", 3, ttl=10)
    cache["newest"] = 4
    for _ in range(5):
        cache.get("soon")
        cache.get("late")
    clock.now += 20
    cache["x"] = 5
    cache["y"] = 6
    assert left == [("soon", "EXPIRED"), ("late", "EXPIRED")]
    assert "oldest" in cache and "newest" in cache
    assert (cache.stats.expired, cache.stats.evictions) == (2, 0)


def test_purge_expired_drops_what_has_expired_now_and_tells_how_many(cache, clock):
    cache.set("c", 3, ttl=30)
    cache.set("a", 1, ttl=10)
    cache.set("b", 2, ttl=20)
    cache["d"] = 4
    assert cache.purge_expired() == 0
    clock.now += 20
    assert cache.purge_expired() == 2
    assert cache.purge_expired() == 0
    assert set(cache) == {"c", "d"} and cache.stats.expired == 2


def test_thousands_expire_in_order_of_their_deadlines(any_policy, clock):
    left = []
    cache = Cache(None, policy=any_policy, clock=clock, on_evict=lambda key, value: left.append(key))
    keys = [n * 7919 % 2003 + 1 for n in range(2003)]
    for key in keys:
        cache.set(key, None, ttl=key)
    for key in range(1, 2004, 3):
        cache.touch(key, key + 5000)
    clock.now += 2003
    assert cache.purge_expired() == 2003 - len(range(1, 2004, 3))
    assert left == sorted(left)
    clock.now += 5000
    assert cache.purge_expired() == len(range(1, 2004, 3)) and len(cache) == 0


def test_entries_without_expiry_stay_beside_those_with(cache, clock):
    for n in range(50):
        cache.set(n, n, ttl=n if n % 2 else None)
    clock.now += 100
    assert sorted(cache) == list(range(0, 50, 2))


# --- touch ----------------------------------------------------------------------------------------------------------


def test_touch_gives_a_new_expiry_from_now(cache, clock):
    cache.set("a", 1, ttl=10)
    clock.now += 5
    assert cache.touch("a", 20) is True
    assert cache.ttl("a") == 20
    assert cache.touch("a", datetime.timedelta(seconds=3)) is True
    assert cache.ttl("a") == 3


def test_touch_without_ttl_gives_the_default(any_policy, clock):
    forever = Cache(policy=any_policy, clock=clock)
    forever.set("a", 1, ttl=10)
    assert forever.touch("a") and forever.ttl("a") is None
    minute = Cache(policy=any_policy, clock=clock, default_ttl=60)
    minute.set("a", 1, ttl=10)
    assert minute.touch("a", None) and minute.ttl("a") == 60


def test_touch_of_nothing_is_false_and_stores_nothing(cache, clock):
    assert cache.touch("a", 10) is False
    cache.set("a", 1, ttl=10)
    clock.now += 10
    assert cache.touch("a", 10) is False
    assert "a" not in cache


def test_touch_with_infinity_makes_an_entry_permanent(cache, clock):
    cache.set("a", 1, ttl=10)
    assert cache.touch("a", math.inf)
    clock.now += 1000
    assert cache.get("a") == 1


# --- time to idle ---------------------------------------------------------------------------------------------------

STARTS_ANEW = {
    "get": lambda cache: cache.get("a"),
    "c[key]": lambda cache: cache["a"],
    "get_many": lambda cache: cache.get_many(["a"]),
    "setdefault": lambda cache: cache.setdefault("a", 0),
    "get_or_set": lambda cache: cache.get_or_set("a", int),
    "set": lambda cache: cache.set("a", 2),
    "c[key] = v": lambda cache: cache.__setitem__("a", 2),
    "update": lambda cache: cache.update(a=2),
    "increment": lambda cache: cache.increment("a"),
    "compute": lambda cache: cache.compute("a", lambda old: old),
    "touch": lambda cache: cache.touch("a"),
}
LEAVES_ALONE = {
    "peek": lambda cache: cache.peek("a"),
    "in": lambda cache: "a" in cache,
    "ttl": lambda cache: cache.ttl("a"),
    "len": len,
    "iter": lambda cache: list(cache.items()),
    "==": lambda cache: cache == {"a": 1},
    "copy": lambda cache: cache.copy(),
    "a hit of another key": lambda cache: cache.get("b"),
}


@pytest.mark.parametrize("use", STARTS_ANEW)
def test_a_hit_a_set_and_touch_start_the_idle_time_anew(any_policy, clock, use):
    cache = Cache(policy=any_policy, time_to_idle=10, clock=clock)
    cache["a"] = 1
    for _ in range(5):
        clock.now += 9
        STARTS_ANEW[use](cache)
        assert cache.ttl("a") == 10
    clock.now += 10
    assert "a" not in cache


@pytest.mark.parametrize("look", LEAVES_ALONE)
def test_nothing_else_starts_the_idle_time_anew(any_policy, clock, look):
    cache = Cache(policy=any_policy, time_to_idle=10, clock=clock)
    cache.update(a=1, b=2)
    clock.now += 9
    LEAVES_ALONE[look](cache)
    assert cache.ttl("a") == 1
    clock.now += 1
    assert cache.get("a") is None


def test_ttl_is_whichever_end_is_nearer(any_policy, clock):
    cache = Cache(policy=any_policy, time_to_idle=10, clock=clock)
    cache.set("a", 1, ttl=25)
    assert cache.ttl("a") == 10
    clock.now += 9
    cache.get("a")
    assert cache.ttl("a") == 10
    clock.now += 9
    cache.get("a")
    assert cache.ttl("a") == 7
    clock.now += 6
    assert cache.get("a") == 1 and cache.ttl("a") == 1
    clock.now += 1
    assert cache.get("a") is None


def test_a_hit_never_moves_an_entry_past_its_time_to_live(any_policy, clock):
    cache = Cache(policy=any_policy, default_ttl=5, time_to_idle=100, clock=clock)
    cache["a"] = 1
    for _ in range(4):
        clock.now += 1
        assert cache.get("a") == 1
    clock.now += 1
    assert cache.get("a") is None


def test_an_infinite_ttl_still_idles(any_policy, clock):
    cache = Cache(policy=any_policy, time_to_idle=10, clock=clock)
    cache.set("a", 1, ttl=math.inf)
    assert cache.ttl("a") == 10
    clock.now += 10
    assert "a" not in cache


def test_touch_under_a_time_to_idle_gives_a_new_end_too(any_policy, clock):
    cache = Cache(policy=any_policy, default_ttl=20, time_to_idle=10, clock=clock)
    cache["a"] = 1
    clock.now += 5
    cache.touch("a", 3)
    assert cache.ttl("a") == 3
    cache.get("a")
    assert cache.ttl("a") == 3
    cache.touch("a")
    assert cache.ttl("a") == 10


def test_compute_under_a_time_to_idle_keeps_the_end(any_policy, clock):
    cache = Cache(policy=any_policy, time_to_idle=10, clock=clock)
    cache.set("a", 1, ttl=15)
    clock.now += 8
    cache.compute("a", lambda old: 2)
    assert cache.ttl("a") == 7
    cache.increment("a")
    assert cache.ttl("a") == 7


def test_rounding_never_prolongs_a_lifetime(policy, clock):
    cache = Cache(policy=policy, clock=clock, default_ttl=10)
    idle = Cache(policy=policy, clock=clock, time_to_idle=10)
    for step in range(2000):
        clock.now += 0.1234567 * step
        cache["a"] = idle["a"] = step
        assert 9.9 < cache.ttl("a") <= 10 and 9.9 < idle.ttl("a") <= 10, clock.now
