"""Write-through: the store first, then the cache."""

from __future__ import annotations

import asyncio
import inspect
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachebox import Cache, WriteBehind, WriteThrough
from cachebox.strategies import AsyncWriteBehind, AsyncWriteThrough
from cachebox.strategies.cache_side import StaleKeys
from in_threads import Started, must_end, run_all, wait_for
from stores import BulkStore, Gate, MemoryStore


async def awaited(result):
    return await result if inspect.isawaitable(result) else result


@pytest.fixture(params=[MemoryStore, BulkStore])
def store(request):
    return request.param(a=1)


def test_writes_reach_the_store_before_the_cache_shows_them(store):
    cache = Cache()
    store.fault = lambda call, keys: seen.append((call, cache.peek("b")))
    seen = []
    through = WriteThrough(cache, store)
    through.set("b", 2)
    assert seen == [("save", None)] and cache.peek("b") == store.values["b"] == 2
    assert through.delete("b") is True and seen[1] == ("delete", 2)
    assert "b" not in cache and "b" not in store.values and through.delete("b") is False


def test_get_loads_a_miss_once(store):
    through = WriteThrough(Cache(), store)
    assert (through.get("a"), through.get("a"), through.get("x", 5), through.get("x")) == (1, 1, 5, None)
    assert store.calls == [("load", "a"), ("load", "x"), ("load", "x")]


def test_bulk_writes(store):
    cache = Cache()
    through = WriteThrough(cache, store)
    through.set_many({"b": 2, "c": 3}, ttl=60)
    assert cache.get_many("bc") == {"b": 2, "c": 3} and store.values == {"a": 1, "b": 2, "c": 3} and cache.ttl("b") > 50
    assert through.delete_many(["a", "b", "b"]) == 1
    assert store.values == {"c": 3} and list(cache) == ["c"]
    through.set_many({}), through.delete_many([])
    bulk = isinstance(store, BulkStore)
    assert len(store.calls) == (2 if bulk else 4)


@pytest.mark.parametrize(
    "write",
    [
        lambda t: t.set("a", 2),
        lambda t: t.set("new", 2),
        lambda t: t.delete("a"),
        lambda t: t.set_many({"a": 2, "new": 3}),
        lambda t: t.delete_many(["a"]),
    ],
)
def test_a_failing_store_leaves_the_cache_as_it_was_and_raises(store, write):
    cache = Cache()
    through = WriteThrough(cache, store)
    through.get("a")

    def fail(call, keys):
        raise OSError("down")

    store.fault = fail
    with pytest.raises(OSError, match="down"):
        write(through)
    assert dict(cache) == {"a": 1} and store.values == {"a": 1}


@pytest.mark.parametrize(
    "write",
    [
        lambda t: t.set([], 1),
        lambda t: t.set("b", 1, ttl=0),
        lambda t: t.set("b", 1, tags=5),
        lambda t: t.set("heavy", 100),
        lambda t: t.set_many({"b": 1, "heavy": 100}),
        lambda t: t.set_many(5),
        lambda t: t.set_many({}, ttl=0),
        lambda t: t.delete([]),
        lambda t: t.delete_many(5),
    ],
)
def test_bad_input_reaches_neither_side(store, write):
    cache = Cache(max_weight=10, weigher=lambda key, value: value)
    with pytest.raises((TypeError, ValueError)):
        write(WriteThrough(cache, store))
    assert store.calls == [] and len(cache) == 0


def test_a_store_that_cannot_save_is_refused():
    class ReadOnly:
        def load(self, key):
            return key

    with pytest.raises(TypeError, match="save"):
        WriteThrough(Cache(), ReadOnly())
    with pytest.raises(TypeError, match="cache"):
        WriteThrough({}, MemoryStore())


def test_a_store_that_cannot_delete_refuses_deletes_only():
    class Append:
        saved = []

        def save(self, key, value):
            self.saved.append((key, value))

    cache = Cache()
    through = WriteThrough(cache, Append())
    through.set("a", 1)
    assert through.get("a") == 1 and through.get("b", 2) == 2
    with pytest.raises(TypeError, match="delete"):
        through.delete("a")
    assert cache.peek("a") == 1


def test_tags_and_lifetimes_reach_the_cache(store, clock):
    cache = Cache(clock=clock)
    WriteThrough(cache, store).set("b", 2, 60, tags="t")
    assert cache.ttl("b") == 60 and cache.invalidate_tag("t") == 1


@must_end
def test_writers_of_one_key_take_turns_others_and_readers_do_not_wait(store):
    cache = Cache()
    through = WriteThrough(cache, store)
    through.set("a", "old")
    gate = Gate()
    store.fault = lambda call, keys: gate(call, keys) if keys == ["a"] else None
    first = Started(through.set, "a", "first")
    wait_for(gate.entered)
    second = Started(through.set, "a", "second")
    through.set("b", 1)
    assert through.get("a") == "old" and through.get("b") == 1
    gate.open.set()
    first.result(), second.result()
    assert cache.peek("a") == store.values["a"]


@must_end
def test_concurrent_writers_end_with_store_and_cache_agreeing(store):
    cache = Cache()
    through = WriteThrough(cache, store)

    def work(n):
        for step in range(60):
            key = "abc"[(n + step) % 3]
            if step % 7 == 0:
                through.delete(key)
            elif step % 11 == 0:
                through.set_many({"a": (n, step), "c": (n, step), "b": (n, step)})
            else:
                through.set(key, (n, step))
            through.get(key)

    run_all(*[lambda n=n: work(n) for n in range(8)])
    assert {key: cache.peek(key) for key in cache} == {key: store.values[key] for key in cache}
    assert through._locks._locks == {}


def test_a_store_may_use_the_strategy_that_calls_it(store):
    cache = Cache()
    through = WriteThrough(cache, store)

    def come_back(call, keys):
        store.fault = lambda call, keys: None
        through.set("b", 5), through.set("a", 6), through.delete("c"), through.get("x")

    store.fault = come_back
    through.set("a", 7)
    assert store.values == dict(cache) == {"a": 7, "b": 5} and through._locks._locks == {}
    store.fault = come_back
    assert through.get("y", "none") == "none" and store.values["a"] == cache["a"] == 6


@must_end
def test_a_load_that_began_before_a_write_does_not_win(store):
    cache = Cache()
    through = WriteThrough(cache, store)
    entered, go = threading.Event(), threading.Event()

    class Slow(MemoryStore):
        def load(self, key):
            value = self.values[key]
            entered.set()
            wait_for(go)
            return value

    slow = Slow(a="old")
    through = WriteThrough(cache, slow)
    reader = Started(through.get, "a")
    wait_for(entered)
    through.set("a", "new")
    go.set()
    assert reader.result() == "old" and through.get("a") == "new"


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["get", "set", "delete", "set_many", "delete_many", "evict", "tick"]),
        st.sampled_from("abcd"),
        st.integers(0, 9),
        st.booleans(),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(OPERATIONS, st.booleans())
def test_it_behaves_like_the_store_alone(operations, bulk):
    """Whatever the cache forgets, a reader sees what the store has; a failed write changes nothing."""
    now = [0.0]
    store = (BulkStore if bulk else MemoryStore)()
    cache = Cache(3, default_ttl=5, clock=lambda: now[0])
    through = WriteThrough(cache, store)
    model = {}

    def fail(call, keys):
        if call != "load":
            raise OSError

    for call, key, value, fails in operations:
        store.fault = fail if fails else lambda call, keys: None
        try:
            if call == "get":
                assert through.get(key, "none") == model.get(key, "none")
            elif call == "set":
                through.set(key, value)
                model[key] = value
            elif call == "delete":
                through.delete(key)
                model.pop(key, None)
            elif call == "set_many":
                through.set_many({key: value, "a": value})
                model.update({key: value, "a": value})
            elif call == "delete_many":
                through.delete_many([key, "a"])
                model.pop(key, None), model.pop("a", None)
            elif call == "evict":
                cache.delete(key)
            else:
                now[0] += value
        except OSError:
            assert fails
        assert store.values == model and all(model[key] == value for key, value in cache.items())


class AsyncStore:
    def __init__(self, **values):
        self.values = values
        self.calls = 0
        self.error = None

    async def load(self, key):
        self.calls += 1
        value = self.values[key]
        await asyncio.sleep(0)
        return value

    async def save(self, key, value):
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        self.values[key] = value

    async def delete(self, key):
        await asyncio.sleep(0)
        del self.values[key]


def test_the_asyncio_form_keeps_the_same_promises():
    async def main():
        store, cache = AsyncStore(a=1), Cache()
        through = AsyncWriteThrough(cache, store)
        assert await asyncio.gather(*[through.get("a") for _ in range(5)]) == [1] * 5 and store.calls == 1
        assert await through.get("x", 7) == 7
        await through.set("b", 2)
        assert store.values["b"] == cache.peek("b") == 2
        store.error = OSError("down")
        with pytest.raises(OSError, match="down"):
            await through.set("b", 3)
        assert cache.peek("b") == 2
        store.error = None
        assert await through.delete("b") is True and await through.delete("b") is False
        await asyncio.gather(*[through.set("a", n) for n in range(20)])
        assert cache.peek("a") == store.values["a"] and through._locks._locks == {}
        cache.delete("a")
        reader = asyncio.ensure_future(through.get("a"))
        await asyncio.sleep(0)
        await through.set("a", "new")
        await reader
        assert cache.peek("a") == "new"
        await through.set_many({"c": 1, "d": 2})
        assert await through.delete_many(["c", "d"]) == 2

    asyncio.run(main())


def test_who_is_cancelled_takes_nobody_along():
    async def main():
        store, cache = AsyncStore(a=1), Cache()
        through = AsyncWriteThrough(cache, store)
        reads = [asyncio.ensure_future(through.get("a")) for _ in range(4)]
        writes = [asyncio.ensure_future(through.set("b", n)) for n in range(3)]
        await asyncio.sleep(0)
        reads[0].cancel(), writes[0].cancel(), writes[1].cancel()
        done = await asyncio.gather(*reads, *writes, return_exceptions=True)
        assert [type(one) for one in done] == [asyncio.CancelledError, int, int, int] + [asyncio.CancelledError] * 2 + [
            type(None)
        ]
        assert store.calls == 1 and store.values["b"] == cache["b"] == 2
        assert through._locks._locks == {}

    asyncio.run(main())


def test_an_async_store_needs_the_asyncio_form():
    with pytest.raises(TypeError, match="Async"):
        WriteThrough(Cache(), AsyncStore())


# --- a cache that fails -----------------------------------------------------------------------------------------------

class Unreliable(Cache):
    """A cache whose writes fail on request, as those of a distributed one do whose server is away."""

    down = False

    def set(self, key, value, ttl=None, *, tags=()):
        self.check()
        super().set(key, value, ttl, tags=tags)

    def set_many(self, mapping, ttl=None):
        self.check()
        super().set_many(mapping, ttl)

    def delete(self, key):
        self.check()
        return super().delete(key)

    def delete_many(self, keys):
        self.check()
        return super().delete_many(keys)

    def clear(self):
        self.check()
        super().clear()

    def check(self):
        if self.down:
            raise ConnectionError("away")


@pytest.mark.parametrize("write", [
    lambda cache: cache.set("a", 2),
    lambda cache: cache.set_many({"a": 2, "b": 2}),
    lambda cache: cache.delete("a"),
    lambda cache: cache.delete_many(["a", "b"]),
])
@pytest.mark.parametrize("strategy", [WriteThrough, WriteBehind])
def test_what_a_failing_cache_was_not_told_is_not_served(store, write, strategy):
    cache = Unreliable()
    through = strategy(cache, store)
    store.values["b"] = 1
    assert through.get("a") == through.get("b") == 1
    cache.down = True
    with pytest.raises(ConnectionError):
        write(through)
    if strategy is WriteBehind:
        assert through.flush(60)
    known = dict(store.values)
    assert cache.peek("a") == 1 and (through.get("a"), through.get("b")) == (known.get("a"), known.get("b"))
    cache.down = False
    assert through.get("a") == known.get("a") and cache.peek("a") == known.get("a")
    assert not through._side.stale and through.get("b") == known.get("b") == cache.peek("b")


def test_the_next_write_that_succeeds_puts_older_ones_right(store):
    cache = Unreliable()
    through = WriteThrough(cache, store)
    through.set_many({"a": 1, "b": 1})
    cache.down = True
    with pytest.raises(ConnectionError):
        through.set("b", 2)
    cache.down = False
    through.set("a", 3)
    assert dict(cache) == {"a": 3} and through.get("b") == 2


def test_stale_keys_are_bounded(store, monkeypatch):
    monkeypatch.setattr("cachebox.strategies.cache_side.MOST_STALE", 3)
    cache = Unreliable()
    through = WriteThrough(cache, store)
    through.set_many(dict.fromkeys(range(5), 1))
    cache.down = True
    for n in range(4):
        with pytest.raises(ConnectionError):
            through.set(n, 2)
    assert len(through._side.stale.keys) == 0 and 4 in through._side.stale    # all are stale now
    cache.down = False
    assert [through.get(n) for n in range(5)] == [2, 2, 2, 2, 1] and not through._side.stale
    assert dict(cache) == {0: 2, 1: 2, 2: 2, 3: 2, 4: 1}


def test_a_key_that_became_stale_while_older_ones_were_settled_stays():
    stale = StaleKeys(True)
    stale.add(["a", "b"])
    seen = stale.seen()
    stale.add(["a"])
    stale.settle(seen)
    assert "a" in stale and "b" not in stale
    stale.unmark(stale.of(["a", "c"]))
    assert not stale


@pytest.mark.parametrize("strategy", [WriteThrough, WriteBehind, AsyncWriteThrough, AsyncWriteBehind])
def test_a_cache_that_cannot_be_told_is_one_message_and_one_when_it_can_again(strategy, caplog):
    class Moody(Cache):
        fails = True

        def set(self, key, value, *args, **kwargs):
            if self.fails:
                raise OSError("the server is down")
            super().set(key, value, *args, **kwargs)

        def delete_many(self, keys):
            if self.fails:
                raise OSError("the server is down")
            return super().delete_many(keys)

    async def main():
        cache = Moody()
        both = strategy(cache, MemoryStore())
        for _ in range(2):
            cache.fails = True
            for n in range(5):
                with pytest.raises(OSError, match="down"):
                    await awaited(both.set(n, "value"))
            cache.fails = False
            await awaited(both.set("more", 1))
            for n in range(5):
                assert await awaited(both.get(n)) == "value"
        if "Behind" in strategy.__name__:
            await awaited(both.close())

    asyncio.run(main())
    assert [("could not" in record.message, record.name) for record in caplog.records] == [
        (True, "cachebox"),
        (False, "cachebox"),
    ] * 2
    assert "value" not in caplog.text
