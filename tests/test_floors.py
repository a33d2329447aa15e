"""The floors of the package: each module knows only those below it. Read from the sources, compiled or not.

_engine                      keys, values and order
facade                       lock, clock, lifetimes, counters, callbacks: the cache
decorators                   the facade
strategies                   anything with a cache's methods
distributed                  the facade, and redis
__main__, cli                everything public
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[1] / "src" / "cachebox"
pytestmark = pytest.mark.skipif(not SOURCES.is_dir(), reason="the sources are not here, only an installed package")

IMPORT = re.compile(
    r"""^\s*(?:
        from\s+(?P<package>[\w.]+)\s+c?import\s+(?P<names>\([^)]*\)|[^\n#]*)
        | c?import\s+(?P<modules>[\w., ]+)
    )""",
    re.MULTILINE | re.VERBOSE,
)
# `calls`, which finds the key of a call in the table, is the uppermost part of the facade.
DECORATORS = {"decorators", "wrappers", "coroutines", "begun", "likeness", "cache_info"}
COMMAND_LINE = {"__main__", "cli"}
UPPER_FLOORS = {*DECORATORS, *COMMAND_LINE, "strategies", "distributed"}


def floor_of(path: Path) -> str:
    """The package's module or folder that a file belongs to."""
    part = path.relative_to(SOURCES).parts[0]
    return part.partition(".")[0]


def imports(path: Path) -> set[str]:
    """The dotted names of all modules that a source file imports or cimports, at its top or within functions."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r'("{3}|\'{3}).*?\1', '""', text, flags=re.DOTALL)
    found = set()
    for match in IMPORT.finditer(text):
        if match["package"]:
            names = re.findall(r"[\w]+(?:\s+as\s+\w+)?", match["names"].replace("import", ""))
            found.add(match["package"])
            if match["package"] == "cachebox":
                found.update(f"cachebox.{name.split()[0]}" for name in names)
        else:
            found.update(name.split()[0] for name in match["modules"].split(",") if name.strip())
    return found


def own(path: Path) -> set[str]:
    """The modules or folders of this package that a file imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("cachebox.")}


def files(*floors: str) -> list[Path]:
    every = [path for path in sorted(SOURCES.rglob("*")) if path.suffix in (".py", ".pyx", ".pxd", ".pyi")]
    return [path for path in every if not floors or floor_of(path) in floors]


FACADE = (
    sorted({floor_of(path) for path in files()} - UPPER_FLOORS - {"_engine", "__init__"}) if SOURCES.is_dir() else []
)


def test_imports_are_found_in_all_their_forms(tmp_path):
    path = tmp_path / "sample.pyx"
    path.write_text(
        '"""import nothing"""\n'
        "import os, sys\n"
        "cimport cython\n"
        "from libc.stdint cimport uint32_t\n"
        "from cachebox._engine.table cimport (\n    Engine,\n    Table,\n)\n"
        "from cachebox import sweeper as imported, stats\n"
        "def f():\n    from cachebox._store.views import CacheKeys\n"
    )
    assert imports(path) == {
        "os",
        "sys",
        "cython",
        "libc.stdint",
        "cachebox._engine.table",
        "cachebox",
        "cachebox._store.sweeper",
        "cachebox.stats",
        "cachebox._store.views",
    }
    assert own(path) == {"_engine", "sweeper", "stats", "views"}


def test_the_sources_are_read():
    assert {"cache", "store", "policies", "stats", "expiry", "sweeper", "lock"} <= set(FACADE)
    assert "table" in {path.stem for path in files("_engine")} and len(files()) > 30


@pytest.mark.parametrize("path", files("_engine") if SOURCES.is_dir() else [], ids=lambda path: path.name)
def test_the_engine_knows_only_itself_c_and_the_standard_library(path):
    for name in imports(path):
        top = name.partition(".")[0]
        assert (
            name.startswith("cachebox._engine")
            or top in {"cython", "cpython", "libc"}
            or top in sys.stdlib_module_names
        ), name
        assert top not in {"time", "threading", "_thread", "socket", "asyncio"}, name


@pytest.mark.parametrize("floor", FACADE)
def test_the_facade_never_knows_what_stands_above_it(floor):
    for path in files(floor):
        assert not own(path) & UPPER_FLOORS, path


@pytest.mark.parametrize("floor", sorted(DECORATORS))
def test_the_decorators_never_know_the_engine(floor):
    for path in files(floor):
        assert not own(path) & {"_engine", "strategies", "distributed", *COMMAND_LINE}, path


def test_nothing_but_the_command_line_knows_the_command_line():
    for path in files():
        if floor_of(path) not in COMMAND_LINE:
            assert not own(path) & COMMAND_LINE, path


def test_strategies_and_distributed_know_no_engine():
    for path in files("strategies", "distributed"):
        assert "_engine" not in own(path), path


def test_only_distributed_imports_redis():
    for path in files():
        if floor_of(path) != "distributed":
            assert not {name for name in imports(path) if name.partition(".")[0] in ("redis", "valkey")}, path


def test_the_core_depends_on_nothing_but_the_standard_library():
    for path in files(*FACADE, *DECORATORS, "_engine", "__init__"):
        outside = {name.partition(".")[0] for name in imports(path)} - {"cachebox", "cython", "cpython", "libc"}
        if path.suffix == ".pyi":
            outside.discard("typing_extensions")    # every type checker knows it, installed or not
        if path.name == "warming.py":
            outside.discard("rich")                 # for a progress bar, where one is asked for
        if path.name == "plots.py":
            outside.discard("matplotlib")           # for a picture, where one is asked for
        if path.name == "greenlets.py":
            outside -= {"eventlet", "gevent"}       # where a program runs in one of their hubs
        assert outside <= set(sys.stdlib_module_names), path
