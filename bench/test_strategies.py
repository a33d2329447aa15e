"""What strategies cost, as ratios and differences: pytest bench/test_strategies.py -s

The candidates of a comparison take turns, and the best round of each counts: so what disturbs the machine disturbs the
figures least. The bounds are those that the project promises.
"""

from __future__ import annotations

import json
import sqlite3
from time import perf_counter

import pytest

from cachebox import Cache, WriteBehind
from cachebox.strategies import SQLiteStore

KEYS = [f"key {n}" for n in range(1000)]
ROUNDS = 15


def best_of(*candidates, rounds=ROUNDS):
    """The seconds that the best round of each candidate takes; they take turns."""
    best = [float("inf")] * len(candidates)
    for _ in range(rounds):
        for n, candidate in enumerate(candidates):
            began = perf_counter()
            candidate()
            best[n] = min(best[n], perf_counter() - began)
    return best


class Nowhere:
    """A store that takes no time."""

    def load(self, key):
        raise KeyError(key)

    def save(self, key, value):
        pass

    def save_many(self, items):
        pass


def reading(cache, call):
    """A body of its own for each candidate, so that they share no inline caches."""
    source = "def body():\n    for _ in range(20):\n        for key in keys:\n            "
    scope = {"keys": KEYS, "cache": cache}
    exec(source + call, scope)
    return scope["body"]


@pytest.mark.parametrize("call", ["cache[key]", "cache.get(key)"])
def test_a_read_through_hit(call):
    plain, loading = Cache(), Cache(loader=str.upper)
    for cache in (plain, loading):
        cache.update(dict.fromkeys(KEYS, 1))
    a, b = best_of(reading(plain, call), reading(loading, call), rounds=60)
    print(f"\nread-through hit, {call}: {b / a:.2f} × a plain one ({a / 20 / len(KEYS) * 1e9:.0f} ns)")
    assert b <= 1.1 * a


def test_a_hit_that_may_refresh():
    plain, ahead = Cache(default_ttl=1000), Cache(loader=str.upper, default_ttl=1000, refresh_ahead=0.1)
    for cache in (plain, ahead):
        cache.update(dict.fromkeys(KEYS, 1))
    a, b = best_of(reading(plain, "cache[key]"), reading(ahead, "cache[key]"))
    print(f"\nhit of a cache with refresh_ahead: {b / a:.2f} × a hit of one whose entries expire")


def test_a_set_with_write_behind(tmp_path):
    n = len(KEYS)
    plain = Cache()
    options = {"max_delay": 3600, "batch_size": 10**6, "max_queue": 10**6}
    behind = WriteBehind(Cache(), Nowhere(), **options)
    journaled = WriteBehind(Cache(), Nowhere(), journal=tmp_path / "journal", **options)

    def body(target):
        scope = {"keys": KEYS, "target": target}
        exec("def body():\n    for key in keys:\n        target.set(key, 1)", scope)
        return scope["body"]

    a, b, c = best_of(body(plain), body(behind), body(journaled), rounds=40)
    behind.close(), journaled.close()
    b, c = (b - a) / n * 1e6, (c - a) / n * 1e6
    print(f"\nwrite-behind set, over a plain set ({a / n * 1e6:.2f} µs): {b:.2f} µs; with a journal: {c:.2f} µs")
    assert b <= 3 and c <= 30


def test_queued_writes_reach_sqlite(tmp_path):
    items = {f"key {n}": n for n in range(100_000)}
    by_hand, queued = [], []
    for n in range(3):
        connection = sqlite3.connect(tmp_path / f"hand{n}.db")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("CREATE TABLE cachebox (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        began = perf_counter()
        rows = [(json.dumps(key).encode(), json.dumps(value).encode()) for key, value in items.items()]
        with connection:
            connection.executemany(
                "INSERT INTO cachebox VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", rows
            )
        by_hand.append(perf_counter() - began)
        connection.close()
        with (
            SQLiteStore(tmp_path / f"behind{n}.db") as store,
            WriteBehind(Cache(None), store, batch_size=10_000, max_queue=200_000, max_delay=3600) as behind,
        ):
            behind._queue.batch_size = 10**9        # nothing is to go out while the queue fills up
            behind.set_many(items)
            behind._queue.batch_size = 10_000
            began = perf_counter()
            assert behind.flush()
            queued.append(perf_counter() - began)
    share = min(by_hand) / min(queued)
    print(f"\n100,000 queued writes reach sqlite at {share:.0%} of a hand-written executemany ({min(by_hand):.2f} s)")
    assert share >= 0.8
