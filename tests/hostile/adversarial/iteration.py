"""Iterating while the cache changes: over a snapshot, so no change is seen, and none is an error."""

from __future__ import annotations

import sys
import threading

from cachebox import Cache
from hostile import DEEDS, World, attempt, kinds


def while_the_loop_changes_it(policy):
    for deed in DEEDS.values():
        for options in kinds(policy):
            for view in (iter, Cache.keys, Cache.values, Cache.items, dict, list):
                world = World(**options)
                world.cache.update(dict.fromkeys("abcdef", 1))
                world.act = deed
                number = len(world.cache)
                seen = 0
                for _ in view(world.cache):
                    seen += 1
                    attempt(world.turn)
                assert seen == number, (seen, number)
                world.verify()


def while_threads_change_it(policy):
    sys.setswitchinterval(0.0005)           # else this thread waits for its turn most of the time
    for options in kinds(policy):
        cache = Cache(**options)
        ended = threading.Event()

        def change(n, cache=cache, ended=ended):
            number = 0
            while not ended.is_set():
                number += 1
                cache.set((n, number % 10), number, ttl=0.01 if n else None)
                cache.pop((n, number % 4), None)
                if number % 100 == 0:
                    cache.clear()
                    cache.resize(6)

        threads = [threading.Thread(target=change, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(150):
                assert len(list(cache)) <= 6
                assert len(list(cache.items())) <= 6
                assert len(list(cache.values())) <= 6
                assert cache != []
                cache.__eq__({})
                cache.copy()
                assert len(cache) <= 6
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        cache._check()
