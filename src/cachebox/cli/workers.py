"""The processes of a demo: each works through words behind a cache in two tiers, and reports its counters."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time

from cachebox.cli.errors import CommandError

WORKERS = 4
STARTS_IN = 20.0                                # seconds for a process to begin its work
ENDS_IN = 10.0                                  # seconds for a process to end its work
TIERS = ("local_hits", "remote_hits", "stale_serves", "misses")
COUNTERS = (*TIERS, "invalidations", "fills_refused", "errors", "changes", "refused")
Counts = dict[str, int]


class Worker:
    """A working process, and its latest report.

    Args:
        url: the URL of the cache.
        number: its number; it requests words in an order of its own.
        options: further keyword arguments of `worker.main`.
    """

    def __init__(self, url: str, number: int, **options: object) -> None:
        self.number = number
        self.was_killed = False
        self.told: dict[str, object] = dict.fromkeys(COUNTERS, 0)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cachebox.cli.worker", json.dumps({"url": url, "seed": number, **options})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def listen(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):   # the last line of a killed process
            for line in self.process.stdout:
                self.told = json.loads(line)

    def count(self, name: str) -> int:
        return int(str(self.told[name]))

    def kill(self) -> None:
        """Kill it like ``kill -9``: it has no chance to do anything."""
        self.was_killed = True
        self.process.kill()
        self.process.wait()
        self.thread.join(ENDS_IN)

    def close(self) -> None:
        """Let it end, and wait until it has."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(OSError):      # it is gone already
            self.process.stdin.close()
        try:
            self.process.wait(ENDS_IN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.thread.join(5)
        self.process.stdout.close()


class Tally:
    """The sums of all workers' counters, phase by phase."""

    def __init__(self) -> None:
        self.phases: list[Counts] = []
        self.at_start = dict.fromkeys(COUNTERS, 0)

    def now(self, workers: list[Worker]) -> Counts:
        """The counts since the phase began."""
        return {name: sum(worker.count(name) for worker in workers) - self.at_start[name] for name in COUNTERS}

    def end_phase(self, workers: list[Worker]) -> None:
        counted = self.now(workers)
        self.phases.append(counted)
        self.at_start = {name: self.at_start[name] + counted[name] for name in COUNTERS}


def lookups(counted: Counts) -> int:
    """The number of lookups: each counts as one of the tiers."""
    return sum(counted[name] for name in TIERS)


def wait_for_all(workers: list[Worker]) -> None:
    """Wait until each worker has reported. Raises CommandError if one does not start."""
    deadline = time.monotonic() + STARTS_IN
    while not all(worker.count("misses") for worker in workers):
        if time.monotonic() > deadline or any(worker.process.poll() is not None for worker in workers):
            raise CommandError("the worker processes do not start")
        time.sleep(0.02)
