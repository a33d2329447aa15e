"""`cached_many`: functions of many keys."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import pytest

import cachebox
from cachebox import Cache, cached_many, disabled
from in_threads import wait_until


class Counted:
    """A function of many keys that notes its keys, and has no values for negative ones."""

    def __init__(self):
        self.asked = []
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, keys):
        self.asked.append(list(keys))
        self.go_on.wait(60)
        return {key: [key] for key in keys if key >= 0}


@pytest.fixture(params=["own", "shared"])
def cache(request, clock):
    return Cache(clock=clock) if request.param == "shared" else None


def decorated(cache, function, clock, **options):
    return cached_many(cache, **({} if cache is not None else {"clock": clock}), **options)(function)


def test_each_key_is_cached_by_itself_and_what_misses_is_one_call(cache, clock):
    count = Counted()
    f = decorated(cache, count, clock)
    assert f([1, 2]) == {1: [1], 2: [2]}
    assert list(f([3, 2, 1, 4, 3])) == [3, 2, 1, 4]             # in the order of the keys
    assert count.asked == [[1, 2], [3, 4]]
    assert f(iter([1, 4])) == {1: [1], 4: [4]} and f({2}) == {2: [2]}
    assert f([]) == {} and f(()) == {} and len(count.asked) == 2
    assert f.cache_info()[:2] == (5, 4) and f.cache_info().currsize == 4


def test_keys_that_are_left_out(cache, clock):
    count = Counted()
    f = decorated(cache, count, clock)
    g = decorated(cache, count, clock, missing_ttl=10, name="g", ttl=100)
    assert f([1, -1]) == {1: [1]} and f([-1]) == {}
    assert count.asked == [[1, -1], [-1]]
    count.asked.clear()
    assert g([1, -1]) == {1: [1]} and g([-1, 1]) == {1: [1]}
    assert count.asked == [[1, -1]]
    assert g.peek([1, -1]) == {1: [1]}
    clock.now += 10
    assert g([1, -1]) == {1: [1]} and count.asked == [[1, -1], [-1]]
    assert g.invalidate([1, -1, 5]) == 1 and g([1, -1]) == {1: [1]}
    assert count.asked[2:] == [[1, -1]]
    g.set({-1: "found"})
    assert g([-1]) == {-1: "found"}


def test_extra_keys_are_ignored_and_any_mapping_will_do():
    f = cached_many(lambda keys: MappingProxyType({1: "one", 2: "two", 3: None}))
    assert f([1, 3]) == {1: "one", 3: None}     # None is a result
    assert f.peek([1, 2, 3]) == {1: "one", 3: None}


def test_control(cache, clock):
    count = Counted()
    f = decorated(cache, count, clock)
    assert f.peek([1]) == {} and f.refresh([1, 2]) == {1: [1], 2: [2]} and f.refresh([]) == {}
    first = f([1])[1]
    assert f.refresh([1, -5]) == {1: [1]} and f([1])[1] is not first
    f.set({1: "given", 7: "seven"})
    assert f([1, 7]) == {1: "given", 7: "seven"} == f.peek([1, 7])
    assert f.invalidate([1, 7, 8]) == 2 and f.peek([1, 7]) == {}
    assert f.cache_key(2) in f.cache
    f.cache_clear()
    assert f.peek([2]) == {} and f.cache_info()[:2] == (0, 0)
    assert f.cache_parameters()["missing_ttl"] is None and f.__wrapped__ is count
    count.asked.clear()
    with disabled():
        assert f([1, -1]) == {1: [1]} and f([1]) == {1: [1]} and f([]) == {}
    assert count.asked == [[1, -1], [1]] and f.peek([1]) == {} and f.cache_info().misses == 0


def test_functions_that_share_a_cache_never_meet():
    cache = Cache()
    one = cached_many(cache)(lambda keys: dict.fromkeys(keys, "one"))
    other = cached_many(cache)(lambda keys: dict.fromkeys(keys, "other"))
    assert one([1]) == {1: "one"} and other([1]) == {1: "other"}
    one.cache_clear()
    assert other.peek([1]) == {1: "other"} and one.peek([1]) == {}


def test_lifetimes_conditions_and_tags_are_of_single_keys(clock):
    cache = Cache(clock=clock)
    f = cached_many(
        cache, ttl=lambda result: 5 if result == "short" else 50, condition=lambda result: result != "bad",
        tags=lambda result, key: f"tag-{key}",
    )(lambda keys: {key: key for key in keys})
    assert f(["short", "long", "bad"]) == {"short": "short", "long": "long", "bad": "bad"}
    assert f.peek(["short", "long", "bad"]) == {"short": "short", "long": "long"}
    clock.now += 6
    assert f.peek(["short", "long"]) == {"long": "long"}
    assert cache.invalidate_tag("tag-long") == 1 and f.peek(["long"]) == {}


def test_callers_at_the_same_time_share():
    count = Counted()
    f = cached_many(count)
    count.go_on.clear()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(f, [1, 2])
        wait_until(lambda: count.asked == [[1, 2]])
        second = pool.submit(f, [2, 3, 1])
        wait_until(lambda: len(count.asked) == 2)
        count.go_on.set()
        assert first.result(60) == {1: [1], 2: [2]} and second.result(60) == {2: [2], 3: [3], 1: [1]}
        assert first.result()[2] is second.result()[2]
    assert count.asked == [[1, 2], [3]]


def test_who_waits_gets_the_error_and_the_next_one_tries_again():
    began, go_on = threading.Event(), threading.Event()
    fails = [1]

    @cached_many
    def f(keys):
        began.set()
        go_on.wait(60)
        if fails:
            raise OSError("down")
        return dict.fromkeys(keys)

    with ThreadPoolExecutor() as pool:
        first = pool.submit(f, [1])
        began.wait(60)
        second = pool.submit(f, [1])
        wait_until(lambda: f.cache.stats.misses == 2)
        go_on.set()
        for each in (first, second):
            with pytest.raises(OSError, match="down"):
                each.result(60)
    fails.clear()
    assert f([1]) == {1: None}


def test_a_write_meanwhile_wins():
    @cached_many
    def f(keys):
        f.set({1: "given"})
        f.invalidate([2])
        return dict.fromkeys(keys, "computed")

    assert f([1, 2, 3]) == dict.fromkeys([1, 2, 3], "computed")
    assert f.peek([1, 2, 3]) == {1: "given", 3: "computed"}


def test_recursion_runs_the_function():
    depth = []

    @cached_many
    def f(keys):
        depth.append(1)
        return {key: len(depth) for key in keys} if len(depth) > 1 else f(keys)

    assert f([1]) == {1: 2}


def test_circles_of_threads_do_not_hang():
    together = threading.Barrier(2)

    @cached_many
    def f(keys):
        if keys[0] in ("a", "b") and not together.broken:
            try:
                together.wait(60)
            except threading.BrokenBarrierError:
                pass
            together.abort()
            return {keys[0]: f(["b" if keys[0] == "a" else "a"])}
        return dict.fromkeys(keys, "alone")

    with ThreadPoolExecutor() as pool:
        results = [pool.submit(f, [key]) for key in "ab"]
        assert all(result.result(60) for result in results)


def test_what_makes_no_sense_is_refused():
    f = cached_many(lambda keys: [1])
    with pytest.raises(TypeError, match="must return a mapping of keys to values, not list"):
        f([1])
    for keys in ("abc", b"abc", 5, None):
        with pytest.raises(TypeError, match="keys must be an iterable of keys"):
            f(keys)
    with pytest.raises(TypeError, match="keys must be hashable"):
        f([[]])
    with pytest.raises(TypeError, match="mapping must be a mapping"):
        f.set([1])
    with pytest.raises(ValueError, match="missing_ttl must be more than 0"):
        cached_many(missing_ttl=0)
    with pytest.raises(TypeError, match="missing_ttl"):
        cached_many(missing_ttl="long")
    with pytest.raises(TypeError, match="did you mean 'missing_ttl'"):
        cached_many(negative_ttl=5)
    with pytest.raises(TypeError, match="generator"):

        @cached_many
        def g(keys):
            yield 1

    async def later():
        return {}

    with pytest.raises(TypeError, match="await"):
        cached_many(lambda keys: later())([1])


def test_a_failing_condition_keeps_no_other_key_from_being_stored():
    f = cached_many(condition=lambda result: 1 / result)(lambda keys: {key: key for key in keys})
    with pytest.raises(ZeroDivisionError):
        f([1, 0, 2])
    assert f.peek([0, 1, 2]) == {1: 1, 2: 2}


def test_async_functions(clock):
    asked = []

    @cached_many(missing_ttl=10, clock=clock)
    async def f(keys):
        asked.append(list(keys))
        await asyncio.sleep(0)
        return {key: [key] for key in keys if key >= 0}

    async def main():
        results = await asyncio.gather(f([1, 2]), f([2, 3]), f([3, -1, 1]), f([]))
        assert results == [{1: [1], 2: [2]}, {2: [2], 3: [3]}, {3: [3], 1: [1]}, {}]
        assert asked == [[1, 2], [3], [-1]]
        assert await f([-1, 2]) == {2: [2]} and len(asked) == 3
        assert await f.refresh([1]) == {1: [1]} and asked[3:] == [[1]]
        assert f.peek([1, 2]) == {1: [1], 2: [2]} and f.invalidate([1]) == 1
        f.set({1: "given"})
        assert await f([1]) == {1: "given"}
        with disabled():
            assert await f([1]) == {1: [1]}

    asyncio.run(main())


def test_a_cancelled_leader_hands_over():
    asked = []
    blocked = []

    async def main():
        event = asyncio.Event()

        @cached_many
        async def f(keys):
            asked.append(list(keys))
            if not blocked:
                blocked.append(1)
                await event.wait()
            return {key: key for key in keys}

        first = asyncio.create_task(f([1, 2]))
        await asyncio.sleep(0)
        second = asyncio.create_task(f([2, 3]))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == {2: 2, 3: 3}
        assert await f([1]) == {1: 1}

    asyncio.run(main())
    assert asked[0] == [1, 2] and [2] in asked and [3] in asked


@pytest.mark.parametrize("shared", [False, True])
def test_methods(shared):
    cache = Cache() if shared else None
    asked = []

    class Repository:
        @cached_many(cache)
        def users(self, keys):
            asked.append(list(keys))
            return {key: [key] for key in keys}

        @classmethod
        @cached_many(cache)
        def of_class(cls, keys):
            return dict.fromkeys(keys, cls.__name__)

        @staticmethod
        @cached_many(cache)
        def static(keys):
            return dict.fromkeys(keys, "static")

    one, other = Repository(), Repository()
    assert one.users([1, 2]) == {1: [1], 2: [2]} == one.users([1, 2])
    assert other.users([1]) == {1: [1]} and asked == [[1, 2], [1]]
    assert one.users.peek([1, 3]) == {1: [1]} and one.users.invalidate([1]) == 1 and other.users.peek([1])
    one.users.set({5: "five"})
    assert one.users([5]) == {5: "five"} and one.users.refresh([5]) == {5: [5]}
    assert one.users.cache_key(5) in one.users.cache
    assert Repository.of_class.peek([1]) == {}
    assert Repository.of_class([1]) == {1: "Repository"} == Repository.of_class.peek([1])
    assert one.static([1]) == {1: "static"}
    alive = weakref.ref(one)
    del one
    gc.collect()
    assert alive() is None


def test_it_looks_like_the_function():
    @cached_many
    def load(keys):
        """Load them."""
        return {}

    assert load.__name__ == "load" and load.__doc__ == "Load them." and cachebox.cached_many is cached_many
    assert "load" in repr(load)


def test_isolated_results():
    f = cached_many(isolate=True, missing_ttl=10)(lambda keys: {key: [key] for key in keys if key > 0})
    for _ in range(3):
        found = f([1, -1])
        assert found == {1: [1]}
        found[1].append("changed")
