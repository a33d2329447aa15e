"""The thread that removes expired entries that no caller asks for.

Questions of the whole process, whether there is a thread and how it ends, are tried in processes of their own. Nothing
here asserts how long anything takes: tests wait for events, and the limits only guard against hanging.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import weakref

import pytest

from cachebox import Cache, RemovalCause
from conftest import named
from in_threads import wait_until

LIMIT = 60.0
SWEEPER = "cachebox-sweeper"

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")


def run(code: str, *options: str) -> str:
    """What a program prints. It must end well and say nothing on stderr."""
    prelude = """
        import os, sys, threading, time
        from cachebox import Cache

        def sweepers():
            return [thread for thread in threading.enumerate() if thread.name == "cachebox-sweeper"]
    """
    program = textwrap.dedent(prelude) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", *options, "-c", program],
        capture_output=True,
        text=True,
        timeout=2 * LIMIT,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


# --- what it does ---------------------------------------------------------------------------------------------------


def test_expired_entries_leave_memory_when_nobody_touches_the_cache(any_policy):
    class Thing:
        pass

    freed = threading.Event()
    key, value = Thing(), Thing()
    weakref.finalize(value, freed.set)
    cache = Cache(policy=any_policy)
    cache.set(key, value, ttl=0.05)
    del key, value
    wait_until(freed.is_set)    # without the GIL, this thread has to run to let go of what it made
    assert (cache.stats.expired, cache.stats.misses) == (1, 0)


def test_their_callbacks_run_in_the_sweepers_thread(any_policy):
    told, done = [], threading.Event()

    def on_evict(key, value):
        told.append((key, value, threading.current_thread().name))

    def on_removal(key, value, cause):
        told.append((key, value, cause, threading.current_thread().name))
        done.set()

    cache = Cache(policy=any_policy, on_evict=on_evict, on_removal=on_removal)
    cache.set("a", 1, ttl=0.05)
    assert done.wait(LIMIT)
    assert told == [("a", 1, SWEEPER), ("a", 1, RemovalCause.EXPIRED, SWEEPER)]


def test_entries_go_in_the_order_of_their_deadlines_and_others_stay():
    told, done = [], threading.Event()
    cache = Cache(on_evict=lambda key, value: told.append(key) or (len(told) == 3 and done.set()))
    cache["stays"] = 0
    cache.set("far", 0, ttl=3600)
    cache.set_many({"late": 1}, ttl=0.3)
    cache.set("middle", 2, ttl=0.2)
    cache.set("early", 3, ttl=0.1)
    assert done.wait(LIMIT)
    assert told == ["early", "middle", "late"] and list(cache) == ["stays", "far"]


@pytest.mark.parametrize(
    "give",
    [
        lambda cache: cache.touch("a", 0.05),
        lambda cache: cache.set("a", 2, ttl=0.05),
        lambda cache: cache.set_many({"a": 2}, ttl=0.05),
        lambda cache: cache.get_or_set("b", int, ttl=0.05),
    ],
    ids=["touch", "set", "set_many", "get_or_set"],
)
def test_it_comes_sooner_for_a_nearer_deadline(give):
    expired = threading.Event()
    cache = Cache(on_removal=lambda key, value, cause: cause is RemovalCause.EXPIRED and expired.set())
    cache.set("a", 1, ttl=3600)
    give(cache)
    assert expired.wait(LIMIT)


@pytest.mark.parametrize("options", [{"default_ttl": 0.05}, {"time_to_idle": 0.05}], ids=named)
@pytest.mark.parametrize(
    "store",
    [
        lambda cache: cache.__setitem__("a", 1),
        lambda cache: cache.update(a=1),
        lambda cache: cache.setdefault("a", 1),
        lambda cache: cache.increment("a"),
        lambda cache: cache.compute("a", lambda old: 1),
    ],
    ids=["c[key] = v", "update", "setdefault", "increment", "compute"],
)
def test_it_comes_whatever_gave_the_entry_its_end(options, store):
    expired = threading.Event()
    cache = Cache(on_evict=lambda key, value: expired.set(), **options)
    store(cache)
    assert expired.wait(LIMIT)


def test_it_comes_for_entries_of_a_copy():
    gone = []
    both = threading.Semaphore(0)
    cache = Cache(on_evict=lambda key, value: gone.append(key) or both.release())
    cache.set("a", 1, ttl=0.1)
    other = cache.copy()
    assert both.acquire(timeout=LIMIT) and both.acquire(timeout=LIMIT)
    assert gone == ["a", "a"] and len(other) == 0


def test_many_expire_at_once():
    done = threading.Event()
    gone = []
    cache = Cache(None, on_evict=lambda key, value: gone.append(key) or (len(gone) == 3000 and done.set()))
    cache.set_many(dict.fromkeys(range(3000)), ttl=0.2)
    assert done.wait(LIMIT)
    assert sorted(gone) == list(range(3000)) and len(cache) == 0


def test_one_thread_serves_every_cache():
    done = threading.Semaphore(0)
    threads = set()
    caches = [
        Cache(on_evict=lambda key, value: threads.add(threading.get_ident()) or done.release()) for _ in range(20)
    ]
    for cache in caches:
        cache.set("a", 1, ttl=0.1)
    assert sum(thread.name == SWEEPER for thread in threading.enumerate()) <= 1
    for _ in caches:
        assert done.acquire(timeout=LIMIT)
    assert len(threads) == 1


def test_a_callback_may_use_any_cache_from_the_sweepers_thread():
    done = threading.Event()

    def on_evict(key, value):
        if key == "a":
            cache.set("b", 2, ttl=0.05)
            other.set("c", 3, ttl=0.05)
            cache.get("a")
            len(cache)
        elif key == "b":
            other.set("last", 4, ttl=0.05)

    cache = Cache(on_evict=on_evict)
    other = Cache(on_evict=lambda key, value: key == "last" and done.set())
    cache.set("a", 1, ttl=0.05)
    assert done.wait(LIMIT)
    assert len(cache) == 0


def test_a_callback_that_raises_is_reported_and_the_sweeping_goes_on(monkeypatch):
    reported, done = [], threading.Event()
    monkeypatch.setattr(sys, "unraisablehook", lambda found: reported.append(found.exc_value))
    error = LookupError("callback")

    def on_evict(key, value):
        if key == "a":
            raise error
        done.set()

    cache = Cache(on_evict=on_evict)
    cache.set("a", 1, ttl=0.05)
    cache.set("b", 1, ttl=0.1)
    assert done.wait(LIMIT)
    assert reported == [error]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interruption_from_a_callback_does_not_end_the_sweeping_of_others(kind, monkeypatch):
    reported, done = [], threading.Event()
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, traceback: reported.append(kind))

    def interrupt(key, value):
        raise kind

    cache = Cache(on_evict=interrupt)
    other = Cache(on_evict=lambda key, value: done.set())
    cache.set("a", 1, ttl=0.05)
    other.set("a", 1, ttl=0.1)
    assert done.wait(LIMIT)
    wait_until(lambda: reported == [kind])          # either may be swept first
    assert len(cache) == 0


def test_an_interrupted_cache_is_visited_again(monkeypatch):
    done = threading.Event()
    monkeypatch.setattr(sys, "excepthook", lambda *error: None)

    def on_evict(key, value):
        if key == "a":
            raise KeyboardInterrupt
        done.set()

    cache = Cache(on_evict=on_evict)
    cache.set("a", 1, ttl=0.05)
    cache.set("b", 1, ttl=0.06)
    assert done.wait(LIMIT)


def test_it_holds_caches_weakly():
    gc.disable()
    try:
        cache = Cache()
        cache.set("a", 1, ttl=3600)
        reference = weakref.ref(cache)
        del cache
        assert reference() is None
    finally:
        gc.enable()


def test_it_goes_on_after_a_cache_that_it_knew_has_died():
    done = threading.Event()
    cache = Cache(on_evict=lambda key, value: done.set())
    for n in range(50):
        Cache().set("a", 1, ttl=0.01 * n + 0.01)
    cache.set("a", 1, ttl=0.1)
    assert done.wait(LIMIT)


# --- when there is a thread -----------------------------------------------------------------------------------------


def test_there_is_no_thread_where_nothing_expires():
    printed = run(
        """
        import math
        cache = Cache(10, on_evict=print)
        cache.set("a", 1, ttl=math.inf)
        cache["b"] = 2
        cache.update(c=3)
        cache.get_or_set("d", int)
        cache.increment("e")
        cache.touch("a")
        cache.purge_expired()
        Cache(default_ttl=60)
        print(threading.active_count(), "cachebox._store.sweeper" in sys.modules)
        """
    )
    assert printed.split() == ["1", "False"]


def test_it_starts_with_the_first_entry_that_expires():
    printed = run(
        """
        cache = Cache(default_ttl=60)
        print(len(sweepers()))
        cache["a"] = 1
        [thread] = sweepers()
        print(thread.daemon, thread.is_alive())
        Cache(time_to_idle=60)["a"] = 1
        print(len(sweepers()))
        """
    )
    assert printed.split() == ["0", "True", "True", "1"]


@pytest.mark.parametrize("clock", ["time.monotonic", "lambda: 0.0"])
def test_caches_with_a_clock_of_their_own_are_not_swept(clock):
    printed = run(
        f"""
        cache = Cache(default_ttl=0.01, time_to_idle=0.01, clock={clock})
        cache["a"] = 1
        cache.set("b", 1, ttl=5)
        print(threading.active_count(), "cachebox._store.sweeper" in sys.modules)
        """
    )
    assert printed.split() == ["1", "False"]


def test_it_ends_when_no_deadline_is_left_and_comes_back():
    printed = run(
        """
        swept = threading.Event()
        cache = Cache(on_evict=lambda key, value: swept.set())
        cache.set("a", 1, ttl=0.05)
        [first] = sweepers()
        assert swept.wait(60)
        first.join(60)
        print(first.is_alive(), len(sweepers()))
        swept.clear()
        cache.set("b", 1, ttl=0.05)
        [second] = sweepers()
        print(second is first, swept.wait(60))
        """
    )
    assert printed.split() == ["False", "0", "False", "True"]


def test_it_ends_after_the_last_cache_has_died():
    printed = run(
        """
        from cachebox._store import sweeper
        sweeper.LINGERS = 0.01
        cache = Cache()
        cache.set("a", 1, ttl=0.5)
        [thread] = sweepers()
        del cache
        thread.join(60)
        print(thread.is_alive(), len(sweeper._due))
        """
    )
    assert printed.split() == ["False", "0"]


def test_it_sleeps_until_the_next_deadline():
    printed = run(
        """
        from cachebox._store import sweeper

        class Watched(sweeper.WakeUp):
            def wait(self, seconds):
                waits.append(seconds)
                waiting.set()
                return super().wait(seconds)

        waits, waiting = [], threading.Event()
        sweeper._bell = Watched()
        cache = Cache()
        cache.set("a", 1, ttl=3600)
        assert waiting.wait(60)
        for n in range(100):
            cache.set(n, n, ttl=7200)
        print(len(waits) <= 2, 3000 < waits[0] < 3601)
        """
    )
    assert printed.split() == ["True", "True"]


@pytest.mark.parametrize("ttl", [1e10, 1e300, sys.float_info.max])
def test_a_deadline_farther_than_a_clock_reaches_does_not_end_the_sweeping(ttl):
    printed = run(
        f"""
        from cachebox._store import sweeper

        class Watched(sweeper.WakeUp):
            def wait(self, seconds):
                waiting.set()
                return super().wait(seconds)

        waiting, swept = threading.Event(), threading.Event()
        sweeper._bell = Watched()
        cache = Cache(on_evict=lambda key, value: swept.set())
        cache.set("a", 1, ttl={ttl})
        assert waiting.wait(60)
        cache.set("b", 1, ttl=0.05)
        print(swept.wait(60), list(cache))
        """
    )
    assert printed.splitlines() == ["True ['a']"]


def test_what_interrupts_the_sweepers_own_steps_may_use_a_cache():
    """A signal handler, or a collection that runs a finaliser, comes between any two of them: here, at 300 lines."""
    printed = run(
        """
        def interrupt(frame, event, arg):
            if frame.f_globals.get("__name__") == "cachebox._store.sweeper" and not busy and len(steps) < 300:
                busy.append(1)
                other.set(len(steps), 1, ttl=60)
                Cache().set("a", 1, ttl=0.01)
                steps.append(frame.f_lineno)
                busy.clear()
            return interrupt

        steps, busy, swept = [], [], threading.Event()
        other = Cache()
        threading.settrace(interrupt)
        sys.settrace(interrupt)
        cache = Cache(on_evict=lambda key, value: swept.set())
        cache.set("a", 1, ttl=0.05)
        print(swept.wait(60), len(steps) > 20)
        sys.settrace(None)
        threading.settrace(None)
        """
    )
    assert printed.split() == ["True", "True"]


# --- the end of the process -----------------------------------------------------------------------------------------


def test_it_ends_before_the_interpreter_finalises():
    printed = run(
        """
        import atexit
        atexit.register(lambda: print("left:", len(sweepers())))
        cache = Cache()
        cache.set("a", 1, ttl=3600)
        print("running:", len(sweepers()))
        """
    )
    assert printed.splitlines() == ["running: 1", "left: 0"]


def test_entries_that_expire_while_the_process_ends_harm_nobody():
    run(
        """
        caches = [Cache(on_evict=lambda key, value: time.sleep(0.001)) for _ in range(20)]
        for n, cache in enumerate(caches):
            cache.set_many(dict.fromkeys(range(50)), ttl=0.001 * n + 0.001)
        """
    )


def test_an_entry_that_expires_is_set_while_the_process_ends():
    printed = run(
        """
        import atexit
        cache = Cache()
        def late():
            cache.set("b", 1, ttl=60)
            print(cache.get("b"), len(sweepers()))
        atexit.register(late)
        cache.set("a", 1, ttl=60)
        """
    )
    assert printed.split() == ["1", "0"]


def test_a_callback_that_never_returns_does_not_keep_the_process():
    run(
        """
        from cachebox._store import sweeper
        sweeper.STEPS_ASIDE = 0.05
        called = threading.Event()
        cache = Cache(on_evict=lambda key, value: called.set() or threading.Event().wait())
        cache.set("a", 1, ttl=0.01)
        assert called.wait(60)
        """
    )


# --- fork -----------------------------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.skipif(sys.version_info < (3, 12), reason="CPython warns of forking a multi-threaded process from 3.12 on")
def test_it_steps_aside_before_a_fork_so_that_nobody_warns_of_a_multi_threaded_one():
    printed = run(
        """
        import warnings
        warnings.simplefilter("always")
        cache = Cache()
        cache.set("a", 1, ttl=3600)
        for _ in range(20):
            assert len(sweepers()) == 1
            child = os.fork()
            if child == 0:
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        print("quiet")
        """
    )
    assert printed.split() == ["quiet"]


@needs_fork
def test_it_works_after_a_fork_before_which_no_entry_had_a_deadline():
    """If another library had imported it before, it steps aside for the fork, too, and comes back."""
    program = """
import os, threading
import cachebox._store.sweeper
from cachebox import Cache
child = os.fork()
swept = threading.Event()
cache = Cache(default_ttl=0.01, on_evict=lambda key, value: swept.set())
cache["a"] = 1
came = swept.wait(60)
if child:
    came = came and os.waitpid(child, 0)[1] == 0
os._exit(not came)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=200).returncode == 0


@needs_fork
def test_it_restarts_after_a_fork_in_parent_and_child():
    printed = run(
        """
        swept = threading.Event()
        cache = Cache(on_evict=lambda key, value: swept.set())
        cache.set("before", 1, ttl=1)
        child = os.fork()
        if child == 0:
            os._exit(0 if swept.wait(60) and len(cache) == 0 else 1)
        print(swept.wait(60), len(cache), os.waitpid(child, 0)[1])
        """,
        "-W",
        "ignore",
    )
    assert printed.split() == ["True", "0", "0"]


@needs_fork
def test_it_serves_entries_that_are_set_after_a_fork():
    printed = run(
        """
        swept = threading.Event()
        cache = Cache(on_evict=lambda key, value: key == "after" and swept.set())
        cache.set("before", 1, ttl=3600)
        child = os.fork()
        cache.set("after", 1, ttl=0.05)
        well = swept.wait(60) and [thread.name for thread in threading.enumerate()].count("cachebox-sweeper") == 1
        if child == 0:
            os._exit(0 if well else 1)
        print(well, os.waitpid(child, 0)[1])
        """,
        "-W",
        "ignore",
    )
    assert printed.split() == ["True", "0"]


@needs_fork
def test_a_fork_from_a_callback_in_the_sweepers_thread():
    printed = run(
        """
        done = threading.Event()

        def on_evict(key, value):
            if key != "a":
                return done.set()
            child = os.fork()
            if child == 0:
                other.set("b", 2, ttl=0.05)
                os._exit(0 if done.wait(60) else 1)
            statuses.append(os.waitpid(child, 0)[1])
            cache.set("c", 3, ttl=0.05)

        statuses = []
        cache, other = Cache(on_evict=on_evict), Cache(on_evict=on_evict)
        cache.set("a", 1, ttl=0.05)
        print(done.wait(60), statuses)
        """,
        "-W",
        "ignore",
    )
    assert printed.splitlines() == ["True [0]"]


@needs_fork
def test_a_fork_does_not_wait_for_ever_for_a_callback():
    printed = run(
        """
        from cachebox._store import sweeper
        sweeper.STEPS_ASIDE = 0.05
        called, go_on = threading.Event(), threading.Event()
        cache = Cache(on_evict=lambda key, value: called.set() or go_on.wait())
        cache.set("a", 1, ttl=0.01)
        assert called.wait(60)
        child = os.fork()
        if child == 0:
            os._exit(0 if len(cache) == 0 else 1)
        go_on.set()
        print(os.waitpid(child, 0)[1])
        """,
        "-W",
        "ignore",
    )
    assert printed.split() == ["0"]
