"""Nothing leaks: reference counts and memory come back to where they were, after many operations of every kind.

Each measurement runs in a process of its own, which first does everything once (so that whatever is allocated once and
kept is there), then measures, does it many times, and measures again; `pytest -m slow` does a million operations. That
cycles are collected, and a dropped cache is freed at once, is tested in this process.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import weakref
from pathlib import Path

import pytest

from cachebox import MISSING, Cache, EvictionPolicy, cached, lru_cache
from conftest import PythonFIFO

FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()

PRELUDE = """
import asyncio, copy, gc, os, pickle, sys
from cachebox import MISSING, Cache, CacheStats, cached, lru_cache
from conftest import PythonFIFO

def resident():
    "Kilobytes of memory in use."
    if "ASAN_OPTIONS" in os.environ:
        return 0                        # AddressSanitizer keeps memory that was freed
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4
    except OSError:
        return 0

class Thing:
    pass

class Slow:
    def __init__(self, name): self.name = name
    def __hash__(self): return self.name % 5
    def __eq__(self, other): return isinstance(other, Slow) and self.name == other.name

class Error(Exception):
    pass

def attempt(call, *args):
    try:
        call(*args)
    except (Error, KeyError, ValueError, TypeError):
        pass

def throw(*args):
    raise Error

POLICY = {"PythonFIFO": PythonFIFO}.get(sys.argv[1], sys.argv[1])
TIMES = int(sys.argv[2])
key, value, slow = ("key", 1), Thing(), Slow(3)
watched = [key, value, slow, None, MISSING, throw, Thing, Slow, Error, "kept", 10**20]
"""

MEASURE = """
def measure():
    for _ in range(3):
        gc.collect()
    return [sys.getrefcount(one) for one in watched], len(gc.get_objects())

for _ in range(300):
    step()
before, used = measure(), resident()
for _ in range(TIMES):
    step()
after, used_after = measure(), resident()
differences = [found - expected for found, expected in zip(after[0], before[0])]
# some references, to None above all, come and go with the interpreter's own caches; a leak is one for every step
assert all(abs(difference) < TIMES // 4 for difference in differences), differences
assert abs(after[1] - before[1]) < 50, (before[1], after[1])
# likewise pages: a leak of as little as four bytes a step is more than this
assert used_after - used < 2000 + TIMES // 250, (used, used_after)
print("clean")
"""

SCENARIOS = {
    "values": """
        caches = [
            Cache(5, policy=POLICY),
            Cache(5, policy=POLICY, default_ttl=60, time_to_idle=30),
            Cache(5, policy=POLICY, on_evict=lambda *departure: None, on_removal=lambda *departure: None),
            Cache(5, policy=POLICY, max_weight=8, weigher=lambda key, value: 1.5),
        ]
        number = [0]
        def step():
            cache = caches[number[0] % 4]
            number[0] += 1
            n = number[0] % 9
            for one in (key, slow, Slow(n), n, "kept"):
                cache.set(one, value)
                cache.get(one), cache.peek(one), one in cache
                cache.set(one, value, 5e-324 if n == 1 else 60)
                attempt(cache.__getitem__, one)
                cache.setdefault(one, value)
                cache.touch(one, 5)
                attempt(cache.ttl, one)
            cache.pop(key, None), cache.delete(slow), cache.get_many([key, slow, n])
            cache.set_many({key: value, slow: value}), cache.update([(n, value)], kept=value)
            cache.delete_many([key, "absent"])
            attempt(cache.popitem)
            cache.increment("sum", 10**20), cache.pop("sum")
            list(cache), list(cache.items()), list(cache.values()), cache == {key: value}, repr(cache), len(cache)
            cache.weight, cache.stats.get_all(), cache.stats.snapshot() - cache.stats.snapshot(), cache.stats.report()
            cache.purge_expired(), cache.resize(3), cache.resize(5)
            if n == 0:
                cache.clear()
    """,
    "loads": """
        cache = Cache(5, policy=POLICY, default_ttl=60)
        other = Cache(5, policy=POLICY)
        def inside(): cache[key] = value
        def again(): return cache.get_or_set(key, lambda: value)
        def step():
            for c in (cache, other):
                for factory in (lambda: value, throw, inside, again, c.clear):
                    for one in (key, slow, Slow(8)):
                        attempt(c.get_or_set, one, factory)
                        attempt(c.compute, one, lambda old: factory())
                        attempt(c.compute, one, lambda old: MISSING)
                        c.pop(one, None)
    """,
    "errors": """
        cache = Cache(5, policy=POLICY, max_weight=8, weigher=lambda key, value: 99 if value is None else 1)
        class Touchy(Slow):
            __hash__ = Slow.__hash__
            def __eq__(self, other): raise Error
        def step():
            cache.update({key: value, slow: value})
            for call in (
                lambda: cache.set(key, value, -1), lambda: cache.set(key, value, "1"), lambda: cache.set(key, None),
                lambda: cache.set([], value), lambda: cache.get([]), lambda: cache["absent"], lambda: cache.resize(0),
                lambda: cache.increment(key), lambda: cache.setdefault("absent", None), lambda: Cache(0),
                lambda: cache.get(Touchy(3)), lambda: cache.set(Touchy(3), value), lambda: cache.pop(Touchy(8)),
                lambda: cache.get_or_set(Touchy(3), throw), lambda: cache.compute(Touchy(3), throw),
                lambda: Cache(policy="none"), lambda: cache.stats.get("none"), lambda: cache.set_many({1: None}),
                lambda: cache.update([1]), lambda: cache.get_many(1), lambda: Cache(default_ttl=0),
            ):
                attempt(call)
    """,
    "caches": """
        def step():
            for options in ({}, {"default_ttl": 60}, {"on_evict": throw}, {"max_weight": 3, "weigher": lambda k, v: 1}):
                cache = Cache(3, policy=POLICY, **options)
                cache.update({key: value, slow: value})
                copy.copy(cache), cache.copy().clear(), copy.deepcopy(cache)
                if not options:
                    pickle.loads(pickle.dumps(Cache(3, policy=POLICY)))
                cache["itself"] = cache
                del cache
            gc.collect(0)
    """,
    "functions": """
        class Owner:
            @cached(max_size=4, policy=POLICY)
            def method(self, x, y=0): return value
            @cached(Cache(4))
            def shared(self, x): return value
            @cached
            @classmethod
            def of_class(cls, x): return value
        def function(x=0, y=0):
            if x == 7: raise Error
            return value
        functions = [
            cached(max_size=4, policy=POLICY)(function), cached(Cache(4), ttl=60, typed=True)(function),
            cached(max_size=4, condition=lambda result: False)(function), lru_cache(4)(function),
            cached(key_func=lambda *args, **kwargs: args)(function), cached(single_flight=False)(function),
        ]
        number = [0]
        def step():
            number[0] += 1
            n = number[0] % 9
            for f in functions:
                attempt(f, n), attempt(f, slow), f(key, y=value), attempt(f, [])
                f.cache_info(), f.cache_parameters()
                if hasattr(f, "invalidate"):
                    f.invalidate(n), f.cache_key(key)
            owner = Owner()
            owner.method(n), owner.method(key, y=value), owner.shared(n), Owner.of_class(n), owner.method.invalidate(n)
            del owner
            cached(max_size=2)(lambda x: x)(value)
            if n == 0:
                for f in functions: f.cache_clear()
    """,
    "coroutines": """
        @cached(max_size=4, policy=POLICY)
        async def f(x):
            await asyncio.sleep(0)
            if x == 7: raise Error
            return value
        async def some(n):
            tasks = [asyncio.ensure_future(f(one)) for one in (n, n, key, 7, 7)]
            await asyncio.sleep(0)
            tasks[0].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        loop = asyncio.new_event_loop()
        number = [0]
        def step():
            number[0] += 1
            loop.run_until_complete(some(number[0] % 9))
            f(key).close()
            f("never").close()
    """,
}

POLICIES = ("LRU", "LFU", "FIFO", "AUTO", "PythonFIFO")


def measure(scenario, policy, times):
    program = PRELUDE + textwrap.dedent(SCENARIOS[scenario]) + MEASURE
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, policy, str(times)],
        capture_output=True,
        text=True,
        timeout=3600,
        cwd=Path(__file__).parents[1],
    )
    assert (done.returncode, done.stdout) == (0, "clean\n"), done.stderr


needs_exact_counts = pytest.mark.skipif(FREE_THREADED, reason="reference counts are split between threads there")


@needs_exact_counts
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_counts_and_memory_come_back(scenario, policy):
    measure(scenario, policy, 400)


@pytest.mark.slow
@needs_exact_counts
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_counts_and_memory_come_back_after_a_million_operations(scenario, policy):
    measure(scenario, policy, 20_000)           # each step is fifty operations or more


# --- cycles -----------------------------------------------------------------------------------------------------------


class Thing:
    pass


def through_a_value(cache, thing):
    cache["key"] = thing


def through_a_key(cache, thing):
    cache[thing] = 1


def through_a_key_in_a_tuple(cache, thing):
    cache[("key", thing)] = 1


def through_a_factory(cache, thing):
    def factory():
        return [thing, cache, factory]

    cache.get_or_set("key", factory)


def through_compute(cache, thing):
    cache.compute("key", lambda old: [thing, cache] if old is MISSING else old)


def through_an_entry_that_expires(cache, thing):
    cache.set("key", [thing, cache], ttl=3600)


@pytest.mark.parametrize(
    "tie",
    [
        through_a_value,
        through_a_key,
        through_a_key_in_a_tuple,
        through_a_factory,
        through_compute,
        through_an_entry_that_expires,
    ],
)
def test_a_cycle_through_an_entry_is_collected(any_policy, tie):
    thing = Thing()
    thing.cache = Cache(3, policy=any_policy)
    tie(thing.cache, thing)
    references = [weakref.ref(thing), weakref.ref(thing.cache)]
    del thing
    gc.collect()
    assert [reference() for reference in references] == [None, None]


@pytest.mark.parametrize("name", ["on_evict", "on_removal", "clock", "weigher"])
def test_a_cycle_through_what_the_cache_calls_is_collected(any_policy, name):
    class Owner:
        def __init__(self):
            more = {"max_weight": 9} if name == "weigher" else {}
            self.cache = Cache(3, policy=any_policy, **{name: self.called}, **more)
            self.cache["key"] = 1
            self.cache["key"] = 2

        def called(self, *args):
            return 1.0

    owner = Owner()
    references = [weakref.ref(owner), weakref.ref(owner.cache)]
    del owner
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_a_cycle_through_a_policy_is_collected():
    class Knowing(PythonFIFO):
        pass

    policy = Knowing()
    policy.cache = Cache(3, policy=policy)
    policy.cache["key"] = policy
    references = [weakref.ref(policy), weakref.ref(policy.cache)]
    assert isinstance(policy, EvictionPolicy)
    del policy
    gc.collect()
    assert [reference() for reference in references] == [None, None]


@pytest.mark.parametrize(
    "decorate",
    [cached, cached(max_size=5), cached(ttl=60), lru_cache, lru_cache(None)],
    ids=["cached", "max_size", "ttl", "lru_cache", "lru_cache(None)"],
)
def test_a_cycle_through_a_decorated_function_is_collected(decorate):
    def make():
        @decorate
        def function(x, y=0):
            return [function, x]

        function(1)
        function(Thing())
        function(1, y=Thing())
        return weakref.ref(function)

    reference = make()
    gc.collect()
    assert reference() is None


def test_a_cycle_through_a_failed_load_is_collected(any_policy):
    def fail_in_a_cycle():
        def fail():
            raise LookupError(thing)

        thing = Thing()
        thing.cache = Cache(3, policy=any_policy)
        with pytest.raises(LookupError):
            thing.cache.get_or_set("key", fail)
        return weakref.ref(thing)

    reference = fail_in_a_cycle()
    gc.collect()
    assert reference() is None


# --- a dropped cache --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"default_ttl": 60}, {"time_to_idle": 60}, {"on_evict": print}, {"max_weight": 9, "weigher": lambda k, v: 1}],
    ids=["plain", "default_ttl", "time_to_idle", "on_evict", "weigher"],
)
def test_a_dropped_cache_is_freed_at_once_with_its_entries(any_policy, options):
    gc.collect()
    gc.disable()
    try:
        cache = Cache(5, policy=any_policy, **options)
        key, value, loaded = Thing(), Thing(), Thing()
        cache[key] = value
        cache.get_or_set("loaded", [loaded].pop)
        cache.get(key), list(cache.items()), len(cache), cache.copy()
        references = [weakref.ref(one) for one in (cache, key, value, loaded)]
        del key, value, loaded
        assert all(reference() for reference in references)
        del cache
        assert [reference() for reference in references] == [None] * 4
    finally:
        gc.enable()


def test_an_entry_that_leaves_is_freed_at_once(any_policy):
    gc.disable()
    try:
        for leave in (
            lambda cache: cache.delete("key"),
            lambda cache: cache.pop("key", None) and None,
            lambda cache: cache.set("key", 1),
            lambda cache: cache.popitem() and None,
            lambda cache: cache.update(a=1, b=2),
            lambda cache: cache.compute("key", lambda old: MISSING),
            lambda cache: cache.clear(),
        ):
            cache = Cache(2, policy=any_policy)
            cache["key"] = Thing()
            reference = weakref.ref(cache.peek("key"))
            leave(cache)
            assert reference() is None
    finally:
        gc.enable()
