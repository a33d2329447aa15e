"""Random programs over everything at once: all kinds of cache, all operations on one, and all events in between.

A program is made from a seed: the options of a cache, its policy, its keys, values, callbacks and tags, some of which
use the cache themselves, raise, collect garbage or let other threads run; how many threads there are, how often the
collector runs, whether signals arrive. It runs in batches; after each one every cache verifies its invariants. With one
thread a seed does nearly the same every time.

    python tests/hostile/random_programs.py                       a thousand operations of each of 20 seeds
    python tests/hostile/random_programs.py --seed 7 --operations 100000
    python tests/hostile/random_programs.py --seeds 200 --threads 1
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import faulthandler
import gc
import importlib
import pickle
import random
import signal
import sys
import threading
import time

from cachebox import MISSING, Cache, EvictionPolicy, cached, cached_many
from cachebox.policies import BUILT_IN

# The modules that the package imports on demand: CPython's import locks bear no signal handler that imports, too.
for name in (
    "_calls.cache_info",
    "_calls.refresh_call",
    "_loading.awaited",
    "_loading.negative_cache",
    "_loading.refresh_pool",
    "_loading.warming",
    "_platform.stuck",
    "_store.entry",
    "_store.isolation",
    "_store.sweeper",
    "_store.views",
    "removal",
):
    importlib.import_module(f"cachebox.{name}")

BATCH = 200
KEYS = 14
EXPECTED = (KeyError, ValueError, TypeError, RuntimeError, ZeroDivisionError, StopIteration)


class World:
    """A cache, everything that is to happen to it, and the dice that decide."""

    def __init__(self, seed: int, threads: int | None = None) -> None:
        self.seed = seed
        self.dice = random.Random(seed)
        self.threads = threads if threads is not None else self.dice.choice([1, 1, 2, 4])
        self.now = 1000.0
        self.is_quiet = True
        self.local = threading.local()
        self.signals = self.dice.random() < 0.3 and self.threads != 1
        self.threshold = self.dice.choice([1, 3, 20, 700, 700])
        self.others: list[Cache] = []
        self.options = self.some_options()
        self.cache = self.new_cache()
        loads_anew = "stale_ttl" in self.options or "refresh_ahead" in self.options  # no function may use such a cache
        self.functions = Cache(max_size=5, policy=self.options["policy"]) if loads_anew else self.cache
        self.function = cached(cache=self.functions, ttl=self.some_ttl(), tags=("f",))(self.compute)
        self.everything = cached(self.functions, **self.some_options_of_a_function())(self.compute_named)
        self.many = cached_many(self.functions)(self.compute_many)

    # --- what the cache is --------------------------------------------------------------------------------------------

    def some_options(self) -> dict:
        pick = self.dice.random
        options: dict = {"max_size": self.dice.choice([1, 2, 3, 5, 8, 40, 300])}
        if pick() < 0.4:
            options["default_ttl"] = self.dice.choice([0.5, 3, 50])
        if pick() < 0.2:
            options["jitter"] = self.dice.choice([0.1, 1.0])
        if pick() < 0.15:
            options["isolate"] = self.dice.choice([True, self.copied])
        if pick() < 0.25:
            options["time_to_idle"] = self.dice.choice([0.5, 3, 50])
        if pick() < 0.3:
            options["max_weight"] = self.dice.choice([3, 10.5, 100])
            options["weigher"] = self.weigh
        elif pick() < 0.15:
            options["max_bytes"] = self.dice.choice([500, 3000, "1MB"])
        if pick() < 0.4:
            options["on_evict"] = self.told
        if pick() < 0.4:
            options["on_removal"] = self.told
        if pick() < 0.5:
            options["clock"] = self.tell_time
        elif pick() < 0.3:
            options["clock"] = time.monotonic
        if pick() < 0.3:
            options["loader"] = self.load
            if pick() < 0.5:
                options["stale_ttl"] = 5
            if pick() < 0.5:
                options["refresh_ahead"] = 0.5
        if pick() < 0.2:
            options["cache_exceptions"] = (ValueError, ZeroDivisionError)
            options["exception_ttl"] = 2
        policy = self.dice.choice([*BUILT_IN, "class", "instance", "own", "own"])
        if policy == "class":
            options["policy"] = self.dice.choice(list(BUILT_IN.values()))
        elif policy == "instance":
            options["policy"] = self.dice.choice(list(BUILT_IN.values()))()
        elif policy == "own":
            options["policy"] = Newest
        else:
            options["policy"] = policy
        return options

    def some_options_of_a_function(self) -> dict:
        """Options of a function with named parameters: the parts of its keys, and the treatment of its results."""
        pick = self.dice.random
        options: dict = {"name": "everything"}
        choices = {
            "ignore": "z", "normalize": True, "vary": self.varied, "version": "2", "ttl": self.lifetime, "typed": True,
            "condition": self.wanted, "tags": self.tagged, "single_flight": False,
        }
        for name, choice in choices.items():
            if pick() < 0.4:
                options[name] = choice
        if pick() < 0.2:
            options.update(cache_exceptions=ValueError, exception_ttl=2)
        if pick() < 0.2 and not options.keys() & {"ignore", "normalize", "vary", "typed"}:
            options["key_func"] = self.key_of
        return options

    def new_cache(self) -> Cache:
        options = dict(self.options)
        if isinstance(options["policy"], EvictionPolicy):
            options["policy"] = type(options["policy"])()
        return Cache(**options)

    # --- what happens meanwhile: called from keys, values, callbacks, everything --------------------------------------

    def happen(self) -> None:
        """Do something, or more probably nothing; never within itself."""
        if self.is_quiet or getattr(self.local, "depth", 0) > 1:
            return
        dice = getattr(self.local, "dice", self.dice)
        chance = dice.random()
        if chance > 0.12:
            return
        self.local.depth = getattr(self.local, "depth", 0) + 1
        try:
            if chance < 0.01:
                gc.collect(0)
            elif chance < 0.02:
                raise ZeroDivisionError("of a hostile object")
            elif chance < 0.03:
                time.sleep(0)
            else:
                with contextlib.suppress(*EXPECTED):
                    self.step(dice)
        finally:
            self.local.depth -= 1

    def weigh(self, key: object, value: object) -> float:
        self.happen()
        return (hash(value) % 7) / 2 if isinstance(value, (int, str)) else 1.0

    def told(self, *departure: object) -> None:
        self.happen()

    def tell_time(self) -> float:
        self.happen()
        return self.now

    def load(self, key: object) -> object:
        self.happen()
        if hash(key) % 5 == 0:
            raise KeyError(key)
        return Value(self, 1)

    def compute(self, *args: object, **kwargs: object) -> object:
        self.happen()
        return Value(self, 2)

    def compute_named(self, x: object, y: object = 1, *, z: object = None) -> object:
        self.happen()
        if hash(x) % 11 == 0:
            raise ValueError("of the function")
        return Value(self, 3)

    def compute_many(self, keys: list) -> dict:
        self.happen()
        return {key: Value(self, 0) for key in keys if hash(key) % 7 != 0}

    def copied(self, value: object) -> object:
        self.happen()
        return value

    def varied(self) -> object:
        self.happen()
        return self.now // 100

    def lifetime(self, result: object) -> float:
        self.happen()
        return 3.0

    def wanted(self, result: object) -> bool:
        self.happen()
        return True

    def tagged(self, result: object, x: object, y: object = 1, *, z: object = None) -> list:
        self.happen()
        return ["f", Key(self, 2)]

    def key_of(self, x: object, y: object = 1, *, z: object = None) -> object:
        self.happen()
        return x, y

    # --- keys, values, tags -------------------------------------------------------------------------------------------

    def some_key(self, dice: random.Random) -> object:
        n = dice.randrange(KEYS)
        kind = dice.randrange(6)
        if kind == 0:
            return n
        if kind == 1:
            return f"key {n}"
        if kind == 2:
            return float(n)
        if kind == 3:
            return (n, "tuple")
        if kind == 4:
            return dice.randrange(10_000)
        return Key(self, n)

    def some_value(self, dice: random.Random) -> object:
        return dice.choice([1, 2.5, None, "text", [], Value(self, 0), Value(self, 3)])

    def some_ttl(self, dice: random.Random | None = None) -> float | None:
        return (dice or self.dice).choice([None, None, 0.001, 1, 30, float("inf")])

    def some_tags(self, dice: random.Random) -> object:
        return dice.choice(["t", ("t", "u"), [1, 1.0, "v"], (Key(self, 1),), (), [f"tag {dice.randrange(500)}"]])

    # --- what is done -------------------------------------------------------------------------------------------------

    def step(self, dice: random.Random) -> None:
        dice.choice(STEPS)(self, self.cache, dice)

    def run(self, operations: int) -> None:
        faulthandler.enable()
        before = gc.get_threshold(), sys.unraisablehook, sys.getswitchinterval()
        handled = None
        if self.signals and threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
            handled = signal.signal(signal.SIGALRM, self.handle)
        sys.unraisablehook = lambda unraisable: None
        sys.setswitchinterval(1e-5)
        try:
            while operations > 0:
                self.batch(min(operations, BATCH))
                operations -= BATCH
        finally:
            gc.set_threshold(*before[0])
            sys.unraisablehook = before[1]
            sys.setswitchinterval(before[2])
            if handled is not None:
                signal.signal(signal.SIGALRM, handled)

    def handle(self, number: int, frame: object) -> None:
        with contextlib.suppress(*EXPECTED):
            self.step(random.Random(time.perf_counter_ns()))

    def batch(self, operations: int) -> None:
        """That many operations by all threads; then silence, and everything is verified."""
        seeds = [self.dice.random() for _ in range(self.threads)]
        threads = [
            threading.Thread(target=self.work, args=(random.Random(seed), operations // self.threads), daemon=True)
            for seed in seeds[1:]
        ]
        gc.set_threshold(self.threshold, 2, 2)
        self.is_quiet = False
        if self.signals and threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        try:
            for thread in threads:
                thread.start()
            self.work(random.Random(seeds[0]), operations // self.threads)
        finally:
            if self.signals and threading.current_thread() is threading.main_thread():
                signal.setitimer(signal.ITIMER_REAL, 0)
            for thread in threads:
                thread.join(60)
        assert not any(thread.is_alive() for thread in threads), f"seed {self.seed}: a thread hangs"
        self.is_quiet = True
        self.verify()

    def work(self, dice: random.Random, operations: int) -> None:
        self.local.dice = dice
        for _ in range(operations):
            with contextlib.suppress(*EXPECTED):
                self.step(dice)

    def verify(self) -> None:
        gc.set_threshold(700, 10, 10)
        for cache in [self.cache, self.functions, *self.others]:
            cache._check()
            size = cache.max_size
            assert size is None or len(cache) <= size, (self.seed, len(cache), size)
            cache._check()
        self.others.clear()


class Key:
    """A key that Python code compares and hashes; anything may happen meanwhile."""

    def __init__(self, world: World, n: int) -> None:
        self.world = world
        self.n = n

    def __hash__(self) -> int:
        self.world.happen()
        return self.n % 3

    def __eq__(self, other: object) -> bool:
        self.world.happen()
        return isinstance(other, Key) and other.n == self.n

    def __reduce__(self) -> tuple:
        return int, (self.n,)


class Value:
    """A value that uses the cache when it dies. If it refers to itself, the collector decides when that is."""

    def __init__(self, world: World, kind: int) -> None:
        self.world = world
        self.itself = [self] if kind else None

    def __del__(self) -> None:
        with contextlib.suppress(*EXPECTED):
            self.world.happen()

    def __reduce__(self) -> tuple:
        return int, (1,)


def insist(function, *arguments):
    """Call until comparing keys does not raise: a policy that a raising `==` has interrupted would be out of step."""
    while True:
        with contextlib.suppress(ZeroDivisionError):
            return function(*arguments)


class Newest(EvictionPolicy):
    """Evicts the key that came last; keeps its keys in a dict, which compares them."""

    def __init__(self, max_size: int | None = None) -> None:
        super().__init__(max_size)
        self.keys: dict = {}

    def add(self, key: object) -> None:
        insist(self.keys.__setitem__, key, None)

    def remove(self, key: object) -> None:
        insist(self.keys.pop, key, None)

    def access(self, key: object) -> None:
        pass

    def evict(self) -> object:
        return self.keys.popitem()[0] if self.keys else None

    def clear(self) -> None:
        self.keys.clear()

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: object) -> bool:
        return insist(self.keys.__contains__, key)

    def __iter__(self):
        return iter(list(self.keys))


def _keep(world: World, cache: Cache) -> None:
    if len(world.others) < 3:
        world.others.append(cache)


def _compute(world: World, cache: Cache, dice: random.Random) -> None:
    def change(old: object) -> object:
        world.happen()
        return dice.choice([MISSING, 1, old])

    cache.compute(world.some_key(dice), change)


def _iterate(world: World, cache: Cache, dice: random.Random) -> None:
    for _ in dice.choice([cache, cache.keys(), cache.values(), cache.items()]):
        world.happen()


def _advance(world: World, cache: Cache, dice: random.Random) -> None:
    world.now += dice.choice([0.1, 1, 10])


def _use_policy(world: World, cache: Cache, dice: random.Random) -> None:
    if isinstance(cache.policy, EvictionPolicy):
        dice.choice([len, list, repr, lambda it: it.evict() if type(it) is not Newest else None])(cache.policy)


def _control(world: World, cache: Cache, dice: random.Random) -> None:
    """One call of a function with all options on, or one of its wrapper's methods for that call."""
    function = world.everything
    key = world.some_key(dice)
    dice.choice(
        [
            function,
            function,
            function.peek,
            function.refresh,
            function.invalidate,
            function.cache_key,
            lambda *args, **kwargs: function.set(world.some_value(dice), *args, **kwargs),
            lambda *args, **kwargs: function.cache_info(),
        ]
    )(key, **dice.choice([{}, {"y": 1}, {"z": dice.random()}]))


def _control_many(world: World, cache: Cache, dice: random.Random) -> None:
    keys = [world.some_key(dice) for _ in range(3)]
    many = world.many
    dice.choice(
        [many, many, many.peek, many.refresh, many.invalidate, lambda keys: many.set(dict.fromkeys(keys, 1))]
    )(keys)


def _await(world: World, cache: Cache, dice: random.Random) -> None:
    """Begin a coroutine, and leave it where it waits for something: no loop runs here."""
    key = world.some_key(dice)
    coroutine = dice.choice(
        [
            lambda: cache.aget(key),
            lambda: cache.aget_many([key, world.some_key(dice)]),
            lambda: cache.aget_or_set(key, world.compute),
        ]
    )()
    try:
        coroutine.send(None)
    except StopIteration:
        pass
    finally:
        coroutine.close()


def _many(world: World, cache: Cache, dice: random.Random) -> None:
    start = dice.randrange(100)
    cache.update({n: n for n in range(start, start + dice.randrange(300))})


STEPS = [
    *[lambda world, cache, dice: cache.set(world.some_key(dice), world.some_value(dice))] * 6,
    lambda world, cache, dice: cache.set(world.some_key(dice), world.some_value(dice), ttl=world.some_ttl(dice)),
    *[lambda world, cache, dice: cache.set(world.some_key(dice), 1, tags=world.some_tags(dice))] * 3,
    *[lambda world, cache, dice: cache.get(world.some_key(dice))] * 6,
    lambda world, cache, dice: cache[world.some_key(dice)],
    lambda world, cache, dice: cache.delete(world.some_key(dice)),
    lambda world, cache, dice: cache.pop(world.some_key(dice), None),
    lambda world, cache, dice: cache.popitem(),
    lambda world, cache, dice: cache.setdefault(world.some_key(dice), world.some_value(dice)),
    lambda world, cache, dice: world.some_key(dice) in cache,
    lambda world, cache, dice: cache.peek(world.some_key(dice)),
    lambda world, cache, dice: cache.contains(world.some_key(dice)),
    lambda world, cache, dice: cache.entry(world.some_key(dice)),
    lambda world, cache, dice: cache.add(world.some_key(dice), world.some_value(dice), ttl=world.some_ttl(dice)),
    lambda world, cache, dice: cache.add(world.some_key(dice), 1, tags=world.some_tags(dice)),
    lambda world, cache, dice: cache.ttl(world.some_key(dice)),
    lambda world, cache, dice: cache.touch(world.some_key(dice), ttl=world.some_ttl(dice)),
    lambda world, cache, dice: cache.increment(world.some_key(dice), 10**30),
    lambda world, cache, dice: cache.get_or_set(world.some_key(dice), world.compute, ttl=world.some_ttl(dice)),
    lambda world, cache, dice: cache.get_many([world.some_key(dice) for _ in range(4)]),
    lambda world, cache, dice: cache.set_many({world.some_key(dice): 1 for _ in range(4)}, ttl=world.some_ttl(dice)),
    lambda world, cache, dice: cache.delete_many([world.some_key(dice) for _ in range(4)]),
    lambda world, cache, dice: cache.invalidate_tag(dice.choice(["t", "u", 1, Key(world, 1), "f"])),
    lambda world, cache, dice: cache.invalidate_prefix("key 1"),
    lambda world, cache, dice: cache.invalidate_where(lambda key, value: dice.random() < 0.2),
    lambda world, cache, dice: cache.resize(dice.choice([1, 2, 3, 8, 40, 300])),
    lambda world, cache, dice: cache.purge_expired(),
    lambda world, cache, dice: len(cache),
    lambda world, cache, dice: cache.weight,
    lambda world, cache, dice: cache == {},
    lambda world, cache, dice: _keep(world, copy.copy(cache)),
    lambda world, cache, dice: pickle.dumps(cache._export()),
    lambda world, cache, dice: cache._import([(n, 1, 5.0, 2**64 - 1 - n, ("t",)) for n in range(dice.randrange(9))]),
    lambda world, cache, dice: cache.clear() if dice.random() < 0.2 else None,
    lambda world, cache, dice: cache.stats.snapshot(),
    lambda world, cache, dice: world.function(world.some_key(dice)),
    lambda world, cache, dice: world.function(1, x=dice.randrange(9)),
    lambda world, cache, dice: world.function.cache_clear() if dice.random() < 0.1 else None,
    lambda world, cache, dice: cache.warm([world.some_key(dice) for _ in range(3)], world.load, workers=1),
    *[_control] * 4,
    *[_control_many] * 2,
    _await,
    _compute,
    _iterate,
    _advance,
    _use_policy,
    _many,
]


def run(seed: int, operations: int, threads: int | None = None) -> None:
    World(seed, threads).run(operations)


def main() -> None:
    parser = argparse.ArgumentParser(description="Random programs over everything that a cache can do.")
    parser.add_argument("--seed", type=int, help="run this one only")
    parser.add_argument("--seeds", type=int, default=20, help="run those below this number")
    parser.add_argument("--operations", type=int, default=1000, help="of each program")
    parser.add_argument("--threads", type=int, help="as many in each program; otherwise the seed decides")
    chosen = parser.parse_args()
    began = time.perf_counter()
    seeds = range(chosen.seeds) if chosen.seed is None else [chosen.seed]
    for seed in seeds:
        print(f"seed {seed}", flush=True)
        faulthandler.dump_traceback_later(300 + chosen.operations / 100, exit=True)
        run(seed, chosen.operations, chosen.threads)
    faulthandler.cancel_dump_traceback_later()
    seconds = time.perf_counter() - began
    operations = len(seeds) * chosen.operations
    print(f"{operations:,} operations of {len(seeds)} programs in {seconds:.0f} s: all invariants held")


if __name__ == "__main__":
    main()
