"""Documentation: every example in a docstring is right, and nothing public goes without a docstring.

doctest's own finder does not look into compiled classes far enough (properties) and sometimes twice (`__test__`), so
the docstrings are collected here, from Python modules and compiled ones alike.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import cachebox
from cachebox import AutoPolicy, Cache, CacheStats, EvictionPolicy, FIFOPolicy, LFUPolicy, LRUPolicy, RemovalCause
from cachebox.stats import StatsSnapshot

MODULES = sorted(["cachebox", *(found.name for found in pkgutil.walk_packages(cachebox.__path__, "cachebox."))])


def documented(name: str):
    """The name and the docstring of a module, of everything that it defines, and of the members of its classes."""
    module = importlib.import_module(name)
    yield name, module.__doc__
    for thing in {id(thing): thing for thing in vars(module).values()}.values():
        if getattr(thing, "__module__", None) != name or not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        yield f"{name}.{thing.__name__}", thing.__doc__
        if inspect.isclass(thing):
            for member, found in list(vars(thing).items()):
                found = getattr(found, "__func__", found)  # class methods and static methods
                if inspect.isroutine(found) or inspect.isdatadescriptor(found):
                    yield f"{name}.{thing.__name__}.{member}", found.__doc__


def examples(name: str) -> list:
    namespace = vars(importlib.import_module(name))
    parser = doctest.DocTestParser()
    found = [parser.get_doctest(text, dict(namespace), place, None, 0) for place, text in documented(name) if text]
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_are_right(name):
    for test in examples(name):
        said = []
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
        runner.run(test, out=said.append)
        assert runner.failures == 0, "".join(said)


def test_examples_are_found_in_compiled_modules_and_in_others():
    places = [test.name for name in MODULES for test in examples(name)]
    assert len(places) == len(set(places)) >= 15
    for place in (
        "cachebox",
        "cachebox.cache.Cache",
        "cachebox.cache.Cache.get",
        "cachebox.decorators.cached",
        "cachebox.stats.CacheStats",
    ):
        assert place in places


def test_a_wrong_example_would_be_noticed():
    wrong = doctest.DocTestParser().get_doctest(">>> Cache(5).max_size\n6\n", {"Cache": Cache}, "wrong", None, 0)
    runner = doctest.DocTestRunner()
    runner.run(wrong, out=lambda text: None)
    assert runner.failures == 1


PUBLIC = [Cache, CacheStats, StatsSnapshot, EvictionPolicy, LRUPolicy, LFUPolicy, FIFOPolicy, AutoPolicy, RemovalCause]


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
def test_every_public_method_has_a_docstring(kind):
    assert inspect.getdoc(kind)
    for name in dir(kind):
        member = inspect.getattr_static(kind, name)
        if not name.startswith("_") and inspect.isroutine(member):
            assert (inspect.getdoc(member) or "").strip(), f"{kind.__name__}.{name} has no docstring"


@pytest.mark.parametrize("kind", [Cache, CacheStats], ids=lambda kind: kind.__name__)
def test_every_public_property_has_a_docstring(kind):
    properties = [
        name for name in dir(kind) if not name.startswith("_") and inspect.isdatadescriptor(getattr(kind, name))
    ]
    assert len(properties) >= 5
    for name in properties:
        assert inspect.getdoc(getattr(kind, name)), f"{kind.__name__}.{name} has no docstring"


@pytest.mark.parametrize("kind", PUBLIC[:-1], ids=lambda kind: kind.__name__)
def test_every_public_method_has_a_signature(kind):
    for name in dir(kind):
        member = inspect.getattr_static(kind, name)
        if not name.startswith("_") and inspect.isroutine(member):
            assert next(iter(inspect.signature(member).parameters)) == "self", f"{kind.__name__}.{name}"


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is_for(name):
    assert (importlib.import_module(name).__doc__ or "").strip()


def test_everything_exported_has_a_docstring():
    for name in cachebox.__all__:
        if name != "MISSING":
            assert inspect.getdoc(getattr(cachebox, name)), name
