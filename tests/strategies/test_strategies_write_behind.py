"""Write-behind: every accepted write reaches the store, in order per key, whatever the store does."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stores
from cachebox import MISSING, Cache, DistributedCache, QueueFull, WriteBehind
from cachebox.strategies import AsyncWriteBehind
from cachebox.strategies.delivery import Delivery, pause_after
from cachebox.strategies.store import Store
from cachebox.strategies.write_queue import WriteQueue
from in_threads import Started, must_end, run_all, wait_for, wait_until
from stores import BulkStore, Gate, MemoryStore

NEVER = 3600.0


@pytest.fixture(params=[MemoryStore, BulkStore])
def store(request):
    return request.param(a=1)


def down(call, keys):
    if call != "load":
        raise OSError("down")


def test_a_write_is_in_the_cache_at_once_and_in_the_store_soon(store):
    cache = Cache()
    with WriteBehind(cache, store, max_delay=0.01) as behind:
        behind.set("b", 2)
        assert cache.peek("b") == behind.get("b") == 2
        wait_until(lambda: store.values.get("b") == 2)
        assert behind.delete("b") is True and behind.get("b") is None and "b" not in cache
        wait_until(lambda: "b" not in store.values)
        assert behind.delete("b") is False


def test_get_loads_and_sees_what_is_pending_after_eviction(store):
    cache = Cache(1)
    with WriteBehind(cache, store, max_delay=NEVER) as behind:
        behind.set("b", 2)
        behind.set("c", 3)
        assert "b" not in cache and behind.get("b") == 2
        behind.delete("a")
        assert behind.get("a", "none") == "none" and store.values == {"a": 1}
        assert behind.get("x", 5) == 5
        assert behind.flush() and store.values == {"b": 2, "c": 3} and behind.pending == 0
        assert behind.get("b") == 2


def test_writes_of_a_key_coalesce_and_keep_their_order(store):
    with WriteBehind(Cache(), store, max_delay=NEVER) as behind:
        for n in range(100):
            behind.set("b", n)
        behind.delete("c")
        behind.set("c", 1)
        behind.set("d", 1)
        behind.delete("d")
        assert behind.pending == 3
    assert store.saved("b") == [99] and store.saved("c") == [1] and store.saved("d") == []
    assert store.values == {"a": 1, "b": 99, "c": 1}


@must_end
def test_what_comes_while_a_write_is_on_its_way_waits_its_turn(store):
    gate = store.fault = Gate()
    behind = WriteBehind(Cache(), store, max_delay=0)
    behind.set("b", 1)
    wait_for(gate.entered)
    for n in range(2, 10):
        behind.set("b", n)
    assert behind.get("b") == 9 and behind.pending == 2
    gate.open.set()
    assert behind.close() and store.saved("b") == [1, 9]


def test_batches_go_out_by_size_and_by_age():
    store = BulkStore()
    with WriteBehind(Cache(), store, batch_size=10, max_delay=NEVER) as behind:
        behind.set_many({n: n for n in range(10)})
        wait_until(lambda: len(store.values) == 10)
        behind.set("more", 1)
        assert [len(call[1]) for call in store.calls] == [10]
        behind.set_many({n: -n for n in range(10)})
        wait_until(lambda: len(store.calls) == 2)
    assert store.values["more"] == 1 and store.values[9] == -9


def test_a_full_queue_raises_and_leaves_no_trace(store):
    cache = Cache()
    gate = store.fault = Gate()
    behind = WriteBehind(cache, store, max_queue=2, max_delay=NEVER, on_full="raise")
    behind.set("b", 1)
    behind.set("c", 1)
    for refused in (lambda: behind.set("d", 1), lambda: behind.delete("a"), lambda: behind.set_many({"d": 1})):
        with pytest.raises(QueueFull, match="max_queue"):
            refused()
    behind.set("b", 2)                          # which takes no more room
    assert "d" not in cache and behind.get("a") == 1 and behind.pending == 2
    gate.open.set()
    assert behind.close() and store.values == {"a": 1, "b": 2, "c": 1}


@must_end
def test_a_full_queue_blocks_until_there_is_room(store):
    gate = store.fault = Gate()
    behind = WriteBehind(Cache(), store, max_queue=2, max_delay=NEVER, batch_size=1)
    behind.set("b", 1)
    wait_for(gate.entered)
    behind.set("c", 1)
    blocked = [Started(behind.set, key, 1) for key in "defg"]
    wait_until(lambda: behind._backlog.blocked_writers == 4)
    assert behind.pending == 2
    gate.open.set()
    for writer in blocked:
        writer.result()
    assert behind.close() and set(store.values) == set("abcdefg")


@must_end
def test_closing_wakes_those_who_wait_for_room(store):
    gate = store.fault = Gate()
    behind = WriteBehind(Cache(), store, max_queue=1)
    behind.set("b", 1)
    blocked = Started(behind.set, "c", 1)
    wait_until(lambda: behind._backlog.blocked_writers == 1)
    closing = Started(behind.close)
    with pytest.raises(RuntimeError, match="closed"):
        blocked.result()
    gate.open.set()
    assert closing.result() is True


def test_retries_are_tries_with_growing_jittered_pauses(store):
    store.fault = down
    dead = []
    with WriteBehind(
        Cache(), store, retries=2, backoff=0.001, on_dead_letter=lambda *letter: dead.append(letter)
    ) as behind:
        behind.set("b", 2)
        assert behind.flush() is False and store.saved("b") == [2, 2, 2]
        behind.delete("a")
        assert behind.flush() is False and store.calls[3:] == [("delete", "a")] * 3
    assert [letter[:2] for letter in dead] == [("b", 2), ("a", MISSING)] and str(dead[0][2]) == "down"
    for _ in range(20):
        pauses = [pause_after(n, 0.1, 1.0) for n in range(1, 7)]
        for pause, longest in zip(pauses, (0.1, 0.2, 0.4, 0.8, 1, 1), strict=True):
            assert longest / 2 <= pause <= longest
    assert len({pause_after(1, 0.1, 1.0) for _ in range(5)}) == 5 and pause_after(10**6, 0.1, 30.0) <= 30.0


def test_only_what_the_store_refuses_becomes_a_dead_letter(store):
    def refuse(call, keys):
        if {"bad", "worse"} & set(keys) and call != "load":
            raise ValueError(keys)

    store.fault = refuse
    dead = []
    behind = WriteBehind(
        Cache(), store, retries=1, backoff=0, max_delay=NEVER, on_dead_letter=lambda *letter: dead.append(letter[0])
    )
    behind.set_many({"b": 1, "bad": 2, "c": 3, "worse": 4, "d": 5})
    assert behind.flush() is False
    assert sorted(dead) == ["bad", "worse"] and store.values == {"a": 1, "b": 1, "c": 3, "d": 5}
    assert behind.flush() is False              # it was accepted, and never reached the store
    store.fault = lambda call, keys: None
    behind.set("bad", 6)
    behind.delete("worse")
    assert behind.flush() is True and behind.close() is True


def test_a_dead_letter_is_logged_and_a_broken_callback_is_reported(store, monkeypatch, caplog):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: reported.append(str(args.exc_value)))
    store.fault = down

    def broken(key, value, error):
        raise LookupError("broken")

    async def never(key, value, error):
        pass

    for callback in (None, broken, lambda *letter: never(*letter)):
        caplog.clear()
        with WriteBehind(Cache(), store, retries=0, on_dead_letter=callback) as behind:
            behind.set("b", "secret")
        (letter,) = behind.dead_letters
        assert letter[:2] == ("b", "secret") and str(letter.error) == "down"
        (said,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert said.name == "cachebox" and "'b'" in said.message and "down" in said.message
        assert "secret" not in caplog.text
    assert reported[0] == "broken" and "on_dead_letter returned coroutine" in reported[1] and len(reported) == 2
    with pytest.raises(TypeError, match="on_dead_letter"):
        WriteBehind(Cache(), store, on_dead_letter=never)


@must_end
def test_flush_tells_the_truth(store):
    gate = store.fault = Gate()
    behind = WriteBehind(Cache(), store, max_delay=NEVER)
    assert behind.flush() is True
    behind.set("b", 1)
    assert behind.flush(timeout=0.01) is False
    flushing = Started(behind.flush)
    wait_for(gate.entered)
    assert "b" not in store.values
    gate.open.set()
    assert flushing.result() is True and store.values["b"] == 1
    behind.set("c", 1)
    assert behind.close() and behind.close() and behind.flush()
    for write in (lambda: behind.set("d", 1), lambda: behind.delete("b")):
        with pytest.raises(RuntimeError, match="closed"):
            write()
    assert behind.get("b") == 1


@must_end
def test_what_would_wait_for_itself_raises():
    class Curious(MemoryStore):
        def save(self, key, value):
            for call in (behind.flush, behind.close, lambda: behind.set("another", 1)):
                try:
                    call()
                except (RuntimeError, QueueFull) as error:
                    caught.append(type(error))
            super().save(key, value)

    caught = []
    behind = WriteBehind(Cache(), Curious(), max_queue=1)
    behind.set("a", 1)
    assert behind.flush() and caught == [RuntimeError, RuntimeError, QueueFull] and behind.close()


@must_end
def test_a_hanging_store_does_not_hang_close():
    gate = Gate()
    store = MemoryStore()
    store.fault = gate
    behind = WriteBehind(Cache(), store, max_delay=0)
    behind.set("a", 1)
    wait_for(gate.entered)
    began = time.monotonic()
    assert behind.close(timeout=0.05) is False and time.monotonic() - began < 10
    gate.open.set()
    wait_until(lambda: behind._backlog.thread is None)
    assert store.values == {"a": 1}


@must_end
def test_a_broken_store_does_not_hang_close_beyond_its_timeout(store):
    store.fault = down
    behind = WriteBehind(Cache(), store, retries=1000, backoff=1000, max_backoff=1000)
    behind.set("b", 1)
    assert behind.close(timeout=0.05) is False
    wait_until(lambda: behind._backlog.thread is None)
    assert behind.get("b") == 1 and behind.pending == 1


@must_end
def test_concurrent_writers_end_with_store_and_cache_agreeing(store):
    cache = Cache(5)
    behind = WriteBehind(cache, store, max_delay=0, max_queue=6, batch_size=3)

    def work(n):
        for step in range(150):
            key = "abcdefgh"[(n + step) % 8]
            if step % 7 == 0:
                behind.delete(key)
            else:
                behind.set(key, (n, step))
            behind.get(key)

    run_all(*[lambda n=n: work(n) for n in range(6)])
    assert behind.flush()
    assert all(store.values.get(key) == value for key, value in dict(cache).items())
    assert all(behind.get(key) == store.values.get(key) for key in "abcdefgh")
    assert behind._backlog.unfinished == {} and behind.close()


@must_end
def test_a_write_that_the_store_has_before_the_cache_is_seen(store):
    entered, go_on = threading.Event(), threading.Event()

    class Late(Cache):
        def set(self, key, value, ttl=None, *, tags=()):
            if value == 2:
                entered.set()
                wait_for(go_on)
            super().set(key, value, ttl, tags=tags)

    cache = Late()
    with WriteBehind(cache, store, max_delay=0.0) as behind:
        assert behind.get("a") == 1
        writer = Started(behind.set, "a", 2)
        wait_for(entered)
        wait_until(lambda: behind.pending == 0)
        assert cache.peek("a") == 1 and store.values["a"] == 2 == behind.get("a")
        go_on.set()
        writer.result()
        assert cache.peek("a") == 2 == behind.get("a")


@must_end
def test_a_write_that_reaches_the_cache_late_does_not_hide_a_newer_one(store):
    entered, go = threading.Event(), threading.Event()

    class Slow(Cache):
        def set(self, key, value, ttl=None):
            if value == "first":
                entered.set()
                wait_for(go)
            super().set(key, value, ttl)

    cache = Slow()
    behind = WriteBehind(cache, store, max_delay=0)
    first = Started(behind.set, "b", "first")
    wait_for(entered)
    behind.set("b", "second")
    assert behind.flush()
    go.set()
    first.result()
    assert behind.get("b") == "second" == store.values["b"] and behind.close()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["set", "set", "delete", "tick", "deliver", "fail", "partial"]),
            st.sampled_from("abcdef"),
            st.integers(0, 99),
        ),
        max_size=80,
    ),
    st.integers(1, 4),
    st.booleans(),
)
def test_queue_and_delivery_keep_every_promise_of_a_model(operations, batch_size, bulk):
    """With an injected clock and a deterministic executor: nothing is lost, nothing comes out of order."""
    store = (BulkStore if bulk else MemoryStore)()
    queue = WriteQueue(batch_size, max_delay=5, max_queue=4)
    accepted = {}                               # by key, in order
    model = {}
    now = 0.0

    def settled(writes):
        for write in writes:
            queue.settle(write, True)

    delivery = Delivery(Store(store, False), settled)

    def deliver():
        """A round, and the store recovers."""
        for write, _ in delivery.deliver(queue.take(now)):
            queue.put_back(write, now + 3)
        store.fault = lambda call, keys: None

    for call, key, value in operations:
        if call in ("set", "delete"):
            if queue.has_room_for(key):
                value = value if call == "set" else MISSING
                queue.accept(key, value, now, ())
                accepted.setdefault(key, []).append(value)
                model[key] = value
            else:
                assert len(queue.pending) + len(queue.in_flight) == 4 and key not in queue.pending
        elif call == "tick":
            now += value
        else:
            if call == "fail":
                store.fault = down
            elif call == "partial":
                store.fault = lambda call, keys: down(call, keys) if keys[-1] in "abc" else None
            if queue.due(now, False) <= 0:
                deliver()
        assert len(queue.pending) + len(queue.in_flight) <= 4
        for key in model:                       # a reader sees the newest, wherever it is
            write = queue.find(key)
            newest = write.value if write is not None else store.values.get(key, MISSING)
            assert newest == model[key]
    store.fault = lambda call, keys: None
    waited_for = queue.make_all_due(now)
    while queue.pending:
        assert queue.due(now, False) <= 0
        deliver()
    for write in waited_for:
        while write.into is not None:
            write = write.into
        assert write.reached
    assert store.values == {key: value for key, value in model.items() if value is not MISSING}
    for key, values in accepted.items():
        arrived = iter(values)
        assert all(saved in arrived for saved in dict.fromkeys(store.saved(key)) if values.count(saved) == 1)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"batch_size": 0}, ValueError),
        ({"batch_size": 1.5}, TypeError),
        ({"max_delay": -1}, ValueError),
        ({"max_delay": "1"}, TypeError),
        ({"max_queue": 0}, ValueError),
        ({"on_full": "drop"}, ValueError),
        ({"retries": -1}, ValueError),
        ({"retries": True}, TypeError),
        ({"max_delay": float("nan")}, ValueError),
        ({"backoff": float("nan")}, ValueError),
        ({"backoff": float("inf")}, ValueError),
        ({"max_backoff": float("inf")}, ValueError),
        ({"on_dead_letter": 5}, TypeError),
        ({"exit_timeout": -1}, ValueError),
        ({"durability": "none"}, ValueError),
        ({"serializer": "yaml"}, ValueError),
        ({"serializer": "pickle"}, ValueError),
    ],
)
def test_bad_options_are_refused_by_name(store, options, error):
    with pytest.raises(error, match=next(iter(options))):
        WriteBehind(Cache(), store, **options)


@must_end
def test_the_users_random_numbers_stay_in_their_row(store):
    """A thread that drew from the module's generator would change what a seeded program computes."""
    def refuse(call, keys):
        raise OSError("no store today")

    before = random.getstate()
    pause_after(3, 1.0, 10.0)
    store.fault = refuse
    dead = []
    options = {"retries": 1, "backoff": 0, "on_dead_letter": lambda *letter: dead.append(letter)}
    with WriteBehind(Cache(), store, **options) as behind:
        for key in "abcdef":
            behind.set(key, 1)
        wait_until(lambda: len(dead) == 6)
    with DistributedCache(url="memory://", default_ttl=50, jitter=0.5) as cache:
        cache.set("a", 1)
        cache.set_many({"b": 1})
    assert random.getstate() == before


@must_end
def test_a_slow_store_keeps_the_bounds_blocks_no_reader_and_loses_nothing(store):
    """The store takes one batch whenever this test lets it: so it is always slower than the writers."""
    permits, entered = threading.Semaphore(0), []

    def slow(call, keys):
        if call != "load":
            entered.append(keys)
            assert permits.acquire(timeout=60)

    store.fault = slow
    cache = Cache(4)                            # smaller than the pending values: the queue has to serve them
    with WriteBehind(cache, store, batch_size=2, max_delay=0.0, max_queue=5) as behind:

        def write(i):
            for n in range(30):
                behind.set((i, n % 4), n)

        writers = [Started(write, i) for i in range(3)]
        wait_until(lambda: behind._backlog.blocked_writers >= 2 and entered, "writers to wait for room")
        while any(writer.thread.is_alive() for writer in writers):
            so_far = len(entered)
            assert behind.pending <= 5 and behind.get("a") == 1
            for key, newest in [(write.key, write.value) for write in list(behind._queue.pending.values())]:
                assert behind.get(key) >= newest
            assert behind.flush(0) is False or not behind.pending
            assert len(entered) == so_far       # all that happened while the store stood still
            permits.release()
            wait_until(lambda: len(entered) > so_far or not any(writer.thread.is_alive() for writer in writers))
        for writer in writers:
            writer.result()
        began = time.monotonic()
        assert behind.pending > 0 and behind.flush(0.02) is False and time.monotonic() - began < 5.0
        permits.release(1000)
        assert behind.flush(60) is True
        for i in range(3):
            for key in range(4):
                assert store.values[i, key] == max(n for n in range(30) if n % 4 == key)
                assert store.saved((i, key)) == sorted(store.saved((i, key)))


@must_end
@pytest.mark.parametrize("seconds", [float("inf"), 1e300, 1e10])
def test_any_number_of_seconds_will_do(store, seconds):
    with WriteBehind(Cache(), store, max_delay=seconds, exit_timeout=seconds, batch_size=3) as behind:
        behind.set("b", 1)
        assert behind.flush(seconds) and store.values["b"] == 1
        behind.set_many({"b": 2, "c": 2, "d": 2})       # a full batch does not wait
        wait_until(lambda: behind.pending == 0)
        behind.set("b", 3)
        assert behind.close(seconds) and store.values["b"] == 3


def test_writing_after_close_is_a_runtime_error(store):
    behind = WriteBehind(Cache(), store)
    behind.close()
    for write in (
        lambda: behind.set("b", 1),
        lambda: behind.delete("a"),
        lambda: behind.set_many({}),
        lambda: behind.set_many({"b": 1}),
        lambda: behind.delete_many([]),
        lambda: behind.delete_many(["a"]),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            write()
    assert behind.get("a") == 1 and store.calls == [("load", "a")]


def test_bad_input_reaches_neither_side(store):
    cache = Cache(max_weight=10, weigher=lambda key, value: value)
    with WriteBehind(cache, store) as behind:
        for write in (
            lambda: behind.set([], 1),
            lambda: behind.set("b", 1, ttl=-1),
            lambda: behind.set("b", 11),
            lambda: behind.set("b", MISSING),
            lambda: behind.set_many({"b": 1, "c": 11}),
            lambda: behind.delete([]),
        ):
            with pytest.raises((TypeError, ValueError)):
                write()
        assert behind.pending == 0 and len(cache) == 0


# --- code that comes back ------------------------------------------------------------------------------------------

@must_end
def test_the_store_and_a_dead_letter_may_write(store):
    def refuse(call, keys):
        if "bad" in keys:
            raise OSError
        if "a" in keys:
            behind.set("from the store", 1)

    store.fault = refuse
    options = {"retries": 0, "on_dead_letter": lambda key, value, error: behind.set("from the letter", (key, value))}
    with WriteBehind(Cache(), store, max_delay=NEVER, **options) as behind:
        behind.set("a", 2)
        behind.set("bad", 3)
        assert behind.flush() is False and behind.pending == 2
    assert store.values == {"a": 2, "from the store": 1, "from the letter": ("bad", 3)}


@must_end
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_whatever_the_store_raises_the_thread_goes_on(store, error):
    letters = []

    def interrupt(call, keys):
        raise error

    store.fault = interrupt
    options = {"retries": 1, "backoff": 0, "on_dead_letter": lambda *letter: letters.append(letter)}
    with WriteBehind(Cache(), store, max_delay=0, **options) as behind:
        behind.set("b", 1)
        assert behind.flush() is False and [type(letter[2]) for letter in letters] == [error]
        store.fault = lambda call, keys: None
        behind.set("b", 2)
        assert behind.flush() is True and store.values["b"] == 2


# --- the end of a process ---------------------------------------------------------------------------------------------

PROGRAM = """
import signal, sys, threading, time
sys.path.insert(0, {tests!r})
from cachebox import Cache, WriteBehind
from cachebox.strategies import SQLiteStore, drain_on_sigterm
store = SQLiteStore({path!r})
{body}
"""


def program(tmp_path, body):
    path = str(tmp_path / "store.db")
    code = PROGRAM.format(tests=os.path.dirname(stores.__file__), path=path, body=textwrap.dedent(body))
    return [sys.executable, "-c", code], path


def rows(path):
    from cachebox.strategies import SQLiteStore

    with SQLiteStore(path) as store:
        return store.load_many(range(100))


@pytest.mark.parametrize(("end", "code"), [("", 0), ("sys.exit(3)", 3), ("raise LookupError", 1)])
def test_the_end_of_the_process_drains(tmp_path, end, code):
    body = f"behind = WriteBehind(Cache(), store, max_delay=3600)\nbehind.set_many({{n: n for n in range(100)}})\n{end}"
    command, path = program(tmp_path, body)
    assert subprocess.run(command, timeout=60, stderr=subprocess.DEVNULL).returncode == code
    assert len(rows(path)) == 100


def test_the_end_of_the_process_waits_no_longer_than_it_says(tmp_path):
    command, path = program(
        tmp_path,
        """
        store.save = lambda key, value: threading.Event().wait()
        behind = WriteBehind(Cache(), store, exit_timeout=0.2)
        behind.set(1, 1)
        """,
    )
    began = time.monotonic()
    subprocess.run(command, check=True, timeout=60)
    assert time.monotonic() - began < 30 and rows(path) == {}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
def test_sigterm_drains_where_that_was_asked_for(tmp_path):
    command, path = program(
        tmp_path,
        """
        signal.signal(signal.SIGTERM, lambda number, frame: print("called first", flush=True))
        drain_on_sigterm()
        behind = WriteBehind(Cache(), store, max_delay=3600)
        behind.set_many({n: n for n in range(100)})
        print("ready", flush=True)
        while True:                 # a signal just before `signal.pause` would not end that
            time.sleep(0.01)
        """,
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.readline() == "called first\n" and process.wait(60) == 143
    assert len(rows(path)) == 100


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_does_not_deliver_what_is_the_parents(store):
    with WriteBehind(Cache(), store, max_delay=NEVER) as behind:
        behind.set("b", 1)
        child = os.fork()
        if child == 0:
            empty = behind.pending == 0
            behind.set("c", 1)
            os._exit(0 if empty and behind.flush(30) and "b" not in store.values and store.values["c"] == 1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert behind.flush() and store.values == {"a": 1, "b": 1}


# --- asyncio ----------------------------------------------------------------------------------------------------------

def test_the_asyncio_form_keeps_the_same_promises():
    class Rows:
        def __init__(self):
            self.values = {"a": 1}
            self.loads = 0

        async def load(self, key):
            self.loads += 1
            await asyncio.sleep(0)
            return self.values[key]

        async def save(self, key, value):
            await asyncio.sleep(0)
            self.values[key] = value

        async def delete(self, key):
            del self.values[key]

    async def main():
        store, cache = Rows(), Cache(2)
        async with AsyncWriteBehind(cache, store, max_delay=NEVER, max_queue=3) as behind:
            assert await asyncio.gather(*[behind.get("a") for _ in range(4)]) == [1] * 4 and store.loads == 1
            await behind.set_many({"b": 2, "c": 3, "d": 4})
            assert await behind.get("b") == 2 and "b" not in store.values
            await asyncio.wait_for(behind.set("e", 5), 60)      # waits for room, without blocking the loop
            assert await behind.flush() is True and store.values == {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}
            assert await behind.delete("e") and await behind.get("e", "none") == "none"
        assert "e" not in store.values and behind.pending == 0
        with pytest.raises(RuntimeError, match="closed"):
            await behind.set("f", 1)
        behind = AsyncWriteBehind(cache, store, max_delay=NEVER, max_queue=1, on_full="raise", batch_size=5)
        await behind.set("g", 1)
        with pytest.raises(QueueFull):
            await behind.set("h", 1)
        assert await behind.close()

    asyncio.run(main())


@must_end
def test_a_set_that_is_cancelled_while_it_waits_for_room_leaves_no_trace():
    class Rows:
        def __init__(self):
            self.values, self.open = {}, asyncio.Event()

        async def save(self, key, value):
            await self.open.wait()
            self.values[key] = value

    async def main():
        store, cache = Rows(), Cache()
        async with AsyncWriteBehind(cache, store, max_delay=0, max_queue=1) as behind:
            await behind.set("a", 1)
            waiting = asyncio.ensure_future(behind.set("b", 2))
            await asyncio.to_thread(wait_until, lambda: behind._backlog.blocked_writers == 1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            store.open.set()
            assert await behind.flush() and await behind.get("b", "none") == "none"
        assert store.values == dict(cache) == {"a": 1}

    asyncio.run(main())


@pytest.mark.parametrize("kind", [WriteBehind, AsyncWriteBehind])
@pytest.mark.parametrize("wrong, right", [("batchsize", "batch_size"), ("queue_size", "max_queue")])
def test_a_misspelt_option_is_refused_with_the_right_name(kind, wrong, right):
    with pytest.raises(TypeError, match=rf"{kind.__name__}\(\) got .*'{wrong}': did you mean '{right}'"):
        kind(Cache(), object(), **{wrong: 1})
