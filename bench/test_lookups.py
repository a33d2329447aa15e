"""A hit in a full cache: by type of key, by number of entries, and with `c[k]`."""

from __future__ import annotations

from bench.peers import DICT, FUNCTOOLS, LRU, ORDERED, OURS, RUST
from bench.suite import Group, Topic, cases, play
from bench.workloads import KEYS, reads, text_keys

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
SIZES = {"10³": 1_000, "10⁴": 10_000, "10⁵": 100_000, "10⁶": 1_000_000}

BY_SIZE = Topic(
    "get, hit, str keys, by number of entries",
    CACHES,
    DICT,
    [Group(title, lambda size=size: reads(CACHES, text_keys(size))) for title, size in SIZES.items()],
)
BY_KEY = Topic(
    "get, hit, by type of key",
    CACHES,
    DICT,
    [
        Group(f"{kind} {title}", lambda kind=kind, size=SIZES[title]: reads(CACHES, KEYS[kind](size)))
        for kind, titles in {"int": ("10³", "10⁶"), "tuple": ("10³", "10⁵"), "object": ("10³", "10⁵")}.items()
        for title in titles
    ],
    note="object: of a class with __hash__ and __eq__ in Python",
)
EQUAL = Topic(
    "get, hit, str keys that are equal to the stored ones but other objects",
    CACHES,
    DICT,
    [
        Group(title, lambda size=SIZES[title]: reads(CACHES, text_keys(size), asked=text_keys(size)))
        for title in ("10³", "10⁵")
    ],
)
OUR_POLICIES = [f"{OURS} {policy}" for policy in ("LRU", "LFU", "FIFO")]
BY_POLICY = Topic(
    "get, hit, str keys, by policy",
    [*OUR_POLICIES, DICT, *(f"{peer} {policy}" for peer in (RUST, "cachetools") for policy in ("LRU", "LFU", "FIFO"))],
    DICT,
    [],
)
BY_POLICY.groups += [Group("10³", lambda: reads(BY_POLICY.names, text_keys(1_000)), seconds=2)]
ITEM = Topic("c[k], hit, str keys", [*CACHES], DICT, [Group("10³", lambda: reads(CACHES, text_keys(1_000), "item"))])

TOPICS = [BY_SIZE, BY_KEY, EQUAL, BY_POLICY, ITEM]


@cases(*TOPICS)
def test_lookups(benchmark, topic, group, name):
    play(benchmark, topic, group, name)
