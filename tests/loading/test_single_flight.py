"""Single flight between threads: of all callers that miss one key at the same time, one loads it.

Every test runs with each way to load: `Cache.get_or_set` and functions, own and shared caches, methods.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import subprocess
import sys
import textwrap
import threading
import traceback
import weakref

import pytest

from cachebox import MISSING, Cache, cached
from conftest import PythonFIFO, named
from in_threads import LIMIT, Started, is_same, must_end, run_all, wait_for, wait_until


class GetOrSet:
    """Loads by `Cache.get_or_set`."""

    def __init__(self, cache=None):
        self.cache = Cache() if cache is None else cache

    def load(self, key, factory):
        return self.cache.get_or_set(key, factory)

    def key(self, key):
        return key

    def forget(self, key):
        return self.cache.delete(key)


class ByFunction:
    """Loads by a cached function, which runs the factory that its thread was given last."""

    options: dict = {}
    shares = False

    def __init__(self, cache=None):
        self.cache = Cache() if cache is None else cache
        self.given = threading.local()
        # a function that has its cache to itself makes its keys otherwise than one that shares it
        self.f = self.decorate(cache)
        self.cache = self.f.cache

    def decorate(self, cache):
        cache = Cache() if cache is None and self.shares else cache
        return cached(cache, **self.options)(lambda key: self.given.factory())

    def load(self, key, factory):
        outer = getattr(self.given, "factory", None)
        self.given.factory = factory
        try:
            return self.f(key)
        finally:
            self.given.factory = outer

    def key(self, key):
        return self.f.cache_key(key)

    def forget(self, key):
        return self.f.invalidate(key)


class BySharing(ByFunction):
    shares = True


class ByMethod(ByFunction):
    def decorate(self, cache):
        class Owner:
            @cached(cache)
            def method(self, key):
                return given.factory()

        given, self.owner = self.given, Owner()
        self.wrapper = Owner.method
        return self.owner.method


class ByKeyFunc(ByFunction):
    options = {"key_func": lambda key: ("key", key)}


WAYS = [GetOrSet, ByFunction, BySharing, ByMethod, ByKeyFunc]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request):
    """Makes a loader of each kind in turn."""
    return request.param


@pytest.fixture
def loader(way):
    """A loader of each kind in turn."""
    return way()


class Gate:
    """A factory that waits to be let through. `entered` is set while it waits."""

    def __init__(self, result="loaded"):
        self.entered, self.opened = threading.Event(), threading.Event()
        self.result = result
        self.runs = 0

    def __call__(self):
        self.runs += 1
        self.entered.set()
        wait_for(self.opened)
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


def never():
    raise AssertionError("this factory must not run")


def start_leader(loader, key, gate):
    """A thread that leads, held up in its factory."""
    leader = Started(loader.load, key, gate)
    wait_until(lambda: gate.entered.is_set() or not leader.thread.is_alive(), "the leader")
    assert gate.entered.is_set(), f"it did not lead: {leader.wait().error!r}"
    return leader


def start_waiters(loader, key, n, factory=never):
    """Threads that have joined another's load: a waiter counts its miss when it joins a flight."""
    misses = loader.cache.stats.misses
    waiters = [Started(loader.load, key, factory) for _ in range(n)]
    wait_until(lambda: loader.cache.stats.misses == misses + n, "waiters")
    return waiters


needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="on Windows a thread cannot be sent a signal")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")


def in_process(script):
    """The lines that a script printed."""
    guard = f"import faulthandler; faulthandler.dump_traceback_later({LIMIT}, exit=True)\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", guard + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=2 * LIMIT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# --- sharing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("result", [object(), None, False])
def test_one_loads_and_all_get_its_value(loader, result):
    gate = Gate(result)
    leader = start_leader(loader, "k", gate)
    waiters = start_waiters(loader, "k", 5)
    gate.opened.set()
    assert all(one.result() is result for one in [leader, *waiters])
    assert gate.runs == 1
    stats = loader.cache.stats
    assert (stats.hits, stats.misses, stats.sets) == (0, 6, 1)
    assert loader.load("k", never) is result
    assert (stats.hits, stats.misses, stats.sets) == (1, 6, 1)


def test_everybody_at_once(loader):
    """However the threads race, the function runs once."""
    for key in range(50):
        made = []
        results = run_all(*[lambda: loader.load(key, lambda: made.append(1) or object())] * 4)
        assert len(made) == 1 and len(set(results)) == 1
    assert loader.cache.stats.hits + loader.cache.stats.misses == 200
    assert loader.cache.stats.sets == 50


def test_a_function_that_shares_counts_each_caller_once():
    loader = BySharing()
    for key in range(50):
        run_all(*[lambda: loader.load(key, object)] * 4)
    info = loader.f.cache_info()
    assert info.hits + info.misses == 200
    assert info.misses == loader.cache.stats.misses


def test_all_get_the_leaders_exception_and_nothing_is_stored(loader):
    error = ValueError("why")
    gate = Gate(error)
    leader = start_leader(loader, "k", gate)
    waiters = start_waiters(loader, "k", 5)
    gate.opened.set()
    assert all(is_same(one.wait().error, error) for one in [leader, *waiters])
    assert gate.runs == 1
    frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert "__call__" in frames, "the factory's frame is missing"
    assert len(loader.cache) == 0 and loader.cache.stats.misses == 6
    assert loader.load("k", lambda: "now") == "now"


def test_waiters_do_not_lengthen_the_exceptions_traceback(loader):
    error = ValueError("why")
    gate = Gate(error)
    leader = start_leader(loader, "k", gate)
    waiters = start_waiters(loader, "k", 20)
    gate.opened.set()
    for one in [leader, *waiters]:
        assert len(traceback.extract_tb(one.wait().error.__traceback__)) < 15


def test_exceptions_are_passed_on_without_context(loader):
    error = ValueError("why")
    with pytest.raises(ValueError) as caught:
        loader.load("k", Raises(error))
    assert caught.value is error and error.__context__ is None and error.__cause__ is None


class Raises:
    """A factory that fails."""

    def __init__(self, error):
        self.error = error

    def __call__(self):
        raise self.error


def test_keys_are_joined_by_equality(loader):
    gate = Gate()
    leader = start_leader(loader, 1, gate)
    waiters = start_waiters(loader, 1.0, 1) + start_waiters(loader, True, 1)
    gate.opened.set()
    assert {one.result() for one in [leader, *waiters]} == {"loaded"}


@must_end
def test_loads_of_other_keys_do_not_wait(loader):
    gate = Gate()
    leader = start_leader(loader, "k", gate)
    assert loader.load("other", lambda: 1) == 1
    assert loader.load("other", never) == 1
    gate.opened.set()
    assert leader.result() == "loaded"


@must_end
def test_functions_that_share_a_cache_do_not_wait_for_each_other():
    cache = Cache()
    loaders = [GetOrSet(cache), ByFunction(cache), ByFunction(cache), ByMethod(cache), ByKeyFunc(cache)]
    gates = [Gate(k) for k in range(5)]
    leaders = [start_leader(one, "k", gate) for one, gate in zip(loaders, gates, strict=True)]
    for gate in gates:
        gate.opened.set()
    assert [leader.result() for leader in leaders] == [0, 1, 2, 3, 4]


@must_end
def test_methods_of_different_instances_do_not_wait_for_each_other():
    loader, gate = ByMethod(), Gate()
    leader = start_leader(loader, "k", gate)
    loader.given.factory = lambda: "mine"
    assert type(loader.owner)().method("k") == "mine"
    gate.opened.set()
    assert leader.result() == "loaded"


def test_get_or_set_and_a_function_share_a_flight():
    loader, gate = ByFunction(), Gate()
    leader = start_leader(loader, "k", gate)
    waiters = start_waiters(GetOrSet(loader.cache), loader.key("k"), 2)
    gate.opened.set()
    assert [one.result() for one in [leader, *waiters]] == ["loaded"] * 3


def test_a_key_that_is_being_loaded_is_not_there_yet(loader):
    gate = Gate()
    leader = start_leader(loader, "k", gate)
    cache, key = loader.cache, loader.key("k")
    assert key not in cache and len(cache) == 0 and list(cache) == [] and cache == {}
    assert cache.get(key, "none") == cache.peek(key, "none") == cache.pop(key, "none") == "none"
    assert cache.touch(key) is False
    with pytest.raises(KeyError):
        cache.ttl(key)
    with pytest.raises(KeyError):
        cache.popitem()
    assert cache.purge_expired() == 0
    assert cache.copy() == {}
    cache._check()
    gate.opened.set()
    assert leader.result() == "loaded"


@pytest.mark.parametrize("policy", ["LRU", "LFU", "FIFO", "AUTO", PythonFIFO], ids=named)
def test_the_bound_holds_while_more_keys_are_loaded_than_fit(policy):
    cache = Cache(max_size=2, policy=policy)
    gates = [Gate(k) for k in range(8)]
    leaders = [start_leader(GetOrSet(cache), k, gates[k]) for k in range(8)]
    cache["a"], cache["b"] = 1, 2
    assert len(cache) == 2
    for k in range(8):
        gates[k].opened.set()
        assert leaders[k].result() == k
        assert len(cache) == 2 and k in cache
        cache._check()


@pytest.mark.parametrize("policy", ["LRU", PythonFIFO], ids=named)
@pytest.mark.parametrize(
    "options",
    [{}, {"default_ttl": 60}, {"time_to_idle": 60}, {"max_weight": 99, "weigher": lambda k, v: 1}],
    ids=named,
)
def test_every_kind_of_cache(way, policy, options):
    loader = way(Cache(policy=policy, **options))
    gate = Gate()
    leader = start_leader(loader, "k", gate)
    waiters = start_waiters(loader, "k", 2)
    gate.opened.set()
    assert [one.result() for one in [leader, *waiters]] == ["loaded"] * 3
    assert loader.load("k", never) == "loaded"


def test_an_expired_key_is_loaded_once(way, clock):
    loader = way(Cache(clock=clock, default_ttl=10))
    loader.load("k", lambda: "old")
    clock.now += 10
    gate = Gate("new")
    leader = start_leader(loader, "k", gate)
    waiters = start_waiters(loader, "k", 2)
    clock.now += 5
    gate.opened.set()
    assert [one.result() for one in [leader, *waiters]] == ["new"] * 3
    assert loader.cache.ttl(loader.key("k")) == 10      # from the end of the load on
    assert loader.cache.stats.expired == 1


def test_the_ttl_given_to_get_or_set(clock):
    cache = Cache(clock=clock)
    assert cache.get_or_set("k", lambda: 1, ttl=5) == 1
    assert cache.ttl("k") == 5


# --- results that are not stored --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"condition": lambda result: False}, {"ttl": lambda result: 0}, {"ttl": lambda result: -1}], ids=named
)
def test_a_result_that_is_not_stored_is_shared_all_the_same(options):
    class Way(ByFunction):
        pass

    Way.options = options
    loader, gate = Way(), Gate()
    leader = start_leader(loader, "k", gate)
    waiters = start_waiters(loader, "k", 3)
    gate.opened.set()
    assert [one.result() for one in [leader, *waiters]] == ["loaded"] * 4
    assert gate.runs == 1 and len(loader.cache) == 0
    assert loader.load("k", lambda: "again") == "again"


def test_a_result_that_is_too_heavy_is_shared_but_not_stored(way):
    loader = way(Cache(max_weight=10, weigher=lambda key, value: len(value)))
    gate = Gate("x" * 11)
    leader = start_leader(loader, "k", gate)
    waiters = start_waiters(loader, "k", 3)
    gate.opened.set()
    assert [one.result() for one in [leader, *waiters]] == ["x" * 11] * 4
    assert gate.runs == 1 and len(loader.cache) == 0 and loader.cache.weight == 0
    assert loader.load("k", lambda: "light") == loader.load("k", never) == "light"


@pytest.mark.parametrize("asked", ["condition", "ttl"])
def test_an_error_in_condition_or_ttl_reaches_the_waiters(asked):
    class Way(ByFunction):
        options = {asked: lambda result: 1 / 0}

    loader, gate = Way(), Gate()
    leader = start_leader(loader, "k", gate)
    waiters = start_waiters(loader, "k", 3)
    gate.opened.set()
    assert {type(one.wait().error) for one in [leader, *waiters]} == {ZeroDivisionError}


def test_an_error_in_the_weigher_reaches_the_waiters(way):
    loader = way(Cache(max_weight=10, weigher=lambda key, value: 1 / 0))
    gate = Gate()
    leader = start_leader(loader, "k", gate)
    waiters = start_waiters(loader, "k", 3)
    gate.opened.set()
    assert {type(one.wait().error) for one in [leader, *waiters]} == {ZeroDivisionError}
    assert len(loader.cache) == 0


# --- what happens to the key during the load wins ---------------------------------------------------------------------

WRITES = {
    "set": lambda cache, key: cache.set(key, "written"),
    "set with a ttl": lambda cache, key: cache.set(key, "written", ttl=60),
    "item": lambda cache, key: cache.__setitem__(key, "written"),
    "update": lambda cache, key: cache.update({key: "written"}),
    "set_many": lambda cache, key: cache.set_many({key: "written"}),
    "setdefault": lambda cache, key: cache.setdefault(key, "written"),
    "compute": lambda cache, key: cache.compute(key, lambda old: "written"),
    "another load": lambda cache, key: (cache.delete(key), cache.get_or_set(key, lambda: "written")),
}
REMOVALS = {
    "delete": lambda cache, key: cache.delete(key),
    "delete twice": lambda cache, key: (cache.delete(key), cache.delete(key)),
    "pop": lambda cache, key: cache.pop(key, None),
    "delete_many": lambda cache, key: cache.delete_many([key]),
    "clear": lambda cache, key: cache.clear(),
    "set and delete": lambda cache, key: (cache.set(key, 1), cache.delete(key)),
    "set and clear": lambda cache, key: (cache.set(key, 1), cache.clear()),
    "set and popitem": lambda cache, key: (cache.set(key, 1), cache.popitem()),
    "compute": lambda cache, key: (cache.set(key, 1), cache.compute(key, lambda old: MISSING)),
}
WHERE = pytest.mark.parametrize("inside", [False, True], ids=["by another thread", "inside the factory"])


@WHERE
def test_a_write_during_the_load_wins(way, inside):
    for name, write in WRITES.items():
        loader = way()
        cache, key = loader.cache, loader.key("k")
        if inside:
            assert loader.load("k", lambda: (write(cache, key) and None) or "loaded") == "loaded", name
        else:
            gate = Gate()
            leader = start_leader(loader, "k", gate)
            waiters = start_waiters(loader, "k", 2)
            write(cache, key)
            assert loader.load("k", never) == "written", name
            gate.opened.set()
            assert [one.result() for one in [leader, *waiters]] == ["loaded"] * 3, name
        assert loader.load("k", never) == "written", name
        assert cache.stats.sets == 1, name


@WHERE
def test_a_removal_during_the_load_wins(way, inside):
    for name, remove in REMOVALS.items():
        loader = way()
        cache, key = loader.cache, loader.key("k")
        if inside:
            assert loader.load("k", lambda: (remove(cache, key) and None) or "loaded") == "loaded", name
        else:
            gate = Gate()
            leader = start_leader(loader, "k", gate)
            waiters = start_waiters(loader, "k", 2)
            remove(cache, key)
            gate.opened.set()
            assert [one.result() for one in [leader, *waiters]] == ["loaded"] * 3, name
        assert key not in cache and len(cache) == 0, name
        assert loader.load("k", lambda: "later") == "later", name


def test_invalidate_and_cache_clear_during_the_load_win(way):
    if way is GetOrSet:
        pytest.skip("these belong to functions")
    for forget in (lambda loader: loader.forget("k"), lambda loader: loader.f.cache_clear()):
        loader, gate = way(), Gate()
        leader = start_leader(loader, "k", gate)
        waiters = start_waiters(loader, "k", 2)
        forget(loader)
        gate.opened.set()
        assert [one.result() for one in [leader, *waiters]] == ["loaded"] * 3
        assert len(loader.cache) == 0


def test_clearing_one_function_lets_the_loads_of_others_be_stored():
    cache = Cache()
    cleared, other = ByFunction(cache), ByFunction(cache)
    gates = [Gate("first"), Gate("second")]
    leaders = [start_leader(one, "k", gate) for one, gate in zip([cleared, other], gates, strict=True)]
    cleared.f.cache_clear()
    for gate in gates:
        gate.opened.set()
    assert [leader.result() for leader in leaders] == ["first", "second"]
    assert dict(cache.items()) == {other.key("k"): "second"}


@pytest.mark.parametrize("asked", ["condition", "ttl"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("single_flight", [False, True])
def test_clearing_while_condition_or_ttl_is_asked_wins(asked, shared, single_flight):
    f = cached(
        Cache() if shared else None,
        single_flight=single_flight,
        **{asked: lambda result: f.cache_clear() or (True and 10)},
    )(lambda: "loaded")
    assert f() == "loaded"
    assert len(f.cache) == 0


def test_who_comes_after_a_removal_does_not_join_the_old_flight(loader):
    gate, later = Gate("old"), Gate("new")
    leader = start_leader(loader, "k", gate)
    early = start_waiters(loader, "k", 1)
    loader.forget("k")
    second = start_leader(loader, "k", later)
    late = start_waiters(loader, "k", 1)
    gate.opened.set()
    assert [one.result() for one in [leader, *early]] == ["old"] * 2
    assert loader.key("k") not in loader.cache
    later.opened.set()
    assert [one.result() for one in [second, *late]] == ["new"] * 2
    assert loader.load("k", never) == "new"


def test_the_old_flight_may_end_after_the_new_one(loader):
    gate, later = Gate("old"), Gate("new")
    leader = start_leader(loader, "k", gate)
    loader.forget("k")
    second = start_leader(loader, "k", later)
    later.opened.set()
    assert second.result() == "new"
    gate.opened.set()
    assert leader.result() == "old"
    assert loader.load("k", never) == "new"


def test_who_comes_after_clear_does_not_join_the_old_flight(loader):
    gate, later = Gate("old"), Gate("new")
    leader = start_leader(loader, "k", gate)
    loader.cache.clear()
    second = start_leader(loader, "k", later)
    gate.opened.set(), later.opened.set()
    assert (leader.result(), second.result()) == ("old", "new")
    assert loader.load("k", never) == "new"


def test_what_happens_to_other_keys_does_not_matter(loader):
    gate = Gate()
    leader = start_leader(loader, "k", gate)
    cache = loader.cache
    for k in range(100):
        cache[k] = k
    cache.delete(1), cache.pop(2), cache.popitem(), cache.touch(loader.key("k")), cache.get(loader.key("k"))
    cache.resize(5), cache.purge_expired(), cache.peek(loader.key("k"))
    gate.opened.set()
    assert leader.result() == "loaded"
    assert loader.load("k", never) == "loaded"


def test_a_written_value_that_is_evicted_during_the_load_still_counts(way):
    loader = way(Cache(max_size=2))
    gate = Gate()
    leader = start_leader(loader, "k", gate)
    loader.cache.set(loader.key("k"), "written")
    loader.cache["a"], loader.cache["b"] = 1, 2
    gate.opened.set()
    assert leader.result() == "loaded"
    assert set(loader.cache) == {"a", "b"}


def test_a_written_value_that_expires_during_the_load_still_counts(way, clock):
    loader = way(Cache(clock=clock))
    gate = Gate()
    leader = start_leader(loader, "k", gate)
    loader.cache.set(loader.key("k"), "written", ttl=1)
    clock.now += 1
    gate.opened.set()
    assert leader.result() == "loaded"
    assert len(loader.cache) == 0


# --- coming back to the same key --------------------------------------------------------------------------------------


@must_end
def test_recursion_into_the_same_key_runs_again(loader):
    runs = []

    def factory():
        runs.append(1)
        return loader.load("k", factory) + 1 if len(runs) < 5 else 0

    assert loader.load("k", factory) == 4
    assert len(runs) == 5
    assert loader.cache.stats.misses == 5
    assert loader.load("k", never) == 0             # the innermost wrote first, and a write during a load wins


@must_end
def test_recursion_through_another_key(loader):
    runs = []

    def factory():
        runs.append(1)
        return loader.load("other", lambda: loader.load("k", factory) + 1) + 1 if len(runs) == 1 else 0

    assert loader.load("k", factory) == 2
    assert len(runs) == 2


@must_end
def test_a_failed_recursion_leaves_the_load_as_it_was(loader):
    def factory():
        with pytest.raises(ZeroDivisionError):
            loader.load("k", lambda: 1 / 0)
        return "loaded"

    assert loader.load("k", factory) == "loaded"
    assert loader.load("k", never) == "loaded"


def test_recursion_while_others_wait(loader):
    entered, opened = threading.Event(), threading.Event()

    def factory():
        entered.set()
        wait_for(opened)
        return loader.load("k", lambda: "inner")

    leader = Started(loader.load, "k", factory)
    wait_for(entered)
    waiters = start_waiters(loader, "k", 3)
    opened.set()
    assert [one.result() for one in [leader, *waiters]] == ["inner"] * 4


def test_a_removal_during_the_inner_load_wins(loader):
    def inner():
        loader.forget("k")
        return "inner"

    assert loader.load("k", lambda: loader.load("k", inner)) == "inner"
    assert len(loader.cache) == 0


# --- circles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_circle_of_threads_ends(loader, n):
    """Thread k leads key k and then wants key k + 1: the last of them to ask must not wait."""
    barrier = threading.Barrier(n)
    runs = [0] * n

    def factory(k, first):
        def run():
            runs[k] += 1
            if not first:
                return f"alone {k}"
            barrier.wait(LIMIT)
            return loader.load((k + 1) % n, factory((k + 1) % n, False))

        return run

    results = run_all(*[lambda k=k: loader.load(k, factory(k, True)) for k in range(n)])
    assert all(result.startswith("alone") for result in results)
    assert n < sum(runs) <= 2 * n


def test_a_circle_through_several_caches():
    loaders = [GetOrSet(), ByFunction(), BySharing(), ByMethod()]
    barrier = threading.Barrier(4)

    def factory(k):
        barrier.wait(LIMIT)
        return loaders[(k + 1) % 4].load("k", lambda: "alone")

    results = run_all(*[lambda k=k: loaders[k].load("k", lambda: factory(k)) for k in range(4)])
    assert set(results) == {"alone"}


def test_random_circles_end(loader):
    """Loads that load others that load others, at random, in several threads."""

    def factory(key, depth, chance):
        def run():
            if depth:
                for _ in range(2):
                    other = chance.randrange(6)
                    assert loader.load(other, factory(other, depth - 1, chance))[0] == other
            if chance.random() < 0.2:
                loader.forget(key)
            return (key, chance.random())

        return run

    def use(seed):
        chance = random.Random(seed)
        for _ in range(200):
            key = chance.randrange(6)
            assert loader.load(key, factory(key, 2, chance))[0] == key
            if chance.random() < 0.1:
                loader.cache.clear()

    run_all(*[lambda seed=seed: use(seed) for seed in range(4)])
    loader.cache._check()


# --- leaders that end otherwise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_an_interrupted_leader_hands_over(loader, error):
    interrupted, again = Gate(error()), Gate("second")
    leader = start_leader(loader, "k", interrupted)
    waiters = start_waiters(loader, "k", 4, again)
    interrupted.opened.set()
    wait_for(again.entered)
    again.opened.set()
    assert type(leader.wait().error) is error
    assert [one.result() for one in waiters] == ["second"] * 4
    assert (interrupted.runs, again.runs) == (1, 1)
    assert loader.cache.stats.misses == 5 and loader.cache.stats.hits == 0
    assert loader.load("k", never) == "second"


def test_leaders_may_be_interrupted_one_after_the_other(loader):
    gates = [Gate(KeyboardInterrupt()) for _ in range(4)]
    left = list(gates)
    started = [start_leader(loader, "k", left.pop())]
    started += start_waiters(loader, "k", 3, lambda: left.pop()())
    for gate in reversed(gates):
        wait_for(gate.entered)
        gate.opened.set()
    assert [type(one.wait().error) for one in started] == [KeyboardInterrupt] * 4
    assert loader.load("k", lambda: "at last") == "at last"


def test_an_exception_that_hides_its_attributes_ends_the_load(loader):
    class Hiding(BaseException):
        def __getattribute__(self, name):
            loader.cache.get("anything")        # needs the cache's lock
            return super().__getattribute__(name)

    gate = Gate(Hiding())
    leader = start_leader(loader, "k", gate)
    waiters = start_waiters(loader, "k", 2, lambda: "second")
    gate.opened.set()
    assert type(leader.wait().error) is Hiding
    assert [one.result() for one in waiters] == ["second"] * 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_callback_of_the_landing_does_not_concern_the_waiters(way, error):
    def on_evict(key, value):
        if key == "victim":
            raise error

    loader, gate = way(Cache(max_size=1, on_evict=on_evict)), Gate()
    loader.cache["victim"] = 1
    leader = start_leader(loader, "k", gate)
    waiters = start_waiters(loader, "k", 2)
    gate.opened.set()
    assert type(leader.wait().error) is error
    assert [one.result() for one in waiters] == ["loaded"] * 2
    loader.cache._check()


def test_a_callback_of_the_landing_may_load(way):
    loaded = []
    loader = way(
        Cache(max_size=1, on_evict=lambda key, value: loaded.append(cache.get_or_set("from callback", lambda: 1)))
    )
    cache = loader.cache
    cache["victim"] = 1

    @must_end
    def run():
        return loader.load("k", lambda: "loaded")

    assert run() == "loaded"
    assert loaded and set(loaded) == {1}


# A signal is noticed once its thread waits; these tests send it again until it was.


@needs_signals
def test_waiting_can_be_interrupted_by_a_signal():
    """Ctrl-C in the main thread ends its wait; the load goes on."""
    said = in_process("""
        import signal, threading
        from cachebox import Cache
        cache, entered, opened, caught = Cache(), threading.Event(), threading.Event(), threading.Event()
        def factory():
            entered.set()
            opened.wait(60)
            return "loaded"
        leader = threading.Thread(target=lambda: cache.get_or_set("k", factory), daemon=True)
        leader.start()
        entered.wait(60)
        def handler(*_):
            if not caught.is_set():
                caught.set()
                raise KeyboardInterrupt
        signal.signal(signal.SIGINT, handler)
        def interrupt():
            while not caught.wait(0.01):
                if cache.stats.misses == 2:
                    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            cache.get_or_set("k", factory)
        except KeyboardInterrupt:
            print("interrupted")
        opened.set()
        leader.join(60)
        print(cache.get_or_set("k", factory))
    """)
    assert said == ["interrupted", "loaded"]


@needs_signals
def test_a_signal_handler_may_load_while_its_thread_waits():
    said = in_process("""
        import signal, threading
        from cachebox import Cache
        cache, gates, handled = Cache(), {name: threading.Event() for name in "ab"}, threading.Event()
        entered = threading.Semaphore(0)
        def load(name):
            def factory():
                entered.release()
                gates[name].wait(60)
                return name
            return cache.get_or_set(name, factory)
        for name in "ab":
            threading.Thread(target=load, args=name, daemon=True).start()
            entered.acquire(timeout=60)
        def handler(*_):
            if not handled.is_set():
                handled.set()
                misses = cache.stats.misses
                def open_b():
                    while cache.stats.misses == misses:
                        pass
                    gates["b"].set()
                threading.Thread(target=open_b, daemon=True).start()
                print(cache.get_or_set("b", None.__class__))
                gates["a"].set()
        signal.signal(signal.SIGUSR1, handler)
        def interrupt():
            while not handled.wait(0.01):
                if cache.stats.misses == 3:
                    signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        threading.Thread(target=interrupt, daemon=True).start()
        print(cache.get_or_set("a", None.__class__))
    """)
    assert said == ["b", "a"]


# --- fork -------------------------------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.parametrize("load", ["cache.get_or_set('k', factory)", "f('k')"])
def test_a_factory_may_fork(load):
    said = in_process(f"""
        import os
        from cachebox import Cache, cached
        cache, calls = Cache(), []
        def factory(key=None):
            calls.append(os.fork())
            return "loaded by the parent" if calls[0] else "loaded by the child"
        f = cached(cache, key_func=lambda key: key)(factory)
        said = [{load}, cache.stats.misses, cache.stats.sets, len(cache), cache.stats.hits, {load}, len(calls)]
        cache._check()
        os.write(1, (repr(said) + chr(10)).encode())
        if not calls[0]:
            os._exit(0)
        assert os.waitpid(calls[0], 0)[1] == 0
    """)
    assert sorted(said) == [
        repr([f"loaded by the {who}", 1, 1, 1, 0, f"loaded by the {who}", 1]) for who in ("child", "parent")
    ]


@needs_fork
def test_a_load_led_by_another_thread_is_void_in_the_child():
    said = in_process("""
        import os, threading
        from cachebox import Cache
        cache, entered, opened = Cache(), threading.Event(), threading.Event()
        def slow():
            entered.set()
            opened.wait(60)
            return "slow"
        leader = threading.Thread(target=lambda: print(cache.get_or_set("k", slow), flush=True), daemon=True)
        leader.start()
        entered.wait(60)
        waiter = threading.Thread(target=cache.get_or_set, args=("k", slow), daemon=True)
        waiter.start()
        while cache.stats.misses < 2:
            pass
        child = os.fork()
        if not child:
            threads = [threading.Thread(target=cache.get_or_set, args=("k", lambda: "in the child")) for _ in range(5)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            print(cache.get_or_set("k", slow), flush=True)
            cache._check()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        opened.set()
        leader.join(), waiter.join()
        print(cache.get_or_set("k", slow))
    """)
    assert said == ["in the child", "slow", "slow"]


# --- without single flight --------------------------------------------------------------------------------------------


class Alone(ByFunction):
    options = {"single_flight": False}


class AloneSharing(BySharing):
    options = {"single_flight": False}


ALONE = pytest.mark.parametrize("alone", [Alone, AloneSharing], ids=lambda way: way.__name__)


@ALONE
def test_without_single_flight_each_caller_runs_the_function(alone):
    loader, barrier = alone(), threading.Barrier(4)

    def factory():
        barrier.wait(LIMIT)                     # which all four must reach
        return object()

    results = run_all(*[lambda: loader.load("k", factory)] * 4)
    assert len(set(results)) == 4
    assert loader.cache.stats.misses == 4
    assert loader.load("k", never) in results
    assert loader.f.cache_info()[:2] == (1, 4)


@ALONE
def test_without_single_flight_nobody_gets_anothers_exception(alone):
    loader, gate = alone(), Gate(ValueError())
    leader = start_leader(loader, "k", gate)
    assert loader.load("k", lambda: "mine") == "mine"
    gate.opened.set()
    assert type(leader.wait().error) is ValueError
    assert loader.load("k", never) == "mine"


@ALONE
def test_without_single_flight_a_change_during_the_load_wins_too(alone):
    for name, change in [*WRITES.items(), *REMOVALS.items()]:
        loader = alone()
        assert loader.load("k", lambda: (change(loader.cache, loader.key("k")) and None) or "loaded") == "loaded", name
        expected = "written" if name in WRITES and change is WRITES[name] else "later"
        assert loader.load("k", lambda: "later") == expected, name


# --- what is kept alive -----------------------------------------------------------------------------------------------


class Thing:
    """An object that can be weakly referenced."""


@pytest.mark.parametrize("fails", [False, True])
def test_a_load_keeps_nothing_alive(loader, fails):
    class Failure(Exception):
        pass

    result = Failure() if fails else Thing()
    gone = weakref.ref(result)
    gate = Gate(result)
    started = [start_leader(loader, "k", gate)]
    started += start_waiters(loader, "k", 3)
    gate.opened.set()
    for one in started:
        one.wait()
    loader.forget("k")
    del one, started, gate, result
    wait_until(lambda: gc.collect() is not None and gone() is None, "the result to die")


def test_a_cache_may_be_dropped_during_the_load():
    caches = [Cache()]
    gone = weakref.ref(caches[0])

    def factory():
        caches.clear()
        gc.collect()
        return "loaded"

    assert caches[0].get_or_set("k", factory) == "loaded"
    gc.collect()
    assert gone() is None


def test_a_cycle_through_a_factory_is_collected():
    cache = Cache()
    gone = weakref.ref(cache)
    cache.get_or_set("k", lambda: lambda: cache)     # noqa: F821  # deleted only later
    del cache
    gc.collect()
    assert gone() is None


def test_what_a_key_runs_while_it_is_joined(loader):
    """A key whose comparison loads too, or lets others run."""

    class Busy:
        busy = False

        def __init__(self, number):
            self.number = number

        def __hash__(self):
            return 1

        def __eq__(self, other):
            if not Busy.busy:
                Busy.busy = True
                try:
                    loader.load("within", lambda: 1)
                    loader.load(Busy(5), lambda: 5)
                finally:
                    Busy.busy = False
            return isinstance(other, Busy) and self.number == other.number

    @must_end
    def run():
        gates = [Gate(k) for k in range(4)]
        leaders = [start_leader(loader, Busy(k), gates[k]) for k in range(4)]
        waiters = [Started(loader.load, Busy(k), lambda k=k: k) for k in range(4)]
        for gate in gates:
            gate.opened.set()
        assert [one.result() for one in [*leaders, *waiters]] == [0, 1, 2, 3] * 2
        assert [loader.load(Busy(k), never) for k in range(4)] == [0, 1, 2, 3]

    run()
