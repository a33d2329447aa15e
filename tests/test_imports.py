"""The public names, the module paths that keep working, and how little `import cachebox` imports."""

from __future__ import annotations

import importlib
import subprocess
import sys
import sysconfig
import types

import pytest

import cachebox


def run(code: str, *options: str) -> str:
    """What a program of its own prints. It must end well and say nothing on stderr."""
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def imported_by(code: str) -> set[str]:
    """The modules that a program imports, beside those that every program has."""
    printed = run(f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*sorted(set(sys.modules) - before))")
    return set(printed.split())


PATHS = {
    "cachebox.cache": ["Cache"],
    "cachebox.policies": ["EvictionPolicy", "LRUCache", "LFUCache", "FIFOCache"],
    "cachebox.stats": ["CacheStats"],
    "cachebox.decorators": ["cached"],
    "cachebox.strategies.errors": ["QueueFull"],
    "cachebox.strategies.write_behind": ["WriteBehind"],
    "cachebox.strategies.write_through": ["WriteThrough"],
}
EXPECTED = {"MISSING", "RemovalCause", "lru_cache", *(name for names in PATHS.values() for name in names)}


def test_all_holds_the_names_of_the_contract():
    assert set(cachebox.__all__) >= EXPECTED


def test_all_is_exact():
    public = {name for name in dir(cachebox) if not name.startswith("_")}
    public = {name for name in public if not isinstance(getattr(cachebox, name), types.ModuleType)}
    assert public == set(cachebox.__all__)
    assert len(cachebox.__all__) == len(set(cachebox.__all__))


def test_a_star_import_brings_exactly_that():
    namespace = {}
    exec("from cachebox import *", namespace)
    del namespace["__builtins__"]
    assert set(namespace) == set(cachebox.__all__)


@pytest.mark.parametrize("path", PATHS)
def test_module_paths_keep_working_and_name_the_same_things_as_the_top_level(path):
    module = importlib.import_module(path)
    for name in PATHS[path]:
        assert getattr(module, name) is getattr(cachebox, name)
        assert getattr(module, name).__module__ == path


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        cachebox.nonsense
    with pytest.raises(ImportError):
        exec("from cachebox import nonsense")


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert cachebox.__version__ == version("cachebox-cython")
    assert "__version__" in dir(cachebox)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_name_can_be_the_first_to_be_imported(name):
    assert run(f"from cachebox import {name}; print('{name}')").split() == [name]


@pytest.mark.parametrize(
    "module",
    [
        "cache",
        "policies",
        "stats",
        "decorators",
        "sweeper",
        "views",
        "removal",
        "coroutines",
        "flight",
        "wrappers",
        "calls",
        "loading",
        "refreshing",
        "workers",
        "warming",
        "dumps",
        "encoding",
        "failures",
    ],
)
def test_every_module_can_be_the_first_to_be_imported(module):
    run(f"import cachebox.{module}")


HEAVY = {
    "redis",
    "asyncio",
    "threading",
    "inspect",
    "typing",
    "dataclasses",
    "enum",
    "functools",
    "collections",
    "contextvars",
    "re",
    "logging",
    "datetime",
    "decimal",
    "pickle",
    "json",
    "importlib.metadata",
    "weakref",
    "copy",
    "atexit",
    "ssl",
    "socket",
}


def test_importing_the_package_imports_nothing_heavy():
    assert not imported_by("import cachebox") & HEAVY


def test_using_a_cache_in_which_nothing_expires_imports_nothing_heavy():
    code = """
import cachebox
cache = cachebox.Cache(2)
cache.update(a=1, b=2, c=3)
cache["b"], cache.get("x"), cache.peek("c"), list(cache), len(cache), cache.pop("c"), cache.delete("b"), repr(cache)
cache.get_or_set("d", int), cache.increment("e"), cache.compute("e", str), cache.stats.report(), cache.clear()
"""
    assert not imported_by(code) & HEAVY


def test_what_is_imported_of_the_package_itself_is_what_a_cache_needs():
    own = {name for name in imported_by("import cachebox") if name.startswith("cachebox.")}
    assert not own & {
        f"cachebox.{name}" for name in (
            "sweeper", "removal", "views", "coroutines", "cache_info", "distributed",
            "workers", "warming", "dumps", "encoding", "failures", "strategies",
        )
    }


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this interpreter has the GIL")
def test_importing_does_not_turn_the_gil_back_on():
    code = """
import importlib, pkgutil, sys
assert not sys._is_gil_enabled()
import cachebox
for found in pkgutil.walk_packages(cachebox.__path__, "cachebox."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
print(sys._is_gil_enabled())
"""
    assert run(code, "-W", "error").split() == ["False"]


def test_the_package_is_typed():
    from importlib.resources import files

    assert (files("cachebox") / "py.typed").is_file()
