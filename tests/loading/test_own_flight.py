"""A flight's own user code asks for the key that is being loaded: it runs the function, and never waits for itself.

The factory, `ttl`, `condition`, `tags`, the key function, a serializer, `__getstate__`, callbacks, signal handlers,
finalizers; in one process, over two tiers, and with threads in between.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import importlib.util
import queue
import signal
import threading
import time

import pytest

from cachebox import AsyncDistributedCache, Cache, DistributedCache, cached
from cachebox.strategies import WriteThrough
from in_threads import LIMIT, Started, wait_for

KINDS = ["alone", "shared", "own", "tiers"]


@pytest.fixture(params=KINDS)
def make(request):
    """Makes `cached` of a kind, with its options."""
    caches = []

    def make(**options):
        if request.param == "alone":
            return cached(single_flight=False, **options)
        if request.param == "own":
            return cached(**options)
        if request.param == "shared":
            return cached(Cache(), **options)
        server = request.getfixturevalue("server")
        caches.append(DistributedCache(redis_port=server.port, serializer="pickle", secret="s"))
        return cached(caches[-1], **options)

    yield make
    for cache in caches:
        cache.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Pauses that take seconds, to be on the safe side, take a moment here."""
    from cachebox._loading import flight, tasks
    from cachebox._platform import callers

    for module in (callers, flight, tasks):
        monkeypatch.setattr(module, "PULSE", 0.05)
    for module in (callers, flight):
        monkeypatch.setattr(module, "LONG", 0.1)
    if importlib.util.find_spec("redis"):
        from cachebox.distributed._ops import single_flight as loading

        monkeypatch.setattr(loading, "PULSE", 0.05)


class Again:
    """Calls a function for the same key once, from inside."""

    def __init__(self):
        self.f = None
        self.results = []
        self.busy = False

    def __call__(self, *ignored):
        if not self.busy:
            self.busy = True
            try:
                self.results.append(self.f("k"))
            finally:
                self.busy = False


class Curious:
    """A value that asks for its key when it is pickled."""

    def __init__(self, again):
        self.again = again

    def __eq__(self, other):
        return isinstance(other, Curious)

    def __getstate__(self):
        if self.again is not None:
            self.again()
        return {"again": None}


@pytest.mark.parametrize("where", ["factory", "ttl", "condition", "tags", "__getstate__", "key_func"])
def test_user_code_of_a_flight_asks_for_its_key(make, where):
    again = Again()
    options = {
        "ttl": {"ttl": lambda result: (again(), 60)[1]},
        "condition": {"condition": lambda result: (again(), True)[1]},
        "tags": {"tags": lambda result, *args: (again(), ())[1]},
        "key_func": {"key_func": lambda key: (again(), key)[1]},
    }.get(where, {})

    def load(key):
        if where == "factory":
            again()
        return Curious(again) if where == "__getstate__" else key

    f = again.f = make(**options)(load)
    result = Started(f, "k").result()
    assert len(again.results) == 1 or where == "__getstate__"       # which one tier never calls
    assert result == "k" or where == "__getstate__"
    Started(f, "k").result()


@pytest.mark.parametrize("where", ["factory", "ttl", "condition", "tags", "serializer"])
def test_other_processes_are_not_held_up(server, where):
    again = Again()

    class Serializer:
        def dumps(self, value):
            if where == "serializer":
                again()
            return str(value).encode()

        def loads(self, data):
            return data.decode()

    options = {
        "ttl": {"ttl": lambda result: (again(), 60)[1]},
        "condition": {"condition": lambda result: (again(), True)[1]},
        "tags": {"tags": lambda result, *args: (again(), ())[1]},
    }.get(where, {})
    with (
        DistributedCache(redis_port=server.port, serializer=Serializer()) as mine,
        DistributedCache(redis_port=server.port, serializer=Serializer()) as others,
    ):
        def load(key):
            if where == "factory":
                again()
            return "value"

        f = again.f = cached(mine, **options)(load)
        assert Started(f, "k").result() == "value" and again.results == ["value"]
        assert Started(others.get_or_set, f.cache_key("k"), lambda: "another").result() == "value"


@pytest.mark.parametrize("where", ["factory", "ttl", "condition", "tags"])
@pytest.mark.parametrize("asyncio_cache", [False, True])
def test_user_code_of_an_async_flight_asks_for_its_key(server, where, asyncio_cache):
    busy = []
    inner = []

    def again(value):
        """Ask in a thread with a loop of its own, which a plain function can wait for."""
        if not busy:
            busy.append(1)
            inner.append(Started(lambda: asyncio.run(f("k"))).result())
        return value

    options = {
        "ttl": {"ttl": lambda result: again(60)}, "condition": {"condition": lambda result: again(True)},
        "tags": {"tags": lambda result, *args: again(())},
    }.get(where, {})
    cache = AsyncDistributedCache(redis_port=server.port) if asyncio_cache else Cache()

    @cached(cache, **options)
    async def f(key):
        if where == "factory" and not busy:
            busy.append(1)
            inner.append(await asyncio.ensure_future(f("k")))
        return key

    async def main():
        try:
            return await f("k")
        finally:
            if asyncio_cache:
                await cache.close()

    assert Started(lambda: asyncio.run(main())).result() == "k" and inner == ["k"]


def test_callbacks_of_the_landing_ask_for_its_key():
    results = []
    cache = Cache(1, on_removal=lambda key, value, cause: results.append(cache.get_or_set("k", lambda: "inner")))
    cache["old"] = 0
    assert cache.get_or_set("k", lambda: "outer") == "outer" and results == ["outer"]


def test_a_weigher_asks_for_the_key_that_it_weighs():
    busy = []

    def weigh(key, value):
        if not busy:
            busy.append(1)
            inner.append(cache.get_or_set(key, lambda: "inner"))
        return 1

    inner = []
    cache = Cache(max_weight=9, weigher=weigh)
    assert cache.get_or_set("k", lambda: "outer") == "outer" and inner == ["inner"]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no such signals")
def test_a_signal_handler_asks_for_the_key_that_its_thread_loads(make):
    inner = []
    f = make()(lambda key: signal.raise_signal(signal.SIGUSR1) if not inner else "inner")
    before = signal.signal(signal.SIGUSR1, lambda *ignored: inner.append(None) or inner.append(f("k")))
    try:
        f("k")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert inner[1:] == ["inner"]


def test_a_finalizer_asks_for_the_key_that_its_thread_loads(make):
    inner, busy = [], []

    class Last:
        def __del__(self):
            inner.append(f("k"))

    def load(key):
        if not busy:
            busy.append(1)
            cycle = [Last()]
            cycle.append(cycle)
            del cycle
            gc.collect()
        return key

    f = make()(load)
    assert Started(f, "k").result() == "k" and inner == ["k"]


# --- threads in between -----------------------------------------------------------------------------------------------

def by_thread(function):
    return Started(function).result()


def by_pool(function):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def by_queue(function):
    answers = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(function()), daemon=True).start()
    return answers.get()


def by_lock(function):
    answers, done = [], threading.Lock()
    done.acquire()
    threading.Thread(target=lambda: (answers.append(function()), done.release()), daemon=True).start()
    with done:
        return answers[0]


def by_loop(function):
    return asyncio.run(_in_executor(function))


async def _in_executor(function):
    return await asyncio.get_running_loop().run_in_executor(None, function)


def by_two(function):
    return by_thread(lambda: by_pool(function))


HANDED = [by_thread, by_pool, by_queue, by_lock, by_loop, by_two]


@pytest.mark.parametrize("hand_over", HANDED)
def test_a_factory_hands_its_key_to_another_thread(hand_over):
    cache = Cache()
    outer = Started(cache.get_or_set, "k", lambda: hand_over(lambda: cache.get_or_set("k", lambda: "inner")))
    assert outer.result() == "inner"


@pytest.mark.parametrize("hand_over", [by_thread, by_loop])
def test_a_factory_hands_its_key_to_another_thread_over_two_tiers(server, hand_over):
    with DistributedCache(redis_port=server.port) as cache:
        outer = Started(cache.get_or_set, "k", lambda: hand_over(lambda: cache.get_or_set("k", lambda: "inner")))
        assert outer.result() == "inner"


def test_a_coroutine_hands_its_key_to_a_thread_that_has_no_context():
    @cached
    async def f(key):
        if inner:
            return "inner"
        inner.append(1)
        return await asyncio.get_running_loop().run_in_executor(None, lambda: asyncio.run(f(key)))

    inner = []
    assert Started(lambda: asyncio.run(f("k"))).result() == "inner"


def test_a_store_hands_the_key_that_it_saves_to_another_thread():
    class Store(dict):
        def save(self, key, value):
            self[key] = value
            if value == 1:
                by_thread(lambda: cache.set(key, 2))

    store = Store()
    cache = WriteThrough(Cache(), store)
    Started(cache.set, "k", 1).result()
    assert store["k"] == 2


def test_who_computes_for_long_is_waited_for():
    """A leader that works, or waits for the outside world, is not taken for one that waits for this caller."""
    cache = Cache()
    begun, over = threading.Event(), time.monotonic() + 1.0

    def compute():
        begun.set()
        while time.monotonic() < over:
            sum(range(1000))
            time.sleep(0.001)
        return "leader"

    leader = Started(cache.get_or_set, "k", compute)
    wait_for(begun)
    assert cache.get_or_set("k", lambda: "waiter") == leader.result() == "leader"


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("ask", ["get", "get_or_set", "get_many", "call"])
def test_a_loader_warms_the_cache_that_it_loads_for(ask, workers):
    def load(key):
        if key == "page":
            cache.warm(["page", "a", "b"], loader=str.upper, workers=workers)
        return key

    cache = Cache(loader=load)
    f = cached(cache)(load)
    call = {"get": lambda: cache.get("page"), "get_or_set": lambda: cache.get_or_set("page", lambda: load("page")),
            "get_many": lambda: cache.get_many(["page"])["page"], "call": lambda: f("page")}[ask]
    began = time.monotonic()
    assert Started(call).result() == "page" and cache.peek("a") == "A"
    assert time.monotonic() - began < LIMIT / 2


def test_threads_that_warm_close_a_circle_with_another_thread():
    cache = Cache()
    both = threading.Barrier(2)

    def first():
        both.wait(LIMIT)
        cache.warm(["b", "c"], loader=str.upper, workers=2)
        return "a"

    def second():
        both.wait(LIMIT)
        return cache.get_or_set("a", lambda: "alone")

    one, other = Started(cache.get_or_set, "a", first), Started(cache.get_or_set, "b", second)
    assert one.result() == "a" and other.result() in ("a", "alone")


def test_a_progress_callback_that_warms():
    cache = Cache()
    seen = []

    def progress(done, total):
        if not seen:
            seen.append(cache.warm(["x", "y"], loader=str.upper, workers=2).loaded)

    assert Started(lambda: cache.warm("abc", loader=str.upper, workers=2, progress=progress)).result().loaded == 3
    assert seen == [2]


def test_a_lock_whose_owners_follow_each_other_is_not_taken_from_the_next_one(monkeypatch):
    """Each owner has the lock for a moment, at the same place. Only one that keeps it is taken for stuck."""
    from cachebox._platform import callers

    lock = callers.CallerLock()
    looked_at, handed_over, is_over = [], threading.Event(), threading.Event()

    def next_owner():
        lock.acquire()
        handed_over.set()
        wait_for(is_over)
        lock.release()

    def standing(thread, greenlet, task=None):
        """The same place for all. The first owner gives the lock to the next one while it is looked at."""
        looked_at.append(thread)
        if len(looked_at) == 1:
            release.set()
            wait_for(handed_over)
        return "a place"

    monkeypatch.setattr(callers, "standing", standing)
    release = threading.Event()

    def first_owner():
        lock.acquire()
        is_held.set()
        wait_for(release)
        lock.release()
        next_owner_thread.start()

    is_held = threading.Event()
    next_owner_thread = threading.Thread(target=next_owner)
    first = Started(first_owner)
    wait_for(is_held)
    assert lock.acquire()               # at last: the second one does not go on
    lock.release()
    is_over.set()
    first.wait()
    next_owner_thread.join()
    assert looked_at.count(looked_at[0]) == 1 and len(looked_at) >= 3
