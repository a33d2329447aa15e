"""Cached functions with arguments, results and instances that do what they like."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import weakref

from cachebox import Cache, cached, lru_cache
from hostile import EXPECTED, Comparable, DyingKey, Hostile, Key, Value, World, attempt


def deeds_to(function):
    """Things that an argument may do to its function."""
    return {
        "clear": lambda world: function.cache_clear(),
        "call": lambda world: function(0),
        "call otherwise": lambda world: function(1, y=2),
        "call until it is full": lambda world: [function(n) for n in range(10)],
        "invalidate": lambda world: getattr(function, "invalidate", lambda *_: None)(1),
        "clear and fill": lambda world: (function.cache_clear(), function(1), function(1, y=2), function(1, 2)),
        "raise": lambda world: throw(),
        "shrink": lambda world: function.cache.resize(1) if hasattr(function, "cache") else None,
        "collect": lambda world: gc.collect(1),
    }


def throw():
    raise Hostile


def decorations(order):
    yield lambda f: cached(max_size=4, policy=order)(f)
    yield lambda f: cached(max_size=4, policy=order, typed=True, ttl=60)(f)
    yield lambda f: cached(Cache(4, policy=order, on_evict=lambda key, value: None))(f)
    yield lambda f: cached(max_size=4, policy=order, single_flight=False)(f)
    yield lambda f: cached(max_size=4, policy=order, key_func=lambda x=0, y=0: (x, y))(f)
    yield lambda f: lru_cache(4)(f)
    yield lambda f: lru_cache(4, typed=True)(f)
    yield lambda f: lru_cache(None)(f)


def ways_to_call(function, argument):
    yield lambda: function(argument)
    yield lambda: function(x=argument)
    yield lambda: function(1, argument)
    yield lambda: function(1, y=argument)
    yield lambda: function(y=argument, x=argument)
    yield lambda: function(argument, argument)
    if hasattr(function, "invalidate"):
        yield lambda: function.cache_key(argument)
        yield lambda: function.invalidate(argument)
        yield lambda: function.invalidate(1, y=argument)


def arguments_that_do_anything(policy):
    for key_type in (Key, Comparable, DyingKey):
        for decorate in decorations(policy):
            function = decorate(lambda x=0, y=0: [x, y])
            for deed in deeds_to(function).values():
                world = World()
                for n in range(5):
                    function(key_type(world, n))
                    function(1, key_type(world, n))
                    function(1, y=key_type(world, n))
                world.act = deed
                for n in (1, 7):
                    for call in ways_to_call(function, key_type(world, n)):
                        attempt(call)
                world.act = None
                assert function(5) == [5, 0]
                if hasattr(function, "cache"):
                    function.cache._check()
                    assert function.cache.max_size is None or len(function.cache) <= function.cache.max_size


def results_that_do_anything_when_they_die(policy):
    for decorate in decorations(policy):
        world = World()
        function = decorate(lambda x=0, y=0: Value(world))
        for deed in deeds_to(function).values():
            world.act = deed
            for n in range(12):
                for call in ways_to_call(function, n):
                    attempt(call)
            attempt(function.cache_clear)
            world.act = None
            function.cache._check()


def functions_that_do_anything(policy):
    """The function itself clears, invalidates, fills its cache, or comes back to the same call."""
    for decorate in decorations(policy):
        world = World()

        def body(x=0, y=0, world=world):
            world.turn()
            return x

        function = decorate(body)
        for deed in deeds_to(function).values():
            for n in (1, 0, "a"):
                world.act = deed
                for call in ways_to_call(function, n):
                    attempt(call)
                world.act = None
                function(n)
        function.cache._check()


def options_that_do_anything(policy):
    """`condition`, `ttl` and `key_func` that do anything."""
    for name in ("condition", "ttl", "key_func"):
        world = World()

        def ask(*args, world=world, name=name, **kwargs):
            world.turn()
            return {"condition": True, "ttl": 5, "key_func": args}[name]

        function = cached(max_size=4, policy=policy, **{name: ask})(lambda x=0, y=0: x)
        for deed in deeds_to(function).values():
            world.act = deed
            for n in (1, 0, "a"):
                for call in ways_to_call(function, n):
                    attempt(call)
            world.act = None
            function(1)
        function.cache._check()


def instances_that_die_in_the_call(policy):
    """The last reference to the instance goes while its method runs, is looked up, or is being invalidated."""

    class Owner:
        def __init__(self):
            holder[:] = [self]

        @cached(max_size=4, policy=policy)
        def method(self, x, y=0):
            holder.clear()
            return x

        @cached(shared)
        def shared_method(self, x, y=0):
            holder.clear()
            gc.collect(0)
            return x

        def __del__(self):
            died.append(1)
            try:
                self.method(-1)
                self.shared_method(-1)
            except EXPECTED:
                pass

    class Dropping:
        def __hash__(self):
            holder.clear()
            return 1

        def __eq__(self, other):
            holder.clear()
            return True

    holder, died = [], []
    for x in (1, "a", (1, 2), Dropping()):
        for name in ("method", "shared_method"):
            for call in (
                lambda bound, x=x: bound(x),
                lambda bound, x=x: bound(1, y=x),
                lambda bound, x=x: (bound(x), bound(x)),
                lambda bound, x=x: bound.invalidate(x),
                lambda bound, x=x: bound.cache_key(x),
            ):
                Owner()
                call(getattr(holder[0], name))
                holder.clear()
    gc.collect()
    assert len(died) == 40, len(died)
    for cache in (Owner.method.cache, shared):
        cache._check()
    assert len(Owner.method.cache) == 0, list(Owner.method.cache)


shared = Cache(50)


def wrappers_that_die_in_the_call(policy):
    """The wrapper, its cache and the function go while the function runs."""
    for decorate in decorations(policy):
        for argument in (1, (1, 2)):
            holder = []

            def body(x=0, y=0, holder=holder):
                holder.clear()
                gc.collect(0)
                return [x]

            holder.append(decorate(body))
            reference = weakref.ref(holder[0])
            assert holder[0](argument) == [argument]
            assert not holder
            del body
            gc.collect()
            assert reference() is None


def in_threads(policy):
    """Threads call with arguments that are compared slowly, while others clear and resize."""
    for decorate in decorations(policy):
        world = World()
        world.act = lambda world: threading.Event().wait(0)
        function = decorate(lambda x=0, y=0: x)

        def body(seed, world=world, function=function):
            draw = random.Random(seed)
            for _ in range(80):
                function(Comparable(world, draw.randrange(6)))
                function(draw.randrange(6))
                function(1, y=draw.randrange(6))
                if draw.random() < 0.05:
                    function.cache_clear()

        threads = [threading.Thread(target=body, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        function.cache._check()


def coroutines(policy):
    """Async functions whose arguments clear the cache when they are compared; tasks are cancelled at random."""

    async def main():
        world = World()

        @cached(max_size=4, policy=policy)
        async def function(x, y=0):
            await asyncio.sleep(0)
            if draw.random() < 0.2:
                raise Hostile
            return x

        draw = random.Random(1)
        world.act = lambda world: function.cache_clear() if draw.random() < 0.3 else None
        for _ in range(100):
            tasks = [asyncio.ensure_future(function(Comparable(world, draw.randrange(4)))) for _ in range(8)]
            await asyncio.sleep(0)
            for task in tasks:
                if draw.random() < 0.3:
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        world.act = None
        function.cache._check()
        assert len(function.cache) <= 4

    asyncio.run(main())
