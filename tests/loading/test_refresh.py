"""Refresh-ahead, serve-stale and XFetch: the work in the background, and what readers see meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from cachebox import Cache, RemovalCause
from cachebox._loading import refresh_pool as workers
from in_threads import Started, must_end, run_all, wait_for, wait_until


class Source:
    """A loader that returns 1, 2, 3 ..., fails while `error` is set, and stands still while `gate` is closed."""

    def __init__(self):
        self.calls = 0
        self.counting = threading.Lock()        # without the GIL, += loses some
        self.error = None
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def __call__(self, key):
        with self.counting:
            self.calls += 1
            mine = self.calls
        self.entered.set()
        wait_for(self.gate)
        if self.error is not None:
            raise self.error
        return mine


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def queue(monkeypatch):
    """A deterministic executor: refreshes wait in this list until a test runs them."""
    waiting = []
    monkeypatch.setattr(workers, "submit", lambda refresh: waiting.append(refresh) or True)
    return waiting


def run(queue):
    while queue:
        queue.pop(0).run()


def test_a_get_late_in_the_lifetime_refreshes_in_the_background(source, queue, clock, any_policy):
    cache = Cache(loader=source, default_ttl=10, refresh_ahead=0.2, clock=clock, policy=any_policy)
    assert cache["a"] == 1
    clock.now += 8
    assert cache["a"] == 1 and queue == []      # a fifth is left, not less
    clock.now += 0.5
    assert (cache["a"], cache.get("a"), cache.get_many(["a"])) == (1, 1, {"a": 1})
    assert len(queue) == 1 and source.calls == 1
    run(queue)
    assert cache.peek("a") == 2 and cache.ttl("a") == 10 and cache.stats.expired == 0
    assert cache["a"] == 2 and queue == []


@pytest.mark.parametrize("look", [lambda c: "a" in c, lambda c: c.peek("a"), lambda c: c.ttl("a"), lambda c: list(c)])
def test_only_lookups_refresh(source, queue, clock, look):
    cache = Cache(loader=source, default_ttl=10, refresh_ahead=0.2, clock=clock)
    cache["a"]
    clock.now += 9
    look(cache)
    assert queue == []


def test_the_share_is_of_the_entrys_own_lifetime_which_it_keeps(source, queue, clock):
    cache = Cache(loader=source, default_ttl=10, refresh_ahead=0.2, clock=clock)
    cache.set("a", "old", ttl=100)
    clock.now += 79
    assert cache["a"] == "old" and queue == []
    clock.now += 2
    cache["a"]
    run(queue)
    assert cache.peek("a") == 1 and cache.ttl("a") == 100
    cache.set("b", "for ever", ttl=float("inf"))
    clock.now += 1e9
    assert cache["b"] == "for ever" and queue == []


@pytest.mark.parametrize("change", [lambda c: c.set("a", "new"), lambda c: c.delete("a"), lambda c: c.clear()])
@pytest.mark.parametrize("late", [False, True])
def test_a_change_during_a_refresh_wins(source, queue, clock, change, late):
    cache = Cache(loader=source, default_ttl=10, refresh_ahead=0.2, stale_ttl=10, clock=clock)
    cache["a"]
    clock.now += 15 if late else 9
    cache["a"]
    source.gate.clear()
    source.entered.clear()
    refresh = Started(run, queue)
    wait_for(source.entered)
    change(cache)
    source.gate.set()
    refresh.result()
    assert cache.peek("a") in (None, "new") and len(cache) in (0, 1)


def test_a_lifetime_that_is_given_during_a_refresh_stays(source, queue, clock):
    cache = Cache(loader=source, default_ttl=10, refresh_ahead=0.2, clock=clock)
    for seconds, left in ((100, 100.0), (float("inf"), None)):
        cache.set("a", "old")
        clock.now += 9
        assert cache["a"] == "old" and cache.touch("a", seconds)
        run(queue)
        assert cache.peek("a") == source.calls and cache.ttl("a") == left


def test_a_change_before_a_refresh_begins_spares_it(source, queue, clock):
    cache = Cache(loader=source, default_ttl=10, refresh_ahead=0.2, clock=clock)
    cache["a"]
    clock.now += 9
    cache["a"]
    cache["a"] = "new"
    run(queue)
    assert cache["a"] == "new" and source.calls == 1


def test_a_failed_refresh_keeps_the_value_until_its_end_and_is_tried_again(source, queue, clock):
    cache = Cache(loader=source, default_ttl=10, refresh_ahead=0.2, clock=clock)
    cache["a"]
    clock.now += 9
    source.error = OSError("down")
    cache["a"]
    run(queue)
    assert cache.ttl("a") == 1 and cache.stats.load_failure == 1
    assert cache["a"] == 1 and len(queue) == 1
    run(queue)
    clock.now += 1
    with pytest.raises(OSError, match="down"):
        cache["a"]
    assert len(cache) == 0 and source.calls == 4


def test_a_refresh_that_finds_nothing_removes_the_entry(source, queue, clock):
    told = []
    cache = Cache(loader=source, default_ttl=10, refresh_ahead=0.2, clock=clock, on_removal=lambda *a: told.append(a))
    cache["a"]
    clock.now += 9
    source.error = KeyError("a")
    cache["a"]
    run(queue)
    assert "a" not in cache and told == [("a", 1, RemovalCause.EXPLICIT)]


def test_stale_values_are_served_while_loading_and_while_the_loader_fails(source, queue, clock, any_policy):
    told = []
    cache = Cache(
        loader=source, default_ttl=10, stale_ttl=5, clock=clock, policy=any_policy, on_removal=lambda *a: told.append(a)
    )
    cache["a"]
    clock.now += 14
    assert "a" not in cache and len(cache) == 0 and cache.peek("a") is None and list(cache) == [] and cache.weight == 0
    source.error = OSError("down")
    assert (cache["a"], cache.get("a"), cache.get_many(["a"])) == (1, 1, {"a": 1})
    assert (cache.stats.hits, len(queue)) == (3, 1)
    run(queue)
    assert cache["a"] == 1                      # still stale, and tried again
    source.error = None
    run(queue)
    assert cache["a"] == 3 and cache.ttl("a") == 10 and len(cache) == 1
    assert told == [("a", 1, RemovalCause.REPLACED)]
    clock.now += 15
    source.error = OSError("down")
    with pytest.raises(OSError, match="down"):
        cache["a"]
    assert cache.stats.expired == 1 and queue == []


def test_stale_entries_leave_first_and_when_asked(source, queue, clock):
    cache = Cache(2, loader=source, default_ttl=10, stale_ttl=100, clock=clock)
    cache["a"], cache["b"]
    clock.now += 5
    cache["a"] = "newer"
    clock.now += 5                              # now "b" is stale
    assert list(cache) == ["a"]
    cache["c"] = 1
    assert list(cache) == ["a", "c"] and cache.stats.evictions == 0 and cache.stats.expired == 1
    clock.now += 10
    assert len(cache) == 0 and cache.purge_expired() == 2


def test_a_refresh_survives_that_its_entry_expires(source, queue, clock):
    cache = Cache(loader=source, default_ttl=10, refresh_ahead=0.2, clock=clock)
    cache["a"]
    clock.now += 9
    cache["a"]
    clock.now += 5
    assert cache.purge_expired() == 1
    run(queue)
    assert cache.peek("a") == 2


@must_end
def test_a_reader_who_finds_nothing_waits_for_the_refresh_that_is_running(source, queue, clock):
    cache = Cache(loader=source, default_ttl=10, refresh_ahead=0.2, clock=clock)
    cache["a"]
    clock.now += 9
    cache["a"]
    source.gate.clear()
    source.entered.clear()
    refresh = Started(run, queue)
    wait_for(source.entered)
    clock.now += 5
    reader = Started(cache.get, "a")
    source.gate.set()
    assert reader.result() == 2 and source.calls == 2
    refresh.result()


@must_end
def test_under_threads_a_hot_key_is_loaded_once_per_refresh_and_nobody_waits(source, clock):
    cache = Cache(loader=source, default_ttl=10, refresh_ahead=0.5, stale_ttl=10, clock=clock)
    assert cache["a"] == 1
    for n in range(1, 6):
        source.gate.clear()
        clock.now += 6 if n % 2 else 12         # ahead, and stale
        assert run_all(*[lambda: {cache["a"] for _ in range(50)}] * 16) == [{n}] * 16
        source.gate.set()
        wait_until(lambda n=n: cache.peek("a") == n + 1, "the refresh")
        assert run_all(*[lambda: {cache["a"] for _ in range(50)}] * 16) == [{n + 1}] * 16
        assert source.calls == n + 1
    assert cache.stats.load_success == 6


@must_end
@pytest.mark.parametrize("look", [lambda cache, key: cache[key], lambda cache, key: cache.get(key)])
def test_by_the_default_clock_what_is_due_is_refreshed_and_nothing_else_is(source, look):
    """Hits have a fast path there, which an injected clock does not take."""
    cache = Cache(loader=source, default_ttl=1000, refresh_ahead=0.99999)      # due after 0.01 s
    assert look(cache, "a") == 1
    cache.set("for ever", "set", ttl=float("inf"))
    wait_until(lambda: look(cache, "a") > 1)
    assert cache.ttl("a") > 900 and look(cache, "for ever") == "set"
    later, calls = Cache(loader=source, default_ttl=1000, refresh_ahead=0.00001), source.calls
    assert len({look(later, "a") for _ in range(100)}) == 1 and source.calls == calls + 1


@must_end
def test_the_pool_is_bounded_and_its_threads_are_daemons(source, clock):
    cache = Cache(loader=source, default_ttl=10, refresh_ahead=0.5, clock=clock)
    for n in range(40):
        cache[n]
    source.gate.clear()
    clock.now += 6
    for n in range(40):
        cache[n]
    wait_until(lambda: source.calls == 40 + workers.MOST_THREADS)
    threads = [thread for thread in threading.enumerate() if thread.name == "cachebox-refresh"]
    assert len(threads) == workers.MOST_THREADS and all(thread.daemon for thread in threads)
    source.gate.set()
    wait_until(lambda: source.calls == 80)


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "raise KeyboardInterrupt"])
def test_the_end_of_the_process_waits_for_no_refresh(end):
    """The end waits neither for refreshes that run, in loaders that hang, nor for those that wait for a thread."""
    program = f"""
        import sys, threading
        from cachebox import Cache
        from cachebox._loading import refresh_pool as workers
        now, hanging = 0.0, threading.Semaphore(0)

        def load(key):
            if now:
                hanging.release()
                threading.Event().wait()
            return key

        cache = Cache(loader=load, default_ttl=10, refresh_ahead=0.5, stale_ttl=10, clock=lambda: now)
        keys = range(2 * workers.MOST_THREADS)
        cache.get_many(keys)
        now = 6.0
        cache.get_many(keys)
        for _ in range(workers.MOST_THREADS):
            hanging.acquire()
        print("ready", flush=True)
        {end}
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        ready = time.monotonic()
        assert process.wait(60) == (0 if "raise" not in end else -2 if os.name != "nt" else process.returncode)
        assert time.monotonic() - ready < 5.0   # on any machine; a refresh would never end


def test_a_full_queue_refuses_and_a_later_get_asks_again(source, clock, monkeypatch):
    cache = Cache(loader=source, default_ttl=10, refresh_ahead=0.5, clock=clock)
    cache["a"]
    clock.now += 6
    monkeypatch.setattr(workers, "MOST_WAITING", 0)
    assert cache["a"] == 1
    monkeypatch.undo()
    cache["a"]
    wait_until(lambda: cache.peek("a") == 2)


def test_tags_survive_a_refresh(source, queue, clock):
    cache = Cache(loader=source, default_ttl=10, refresh_ahead=0.5, clock=clock)
    cache.set("a", "old", tags="t")
    clock.now += 6
    cache["a"]
    run(queue)
    assert cache.peek("a") == 1 and cache.invalidate_tag("t") == 1 and len(cache) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_refresh_of_the_parent_is_void_in_a_child_which_refreshes_itself(source, queue, clock):
    cache = Cache(loader=source, default_ttl=10, refresh_ahead=0.5, clock=clock)
    cache["a"]
    clock.now += 6
    cache["a"]
    child = os.fork()
    if child == 0:
        queue.clear()
        cache["a"]
        run(queue)
        os._exit(0 if cache.peek("a") == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    run(queue)
    assert cache.peek("a") == 2
