"""Tables grow in steps: the slots to come are filled ahead. Here small tables do, and every step is checked."""

from __future__ import annotations

import math
import pickle
import random

import pytest

from cachebox import Cache
from cachebox._engine.table import grow_in_steps_from


@pytest.fixture(autouse=True)
def small_steps():
    before = grow_in_steps_from(4)
    yield
    grow_in_steps_from(before)


class Key:
    """A key whose hash is one of a few."""

    def __init__(self, number):
        self.number = number

    def __hash__(self):
        return self.number % 7

    def __eq__(self, other):
        return self.number == other.number

    def __reduce__(self):
        return Key, (self.number,)


def grown(policy, make, size=100_000, **options):
    cache = Cache(size, policy=policy, **options)
    for n in range(700):
        cache[make(n)] = n
        cache._check()
    return cache


@pytest.mark.parametrize("make", [str, int, Key, lambda n: n << 40, lambda n: (n, n)])
def test_every_step_of_growth(policy, make):
    cache = grown(policy, make)
    assert {key: cache.peek(make(key)) for key in range(700)} == {key: key for key in range(700)}


@pytest.mark.parametrize("seed", range(4))
def test_random_operations_while_a_table_grows(policy, seed):
    source = random.Random(seed)
    cache = Cache(source.choice([97, 260, 10**9]), policy=policy)
    make = source.choice([str, int, Key])
    shadow = {}
    for _ in range(3000):
        n, deed = source.randrange(400), source.random()
        if deed < 0.55:
            cache.set(make(n), n, source.choice([None, math.inf, 1000]))
            shadow[n] = n
        elif deed < 0.75:
            assert cache.get(make(n)) in (None, shadow.get(n))
        elif deed < 0.9:
            cache.delete(make(n))
            shadow.pop(n, None)
        elif deed < 0.93:
            cache.set_many({make(k): k for k in range(n, n + 5)})
            shadow.update({k: k for k in range(n, n + 5)})
        elif deed < 0.94:
            cache.resize(source.choice([60, 97, 260, 10**9]))
        elif deed < 0.96:
            copied = cache.copy()
            copied._check()
            assert list(copied.items()) == list(cache.items()) or policy == "AUTO"
        elif deed < 0.965:
            cache = pickle.loads(pickle.dumps(cache))
        elif deed < 0.97:
            cache.clear()
            shadow.clear()
        cache._check()
    for key, value in cache.items():
        number = key.number if isinstance(key, Key) else int(key)
        assert shadow[number] == value == number


def test_evictions_while_the_slots_to_come_are_filled(policy):
    cache = grown(policy, str, 1000)            # half of the next slots are filled
    cache.resize(650)
    for n in range(2000):
        cache[f"new {n}"] = n
        cache._check()
    assert len(cache) == 650


def test_deletions_and_a_copy_while_the_slots_to_come_are_filled(policy):
    cache = grown(policy, int)
    for n in range(0, 700, 3):
        assert cache.delete(n)
        cache._check()
    copied = cache.copy()
    for n in range(700, 2500):
        copied[n] = cache[n] = n
        copied._check()
        cache._check()
    assert set(cache) == set(copied) == {n for n in range(2500) if n >= 700 or n % 3}
    for n in range(2500):
        cache.delete(n)
    cache._check()
    assert len(cache) == 0 and len(copied) > 2000


def test_a_load_in_the_middle_of_growth(policy):
    cache = Cache(10**6, policy=policy)

    def fill():
        for n in range(500):
            cache[n] = n
            cache._check()
        return "loaded"

    assert cache.get_or_set("key", fill) == "loaded"
    cache._check()
    assert cache["key"] == "loaded" and len(cache) == 501


def test_a_table_whose_slots_take_several_megabytes():
    cache = Cache(max_size=None)
    cache.update(dict.fromkeys(range(1_600_000)))
    for key in (0, 1_599_999, 800_000):
        assert key in cache
    assert len(cache.copy()) == 1_600_000
    cache._check()
    cache.clear()
    assert len(cache) == 0
