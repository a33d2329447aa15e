"""A folder of this machine, and the candidates that keep values there: our tier without a server, and peers.

The folder is created with the first candidate, and removed when the process ends. Two things need processes of their
own:

    python -m bench.folders write NAME PATH SECONDS     a writer: its writes per second of all its time
    python -m bench.folders open NAME PATH              seconds from opening to the first value
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import peers, tiers
from bench.measure import Candidate, candidate, shuffled
from bench.processes import ROOT, child
from bench.tiers import KEYS, OURS, VALUE

DISKCACHE, JOBLIB, SQLITEDICT, SERVER = "diskcache", "joblib", "sqlitedict", "cachebox, with a server"
WRITES_FOR = 1.0
"""Seconds that writers write."""
MANY = 1_000_000
"""Entries of a large folder."""


@functools.cache
def folder() -> str:
    """The path of the folder."""
    path = tempfile.mkdtemp(prefix="cachebox-bench-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


# --- the candidates' caches -------------------------------------------------------------------------------------------


def _ours(path: str, **options: Any) -> Any:
    from cachebox import DistributedCache

    return DistributedCache(url=f"file://{path}", **options)


def _diskcache(path: str, **options: Any) -> Any:
    import diskcache

    return diskcache.Cache(path, **options)


def _sqlitedict(path: str) -> Any:
    from sqlitedict import SqliteDict

    return SqliteDict(path, autocommit=True)


@functools.cache
def _filled(name: str) -> Any:
    """A cache that has every key, or None if it cannot be had. Ours never finds a requested key in its first tier."""
    if name == SERVER:
        return None if tiers.why_not() else tiers._only_second()
    if name != OURS and not peers.have(name):
        return None
    make: dict[str, Callable[[str], Any]] = {
        OURS: functools.partial(_ours, max_size=1), DISKCACHE: _diskcache, SQLITEDICT: _sqlitedict
    }
    cache = make[name](f"{folder()}/{name}")
    for key in KEYS:
        if name == SQLITEDICT:
            cache[key] = VALUE
        else:
            cache.set(key, VALUE)
    return cache


def _candidates(statements: dict[str, str], batches: Sequence[Sequence[Any]], **names: Any) -> list[Candidate]:
    """The caches that can be had, each with its statement."""
    return [
        candidate(name, batches, statement, cache=_filled(name), **names)
        for name, statement in statements.items()
        if _filled(name) is not None
    ]


# --- one process ------------------------------------------------------------------------------------------------------


def first_tier() -> list[Candidate]:
    """Hits in memory, coherent with all processes, compared with those of a `Cache` with as many objects."""
    from cachebox import Cache

    plain, both = Cache(), _ours(f"{folder()}/first")
    both.set_many(dict.fromkeys(KEYS, VALUE))
    plain.update({key: dict(VALUE) for key in KEYS})
    both.get_many(KEYS)
    caches = {"Cache": plain, OURS: both}
    return [candidate(name, shuffled(KEYS), "cache.get(key)", cache=cache) for name, cache in caches.items()]


def gets() -> list[Candidate]:
    """`get` of a key in the folder, with decoding its value. joblib keeps results of functions, so it calls one."""
    batches = shuffled(KEYS, batch=200)
    made = _candidates(dict.fromkeys((OURS, DISKCACHE, SQLITEDICT, SERVER), "cache.get(key)"), batches)
    if peers.have(JOBLIB):
        import joblib

        load = joblib.Memory(f"{folder()}/joblib", verbose=0).cache(_load)
        for key in KEYS:
            load(key)
        made.append(candidate(JOBLIB, batches, "load(key)", load=load))
    return made


def _load(key: str) -> dict[str, Any]:
    return VALUE


def sets() -> list[Candidate]:
    """`set`."""
    statements = dict.fromkeys((OURS, DISKCACHE, SERVER), "cache.set(key, value)")
    return _candidates(statements | {SQLITEDICT: "cache[key] = value"}, shuffled(KEYS, batch=200), value=VALUE)


def many_gets() -> list[Candidate]:
    """A thousand keys; one operation is all of them. diskcache needs a loop."""
    statements = dict.fromkeys((OURS, SERVER), "cache.get_many(keys)")
    return _candidates(statements | {DISKCACHE: "for one in keys: cache.get(one)"}, [[None]], keys=KEYS)


def many_sets() -> list[Candidate]:
    """A thousand items in one transaction; one operation is all of them."""
    statements = dict.fromkeys((OURS, SERVER), "cache.set_many(items)") | {
        DISKCACHE: "with cache.transact():\n    for one, value in items.items(): cache.set(one, value)",
    }
    return _candidates(statements, [[None]], items=dict.fromkeys(KEYS, VALUE))


# --- several processes ------------------------------------------------------------------------------------------------


def writers(count: int) -> list[Candidate]:
    """Seconds per write of several processes that write different keys of one folder at the same time."""
    return [Candidate(name, functools.partial(_write_together, name, count)) for name in both()]


def _write_together(name: str, count: int) -> float:
    command = [sys.executable, "-m", "bench.folders", "write", name, f"{folder()}/writers-{name}", str(WRITES_FOR)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(count)
    ]
    for process in processes:                   # each says when it is ready
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    rates = [float(process.communicate(timeout=60)[0]) for process in processes]
    return 1 / sum(rates)


def _write(name: str, path: str, seconds: float) -> float:
    cache = _ours(path, max_size=1) if name == OURS else _diskcache(path)
    own = [f"{os.getpid()}:{key}" for key in KEYS]
    cache.set("warm", VALUE)
    print("ready", flush=True)
    sys.stdin.readline()
    written, begun = 0, time.perf_counter()
    while time.perf_counter() < begun + seconds:
        for key in own[written % len(own):][:20]:
            cache.set(key, VALUE)
            written += 1
    return written / (time.perf_counter() - begun)


# --- a large folder ---------------------------------------------------------------------------------------------------


@functools.cache
def _large(name: str) -> str:
    """The path of a folder with `MANY` entries."""
    path = f"{folder()}/large-{name}"
    cache = _ours(path, max_size=1, size_limit="2GB") if name == OURS else _diskcache(path, size_limit=2 << 30)
    for start in range(0, MANY, 1000):
        items = {f"user:{i}": VALUE for i in range(start, start + 1000)}
        if name == OURS:
            cache.set_many(items)
        else:
            with cache.transact():
                for key, value in items.items():
                    cache.set(key, value)
    cache.close()
    return path


def both() -> list[str]:
    """Ours, and diskcache if it is installed."""
    return [OURS, *([DISKCACHE] if peers.have(DISKCACHE) else [])]


def bytes_per_entry() -> list[Candidate]:
    """Bytes on the disk per entry of a large folder, the keys and values included."""

    def size(name: str) -> float:
        files = [each for each in Path(_large(name)).rglob("*") if each.is_file()]
        return sum(each.stat().st_blocks * 512 for each in files) / MANY

    return [Candidate(name, functools.partial(size, name)) for name in both()]


def openings() -> list[Candidate]:
    """Opening a large folder, and the first value, in a fresh process, without the import."""
    return [
        Candidate(name, functools.partial(child, "-m", "bench.folders", "open", name, _large(name)))
        for name in both()
    ]


def _open(name: str, path: str) -> float:
    make: Callable[..., Any] = _ours if name == OURS else _diskcache
    make(f"{path}-first").set("a", VALUE)       # imports everything
    begun = time.perf_counter()
    cache = make(path)
    assert cache.get("user:777") == VALUE
    return time.perf_counter() - begun


def main() -> None:
    what, name, path, *rest = sys.argv[1:]
    print(_write(name, path, float(rest[0])) if what == "write" else _open(name, path))


if __name__ == "__main__":
    main()
