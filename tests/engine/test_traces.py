"""LRU, LFU and FIFO reach the known hit ratios of real request traces, to all six digits.

A request is a `get`, and a miss is followed by a `set`. The traces lie next to the repository, and are no part of it.
"""

from __future__ import annotations

import array
import csv
import functools
import gzip
from pathlib import Path

import pytest

from cachebox import Cache
from conftest import PythonFIFO

TRACES = Path(__file__).resolve().parents[3] / "shared" / "traces"
ROWS = {"LRU": "LRU", "FIFO": "FIFO", "LFU(tie=LRU)": "LFU"}


def references() -> list:
    """Trace, size, policy and hit ratio of every row that has one right answer."""
    if not (TRACES / "reference_hit_ratios.csv").exists():
        return []
    with open(TRACES / "reference_hit_ratios.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["policy"] in ROWS]
    return sorted({(row["trace"], int(row["size"]), ROWS[row["policy"]], row["hit_ratio"]) for row in rows})


@functools.lru_cache(maxsize=1)
def requests(trace: str) -> list[int]:
    keys = array.array("Q")
    with gzip.open(TRACES / f"{trace}.u64.gz") as file:
        keys.frombytes(file.read())
    return keys.tolist()


def hit_ratio(trace: str, cache: Cache) -> str:
    for key in requests(trace):
        if cache.get(key) is None:
            cache.set(key, True)
    assert cache.stats.hits + cache.stats.misses == len(requests(trace))
    return f"{cache.stats.hit_rate():.6f}"


absent = pytest.mark.skipif(not references(), reason="the traces are not here: ../shared/traces, beside the repository")


@absent
@pytest.mark.parametrize("trace, size, policy, expected", references() or [("none", 1, "LRU", "0")])
def test_the_hit_ratio_is_the_known_one(trace, size, policy, expected):
    assert hit_ratio(trace, Cache(size, policy=policy)) == expected


class LRUInPython(PythonFIFO):
    """LRU, as a user would write it."""

    def access(self, key):
        self.order[key] = self.order.pop(key)


@absent
@pytest.mark.parametrize("trace", ["lirs_gli", "lirs_multi3"])
def test_a_policy_written_in_python_reaches_it_too(trace):
    sizes = {size: expected for name, size, policy, expected in references() if (name, policy) == (trace, "LRU")}
    for size, expected in sizes.items():
        assert hit_ratio(trace, Cache(size, policy=LRUInPython)) == expected
