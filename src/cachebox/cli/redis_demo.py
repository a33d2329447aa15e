"""``python -m cachebox demo --redis``: four processes share results through a real server, which is killed meanwhile.

The demo starts the server (`redis_server`) and stops it at the end.
"""

import json
import os
import sys
import time

from cachebox.cli.errors import CommandError
from cachebox.cli.redis_server import Server, find_server
from cachebox.cli.terminal import Progress, Screen
from cachebox.cli.workers import WORKERS, Counts, Tally, Worker, lookups, wait_for_all

KILLED_AT, STARTED_AT = 0.4, 0.65               # shares of the whole time
PHASES = ("the server runs", "the server is dead", "it is back")
TIERS = {"local": "local_hits", "server": "remote_hits", "stale": "stale_serves", "missed": "misses"}
CHANGES = 0.01                                  # the share of calls that are followed by a change: one in a hundred
TIMEOUT = 0.2                                   # seconds
JSON_VERSION = 1


def share(counted: Counts, tier: str) -> float:
    whole = lookups(counted)
    return counted[TIERS[tier]] / whole if whole else 0.0


def run(seconds: float, as_json: bool) -> int:
    try:
        from cachebox import DistributedCache

        DistributedCache().close()              # connects to nothing, but reports a missing library
    except ImportError as error:
        raise CommandError(str(error)) from error
    server = Server(find_server())
    workers: list[Worker] = []
    tally = Tally()
    recovered = None
    try:
        server.start()
        url = f"redis://127.0.0.1:{server.port}"
        workers += [Worker(url, number, timeout=TIMEOUT, changes=CHANGES) for number in range(WORKERS)]
        with Progress() as progress:            # type: ignore[no-untyped-call,unused-ignore]
            wait_for_all(workers)
            begun = time.monotonic()
            while (done := (time.monotonic() - begun) / seconds) < 1.0:
                if len(tally.phases) == 0 and done >= KILLED_AT:
                    tally.end_phase(workers)
                    server.kill()
                elif len(tally.phases) == 1 and done >= STARTED_AT:
                    tally.end_phase(workers)
                    server.start()
                    started = time.monotonic()
                elif len(tally.phases) == 2 and recovered is None and tally.now(workers)["remote_hits"] > 0:
                    recovered = time.monotonic() - started
                progress.show(done, news(tally.now(workers), PHASES[len(tally.phases)]))
                time.sleep(0.05)
        tally.end_phase(workers)
    finally:
        for worker in workers:
            worker.close()
        server.close()
    if as_json:
        json.dump(as_document(tally, server, recovered), sys.stdout, indent=2)
        print()
    else:
        for line in as_text(tally, server, recovered, Screen(sys.stdout)):    # type: ignore[no-untyped-call,unused-ignore]
            print(line.rstrip())
    return 0


def news(counted: Counts, phase: str) -> str:
    tiers = ", ".join(f"{tier} {share(counted, tier):.0%}" for tier in TIERS)
    return f"{phase}: {lookups(counted):,} calls, {tiers}; {counted['invalidations']:,} invalidations"


def as_document(tally: Tally, server: Server, recovered: float | None) -> dict[str, object]:
    """The result for machines."""
    from cachebox import __version__

    return {
        "version": JSON_VERSION,
        "cachebox": __version__,
        "server": os.path.basename(server.binary),
        "processes": WORKERS,
        "recovered_seconds": recovered,
        "phases": [
            {"phase": phase, "calls": lookups(counted), **counted}
            for phase, counted in zip(PHASES, tally.phases, strict=True)
        ],
    }


def as_text(tally: Tally, server: Server, recovered: float | None, screen: Screen):  # type: ignore[no-untyped-def]
    """The result for people, line by line."""
    titles = {"phase": 18, "calls": 9, **dict.fromkeys(TIERS, 8), "messages": 9, "refused": 8}
    yield ""
    yield "  " + screen.bold("CacheBox demo: one cache, four processes, one server")
    yield ""
    yield f"  {WORKERS} processes share results through {os.path.basename(server.binary)}, each with a first tier of"
    yield "  500 entries. Now and then one of them invalidates a result, for all. The server is killed and restarted."
    yield ""
    yield "  " + screen.bold("  ".join(t.ljust(w) if t == "phase" else t.rjust(w) for t, w in titles.items()))
    for phase, counted in zip(PHASES, tally.phases, strict=True):
        cells = {"phase": phase, "calls": f"{lookups(counted):,}"}
        cells.update({tier: f"{share(counted, tier):.1%}" for tier in TIERS})
        cells["messages"] = f"{counted['invalidations']:,}"
        cells["refused"] = f"{counted['refused']:,}"
        line = "  ".join(cells[t].ljust(w) if t == "phase" else cells[t].rjust(w) for t, w in titles.items())
        yield "  " + (screen.dim(line) if "dead" in phase else line)
    yield ""
    yield "  local: first tier; server: second; stale: first tier while the server was dead; messages: entries of"
    yield "  first tiers dropped because another process changed them; refused: changes that the dead server refused."
    if recovered is not None:
        yield f"  {screen.green(f'The server served again {recovered:.1f} s after its restart.')}"
