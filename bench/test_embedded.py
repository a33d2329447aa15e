"""Two tiers without a server, compared with diskcache: values in a folder of this machine.

Every hit of our first tier is checked against the folder's counters; diskcache has no first tier.
"""

from __future__ import annotations

from bench import folders
from bench.suite import Group, Topic, cases, play
from bench.tiers import OURS

FIRST = Topic(
    "without a server: a hit in the first tier, exactly coherent",
    ["Cache", OURS],
    "Cache",
    [Group("get", folders.first_tier)],
)
SECOND = Topic(
    "without a server: values in a folder",
    [OURS, folders.DISKCACHE],
    folders.DISKCACHE,
    [
        Group("get", folders.gets, seconds=3),
        Group("set", folders.sets, seconds=3),
        Group("get_many(1000)", folders.many_gets, seconds=3),
        Group("set_many(1000)", folders.many_sets, seconds=3),
    ],
    unit="µs",
)

TOPICS = [FIRST, SECOND]


@cases(*TOPICS)
def test_embedded(benchmark, topic, group, name):
    play(benchmark, topic, group, name)
