"""Lifetimes and statistics: what a time to live adds to a hit and to a set, and what counting costs."""

from __future__ import annotations

import functools

import cachebox
from bench.measure import candidate, shuffled
from bench.peers import LRU, RUST
from bench.suite import Group, Topic, cases, play
from bench.workloads import overwrites, reads, text_keys

PAIRS = [
    LRU,
    f"{LRU}, TTL",
    f"{LRU}, TTL, clock=time.monotonic",
    f"{RUST} LRU",
    f"{RUST} TTL",
    "cachetools LRU",
    "cachetools TTL",
    "moka-py LRU",
    "moka-py LRU, TTL",
    "theine W-TinyLFU",
    "theine W-TinyLFU, TTL",
]
TTL = Topic(
    "lifetimes: without and with a time to live of an hour",
    PAIRS,
    LRU,
    [
        Group("get, hit", lambda: reads(PAIRS, text_keys(1_000)), seconds=2),
        Group("overwrite", lambda: overwrites(PAIRS, text_keys(1_000)), seconds=2),
    ],
    note="our default clock may be 4 ms late; the third line reads a precise one in the last second of a lifetime",
)

STATEMENTS = {
    "c.get(key)": "cache.get(key)",
    "c.peek(key), which counts nothing": "cache.peek(key)",
    "c.stats.hits": "cache.stats.hits",
    "c.stats.hit_rate()": "cache.stats.hit_rate()",
    "c.stats.snapshot()": "cache.stats.snapshot()",
    "f.cache_info() of @cached": "ours.cache_info()",
    "f.cache_info() of functools": "functools.cache_info()",
}


def statistics():
    keys = text_keys(1_000)
    cache = cachebox.Cache(1_000)
    cache.update(dict.fromkeys(keys, True))
    names = {"cache": cache, "ours": cachebox.cached(lambda: None), "functools": functools.lru_cache(lambda: None)}
    return [candidate(name, shuffled(keys), statement, **names) for name, statement in STATEMENTS.items()]


STATISTICS = Topic(
    "statistics: counting a hit, and reading the counters",
    list(STATEMENTS),
    "c.peek(key), which counts nothing",
    [Group("one call", statistics)],
    note="get also moves the entry to the end of the order",
)

TOPICS = [TTL, STATISTICS]


@cases(*TOPICS)
def test_lifetimes(benchmark, topic, group, name):
    play(benchmark, topic, group, name)
