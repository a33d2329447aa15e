"""Measurements in a fresh interpreter: bytes per entry, `gc.collect()` with a full cache, and import times."""

from __future__ import annotations

import sys

from bench.peers import DICT, FUNCTOOLS, LRU, ORDERED, OURS, RUST, containers
from bench.processes import collect_candidate, import_candidates, memory_candidate
from bench.suite import Group, Topic, cases, play

CACHES = [
    LRU,
    f"{OURS} LFU",
    f"{LRU}, TTL",
    DICT,
    ORDERED,
    FUNCTOOLS,
    f"{RUST} LRU",
    f"{RUST} TTL",
    "lru-dict",
    "moka-py LRU",
    "theine W-TinyLFU",
    "cachetools LRU",
    "cachetools TTL",
]
MEMORY = Topic(
    "memory: bytes per entry at 10⁶ entries",
    CACHES,
    DICT,
    [
        Group(
            "int keys",
            lambda: [memory_candidate(each.name) for each in containers(*CACHES)],
            rounds=(1, 1),
            warm_up=False,
            unfit=lambda: "" if sys.platform.startswith("linux") else "needs /proc, which only Linux has",
        )
    ],
    unit="bytes",
    note="growth of the process's resident memory; key and value objects are there before and do not count",
)
COLLECTED = [LRU, DICT, ORDERED, f"{RUST} LRU", "lru-dict", "cachetools LRU"]
COLLECTOR = Topic(
    "gc.collect() beside 10⁶ entries",
    COLLECTED,
    DICT,
    [
        Group(
            title,
            lambda values=values: [collect_candidate(each.name, values) for each in containers(*COLLECTED)],
            rounds=(1, 1),
            warm_up=False,
        )
        for title, values in {"values: True": "plain", "values: a list each": "list"}.items()
    ],
    unit="ms",
)
MODULES = ["cachebox", "dataclasses", "functools", "cachetools", "lru", "moka_py", "theine", "async_lru"]
IMPORT = Topic(
    "import, in a fresh interpreter",
    [f"import {name}" for name in MODULES],
    "import dataclasses",
    [Group("beyond its start", lambda: import_candidates(MODULES), seconds=12)],
    unit="ms",
    note="timed inside, so the start of the interpreter is not in it",
)

TOPICS = [MEMORY, COLLECTOR, IMPORT]


@cases(*TOPICS)
def test_processes(benchmark, topic, group, name):
    play(benchmark, topic, group, name)
