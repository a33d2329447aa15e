"""Writes that are accepted, and that the cache does not have yet: no reader and no other writer misses them."""

from __future__ import annotations

import asyncio
import os
import random
import threading

import pytest

import cachebox.strategies.journal as journals
from cachebox import AsyncWriteBehind, Cache, WriteBehind, WriteThrough
from in_threads import Started, must_end, run_all, wait_for, wait_until
from stores import MemoryStore

NEVER = 3600.0


class Sink:
    """A store that cannot load."""

    def __init__(self):
        self.values = {}

    def save(self, key, value):
        self.values[key] = value

    def delete(self, key):
        self.values.pop(key, None)


class GatedCache(Cache):
    """Keeps a value from being set until the value's gate is open. `failing`: values that raise then."""

    def __init__(self, *values):
        super().__init__()
        self.gates = {value: threading.Event() for value in values}
        self.entered = {value: threading.Event() for value in values}
        self.failing = set()

    def set(self, key, value, ttl=None, *, tags=()):
        if value in self.gates:
            self.entered[value].set()
            wait_for(self.gates[value])
        if value in self.failing:
            raise OSError("the cache cannot be reached")
        super().set(key, value, ttl, tags=tags)


def delivered(behind):
    wait_until(lambda: behind.pending == 0)


def in_the_store_only():
    """A write of 5 that a store without `load` has, and whose caller stands before the cache."""
    store, cache = Sink(), GatedCache(5)
    behind = WriteBehind(cache, store, max_delay=0.0)
    writer = Started(behind.set, "n", 5)
    wait_for(cache.entered[5])
    delivered(behind)
    return store, cache, behind, writer


@must_end
@pytest.mark.parametrize(
    ("call", "result", "left"),
    [
        (lambda c: c.get("n", 0), 5, 5),
        (lambda c: c.get_many(["n"]), {"n": 5}, 5),
        (lambda c: "n" in c, True, 5),
        (lambda c: c.get_or_set("n", lambda: 9), 5, 5),
    ],
)
def test_a_store_that_cannot_load_has_a_write_before_the_cache(call, result, left):
    """Readers see it all the same."""
    store, cache, behind, writer = in_the_store_only()
    assert call(behind) == result
    cache.gates[5].set()
    writer.result()
    assert behind.get("n") == left and behind.close() and store.values == {"n": left}


@must_end
@pytest.mark.parametrize(
    ("call", "result", "left"), [(lambda c: c.increment("n"), 6, 6), (lambda c: c.add("n", 9), False, 5)]
)
def test_a_change_is_made_to_a_write_that_a_store_has_before_the_cache(call, result, left):
    store, cache, behind, writer = in_the_store_only()
    changer = Started(call, behind)
    cache.gates[5].set()
    writer.result()
    assert changer.result() == result
    assert behind.get("n") == left and behind.close() and store.values == {"n": left}


@must_end
@pytest.mark.parametrize("kind", [WriteBehind, WriteThrough])
def test_no_count_is_lost_if_the_store_cannot_load(kind):
    store = Sink()
    cache = kind(Cache(), store, **({"max_delay": 0.0} if kind is WriteBehind else {}))
    each = 300

    def count():
        for _ in range(each):
            cache.increment("n")

    run_all(count, count, count)
    assert cache.get("n") == 3 * each
    assert cache.close() and store.values == {"n": 3 * each}


def test_no_count_of_tasks_is_lost_if_the_store_cannot_load():
    class Slow(Cache):
        async def increment(self, key, amount=1):
            await asyncio.sleep(0)
            return super().increment(key, amount)

    async def main():
        store = Sink()
        cache = AsyncWriteBehind(Slow(), store, max_delay=0.0)

        async def count():
            for _ in range(30):
                await cache.increment("n")

        await asyncio.gather(*[count() for _ in range(4)])
        assert await cache.get("n") == 120
        assert await cache.close() and store.values == {"n": 120}

    asyncio.run(main())


@must_end
def test_a_late_writer_does_not_show_its_value_after_a_newer_one_returned():
    """The older write reaches the cache last. Until its caller is done, nobody reads that from the cache."""
    store, cache = MemoryStore(), GatedCache(1)
    behind = WriteBehind(cache, store, max_delay=0.0)
    done_with, reached, may_end = behind._backlog.done_with, threading.Event(), threading.Event()
    late = Started(behind.set, "a", 1)
    wait_for(cache.entered[1])
    behind.set("a", 2)
    delivered(behind)
    assert behind.get("a") == 2

    def slowly(numbers):
        reached.set()
        wait_for(may_end)
        return done_with(numbers)

    behind._backlog.done_with = slowly
    cache.gates[1].set()
    wait_for(reached)
    try:
        assert behind.get("a") == 2
    finally:
        may_end.set()
    late.result()
    assert behind.get("a") == 2 and not behind._backlog.unfinished and behind.close()


@must_end
def test_the_old_value_of_a_cache_that_fails_is_never_served():
    store, cache = MemoryStore(), GatedCache()
    behind = WriteBehind(cache, store, max_delay=0.0)
    behind.set("a", 1)
    cache.failing.add(2)
    done_with, seen = behind._backlog.done_with, []

    def watching(numbers):
        delivered(behind)
        result = done_with(numbers)
        seen.append(behind.get("a"))
        return result

    behind._backlog.done_with = watching
    with pytest.raises(OSError):
        behind.set("a", 2)
    assert seen == [2] and behind.get("a") == 2 and not behind._backlog.unfinished and behind.close()


@must_end
def test_a_key_that_became_stale_while_the_cache_was_written_stays_stale():
    """The older write reaches the cache after the newer one, whose writer then finds the key stale."""
    store, cache = MemoryStore(), GatedCache(1)
    behind = WriteBehind(cache, store, max_delay=0.0)
    late = Started(behind.set, "a", 1)
    wait_for(cache.entered[1])
    set_, settle, may_settle = cache.set, behind._side.settle, threading.Event()
    marked = threading.Event()

    def slow_settle():
        marked.set()
        wait_for(may_settle)
        yield from settle()

    def setting(key, value, ttl=None, *, tags=()):
        set_(key, value, ttl, tags=tags)
        cache.set = set_
        behind._side.settle = slow_settle
        cache.gates[1].set()
        wait_for(marked)                        # the older write is in the cache, and its writer has seen the newer one
        behind._side.settle = settle

    behind._side.cache.set, cache.set = setting, setting
    newer = Started(behind.set, "a", 2)
    newer.result()
    may_settle.set()
    late.result()
    assert behind.get("a") == 2 and behind.close() and behind.get("a") == 2 and store.values == {"a": 2}


@must_end
@pytest.mark.parametrize("kind", [WriteBehind, WriteThrough])
def test_a_value_is_not_made_over_one_that_was_written_when_the_cache_had_been_asked(kind):
    store = Sink()
    cache = kind(Cache(), store)
    make = cache._load_or_make

    def after_a_write(*arguments):
        Started(cache.set, "a", 1).result()
        return (yield from make(*arguments))

    cache._load_or_make = after_a_write
    assert cache.get_or_set("a", lambda: 2) == 1
    assert cache.get("a") == 1 and cache.close() and store.values == {"a": 1}


@must_end
@pytest.mark.parametrize("kind", [WriteBehind, WriteThrough])
def test_a_change_is_made_to_a_value_that_was_just_made(kind):
    """The store cannot load, so the cache has it when the next change begins."""
    store = Sink()
    cache = kind(Cache(), store, **({"max_delay": 0.0} if kind is WriteBehind else {}))
    save = cache._save_unless_written

    def before_a_change(*arguments):
        yield from save(*arguments)
        if kind is WriteBehind:
            delivered(cache)
        assert Started(cache.increment, "n").result() == 11

    cache._save_unless_written = before_a_change
    assert cache.get_or_set("n", lambda: 10) == 10
    assert cache.get("n") == 11 and cache.close() and store.values == {"n": 11}


@must_end
@pytest.mark.parametrize("write", ["save", "delete"])
def test_a_value_made_while_a_write_through_failed_is_in_the_store(write):
    store = MemoryStore()

    def fault(call, keys):
        if call == write:
            store.fault = lambda call, keys: None
            raise OSError("refused")

    store.fault = fault
    cache = WriteThrough(Cache(), store)

    def make():
        with pytest.raises(OSError):
            cache.set("a", 1) if write == "save" else cache.delete("a")
        return 2

    assert cache.get_or_set("a", make) == 2
    assert store.values == {"a": 2} and cache.get("a") == 2


@pytest.mark.parametrize("kind", [WriteBehind, WriteThrough])
def test_a_count_whose_entry_leaves_the_cache_meanwhile_is_never_wrong(kind):
    seen = []

    class Leaving(Cache):
        def increment(self, key, amount=1):
            self.delete(key)
            super().increment(key, amount)
            seen.append(self.peek(key))
            return seen[-1]

        def compute(self, key, fn):
            self.delete(key)
            super().compute(key, fn)
            seen.append(self.peek(key))
            return seen[-1]

    cache = kind(Leaving(), MemoryStore(n=16))
    assert cache.get("n") == 16 and cache.increment("n") == 17 and cache.increment("n", 2) == 19
    assert seen == [17, 19] and cache.get("n") == 19 and cache.close()


@must_end
@pytest.mark.parametrize("seed", range(16))
def test_counts_are_exact_and_never_go_back_whatever_fails(tmp_path, monkeypatch, seed):
    """Several callers count, while store, cache and disk fail at random. Journal and store have the exact counts."""
    chance = random.Random(seed)
    loads, durability = seed % 3 > 0, chance.choice(["process", "power"])
    store = MemoryStore() if loads else Sink()
    save, write, failing = store.save, os.write, []

    def fails(error, probability):
        if failing and chance.random() < probability:
            raise error

    def saving(key, value):
        fails(ValueError, 0.1)
        save(key, value)

    def writing(file, data):
        fails(OSError(28, "No space left on device"), 0.02)
        return write(file, data)

    class Failing(Cache):
        def set(self, key, value, ttl=None, *, tags=()):
            fails(KeyError, 0.05 * loads)
            super().set(key, value, ttl, tags=tags)
            fails(KeyError, 0.05 * loads)

    store.save = saving
    monkeypatch.setattr(journals.os, "fsync", lambda file: fails(OSError(5, "Input/output error"), 0.05))
    monkeypatch.setattr(journals.os, "write", writing)
    monkeypatch.setattr(journals, "COMPACT_AT", 500)
    options = {"max_delay": 0.0, "max_queue": chance.choice([2, 100]), "backoff": 0.0005, "max_backoff": 0.002}
    cache = Failing(2) if loads else Failing()
    path = tmp_path / "journal"
    behind = WriteBehind(cache, store, journal=path, durability=durability, **options)
    counted, newest, lock, wrong = dict.fromkeys("abc", 0), dict.fromkeys("abc", 0), threading.Lock(), []

    def count():
        for _ in range(40):
            key, total = chance.choice("abc"), 0
            try:
                least = newest[key]
                found = behind.get(key, 0)
                if found < least:
                    wrong.append((key, found, least))
                total = behind.increment(key)
            except OSError:                     # of the disk: nothing was accepted
                continue
            except KeyError:                    # of the cache: the count stands
                pass
            with lock:
                counted[key] += 1
                newest[key] = max(newest[key], total)

    failing.append(True)
    run_all(count, count, count)
    with behind._backlog._lock:
        (tmp_path / "copy").write_bytes(path.read_bytes())
        after_a_crash = dict(store.values)
    failing.clear()
    monkeypatch.undo()
    copy = journals.Journal(tmp_path / "copy", journals.Encoding("json", None), "process")
    copy.close()
    after_a_crash.update({key: value for _, key, value in copy.replayed})
    assert not wrong and after_a_crash == counted
    assert behind.flush() and {key: behind.get(key) for key in "abc"} == counted == store.values
    assert not behind._backlog.unfinished and not behind._backlog._unsynced and behind.close()
    assert os.path.getsize(path) == journals._HEADER.size
