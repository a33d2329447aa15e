"""User code that misbehaves: weighers, clocks, factories, the function of `compute`, policies."""

from __future__ import annotations

import math

from cachebox import MISSING, Cache
from hostile import DEEDS, EXPECTED, OPERATIONS, Hostile, InPython, World, attempt, random_deed

NONSENSE = [
    None, "1", b"", [], {}, object(), True, math.nan, -1, -math.inf, math.inf, 10**400, -(10**400), 1e308, 5e-324, 1j,
]


def weighers(policy):
    for answer in NONSENSE:
        answers = [1]
        cache = Cache(3, policy=policy, max_weight=10, weigher=lambda key, value, answers=answers: answers[0])
        cache.update(a=1, b=2)
        answers[0] = answer
        for operation in OPERATIONS.values():
            for n in ("a", "c"):
                attempt(operation, cache, n, n)
                assert len(cache) <= 3 and not cache.weight > 10
        cache._check()


def called_back(policy, make, operations):
    """Every deed in the middle of the functions that `make`'s options and `operations` have called."""
    for deed in [*DEEDS.values(), random_deed(1), random_deed(2)]:
        for operation in operations:
            world = World(policy=policy, max_size=4)
            world.cache = Cache(policy=policy, max_size=4, **make(world))
            world.cache.update(a=1, b=2, c=3, d=4)
            world.act = deed
            for key in ("a", "new"):
                attempt(operation, world, key)
            world.verify()


def weighers_that_do_anything(policy):
    def make(world):
        def weigher(key, value):
            world.turn()
            return 1.0

        return {"max_weight": 4, "weigher": weigher}

    called_back(policy, make, all_operations())


def clocks_that_do_anything(policy):
    def make(world):
        def clock():
            world.turn()
            return 1.0

        return {"clock": clock, "default_ttl": 5, "time_to_idle": 3}

    called_back(policy, make, all_operations())


def all_operations():
    return [lambda world, key, it=it: it(world.cache, key, 1) for it in OPERATIONS.values()]


def factories_that_do_anything(policy):
    """A factory or the function of `compute`, which changes its own key too, and comes back to it."""
    deeds_to_the_key = {
        "set": lambda cache, key: cache.set(key, "inside"),
        "delete": lambda cache, key: cache.delete(key),
        "load": lambda cache, key: cache.get_or_set(key, lambda: "inside"),
        "compute": lambda cache, key: cache.compute(key, lambda old: "inside"),
        "clear": lambda cache, key: cache.clear(),
        "expire": lambda cache, key: cache.set(key, 1, ttl=5e-324),
    }

    def function(world, key, deed, result):
        def run(*old):
            world.turn()
            deed(world.cache, key)
            if result is Hostile:
                raise Hostile
            return result

        return run

    operations = []
    for deed in deeds_to_the_key.values():
        for result in (1, MISSING, Hostile):
            operations += [
                lambda world, key, d=deed, r=result: world.cache.get_or_set(key, function(world, key, d, r)),
                lambda world, key, d=deed, r=result: world.cache.compute(key, function(world, key, d, r)),
            ]
    called_back(policy, lambda world: {}, operations)
    called_back(policy, lambda world: {"default_ttl": 60, "on_evict": lambda *_: world.turn()}, operations)


def policies_that_do_anything(policy):
    """A policy written in Python, every method of which does any deed, or names nonsense, or raises."""
    for method in ("add", "remove", "access", "evict", "clear"):
        for deed in [*DEEDS.values(), random_deed(3)]:
            world = World()

            def act(self, *args, method=method, world=world):
                world.turn()
                return getattr(InPython, method)(self, *args)

            world.cache = Cache(4, policy=type("Acting", (InPython,), {method: act}))
            world.cache.update(a=1, b=2, c=3, d=4)
            world.act = deed
            for operation in OPERATIONS.values():
                for key in ("a", "new"):
                    attempt(operation, world.cache, key, 1)
            world.act = None
            assert world.cache.max_size is None or len(world.cache) <= world.cache.max_size


def policies_that_name_nonsense(policy):
    for answer in [*NONSENSE, "absent", ("a",), Hostile]:
        class Wrong(InPython):
            def evict(self, answer=answer):
                if answer is Hostile:
                    raise Hostile
                return answer

        cache = Cache(2, policy=Wrong)
        cache.update(a=1, b=2)
        for operation in OPERATIONS.values():
            for key in ("a", "new"):
                attempt(operation, cache, key, 1)
                assert sum(1 for name in ("a", "b", "new", "other") if name in cache) <= cache.max_size


def arguments(policy):
    """Arguments that have no business here."""
    cache = Cache(3, policy=policy)
    cache.update(a=1, b=2)
    before = dict(cache.items())
    for answer in [*NONSENSE, Cache, cache, lambda: 1, type, ..., iter([])]:
        for call in (
            lambda answer=answer: cache.set("c", 1, ttl=answer) if answer in (math.nan, "1", -1) else cache.ttl(answer),
            lambda answer=answer: cache.resize(answer) if not isinstance(answer, int) and answer is not None else None,
            lambda answer=answer: cache.get_many(answer),
            lambda answer=answer: cache.delete_many(answer) if answer is not cache else None,
            lambda answer=answer: cache == answer,
            lambda answer=answer: cache.stats.get(answer),
        ):
            try:
                call()
            except (*EXPECTED, OverflowError):
                pass
        assert dict(cache.items()) == before
    cache._check()
