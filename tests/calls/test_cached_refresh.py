"""`refresh_ahead`, `stale_ttl` and the options of the own cache, on decorated functions."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import threading
import weakref

import pytest

from cachebox import MISSING, Cache, cached
from in_threads import wait_until

tenant = contextvars.ContextVar("tenant", default="nobody")


class Counter:
    """A function that returns how often it was called, and waits or fails if a test wants that."""

    def __init__(self):
        self.calls = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.error = None

    def __call__(self, x=0, session=None):
        self.calls.append((x, session, tenant.get()))
        number = len(self.calls)
        self.go_on.wait(60)
        if self.error is not None:
            raise self.error
        return number


def settled(f, number, *args):
    """Wait until that is a function's result, and its refresh has ended."""
    wait_until(lambda: f.peek(*args) == number and not f.cache._refreshing(f.cache_key(*args)))


def ended(f, *args):
    """Wait until no refresh of that call is under way: only then can the next one begin."""
    wait_until(lambda: not f.cache._refreshing(f.cache_key(*args)))


@pytest.fixture(params=["own", "shared"])
def make(request, clock):
    """A decorator with a cache of either kind, whose clock is the test's."""
    if request.param == "own":
        return lambda **options: cached(clock=clock, **options)
    cache = Cache(clock=clock)
    cache["other"] = "there before"
    return lambda **options: cached(cache, **options)


def test_a_result_is_computed_anew_before_its_end(make, clock):
    count = Counter()
    f = make(ttl=100, refresh_ahead=0.2)(count)
    assert f() == 1
    clock.now += 79
    assert f() == 1 and len(count.calls) == 1
    count.go_on.clear()
    clock.now += 2
    assert f() == f() == 1                      # served at once
    count.go_on.set()
    settled(f, 2)
    assert f() == 2 and len(count.calls) == 2
    clock.now += 79
    assert f() == 2 and len(count.calls) == 2   # the new one has a lifetime of its own
    assert f.cache_info().misses == 1


def test_a_refresh_runs_in_the_callers_context_and_with_its_arguments(make, clock):
    count = Counter()
    f = make(ttl=100, refresh_ahead=0.5, ignore="session")(lambda x, session: count(x, session))
    assert f(1, "first") == 1
    clock.now += 60
    token = tenant.set("somebody")
    assert f(1, session="second") == 1
    tenant.reset(token)
    settled(f, 2, 1, None)
    assert count.calls == [(1, "first", "nobody"), (1, "second", "somebody")]


def test_stale_results_are_served_while_a_new_one_is_computed(make, clock):
    count = Counter()
    f = make(ttl=10, stale_ttl=30)(count)
    assert f() == 1
    clock.now += 15
    assert f.peek() is MISSING                  # for all other methods it has ended
    count.go_on.clear()
    assert f() == f() == 1
    count.go_on.set()
    settled(f, 2)
    assert f() == 2 and len(count.calls) == 2
    clock.now += 41
    assert f() == 3                             # too late: computed while the caller waits


def test_stale_results_are_served_while_the_function_fails(make, clock):
    count = Counter()
    f = make(ttl=10, stale_ttl=30)(count)
    assert f() == 1
    count.error = OSError("down")
    clock.now += 15
    for calls in (2, 3):
        assert f() == 1
        wait_until(lambda: len(count.calls) == calls and f.cache.stats.refresh_failures == calls - 1)
        ended(f)
    clock.now += 30
    with pytest.raises(OSError):
        f()
    count.error = None
    assert f() == 5


def test_a_write_during_a_refresh_wins(make, clock):
    for write, left in ((lambda f: f.set("given"), "given"), (lambda f: f.invalidate(), MISSING)):
        count = Counter()
        f = make(ttl=100, refresh_ahead=0.5)(count)
        f.cache_clear()
        assert f() == 1
        clock.now += 60
        count.go_on.clear()
        assert f() == 1
        wait_until(lambda: len(count.calls) == 2)
        write(f)
        count.go_on.set()
        wait_until(lambda: not f.cache._refreshing(f.cache_key()) and f.cache.stats.refreshes > 0)
        assert f.peek() == left
        f.cache_clear(), f.cache.stats.reset()


def test_condition_ttl_and_tags_apply_to_refreshes(make, clock):
    results = iter(["one", "bad", "two"])
    f = make(
        ttl=lambda result: 100 if result != "two" else 1000,
        refresh_ahead=0.5,
        condition=lambda result: result != "bad",
        tags=lambda result: [result],
    )(lambda: next(results))
    assert f() == "one"
    clock.now += 60
    assert f() == "one"
    wait_until(lambda: f.cache.stats.refreshes == 1)
    ended(f)
    assert f.peek() == "one"                    # a value that is not to be stored changes nothing
    assert f() == "one"
    settled(f, "two")
    clock.now += 400
    assert f() == "two" and f.cache.stats.refreshes == 2
    assert f.cache.invalidate_tag("one") == 0 and f.cache.invalidate_tag("two") == 1


def test_methods_are_computed_anew_and_let_their_instances_go(make, clock):
    class Owner:
        calls = 0

        @make(ttl=100, refresh_ahead=0.5)
        def method(self, x):
            Owner.calls += 1
            return Owner.calls

    one = Owner()
    assert one.method(1) == 1
    clock.now += 60
    assert one.method(1) == 1
    settled(one.method, 2, 1)
    alive = weakref.ref(one)
    del one
    gc.collect()
    wait_until(lambda: alive() is None)


def test_who_finds_nothing_waits_for_a_refresh(clock):
    count = Counter()
    f = cached(ttl=10, stale_ttl=10, clock=clock)(count)
    assert f() == 1
    clock.now += 15
    count.go_on.clear()
    assert f() == 1
    wait_until(lambda: len(count.calls) == 2)
    clock.now += 10                             # now there is nothing to serve
    results = []
    waiting = threading.Thread(target=lambda: results.append(f()))
    waiting.start()
    count.go_on.set()
    waiting.join(60)
    assert results == [2] and len(count.calls) == 2


def test_async_functions(make, clock):
    calls = []
    error = []
    go_on = asyncio.Event()

    @make(ttl=10, refresh_ahead=0.5, stale_ttl=30)
    async def f():
        calls.append(tenant.get())
        number = len(calls)
        await go_on.wait()
        if error:
            raise error[0]
        return number

    async def until(condition):
        for _ in range(10_000):
            if condition():
                return
            await asyncio.sleep(0)
        raise AssertionError

    async def main():
        go_on.set()
        assert await f() == await f() == 1
        clock.now += 6
        go_on.clear()
        token = tenant.set("somebody")
        assert await asyncio.gather(f(), f(), f()) == [1, 1, 1]
        tenant.reset(token)
        go_on.set()
        await until(lambda: f.peek() == 2)
        assert calls == ["nobody", "somebody"]
        clock.now += 15
        error.append(OSError("down"))
        assert await f() == 2                   # stale, and computing fails
        await until(lambda: f.cache.stats.refresh_failures == 1 and not f.cache._refreshing(f.cache_key()))
        error.clear()
        assert await f() == 2
        await until(lambda: f.peek() == 4)
        clock.now += 100
        assert await f() == 5

    asyncio.run(main())


def test_a_refresh_in_a_loop_that_ended_is_begun_again(clock):
    calls = []

    @cached(ttl=10, stale_ttl=1000, clock=clock)
    async def f():
        calls.append(1)
        if len(calls) == 2:
            await asyncio.Event().wait()
        return len(calls)

    assert asyncio.run(f()) == 1
    clock.now += 15

    async def abandon():
        value = await f()
        await asyncio.sleep(0)
        return value

    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(abandon()) == 1      # its task is left behind
    loop.run_until_complete(asyncio.sleep(0))
    assert len(calls) == 2

    async def again():
        assert await f() == 1
        for _ in range(10_000):
            if f.peek() == 3:
                return
            await asyncio.sleep(0)
        raise AssertionError

    asyncio.run(again())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_a_shared_cache_shows_others_no_stale_results(clock):
    cache = Cache(clock=clock)
    f = cached(cache, ttl=10, stale_ttl=30, key_func=lambda: "key")(Counter())
    g = cached(cache, ttl=10, key_func=lambda: "key")(lambda: "computed")
    assert f() == 1
    clock.now += 15
    assert cache.get("key") is None and "key" not in cache and len(cache) == 0
    assert f() == 1
    wait_until(lambda: cache.get("key") == 2)
    clock.now += 15
    assert g() == "computed"


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"refresh_ahead": 1}, ValueError, "refresh_ahead must be greater than 0 and less than 1"),
        ({"refresh_ahead": "soon"}, TypeError, "refresh_ahead"),
        ({"stale_ttl": 0}, ValueError, "stale_ttl"),
        ({"stale_ttl": "long"}, TypeError, "stale_ttl"),
        ({"jitter": 2}, ValueError, "jitter"),
        ({"time_to_idle": -1}, ValueError, "time_to_idle"),
        ({"cache": Cache(loader=str), "refresh_ahead": 0.5}, TypeError, "refresh_ahead cannot go together"),
        ({"cache": Cache(loader=str), "stale_ttl": 5}, TypeError, "stale_ttl cannot go together"),
        ({"cache": Cache(), "jitter": 0.5}, TypeError, "jitter cannot go together with cache"),
        ({"cache": Cache(), "isolate": True}, TypeError, "isolate cannot go together with cache"),
        ({"cache": Cache(), "time_to_idle": 5}, TypeError, "time_to_idle cannot go together with cache"),
        ({"tti": 5}, TypeError, "did you mean 'time_to_idle'"),
    ],
    ids=lambda value: str(type(value)),
)
def test_what_makes_no_sense_is_refused(options, error, words):
    with pytest.raises(error, match=words):
        cached(**options)(lambda: 0)


def test_time_to_idle(clock):
    count = Counter()
    f = cached(time_to_idle=10, clock=clock)(count)
    for _ in range(5):
        assert f() == 1
        clock.now += 9
    clock.now += 1
    assert f() == 2


def test_jitter_shortens_lifetimes(clock):
    f = cached(ttl=100, jitter=0.5, clock=clock)(lambda x: x)
    for x in range(50):
        f(x)
    lifetimes = {f.cache.ttl(x) for x in range(50)}
    assert len(lifetimes) > 25 and 50 <= min(lifetimes) <= max(lifetimes) <= 100


@pytest.mark.parametrize("is_async", [False, True])
def test_isolated_results_are_copies(is_async):
    calls = []

    def compute(x):
        calls.append(x)
        return [x]

    async def later(x):
        return compute(x)

    f = cached(isolate=True)(later if is_async else compute)

    def call(x):
        return asyncio.run(f(x)) if is_async else f(x)

    for _ in range(3):
        result = call(1)
        assert result == [1]
        result.append("changed")
    assert f.peek(1) == [1] and calls == [1]
    given = [5]
    f.set(given, 5)
    given.append("changed")
    assert call(5) == [5]


def test_all_options_together(clock):
    @cached(
        max_size=10, ttl=100, refresh_ahead=0.5, stale_ttl=50, jitter=0.1, isolate=True, time_to_idle=90, clock=clock,
        ignore="session", normalize=True, vary=tenant, typed=True, tags="all", name="everything", version="code",
        condition=lambda result: True, cache_exceptions=OSError, exception_ttl=5,
    )
    def f(x, session=None, *, y=1):
        return [x, y]

    for _ in range(3):
        assert f(1) == f(x=1, session=[]) == f(1, y=1) == [1, 1]
        clock.now += 60
    assert f.invalidate(1) in (True, False)


def test_a_copy_of_the_cache_has_the_entries(clock):
    f = cached(ttl=100, refresh_ahead=0.5, stale_ttl=5)(lambda x: x)
    f(1)
    assert copy.copy(f.cache)[1] == 1
