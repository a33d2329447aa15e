"""Public calls that are interrupted at any bytecode, or by the collector, by code that uses the same object.

A signal handler or a finalizer may run between any two bytecodes of a call, the first one above all, and may make any
call itself. If both want one lock, they would wait without end. Here a trace function stands for the signal: it
makes the inner call after a number of bytecodes that chance has chosen, from a seed.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import random
import signal
import sys
import threading
from pathlib import Path

import pytest

import cachebox
from cachebox import Cache, cached
from cachebox._platform.section import Section
from cachebox.strategies import WriteBehind, WriteThrough
from cachebox.strategies.write_queue import WriteQueue
from in_threads import Started

PACKAGE = str(Path(cachebox.__file__).parent)


class Rows(dict):
    """A store."""

    load, save, delete = dict.__getitem__, dict.__setitem__, dict.__delitem__


class Served(contextlib.ExitStack):
    """Makes objects, and closes them in the end."""

    def __init__(self, request):
        super().__init__()
        self.request = request

    def cache(self):
        return Cache(4, on_removal=lambda *left: None)

    def expiring(self):
        return Cache(4, default_ttl=60, refresh_ahead=0.9, loader=str)

    def tagged(self):
        cache = Cache(4, cache_exceptions=(LookupError,), exception_ttl=60)
        cache.set("t", 1, tags="tag")
        return cache

    def through(self):
        return WriteThrough(Cache(4), Rows())

    def behind(self):
        return self.enter_context(WriteBehind(Cache(4), Rows(), max_delay=0.001))

    def journaled(self):
        folder = self.request.getfixturevalue("tmp_path_factory").mktemp("journal")
        return self.enter_context(WriteBehind(Cache(4), Rows(), journal=folder / "journal"))

    def tiers(self):
        server = self.request.getfixturevalue("server")
        options = dict(timeout=20, default_ttl=60, refresh_ahead=0.9)
        return self.enter_context(cachebox.DistributedCache(redis_port=server.port, **options))

    def function(self):
        return cached(max_size=4, ttl=lambda result: 60)(lambda key: key)

    def distributed_function(self):
        return cached(self.tiers(), tags=lambda result, key: (key,))(lambda key: key)


BASIC = {
    "get": lambda c: c.get("a"), "set": lambda c: c.set("a", 1), "delete": lambda c: c.delete("a"),
    "set_many": lambda c: c.set_many({"a": 1, "b": 2}), "delete_many": lambda c: c.delete_many(["a", "b"]),
}
READING = {
    "get_many": lambda c: c.get_many(["a", "b"]), "get_or_set": lambda c: c.get_or_set("a", lambda: 1),
    "ttl": lambda c: c.ttl("a"), "touch": lambda c: c.touch("a", 60), "increment": lambda c: c.increment("n"),
    "in": lambda c: "a" in c, "tagged": lambda c: c.set("a", 1, tags=("tag", "other")),
    "invalidate_tag": lambda c: c.invalidate_tag("tag"), "invalidate_prefix": lambda c: c.invalidate_prefix("a"),
    "clear": lambda c: c.clear(), "stats": lambda c: c.stats.get_all(),
    "warm": lambda c: c.warm(["x", "y"], str, workers=2),
}
MAPPING = {
    "compute": lambda c: c.compute("a", lambda old: 1), "popitem": lambda c: c.popitem(),
    "pop": lambda c: c.pop("a", None),
    "setdefault": lambda c: c.setdefault("a", 1), "update": lambda c: c.update(a=1, b=2), "list": lambda c: list(c),
    "len": lambda c: len(c), "resize": lambda c: c.resize(3), "purge": lambda c: c.purge_expired(),
    "copy": lambda c: c.copy(),
    "where": lambda c: c.invalidate_where(lambda key, value: key == "a"), "repr": lambda c: repr(c),
}
FUNCTION = {
    "call": lambda f: f("a"), "invalidate": lambda f: f.invalidate("a"), "info": lambda f: f.cache_info(),
    "key": lambda f: f.cache_key("a"), "cache_clear": lambda f: f.cache_clear(),
    "parameters": lambda f: f.cache_parameters(),
}
CALLS = {
    "cache": BASIC | READING | MAPPING,
    "expiring": BASIC | READING | MAPPING,
    "tagged": BASIC | READING | MAPPING,
    "through": BASIC,
    "behind": BASIC | {"flush": lambda c: c.flush(5), "pending": lambda c: c.pending},
    "journaled": BASIC | {"flush": lambda c: c.flush(5), "pending": lambda c: c.pending},
    "tiers": BASIC | READING | {"barrier": lambda c: c.barrier()},
    "function": FUNCTION,
    "distributed_function": FUNCTION,
}
HAS_REDIS = importlib.util.find_spec("redis") is not None
needs_redis = pytest.mark.skipif(not HAS_REDIS, reason="redis-py is not installed")
UNAVAILABLE = [cachebox.BackendUnavailable] if HAS_REDIS else []        # imported now, not in the middle of an import
MADE = [pytest.param(made, marks=needs_redis) if made in ("tiers", "distributed_function") else made for made in CALLS]


def quietly(call, thing):
    """Make a call, which may find nothing."""
    with contextlib.suppress(KeyError):
        call(thing)


def in_between(call, thing):
    """The same in the middle of another call, which may keep a server from answering in time."""
    with contextlib.suppress(KeyError, *UNAVAILABLE):
        call(thing)


def interrupted_at(n, call, inner):
    """Make a call, and another one in the middle of it: after n bytecodes of this package. Whether it came to that."""
    left = [n]

    def trace(frame, event, arg):
        if frame.f_code.co_filename.startswith(PACKAGE):
            frame.f_trace_opcodes = True
            if event == "opcode":
                left[0] -= 1
                if left[0] == 0:
                    inner()
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return left[0] <= 0


def interrupt_all(served, made, rounds, seed):
    """Interrupt each call of a new object, at random places, by random other ones."""
    chance = random.Random(seed)
    calls = CALLS[made]
    for name, call in calls.items():
        for _ in range(rounds):
            thing = getattr(served, made)()
            inner = chance.choice(list(calls.values()))
            n = int(2 ** chance.uniform(0, 11))
            Started(interrupted_at, n, lambda: quietly(call, thing), lambda: in_between(inner, thing)).result()
            Started(quietly, call, thing).result()      # it works on, from any thread
            if name == "set":
                Started(quietly, BASIC["get"], thing).result()


@pytest.mark.parametrize("made", MADE)
def test_interrupted_at_any_bytecode(request, made):
    with Served(request) as served:
        interrupt_all(served, made, 1, made)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("made", MADE)
def test_interrupted_at_any_bytecode_for_long(request, made, seed):
    with Served(request) as served:
        interrupt_all(served, made, 20, f"{made}{seed}")


def interrupt_by_collector(served, made, rounds, seed):
    """Have the collector run all the time, and use the object whenever it does."""
    chance = random.Random(seed)
    calls = CALLS[made]
    busy, callers = [], set()

    def use(phase, info):
        if not busy and threading.current_thread() in callers:      # others may be the object's own
            busy.append(1)
            try:
                in_between(chance.choice(list(calls.values())), thing)
            finally:
                busy.clear()

    def make_all():
        callers.add(threading.current_thread())
        gc.callbacks.append(use)
        before = gc.get_threshold()
        gc.set_threshold(1, 1, 1000)
        try:
            for call in calls.values():
                quietly(call, thing)
        finally:
            gc.set_threshold(*before)
            gc.callbacks.remove(use)

    for _ in range(rounds):
        thing = getattr(served, made)()
        Started(make_all).result()
        for call in calls.values():
            Started(quietly, call, thing).result()


@pytest.mark.parametrize("made", MADE)
def test_interrupted_by_the_collector(request, made):
    with Served(request) as served:
        interrupt_by_collector(served, made, 1, made)


@pytest.mark.slow
@pytest.mark.parametrize("made", MADE)
def test_interrupted_by_the_collector_for_long(request, made):
    with Served(request) as served:
        interrupt_by_collector(served, made, 50, f"long {made}")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no such timers")
@pytest.mark.parametrize("made", MADE)
def test_interrupted_by_signals(request, made):
    """Real signals, which come at any time in the first calls of new objects."""
    chance = random.Random(made)
    calls = list(CALLS[made].values())
    came = []

    def handle(number, frame):
        came.append(1)
        in_between(chance.choice(calls), thing)

    with Served(request) as served:
        before = signal.signal(signal.SIGALRM, handle)
        try:
            for _ in range(30):
                thing = getattr(served, made)()
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 1e-3))
                for call in chance.sample(calls, min(4, len(calls))):
                    quietly(call, thing)
                signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


class Stop(KeyboardInterrupt):
    """What a signal handler raises, to end what it interrupts."""


def stopped(calls, thing, chance):
    """Make calls until a signal stops them, at a random time soon. What has stopped them."""
    try:
        # again and again, because a weak reference's callback may swallow one
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(2e-5, 2e-3), 1.0)
        while True:
            for call in calls:
                quietly(call, thing)
    except Stop as stop:
        return stop


@pytest.mark.skipif(
    sys.version_info >= (3, 14),
    reason="CPython 3.14 handles signals between the end of `__enter__` and the block of a `with`: locks stay locked",
)
@pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(),
    reason="without the GIL a call that a signal handler's exception ends can leave a lock behind: not mended yet",
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # connections that were being opened
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no such timers")
@pytest.mark.parametrize("made", MADE)
def test_what_a_call_has_when_a_signal_stops_it_is_free_again(request, made):
    """Ctrl-C, or a time-out by a signal, may end a call anywhere. Another thread uses the same object afterwards."""
    chance = random.Random(made)
    calls = [call for name, call in CALLS[made].items() if name not in ("barrier", "flush", "warm")]

    def stop(number, frame):
        raise Stop

    with Served(request) as served:
        thing = getattr(served, made)()
        before = signal.signal(signal.SIGALRM, stop)
        try:
            for _ in range(40):
                try:
                    assert stopped(calls, thing, chance)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                for call in calls:
                    Started(quietly, call, thing).result()
        finally:
            signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("before", ["nothing", "a write"])
def test_a_write_of_a_queue_is_interrupted_by_one_of_its_key(before):
    for n in range(1, 100):
        queue = WriteQueue(batch_size=10, max_delay=0.0, max_queue=10)
        if before == "a write":
            queue.accept("a", 0, 0.0, ())
        interrupted_at(n, lambda: queue.accept("a", 1, 0.0, ()), lambda: queue.accept("a", 2, 0.0, ()))
        assert list(queue.fresh.values()) == list(queue.pending.values())
        assert [write.key for write in queue.take(1.0)] == ["a"] and not queue.fresh and not queue.pending


def test_a_section_tells_whether_a_thread_is_in_it():
    section = Section()
    assert section.locked() is False
    with section, section:
        assert section.locked() is Started(section.locked).result() is True
    assert Started(section.locked).result() is False and section.condition().notify_all


@needs_redis
def test_who_is_in_a_critical_section_waits_for_no_other_thread(request):
    """A callback of the collector runs in the middle of a critical section: other threads may want the section."""
    with Served(request) as served:
        cache = served.tiers()
        begun, go_on = threading.Event(), threading.Event()

        def lead():
            begun.set()
            assert go_on.wait(60)
            return "leader's"

        leader = Started(cache.get_or_set, "led", lead)
        assert begun.wait(60)

        def interrupted():
            with cache._tier.lock:
                warmed = cache.warm(["x", "y", "z"], str, workers=2)
                return warmed.loaded, cache.get_or_set("led", lambda: "own")

        assert Started(interrupted).result() == (3, "own")
        go_on.set()
        assert leader.result() == "leader's"
