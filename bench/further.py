"""Figures of operations other than a hit: bulk operations, lifetimes, tags, copies, growth, what others wait for.

`figures.py` has the table and the command. Each figure is a ratio to the loop that one would write instead, to a plain
`set`, or to a peer; the longest standstill alone is in milliseconds.
"""

from __future__ import annotations

import datetime
import functools
import json
import pickle
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import measure, peers
from bench.measure import Candidate, Timing, candidate, interleave, shuffled
from bench.peers import DICT, FUNCTOOLS, OURS, RUST
from bench.workloads import fills, number_keys, reads, scattered_keys, text_keys

Values = dict[str, float]
THOUSAND = 1000
LOOP_OF_SETS = "for k, v in key.items():\n    cache.set(k, v)"


def cache_of(keys: Sequence[Any] = (), size: int = 0, **options: Any) -> Any:
    cache = peers.module(OURS).Cache(size or len(keys), **options)
    cache.update(dict.fromkeys(keys, True))
    return cache


def rust() -> Any:
    """The Rust package, or None."""
    return peers.module(RUST) if peers.have(RUST) else None


def ratios(timings: dict[str, Timing], baseline: str, **names: str) -> Values:
    return {line: measure.ratio(timings, name, baseline) for line, name in names.items() if name in timings}


# --- many keys at once ------------------------------------------------------------------------------------------------


def measure_bulk(seconds: float) -> Values:
    found: Values = {}
    keys = text_keys(10 * THOUSAND)
    tens = [keys[start : start + THOUSAND] for start in range(0, len(keys), THOUSAND)]
    mappings = [dict.fromkeys(ten, True) for ten in tens]
    statements = {"loop": LOOP_OF_SETS, "update": "cache.update(key)", "set_many": "cache.set_many(key)"}
    for line, prepare in {"new": lambda cache: cache.clear(), "present": None}.items():
        made = [(name, cache_of(keys, 20 * THOUSAND), statement) for name, statement in statements.items()]
        if rust():
            made.append((RUST, rust().LRUCache(20 * THOUSAND), statements["update"]))
        timings = interleave([bulk(*each, [mappings], prepare) for each in made], seconds=seconds)
        found |= ratios(timings, "loop", **{f"update, {line}": "update", f"set_many, {line}": "set_many"})
        found |= ratios(timings, RUST, **{f"update, {line}, Rust": "update"}) if rust() else {}
    reading = {"loop": "{k: value for k in key if (value := cache.get(k)) is not None}", "many": "cache.get_many(key)"}
    timings = interleave([bulk(name, cache_of(keys), each, [tens]) for name, each in reading.items()], seconds=seconds)
    found |= ratios(timings, "loop", get_many="many")
    deleting = {"loop": "for k in key:\n    cache.delete(k)", "many": "cache.delete_many(key)"}
    again = dict.fromkeys(keys, True)
    made = [
        bulk(name, cache_of(size=20 * THOUSAND), each, [tens], lambda cache: cache.update(again))
        for name, each in deleting.items()
    ]
    return found | ratios(interleave(made, seconds=seconds), "loop", delete_many="many")


def bulk(
    name: str, cache: Any, statement: str, batches: list[Any], prepare: Callable[[Any], object] | None = None
) -> Candidate:
    before = None if prepare is None else lambda batch: prepare(cache)
    return candidate(name, batches, statement, prepare=before, operations=THOUSAND, cache=cache)


# --- one key ----------------------------------------------------------------------------------------------------------


def measure_sets(seconds: float) -> Values:
    """Overwrites."""
    keys = text_keys(THOUSAND)
    ttl = {"default_ttl": 3600}
    kinds: dict[str, tuple[dict[str, Any], str]] = {
        "plain": ({}, "cache.set(key, True)"),
        "default": (ttl, "cache.set(key, True)"),
        "int": ({}, "cache.set(key, True, ttl=60)"),
        "float": ({}, "cache.set(key, True, ttl=60.5)"),
        "timedelta": ({}, "cache.set(key, True, ttl=lifetime)"),
        "touch": (ttl, "cache.touch(key)"),
        "tag": ({}, "cache.set(key, True, tags='tag')"),
        "weigher": ({"max_weight": 10**9, "weigher": lambda key, value: 1}, "cache.set(key, True)"),
        "on_removal": ({"on_removal": lambda key, value, cause: None}, "cache.set(key, True)"),
    }
    lifetime = datetime.timedelta(seconds=60)
    made = []
    for name, (options, statement) in kinds.items():
        cache = cache_of(keys, **options)
        measure.compile_loop(statement, cache=cache, lifetime=lifetime)(keys)
        made.append(candidate(name, shuffled(keys), statement, cache=cache, lifetime=lifetime))
    calls = {"weigher call": "f(key, True)", "on_removal call": "f(key, True, 1)"}
    functions = {"weigher call": lambda key, value: 1, "on_removal call": lambda key, value, cause: None}
    made += [candidate(name, shuffled(keys), calls[name], f=functions[name]) for name in calls]
    timings = interleave(made, seconds=3 * seconds)
    found = ratios(timings, "default", **{"ttl int": "int", "ttl float": "float", "ttl timedelta": "timedelta"})
    found |= ratios(timings, "default", touch="touch") | ratios(timings, "plain", default_ttl="default", tag="tag")
    for name in ("weigher", "on_removal"):
        found[name] = timings[name].best / (timings["plain"].best + timings[f"{name} call"].best)
    return found


def measure_gets(seconds: float) -> Values:
    lfu = f"{OURS} LFU"
    found: Values = {}
    for line, keys in {"LFU str": text_keys(THOUSAND), "LFU int": number_keys(THOUSAND)}.items():
        found |= ratios(interleave(reads([DICT, lfu], keys), seconds=seconds), DICT, **{line: lfu})
    return found


# --- the whole cache --------------------------------------------------------------------------------------------------


def measure_wholes(seconds: float) -> Values:
    found: Values = {}
    for line, count in {"copy 10³": THOUSAND, "copy 10⁶": 10**6}.items():
        keys = text_keys(count)
        once = [[True] * (20 if count == THOUSAND else 1)]
        made = [candidate("ours", once, "cache.copy()", cache=cache_of(keys))]
        if rust():
            theirs = rust().LRUCache(count)
            theirs.update(dict.fromkeys(keys, True))
            made.append(candidate(RUST, once, "cache.copy()", cache=theirs))
            timings = interleave(made, seconds=seconds, most=2000 if count == THOUSAND else 8)
            found |= ratios(timings, RUST, **{line: "ours"})
    keys = text_keys(THOUSAND)
    things = {"dict": dict.fromkeys(keys, True), "cache": cache_of(keys)}
    for line, statement in {"list": "list(x)", "items": "list(x.items())"}.items():
        made = [candidate(name, [[True] * 20], statement, x=each) for name, each in things.items()]
        found |= ratios(interleave(made, seconds=seconds), "dict", **{line: "cache"})
    keys = text_keys(100 * THOUSAND)
    whole, cache = dict.fromkeys(keys, True), cache_of(keys)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump"

        def dump_dict() -> None:
            with path.open("w") as file:
                json.dump(whole, file)

        pairs = {
            "pickle": (lambda: pickle.dumps(whole), lambda: pickle.dumps(cache)),
            "dump": (dump_dict, lambda: cache.dump(path)),
        }
        for line, (theirs, ours) in pairs.items():
            made = [candidate("dict", [[True]], "f()", f=theirs), candidate("ours", [[True]], "f()", f=ours)]
            found |= ratios(interleave(made, seconds=seconds), "dict", **{line: "ours"})
    return found


def measure_making(seconds: float) -> Values:
    ours = peers.module(OURS)
    found: Values = {}
    many = [[True] * THOUSAND]

    def f(x: int) -> int:
        return x

    if peers.have("cachetools"):
        theirs = peers.module("cachetools").LRUCache
        made = [candidate("cachetools", many, "c(1000)", c=theirs), candidate("ours", many, "c()", c=ours.Cache)]
        found |= ratios(interleave(made, seconds=seconds), "cachetools", **{"Cache()": "ours"})
    made = [
        candidate(FUNCTOOLS, many, "decorate(f)", decorate=functools.lru_cache, f=f),
        candidate("ours", many, "decorate(f)", decorate=ours.cached, f=f),
    ]
    found |= ratios(interleave(made, seconds=seconds), FUNCTOOLS, **{"cached(f)": "ours"})
    made = [
        candidate(FUNCTOOLS, many, "f.cache_info()", f=functools.lru_cache(f)),
        candidate("ours", many, "f.cache_info()", f=ours.cached(f)),
    ]
    return found | ratios(interleave(made, seconds=seconds), FUNCTOOLS, cache_info="ours")


# --- growth, and what others wait for ---------------------------------------------------------------------------------


def measure_growth(seconds: float) -> Values:
    found: Values = {}
    ours = f"{OURS} LRU"
    for line, count in {"fill 10⁶": 10**6, "fill 10⁷": 10**7}.items():
        timings = interleave(fills([DICT, ours], scattered_keys(count)), least=2, most=2, warm_up=False)
        found |= ratios(timings, DICT, **{line: ours})
    keys = scattered_keys(10**7)
    kinds = {"dict": lambda: {}.__setitem__, "ours": lambda: cache_of(size=10**7).set}
    waits = {name: min(longest_call(make(), keys) for _ in range(2)) for name, make in kinds.items()}
    return found | {"longest set": waits["ours"] / waits["dict"]}


def longest_call(store: Callable[[Any, Any], object], keys: Sequence[Any]) -> float:
    """The longest time, in seconds, between two calls in a row."""
    longest = 0.0
    clock = time.perf_counter
    with measure.collector_off():
        before = clock()
        for key in keys:
            store(key, True)
            now = clock()
            if now - before > longest:
                longest = now - before
            before = now
    return longest


def measure_waits(seconds: float) -> Values:
    """How long another thread stands still while a million entries expire at once, in milliseconds; the best of three.

    The gaps are gaps in the process's own time. Other processes do not make them longer.
    """
    return {"standstill": min(longest_standstill() for _ in range(3))}


def longest_standstill() -> float:
    ttl = 1.0
    cache = cache_of(range(10**6), default_ttl=ttl)
    other = cache_of([1])
    longest = 0.0
    clock = time.process_time
    with measure.collector_off():
        began = before = clock()
        while cache._held and before - began < 20.0:
            other.get(1)
            now = clock()
            if now - before > longest:
                longest = now - before
            before = now
    if cache._held:
        raise RuntimeError("the entries have not been swept")
    return 1000 * longest


def measure_tail(seconds: float) -> Values:
    """The 99.99th percentile of get-or-set: Zipf, 10⁶ keys, lifetimes, evictions and sweeping at once."""
    if not rust():
        return {}
    source = random.Random(1)
    trace = [int((10**6) ** source.random()) for _ in range(2 * 10**6)]
    ours = cache_of(size=100 * THOUSAND, default_ttl=1.0)
    theirs = rust().TTLCache(100 * THOUSAND, 1.0)
    kinds = {
        "ours": (ours.get, lambda key: ours.set(key, True)),
        RUST: (theirs.get, lambda key: theirs.insert(key, True)),
    }
    best: dict[str, float] = {}
    for _ in range(2):
        for name, (get, store) in kinds.items():
            best[name] = min(best.get(name, 1e9), percentile(get, store, trace))
    return {"tail": best["ours"] / best[RUST]}


def percentile(get: Callable[[Any], object], store: Callable[[Any], object], trace: Sequence[int]) -> float:
    times = []
    clock = time.perf_counter_ns
    with measure.collector_off():
        for key in trace:
            start = clock()
            if get(key) is None:
                store(key)
            times.append(clock() - start)
    times.sort()
    return times[int(0.9999 * len(times))]


GROUPS: dict[str, Callable[[float], Values]] = {
    "bulk": measure_bulk,
    "sets": measure_sets,
    "gets": measure_gets,
    "wholes": measure_wholes,
    "making": measure_making,
    "growth": measure_growth,
    "waits": measure_waits,
    "tail": measure_tail,
}
