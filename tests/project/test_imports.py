"""The public names, the module paths that keep working, and how little `import cachebox` imports."""

from __future__ import annotations

import importlib
import subprocess
import sys
import sysconfig
import types
from importlib.util import find_spec

import pytest

import cachebox


def run(code: str, *options: str) -> str:
    """The output of a program of its own. It must end well and say nothing on stderr."""
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def imported_by(code: str) -> set[str]:
    """The modules that a program imports, without those that every program has."""
    printed = run(f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*sorted(set(sys.modules) - before))")
    return set(printed.split())


PATHS = {
    "cachebox._platform.registry": ["caches", "clear_all"],
    "cachebox._store.entry": ["Entry"],
    "cachebox._store.sizes": ["sizeof"],
    "cachebox.cache": ["Cache"],
    "cachebox.policies": ["EvictionPolicy", "LRUPolicy", "LFUPolicy", "FIFOPolicy", "AutoPolicy"],
    "cachebox.stats": ["CacheStats"],
    "cachebox._simulation.recorder": ["record"],
    "cachebox._simulation.simulation": ["simulate"],
    "cachebox._calls.disabling": ["disabled"],
    "cachebox.decorators": ["cached", "cached_many"],
    "cachebox.strategies.errors": ["QueueFull"],
    "cachebox.protocols": ["AsyncCacheLike", "CacheLike"],
    "cachebox.strategies.async_write_behind": ["AsyncWriteBehind"],
    "cachebox.strategies.async_write_through": ["AsyncWriteThrough"],
    "cachebox.strategies.write_behind": ["WriteBehind"],
    "cachebox.strategies.write_through": ["WriteThrough"],
}
PATHS_OF_EXTRAS = {
    "cachebox.distributed": ["AsyncDistributedCache", "BackendRefused", "BackendUnavailable", "DistributedCache"],
}
EXTRAS = {name for names in PATHS_OF_EXTRAS.values() for name in names}
EXPECTED = {"MISSING", "RemovalCause", "lru_cache", *(name for names in PATHS.values() for name in names), *EXTRAS}
HAS_REDIS = find_spec("redis") is not None
needs_redis = pytest.mark.skipif(not HAS_REDIS, reason="redis-py is not installed: it is in the extra `test`")


def test_all_holds_the_names_of_the_contract():
    assert set(cachebox.__all__) >= EXPECTED


def test_all_is_exact():
    for name in cachebox.__all__:
        assert getattr(cachebox, name) is not None
    public = {name for name in dir(cachebox) if not name.startswith("_")}
    public = {name for name in public if not isinstance(getattr(cachebox, name), types.ModuleType)}
    assert not hasattr(cachebox, "cachebox")
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


def test_the_distributed_tier_has_its_names_at_the_top_level_too():
    module = importlib.import_module("cachebox.distributed")
    for name in PATHS_OF_EXTRAS["cachebox.distributed"]:
        assert getattr(module, name) is getattr(cachebox, name)


def test_without_redis_only_a_server_needs_it():
    code = """
import sys
sys.modules["redis"] = None             # as if it were not installed
from cachebox import *
import cachebox, inspect, pydoc
for options in {}, {"url": "redis://localhost"}, {"client": object()}:
    try:
        cachebox.DistributedCache(**options)
    except ImportError as error:
        print(error)
with cachebox.DistributedCache(url="memory://") as cache:
    cache.set("a", 1)
    print(cache.get("a"))
print("class DistributedCache" in pydoc.render_doc(cachebox.distributed.caches, renderer=pydoc.plaintext))
print(*sorted(name for name in globals() if name in cachebox.__all__))
"""
    *refused, got, helps, found = run(code).splitlines()
    assert refused == ['a cache on a server needs redis-py: pip install "cachebox-cython[redis]"'] * 3
    assert (got, helps) == ("1", "True")
    assert found.split() == sorted(cachebox.__all__)


def test_the_distributed_tier_is_imported_only_when_asked_for():
    assert not imported_by("import cachebox; cachebox.Cache(2)") & {"redis", "asyncio", "cachebox.distributed"}
    found = imported_by("import cachebox; cachebox.DistributedCache")
    assert "cachebox.distributed" in found and "redis" not in found


def test_adapters_are_imported_only_when_asked_for():
    assert not any(name.startswith("cachebox.contrib") for name in imported_by("import cachebox; cachebox.Cache(2)"))
    found = imported_by("import cachebox.contrib.cachetools.func")
    assert "cachebox.contrib.cachetools" in found and not found & {"cachetools", "cachelib", "cachebox.distributed"}


def test_redis_is_not_imported_for_a_folder(tmp_path):
    for url in "memory://", tmp_path.as_uri() + "/cache":
        code = f"import cachebox; c = cachebox.DistributedCache(url={url!r}); c.set('a', 1); c.get('a'); c.close()"
        assert "redis" not in imported_by(code)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        cachebox.nonsense
    with pytest.raises(ImportError):
        exec("from cachebox import nonsense")


def test_the_core_has_no_dependency_and_the_extras_have_their_names():
    from importlib.metadata import metadata

    about = metadata("cachebox-cython")
    assert all("extra ==" in needed for needed in about.get_all("Requires-Dist"))
    extras = {"redis", "msgpack", "msgspec", "zstd", "cli", "prometheus", "opentelemetry", "test", "bench", "docs"}
    extras.add("django")
    assert set(about.get_all("Provides-Extra")) >= extras
    assert about["Requires-Python"] == ">=3.11"


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert cachebox.__version__ == version("cachebox-cython")
    assert "__version__" in dir(cachebox)


@pytest.mark.parametrize("name", sorted(EXPECTED if HAS_REDIS else EXPECTED - EXTRAS))
def test_every_name_can_be_the_first_to_be_imported(name):
    assert run(f"from cachebox import {name}; print('{name}')").split() == [name]


@pytest.mark.parametrize(
    "module",
    [
        "cache",
        "policies",
        "stats",
        "decorators",
        "removal",
        "_store.sweeper",
        "_store.views",
        "_store.options",
        "_calls.coroutines",
        "_calls.cached_function",
        "_calls.call_key",
        "_loading.single_flight",
        "_loading.loader",
        "_loading.refresh",
        "_loading.refresh_pool",
        "_loading.warming",
        "_loading.negative_cache",
        "_files.dump",
        "_files.serializer",
        "contrib.cachelib",
        "contrib.cachetools",
        "contrib.cachetools.func",
        "contrib.cachetools.keys",
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
