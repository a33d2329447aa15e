"""Operations that change a cache: a new key that evicts another, an overwrite, a delete, and get-or-store on skewed
traces."""

from __future__ import annotations

from bench.peers import DICT, FUNCTOOLS, LRU, ORDERED, OURS, RUST
from bench.suite import Group, Topic, cases, play
from bench.workloads import deletes, inserts, look_aside, overwrites, text_keys, zipf

CACHES = [
    LRU,
    DICT,
    ORDERED,
    FUNCTOOLS,
    f"{RUST} LRU",
    "lru-dict",
    "moka-py LRU",
    "theine W-TinyLFU",
    "cachetools LRU",
]
SIZES = {"10³": 1_000, "10⁵": 100_000}


def insertion(names, size):
    keys = text_keys(size + 200_000)
    return inserts(names, keys[:size], keys[size:])


BOUNDED = [name for name in CACHES if name != DICT]
INSERT = Topic(
    "insert and evict, LRU",
    BOUNDED,
    ORDERED,
    [Group(title, lambda size=size: insertion(BOUNDED, size)) for title, size in SIZES.items()],
    note="theine and moka-py may put off the eviction, or refuse the new key",
)
INSERT_BY_POLICY = [
    Topic(
        f"insert and evict, {policy}",
        names := [f"{peer} {policy}" for peer in (OURS, RUST, "cachetools")],
        f"{OURS} {policy}",
        [
            Group(title, lambda size=size, names=names: insertion(names, size), seconds=0.8)
            for title, size in SIZES.items()
        ],
    )
    for policy in ("FIFO", "LFU")
]
STORED = [name for name in CACHES if name != FUNCTOOLS]
OVERWRITE = Topic(
    "overwrite",
    STORED,
    DICT,
    [Group(title, lambda size=size: overwrites(STORED, text_keys(size))) for title, size in SIZES.items()],
)
DELETE = Topic(
    "delete, until nothing is left",
    STORED,
    DICT,
    [Group("10³", lambda: deletes(STORED, text_keys(1_000)))],
)
ZIPF = Topic(
    "get or store, Zipf trace: 10⁵ keys, a cache of 10⁴",
    BOUNDED,
    FUNCTOOLS,
    [
        Group(f"α = {alpha}", lambda alpha=alpha: look_aside(BOUNDED, zipf(alpha, 100_000, 200_000), 10_000))
        for alpha in (0.7, 0.9, 1.1)
    ],
    note="time alone: policies differ in how many of the gets are hits, and the loading costs nothing here",
)

TOPICS = [INSERT, *INSERT_BY_POLICY, OVERWRITE, DELETE, ZIPF]


@cases(*TOPICS)
def test_changes(benchmark, topic, group, name):
    play(benchmark, topic, group, name)
