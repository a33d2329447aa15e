"""Code that runs when entries leave: callbacks, finalisers of keys and values, weak references; the cache's own end."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import weakref

from cachebox import Cache
from hostile import (
    DEEDS,
    EXPECTED,
    OPERATIONS,
    Comparable,
    DyingKey,
    Hostile,
    Value,
    World,
    attempt,
    kinds,
    random_deed,
)


def callbacks_that_do_anything(policy):
    for deed in DEEDS.values():
        for operation in OPERATIONS.values():
            for options in callback_kinds():
                world = World(policy=policy, max_size=3)
                told = []
                world.cache = Cache(policy=policy, max_size=3, **options(world, told))
                for n in range(4):
                    world.cache[n] = n
                world.act = deed
                for n in (1, 50):
                    attempt(operation, world.cache, n, n)
                world.verify()


def callback_kinds():
    def removal(world, told):
        def hear(*departure):
            told.append(departure)
            world.turn()

        return hear

    yield lambda world, told: {"on_evict": removal(world, told)}
    yield lambda world, told: {"on_removal": removal(world, told), "time_to_idle": 100}


def a_callback_that_never_stops_storing(policy):
    """Each eviction stores something, which evicts: a RecursionError ends that."""
    sys.stderr = open(os.devnull, "w")          # that deep, the hook for unraisable exceptions fails too, and says so
    os.dup2(sys.stderr.fileno(), 2)
    numbers = iter(range(10**9))
    cache = Cache(2, policy=policy, on_evict=lambda key, value: cache.set(next(numbers), value))
    attempt(cache.update, dict.fromkeys("abc"))
    assert next(numbers) > 50
    assert len(cache) <= 2
    cache.update(a=1)


def finalisers_of_values_that_do_anything(policy):
    for deed in DEEDS.values():
        for operation in OPERATIONS.values():
            for options in kinds(policy):
                world = World(**options)
                for n in range(7):
                    world.cache[n] = Value(world)
                world.act = deed
                for n in (2, 6, 50):
                    attempt(operation, world.cache, n, Value(world))
                world.verify()


def finalisers_of_keys_that_do_anything(policy):
    for deed in DEEDS.values():
        for operation in OPERATIONS.values():
            for options in kinds(policy):
                world = World(**options)
                for n in range(7):
                    world.cache[DyingKey(world, n)] = n
                world.act = deed
                for n in (2, 6, 50):
                    attempt(operation, world.cache, DyingKey(world, n), n)
                world.verify()


def weak_references_whose_callbacks_do_anything(policy):
    for deed in DEEDS.values():
        world = World(max_size=4, policy=policy)

        def react(reference, world=world):
            with contextlib.suppress(*EXPECTED):
                world.turn()

        references = []
        for n in range(8):
            key, value = Comparable(world, n), Value(world)
            references += [weakref.ref(key, react), weakref.ref(value, react)]
            world.cache[key] = value
        world.act = deed
        del key, value
        for operation in OPERATIONS.values():
            attempt(operation, world.cache, Comparable(world, 2), 1)
        world.verify()


def random_deeds_everywhere(policy):
    """Keys, values and callbacks act at random, all at once."""
    for seed in range(40):
        world = World(max_size=4, policy=policy)
        for options in kinds(policy, world):
            world.act = None
            world.cache = Cache(**options)
            draw = random.Random(seed)
            world.act = random_deed(seed)
            for _ in range(40):
                operation = draw.choice(list(OPERATIONS.values()))
                attempt(operation, world.cache, DyingKey(world, draw.randrange(9)), Value(world))
            world.verify()


# --- the cache's own end ----------------------------------------------------------------------------------------------


class Dropping:
    """Drops the last reference to the cache in the middle of one of its operations."""

    def __init__(self, **options):
        self.dropped = 0
        self.holder = [Cache(**options)]

    def drop(self, *_):
        self.dropped += len(self.holder)
        self.holder.clear()

    def try_all(self, make, key, value):
        for operation in OPERATIONS.values():
            self.holder.clear()
            self.holder.append(make())
            attempt(lambda operation=operation: operation(self.holder[0], key(), value()))
        assert self.dropped, "nothing was dropped"


def dropped_in_its_callbacks(policy):
    world = Dropping()
    for options in ({"on_evict": world.drop}, {"on_removal": world.drop, "default_ttl": 60}):

        def make(options=options):
            cache = Cache(3, policy=policy, **options)
            cache.update(a=1, b=2, c=3)
            world.holder.append(cache)      # filling it has dropped nothing: no entry left
            return cache

        world.try_all(make, lambda: "d", lambda: 1)
        world.try_all(make, lambda: "a", lambda: 1)


def dropped_by_its_keys(policy):
    world = Dropping()

    class Key:
        def __hash__(self):
            return 1

        def __eq__(self, other):
            world.drop()
            return False

    def make():
        cache = Cache(3, policy=policy)
        cache[Key()] = 1
        return cache

    world.try_all(make, Key, int)


def dropped_by_what_dies(policy):
    world = Dropping()

    class Dying:
        def __del__(self):
            world.drop()

    def make():
        cache = Cache(2, policy=policy)
        cache["a"] = Dying()
        cache["b"] = Dying()
        return cache

    world.try_all(make, lambda: "a", int)
    world.try_all(make, lambda: "c", int)


def dropped_by_what_it_calls(policy):
    """A cache that is dropped by its clock, its weigher, a factory, or the function of `compute`."""
    world = Dropping()

    def clock():
        world.drop()
        return 1.0

    def weigher(key, value):
        world.drop()
        return 1.0

    def make_clocked():
        return Cache(2, policy=policy, default_ttl=5, clock=clock)

    def make_weighed():
        return Cache(2, policy=policy, max_weight=5, weigher=weigher)

    world.try_all(make_clocked, lambda: "a", int)
    world.try_all(make_weighed, lambda: "a", int)
    for call in (
        lambda: world.holder[0].get_or_set("a", world.drop),
        lambda: world.holder[0].compute("a", world.drop),
        lambda: world.holder[0].compute("b", world.drop),
    ):
        world.holder[:] = [Cache(2, policy=policy)]
        world.holder[0].update(b=1, c=2)
        assert call() is None


def a_thousand_that_raise(policy):
    """Callbacks that raise, in bulk; every exception is reported, and nothing else is lost."""
    reported = []
    sys.unraisablehook = lambda found: reported.append(found.exc_type)

    def refuse(*departure):
        raise Hostile

    cache = Cache(10, policy=policy, on_evict=refuse, on_removal=refuse)
    for n in range(510):
        cache[n] = n
    assert reported == [Hostile] * 1000
    assert len(cache) == 10 and cache.stats.evictions == 500
