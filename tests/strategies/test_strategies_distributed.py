"""Strategies over a distributed cache: store and cache agree, whatever becomes of the store and of the server."""

from __future__ import annotations

import asyncio
import inspect
import shutil

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

from cachebox import (
    AsyncDistributedCache,
    BackendUnavailable,
    Cache,
    DistributedCache,
    QueueFull,
    WriteBehind,
    WriteThrough,
)
from cachebox.strategies import AsyncWriteBehind, AsyncWriteThrough
from in_threads import Started, must_end, run_all, wait_for, wait_until
from redis_servers import Proxy
from stores import BulkStore, Gate

NEVER = 3600.0
TIMEOUT = 0.1


class Here:
    """A strategy over a distributed cache; one for asyncio can be called from blocking code, which runs its loop."""

    def __init__(self, kind, port, store, **options):
        self.is_async = kind.startswith("Async")
        self.loop = asyncio.new_event_loop() if self.is_async else None
        cache = AsyncDistributedCache if self.is_async else DistributedCache
        self.cache = cache(redis_port=port, timeout=options.pop("timeout", 0.5))
        self.store = store
        if kind.endswith("WriteBehind"):
            options = {"max_delay": NEVER, **options}
        self.strategy = KINDS[kind](self.cache, store, **options)

    def call(self, method, *args, **kwargs):
        result = method(*args, **kwargs)
        return self.loop.run_until_complete(result) if inspect.isawaitable(result) else result

    def __getattr__(self, name):
        found = getattr(self.strategy, name)
        return (lambda *args, **kwargs: self.call(found, *args, **kwargs)) if callable(found) else found

    def settle(self):
        """Have the store get what is pending."""
        if hasattr(self.strategy, "flush"):
            assert self.flush(30) is True

    def close(self):
        if hasattr(self.strategy, "close"):
            self.call(self.strategy.close, 30)
        self.call(self.cache.close)
        if self.loop is not None:
            self.loop.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


KINDS = {
    "WriteThrough": WriteThrough,
    "WriteBehind": WriteBehind,
    "AsyncWriteThrough": AsyncWriteThrough,
    "AsyncWriteBehind": AsyncWriteBehind,
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_both_sides_have_every_write(server, kind):
    store = BulkStore(a=1)
    with Here(kind, server.port, store) as here, DistributedCache(redis_port=server.port) as other:
        assert here.get("a") == 1 and here.get("b", "none") == "none"
        here.set("b", 2, 60, tags="t")
        here.set_many({"c": 3, "d": [4]})
        assert here.delete("c") is True and here.delete_many(["a", "nothing"]) == 1
        here.settle()
        assert store.values == {"b": 2, "d": [4]}
        other.barrier()
        assert other.get_many(["a", "b", "c", "d"]) == {"b": 2, "d": [4]} and 0 < other.ttl("b") <= 60
        here.call(here.cache.invalidate_tag, "t")
        store.values["b"] = "loaded"
        assert here.get("b") == "loaded" and here.get("c") is None


@every_kind
def test_what_reads_in_order_to_write_agrees_on_both_sides(server, kind):
    store = BulkStore(a=1)
    with Here(kind, server.port, store) as here, DistributedCache(redis_port=server.port) as other:
        assert here.add("a", 2) is False and here.add("b", [2], 60, tags="t") is True
        assert here.increment("a", 4) == 5 and here.increment("n") == 1
        assert here.get_or_set("m", lambda: {"made": 1}, 60, tags="t") == {"made": 1}
        assert here.get_many(["a", "b", "m", "n", "x"]) == {"a": 5, "b": [2], "m": {"made": 1}, "n": 1}
        assert here.contains("a") and not here.contains("x") and 0 < here.ttl("b") <= 60 and here.touch("b", 100)
        here.settle()
        assert store.values == {"a": 5, "b": [2], "m": {"made": 1}, "n": 1}
        other.barrier()
        assert other.get_many(["a", "b", "m", "n"]) == store.values
        other.increment("n", 10)        # past the strategy: the store wins
        assert here.increment("n") == 2 and here.get("n") == 2
        other.barrier()
        assert other.get("n") == 2 and here.invalidate_prefix("b") == 1 and here.get("b") == [2]
        assert here.stats is here.cache.stats


@every_kind
@must_end
def test_a_sum_that_the_cache_could_not_be_told_is_not_served_from_it(own, kind):
    store = BulkStore(a=1)
    with Here(kind, own.port, store, timeout=TIMEOUT) as here:
        assert here.get("a") == 1 and here.contains("a")
        own.stall()
        with pytest.raises(BackendUnavailable):
            here.increment("a")
        with pytest.raises(BackendUnavailable):
            here.add("b", 1)
        here.settle()
        assert store.values == {"a": 2, "b": 1} and here.get("a") == 2 and here.get_many(["a", "b"]) == {"a": 2, "b": 1}
        own.go_on()
        wait_until(lambda: here.get("a") == 2 and not here._side.stale, "the cache to hear of it")


@every_kind
def test_bad_input_reaches_neither_side(server, kind):
    store = BulkStore(a=1)
    with Here(kind, server.port, store) as here:
        for method, *args in (
            ("set", 1, "a key that is no str"),
            ("set", "b", {len}),
            ("set", "b", (object(),)),
            ("set", "b", 1, -1),
            ("set_many", {"b": 1, "c": {len}}),
            ("set_many", {"b": 1, 2: 2}),
            ("set_many", {"b": 1}, 0),
            ("delete", 1),
            ("delete_many", ["a", 1]),
        ):
            with pytest.raises((TypeError, ValueError)):
                getattr(here, method)(*args)
        with pytest.raises(TypeError):
            here.set("b", 1, tags=[1])
        here.settle()
        assert store.values == {"a": 1} and not store.calls
        assert here.call(here.cache.get_many, ["a", "b", "c"]) == {}
        here.call(here.cache.close)
        with pytest.raises(RuntimeError, match="closed"):
            here.set("b", 1)
        assert not store.calls


@every_kind
def test_bulk_writes_do_not_ask_the_server_for_each_key(server, kind):
    with Proxy(server.port) as proxy, Here(kind, proxy.port, BulkStore()) as here:
        here.set("a", 1)
        asked = len(proxy.requests)
        here.set_many({f"key {n}": n for n in range(100)})
        assert len(proxy.requests) - asked < 20
        assert here.get("key 7") == 7


# --- faults of the store ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["WriteThrough", "AsyncWriteThrough"])
def test_a_store_that_raises_leaves_the_cache_as_it_was(server, kind):
    store = BulkStore(a=1, b=1)
    with Here(kind, server.port, store) as here:
        assert here.get("a") == here.get("b") == 1

        def down(call, keys):
            raise OSError("down")

        store.fault = down
        for method, *args in (
            ("set", "a", 2),
            ("set_many", {"a": 2, "b": 2}),
            ("delete", "a"),
            ("delete_many", ["a", "b"]),
        ):
            with pytest.raises(OSError, match="down"):
                getattr(here, method)(*args)
        assert here.call(here.cache.get_many, ["a", "b"]) == {"a": 1, "b": 1} == store.values


@must_end
def test_a_store_that_hangs_blocks_no_reader_and_no_writer_of_other_keys(server):
    store, gate = BulkStore(a=1), Gate()
    with Here("WriteThrough", server.port, store) as here:
        assert here.get("a") == 1
        store.fault = lambda call, keys: gate(call, keys) if keys == ["a"] else None
        writer = Started(here.set, "a", 2)
        wait_for(gate.entered)
        assert here.get("a") == 1
        here.set("b", 1)
        gate.open.set()
        writer.result()
        assert here.get("a") == 2 == store.values["a"]


@must_end
@pytest.mark.parametrize("kind", ["WriteBehind", "AsyncWriteBehind"])
def test_write_behind_a_store_that_hangs_keeps_its_bound_and_tells_the_truth(server, kind):
    store, gate = BulkStore(a=1), Gate()
    store.load = store.values.__getitem__
    if kind == "AsyncWriteBehind":              # in the loop, awaiting a hanging store never ends
        async def save_many(items):
            gate.entered.set()
            await asyncio.to_thread(wait_for, gate.open)
            store.values.update(items)

        store.save_many = save_many
    else:
        store.fault = gate
    with Here(kind, server.port, store, max_queue=3, batch_size=2, on_full="raise") as here:
        here.set_many({"a": 2, "b": 2})         # a batch, which hangs
        if kind == "WriteBehind":
            wait_for(gate.entered)
        here.set("c", 2)
        with pytest.raises(QueueFull):
            here.set("d", 2)
        assert here.pending == 3 and here.call(here.cache.get, "d") is None
        assert [here.get(key) for key in "abc"] == [2, 2, 2]
        assert here.flush(0.01) is False and store.values == {"a": 1}
        gate.open.set()
        here.settle()
        assert store.values == {"a": 2, "b": 2, "c": 2}


@pytest.mark.parametrize("kind", ["WriteBehind", "AsyncWriteBehind"])
def test_partial_batches_lose_nothing_and_keep_the_order(server, kind):
    store, failures, dead = BulkStore(), iter([True] * 4), []

    def save_many(items):
        store.calls.append(("save_many", dict(items)))
        half = dict(list(items.items())[: len(items) // 2])
        if next(failures, False):
            store.values.update(half)
            raise OSError("in the middle of a batch")
        store.values.update(items)

    store.save_many = save_many
    options = {"batch_size": 10, "retries": 5, "backoff": 0.0, "on_dead_letter": lambda *what: dead.append(what)}
    with Here(kind, server.port, store, **options) as here:
        for n in range(5):
            here.set_many({f"key {key}": n for key in range(20)})
        here.settle()
        assert here.pending == 0 and not dead
        assert store.values == {f"key {key}": 4 for key in range(20)}
        for key in store.values:
            assert store.saved(key) == sorted(store.saved(key))


# --- faults of the server ---------------------------------------------------------------------------------------------

@every_kind
def test_what_the_cache_could_not_be_told_is_not_served(own, kind):
    store = BulkStore(a=1, b=1, c=1)
    with Here(kind, own.port, store, timeout=TIMEOUT) as here, DistributedCache(redis_port=own.port) as other:
        assert [here.get(key) for key in "abc"] == [1, 1, 1]
        own.stall()
        with pytest.raises(BackendUnavailable):
            here.set("a", 2)
        with pytest.raises(BackendUnavailable):
            here.delete("b")
        with pytest.raises(BackendUnavailable):
            here.set_many({"c": 2, "d": 2})
        here.settle()
        assert store.values == {"a": 2, "c": 2, "d": 2}
        assert [here.get(key, "none") for key in "abcd"] == [2, "none", 2, 2]
        own.go_on()

        def told():
            assert [here.get(key, "none") for key in "abcd"] == [2, "none", 2, 2]
            return not here._side.stale

        wait_until(told, "the cache to hear of it")
        other.barrier(10)
        assert other.get("a", 2) == 2 and other.get("b") is None and other.get("c", 2) == 2


@must_end
@pytest.mark.parametrize("kind", ["WriteThrough", "WriteBehind"])
def test_no_write_is_lost_when_the_server_dies_in_the_middle(own, kind):
    store = BulkStore()
    options = {"max_delay": 0.001} if kind == "WriteBehind" else {}
    with Here(kind, own.port, store, timeout=TIMEOUT, **options) as here:
        wrote = [0] * 4

        def write(i):
            for n in range(1, 60):
                try:
                    here.set(f"key {i}", n)
                except BackendUnavailable:
                    assert here.get(f"key {i}") == n        # the store has it, or will
                wrote[i] = n
                assert here.get(f"key {i}") == n

        def kill():
            wait_until(lambda: min(wrote) >= 20)
            own.kill()

        run_all(kill, *[lambda i=i: write(i) for i in range(4)])
        here.settle()
        assert store.values == {f"key {i}": 59 for i in range(4)}
        for key in store.values:
            assert store.saved(key) == sorted(store.saved(key))


def test_a_replayed_write_is_newer_than_what_the_cache_kept(server, tmp_path):
    """A process may be killed between the moment in which a write was accepted and that in which the cache heard."""
    journal, left = tmp_path / "journal", tmp_path / "left"
    store = BulkStore(a=1)
    with Here("WriteBehind", server.port, store, journal=journal) as here:
        here.set("a", 2)
        shutil.copy(journal, left)              # what a process that was killed here would have left
    store.values["a"] = 1
    with DistributedCache(redis_port=server.port) as cache:
        cache.set("a", 1)
    with Here("WriteBehind", server.port, store, journal=left) as here:
        here.settle()
        assert store.values == {"a": 2} and here.get("a") == 2 == here.cache.get("a")


@must_end
def test_one_process_of_all_computes_what_several_refresh(server, clock):
    """A `Cache` in front of each process's two tiers: readers never wait, and each refresh computes once."""
    computed = []
    gate = Gate()
    gate.open.set()

    def compute():
        gate("save", ["k"])
        computed.append(len(computed) + 1)
        return computed[-1]

    tiers = [DistributedCache(redis_port=server.port, default_ttl=100) for _ in range(2)]
    try:
        fronts = [
            Cache(None, 10, loader=lambda key, tier=tier: tier.get_or_set(key, compute), refresh_ahead=0.2, clock=clock)
            for tier in tiers
        ]
        assert [front["k"] for front in fronts] == [1, 1] and computed == [1]
        for n in (2, 3):
            tiers[0].delete("k")                        # as if its time were over
            tiers[0].barrier(), tiers[1].barrier()
            clock.now += 9
            gate.open.clear(), gate.entered.clear()
            seen = run_all(*[lambda front=front: [front["k"] for _ in range(20)] for front in fronts for _ in range(8)])
            assert seen == [[n - 1] * 20] * 16          # although nobody has computed anything yet
            wait_for(gate.entered)
            gate.open.set()
            wait_until(lambda: [front.peek("k") for front in fronts] == [n, n], "the refreshes")
            assert computed == list(range(1, n + 1))
    finally:
        for tier in tiers:
            tier.close()
