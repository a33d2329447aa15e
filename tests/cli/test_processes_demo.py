"""``python -m cachebox demo --processes``: real processes, one of them killed, and numbers that add up."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no folders on Windows yet")


def demo(*options):
    done = subprocess.run(
        [sys.executable, "-m", "cachebox", "demo", "--processes", *options], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_four_processes_share_what_they_compute():
    document = json.loads(demo("--json", "--seconds", "2"))
    first, *others = document["processes"]
    assert (first["killed"], [each["killed"] for each in others]) == (True, [False] * 3)
    assert [phase["phase"] for phase in document["phases"]] == ["four processes", "one is killed"]
    for each in document["processes"]:
        assert each["calls"] == each["local_hits"] + each["remote_hits"] + each["misses"] > 0
        assert each["stale_serves"] == 0
    assert sum(phase["calls"] for phase in document["phases"]) == sum(each["calls"] for each in document["processes"])
    sums = document["sums"]
    assert sums["words"] == sums["computations"] - sums["twice"]
    lost = sums["words"] - sums["entries"]
    assert 0 <= sums["twice"] + lost <= 1       # the results that the killed process had computed, and not stored


def test_it_ends_in_a_table():
    text = demo("--seconds", "0.5")
    assert "process 1, killed" in text and "different words" in text
    assert max(map(len, text.splitlines())) <= 120
