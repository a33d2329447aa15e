"""Measurements that need a fresh interpreter: memory per entry, `gc.collect()` with a full cache, import time.

    python -m bench.processes memory NAME COUNT KEYS      bytes per entry
    python -m bench.processes gc NAME COUNT VALUES        seconds of one gc.collect()
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import measure

ROOT = Path(__file__).resolve().parent.parent


def child(*arguments: str) -> float:
    """The number that a fresh interpreter prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=ROOT)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return float(done.stdout)


# --- memory -----------------------------------------------------------------------------------------------------------


def bytes_per_entry(name: str, count: int = 1_000_000, keys: str = "int") -> float:
    """How much the resident memory of a fresh process grows per entry of a cache, without keys and values.

    This is the operating system's count (RSS), because tracemalloc does not see allocations of Rust and C.
    """
    return child("-m", "bench.processes", "memory", name, str(count), keys)


def memory_candidate(name: str, keys: str = "int") -> measure.Candidate:
    return measure.Candidate(name, lambda: bytes_per_entry(name, keys=keys))


def resident() -> int:
    """Resident bytes of this process (Linux only)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _memory(name: str, count: int, keys: str) -> float:
    from bench.peers import CONTAINERS

    container = CONTAINERS[name]
    container.filled(range(100))                # trigger one-time imports and allocations
    wanted = [f"key-{i}" for i in range(count)] if keys == "str" else [1000 + i for i in range(count)]
    for each in wanted:
        hash(each)
    gc.collect()
    before = resident()
    cache = container.filled(wanted)
    grown = resident() - before
    del cache
    return grown / count


# --- the collector ----------------------------------------------------------------------------------------------------


def collect_seconds(name: str, count: int = 1_000_000, values: str = "plain") -> float:
    """How long `gc.collect()` takes in a fresh process that has little more than a full cache.

    Values are "plain" (None), or "list" (each its own list, which the collector must visit, too).
    """
    return child("-m", "bench.processes", "gc", name, str(count), values)


def collect_candidate(name: str, values: str) -> measure.Candidate:
    return measure.Candidate(name, lambda: collect_seconds(name, values=values))


def _collect(name: str, count: int, values: str) -> float:
    from bench.peers import CONTAINERS
    from bench.workloads import text_keys

    gc.disable()
    container = CONTAINERS[name]
    store = container.store.replace("True", "[]") if values == "list" else container.store
    cache = container.make(count)
    measure.compile_loop(store, cache=cache)(text_keys(count))
    best = float("inf")
    for _ in range(5):
        start = measure.clock()
        gc.collect()
        best = min(best, measure.clock() - start)
    del cache
    return best


# --- importing --------------------------------------------------------------------------------------------------------


def import_seconds(module: str) -> float:
    """How long one import takes in a fresh interpreter, without the interpreter's own start."""
    code = f"from time import perf_counter as t\ns = t()\nimport {module}\nprint(t() - s)"
    return child("-c", code)


def import_candidates(modules: Sequence[str]) -> list[measure.Candidate]:
    """Candidates for the installed ones of the modules."""
    return [
        measure.Candidate(f"import {module}", functools.partial(import_seconds, module))
        for module in modules
        if importlib.util.find_spec(module) is not None
    ]


def main() -> None:
    what, name, count, kind = sys.argv[1:]
    print({"memory": _memory, "gc": _collect}[what](name, int(count), kind))


if __name__ == "__main__":
    main()
