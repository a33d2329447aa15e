"""One computation for a cold key, over threads, tasks and processes."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import threading
import time

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

from cachebox import AsyncDistributedCache, DistributedCache
from cachebox.distributed._ops import leases
from in_threads import Started, must_end, run_all, wait_for, wait_until
from second_tiers import BOTH

SECOND_TIERS = BOTH


def said(process: subprocess.Popen, *, limit: float = 60) -> str:
    """The output of a process, once it has ended well."""
    output, _ = process.communicate(timeout=limit)
    assert process.returncode == 0
    return output


# The count of computations is kept by the server itself, next to the cache.
WORKER = """
import sys, threading, time
import redis
from cachebox import DistributedCache

port, threads, processes = map(int, sys.argv[1:4])
counter = redis.Redis(port=port)
with DistributedCache(redis_port=port) as cache:
    def factory():
        counter.incr("computed")
        while int(counter.get("waiting") or 0) < processes * threads:
            time.sleep(0.01)
        if sys.argv[4] == "fails":
            raise ValueError("boom")
        return ["value"]
    results = []
    def call():
        try:
            results.append(cache.get_or_set("cold", factory))
        except ValueError as error:
            results.append(str(error))
    cache.get("warm")
    print("ready", flush=True)
    sys.stdin.readline()
    all = [threading.Thread(target=call) for _ in range(threads)]
    [t.start() for t in all]
    while cache.stats.misses < 1 + threads:
        time.sleep(0.01)
    counter.incrby("waiting", threads)
    [t.join() for t in all]
    print(results)
"""


def run_workers(program, server, processes, threads, what):
    workers = [program(WORKER, server.port, threads, processes, what) for _ in range(processes)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    return [said(worker) for worker in workers]


def test_one_computation_over_processes_and_threads(program, server):
    for output in run_workers(program, server, 4, 4, "works"):
        assert output == f"{[['value']] * 4}\n"
    assert server.client().get("computed") == b"1"


@pytest.mark.slow
def test_one_computation_over_six_processes_of_eight_threads(program, server):
    for output in run_workers(program, server, 6, 8, "works"):
        assert output == f"{[['value']] * 8}\n"
    assert server.client().get("computed") == b"1"


@pytest.mark.parametrize("processes, threads", [(3, 4), pytest.param(6, 8, marks=pytest.mark.slow)])
def test_exceptions_reach_the_waiters_and_are_not_cached(program, server, processes, threads):
    for output in run_workers(program, server, processes, threads, "fails"):
        assert output == f"{['boom'] * threads}\n"
    assert server.client().get("computed") == b"1"
    with DistributedCache(**server.at) as cache:
        assert "cold" not in cache
        assert cache.get_or_set("cold", lambda: 1) == 1


LEADER = """
import json, sys, time
from cachebox import DistributedCache
from cachebox.distributed._ops import leases
from cachebox.distributed._ops import single_flight as loading
leases.LEASE_MS, leases.RENEWED_EVERY = int(sys.argv[2]), int(sys.argv[2]) / 4000
cache = DistributedCache(**json.loads(sys.argv[1]))
def factory():
    print("leads", flush=True)
    time.sleep(1000)
cache.get_or_set("k", factory)
"""


@pytest.mark.parametrize("lease", [1000, pytest.param(None, marks=pytest.mark.slow)])
def test_a_dead_leader_is_replaced(program, server, lease):
    lease = lease or leases.LEASE_MS
    leader = program(LEADER, json.dumps(server.at), lease)
    assert leader.stdout.readline() == "leads\n"
    with DistributedCache(**server.at) as cache:
        waiter = Started(lambda: cache.get_or_set("k", lambda: "second"))
        wait_until(lambda: cache.stats.link == "up" and cache.stats.misses == 1)
        leader.send_signal(signal.SIGKILL)
        leader.wait(10)
        begun = time.monotonic()
        assert waiter.result() == "second"
        assert time.monotonic() - begun < lease / 1000 + 3.0 <= 8.0
        assert cache.get("k") == "second"


def test_the_lease_of_a_living_leader_is_renewed(server, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_MS", 400)
    monkeypatch.setattr(leases, "RENEWED_EVERY", 0.1)
    with DistributedCache(**server.at) as a, DistributedCache(**server.at) as b:
        begun, go_on = threading.Event(), threading.Event()

        def slow():
            begun.set()
            wait_for(go_on)
            return 1

        leader = Started(lambda: a.get_or_set("k", slow))
        wait_for(begun)
        waiter = Started(lambda: b.get_or_set("k", lambda: pytest.fail("it lives")))
        end = time.monotonic() + 1.0  # more than two leases
        wait_until(lambda: time.monotonic() > end)
        go_on.set()
        assert leader.result() == waiter.result() == 1


@must_end
def test_a_long_chore_does_not_keep_leases_from_being_renewed(server, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_MS", 60_000)
    monkeypatch.setattr(leases, "RENEWED_EVERY", 0.01)
    with DistributedCache(**server.at) as cache:
        cleaning, go_on, renewed = threading.Event(), threading.Event(), []

        def clean(*args):                       # there is much to remove
            cleaning.set()
            return go_on.wait(60)

        monkeypatch.setattr(cache._core.topology, "clean", clean)
        cache.clear()
        wait_for(cleaning)
        renew = cache._loader.leases._renew
        monkeypatch.setattr(cache._loader.leases, "_renew", lambda token: renewed.append(token) or renew(token))
        assert cache.get_or_set("k", lambda: wait_until(lambda: len(renewed) > 2) or 1) == 1
        assert not go_on.is_set()
        go_on.set()


@must_end
@pytest.mark.parametrize("how", ["interrupted", "no answer"])
def test_a_leader_whose_value_is_not_stored_leaves_no_lease(how, server, monkeypatch):
    from cachebox.distributed._net.effects import Failure
    from cachebox.distributed._wire.scripts import COMPLETE

    monkeypatch.setattr(leases, "LEASE_MS", 3_600_000)
    monkeypatch.setattr(leases, "PATIENCE", 3600.0)
    with DistributedCache(**server.at) as a, DistributedCache(**server.at) as b:
        call = a._core.call

        def broken(script, *args, **options):
            if script is not COMPLETE:
                return (yield from call(script, *args, **options))
            if how == "interrupted":
                raise KeyboardInterrupt
            return Failure(TimeoutError("no answer in time"), True, False)

        monkeypatch.setattr(a._core, "call", broken)
        if how == "interrupted":
            with pytest.raises(KeyboardInterrupt):
                a.get_or_set("k", lambda: 1)
        else:
            assert a.get_or_set("k", lambda: 1) == 1
        assert b.get_or_set("k", lambda: 2) == 2
        assert not a._loader.leases._asked and not a._loader.leases._kept


@must_end
def test_leases_of_many_that_got_no_answer_are_given_up(server, monkeypatch):
    from cachebox import cached_many
    from cachebox.distributed._net.effects import Failure

    monkeypatch.setattr(leases, "LEASE_MS", 3_600_000)
    monkeypatch.setattr(leases, "PATIENCE", 3600.0)
    with DistributedCache(**server.at) as a, DistributedCache(**server.at) as b:
        f, g = (cached_many(cache, name="f")(lambda keys: dict.fromkeys(keys, 1)) for cache in (a, b))
        send = a._core.send_writes

        def unanswered(commands, groups, deadline, deletes=False):
            rows = yield from send([], [], deadline, deletes)
            failed = Failure(TimeoutError("no answer in time"), True, False)
            return rows + [(group, failed, a._tier.begin_write(())) for group in groups]

        monkeypatch.setattr(a._core, "send_writes", unanswered)
        assert f(["x", "y"]) == g(["x", "y"]) == {"x": 1, "y": 1}


def test_waiters_elsewhere_wake_at_once(server):
    with DistributedCache(**server.at) as a, DistributedCache(**server.at) as b:
        begun, go_on = threading.Event(), threading.Event()

        def slow():
            begun.set()
            wait_for(go_on)
            return 1

        leader = Started(lambda: a.get_or_set("k", slow))
        wait_for(begun)
        waiter = Started(lambda: b.get_or_set("k", lambda: pytest.fail("it lives")))
        wait_until(lambda: b.stats.misses == 1)
        go_on.set()
        leader.result()
        ended = time.monotonic()
        assert waiter.result() == 1
        assert time.monotonic() - ended < 1.0
        assert (a.stats.misses, b.stats.misses) == (1, 1)


@must_end
def test_coming_back_for_the_same_key_runs_the_factory_again(server):
    with DistributedCache(**server.at) as cache:
        assert cache.get_or_set("k", lambda: cache.get_or_set("k", lambda: "inner") + "!") == "inner!"
        assert cache.get("k") == "inner!"


@must_end
def test_a_circle_of_threads_does_not_hang(server):
    with DistributedCache(**server.at) as cache:
        both = threading.Barrier(2)

        def load(mine, others):
            def factory():
                both.wait(30)
                return mine + cache.get_or_set(others, lambda: others)

            return cache.get_or_set(mine, factory)

        results = run_all(lambda: load("a", "b"), lambda: load("b", "a"))
        assert all(set(result) <= {"a", "b"} for result in results)


def test_tasks_share_one_computation(server):
    async def main():
        async with AsyncDistributedCache(**server.at) as cache:
            computed = 0

            async def factory():
                nonlocal computed
                computed += 1
                await asyncio.sleep(0.05)
                return computed

            assert await asyncio.gather(*(cache.get_or_set("k", factory) for _ in range(50))) == [1] * 50
            assert cache.stats.misses == 50

            async def inner():
                return await cache.get_or_set("r", factory)

            async def outer():
                return await asyncio.gather(inner(), inner())  # tasks of the factory, for its own key

            assert len(await asyncio.wait_for(cache.get_or_set("r", outer), 10)) == 2
            assert computed == 3

    asyncio.run(main())


def test_a_cancelled_leader_hands_over(server):
    async def main():
        async with AsyncDistributedCache(**server.at) as cache:
            begun = asyncio.Event()

            async def never():
                begun.set()
                await asyncio.Event().wait()

            async def value():
                return 1

            leader = asyncio.create_task(cache.get_or_set("k", never))
            await begun.wait()
            waiter = asyncio.create_task(cache.get_or_set("k", value))
            while cache.stats.misses < 2:
                await asyncio.sleep(0.001)
            leader.cancel()
            assert await asyncio.wait_for(waiter, 7) == 1
            with pytest.raises(asyncio.CancelledError):
                await leader
            assert await cache.get("k") == 1

    asyncio.run(main())


@pytest.mark.parametrize("call", ["get_or_set", "warm"])
@pytest.mark.parametrize("n", range(12))
def test_whoever_is_cancelled_leaves_no_lease(call, server, n, monkeypatch):
    """A lease that was asked for, and has no answer yet, goes, too."""
    monkeypatch.setattr(leases, "LEASE_MS", 60_000)

    async def main():
        async with AsyncDistributedCache(**server.at, timeout=10.0) as cache:
            await cache.barrier()

            async def never(*key):
                await asyncio.Event().wait()

            asked = cache.get_or_set("k", never) if call == "get_or_set" else cache.warm(["k"], never)
            task = asyncio.create_task(asked)
            for _ in range(n):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert await asyncio.wait_for(cache.get_or_set("k", lambda: 1), 20) == 1

    asyncio.run(main())


@pytest.mark.parametrize("where", ["keep", "complete", "load_as_leader"])
def test_whoever_is_interrupted_leaves_no_lease(server, monkeypatch, where):
    """Also where no code of the user's runs: after the lease was granted, and before the value is stored."""
    monkeypatch.setattr(leases, "LEASE_MS", 60_000)
    monkeypatch.setattr(leases, "PATIENCE", 1000.0)

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    with DistributedCache(**server.at, timeout=10.0) as cache:
        with monkeypatch.context() as patched:
            patched.setattr(cache._loader.leases if where == "keep" else cache._loader, where, interrupt)
            with pytest.raises(KeyboardInterrupt):
                cache.get_or_set("k", lambda: 1)
        assert Started(cache.get_or_set, "k", lambda: 2).result() == 2


@pytest.mark.parametrize("n", range(0, 40, 3))
def test_cancellation_anywhere_leaves_the_cache_usable(server, n):
    async def main():
        async with AsyncDistributedCache(**server.at) as cache:

            async def work():
                await cache.set("k", 1)
                await cache.get("k")
                await cache.increment("n")
                await cache.get_or_set("x", lambda: asyncio.sleep(0, 5))
                await cache.get_many(["k", "x"])
                await cache.barrier()
                await cache.delete("x")
                await cache.clear()

            task = asyncio.create_task(work())
            for _ in range(n):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await cache.set("k", [2])
            assert await cache.get("k") == [2]
            assert await cache.get_or_set("x", lambda: 6) in (5, 6)
            await cache.barrier()
            tier = cache._tier
            assert (tier._check(), len(asyncio.all_tasks())) == (None, 1)

    asyncio.run(main())


def test_without_single_flight_each_computes(server):
    from cachebox import cached

    with DistributedCache(**server.at) as cache:
        both = threading.Barrier(2)

        @cached(cache, single_flight=False)
        def f(x):
            both.wait(30)
            return x

        assert run_all(lambda: f(1), lambda: f(1)) == [1, 1]
        assert f(1) == 1


def test_an_isolated_waiter_gets_a_value_of_its_own(server):
    with DistributedCache(**server.at, isolate=True) as cache:
        begun, go_on = threading.Event(), threading.Event()

        def slow():
            begun.set()
            wait_for(go_on)
            return [1]

        leader = Started(lambda: cache.get_or_set("k", slow))
        wait_for(begun)
        waiter = Started(lambda: cache.get_or_set("k", list))
        wait_until(lambda: cache.stats.misses == 2)
        go_on.set()
        assert leader.result() == waiter.result() == [1]
        assert leader.result() is not waiter.result()
