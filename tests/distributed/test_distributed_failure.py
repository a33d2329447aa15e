"""Dead, stalled and unreliable servers: what is served, what raises, and how long it takes."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

from both_kinds import KINDS, make
from cachebox import AsyncDistributedCache, BackendUnavailable, DistributedCache, cached
from cachebox.distributed._near import tracking as link
from cachebox.distributed._net.asyncio_driver import PER_LOOP, LoopConnections
from in_threads import Lag, run_all, wait_until
from redis_servers import BINARIES, Proxy, Server, free_port

TIMEOUT = 0.2
SLACK = 0.05


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def calls(cache):
    return {
        "get": lambda: cache.get("absent"),
        "get_many": lambda: cache.get_many(["a", "absent"]),
        "in": lambda: "absent" in cache,
        "get_or_set": lambda: cache.get_or_set("absent", lambda: 1),
    }


def writes(cache):
    return {
        "set": lambda: cache.set("a", "failed"),
        "set_many": lambda: cache.set_many({"a": "failed", "b": "failed"}),
        "delete": lambda: cache.delete("a"),
        "delete_many": lambda: cache.delete_many(["a", "b"]),
        "touch": lambda: cache.touch("a", 10),
        "increment": lambda: cache.increment("n"),
        "clear": lambda: cache.clear(),
        "invalidate_tag": lambda: cache.invalidate_tag("t"),
        "invalidate_prefix": lambda: cache.invalidate_prefix("a"),
        "barrier": lambda: cache.barrier(),
    }


@pytest.fixture
def impatient(monkeypatch):
    """The link tries more often, for tests that are not about how often."""
    monkeypatch.setattr(link, "RETRY_APART", 0.25)


def filled(kind, port, **options):
    cache = make(kind, redis_port=port, timeout=TIMEOUT, max_staleness=0.25, **options)
    cache.set("a", "old")
    assert cache.get("a") == cache.get("a") == "old"
    return cache


def in_time(call, limit=TIMEOUT, slack=SLACK):
    """The outcome of a call that must return in time: as far as the machine lets this process run at all."""
    begun = time.monotonic()
    with Lag() as lag:
        try:
            return call()
        finally:
            taken = time.monotonic() - begun
            assert taken < limit + slack + lag.seconds, f"{taken:.3f} s, of which the machine took {lag.seconds:.3f}"


def test_without_a_server_from_the_beginning(kind):
    with make(kind, redis_port=free_port(), timeout=TIMEOUT) as cache:
        assert in_time(lambda: cache.get("k", "nothing")) == "nothing"
        assert in_time(lambda: cache.get_or_set("k", lambda: 5)) == 5
        assert in_time(lambda: cache.get_many(["k"])) == {}
        assert in_time(lambda: "k" in cache) is False
        for name, call in writes(cache).items():
            with pytest.raises(BackendUnavailable):
                in_time(call)
            assert name
        assert cache.stats.errors >= 10
        wait_until(lambda: cache.stats.breaker in ("open", "half-open"))


def test_raise_means_raise(kind):
    with pytest.raises(BackendUnavailable):
        with make(kind, redis_port=free_port(), timeout=TIMEOUT, on_unavailable="raise") as cache:
            cache.get("k")


def test_local_serves_what_is_there_while_the_server_is_dead(kind, own):
    with filled(kind, own.port) as cache:
        own.kill()
        wait_until(lambda: not cache._tier.is_fresh)
        before = cache.stats.stale_serves
        for _ in range(5):
            assert in_time(lambda: cache.get("a")) == "old"
        assert cache.stats.stale_serves == before + 5
        assert cache.get_many(["a", "x"]) == {"a": "old"}
        assert cache.get_or_set("a", lambda: pytest.fail("it is there")) == "old"
        assert cache.stats.stale_serves == before + 7
        misses = cache.stats.misses
        computed = []
        for _ in range(2):
            assert cache.get_or_set("x", lambda: computed.append(1) or 7) == 7
        assert len(computed) == 2  # computed, and not stored anywhere
        assert cache.stats.misses == misses + 2
        for call in writes(cache).values():
            with pytest.raises(BackendUnavailable):
                in_time(call)
        assert cache.get("a") in ("old", None)  # never "failed"
        assert cache.get("n") is None


def test_raise_raises_while_the_server_is_dead(kind, own):
    with filled(kind, own.port, on_unavailable="raise") as cache:
        own.kill()
        wait_until(lambda: not cache._tier.is_fresh)
        for call in [*calls(cache).values(), *writes(cache).values()]:
            with pytest.raises(BackendUnavailable):
                in_time(call)
        with pytest.raises(BackendUnavailable) as caught:
            cache.get_many(["a", "b"])
        assert caught.value.keys == {"a", "b"} and caught.value.partial == {}
        with pytest.raises(BackendUnavailable) as caught:
            cache.set("k", 1)
        assert caught.value.keys == {"k"}


@pytest.mark.parametrize("policy", ["local", "raise"])
def test_a_stalled_server_holds_nobody_up(kind, own, policy, impatient):
    cache = filled(kind, own.port, on_unavailable=policy)
    own.stall()
    try:
        wait_until(lambda: not cache._tier.is_fresh)
        for name, call in {**calls(cache), **writes(cache)}.items():
            if policy == "raise" or name in writes(cache):
                with pytest.raises(BackendUnavailable):
                    in_time(call)
            else:
                in_time(call)
        assert cache.stats.breaker in ("open", "half-open")
        begun = time.monotonic()
        for _ in range(50):  # nobody asks any more
            try:
                cache.get("absent")
            except BackendUnavailable:
                assert policy == "raise"
        assert time.monotonic() - begun < 0.5
    finally:
        own.go_on()
    begun = time.monotonic()
    wait_until(lambda: cache.stats.breaker == "closed" and cache._tier.is_fresh)
    assert time.monotonic() - begun < 5.0
    cache.set("a", "new")
    assert cache.get("a") == cache.get("a") == "new"
    cache.close()


def test_it_recovers_by_itself(kind, own):
    with filled(kind, own.port) as cache:
        for i in range(2 if kind == "sync" else 1):
            own.kill()
            wait_until(lambda: cache.stats.breaker != "closed" or cache.get("x"))
            own.start()
            begun = time.monotonic()

            def works(i=i):
                try:
                    cache.set("k", i)
                except BackendUnavailable:
                    return False
                return True

            wait_until(works)
            assert time.monotonic() - begun < 5.0
            wait_until(lambda: cache._tier.is_fresh)
            assert time.monotonic() - begun < 5.0
            assert cache.get("a") is None  # the new server never had it, nor has the first tier now
            assert cache.get("k") == i


def test_one_probe_per_interval(kind):
    with Proxy(free_port()) as nobody:  # accepts, and closes at once
        with make(kind, redis_port=nobody.port, timeout=TIMEOUT) as cache:
            wait_until(lambda: cache.get("k") is None and cache.stats.breaker != "closed")
            before, begun = nobody.accepted, time.monotonic()
            while time.monotonic() < begun + 1.2:
                cache.get("k")
            assert nobody.accepted - before <= (time.monotonic() - begun) / 1.0 + 1


def test_one_probe_per_interval_without_a_link(kind):
    with Proxy(free_port()) as nobody:
        with make(kind, redis_port=nobody.port, timeout=TIMEOUT, invalidation=False) as cache:
            wait_until(lambda: cache.get("k") is None and cache.stats.breaker != "closed")
            before, begun = nobody.accepted, time.monotonic()
            while time.monotonic() < begun + 1.2:
                cache.get("k")
            assert nobody.accepted - before <= (time.monotonic() - begun) / 1.0 + 1


def test_a_slow_handshake_is_part_of_the_deadline(kind, server):
    """Each step of it comes in time, but not all of them together: three would take 1.2 seconds."""
    timeout = 0.55
    with Proxy(server.port) as proxy:
        proxy.slowness = 0.4
        options = {"url": f"redis://localhost:{proxy.port}/1", "timeout": timeout, "invalidation": False}
        with make(kind, **options) as cache:
            assert in_time(lambda: cache.get("k", "nothing"), timeout, slack=0.5) == "nothing"
            with pytest.raises(BackendUnavailable):
                in_time(lambda: cache.set("k", 1), timeout, slack=0.5)


@pytest.mark.parametrize("single_flight", [True, False])
def test_computing_leaves_one_deadline_for_both_halves(own, single_flight):
    """Asking takes more than half of the time, and then the server stalls: storing may not take all of it again."""
    with Proxy(own.port) as proxy:
        with DistributedCache(redis_port=proxy.port, timeout=TIMEOUT, invalidation=False) as cache:

            @cached(cache, single_flight=single_flight)
            def compute(stalls):
                if stalls:
                    assert cache.stats.errors == 0  # so much for asking
                    own.stall()
                return 1

            assert compute(False) == 1  # now there is a connection, and the server knows the scripts
            proxy.slowness = 0.6 * TIMEOUT
            try:
                assert in_time(lambda: compute(True)) == 1
                assert cache.stats.errors == 1
            finally:
                own.go_on()


def test_a_failing_factory_is_not_held_up(kind, own):
    with filled(kind, own.port) as cache:

        def factory():
            own.stall()
            raise ZeroDivisionError

        try:
            with pytest.raises(ZeroDivisionError):
                in_time(lambda: cache.get_or_set("k", factory))
        finally:
            own.go_on()


def test_a_prefix_has_one_deadline_for_all_pages(kind, server):
    with make(kind, redis_port=server.port) as cache:
        for at in range(0, 6_000, 1000):
            cache.set_many({f"k{i}": i for i in range(at, at + 1000)})
    with Proxy(server.port) as proxy, make(kind, redis_port=proxy.port, timeout=TIMEOUT) as cache:
        cache.get("k1")
        proxy.slowness = 0.3 * TIMEOUT
        with pytest.raises(BackendUnavailable):
            in_time(lambda: cache.invalidate_prefix("k"))
        with pytest.raises(BackendUnavailable):
            in_time(lambda: cache.invalidate_prefix("k", timeout=2 * TIMEOUT), 2 * TIMEOUT)
        proxy.slowness = 0.0
        with pytest.raises(ValueError, match="timeout"):
            cache.invalidate_prefix("k", timeout=0)
        wait_until(lambda: cache.stats.breaker == "closed")
        assert 0 < cache.invalidate_prefix("k", timeout=30) < 6_000  # some pages went before
        assert cache.get_many([f"k{i}" for i in range(6_000)]) == {}


def test_a_cut_through_many_connections_opens_no_breaker(server):
    with Proxy(server.port) as proxy, DistributedCache(redis_port=proxy.port, timeout=5.0) as cache:
        for call in (lambda: cache.increment("n"), lambda: cache.get("absent"), lambda: cache.set("k", 1)):

            def cut():
                proxy.slowness = 0.0
                proxy.cut()

            together = threading.Barrier(8, action=cut)

            def after_a_cut(call=call, together=together):
                call()
                together.wait(30)
                call()

            cache.get("k")
            proxy.slowness = 0.02  # so that each has a connection of its own
            run_all(*[after_a_cut] * 8)
        assert cache.get("n") == 16
        assert (cache.stats.errors, cache.stats.breaker) == (0, "closed")


def test_a_broken_connection_is_retried_within_the_deadline(kind, server):
    with Proxy(server.port) as proxy, make(kind, redis_port=proxy.port) as cache:
        cache.set("k", 0)
        for i in range(1, 4):
            proxy.cut()
            cache.set("k", i)
            proxy.cut()
            assert cache.get("k") == i
            proxy.cut()
            assert cache.get_many(["k"]) == {"k": i}
        assert cache.stats.errors == 0


def test_a_connection_that_breaks_while_it_is_made_is_made_again(kind, server):
    with Proxy(server.port) as proxy, make(kind, redis_port=proxy.port, invalidation=False, timeout=10) as cache:
        cache.set("k", 1)
        for call in (lambda: cache.get("k"), lambda: cache.set("k", 1), lambda: cache.increment("n")):
            proxy.cut()
            proxy.resets = 1
            call()
            assert proxy.resets == 0
        assert (cache.get("n"), cache.stats.errors, cache.stats.breaker) == (1, 0, "closed")


def test_increment_adds_once_though_the_reply_is_lost(kind, server):
    with Proxy(server.port) as proxy, make(kind, redis_port=proxy.port, invalidation=False) as cache:
        assert cache.increment("n") == 1
        for expected in range(2, 12):
            proxy.drops_next_reply_to = b"EVALSHA"
            assert cache.increment("n") == expected
            assert proxy.drops_next_reply_to is None
        assert cache.get("n") == 11


def test_increment_adds_at_most_once_when_it_raises(kind, own):
    with make(kind, redis_port=own.port, timeout=TIMEOUT, invalidation=False) as cache:
        assert cache.increment("n") == 1
        own.stall()
        with pytest.raises(BackendUnavailable):
            in_time(lambda: cache.increment("n"))
        own.go_on()
        with DistributedCache(redis_port=own.port, invalidation=False) as other:
            assert other.get("n") in (1, 2)
            before = other.get("n")
            assert other.increment("n") in (before + 1, before + 2)


def test_increments_add_up_over_an_unreliable_way(server):
    with Proxy(server.port) as proxy, DistributedCache(redis_port=proxy.port, timeout=2.0) as cache:
        stop = threading.Event()
        done = []

        def cut():
            while not stop.wait(0.05):
                proxy.cut()

        def add():
            for _ in range(50):
                done.append(cache.increment("n"))

        cutter = threading.Thread(target=cut)
        cutter.start()
        try:
            run_all(*[add] * 4)
        finally:
            stop.set()
            cutter.join()
        assert sorted(done) == list(range(1, 201))


@pytest.mark.parametrize(("threads", "seconds"), [(12, 1.5), pytest.param(32, 30.0, marks=pytest.mark.slow)])
def test_threads_a_hot_key_and_a_writer_do_not_hang(own, threads, seconds):
    with DistributedCache(redis_port=own.port, timeout=TIMEOUT) as cache:
        cache.set("hot", 0)
        end = time.monotonic() + seconds

        def read():
            while time.monotonic() < end:
                cache.get("hot")
                cache.get_or_set("warm", lambda: 1)
                time.sleep(0)

        def write():
            i = 0
            while time.monotonic() < end:
                i += 1
                try:
                    cache.set("hot", i)
                    cache.delete("warm")
                except BackendUnavailable:
                    pass

        def disturb():
            while time.monotonic() < end - 1.0:
                own.stall()
                threading.Event().wait(0.3)
                own.go_on()
                threading.Event().wait(0.3)

        run_all(write, disturb, *[read] * threads)
        wait_until(lambda: cache.stats.breaker == "closed" and cache._tier.is_fresh)
        cache.set("hot", "end")
        assert cache.get("hot") == "end"


def test_many_tasks_at_once_share_some_connections(server):
    async def main():
        async with AsyncDistributedCache(redis_port=server.port, timeout=30, namespace="crowd") as cache:
            await cache.set_many({str(i): i for i in range(400)})
            assert await asyncio.gather(*(cache.get(str(i)) for i in range(400))) == list(range(400))
            assert sorted(await asyncio.gather(*(cache.increment("n") for _ in range(400)))) == list(range(1, 401))
            (by_loop,) = cache._core.topology.masters[0].by_loop.values()
            assert len(by_loop.idle) <= PER_LOOP
            assert (cache.stats.remote_hits, cache.stats.errors) == (400, 0)

    asyncio.run(main())


def test_a_crowd_of_tasks_is_not_held_up_by_a_stalled_server(own):
    async def main():
        async with AsyncDistributedCache(redis_port=own.port, timeout=TIMEOUT, invalidation=False) as cache:
            await cache.set("k", 1)
            own.stall()
            begun = time.monotonic()
            with Lag() as lag:
                found = await asyncio.gather(*(cache.get("k", "nothing") for _ in range(100)))
            assert time.monotonic() - begun < TIMEOUT + SLACK + lag.seconds
            assert found == ["nothing"] * 100
            own.go_on()

    asyncio.run(main())


def test_standing_in_line_for_a_connection():
    async def main():
        by_loop = LoopConnections()
        for _ in range(PER_LOOP):
            await by_loop.acquire(0.0)
        with pytest.raises(TimeoutError, match="no connection"):
            await by_loop.acquire(0.01)
        first, second, third = (asyncio.create_task(by_loop.acquire(30)) for _ in range(3))
        await asyncio.sleep(0)
        first.cancel()
        by_loop.release()  # the first's, which has not heard of its end yet
        await asyncio.wait([first])
        assert first.cancelled()
        await second
        assert not third.done()
        by_loop.release()
        third.cancel()  # it is in already
        await asyncio.wait([third])
        assert third.cancelled()
        for _ in range(PER_LOOP - 1):
            by_loop.release()
        for _ in range(PER_LOOP):
            await by_loop.acquire(0.0)  # none was lost
        with pytest.raises(TimeoutError):
            await by_loop.acquire(0.01)

    asyncio.run(main())


def test_a_server_that_refuses_is_unavailable(kind):
    if not BINARIES:
        pytest.skip("no server here")
    with Server("--maxmemory", "1mb") as server, make(kind, redis_port=server.port) as cache:
        wait_until(lambda: server.client().memory_stats()["total.allocated"] > 0)
        with pytest.raises(BackendUnavailable, match="OOM"):
            cache.set_many({f"k{i}": "x" * 100_000 for i in range(50)})
        assert cache.stats.errors == 1
