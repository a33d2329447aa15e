"""A folder of this machine, and the candidates that keep values there: our tier without a server, and peers.

The folder is created with the first candidate, and removed when the process ends.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from typing import Any

from bench import peers
from bench.measure import Candidate, candidate, shuffled
from bench.tiers import KEYS, OURS, VALUE

DISKCACHE = "diskcache"


@functools.cache
def folder() -> str:
    """The path of the folder."""
    path = tempfile.mkdtemp(prefix="cachebox-bench-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def _ours(**options: Any) -> Any:
    from cachebox import DistributedCache

    cache = DistributedCache(url=f"file://{folder()}/ours", **options)
    cache.set_many(dict.fromkeys(KEYS, VALUE))
    return cache


@functools.cache
def _diskcache() -> Any:
    if not peers.have(DISKCACHE):
        return None
    import diskcache

    cache = diskcache.Cache(f"{folder()}/diskcache")
    for key in KEYS:
        cache.set(key, VALUE)
    return cache


def _caches() -> dict[str, Any]:
    """The caches by name. Ours never finds a requested key in its first tier."""
    return {OURS: _ours(max_size=1), **({DISKCACHE: _diskcache()} if _diskcache() is not None else {})}


def first_tier() -> list[Candidate]:
    """Hits in memory, coherent with all processes, compared with those of a `Cache` with as many objects."""
    from cachebox import Cache

    plain, both = Cache(), _ours()
    plain.update({key: dict(VALUE) for key in KEYS})
    both.get_many(KEYS)
    caches = {"Cache": plain, OURS: both}
    return [candidate(name, shuffled(KEYS), "cache.get(key)", cache=cache) for name, cache in caches.items()]


def gets() -> list[Candidate]:
    """`get` of a key in the folder, with decoding its value."""
    batches = shuffled(KEYS, batch=200)
    return [candidate(name, batches, "cache.get(key)", cache=cache) for name, cache in _caches().items()]


def sets() -> list[Candidate]:
    """`set`."""
    batches = shuffled(KEYS, batch=200)
    statement = "cache.set(key, value)"
    return [candidate(name, batches, statement, cache=cache, value=VALUE) for name, cache in _caches().items()]


def many_gets() -> list[Candidate]:
    """A thousand keys; one operation is all of them. diskcache needs a loop."""
    statements = {OURS: "cache.get_many(keys)", DISKCACHE: "for one in keys: cache.get(one)"}
    return [
        candidate(name, [[None]], statements[name], cache=cache, keys=KEYS) for name, cache in _caches().items()
    ]


def many_sets() -> list[Candidate]:
    """A thousand items in one transaction; one operation is all of them."""
    items = dict.fromkeys(KEYS, VALUE)
    statements = {
        OURS: "cache.set_many(items)",
        DISKCACHE: "with cache.transact():\n    for one, value in items.items(): cache.set(one, value)",
    }
    return [
        candidate(name, [[None]], statements[name], cache=cache, items=items) for name, cache in _caches().items()
    ]
