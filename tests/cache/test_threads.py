"""Eight threads use everything at once: no count is lost, every reader sees the bound hold, all structures stay whole.

Without the GIL the threads really run at the same time; with it they switch every few microseconds here.
"""

from __future__ import annotations

import collections
import pickle
import random
import threading

import pytest

from cachebox import MISSING, Cache, cached, lru_cache
from in_threads import run_all, wait_until

THREADS = 8
STEPS = 400


pytestmark = pytest.mark.usefixtures("switch_often")


class Slow:
    """A key that only Python code can compare."""

    def __init__(self, name):
        self.name = name

    def __hash__(self):
        return self.name % 4

    def __eq__(self, other):
        return isinstance(other, Slow) and self.name == other.name


KINDS = {
    "plain": {"max_size": 30},
    "unbound": {"max_size": None},
    "expiring": {"max_size": 30, "default_ttl": 0.003},
    "idling": {"max_size": 30, "time_to_idle": 0.003},
    "weighed": {"max_size": 30, "max_weight": 40, "weigher": lambda key, value: 1 + value % 3},
}


def a_key(draw):
    number = draw.randrange(50)
    return draw.choice([number, f"key {number}", Slow(number % 12), (number % 5, "x")])


def work(cache, seed, steps=STEPS):
    """Use every method that counts something. Returns the counts of this thread's results."""
    draw = random.Random(seed)
    seen = collections.Counter()

    def look(found):
        seen["hits" if found else "misses"] += 1

    for _ in range(steps):
        key, value = a_key(draw), draw.randrange(100)
        step = draw.randrange(16)
        if step == 0:
            look(cache.get(key, MISSING) is not MISSING)
        elif step == 1:
            try:
                cache[key]
            except KeyError:
                look(False)
            else:
                look(True)
        elif step == 2:
            wanted = [key, "absent", 1]
            found = cache.get_many(wanted)
            for one in wanted:
                look(one in found)
        elif step == 3:
            cache.set(key, value)
            seen["sets"] += 1
        elif step == 4:
            cache.set(key, value, ttl=draw.choice([1e-9, 0.001, 60]))
            seen["sets"] += 1
        elif step == 5:
            cache[key] = value
            seen["sets"] += 1
        elif step == 6:
            cache.set_many({key: value, "many": 2})
            cache.update([(key, value)], several=3)
            seen["sets"] += 4
        elif step == 7:
            seen["deletes"] += cache.delete(key)
        elif step == 8:
            seen["deletes"] += cache.pop(key, MISSING) is not MISSING
        elif step == 9:
            seen["deletes"] += cache.delete_many([key, "many", "absent"])
        elif step == 10:
            try:
                cache.popitem()
                seen["deletes"] += 1
                del cache[key]
                seen["deletes"] += 1
            except KeyError:
                pass
        elif step == 11:
            cache.setdefault(key, value)
            seen["lookups"] += 1
        elif step == 12:
            cache.get_or_set(key, lambda value=value: value)
            seen["lookups"] += 1
        elif step == 13:
            cache.increment("counter")
            cache.compute(key, lambda old, value=value: value)
            seen["sets"] += 2
        elif step == 14:
            runs = []
            cache.compute(key, lambda old, runs=runs: runs.append(old) or MISSING)
            seen["deletes"] += runs[-1] is not MISSING
        else:
            key in cache, cache.peek(key), cache.touch(key), len(cache), cache.weight, list(cache.items())
    return seen


def observe(cache, is_bound, ended):
    """Look at the cache as often as possible until the others are done, and once more."""
    is_over = False
    while not is_over:
        is_over = ended.is_set()
        if is_bound:
            assert len(cache) <= 30
            assert len(list(cache)) <= 30
            assert cache.weight <= 40


def run_observed(cache, *bodies):
    ended = threading.Event()
    left = [len(bodies)]
    lock = threading.Lock()

    def until_the_last(body):
        try:
            return body()
        finally:
            with lock:
                left[0] -= 1
                if left[0] == 0:
                    ended.set()

    is_bound = cache.max_size is not None
    *results, _ = run_all(
        *[lambda body=body: until_the_last(body) for body in bodies], lambda: observe(cache, is_bound, ended)
    )
    return results


@pytest.mark.parametrize("kind", KINDS)
def test_no_count_is_lost(any_policy, kind):
    left = collections.Counter()
    lock = threading.Lock()

    def hear(key, value, cause):
        with lock:
            left[cause.name] += 1

    cache = Cache(policy=any_policy, on_removal=hear, **KINDS[kind])
    seen = collections.Counter()
    for one in run_observed(cache, *[lambda seed=seed: work(cache, seed) for seed in range(THREADS)]):
        seen.update(one)
    stats = cache.stats
    assert stats.hits + stats.misses == seen["hits"] + seen["misses"] + seen["lookups"]
    assert stats.hits >= seen["hits"] and stats.misses >= seen["misses"]
    assert stats.deletes == seen["deletes"] == left["EXPLICIT"]
    assert seen["sets"] <= stats.sets <= seen["sets"] + stats.misses
    cache._check()
    remaining = len(cache)
    # the sweeper counts first, and calls back a moment later
    wait_until(lambda: (stats.evictions, stats.expired) == (left["SIZE"], left["EXPIRED"]), "what the sweeper tells")
    assert stats.sets == remaining + sum(left.values())     # whatever was stored is there, or left for a reason


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_changes_the_whole_cache_at_once(any_policy, kind):
    cache = Cache(policy=any_policy, **KINDS[kind])

    def change(seed):
        draw = random.Random(seed)
        for _ in range(40):
            step = draw.randrange(7)
            if step == 0:
                cache.clear()
            elif step == 1 and cache.max_size is not None:
                cache.resize(draw.randrange(1, 31))
            elif step == 2:
                cache.purge_expired()
            elif step == 3:
                cache.copy()._check()
            elif step == 4:
                cache.stats.reset()
                cache.stats.snapshot(), cache.stats.report()
            elif step == 5:
                assert cache != {} or len(cache) >= 0
            else:
                work(cache, seed, 20)
        return True

    assert all(run_observed(cache, *[lambda seed=seed: change(seed) for seed in range(THREADS)]))
    cache._check()


def test_read_modify_write_loses_no_update(any_policy):
    cache = Cache(policy=any_policy)

    def body():
        for _ in range(300):
            cache.increment("a")
            cache.compute("b", lambda old: 1 if old is MISSING else old + 1)
            cache.compute(Slow(1), lambda old: 1 if old is MISSING else old + 1)

    run_all(*[body] * THREADS)
    assert dict(cache.items()) == {"a": 300 * THREADS, "b": 300 * THREADS, Slow(1): 300 * THREADS}
    assert cache.stats.sets == 3 * 300 * THREADS


USERS_CODE = {
    "__hash__": lambda cache, key: cache.get(key("__hash__")),
    "__eq__ in get": lambda cache, key: cache.get(key("__eq__")),
    "__eq__ in set": lambda cache, key: cache.set(key("__eq__"), 2),
    "__eq__ in delete": lambda cache, key: cache.delete(key("__eq__")),
    "__eq__ of a value": lambda cache, key: cache == {"there": key("__eq__")},
    "__del__": lambda cache, key: cache.set("there", key("__del__")) or cache.delete("there"),
    "weigher": lambda cache, key: cache.set("heavy", 2),
    "weigher in update": lambda cache, key: cache.update(heavy=2),
    "clock": lambda cache, key: cache.set("short", 2, ttl=5),
    "on_evict": lambda cache, key: cache.set("there", 2),
    "on_removal": lambda cache, key: cache.delete("there"),
    "factory": lambda cache, key: cache.get_or_set("made", cache.hook),
    "fn": lambda cache, key: cache.compute("made", lambda old: cache.hook()),
    "condition": lambda cache, key: cached(cache, condition=cache.hook)(abs)(1),
    "ttl": lambda cache, key: cached(cache, ttl=cache.hook)(abs)(1),
    "key_func": lambda cache, key: cached(cache, key_func=cache.hook)(abs)(1),
    "function": lambda cache, key: cached(cache)(cache.hook)(1),
}


@pytest.mark.parametrize("code", USERS_CODE)
def test_no_lock_is_held_while_user_code_runs(any_policy, code):
    """Another thread can use the cache, the same keys included, before the user's code returns."""
    done, asleep = [], [True]

    def use_it_all():
        cache["other"] = 1
        assert cache.get("other") == 1 and cache.peek("there") in (None, 1, 2) and len(cache) >= 1
        cache.update(a=1, b=2), cache.delete("other"), cache.increment("number"), cache.get_or_set("loaded", int)
        cache.compute("sum", lambda old: 1), list(cache.items()), cache.purge_expired(), cache.resize(50)
        cache.copy(), cache.popitem(), cache.weight, repr(cache), cache.stats.snapshot()
        return True

    class Cached(Cache):
        def hook(self, *arguments):
            if not asleep and not done:
                done.append("begun")
                done[:] = run_all(use_it_all)
            return 1

    class Key:
        def __init__(self, where):
            self.where = where

        def __hash__(self):
            self.where == "__hash__" and cache.hook()
            return hash("there")

        def __eq__(self, other):
            self.where == "__eq__" and cache.hook()
            return other in ("there", 1)

        def __del__(self):
            self.where == "__del__" and cache.hook()

    options = {code: lambda *arguments: cache.hook()} if code in ("on_evict", "on_removal", "clock") else {}
    if "weigher" in code:
        options = {"max_weight": 100, "weigher": lambda key, value: cache.hook()}
    cache = Cached(20, policy=any_policy, **options)
    cache["there"] = 1
    asleep.clear()
    USERS_CODE[code](cache, Key)
    asleep.append(True)
    assert done == [True]


def test_setdefault_agrees_on_one_value(any_policy):
    cache = Cache(None, policy=any_policy)
    results = run_all(*[lambda: [cache.setdefault(n, object()) for n in range(300)] for _ in range(THREADS)])
    assert all(result == results[0] for result in results)
    assert (cache.stats.misses, cache.stats.hits, cache.stats.sets) == (300, 300 * (THREADS - 1), 300)


def test_a_factory_runs_once_for_each_key_and_each_caller_counts_once(any_policy):
    cache = Cache(None, policy=any_policy)
    made = []
    results = run_all(
        *[
            lambda: [cache.get_or_set(n, lambda n=n: made.append(n) or [n]) for n in range(300)]
            for _ in range(THREADS)
        ]
    )
    assert all(one is first for result in results for one, first in zip(result, results[0], strict=True))
    assert sorted(made) == list(range(300))
    assert cache.stats.hits + cache.stats.misses == 300 * THREADS
    assert cache.stats.sets == 300


@pytest.mark.parametrize(
    "decorate",
    [cached(max_size=20), cached(Cache(20, policy="LFU")), cached(max_size=20, typed=True, ttl=0.002), lru_cache(20)],
    ids=["own cache", "shared cache", "typed, expiring", "lru_cache"],
)
def test_calls_of_a_function_add_up(decorate):
    @decorate
    def function(*args, **kwargs):
        return (args, tuple(kwargs.items()))

    def body(seed):
        draw = random.Random(seed)
        for _ in range(500):
            x = draw.choice([draw.randrange(30), str(draw.randrange(30)), Slow(draw.randrange(9))])
            assert function(x) == ((x,), ())
            assert function(1, x) == ((1, x), ())
            assert function(y=x) == ((), (("y", x),))
            if hasattr(function, "invalidate"):
                function.invalidate(x)
        return True

    run_all(*[lambda seed=seed: body(seed) for seed in range(THREADS)])
    info = function.cache_info()
    assert info.hits + info.misses == 3 * 500 * THREADS
    assert info.currsize <= 20
    function.cache._check()


def test_instances_come_and_go_in_all_threads():
    class Owner:
        def __init__(self, name):
            self.name = name

        @cached(max_size=50)
        def method(self, x):
            return self.name, x

    def body(seed):
        for n in range(300):
            owner = Owner((seed, n))
            for x in (1, "a", n):
                assert owner.method(x) == ((seed, n), x)
            assert owner.method.invalidate(1) in (True, False)

    run_all(*[lambda seed=seed: body(seed) for seed in range(THREADS)])
    Owner.method.cache._check()
    assert len(Owner.method.cache) == 0


def test_pickling_while_others_write(any_policy):
    cache = Cache(20, policy=any_policy)
    ended = threading.Event()

    def write(seed):
        while not ended.is_set():
            work(cache, seed, 20)

    def copy_it():
        try:
            for _ in range(40):
                copied = pickle.loads(pickle.dumps(cache))
                assert len(copied) <= 20
                copied._check()
        finally:
            ended.set()

    run_all(copy_it, *[lambda seed=seed: write(seed) for seed in range(3)])
    cache._check()
