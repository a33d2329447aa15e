"""Refresh-ahead over two tiers: recomputed in the background, by one of all processes, while the old value is served.

An entry that is stored for 20 seconds, and then asked for as one that lives 1000, is in the last fifth of its lifetime:
so no test has to wait until one is.
"""

from __future__ import annotations

import asyncio
import datetime
import gc
import json
import os
import signal
import sys
import threading

import pytest

from conftest import named

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

from cachebox import AsyncDistributedCache, BackendUnavailable, DistributedCache, cached
from cachebox.distributed._ops import leases
from cachebox.distributed._ops import refresh as refreshing
from in_threads import Started, run_all, wait_for, wait_until
from second_tiers import BOTH

SECOND_TIERS = BOTH

SHORT, LONG = 20, 1000


def made(server, timeout=10, **options):
    return DistributedCache(**server.at, refresh_ahead=0.2, timeout=timeout, **options)


def refreshes(*caches):
    return sum(cache.stats.refreshes for cache in caches)


class Slow:
    """A factory that goes on when the test says so, and counts its calls."""

    def __init__(self, *results):
        self.results = iter(results)
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.runs = 0

    def __call__(self):
        self.runs += 1
        self.begun.set()
        wait_for(self.go_on)
        result = next(self.results)
        if isinstance(result, Exception):
            raise result
        return result


def unwanted():
    pytest.fail("there is no need for that")


def test_it_is_computed_in_the_background_while_the_old_value_is_served(server):
    with made(server) as cache:
        factory = Slow("new")
        cache.set("k", "old", SHORT)
        assert cache.get_or_set("k", factory, LONG) == "old"  # found on the server
        wait_for(factory.begun)
        for _ in range(10):
            assert cache.get_or_set("k", unwanted, LONG) == "old"  # found in the first tier
        factory.go_on.set()
        wait_until(lambda: refreshes(cache) == 1)
        assert cache.get_or_set("k", unwanted, LONG) == "new"
        assert cache.ttl("k") > SHORT
        assert factory.runs == 1
        assert cache.stats.misses == cache.stats.refresh_failures == cache.stats.fills_refused == 0


def test_what_is_not_due_stays(server):
    with made(server, default_ttl=LONG) as cache:
        cache.set("long", 1)
        cache.set("for ever", 2, float("inf"))
        for _ in range(2):
            assert cache.get_or_set("long", unwanted) == 1
            assert cache.get_or_set("for ever", unwanted) == 2
            assert cache.get_or_set("long", unwanted, float("inf")) == 1
        assert cache.get("long") == 1
    with DistributedCache(**server.at) as cache:  # without the option
        cache.set("k", 1, SHORT)
        assert cache.get_or_set("k", unwanted, LONG) == cache.get_or_set("k", unwanted, LONG) == 1


def test_get_starts_nothing(server):
    with made(server, default_ttl=LONG) as cache:
        cache.set("k", 1, SHORT)
        assert cache.get("k") == cache.get("k") == 1
        assert cache.get_many(["k"]) == {"k": 1}
        assert not cache._loader.refreshing._again


@pytest.mark.parametrize(
    "options", [{"invalidation": False}, {"isolate": True}, {"on_unavailable": "raise"}], ids=named
)
def test_with_other_options(server, options):
    if "invalidation" in options:
        assert server.port              # a folder sends no messages
    with made(server, **options) as cache:
        cache.set("k", ["old"], SHORT)
        assert cache.get_or_set("k", lambda: ["new"], LONG) == ["old"]
        wait_until(lambda: refreshes(cache) == 1)
        assert cache.get_or_set("k", unwanted, LONG) == ["new"]


def test_one_of_many_caches_and_threads(server):
    caches = [made(server) for _ in range(3)]
    caches[0].set("k", "old", SHORT)
    factory = Slow("new")

    def work(cache):
        for _ in range(100):
            assert cache.get_or_set("k", factory, LONG) == "old"

    run_all(*[lambda cache=cache: work(cache) for cache in caches for _ in range(4)])
    wait_for(factory.begun)
    factory.go_on.set()
    wait_until(lambda: refreshes(*caches) == 1)
    for cache in caches:
        cache.barrier()
        assert cache.get_or_set("k", unwanted, LONG) == "new"
        cache.close()
    assert factory.runs == 1


def test_who_does_not_lead_asks_once_in_a_while(server, monkeypatch):
    with made(server) as leads, made(server) as other:
        leads.set("k", "old", SHORT)
        factory = Slow("new")
        assert leads.get_or_set("k", factory, LONG) == "old"
        wait_for(factory.begun)
        asked = []
        lead = other._loader.lead
        monkeypatch.setattr(other._loader, "lead", lambda *args: asked.append(args[5:]) or lead(*args))
        assert other.get_or_set("k", unwanted, LONG) == "old"
        again = other._loader.refreshing._again
        wait_until(lambda: again.get("k", float("inf")) < float("inf"))
        for _ in range(100):
            assert other.get_or_set("k", unwanted, LONG) == "old"
        assert [due for due in asked if due] == [(b"200000",)]
        again["k"] -= refreshing.PAUSE  # as if that many seconds had passed
        assert other.get_or_set("k", unwanted, LONG) == "old"
        wait_until(lambda: len([due for due in asked if due]) == 2)
        factory.go_on.set()
        wait_until(lambda: refreshes(leads) == 1)
        other.barrier()
        assert other.get_or_set("k", unwanted, LONG) == "new"
        assert refreshes(other) == 0


WINNERS = {
    "set": (lambda cache: cache.set("k", "written"), "written"),
    "delete": (lambda cache: cache.delete("k"), None),
    "set_many": (lambda cache: cache.set_many({"k": "written"}), "written"),
    "clear": (lambda cache: cache.clear(), None),
    "invalidate_tag": (lambda cache: cache.invalidate_tag("t"), None),
    "invalidate_prefix": (lambda cache: cache.invalidate_prefix("k"), None),
}


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("how", WINNERS)
def test_what_happens_meanwhile_wins(server, how, elsewhere):
    act, outcome = WINNERS[how]
    with made(server) as cache, made(server) as other:
        factory = Slow("from before")
        cache.set("k", "old", SHORT, tags="t")
        assert cache.get_or_set("k", factory, LONG, tags="t") == "old"
        wait_for(factory.begun)
        act(other if elsewhere else cache)
        factory.go_on.set()
        wait_until(lambda: refreshes(cache) == 1)
        cache.barrier()
        assert cache.get("k") == outcome
        assert cache.stats.fills_refused == 1


def test_what_is_gone_before_it_begins_is_not_computed(server, monkeypatch):
    from cachebox._loading import refresh_pool as workers

    waiting = []
    monkeypatch.setattr(workers, "submit", lambda task: waiting.append(task) or True)
    with made(server) as cache:
        for key in ("deleted", "written", "gone"):
            cache.set(key, "old", SHORT)
            assert cache.get_or_set(key, unwanted, LONG) == "old"
        cache.delete("deleted")
        cache.set("written", "new", LONG)
        cache.clear()
        cache.set("written", "new", LONG)
        for task in waiting:
            task.run()
        assert len(waiting) == 3
        assert cache.get_many(["deleted", "written", "gone"]) == {"written": "new"}
        assert refreshes(cache) == cache.stats.refresh_failures == 0
        assert not cache._loader.refreshing._again


def test_where_the_pool_is_full_it_is_tried_again_later(server, monkeypatch):
    from cachebox._loading import refresh_pool as workers

    asked = []
    monkeypatch.setattr(workers, "submit", lambda task: asked.append(task) and False)
    with made(server) as cache:
        cache.set("k", "old", SHORT)
        for _ in range(5):
            assert cache.get_or_set("k", unwanted, LONG) == "old"
        assert len(asked) == 1
        assert 0 < cache._loader.refreshing._again["k"] < float("inf")


def test_a_failure_leaves_the_old_value_and_is_tried_again(server):
    with made(server) as cache:
        cache.set("k", "old", SHORT)
        factory = Slow(ValueError("boom"), "new")
        factory.go_on.set()
        for failures in (0, 1):
            assert cache.get_or_set("k", factory, LONG) == "old"
            wait_until(lambda failures=failures: cache.stats.refresh_failures + refreshes(cache) == failures + 1)
        assert cache.stats.refresh_failures == 1
        assert cache.get_or_set("k", unwanted, LONG) == "new"
        assert factory.runs == 2


def test_a_value_that_cannot_be_encoded_leaves_the_old_one(server):
    with made(server) as cache:
        cache.set("k", "old", SHORT)
        assert cache.get_or_set("k", lambda: {len}, LONG) == "old"
        wait_until(lambda: cache.stats.unstorable == 1)
        assert cache.get("k") == "old"


def test_whoever_misses_waits_for_the_refresh(server):
    with made(server) as cache, made(server) as other:
        factory = Slow("new")
        cache.set("k", "old", SHORT)
        assert cache.get_or_set("k", factory, LONG) == "old"
        wait_for(factory.begun)
        client = server.client()
        [name] = [name for name in client.keys("cachebox:*k") if b"v:k" in name]
        client.unlink(name)  # it expires, as it were
        cache.barrier()
        here = Started(lambda: cache.get_or_set("k", unwanted, LONG))
        there = Started(lambda: other.get_or_set("k", unwanted, LONG))
        wait_until(lambda: cache.stats.misses == other.stats.misses == 1)
        factory.go_on.set()
        assert here.result() == there.result() == "new"


def test_a_server_that_dies_meanwhile(own):
    with made(own, timeout=0.5) as cache:
        factory = Slow("new")
        cache.set("k", "old", SHORT)
        assert cache.get_or_set("k", factory, LONG) == "old"
        wait_for(factory.begun)
        own.kill()
        factory.go_on.set()
        wait_until(lambda: refreshes(cache) == 1)  # computed; whether it is stored is not known
        assert cache.stats.errors >= 1
        assert cache.get_or_set("k", lambda: "for now", LONG) == "for now"
        with pytest.raises(BackendUnavailable):
            cache.set("k", 1)


def test_decorated_functions(server):
    now = []
    with made(server) as cache:

        @cached(cache, ttl=lambda result: datetime.timedelta(seconds=result["lives"]), tags=lambda result, n: f"n{n}")
        def f(n):
            now.append(n)
            return {"lives": LONG, "run": len(now)}

        cache.set(f.cache_key(1), {"lives": LONG, "run": 0}, SHORT)
        assert f(1)["run"] == 0
        wait_until(lambda: refreshes(cache) == 1)
        assert f(1)["run"] == 1
        assert now == [1]
        assert cache.invalidate_tag("n1") == 1
        info = f.cache_info()
        assert (info.hits, info.misses) == (2, 0)

        @cached(cache, ttl=LONG, single_flight=False)
        def g(n):
            return "new"

        cache.set(g.cache_key(1), "old", SHORT)
        assert g(1) == "old"
        wait_until(lambda: refreshes(cache) == 2)
        assert g(1) == "new"


def test_tasks(server):
    async def main():
        async with AsyncDistributedCache(**server.at, refresh_ahead=0.2, timeout=10) as cache:
            begun, go_on = asyncio.Event(), asyncio.Event()

            async def slow():
                begun.set()
                await go_on.wait()
                return "new"

            @cached(cache, ttl=LONG)
            async def f(n):
                return await slow()

            key = f.cache_key(1)
            await cache.set(key, "old", SHORT)
            assert await asyncio.gather(*(f(1) for _ in range(20))) == ["old"] * 20
            await begun.wait()
            assert await f(1) == "old"
            go_on.set()
            while cache.stats.refreshes == 0:
                await asyncio.sleep(0.001)
            assert await f(1) == "new"
            assert cache.stats.misses == 0
            await cache.set("plain", "old", SHORT)
            assert await cache.get_or_set("plain", lambda: "new", LONG) == "old"
            while cache.stats.refreshes == 1:
                await asyncio.sleep(0.001)
            assert await cache.get("plain") == "new"

    asyncio.run(main())


async def begin_without_end(cache):
    """Start a refresh that waits without end."""
    begun = asyncio.Event()

    async def never():
        begun.set()
        await asyncio.Event().wait()

    await cache.set("k", "old", SHORT)
    assert await cache.get_or_set("k", never, LONG) == "old"
    await begun.wait()


def test_a_loop_that_ends_takes_its_refreshes_along(server, recwarn):
    async def main():
        async with AsyncDistributedCache(**server.at, refresh_ahead=0.2, timeout=10) as cache:
            await begin_without_end(cache)

    asyncio.run(main())
    assert not recwarn.list
    with made(server) as cache:
        assert cache.get("k") == "old"


def test_a_loop_that_is_left_does_not_keep_the_lease(server, caplog):
    loop = asyncio.new_event_loop()
    cache = AsyncDistributedCache(**server.at, refresh_ahead=0.2, timeout=10)

    loop.run_until_complete(begin_without_end(cache))
    assert cache._loader.leases._kept
    loop.close()  # as no program should: with a task under way
    gc.collect()
    assert "Task was destroyed but it is pending" in caplog.text
    assert not cache._loader.leases._kept
    assert not cache._loader.refreshing._again
    asyncio.run(cache.close())


def test_inside_a_factory_it_is_nobody_elses(server):
    """A refresh that a factory starts is no part of the factory: a wait for it closes no circle."""
    with made(server) as cache:
        cache.set("inner", "old", SHORT)
        factory = Slow("new")

        def outer():
            assert cache.get_or_set("inner", factory, LONG) == "old"
            wait_for(factory.begun)
            return "outer"

        assert cache.get_or_set("outer", outer, LONG) == "outer"
        factory.go_on.set()
        wait_until(lambda: refreshes(cache) == 1)


def test_a_closed_cache_computes_nothing(server, monkeypatch):
    from cachebox._loading import refresh_pool as workers

    waiting = []
    monkeypatch.setattr(workers, "submit", lambda task: waiting.append(task) or True)
    with made(server) as cache:
        cache.set("k", "old", SHORT)
        assert cache.get_or_set("k", unwanted, LONG) == "old"
    waiting[0].run()
    assert refreshes(cache) == cache.stats.refresh_failures == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_the_child_of_a_fork_has_refreshes_of_its_own(server):
    with made(server) as cache:
        factory = Slow("new")
        cache.set("k", "old", SHORT)
        assert cache.get_or_set("k", factory, LONG) == "old"
        wait_for(factory.begun)
        cache.set("other", "old", SHORT)
        cache.get("other")
        child = os.fork()
        if child == 0:
            try:
                assert cache.get_or_set("other", lambda: "new", LONG) == "old"
                assert not cache._loader.refreshing._again.keys() - {"other"}
                wait_until(lambda: refreshes(cache) == 1)
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        factory.go_on.set()
        wait_until(lambda: refreshes(cache) == 1)
        cache.barrier()
        assert cache.get_many(["k", "other"]) == {"k": "new", "other": "new"}


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (0, ValueError, "refresh_ahead must be greater than 0 and less than 1, not 0"),
        (1.0, ValueError, "refresh_ahead must be greater than 0 and less than 1, not 1.0"),
        (float("nan"), ValueError, "refresh_ahead must be greater than 0 and less than 1, not nan"),
        ("0.2", TypeError, "refresh_ahead must be a number or None, not str"),
        (True, TypeError, "refresh_ahead must be a number or None, not bool"),
    ],
)
def test_bad_input(given, error, says):
    with pytest.raises(error) as caught:
        DistributedCache(redis_port=1, refresh_ahead=given)
    assert str(caught.value) == says


# --- real processes ---------------------------------------------------------------------------------------------------

WORKER = """
import sys, threading, time
import redis
from cachebox import DistributedCache

port, threads, rounds = map(int, sys.argv[1:4])
counter = redis.Redis(port=port)
served = set()
with DistributedCache(redis_port=port, refresh_ahead=0.995, timeout=10) as cache:
    def factory():
        return counter.incr("computed")
    def work():
        while int(counter.get("computed") or 0) < rounds:
            served.add(cache.get_or_set("hot", factory, 100))
    all = [threading.Thread(target=work) for _ in range(threads)]
    [t.start() for t in all]
    [t.join() for t in all]
    print(cache.stats.misses, cache.stats.refresh_failures, cache.stats.refreshes, min(served, default=1) >= 1)
"""


def test_processes_refresh_a_hot_key_once_each_time(program, server):
    """A value is due half a second after it was computed: 4 processes of 4 threads compute it only then."""
    rounds = 4
    workers = [program(WORKER, server.port, 4, rounds) for _ in range(4)]
    outputs = [worker.communicate(timeout=60)[0].split() for worker in workers]
    assert {failures for _, failures, _, _ in outputs} == {"0"}
    assert {served for _, _, _, served in outputs} == {"True"}
    assert server.client().get("computed") == b"%d" % rounds
    assert sum(int(done) for _, _, done, _ in outputs) <= rounds - 1  # the last may not be in the count yet


LEADER = """
import json, sys, time
from cachebox import DistributedCache
from cachebox.distributed._ops import leases
leases.LEASE_MS, leases.RENEWED_EVERY = 1000, 0.25
cache = DistributedCache(**json.loads(sys.argv[1]), refresh_ahead=0.2, timeout=10)
def factory():
    print("leads", flush=True)
    time.sleep(1000)
cache.get_or_set("k", factory, 1000)
time.sleep(1000)
"""


def test_a_process_that_dies_meanwhile_is_replaced(program, server):
    with made(server) as cache:
        cache.set("k", "old", SHORT)
        leader = program(LEADER, json.dumps(server.at))
        assert leader.stdout.readline() == "leads\n"
        leader.send_signal(signal.SIGKILL)
        leader.wait(10)
        wait_until(lambda: cache.get_or_set("k", lambda: "new", LONG) == "new")
        wait_until(lambda: refreshes(cache) == 1)
        assert cache.stats.misses == 0
    assert leases.LEASE_MS == 5000
