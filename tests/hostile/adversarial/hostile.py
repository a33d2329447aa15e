"""The parts that the scenarios share: policies, objects that act whenever they are used, and what must hold then."""

from __future__ import annotations

import contextlib
import copy
import gc
import random
import sys
import time

from cachebox import MISSING, Cache, EvictionPolicy


class InPython(EvictionPolicy):
    """A policy written in Python: first in, first out."""

    def __init__(self, max_size=None):
        super().__init__(max_size)
        self.order = []         # searched by identity first: comparing keys by == may do anything

    def add(self, key):
        self.order.append(key)

    def remove(self, key):
        del self.order[self.place(key)]

    def access(self, key):
        self.place(key)

    def place(self, key):
        for place, known in enumerate(self.order):
            if known is key:
                return place
        return self.order.index(key)

    def evict(self):
        return self.order.pop(0) if self.order else None

    def clear(self):
        self.order.clear()

    def __len__(self):
        return len(self.order)

    def __contains__(self, key):
        return key in self.order

    def __iter__(self):
        return iter(list(self.order))


POLICIES = {"LRU": "LRU", "LFU": "LFU", "FIFO": "FIFO", "AUTO": "AUTO", "InPython": InPython}


class Hostile(Exception):
    """The exception of hostile code."""


EXPECTED = (Hostile, KeyError, ValueError, TypeError, RuntimeError)
"""Exceptions that a call may raise under hostile code. RuntimeError: a lookup was given up, or endless recursion."""


class World:
    """A cache, and the deeds of hostile code to it."""

    def __init__(self, **options):
        self.cache = Cache(**options)
        self.act = None             # a function of the world
        self.depth = 0

    def turn(self):
        """An object was asked something: do the deed. Deeds may provoke deeds, but not without end."""
        if self.act is None or self.depth > 1:
            return
        self.depth += 1
        try:
            self.act(self)
        finally:
            self.verify_bound()
            self.depth -= 1

    def verify_bound(self):
        """The conditions that must hold at every instant."""
        cache, self.depth = self.cache, self.depth + 9
        try:
            if cache.max_size is not None and type(cache.policy) is str:    # another is in the middle of something
                assert len(list(cache.values())) <= cache.max_size, "more entries than max_size"
        finally:
            self.depth -= 9

    def verify(self, policy_may_be_torn=False):
        """The conditions that must hold when all is quiet again."""
        self.act = None
        bound = self.cache.max_size
        if policy_may_be_torn and type(self.cache.policy) is not str:
            assert bound is None or len(self.cache) <= bound
            return
        self.cache._check()
        assert bound is None or len(self.cache) <= bound
        self.cache["afterwards"] = 1
        assert self.cache.pop("afterwards") == 1
        self.cache._check()


class Key:
    """A key that has its turn whenever it is hashed or compared. All have few different hashes."""

    __slots__ = ("__weakref__", "name", "others", "world")

    def __init__(self, world, name):
        self.world = world
        self.name = name

    def __hash__(self):
        self.world.turn()
        return self.name % 3

    def __eq__(self, other):
        self.world.turn()
        return isinstance(other, Key) and self.name == other.name


class Comparable(Key):
    """A key that acts only when it is compared."""

    __slots__ = ()

    def __hash__(self):
        return self.name % 3

    __eq__ = Key.__eq__


class Value:
    """A value that has its turn when it dies, and that can be part of a cycle."""

    def __init__(self, world):
        self.world = world
        self.itself = None

    def __del__(self):
        with contextlib.suppress(*EXPECTED):
            self.world.turn()


class DyingKey(Comparable):
    """A key that has its turn when it dies, too."""

    __slots__ = ()

    def __hash__(self):
        return self.name % 3

    __eq__ = Key.__eq__

    def __del__(self):
        with contextlib.suppress(*EXPECTED):
            self.world.turn()


def raise_hostile(world):
    raise Hostile


DEEDS = {
    "nothing": lambda world: None,
    "raise": raise_hostile,
    "read": lambda world: (world.cache.get(1), world.cache.get("other")),
    "write": lambda world: world.cache.set("other", 1),
    "write many": lambda world: world.cache.set_many(dict.fromkeys(range(100, 120))),
    "write something that expires": lambda world: world.cache.set("other", 1, ttl=1e-9),
    "delete": lambda world: world.cache.delete("other"),
    "delete the next victim": lambda world: world.cache.popitem() if len(world.cache) else None,
    "delete everything": lambda world: [world.cache.pop(key, None) for key in list(world.cache)],
    "clear": lambda world: world.cache.clear(),
    "clear and fill": lambda world: (world.cache.clear(), world.cache.update(dict.fromkeys("abcdef"))),
    "shrink": lambda world: world.cache.resize(1),
    "grow": lambda world: world.cache.resize(1000),
    "unbound": lambda world: world.cache.resize(None),
    "grow and shrink": lambda world: (world.cache.resize(50), DEEDS["write many"](world), world.cache.resize(2)),
    "purge": lambda world: world.cache.purge_expired(),
    "iterate": lambda world: list(world.cache.items()),
    "count": lambda world: (len(world.cache), world.cache.weight, repr(world.cache)),
    "copy": lambda world: world.cache.copy(),
    "increment": lambda world: world.cache.increment("counter"),
    "compute": lambda world: world.cache.compute("other", lambda old: 1 if old is MISSING else MISSING),
    "load": lambda world: world.cache.get_or_set("loaded", lambda: 1),
    "touch": lambda world: world.cache.touch("other", 10),
    "collect": lambda world: gc.collect(),
    "let others run": lambda world: time.sleep(0),
    "reset statistics": lambda world: world.cache.stats.reset(),
}


OPERATIONS = {
    "get": lambda cache, key, value: cache.get(key),
    "c[key]": lambda cache, key, value: cache[key],
    "set": lambda cache, key, value: cache.set(key, value),
    "set with ttl": lambda cache, key, value: cache.set(key, value, 100),
    "set for an instant": lambda cache, key, value: cache.set(key, value, 5e-324),
    "c[key] = v": lambda cache, key, value: cache.__setitem__(key, value),
    "delete": lambda cache, key, value: cache.delete(key),
    "del c[key]": lambda cache, key, value: cache.__delitem__(key),
    "pop": lambda cache, key, value: cache.pop(key, None),
    "in": lambda cache, key, value: key in cache,
    "peek": lambda cache, key, value: cache.peek(key),
    "setdefault": lambda cache, key, value: cache.setdefault(key, value),
    "get_or_set": lambda cache, key, value: cache.get_or_set(key, lambda: value),
    "increment": lambda cache, key, value: cache.increment(key),
    "compute": lambda cache, key, value: cache.compute(key, lambda old: value),
    "compute, deleting": lambda cache, key, value: cache.compute(key, lambda old: MISSING),
    "ttl": lambda cache, key, value: cache.ttl(key),
    "touch": lambda cache, key, value: cache.touch(key, 50),
    "get_many": lambda cache, key, value: cache.get_many([key, "other", key]),
    "set_many": lambda cache, key, value: cache.set_many({key: value, "other": value}, 100),
    "delete_many": lambda cache, key, value: cache.delete_many([key, "other"]),
    "update": lambda cache, key, value: cache.update([(key, value), ("other", value)]),
    "popitem": lambda cache, key, value: cache.popitem(),
    "resize": lambda cache, key, value: (cache.resize(2), cache.resize(6)),
    "purge_expired": lambda cache, key, value: cache.purge_expired(),
    "len": lambda cache, key, value: len(cache),
    "items": lambda cache, key, value: list(cache.items()),
    "contained item": lambda cache, key, value: ((key, value) in cache.items(), value in cache.values()),
    "==": lambda cache, key, value: cache == {key: value, "other": 1},
    "copy": lambda cache, key, value: copy.copy(cache),
    "clear": lambda cache, key, value: cache.clear(),
}


def kinds(policy, world=None):
    """The options of caches of every kind: each has its own ways through the code."""
    def hear(*departure):
        if world is not None:
            world.turn()

    yield {"policy": policy, "max_size": 6}
    yield {"policy": policy, "max_size": 6, "default_ttl": 60, "time_to_idle": 30}
    yield {"policy": policy, "max_size": 6, "on_evict": hear, "on_removal": hear, "clock": time.monotonic}
    yield {"policy": policy, "max_size": 6, "max_weight": 8, "weigher": lambda key, value: 1.5, "on_evict": hear}


def attempt(operation, *args):
    """Do something that hostile code may thwart."""
    with contextlib.suppress(*EXPECTED):
        return operation(*args)


def random_deed(seed):
    draw = random.Random(seed)
    names = [name for name in DEEDS if name not in ("collect", "let others run")]

    def act(world):
        DEEDS[draw.choice(names)](world)

    return act


def ignore_unraisable():
    """Exceptions of callbacks and finalisers do not concern a scenario, unless they are no hostile exceptions."""
    def hook(found):
        if not isinstance(found.exc_value, EXPECTED):
            sys.__unraisablehook__(found)

    sys.unraisablehook = hook
