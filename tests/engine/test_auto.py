"""The policy AUTO: the compiled engine does what the model in plain Python does, adapts, and keeps to its bounds."""

from __future__ import annotations

import copy
import pickle
import random
import tracemalloc

import pytest

from auto_model import MODES, AutoModel
from cachebox import AutoPolicy, Cache

NAMES = ("LRU", "LIRS", "S3-FIFO", "W-TinyLFU 1 %", "W-TinyLFU 30 %")


def requests(chance, size):
    """Keys without end: stretches that one behaviour or another serves best."""
    fresh = 10**6
    while True:
        length = chance.randrange(10 * size, 60 * size)
        kind = chance.randrange(6)
        if kind == 0:                               # a loop that does not fit
            begin, keys = chance.randrange(1000), size + chance.randrange(1, size + 1)
            yield from (begin + n % keys for n in range(length))
        elif kind == 1:                             # few keys, asked for often
            yield from (int(6 * size * chance.random() ** 3) for _ in range(length))
        elif kind == 2:                             # new keys, soon asked for again
            for _ in range(length):
                fresh += chance.random() < 0.3
                yield fresh - min(int(chance.expovariate(1 / size)), 5 * size)
        elif kind == 3:                             # popular keys among many that come once
            for _ in range(length):
                fresh += 1
                yield int(3 * size * chance.random() ** 2) if chance.random() < 0.5 else fresh
        elif kind == 4:                             # popular keys, and new keys that are soon asked for again
            for _ in range(length):
                if chance.random() < 0.5:
                    yield int(4 * size * chance.random() ** 4)
                else:
                    fresh += chance.random() < 0.5
                    yield fresh - int(chance.expovariate(8 / size))
        else:                                       # pairs
            for _ in range(length // 2):
                fresh += 1
                yield fresh
                yield fresh - max(1, size * 3 // 4)


def compare(size, operations, seed, checks=50):
    """Random operations on the policy and on the model: they always name the same victims, in the same order."""
    chance = random.Random(1000 * size + seed)
    policy, model = AutoPolicy(size, seed), AutoModel(size, seed)
    keys = requests(chance, size)
    modes = set()
    for n in range(operations):
        key = next(keys)
        what = chance.random()
        if what < 0.01 and key in model.entries:
            policy.remove(key)
            model.remove(key)
        elif what < 0.012 and model.entries:
            assert policy.evict() == model.evict()
        else:
            policy.add(key)
            model.add(key)
        modes.add(model.mode)
        if n % max(operations // checks, 1) == 0 or what < 0.0002:
            policy._check()
            assert policy._behaviour() == NAMES[model.mode]
            assert list(policy) == list(model)
    assert list(policy) == list(model)
    return modes


@pytest.mark.parametrize("size", [1, 2, 3, 9, 10, 20, 64, 100])
@pytest.mark.parametrize("seed", [1, 2])
def test_it_does_what_the_model_does(size, seed):
    compare(size, 6000, seed)


def test_the_model_is_compared_in_every_mode():
    assert compare(20, 40_000, 1) | compare(30, 40_000, 3) == set(MODES)


@pytest.mark.slow
@pytest.mark.parametrize("size", [5, 40, 130, 300, 700])
def test_it_does_what_the_model_does_for_long(size):
    compare(size, 200_000, 7, checks=200)


# --- what it is for ---------------------------------------------------------------------------------------------------


def hit_ratio(cache, keys):
    for key in keys:
        if cache.get(key) is None:
            cache.set(key, True)
    return cache.stats.hit_rate()


def few_often(size, count, seed):
    chance = random.Random(seed)
    return [int(20 * size * chance.random() ** 4) for _ in range(count)]


def soon_again(size, count, seed):
    chance = random.Random(seed)
    keys, fresh = [], 0
    for _ in range(count):
        fresh += chance.random() < 0.3
        keys.append(fresh - min(int(chance.expovariate(3 / size)), fresh))
    return keys


@pytest.mark.parametrize("size", [20, 100, 2000])
def test_a_loop_that_does_not_fit_is_held_in_part(size):
    loop = [*range(size * 3 // 2)] * 20
    assert hit_ratio(Cache(size), loop) == 0.0
    assert hit_ratio(Cache(size, policy=AutoPolicy(seed=1)), loop) > 0.55


@pytest.mark.parametrize("size", [20, 100, 2000])
def test_the_popular_stay(size):
    keys = few_often(size, 100 * size, size)
    assert hit_ratio(Cache(size, policy=AutoPolicy(seed=1)), keys) > hit_ratio(Cache(size), keys) + 0.02


@pytest.mark.parametrize("size", [20, 100, 2000])
def test_what_is_soon_asked_for_again_is_kept_nearly_as_well_as_lru_does(size):
    keys = soon_again(size, 100 * size, size)
    assert hit_ratio(Cache(size, policy=AutoPolicy(seed=1)), keys) > hit_ratio(Cache(size), keys) - 0.015


def test_it_follows_when_the_load_changes():
    size, policy = 100, AutoPolicy(100, seed=1)
    for key in [*range(150)] * 20:
        policy.add(key)
    assert policy._behaviour() == "LIRS"
    for key in soon_again(size, 40_000, 1):
        policy.add(10**6 + key)
    assert policy._behaviour() == "LRU"


# --- chance -----------------------------------------------------------------------------------------------------------


def kept(seed, size=300):
    policy = AutoPolicy(size, seed)
    keys = requests(random.Random(5), size)
    for _ in range(20_000):
        policy.add(next(keys))
    return list(policy)


def test_a_seed_decides_all():
    assert kept(1) == kept(1) == kept(1 + 2**64)
    assert len({tuple(kept(seed)) for seed in range(4)}) > 1


@pytest.mark.parametrize("bad", [1.5, "1", True, b"1"])
def test_a_bad_seed_is_refused_by_name(bad):
    with pytest.raises(TypeError, match="seed must be an int or None, not"):
        AutoPolicy(5, seed=bad)
    with pytest.raises(TypeError, match="seed"):
        AutoPolicy(5, bad)


def test_a_policy_that_orders_keys_keeps_its_seed():
    policy = AutoPolicy(5, seed=-3)
    policy.add(1)
    with pytest.raises(RuntimeError, match="seed"):
        policy.__init__(5, seed=4)


def test_a_cache_that_got_a_policy_does_what_the_policy_would():
    policy, cache = AutoPolicy(30, 9), Cache(30, policy=AutoPolicy(seed=9))
    keys = requests(random.Random(6), 30)
    for _ in range(10_000):
        key = next(keys)
        policy.add(key)
        cache.set(key, key)
    assert list(cache) == list(policy)


CLONES = [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))]


@pytest.mark.parametrize("clone", CLONES, ids=["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize("seed", range(6))
def test_copies_keep_order_behaviour_and_seed(clone, seed):
    cache = Cache(30, policy=AutoPolicy(seed=seed))
    keys = requests(random.Random(seed), 30)
    for _ in range(7000):
        key = next(keys)
        if cache.get(key) is None:
            cache.set(key, key)
    cloned = clone(cache)
    assert list(cloned) == list(cache)
    assert cloned.policy == cache.policy or cloned.policy._behaviour() == cache.policy._behaviour()
    policy = AutoPolicy(30, seed)
    for key in cache:
        policy.add(key)
    again = clone(policy)
    assert list(again) == list(policy) and again._behaviour() == policy._behaviour()
    for key in range(50):
        again.add(key)
        again._check()
    again.clear()
    fresh = AutoPolicy(30, seed)
    for order in (again, fresh):
        for key in few_often(30, 3000, 1):
            order.add(key)
    assert again.__reduce__()[1][-1] == seed


@pytest.mark.parametrize("seed", range(8))
def test_what_is_listed_is_what_popitem_takes(seed):
    cache = Cache(40, policy=AutoPolicy(seed=seed))
    keys = requests(random.Random(seed), 40)
    for _ in range(5000 + 700 * seed):
        key = next(keys)
        if cache.get(key) is None:
            cache.set(key, key)
    order = list(cache)
    assert [cache.popitem()[0] for _ in range(len(cache))] == order


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 30, 700])
def test_it_is_sound_whatever_happens(size, clock):
    chance = random.Random(size)
    cache = Cache(size, policy=AutoPolicy(seed=1), clock=clock, max_weight=2 * size, weigher=lambda key, value: value)
    keys = requests(chance, size)
    for step in range(6000):
        clock.now += 0.1
        key, what = next(keys), chance.randrange(100)
        if what < 80:
            if cache.get(key) is None:
                cache.set(key, chance.choice([0, 0.5, 1, 2]), ttl=chance.choice([None, size, 3 * size]))
        elif what < 90:
            cache.delete(key)
        elif what < 97:
            cache.touch(key, 5)
        elif what < 98 and len(cache):
            cache.popitem()
        elif step % 50 == 0:
            cache.resize(max(1, chance.randrange(2 * size)))
        elif step % 501 == 0:
            cache.clear()
        elif step % 77 == 0:
            cache = copy.copy(cache)
        if step % 100 == 0:
            cache._check()
            assert list(cache) == [key for key, _ in cache.items()]
    assert cache.weight <= 2 * size


def test_weights_alone_bound_it_well():
    keys = [*range(150)] * 30                       # a loop of 150 through what holds 100
    cache = Cache(None, policy=AutoPolicy(seed=1), max_weight=1000, weigher=lambda key, value: 10)
    assert hit_ratio(cache, keys) > 0.5 and len(cache) == 100


def test_a_larger_bound_is_used():
    cache = Cache(50, policy=AutoPolicy(seed=1))
    hit_ratio(cache, [*range(300)] * 10)
    cache.resize(200)
    cache.stats.reset()
    assert hit_ratio(cache, [*range(300)] * 20) > 0.55
    cache.resize(100)
    cache.stats.reset()
    assert hit_ratio(cache, [*range(150)] * 20) > 0.5


def memory_of(policy, size):
    keys = list(range(size))
    tracemalloc.start()
    cache = Cache(size, policy=policy)
    for key in keys:
        cache.set(key, None)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return held


def test_a_small_cache_is_small():
    assert memory_of("AUTO", 100) <= 64 * 1024


def test_a_large_cache_takes_little_more_than_lru():
    size = 200_000                                  # the shadow weighs more here than with a million
    assert memory_of("AUTO", size) - memory_of("LRU", size) <= 20 * size


def test_memory_is_given_back():
    cache = Cache(50_000, policy="AUTO")
    tracemalloc.start()
    for key in range(50_000):
        cache.set(key, None)
    for key in range(49_990):
        cache.delete(key)
    cache._check()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 100_000
