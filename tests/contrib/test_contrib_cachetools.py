"""The drop-in module for cachetools. If cachetools is installed, both do the same in random programs."""

from __future__ import annotations

import copy
import importlib
import math
import pickle
import random
import threading
from importlib.util import find_spec

import pytest

from cachebox.contrib import cachetools
from cachebox.contrib.cachetools import (
    Cache,
    FIFOCache,
    LFUCache,
    LRUCache,
    RRCache,
    TLRUCache,
    TTLCache,
    cached,
    cachedmethod,
    func,
    keys,
)


class Clock:
    """A timer that tests set."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def kinds(module, timer):
    """A function that makes a cache, for each kind."""
    def first(keys):
        return keys[0]

    def end(key, value, now):
        return now + value % 7

    return {
        "Cache": lambda **options: module.Cache(4, **options),
        "LRUCache": lambda **options: module.LRUCache(4, **options),
        "LFUCache": lambda **options: module.LFUCache(4, **options),
        "FIFOCache": lambda **options: module.FIFOCache(4, **options),
        "RRCache": lambda **options: module.RRCache(4, first, **options),
        "TTLCache": lambda **options: module.TTLCache(4, 5, timer, **options),
        "TLRUCache": lambda **options: module.TLRUCache(4, end, timer, **options),
    }


KINDS = list(kinds(cachetools, None))


@pytest.fixture(params=KINDS)
def make(request):
    return kinds(cachetools, Clock())[request.param]


def outcome(cache, name, *args):
    """The result of a call, or the class of its exception."""
    try:
        return getattr(cache, name)(*args)
    except (KeyError, ValueError) as error:
        return type(error)


def program(seed: int):
    """Random calls: methods and their arguments, and steps of the clock."""
    chance = random.Random(seed)
    for _ in range(120):
        key, value = chance.randrange(8), chance.randrange(7)
        yield chance.choice([
            ("__setitem__", key, value), ("__setitem__", key, value), ("__getitem__", key), ("get", key, "none"),
            ("pop", key, "none"), ("pop", key), ("setdefault", key, value), ("__delitem__", key), ("popitem",),
            ("__contains__", key), ("tick", 1), ("tick", 3),
        ] + [("clear",)] * (chance.random() < 0.05))


def run(module, kind: str, seed: int, sized: bool) -> list:
    clock = Clock()
    cache = kinds(module, clock)[kind](**{"getsizeof": lambda value: value} if sized else {})
    seen = []
    for name, *args in program(seed):
        if name == "tick":
            clock.now += args[0]
            if hasattr(cache, "expire"):
                seen.append(sorted(cache.expire()))
        else:
            seen.append((name, args, outcome(cache, name, *args)))
        pairs = [(key, cache.get(key)) for key in cache]
        seen.append((list(cache), len(cache), cache.currsize, list(cache.items()) == pairs))
        if seed % 2:
            cache = copy.copy(cache)
    return seen


@pytest.mark.skipif(find_spec("cachetools") is None, reason="cachetools is not installed: it is in the extra `bench`")
@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_it_does_what_cachetools_does(kind, sized):
    original = importlib.import_module("cachetools")
    for seed in range(12):
        assert run(cachetools, kind, seed, sized) == run(original, kind, seed, sized), seed


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_holds_and_sizes_add_up(kind, sized):
    for step in run(cachetools, kind, 1, sized):
        if isinstance(step, tuple) and len(step) == 4:
            held, length, currsize, agrees = step
            assert len(held) == length and currsize <= 4 and agrees
            assert sized or currsize == length


@pytest.mark.parametrize("kind, gone", [("LRUCache", 2), ("LFUCache", 3), ("FIFOCache", 2), ("RRCache", 1)])
def test_which_entry_leaves(kind, gone):
    cache = kinds(cachetools, None)[kind]()
    cache.update({1: 1, 2: 2, 3: 3, 4: 4})
    cache[1], cache[2], cache[2], cache[4], cache[4]    # uses: 1 once, 3 never
    cache[1] = 1                                        # FIFO counts that as storing it again
    if kind == "LRUCache":
        cache[3], cache[4]
    cache[5] = 5
    assert set(range(1, 6)) - set(cache) == {gone}


def test_none_is_a_key_like_others(make):
    cache = make()
    cache[None] = 1
    assert (cache[None], cache.popitem(), len(cache)) == (1, (None, 1), 0)


def test_errors(make):
    cache = make()
    for name in "__getitem__", "__delitem__", "pop":
        assert outcome(cache, name, "x") is KeyError
    assert outcome(cache, "popitem") is KeyError
    sized = make(getsizeof=lambda value: value)
    sized["a"] = 2
    for value, error in (5, "value too large"), (-1, "0 or more, not -1"):
        with pytest.raises(ValueError, match=error):
            sized["a"] = value
    assert (sized["a"], sized.currsize) == (2, 2)
    with pytest.raises(ValueError, match="maxsize must be 0 or more, not -1"):
        Cache(-1)
    with pytest.raises(TypeError):
        cache[[]] = 1


@pytest.mark.parametrize("kind", [Cache, LRUCache, LFUCache, FIFOCache, RRCache])
def test_missing_is_for_square_brackets_only(kind):
    class Squares(kind):
        def __missing__(self, key):
            if key < 10:
                self[key] = key * key
            return key * key

    cache = Squares(2)
    assert (cache[3], cache[20], cache.get(4), cache.pop(4, None), list(cache)) == (9, 400, None, None, [3])


def test_what_leaves_goes_through_overridden_methods():
    class Watched(LRUCache):
        def popitem(self):
            popped.append(super().popitem())
            return popped[-1]

        def __delitem__(self, key):
            if key == "kept" and len(popped) == 0:
                raise RuntimeError("not now")
            super().__delitem__(key)

    popped = []
    cache = Watched(2)
    cache.update(kept=1, other=2)
    with pytest.raises(RuntimeError, match="not now"):
        cache["third"] = 3
    assert sorted(cache) == ["kept", "other"]           # all of them have a place in the order, too
    cache["third"] = 3
    cache["fourth"] = 4
    assert popped == [("other", 2), ("kept", 1)]


def test_copies_and_pickles_keep_the_order_and_are_apart(make):
    cache = make()
    if cache.__class__ is RRCache:
        cache = RRCache(4)                  # with a function that can be pickled
    elif isinstance(cache, TTLCache):
        cache = TTLCache(4, math.inf)
    elif isinstance(cache, TLRUCache):
        cache = TLRUCache(4, tomorrow)
    cache.update({1: 1, 2: 2, 3: 3, 4: 4})
    cache[1], cache[3]
    for other in copy.copy(cache), copy.deepcopy(cache), pickle.loads(pickle.dumps(cache)):
        assert (other == cache, type(other), other.currsize) == (True, type(cache), 4)
        other[5] = 5
        assert (5 in other, 5 in cache, len(other), len(cache)) == (True, False, 4, 4)
        if not isinstance(cache, RRCache):
            twin = copy.copy(cache)
            twin[5] = 5
            assert set(twin) == set(other)


def tomorrow(key, value, now):
    return now + 86400


def test_the_heap_of_ends_does_not_grow_with_overwrites():
    cache = TTLCache(2, 1000, timer=Clock())
    for _ in range(500):
        cache["a"] = 1
    assert len(vars(cache)["_TimedCache__heap"]) < 30


def test_expired_entries():
    clock = Clock()
    cache = TTLCache(3, ttl=5, timer=clock)
    cache["a"] = 1
    clock.now = 3
    cache["b"] = 2
    clock.now = 5
    assert ("a" in cache, cache.get("a"), list(cache), len(cache), cache.ttl) == (False, None, ["b"], 1, 5)
    clock.now = 8
    assert (cache.expire(), cache.expire(), cache.currsize) == ([("b", 2)], [], 0)
    cache["c"] = 3
    clock.now = 13
    with pytest.raises(KeyError):
        del cache["c"]
    with cache.timer as now:
        clock.now = 99
        assert cache.timer() == now == 13
    assert cache.timer() == 99 and cache.timer.now == 99


def test_an_entry_that_has_ended_at_once_is_not_stored():
    cache = TLRUCache(3, lambda key, value, now: now + value, timer=Clock())
    cache["a"] = 1
    cache["a"] = 0
    cache["b"] = -1
    assert (list(cache), cache.currsize) == ([], 0)


def test_keys():
    assert keys.hashkey(1, a=2, b=3) == keys.hashkey(1.0, b=3, a=2) != keys.hashkey(1, ("a", 2), ("b", 3))
    assert keys.typedkey(1, a=2) != keys.typedkey(1.0, a=2) != keys.typedkey(1.0, a=2.0)
    assert keys.methodkey(object(), 1, a=2) == keys.hashkey(1, a=2)
    assert keys.typedmethodkey(object(), 1, a=2) == keys.typedkey(1, a=2)
    key = keys.typedkey(1, a=2)
    assert pickle.loads(pickle.dumps(key)) == key and hash(key)


GUARDS = {
    "nothing": lambda: {}, "lock": lambda: {"lock": threading.Lock()},
    "condition": lambda: {"condition": threading.Condition()},
    "both": lambda: {"lock": (lock := threading.RLock()), "condition": threading.Condition(lock)},
}


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("cache", [{}, LRUCache(2)], ids=["dict", "LRUCache"])
def test_cached(cache, guard):
    cache.clear()
    calls = []

    @cached(cache, info=True, **GUARDS[guard]())
    def double(x, *, fails=False):
        """Twice."""
        calls.append(x)
        if fails:
            raise OSError("fails")
        return 2 * x

    assert [double(1), double(1), double(2)] == [2, 2, 4] and calls == [1, 2]
    for _ in range(2):
        with pytest.raises(OSError, match="fails"):
            double(3, fails=True)
    bound = None if type(cache) is dict else 2
    assert double.cache_info() == (1, 4, bound, 2) and double.cache is cache
    assert (double.__doc__, double.__wrapped__(5), double.cache_key(1)) == ("Twice.", 10, (1,))
    double.cache_clear()
    assert double.cache_info() == (0, 0, bound, 0)
    assert not hasattr(cached({})(len), "cache_info")


@pytest.mark.parametrize("guard", GUARDS)
def test_a_value_that_is_too_large_is_returned(guard):
    assert cached(LRUCache(0), **GUARDS[guard]())(lambda x: x)(7) == 7


def test_a_condition_lets_one_thread_compute():
    started, go_on, calls = threading.Event(), threading.Event(), []

    @cached({}, condition=threading.Condition())
    def slow(x):
        calls.append(x)
        started.set()
        assert go_on.wait(60)
        return x

    results = []
    threads = [threading.Thread(target=lambda: results.append(slow(1))) for _ in range(4)]
    threads[0].start()
    assert started.wait(60)
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert (calls, results) == ([1], [1] * 4)


class Doubles:
    """A class with cached methods, one of which a subclass overrides."""

    def __init__(self) -> None:
        self.cache = LRUCache(4)
        self.calls = 0

    @cachedmethod(lambda self: self.cache, info=True)
    def get(self, x):
        """Twice."""
        self.calls += 1
        return 2 * x


class Quadruples(Doubles):
    def __init__(self) -> None:
        super().__init__()
        self.other_cache = LRUCache(4)

    @cachedmethod(lambda self: self.other_cache, info=True)
    def get(self, x):
        return 2 * super().get(x)


def test_cachedmethod_caches_and_counts_for_each_object():
    one, other = Doubles(), Doubles()
    assert [one.get(1), one.get(1), Doubles.get(one, 1), Doubles.get(self=other, x=1)] == [2, 2, 2, 2]
    assert (one.calls, one.get.cache_info(), other.get.cache_info()) == (1, (2, 1, 4, 1), (0, 1, 4, 1))
    assert one.get.cache is one.cache and Doubles.get.__doc__ == "Twice." == one.get.__doc__
    one.get.cache_clear()
    assert (len(one.cache), len(other.cache)) == (0, 1)


def test_a_method_and_the_one_that_it_overrides_have_caches_of_their_own():
    both = Quadruples()
    for made in both, pickle.loads(pickle.dumps(both)), copy.deepcopy(both):
        made.calls = 0
        assert (made.get(1), made.get(1), made.get(2), made.calls) == (4, 4, 8, 2)
        assert made.cache == {(1,): 2, (2,): 4} and made.other_cache == {(1,): 4, (2,): 8}


def test_what_cachedmethod_refuses():
    class Slots:
        __slots__ = ()
        get = cachedmethod(lambda self: {})(lambda self: 1)

    with pytest.raises(TypeError, match="__dict__"):
        Slots().get()
    with pytest.raises(TypeError, match="needs an object"):
        Doubles.get(x=1)
    with pytest.raises(TypeError, match="callable"):
        cachedmethod(None)
    with pytest.raises(TypeError, match="not None"):
        cached(None)

    class Static:
        get = staticmethod(cachedmethod(lambda self: {})(lambda self: 1))

    with pytest.raises(TypeError, match="outermost"):
        Static.get()


@pytest.mark.parametrize("name", func.__all__)
def test_the_decorators_of_func(name):
    decorator = getattr(func, name)
    calls = []

    def double(x):
        calls.append(x)
        return 2 * x

    for made, bound in (decorator(double), 128), (decorator(maxsize=2)(double), 2), (decorator(None)(double), None):
        calls.clear()
        assert [made(1), made(1), made(1.0), made(2)] == [2, 2, 2, 4] and calls == [1, 2]
        assert made.cache_info() == (2, 2, bound, 2)
        assert made.cache_parameters() == {"maxsize": bound, "typed": False}
    typed = decorator(maxsize=4, typed=True)(double)
    assert (typed(1), typed(1.0), typed.cache_info().misses) == (2, 2.0, 2)
