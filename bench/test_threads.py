"""Several threads on one cache at the same time."""

from __future__ import annotations

from bench.peers import DICT, LRU, OURS, RUST
from bench.suite import Group, Topic, cases, play
from bench.threads import CREWS, reads, reads_and_writes

CACHES = [
    LRU,
    f"{OURS} FIFO",
    DICT,
    f"{RUST} LRU",
    "lru-dict",
    "moka-py LRU",
]
GETS = Topic(
    "threads: throughput of gets that hit, of all threads together",
    CACHES,
    DICT,
    [Group(title, lambda count=count: reads(CACHES, count), seconds=3) for title, count in CREWS.items()],
    unit="M/s",
    more=True,
    note="more is better",
)
MIXED = Topic(
    "threads: throughput of nine gets and a set",
    CACHES,
    DICT,
    [Group(title, lambda count=count: reads_and_writes(CACHES, count), seconds=3) for title, count in CREWS.items()],
    unit="M/s",
    more=True,
    note="more is better",
)

TOPICS = [GETS, MIXED]


@cases(*TOPICS)
def test_threads(benchmark, topic, group, name):
    play(benchmark, topic, group, name)
