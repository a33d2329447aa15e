"""Coherence: no process reads older than another has written; a value that was read in a race is not kept."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

from both_kinds import KINDS, make
from cachebox import BackendUnavailable, DistributedCache
from cachebox.distributed._wire.codec import Json
from in_threads import Started, run_all, wait_for, wait_until
from redis_servers import BINARIES, Proxy, Server
from second_tiers import BOTH

SECOND_TIERS = BOTH

@contextlib.contextmanager
def pair(kind, server, other_server=None):
    """Two caches that have patience: on a busy machine a late answer must not read as a missing value."""
    patience = {"timeout": 10.0, "on_unavailable": "raise"}
    other_server = other_server or server
    with make(kind, **server.at, **patience) as a, make(kind, **other_server.at, **patience) as b:
        yield a, b


def trials(a, b, n, seed=1):
    """After a write in a and a barrier in b, b reads what was written."""
    dice = random.Random(seed)
    for i in range(n):
        key = f"k{dice.randrange(20)}"
        action = dice.random()
        b.get(key)
        if action < 0.5:
            a.set(key, i)
            expected = i
        elif action < 0.7:
            a.delete(key)
            expected = None
        elif action < 0.8:
            a.set_many({key: i, "other": i}, ttl=100)
            expected = i
        elif action < 0.9:
            a.delete(key)
            expected = a.increment(key, i)
        elif action < 0.95:
            a.delete(key)
            a.get_or_set(key, lambda i=i: i)
            expected = i
        else:
            a.clear()
            expected = None
        if dice.random() < 0.3:
            a, b = b, a
            assert b.get(key) == expected
            continue
        b.barrier()
        assert b.get(key) == expected
        assert b.get(key) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_barrier_nothing_older_is_read(kind, server):
    with pair(kind, server) as (a, b):
        trials(a, b, 500)
        assert a.stats.local_hits + b.stats.local_hits > 250


CROWD = """
import socket, sys
socks = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(24)]
try:
    while True:
        for sock in socks:
            sock.sendall(b"PING\\r\\n" * 16)
        for sock in socks:
            missing = 16 * len(b"+PONG\\r\\n")
            while missing:
                missing -= len(sock.recv(missing)) or sys.exit()
except ConnectionError:
    pass
"""


@contextlib.contextmanager
def crowd(server):
    """A process whose clients all ask at the same time: only then does a server use its threads."""
    process = subprocess.Popen([sys.executable, "-c", CROWD, str(server.port)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("n", [50, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_with_threads_in_the_server_too(kind, n):
    if not BINARIES:
        pytest.skip("no server here")
    with Server("--io-threads", "2", "--io-threads-do-reads", "yes") as server, server.client() as client:
        with pair(kind, server) as (a, b), crowd(server):
            for seed in range(50):              # until the server's threads have taken part: it is slow to wake them
                trials(a, b, n, seed)
                if client.info("stats")["io_threaded_reads_processed"]:
                    return
        pytest.skip("all went well, but the server never used its threads")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_thousand_trials(kind, server):
    with pair(kind, server) as (a, b):
        trials(a, b, 100_000)


def test_a_write_is_heard_of_without_a_barrier(server):
    with DistributedCache(**server.at) as a, DistributedCache(**server.at) as b:
        a.set("k", 1)
        assert b.get("k") == 1
        a.set("k", 2)
        wait_until(lambda: b.get("k") == 2)
        assert b.stats.invalidations == 1


def test_readers_and_writers_in_many_threads_end_with_the_last_value(server):
    with DistributedCache(**server.at) as a, DistributedCache(**server.at) as b:
        stop = threading.Event()
        newest = [0]

        def write():
            for i in range(1, 100):
                (a, b)[i % 2].set("k", i)
                newest[0] = i
            stop.set()

        def read(cache):
            while not stop.is_set():
                assert cache.get("k", 0) <= newest[0] + 1

        run_all(write, *[lambda c=c: read(c) for c in (a, b)])
        for cache in (a, b):
            cache.barrier()
            assert cache.get("k") == cache.get("k") == 99


# --- no resurrection --------------------------------------------------------------------------------------------------


class Pausing(Json):
    """Waits between the read of a value and its store, if the test says so."""

    def __init__(self):
        self.reached, self.go_on, self.pauses = threading.Event(), threading.Event(), False

    def loads(self, data):
        if self.pauses:
            self.pauses = False
            self.reached.set()
            wait_for(self.go_on)
        return super().loads(data)


DISTURBANCES = {
    "a write elsewhere": lambda here, other, server: other.set("k", "new"),
    "a write here": lambda here, other, server: here.set("k", "new"),
    "a delete elsewhere": lambda here, other, server: other.delete("k"),
    "a delete here": lambda here, other, server: here.delete("k"),
    "many writes": lambda here, other, server: other.set_many({"x": 1, "k": 2}),
    "an increment": lambda here, other, server: (other.delete("k"), other.increment("k")),
    "a clear elsewhere": lambda here, other, server: other.clear(),
    "a clear here": lambda here, other, server: here.clear(),
    "a tag": lambda here, other, server: other.invalidate_tag("red"),
    "a prefix": lambda here, other, server: other.invalidate_prefix("k"),
    "FLUSHALL": lambda here, other, server: server.flush(),
    "FLUSHDB": lambda here, other, server: server.client().flushdb(),
    "expiry": lambda here, other, server: (other.touch("k", 0.001), wait_until(lambda: "k" not in other)),
    "RENAME": lambda here, other, server: server.client().rename("cachebox:{0}v:k", "cachebox:{0}v:x"),
}


@pytest.mark.parametrize("disturbance", DISTURBANCES)
@pytest.mark.parametrize("many", [False, True])
def test_a_fill_that_was_overtaken_stores_nothing(server, disturbance, many):
    serializer = Pausing()
    with (
        DistributedCache(**server.at, serializer=serializer) as here,
        DistributedCache(**server.at, serializer=Pausing()) as other,
    ):
        other.set("k", "old", tags="red")
        here.barrier()
        serializer.pauses = True
        reader = Started(lambda: here.get_many(["k"])["k"] if many else here.get("k"))
        wait_for(serializer.reached)
        DISTURBANCES[disturbance](here, other, server)
        here.barrier()
        serializer.go_on.set()
        assert reader.result() == "old"
        assert here.stats.fills_refused == 1
        assert here.get("k") == other.get("k") != "old"


def test_a_fill_that_a_reconnect_overtook_stores_nothing(server):
    serializer = Pausing()
    with (
        Proxy(server.port) as proxy,
        DistributedCache(redis_port=proxy.port, serializer=serializer) as here,
    ):
        here.set("k", "old")
        here.barrier()
        serializer.pauses = True
        reader = Started(lambda: here.get("k"))
        wait_for(serializer.reached)
        proxy.cut()
        wait_until(lambda: here._tier.is_tracked is False or here._tier.epoch > 2)
        server.client().delete("cachebox:{0}v:k")
        wait_until(lambda: here._tier.is_fresh)
        serializer.go_on.set()
        assert reader.result() == "old"
        assert here.get("k") is None


@pytest.mark.parametrize("disturbance", [name for name in DISTURBANCES if name not in ("RENAME", "expiry", "a tag")])
def test_a_computation_that_was_overtaken_stores_nothing(server, disturbance):
    with DistributedCache(**server.at) as here, DistributedCache(**server.at) as other:

        def factory():
            DISTURBANCES[disturbance](here, other, server)
            return "old"

        assert here.get_or_set("k", factory) == "old"
        here.barrier()
        assert here.get("k") == other.get("k") != "old"
        assert here.stats.fills_refused == 1


# --- the link ---------------------------------------------------------------------------------------------------------


def test_the_first_tier_is_empty_after_a_lost_link(server):
    with Proxy(server.port) as proxy, DistributedCache(redis_port=proxy.port) as here:
        here.set("k", "old")
        assert here.get("k") == here.get("k") == "old"
        link = here._tier.epoch
        here._core.tracking._connections[here._core.topology.masters[0]].connection.sock.shutdown(2)
        server.client().delete("cachebox:{0}v:k")
        wait_until(lambda: here._tier.epoch >= link + 2 and here._tier.is_fresh)
        assert len(here._tier.first) == 0
        assert here.get("k") is None


def test_a_killed_link_comes_back(server):
    with DistributedCache(**server.at) as here, DistributedCache(**server.at) as other:
        for i in range(3):
            here.set("k", i)
            here.get("k")
            link = here._tier.epoch
            server.client().execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            other.set("k", -i)
            wait_until(lambda link=link: here._tier.epoch > link and here._tier.is_fresh)
            assert here.get("k") == -i
            here.barrier()


@pytest.mark.parametrize("kind", KINDS)
def test_a_silent_link_stops_hits_at_max_staleness(kind, server):
    with (
        Proxy(server.port) as proxy,
        make(kind, redis_port=proxy.port, max_staleness=0.3) as here,
        DistributedCache(**server.at) as other,
    ):
        here.set("k", "old")
        assert here.get("k") == here.get("k") == "old"
        proxy.silent_links.set()
        other.set("k", "new")
        begun = time.monotonic()
        wait_until(lambda: here.get("k") == "new")
        assert time.monotonic() - begun < 0.3 + 0.2
        assert not here._tier.is_fresh
        other.set("k", "newer")
        assert here.get("k") == "newer"  # every call asks now
        assert here.stats.breaker == "closed"
        proxy.silent_links.clear()
        begun = time.monotonic()
        wait_until(lambda: here._tier.is_fresh)
        assert time.monotonic() - begun < 4.0
        assert here.get("k") == here.get("k") == "newer"


@pytest.mark.parametrize("command", ["FLUSHALL", "FLUSHDB", "DEL", "EXPIRE", "RENAME", "SET"])
def test_what_others_do_to_the_server_reaches_the_first_tier(server, command):
    with DistributedCache(**server.at) as here:
        here.set("k", 1)
        assert here.get("k") == here.get("k") == 1
        client, name = server.client(), "cachebox:{0}v:k"
        {
            "FLUSHALL": client.flushall,
            "FLUSHDB": client.flushdb,
            "DEL": lambda: client.delete(name),
            "EXPIRE": lambda: client.pexpire(name, 1),
            "RENAME": lambda: client.rename(name, "x"),
            "SET": lambda: client.set(name, "junk"),
        }[command]()
        wait_until(lambda: here.get("k") is None)
        assert here.stats.invalidations == 1


def test_evictions_reach_the_first_tier():
    if not BINARIES:
        pytest.skip("no server here")
    with Server("--maxmemory", "3mb", "--maxmemory-policy", "allkeys-random") as server:
        with DistributedCache(**server.at, max_size=None) as here:
            for at in range(0, 3000, 50):
                some = {f"k{i}": "x" * 1200 for i in range(at, at + 50)}
                here.set_many(some)
                here.get_many(some)
            values = server.client().mget([f"cachebox:{{0}}v:k{i}" for i in range(3000)])
            here.barrier()
            evicted = [f"k{i}" for i, value in enumerate(values) if value is None]
            assert evicted
            assert not [key for key in evicted if key in here._tier.first]


def test_a_first_tier_entry_never_outlives_the_servers(server):
    with DistributedCache(**server.at) as here:
        here.set("k", 1, ttl=0.3)
        here.set("long", 1, ttl=100)
        server.client().pexpire("cachebox:{0}v:k", 250)
        here.barrier()
        here.get_many(["k", "long"])
        first = here._tier.first
        client = server.client()
        for key in ("k", "long"):
            end_here = time.monotonic() + first.ttl(key)
            end_there = client.pttl("cachebox:{0}v:" + key) / 1000 + time.monotonic()
            assert end_here <= end_there + 0.001
        wait_until(lambda: "k" not in first)


def test_without_invalidation_hits_stop_at_max_staleness(server):
    with (
        DistributedCache(redis_port=server.port, invalidation=False, max_staleness=0.2) as here,
        DistributedCache(**server.at) as other,
    ):
        other.set("k", "old")
        assert here.get("k") == here.get("k") == "old"
        assert here.stats.local_hits == 1
        other.set("k", "new")
        wait_until(lambda: here.get("k") == "new")
        other.set("k", "newer")
        here.barrier()
        assert here.get("k") == "newer"
        assert here._core.tracking is None


def test_a_barrier_that_cannot_hold_raises(server):
    with Server() as own, DistributedCache(redis_port=own.port, timeout=0.2) as here:
        here.barrier()
        own.kill()
        with pytest.raises(BackendUnavailable):
            here.barrier()
        with pytest.raises(BackendUnavailable):
            here.barrier(timeout=0.05)
        with pytest.raises(ValueError, match="timeout"):
            here.barrier(timeout=0)


def test_the_work_of_the_link_stays_flat_under_many_invalidations(server):
    with DistributedCache(**server.at) as here:
        here.set("k", 1)
        here.get("k")
        with server.client() as client:
            for _ in range(20):
                with client.pipeline(transaction=False) as pipeline:
                    for i in range(1000):
                        pipeline.set(f"cachebox:{{0}}v:{i}", "junk")
                    pipeline.execute()
        here.barrier(timeout=20)
        assert here.get("k") == 1
        tier = here._tier
        assert len(tier.first) == 1
        assert here._core.tracking._connections[here._core.topology.masters[0]].connection.replies.is_empty
