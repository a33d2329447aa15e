"""`warm` over two tiers: both caches, a real server."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

from both_kinds import KINDS, make
from cachebox import AsyncDistributedCache, BackendUnavailable, DistributedCache
from cachebox.distributed._ops import leases
from cachebox.distributed._ops import warming as warmings
from in_threads import Started, must_end, wait_for, wait_until
from second_tiers import BOTH

SECOND_TIERS = BOTH

@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def cache(server, kind):
    with make(kind, **server.at, default_ttl=100, timeout=10.0) as cache:
        yield cache


@pytest.fixture
def other(server):
    with DistributedCache(**server.at, timeout=10.0) as cache:
        yield cache


class Source:
    """A store that loads many keys at once."""

    def __init__(self, **values):
        self.values = values
        self.asked = []
        self.error = None

    def load(self, key):
        self.asked.append(key)
        return self.values[key]

    def load_many(self, keys):
        self.asked.append(list(keys))
        if self.error is not None:
            raise self.error
        return {key: self.values[key] for key in keys if key in self.values}


def test_keys_are_loaded_and_what_is_there_is_not(cache, other):
    calls = []

    def load(key):
        calls.append(key)
        return 10 // int(key)

    other.set("5", "there")
    for workers in (1, 4):
        report = cache.warm(["1", "2", "0", "5", "1"], load, workers=workers)
        assert report.failed == 1 and isinstance(report.first_error, ZeroDivisionError) and report.total == 5
    assert other.get_many("0125") == {"1": 10, "2": 5, "5": "there"} and sorted(calls) == ["0", "0", "1", "2"]
    assert (report.loaded, report.skipped) == (0, 4)
    assert 90 < other.ttl("1") <= 100


def test_none_is_a_value_and_a_key_error_says_that_there_is_none(cache, other):
    report = cache.warm(["a", "b"], {"a": None}.__getitem__)
    assert report == (1, 1, 0, 2, None) and other.get("a", 5) is None and other.get("b", 5) == 5


def test_items_are_stored_unless_they_are_there(cache, other):
    other.set("a", 1)
    report = cache.warm({"a": 2, "b": 3, "bad": {len}})
    assert (report.loaded, report.failed, report.skipped) == (1, 1, 1)
    assert isinstance(report.first_error, TypeError) and other.get_many(["a", "b", "bad"]) == {"a": 1, "b": 3}
    assert cache.warm({}) == (0, 0, 0, 0, None) and cache.warm([], str) == (0, 0, 0, 0, None)


def test_many_at_once_in_batches(cache, other, monkeypatch):
    monkeypatch.setattr(warmings, "BATCH", 4)
    source = Source(**{str(n): n for n in range(10) if n % 2})
    done = []
    report = cache.warm(iter(map(str, range(10))), source, progress=lambda *now: done.append(now))
    assert (report.loaded, report.failed) == (5, 5) and done == [(4, 10), (8, 10), (10, 10)]
    assert source.asked == [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8", "9"]]
    source.error = OSError("down")
    report = cache.warm(["1", "11", "13"], source)
    assert report.failed == 2 and report.skipped == 1 and report.first_error is source.error
    source.error, source.values["11"] = KeyError("13"), 11
    assert cache.warm(["11", "13"], source) == (1, 1, 0, 2, None) and source.asked[-2:] == ["11", "13"]
    assert other.get("11") == 11


def test_what_is_there_comes_into_the_first_tier(cache, other):
    other.set_many({"a": 1, "b": 2})
    cache.warm(["a", "b"], str)
    assert cache.stats.remote_hits == cache.stats.local_hits == cache.stats.misses == 0
    assert cache.get("a") == 1 and cache.stats.local_hits == 1


def test_progress_counts_failures_and_may_stop_it(cache):
    done = []
    cache.warm("ab and c".split(), {"ab": 1}.__getitem__, workers=3, progress=lambda *now: done.append(now))
    assert done == [(1, 3), (2, 3), (3, 3)]

    def stop(done, total):
        raise LookupError

    for workers in (1, 3):
        with pytest.raises(LookupError):
            cache.warm(map(str, range(100)), str, workers=workers, progress=stop)
    report = cache.warm(map(str, range(100)), str)
    assert report.failed == 0 and 0 < report.skipped < 100 and report.loaded + report.skipped == 100


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((["a"],), TypeError),
        ((5, str), TypeError),
        (([1], str), TypeError),
        (([[]], str), TypeError),
        (({1: 2},), TypeError),
        ((["a"], 5), TypeError),
    ],
)
def test_what_makes_no_sense_is_refused(cache, arguments, error):
    with pytest.raises(error):
        cache.warm(*arguments)
    for options in ({"workers": 0}, {"workers": "2"}, {"workers": True}, {"progress": 5}):
        with pytest.raises((TypeError, ValueError), match=next(iter(options))):
            cache.warm(["a"], str, **options)


def test_async_loaders_are_for_the_asyncio_cache(cache, other, kind):
    class Rows:
        async def load(self, key):
            return key * 2

    class Bulk(Rows):
        async def load_many(self, keys):
            await asyncio.sleep(0)
            return {key: key * 3 for key in keys}

    if kind == "sync":
        for loader in (Rows().load, Rows(), Bulk()):
            with pytest.raises(TypeError, match="async"):
                cache.warm(["a"], loader)
        return
    assert cache.warm(["a"], Rows().load).loaded == cache.warm(["b"], Rows()).loaded == 1
    assert cache.warm(["c", "d"], Bulk()).loaded == 2
    assert other.get_many("abcd") == {"a": "aa", "b": "bb", "c": "ccc", "d": "ddd"}


@pytest.mark.parametrize("write", [lambda c: c.set("a", "newer"), lambda c: c.delete("a"), lambda c: c.clear()])
def test_a_write_while_it_loads_wins(cache, other, write):
    def load(key):
        write(other)
        return "old"

    assert cache.warm(["a"], load).loaded == 1
    assert other.get("a") in (None, "newer") and cache.stats.fills_refused == 1
    assert cache.get("a") == other.get("a")


def test_what_cannot_be_decoded_is_replaced(server, kind):
    with DistributedCache(**server.at, secret="theirs") as other:
        other.set_many({"a": 1, "b": 2})
    with make(kind, **server.at, secret="ours") as cache:
        assert cache.warm(["a"], str).loaded == 1 and cache.warm({"b": "mine"}).loaded == 1
        assert cache.get_many("ab") == {"a": "a", "b": "mine"}


@must_end
def test_what_somebody_else_computes_is_waited_for(cache, other):
    begun, go_on = threading.Event(), threading.Event()

    def slow():
        begun.set()
        wait_for(go_on)
        return "theirs"

    leader = Started(other.get_or_set, "a", slow)
    wait_for(begun)
    asked = []
    report = Started(lambda: cache.warm(["a", "b"], lambda key: asked.append(key) or "mine"))
    wait_until(lambda: cache.stats.misses == 2)             # both keys: "a" has been looked for, and is waited for
    go_on.set()
    assert leader.result() == "theirs" and report.result().loaded == 2
    assert asked == ["b"] and other.get_many("ab") == {"a": "theirs", "b": "mine"}


@must_end
def test_others_wait_for_what_it_loads(server, other, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_MS", 400)            # renewed, because it takes longer
    monkeypatch.setattr(leases, "RENEWED_EVERY", 0.1)
    begun, go_on = threading.Event(), threading.Event()

    def load(key):
        begun.set()
        wait_for(go_on)
        return "warm"

    with DistributedCache(**server.at, timeout=10.0) as cache:
        warming = Started(cache.warm, ["a"], load)
        wait_for(begun)
        here = Started(cache.get_or_set, "a", lambda: "here")
        there = Started(other.get_or_set, "a", lambda: "there")
        end = time.monotonic() + 1.0
        wait_until(lambda: time.monotonic() > end)
        go_on.set()
        assert warming.result().loaded == 1 and here.result() == there.result() == "warm"


@must_end
def test_a_failed_load_lets_the_next_one_lead(server, other):
    begun, go_on = threading.Event(), threading.Event()

    def load(key):
        begun.set()
        wait_for(go_on)
        raise OSError

    with DistributedCache(**server.at, timeout=10.0) as cache:
        warming = Started(cache.warm, ["a"], load)
        wait_for(begun)
        here = Started(cache.get_or_set, "a", lambda: "next")
        go_on.set()
        started = time.monotonic()
        assert warming.result().failed == 1 and here.result() == other.get_or_set("a", lambda: "late") == "next"
        assert time.monotonic() - started < leases.LEASE_MS / 1000


@must_end
def test_a_loader_may_ask_the_cache_for_the_key_that_it_loads(server):
    with DistributedCache(**server.at, timeout=10.0) as cache:
        assert cache.warm(["a"], lambda key: cache.get_or_set(key, lambda: "inner") + "!").loaded == 1
        assert cache.get("a") == "inner!"
        assert cache.warm(["b"], lambda key: cache.warm([key], str) and key).loaded == 1 and cache.get("b") == "b"


def test_without_a_server_keys_fail_and_nothing_is_loaded(kind):
    with make(kind, redis_port=1, timeout=0.2) as cache:
        report = cache.warm(["a", "b"], lambda key: pytest.fail("for what?"))
        assert report.failed == 2 and isinstance(report.first_error, BackendUnavailable)
        assert cache.warm({"a": 1}).failed == 1 and cache.stats.errors > 0


def test_a_closed_cache_refuses(server, kind):
    with make(kind, **server.at) as cache:
        pass
    if kind == "sync":
        with pytest.raises(RuntimeError, match="closed"):
            cache.warm(["a"], str)


@must_end
def test_a_cancelled_warm_up_gives_its_leases_back(server, other):
    async def main():
        async with AsyncDistributedCache(**server.at, timeout=10.0) as cache:
            entered = asyncio.Event()

            async def load(key):
                entered.set()
                await asyncio.sleep(60)

            task = asyncio.ensure_future(cache.warm(["a", "b", "c"], load))
            await entered.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            begun = time.monotonic()
            assert await asyncio.to_thread(other.get_or_set, "a", lambda: 1) == 1
            assert time.monotonic() - begun < leases.LEASE_MS / 1000 - 1
            assert (await cache.warm(["a", "b", "c"], lambda key: key)).loaded == 2

    asyncio.run(main())


def test_a_bar_on_a_terminal(cache, monkeypatch, capsys):
    import sys

    pytest.importorskip("rich", reason="rich is not installed: it is in the extra `cli`")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert cache.warm(["a", "b"], str, progress=True).loaded == 2
    assert "warming" in capsys.readouterr().err
