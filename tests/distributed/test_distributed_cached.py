"""Functions that keep their results in a distributed cache."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import enum
import gc
import inspect
import os
import subprocess
import sys
import threading

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

import cachebox
from both_kinds import KINDS
from cachebox import AsyncDistributedCache, DistributedCache, cached
from in_threads import wait_until
from redis_servers import free_port
from second_tiers import BOTH

SECOND_TIERS = BOTH

@pytest.fixture
def cache(server):
    with DistributedCache(**server.at) as cache:
        yield cache


def module_level(x):
    """A function of this module."""
    return x


class Shelf:
    """A class that other processes can import."""

    size = 1

    def written(cls, x):
        return [cls.size, x]


class Larger(Shelf):
    size = 2


def test_class_methods(cache):
    class Local(Shelf):
        pass

    for decorate in (
        lambda function: classmethod(cached(cache)(function)),
        lambda function: cached(cache)(classmethod(function)),
    ):
        calls = []

        def holds(cls, x, calls=calls):
            calls.append(x)
            return [cls.size, x]

        Shelf.holds = decorate(holds)
        try:
            for _ in range(2):
                assert Shelf.holds(1) == Shelf().holds(1) == [1, 1]
                assert Larger.holds(1) == [2, 1]
            assert calls == [1, 1]
            cache.clear()               # the next function is known by the same name
            with pytest.raises(TypeError, match="key_func"):
                Local.holds(1)  # the cache cannot know which class of that name is meant
        finally:
            del Shelf.holds
    Shelf.holds = classmethod(cached(cache)(Shelf.written))
    try:
        assert Larger.holds.peek(1) is cachebox.MISSING     # asked before it is called
        Larger.holds.set([0], 1)
        assert Larger.holds(1) == [0] == Larger.holds.peek(1) and Shelf.holds.refresh(1) == [1, 1]
        assert Shelf.holds.invalidate(1) is True and Larger.holds.peek(1) == [0]
    finally:
        del Shelf.holds
    Shelf.holds = cached(cache)(classmethod(lambda cls, x: [cls.size, x]))
    try:
        assert Shelf.holds(1) == [1, 1] and Larger.holds(1) == [2, 1]
        assert "type(" in Shelf.holds.cache_key(1) != Larger.holds.cache_key(1)
        assert Shelf.holds.invalidate(1) is True and Shelf.holds.invalidate(1) is False
        assert Larger.holds.invalidate(1) is True
    finally:
        del Shelf.holds


def test_results_are_shared_between_processes(cache, server):
    code = f"""
from cachebox import DistributedCache, cached
with DistributedCache(redis_port={server.port}, namespace="script") as cache:
    @cached(cache)
    def f(x, *, y="z"):
        print("computing", x)
        return [x, y]
    print(f(1), f(1, y=(2.5, None)), f.cache_key(1, y={{"b": 1, "a": {{3, 4}}}}))
"""

    def run(seed):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code.replace("return [x, y]", "return [x, list(y)]")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = run("1")
    assert first.startswith("computing 1\ncomputing 1\n[1, ['z']] [1, [2.5, None]] ")
    assert run("2") == first.replace("computing 1\n", "")
    assert "__main__.f{y='z'}(1,y={'a':set{3,4},'b':1})" in first


def test_two_caches_of_one_function_share_its_results(server):
    computed = []

    def f(x):
        computed.append(x)
        return x

    with DistributedCache(**server.at) as a, DistributedCache(**server.at) as b:
        fa, fb = cached(a)(f), cached(b)(f)
        assert (fa(1), fb(1), fa(1), computed) == (1, 1, 1, [1])
        assert fa.cache_key(1) == fb.cache_key(1)
        assert fb.invalidate(1) is True
        assert fb.invalidate(1) is False
        a.barrier()
        assert (fa(1), computed) == (1, [1, 1])


class Rights(enum.IntFlag):
    READ = 1
    WRITE = 2


def test_calls_that_differ_never_meet(cache):
    @cached(cache)
    def f(*args, **kwargs):
        return repr((args, kwargs))

    calls = [
        ((1,), {}),
        (("1",), {}),
        ((-1,), {}),
        ((-2,), {}),
        ((1, 2), {}),
        (((1, 2),), {}),
        ((), {"a": 1}),
        (("a", 1), {}),
        ((None,), {}),
        (("None",), {}),
        ((b"1",), {}),
        (([1],), {}),
        (("a=1",), {}),
        ((1, "2)"), {}),
        (("1,'2'",), {}),
        ((), {"x": 1, "y": 2}),
        ((), {"x=1,y": 2}),
        ((), {"1,x": 1}),
        ((1,), {"x": 1}),
        *[((Rights(number),), {}) for number in (0, 1, 3, 8, 9, 16, 24)],
    ]
    for _ in range(2):
        for args, kwargs in calls:
            assert f(*args, **kwargs) == repr((args, kwargs))
    assert f.cache_info()[:2] == (len(calls), len(calls))


def test_equal_numbers_are_one_call_unless_typed(cache):
    plain = cached(cache)(lambda x: str(x))
    typed = cached(cache, typed=True, name="typed")(lambda x: str(x))
    assert (plain(1), plain(1.0), plain(True)) == ("1", "1", "1")
    assert (typed(1), typed(1.0), typed(True)) == ("1", "1.0", "True")


def test_functions_of_one_name_never_meet(cache):
    def make(n):
        @cached(cache)
        def f(x):
            return x * n

        return f

    assert [make(n)(1) for n in range(3)] == [0, 1, 2]


def test_arguments_without_stable_text_need_a_key_func(cache):
    @cached(cache)
    def f(x):
        return 1

    class Local(enum.Enum):                     # another class of this name may have other members
        A = 1

    for without in (object(), Local.A):
        with pytest.raises(TypeError, match="key_func"):
            f(without)

    @cached(cache, key_func=lambda x: x.name)
    def g(x):
        return x.name

    class Named:
        def __init__(self, name):
            self.name = name

    assert (g(Named("a")), g(Named("b")), g(Named("a"))) == ("a", "b", "a")
    assert g.cache_info()[:2] == (1, 2)
    assert g.invalidate(Named("a")) is True


def test_methods_need_a_key_func_that_sees_self(cache):
    class Service:
        def __init__(self, name):
            self.name = name

        @cached(cache, key_func=lambda self, x: (self.name, x))
        def double(self, x):
            return [self.name, 2 * x]

        @cached(cache)
        def bare(self, x):
            return x

        @staticmethod
        @cached(cache)
        def static(x):
            return x

    a, b = Service("a"), Service("b")
    assert (a.double(1), b.double(1), a.double(1)) == (["a", 2], ["b", 2], ["a", 2])
    assert a.double.invalidate(1) is True
    assert a.double.cache_key(1) != b.double.cache_key(1)
    assert a.double.cache_info().hits == 1
    assert list(inspect.signature(a.double).parameters) == ["x"]
    assert Service.static(1) == a.static(1) == 1
    with pytest.raises(TypeError, match="key_func"):
        a.bare(1)


def test_ttl_condition_and_tags(cache):
    @cached(cache, ttl=lambda result: result)
    def f(x):
        return x

    f(50)
    assert 49 < cache.ttl(f.cache_key(50)) <= 50
    f(0)
    assert f.cache_key(0) not in cache

    @cached(cache, ttl=10, condition=lambda result: result is not None)
    def g(x):
        return x

    g(None), g(1)
    assert g.cache_key(None) not in cache
    assert 9 < cache.ttl(g.cache_key(1)) <= 10


def test_none_is_cached_and_exceptions_are_not(cache):
    calls = []

    @cached(cache)
    def f(x):
        calls.append(x)
        if x:
            raise ValueError(x)

    for _ in range(2):
        assert f(0) is None
        with pytest.raises(ValueError, match="1"):
            f(1)
    assert calls == [0, 1, 1]


def test_clearing_one_function(cache):
    f, g = cached(cache)(lambda x: x), cached(cache, name="g")(lambda x: x)
    cache.set("mine", 1)
    for function in (f, g):
        for i in range(5):
            function(i)
    with pytest.raises(ValueError, match="timeout must be more than 0 seconds, not 0"):
        f.cache_clear(timeout=0)
    assert f.cache_info()[:2] == (0, 5)
    f.cache_clear()
    assert f.cache_info()[:2] == (0, 0)
    assert f.cache_key(1) not in cache
    assert g.cache_key(1) in cache and "mine" in cache
    g.cache_clear(timeout=30)
    assert g.cache_key(1) not in cache and "mine" in cache


def test_it_looks_like_the_function(cache):
    f = cached(cache)(module_level)
    assert (f.__name__, f.__doc__, f.__wrapped__) == ("module_level", "A function of this module.", module_level)
    assert f.cache is cache
    assert f.cache_parameters() == {"maxsize": 1000, "typed": False, "policy": "LRU", "ttl": None}
    assert copy.copy(f) is f
    assert f.cache_info().maxsize == 1000
    assert "module_level" in repr(f)
    assert f.__reduce__() == "module_level"  # pickled by name
    assert list(inspect.signature(f).parameters) == ["x"]


def test_a_recursive_function(cache):
    @cached(cache)
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert fib(20) == 6765
    assert fib.cache_info().misses == 21


def test_bad_options(cache):
    with pytest.raises(TypeError, match="max_size"):
        cached(cache, max_size=5)
    with pytest.raises(TypeError, match="key_func"):
        cached(cache, key_func=1)
    with pytest.raises(ValueError, match="ttl"):
        cached(cache, ttl=0)(lambda: 1)
    with pytest.raises(TypeError, match="generator"):

        @cached(cache)
        def generator():
            yield 1


@contextlib.asynccontextmanager
async def opened(kind, **options):
    """A cache for async functions: either kind is one."""
    if kind == "async":
        async with AsyncDistributedCache(**options) as cache:
            yield cache
    else:
        with DistributedCache(**options) as cache:
            yield cache


async def awaited(kind, result):
    """The methods that concern an asyncio cache are awaited."""
    return await result if kind == "async" else result


@pytest.mark.parametrize("kind", KINDS)
def test_async_functions(kind, server):
    async def main():
        async with opened(kind, **server.at) as cache:
            calls = []

            @cached(cache, ttl=60)
            async def f(x):
                calls.append(x)
                await asyncio.sleep(0.02)
                return [x]

            assert inspect.iscoroutinefunction(f) or asyncio.iscoroutinefunction(f)
            assert await asyncio.gather(*(f(1) for _ in range(20))) == [[1]] * 20
            assert await f(1) == [1]
            assert calls == [1]
            assert await awaited(kind, f.invalidate(1)) is True
            assert await f(1) == [1] and calls == [1, 1]
            await awaited(kind, f.cache_clear())
            assert await f(1) == [1] and calls == [1, 1, 1]
            assert f.cache_info()[:2] == (0, 1)
            assert len(getattr(cache._core.topology.masters[0], "by_loop", "1")) == 1     # a folder has no connections

            @cached(cache)
            async def fail():
                calls.append("fail")
                await asyncio.sleep(0.02)
                raise OSError

            failures = await asyncio.gather(*(fail() for _ in range(5)), return_exceptions=True)
            assert [type(failure) for failure in failures] == [OSError] * 5 and calls.count("fail") == 1
            if kind == "async":
                with pytest.raises(TypeError, match="async functions"):
                    cached(cache)(lambda x: x)

    asyncio.run(main())


def test_async_functions_of_a_blocking_cache_do_not_block(server):
    """While the server does not answer, the event loop goes on."""

    async def main():
        with DistributedCache(**server.at, timeout=0.3) as cache:

            @cached(cache)
            async def f(x):
                return x

            assert await f(1) == 1
            f.invalidate(1)
            server.stall()
            try:
                waiting = asyncio.ensure_future(f(1))
                turns = 0
                while not waiting.done():
                    await asyncio.sleep(0.001)
                    turns += 1
            finally:
                server.go_on()
            assert await waiting == 1 and turns > 20

    asyncio.run(main())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("when", ["within", "in a thread", "afterwards"])
def test_a_blocking_cache_closes_the_connections_of_event_loops(when, server):
    cache = DistributedCache(redis_port=server.port)

    @cached(cache)
    async def f(x):
        return x

    def connections():
        return [connection for own in cache._core.topology.masters[0].by_loop.values() for connection in own.idle]

    async def main():
        assert await f(1) == 1
        found = connections()
        assert found
        if when == "within":
            cache.close()
        elif when == "in a thread":
            await asyncio.get_running_loop().run_in_executor(None, cache.close)
        if when != "afterwards":
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert all(connection.writer.transport.is_closing() for connection in found)
            with pytest.raises(RuntimeError, match="closed"):
                await f(2)

    try:
        asyncio.run(main())
    finally:
        cache.close()
    assert connections() == []
    gc.collect()                                # a transport that is not closed would warn
    with server.client() as client:
        wait_until(lambda: len(client.client_list()) == 1)


def test_without_a_server_functions_compute():
    with DistributedCache(redis_port=free_port(), timeout=0.1) as cache:
        f = cached(cache)(lambda x: x)
        assert [f(1), f(1), f(2)] == [1, 1, 2]


class NotFound(Exception):
    pass


def test_failures_are_remembered_where_that_is_asked_for(cache, server):
    calls = []

    @cached(cache, cache_exceptions=(NotFound,), exception_ttl=60)
    def find(x):
        calls.append(x)
        raise (NotFound if x else OSError)(x)

    for _ in range(3):
        with pytest.raises(NotFound) as caught:
            find(1)
        assert caught.value.args == (1,)
        with pytest.raises(OSError):
            find(0)
    assert calls == [1, 0, 0, 0] and find.cache_info()[:2] == (2, 4)
    find.invalidate(1)
    with pytest.raises(NotFound):
        find(1)
    find.cache_clear()
    with pytest.raises(NotFound):
        find(1)
    assert calls.count(1) == 3
    with DistributedCache(**server.at) as other:
        other.set(find.cache_key(1), "found")   # a value wins, whatever process wrote it
    cache.barrier()
    assert find(1) == "found"

    @cached(cache, cache_exceptions=NotFound)
    def fleeting(x):
        calls.append(x)
        fleeting.invalidate(x)
        raise NotFound

    for _ in range(2):
        with pytest.raises(NotFound):
            fleeting("while it ran")
    assert calls.count("while it ran") == 2
    with pytest.raises(TypeError, match="cache_exceptions"):
        cached(cache, cache_exceptions=(5,))
    with pytest.raises(ValueError, match="exception_ttl"):
        cached(cache, exception_ttl=5)


@pytest.mark.parametrize("kind", KINDS)
def test_async_functions_remember_failures_too(kind, server):
    calls = []

    async def main():
        async with opened(kind, **server.at) as cache:

            @cached(cache, cache_exceptions=NotFound, exception_ttl=60)
            async def fetch(x):
                calls.append(x)
                await asyncio.sleep(0)
                raise NotFound(x)

            async def fail():
                with pytest.raises(NotFound):
                    await fetch(1)

            await asyncio.gather(*[fail() for _ in range(5)])
            await fail()
            assert calls == [1]
            await awaited(kind, fetch.invalidate(1))
            await fail()
            await awaited(kind, fetch.cache_clear())
            await fail()
            assert calls == [1, 1, 1]

    asyncio.run(main())


# --- control of one call ----------------------------------------------------------------------------------------------


def test_peek_refresh_and_set(cache, server):
    calls = []

    def lives(result):
        return 60 if result != "never" else 0

    @cached(cache, ttl=lives, condition=lambda result: result != "bad", tags="all")
    def f(x, y=0):
        calls.append(x)
        return [x, len(calls)]

    with DistributedCache(redis_port=server.port) as elsewhere:
        assert f.peek(1) is cachebox.MISSING and calls == []
        assert f.refresh(1) == [1, 1] == f(1) == f.peek(1)
        assert elsewhere.get(f.cache_key(1)) == [1, 1]
        assert f.refresh(1) == [1, 2] == f(1)
        cache.barrier(), elsewhere.barrier()
        assert elsewhere.get(f.cache_key(1)) == [1, 2]
        f.set("given", 1)
        elsewhere.barrier()
        assert f.peek(1) == f(1) == "given" == elsewhere.get(f.cache_key(1)) and calls == [1, 1]
        for unwanted in ("bad", "never"):
            f.set(unwanted, 1)
            assert f(1) == "given"
        assert 0 < elsewhere.ttl(f.cache_key(1)) <= 60
        with pytest.raises(TypeError, match="object"):
            f.set(object(), 1)
        assert cache.invalidate_tag("all") == 1 and f.peek(1) is cachebox.MISSING
        info = f.cache_info()
        stats = cache.stats.misses
        f.peek(5), f.refresh(5), f.set(6, 6)
        assert f.cache_info()[:2] == info[:2] and cache.stats.misses == stats


def test_a_write_during_a_refresh_wins_over_two_tiers(cache):
    @cached(cache)
    def f():
        write()
        return "computed"

    write = int
    assert f() == "computed"
    write = lambda: f.set("given")  # noqa: E731
    assert f.refresh() == "computed" and f.peek() == "given"
    write = f.invalidate
    assert f.refresh() == "computed" and f.peek() is cachebox.MISSING


def test_a_refresh_waits_for_who_computes_and_computes_again(cache, server):
    with DistributedCache(redis_port=server.port) as elsewhere:
        began, go_on = threading.Event(), threading.Event()

        def slow():
            began.set()
            go_on.wait(60)
            return "old"

        f = cached(cache, name="slow")(lambda: "new")
        older = threading.Thread(target=elsewhere.get_or_set, args=(f.cache_key(), slow))
        older.start()
        began.wait(60)
        results = []
        refresh = threading.Thread(target=lambda: results.append(f.refresh()))
        refresh.start()
        go_on.set()
        refresh.join(60), older.join(60)
        assert results == ["new"] and f() == "new"
        elsewhere.barrier()
        assert elsewhere.get(f.cache_key()) == "new"


@pytest.mark.parametrize("kind", KINDS)
def test_control_of_async_functions(kind, server):
    async def main():
        async with opened(kind, redis_port=server.port) as cache:
            calls = []

            @cached(cache)
            async def f(x):
                calls.append(x)
                return [x, len(calls)]

            assert await awaited(kind, f.peek(1)) is cachebox.MISSING
            assert await f.refresh(1) == [1, 1] == await f(1)
            assert await f.refresh(1) == [1, 2] == await awaited(kind, f.peek(1))
            await awaited(kind, f.set("given", 1))
            assert await f(1) == "given" and calls == [1, 1]
            assert await awaited(kind, f.invalidate(1)) is True
            with cachebox.disabled():
                assert await f(1) == [1, 3] and await f(1) == [1, 4]
            assert await awaited(kind, f.peek(1)) is cachebox.MISSING

    asyncio.run(main())


def test_methods_have_control_too(cache):
    class Service:
        @cached(cache, ignore="self")
        def method(self, x):
            return [x]

    one, other = Service(), Service()
    assert one.method.refresh(1) == [1] == other.method.peek(1)
    other.method.set("given", 1)
    assert one.method(1) == "given" and one.method.invalidate(1) and other.method.peek(1) is cachebox.MISSING


def test_disabled_over_two_tiers(cache):
    calls = []

    @cached(cache)
    def f(x):
        calls.append(x)
        return len(calls)

    assert f(1) == f(1) == 1
    info, stats = f.cache_info(), cache.stats.local_hits
    with cachebox.disabled():
        assert f(1) == 2 and f(1) == 3 and f.refresh(1) == 4
        assert f.peek(1) == 1
    assert f.cache_info() == info and cache.stats.local_hits == stats
    assert f(1) == 1


def test_without_a_server_a_refresh_only_computes():
    with DistributedCache(redis_port=free_port()) as cache:
        f = cached(cache)(lambda: "computed")
        assert f.refresh() == "computed" and f.peek() is cachebox.MISSING
    with DistributedCache(redis_port=free_port()) as cache:
        f = cached(cache)(lambda: "computed")
        with pytest.raises(cachebox.BackendUnavailable):
            f.set("given")


# --- keys of calls ----------------------------------------------------------------------------------------------------


def test_ignore_normalize_and_vary(cache):
    from contextvars import ContextVar

    tenant = ContextVar("tenant")
    calls = []

    @cached(cache, ignore="session", normalize=True, vary=tenant)
    def f(x, session=None, *, y=[1]):  # noqa: B006
        calls.append(x)
        return len(calls)

    assert f(1, object()) == f(x=1) == f(1, y=[1]) == 1
    assert f(1, y=[2]) == 2
    token = tenant.set("a")
    assert f(1) == 3 == f(1) == f.peek(1)
    assert f.cache_key(1).startswith(f"{f._name}('a';")
    tenant.reset(token)
    assert f(1) == 1 and f.invalidate(x=1) is True
    with pytest.raises(TypeError, match="missing"):
        f()


def test_an_argument_without_a_stable_text_is_named(cache):
    @cached(cache)
    def f(x, session=None):
        return x

    for call in (lambda: f(1, object()), lambda: f(1, session=object())):
        with pytest.raises(TypeError, match=r"argument session, of type object.*key_func.*ignore=\('session',\).*pass"):
            call()
