"""What the cache is compared with: how to get hold of each peer, and how each is told to do the same thing.

A peer that cannot be had is left out, and `ABSENT` says why.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import subprocess
import sys
import sysconfig
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / ".peers"
RUST = "cachebox (Rust)"
OURS = "cachebox"
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

ABSENT: dict[str, str] = {}         # peer: why it is not here
VERSIONS: dict[str, str] = {}       # peer: its version


# --- getting hold of them ---------------------------------------------------------------------------------------------


def rust_cachebox() -> ModuleType:
    """The Rust package of our import name, loaded under another; fetched by pip the first time."""
    folder = FOLDER / f"{sys.implementation.cache_tag}{sys.abiflags}"
    if not (folder / "cachebox").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command = [*pip, "--no-deps", "--only-binary=:all:", "--target", str(folder), "cachebox"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise ImportError((done.stderr.strip().splitlines() or ["pip failed"])[-1])
    ours = _take_away("cachebox")
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module("cachebox")
    finally:
        sys.path.remove(str(folder))
        for name, loaded in _take_away("cachebox").items():
            sys.modules[f"rust_{name}"] = loaded
        sys.modules.update(ours)
    VERSIONS[RUST] = str(module.__version__)
    return module


def _take_away(package: str) -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name == package or name.startswith(f"{package}.")]
    return {name: sys.modules.pop(name) for name in names}


def _load(peer: str, module: str) -> ModuleType | None:
    try:
        if FREE_THREADED:
            _must_leave_the_gil_off(module)
        loaded = importlib.import_module(module)
        VERSIONS[peer] = importlib.metadata.version(peer)
        return loaded
    except ImportError as error:
        ABSENT[peer] = str(error)
        return None


def _must_leave_the_gil_off(module: str, path: str = "") -> None:
    code = f"import sys; sys.path[:0] = {[path] if path else []}; import {module}; sys.exit(77 * sys._is_gil_enabled())"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, timeout=60)
    if done.returncode == 77:
        raise ImportError("it turns the GIL back on")


def _load_rust() -> ModuleType | None:
    try:
        if FREE_THREADED:
            raise ImportError("its import name is ours: whether it leaves the GIL off cannot be tried")
        return rust_cachebox()
    except (ImportError, OSError, subprocess.SubprocessError) as error:
        ABSENT[RUST] = str(error)
        return None


rust = _load_rust()                 # before ours
cachetools = _load("cachetools", "cachetools")
lru_dict = _load("lru-dict", "lru")
theine = _load("theine", "theine")
moka = _load("moka-py", "moka_py")
async_lru = _load("async-lru", "async_lru")

import cachebox  # noqa: E402

VERSIONS[OURS] = cachebox.__version__


# --- telling them what to do ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Container:
    """One kind of cache, and how its operations are written. In a statement, `cache` is the cache, `key` the key."""

    name: str
    make: Callable[[int], Any]      # an empty cache of that size
    get: str = "cache.get(key)"
    item: str | None = "cache[key]"
    store: str = "cache[key] = None"                # an overwrite, and filling it
    insert: str | None = "cache[key] = None"        # a new key into a full cache: the victim leaves
    delete: str | None = "del cache[key]"

    def filled(self, keys: Any) -> Any:
        """A cache with just those keys."""
        cache = self.make(len(keys))
        scope = {"cache": cache, "keys": keys}
        exec("for key in keys:\n    " + self.store.replace("\n", "\n    "), scope)
        return cache


def _memoizer(maxsize: int) -> Any:
    return functools.lru_cache(maxsize)(lambda key: None)


DICT = Container("dict", lambda size: {}, insert=None)
ORDERED = Container(
    "OrderedDict",                  # used as an LRU cache, the way its documentation shows
    lambda size: OrderedDict(),
    get="cache.get(key)\ncache.move_to_end(key)",
    item="cache[key]\ncache.move_to_end(key)",
    store="cache[key] = None\ncache.move_to_end(key)",
    insert="cache[key] = None\ncache.popitem(False)",
)
FUNCTOOLS = Container(
    "functools.lru_cache", _memoizer, get="cache(key)", item=None, store="cache(key)", insert="cache(key)", delete=None
)


def ours(policy: str, **options: Any) -> Container:
    """This package's cache."""
    return Container(f"{OURS} {policy}", lambda size: cachebox.Cache(size, policy=policy, **options))


def others(policy: str = "LRU") -> list[Container]:
    """The peers that have that policy (theine and moka-py have their own), as far as they are here."""
    found = []
    if rust is not None:
        found.append(Container(f"{RUST} {policy}", getattr(rust, f"{policy}Cache")))
    if cachetools is not None:
        found.append(Container(f"cachetools {policy}", getattr(cachetools, f"{policy}Cache")))
    if policy == "LRU":
        if lru_dict is not None:
            found.append(Container("lru-dict", lru_dict.LRU))
        if moka is not None:
            found.append(
                Container(
                    "moka-py LRU",
                    lambda size: moka.Moka(size, policy="lru"),
                    item=None,
                    store="cache.set(key, None)",
                    insert="cache.set(key, None)",
                    delete="cache.remove(key)",
                )
            )
        if theine is not None:
            found.append(
                Container(
                    "theine W-TinyLFU",
                    theine.Cache,
                    item=None,
                    store="cache.set(key, None)",
                    insert="cache.set(key, None)",
                    delete="cache.delete(key)",
                )
            )
    return found


CONTAINERS: dict[str, Container] = {
    each.name: each
    for each in [
        DICT,
        ORDERED,
        FUNCTOOLS,
        *(ours(policy) for policy in ("LRU", "LFU", "FIFO")),
        Container(f"{OURS} LRU, TTL", lambda size: cachebox.Cache(size, default_ttl=3600)),
        Container(f"{OURS} LRU, TTL, precise", lambda size: cachebox.Cache(size, default_ttl=3600, clock=time.monotonic)),
        *(each for policy in ("LRU", "LFU", "FIFO") for each in others(policy)),
    ]
}
