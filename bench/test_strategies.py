"""The cost of strategies: hits of caches that load and refresh, write-behind sets, and draining a queue."""

from __future__ import annotations

import json
import sqlite3
import tempfile
import weakref
from pathlib import Path
from time import perf_counter

from bench.measure import Candidate, candidate, shuffled
from bench.suite import Group, Topic, cases, play
from bench.workloads import text_keys
from cachebox import Cache, WriteBehind
from cachebox.strategies import SQLiteStore

KEYS = text_keys(1_000)
ROWS = 100_000
CACHES = {
    "Cache()": {},
    "Cache(loader=f)": {"loader": str.upper},
    "Cache(default_ttl=3600)": {"default_ttl": 3600},
    "Cache(loader=f, default_ttl=3600)": {"loader": str.upper, "default_ttl": 3600},
    "Cache(…, refresh_ahead=0.1)": {"loader": str.upper, "default_ttl": 3600, "refresh_ahead": 0.1},
}


class Nowhere:
    """A store that takes no time."""

    def load(self, key):
        raise KeyError(key)

    def save(self, key, value):
        pass

    def save_many(self, items):
        pass


def hits(statement):
    made = []
    for name, options in CACHES.items():
        cache = Cache(2_000, **options)
        cache.update(dict.fromkeys(KEYS, True))
        made.append(candidate(name, shuffled(KEYS), statement, cache=cache))
    return made


HITS = Topic(
    "strategies: a hit of a cache that may load",
    list(CACHES),
    "Cache()",
    [Group(text, lambda text=text: hits(text)) for text in ("cache.get(key)", "cache[key]")],
)


def sets():
    """Writes of a thousand keys over and over; the store gets none of them meanwhile."""
    folder = tempfile.TemporaryDirectory(prefix="cachebox-bench-")
    later = {"max_delay": 1e6, "batch_size": 10**6, "max_queue": 10**6}
    targets = {
        "Cache": Cache(2_000),
        "WriteBehind": WriteBehind(Cache(2_000), Nowhere(), **later),
        "WriteBehind, journal": WriteBehind(Cache(2_000), Nowhere(), journal=Path(folder.name, "journal"), **later),
    }
    made = [candidate(name, shuffled(KEYS), "target.set(key, True)", target=target) for name, target in targets.items()]
    weakref.finalize(targets["Cache"], end, [target for name, target in targets.items() if name != "Cache"], folder)
    return made


def end(targets, folder):
    for target in targets:
        target.close()
    folder.cleanup()


SETS = Topic(
    "strategies: a set that is written behind",
    ["Cache", "WriteBehind", "WriteBehind, journal"],
    "Cache",
    [Group("set(key, value)", sets)],
    note="the journal is handed to the operating system with every set, and to the disk as its documentation says",
)


def by_hand():
    """Seconds per row of one executemany."""
    with tempfile.TemporaryDirectory(prefix="cachebox-bench-") as folder:
        connection = sqlite3.connect(Path(folder, "hand.db"))
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("CREATE TABLE cachebox (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        start = perf_counter()
        rows = [(json.dumps(f"key {n}").encode(), json.dumps(n).encode()) for n in range(ROWS)]
        with connection:
            connection.executemany(
                "INSERT INTO cachebox VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", rows
            )
        seconds = perf_counter() - start
        connection.close()
    return seconds / ROWS


def queued():
    """Seconds per row of draining a queue that is full when the clock starts."""
    with (
        tempfile.TemporaryDirectory(prefix="cachebox-bench-") as folder,
        SQLiteStore(Path(folder, "behind.db")) as store,
        WriteBehind(Cache(None), store, batch_size=10_000, max_queue=200_000, max_delay=1e6) as behind,
    ):
        behind._queue.batch_size = 10**9                # nothing must go out while the queue fills up
        behind.set_many({f"key {n}": n for n in range(ROWS)})
        behind._queue.batch_size = 10_000
        start = perf_counter()
        assert behind.flush()
        return (perf_counter() - start) / ROWS


DRAINED = Topic(
    "strategies: rows that reach sqlite",
    ["executemany by hand", "WriteBehind, SQLiteStore"],
    "executemany by hand",
    [
        Group(
            f"{ROWS:,} rows",
            lambda: [Candidate("executemany by hand", by_hand), Candidate("WriteBehind, SQLiteStore", queued)],
            rounds=(4, 10),
            seconds=3,
        )
    ],
    unit="µs",
)

TOPICS = [HITS, SETS, DRAINED]


@cases(*TOPICS)
def test_strategies(benchmark, topic, group, name):
    play(benchmark, topic, group, name)
