"""Hits whose argument equals the stored one but is another object: by type of argument and by shape of the call."""

from __future__ import annotations

from bench.peers import DICT, FUNCTOOLS, LRU, decorators
from bench.suite import Group, Topic, cases, play
from bench.workloads import EQUAL_ARGUMENTS, EQUAL_SHAPES, equal_calls, equal_reads

NAMES = ["@cached", "lru_cache (ours)", FUNCTOOLS]

CALLS = [
    Topic(
        f"decorated function, hit, equal arguments, {shape}",
        NAMES,
        FUNCTOOLS,
        [
            Group(kind, lambda shape=shape, kind=kind: equal_calls(shape, kind, decorators(*NAMES)), seconds=0.4)
            for kind in EQUAL_ARGUMENTS
        ],
        note="a row's largest number is its worst",
    )
    for shape in EQUAL_SHAPES
]
GET = Topic(
    "get, hit, equal keys",
    [LRU, DICT],
    DICT,
    [Group(kind, lambda kind=kind: equal_reads([LRU, DICT], kind), seconds=0.4) for kind in EQUAL_ARGUMENTS],
)

TOPICS = [*CALLS, GET]


@cases(*TOPICS)
def test_equal_arguments(benchmark, topic, group, name):
    play(benchmark, topic, group, name)
