"""Growth: the cost of an operation from 10² to 10⁷ entries, with random ints as keys."""

from __future__ import annotations

import os

from bench.peers import DICT, FUNCTOOLS, LRU, ORDERED, RUST
from bench.suite import Group, Topic, cases, play
from bench.workloads import fills, reads, scattered_keys

NAMES = [LRU, DICT, ORDERED, FUNCTOOLS, f"{RUST} LRU"]
LARGEST = [LRU, DICT, f"{RUST} LRU"]            # with 10⁷ entries; the others would take 4 GB more
SIZES = {"10²": 10**2, "10³": 10**3, "10⁴": 10**4, "10⁵": 10**5, "10⁶": 10**6, "10⁷": 10**7}


def too_little_memory():
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return ""                               # no way to know
    return "needs 4 GB of free memory" if free < 4e9 else ""


def grown(work, size):
    """A group for a size; the large ones take seconds per candidate, and are measured once."""
    names = NAMES if size < 10**7 else LARGEST
    once = work is fills and size >= 10**6
    title = next(title for title, each in SIZES.items() if each == size)
    return Group(
        title,
        lambda: work(names, scattered_keys(size)),
        seconds=0.7,
        rounds=(1, 1) if once else (5, 2_000),
        warm_up=not once,
        unfit=too_little_memory if size == 10**7 else lambda: "",
    )


FILL = Topic("growth: filling an empty cache, per entry", NAMES, DICT, [])
FILL.groups += [grown(fills, size) for size in SIZES.values()]
GET = Topic("growth: get, hit", NAMES, DICT, [])
GET.groups += [grown(reads, size) for size in SIZES.values()]

TOPICS = [FILL, GET]


@cases(*TOPICS)
def test_growth(benchmark, topic, group, name):
    play(benchmark, topic, group, name)
