"""A computation that fails, fails for all who wait for it, whatever the process, and for nobody else."""

from __future__ import annotations

import threading

import pytest

from conftest import named

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

from test_distributed_coherence import pair

from api_error import Api
from both_kinds import KINDS, make
from cachebox import DistributedCache, cached
from cachebox.distributed._ops import leases
from cachebox.distributed._wire import error_codec
from cachebox.distributed._wire.codec import Codec
from cachebox.distributed._wire.keyspace import new_token
from in_threads import LIMIT, Started, must_end, wait_for, wait_until
from second_tiers import BOTH

SECOND_TIERS = BOTH

ERRORS = [
    ValueError("boom", 1, None),
    KeyError("k"),
    FileNotFoundError(2, "no such file", "name"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"),
    ValueError((1, (2, 3)), {4}),
    Api(404, reason="gone"),
]


def local_class():
    class Local(Exception):
        pass

    return Local("here")


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def two(server, kind):
    """Two caches that know of each other only through the server, as those of two processes do."""
    with pair(kind, server) as caches:
        yield caches


class Computation:
    """A computation in one cache that somebody waits for in another, until it is told to end."""

    def __init__(self, a, b, error, key="k"):
        self.calls = []
        self._begun, self._go_on = threading.Event(), threading.Event()

        def factory():
            self.calls.append("a")
            self._begun.set()
            self._go_on.wait(LIMIT)
            raise error

        def others():
            self.calls.append("b")
            return "b"

        self.leader = Started(a.get_or_set, key, factory)
        wait_for(self._begun)
        misses = b.stats.misses
        self.waiter = Started(b.get_or_set, key, others)
        wait_until(lambda: b.stats.misses > misses)

    def end(self):
        self._go_on.set()
        return self.leader.wait().error, self.waiter.wait()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@must_end
def test_it_reaches_who_waits_in_another_process(two, error):
    a, b = two
    made = Api.made
    computation = Computation(a, b, error)
    raised, waiter = computation.end()
    assert raised is error
    assert computation.calls == ["a"]
    arrived = waiter.error
    assert type(arrived) is type(error) and arrived is not error
    assert (arrived.args, arrived.__dict__, str(arrived)) == (error.args, error.__dict__, str(error))
    assert Api.made == made
    assert "k" not in a and "k" not in b
    assert b.get_or_set("k", lambda: "later") == "later" == a.get("k")


@pytest.mark.parametrize("error", [local_class(), ValueError({1, len}), ValueError(object())], ids=named)
@must_end
def test_where_it_cannot_travel_the_next_one_computes(two, error):
    computation = Computation(*two, error)
    raised, waiter = computation.end()
    assert raised is error
    assert waiter.value == "b" and computation.calls == ["a", "b"]


@must_end
def test_who_comes_later_computes(two):
    a, b = two
    Computation(a, b, ValueError("boom")).end()
    calls = []
    for cache in two:
        assert cache.get_or_set("k", lambda: calls.append(1) or "value") == "value"
    assert calls == [1]


@must_end
def test_a_write_meanwhile_wins(two, server):
    a, b = two
    computation = Computation(a, b, ValueError("boom"))
    with DistributedCache(**server.at) as third:
        third.set("k", "written")
    assert computation.waiter.result() == "written"
    raised, _ = computation.end()
    assert str(raised) == "boom" and a.get("k") == "written" and computation.calls == ["a"]


@pytest.mark.parametrize("how", ["delete", "clear"])
@must_end
def test_a_computation_that_lost_its_lease_tells_nobody(two, server, how):
    a, b = two
    computation = Computation(a, b, ValueError("boom"))
    with DistributedCache(**server.at) as third:
        third.delete("k") if how == "delete" else third.clear()
    raised, waiter = computation.end()
    assert str(raised) == "boom" and waiter.value == "b" and computation.calls == ["a", "b"]
    assert not server.client().keys("*f:*")


@must_end
def test_what_lies_on_the_server_ends_by_itself(two, server):
    Computation(*two, ValueError("boom")).end()
    [name] = server.client().keys("cachebox:{0}f:*")
    assert 0 < server.client().pttl(name) <= error_codec.KEPT_MS
    assert error_codec.KEPT_MS >= 2 * leases.LEASE_MS


@must_end
def test_a_forged_failure_is_none(server, kind):
    options = {"redis_port": server.port, "timeout": 5.0, "secret": "s"}
    with make(kind, **options) as a, make(kind, **options) as b:
        computation = Computation(a, b, ValueError("boom"))
        _, waiter = computation.end()
        assert type(waiter.error) is ValueError and computation.calls == ["a"]
        client = server.client()
        [name] = client.keys("cachebox:{0}f:*")
        token, data = name[-16:], client.get(name)
        codec = a._core.codec
        assert str(error_codec.decode(codec, "k", token, data)) == "boom"
        for forged in (data[:-1], data[:-2] + b"!]", data[:4] + b"\0" + data[5:], b"", b"x"):
            assert error_codec.decode(codec, "k", token, forged) is None
        assert error_codec.decode(codec, "other", token, data) is None
        assert error_codec.decode(codec, "k", new_token(), data) is None


@must_end
def test_without_a_link_it_is_asked_for(server):
    options = {"redis_port": server.port, "timeout": 5.0, "invalidation": False}
    with DistributedCache(**options) as a, DistributedCache(**options) as b:
        computation = Computation(a, b, ValueError("boom"))
        _, waiter = computation.end()
        assert str(waiter.error) == "boom" and computation.calls == ["a"]


@must_end
def test_cached_functions_share_it(server):
    with DistributedCache(**server.at) as a, DistributedCache(**server.at) as b:
        begun, go_on = threading.Event(), threading.Event()
        calls = []

        def find(x):
            calls.append(x)
            begun.set()
            go_on.wait(LIMIT)
            raise Api(x, reason="gone")

        leader = Started(cached(a)(find), "book")
        wait_for(begun)
        waiter = Started(cached(b)(find), "book")
        wait_until(lambda: b.stats.misses == 1)
        go_on.set()
        for one in (leader, waiter):
            assert type(one.wait().error) is Api and one.error.code == "book"
        assert calls == ["book"]


# --- the form in which it travels -------------------------------------------------------------------------------------

class Twisted(Exception):
    def __new__(cls, *args):
        if args and args[0] == "forbidden":
            raise RuntimeError("no")
        return super().__new__(cls, *args)


@pytest.mark.parametrize("serializer", ["json", "msgpack", "pickle"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_it_comes_back_equal(serializer, error):
    if serializer == "msgpack":
        pytest.importorskip("msgpack", reason="msgpack is not installed")
    codec = Codec(serializer, "secret", "app")
    token = new_token()
    encoded = error_codec.encode(codec, "k", token, error)
    arrived = error_codec.decode(codec, "k", token, encoded[0] + token + encoded[1])
    assert type(arrived) is type(error) and repr(arrived) == repr(error) and arrived.__dict__ == error.__dict__


@pytest.mark.parametrize(
    "content",
    [
        ["os", "system", ["true"], {}],
        ["builtins", "KeyboardInterrupt", [], {}],
        ["builtins", "SystemExit", [], {}],
        ["builtins", "dict", [], {}],
        ["no.such.module", "Error", [], {}],
        ["builtins", "NoSuchError", [], {}],
        [__name__, "ERRORS", [], {}],
        [__name__, "Twisted", ["forbidden"], {}],
        ["builtins", "UnicodeDecodeError", [1], {}],
        ["builtins", "ValueError", 5, {}],
        ["builtins", "ValueError", [], 5],
        ["builtins", 5, [], {}],
        [5, "ValueError", [], {}],
        [[], "ValueError", [], {}],
        ["builtins", "ValueError"],
        {"a": 1},
        7,
        None,
    ],
    ids=named,
)
def test_anything_else_is_no_failure(content):
    codec = Codec("json", None, "app")
    token = new_token()
    head, body = codec.encode(error_codec._name("k", token), content, ())
    assert error_codec.decode(codec, "k", token, head + token + body) is None


def test_what_cannot_be_put_together_does_not_leave():
    codec = Codec("json", None, "app")
    error = Twisted("fine")
    error.args = ("forbidden",)
    for one in (error, local_class(), ValueError(object())):
        assert error_codec.encode(codec, "k", new_token(), one) is None
