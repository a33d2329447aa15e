"""`aget`, `aget_many` and `aget_or_set`: what a cache does for coroutines."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from cachebox import Cache
from in_threads import Started, wait_until


def run(main):
    """Run a coroutine; if it hangs, it fails."""
    return asyncio.run(asyncio.wait_for(main, 60))


class Store:
    """An async store that notes its keys, and waits until it is let go."""

    def __init__(self, together=True, open=True):
        self.asked = []
        self.cancelled = 0
        self.values = {}
        self.gate = None if open else asyncio.Event()
        if not together:
            self.load_many = None

    async def load(self, key):
        return (await self.answer([key]))[key]

    async def load_many(self, keys):
        return await self.answer(keys)

    async def answer(self, keys):
        self.asked.append(list(keys))
        try:
            if self.gate is not None:
                await self.gate.wait()
            else:
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if "broken" in keys:
            raise ConnectionError("no")
        return {key: self.values.get(key, f"value of {key}") for key in keys if key != "none"}


def by_key(store):
    """The same store as a function."""
    async def load(key):
        return await store.load(key)

    return load


@pytest.fixture(params=["one at a time", "together"])
def loads(request):
    """Makes a loader of a store."""
    return by_key if request.param == "one at a time" else lambda store: store


async def passes(n=5):
    for _ in range(n):
        await asyncio.sleep(0)


# --- what is there, and what is not -----------------------------------------------------------------------------------


def test_a_hit_counts_and_promotes_as_get_does():
    async def main():
        cache = Cache(2)
        cache.update(a=1, b=2)
        assert await cache.aget("a") == 1
        cache["c"] = 3
        assert list(cache) == ["a", "c"]
        assert await cache.aget("x") is None and await cache.aget("x", 5) == 5 and await cache.aget("x", default=6) == 6
        assert await cache.aget_many(["a", "x", "c"]) == {"a": 1, "c": 3}
        assert (cache.stats.hits, cache.stats.misses) == (3, 4)

    run(main())


def test_what_is_missing_is_loaded(loads):
    async def main():
        store = Store()
        cache = Cache(loader=loads(store))
        assert await cache.aget("a") == "value of a" and cache.get("a") == "value of a"
        assert await cache.aget("none", 7) == 7 and "none" not in cache
        assert await cache.aget_many(["a", "b", "none", "b"]) == {"a": "value of a", "b": "value of b"}
        assert sorted(key for keys in store.asked for key in keys) == ["a", "b", "none", "none"]
        with pytest.raises(ConnectionError):
            await cache.aget("broken")
        assert "broken" not in cache
        assert cache.stats.load_failure >= 1 and cache.stats.load_time >= 0.0

    run(main())


def test_get_of_what_is_missing_names_aget():
    cache = Cache(loader=Store())
    cache["a"] = 1
    assert cache.get("a") == cache["a"] == 1 and cache.get_many(["a"]) == {"a": 1}
    before = cache.stats.get_all()
    for call in (lambda: cache.get("b"), lambda: cache["b"], lambda: cache.get_many(["b"])):
        with pytest.raises(TypeError, match="aget"):
            call()
    assert cache.stats.get_all() == before and "b" not in cache
    with pytest.raises(TypeError, match="aget_many"):
        cache.warm(["b"])


def test_unhashable_keys_are_refused_at_once():
    cache = Cache(loader=Store())
    for call in (lambda: cache.aget([]), lambda: cache.aget_many([[]]), lambda: cache.aget_or_set([], int)):
        with pytest.raises(TypeError, match="unhashable"):
            call()


def test_a_plain_loader_runs_in_a_thread_and_the_loop_goes_on():
    async def main():
        loop_went_on = threading.Event()
        threads = []

        def load(key):
            threads.append(threading.current_thread())
            assert loop_went_on.wait(60)
            return key * 2

        cache = Cache(loader=load)
        asyncio.get_running_loop().call_later(0.01, loop_went_on.set)
        assert await asyncio.gather(*[cache.aget("a") for _ in range(10)]) == ["aa"] * 10
        assert threads == [threads[0]] and threads[0] is not threading.current_thread()
        assert cache["a"] == "aa" and (cache.stats.misses, cache.stats.load_success) == (10, 1)

    run(main())


def test_what_a_plain_loader_raises_comes_back():
    async def main():
        def load(key):
            raise {"k": KeyError, "s": StopIteration, "v": ValueError}[key](key)

        cache = Cache(loader=load)
        assert await cache.aget("k", 1) == 1
        with pytest.raises(ValueError):
            await cache.aget("v")
        with pytest.raises(RuntimeError, match="StopIteration"):
            await cache.aget("s")
        cache = Cache(loader=lambda key: asyncio.sleep(0))
        with pytest.raises(TypeError, match="await"):
            await cache.aget("a")

    run(main())


def test_a_cache_to_await_may_be_the_loader():
    class Remote:
        async def get(self, key, default=None):
            await asyncio.sleep(0)
            return {"a": 1}.get(key, default)

        async def get_or_set(self, key, factory):
            raise AssertionError("nobody asked for that")

        async def load(self, path):
            raise AssertionError("reads a file")

    async def main():
        cache = Cache(loader=Remote())
        assert await cache.aget("a") == 1 and await cache.aget("b", 2) == 2

    run(main())


# --- together ---------------------------------------------------------------------------------------------------------


def test_misses_of_one_pass_go_to_one_load_many():
    async def main():
        store = Store()
        cache = Cache(None, loader=store)
        keys = [f"k{n}" for n in range(2500)]
        values = await asyncio.gather(*[cache.aget(key) for key in keys])
        assert values == [f"value of {key}" for key in keys]
        assert [len(asked) for asked in store.asked] == [1000, 1000, 500]
        assert [key for asked in store.asked for key in asked] == keys
        first = asyncio.ensure_future(cache.aget("x"))
        await passes()
        assert await asyncio.gather(first, cache.aget("y")) == ["value of x", "value of y"]
        assert store.asked[3:] == [["x"], ["y"]]

    run(main())


def test_misses_of_one_pass_go_to_a_plain_load_many_in_a_thread():
    class Plain:
        def __init__(self):
            self.asked = []

        def load(self, key):
            raise AssertionError("one by one")

        def load_many(self, keys):
            self.asked.append((threading.get_ident(), list(keys)))
            return dict.fromkeys(keys, 1)

    async def main():
        store = Plain()
        cache = Cache(loader=store)
        assert await asyncio.gather(cache.aget("a"), cache.aget("b"), cache.aget_many(["c", "a"])) == [
            1, 1, {"c": 1, "a": 1},
        ]
        ((thread, keys),) = store.asked
        assert keys == ["a", "b", "c"] and thread != threading.get_ident()

    run(main())


def test_a_key_error_of_load_many_asks_for_each():
    class Strict(Store):
        async def load_many(self, keys):
            raise KeyError("some")

        async def load(self, key):
            if key == "none":
                raise KeyError(key)
            return key

    async def main():
        cache = Cache(loader=Strict())
        assert await cache.aget_many(["a", "none"]) == {"a": "a"}

    run(main())


def test_one_load_of_a_key_for_all_tasks(loads):
    async def main():
        store = Store(open=False)
        cache = Cache(loader=loads(store))
        tasks = [asyncio.ensure_future(cache.aget("a")) for _ in range(50)]
        await passes()
        tasks += [asyncio.ensure_future(cache.aget("a")), asyncio.ensure_future(cache.aget_many(["a"]))]
        await passes()
        store.gate.set()
        assert await asyncio.gather(*tasks) == ["value of a"] * 51 + [{"a": "value of a"}]
        assert store.asked == [["a"]] and cache.stats.misses == 52

    run(main())


def test_one_load_of_a_key_for_all_loops_and_threads(loads):
    barrier = threading.Barrier(4)
    asked = []

    class Slow:
        async def load(self, key):
            return (await self.load_many([key]))[key]

        async def load_many(self, keys):
            asked.append(list(keys))
            await asyncio.sleep(0.2)
            return {key: [key] for key in keys}

    cache = Cache(loader=loads(Slow()))
    got = []

    def in_a_loop():
        barrier.wait(60)
        got.extend(run(both()))

    async def both():
        return await asyncio.gather(cache.aget("a"), cache.aget("a"))

    def in_a_thread():
        barrier.wait(60)
        wait_until(lambda: asked)
        got.append(cache.get_or_set("a", lambda: pytest.fail("computed twice")))

    threads = [Started(in_a_loop), Started(in_a_loop), Started(in_a_thread), Started(in_a_thread)]
    for thread in threads:
        thread.result()
    assert asked == [["a"]] and len(got) == 6 and all(value is got[0] for value in got)


# --- cancellation -----------------------------------------------------------------------------------------------------


def test_the_load_goes_on_while_somebody_waits(loads):
    async def main():
        store = Store(open=False)
        cache = Cache(loader=loads(store))
        first, second = asyncio.ensure_future(cache.aget("a")), asyncio.ensure_future(cache.aget("a"))
        await passes()
        first.cancel()
        await passes()
        assert first.cancelled() and not store.cancelled
        store.gate.set()
        assert await second == "value of a" and cache["a"] == "value of a" and store.asked == [["a"]]

    run(main())


@pytest.mark.parametrize("calls", [1, 3])
def test_the_load_is_cancelled_with_the_last_who_waits_and_the_next_call_begins_anew(loads, calls):
    async def main():
        store = Store(open=False)
        cache = Cache(loader=loads(store))
        for ask in (cache.aget, lambda key: cache.aget_many([key])):
            tasks = [asyncio.ensure_future(ask("a")) for _ in range(calls)]
            await passes()
            for task in tasks:
                task.cancel()
            await passes()
            assert all(task.cancelled() for task in tasks)
        assert store.asked == [["a"], ["a"]] and store.cancelled == 2
        tasks = [asyncio.ensure_future(cache.aget("a")), asyncio.ensure_future(cache.aget("b"))]
        await passes()
        store.gate.set()
        assert await asyncio.gather(*tasks) == ["value of a", "value of b"]
        assert len(cache) == 2
        cache._check()

    run(main())


def test_a_call_right_after_the_cancellation_begins_anew(loads):
    async def main():
        store = Store(open=False)
        cache = Cache(loader=loads(store))
        first = asyncio.ensure_future(cache.aget("a"))
        await passes()
        first.cancel()
        second = asyncio.ensure_future(cache.aget("a"))
        await passes()
        store.gate.set()
        assert await second == "value of a"

    run(main())


def test_what_is_cancelled_before_its_pass_is_over_is_not_loaded(loads):
    async def main():
        store = Store()
        cache = Cache(loader=loads(store))
        tasks = []

        async def ask_and_regret():
            tasks.append(asyncio.ensure_future(cache.aget("a")))
            await asyncio.sleep(0)
            tasks[0].cancel()

        await ask_and_regret()
        await passes()
        assert tasks[0].cancelled() and len(store.asked) == store.cancelled
        assert await cache.aget("a") == "value of a"

    run(main())


def test_a_load_is_not_cancelled_while_another_thread_waits(loads):
    async def main():
        store = Store(open=False)
        cache = Cache(loader=loads(store))
        task = asyncio.ensure_future(cache.aget("a"))
        await passes()
        got = []
        thread = Started(lambda: got.append(cache.get_or_set("a", lambda: "computed alone")))
        await asyncio.get_running_loop().run_in_executor(None, wait_until, lambda: cache.stats.misses == 2)
        await asyncio.sleep(0.1)                # it is about to wait
        task.cancel()
        await passes()
        assert not store.cancelled
        store.gate.set()
        await asyncio.get_running_loop().run_in_executor(None, thread.result)
        assert got == ["value of a"]

    run(main())


def test_what_a_loop_was_loading_when_it_ended_is_loaded_anew(loads):
    store = Store()

    async def never():
        store.gate = asyncio.Event()
        tasks.append(asyncio.ensure_future(cache.aget("a")))
        await passes()

    tasks = []
    cache = Cache(loader=loads(store))
    run(never())
    store.gate = None
    assert run(cache_value(cache)) == "value of a"
    cache._check()


def test_a_loop_that_is_closed_over_a_load_leaves_nothing_behind(loads, recwarn, monkeypatch):
    told = []
    monkeypatch.setattr("sys.unraisablehook", told.append)
    store = Store()
    cache = Cache(loader=loads(store))
    loop = asyncio.new_event_loop()

    async def begin():
        store.gate = asyncio.Event()
        tasks.append(asyncio.ensure_future(cache.aget("a")))
        await passes()

    tasks = []
    loop.run_until_complete(begin())
    loop.close()
    tasks.clear()
    gc.collect()
    store.gate = None
    assert run(cache_value(cache)) == "value of a"
    assert told == []
    cache._check()


async def cache_value(cache):
    return await cache.aget("a")


# --- writes meanwhile, circles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [
    lambda cache: cache.set("a", "newer"), lambda cache: cache.delete("a"), lambda cache: cache.clear(),
    lambda cache: cache.add("a", "newer"),
])
def test_a_write_meanwhile_wins(loads, change):
    async def main():
        store = Store(open=False)
        cache = Cache(loader=loads(store))
        task = asyncio.ensure_future(cache.aget("a"))
        await passes()
        change(cache)
        there = cache.peek("a")
        store.gate.set()
        assert await task == "value of a" and cache.peek("a") == there
        cache._check()

    run(main())


def test_after_a_delete_a_new_call_loads_anew(loads):
    async def main():
        store = Store(open=False)
        cache = Cache(loader=loads(store))
        first = asyncio.ensure_future(cache.aget("a"))
        await passes()
        cache.delete("a")
        second = asyncio.ensure_future(cache.aget("a"))
        await passes()
        assert store.asked == [["a"], ["a"]]
        store.gate.set()
        assert await asyncio.gather(first, second) == ["value of a"] * 2

    run(main())


def test_a_loader_may_ask_for_its_own_key(loads):
    async def main():
        class Deep(Store):
            async def load_many(self, keys):
                self.asked.append(list(keys))
                if len(self.asked) == 1:
                    return {key: [await cache.aget(key)] for key in keys}
                return dict.fromkeys(keys, "inner")

            async def load(self, key):
                return (await self.load_many([key]))[key]

        store = Deep()
        cache = Cache(loader=loads(store))
        assert await cache.aget("a") == ["inner"] and cache["a"] == "inner"      # a later caller finds it written

    run(main())


def test_loads_that_wait_for_each_other_do_not_hang(loads):
    async def main():
        class Circular:
            def __init__(self):
                self.runs = 0

            async def load(self, key):
                self.runs += 1
                await passes()
                if self.runs > 20:
                    return key
                return key + await cache.aget({"a": "b", "b": "a"}[key])

            async def load_many(self, keys):
                return {key: await self.load(key) for key in keys}

        cache = Cache(loader=loads(Circular()))
        values = await asyncio.gather(cache.aget("a"), cache.aget("b"))
        assert all(set(value) <= {"a", "b"} for value in values)

    run(main())


def test_a_plain_loader_may_ask_for_other_keys_and_its_own():
    async def main():
        runs = []

        def load(key):
            runs.append(key)
            if key == "sum":
                return cache["a"] + cache["b"]
            if key == "own" and runs.count("own") == 1:
                return [cache["own"]]
            return key

        cache = Cache(loader=load)
        assert await cache.aget("sum") == "ab" and await cache.aget("own") == ["own"]

    run(main())


# --- aget_or_set ------------------------------------------------------------------------------------------------------


def test_an_async_factory_runs_once_for_all_tasks():
    async def main():
        cache = Cache()
        runs = []

        async def make():
            runs.append(1)
            await asyncio.sleep(0)
            return ["made"]

        values = await asyncio.gather(*[cache.aget_or_set("a", make) for _ in range(20)])
        assert runs == [1] and all(value is cache.peek("a") for value in values)
        assert await cache.aget_or_set("a", make) is values[0]
        assert (cache.stats.hits, cache.stats.misses, cache.stats.sets) == (1, 20, 1)
        assert await cache.aget_or_set("b", lambda: "plain") == "plain"

    run(main())


def test_ttl_and_tags_of_what_a_factory_makes(clock):
    async def main():
        cache = Cache(clock=clock)

        async def make():
            return 1

        await cache.aget_or_set("a", make, 10, tags="t")
        await cache.aget_or_set("b", make, tags=["t", "u"])
        assert cache.ttl("a") == 10 and cache.ttl("b") is None
        assert cache.entry("b").tags == ("t", "u")
        assert cache.invalidate_tag("t") == 2

    run(main())
    for bad in ({"ttl": -1}, {"ttl": "x"}, {"tags": 5}):
        with pytest.raises((TypeError, ValueError), match=next(iter(bad))):
            Cache().aget_or_set("a", int, **bad)
    with pytest.raises(TypeError, match="factory"):
        Cache().aget_or_set("a", 5)


def test_get_or_set_refuses_an_async_factory():
    async def make():
        return 1

    with pytest.raises(TypeError, match="aget_or_set"):
        Cache().get_or_set("a", make)


def test_what_a_factory_raises_reaches_all_and_is_not_stored():
    async def main():
        cache = Cache(cache_exceptions=LookupError, exception_ttl=60)
        runs = []

        async def fail(kind):
            runs.append(kind)
            await asyncio.sleep(0)
            raise kind("no")

        for kind in (ValueError, IndexError):
            results = await asyncio.gather(
                *[cache.aget_or_set("a", lambda: fail(kind)) for _ in range(5)], return_exceptions=True
            )
            assert [type(result) for result in results] == [kind] * 5
        assert runs == [ValueError, IndexError] and "a" not in cache
        with pytest.raises(IndexError):
            await cache.aget_or_set("a", lambda: fail(KeyError))
        assert len(runs) == 2

    run(main())


def test_a_factory_is_cancelled_with_the_last_who_waits():
    async def main():
        cache = Cache()
        ends = []

        async def make():
            try:
                await asyncio.Event().wait()
            finally:
                ends.append(1)

        tasks = [asyncio.ensure_future(cache.aget_or_set("a", make)) for _ in range(2)]
        await passes()
        tasks[0].cancel()
        await passes()
        assert not ends
        tasks[1].cancel()
        await passes()
        assert ends == [1]
        assert await cache.aget_or_set("a", lambda: 5) == 5

    run(main())


def test_a_factory_takes_over_where_a_loader_had_nothing():
    async def main():
        store = Store(open=False)
        cache = Cache(loader=store)
        loading = asyncio.ensure_future(cache.aget("none", "default"))
        await passes()
        making = asyncio.ensure_future(cache.aget_or_set("none", lambda: "made"))
        await passes()
        store.gate.set()
        assert await loading == "default" and await making == "made" and cache["none"] == "made"

    run(main())


# --- ahead of time, and stale -----------------------------------------------------------------------------------------


def test_a_value_is_loaded_anew_by_a_task_before_it_ends(loads, clock):
    async def main():
        store = Store()
        cache = Cache(default_ttl=10, loader=loads(store), refresh_ahead=0.5, clock=clock)
        assert await cache.aget("a") == "value of a"
        store.values["a"] = "newer"
        clock.now += 6
        assert await cache.aget("a") == "value of a"        # and a refresh begins
        await passes(10)
        assert cache.get("a") == "newer" and cache.ttl("a") == 10
        assert cache.stats.refreshes == 1
        clock.now += 6
        store.values["a"] = "newest"
        assert cache.get("a") == "newer"                    # a plain `get` begins one too, if a loop runs
        await passes(10)
        assert cache.get("a") == "newest"
        return cache

    cache = run(main())
    clock.now += 6
    assert cache.get("a") == "newest"                       # no loop runs, so none begins
    assert cache.stats.refreshes == 2 and not cache._refreshing("a")


def test_a_refresh_of_a_loop_that_has_ended_keeps_nobody_from_refreshing(loads, clock):
    store = Store()
    cache = Cache(default_ttl=10, loader=loads(store), refresh_ahead=0.5, clock=clock)

    async def begin_and_end():
        await cache.aget("a")
        clock.now += 6
        store.gate = asyncio.Event()
        await cache.aget("a")
        await passes()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin_and_end())
    loop.close()
    store.gate = None
    store.values["a"] = "newer"

    async def main():
        assert await cache.aget("a") == "value of a"
        await passes(10)
        assert await cache.aget("a") == "newer"

    run(main())
    gc.collect()
    cache._check()


def test_an_old_value_is_served_while_a_task_loads_anew(loads, clock):
    async def main():
        store = Store()
        cache = Cache(default_ttl=10, loader=loads(store), stale_ttl=5, clock=clock)
        await cache.aget("a")
        clock.now += 11
        store.values["a"] = "newer"
        store.gate = asyncio.Event()
        assert await asyncio.gather(*[cache.aget("a") for _ in range(3)]) == ["value of a"] * 3
        await passes(10)
        assert cache.stats.stale_serves == 3
        clock.now += 5                                      # nothing can be served any more
        waiting = asyncio.ensure_future(cache.aget("a"))
        await passes()
        assert not waiting.done()
        store.gate.set()
        assert await waiting == "newer" and store.asked == [["a"], ["a"]]

    run(main())


def test_a_refresh_that_fails_keeps_the_old_value(loads, clock, caplog):
    async def main():
        store = Store()
        cache = Cache(default_ttl=10, loader=loads(store), stale_ttl=100, clock=clock, name="aget:log")
        cache["broken"] = "old"
        clock.now += 11
        for _ in range(3):
            assert await cache.aget("broken") == "old"
            await passes(10)
        assert cache.stats.refresh_failures == 3 and cache.stats.refreshes == 0

    run(main())
    assert len([record for record in caplog.records if "'aget:log'" in record.getMessage()]) == 1


# --- what remains -----------------------------------------------------------------------------------------------------


def test_a_dropped_cache_is_freed_at_once(loads):
    class Value:
        pass

    async def main():
        async def load(key):
            return Value()

        cache = Cache(loader=load)
        value = weakref.ref(await cache.aget("a"))
        await asyncio.gather(*[cache.aget(n) for n in range(10)])
        await passes()
        known = weakref.ref(cache)
        del cache
        return known, value

    gc.disable()
    try:
        known, value = run(main())
        assert known() is None and value() is None
    finally:
        gc.enable()


def test_trio_loads_within_the_calling_task():
    trio = pytest.importorskip("trio", reason="trio is not installed: it is in the dependency group `surroundings`")
    got = []

    async def load(key):
        await trio.sleep(0)
        return [key]

    async def ask(cache):
        got.append(await cache.aget("a"))

    async def main():
        cache = Cache(loader=load)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask, cache)
        assert len(got) == 5 and all(value is cache["a"] for value in got)
        plain = Cache(loader=lambda key: threading.get_ident())
        assert await plain.aget("a") != threading.get_ident()
        assert await plain.aget_or_set("b", lambda: 1) == 1

    trio.run(main)


def test_outside_of_any_event_loop_it_loads_at_once():
    async def load(key):
        return key

    for loader in (load, lambda key: key):
        coroutine = Cache(loader=loader).aget("a")
        with pytest.raises(StopIteration) as ended:
            coroutine.send(None)
        assert ended.value.value == "a"
