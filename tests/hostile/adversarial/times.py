"""Lifetimes and clocks at the edges of what numbers can be."""

from __future__ import annotations

import datetime
import math
import sys
import threading

from cachebox import Cache
from hostile import OPERATIONS, attempt, kinds

LIFETIMES = [
    5e-324, sys.float_info.min, sys.float_info.epsilon, 1e-9, 0.001, 1, 2**53, 1e18, 1e300,
    sys.float_info.max, math.inf, 10**400, datetime.timedelta.resolution, datetime.timedelta.max,
]
INSTANTS = [
    -math.inf, -sys.float_info.max, -1e300, -1.0, -0.0, 0.0, 5e-324, 1.0, 2**53, 1e300, sys.float_info.max, math.inf,
]


def any_lifetime_at_any_time(policy):
    for instant in INSTANTS:
        for later in INSTANTS:
            now = instant
            cache = Cache(5, policy=policy, clock=lambda: now)
            idling = Cache(5, policy=policy, clock=lambda: now, time_to_idle=LIFETIMES[0], default_ttl=LIFETIMES[8])
            for lifetime in LIFETIMES:
                for each in (cache, idling):
                    each.set(str(lifetime), 1, ttl=lifetime)
                    each.touch(str(lifetime), lifetime)
                    each.get_or_set("loaded", int, ttl=lifetime)
                    each.compute("computed", lambda old: 1)
                    assert len(each) <= 5
            now = later
            for each in (cache, idling):
                each._check()
                for key in list(each):
                    left = each.ttl(key)
                    assert left is None or left > 0
                    each.get(key)
                each.purge_expired()
                each.copy()._check()
                each._check()


def as_defaults(policy):
    for lifetime in LIFETIMES:
        for options in ({"default_ttl": lifetime}, {"time_to_idle": lifetime}):
            cache = Cache(3, policy=policy, **options)
            for operation in OPERATIONS.values():
                for n in range(5):
                    attempt(operation, cache, n, n)
                assert len(cache) <= 3
            cache._check()


def a_clock_that_jumps_about(policy):
    instants = [0, 5, 3, math.inf, -math.inf, 7, 1e308, -1e308, 2]
    for first in range(len(instants)):
        told = iter(instants[first:] + instants * 2000)
        cache = Cache(4, 2, policy, clock=lambda: next(told), time_to_idle=1)
        for operation in OPERATIONS.values():
            for n in range(6):
                attempt(operation, cache, n, n)
        cache._check()


def thousands_of_tiny_ones_under_the_sweeper(policy):
    """Entries that expire at once, in four threads, while the sweeper takes them away."""
    for options in kinds(policy):
        options.pop("clock", None)
        cache = Cache(**options)

        def body(seed, cache=cache):
            for n in range(1500):
                cache.set((seed, n % 10), n, ttl=LIFETIMES[n % 6])
                cache.get((seed, n % 7))
                cache.touch((seed, n % 3), 1e-4)
                assert len(cache) <= 6

        threads = [threading.Thread(target=body, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        cache._check()
