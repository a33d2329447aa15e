"""``python -m cachebox demo --processes``: four processes share results in a folder, and one of them is killed.

Every computed word is also written to a log. So computations are counted twice: by the log, and by the folder's entries
in the end. The processes count their misses. Each miss was computed, or waited for while another process computed the
word.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from cachebox.cli.errors import CommandError
from cachebox.cli.terminal import Progress, Screen
from cachebox.cli.workers import WORKERS, Counts, Tally, Worker, lookups, wait_for_all

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Iterator

KILLED_AT = 0.5                                 # share of the whole time
PHASES = ("four processes", "one is killed")
TIERS = {"first tier": "local_hits", "folder": "remote_hits", "missed": "misses"}
TIMEOUT = 10.0                                  # seconds; even on a busy machine a process waits for its turn to write
JSON_VERSION = 1


@dataclass
class Sums:
    """The sums that must agree in the end."""

    computations: int                           # by the log
    words: int                                  # different ones in the log
    entries: int                                # in the folder

    @property
    def twice(self) -> int:
        """How many computations repeated a word: at most one, if the killed process was computing it."""
        return self.computations - self.words


def run(seconds: float, as_json: bool) -> int:
    folder = tempfile.mkdtemp(prefix="cachebox-demo-")
    log = Path(folder, "computed")
    log.touch()
    url = Path(folder, "cache").as_uri()
    workers: list[Worker] = []
    tally = Tally()
    try:
        check(url)
        workers += [Worker(url, number, timeout=TIMEOUT, log=os.fspath(log)) for number in range(1, WORKERS + 1)]
        with Progress() as progress:
            wait_for_all(workers)
            begun = time.monotonic()
            while (done := (time.monotonic() - begun) / seconds) < 1.0:
                if not tally.phases and done >= KILLED_AT:
                    workers[0].kill()
                    tally.end_phase(workers)
                progress.show(done, news(tally.now(workers), PHASES[len(tally.phases)]))
                time.sleep(0.05)
        for worker in workers:
            worker.close()
        tally.end_phase(workers)
        words = log.read_text(encoding="utf-8").splitlines()
        sums = Sums(len(words), len(set(words)), entries(os.path.join(folder, "cache")))
    finally:
        for worker in workers:
            worker.close()
        shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        json.dump(as_document(tally, workers, sums), sys.stdout, indent=2)
        print()
    else:
        for line in as_text(tally, workers, sums, Screen(sys.stdout)):
            print(line.rstrip())
    return 0


def check(url: str) -> None:
    """Raise CommandError if the second tier cannot be a folder."""
    from cachebox import DistributedCache

    try:
        DistributedCache(url=url, namespace="cachebox-demo").close()
    except (NotImplementedError, OSError, ValueError) as error:
        raise CommandError(f"no cache in a folder here: {error}") from error


def entries(path: str) -> int:
    """The number of entries in the folder."""
    from cachebox.distributed._embedded.survey import survey

    return sum(int(each["entries"]) for each in survey(path))


def news(counted: Counts, phase: str) -> str:
    tiers = ", ".join(f"{counted[counter]:,} {tier}" for tier, counter in TIERS.items())
    return f"{phase}: {lookups(counted):,} calls: {tiers}"


def as_document(tally: Tally, workers: list[Worker], sums: Sums) -> dict[str, object]:
    """The result for machines."""
    from cachebox import __version__

    return {
        "version": JSON_VERSION,
        "cachebox": __version__,
        "phases": [
            {"phase": phase, "calls": lookups(counted), **counted}
            for phase, counted in zip(PHASES, tally.phases, strict=True)
        ],
        "processes": [
            {"process": each.number, "killed": each.was_killed, "calls": lookups(counted(each)), **counted(each)}
            for each in workers
        ],
        "sums": {**asdict(sums), "twice": sums.twice},
    }


def counted(worker: Worker) -> Counts:
    return {name: worker.count(name) for name in ("stale_serves", *TIERS.values())}


def as_text(tally: Tally, workers: list[Worker], sums: Sums, screen: Screen) -> Iterator[str]:
    """The result for people, line by line."""
    rows = [(phase, each) for phase, each in zip(PHASES, tally.phases, strict=True)]
    rows += [(f"process {each.number}{', killed' * each.was_killed}", counted(each)) for each in workers]
    yield ""
    yield "  " + screen.bold("CacheBox demo: one cache, four processes, no server")
    yield ""
    yield f"  {WORKERS} processes share a function's results in a folder, each with a first tier of 500 entries. One"
    yield "  is killed with kill -9 in the middle of its work."
    yield ""
    titles = {"": 18, "calls": 10, **dict.fromkeys(TIERS, 11)}
    yield "  " + screen.bold("  ".join(title.rjust(width) if title else " " * width for title, width in titles.items()))
    for number, (name, counts) in enumerate(rows):
        if number == len(PHASES):
            yield ""
        cells = [f"{lookups(counts):,}".rjust(10), *(f"{counts[counter]:,}".rjust(11) for counter in TIERS.values())]
        line = "  ".join([name.ljust(18), *cells])
        yield "  " + (screen.dim(line) if "killed" in name and number >= len(PHASES) else line)
    yield ""
    again = "none twice" if not sums.twice else f"{sums.twice} twice, because of the process that was killed"
    lost = f"; {sums.words - sums.entries} was computed and not stored any more" if sums.words > sums.entries else ""
    yield f"  {screen.green(f'{sums.computations:,} computations of {sums.words:,} different words: {again}.')}"
    yield f"  The folder holds {sums.entries:,} results{lost}. What the killed process had computed is"
    yield "  among them; it had no chance to tell what it counted last."
