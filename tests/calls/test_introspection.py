"""What tools see of a cached function: `inspect`, `help`, mocks, and frameworks that look for a function."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pydoc
import types
import typing
import weakref
from unittest import mock

import pytest

from cachebox import Cache, DistributedCache, cached, lru_cache

OVER = {
    "a cache of its own": lambda: cached,
    "a shared cache": lambda: cached(Cache()),
    "lru_cache": lambda: lru_cache,
    "two tiers": lambda: cached(DistributedCache(redis_port=1), key_func=lambda *args, **kwargs: repr((args, kwargs))),
}


@pytest.fixture(params=OVER.values(), ids=OVER)
def decorate(request):
    if request.param is OVER["two tiers"]:
        pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")
    return request.param()


@pytest.fixture
def is_ours(decorate):
    """Whether it knows coroutines."""
    return decorate is not lru_cache


def example(x: int, *, y: str = "") -> list[int]:
    """What it is for."""
    return [x]


async def example_later(x: int) -> int:
    return x


def test_inspect_takes_it_for_a_function(decorate):
    f = decorate(example)
    assert inspect.isfunction(f) and inspect.isroutine(f) and not inspect.isclass(f) and callable(f)
    assert isinstance(f, types.FunctionType) and type(f) is not types.FunctionType
    assert inspect.signature(f) == inspect.signature(example)
    assert inspect.getfullargspec(f) == inspect.getfullargspec(example)
    assert inspect.getsource(f) == inspect.getsource(example) and inspect.getfile(f) == __file__
    assert inspect.getdoc(f) == "What it is for." and inspect.unwrap(f) is example
    assert typing.get_type_hints(f) == typing.get_type_hints(example)
    assert (f.__code__, f.__defaults__, f.__kwdefaults__) == (example.__code__, None, {"y": ""})
    assert f.__globals__ is globals()
    assert {"cache_info", "cache_clear", "__wrapped__", "__name__"} <= set(dir(f))


def test_async_functions_are_known_as_such(decorate, is_ours):
    if not is_ours:
        pytest.skip("functools caches coroutines")
    f = decorate(example_later)
    assert inspect.iscoroutinefunction(f) and asyncio.iscoroutinefunction(f)
    assert not inspect.iscoroutinefunction(decorate(example)) and not asyncio.iscoroutinefunction(decorate(example))

    class Service:
        @decorate
        async def method(self, x):
            return x

    assert inspect.iscoroutinefunction(Service().method) and asyncio.iscoroutinefunction(Service().method)


class Shown:
    """Something to look at."""

    @cached
    def method(self, x: int = 1) -> int:
        """What the method is for."""
        return x

    @classmethod
    @cached
    def of_class(cls, x: int) -> int:
        """What the class method is for."""
        return x

    @staticmethod
    @cached
    def static(x: int) -> int:
        """What the static method is for."""
        return x

    @property
    @cached
    def value(self) -> int:
        """What the value is."""
        return 1

    @cached
    @property
    def other_value(self) -> int:
        """What the other value is."""
        return 1


def test_bound_methods_are_methods():
    method = Shown().method
    assert inspect.ismethod(method) and inspect.isroutine(method) and isinstance(method, types.MethodType)
    assert list(inspect.signature(method).parameters) == ["x"]
    assert weakref.WeakMethod(method)() is None or True
    one = Shown()
    assert weakref.WeakMethod(one.method)() == one.method
    assert [name for name, _ in inspect.getmembers(one, inspect.ismethod)] == ["method", "of_class"]
    kinds = {attribute.name: attribute.kind for attribute in inspect.classify_class_attrs(Shown)}
    assert (kinds["method"], kinds["of_class"], kinds["static"]) == ("method", "class method", "static method")
    assert kinds["value"] == kinds["other_value"] == "property"


def test_help_shows_what_it_wraps(decorate):
    text = pydoc.plain(pydoc.render_doc(decorate(example))).replace("'", "")    # CPython 3.14 leaves the quotes out
    assert "example(x: int, *, y: str = )" in text and "What it is for." in text
    shown = pydoc.plain(pydoc.render_doc(Shown))
    for words in ("the method", "the class method", "the static method", "the value", "the other value"):
        assert f"What {words} is" in shown
    assert "method(x: int = 1)" in pydoc.plain(pydoc.render_doc(Shown().method)).replace("'", "")


def test_signatures_of_the_decorators_show_no_addresses():
    for function in (cached, lru_cache, Cache, Cache.get, Cache.pop, Cache.set, Cache.update):
        assert " at 0x" not in str(inspect.signature(function))
    parameters = inspect.signature(cached).parameters
    assert (parameters["max_size"].default, parameters["policy"].default) == (1000, "LRU")
    assert not [p for p in parameters.values() if p.kind is p.VAR_KEYWORD]
    assert str(inspect.signature(lru_cache)) == str(inspect.signature(functools.lru_cache))


def test_mocks_have_its_specification(decorate, is_ours):
    fake = mock.create_autospec(decorate(example), return_value=5)
    assert fake(1, y="a") == 5
    with pytest.raises(TypeError):
        fake(1, 2, 3)
    fake = mock.create_autospec(Shown)
    with pytest.raises(TypeError):
        fake().method(1, 2)
    fake().method(1)
    if is_ours:
        assert asyncio.iscoroutinefunction(mock.create_autospec(decorate(example_later)))
    with mock.patch.object(Shown, "method", autospec=True, return_value=7):
        assert Shown().method(3) == 7
    assert Shown().method(3) == 3


def test_decorators_of_the_standard_library_take_it(decorate):
    f = decorate(example)
    assert functools.wraps(f)(lambda: 1).__name__ == "example"
    assert functools.partial(f, 1)() == [1]
    dispatch = functools.singledispatch(f)
    assert dispatch(1) == [1]
    assert functools.update_wrapper(lambda: 1, f).__wrapped__ is f


def test_attributes_of_the_function_never_hide_those_of_the_wrapper(decorate):
    def function(x):
        return [x]

    names = ["cache_clear", "cache_info", "cache_parameters", "cache_key", "invalidate", "cache"]
    for name in [*names, "own"]:
        setattr(function, name, f"the function's {name}")
    f = decorate(function)
    assert f.own == "the function's own"
    for name in names:
        assert getattr(f, name) != f"the function's {name}"
    f(1)
    assert f.cache_info().misses == 1


def test_a_cache_below_is_emptied_too():
    calls = []
    inner = cached(lambda x: calls.append(x))
    outer = cached(inner)
    outer(1), outer(1)
    assert outer.invalidate(1) is True
    outer(1)
    outer.cache_clear()
    outer(1)
    assert calls == [1, 1, 1]
    f = cached(functools.lru_cache(lambda x: calls.append(x)))
    f(1), f.cache_clear(), f(1)
    assert len(calls) == 5
    assert f.cache_parameters()["maxsize"] == 1000


def test_what_a_wrapped_object_can_do_it_can_still():
    class Task:
        """Something that is called and can do more."""

        def __call__(self, x):
            return [x]

        def delay(self, x):
            return f"later {x}"

    f = cached(Task())
    assert f(1) is f(1) and f.delay(1) == "later 1"
    with pytest.raises(AttributeError, match="nothing"):
        f.nothing
    assert not isinstance(f, types.FunctionType)


# --- frameworks -------------------------------------------------------------------------------------------------------


def framework(name):
    return pytest.importorskip(name, reason=f"{name} is not installed: it is in the dependency group `frameworks`")


def test_starlette_routes_lead_to_it():
    framework("starlette")
    framework("httpx")
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    calls = []

    @cached(key_func=lambda request: request.url.path)
    async def home(request):
        calls.append(request.url.path)
        return PlainTextResponse("home")

    @cached(key_func=lambda request: request.url.path)
    def plain(request):
        return PlainTextResponse("plain")

    app = Starlette(routes=[Route("/", home), Route("/plain", plain)])
    assert asyncio.run(answers(app, "/", "/", "/plain")) == ["home", "home", "plain"]
    assert calls == ["/"]


async def answers(app, *paths):
    import httpx

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return [(await client.get(path)).text for path in paths]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_celery_makes_tasks_of_it():
    framework("celery")
    from celery import Celery

    app = Celery("tests", broker="memory://", backend="cache+memory://")
    app.conf.task_always_eager = True
    calls = []

    @app.task
    @cached(max_size=10)
    def add(a, b):
        calls.append(a)
        return a + b

    assert add.name.endswith(".add")
    assert [add.delay(1, 2).get(), add.delay(1, 2).get(), add(1, 2)] == [3, 3, 3]
    assert calls == [1]

    @cached(max_size=10)
    @app.task
    def other(a, b):
        calls.append(a)
        return a + b

    assert other(5, 2) == other(5, 2) == 7 and calls == [1, 5]
    assert other.delay(5, 2).get() == 7


def test_pydantic_models_may_have_cached_methods():
    framework("pydantic")
    from pydantic import BaseModel

    class Model(BaseModel):
        x: int

        @cached
        def double(self):
            return [self.x * 2]

        @property
        @cached
        def half(self):
            return [self.x / 2]

    one, equal = Model(x=1), Model(x=1)
    assert one.double() is one.double() is not equal.double()
    assert one.half is one.half is not equal.half
    assert one == equal and set(Model.model_fields) == {"x"}
    gone = weakref.ref(one)
    del one
    assert gone() is None


def test_attrs_classes_may_have_cached_methods():
    attr = framework("attr")

    @attr.s(auto_attribs=True, slots=True, frozen=True)
    class Point:
        x: int

        @cached
        def double(self):
            return [self.x * 2]

    one, equal = Point(1), Point(1)
    assert one.double() is one.double() is not equal.double()


def test_sphinx_documents_it(tmp_path):
    framework("sphinx")
    from sphinx.application import Sphinx

    (tmp_path / "documented.py").write_text(
        "'''A module.'''\nfrom cachebox import cached\n"
        "@cached\ndef function(x: int) -> int:\n    '''What the function is for.'''\n    return x\n"
        "class Kind:\n    '''A class.'''\n"
        "    @cached\n    def method(self, x: int) -> int:\n        '''What the method is for.'''\n        return x\n"
        "    @cached\n    @property\n    def value(self) -> int:\n        '''What the value is.'''\n        return 1\n"
        "    @classmethod\n    @cached\n    def of_class(cls) -> int:\n        '''What that is for.'''\n"
    )
    (tmp_path / "index.rst").write_text("Title\n=====\n\n.. automodule:: documented\n   :members:\n")
    import sys

    sys.path.insert(0, str(tmp_path))
    try:
        app = Sphinx(
            str(tmp_path), None, str(tmp_path / "out"), str(tmp_path / "trees"), "text",
            confoverrides={"extensions": ["sphinx.ext.autodoc"]}, status=None, warning=None,
        )
        app.build()
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("documented", None)
    text = (tmp_path / "out" / "index.txt").read_text()
    for words in ("the function is for", "the method is for", "the value is", "that is for", "function(x: int)"):
        assert words in text
