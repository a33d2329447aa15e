"""Names, `caches`, `clear_all`, what the log is told, and what a notebook shows."""

from __future__ import annotations

import gc
import logging
import pickle
import threading

import pytest

import cachebox
from cachebox import Cache, cached
from cachebox._platform.registry import register
from conftest import named
from in_threads import run_all, wait_until


class Thing:
    """Something that can be registered."""


# --- names ------------------------------------------------------------------------------------------------------------


def test_named_caches_are_known_and_others_are_not():
    prices, other = Cache(name="seeing:prices"), Cache()
    assert (prices.name, other.name) == ("seeing:prices", None)
    assert cachebox.caches()["seeing:prices"] is prices
    assert not any(cache is other for cache in cachebox.caches().values())
    cachebox.caches().clear()
    assert "seeing:prices" in cachebox.caches()


def test_a_second_of_one_name_has_a_number_and_names_become_free_again():
    first, second, third = [Cache(name="seeing:twice") for _ in range(3)]
    found = cachebox.caches()
    assert [found[f"seeing:twice{number}"] for number in ("", "#2", "#3")] == [first, second, third]
    assert found["seeing:twice#2"] is second
    del found, second
    gc.collect()
    assert "seeing:twice#2" not in cachebox.caches() and cachebox.caches()["seeing:twice#3"] is third
    fourth = Cache(name="seeing:twice")
    assert cachebox.caches()["seeing:twice#2"] is fourth


def test_copies_and_pickles_keep_the_name():
    cache = Cache(name="seeing:copied")
    copies = [cache.copy(), pickle.loads(pickle.dumps(cache))]
    assert cachebox.caches()["seeing:copied"] is cache
    assert [cachebox.caches()[f"seeing:copied#{n}"] for n in (2, 3)] == copies


@pytest.mark.parametrize("wrong, error", [("", ValueError), (5, TypeError), (b"x", TypeError)], ids=named)
def test_a_name_is_a_text(wrong, error):
    with pytest.raises(error, match="name"):
        Cache(name=wrong)


def test_a_name_may_be_told_when_it_is_wanted():
    asked = []

    def name_of(thing):
        asked.append(thing)
        return "seeing:late"

    thing = Thing()
    register(name_of, thing)
    assert asked == []
    assert cachebox.caches()["seeing:late"] is thing is cachebox.caches()["seeing:late"]
    assert asked == [thing]


def test_threads_that_ask_at_once_agree():
    things = [Thing() for _ in range(50)]
    for thing in things:
        register("seeing:many", thing)
    answers = run_all(*[lambda: {name: id(thing) for name, thing in cachebox.caches().items()}] * 4)
    assert all(answer == answers[0] for answer in answers)
    assert {id(thing) for thing in things} <= set(answers[0].values())


def test_caches_that_come_and_go_leave_nothing():
    from cachebox._platform import registry

    gc.collect()
    before = len(registry._living), len(registry._names)

    def come_and_go():
        for n in range(300):
            Cache(name=f"seeing:{n % 3}")
            cachebox.caches()

    run_all(*[come_and_go] * 3)
    gc.collect()
    assert (len(registry._living), len(registry._names)) == before


# --- clear_all --------------------------------------------------------------------------------------------------------


def test_clear_all_clears_every_living_cache():
    named_cache, other = Cache(name="seeing:cleared"), Cache()
    runs = []
    f = cached(lambda x: runs.append(x))
    for cache in (named_cache, other):
        cache["a"] = 1
    f(1)
    cachebox.clear_all()
    f(1)
    assert len(named_cache) == len(other) == 0 and other.stats.sets == 0 and runs == [1, 1]


def test_one_that_raises_keeps_no_other_from_being_cleared():
    class Broken(Cache):
        def clear(self):
            raise ValueError("not now")

    first, broken, last = Cache(), Broken(), Cache()
    first["a"] = broken["a"] = last["a"] = 1
    with pytest.raises(ValueError, match="not now"):
        cachebox.clear_all()
    assert (len(first), len(broken), len(last)) == (0, 1, 0)


# --- counters ---------------------------------------------------------------------------------------------------------


def fail(key):
    raise ConnectionError("no")


def test_refreshes_and_stale_serves_are_counted(clock):
    answers = [1]
    cache = Cache(default_ttl=10, stale_ttl=100, loader=lambda key: answers[0] or fail(key), clock=clock)
    assert cache["a"] == 1
    clock.now += 11
    answers[0] = 2
    assert cache["a"] == 1
    wait_until(lambda: cache.stats.refreshes == 1)
    assert cache["a"] == 2 and (cache.stats.stale_serves, cache.stats.refresh_failures) == (1, 0)
    clock.now += 11
    answers[0] = 0
    assert cache["a"] == 2
    wait_until(lambda: cache.stats.refresh_failures == 1)
    assert (cache.stats.stale_serves, cache.stats.refreshes) == (2, 1)


def test_negative_hits_are_counted():
    cache = Cache(loader=fail, cache_exceptions=ConnectionError, exception_ttl=60)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            cache["a"]
    with pytest.raises(ConnectionError):
        cache.get_or_set("a", int)
    assert (cache.stats.negative_hits, cache.stats.hits, cache.stats.misses) == (3, 3, 1)


# --- the log ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def said(caplog):
    """What the log was told of caches whose names begin so; threads may still be speaking of those of other tests."""
    caplog.set_level(logging.DEBUG, "cachebox")
    return lambda: [
        record for record in caplog.records if record.name == "cachebox" and "'seeing:log" in record.getMessage()
    ]


@pytest.fixture
def unraisable(monkeypatch):
    found = []
    monkeypatch.setattr("sys.unraisablehook", found.append)
    return found


def test_a_refresh_that_fails_is_said_once_and_so_is_that_it_works_again(clock, said):
    answers = [1]
    cache = Cache(
        default_ttl=10, stale_ttl=1000, loader=lambda key: answers[0] or fail(key), clock=clock, name="seeing:log"
    )
    cache["secret key"]

    def refresh():
        done = cache.stats.refreshes + cache.stats.refresh_failures
        clock.now += 11
        cache["secret key"]
        wait_until(lambda: cache.stats.refreshes + cache.stats.refresh_failures > done)
        wait_until(lambda: not cache._refreshing("secret key"))

    answers[0] = 0
    refresh(), refresh(), refresh()
    (record,) = said()
    assert record.levelno == logging.WARNING and "'seeing:log'" in record.getMessage() and "no" in record.getMessage()
    assert record.exc_info[0] is ConnectionError and record.exc_info[2] is not None
    answers[0] = 2
    refresh(), refresh()
    assert len(said()) == 2 and "again" in said()[1].getMessage()
    answers[0] = 0
    refresh(), refresh()
    assert len(said()) == 3
    assert not any("secret" in record.getMessage() for record in said())


@pytest.mark.parametrize("option", ["on_evict", "on_removal"])
def test_a_callback_that_fails_is_said_once_and_reported_every_time(option, said, unraisable):
    fails = [True]

    def callback(key, value, cause=None):
        if fails[0]:
            raise ValueError("no")

    cache = Cache(name="seeing:log", **{option: callback})

    def remove():
        cache["secret key"] = "secret value"
        del cache["secret key"]

    remove(), remove()
    (record,) = said()
    assert option in record.getMessage() and record.exc_info[0] is ValueError and "secret" not in record.getMessage()
    assert len(unraisable) == 2
    fails[0] = False
    remove(), remove()
    assert len(said()) == 2 and "again" in said()[1].getMessage()
    fails[0] = True
    remove()
    assert len(said()) == 3 and len(unraisable) == 3


def test_a_handler_that_raises_or_uses_the_cache_does_no_harm(unraisable):
    class Handler(logging.Handler):
        def emit(self, record):
            cache["from the handler"] = record.getMessage()
            raise RuntimeError("handler")

    def callback(key, value):
        raise ValueError("no")

    handler = Handler()
    logging.getLogger("cachebox").addHandler(handler)
    try:
        cache = Cache(on_evict=callback)
        cache["a"] = 1
        del cache["a"]
        assert list(cache) == ["from the handler"]
        cache._check()
    finally:
        logging.getLogger("cachebox").removeHandler(handler)
    assert [type(found.exc_value) for found in unraisable] == [ValueError, RuntimeError]


def test_many_threads_whose_callbacks_fail_say_it_once(said, unraisable):
    def callback(key, value):
        raise ValueError("no")

    cache = Cache(1, on_evict=callback, name="seeing:log")
    run_all(*[lambda: [cache.set(threading.get_ident() + n, n) for n in range(100)] for _ in range(4)])
    assert 1 <= len(said()) <= 4 and len(unraisable) >= 390


# --- notebooks --------------------------------------------------------------------------------------------------------


def test_a_notebook_shows_what_a_cache_did_and_not_what_it_holds():
    cache = Cache(1000, name="<prices>", max_weight=5000, weigher=lambda key, value: 1000)
    cache["secret key"] = "secret value"
    cache.get("secret key"), cache.get("x")
    shown = cache._repr_html_()
    assert shown.startswith("<table>") and shown.endswith("</table>") and "secret" not in shown
    for part in ("&lt;prices&gt;", "LRU", "1 of 1,000", "1,000 of 5,000", "50.0%"):
        assert part in shown
    assert "bytes" in Cache(max_bytes="1MB")._repr_html_()
    statistics = cache.stats._repr_html_()
    assert statistics.startswith("<table>") and all(name in statistics for name in (*cache.stats.get_all(), "uptime"))
