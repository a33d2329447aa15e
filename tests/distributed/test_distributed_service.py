"""A server that answers but does not serve: the breaker opens, calls cost nothing, and service is back in time."""

from __future__ import annotations

import contextlib
import os
import time

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

from both_kinds import KINDS, make
from cachebox import BackendUnavailable, DistributedCache
from cachebox.distributed._near import tracking as link
from in_threads import must_end, wait_until
from redis_servers import Cluster, Server, needs_server

TIMEOUT = 0.3
PATIENT = 20.0                      # the time-out of a server that is there, or refuses at once
pytestmark = needs_server


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(link, "RETRY_APART", 0.25)


class Masterdown:
    """A replica that has lost its master, and is configured not to serve what may be old."""

    def __enter__(self):
        self.master = Server()
        self.server = Server(
            "--replicaof", "127.0.0.1", str(self.master.port), "--replica-serve-stale-data", "no",
            "--repl-diskless-sync-delay", "0",
        )
        self.wait()
        return self

    def wait(self):
        wait_until(lambda: self.server.client().info("replication")["master_link_status"] == "up")

    def fill(self, items):
        with DistributedCache(redis_port=self.master.port, timeout=30) as cache:
            cache.set_many(items)
        wait_until(lambda: self.server.client().dbsize() > len(items))

    def begin(self):
        self.master.kill()
        wait_until(lambda: self.server.client().info("replication")["master_link_status"] == "down")

    def end(self):
        self.server.client().execute_command("REPLICAOF", "NO", "ONE")

    def __exit__(self, *exception):
        self.server.close()
        self.master.close()


class Paused:
    """A server whose clients are paused."""

    how = "ALL"

    def __enter__(self):
        self.server = Server()
        return self

    def fill(self, items):
        with DistributedCache(redis_port=self.server.port, timeout=30) as cache:
            cache.set_many(items)

    def begin(self):
        self._client = self.server.client(socket_timeout=60)
        self._client.execute_command("CLIENT", "PAUSE", 3_000, self.how)

    def end(self):
        """The pause ends by itself, because a paused server takes no command to end it."""

    def __exit__(self, *exception):
        self._client.close()
        self.server.close()


class PausedForWriting(Paused):
    how = "WRITE"


class Stopped(Paused):
    """A server whose process was stopped."""

    def begin(self):
        self.server.stall()
        self._client = self.server.client()

    def end(self):
        self.server.go_on()


TROUBLES = {"masterdown": Masterdown, "paused": Paused, "paused for writing": PausedForWriting, "stopped": Stopped}


@pytest.mark.parametrize("what", TROUBLES)
@must_end
def test_calls_cost_nothing_and_the_first_tier_is_kept(kind, what, impatient):
    with TROUBLES[what]() as trouble:
        trouble.fill({"held": "old", "other": 1})
        port = trouble.server.port
        with make(kind, redis_port=port, timeout=TIMEOUT, max_staleness=0.5) as cache:
            wait_until(lambda: cache.get("held") == cache.get("held") == "old")
            trouble.begin()
            calls = [0.0]

            def write():
                begun = time.monotonic()
                with contextlib.suppress(BackendUnavailable):
                    cache.set("k", 1)
                calls.append(time.monotonic() - begun)

            wait_until(lambda: write() or cache.get(f"x{len(calls)}") or cache.stats.breaker != "closed")
            begun, served = time.monotonic(), 0
            while time.monotonic() < begun + 0.5:
                assert cache.get(f"absent{served}") is None
                with contextlib.suppress(BackendUnavailable):
                    cache.set("k", 1)
                assert cache.get("held") == "old", "the first tier is kept"
                assert cache.get_or_set("computed", lambda: 7) == 7
                served += 1
            assert served > 10, "each would take the whole time-out"
            assert cache.stats.last_error is not None
            trouble.end()
            wait_until(lambda: cache.stats.breaker == "closed")
            begun = time.monotonic()

            def works():
                try:
                    cache.set("new", 2)
                except BackendUnavailable:
                    return False
                return True

            wait_until(works)
            wait_until(lambda: cache.get("new") == 2)
            wait_until(lambda: cache._tier.is_fresh)
            assert time.monotonic() - begun < 5.0
            wait_until(lambda: cache.get("other") == 1)
            assert cache.stats.last_error is None


@must_end
def test_reads_go_on_or_cost_nothing_while_writing_is_paused(kind, own, impatient):
    """Reads in between may succeed. They do not keep the breaker from opening."""
    with make(kind, redis_port=own.port, timeout=TIMEOUT) as cache:
        cache.set("k", "old")
        assert cache.get("k") == "old"
        own.client().execute_command("CLIENT", "PAUSE", 4_000, "WRITE")
        slow = 0
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            begun = time.monotonic()
            with contextlib.suppress(BackendUnavailable):
                cache.set("k", "new")
            cache.get("absent")
            with contextlib.suppress(BackendUnavailable):
                cache.barrier(timeout=TIMEOUT)
            slow += time.monotonic() - begun > TIMEOUT / 2
        assert slow <= 5, "after three time-outs nobody waits"
        wait_until(lambda: cache.get("probe") is None and cache.stats.breaker == "closed")
        cache.set("k", "newer")
        assert cache.get("k") == "newer"


@must_end
def test_a_server_that_is_loading(kind, tmp_path, impatient):
    """A server that lets everybody in, and says for every call that it is loading."""
    folder = str(tmp_path)
    with Server("--dir", folder, "--dbfilename", "dump.rdb") as server:
        with make(kind, redis_port=server.port, timeout=TIMEOUT, max_staleness=0.5) as cache:
            cache.set("held", "old", ttl=1000)
            assert cache.get("held") == "old"
            client = server.client()
            for i in range(600):
                client.set(f"filler{i}", os.urandom(2000))      # a value that can be compressed would be loaded at once
            client.save()
            server.kill()
            server.options = (
                *server.options, "--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024",
            )
            server.start()                      # it answers, and loads for three seconds
            wait_until(lambda: cache.get("x") or cache.stats.breaker != "closed")
            begun, served = time.monotonic(), 0
            while time.monotonic() < begun + 0.5:
                assert cache.get("held") == "old"
                assert cache.get_or_set("computed", lambda: 7) == 7
                served += 1
            assert served > 5 and server.client().info("persistence")["loading"]
            wait_until(lambda: not server.client().info("persistence")["loading"])
            begun = time.monotonic()
            wait_until(lambda: cache.stats.breaker == "closed" and cache._tier.is_fresh)
            assert time.monotonic() - begun < 4.0
            cache.set("held", "new")
            assert cache.get("held") == "new" and cache.stats.last_error is None


@must_end
def test_a_cluster_that_is_down(kind, impatient):
    """A cluster whose servers are well, but refuse to serve as long as one is missing."""
    with Cluster(3, "--cluster-require-full-coverage", "yes") as cluster:
        urls = f"redis://127.0.0.1:{cluster.servers[0].port}"
        with make(kind, url=urls, timeout=1.0, max_staleness=0.5) as cache:
            cache.set_many({f"k{i}": i for i in range(60)})
            held = cache.get_many([f"k{i}" for i in range(60)])
            assert len(held) == 60
            cluster.servers[2].kill()
            wait_until(lambda: cluster.servers[0].client().execute_command("CLUSTER INFO")["cluster_state"] == "fail")
            wait_until(lambda: cache.get_many([f"x{i}" for i in range(60)]) or cache.stats.breaker == "open")
            wait_until(
                lambda: cache.get_many([f"x{i}" for i in range(60)])
                or all(node.breaker.state != "closed" for node in cache._core.topology.masters)
            )
            begun, served = time.monotonic(), 0
            while time.monotonic() < begun + 1.0:
                cache.get("absent")
                assert cache.get("k7") == 7, "the first tier is kept"
                served += 1
            assert served > 20
            for server in cluster.servers[:2]:
                server.client().config_set("cluster-require-full-coverage", "no")
            wait_until(lambda: sum(node.breaker.state == "closed" for node in cache._core.topology.masters) >= 2)
            wait_until(lambda: any(cache.get_many([f"k{i}"]) for i in range(60)))


@must_end
def test_the_reason_is_not_replaced_by_the_time_that_is_over(kind):
    with Masterdown() as trouble:
        with make(kind, redis_port=trouble.server.port, timeout=TIMEOUT, on_unavailable="raise") as cache:
            trouble.begin()
            for _ in range(6):
                with pytest.raises(BackendUnavailable, match="MASTERDOWN"):
                    cache.get("k")
            assert "MASTERDOWN" in cache.stats.last_error


@must_end
def test_it_is_told_once_per_change(kind, own, impatient, caplog):
    caplog.set_level("INFO", logger="cachebox")
    with make(kind, redis_port=own.port, timeout=PATIENT) as cache:
        cache.set("secret-key", "secret-value")
        cache.get("secret-key")
        for _ in range(2):
            caplog.clear()
            own.kill()
            wait_until(lambda: cache.get("x") or cache.stats.breaker != "closed")
            for _ in range(20):
                cache.get("secret-key")
                with contextlib.suppress(BackendUnavailable):
                    cache.set("secret-key", "secret-value")
            own.start()
            wait_until(lambda: cache.stats.breaker == "closed" and cache._tier.is_fresh and "link is up" in caplog.text)
            cache.set("secret-key", "secret-value")
            texts = [record.getMessage() for record in caplog.records if record.name == "cachebox"]
            assert len([text for text in texts if "is not asked before it does" in text]) == 1
            assert len([text for text in texts if "serves again" in text]) == 1
            assert len([text for text in texts if "link" in text and "is lost" in text]) == 1
            assert len([text for text in texts if "link is up" in text]) == 1
            assert not any("secret" in text for text in texts)
