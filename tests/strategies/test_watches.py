"""A write that comes in the middle of another call: it is never overwritten by what that call read before."""

from __future__ import annotations

import asyncio

import pytest

from cachebox import AsyncWriteThrough, Cache, WriteBehind, WriteThrough
from in_threads import Started, must_end, wait_for
from stores import BulkStore, Gate, MemoryStore

NEVER = 3600.0


def gated(store, method):
    """Have a store's method wait before it does anything. Returns its gate."""
    gate, original = Gate(), getattr(store, method)

    def wait(*arguments):
        gate(method, arguments)
        return original(*arguments)

    setattr(store, method, wait)
    return gate


@must_end
@pytest.mark.parametrize("write", ["set", "set_many", "delete", "delete_many"])
def test_a_value_made_during_a_write_through_does_not_replace_it(write):
    """The factory's call begins when the writer is in the store already, but before the store has the write."""
    store = BulkStore()
    gate = gated(store, write.replace("set", "save"))
    cache = WriteThrough(Cache(), store)
    calls = {
        "set": lambda: cache.set("a", 1),
        "set_many": lambda: cache.set_many({"a": 1, "b": 1}),
        "delete": lambda: cache.delete("a"),
        "delete_many": lambda: cache.delete_many(["a", "b"]),
    }
    writer = Started(calls[write])
    wait_for(gate.entered)

    def make():
        gate.open.set()
        writer.wait()
        return 2

    assert cache.get_or_set("a", make) == 2
    writer.result()
    assert store.values.get("a") == (1 if write.startswith("set") else None)
    assert cache.get("a") == store.values.get("a")


@must_end
@pytest.mark.parametrize("write", ["delete", "delete_many"])
def test_values_loaded_during_a_write_through_are_not_kept(write):
    store = BulkStore(a=1, b=1)
    gate = gated(store, write)
    cache = WriteThrough(Cache(), store)
    writer = Started(lambda: cache.delete("a") if write == "delete" else cache.delete_many(["a", "b"]))
    wait_for(gate.entered)
    load = store.load

    def slow(key):
        found = load(key)                       # the old value
        gate.open.set()
        writer.wait()                           # store and cache have the write
        return found

    cache._store.load = slow
    cache.get_many(["a"])
    writer.result()
    cache._store.load = load
    assert cache.get("a") is None and cache.get_many(["a"]) == {}


def test_a_value_made_by_a_task_during_a_write_through_does_not_replace_it():
    class Store:
        def __init__(self):
            self.values = {}
            self.entered, self.open = asyncio.Event(), asyncio.Event()

        async def load(self, key):
            return self.values[key]

        async def save(self, key, value):
            self.entered.set()
            await self.open.wait()
            self.values[key] = value

    async def main():
        store = Store()
        cache = AsyncWriteThrough(Cache(), store)
        writer = asyncio.create_task(cache.set("a", 1))
        await store.entered.wait()

        async def make():
            store.open.set()
            await writer
            return 2

        assert await cache.get_or_set("a", make) == 2
        assert store.values == {"a": 1} and await cache.get("a") == 1

    asyncio.run(main())


@must_end
@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_change_that_begins_while_the_journal_takes_a_write_is_made_to_that(tmp_path, durability):
    store = MemoryStore(n=0)
    behind = WriteBehind(Cache(), store, journal=tmp_path / "journal", durability=durability, max_delay=NEVER)
    append, settled_in, load = behind._journal.append, behind._settled_in, behind._store.load
    gate, writers = Gate(), []

    def slow_append(*arguments):
        behind._journal.append = append
        gate("append", arguments)
        return append(*arguments)

    def settled(key):
        settled_in(key)
        if not writers:                         # the change is about to read the store
            behind._journal.append = slow_append
            writers.append(Started(behind.set, "n", 5))
            wait_for(gate.entered)

    def reading(key):
        found = load(key)
        gate.open.set()                         # the writer goes on when the change has read the old value
        return found

    behind._settled_in, behind._store.load = settled, reading
    assert behind.increment("n") == 6
    writers[0].result()
    assert behind.get("n") == 6 and behind.close() is True and store.values == {"n": 6}


@must_end
def test_a_change_is_made_to_a_write_that_is_recorded_and_not_accepted_yet(tmp_path):
    """A write comes right after the change has seen that there is none, and waits for the disk."""
    store = MemoryStore(n=0)
    behind = WriteBehind(Cache(), store, journal=tmp_path / "journal", durability="power", max_delay=NEVER)
    gate, sync = Gate(), behind._journal.sync
    settled_in, writers = behind._settled_in, []

    def slow_sync():
        behind._journal.sync = sync
        gate.entered.set()
        wait_for(gate.open)
        sync()

    def settled(key):
        settled_in(key)
        if not writers:
            behind._journal.sync = slow_sync
            writers.append(Started(behind.set, "n", 5))
            wait_for(gate.entered)

    is_promised = behind._backlog._is_promised

    def promised(key):
        if is_promised(key):
            gate.open.set()                     # the change has read the store
        return is_promised(key)

    behind._settled_in, behind._backlog._is_promised = settled, promised
    assert behind.increment("n") == 6
    writers[0].result()
    assert behind.get("n") == 6 and behind.close() is True and store.values == {"n": 6}


@must_end
def test_a_change_is_made_to_a_dead_letter_that_is_retried_meanwhile():
    store = MemoryStore(n=0)
    refuses = [True]

    def fault(call, keys):
        if call == "save" and refuses[0]:
            raise OSError("no")

    store.fault = fault
    behind = WriteBehind(Cache(), store, max_delay=0.0, retries=0)
    behind.set("n", 5)
    assert behind.flush() is False and len(behind.dead_letters) == 1
    refuses[0] = False
    accept, retried = behind._accept, []

    def accepting(*arguments):
        if not retried:                         # the change has read the store
            retried.append(Started(behind.retry_dead_letters).result())
        accept(*arguments)

    behind._accept = accepting
    behind.cache.clear()
    assert behind.increment("n") == 6 and behind.close() is True and store.values == {"n": 6}
