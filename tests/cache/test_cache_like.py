"""The protocols that all caches share: `CacheLike` and `AsyncCacheLike`, checked with every class."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading

import pytest

import cachebox
from cachebox import AsyncCacheLike, AsyncWriteBehind, AsyncWriteThrough, Cache, CacheLike, WriteBehind, WriteThrough
from cachebox.strategies.watches import Watches
from in_threads import Started, run_all, wait_for
from stores import BulkStore, MemoryStore


class LoadingStore(BulkStore):
    """A store that has all six methods."""

    def load_many(self, keys):
        self.calls.append(("load_many", list(keys)))
        self.fault("load_many", list(keys))
        return {key: self.values[key] for key in keys if key in self.values}


METHODS = (
    "get set add delete get_many set_many delete_many get_or_set clear close contains ttl touch increment "
    "invalidate_tag invalidate_prefix"
).split()


class Called:
    """A cache of either kind, called from blocking code."""

    def __init__(self, cache):
        self.cache = cache
        self.loop = asyncio.new_event_loop() if isinstance(cache, AsyncCacheLike) and is_async(cache) else None

    def __getattr__(self, name):
        found = getattr(self.cache, name)
        if self.loop is None or not inspect.iscoroutinefunction(found):
            return found
        return lambda *args, **kwargs: self.loop.run_until_complete(found(*args, **kwargs))

    def end(self):
        self.close()
        if self.loop is not None:
            self.loop.close()


def is_async(cache):
    return inspect.iscoroutinefunction(type(cache).get)


STRATEGIES = {
    "WriteThrough": lambda store, **options: WriteThrough(Cache(), store),
    "WriteBehind": lambda store, **options: WriteBehind(Cache(), store, **options),
    "AsyncWriteThrough": lambda store, **options: AsyncWriteThrough(Cache(), store),
    "AsyncWriteBehind": lambda store, **options: AsyncWriteBehind(Cache(), store, **options),
}
OTHERS = {
    "Cache": lambda port: Cache(),
    "DistributedCache": lambda port: cachebox.DistributedCache(redis_port=port),
    "AsyncDistributedCache": lambda port: cachebox.AsyncDistributedCache(redis_port=port),
}
EVERY = [*OTHERS, *STRATEGIES]


@pytest.fixture(params=EVERY)
def every(request):
    """Each class in turn."""
    if request.param in STRATEGIES:
        called = Called(STRATEGIES[request.param](LoadingStore()))
    elif request.param == "Cache":
        called = Called(Cache())
    else:
        called = Called(OTHERS[request.param](request.getfixturevalue("server").port))
    yield called
    called.end()


@pytest.fixture(params=[MemoryStore, LoadingStore])
def store(request):
    return request.param(a=1)


@pytest.fixture(params=list(STRATEGIES))
def strategy(request, store):
    called = Called(STRATEGIES[request.param](store))
    yield called
    called.end()


@pytest.mark.parametrize("name", EVERY)
def test_every_class_has_the_methods_of_the_protocol_with_the_same_arguments(name):
    if "Distributed" in name:
        pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")
    kind = getattr(cachebox, name)
    protocol = AsyncCacheLike if name.startswith("Async") else CacheLike
    for method in METHODS:
        found = getattr(kind, method)
        assert inspect.iscoroutinefunction(found) == (protocol is AsyncCacheLike), method
        wanted = inspect.signature(getattr(protocol, method)).parameters
        given = dict(inspect.signature(found).parameters)
        for parameter in wanted.values():
            had = given.pop(parameter.name)
            assert (had.kind, had.default == parameter.default) == (parameter.kind, True) or (
                had.kind is had.POSITIONAL_ONLY and parameter.name == "self"
            ), (method, parameter)
        assert set(given) <= {"timeout"}, (method, given)
        assert all(more.default is None for more in given.values()), (method, given)


def test_isinstance_tells_what_is_a_cache(every):
    protocol = AsyncCacheLike if is_async(every.cache) else CacheLike
    assert isinstance(every.cache, protocol)
    for other in ({}, object(), LoadingStore()):
        assert not isinstance(other, (CacheLike, AsyncCacheLike))


def test_all_answer_alike(every):
    assert every.add("a", 1) is True and every.add("a", 2) is False and every.get("a") == 1
    every.set("b", [2], 100, tags="t")
    every.set_many({"c": 3, "d": 4}, 100, tags=["t", "u"])
    assert every.get_many(["a", "b", "c", "x"]) == {"a": 1, "b": [2], "c": 3}
    assert every.contains("b") is True and every.contains("x") is False
    assert every.ttl("a") is None and 90 < every.ttl("b") <= 100
    with pytest.raises(KeyError):
        every.ttl("x")
    assert every.touch("b", 1000) is True and 900 < every.ttl("b") and every.touch("x") is False
    assert every.increment("c", 4) == 7 and every.increment("n") == 1 and every.get("c") == 7
    assert every.ttl("c") <= 100  # as it was
    with pytest.raises(TypeError):
        every.increment("b")
    with pytest.raises(TypeError):
        every.increment("n", "1")
    assert every.get_or_set("e", lambda: 5, 100, tags="t") == 5 and every.get_or_set("e", lambda: 6) == 5
    assert every.ttl("e") <= 100
    assert every.invalidate_tag("nothing") == 0
    with pytest.raises(ZeroDivisionError):
        every.get_or_set("f", lambda: 1 / 0)
    assert every.delete("d") is True and every.delete("d") is False
    assert every.delete_many(["a", "x"]) == 1 and every.get("a", "nothing") == "nothing"
    every.invalidate_prefix("b")
    assert every.stats.get_all() and every.stats.hit_rate() <= 1.0 and every.stats.report()
    before = every.stats.snapshot()
    every.get("never")
    assert (every.stats.snapshot() - before).misses == every.stats.snapshot().misses - before.misses == 1
    every.stats.reset()
    assert every.stats.misses == 0
    every.clear()


def test_tags_reach_all_that_was_stored_with_them(every):
    every.set("a", 1, tags="t")
    every.set_many({"b": 2}, tags=["t"])
    every.add("c", 3, tags="t")
    every.get_or_set("d", lambda: 4, tags="t")
    every.set("e", 5)
    every.get_many(["a", "b", "c", "d", "e"])
    is_a_strategy = hasattr(every.cache, "store")
    assert every.invalidate_tag("t") >= 1
    left = every.cache.cache if is_a_strategy else every
    assert left.get_many(["a", "b", "c", "d", "e"]) == {"e": 5}
    if is_a_strategy:  # the store knows nothing of tags
        assert every.get_many(["a", "b", "c", "d", "e"]) == {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}


def test_in_works_where_it_can(every):
    every.set("a", 1)
    if is_async(every.cache):
        with pytest.raises(TypeError, match="contains"):
            assert "a" in every.cache
    else:
        assert "a" in every.cache and "x" not in every.cache


# --- strategies: every write goes to the store, and a method that reads in order to write looks there first -----------


def test_every_write_reaches_the_store(strategy, store):
    strategy.set_many({"b": 2, "c": 3}, tags="t")
    assert strategy.add("d", 4) and not strategy.add("a", 5)
    assert strategy.increment("a", 10) == 11 and strategy.increment("n", 5) == 5
    assert strategy.get_or_set("e", lambda: 6) == 6
    strategy.close()
    assert store.values == {"a": 11, "b": 2, "c": 3, "d": 4, "n": 5, "e": 6}


def test_the_store_is_looked_at_before_a_write(strategy, store):
    strategy.cache.cache.set("b", "only in the cache")
    assert strategy.add("b", 2) is True and strategy.get("b") == 2
    store.values["x"] = 40  # another program wrote it
    strategy.cache.cache.set("x", 1)
    assert strategy.increment("x", 2) == 42 and strategy.get("x") == 42
    assert strategy.add("x", 0) is False and strategy.get_or_set("x", lambda: 0) == 42


def test_clear_and_invalidations_leave_the_store_alone(strategy, store):
    strategy.set("b", 2, tags="t")
    strategy.clear(), strategy.invalidate_tag("t"), strategy.invalidate_prefix("b")
    assert strategy.get("b") == 2 and strategy.get("a") == 1
    strategy.close()
    assert store.values == {"a": 1, "b": 2}


def test_get_many_loads_together_what_the_cache_has_not(strategy, store):
    strategy.set("b", 2)
    assert strategy.get_many(["a", "b", "x"]) == {"a": 1, "b": 2}
    loads = [call for call in store.calls if call[0].startswith("load")]
    assert loads == ([("load_many", ["a", "x"])] if hasattr(store, "load_many") else [("load", "a"), ("load", "x")])
    assert strategy.get_many(["a", "b"]) == {"a": 1, "b": 2}
    assert [call for call in store.calls if call[0].startswith("load")] == loads  # the cache has them now


@pytest.mark.parametrize("name", ["WriteThrough", "WriteBehind"])
@pytest.mark.parametrize("write", ["set", "delete", "increment"])
def test_what_is_written_while_it_is_loaded_is_not_stored_over(name, write, store):
    strategy = STRATEGIES[name](store)
    writes = {
        "set": lambda: strategy.set("a", 50),
        "delete": lambda: strategy.delete("a"),
        "increment": lambda: strategy.increment("a", 49),
    }
    wanted = {"set": 50, "delete": None, "increment": 50}[write]
    how = "load_many" if hasattr(store, "load_many") else "load"
    load, written = getattr(store, how), []

    def slow(asked):
        found = load(asked)
        if not written:
            written.append(1)
            Started(writes[write]).wait()  # after the store has answered, and before the cache has the answer
        return found

    setattr(strategy._store, how, slow)
    assert strategy.get_many(["a"]).get("a") in (1, wanted)  # the value of some moment during the call
    assert strategy.get("a") == wanted and strategy.cache.peek("a") in (wanted, None)
    strategy.close()


def test_increments_and_adds_of_several_threads_are_one_step(store):
    for make in (STRATEGIES["WriteThrough"], STRATEGIES["WriteBehind"]):
        strategy = make(store, **({} if make is STRATEGIES["WriteThrough"] else {"max_delay": 0.0, "batch_size": 3}))
        won = []

        def work(strategy=strategy, won=won):
            for n in range(50):
                strategy.increment("n")
                if strategy.add(f"once{n}", n):
                    won.append(n)

        run_all(*[work] * 4)
        assert strategy.increment("n", 0) == 200 and sorted(won) == list(range(50))
        assert strategy.close()
        assert store.values["n"] == 200
        store.values.clear()


def test_increments_of_several_tasks_are_one_step(store):
    async def main(make):
        strategy = make(store)

        async def work():
            for _ in range(20):
                await strategy.increment("n")
                await asyncio.sleep(0)

        await asyncio.gather(*[work() for _ in range(5)])
        assert await strategy.increment("n", 0) == 100
        assert await strategy.close()
        assert store.values.pop("n") == 100

    for name in ("AsyncWriteThrough", "AsyncWriteBehind"):
        asyncio.run(main(STRATEGIES[name]))


@pytest.mark.parametrize("name", ["WriteThrough", "WriteBehind"])
def test_one_factory_at_a_time_and_a_write_meanwhile_wins(name, store):
    strategy = STRATEGIES[name](store)
    begun, go_on = threading.Event(), threading.Event()
    runs = []

    def factory():
        runs.append(1)
        begun.set()
        wait_for(go_on)
        return "made"

    leader = Started(strategy.get_or_set, "k", factory)
    wait_for(begun)
    waiters = [Started(strategy.get_or_set, "k", factory) for _ in range(3)]
    strategy.set("k", "written")
    go_on.set()
    assert leader.result() == "made"
    assert {waiter.result() for waiter in waiters} <= {"made", "written"} and runs == [1]
    assert strategy.get("k") == "written"
    strategy.close()
    assert store.values["k"] == "written" and store.saved("k") == ["written"]


@pytest.mark.parametrize("name", ["AsyncWriteThrough", "AsyncWriteBehind"])
def test_one_factory_at_a_time_over_tasks_and_a_write_meanwhile_wins(name, store):
    async def main():
        strategy = STRATEGIES[name](store)
        begun, go_on = asyncio.Event(), asyncio.Event()
        runs = []

        async def factory():
            runs.append(1)
            begun.set()
            await go_on.wait()
            if len(runs) == 1:
                return "made"
            raise AssertionError

        leader = asyncio.ensure_future(strategy.get_or_set("k", factory))
        await begun.wait()
        waiters = [asyncio.ensure_future(strategy.get_or_set("k", factory)) for _ in range(3)]
        await asyncio.sleep(0)
        await strategy.set("k", "written")
        go_on.set()
        assert await leader == "made" and {await waiter for waiter in waiters} <= {"made", "written"}
        assert runs == [1] and await strategy.get("k") == "written"

        async def fails():
            raise OSError("boom")

        found = await asyncio.gather(*[strategy.get_or_set("f", fails) for _ in range(3)], return_exceptions=True)
        assert [str(error) for error in found] == ["boom"] * 3
        assert await strategy.get_or_set("f", lambda: 7) == 7
        await strategy.close()
        assert store.values["k"] == "written" and store.values["f"] == 7

    asyncio.run(main())


def test_a_factory_may_use_its_own_key(strategy):
    if strategy.loop is None:
        assert strategy.get_or_set("k", lambda: strategy.get_or_set("k", lambda: 3)) == 3
        return

    async def outer():
        return await strategy.cache.get_or_set("k", lambda: 3)

    assert strategy.get_or_set("k", outer) == 3


def test_a_failing_store_leaves_add_and_increment_undone(store):
    strategy = WriteThrough(Cache(), store)
    strategy.get("a")

    def fault(call, keys):
        if call.startswith("save"):
            raise OSError("down")

    store.fault = fault
    for call in (
        lambda: strategy.add("b", 1),
        lambda: strategy.increment("a"),
        lambda: strategy.get_or_set("b", lambda: 1),
    ):
        with pytest.raises(OSError, match="down"):
            call()
    assert dict(strategy.cache) == {"a": 1} == store.values


def test_a_journal_that_waits_for_the_disk_loses_no_increment(tmp_path, store):
    with WriteBehind(Cache(), store, journal=tmp_path / "j", durability="power", max_delay=10.0) as strategy:
        run_all(*[lambda: [strategy.increment("n") for _ in range(10)]] * 3)
        assert strategy.increment("n", 0) == 30
    assert store.values["n"] == 30


def test_timeouts_are_numbers_or_timedeltas(store):
    from datetime import timedelta

    short = timedelta(milliseconds=1)
    strategy = WriteBehind(Cache(), store, max_delay=short, backoff=short, max_backoff=short, exit_timeout=short)
    strategy.set("b", 1)
    assert strategy.flush(timedelta(minutes=1)) and strategy.flush(60)
    assert strategy.close(timedelta(minutes=1)) and store.values["b"] == 1


def test_watches_are_gone_when_nobody_watches():
    watches = Watches()
    with watches.over(["a", "b"]) as one, watches.over(["b"]) as other:
        watches.note(["a"])
        assert one.was_written and not other.was_written
        watches.note(["b"])
        assert other.was_written
    assert not watches.watched
    with contextlib.suppress(ZeroDivisionError), watches.over(["a"]):
        1 / 0
    assert not watches.watched
