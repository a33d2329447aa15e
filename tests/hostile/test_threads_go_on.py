"""CacheBox's threads go on, whatever is raised in them; a caller that waits for them waits for no other call."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from cachebox import Cache, WriteBehind
from cachebox._loading import refresh_pool as workers
from cachebox._platform import thread as threads
from cachebox._platform.guard import keep_running
from cachebox._platform.thread import Thread
from cachebox._store import sweeper
from cachebox.strategies import journal as journals
from in_threads import Started, must_end, raise_in, wait_for, wait_until
from stores import BulkStore, Gate, MemoryStore

NEVER = 3600.0
KINDS = [MemoryError, SystemExit, KeyboardInterrupt, GeneratorExit, OSError, StopIteration]


@pytest.fixture
def reported(monkeypatch):
    """The types of the exceptions that were reported."""
    kinds = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: kinds.append(args.exc_type))
    return kinds


# --- the parts of a thread --------------------------------------------------------------------------------------------

@must_end
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_raised_is_reported_and_the_function_is_called_again(reported, kind):
    calls = []

    def run():
        calls.append(1)
        if len(calls) < 5:
            raise kind

    keep_running(run)
    assert len(calls) == 5 and reported == [kind] * 4


@must_end
def test_a_hook_that_raises_ends_nothing(monkeypatch, capfd):
    def hook(args):
        raise OSError("the log's disk is full")

    monkeypatch.setattr(sys, "unraisablehook", hook)
    calls = []

    def run():
        calls.append(1)
        if len(calls) < 3:
            raise LookupError

    keep_running(run)
    assert len(calls) == 3 and "the log's disk is full" in capfd.readouterr().err


@must_end
def test_one_that_fails_again_and_again_takes_pauses(monkeypatch, reported):
    end = time.monotonic() + 0.5

    def run():
        if time.monotonic() < end:
            raise LookupError

    keep_running(run)
    assert 3 <= len(reported) <= 20


@must_end
def test_asynchronous_exceptions_come_one_after_the_other_and_end_nothing(reported):
    done = threading.Event()

    def run():
        while not done.is_set():
            pass

    thread = Thread("cachebox-test", run)
    thread.start()
    for n in range(200):
        raise_in(thread, KINDS[n % len(KINDS)])
        if n % 20 == 0:
            time.sleep(0.001)
    assert thread.is_alive() and thread.runs()
    done.set()
    thread.join(60)
    assert not thread.is_alive() and not thread.runs() and reported


def test_whether_it_runs_is_asked_of_the_thread():
    thread = Thread("cachebox-test", lambda: None)
    answers = []
    other = threading.Thread(target=lambda: answers.append(thread.runs()))
    other.start()
    other.join(60)
    assert answers == [True]                    # another caller is about to start it
    thread.start()
    thread.join(60)
    assert not thread.runs()


def test_one_that_the_caller_has_interrupted_the_start_of_never_begins():
    """A signal handler cannot wait for a thread that stands still below it: it makes a thread of its own."""
    begun = []
    thread = Thread("cachebox-test", lambda: begun.append(1))
    assert not thread.runs()                    # a handler that came just before `start` asks this
    thread.start()
    thread.join(60)
    assert not begun and not thread.runs()


def test_one_that_could_not_be_started_does_not_run(monkeypatch):
    def none(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads.threading.Thread, "start", none)
    thread = Thread("cachebox-test", lambda: None)
    with pytest.raises(RuntimeError):
        thread.start()
    assert not thread.runs()


class Ended:
    """The state of a thread that something has ended."""

    def runs(self):
        return False

    def is_alive(self):
        return False

    def join(self, timeout=None):
        pass


# --- the sweeper ------------------------------------------------------------------------------------------------------

def expires(seconds=0.02):
    cache = Cache(default_ttl=seconds)
    cache["a"] = 1
    return cache


@must_end
@pytest.mark.parametrize("kind", KINDS)
def test_the_sweeper_goes_on_after_an_asynchronous_exception(reported, kind):
    long = expires(0.2)
    raise_in(sweeper._thread, kind)
    short = expires()
    wait_until(lambda: short.stats.expired and long.stats.expired)
    assert reported == [kind] and sweeper._thread.is_alive()


@must_end
def test_the_sweeper_goes_on_whatever_the_hook_for_exceptions_raises(reported, monkeypatch):
    def hook(*error):
        raise OSError("the log's disk is full")

    def leave(key, value):
        raise SystemExit

    monkeypatch.setattr(sys, "excepthook", hook)
    cache = Cache(default_ttl=0.02, on_evict=leave)
    cache["a"] = 1
    other = expires()
    wait_until(lambda: other.stats.expired and cache.stats.expired and reported)
    cache["a"] = 1                              # the cache whose callback failed is visited, too
    later = expires()
    wait_until(lambda: later.stats.expired and cache.stats.expired == 2)
    assert OSError in reported


@must_end
def test_a_cache_whose_visit_was_interrupted_is_visited_again(reported, monkeypatch):
    monkeypatch.setattr(sweeper, "LINGERS", 0.01)
    sweep, calls = sweeper._sweep, []

    def interrupted(cache):
        calls.append(id(cache))
        if calls.count(id(cache)) == 1:
            raise MemoryError
        return sweep(cache)

    monkeypatch.setattr(sweeper, "_sweep", interrupted)
    caches = [expires() for _ in range(5)]
    wait_until(lambda: all(cache.stats.expired for cache in caches))
    assert reported.count(MemoryError) == 5


def has_no_thread(monkeypatch):
    """Have the sweeper's thread end, whatever caches of other tests are still to be visited."""
    monkeypatch.setattr(sweeper, "LINGERS", 0.01)
    monkeypatch.setattr(sweeper, "_due", {})
    sweeper._bell.ring()
    wait_until(lambda: sweeper._thread is None)


@must_end
def test_the_sweeper_is_made_anew_where_its_thread_has_ended(monkeypatch):
    expires()
    has_no_thread(monkeypatch)
    monkeypatch.setattr(sweeper, "_thread", Ended())
    cache = expires()
    wait_until(lambda: cache.stats.expired)


@must_end
@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_a_sweeper_that_could_not_be_started_is_tried_again_by_the_next_deadline(monkeypatch, error):
    has_no_thread(monkeypatch)

    def none(thread):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(sweeper.Thread, "start", none)
        first = expires(0.1)
        assert sweeper._thread is None
    second = expires()
    wait_until(lambda: first.stats.expired and second.stats.expired)


@must_end
def test_the_sweeper_under_fire(reported):
    """Exceptions at random moments, while caches come and go: everything that expires leaves."""
    chance = random.Random(5)
    caches = []
    for n in range(300):
        caches.append(expires(chance.uniform(0, 0.05)))
        raise_in(sweeper._thread, KINDS[n % len(KINDS)])
        if chance.random() < 0.2:
            time.sleep(0.002)
    wait_until(lambda: all(cache.stats.expired for cache in caches))


# --- the pool ---------------------------------------------------------------------------------------------------------

class Task:
    def __init__(self, body=lambda: None):
        self.body = body
        self.ran = threading.Event()

    def run(self):
        self.body()
        self.ran.set()


@must_end
@pytest.mark.parametrize("kind", KINDS)
def test_the_pool_goes_on_after_an_asynchronous_exception(reported, kind):
    for _ in range(5):
        task = Task()
        assert workers.submit(task)
        wait_for(task.ran)
        for thread in list(workers._threads):
            raise_in(thread, kind)
    assert len(workers._threads) <= workers.MOST_THREADS
    tasks = [Task() for _ in range(100)]
    for task in tasks:
        assert workers.submit(task)
    for task in tasks:
        wait_for(task.ran)
    wait_until(lambda: len(workers._idle) == len(workers._threads))
    assert set(reported) <= {kind}


@must_end
def test_a_task_that_was_interrupted_runs_again(reported):
    calls = []

    def once():
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError

    task = Task(once)
    assert workers.submit(task)
    wait_for(task.ran)
    assert reported == [MemoryError] and len(calls) == 2


@must_end
def test_what_a_thread_was_doing_that_has_ended_is_done_by_another():
    task, gone = Task(), Ended()
    with workers._lock:
        workers._threads[gone] = task
        workers._idle.add(gone)
    assert workers.submit(Task())
    wait_for(task.ran)
    assert gone not in workers._threads and gone not in workers._idle


@must_end
def test_a_pool_without_threads_refuses_what_it_cannot_do(monkeypatch):
    workers._step_aside()
    workers._resume()
    wait_until(lambda: not workers._threads, "the pool's threads to end")

    def none(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(workers.Thread, "start", none)
        assert workers.submit(Task()) is False and not workers._queue and not workers._threads
    task = Task()
    assert workers.submit(task) is True
    wait_for(task.ran)


@must_end
def test_refreshes_under_fire(reported):
    cache = Cache(default_ttl=0.05, loader=lambda key: time.monotonic(), refresh_ahead=0.9, stale_ttl=100.0)
    cache.get("a")
    for n in range(150):
        cache.get("a")
        for thread in list(workers._threads):
            raise_in(thread, KINDS[n % len(KINDS)])
        time.sleep(0.001)
    before = cache.stats.load_success
    wait_until(lambda: cache.get("a") and cache.stats.load_success > before + 3)


# --- write-behind -----------------------------------------------------------------------------------------------------

@must_end
@pytest.mark.parametrize("kind", KINDS)
def test_write_behind_goes_on_after_an_asynchronous_exception(reported, kind):
    store = MemoryStore()
    behind = WriteBehind(Cache(), store, max_delay=0.05)
    behind.set("a", 1)
    raise_in(behind._backlog.thread, kind)
    wait_until(lambda: store.values == {"a": 1})        # no caller is there
    raise_in(behind._backlog.thread, kind)
    behind.set("b", 1)
    assert behind.flush() is True and behind.close() is True and set(reported) <= {kind}


@must_end
@pytest.mark.parametrize("where", ["take", "settle", "put_back"])
def test_write_behind_finds_its_way_from_anywhere(reported, monkeypatch, where):
    """An exception from the middle of the queue: the write that was on its way is tried again."""
    store = BulkStore()
    failing = [3]

    def fault(call, keys):
        if where == "put_back" and failing[0] > 0:
            raise OSError

    store.fault = fault
    behind = WriteBehind(Cache(), store, max_delay=0.0, backoff=0.001, max_backoff=0.01)
    original = getattr(behind._queue, where)

    def interrupted(*arguments):
        done = original(*arguments)
        failing[0] -= 1
        if failing[0] >= 0:
            raise MemoryError
        return done

    monkeypatch.setattr(behind._queue, where, interrupted)
    behind.set_many({n: n for n in range(20)})
    wait_until(lambda: len(store.values) == 20)
    assert behind.flush() is True and MemoryError in reported
    assert not behind._queue.in_flight and not behind._queue.pending and behind.close() is True


@must_end
def test_a_write_behind_thread_that_has_ended_is_made_anew():
    store = MemoryStore()
    behind = WriteBehind(Cache(), store, max_delay=0.0)
    for call in (lambda: behind.set("b", 1), behind.flush, behind.retry_dead_letters, behind.close):
        with behind._backlog._lock:
            before = behind._backlog.thread
            behind._queue.accept("a", call, time.monotonic(), ())
            behind._backlog.thread = Ended()
        call()
        wait_until(lambda: store.values.get("a") is call)
        del before
    assert behind.flush() is True


@must_end
@pytest.mark.parametrize("journaled", [False, True])
def test_write_behind_under_fire(reported, tmp_path, monkeypatch, journaled):
    """Exceptions at random moments: in the end the store has the newest value of every key."""
    monkeypatch.setattr(journals, "COMPACT_AT", 2000)
    monkeypatch.setattr(journals, "SYNC_EVERY", 0.001)
    chance = random.Random(7)
    store = BulkStore()
    options = {"journal": tmp_path / "journal"} if journaled else {}
    behind = WriteBehind(
        Cache(10), store, batch_size=5, max_delay=0.0, max_queue=50, backoff=0.001, max_backoff=0.01, **options
    )
    newest = {}
    for n in range(600):
        key = f"key {chance.randrange(40)}"
        newest[key] = n
        behind.set(key, n)
        raise_in(behind._backlog.thread, KINDS[n % len(KINDS)])
        if journaled:
            raise_in(behind._journal._syncer, KINDS[n % len(KINDS)])
        if chance.random() < 0.1:
            time.sleep(0.001)
    assert behind.close() is True and store.values == newest
    if journaled:
        journal = journals.Journal(tmp_path / "journal", behind._journal.encoding, "process")
        assert journal.replayed == []
        journal.close()


@must_end
def test_the_thread_that_syncs_a_journal_goes_on(reported, tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(journals, "SYNC_EVERY", 0.01)
    with WriteBehind(Cache(), MemoryStore(), journal=tmp_path / "journal", max_delay=NEVER) as behind:
        monkeypatch.setattr(journals.os, "fsync", lambda file: (fsync(file), synced.append(os.fstat(file).st_size)))
        for n in range(5):
            behind.set(n, n)
            raise_in(behind._journal._syncer, MemoryError)
            size = os.path.getsize(tmp_path / "journal")
            wait_until(lambda: size in synced)
        behind._journal._syncer = Ended()
        behind.set("more", 1)
        size = os.path.getsize(tmp_path / "journal")
        wait_until(lambda: size in synced)


@must_end
def test_who_waits_for_room_or_a_flush_is_served_by_a_new_thread(monkeypatch):
    from cachebox.strategies import backlog, delivering

    for module in (backlog, delivering):
        monkeypatch.setattr(module, "LOOKS_EVERY", 0.01)
    store = MemoryStore()
    gate = store.fault = Gate()
    behind = WriteBehind(Cache(), store, max_delay=0.0, max_queue=1)
    behind.set("a", 1)
    wait_for(gate.entered)
    waiting, flushing = Started(behind.set, "b", 1), Started(behind.flush)
    wait_until(lambda: behind._backlog.blocked_writers == 1)
    with behind._backlog._lock:
        behind._backlog.thread = Ended()        # as if the thread had ended; it sees that itself later
        behind._backlog._put_back_in_flight()
    store.fault = lambda call, keys: None
    waiting.result(), flushing.result()
    assert store.values["a"] == 1
    gate.open.set()
    assert behind.close() is True and store.values == {"a": 1, "b": 1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_process_under_fire_ends_and_forks_as_any_other():
    code = """
        import ctypes, os, sys, threading, time, warnings
        warnings.simplefilter("error")
        sys.unraisablehook = id      # no Python code: what is under fire could be hit in it, too
        from cachebox import Cache, WriteBehind
        class Rows(dict):
            load, save, delete = dict.__getitem__, dict.__setitem__, dict.__delitem__
        rows = Rows()
        cache = Cache(default_ttl=0.05, loader=lambda key: 1, refresh_ahead=0.9)
        behind = WriteBehind(Cache(), rows, max_delay=0.001)
        for n in range(60):
            cache.get(n % 3), behind.set(n, n)
            for thread in threading.enumerate():
                if thread.name.startswith("cachebox"):
                    raised = ctypes.py_object(MemoryError)
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), raised)
            time.sleep(0.001)
        assert behind.close() and len(rows) == 60
        child = os.fork()
        one = Cache(default_ttl=0.01)
        one["a"] = 1
        while not one.stats.expired:
            time.sleep(0.001)
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            print("fine")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "fine\n" and done.stderr == "", done.stderr
