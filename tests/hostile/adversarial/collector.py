"""The garbage collector at any moment, and the code that it runs."""

from __future__ import annotations

import gc
import random
import weakref

from cachebox import Cache, cached
from hostile import DEEDS, OPERATIONS, Comparable, DyingKey, Value, World, attempt, kinds, random_deed


def at_every_allocation(policy):
    """With a threshold of 1 the collector runs at nearly every object that is made."""
    gc.set_threshold(1, 1, 1)
    for seed in range(3):
        for options in kinds(policy):
            draw = random.Random(seed)
            world = World(**options)
            for _ in range(150):
                value = Value(world)
                value.itself = [value, world.cache]
                operation = draw.choice(list(OPERATIONS.values()))
                attempt(operation, world.cache, Comparable(world, draw.randrange(9)), value)
            world.verify()


def with_callbacks_that_use_the_cache(policy):
    """`gc.callbacks` run before and after every collection, in the middle of whatever made an object.

    That may be a method of a policy written in Python. Such a policy may then lose count, though the cache must not.
    """
    for name, deed in DEEDS.items():
        if name in ("collect", "raise"):
            continue
        for options in kinds(policy):
            world = World(**options)
            gc.callbacks[:] = [lambda phase, info, it=world: it.turn()]
            gc.set_threshold(5, 1, 1)
            world.act = deed
            for operation in OPERATIONS.values():
                for n in range(3):
                    attempt(operation, world.cache, (n, "key"), [n])
            gc.callbacks.clear()
            gc.set_threshold(700)
            world.verify(policy_may_be_torn=True)


def finding_cycles_whose_members_use_the_cache(policy):
    """Values, keys and callbacks in cycles with the cache, whose finalisers use it while it is being cleared."""
    ended = []
    for seed in range(40):
        for options in kinds(policy):
            world = World(**options)
            for n in range(6):
                value = Value(world)
                value.itself = [value]
                world.cache[DyingKey(world, n)] = value
            world.cache["itself"] = world
            world.act = random_deed(seed)
            weakref.finalize(world, ended.append, seed)
            del world, value
            gc.collect()
    gc.collect()
    assert len(ended) == 160, len(ended)


def clearing_a_cache_that_somebody_waits_to_use(policy):
    """A cycle of caches that hold each other, with callbacks that use all of them."""

    class Node:
        def __del__(self):
            for cache in self.caches:
                cache.set("late", 1, ttl=5)
                cache.get("x")
                list(cache.items())
                cache.pop("x", None)

    for _ in range(30):
        caches = [Cache(3, policy=policy) for _ in range(4)]
        for cache in caches:
            node = Node()
            node.caches = caches
            cache["x"] = node
            cache["caches"] = caches
        references = [weakref.ref(cache) for cache in caches]
        del caches, cache, node
        gc.collect()
        gc.collect()
        assert not any(reference() for reference in references)


def functions_in_cycles(policy):
    """A cached function whose results hold it, and which is called again when these die."""

    class Result:
        def __del__(self):
            self.function(-1)

    for _ in range(50):
        holder = []

        def body(x, y=None, holder=holder):
            result = Result()
            result.function = holder[0]
            return result if x != -1 else x

        holder.append(cached(max_size=3, policy=policy)(body))
        for x in range(5):
            holder[0](x)
        holder[0]((1, 2), 3)
        reference = weakref.ref(holder[0])
        del body, holder
        gc.collect()
        gc.collect()
        assert reference() is None
