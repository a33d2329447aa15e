"""`CacheStats` on its own, and its snapshots."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import pytest

from cachebox import Cache, CacheStats
from cachebox.stats import StatsSnapshot

COUNTERS = (
    "hits", "misses", "sets", "deletes", "evictions", "expired", "load_success", "load_failure", "load_time",
    "stale_serves", "refreshes", "refresh_failures", "negative_hits",
)


@pytest.fixture
def stats():
    stats = CacheStats()
    for amount, name in enumerate(COUNTERS, 1):
        stats.increment(name, amount)
    return stats


def test_all_counters_start_at_zero():
    stats = CacheStats()
    assert [getattr(stats, name) for name in COUNTERS] == [0] * 13


def test_counters_are_attributes_and_come_by_name(stats):
    for amount, name in enumerate(COUNTERS, 1):
        assert getattr(stats, name) == stats.get(name) == amount
        assert type(stats.get(name)) is (float if name == "load_time" else int)


def test_attributes_cannot_be_assigned(stats):
    for name in COUNTERS:
        with pytest.raises(AttributeError):
            setattr(stats, name, 0)


def test_get_all_is_a_new_dict_of_all_counters(stats):
    counted = stats.get_all()
    assert counted == {"hits": 1, "misses": 2, "sets": 3, "deletes": 4, "evictions": 5, "expired": 6, "load_success": 7,
                       "load_failure": 8, "load_time": 9.0, "stale_serves": 10, "refreshes": 11,
                       "refresh_failures": 12, "negative_hits": 13}
    assert list(counted) == list(COUNTERS)
    counted.clear()
    assert stats.get_all() != counted


def test_increment_adds_one_or_an_amount(stats):
    assert stats.increment("hits") is None
    stats.increment("hits", 0)
    stats.increment("hits", amount=10)
    stats.increment(name="hits")
    assert stats.hits == 13


def test_counters_hold_large_numbers():
    stats = CacheStats()
    stats.increment("hits", 2**62)
    stats.increment("hits", 2**61)
    assert stats.hits == 2**62 + 2**61


def test_hit_rate_is_hits_per_lookup_and_zero_when_unused():
    stats = CacheStats()
    assert stats.hit_rate() == 0.0 and type(stats.hit_rate()) is float
    stats.increment("misses")
    assert stats.hit_rate() == 0.0
    stats.increment("hits", 3)
    assert stats.hit_rate() == 0.75
    stats.increment("sets", 1000)
    assert stats.hit_rate() == 0.75


def test_reset_sets_all_to_zero_and_starts_the_uptime_anew(stats):
    before = stats.snapshot()
    while stats.snapshot().uptime <= before.uptime:
        pass
    assert stats.reset() is None
    assert stats.get_all() == dict.fromkeys(COUNTERS, 0)
    assert stats.hit_rate() == 0.0
    after = stats.snapshot()
    assert 0 <= after.uptime
    stats.increment("hits")
    assert stats.hits == 1


def test_the_uptime_grows(stats):
    first = stats.snapshot().uptime
    assert first >= 0.0
    while stats.snapshot().uptime == first:
        pass
    assert stats.snapshot().uptime > first


def test_the_report_has_all_lines_that_a_person_wants_uptime_included(stats):
    stats.increment("sets", 1234567)
    lines = stats.report().splitlines()
    for name in COUNTERS:
        [line] = [line for line in lines if line.split()[0] == name]
        assert f"{stats.get(name):,}" in line
    assert any(line.split()[0] == "uptime" and line.endswith(" s") for line in lines)
    assert "33.3%" in stats.report() and "3 lookups" in stats.report() and "1,234,570" in stats.report()
    assert not stats.report().endswith("\n") and all(line == line.rstrip() for line in lines)


def test_the_report_of_unused_statistics():
    assert "no lookups" in CacheStats().report()


def test_the_repr_shows_all_counters_and_the_hit_rate(stats):
    shown = repr(stats)
    assert all(f"{name}={stats.get(name)}" in shown for name in COUNTERS) and "hit_rate=0.333" in shown


# --- snapshots ------------------------------------------------------------------------------------------------------


def test_a_snapshot_does_not_change_any_more(stats):
    snapshot = stats.snapshot()
    stats.increment("hits")
    stats.reset()
    assert snapshot.get_all() == dict(zip(COUNTERS, range(1, 14), strict=True))


def test_a_snapshot_reads_like_statistics(stats):
    snapshot = stats.snapshot()
    for name in COUNTERS:
        assert getattr(snapshot, name) == snapshot.get(name) == stats.get(name)
    assert snapshot.hit_rate() == stats.hit_rate()
    assert snapshot.get_all() == stats.get_all()
    with pytest.raises(AttributeError):
        snapshot.hits = 5
    with pytest.raises(AttributeError):
        snapshot.uptime = 5


def test_the_difference_of_two_snapshots_is_what_happened_in_between(stats):
    before = stats.snapshot()
    stats.increment("hits", 3)
    stats.increment("misses", 1)
    after = stats.snapshot()
    difference = after - before
    assert type(difference) is StatsSnapshot
    assert difference.get_all() == {**dict.fromkeys(COUNTERS, 0), "hits": 3, "misses": 1}
    assert difference.hit_rate() == 0.75
    assert difference.uptime == after.uptime - before.uptime >= 0
    assert (before - after).hits == -3


def test_only_snapshots_can_be_subtracted(stats):
    snapshot = stats.snapshot()
    for call in (lambda: snapshot - 1, lambda: 1 - snapshot, lambda: snapshot - stats, lambda: snapshot - {}):
        with pytest.raises(TypeError):
            call()


def test_snapshots_are_compared_by_what_they_hold(stats):
    snapshot = stats.snapshot()
    assert snapshot == pickle.loads(pickle.dumps(snapshot)) == copy.copy(snapshot)
    stats.increment("hits")
    assert snapshot != stats.snapshot()
    assert snapshot != snapshot.get_all() and snapshot != 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(snapshot)


def test_the_repr_of_a_snapshot_shows_its_counters(stats):
    shown = repr(stats.snapshot())
    assert all(f"{name}={stats.get(name)}" in shown for name in COUNTERS)


def test_a_snapshot_comes_only_from_statistics():
    with pytest.raises(TypeError, match="snapshot"):
        StatsSnapshot()


# --- the object -----------------------------------------------------------------------------------------------------


def test_statistics_cannot_be_pickled_or_copied_their_snapshots_can(stats):
    for clone in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="snapshot"):
            clone(stats)


def test_a_users_own_increments_of_a_caches_statistics_count(any_policy):
    cache = Cache(policy=any_policy)
    cache.stats.increment("hits", 5)
    cache.get("absent")
    assert (cache.stats.hits, cache.stats.misses) == (5, 1)


def test_statistics_outlive_their_cache():
    cache = Cache()
    cache["a"] = 1
    stats, reference = cache.stats, weakref.ref(cache)
    del cache
    gc.collect()
    assert reference() is None
    stats.increment("hits")
    assert (stats.sets, stats.hits) == (1, 1)


def test_counting_is_exact_under_threads(any_policy):
    cache = Cache(10, policy=any_policy)
    own = CacheStats()
    each, threads = 2000, 4
    ready = threading.Barrier(threads)

    def work(number):
        ready.wait(60)
        for n in range(each):
            cache.get(n)
            cache.set((number, n), n)
            own.increment("hits")

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    total = each * threads
    assert (cache.stats.misses, cache.stats.sets, own.hits) == (total, total, total)
    assert cache.stats.evictions == total - 10
