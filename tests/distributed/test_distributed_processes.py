"""Forks, ends, and what is left behind: nothing."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import warnings

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

from both_kinds import KINDS, make
from cachebox import AsyncDistributedCache, DistributedCache
from in_threads import run_all, wait_until

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("cachebox-")}


def sockets():
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system has no /proc")


@needs_proc
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_after_close(kind, server):
    gc.collect()
    before = threads(), sockets()
    cache = make(kind, redis_port=server.port)
    cache.set("k", 1, ttl=100)
    cache.get("k")
    cache.get_or_set("x", lambda: 1)
    cache.barrier()
    cache.clear()
    if kind == "sync":
        run_all(*[lambda: cache.get("y")] * 8)
    assert threads() - before[0]
    cache.close()
    cache.close()
    gc.collect()
    assert (threads() - before[0], sockets() - before[1]) == (set(), set())
    if kind == "sync":
        for call in (lambda: cache.get("k"), lambda: cache.set("k", 1), lambda: cache.barrier()):
            with pytest.raises(RuntimeError, match="closed"):
                call()


@needs_proc
def test_a_cache_that_nobody_closed_leaves_nothing_either(server):
    gc.collect()
    before = threads(), sockets()
    cache = DistributedCache(redis_port=server.port)
    cache.set("k", 1)
    assert cache.get("k") == 1
    del cache
    gc.collect()
    wait_until(lambda: (threads() - before[0], sockets() - before[1]) == (set(), set()))


def test_the_caches_of_a_process_do_not_keep_it_alive(server):
    import subprocess

    code = f"""
from cachebox import DistributedCache
cache = DistributedCache(redis_port={server.port})
cache.set("k", 1)
print(cache.get("k"))
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def in_child(body):
    """Run a function in a forked child; it must return something true."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of multi-threaded forks
        child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if body() else 2
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@needs_fork
def test_usable_in_the_child_of_a_fork_and_in_its_parent(server):
    with DistributedCache(redis_port=server.port) as cache:
        cache.set("k", [1])
        assert cache.get("k") == cache.get("k") == [1]

        def child():
            assert len(cache._tier.first) == 0
            assert cache.get("k") == [1]
            assert cache.get("k") == [1]
            cache.set("k", [2])
            assert cache.get_or_set("x", lambda: 7) == 7
            cache.barrier()
            local = cache.stats.local_hits
            cache.get("k"), cache.get("k")
            assert cache.stats.local_hits > local
            cache.close()
            return True

        for _ in range(3):
            assert in_child(child) == 0
            cache.barrier()
            assert cache.get("k") == [2]
            cache.set("k", [1])
            assert cache.get("k") == cache.get("k") == [1]
        assert cache._tier.is_fresh


@needs_fork
def test_a_cache_made_before_the_fork_and_used_after_it(server):
    cache = DistributedCache(redis_port=server.port)
    with cache:
        assert in_child(lambda: cache.set("k", 1) is None and cache.get("k") == 1) == 0
        assert cache.get("k") == 1


@needs_fork
def test_an_async_cache_in_the_child_of_a_fork(server):
    cache = AsyncDistributedCache(redis_port=server.port)

    async def use():
        await cache.set("k", 1)
        return await cache.get("k") == 1 == await cache.get("k")

    assert in_child(lambda: asyncio.run(use())) == 0
    assert asyncio.run(use())
    asyncio.run(cache.close())


def test_one_async_cache_serves_several_event_loops(server):
    cache = AsyncDistributedCache(redis_port=server.port)

    async def use(i):
        await cache.set("k", i)
        assert await cache.get("k") == i

    for i in range(3):
        asyncio.run(use(i))
    run_all(*[lambda i=i: asyncio.run(cache.set(f"k{i}", i)) for i in range(4)])
    asyncio.run(cache.close())


def test_a_client_that_was_given_stays_open(server):
    client = server.client()
    with DistributedCache(client=client) as cache:
        cache.set("k", 1)
    assert client.ping()
    client.close()


def test_closing_while_others_use_it_ends_them_well(server):
    cache = DistributedCache(redis_port=server.port)
    cache.set("k", 1)
    begun = threading.Event()

    def use():
        try:
            while True:
                cache.get_many(["k", "x"])
                begun.set()
        except RuntimeError as error:
            return str(error)

    def close():
        begun.wait(30)
        cache.close()
        return "this cache is closed"

    assert set(run_all(use, use, use, close)) == {"this cache is closed"}


def test_it_cannot_be_pickled(server):
    import pickle

    with DistributedCache(redis_port=server.port) as cache:
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(cache)
