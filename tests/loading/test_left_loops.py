"""Event loops that were left while they loaded: closed, stopped, or with a task that nothing holds any more.

In every cache their loads neither hold a key nor stay in memory.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from cachebox import AsyncDistributedCache, Cache, cached
from cachebox.strategies import AsyncWriteThrough
from in_threads import LIMIT, Started, wait_for

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")


@pytest.fixture(autouse=True)
def quiet(caplog):
    """A task that is destroyed while it is pending says so."""
    yield
    gc.collect()


class Held:
    """An object that a load holds, to see whether it is freed."""


class Loads:
    """A function to cache; its first run never ends."""

    def __init__(self):
        self.runs = 0
        self.held = None
        self.begun = threading.Event()

    async def __call__(self, key):
        self.runs += 1
        if self.runs == 1:
            held = Held()
            self.held = weakref.ref(held)
            self.begun.set()
            await asyncio.sleep(3600)
        return key


def run_and_leave(coroutine, begun, how):
    """Have a new loop run a coroutine until something has begun, and leave it. Returns what the leaver keeps."""
    loop = asyncio.new_event_loop()

    async def begin():
        task = asyncio.ensure_future(coroutine)
        while not begun.is_set():
            await asyncio.sleep(0.001)
        return task

    task = loop.run_until_complete(begin())
    if how == "closed":
        loop.close()
        return None
    if how == "closed, the task kept":
        loop.close()
        return task
    return loop, task                           # stopped: it may go on later


LEFT = ["closed", "closed, the task kept", "stopped"]


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, LIMIT))


def functions(load):
    """Cached functions of all kinds, by name."""
    async def plain(key):
        return await load(key)

    class Owner:
        @cached
        async def method(self, key):
            return await load(key)

    return {"own": cached(plain), "shared": cached(Cache())(plain), "expiring": cached(ttl=60)(plain),
            "method": Owner().method}


@pytest.mark.parametrize("how", LEFT)
@pytest.mark.parametrize("kind", functions(None))
def test_a_left_loop_holds_no_key(kind, how):
    load = Loads()
    f = functions(load)[kind]
    kept = run_and_leave(f("k"), load.begun, how)
    assert run(f("k")) == "k" and load.runs == 2
    assert run(f("k")) == "k" and load.runs == 2
    if how == "stopped":                        # it goes on, and its result is its own
        loop, task = kept
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()
    assert run(f("k")) == "k" and load.runs == 2


@pytest.mark.parametrize("with_waiter", [False, True])
def test_what_a_closed_loop_was_loading_is_freed(with_waiter):
    load = Loads()
    f = cached(load.__call__)

    async def both():
        tasks = [asyncio.ensure_future(f("k")) for _ in range(1 + with_waiter)]
        await asyncio.sleep(0.01)
        return [weakref.ref(task) for task in tasks]

    loop = asyncio.new_event_loop()
    tasks = loop.run_until_complete(both())
    loop.close()
    del loop
    gc.collect()
    assert load.held() is None and [task() for task in tasks] == [None] * len(tasks)


def test_tasks_that_lead_and_wait_for_each_others_keys_are_freed():
    @cached
    async def inner(key):
        await asyncio.sleep(3600)

    @cached
    async def outer(key):
        return await inner(key)

    async def both():
        first = asyncio.ensure_future(inner(1))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(outer(1))
        third = asyncio.ensure_future(outer(1))
        await asyncio.sleep(0.01)
        return [weakref.ref(task) for task in (first, second, third)]

    loop = asyncio.new_event_loop()
    tasks = loop.run_until_complete(both())
    loop.close()
    del loop
    gc.collect()
    assert [task() for task in tasks] == [None] * 3


def test_a_task_that_nobody_has_hands_over():
    runs = []

    @cached
    async def f(key):
        runs.append(key)
        if len(runs) == 1:
            await asyncio.get_running_loop().create_future()    # which nothing but its task has
        return key

    async def main():
        task = asyncio.ensure_future(f("k"))
        await asyncio.sleep(0)
        waiter = asyncio.ensure_future(f("k"))
        await asyncio.sleep(0)
        del task
        gc.collect()
        return await waiter

    assert run(main()) == "k" and len(runs) == 2


@pytest.mark.parametrize("how", ["closed", "stopped"])
def test_who_waits_in_another_loop_goes_on(how):
    load = Loads()
    f = cached(load.__call__)
    loop = asyncio.new_event_loop()

    def serve():
        loop.run_forever()
        if how == "closed":
            loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    future = asyncio.run_coroutine_threadsafe(f("k"), loop)
    wait_for(load.begun)

    async def wait():
        waiter = asyncio.ensure_future(f("k"))
        await asyncio.sleep(0.01)
        assert load.runs == 1
        loop.call_soon_threadsafe(loop.stop)
        return await waiter

    assert run(wait()) == "k" and load.runs == 2
    thread.join()
    future.cancel()
    if how == "stopped":
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()


def test_a_leader_in_a_loop_that_goes_on_after_it_was_taken_over_changes_nothing():
    runs = []

    @cached
    async def f(key):
        runs.append(key)
        await asyncio.sleep(0.02)
        return len(runs)

    loop = asyncio.new_event_loop()

    async def begin():
        task = asyncio.ensure_future(f("k"))
        await asyncio.sleep(0)
        return task

    task = loop.run_until_complete(begin())
    assert run(f("k")) == 2
    assert loop.run_until_complete(task) == 2
    loop.close()
    assert run(f("k")) == 2 and len(runs) == 2


# --- two tiers --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", LEFT)
def test_a_left_loop_holds_no_key_in_two_tiers(server, how):
    load = Loads()
    cache = AsyncDistributedCache(redis_port=server.port, namespace=f"left-{how}")
    kept = run_and_leave(cache.get_or_set("k", lambda: load("k")), load.begun, how)

    async def again():
        try:
            return await cache.get_or_set("k", lambda: load("k"))
        finally:
            await cache.close()

    assert run(again()) == "k" and load.runs == 2
    if how == "stopped":
        loop, task = kept
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()


def test_a_left_loop_gives_its_lease_up_to_other_processes(server):
    load = Loads()
    mine = AsyncDistributedCache(redis_port=server.port, namespace="lease")
    kept = run_and_leave(mine.get_or_set("k", lambda: load("k")), load.begun, "closed, the task kept")

    async def other():
        async with AsyncDistributedCache(redis_port=server.port, namespace="lease") as cache:
            return await cache.get_or_set("k", lambda: load("k"))

    assert run(other()) == "k" and load.runs == 2
    del kept
    run(mine.close())


def test_a_refresh_in_a_left_loop_does_not_keep_others_from_it(server):
    runs = []

    async def load():
        runs.append(1)
        if len(runs) == 2:
            await asyncio.sleep(3600)
        return len(runs)

    cache = AsyncDistributedCache(redis_port=server.port, namespace="refresh", refresh_ahead=0.999, timeout=20)

    async def begin():
        await cache.get_or_set("k", load, ttl=1000)
        await asyncio.sleep(1.1)                # in the last 0.999 of its life
        await cache.get_or_set("k", load, ttl=1000)
        while len(runs) < 2:
            await asyncio.sleep(0.01)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())

    async def again():
        while len(runs) < 3:
            await cache.get_or_set("k", load, ttl=1000)
            await asyncio.sleep(0.05)
        await cache.close()

    run(again())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


# --- strategies -------------------------------------------------------------------------------------------------------

class Rows(dict):
    """A store that never ends its first call of a kind."""

    def __init__(self, stuck):
        super().__init__(k=1)
        self.stuck = stuck
        self.begun = threading.Event()

    async def _perhaps(self, what):
        if self.stuck == what:
            self.stuck = None
            self.begun.set()
            await asyncio.sleep(3600)

    async def load(self, key):
        await self._perhaps("load")
        return self[key]

    async def save(self, key, value):
        await self._perhaps("save")
        self[key] = value


@pytest.mark.parametrize("how", LEFT)
@pytest.mark.parametrize("stuck", ["load", "save"])
def test_a_left_loop_holds_no_key_of_write_through(stuck, how):
    rows = Rows(stuck)
    cache = AsyncWriteThrough(Cache(), rows)
    kept = run_and_leave(cache.get("k") if stuck == "load" else cache.set("k", 2), rows.begun, how)
    if stuck == "load":
        assert run(cache.get("k")) == 1
    run(cache.set("k", 3))
    assert run(cache.get("k")) == 3
    if how == "stopped":
        loop, task = kept
        for one in asyncio.all_tasks(loop):
            one.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()


def test_a_store_that_asks_for_what_it_is_loading_or_saving():
    class Curious(dict):
        loads = 0

        async def load(self, key):
            self.loads += 1
            if self.loads < 9:
                await asyncio.ensure_future(cache.get({"a": "b", "b": "a"}[key]))
            return key

        async def save(self, key, value):
            self[key] = value
            if value == 1:
                await cache.set(key, 2)
                await asyncio.gather(cache.set(key, 3))

    store = Curious()
    cache = AsyncWriteThrough(Cache(), store)

    async def main():
        await cache.set("s", 1)
        return await cache.get("a")

    assert run(main()) == "a" and store["s"] == 3


def test_loads_of_two_keys_that_ask_for_each_other_end():
    class Crossed(dict):
        loads = 0

        async def load(self, key):
            self.loads += 1
            await asyncio.sleep(0.01)
            if self.loads < 9:
                await cache.get({"a": "b", "b": "a"}[key])
            return key

        async def save(self, key, value):
            self[key] = value

    cache = AsyncWriteThrough(Cache(), Crossed())

    async def main():
        return await asyncio.gather(cache.get("a"), cache.get("b"))

    assert run(main()) == ["a", "b"]


def test_the_thread_of_a_loader_that_ends_without_its_load():
    """A leader cannot be left behind if its thread ends: its exception hands over."""
    cache = Cache()

    def die():
        raise SystemExit

    Started(cache.get_or_set, "a", die).wait()
    assert cache.get_or_set("a", lambda: 1) == 1


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_the_end_of_a_refresh_leaves_a_newer_one_of_its_key_alone(nth, clock):
    """The newer refresh begins while the older one takes itself out: a key may run any code when it is hashed."""
    class Key:
        hashed = None

        def __hash__(self):
            if self.hashed is not None:
                self.hashed += 1
                if self.hashed == nth:
                    self.hashed = None
                    newer.start()
                    begun.wait(LIMIT)
            return 1

    async def load(key):
        loads.append(key)
        if len(loads) == 1:
            return "value"
        begun.set()
        while not go_on.is_set():
            await asyncio.sleep(0.001)
        return "newer"

    async def read(while_loading):
        assert await cache.aget(key) == "value"
        while while_loading and not go_on.is_set():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)

    key, loads = Key(), []
    begun, go_on = threading.Event(), threading.Event()
    newer = threading.Thread(target=lambda: asyncio.run(read(True)))
    cache = Cache(loader=load, default_ttl=10, refresh_ahead=0.5, clock=clock)
    older = asyncio.new_event_loop()
    older.run_until_complete(read(False))
    clock.now += 9
    older.run_until_complete(read(False))       # the refresh has begun, and is left
    (task,) = asyncio.all_tasks(older)
    assert len(loads) == 2
    begun.clear()
    key.hashed = 0
    task.get_coro().close()
    key.hashed = None
    if newer.ident is None:                     # it was hashed less often
        newer.start()
        assert begun.wait(LIMIT)
    assert cache._refreshing(key) is not None and len(loads) == 3
    older.run_until_complete(read(False))       # finds the refresh that is under way
    assert len(loads) == 3
    go_on.set()
    newer.join(LIMIT)
    task.cancel()
    older.run_until_complete(asyncio.gather(task, return_exceptions=True))
    older.close()
