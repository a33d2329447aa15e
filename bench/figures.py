"""The target figures of the cache: each is a measurement, the peer that it is compared with, and the values to reach.

    python -m bench.figures                         all of them; some three minutes
    python -m bench.figures --only get,calls        some groups
    python -m bench.figures --seconds 3             longer for each group (default: 1)
    python -m bench.figures --list

`must` is what a release has to reach, `moonshot` an ambitious goal. Newer interpreters are optimised builds with a
faster dict and functools; a second pair, if given, has their targets.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench import further, measure, peers, processes, threads
from bench.measure import Timing, interleave
from bench.peers import DICT, FREE_THREADED, FUNCTOOLS, LRU, OURS, POLICIES, RUST, decorators
from bench.workloads import async_calls, calls, inserts, method_calls, missed_calls, number_keys, reads, text_keys

RUST_LRU = f"{RUST} LRU"
Values = dict[str, float]
Pair = tuple[float, float]


# --- what is measured -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """One line of the table: a ratio, or bytes. Less is better, unless `more` is set."""

    group: str
    name: str                       # of the line within its group, as the measuring functions return it
    path: str
    against: str
    targets: Pair | None            # must, moonshot: on 3.13 and older
    newer: Pair | None = None       # the same on 3.14 and newer
    more: bool = False
    free_threaded: bool = False

    def goal(self, version: tuple[int, int], free_threaded: bool) -> Pair | None:
        """The targets for this interpreter, if there are any."""
        if free_threaded != self.free_threaded:
            return None
        return self.newer if version >= (3, 14) else self.targets

    def verdict(self, value: float, goal: Pair | None) -> str:
        if goal is None:
            return "–"
        must, moonshot = (-each if self.more else each for each in goal)
        value = -value if self.more else value
        return "moonshot" if value <= moonshot else "must" if value <= must else "missed"


FIGURES = [
    Figure("get", "10³ str", "LRU `get` hit, 10³ str", "dict.get", (1.20, 1.05), (1.30, 1.08)),
    Figure("get", "10³ int", "LRU `get` hit, 10³ int", "dict.get", (1.40, 1.15), (1.30, 1.08)),
    Figure("get", "LFU", "LFU `get` hit, 10³ str", "dict.get", (1.40, 1.15)),
    Figure("get", "FIFO", "FIFO `get` hit, 10³ str", "dict.get", (1.15, 1.00)),
    Figure("get", "Rust 10³", "LRU `get` hit, 10³ str", "Rust cachebox", (0.80, 0.65), (0.65, 0.50)),
    Figure("item", "c[k]", "LRU `c[k]`, 10³ str", "`d[k]`", None, (1.10, 0.95)),
    Figure("big", "10⁶ str", "LRU `get` hit, 10⁶ str", "dict.get", (1.00, 0.85)),
    Figure("big", "10⁶ int", "LRU `get` hit, 10⁶ int", "dict.get", (1.20, 1.05)),
    Figure("big", "Rust 10⁶", "LRU `get` hit, 10⁶ str", "Rust cachebox", (0.65, 0.55)),
    Figure("calls", "1 argument", "`@cached` hit, 1 argument", "functools.lru_cache", (0.58, 0.48), (0.68, 0.55)),
    Figure("calls", "2 arguments", "`@cached` hit, 2 arguments", "functools.lru_cache", (0.52, 0.42)),
    Figure("calls", "keyword", "`@cached` hit, keyword", "functools.lru_cache", (0.40, 0.28), (0.45, 0.35)),
    Figure("calls", "method", "`@cached` hit, method", "functools.lru_cache", (0.60, 0.45), (0.65, 0.52)),
    Figure("calls", "no argument", "`@cached` hit, no argument", "functools.lru_cache", (0.57, 0.45)),
    Figure("calls", "lru_cache", "`lru_cache` hit, 1 argument", "functools.lru_cache", (0.52, 0.45)),
    Figure("async", "async", "async `@cached` hit", "async-lru", (0.50, 0.25)),
    *(
        Figure("insert", f"{size} {kind} {policy}", f"insert+evict {size} {kind}, {policy}", "Rust cachebox", targets)
        for size, policy, targets in [
            ("10³", "LRU", (0.95, 0.80)),
            ("10³", "FIFO", (0.90, 0.75)),
            ("10³", "LFU", (0.50, 0.38)),
            ("10⁵", "LRU", (0.60, 0.44)),
            ("10⁵", "FIFO", (0.60, 0.44)),
            ("10⁵", "LFU", (0.25, 0.16)),
        ]
        for kind in ("str", "int")
    ),
    Figure("miss", "miss", "`@cached` miss less the call itself", "functools.lru_cache", (0.75, 0.60)),
    Figure("ttl", "default clock", "`get` with a TTL, clock up to 4 ms late", "without a TTL", (1.2, 1.05)),
    Figure("ttl", "time.monotonic", "`get` with a TTL, `clock=time.monotonic`", "without a TTL", (1.8, 1.1)),
    Figure("memory", "no TTL", "bytes per entry at 10⁶, LRU (int keys)", "dict {dict:.0f}", (52, 46)),
    Figure("memory", "TTL", "bytes per entry at 10⁶, LRU with a TTL (int keys)", "dict {dict:.0f}", (68, 60)),
    Figure("gc", "plain", "`gc.collect()` with 10⁶ entries, plain values", "dict", (1.3, 1.05)),
    Figure("gc", "list", "`gc.collect()` with 10⁶ entries, each value a list", "dict", (1.3, 1.05)),
    Figure("import", "import", "`import cachebox`", "import dataclasses", (1.5, 0.5)),
    Figure("bulk", "update, new", "`update` of 1,000 new keys", "loop of `set`", (0.9, 0.5)),
    Figure("bulk", "set_many, new", "`set_many` of 1,000 new keys", "loop of `set`", (0.9, 0.5)),
    Figure("bulk", "update, present", "`update` of 1,000 keys", "loop of `set`", (0.9, 0.5)),
    Figure("bulk", "set_many, present", "`set_many` of 1,000 keys", "loop of `set`", (0.9, 0.5)),
    Figure("bulk", "update, new, Rust", "`update` of 1,000 new keys", "Rust cachebox", (0.95, 0.6)),
    Figure("bulk", "update, present, Rust", "`update` of 1,000 keys", "Rust cachebox", (0.95, 0.6)),
    Figure("bulk", "get_many", "`get_many` of 1,000 keys", "loop of `get`", (0.85, 0.6)),
    Figure("bulk", "delete_many", "`delete_many` of 1,000 keys", "loop of `delete`", (0.85, 0.6)),
    Figure("sets", "ttl int", "`set(k, v, ttl=60)`", "`set` with `default_ttl`", (1.25, 1.1)),
    Figure("sets", "ttl float", "`set(k, v, ttl=60.5)`", "`set` with `default_ttl`", (1.25, 1.1)),
    Figure("sets", "ttl timedelta", "`set(k, v, ttl=timedelta)`", "`set` with `default_ttl`", (2, 1.1)),
    Figure("sets", "default_ttl", "`set` with `default_ttl`, overwrite", "`set` without", (1.9, 1.3)),
    Figure("sets", "touch", "`touch`", "`set` with `default_ttl`", (1.0, 0.7)),
    Figure("sets", "tag", "`set` with one tag, overwrite", "`set` without", (6, 3)),
    Figure("sets", "weigher", "`set` with a weigher", "`set` and the call", (2, 1.3)),
    Figure("sets", "on_removal", "`set` with `on_removal`", "`set` and the call", (2, 1.3)),
    Figure("gets", "LFU str", "LFU `get` hit, 10³ str", "dict.get", (1.15, 1.0)),
    Figure("gets", "LFU int", "LFU `get` hit, 10³ int", "dict.get", (1.25, 1.0)),
    Figure("wholes", "copy 10³", "`copy`, 10³ entries", "Rust cachebox", (1.0, 0.3)),
    Figure("wholes", "copy 10⁶", "`copy`, 10⁶ entries", "Rust cachebox", (1.0, 0.3)),
    Figure("wholes", "list", "`list(cache)`, 10³ entries", "dict", (2, 1.2)),
    Figure("wholes", "items", "`list(cache.items())`, 10³ entries", "dict", (1.3, 1.2)),
    Figure("wholes", "pickle", "`pickle.dumps`, 10⁵ entries", "dict", (2, 1.2)),
    Figure("wholes", "dump", "`dump` to JSON, 10⁵ entries", "json.dump of a dict", (1.5, 1.2)),
    Figure("making", "Cache()", "`Cache()`", "cachetools.LRUCache", (3, 1)),
    Figure("making", "cached(f)", "`cached(f)`", "functools.lru_cache", (3, 1.5)),
    Figure("making", "cache_info", "`cache_info()`", "functools.lru_cache", (1.0, 0.7)),
    Figure("growth", "fill 10⁶", "filling up to 10⁶ entries", "dict", (1.4, 1.0)),
    Figure("growth", "fill 10⁷", "filling up to 10⁷ entries", "dict", (1.5, 1.0)),
    Figure("growth", "longest set", "longest single `set` while filling to 10⁷", "dict's longest", (0.2, 0.01)),
    Figure("waits", "standstill", "another thread's standstill while 10⁶ entries expire", "ms", (10, 1)),
    Figure("tail", "tail", "99.99th percentile of get-or-set with TTL and eviction", "Rust cachebox", (1.0, 0.3)),
    Figure("threads", "one", "`get`, one thread", "dict.get", (1.25, 1.05), (1.25, 1.05), free_threaded=True),
    Figure(
        "threads",
        "two",
        "throughput of `get`, two threads",
        "dict.get",
        (0.8, 1.5),
        (0.8, 1.5),
        more=True,
        free_threaded=True,
    ),
]


# --- measuring: a function for each group -----------------------------------------------------------------------------


def ratios(timings: dict[str, Timing], baseline: str, **names: str) -> Values:
    """Ratios of the measured candidates: ratios(timings, baseline, line=candidate, ...)."""
    if baseline not in timings:
        return {}
    return {line: measure.ratio(timings, name, baseline) for line, name in names.items() if name in timings}


def measure_get(seconds: float) -> Values:
    lfu, fifo = f"{OURS} LFU", f"{OURS} FIFO"
    timings = interleave(reads([DICT, LRU, lfu, fifo, RUST_LRU], text_keys(1000)), seconds=3 * seconds)
    found = ratios(timings, DICT, **{"10³ str": LRU, "LFU": lfu, "FIFO": fifo})
    found |= ratios(timings, RUST_LRU, **{"Rust 10³": LRU})
    timings = interleave(reads([DICT, LRU], number_keys(1000)), seconds=seconds)
    return found | ratios(timings, DICT, **{"10³ int": LRU})


def measure_item(seconds: float) -> Values:
    timings = interleave(reads([DICT, LRU], text_keys(1000), "item"), seconds=seconds)
    return ratios(timings, DICT, **{"c[k]": LRU})


def measure_big(seconds: float) -> Values:
    timings = interleave(reads([DICT, LRU, RUST_LRU], text_keys(1_000_000)), seconds=2 * seconds)
    found = ratios(timings, DICT, **{"10⁶ str": LRU}) | ratios(timings, RUST_LRU, **{"Rust 10⁶": LRU})
    timings = interleave(reads([DICT, LRU], number_keys(1_000_000)), seconds=seconds)
    return found | ratios(timings, DICT, **{"10⁶ int": LRU})


def measure_calls(seconds: float) -> Values:
    pair = decorators(FUNCTOOLS, "@cached")
    timings = interleave(calls("key", [*pair, *decorators("lru_cache (ours)")]), seconds=1.5 * seconds)
    found = ratios(timings, FUNCTOOLS, **{"1 argument": "@cached", "lru_cache": "lru_cache (ours)"})
    for line, arguments in {"2 arguments": "key, 1", "keyword": "key, flag=1", "no argument": ""}.items():
        found |= ratios(interleave(calls(arguments, pair), seconds=seconds), FUNCTOOLS, **{line: "@cached"})
    return found | ratios(interleave(method_calls(pair), seconds=seconds), FUNCTOOLS, method="@cached")


def measure_async(seconds: float) -> Values:
    timings = interleave(async_calls(decorators("@cached", "async-lru")), seconds=seconds)
    return ratios(timings, "async-lru", **{"async": "@cached"})


def measure_insert(seconds: float) -> Values:
    found: Values = {}
    for size, title in {1_000: "10³", 100_000: "10⁵"}.items():
        for kind, keys in {"str": text_keys(size + 200_000), "int": number_keys(size + 200_000)}.items():
            for policy in POLICIES:
                ours, rust = f"{OURS} {policy}", f"{RUST} {policy}"
                timings = interleave(inserts([ours, rust], keys[:size], keys[size:]), seconds=seconds / 2)
                found |= ratios(timings, rust, **{f"{title} {kind} {policy}": ours})
    return found


def measure_miss(seconds: float) -> Values:
    timings = interleave(missed_calls(decorators(FUNCTOOLS, "@cached")), seconds=2 * seconds)
    plain = timings["plain"].best
    return {"miss": (timings["@cached"].best - plain) / (timings[FUNCTOOLS].best - plain)}


def measure_ttl(seconds: float) -> Values:
    kinds = {"default clock": f"{LRU}, TTL", "time.monotonic": f"{LRU}, TTL, clock=time.monotonic"}
    return ratios(interleave(reads([LRU, *kinds.values()], text_keys(1000)), seconds=2 * seconds), LRU, **kinds)


def measure_memory(seconds: float) -> Values:
    names = {"dict": DICT, "no TTL": LRU, "TTL": f"{LRU}, TTL"}
    return {line: processes.bytes_per_entry(name) for line, name in names.items()}


def measure_gc(seconds: float) -> Values:
    found: Values = {}
    for values in ("plain", "list"):
        kinds = [processes.collect_candidate(name, values) for name in (DICT, LRU)]
        found |= ratios(interleave(kinds, least=2, most=2, warm_up=False), DICT, **{values: LRU})
    return found


def measure_import(seconds: float) -> Values:
    timings = interleave(processes.import_candidates(["cachebox", "dataclasses"]), seconds=2 * seconds)
    return ratios(timings, "import dataclasses", **{"import": "import cachebox"})


def measure_threads(seconds: float) -> Values:
    found = ratios(interleave(reads([DICT, LRU], text_keys(1000)), seconds=seconds), DICT, one=LRU)
    timings = interleave(threads.reads([DICT, LRU], 2), seconds=2 * seconds)
    return found | ratios(timings, LRU, two=DICT)       # a ratio of throughputs is the inverse of a ratio of times


GROUPS: dict[str, Callable[[float], Values]] = {
    "get": measure_get,
    "item": measure_item,
    "big": measure_big,
    "calls": measure_calls,
    "async": measure_async,
    "insert": measure_insert,
    "miss": measure_miss,
    "ttl": measure_ttl,
    "memory": measure_memory,
    "gc": measure_gc,
    "import": measure_import,
    **further.GROUPS,
    "threads": measure_threads,
}


def measure_all(names: list[str], seconds: float) -> dict[str, Values]:
    """Measure groups, and report on stderr how long each took."""
    measured = {}
    for name in names:
        start = time.monotonic()
        measured[name] = GROUPS[name](seconds)
        print(f"{name}: {time.monotonic() - start:.1f} s", file=sys.stderr)
    return measured


# --- the table --------------------------------------------------------------------------------------------------------


def rows(measured: dict[str, Values], version: tuple[int, int], free_threaded: bool) -> list[list[str]]:
    """The table's cells: path, against, must, moonshot, measured, verdict."""
    found = []
    for figure in FIGURES:
        values = measured.get(figure.group)
        if values is None:
            continue
        value = values.get(figure.name)
        goal = figure.goal(version, free_threaded)
        found.append(
            [
                figure.path,
                figure.against.format(**values) if "{" in figure.against else figure.against,
                *("–" if goal is None else f"{each:g}" for each in (goal or (0, 0))),
                "not measured" if value is None else shown(value),
                "–" if value is None else figure.verdict(value, goal),
            ]
        )
    return found


def shown(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def print_table(table: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.figures", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(GROUPS), help="names of groups, with commas between")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each group of candidates (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the bare numbers, for the report")
    parser.add_argument("--list", action="store_true", help="the names of the groups")
    options = parser.parse_args()
    if options.list:
        print(*GROUPS, sep="\n")
        return
    measured = measure_all(options.only.split(","), options.seconds)
    if options.json:
        print(json.dumps(measured))
        return
    print(f"\nCPython {sys.version}\n")
    header = ["path", "against", "must", "moonshot", "measured", "verdict"]
    print_table([header, *rows(measured, sys.version_info[:2], FREE_THREADED)])
    for peer, why in peers.ABSENT.items():
        print(f"left out: {peer}: {why}")


if __name__ == "__main__":
    main()
