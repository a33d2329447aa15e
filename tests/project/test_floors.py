"""The floors of the package: each knows only those below it. Read from the sources, compiled or not."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "src" / "cachebox"
pytestmark = pytest.mark.skipif(not SOURCES.is_dir(), reason="the sources are not here, only an installed package")

# From the ground up: each floor, and the floors below it that it may know. A module at the top of the package, or of
# `distributed`, is a floor of its own; a folder is one as a whole.
FLOORS = {
    "_installation": "",
    "_platform": "_installation",
    "removal": "_platform",
    "protocols": "_platform",
    "_engine": "",                  # and of `_platform` one header of C
    "stats": "_platform",
    "_store": "_platform _engine stats removal",
    "_loading": "_platform _engine stats _store",
    "policies": "_platform _engine _store",
    "_files": "_platform",
    "cache": "_platform _engine _store _loading policies _files",
    "_simulation": "_platform _engine _store policies cache",
    "_calls": "_platform _engine stats _store _loading cache",
    "keys": "_platform _calls",
    "decorators": "_platform _store _loading cache _calls",
    "strategies": "_platform _files cache",
    "distributed.errors": "",
    "distributed.options": "",
    "distributed._wire": "_platform",
    "distributed._net": "_platform _loading distributed._wire",
    "distributed._embedded": "_platform distributed._wire distributed._net",
    "distributed._near": (
        "_platform _engine stats _store _loading cache distributed._wire distributed._net distributed._embedded"
    ),
    "distributed._ops": (
        "_platform _loading cache _calls distributed.errors distributed.options"
        " distributed._wire distributed._net distributed._near"
    ),
    "distributed": (
        "_platform _store _loading cache _calls distributed.errors distributed.options"
        " distributed._wire distributed._net distributed._embedded distributed._near distributed._ops"
    ),
    "metrics": "_platform _store cache",
    "contrib": "policies cache distributed",
    "testing": "_platform",
    "cli": "_installation _platform _simulation",
}
# A cached function asks, at its first call, what `decorators` has to say about the class that it is called on.
LATE = {"_calls": {"decorators"}}

IMPORT = re.compile(
    r"""^\s*(?:
        from\s+(?P<package>[\w.]+)\s+c?import\s+(?P<names>\([^)]*\)|[^\n#]*)
        | c?import\s+(?P<modules>[\w., ]+)
    )""",
    re.MULTILINE | re.VERBOSE,
)
DOCSTRINGS = re.compile(r'("{3}|\'{3}).*?\1', re.DOTALL)
FOR_TYPE_CHECKERS = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t]+.*\n|\n)+", re.MULTILINE)


def imports(path: Path) -> set[str]:
    """The dotted names that a source file imports or cimports when it runs, at its top or within functions."""
    text = FOR_TYPE_CHECKERS.sub("", DOCSTRINGS.sub('""', path.read_text(encoding="utf-8")))
    found = set()
    for match in IMPORT.finditer(text):
        if match["package"]:
            names = re.findall(r"[\w]+(?:\s+as\s+\w+)?", match["names"])
            found.update(f"{match['package']}.{name.split()[0]}" for name in names)
        else:
            found.update(name.split()[0] for name in match["modules"].split(",") if name.strip())
    return found


def floor_of(dotted: str) -> str:
    """The floor of a name in the package, such as `distributed._wire` of `cachebox.distributed._wire.resp`."""
    first, *rest = dotted.removeprefix("cachebox.").split(".")
    below = f"{first}.{rest[0]}" if rest else first
    return below if below in FLOORS else first


def own(path: Path) -> set[str]:
    """The floors that a file knows, its own aside."""
    here = floor_of(".".join(path.relative_to(SOURCES).with_suffix("").parts))
    return {floor_of(name) for name in imports(path) if name.startswith("cachebox.")} - {here}


def files(*suffixes: str) -> list[Path]:
    if not SOURCES.is_dir():
        return []
    return [path for path in sorted(SOURCES.rglob("*")) if path.suffix in (suffixes or (".py", ".pyx", ".pxd"))]


def test_imports_are_found_in_all_their_forms(tmp_path):
    path = tmp_path / "sample.pyx"
    path.write_text(
        '"""import nothing"""\n'
        "import os, sys\n"
        "cimport cython\n"
        "from libc.stdint cimport uint32_t\n"
        "from cachebox._engine.table cimport (\n    Engine,\n    Table,\n)\n"
        "from cachebox import sweeper as imported, stats\n"
        "if TYPE_CHECKING:\n    from cachebox import Cache\n\n"
        "def f():\n    from cachebox._store.views import CacheKeys\n"
    )
    assert imports(path) == {
        "os",
        "sys",
        "cython",
        "libc.stdint.uint32_t",
        "cachebox._engine.table.Engine",
        "cachebox._engine.table.Table",
        "cachebox.sweeper",
        "cachebox.stats",
        "cachebox._store.views.CacheKeys",
    }


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_knows_only_those_below_it(floor):
    below = set(FLOORS[floor].split())
    higher = set(list(FLOORS)[list(FLOORS).index(floor) :])
    assert not below & higher, "the table itself is out of order"
    known: set[str] = set()
    for path in files():
        if floor_of(".".join(path.relative_to(SOURCES).with_suffix("").parts)) == floor:
            outside = own(path) - below - LATE.get(floor, set())
            if floor == "cli":                  # the command line is a user: it knows the public names
                outside = {name for name in outside if name.startswith("_") and not name.startswith("__")}
            assert not outside, path
            known |= own(path)
    assert floor == "cli" or known >= below, "the table allows what nobody needs"


def test_every_file_is_on_a_floor_and_only_public_modules_are_at_the_top():
    at_the_top = {path.name for path in SOURCES.iterdir() if not path.name.startswith("_") and path.suffix != ".so"}
    assert at_the_top == {
        *(f"cache.{end}" for end in ("pxd", "pyi", "pyx")),
        *(f"stats.{end}" for end in ("pxd", "pyi", "pyx")),
        *(f"policies.{end}" for end in ("pxd", "pyi", "pyx")),
        *("decorators.py", "decorators.pyi", "keys.py", "protocols.py", "removal.py", "py.typed"),
        *("cli", "contrib", "distributed", "metrics", "strategies", "testing"),
    }
    for path in files():
        floor = floor_of(".".join(path.relative_to(SOURCES).with_suffix("").parts))
        assert floor in FLOORS or floor in ("__init__", "__main__"), path


ENGINES = [path for path in files() if path.parent.name == "_engine"]


@pytest.mark.parametrize("path", ENGINES, ids=lambda path: path.name)
def test_the_engine_knows_neither_time_nor_threads(path):
    for name in imports(path):
        top = name.partition(".")[0]
        assert top in {"cachebox", "cython", "cpython", "libc"} or top in sys.stdlib_module_names, name
        assert top not in {"time", "threading", "_thread", "socket", "asyncio"}, name


def test_only_distributed_imports_redis():
    for path in files():
        if path.relative_to(SOURCES).parts[0] != "distributed":
            assert not {name for name in imports(path) if name.partition(".")[0] in ("redis", "valkey")}, path


WITH_EXTRAS = {
    "warming.py": {"rich"}, "plots.py": {"matplotlib"}, "greenlets.py": {"eventlet", "gevent"}, "plugin.py": {"pytest"},
    "_prometheus.py": {"prometheus_client"}, "_opentelemetry.py": {"opentelemetry"}, "cachelib.py": {"cachelib"},
}


def test_the_core_depends_on_nothing_but_the_standard_library():
    for path in files(".py", ".pyx", ".pxd", ".pyi"):
        if path.relative_to(SOURCES).parts[0] in ("distributed", "strategies", "cli"):
            continue
        outside = {name.partition(".")[0] for name in imports(path)} - {"cachebox", "cython", "cpython", "libc"}
        if path.suffix == ".pyi":
            outside.discard("typing_extensions")    # every type checker knows it, installed or not
        assert outside <= set(sys.stdlib_module_names) | WITH_EXTRAS.get(path.name, set()), path


OWN_LOCKS = {
    "_platform/section.pyx",
    "_store/notices.pyx",               # around the import of the sweeper, which a fork waits for
    "contrib/cachetools/func.py",       # a condition, as there
    "strategies/key_locks.py",          # of tasks
    "testing/__init__.py",              # a clock, which calls nothing
}


def test_a_lock_that_python_code_may_run_under_is_a_section():
    """A thread in a `Section` begins no wait for another thread; with any other lock it might, and hang."""
    found = set()
    for path in files(".py", ".pyx"):
        text = DOCSTRINGS.sub('""', path.read_text(encoding="utf-8"))
        if re.search(r"\b(?:RLock|Lock|Condition|Semaphore)\(", text):
            found.add(path.relative_to(SOURCES).as_posix())
    assert found == OWN_LOCKS


def test_a_class_that_frees_long_chains_has_a_member_of_its_own():
    """Cython's deallocator of a class without members leaves all to its base, whose trashcan is for that base."""
    found = []
    for path in SOURCES.rglob("*.pyx"):
        text = path.read_text()
        for name in re.findall(r"@cython\.trashcan\(True\).*\n(?:@.*\n)*cdef class (\w+)", text):
            declared = path.with_suffix(".pxd")
            both = text + (declared.read_text() if declared.exists() else "")
            bodies = re.findall(rf"^cdef class {name}\b.*:\n((?:    .*\n|\n)*)", both, re.MULTILINE)
            kinds = r"(?:readonly |public )?(?:object|dict|list|tuple|set|str|[A-Z]\w*)"
            members = [re.search(rf"^    cdef {kinds} \w+(?!\w*\()", body, re.MULTILINE) for body in bodies]
            assert any(members), f"{path.name}: {name}"
            found.append(name)
    assert {"Cache", "CachedFunction", "CachedMethod", "BoundFunction"} <= set(found)
