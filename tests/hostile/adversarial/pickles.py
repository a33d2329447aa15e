"""Pickling and copying objects that change the cache meanwhile."""

from __future__ import annotations

import contextlib
import copy
import math
import pickle
import threading

from cachebox import Cache
from hostile import EXPECTED, attempt

CURRENT = []        # caches that keys and values change while they are hashed, compared, reduced or restored
BUSY = []


def meddle():
    if CURRENT and not BUSY:
        BUSY.append(1)
        try:
            for cache in list(CURRENT):
                cache["meddled"] = 1
                cache.pop("gone", None)
                if len(cache) > 3:
                    cache.popitem()
        finally:
            BUSY.clear()


class Meddling:
    """A key or value that changes the caches on every occasion."""

    def __init__(self, name):
        self.name = name

    def __hash__(self):
        meddle()
        return 1

    def __eq__(self, other):
        meddle()
        return isinstance(other, Meddling) and self.name == other.name

    def __reduce__(self):
        meddle()
        return restore, (self.name,)

    def __deepcopy__(self, memo):
        meddle()
        return Meddling(self.name)


def restore(name):
    meddle()
    return Meddling(name)


def filled(policy, **options):
    cache = Cache(6, policy=policy, **options)
    cache["gone"] = 1
    for n in range(5):
        cache[Meddling(n)] = Meddling(-n)
    return cache


CLONES = [copy.copy, copy.deepcopy, Cache.copy, *(
    lambda cache, protocol=protocol: pickle.loads(pickle.dumps(cache, protocol)) for protocol in range(6)
)]


def keys_and_values_that_change_the_cache(policy):
    for clone in CLONES:
        for options in ({}, {"default_ttl": 60, "time_to_idle": 60}):
            cache = filled(policy, **options)
            CURRENT[:] = [cache]
            cloned = attempt(clone, cache)
            CURRENT.clear()
            cache._check()
            if cloned is not None:
                cloned._check()
                assert len(cloned) <= 6
                cloned["afterwards"] = 1
                assert cloned.pop("afterwards") == 1


def keys_that_reach_the_half_restored_cache(policy):
    """A cache whose keys refer to it, so that they are hashed before it is whole, and use it then."""

    class_of_keys = Reaching
    for protocol in range(2, 6):
        cache = Cache(6, policy=policy)
        for n in range(3):
            cache[class_of_keys(cache, n)] = n
        pickled = pickle.dumps(cache, protocol)
        with contextlib.suppress(*EXPECTED, AttributeError):
            restored = pickle.loads(pickled)
            assert len(restored) <= 6


class Reaching:
    def __init__(self, cache, n):
        self.cache = cache
        self.n = n

    def __hash__(self):
        if "cache" in self.__dict__ and not BUSY:
            BUSY.append(1)
            try:
                len(self.cache)
                self.cache.get("x")
                list(self.cache.items())
            finally:
                BUSY.clear()
        return 1

    def __eq__(self, other):
        return self is other


def while_threads_change_it(policy):
    cache = Cache(20, policy=policy)
    ended = threading.Event()

    def change(n):
        number = 0
        while not ended.is_set():
            number += 1
            cache.set((n, number % 15), [number], ttl=60 if number % 2 else None)
            cache.pop((n, number % 7), None)

    threads = [threading.Thread(target=change, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(40):
            for clone in (copy.copy, copy.deepcopy, CLONES[-1]):
                cloned = clone(cache)
                assert len(cloned) <= 20
                cloned._check()
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    cache._check()


def damaged(policy):
    """A state with anything in it replaced by nonsense: an exception or a whole cache, never a crash."""
    for options in ({"default_ttl": 60}, {"time_to_idle": 60}, {"max_weight": 20, "weigher": weigh}):
        cache = Cache(6, policy=policy, **options)
        cache.update(dict.fromkeys("abcd", 1))
        make, arguments, state = cache.__reduce__()
        for nonsense in NONSENSE:
            for damaged_state in damages(state, nonsense):
                with contextlib.suppress(Exception):
                    found = make(*arguments)
                    found.__setstate__(damaged_state)
                    assert found.max_size is None or len(found) <= found.max_size
                    list(found.items())
                    found["x"] = 1
                    found.get("a")
                    found.clear()


def weigh(key, value):
    return 1


NONSENSE = [
    None, 0, 1, -1, 2**31, 2**64, -(2**64), 10**400, 0.0, math.nan, math.inf, -math.inf, "", "a", b"", (), [], {},
    set(), object(), len, int, [("a", 1)], ("a", 1), ((),) * 8, ([],) * 8, ([1], [2], *[None] * 6), (["a"] * 9,) * 8,
    ([[]], [1], *[None] * 6), [math.nan] * 4, [-math.inf] * 4, [2**63] * 4, Exception("x"), ...,
]


def damages(state, nonsense):
    """All copies of a state that have it in one place."""
    yield nonsense
    for name in state:
        yield {**state, name: nonsense}
        yield {other: state[other] for other in state if other != name}
    for name in state["options"]:
        yield {**state, "options": {**state["options"], name: nonsense}}
    columns = [[None] * len(state["entries"][0]) if column is None else column for column in state["entries"]]
    for at, column in enumerate(columns):
        entries = list(state["entries"])
        yield {**state, "entries": (*entries[:at], nonsense, *entries[at + 1:])}
        yield {**state, "entries": (*entries[:at], *entries[at + 1:])}
        yield {**state, "entries": (*entries[:at], column[:-1], *entries[at + 1:])}
        for number in range(len(column)):
            damaged = [*column[:number], nonsense, *column[number + 1:]]
            yield {**state, "entries": (*entries[:at], damaged, *entries[at + 1:])}
