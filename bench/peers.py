"""The peers that the cache is compared with: how to import each one, and how each does the same thing.

A peer is imported when it is first needed. One that cannot be imported is left out, and `ABSENT` says why.
"""

from __future__ import annotations

import datetime
import functools
import importlib
import importlib.metadata
import importlib.util
import subprocess
import sys
import sysconfig
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.measure import compile_loop

FOLDER = Path(__file__).resolve().parent.parent / ".peers"
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
OURS = "cachebox"
RUST = "cachebox (Rust)"
MODULES = {                         # peer: the module to import; a peer that is not here is part of Python
    RUST: "cachebox",
    "cachetools": "cachetools",
    "lru-dict": "lru",
    "moka-py": "moka_py",
    "theine": "theine",
    "async-lru": "async_lru",
    "redis-py": "redis",
    "dogpile.cache": "dogpile.cache",
    "cashews": "cashews",
    "aiocache": "aiocache",
    "diskcache": "diskcache",
    "sqlitedict": "sqlitedict",
    "joblib": "joblib",
}
ABSENT: dict[str, str] = {}         # peer: why it cannot be imported
VERSIONS: dict[str, str] = {}       # peer: its version


# --- importing --------------------------------------------------------------------------------------------------------


@functools.cache
def have(peer: str) -> bool:
    """Whether a peer can be imported; imports it."""
    try:
        module(peer)
    except ImportError as error:
        ABSENT[peer] = str(error)
        return False
    return True


@functools.cache
def module(peer: str) -> ModuleType:
    """The peer's module. Raises ImportError if there is none, or if it would turn the GIL back on."""
    name = MODULES.get(peer, OURS)
    if peer == RUST:
        return _rust()
    if peer in MODULES:
        if importlib.util.find_spec(name) is None:
            raise ImportError("it is not installed")
        _must_leave_the_gil_off(name)
        VERSIONS[peer] = importlib.metadata.version("redis" if peer == "redis-py" else peer)
    return importlib.import_module(name)


def _rust() -> ModuleType:
    """The Rust package with the same import name as ours, under another name; pip fetches it the first time."""
    folder = FOLDER / f"{sys.implementation.cache_tag}{sys.abiflags}"
    if not (folder / "cachebox").is_dir():
        _fetch("cachebox", folder)
    _must_leave_the_gil_off("cachebox", folder)
    ours = _taken_away("cachebox")
    sys.path.insert(0, str(folder))
    try:
        found = importlib.import_module("cachebox")
    finally:
        sys.path.remove(str(folder))
        sys.modules.update({f"rust_{name}": loaded for name, loaded in _taken_away("cachebox").items()})
        sys.modules.update(ours)
    VERSIONS[RUST] = str(found.__version__)
    return found


def _taken_away(package: str) -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name == package or name.startswith(f"{package}.")]
    return {name: sys.modules.pop(name) for name in names}


def _fetch(distribution: str, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command = [*pip, "--only-binary=:all:", "--target", str(folder), distribution]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        raise ImportError(f"pip could not fetch it: {error}") from error
    if done.returncode != 0:
        raise ImportError(["pip could not fetch it", *done.stderr.strip().splitlines()][-1])


def _must_leave_the_gil_off(name: str, folder: Path | None = None) -> None:
    """Without the GIL, first import a module in a separate process. Raises ImportError if it turns the GIL back on."""
    if not FREE_THREADED:
        return
    path = f"sys.path.insert(0, {str(folder)!r}); " if folder else ""
    code = f"import sys; {path}import {name}; sys.exit(77 if sys._is_gil_enabled() else 0)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, timeout=60)
    if done.returncode == 77:
        raise ImportError("it turns the GIL back on")


# --- their operations -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Container:
    """One kind of cache, and its operations as statements with `cache`, `key` and `size`.

    The value is always True, an object that is never freed. An operation that a peer lacks is None.
    """

    name: str
    peer: str
    make: Callable[[int], Any]                      # an empty cache of that size
    get: str = "cache.get(key)"
    item: str | None = "cache[key]"
    store: str = "cache[key] = True"                # an overwrite; also used for filling
    insert: str | None = "cache[key] = True"        # a new key into a full cache: the victim leaves
    delete: str | None = "del cache[key]"
    look_aside: str | None = "if cache.get(key) is None:\n    cache[key] = True"
    names: Mapping[str, Any] = field(default_factory=dict)       # further variables of the statements

    def filled(self, keys: Sequence[Any], size: int | None = None) -> Any:
        """A cache with these keys, of that size (default: full)."""
        cache = self.make(len(keys) if size is None else size)
        self.fill(cache, keys)
        return cache

    def fill(self, cache: Any, keys: Sequence[Any]) -> None:
        compile_loop(self.store, cache=cache, **self.names)(keys)


def _ours(policy: str, note: str = "", **options: Any) -> Container:
    return Container(
        f"{OURS} {policy}{note}", OURS, lambda size: module(OURS).Cache(size, policy=policy, **options)
    )


def _class_of(peer: str, policy: str) -> Container:
    return Container(f"{peer} {policy}", peer, lambda size: getattr(module(peer), f"{policy}Cache")(size))


POLICIES = ("LRU", "LFU", "FIFO")
DICT = "dict"
LRU = f"{OURS} LRU"
ORDERED = "OrderedDict"
FUNCTOOLS = "functools.lru_cache"
SETTER = "cache.set(key, True)"
CONTAINERS = {
    each.name: each
    for each in [
        *(_ours(policy) for policy in POLICIES),
        _ours("LRU", ", TTL", default_ttl=3600),
        _ours("LRU", ", TTL, clock=time.monotonic", default_ttl=3600, clock=time.monotonic),
        Container(DICT, DICT, lambda size: {}, insert=None, look_aside=None),
        Container(
            ORDERED,                # as an LRU cache, as in its documentation
            ORDERED,
            lambda size: OrderedDict(),
            get="cache.get(key)\ncache.move_to_end(key)",
            item="cache[key]\ncache.move_to_end(key)",
            store="cache[key] = True\ncache.move_to_end(key)",
            insert="cache[key] = True\ncache.popitem(False)",
            look_aside=(
                "if cache.get(key) is not None:\n    cache.move_to_end(key)\n"
                "else:\n    cache[key] = True\n    if len(cache) > size:\n        cache.popitem(False)"
            ),
        ),
        Container(
            FUNCTOOLS,
            FUNCTOOLS,
            lambda size: functools.lru_cache(size)(lambda key: True),
            get="cache(key)",
            item=None,
            store="cache(key)",
            insert="cache(key)",
            delete=None,
            look_aside="cache(key)",
        ),
        *(_class_of(RUST, policy) for policy in POLICIES),
        Container(
            f"{RUST} TTL",
            RUST,
            lambda size: module(RUST).TTLCache(size, 3600),
        ),
        *(_class_of("cachetools", policy) for policy in POLICIES),
        Container("cachetools TTL", "cachetools", lambda size: module("cachetools").TTLCache(size, 3600)),
        Container("lru-dict", "lru-dict", lambda size: module("lru-dict").LRU(size)),
        *(
            Container(
                f"moka-py LRU{note}",
                "moka-py",
                lambda size, ttl=ttl: module("moka-py").Moka(size, policy="lru", ttl=ttl),
                item=None,
                store=SETTER,
                insert=SETTER,
                delete="cache.remove(key)",
                look_aside=f"if cache.get(key) is None:\n    {SETTER}",
            )
            for note, ttl in {"": None, ", TTL": 3600}.items()
        ),
        *(
            Container(
                f"theine W-TinyLFU{note}",
                "theine",
                lambda size: module("theine").Cache(size),
                item=None,
                store=setter,
                insert=setter,
                delete="cache.delete(key)",
                look_aside=f"if not cache.get(key)[1]:\n    {setter}",
                names=names,
            )
            for note, setter, names in [
                ("", SETTER, {}),
                (", TTL", "cache.set(key, True, hour)", {"hour": datetime.timedelta(hours=1)}),
            ]
        ),
    ]
}


def containers(*names: str, operation: str = "get") -> list[Container]:
    """The named kinds that can be imported and have the operation."""
    found = [CONTAINERS[name] for name in names]
    return [each for each in found if getattr(each, operation) is not None and have(each.peer)]


# --- decorators -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decorator:
    """One way to decorate a function so that it remembers `size` results."""

    name: str
    peer: str
    make: Callable[[int], Callable[[Any], Any]]


def _cachetools_cached(size: int) -> Callable[[Any], Any]:
    cachetools = module("cachetools")
    return cachetools.cached(cachetools.LRUCache(size))     # without a lock: its fastest form


def _rust_cached(size: int) -> Callable[[Any], Any]:
    return module(RUST).cached(module(RUST).LRUCache(size))


DECORATORS = {
    each.name: each
    for each in [
        Decorator("@cached", OURS, lambda size: module(OURS).cached(max_size=size)),
        Decorator("lru_cache (ours)", OURS, lambda size: module(OURS).lru_cache(size)),
        Decorator(FUNCTOOLS, FUNCTOOLS, functools.lru_cache),
        Decorator(RUST, RUST, _rust_cached),
        Decorator("cachetools", "cachetools", _cachetools_cached),
        Decorator("moka-py", "moka-py", lambda size: module("moka-py").cached(maxsize=size)),
        Decorator("theine", "theine", lambda size: module("theine").Memoize(size, None)),
        Decorator("async-lru", "async-lru", lambda size: module("async-lru").alru_cache(size)),
    ]
}


def decorators(*names: str) -> list[Decorator]:
    """The named decorators that can be imported."""
    return [DECORATORS[name] for name in names if have(DECORATORS[name].peer)]
