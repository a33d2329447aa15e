"""Strategies in the child of a fork, and code that comes back to a strategy from the middle of it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading

import pytest

from cachebox import Cache, WriteBehind, WriteThrough
from cachebox.strategies import AsyncWriteBehind, AsyncWriteThrough
from cachebox.strategies.steps import run
from in_threads import LIMIT, Started, must_end, wait_for, wait_until
from stores import BulkStore, Gate, MemoryStore

NEVER = float("inf")

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def in_child(body):
    """Run a body in the child of a fork. A child that hangs is killed, and fails the test."""
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            body()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, "the child hung" if code == -signal.SIGALRM else code


def held_by_a_thread(lock):
    """Have another thread hold a lock. Returns the function that releases it."""
    entered, release = threading.Event(), threading.Event()

    def hold():
        with lock:
            entered.set()
            release.wait(LIMIT)

    thread = Started(hold)
    wait_for(entered)
    return lambda: (release.set(), thread.result())


@needs_fork
@forks
@pytest.mark.parametrize("store", [MemoryStore, BulkStore])
def test_a_key_that_another_thread_was_writing_can_be_written_in_the_child(store):
    store, cache = store(a=1), Cache()
    through = WriteThrough(cache, store)
    gate = store.fault = Gate()
    writer = Started(through.set, "a", "parent")
    wait_for(gate.entered)
    waiting = Started(through.set, "a", "last")             # waits for its turn
    try:

        def body():
            store.fault = lambda call, keys: None
            through.set("a", "child")
            assert store.values["a"] == cache.peek("a") == "child"
            through.set_many({"a": 2, "b": 3})
            assert through.delete_many(["a", "b"]) == 2 and through.delete("a") is False
            assert through._locks._locks == {}

        in_child(body)
    finally:
        gate.open.set()
    writer.result(), waiting.result()
    assert store.values["a"] == cache.peek("a") and through._locks._locks == {}


@needs_fork
@forks
def test_a_store_that_forks_while_it_saves_goes_on_in_both(tmp_path):
    store, cache = MemoryStore(), Cache()
    through = WriteThrough(cache, store)
    children = []

    def fork(call, keys):
        if not children:
            children.append(os.fork())
            if children == [0]:
                signal.alarm(10)

    store.fault = fork
    try:
        through.set("a", 1)
        Started(through.set, "a", 2).result()               # the first write has given up its turn
        fine = store.values["a"] == cache.peek("a") == 2 and through._locks._locks == {}
    finally:
        if children == [0]:
            os._exit(0 if fine else 1)
    assert fine and os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0


@needs_fork
@forks
def test_locks_that_another_thread_held_at_the_fork_are_free_in_the_child():
    through = WriteThrough(Cache(), MemoryStore(a=1))
    behind = WriteBehind(Cache(), MemoryStore(a=1), max_delay=NEVER)
    for lock in (through._side.stale._lock, behind._side.stale._lock, behind._backlog._lock):
        release = held_by_a_thread(lock)

        def body():
            run(through._side.forget(["a"]))
            run(behind._side.forget(["a"]))
            through.set("a", 2)
            behind.set("a", 2)
            assert behind.flush(5) and through.get("a") == behind.get("a") == behind.store.values["a"] == 2

        in_child(body)
        release()
    assert behind.close()


@needs_fork
@forks
def test_what_the_store_refused_in_the_parent_does_not_make_the_childs_flush_false():
    store = MemoryStore()
    behind = WriteBehind(Cache(), store, retries=0, on_dead_letter=lambda *letter: None)

    def refuse(call, keys):
        raise OSError

    store.fault = refuse
    behind.set("a", 1)
    assert behind.flush() is False

    def body():
        store.fault = lambda call, keys: None
        behind.set("b", 1)
        assert behind.flush(5) is True and behind.close(5) is True

    in_child(body)
    behind.close()


class Rows:
    """A store for asyncio."""

    def __init__(self):
        self.values = {"a": 1}
        self.stalls = True
        self.entered = threading.Event()

    async def _stall(self):
        if self.stalls:
            self.entered.set()
            await asyncio.sleep(LIMIT)

    async def load(self, key):
        await self._stall()
        return self.values[key]

    async def save(self, key, value):
        await self._stall()
        self.values[key] = value


@needs_fork
@forks
@pytest.mark.parametrize("call", ["set", "get"])
def test_asyncio_writes_and_loads_of_the_parents_loop_do_not_hold_up_the_child(call):
    store = Rows()
    through = AsyncWriteThrough(Cache(), store)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    stuck = asyncio.run_coroutine_threadsafe(through.set("a", 2) if call == "set" else through.get("a"), loop)
    wait_for(store.entered)

    def body():
        store.stalls = False

        async def main():
            assert await through.get("a") == 1
            await through.set("a", 3)
            assert await through.get("a") == store.values["a"] == 3

        asyncio.run(main())

    in_child(body)
    stuck.cancel()
    loop.call_soon_threadsafe(loop.stop)
    thread.join(LIMIT)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@needs_fork
@forks
def test_asyncio_write_behind_delivers_in_the_childs_own_loop():
    store = Rows()
    store.stalls = False
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    behind = AsyncWriteBehind(Cache(), store, max_delay=NEVER)
    asyncio.run_coroutine_threadsafe(behind.set("b", 1), loop).result(LIMIT)

    def body():
        async def main():
            assert behind.pending == 0
            await behind.set("c", 2)
            assert await behind.flush(5) and store.values == {"a": 1, "c": 2}
            assert await behind.close(5)

        asyncio.run(main())

    in_child(body)
    assert asyncio.run_coroutine_threadsafe(behind.close(), loop).result(LIMIT) and store.values == {"a": 1, "b": 1}
    loop.call_soon_threadsafe(loop.stop)
    thread.join(LIMIT)
    loop.close()


@needs_fork
@forks
@pytest.mark.parametrize("many", [False, True])
def test_a_load_that_another_thread_led_is_void_in_the_child(many):
    entered, opened = threading.Event(), threading.Event()

    class Source:
        stalls = True

        def load(self, key):
            return self.load_many([key])[key]

        def load_many(self, keys):
            if self.stalls:
                entered.set()
                wait_for(opened)
            return dict.fromkeys(keys, os.getpid())

    source = Source()
    cache = Cache(loader=source)
    leader = Started(cache.get_many, ["a", "b"]) if many else Started(cache.get, "a")
    wait_for(entered)

    def body():
        source.stalls = False
        assert cache["a"] == os.getpid() and cache.get_many(["a", "b"]) == {"a": os.getpid(), "b": os.getpid()}
        cache._check()

    in_child(body)
    opened.set()
    leader.result()
    assert cache["a"] == os.getpid()


# --- coming back from the middle --------------------------------------------------------------------------------------

class Meddling:
    """A key that calls a function of the test when it is compared."""

    def __init__(self, meddle):
        self.meddle = meddle

    def __hash__(self):
        return 1

    def __eq__(self, other):
        meddle, self.meddle = self.meddle, lambda: None
        meddle()
        return self is other


@must_end
@pytest.mark.parametrize("strategy", [WriteThrough, WriteBehind])
def test_comparing_keys_may_write(strategy):
    store = MemoryStore()
    cache = strategy(Cache(), store)
    keys = [Meddling(lambda n=n: (cache.set(n, n), cache.set(1, "one"), cache.get(n))) for n in range(5)]
    cache.set(1, 0)                             # has the same hash
    for key in keys:
        cache.set(key, "value")
        key.meddle = lambda: cache.set_many({"x": 1, 1: "one", key: 2})
        cache.set(key, "other")
        cache.get(key)
        cache.delete(key)
    if strategy is WriteBehind:
        assert cache.close()
        assert all(key not in store.values for key in keys)
    assert store.values[1] == "one" and all(store.values[n] == n for n in (0, 2, 3, 4))


@must_end
def test_an_exception_while_keys_are_compared_leaves_no_lock_behind():
    store, gate, first = BulkStore(), Gate(), Meddling(lambda: None)
    store.fault = lambda call, keys: gate(call, keys) if keys == [first] else None
    through = WriteThrough(Cache(), store)
    writer = Started(through.set, first, 1)
    wait_for(gate.entered)

    def fail():
        raise LookupError

    first.meddle, second = fail, Meddling(lambda: None)
    with pytest.raises(LookupError):
        through.set_many({"a": 1, second: 2})
    gate.open.set()
    writer.result()
    through.set("a", 2)
    assert through._locks._locks == {}


class Finalized:
    """A value that calls a function of the test when it goes."""

    def __init__(self, last):
        self.last = last

    def __del__(self):
        self.last()


@must_end
def test_a_value_that_goes_may_write():
    store = BulkStore()
    with WriteBehind(Cache(1), store, max_delay=NEVER) as behind:
        for n in range(20):
            behind.set("a", Finalized(lambda n=n: (behind.set("a", n), behind.set(n, n))))
            behind.set("a", "replaced")         # the first value goes: "a" is written once more
            assert behind.get("a") == n or n == 19
        behind.set("a", "last")
        assert behind.flush() and behind.get("a") == store.values["a"] == "last"
    assert [store.values[n] for n in range(19)] == list(range(19))


@must_end
def test_collections_may_write_through_the_key_that_is_being_written():
    store = BulkStore()
    through = WriteThrough(Cache(None), store)
    written = iter(range(10**6))

    class Cycle:
        def __init__(self):
            self.self = self

        def __del__(self):
            through.set("both", next(written))
            through.delete("gone")

    thresholds = gc.get_threshold()
    gc.set_threshold(7)
    try:
        for n in range(3000):
            Cycle()
            through.set("both", n)
            through.set_many({"both": n, "gone": n})
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    assert next(written) > 1000
    assert through.cache.get("both", store.values["both"]) == store.values["both"]
    assert through.cache.get("gone", store.values.get("gone")) == store.values.get("gone")
    assert not through._locks._locks


@must_end
def test_collections_in_the_middle_of_everything_may_write():
    store = BulkStore()
    written = iter(range(10**6))
    gone: list[int] = []
    with WriteBehind(Cache(None), store, max_delay=0.001, max_queue=10**6) as behind:

        class Cycle:
            def __init__(self):
                self.self = self

            def __del__(self):
                n = next(written)
                behind.set(("final", n), n)
                behind.set("both", n)
                gone.append(n)

        thresholds = gc.get_threshold()
        gc.set_threshold(7)                     # collections come in the middle of everything
        try:
            for n in range(3000):
                Cycle()
                behind.set(n, [n])
                behind.set("both", n)
        finally:
            gc.set_threshold(*thresholds)
        # another thread may be collecting, and then this one's call does nothing
        wait_until(lambda: gc.collect() >= 0 and len(gone) == 3000)
        assert behind.flush()
    count = next(written)
    assert count > 2000
    assert all(store.values["final", n] == n for n in range(count))
    assert all(store.values[n] == [n] for n in range(3000))
