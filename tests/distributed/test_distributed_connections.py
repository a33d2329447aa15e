"""Connections: a bound that all share, closed when idle, and none that the network has forgotten costs a call."""

from __future__ import annotations

import asyncio
import gc
import socket
import time

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

import redis

from both_kinds import KINDS, make
from cachebox import AsyncDistributedCache, BackendUnavailable, DistributedCache
from cachebox.distributed._net import asyncio_driver as awaiting
from cachebox.distributed._net import blocking_driver as blocking
from cachebox.distributed._net import pool
from cachebox.distributed._net.pool import ConnectionPool, PoolWaiter
from cachebox.distributed._ops import operations as core
from in_threads import must_end, run_all, wait_until
from redis_servers import Cluster, Proxy, needs_server

pytestmark = needs_server


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def clients(server):
    """How many connections the server has, not counting the one that asks."""
    with server.client() as client:
        return client.info("clients")["connected_clients"] - 1


def node_of(cache):
    (node,) = cache._core.topology.masters
    return node


def open_some(cache, n, idle_for=0.0):
    """Open `n` idle connections, which were last used `idle_for` seconds ago."""
    node = node_of(cache)
    until = time.monotonic() + 30

    def places():
        return [place for place in (node.pool.take_place() for _ in range(n)) if place is not None]

    async def open_in_loop():
        home = asyncio.get_running_loop()
        return [await awaiting.new_connection(node, until, place) for place in places()], home

    if isinstance(cache, DistributedCache):
        connections, home = [blocking.new_connection(node, until, place) for place in places()], None
    else:
        connections, home = cache.loop.run_until_complete(open_in_loop())
    for connection in connections:
        node.pool.give_back(connection, home)
    idle = node.idle if home is None else node.by_loop[home].idle
    for connection in idle:
        connection.used_at -= idle_for
    return idle


# --- forgotten by the network -----------------------------------------------------------------------------------------


CALLS = {
    "get": lambda cache: cache.get("k") == 1,
    "set": lambda cache: cache.set("k", 1) is None,
    "get_many": lambda cache: cache.get_many(["k"]) == {"k": 1},
    "delete": lambda cache: cache.delete("absent") is False,
    "get_or_set": lambda cache: cache.get_or_set("k", lambda: 2) == 1,
    "increment": lambda cache: cache.increment("n") == 1,
    "prefix": lambda cache: cache.invalidate_prefix("x") == 0,
    "tag": lambda cache: cache.invalidate_tag("t") == 0,
}


@pytest.mark.parametrize(
    ("name", "idle_for"),
    [*((name, idle_for) for name in CALLS for idle_for in (2.0, 60.0)), ("get", 0.0), ("set", 0.0), ("get_many", 0.0)],
)
@must_end
def test_a_forgotten_connection_costs_no_call(kind, server, name, idle_for):
    with Proxy(server.port) as proxy:
        with make(kind, redis_port=proxy.port, timeout=2.0, invalidation=False, max_staleness=0.001) as cache:
            cache.set("k", 1)
            open_some(cache, 5, idle_for)
            proxy.forget()
            assert CALLS[name](cache)
            begun = time.monotonic()
            for _ in range(10):
                assert cache.get("k") == 1
            assert time.monotonic() - begun < 1.5, "the others that were idle as long are not tried"
            assert (cache.stats.errors, cache.stats.breaker) == (0, "closed")


@must_end
def test_many_threads_whose_connections_are_forgotten(server):
    with Proxy(server.port) as proxy:
        with DistributedCache(redis_port=proxy.port, timeout=6.0, max_connections=8) as cache:
            cache.set("k", 1)
            open_some(cache, 8)
            proxy.forget()
            run_all(*[lambda: cache.set("k", 1)] * 24)
            assert (cache.stats.errors, cache.stats.breaker) == (0, "closed")
            assert node_of(cache).pool.size <= 8


@must_end
def test_many_tasks_whose_connections_are_forgotten(server):
    async def main():
        async with AsyncDistributedCache(redis_port=proxy.port, timeout=6.0, max_connections=4) as cache:
            await asyncio.gather(*(cache.set(f"k{i}", i) for i in range(8)))
            proxy.forget()
            assert await asyncio.gather(*(cache.get(f"k{i}") for i in range(24))) == [*range(8), *[None] * 16]
            assert (cache.stats.errors, cache.stats.breaker) == (0, "closed")
            assert node_of(cache).pool.size <= 4

    with Proxy(server.port) as proxy:
        asyncio.run(main())


@must_end
def test_a_slow_server_is_listened_to_while_it_is_asked_anew(kind, server):
    """The answer comes when a second connection has been opened, or was about to be: the first question counts."""
    with Proxy(server.port) as proxy:
        with make(kind, redis_port=proxy.port, timeout=2.0, invalidation=False, max_staleness=0.001) as cache:
            cache.set("k", 1)
            open_some(cache, 1, 2.0)
            proxy.slowness = 1.4
            assert cache.get("k") == 1
            assert cache.stats.errors == 0
            proxy.slowness = 0.0
            assert cache.get("k") == 1 and node_of(cache).pool.size <= 3


@must_end
def test_old_connections_have_to_give_a_sign_of_life(kind, server):
    with Proxy(server.port) as proxy:
        with make(kind, redis_port=proxy.port, timeout=10.0, invalidation=False, max_staleness=0.001) as cache:
            cache.set("k", 1)
            open_some(cache, 1)
            proxy.requests.clear()
            assert cache.get("k") == 1
            assert not any(b"PING" in data for data in proxy.requests)
            open_some(cache, 1, pool.TRUSTED + 1)
            accepted = proxy.accepted
            proxy.requests.clear()
            assert cache.get("k") == 1
            assert b"PING" in proxy.requests[0] and proxy.accepted == accepted


@must_end
def test_an_answer_that_comes_late_is_nobody_elses(kind, server):
    with Proxy(server.port) as proxy:
        with make(kind, redis_port=proxy.port, timeout=0.3, invalidation=False, max_staleness=0.001) as cache:
            cache.set_many({f"k{i}": i for i in range(50)})
            for i in range(50):
                proxy.slowness = 0.35 if i % 10 == 5 else 0.0
                assert cache.get(f"k{i}") in (i, None)
            proxy.slowness = 0.0
            wait_until(lambda: cache.get("k7") == 7)
            assert all(cache.get(f"k{i}") == i for i in range(50))


@must_end
def test_a_cluster_whose_connections_are_forgotten(kind):
    with Cluster(3) as cluster:
        proxies = {server.port: Proxy(server.port) for server in cluster.servers}
        try:
            ways = {port: proxy.port for port, proxy in proxies.items()}
            client = redis.RedisCluster(
                startup_nodes=[redis.cluster.ClusterNode("127.0.0.1", next(iter(ways.values())))],
                address_remap=lambda address: (address[0], ways.get(address[1], address[1])),
            )
            with make(kind, client=client, timeout=4.0, invalidation=False, max_staleness=0.001) as cache:
                items = {f"k{i}": i for i in range(60)}
                cache.set_many(items)
                for proxy in proxies.values():
                    proxy.forget()
                assert cache.get_many(items) == items
                assert (cache.stats.errors, cache.stats.breaker) == (0, "closed")
            client.close()
        finally:
            for proxy in proxies.values():
                proxy.close()


# --- the bound --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3, 64])
@must_end
def test_300_threads_at_once(own, limit):
    with DistributedCache(redis_port=own.port, timeout=60, max_connections=limit) as cache:
        cache.set("k", 1)
        own.client().execute_command("CLIENT", "PAUSE", 700, "ALL")
        assert run_all(*[lambda: cache.get_or_set("m", lambda: 1)] * 300) == [1] * 300
        assert node_of(cache).pool.size <= limit
        assert clients(own) <= limit + 1, "the link comes on top"
        assert (cache.stats.errors, cache.stats.breaker) == (0, "closed")
        assert not node_of(cache).pool.queue


@must_end
def test_waiting_keeps_the_deadline(kind, own):
    """All connections are in use by calls that a server does not answer."""
    with make(kind, redis_port=own.port, timeout=0.5, max_connections=1, invalidation=False) as cache:
        cache.set("k", 1)
        node = node_of(cache)
        node.close()
        taken = node.pool.take_place()          # another user's, which does not give it back
        begun = time.monotonic()
        with pytest.raises(BackendUnavailable, match="no connection became free in time"):
            cache.set("k", 2)
        assert 0.4 < time.monotonic() - begun < 5.0
        assert cache.stats.breaker == "closed", "which says nothing about the server"
        taken.leave()
        cache.set("k", 3)
        assert cache.get("k") == 3 and not node.pool.queue


@must_end
def test_threads_and_event_loops_share_the_bound(own):
    with AsyncLoops(own.port, max_connections=2) as loops:
        run_all(*[loops.work] * 5)
        assert loops.cache.stats.errors == 0
        assert node_of(loops.cache).pool.size <= 2 and clients(own) <= 3


class AsyncLoops:
    """One cache, used by the event loops of several threads."""

    def __init__(self, port, **options):
        self.cache = AsyncDistributedCache(redis_port=port, timeout=60, **options)

    def work(self):
        async def work():
            for i in range(20):
                await asyncio.gather(*(self.cache.set(f"k{j}", i) for j in range(4)))

        asyncio.run(work())

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        asyncio.run(self.cache.close())


@must_end
def test_a_cluster_with_one_connection_each_does_not_lock_up():
    with Cluster(3) as cluster:
        port = cluster.servers[0].port
        with DistributedCache(redis_port=port, timeout=60, max_connections=1) as cache:
            items = {f"k{i}": i for i in range(60)}

            def work():
                for _ in range(10):
                    cache.set_many(items)
                    cache.get_many([*items, "absent"])

            run_all(*[work] * 8)
            assert cache.stats.errors == 0


@must_end
def test_an_interrupted_call_gives_its_place_back(own):
    async def main():
        async with AsyncDistributedCache(redis_port=own.port, timeout=60, max_connections=2) as cache:
            await cache.set("k", 1)
            own.stall()
            tasks = [asyncio.create_task(cache.set("k", i)) for i in range(6)]
            await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            own.go_on()
            assert node_of(cache).pool.size == 0 and not node_of(cache).pool.queue
            await cache.set("k", 7)
            assert await cache.get("k") == 7

    asyncio.run(main())


@must_end
def test_a_cancelled_write_does_not_come_after_a_later_one(own):
    async def main():
        async with AsyncDistributedCache(redis_port=own.port, timeout=30, max_staleness=0.001) as cache:
            for i in range(200):
                task = asyncio.create_task(cache.set("k", -1))
                for _ in range(i % 4):
                    await asyncio.sleep(0)
                task.cancel()
                await cache.set("k", i)
                assert await cache.get("k") == i

    asyncio.run(main())


# --- idle -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("invalidation", [True, False])
@must_end
def test_idle_connections_are_closed(kind, own, monkeypatch, invalidation):
    monkeypatch.setattr(core, "REAPED_EVERY", 0.05)
    with make(kind, redis_port=own.port, timeout=30, invalidation=invalidation) as cache:
        cache.set("k", 1)
        open_some(cache, 10)
        assert clients(own) >= 10
        open_some(cache, 0, pool.IDLE - 1)
        cache.get("x"), cache.get("y")          # nothing is closed before its time
        assert node_of(cache).pool.size >= 10
        open_some(cache, 0, 2)
        if kind == "async":                     # its loop has to run
            wait_until(lambda: cache.set("k", 1) or node_of(cache).pool.size <= 1)
        wait_until(lambda: node_of(cache).pool.size <= 1)
        wait_until(lambda: cache.get("x") is None and clients(own) <= 2)
        assert cache.get("k") == 1, "and new ones are opened"


def test_what_was_used_last_is_used_next(server):
    with DistributedCache(redis_port=server.port, timeout=30) as cache:
        cache.set("k", 1)
        idle = open_some(cache, 3)
        last = idle[-1]
        for _ in range(5):
            cache.set("k", 1)
            assert idle[-1] is last


# --- places, by themselves --------------------------------------------------------------------------------------------


class Fake:
    """A connection without a server behind it."""

    def __init__(self, place):
        self.place = place
        self.used_at = 0.0
        self.closed = 0

    def close(self):
        self.closed += 1

    def close_on(self, loop):
        self.closed += 1


class FakeLanes:
    def __init__(self):
        self.idle = []


def test_places():
    woken = []
    places = ConnectionPool(2)
    one, two = places.take_place(), places.take_place()
    assert not places.take_place()
    first, second, third = (PoolWaiter(None, lambda i=i: woken.append(i)) for i in range(3))
    assert places.enqueue(first) and places.enqueue(second) and places.enqueue(third)
    one.leave()
    one.leave()
    assert woken == [0] and first.place and places.size == 2
    places.withdraw(second)
    connection = Fake(two)
    places.give_back(connection)
    assert woken == [0, 2] and third.connection is connection and places.idle == []
    places.withdraw(third)                      # it does not want it any more
    assert places.idle == [connection] and places.size == 2
    places.withdraw(first)
    assert places.size == 1
    places.close(until=-1.0)
    assert not connection.closed
    places.close()
    assert connection.closed == 1 and places.size == 0


def test_another_ones_idle_connection_makes_place():
    places = ConnectionPool(1)
    loop = object()
    places.by_loop[loop] = FakeLanes()
    theirs = Fake(places.take_place())
    places.give_back(theirs, loop)
    queued = PoolWaiter(None, pytest.fail)
    assert not places.enqueue(queued) and queued.place and theirs.closed == 1 and places.size == 1
    ours = Fake(queued.place)
    waiting = PoolWaiter(loop, lambda: None)
    queued.place = None
    assert places.enqueue(waiting)
    places.give_back(ours)                      # the waiter is of another home: it gets the place only
    assert waiting.place and ours.closed == 1 and places.size == 1


def test_one_that_became_free_meanwhile_is_taken():
    places = ConnectionPool(1)
    connection = Fake(places.take_place())
    places.give_back(connection)
    queued = PoolWaiter(None, pytest.fail)
    assert not places.enqueue(queued) and queued.connection is connection


def test_what_was_given_up_is_not_sent_later(kind):
    """Otherwise the system sends the rest of a write after the connection was closed, perhaps after later writes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connections = ConnectionPool(1)
        place = connections.take_place()
        if kind == "sync":
            connections.discard(blocking.Connection(socket.create_connection(listener.getsockname()), place))
        else:

            async def discard():
                streams = await asyncio.open_connection(*listener.getsockname())
                connections.discard(awaiting.AsyncConnection(*streams, place))
                await asyncio.sleep(0)

            asyncio.run(discard())
        accepted, _ = listener.accept()
        with accepted, pytest.raises(ConnectionResetError):
            accepted.recv(1)


def test_what_an_interruption_loses_goes_back():
    """A connection or a place that was on its way from one variable to another when KeyboardInterrupt was raised."""
    places, woken = ConnectionPool(1), []
    places.give_back(Fake(places.take_place()))
    places.idle.pop()
    gc.collect()
    assert places.size == 0
    lost = places.take_place()
    waiting = PoolWaiter(None, lambda: woken.append(1))
    assert places.enqueue(waiting)
    del lost
    gc.collect()
    assert woken and waiting.place and places.size == 1 and not places.queue
    places.renew()                              # in the child of a fork
    mine = places.take_place()
    waiting.place.leave()
    assert places.size == 1
    mine.leave()
    assert places.size == 0
