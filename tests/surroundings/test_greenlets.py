"""Greenlets: several callers in one thread. Plain ones, gevent's, eventlet's, and SQLAlchemy's under asyncio.

A test that would end the process if it fails, or that replaces parts of the interpreter, runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import subprocess
import sys
import textwrap
import threading
import weakref

import pytest

from cachebox import MISSING, Cache, EvictionPolicy, cached
from cachebox.strategies import WriteThrough
from in_threads import LIMIT, Started, wait_for

greenlet = pytest.importorskip("greenlet", reason="needs greenlet, which is not installed")


def spawn(function, *args):
    """A greenlet, run until it first waits."""
    one = greenlet.greenlet(lambda: function(*args))
    one.switch()
    return one


def pause(value=None):
    """Let the others go on: switch to the parent."""
    greenlet.getcurrent().parent.switch()
    return value


def finish(*greenlets):
    """Switch to each in turn until all have ended."""
    for _ in range(100):
        for one in greenlets:
            if not one.dead:
                one.switch()
    assert all(one.dead for one in greenlets)


def in_process(script, *args, needs=()):
    """Run a script in a process of its own, which has to end well. Skipped if a module is missing."""
    for module in needs:
        pytest.importorskip(module, reason=f"needs {module}, which is not installed")
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(script), *args],
        capture_output=True, text=True, timeout=LIMIT,
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


# --- plain greenlets: no wait can switch to the leader, so each loads for itself --------------------------------------

def ways():
    """Ways to load a key, by name: each makes a new cache and gives a function of the key."""
    def through_function(load):
        return cached(max_size=10)(load)

    def through_method(load):
        class Owner:
            @cached
            def method(self, key):
                return load(key)

        return Owner().method

    def many(load):
        class Store:
            def load(self, key):
                return load(key)

            def load_many(self, keys):
                return {key: load(key) for key in keys}

        cache = Cache(loader=Store())
        return lambda key: cache.get_many([key])[key]

    def factory(load):
        cache = Cache()
        return lambda key: cache.get_or_set(key, lambda: load(key))

    def strategy(load):
        class Store:
            def load(self, key):
                return load(key)

            def save(self, key, value):
                pass

        return WriteThrough(Cache(), Store()).get

    def warming(load):
        cache = Cache()

        def get(key):
            cache.warm([key], load, workers=1)
            return cache.peek(key)

        return get

    return {
        "function": through_function, "method": through_method, "factory": factory, "many": many,
        "loader": lambda load: Cache(loader=load).get, "strategy": strategy, "warming": warming,
        "policy": lambda load: Cache(loader=load, policy=Oldest).get,
        "expiring": lambda load: Cache(loader=load, default_ttl=60, on_removal=lambda *left: None).get,
    }


class Oldest(EvictionPolicy):
    """A policy of the user's."""

    def __init__(self, max_size):
        self.keys = {}

    def add(self, key):
        self.keys[key] = None

    def remove(self, key):
        del self.keys[key]

    def access(self, key):
        pass

    def evict(self):
        key = next(iter(self.keys))
        del self.keys[key]
        return key

    def clear(self):
        self.keys.clear()

    def __len__(self):
        return len(self.keys)

    def __contains__(self, key):
        return key in self.keys

    def __iter__(self):
        return iter(self.keys)


def deep(levels, function, *args):
    """Call a function from that many levels of compiled calls: with another C stack, that is."""
    return function(*args) if levels == 0 else next(map(functools.partial(deep, levels - 1, function), args))


@pytest.mark.parametrize("way", ways())
@pytest.mark.parametrize("depths", [(0, 0), (0, 1), (0, 5), (1, 0), (2, 1), (7, 3)])
def test_two_greenlets_that_miss_one_key(way, depths):
    runs = []

    def load(key):
        runs.append(key)
        return pause(key.upper())

    get = ways()[way](load)
    results = []
    both = [spawn(lambda depth=depth: results.append(deep(depth, get, "a"))) for depth in depths]
    finish(*both)
    assert results == ["A", "A"] and get("a") == "A"
    assert runs == ["a", "a"]


def test_many_greenlets_and_keys_in_any_order():
    def load(key):
        for _ in range(key % 3 + 1):
            pause()
        return -key

    get = cached(max_size=3)(load)
    results = []
    finish(*[spawn(lambda key=key: results.append((key, get(key)))) for key in [0, 1, 2, 0, 4, 2, 1, 5, 0, 6]])
    assert sorted(results) == sorted((key, -key) for key in [0, 1, 2, 0, 4, 2, 1, 5, 0, 6])


def test_a_greenlet_fails_while_another_loads_the_same_key():
    failing = [True, False]

    def load(key):
        fails = failing.pop(0)
        pause()
        if fails:
            raise LookupError(key)
        return key

    get = cached(load)
    results = []

    def call():
        try:
            results.append(get(1))
        except LookupError:
            results.append("failed")

    finish(spawn(call), spawn(call))
    assert results == ["failed", 1]


def test_what_is_written_while_greenlets_load_wins():
    cache = Cache()
    both = [spawn(cache.get_or_set, "a", lambda: pause("loaded")) for _ in range(2)]
    cache["a"] = "written"
    finish(*both)
    assert cache["a"] == "written"


@pytest.mark.parametrize("end", ["collected", "killed"])
def test_a_load_whose_greenlet_is_dropped_holds_neither_its_key_nor_memory(end):
    cache = Cache()

    class Held:
        pass

    held = weakref.ref(Held())

    def load():
        nonlocal held
        here = Held()
        held = weakref.ref(here)
        pause()
        return 1

    one = spawn(cache.get_or_set, "a", load)
    if end == "killed":
        one.throw(greenlet.GreenletExit)        # a greenlet that ends by this exception returns it
        assert one.dead
    del one
    gc.collect()
    assert held() is None and cache.get_or_set("a", lambda: 2) == 2 and cache["a"] == 2


def test_a_thread_takes_over_from_a_greenlet_that_is_dropped():
    cache = Cache()
    one = spawn(cache.get_or_set, "a", lambda: pause(1))
    other = Started(cache.get_or_set, "a", lambda: 2)
    other.thread.join(0.05)
    del one
    gc.collect()
    assert other.result() == 2


def test_compute_is_atomic_between_greenlets():
    cache = Cache()
    cache["n"] = 0
    both = [spawn(cache.compute, "n", lambda old: pause(old + 1)) for _ in range(2)]
    finish(*both)
    assert cache["n"] == 2


@pytest.mark.parametrize("change", ["set", "delete", "clear", "popitem", "increment"])
def test_compute_runs_again_where_another_greenlet_wrote_but_not_where_its_own_function_did(change):
    cache = Cache()
    cache["n"] = 1
    runs = []

    def own(old):
        runs.append(old)
        {"set": lambda: cache.set("n", 7), "delete": lambda: cache.delete("n"), "clear": cache.clear,
         "popitem": cache.popitem, "increment": lambda: cache.increment("n")}[change]()
        return 10

    assert cache.compute("n", own) == 10 and runs == [1]
    one = spawn(cache.compute, "n", lambda old: pause((0 if old is MISSING else old) + 1))
    {"set": lambda: cache.set("n", 7), "delete": lambda: cache.delete("n"), "clear": cache.clear,
     "popitem": cache.popitem, "increment": lambda: cache.increment("n")}[change]()
    finish(one)
    assert cache["n"] == {"set": 8, "delete": 1, "clear": 1, "popitem": 1, "increment": 12}[change]


def test_a_policy_whose_method_lets_another_greenlet_in():
    class Switching(Oldest):
        def add(self, key):
            pause()
            super().add(key)

    cache = Cache(3, policy=Switching)
    finish(*[spawn(cache.set, key, key) for key in range(6)])
    assert len(cache) == 3
    for key in range(6):
        finish(spawn(cache.set, key, key))
    assert list(cache) == [3, 4, 5]


def test_comparing_keys_lets_another_greenlet_in():
    class Key:
        def __init__(self, name):
            self.name = name

        def __hash__(self):
            return 1

        def __eq__(self, other):
            pause()
            return self.name == other.name

    cache = Cache(3)
    keys = [Key(name) for name in "abcab"]
    finish(*[spawn(cache.set, key, key.name) for key in keys], *[spawn(cache.get, key) for key in keys])
    found = []
    finish(spawn(lambda: found.extend(cache.get(Key(name)) for name in "abc")))
    assert found == ["a", "b", "c"]


def test_callbacks_that_let_another_greenlet_in():
    left = []

    def note(key, value):
        pause()
        left.append(key)

    cache = Cache(1, on_evict=note)
    finish(*[spawn(cache.set, key, key) for key in range(5)])
    assert sorted(left) == [0, 1, 2, 3] and list(cache) == [4]


def test_writes_of_one_key_through_a_store_that_switches():
    class Store(dict):
        def load(self, key):
            return self[key]

        def save(self, key, value):
            pause()
            self[key] = value

    store = Store()
    cache = WriteThrough(Cache(), store)
    finish(*[spawn(cache.set, "a", n) for n in range(3)])
    assert cache.get("a") == store["a"]


def test_a_greenlet_waits_for_a_load_of_another_thread():
    cache = Cache()
    begun, over = threading.Event(), threading.Event()

    def load():
        begun.set()
        wait_for(over)
        return 1

    leader = Started(cache.get_or_set, "a", load)
    wait_for(begun)
    timer = threading.Timer(0.05, over.set)
    timer.start()
    one = spawn(cache.get_or_set, "a", lambda: 2)
    assert one.dead and leader.result() == 1 and cache["a"] == 1
    timer.join()


# --- SQLAlchemy: a greenlet under the event loop's own thread ---------------------------------------------------------

def run_sync(work, n):
    """Call ``work(query)`` in that many greenlets of one event loop, where ``query(text)`` asks a database."""
    pytest.importorskip("sqlalchemy", reason="needs SQLAlchemy, which is not installed")
    pytest.importorskip("aiosqlite", reason="needs aiosqlite, which is not installed")
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    async def main():
        engine = create_async_engine("sqlite+aiosqlite:///:memory:", poolclass=NullPool)

        async def one():
            async with engine.connect() as connection:
                return await connection.run_sync(lambda sync: work(lambda query: sync.execute(text(query)).scalar()))

        try:
            return await asyncio.wait_for(asyncio.gather(*[one() for _ in range(n)]), LIMIT)
        finally:
            await engine.dispose()

    return asyncio.run(main())


@pytest.mark.parametrize("way", ways())
def test_under_sqlalchemys_asyncio(way):
    queries = []

    def load(key):
        return queries[-1](f"select {key} * 10")

    get = ways()[way](load)

    def work(query):
        queries.append(query)
        return get(5)

    assert run_sync(work, 4) == [50] * 4 and get(5) == 50


def test_a_circle_of_greenlets_under_sqlalchemys_asyncio():
    cache = Cache()
    turn = iter("abab")

    def work(query):
        first = next(turn)
        second = {"a": "b", "b": "a"}[first]

        def inner():
            query("select 1")
            return cache.get_or_set(second, lambda: query("select 2"))

        return cache.get_or_set(first, inner)

    assert run_sync(work, 4) == [2] * 4


# --- gevent, in a process of its own ----------------------------------------------------------------------------------

PATCHED = pytest.mark.parametrize("patched", ["before", "after", "not"])
GEVENT = """
    import sys, threading
    if sys.argv[1] == "before":
        from gevent import monkey; monkey.patch_all()
    import cachebox, cachebox.strategies
    from cachebox import Cache, cached
    from cachebox.strategies import WriteThrough
    if sys.argv[1] == "after":
        from gevent import monkey; monkey.patch_all()
    import gevent, gevent.monkey, gevent.event, gevent.threadpool
    start_new_thread = gevent.monkey.get_original("_thread", "start_new_thread")
    sleep = gevent.monkey.get_original("time", "sleep")
    ticks = 0
    def tick():
        global ticks
        while True:
            gevent.sleep(0.001)
            ticks += 1
    gevent.spawn(tick)
    def at_once(*functions):
        jobs = [gevent.spawn(function) for function in functions]
        gevent.joinall(jobs, timeout=50)
        assert all(job.ready() for job in jobs), "hangs"
        return [job.get() for job in jobs]
    runs = []
    def slow(key):
        runs.append(key)
        gevent.sleep(0.02)
        return key * 2
    def soon():                     # what takes seconds, to be on the safe side, takes a moment
        from cachebox._platform import callers
        from cachebox._loading import flight
        from cachebox._loading import tasks
        for module in (callers, flight, tasks):
            module.PULSE = 0.05
        for module in (callers, flight):
            module.LONG = 0.1
"""


def in_gevent(script, patched):
    return in_process(textwrap.dedent(GEVENT) + textwrap.dedent(script), patched, needs=("gevent",))


@PATCHED
def test_greenlets_of_gevent_share_one_computation(patched):
    in_gevent("""
        class Store:
            def load(self, key): return slow(key)
            def load_many(self, keys): return {key: slow(key) for key in keys}
            def save(self, key, value): pass
        shared, loading, many, plain = cached(max_size=9)(slow), Cache(loader=slow), Cache(loader=Store()), Cache()
        through = WriteThrough(Cache(), Store())
        for get in (shared, loading.get, lambda key: many.get_many([key])[key],
                    lambda key: plain.get_or_set(key, lambda: slow(key)), through.get):
            runs.clear()
            assert at_once(*[lambda: get(4)] * 5) == [8] * 5
            assert runs == [4], runs
        assert ticks > 10, ticks
    """, patched)


@PATCHED
def test_the_main_greenlet_of_gevent_leads_or_waits(patched):
    in_gevent("""
        get = cached(slow)
        other = gevent.spawn(get, 1)
        assert get(1) == other.get() == 2 and runs == [1]
        other = gevent.spawn(get, 2)
        gevent.sleep(0)
        assert get(2) == other.get() == 4 and runs == [1, 2]
    """, patched)


@PATCHED
def test_a_greenlet_that_waits_for_a_real_thread_does_not_stop_its_hub(patched):
    in_gevent("""
        cache = Cache()
        begun = []
        def load():
            begun.append(1)
            sleep(0.3)
            return 1
        start_new_thread(cache.get_or_set, ("a", load))
        while not begun:
            gevent.sleep(0.001)
        ticks = 0
        assert at_once(*[lambda: cache.get_or_set("a", lambda: 2)] * 3) == [1] * 3
        assert ticks > 20, ticks
    """, patched)


@PATCHED
def test_a_real_thread_waits_for_a_greenlet(patched):
    in_gevent("""
        cache, found = Cache(), []
        leader = gevent.spawn(cache.get_or_set, "a", lambda: slow(1))
        gevent.sleep(0)
        start_new_thread(lambda: found.append(cache.get_or_set("a", lambda: 99)), ())
        while not found:
            gevent.sleep(0.001)
        assert found == [2] and leader.get() == 2
    """, patched)


@PATCHED
def test_circles_of_greenlets_end(patched):
    in_gevent("""
        cache = Cache()
        def chain(first, second):
            def outer():
                gevent.sleep(0.01)
                return cache.get_or_set(second, lambda: (gevent.sleep(0.01), second)[1])
            return lambda: cache.get_or_set(first, outer)
        at_once(chain("a", "b"), chain("b", "c"), chain("c", "a"))
        inner = lambda: cache.get_or_set("own", lambda: 5)
        assert at_once(lambda: cache.get_or_set("own", inner)) == [5]
    """, patched)


@PATCHED
def test_a_leader_that_waits_for_who_asks_for_its_key(patched):
    in_gevent("""
        import greenlet
        soon()
        cache = Cache()
        inner = lambda: gevent.spawn(cache.get_or_set, "a", lambda: 3).get()
        assert at_once(lambda: cache.get_or_set("a", inner)) == [3]
        def nested():
            return greenlet.greenlet(lambda: cache.get_or_set("b", lambda: 4)).switch()
        assert at_once(lambda: cache.get_or_set("b", nested)) == [4]
        pool = gevent.threadpool.ThreadPool(1)
        assert at_once(lambda: cache.get_or_set("c", lambda: pool.spawn(cache.get_or_set, "c", lambda: 5).get())) == [5]
        assert at_once(lambda: cache.warm(["d"], lambda key: (cache.warm(["d", "e"], str.upper, workers=2), 1)[1],
                                          workers=2).loaded) == [1]
    """, patched)


@PATCHED
def test_what_greenlets_are_killed_in(patched):
    in_gevent("""
        cache = Cache()
        leader = gevent.spawn(cache.get_or_set, "a", lambda: gevent.sleep(100))
        waiter = gevent.spawn(cache.get_or_set, "a", lambda: 1)
        third = gevent.spawn(cache.get_or_set, "a", lambda: 2)
        gevent.sleep(0.01)
        waiter.kill()
        leader.kill()
        assert third.get() == 2 and cache["a"] == 2
        with gevent.Timeout(0.05, False):
            cache.get_or_set("b", lambda: gevent.sleep(100))
        assert cache.get_or_set("b", lambda: 3) == 3
    """, patched)


@PATCHED
def test_lifetimes_refreshes_warming_and_writes(patched):
    in_gevent("""
        left = []
        cache = Cache(default_ttl=0.05, on_removal=lambda key, value, cause: left.append(key))
        cache["a"] = 1
        while not left:
            gevent.sleep(0.01)
        now = 0.0
        ahead = Cache(loader=slow, default_ttl=10, refresh_ahead=0.5, clock=lambda: now)
        ahead.get(1); now = 8.0; assert ahead.get(1) == 2
        while len(runs) < 2:
            gevent.sleep(0.01)
        assert ahead.get(1) == 2
        runs.clear()
        warm = Cache()
        assert at_once(*[lambda: warm.warm(range(9), slow, workers=3).failed] * 3) == [0] * 3
        assert sorted(runs) == list(range(9)), runs
        class Store(dict):
            def load(self, key): return self[key]
            def save(self, key, value):
                gevent.sleep(0.001)
                self[key] = value
        store = Store(); through = WriteThrough(Cache(), store)
        at_once(*[lambda n=n: through.set("a", n) for n in range(9)])
        assert store["a"] == through.get("a") == 8
        counts = Cache()
        at_once(*[lambda: counts.compute("n", lambda old: (gevent.sleep(0), (old or 0) + 1)[1])] * 9)
        assert counts["n"] == 9
        assert ticks > 10
    """, patched)


@pytest.mark.parametrize("patched", ["before", "not"])
def test_greenlets_of_eventlet_share_one_computation(patched):
    in_process("""
        import sys, warnings
        warnings.simplefilter("ignore")
        import eventlet
        if sys.argv[1] == "before":
            eventlet.monkey_patch()
        import eventlet.patcher
        from cachebox import Cache
        thread = eventlet.patcher.original("_thread")
        sleep = eventlet.patcher.original("time").sleep
        cache, runs, ticks = Cache(), [], []
        def load():
            runs.append(1)
            eventlet.sleep(0.02)
            return 1
        def tick():
            while True:
                eventlet.sleep(0.001)
                ticks.append(1)
        eventlet.spawn(tick)
        with eventlet.Timeout(50):
            jobs = [eventlet.spawn(cache.get_or_set, "a", load) for _ in range(5)]
            assert [job.wait() for job in jobs] == [1] * 5 and runs == [1], runs
            begun = []
            def slow():
                begun.append(1)
                sleep(0.2)
                return 2
            thread.start_new_thread(cache.get_or_set, ("b", slow))
            while not begun:
                eventlet.sleep(0.001)
            ticks.clear()
            assert cache.get_or_set("b", lambda: 3) == 2
            assert len(ticks) > 10, len(ticks)
    """, patched, needs=("eventlet",))
