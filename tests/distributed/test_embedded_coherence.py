"""Exact coherence of a folder's first tiers, and what killed writers leave: real processes.

No read finds less than any read or write that returned before it began, in whatever process; and a test that is told to
break the protocol finds that it does.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from coherence_worker import ROOM
from in_threads import LIMIT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no folders on Windows yet")
WORKER = str(Path(__file__).parents[1] / "support" / "coherence_worker.py")
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


@pytest.fixture
def root():
    path = tempfile.mkdtemp(prefix="cachebox-test-", dir=MEMORY)
    yield Path(path)
    shutil.rmtree(path, ignore_errors=True)


class Trial:
    """Two processes that write and two that read."""

    def __init__(self, root: Path, reads: int, broken: str = "", **options):
        self.at = {"url": f"file://{root}/cache", "timeout": 20.0, "on_unavailable": "raise", **options}
        self.path = str(root / "shared")
        Path(self.path).write_bytes(bytes(ROOM))
        self.reads = reads
        self.broken = broken
        self.kills = 0
        self.dice = random.Random(1)

    def start(self, role: str, number: int, n: int) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, WORKER, json.dumps(self.at), self.path, role, str(number), str(n), self.broken],
            stdout=subprocess.PIPE, text=True,
        )
        assert process.stdout.readline() == "ready\n"
        return process

    def run(self, kills: int = 0):
        """Let them work until the readers are done, and kill that many writers meanwhile. Returns what readers saw."""
        writers = [self.start("write", number, 2) for number in range(2)]
        readers = [self.start("read", number, self.reads) for number in range(2)]
        try:
            deadline = time.monotonic() + LIMIT + self.reads / 100 + 5 * kills
            while any(reader.poll() is None for reader in readers) or self.kills < kills:
                assert time.monotonic() < deadline, "the readers do not come to an end"
                time.sleep(self.dice.uniform(0.0, 0.1))
                if self.kills < kills:
                    self.kills += 1
                    number = self.dice.randrange(2)
                    writers[number].send_signal(signal.SIGKILL)
                    writers[number].communicate()
                    writers[number] = self.start("write", number, 2)
            # Not `communicate`: it loses what `readline` has buffered, all of it if a reader was done early.
            counts = [list(map(int, reader.stdout.read().split())) for reader in readers]
            assert [reader.returncode for reader in readers] == [0, 0]
            assert [writer.poll() for writer in writers] == [None, None], "a writer failed"
            return [sum(column) for column in zip(*counts, strict=True)]
        finally:
            for process in (*writers, *readers):
                process.kill()
                process.communicate()


def test_nothing_older_is_ever_read_while_writers_are_killed(root):
    trial = Trial(root, 8_000)
    reads, changes, stale, hits = trial.run(kills=3)
    assert stale == 0
    assert reads == 16_000 and changes > 20 and hits > 500


def test_a_broken_protocol_is_noticed(root):
    _, _, stale, _ = Trial(root, 8_000, "never").run()
    assert stale > 0


@pytest.mark.slow
def test_nothing_older_in_a_million_reads_while_five_hundred_writers_are_killed(root):
    trial = Trial(root, 500_000)
    reads, changes, stale, hits = trial.run(kills=500)
    print(f"{reads} reads, {changes} changes, {stale} stale, {hits} hits, {trial.kills} kills")
    assert stale == 0
    assert reads == 1_000_000 and changes > 2_000 and hits > 100_000


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["before", "after"])
def test_a_protocol_that_tells_only_before_or_only_after_is_noticed(root, broken):
    for _ in range(10):                 # it is a matter of chance
        if Trial(root, 300_000, broken).run()[2]:
            return
    raise AssertionError("nothing older was read")

