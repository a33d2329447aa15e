"""Keys whose `__hash__` and `__eq__` do what they like."""

from __future__ import annotations

import random
import re
import threading

from cachebox import Cache
from hostile import DEEDS, OPERATIONS, Comparable, Key, World, attempt, kinds, random_deed


class Same:
    """Keys of one hash."""

    compared = 0

    def __init__(self, name):
        self.name = name

    def __hash__(self):
        return 1

    def __eq__(self, other):
        Same.compared += 1
        return self.name == other.name


def equal_hashes(policy):
    cache = Cache(100, policy=policy)
    for n in range(300):
        cache[Same(n)] = n
        assert len(cache) <= 100
    kept = [n for n in range(300) if Same(n) in cache]
    assert len(kept) == 100
    for n in kept:
        assert cache.get(Same(n)) == n
    for n in kept[::2]:
        assert cache.delete(Same(n))
    assert sorted(cache.values()) == kept[1::2]


def hash_or_eq_that_does_anything(policy):
    """Every deed × every operation × every kind of cache; the key is there, or not, or there under an equal one."""
    for key_type in (Key, Comparable):
        for deed in DEEDS.values():
            for operation in OPERATIONS.values():
                for options in kinds(policy):
                    world = World(**options)
                    for n in range(7):
                        world.cache[key_type(world, n)] = n
                    world.cache["other"] = 0
                    world.act = deed
                    for n in (2, 6, 50):
                        attempt(operation, world.cache, key_type(world, n), n)
                    world.verify()


def a_comparison_that_always_removes_what_it_compares(policy):
    """A lookup is given up after a bounded number of restarts, with an error that says so."""

    class Removing:
        busy = False

        def __hash__(self):
            return 1

        def __eq__(self, other):
            if not Removing.busy:
                Removing.busy = True
                cache.clear()
                cache[Removing()] = 1
                Removing.busy = False
            return True

    for operation in OPERATIONS.values():
        cache = Cache(10, policy=policy)
        cache[Removing()] = 0
        attempt(operation, cache, Removing(), 1)
        Removing.busy = True
        cache._check()
        cache.clear()
        Removing.busy = False
    cache[Removing()] = 0
    assert_given_up(cache, Removing(), "restarts.*Removing")


def a_comparison_that_always_brings_another_key(policy):
    """Each comparison stores one more key of the same hash, or puts a new one in place of all; yet lookups end."""

    class Breeding:
        busy = clears = False

        def __hash__(self):
            return 1

        def __eq__(self, other):
            if not Breeding.busy:
                Breeding.busy = True
                if Breeding.clears:
                    cache.clear()
                cache[Breeding()] = 1
                Breeding.busy = False
            return False

    for Breeding.clears in (True, False):
        for operation in OPERATIONS.values():
            cache = Cache(None, policy=policy)
            cache[Breeding()] = 0
            attempt(operation, cache, Breeding(), 1)
            Breeding.busy = True
            cache._check()
            Breeding.busy = False
        cache = Cache(None, policy=policy)
        cache[Breeding()] = 0
        assert_given_up(cache, Breeding(), "gave up a lookup.*Breeding")
        Breeding.busy = True


def assert_given_up(cache, key, message):
    try:
        cache.get(key)
    except RuntimeError as error:
        found = str(error)
    assert re.search(message, found), found


def other_writes_never_restart_a_lookup(policy):
    """While keys are compared the table grows, shrinks and is rebuilt: no key is compared twice on that account."""
    cache = Cache(None, policy=policy)
    compared = []

    class Writing:
        def __init__(self, name):
            self.name = name

        def __hash__(self):
            return 1

        def __eq__(self, other):
            compared.append((self.name, other.name))
            for n in range(50):
                cache[f"{len(compared)} {n}"] = n
            cache.delete(f"{len(compared)} 1")
            return self.name == other.name

    for n in range(30):
        cache[Writing(n)] = n
    compared.clear()
    assert cache.get(Writing("absent"), "nothing") == "nothing"
    assert len(compared) == len(set(compared)) == 30, compared


def random_deeds(policy):
    for seed in range(60):
        for options in kinds(policy):
            draw = random.Random(seed)
            world = World(**options)
            world.act = random_deed(seed)
            for _ in range(40):
                operation = draw.choice(list(OPERATIONS.values()))
                attempt(operation, world.cache, Key(world, draw.randrange(9)), draw.randrange(9))
            world.verify()


def comparisons_that_let_other_threads_run(policy):
    """Four threads use few keys of few hashes, and switch in the middle of every comparison."""
    world = World(max_size=5, policy=policy)
    world.act = DEEDS["let others run"]
    names = ["get", "set", "set with ttl", "delete", "pop", "setdefault", "get_or_set", "compute", "touch", "items"]

    def body(seed):
        draw = random.Random(seed)
        for _ in range(400):
            attempt(OPERATIONS[draw.choice(names)], world.cache, Comparable(world, draw.randrange(9)), seed)

    threads = [threading.Thread(target=body, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    world.verify()
