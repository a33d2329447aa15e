"""Every operation of both distributed caches, on a real server."""

from __future__ import annotations

import datetime
import inspect
import math
import shutil
import subprocess

import pytest

from conftest import named

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

import redis

import cachebox
from both_kinds import KINDS, make
from cachebox import BackendUnavailable, DistributedCache
from in_threads import run_all, wait_until
from redis_servers import BINARIES, Proxy, Server, free_port
from second_tiers import BOTH

SECOND_TIERS = BOTH

@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def cache(kind, server):
    with make(kind, **server.at) as cache:
        yield cache


@pytest.fixture
def other(kind, server):
    """The same namespace, seen from elsewhere."""
    with make(kind, **server.at) as cache:
        yield cache


def test_what_is_set_is_got_here_and_elsewhere(cache, other):
    for value in [1, "a", None, [1, {"x": None}], 1.5, True, "", {}, 10**40]:
        cache.set("k", value)
        assert cache.get("k", "nothing") == value
        other.barrier()
        assert other.get("k", "nothing") == value
    assert cache.get("absent") is None
    assert cache.get("absent", 3) == 3


def test_delete(cache, other):
    cache.set("k", 1)
    assert other.delete("k") is True
    assert other.delete("k") is False
    cache.barrier()
    assert cache.get("k", "nothing") == "nothing"


def test_increment(cache, other):
    assert cache.increment("n") == 1
    assert other.increment("n", 10) == 11
    assert cache.increment("n", -20) == -9
    assert cache.get("n") == -9
    cache.set("m", 5)
    assert cache.increment("m") == 6
    cache.set("t", 5, ttl=100)
    cache.increment("t")
    assert 99 < cache.ttl("t") <= 100


@pytest.mark.parametrize("a", [0, 7, -7, 10**14, 10**15, -(10**15), 2**63, 10**50 + 3, -(10**50)])
@pytest.mark.parametrize("b", [0, 1, -1, 10**15, -(10**15), 10**50, -(10**50), 10**21 - 1])
def test_increment_is_exact_for_ints_of_any_size(one_server, a, b):
    with DistributedCache(redis_port=one_server.port, invalidation=False) as cache:
        cache.set("n", a)
        assert cache.increment("n", b) == a + b


def test_increment_says_what_it_found_instead_of_an_int(cache):
    for value, name in [("a", "str"), (1.5, "float"), (None, "NoneType"), (True, "bool"), ([], "list")]:
        cache.set("k", value)
        with pytest.raises(TypeError, match=f"needs an int, but the value of 'k' is of type {name}"):
            cache.increment("k")
        assert cache.get("k") == value
    with pytest.raises(TypeError, match="amount"):
        cache.increment("k", 1.5)


def test_get_or_set(cache, other):
    assert cache.get_or_set("k", lambda: [1]) == [1]
    assert other.get_or_set("k", lambda: pytest.fail("it is there")) == [1]
    assert cache.get("k") == [1]
    cache.get_or_set("t", lambda: 1, ttl=50)
    assert 49 < cache.ttl("t") <= 50
    with pytest.raises(TypeError, match="factory"):
        cache.get_or_set("k", 1)
    with pytest.raises(ZeroDivisionError):
        cache.get_or_set("x", lambda: 1 / 0)
    assert cache.get_or_set("x", lambda: 2) == 2
    assert cache.get_or_set("y", lambda: {len}) == {len}
    assert "y" not in cache
    assert cache.get_or_set("z", lambda: {1}) == {1} == other.get("z")


def test_ttl_and_touch(cache, other):
    cache.set("a", 1)
    cache.set("b", 1, ttl=datetime.timedelta(seconds=10))
    assert cache.ttl("a") is None
    assert 9 < other.ttl("b") <= 10
    with pytest.raises(KeyError):
        cache.ttl("c")
    assert cache.touch("a", 20) is True
    assert 19 < other.ttl("a") <= 20
    assert cache.touch("b") is True
    assert other.ttl("b") is None
    assert cache.touch("b", math.inf) is True
    assert cache.touch("c", 1) is False


def test_entries_expire(cache, other):
    cache.set("k", 1, ttl=0.1)
    assert cache.get("k") == 1
    wait_until(lambda: "k" not in cache and cache.get("k") is None)
    assert other.get("k") is None


def test_the_default_ttl(kind, server):
    with make(kind, **server.at, default_ttl=30) as cache:
        cache.set("a", 1)
        cache.increment("n")
        cache.set("b", 1, ttl=math.inf)
        assert 29 < cache.ttl("a") <= 30
        assert 29 < cache.ttl("n") <= 30
        assert cache.ttl("b") is None
        assert cache.default_ttl == 30


def test_in(cache, other):
    cache.set("k", None)
    before = other.stats.snapshot().get_all()
    assert "k" in cache and "k" in other
    assert "x" not in cache
    assert other.stats.snapshot().get_all() == before


def test_many(cache, other):
    items = {f"k{i}": i for i in range(2500)}
    cache.set_many(items, ttl=100)
    assert other.get_many([*items, "absent"]) == items
    assert 60 < cache.ttl("k7") <= 100
    assert cache.get_many(["k3", "k1", "k3"]) == {"k3": 3, "k1": 1}
    assert list(cache.get_many(["k3", "k1"])) == ["k3", "k1"]
    assert other.delete_many([*list(items)[:1500], "absent"]) == 1500
    cache.barrier()
    assert cache.get_many(items) == dict(list(items.items())[1500:])
    assert cache.get_many([]) == {} and cache.delete_many([]) == 0
    cache.set_many({})


def test_many_take_one_round_trip(kind, server):
    with Proxy(server.port) as proxy, make(kind, redis_port=proxy.port, invalidation=False, max_size=10) as cache:
        cache.set_many({"warm": 1})
        cache.get_many(["warm"])
        cache.delete_many(["warm"])
        keys = [f"k{i}" for i in range(900)]
        for call in (
            lambda: cache.set_many(dict.fromkeys(keys, 1)),
            lambda: cache.get_many(keys),
            lambda: cache.delete_many(keys),
        ):
            before = server.client().info("commandstats")["cmdstat_evalsha"]["calls"]
            call()
            assert server.client().info("commandstats")["cmdstat_evalsha"]["calls"] == before + 1


@pytest.mark.parametrize("bad", [1, None, b"k", ("a",), 1.5])
def test_keys_are_str(cache, bad):
    for call in (
        lambda: cache.get(bad),
        lambda: cache.set(bad, 1),
        lambda: cache.delete(bad),
        lambda: cache.increment(bad),
        lambda: cache.get_or_set(bad, int),
        lambda: cache.touch(bad),
        lambda: cache.ttl(bad),
        lambda: bad in cache,
        lambda: cache.get_many([bad]),
        lambda: cache.set_many({bad: 1}),
        lambda: cache.delete_many([bad]),
    ):
        with pytest.raises(TypeError, match="key must be a str"):
            call()


def test_keys_may_be_any_str(cache, other, server):
    keys = ["", " ", "a b", "ü", "\ud800", "{x}", "}", "*", "a:b", "\n", "\0", "k" * 10_000]
    for key in keys:
        cache.set(key, key)
    assert other.get_many(keys) == {key: key for key in keys}
    other.barrier()
    cache.delete_many(keys)
    other.barrier()
    assert other.get_many(keys) == {}


@pytest.mark.parametrize("value", [object(), [object()], {1: {2: len}}, bytearray(b"x"), type("Local", (), {})()])
def test_a_value_that_cannot_be_encoded_reaches_neither_tier(cache, server, value):
    with pytest.raises(TypeError):
        cache.set("k", value)
    with pytest.raises(TypeError):
        cache.set_many({"good": 1, "k": value})
    assert cache.get_or_set("k", lambda: value) is value        # for its callers, but not stored
    assert cache.stats.unstorable == 1
    assert "k" not in cache and "good" not in cache
    assert not [key for key in server.client().keys() if b"}v:" in key]


@pytest.mark.parametrize("ttl", [0, -1, math.nan, "1", True])
def test_bad_lifetimes_change_nothing(cache, ttl):
    cache.set("k", 1)
    for call in (
        lambda: cache.set("k", 2, ttl),
        lambda: cache.set_many({"k": 2}, ttl),
        lambda: cache.touch("k", ttl),
        lambda: cache.get_or_set("k", int, ttl),
    ):
        with pytest.raises((TypeError, ValueError), match="ttl"):
            call()
    assert cache.get("k") == 1 and cache.ttl("k") is None


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"redis_host": 1}, TypeError),
        ({"redis_port": "1"}, TypeError),
        ({"redis_port": 0}, ValueError),
        ({"redis_db": -1}, ValueError),
        ({"max_size": 0}, ValueError),
        ({"default_ttl": 0}, ValueError),
        ({"url": 1}, TypeError),
        ({"url": "http://x"}, ValueError),
        ({"client": object()}, TypeError),
        ({"namespace": 1}, TypeError),
        ({"namespace": ""}, ValueError),
        ({"policy": "nonsense"}, ValueError),
        ({"serializer": "nonsense"}, ValueError),
        ({"serializer": "pickle"}, ValueError),
        ({"secret": 1}, TypeError),
        ({"max_staleness": 0}, ValueError),
        ({"max_staleness": None}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"timeout": None}, TypeError),
        ({"timeout": math.inf}, ValueError),
        ({"on_unavailable": "x"}, ValueError),
    ],
    ids=named,
)
@pytest.mark.parametrize("name", ["DistributedCache", "AsyncDistributedCache"])
def test_bad_options_are_named(options, error, name):
    with pytest.raises(error, match=next(iter(options))):
        getattr(cachebox, name)(**options)


def test_url_and_client_exclude_each_other():
    with pytest.raises(ValueError, match=r"url.*client"):
        DistributedCache(url="redis://localhost", client=redis.Redis())


def test_urls_and_clients(kind, server):
    ways = [
        {"redis_port": server.port},
        {"redis_host": "127.0.0.1", "redis_port": server.port, "redis_db": 0},
        {"url": f"redis://localhost:{server.port}/0"},
        {"client": redis.Redis(port=server.port, decode_responses=True, socket_timeout=None)},
        {"client": redis.asyncio.Redis(port=server.port)},
    ]
    for i, way in enumerate(ways):
        with make(kind, **way) as cache:
            assert cache.get("k") == (i - 1 if i else None)
            cache.set("k", i)
    assert ways[3]["client"].ping()  # it stays open
    ways[3]["client"].close()


def test_another_database(kind, server):
    with make(kind, redis_port=server.port, redis_db=3) as there, make(kind, redis_port=server.port) as here:
        there.set("k", 1)
        assert here.get("k") is None
        assert there.get("k") == 1 == there.get("k")
        assert there.stats.local_hits == 1
    with make(kind, url=f"redis://localhost:{server.port}/3") as there:
        assert there.get("k") == 1


def test_a_unix_socket(kind):
    if not BINARIES:
        pytest.skip("no server here")
    with Server() as first:
        path = f"{first.folder}/socket"
        with Server("--unixsocket", path, "--requirepass", "pa:ss") as server:
            with make(kind, url=f"unix://:pa%3Ass@{path}") as cache:
                cache.set("k", 1)
                assert cache.get("k") == cache.get("k") == 1
                assert cache.stats.local_hits == 1
            with make(kind, client=redis.Redis(unix_socket_path=path, password="pa:ss")) as cache:
                assert cache.get("k") == 1
            with make(kind, url=f"redis://default:pa%3Ass@localhost:{server.port}") as cache:
                assert cache.get("k") == 1
            with make(kind, url=f"redis://default:wrong@localhost:{server.port}", on_unavailable="local") as cache:
                with pytest.raises(BackendUnavailable):
                    cache.set("k", 2)


def test_tls(kind, tmp_path):
    openssl, binary = shutil.which("openssl"), BINARIES.get("redis")
    if openssl is None or binary is None:
        pytest.skip("needs openssl and a redis-server that was built with TLS")
    certificate, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    subprocess.run(
        [
            openssl,
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            key,
            "-out",
            certificate,
            "-days",
            "1",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
        ],
        check=True,
        capture_output=True,
    )
    port = free_port()
    tls = [
        "--tls-port",
        str(port),
        "--tls-cert-file",
        certificate,
        "--tls-key-file",
        key,
        "--tls-ca-cert-file",
        certificate,
        "--tls-auth-clients",
        "no",
    ]
    try:
        server = Server(*tls, binary=binary)
    except RuntimeError:
        pytest.skip("this redis-server was built without TLS")
    patient = {"timeout": 10.0}  # making a TLS context takes long on a busy machine
    with server, make(kind, url=f"rediss://localhost:{port}?ssl_ca_certs={certificate}", **patient) as cache:
        other = make(kind, client=redis.Redis(port=port, ssl=True, ssl_ca_certs=certificate), **patient)
        with other:
            for i in range(20):
                cache.set("k", {"large": "x" * 100_000, "i": i})
                other.barrier()
                assert other.get("k")["i"] == other.get("k")["i"] == i
            assert other.stats.local_hits == 20
            assert cache.get_many([f"k{i}" for i in range(3)]) == {}
    with make(kind, url=f"rediss://localhost:{port}", timeout=0.2) as cache, pytest.raises(BackendUnavailable):
        cache.set("k", 1)


@pytest.mark.parametrize("name", sorted(BINARIES))
def test_every_server_that_is_here(kind, name):
    with (
        Server(binary=BINARIES[name]) as server,
        make(kind, **server.at) as a,
        make(kind, **server.at) as b,
    ):
        a.set("k", 1, tags="t")
        assert b.get("k") == b.get("k") == 1
        assert b.stats.local_hits == 1
        assert a.increment("k") == 2
        b.barrier()
        assert b.get("k") == 2
        a.clear()
        b.barrier()
        assert b.get("k") is None
        assert a.get_or_set("k", lambda: 5) == 5


# --- isolation --------------------------------------------------------------------------------------------------------


def test_isolated_hits_are_values_of_their_own(kind, server):
    with make(kind, **server.at, isolate=True) as cache:
        cache.set("k", {"a": [1]})
        cache.set("n", 5)
        for _ in range(3):
            found = cache.get("k")
            assert found == {"a": [1]}
            found["a"].append(2)
            assert cache.get_many(["k"]) == {"k": {"a": [1]}}
            assert cache.get_or_set("k", int) == {"a": [1]}
            assert cache.get("n") == 5
        assert cache.stats.local_hits >= 9


def test_without_isolation_a_hit_is_the_stored_object(kind, server):
    with make(kind, **server.at) as cache:
        cache.set("k", [1])
        cache.get("k")
        assert cache.get("k") is cache.get("k")


# --- clear and tags ---------------------------------------------------------------------------------------------------


def test_clear_leaves_other_names_alone(kind, server):
    client = server.client()
    names = ["app", "app:sub", "app*", "a[p]p", "ap", "app:{0}v", "*", "?pp"]
    caches = [make(kind, **server.at, namespace=name) for name in names]
    try:
        client.mset({"foreign": 1, "app": 2, "app:x": 3, "app:{0}x:y": 4})
        for name in names:
            for cache in caches:
                cache.set("k", 1)
            caches[names.index(name)].clear()
            for cache, other in zip(caches, names, strict=True):
                cache.barrier()
                assert cache.get("k") == (None if other == name else 1), (name, other)
        assert client.mget("foreign", "app", "app:x", "app:{0}x:y") == [b"1", b"2", b"3", b"4"]
    finally:
        for cache in caches:
            cache.close()


def test_clear_gives_the_servers_memory_back(cache, server):
    for at in range(0, 5000, 500):
        cache.set_many({f"k{i}": "x" * 100 for i in range(at, at + 500)})
    cache.set("tagged", 1, tags=["a", "b"])
    cache.clear()
    cache.set("after", 1)
    wait_until(lambda: server.client().dbsize() <= 4)
    assert cache.get("after") == 1


def test_clear_tries_again_to_give_memory_back(kind, server, monkeypatch):
    from cachebox.distributed._ops import namespace as whole

    monkeypatch.setattr(whole, "CLEANINGS_APART", 0.05)
    with Proxy(server.port) as proxy, make(kind, redis_port=proxy.port) as cache:
        cache.set_many({f"k{i}": i for i in range(100)})
        proxy.drops_next_reply_to = b"SCAN"
        cache.clear()
        wait_until(lambda: proxy.drops_next_reply_to is None and server.client().dbsize() <= 1)


def test_what_is_set_after_clear_stays(cache, other):
    for i in range(50):
        cache.set("k", "old")
        other.get("k")
        (cache, other)[i % 2].clear()
        (other, cache)[i % 2].set("k", i)
        assert (cache, other)[i % 2].get("k", "nothing") in (i, "old" if i % 2 else i)
        cache.barrier()
        other.barrier()
        assert cache.get("k") == other.get("k") == i


def test_tags(cache, other):
    cache.set("a", 1, tags="red")
    cache.set("b", [2], tags=["red", "blue"])
    cache.set("c", 3)
    for seen in (cache, other):
        assert seen.get_many("abc") == {"a": 1, "b": [2], "c": 3}
    assert other.invalidate_tag("blue") == 1
    cache.barrier()
    for seen in (cache, other):
        assert seen.get_many("abc") == {"a": 1, "c": 3}
        assert "b" not in seen
    cache.set("a", 5)  # an overwrite replaces the tags
    other.barrier()
    other.invalidate_tag("red")
    cache.barrier()
    assert cache.get("a") == other.get("a") == 5
    cache.set("b", 6, tags="blue")
    other.barrier()
    assert other.get("b") == 6
    assert cache.increment("b") == 7
    cache.invalidate_tag("blue")
    other.barrier()
    assert other.get("b") is None


def test_an_invalidated_tag_wins_over_a_computation(cache, server):
    with DistributedCache(**server.at) as other:
        computes_across_an_invalidated_tag(cache, other)


def computes_across_an_invalidated_tag(cache, other):
    def factory():
        other.invalidate_tag("red")
        return 1

    assert cache.get_or_set("k", factory, tags="red") == 1
    assert "k" not in cache
    assert cache.get_or_set("k", lambda: 2, tags="red") == 2
    assert other.get("k") == 2


def test_globs(cache, other):
    names = ["user:1:name", "user:2:name", "user:1:age", "User:1:name", "user:1:names", "a[b]c", "a*c", "abc"]
    cache.set_many(dict.fromkeys(names, 1))
    other.get_many(names)
    assert cache.invalidate_glob("user:*:name") == 2
    assert cache.invalidate_glob("user:?:[!n]*") == 1
    assert cache.invalidate_glob("a[[]b]c") == 1 and cache.invalidate_glob("a[*]c") == 1
    cache.barrier(), other.barrier()
    assert set(other.get_many(names)) == set(cache.get_many(names)) == {"User:1:name", "user:1:names", "abc"}
    assert cache.invalidate_glob("nothing*") == 0 and cache.invalidate_glob("*") == 3
    with pytest.raises(TypeError, match="pattern"):
        cache.invalidate_glob(b"*")


def test_prefixes(cache, other):
    cache.set_many({"user:1": 1, "user:2": 2, "us": 3, "user*": 4, "user:": 5})
    other.get_many(["user:1", "us"])
    assert cache.invalidate_prefix("user:") == 3
    other.barrier()
    assert other.get_many(["user:1", "user:2", "us", "user*", "user:"]) == {"us": 3, "user*": 4}
    assert cache.invalidate_prefix("user*") == 1
    with pytest.raises(TypeError, match="prefix"):
        cache.invalidate_prefix(1)


def test_predicates(cache, other):
    cache.set_many({"a": 1, "b": [2], "c": {"x": 3}, "d": None})
    cache.set("e", 5, tags="red")
    other.get_many("abcde")
    seen = {}
    assert cache.invalidate_where(lambda key, value: seen.setdefault(key, value) is None or key == "b") == 2
    assert seen == {"a": 1, "b": [2], "c": {"x": 3}, "d": None, "e": 5}
    other.barrier()
    assert other.get_many("abcde") == {"a": 1, "c": {"x": 3}, "e": 5}
    with pytest.raises(ZeroDivisionError):
        cache.invalidate_where(lambda key, value: key == "a" or 1 / 0)
    other.barrier()
    assert other.get_many("abcde") == {"a": 1, "c": {"x": 3}, "e": 5}
    cache.invalidate_tag("red")
    assert cache.invalidate_where(lambda key, value: key == "e") == 0  # it is gone already
    assert cache.invalidate_where(lambda key, value: False) == 0
    with pytest.raises(TypeError, match="predicate"):
        cache.invalidate_where(1)
    cache.clear()
    assert cache.invalidate_where(lambda key, value: True) == 0


# --- statistics -------------------------------------------------------------------------------------------------------


def test_statistics_add_up(cache, other):
    stats = cache.stats
    for i in range(10):
        cache.set(f"k{i}", i)
    for i in range(10):
        cache.get(f"k{i}")  # remote
    for i in range(10):
        cache.get(f"k{i}")  # local
    for i in range(5):
        cache.get(f"absent{i}")
    assert (stats.local_hits, stats.remote_hits, stats.misses) == (10, 10, 5)
    cache.get_many([*(f"k{i}" for i in range(10)), "absent"])
    assert (stats.local_hits, stats.remote_hits, stats.misses) == (20, 10, 6)
    for i in range(7):
        other.set(f"k{i}", -i)
    cache.barrier()
    assert all(f"k{i}" in cache for i in range(7))      # which counts nothing
    assert stats.invalidations == 7
    assert (stats.stale_serves, stats.fills_refused, stats.errors, stats.breaker) == (0, 0, 0, "closed")
    cache.get_or_set("k9", int)
    cache.get_or_set("k0", int)
    cache.get_or_set("new", int)
    assert (stats.local_hits, stats.remote_hits, stats.misses) == (21, 11, 7)
    assert stats.get_all()["local_hits"] == 21
    assert "local hits" in stats.report()
    assert stats.hit_rate() == 32 / 39


def test_a_barrier_without_a_link_is_no_invalidation(kind, server):
    with make(kind, redis_port=server.port, invalidation=False) as cache:
        cache.set("k", 1)
        cache.get("k")
        cache.barrier()
        assert cache.get("k") == 1
        assert (cache.stats.remote_hits, cache.stats.invalidations) == (2, 0)


def test_statistics_by_name(cache):
    cache.get("k")
    assert cache.stats.get("misses") == 1 and cache.stats.get("breaker") == "closed"
    with pytest.raises(ValueError, match="local_hits"):
        cache.stats.get("hits")


@pytest.mark.parametrize("name", ["DistributedCache", "AsyncDistributedCache"])
def test_the_signature_tells_the_options(name):
    signature = inspect.signature(getattr(cachebox, name))
    assert list(signature.parameters)[:5] == ["redis_host", "redis_port", "redis_db", "max_size", "default_ttl"]
    defaults = {"namespace": "cachebox", "serializer": "json", "timeout": 0.5, "on_unavailable": "local"}
    assert {option: signature.parameters[option].default for option in defaults} == defaults


def test_own_writes_do_not_spoil_what_is_read_after_them(cache):
    for i in range(300):
        cache.set("k", i)
        assert cache.get("k") == i
        assert cache.get("k") == i
    stats = cache.stats
    assert (stats.local_hits, stats.remote_hits, stats.fills_refused, stats.invalidations) == (300, 300, 0, 0)


def test_statistics_are_exact_under_threads(server):
    with DistributedCache(**server.at) as cache:
        cache.set_many({str(i): i for i in range(50)})

        def work():
            for i in range(100):
                assert cache.get(str(i)) == (i if i < 50 else None)

        run_all(*[work] * 8)
        stats = cache.stats
        assert stats.local_hits + stats.remote_hits == 8 * 50
        assert stats.misses == 8 * 50


def test_bytes_that_cannot_be_decoded_are_misses(kind, server):
    client = server.client()
    for secret in (None, "secret"):
        with make(kind, redis_port=server.port, namespace=f"n{secret}", secret=secret) as cache:
            cache.set("a", ["value of a"])
            cache.set("b", ["value of b"])
            names = {key[-1:]: key for key in client.keys() if b"}v:" in key and key.startswith(f"n{secret}".encode())}
            good = client.get(names[b"a"])
            bad = [b"", b"junk", good[:-1], good[:10], b"\xcbx\x01" + good[3:]]
            if secret:
                bad += [client.get(names[b"b"]), good[:-1] + b"x", good[:4] + b"\0" + good[5:]]
            for data in bad:
                client.set(names[b"a"], data)
                cache.barrier()
                before = cache.stats.misses
                assert cache.get("a", "nothing") == "nothing"
                assert cache.get_many(["a"]) == {}
                assert cache.stats.misses == before + 2
                assert cache.get_or_set("a", lambda: "made anew") == "made anew"
                cache.barrier()
                assert cache.get("a") == "made anew"
            client.delete(names[b"a"])
            client.lpush(names[b"a"], 1)  # a type that is not ours
            cache.barrier()
            assert cache.get("a") is None and "a" not in cache and cache.delete("a") is False
            cache.set("a", 1)
            assert cache.get("a") == 1


def test_it_shows_where_it_is(cache, server):
    assert f"localhost:{server.port}" in repr(cache.cache if hasattr(cache, "cache") else cache)
    assert (cache.max_size, cache.policy, cache.namespace) == (1000, "LRU", "cachebox")
