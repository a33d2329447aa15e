"""Results that can be consumed only once, plain functions that return awaitables, async callables in plain places."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import threading

import pytest

from cachebox import Cache, cached, lru_cache
from conftest import named
from in_threads import run_all, wait_until


def numbers():
    yield from (1, 2)


async def numbers_later():
    yield 1


class Iterates:
    """An iterator of one's own."""

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration


class IteratesLater:
    def __aiter__(self):
        return self

    async def __anext__(self):
        raise StopAsyncIteration


@contextlib.contextmanager
def entered():
    yield 1


@contextlib.asynccontextmanager
async def entered_later():
    yield 1


ONCE = [
    numbers, numbers_later, Iterates, IteratesLater, entered, entered_later, contextlib.ExitStack,
    contextlib.AsyncExitStack, lambda: contextlib.closing(io.StringIO()), lambda: iter([1]), lambda: map(str, [1]),
    lambda: zip([1]), lambda: enumerate("a"), lambda: io.StringIO("a\n"), lambda: csv.reader(["a"]),
    lambda: iter({1: 2}.items()), lambda: reversed([1]),
]


class Reusable:
    """A result that may be used any number of times."""

    def __iter__(self):
        return iter([1])

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        pass


OFTEN = [
    list, dict, Reusable, contextlib.nullcontext, lambda: contextlib.suppress(OSError), lambda: "text", lambda: b"",
    lambda: Reusable, lambda: numbers, lambda: len, threading.Lock, lambda: None, lambda: range(3),
]


@pytest.mark.parametrize("cache", [None, "shared"])
@pytest.mark.parametrize("make", ONCE, ids=lambda make: getattr(make, "__name__", None))
def test_what_can_be_consumed_only_once_is_not_stored(make, cache):
    def function(x):
        return make()

    f = cached(Cache() if cache else None)(function)
    with pytest.warns(UserWarning, match=r"function.* can be consumed only once") as said:
        results = [f(1) for _ in range(3)]
    assert len(said) == 1
    assert len({id(result) for result in results}) == 3
    assert len(f.cache) == 0 and f.cache_info()[:2] == (0, 3)


@pytest.mark.parametrize("make", OFTEN, ids=lambda make: getattr(make, "__name__", None))
def test_what_can_be_used_again_is_stored(make):
    f = cached(lambda x: make())
    assert f(1) is f(1)
    assert f.cache_info()[:2] == (1, 1)


@pytest.mark.parametrize(
    "options", [{"ttl": 5}, {"condition": bool}, {"tags": "a"}, {"single_flight": False}], ids=named
)
def test_nor_is_it_whatever_the_options(options):
    f = cached(**options)(lambda x: iter([x]))
    with pytest.warns(UserWarning, match="consumed"):
        assert list(f(1)) == list(f(1)) == [1]


def test_functools_cache_stores_it_and_so_does_ours():
    f = lru_cache(lambda x: iter([x]))
    assert f(1) is f(1)


def test_it_is_reported_once_per_function_and_methods_too():
    class One:
        @cached
        def numbers(self):
            return iter([1])

    with pytest.warns(UserWarning, match=r"One\.numbers") as said:
        assert list(One().numbers()) == list(One().numbers()) == [1]
    assert len(said) == 1


def test_those_who_wait_for_it_get_their_own():
    started, go_on = threading.Event(), threading.Event()
    made = []

    @cached
    def f(x):
        made.append(x)
        started.set()
        assert go_on.wait(60)
        return iter([x])

    results = []

    def first():
        results.append(f(1))

    def second():
        assert started.wait(60)
        results.append(f(1))

    def third():
        assert started.wait(60)
        wait_until(lambda: f.cache.stats.misses == 2)       # the second one has come
        go_on.set()

    with pytest.warns(UserWarning, match="consumed"):
        run_all(first, second, third)
    assert [list(result) for result in results] == [[1], [1]]
    assert made == [1, 1]


def test_an_async_function_may_return_it_as_well():
    @cached
    async def f(x):
        return numbers_later()

    async def main():
        return [await f(1), await f(1)]

    with pytest.warns(UserWarning, match="consumed"):
        one, other = asyncio.run(main())
    assert one is not other


# --- plain functions that return awaitables ---------------------------------------------------------------------------


async def doubled(calls, x):
    calls.append(x)
    await asyncio.sleep(0)
    return 2 * x


class Awaitable:
    def __init__(self, calls, x):
        self.calls, self.x = calls, x

    def __await__(self):
        return doubled(self.calls, self.x).__await__()


def task_of(calls, x):
    return asyncio.ensure_future(doubled(calls, x))


@pytest.mark.parametrize("make", [doubled, Awaitable, task_of], ids=lambda make: make.__name__)
@pytest.mark.parametrize("options", [{}, {"typed": True}, {"cache": "shared"}, {"key_func": lambda x: x}], ids=named)
def test_a_plain_function_that_returns_an_awaitable_is_cached_as_an_async_one(make, options):
    calls = []
    options = dict(options)
    f = cached(Cache() if options.pop("cache", None) else None, **options)(lambda x: make(calls, x))

    async def main():
        assert [await f(1), await f(1), await f(2), await f(1)] == [2, 2, 4, 2]
        assert await asyncio.gather(f(3), f(3), f(3)) == [6, 6, 6]

    asyncio.run(main())
    assert calls == [1, 2, 3] or make is task_of
    assert f.cache_info().currsize == 3

    async def again():
        return await f(1)

    assert asyncio.run(again()) == 2
    assert f.cache_info().currsize == 3


def test_such_a_function_may_be_a_method_or_return_plain_values_too():
    class One:
        @cached
        def later(self, x):
            return doubled([], x) if x else "plain"

    async def main():
        one, other = One(), One()
        assert [await one.later(1), await one.later(1), await other.later(1), await one.later(0)] == [2, 2, 2, "plain"]
        assert One.later.cache_info()[:2] == (1, 3)

    asyncio.run(main())


def test_its_failures_reach_the_caller_and_are_not_stored():
    async def failing():
        raise ZeroDivisionError

    f = cached(lambda: failing())

    async def main():
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await f()

    asyncio.run(main())
    assert len(f.cache) == 0


# --- async callables where plain ones are wanted ----------------------------------------------------------------------


async def later(*args):
    return 1


class CallableLater:
    async def __call__(self, *args):
        return 1


ASYNC = [later, CallableLater(), __import__("functools").partial(later, 1), CallableLater().__call__, cached(later)]
HIDDEN = lambda *args: later()  # noqa: E731


@pytest.mark.parametrize("given", ASYNC, ids=lambda given: type(given).__name__)
@pytest.mark.parametrize("name", ["condition", "key_func", "ttl", "tags"])
def test_cached_refuses_them_when_they_are_given(name, given):
    with pytest.raises(TypeError, match=rf"{name} .*async"):
        cached(**{name: given})


@pytest.mark.parametrize("given", ASYNC, ids=lambda given: type(given).__name__)
@pytest.mark.parametrize("name", ["on_evict", "on_removal", "weigher", "clock"])
def test_a_cache_refuses_them_when_they_are_given(name, given):
    more = {"max_weight": 5} if name == "weigher" else {}
    with pytest.raises(TypeError, match=rf"{name} .*async"):
        Cache(**{name: given, **more})


@pytest.mark.parametrize("given", [*ASYNC, HIDDEN], ids=lambda given: type(given).__name__)
def test_factories_and_computations_are_refused(given):
    cache = Cache()
    for call in (lambda: cache.get_or_set("a", given), lambda: cache.compute("a", given)):
        with pytest.raises(TypeError, match=r"factory|fn"):
            call()
    assert len(cache) == 0 and cache.stats.sets == 0
    cache["a"] = 1
    if given is not HIDDEN:
        with pytest.raises(TypeError, match="factory"):
            cache.get_or_set("a", given)
    with pytest.raises(TypeError, match="fn"):
        cache.compute("a", given)
    assert cache["a"] == 1


@pytest.mark.parametrize("name", ["condition", "key_func", "ttl", "tags"])
@pytest.mark.parametrize("is_async", [False, True])
def test_what_turns_out_to_be_async_is_refused_and_nothing_is_stored(name, is_async):
    async def function(x):
        return x

    f = cached(**{name: HIDDEN})(function if is_async else lambda x: x)
    with pytest.raises(TypeError, match=name):
        asyncio.run(f(1)) if is_async else f(1)
    assert len(f.cache) == 0


def test_a_loader_that_turns_out_to_be_async_is_refused():
    cache = Cache(loader=HIDDEN)
    for call in (lambda: cache.get("a"), lambda: cache["a"], lambda: cache.get_many(["a"])):
        with pytest.raises(TypeError, match="loader"):
            call()
    assert len(cache) == 0


def test_a_weigher_that_turns_out_to_be_async_is_refused():
    cache = Cache(max_weight=5, weigher=HIDDEN)
    with pytest.raises(TypeError, match="weigher"):
        cache["a"] = 1
    assert len(cache) == 0


def test_a_callback_that_turns_out_to_be_async_is_reported(monkeypatch):
    import sys

    said = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: said.append(report.exc_value))
    for name in ("on_evict", "on_removal"):
        cache = Cache(**{name: HIDDEN})
        cache["a"] = 1
        assert cache.delete("a") is True
    assert [type(error) for error in said] == [TypeError, TypeError]
    assert all("async" in str(error) or "plain" in str(error) for error in said)
