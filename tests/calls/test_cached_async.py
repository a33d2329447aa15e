"""`cached` on `async def` functions, and single flight between tasks, event loops and threads."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import inspect
import random
import sys
import threading
import types
import weakref
from unittest.mock import AsyncMock, Mock

import pytest

from cachebox import Cache, cached
from in_threads import LIMIT, Started, is_same, must_end, run_all, wait_for, wait_until

FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()


def in_loop(test):
    """Decorates an ``async def`` test: it runs in an event loop of its own, and fails if it would hang."""

    @must_end
    @functools.wraps(test)
    def runs(*args, **kwargs):
        return asyncio.run(test(*args, **kwargs))

    return runs


async def settle():
    """Let all other tasks go on until they wait for something."""
    for _ in range(20):
        await asyncio.sleep(0)


class Gate:
    """An async function that waits to be let through, and counts its calls and how many of them are under way."""

    def __init__(self, result="loaded"):
        self.opened = asyncio.Event()
        self.result = result
        self.runs = self.cancelled = 0

    async def __call__(self, *args, **kwargs):
        self.runs += 1
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


async def start(*coroutines):
    """Tasks of these coroutines, each as far as it can go."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    await settle()
    return tasks


def by_hand(coroutine):
    """Run a coroutine that never really waits, without an event loop."""
    with pytest.raises(StopIteration) as over:
        coroutine.send(None)
    return over.value.value


WAYS = {"own cache": {}, "shared cache": {"cache": "shared"}, "typed": {"typed": True}}


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def decorate(request):
    """`cached` with options under which keys are made differently."""
    options = dict(request.param)
    if "cache" in options:
        options["cache"] = Cache()
    return cached(**options)


class Thing:
    """An object that can be weakly referenced."""


# --- what an async function is ----------------------------------------------------------------------------------------


async def a_function(x=0):
    return x


class Callable:
    async def __call__(self, x=0):
        return x

    async def method(self, x=0):
        return x


ASYNC = {
    "function": a_function,
    "partial": functools.partial(a_function, 0),
    "partial of partial": functools.partial(functools.partial(a_function), 0),
    "object": Callable(),
    "bound method": Callable().method,
    "mock": AsyncMock(return_value=0),
    "cached": cached(a_function),
}


def is_marked(f):
    """Whether the standard library takes a function for an async one."""
    if sys.version_info >= (3, 12):
        return inspect.iscoroutinefunction(f)
    return asyncio.iscoroutinefunction(f)


@pytest.mark.parametrize("function", ASYNC.values(), ids=ASYNC)
def test_async_functions_of_all_kinds(function):
    f = cached(function)
    assert is_marked(f)

    @in_loop
    async def run():
        coroutine = f()
        assert inspect.iscoroutine(coroutine)
        return await coroutine, await f(), await f()

    assert run() == (0, 0, 0)
    assert f.cache_info()[:2] == (2, 1)


def test_a_function_marked_as_async():
    if sys.version_info < (3, 12):
        pytest.skip("inspect.markcoroutinefunction came with Python 3.12")

    @inspect.markcoroutinefunction
    def marked(x):
        return a_function(x)

    f = cached(marked)
    assert is_marked(f)
    assert by_hand(f(5)) == by_hand(f(5)) == 5


@pytest.mark.parametrize(
    "function", [lambda: 5, Mock(return_value=5), functools.partial(int, 5)], ids=["lambda", "mock", "partial"]
)
def test_other_functions_are_not_async(function):
    f = cached(function)
    assert not is_marked(f)
    assert f() == 5


def test_the_wrapper_shows_what_it_wraps():
    f = cached(a_function)
    assert f.__wrapped__ is a_function and f.__name__ == "a_function"
    assert inspect.signature(f) == inspect.signature(a_function)
    coroutine = f(1)
    assert coroutine.__qualname__ == "a_function"
    coroutine.close()


def test_methods_are_async_too():
    class One:
        @cached
        async def method(self):
            return 1

        @cached
        @classmethod
        async def of_class(cls):
            return 1

        @staticmethod
        @cached
        async def static():
            return 1

    assert all(map(is_marked, [One.method, One().method, One.of_class, One().of_class, One.static]))


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("result", [5, None, False, Exception("as a value")])
@in_loop
async def test_results_are_cached(decorate, result):
    function = Mock(return_value=result)

    @decorate
    async def f(*args, **kwargs):
        return function(*args, **kwargs)

    for _ in range(3):
        assert await f(1, x=2) is result
        assert await f(1) is result
        assert await f() is result
    assert function.call_count == 3
    assert f.cache_info()[:2] == (6, 3)
    assert f.invalidate(1, x=2) is True
    assert await f(1, x=2) is result
    assert function.call_count == 4
    assert f.cache_key(1) in f.cache


@in_loop
async def test_exceptions_are_not_cached(decorate):
    function = AsyncMock(side_effect=[ValueError, KeyError, 5])
    f = decorate(function)
    for error in (ValueError, KeyError):
        with pytest.raises(error):
            await f(1)
    assert await f(1) == await f(1) == 5
    assert f.cache_info()[:2] == (1, 3)


@in_loop
async def test_the_key_is_computed_once_per_call():
    key_func = Mock(side_effect=lambda x: x[0])
    f = cached(key_func=key_func)(AsyncMock(return_value=5))
    for n in range(1, 4):
        assert await f([1, n]) == 5
        assert key_func.call_count == n
    assert f.cache_info()[:2] == (2, 1)


@pytest.mark.parametrize("attempt", [[], {"a": 1}])
@in_loop
async def test_unhashable_arguments_are_a_type_error(decorate, attempt):
    f = decorate(a_function)
    with pytest.raises(TypeError, match="unhashable"):
        await f(attempt)
    assert f.cache_info()[:2] == (0, 0)


@in_loop
async def test_condition_ttl_and_weight(clock):
    f = cached(Cache(clock=clock), condition=lambda result: result > 0, ttl=lambda result: result - 1)(a_function)
    assert [await f(x) for x in (0, 1, 2, 0, 1, 2)] == [0, 1, 2, 0, 1, 2]
    assert f.cache_info()[:2] == (1, 5)
    clock.now += 1
    assert await f(2) == 2
    assert f.cache_info()[:2] == (1, 6)
    heavy = cached(Cache(max_weight=5, weigher=lambda key, value: value))(a_function)
    assert [await heavy(x) for x in (5, 6, 5, 6)] == [5, 6, 5, 6]
    assert heavy.cache_info() == (1, 3, 1000, 1)


@pytest.mark.parametrize("asked", ["condition", "ttl"])
@in_loop
async def test_an_error_in_condition_or_ttl_reaches_all(asked):
    gate = Gate()
    f = cached(**{asked: lambda result: 1 / 0})(gate)
    tasks = await start(f(), f(), f())
    gate.opened.set()
    assert {type(error) for error in await asyncio.gather(*tasks, return_exceptions=True)} == {ZeroDivisionError}
    assert len(f.cache) == 0


def test_without_an_event_loop(decorate):
    f = decorate(a_function)
    assert by_hand(f(5)) == by_hand(f(5)) == 5
    assert f.cache_info()[:2] == (1, 1)


@in_loop
async def test_a_coroutine_is_awaited_once(decorate):
    f = decorate(a_function)
    for _ in range(2):
        coroutine = f(1)
        assert await coroutine == 1
        with pytest.raises(RuntimeError, match="already awaited"):
            await coroutine


@in_loop
async def test_a_coroutine_that_is_never_awaited_does_nothing(decorate):
    gate = Gate()
    f = decorate(gate)
    f(1).close()
    with pytest.warns(RuntimeWarning, match="never awaited"):       # noqa: PT031  # the collector may have to find it
        f(1)
        gc.collect()
    assert (gate.runs, len(f.cache), f.cache_info().misses) == (0, 0, 0)
    gate.opened.set()
    assert await f(1) == "loaded"
    f(1).close()
    assert await f(1) == "loaded"
    assert gate.runs == 1


@in_loop
async def test_a_result_that_arrives_before_the_coroutine_is_awaited_is_a_hit(decorate):
    f = decorate(a_function)
    early = f(5)
    assert await f(5) == 5
    assert await early == 5
    assert f.cache_info()[:2] == (1, 1)


# --- sharing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 100])
@in_loop
async def test_one_task_loads_and_all_get_its_value(decorate, n):
    gate = Gate(Thing())
    f = decorate(gate)
    tasks = await start(*[f(1) for _ in range(n)])
    assert gate.runs == 1 and f.cache_info()[:2] == (0, n)
    gate.opened.set()
    assert set(await asyncio.gather(*tasks)) == {gate.result}
    assert gate.runs == 1 and f.cache_info()[:2] == (0, n)
    assert f.cache.stats.sets == 1


@in_loop
async def test_gather_computes_each_key_once(decorate):
    calls = []

    @decorate
    async def f(x):
        calls.append(x)
        await settle()
        return x

    keys = [k % 7 for k in range(100)]
    assert await asyncio.gather(*map(f, keys)) == keys
    assert sorted(calls) == list(range(7))
    assert f.cache_info() == (0, 100, 1000, 7)


@in_loop
async def test_all_get_the_leaders_exception_and_nothing_is_stored(decorate):
    gate = Gate(ValueError("why"))
    f = decorate(gate)
    tasks = await start(f(1), f(1), f(1))
    gate.opened.set()
    assert all(is_same(error, gate.result) for error in await asyncio.gather(*tasks, return_exceptions=True))
    assert gate.runs == 1 and len(f.cache) == 0
    gate.result = "now"
    assert await f(1) == "now"


@in_loop
async def test_other_keys_and_functions_do_not_wait():
    cache, gate = Cache(), Gate()
    f, g = cached(cache)(gate), cached(cache)(a_function)
    tasks = await start(f(1))
    assert await g(1) == 1
    gate.result = "other"
    other = await start(f(2))
    gate.opened.set()
    assert await asyncio.gather(*tasks, *other) == ["other", "other"]
    assert gate.runs == 2


@in_loop
async def test_without_single_flight_every_task_runs_the_function():
    gate = Gate()
    for cache in (None, Cache()):
        gate.runs = 0
        gate.opened.clear()
        f = cached(cache, single_flight=False)(gate)
        tasks = await start(f(1), f(1), f(1))
        assert gate.runs == 3
        gate.opened.set()
        assert await asyncio.gather(*tasks) == ["loaded"] * 3
        assert await f(1) == "loaded"
        assert f.cache_info()[:2] == (1, 3)
        assert f.cache.stats.sets == 1


@in_loop
async def test_eager_tasks():
    if sys.version_info < (3, 12):
        pytest.skip("eager tasks came with Python 3.12")
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    gate = Gate()
    f = cached(gate)
    tasks = [asyncio.create_task(f(1)) for _ in range(5)]
    gate.opened.set()
    assert await asyncio.gather(*tasks) == ["loaded"] * 5
    assert gate.runs == 1
    assert await asyncio.create_task(f(1)) == "loaded"


# --- cancellation -----------------------------------------------------------------------------------------------------


@in_loop
async def test_a_cancelled_leader_hands_over(decorate):
    gate = Gate()
    f = decorate(gate)
    leader, *waiters = await start(*[f(1) for _ in range(5)])
    leader.cancel()
    await settle()
    assert leader.cancelled() and (gate.runs, gate.cancelled) == (2, 1)
    gate.opened.set()
    assert await asyncio.gather(*waiters) == ["loaded"] * 4
    assert gate.runs == 2
    assert f.cache_info()[:2] == (0, 5)
    assert await f(1) == "loaded"


@in_loop
async def test_leaders_cancelled_one_after_the_other(decorate):
    gate = Gate()
    f = decorate(gate)
    tasks = await start(*[f(1) for _ in range(5)])
    for n in range(1, 6):
        assert gate.runs == n
        running = [task for task in tasks if not task.done()]
        running[0].cancel()
        await settle()
    assert all(task.cancelled() for task in tasks)
    assert gate.runs == gate.cancelled == 5 and len(f.cache) == 0
    gate.opened.set()
    assert await f(1) == "loaded"


@in_loop
async def test_a_leader_cancelled_together_with_some_waiters_hands_over_to_the_others(decorate):
    gate = Gate()
    f = decorate(gate)
    tasks = await start(*[f(1) for _ in range(6)])
    for task in tasks[:4]:
        task.cancel()
    await settle()
    gate.opened.set()
    assert await asyncio.gather(*tasks, return_exceptions=True) == [*tasks_cancelled(tasks[:4]), "loaded", "loaded"]
    assert gate.runs == 2


def tasks_cancelled(tasks):
    """The results that `gather` has for tasks that were cancelled."""
    return [AnyCancelledError()] * len(tasks)


class AnyCancelledError:
    def __eq__(self, other):
        return isinstance(other, asyncio.CancelledError)


@in_loop
async def test_a_waiter_cancelled_after_it_was_woken_loses_nothing_for_the_others(decorate):
    gate = Gate()
    f = decorate(gate)
    leader, *waiters = await start(*[f(1) for _ in range(4)])
    leader.cancel()
    await asyncio.sleep(0)                      # the leader has ended, and the waiters are about to go on
    waiters[0].cancel()
    await settle()
    gate.opened.set()
    assert await asyncio.gather(*waiters, return_exceptions=True) == [AnyCancelledError(), "loaded", "loaded"]
    assert gate.runs == 2


@in_loop
async def test_a_cancelled_waiter_concerns_nobody_else(decorate):
    gate = Gate()
    f = decorate(gate)
    leader, first, second = await start(f(1), f(1), f(1))
    first.cancel()
    await settle()
    assert first.cancelled() and gate.cancelled == 0
    gate.opened.set()
    assert await asyncio.gather(leader, second) == ["loaded"] * 2
    assert gate.runs == 1


@in_loop
async def test_cancelled_waiters_leave_nothing_behind(decorate):
    """Callers that give up while a load hangs must not pile up."""
    gate = Gate()
    f = decorate(gate)
    (leader,) = await start(f(1))

    async def give_up(n):
        for _ in range(n):
            (waiter,) = await start(f(1))
            waiter.cancel()
            await settle()
        del waiter
        gc.collect()

    await give_up(3)
    before = len(gc.get_objects())
    await give_up(50)
    assert len(gc.get_objects()) < before + 50
    gate.opened.set()
    assert await leader == "loaded"


@in_loop
async def test_a_function_that_cancels_itself_hands_over(decorate):
    outcomes = [asyncio.CancelledError(), "second"]

    @decorate
    async def f():
        await settle()
        outcome = outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    tasks = await start(f(), f(), f())
    assert await asyncio.gather(*tasks, return_exceptions=True) == [AnyCancelledError(), "second", "second"]


@in_loop
async def test_a_leader_that_survives_its_cancellation_lands(decorate):
    @decorate
    async def f():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "survived"

    leader, waiter = await start(f(), f())
    leader.cancel()
    assert await waiter == "survived"
    assert (await asyncio.gather(leader, return_exceptions=True))[0] in ("survived", AnyCancelledError())
    assert await f() == "survived"


@in_loop
async def test_wait_for_and_shield(decorate):
    gate = Gate()
    f = decorate(gate)
    (leader,) = await start(f(1))
    (shielded,) = await start(asyncio.wait_for(asyncio.shield(asyncio.ensure_future(f(1))), LIMIT))
    shielded.cancel()
    await settle()
    gate.opened.set()
    assert await leader == await asyncio.wait_for(f(1), LIMIT) == "loaded"


def test_random_cancellations():
    """Every task that is not cancelled gets the value; no task hangs; nothing is left."""

    @in_loop
    async def run(seed):
        chance = random.Random(seed)

        @cached(max_size=3)
        async def f(key):
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            if chance.random() < 0.2:
                await f((key + 1) % 5)
            if chance.random() < 0.1:
                raise ValueError(key)
            return key

        tasks = {}
        for _ in range(300):
            key = chance.randrange(5)
            tasks[asyncio.create_task(f(key))] = key
            if chance.random() < 0.5:
                chance.choice(list(tasks)).cancel()
            if chance.random() < 0.1:
                f.invalidate(key)
            if chance.random() < 0.05:
                f.cache_clear()
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
        for task, key in tasks.items():
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            assert outcome == key or isinstance(outcome, (ValueError, asyncio.CancelledError))
        assert any(task.cancelled() for task in tasks) and not all(task.cancelled() for task in tasks)
        f.cache._check()

    for seed in range(5):
        run(seed)


# --- what happens to the key during the load wins ---------------------------------------------------------------------

CHANGES = {
    "set": lambda f: f.cache.set(f.cache_key(1), "written"),
    "invalidate": lambda f: f.invalidate(1),
    "delete": lambda f: f.cache.delete(f.cache_key(1)),
    "clear": lambda f: f.cache.clear(),
    "cache_clear": lambda f: f.cache_clear(),
    "set and delete": lambda f: (f.cache.set(f.cache_key(1), 1), f.invalidate(1)),
}


@pytest.mark.parametrize("single_flight", [True, False])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("cache", [None, Cache()], ids=["own cache", "shared cache"])
@in_loop
async def test_a_change_during_the_load_wins(change, cache, single_flight):
    gate = Gate()
    f = cached(cache, single_flight=single_flight)(gate)
    tasks = await start(f(1), f(1))
    change(f)
    gate.opened.set()
    assert await asyncio.gather(*tasks) == ["loaded"] * 2
    gate.result = "later"
    after = await f(1)
    assert after == ("written" if change is CHANGES["set"] else "later")
    f.cache.clear()


@in_loop
async def test_who_comes_after_a_change_does_not_join_the_old_flight(decorate):
    gate = Gate("old")
    f = decorate(gate)
    early = await start(f(1), f(1))
    f.invalidate(1)
    late = await start(f(1), f(1))
    assert gate.runs == 2
    gate.opened.set()
    await asyncio.gather(*early, *late)
    assert gate.runs == 2


# --- coming back to the same key --------------------------------------------------------------------------------------


async def same_task(coroutine):
    return await coroutine


async def child_task(coroutine):
    return await asyncio.create_task(coroutine)


async def gathered(coroutine):
    return (await asyncio.gather(settle(), coroutine))[1]


async def grandchild(coroutine):
    return await asyncio.create_task(child_task(coroutine))


async def shielded(coroutine):
    return await asyncio.shield(coroutine)


async def timed(coroutine):
    return await asyncio.wait_for(coroutine, LIMIT)


async def other_loop(coroutine):
    return await asyncio.to_thread(asyncio.run, coroutine)


async def other_loops_child(coroutine):
    return await asyncio.to_thread(asyncio.run, child_task(coroutine))


@pytest.mark.parametrize(
    "come_back",
    [same_task, child_task, gathered, grandchild, shielded, timed, other_loop, other_loops_child],
    ids=lambda function: function.__name__,
)
@pytest.mark.parametrize("others", [0, 3])
@in_loop
async def test_recursion_into_the_same_key_runs_again(decorate, come_back, others):
    runs = []

    @decorate
    async def f(key):
        runs.append(key)
        if len(runs) == 1:
            await settle()
            return "outer of " + await come_back(f(key))
        return "inner"

    results = await asyncio.gather(*[f(1) for _ in range(others + 1)])
    assert set(results) <= {"outer of inner", "inner"} and "outer of inner" in results
    assert len(runs) == 2
    assert await f(1) == "inner"                # the inner call wrote first; a write during a load wins


@in_loop
async def test_recursion_through_a_sync_function_in_a_thread(decorate):
    runs = []

    @decorate
    async def f(key):
        runs.append(key)
        return await asyncio.to_thread(f.cache.get_or_set, f.cache_key(key), lambda: "inner")

    assert await f(1) == "inner"
    assert runs == [1]


@in_loop
async def test_deep_recursion(decorate):
    @decorate
    async def fib(n):
        return n if n < 2 else sum(await asyncio.gather(fib(n - 1), fib(n - 2)))

    assert await fib(60) == 1548008755920
    # a child that finds its sibling's flight waits for it
    assert fib.cache.stats.sets == 61


@in_loop
async def test_a_task_that_outlives_the_load_is_not_taken_for_its_recursion(decorate):
    """A task that a leader started in the background is an ordinary caller once the load has ended."""
    background = []
    go = asyncio.Event()
    gate = Gate("again")

    async def later():
        await go.wait()
        return await f(1)

    @decorate
    async def f(key):
        if not background:
            background.append(asyncio.create_task(later()))
            return "first"
        return await gate()

    assert await f(1) == "first"
    f.invalidate(1)
    (leader,) = await start(f(1))
    go.set()
    await settle()
    gate.opened.set()
    assert await leader == await background[0] == "again"
    assert gate.runs == 1


# --- circles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 5])
@in_loop
async def test_a_circle_of_tasks_ends(decorate, n):
    entered, runs = [0], []
    all_entered = asyncio.Event()

    @decorate
    async def f(k):
        runs.append(k)
        if runs.count(k) > 1:
            return f"alone {k}"
        entered[0] += 1
        if entered[0] == n:
            all_entered.set()
        await all_entered.wait()
        return await f((k + 1) % n)

    results = await asyncio.gather(*map(f, range(n)))
    assert len(set(results)) == 1 and results[0].startswith("alone")
    assert len(runs) == n + 1                   # only the last one to ask ran alone


@pytest.mark.parametrize(
    "come_back", [child_task, gathered, grandchild, shielded], ids=lambda function: function.__name__
)
@pytest.mark.parametrize("child_asks", ["first", "last"])
@in_loop
async def test_a_circle_through_a_child_task_ends(decorate, come_back, child_asks):
    """A leads to a child that waits for B, whose leader waits for A."""
    go = {"a": asyncio.Event(), "b": asyncio.Event()}
    runs = []

    @decorate
    async def f(key):
        runs.append(key)
        if runs.count(key) > 1:
            return "alone"
        await go[key].wait()
        return await come_back(f("b")) if key == "a" else await f("a")

    tasks = await start(f("a"), f("b"))
    for key in ("ab" if child_asks == "first" else "ba"):
        go[key].set()
        await settle()
    assert await asyncio.gather(*tasks) == ["alone", "alone"]
    assert len(runs) == 3


@pytest.mark.parametrize("thread_asks", ["first", "last"])
def test_a_circle_of_a_task_and_a_thread_ends(thread_asks):
    """A circle: a task leads A and has a thread that waits for B; another thread leads B and waits for A."""
    cache = Cache()
    entered = {"a": threading.Event(), "b": threading.Event()}
    go = {"a": threading.Event(), "b": threading.Event()}
    alone = []

    @cached(cache, key_func=lambda key: key)
    async def f(key):
        if entered[key].is_set():
            alone.append(key)
            return "alone"
        entered[key].set()
        await asyncio.to_thread(wait_for, go[key])
        return await asyncio.to_thread(cache.get_or_set, cache_key("b"), lambda: alone.append("b") or "alone")

    def cache_key(key):
        return f.cache_key(key)

    def lead_b():
        entered["b"].set()
        wait_for(go["b"])
        return cache.get_or_set(cache_key("a"), lambda: alone.append("a") or "alone")

    task = Started(lambda: asyncio.run(f("a")))
    thread = Started(lambda: cache.get_or_set(cache_key("b"), lead_b))
    wait_for(entered["a"]), wait_for(entered["b"])
    for key in ("ba" if thread_asks == "first" else "ab"):
        misses = cache.stats.misses
        go[key].set()
        wait_until(lambda: cache.stats.misses > misses or not task.thread.is_alive(), "somebody to ask")
    assert task.result() == thread.result() == "alone"
    assert 1 <= len(alone) <= 2


@in_loop
async def test_siblings_wait_for_each_others_flights(decorate):
    """No circle: two children of one leader want the same key, and it is loaded once."""
    gate = Gate()

    @decorate
    async def f(key):
        return await (gate() if key == "leaf" else asyncio.gather(f("leaf"), f("leaf"), f("leaf")))

    tasks = await start(f("root"), f("root"))
    gate.opened.set()
    assert await asyncio.gather(*tasks) == [["loaded"] * 3] * 2
    assert gate.runs == 1


def test_random_circles_end():
    """Functions that call each other at random, in child tasks and not, in several loops and threads."""

    def use(seed):
        chance = random.Random(seed)

        async def main():
            for _ in range(15):
                await asyncio.gather(*[f(chance.randrange(5), 2, seed, chance.random()) for _ in range(4)])
                if chance.random() < 0.3:
                    f.cache_clear()

        asyncio.run(main())

    @cached(key_func=lambda key, *_: key)
    async def f(key, depth, seed, how):
        chance = random.Random(how)
        await asyncio.sleep(0)
        if depth:
            for _ in range(2):
                inner = f(chance.randrange(5), depth - 1, seed, chance.random())
                way = chance.choice([same_task, child_task, gathered])
                assert await way(inner) is not None
        if chance.random() < 0.3:
            f.invalidate(key)
        return key

    run_all(*[lambda seed=seed: use(seed) for seed in range(3)])
    f.cache._check()


# --- sync and async, several loops and threads ------------------------------------------------------------------------


@in_loop
async def test_a_sync_call_for_a_key_that_a_task_of_this_loop_loads_runs_at_once():
    gate = Gate()
    f = cached(gate)
    (leader,) = await start(f(1))
    assert f.cache.get_or_set(f.cache_key(1), lambda: "sync") == "sync"
    gate.opened.set()
    assert await leader == "loaded"
    assert await f(1) == "sync"                 # it was written during the load
    assert gate.runs == 1


@in_loop
async def test_a_sync_cached_function_in_tasks():
    calls = []

    @cached
    def f(x):
        calls.append(x)
        return x

    async def call(x):
        await asyncio.sleep(0)
        return f(x)

    assert await asyncio.gather(*[call(k % 3) for k in range(30)]) == [k % 3 for k in range(30)]
    assert sorted(calls) == [0, 1, 2]


def test_a_thread_waits_for_a_task_and_a_task_for_a_thread():
    cache = Cache()
    gates = {"task": threading.Event(), "thread": threading.Event()}
    entered = {"task": threading.Event(), "thread": threading.Event()}

    def load(name):
        entered[name].set()
        wait_for(gates[name])
        return f"by the {name}"

    @cached(cache, key_func=lambda name: name)
    async def f(name):
        return await asyncio.to_thread(load, name)

    task_leads = Started(lambda: asyncio.run(f("task")))
    thread_leads = Started(lambda: cache.get_or_set(f.cache_key("thread"), lambda: load("thread")))
    wait_for(entered["task"]), wait_for(entered["thread"])
    waiters = [
        Started(lambda: cache.get_or_set(f.cache_key("task"), lambda: "not waited")),
        Started(lambda: asyncio.run(f("task"))),
        Started(lambda: asyncio.run(f("thread"))),
        Started(lambda: cache.get_or_set(f.cache_key("thread"), lambda: "not waited")),
    ]
    wait_until(lambda: cache.stats.misses == 6, "waiters")
    gates["task"].set(), gates["thread"].set()
    assert [one.result() for one in waiters] == ["by the task"] * 2 + ["by the thread"] * 2
    assert (task_leads.result(), thread_leads.result()) == ("by the task", "by the thread")


def test_one_function_in_several_loops(decorate):
    """Whichever loop leads, each key is computed once."""
    calls = []
    lock = threading.Lock()

    @decorate
    async def f(key):
        with lock:
            calls.append(key)
        await settle()
        return key

    async def main():
        return await asyncio.gather(*[f(k % 20) for k in range(200)])

    assert run_all(*[lambda: asyncio.run(main())] * 4) == [[k % 20 for k in range(200)]] * 4
    assert sorted(calls) == list(range(20))
    info = f.cache_info()
    assert info.hits + info.misses == 800


class ThreadGate:
    """An async function that threads can open, and that says when it has been entered."""

    def __init__(self):
        self.entered, self.opened = threading.Event(), threading.Event()
        self.runs = 0

    async def __call__(self, *args):
        self.runs += 1
        self.entered.set()
        await asyncio.to_thread(wait_for, self.opened)
        return "loaded"


def test_exceptions_reach_waiters_in_other_loops(decorate):
    gate, error = ThreadGate(), ValueError("why")

    @decorate
    async def f():
        await gate()
        raise error

    leader = Started(lambda: asyncio.run(f()))
    wait_for(gate.entered)
    waiters = [Started(lambda: asyncio.run(f())) for _ in range(3)]
    wait_until(lambda: f.cache.stats.misses == 4, "waiters")
    gate.opened.set()
    assert all(is_same(one.wait().error, error) for one in [leader, *waiters])


@pytest.mark.parametrize("how", ["cancelled", "its loop ends"])
def test_a_leader_that_is_cancelled_hands_over_to_another_loop(decorate, how):
    gate, second = ThreadGate(), []
    give_up = threading.Event()

    @decorate
    async def f():
        if gate.runs == 0:
            gate.runs = 1
            gate.entered.set()
            await asyncio.Event().wait()
        second.append(1)
        return "second"

    async def lead():
        task = asyncio.create_task(f())
        await asyncio.to_thread(wait_for, give_up)
        if how == "cancelled":
            task.cancel()
            await asyncio.wait([task])

    leader = Started(lambda: asyncio.run(lead()))
    wait_for(gate.entered)
    waiters = [Started(lambda: asyncio.run(f())) for _ in range(3)]
    waiters.append(Started(f.cache.get_or_set, f.cache_key(), lambda: second.append(1) or "second"))
    wait_until(lambda: f.cache.stats.misses == 5, "waiters")
    give_up.set()
    leader.result()
    assert [one.result() for one in waiters] == ["second"] * 4
    assert len(second) == 1


def test_waiters_whose_loop_has_ended_do_not_concern_the_leader(decorate):
    gate = ThreadGate()
    f = decorate(gate)
    leader = Started(lambda: asyncio.run(f(1)))
    wait_for(gate.entered)

    async def give_up():
        await start(f(1), f(1))                 # `asyncio.run` cancels them

    Started(lambda: asyncio.run(give_up())).result()
    loop = asyncio.new_event_loop()
    abandoned = loop.create_task(f(1))
    misses = f.cache.stats.misses
    loop.call_soon(loop.call_soon, loop.call_soon, loop.stop)
    loop.run_forever()
    assert f.cache.stats.misses == misses + 1
    loop.close()                                # with a task that waits
    gate.opened.set()
    assert leader.result() == "loaded"
    abandoned._log_destroy_pending = False
    with pytest.raises((asyncio.CancelledError, GeneratorExit, RuntimeError)):
        abandoned.get_coro().throw(asyncio.CancelledError())


@pytest.mark.parametrize("end", ["close", "drop"])
def test_a_leader_whose_coroutine_is_dropped_hands_over(decorate, end):
    """A loop may be given up with tasks in it."""

    @types.coroutine
    def suspend():
        yield

    runs = []

    @decorate
    async def f():
        runs.append(1)
        if len(runs) == 1:
            await suspend()
        return "second"

    leader = f()
    leader.send(None)
    waiters = [
        Started(lambda: asyncio.run(f())),
        Started(f.cache.get_or_set, f.cache_key(), lambda: runs.append(1) or "second"),
    ]
    wait_until(lambda: f.cache.stats.misses == 3, "waiters")
    if end == "close":
        leader.close()
    else:
        del leader
        gc.collect()
    assert [one.result() for one in waiters] == ["second"] * 2
    assert len(runs) == 2


def test_closing_a_coroutine_inside_another_load_leaves_that_ones_recursion_alone():
    """The closed coroutine must not put its own past back into a context that is not its own."""

    @types.coroutine
    def suspend():
        yield

    @cached
    async def hangs():
        await suspend()

    hanging = hangs()
    hanging.send(None)
    runs = []

    @cached
    async def f():
        runs.append(1)
        hanging.close()
        return await asyncio.create_task(f()) if len(runs) == 1 else "inner"

    @in_loop
    async def run():
        return await f()

    assert run() == "inner"
    assert len(runs) == 2


def test_other_event_loops_need_no_single_flight(decorate):
    """Without asyncio to wait with, every caller computes."""

    @types.coroutine
    def suspend():
        yield

    runs = []

    @decorate
    async def f():
        runs.append(1)
        await suspend()
        return len(runs)

    coroutines = [f(), f(), f()]
    for coroutine in coroutines:
        coroutine.send(None)
    assert len(runs) == 3
    assert [by_hand(coroutine) for coroutine in coroutines] == [3, 3, 3]
    assert by_hand(f()) == 3


# --- methods ----------------------------------------------------------------------------------------------------------


class Service:
    def __init__(self):
        self.runs = 0

    @cached
    async def fetch(self, x):
        self.runs += 1
        await asyncio.sleep(0)
        return (x, self.runs)

    @classmethod
    @cached
    async def inner(cls, x):
        await asyncio.sleep(0)
        return [cls.__name__, x]

    @cached
    @classmethod
    async def outer(cls, x):
        await asyncio.sleep(0)
        return [cls.__name__, x]

    @staticmethod
    @cached
    async def static(x):
        await asyncio.sleep(0)
        return [x]


class Derived(Service):
    pass


@in_loop
async def test_async_methods():
    one, other = Service(), Service()
    assert await asyncio.gather(one.fetch(1), one.fetch(1), other.fetch(1)) == [(1, 1)] * 3
    assert (one.runs, other.runs) == (1, 1)
    assert await one.fetch(1) == await Service.fetch(one, 1) == (1, 1)
    assert one.fetch.cache_key(1) in Service.fetch.cache
    assert one.fetch.invalidate(1) is True
    assert (await one.fetch(1), await other.fetch(1)) == ((1, 2), (1, 1))
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None and len(Service.fetch.cache) == 1


@pytest.mark.parametrize("name", ["inner", "outer"])
@in_loop
async def test_async_class_methods(name):
    assert await getattr(Service, name)(1) == ["Service", 1]
    assert await getattr(Service(), name)(1) is await getattr(Service, name)(1)
    assert await asyncio.gather(getattr(Derived, name)(1), getattr(Derived, name)(1)) == [["Derived", 1]] * 2
    assert getattr(Derived, name).invalidate(1) is True
    assert getattr(Service, name).invalidate(1) is True
    assert getattr(Service, name).invalidate(1) is False


@in_loop
async def test_async_static_methods():
    assert await Service.static(1) is await Service().static(1)
    assert Service.static.invalidate(1) is True


@in_loop
async def test_an_instance_that_takes_no_weak_reference_is_computed_every_time():
    class Slotted:
        __slots__ = ()

        @cached
        async def method(self):
            return [1]

    one = Slotted()
    assert await one.method() is not await one.method()
    assert Slotted.method.cache_info()[:2] == (0, 2)


@in_loop
async def test_the_instance_lives_while_its_method_runs_and_no_longer():
    entered, opened = asyncio.Event(), asyncio.Event()

    class One:
        @cached
        async def method(self, x):
            entered.set()
            await opened.wait()
            return id(self)

    one = One()
    gone = weakref.ref(one)
    leader = asyncio.create_task(one.method(1))
    waiter = asyncio.create_task(one.method(1))
    await entered.wait()
    del one
    gc.collect()
    assert gone() is not None
    opened.set()
    assert await leader == await waiter
    del leader, waiter
    gc.collect()
    assert gone() is None and len(One.method.cache) == 0


# --- what is kept alive -----------------------------------------------------------------------------------------------


@in_loop
async def test_what_a_load_started_in_the_background_does_not_keep_its_result_alive(decorate):
    background = []

    @decorate
    async def connect():
        background.append(asyncio.create_task(asyncio.Event().wait()))
        asyncio.get_running_loop().call_later(1000, print)
        return Thing()

    gone = weakref.ref(await connect())
    await settle()
    assert gone() is not None
    connect.invalidate()
    gc.collect()
    assert gone() is None
    background[0].cancel()


@in_loop
async def test_a_chain_of_tasks_that_start_each_other_carries_no_past(decorate):
    """Each load starts the next one in a task of its own: the context that each of them inherits must not grow."""
    sizes, done = [], asyncio.Event()

    @decorate
    async def f(n):
        inherited = [value for variable, value in contextvars.copy_context().items() if "cachebox" in variable.name]
        sizes.append(sum(map(len, inherited)))
        if n < 100:
            chain.append(asyncio.create_task(after(chain[-1], n + 1)))
        else:
            done.set()

    async def after(task, n):
        await task
        await f(n)

    chain = [asyncio.create_task(settle())]
    await f(0)
    await done.wait()
    assert max(sizes) <= 2 and len(sizes) == 101


@in_loop
async def test_a_context_is_as_before_after_a_call(decorate):
    variable = contextvars.ContextVar("variable", default=0)

    @decorate
    async def f(x):
        variable.set(x)
        if x < 0:
            raise ValueError

    before = dict(contextvars.copy_context().items())
    await f(0)
    with pytest.raises(ValueError):
        await f(-1)
    after = {name: value for name, value in contextvars.copy_context().items() if value != ()}
    assert after == {**before, variable: -1}


@pytest.mark.parametrize("waiters", [0, 2])
def test_a_failed_load_keeps_nothing_alive(decorate, waiters):
    """The exception's traceback keeps frames, and they keep their variables: it must not be a cycle."""

    class Failure(Exception):
        pass

    @decorate
    async def fails(x):
        await settle()
        raise Failure

    async def main():
        thing = Thing()
        gone.append(weakref.ref(thing))
        errors = await asyncio.gather(*[fails(thing) for _ in range(waiters + 1)], return_exceptions=True)
        gone.extend(map(weakref.ref, errors))

    gone = []
    gc.collect()
    gc.disable()
    try:
        must_end(lambda: asyncio.run(main()))()
        if not FREE_THREADED:
            assert [known() for known in gone] == [None] * (waiters + 2)
    finally:
        gc.enable()
    gc.collect()
    assert [known() for known in gone] == [None] * (waiters + 2)


@in_loop
async def test_a_load_keeps_no_argument_alive(decorate):
    gate = Gate()
    f = decorate(gate)
    thing = Thing()
    gone = weakref.ref(thing)
    tasks = await start(f(thing), f(thing), f(x=thing))
    tasks[0].cancel()
    gate.opened.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    del thing, tasks
    f.cache_clear()
    await settle()
    gc.collect()
    assert gone() is None
