"""The hottest paths, for `instructions.py` to count: python -m bench.paths PATH TIMES runs one of them.

The keys of lookups are equal to the stored ones, but other objects, as in most programs. This is a module of its own,
because under valgrind everything is fifty times as slow, also imports.
"""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

from bench.measure import compile_loop

EMPTY = "empty loop"
INSERT = "insert and evict, LRU"
IN_TURN = {INSERT, "insert and evict, AUTO", "get or set, AUTO, half hits"}     # the order of the keys matters


def _keys() -> list[str]:
    return [f"key-{i}" for i in range(1000)]


def _full(**options: Any) -> Any:
    from cachebox import Cache

    cache = Cache(1000, **options)
    cache.update(dict.fromkeys(_keys(), True))
    return cache


def _get() -> Callable[[Sequence[Any]], float]:
    return compile_loop("cache.get(key)", cache=_full())


def _item() -> Callable[[Sequence[Any]], float]:
    return compile_loop("cache[key]", cache=_full())


def _get_ttl() -> Callable[[Sequence[Any]], float]:
    return compile_loop("cache.get(key)", cache=_full(default_ttl=3600))


def _insert() -> Callable[[Sequence[Any]], float]:
    from cachebox import Cache

    cache = Cache(500)                          # the keys come in turn: each was evicted before it comes again
    cache.update(dict.fromkeys(_keys(), True))
    return compile_loop("cache[key] = True", cache=cache)


def _auto() -> Any:
    from cachebox import AutoPolicy

    return AutoPolicy(seed=1)


def _insert_auto() -> Callable[[Sequence[Any]], float]:
    from cachebox import Cache

    cache = Cache(20, policy=_auto())           # of a loop over a thousand keys it holds twenty
    cache.update(dict.fromkeys(_keys(), True))
    return compile_loop("cache[key] = True", cache=cache)


def _mixed_auto() -> Callable[[Sequence[Any]], float]:
    from cachebox import Cache

    cache = Cache(500, policy=_auto())          # of a loop over a thousand keys it holds half
    cache.update(dict.fromkeys(_keys(), True))
    return compile_loop("cache.get(key) or cache.set(key, True)", cache=cache)


def _call() -> Callable[[Sequence[Any]], float]:
    from cachebox import cached

    f = cached(max_size=1000)(lambda key: None)
    for key in _keys():
        f(key)
    return compile_loop("f(key)", f=f)


def _selected(shape: str, call: str = "f(key)", **options: Any) -> Callable[[Sequence[Any]], float]:
    """Hits of a function with these parameters and options about its keys."""
    from contextvars import ContextVar

    from cachebox import cached

    if "vary" in options:
        options["vary"] = tenant = ContextVar("tenant")
        tenant.set("a tenant")
    f = cached(max_size=1000, **options)(eval(f"lambda {shape}: None"))
    loop = compile_loop(call, f=f)
    loop(_keys())
    return loop


def _method() -> Callable[[Sequence[Any]], float]:
    from cachebox import cached

    class Owner:
        @cached(max_size=1000)
        def method(self, key: Any) -> None:
            return None

    owner = Owner()
    for key in _keys():
        owner.method(key)
    return compile_loop("owner.method(key)", owner=owner)


PATHS: dict[str, Callable[[], Callable[[Sequence[Any]], float]]] = {
    EMPTY: lambda: compile_loop("pass"),
    "get, LRU, hit": _get,
    "c[k], LRU, hit": _item,
    "get, LRU, hit, with a TTL": _get_ttl,
    INSERT: _insert,
    "get, AUTO, hit": lambda: compile_loop("cache.get(key)", cache=_full(policy=_auto())),
    "insert and evict, AUTO": _insert_auto,
    "get or set, AUTO, half hits": _mixed_auto,
    "@cached, one argument, hit": _call,
    "@cached, method, hit": _method,
    "@cached, ignore, hit": lambda: _selected("key, session", "f(key, 1)", ignore="session"),
    "@cached, vary, hit": lambda: _selected("key", vary=True),
    "@cached, version, hit": lambda: _selected("key", version=2),
    "@cached, normalize, hit": lambda: _selected("key, other=1", normalize=True),
}


def run(path: str, times: int) -> None:
    """Run a path `times` times: a multiple of 1000."""
    loop = PATHS[path]()
    keys = _keys()
    if path not in IN_TURN:
        random.Random(1).shuffle(keys)
    gc.disable()
    loop(keys * (times // 1000))


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]))
