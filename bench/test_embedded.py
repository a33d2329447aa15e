"""Two tiers without a server, compared with packages that keep values in a folder of this machine.

Every hit of our first tier is checked against the folder's counters; the others have no first tier.
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
BOTH = [OURS, folders.DISKCACHE]
SECOND = Topic(
    "without a server: values in a folder",
    [*BOTH, folders.SQLITEDICT, folders.JOBLIB, folders.SERVER],
    folders.DISKCACHE,
    [
        Group("get", folders.gets, seconds=3),
        Group("set", folders.sets, seconds=3),
        Group("get_many(1000)", folders.many_gets, seconds=3),
        Group("set_many(1000)", folders.many_sets, seconds=3),
    ],
    unit="µs",
    note="joblib keeps results of functions, each in a file; with a server, its own time counts, too",
)
WRITERS = Topic(
    "without a server: time per write of several processes together",
    BOTH,
    folders.DISKCACHE,
    [
        Group(f"{n} processes", lambda n=n: folders.writers(n), rounds=(3, 3), warm_up=False, seconds=6)
        for n in (1, 2, 4)
    ],
    unit="µs",
)
SIZES = Topic(
    "without a server: bytes on the disk per entry, 10⁶ entries",
    BOTH,
    folders.DISKCACHE,
    [Group("keys and values included", folders.bytes_per_entry, rounds=(1, 1), warm_up=False)],
    unit="bytes",
)
OPENINGS = Topic(
    "without a server: opening a folder with 10⁶ entries, and the first get",
    BOTH,
    folders.DISKCACHE,
    [Group("in a fresh process", folders.openings, rounds=(5, 5), warm_up=False)],
    unit="ms",
    note="without the import",
)

TOPICS = [FIRST, SECOND, WRITERS, SIZES, OPENINGS]


@cases(*TOPICS)
def test_embedded(benchmark, topic, group, name):
    play(benchmark, topic, group, name)
