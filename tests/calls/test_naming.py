"""The function id of a cached function: in one process, over a server, in dumps, and when it is defined again."""

from __future__ import annotations

import enum
import gc
import importlib
import os
import runpy
import subprocess
import sys
import textwrap

import pytest

from cachebox import Cache, cached
from cachebox._calls.naming import Identity, LocalNames, SharedNames, fingerprint, simple
from conftest import named


class Colour(enum.Enum):
    RED = 1


class Number(enum.IntEnum):
    ONE = 1


def factory(value):
    def made(x):
        return value, x

    return made


def factory_of_defaults(value):
    def made(x, *, value=value):
        return value, x

    return made


def factory_of_partials(value):
    return __import__("functools").partial(lambda value, x: (value, x), value)


def factory_of_helpers(value):
    def helper(x):
        return value, x

    def made(x):
        return helper(x)

    return made


def factory_of_wrapped(value):
    import functools

    def made(x):
        return value, x

    @functools.wraps(made)
    def wrapper(*args):
        return made(*args)

    return wrapper


def factory_of_methods(value):
    class Service:
        def made(x):
            return value, x

    return Service.made


def factory_of_classes(value):
    kind = str if value == "eu" else bytes if value == "us" else int

    def made(x):
        return kind, x

    return made


FACTORIES = [
    factory, factory_of_defaults, factory_of_partials, factory_of_helpers, factory_of_wrapped, factory_of_methods,
    factory_of_classes,
]
SIMPLE = [
    1, 1.0, True, 0, False, 0.0, -0.0, None, "1", "", b"1", "True", (), (1,), (1.0,), ("1",), ((1, "a"), None),
    Colour.RED, Number.ONE, 10**30, float("inf"), float("nan"),
]


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", FACTORIES, ids=lambda make: make.__name__)
def test_functions_that_a_factory_makes_have_names_of_their_own(make):
    names = [Identity(make(value)).name for value in ("eu", "us", "eu")]
    assert names[0] == names[2] != names[1]


def test_simple_values_are_told_apart_by_type_as_well():
    for make in (factory, factory_of_defaults):
        names = [Identity(make(value)).name for value in SIMPLE]
        assert len(set(names)) == len(SIMPLE)
    assert [simple(value) for value in ([], {}, set(), object(), len, (1, []), Colour)] == [None] * 7


def test_values_that_are_not_simple_have_no_place_in_a_name():
    class Client:
        pass

    assert Identity(factory(Client())).name == Identity(factory([1])).name
    assert not Identity(factory([1])).is_simple and Identity(factory(1)).is_simple


def test_long_values_become_short_names():
    assert len(Identity(factory("x" * 10_000)).name) < 300
    assert Identity(factory("x" * 10_000)).name != Identity(factory("x" * 9_999)).name


def test_functions_of_one_qualified_name_never_meet_in_one_process():
    cache = Cache()
    functions = [cached(cache)(make(value)) for make in FACTORIES for value in (1, 1.0, True, [1], [1], 1)]
    results = [function(5) for function in functions]
    assert [function(5) for function in functions] == results
    assert len(cache) == len(functions)
    assert [function.cache_info()[:2] for function in functions] == [(1, 1)] * len(functions)


def test_names_do_not_depend_on_the_order_in_a_process():
    one, other = LocalNames(), LocalNames()
    first = [one.claim(Identity(factory(value)), None).name for value in ("eu", "us", "de")]
    second = [other.claim(Identity(factory(value)), None).name for value in ("de", "us", "eu")]
    assert first == second[::-1]


def test_functions_that_nothing_tells_apart_have_names_that_no_other_process_has():
    one, other = LocalNames(), LocalNames()
    names = [each.claim(Identity(factory([])), None).name for each in (one, one)]
    assert len(set(names)) == 2
    assert all("#" in name for name in names)
    claims = [other.claim(Identity(factory(1)), None) for _ in range(3)]
    assert len({claim.name for claim in claims}) == 3 and "#" not in claims[0].name


def test_a_given_name_is_the_name():
    cache = Cache()
    f = cached(cache, name="prices")(lambda x: x)
    g = cached(cache, name="prices-2", version=3)(lambda x: -x)
    assert (f(1), g(1), f(1), g(1)) == (1, -1, 1, -1)
    assert f.cache_key(1)[0] == "prices" and g.cache_key(1)[0] == "prices-2@3"


@pytest.mark.parametrize(
    "options, error", [({"name": 1}, TypeError), ({"name": ""}, ValueError), ({"name": b"a"}, TypeError)], ids=named
)
def test_names_that_are_none(options, error):
    with pytest.raises(error, match="name"):
        cached(Cache(), **options)


def test_a_name_is_taken_while_its_function_lives():
    cache = Cache()
    f = cached(cache, name="prices")(lambda x: x)
    with pytest.raises(ValueError, match="'prices'"):
        cached(cache, name="prices")(lambda x: x)
    with pytest.raises(ValueError, match="name"):
        cached(cache, name="prices", version=2)(f.__wrapped__)
    cached(Cache(), name="prices")(lambda x: x)     # another cache
    del f
    gc.collect()
    assert cached(cache, name="prices")(lambda x: x)(1) == 1


def test_versions_are_told_apart():
    cache = Cache()
    results = []
    for version in (None, 1, 1.0, True, "2", 2, (1, 2)):
        f = cached(cache, name=f"f{len(results)}", version=version)(lambda x: x)
        results.append(f.cache_key(1)[0].partition("@")[2])
    assert results == ["", "1", "1.0", "True", "2", "2", "(1,2)"]
    with pytest.raises(TypeError, match="version"):
        cached(cache, version=[])(len)
    with pytest.raises(TypeError, match='version="code"'):
        cached(cache, version="code")(len)


# --- fingerprints -----------------------------------------------------------------------------------------------------


def defined(text, name="f"):
    namespace = {"__name__": "defined"}
    exec(textwrap.dedent(text), namespace)
    return namespace[name]


def test_a_fingerprint_is_of_what_a_function_does_not_of_where_it_stands():
    one = defined("def f(x):\n    return x + 1")
    moved = defined("\n\n\n# a comment\n\ndef f(x):\n\n    return x + 1")
    assert fingerprint(one) == fingerprint(moved)
    different = [
        "def f(x): return x + 2", "def f(x): return x + 1.0", "def f(x): return x - 1", "def f(y): return y + 1",
        "def f(x): return abs(x) + 1", "def f(x): return int(x) + 1", "def f(*, x): return x + 1",
        "def f(x): return (lambda: x + 1)()", "def f(x): return (lambda: x + 2)()", "def f(x): return x in {1, 2}",
        "def f(x): return x in {1, 3}", "def f(x): return x in (1, True)", "def f(x): return x in (1, 1)",
        "async def f(x): return x + 1",
    ]
    assert len({fingerprint(defined(text)) for text in different} | {fingerprint(one)}) == len(different) + 1


def test_what_a_decorator_wraps_belongs_to_the_fingerprint():
    text = """
        import functools
        def wrapped(f):
            @functools.wraps(f)
            def wrapper(*args): return f(*args)
            return wrapper
        def opaque(f):
            def wrapper(*args, **more): return f(*args, **more)
            return wrapper
        @{}
        def f(x): return x + {}
        """
    prints = {fingerprint(defined(text.format(by, n))) for by in ("wrapped", "opaque") for n in (1, 2)}
    assert len(prints) == 4


def test_fingerprints_are_the_same_in_every_process():
    code = textwrap.dedent(
        """
        from cachebox import Cache, cached
        @cached(Cache(), version="code")
        def f(x):
            return x in {"a", "b", "c", ("d", b"e"), 1.5} and [y for y in x if (lambda: y)()]
        print(f.cache_key(1)[0])
        """
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1 and "@" in said.pop()


# --- the program itself -----------------------------------------------------------------------------------------------


PROGRAM = """
from cachebox import Cache, cached
cache = Cache()
@cached(cache)
def f(x):
    return x
print(f.cache_key(1)[0])
"""


def run(*command, **options):
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_programs_are_known_by_their_path_and_modules_by_their_name(tmp_path):
    for name in ("one", "other"):
        (tmp_path / f"{name}.py").write_text(PROGRAM)
    one, other = run(tmp_path / "one.py"), run(tmp_path / "other.py")
    assert one != other and "__main__[" in one
    assert run("one.py", cwd=tmp_path) == one
    assert run("-m", "one", cwd=tmp_path) == "one.f"
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(PROGRAM)
    assert run("-m", "package", cwd=tmp_path) == "package.__main__.f"
    assert run("-c", PROGRAM) == "__main__.f"


def test_workers_call_the_program_what_it_calls_itself(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(
        "import multiprocessing\n" + PROGRAM.replace("print(", "def key(): return (")
        + "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.apply(key) == key())\n"
    )
    assert run(path) == "True"


def test_a_module_that_is_run_is_known_by_its_path(tmp_path):
    (tmp_path / "run_by_a_test.py").write_text(PROGRAM)
    names = runpy.run_path(str(tmp_path / "run_by_a_test.py"), run_name="anything")
    assert names["f"].cache_key(1)[0].startswith("anything.f")


# --- over a cache that processes share --------------------------------------------------------------------------------


@pytest.fixture
def names():
    """The names of the functions over one cache."""
    return SharedNames()


def test_equal_functions_of_one_place_share_a_name(names):
    claims = [names.claim(Identity(factory("eu"))) for _ in range(3)]
    assert len({claim.name for claim in claims}) == 1
    assert names.claim(Identity(factory("us"))).name != claims[0].name


@pytest.mark.parametrize("value", [[], {}, object(), len, lambda: 1, (1, [])], ids=named)
def test_a_second_living_function_that_holds_something_else_is_refused(names, value):
    first = names.claim(Identity(factory(value)))
    with pytest.raises(ValueError, match="name="):
        names.claim(Identity(factory(value)))
    assert names.claim(Identity(factory(value), "mine")).name == "mine"
    del first
    names.claim(Identity(factory(value)))


def test_a_second_living_function_that_stands_elsewhere_is_refused(names):
    def make():
        return lambda x: x

    def twice():
        return lambda x: x, lambda x: x

    one, other = twice()
    first = names.claim(Identity(one))
    with pytest.raises(ValueError, match="name="):
        names.claim(Identity(other))
    del first
    names.claim(Identity(other))
    kept = [names.claim(Identity(make())) for _ in range(2)]
    assert kept[0].name == kept[1].name


def test_a_dead_function_in_a_cycle_stands_in_nobodys_way(names):
    held = [names.claim(Identity(factory([])))]
    held.append(held)
    del held
    names.claim(Identity(factory([])))


def test_a_module_that_is_reloaded_keeps_its_names(tmp_path, monkeypatch):
    import types

    shared = types.ModuleType("shared_by_a_test")
    shared.names = SharedNames()
    monkeypatch.setitem(sys.modules, "shared_by_a_test", shared)
    monkeypatch.syspath_prepend(tmp_path)
    text = textwrap.dedent(
        """
        import functools
        from cachebox._calls.naming import Identity
        from shared_by_a_test import names
        def traced(f):
            @functools.wraps(f)
            def wrapper(*args): return f(*args)
            return wrapper
        def claimed(*options):
            return lambda function: names.claim(Identity(function, *options))
        @claimed()
        def f(x): return x
        @claimed()
        def g(x, held=[]): return x
        @claimed()
        @traced
        def h(x): return x
        @claimed("named")
        def named(x): return x
        class Service:
            @staticmethod
            @claimed()
            def method(x): return x
        every = [f, g, h, named, Service.method]
        """
    )
    path = tmp_path / "reloaded_names.py"
    path.write_text(text)
    module = importlib.import_module("reloaded_names")
    try:
        first = [claim.name for claim in module.every]
        kept = [module.every]
        for edited in (text, "\n\n" + text, text.replace("return x", "return [x]")):
            path.write_text(edited)
            importlib.invalidate_caches()
            kept.append(importlib.reload(module).every)
            assert [claim.name for claim in module.every] == first
        path.write_text(text + '@claimed("named")\ndef another(x): return x\n')
        with pytest.raises(ValueError, match="named"):
            importlib.reload(module)
        path.write_text(text + "@claimed()\ndef f(x): return -x\n")
        with pytest.raises(ValueError, match="name="):
            importlib.reload(module)
    finally:
        sys.modules.pop("reloaded_names", None)


def test_the_cells_of_a_notebook_may_be_run_again(names):
    cell = "@claimed\ndef f(x, held=[]):\n    return x\n"
    namespace = {"__name__": "notebook", "claimed": lambda function: names.claim(Identity(function))}
    kept = []
    for k, text in enumerate([cell, cell, cell.replace("return x", "return -x"), "\n" + cell]):
        exec(compile(text, f"<cell {k}>", "exec"), namespace)
        kept.append(namespace["f"])
    assert {claim.name for claim in kept} == {"notebook.f"}


# --- over a server, in whatever order ---------------------------------------------------------------------------------


TENANTS = """
import sys
from cachebox import DistributedCache, cached

def make(tenant):
    @cached(cache, ttl=60)
    def price(article):
        return {"tenant": tenant, "article": article}
    return price

with DistributedCache(redis_port=int(sys.argv[1]), namespace="tenants") as cache:
    functions = {tenant: make(tenant) for tenant in sys.argv[2:]}
    found = [f("tea")["tenant"] for f in functions.values()]
    print(found, *(f.cache_info().misses for f in functions.values()))
"""


def test_two_tenants_never_meet_on_a_server(server, tmp_path):
    path = tmp_path / "tenants.py"
    path.write_text(TENANTS)
    assert run(path, server.port, "eu", "us") == "['eu', 'us'] 1 1"
    assert run(path, server.port, "us", "eu") == "['us', 'eu'] 0 0"
    assert run(path, server.port, "de", "eu") == "['de', 'eu'] 1 0"


def test_a_program_without_a_file_needs_a_name(server):
    code = textwrap.dedent(
        f"""
        from cachebox import DistributedCache, cached
        with DistributedCache(redis_port={server.port}) as cache:
            try:
                cached(cache)(lambda x: x)
            except ValueError as error:
                print(error)
            print(cached(cache, name="mine")(lambda x: x).cache_key(1))
        """
    )
    said = run("-c", code).splitlines()
    assert "name=" in said[0] and "namespace=" in said[0]
    assert said[1] == "mine(1)"
    done = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == said


def test_a_changed_function_with_a_version_does_not_get_what_was_before(server):
    from cachebox import DistributedCache

    with DistributedCache(redis_port=server.port, namespace="versions") as cache:
        namespace = {"__name__": "versions", "cached": cached, "cache": cache}
        found = []
        for text in ("return 1", "return 2"):
            for version in ("", ", version='code'"):
                exec(f"@cached(cache{version})\ndef f(x): {text}", namespace)
                found.append(namespace["f"](1))
        assert found == [1, 1, 1, 2]


def test_dumps_find_the_functions_they_belong_to(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(
        textwrap.dedent(
            """
            import sys
            from cachebox import Cache, cached
            cache = Cache()
            def make(tenant, held=None):
                @cached(cache)
                def price(x):
                    return [tenant, x], held
                return price
            load, *tenants = sys.argv[1:]
            if load != "-":
                cache.load("dump", serializer="pickle", secret="s")
            functions = [make(tenant) for tenant in tenants]
            print([f(1)[0][0] for f in functions], sum(f.cache_info().hits for f in functions))
            cache.dump("dump", serializer="pickle", secret="s")
            """
        )
    )
    assert run(path, "-", "eu", "us", cwd=tmp_path) == "['eu', 'us'] 0"
    assert run(path, "+", "us", "eu", cwd=tmp_path) == "['us', 'eu'] 2"
