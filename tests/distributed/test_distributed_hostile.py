"""A server that answers every command with every shape: calls end as they do when it is dead, and no thread ends."""

from __future__ import annotations

import logging
import math
import threading

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

from both_kinds import KINDS, make
from cachebox import BackendUnavailable, DistributedCache, cached
from cachebox.distributed._near import tracking as links
from hostile_servers import GREETING, NONE, Hostile, bulk
from in_threads import must_end, wait_until

STALLS = 0.05  # seconds that a call waits for a reply that never comes
PATIENT = 20.0  # and for one that comes

SHAPES = {
    "an int": b":5\r\n",
    "one": b":1\r\n",
    "zero": b":0\r\n",
    "minus three": b":-3\r\n",
    "a big number": b"(123456789012345678901234567890\r\n",
    "nothing": b"_\r\n",
    "no text": b"$-1\r\n",
    "no list": b"*-1\r\n",
    "OK": b"+OK\r\n",
    "PONG": b"+PONG\r\n",
    "a word": b"+abc\r\n",
    "an empty word": b"+\r\n",
    "an empty text": b"$0\r\n\r\n",
    "a short text": b"$3\r\nabc\r\n",
    "a text with a format": b"=7\r\ntxt:abc\r\n",
    "true": b"#t\r\n",
    "false": b"#f\r\n",
    "a double": b",1.5\r\n",
    "not a number": b",nan\r\n",
    "an empty list": b"*0\r\n",
    "a list": b"*2\r\n:1\r\n:2\r\n",
    "a list of lists": b"*2\r\n*1\r\n:1\r\n*0\r\n",
    "a lease for ever": b"*3\r\n:2\r\n:999999999999999\r\n$1\r\nx\r\n",
    "a value of another type": b"*3\r\n:1\r\n:5\r\n:5\r\n",
    "a value that is none": b"*3\r\n:1\r\n$4\r\njunk\r\n:5\r\n",
    "an entry to look at": b"*1\r\n$4\r\njunk\r\n",
    "a set": b"~1\r\n+a\r\n",
    "a map": b"%1\r\n+a\r\n:1\r\n",
    "a map with a list as key": b"%1\r\n*0\r\n+a\r\n",
    "an attribute alone": b"|1\r\n+a\r\n+b\r\n",
    "attributes": b"|0\r\n" * 100_000,
    "a push": b">1\r\n+news\r\n",
    "an empty push": b">0\r\n:1\r\n",
    "many pushes": b">1\r\n+news\r\n" * 1000,
    "an error": b"-FOO bar\r\n",
    "an empty error": b"-\r\n",
    "an error in a text": b"!3\r\nERR\r\n",
    "NOSCRIPT": b"-NOSCRIPT x\r\n",
    "MOVED": b"-MOVED\r\n",
    "MOVED nowhere": b"-MOVED x y:z\r\n",
    "LOADING": b"-LOADING x\r\n",
    "TRYAGAIN": b"-TRYAGAIN\r\n",
    "OOM": b"-OOM x\r\n",
    "NOAUTH": b"-NOAUTH x\r\n",
    "LATE": b"-LATE x\r\n",
    "ASK": b"-ASK\r\n",
    "ASK elsewhere": b"-ASK 1 127.0.0.1:1\r\n",
    "NOTINT": b"-NOTINT x\r\n",
    "an empty line": b"\r\n",
    "garbage": b"\xff\xfe\x00garbage\r\n",
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "half a reply": b"$10\r\nabc",
    "half a line": b"+abc",
    "an exabyte": b"$999999999999999999\r\nx",
    "four gigabytes": b"$4000000000\r\nx",
    "a list without end": b"*999999999999999999\r\n:1\r\n",
    "a map without end": b"%999999999999999999\r\n+a\r\n",
    "depth": b"*1\r\n" * 100_000,
    "a row too short": bulk(NONE[:-1]),
    "a row too long": bulk(NONE + b"x"),
    "a row without its value": bulk(b"\x7f\xff\xff\xff" + bytes(8)),
    "a row that never ends": bulk(b"\0\0\0\0\x7f\xf8" + bytes(6)),
    "more than was asked for": b":1\r\n:1\r\n",
}

STALLING = {
    "an attribute alone",
    "attributes",
    "a push",
    "many pushes",
    "half a reply",
    "half a line",
    "an exabyte",
    "LOADING",
    "TRYAGAIN",
    "four gigabytes",
    "a list without end",
    "a map without end",
}
UNAVAILABLE = "BackendUnavailable"


def patience(shape):
    return STALLS if shape in STALLING else PATIENT


def raising(*args):
    """A hook that fails."""
    raise RuntimeError("a hook that fails")


def reads(cache):
    return {
        "get": (lambda: cache.get("k", "nothing"), "nothing"),
        "get_many": (lambda: cache.get_many(["a", "b"]), {}),
        "in": (lambda: "k" in cache, False),
        "get_or_set": (lambda: cache.get_or_set("k", lambda: "made"), "made"),
    }


def writes(cache):
    return {
        "ttl": lambda: cache.ttl("k"),
        "set": lambda: cache.set("k", 1, tags="t"),
        "set_many": lambda: cache.set_many({"a": 1, "b": 2}),
        "delete": lambda: cache.delete("k"),
        "delete_many": lambda: cache.delete_many(["a", "b"]),
        "touch": lambda: cache.touch("k", 5),
        "increment": lambda: cache.increment("k"),
        "clear": lambda: cache.clear(),
        "invalidate_tag": lambda: cache.invalidate_tag("t"),
        "invalidate_prefix": lambda: cache.invalidate_prefix("k"),
        "barrier": lambda: cache.barrier(),
    }


# If a shape happens to be a good answer, the call believes it.
GOOD = {
    ("in", "an int"): True,
    ("in", "one"): True,
    ("in", "zero"): True,
    ("ttl", "an int"): 0.005,
    ("ttl", "one"): 0.001,
    ("ttl", "zero"): 0.0,
    ("delete", "one"): True,
    ("delete", "zero"): False,
    ("delete_many", "one"): 1,
    ("delete_many", "zero"): 0,
    ("touch", "one"): True,
    ("touch", "zero"): False,
    ("clear", "one"): None,
    ("clear", "zero"): None,
    ("clear", "OK"): None,
    ("invalidate_tag", "one"): 0,
    ("invalidate_tag", "zero"): 0,
    ("barrier", "PONG"): None,
}


def outcome(call):
    try:
        return call()
    except BackendUnavailable:
        return UNAVAILABLE


@pytest.fixture(autouse=True)
def no_thread_ends(monkeypatch):
    """Nothing is raised that no caller sees."""
    ended = []
    monkeypatch.setattr(threading, "excepthook", lambda args: ended.append(args.exc_value))
    yield
    assert ended == []


@pytest.fixture
def hostile():
    with Hostile() as server:
        yield server


def forgive(cache):
    """As if the server had been well until now: else its breaker would answer in its place."""
    for node in cache._core.topology.masters:
        node.health.renew()
        node.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@must_end
def test_every_answer_to_every_call(kind, shape, hostile):
    with make(kind, redis_port=hostile.port, timeout=patience(shape), invalidation=False) as cache:
        assert cache.get("k") is None
        hostile.answer = SHAPES[shape]
        for name, (call, local) in reads(cache).items():
            forgive(cache)
            assert outcome(call) == GOOD.get((name, shape), local), name
        for name, call in writes(cache).items():
            forgive(cache)
            found = outcome(call)
            assert (found == GOOD.get((name, shape), UNAVAILABLE) and found is not True) or (name, shape) in GOOD, name
        assert len(cache._tier.first) == 0
        hostile.answer = None
        forgive(cache)
        wait_until(lambda: outcome(lambda: cache.increment("k")) == 1)
        assert cache.get_or_set("l", lambda: 5) == 5


@pytest.mark.parametrize("shape", ["an int", "a short text", "an exabyte", "an empty line", "depth", "an error"])
@pytest.mark.parametrize("kind", KINDS)
@must_end
def test_raise_raises(kind, shape, hostile):
    with make(
        kind, redis_port=hostile.port, timeout=patience(shape), invalidation=False, on_unavailable="raise"
    ) as cache:
        wait_until(lambda: outcome(lambda: cache.get("k")) is None)     # a busy machine may need a few tries
        hostile.answer = SHAPES[shape]
        for name, (call, _) in reads(cache).items():
            forgive(cache)
            assert outcome(call) == GOOD.get((name, shape), UNAVAILABLE), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_that_made_no_sense_is_closed(kind, hostile):
    with make(kind, redis_port=hostile.port, timeout=5, invalidation=False) as cache:
        assert cache.get("k") is None
        for shape in ("an int", "a short text", "more than was asked for", "an empty line"):
            forgive(cache)
            hostile.answer = SHAPES[shape]
            closed = hostile.closed_by_client
            cache.get("k")
            wait_until(lambda: hostile.closed_by_client > closed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "many pushes"])
@must_end
def test_every_answer_to_the_greeting(kind, shape, hostile):
    hostile.greeting = SHAPES[shape]
    with make(kind, redis_port=hostile.port, timeout=STALLS, invalidation=False) as cache:
        assert cache.get("k", "nothing") == "nothing"
        assert cache.get_or_set("k", lambda: 5) == 5
        assert outcome(lambda: cache.set("k", 1)) in (UNAVAILABLE, None)
        hostile.greeting = GREETING
        forgive(cache)


@pytest.mark.parametrize("shape", [name for name in SHAPES if name not in STALLING])
@must_end
def test_every_answer_to_whoever_asks_for_slots(shape, hostile):
    hostile.greeting = GREETING.replace(b"%2", b"%3") + b"$4\r\nmode\r\n$7\r\ncluster\r\n"
    hostile.answer = SHAPES[shape]
    with make("sync", redis_port=hostile.port, timeout=PATIENT, invalidation=False) as cache:
        assert cache.get("k", "nothing") == "nothing"
        forgive(cache)
        assert outcome(lambda: cache.set("k", 1)) == UNAVAILABLE


@pytest.mark.parametrize("shape", [name for name in SHAPES if name not in STALLING])
@must_end
def test_every_answer_to_whoever_asks_a_sentinel(shape, hostile):
    hostile.answer = SHAPES[shape]
    url = f"redis+sentinel://127.0.0.1:{hostile.port}/service"
    with make("sync", url=url, timeout=PATIENT, invalidation=False) as cache:
        assert cache.get("k", "nothing") == "nothing"
        assert outcome(lambda: cache.set("k", 1)) == UNAVAILABLE


# --- the link ---------------------------------------------------------------------------------------------------------

PUSHES = {
    "an empty push": b">0\r\n",
    "no names": b">1\r\n$10\r\ninvalidate\r\n",
    "a number for names": b">2\r\n$10\r\ninvalidate\r\n:5\r\n",
    "a text for names": b">2\r\n$10\r\ninvalidate\r\n$3\r\nabc\r\n",
    "a map for names": b">2\r\n$10\r\ninvalidate\r\n%0\r\n",
    "numbers among names": b">2\r\n$10\r\ninvalidate\r\n*2\r\n:5\r\n_\r\n",
    "an error among names": b">2\r\n$10\r\ninvalidate\r\n*1\r\n-ERR x\r\n",
    "words among names": b">2\r\n$10\r\ninvalidate\r\n*1\r\n+cachebox:{0}v:k\r\n",
    "too much": b">3\r\n$10\r\ninvalidate\r\n*0\r\n*0\r\n",
    "a kind that is a number": b">2\r\n:5\r\n*0\r\n",
    "a kind that is a list": b">2\r\n*0\r\n*0\r\n",
    "a negative push": b">-1\r\n",
    "an empty line": b"\r\n",
    "a map with a list as key": b"%1\r\n*0\r\n+a\r\n",
    "a length of letters": b"$x\r\n",
    "garbage": b"\xff\r\n",
    "a huge number": b":" + b"1" * 5000 + b"\r\n",
    "answers that nobody asked for": b"+PONG\r\n" * 5,
    "an error": b"-ERR what\r\n" * 3,
    "depth": b"*1\r\n" * 100_000 + b"+x\r\n",
    "attributes": b"|0\r\n" * 100_000 + b"+x\r\n",
}


def linked(server, **options):
    cache = DistributedCache(redis_port=server.port, timeout=1, **options)
    cache.get("k")
    wait_until(lambda: cache._tier.is_fresh)
    return cache


@pytest.mark.parametrize("push", PUSHES.values(), ids=PUSHES)
def test_a_push_that_makes_no_sense_costs_the_connection_and_the_first_tier(push, hostile, monkeypatch, caplog):
    monkeypatch.setattr(links, "RETRY_APART", 0.01)
    with linked(hostile) as cache:
        cache._tier.first.set("k", "kept only while the link is heard")
        thread = cache._core.tracking._thread.thread
        with caplog.at_level(logging.WARNING, "cachebox"):
            hostile.push(push)
            wait_until(lambda: len(hostile.links) > 1 and cache._tier.is_fresh)
        assert cache.get("k") is None
        assert cache._core.tracking._thread.thread is thread and thread.is_alive()
        assert len([record for record in caplog.records if "tracking link" in record.message]) == 1
        cache.barrier()


@pytest.mark.parametrize(
    "names",
    [
        b"$13\r\ncachebox:{0}v\r\n",
        b"$9\r\ncachebox:\r\n",
        b"$16\r\ncachebox:{0}v:\xff\xfe\r\n",
        b"$14\r\ncachebox:{0}vk\r\n",
        b"$14\r\ncachebox:{0}gg\r\n",
        b"$15\r\ncachebox:{9}v:k\r\n",
        b"$5\r\nother\r\n",
        b"$0\r\n\r\n",
    ],
)
def test_names_that_are_not_ours_are_nobodys(names, hostile):
    with linked(hostile) as cache:
        cache._tier.first.set("k", "here")
        hostile.push(b">2\r\n$10\r\ninvalidate\r\n*1\r\n" + names)
        cache.barrier()
        assert cache.get("k") == "here" and len(hostile.links) == 1


@pytest.mark.parametrize("kind", [b"$10\r\ninvalidate\r\n", b"+invalidate\r\n"])
def test_an_invalidation_is_heard_however_its_kind_is_written(kind, hostile):
    with linked(hostile) as cache:
        cache._tier.first.set("k", "here")
        hostile.push(b">2\r\n" + kind + b"*1\r\n$15\r\ncachebox:{0}v:k\r\n")
        cache.barrier()
        assert cache.get("k") is None and len(hostile.links) == 1


@pytest.mark.parametrize("answer", ["a word", "an error", "an int", "a short text", "nothing", "an empty line", "OK"])
def test_a_senseless_answer_to_ping_is_no_sign_of_life(answer, hostile, monkeypatch):
    monkeypatch.setattr(links, "RETRY_APART", 0.01)
    hostile.pong = SHAPES[answer]
    with DistributedCache(redis_port=hostile.port, timeout=0.5) as cache:
        cache.get("k")
        wait_until(lambda: len(hostile.links) > 2)
        assert not cache._tier.is_fresh
        with pytest.raises(BackendUnavailable):
            cache.barrier(0.05)
        hostile.pong = b"+PONG\r\n"
        wait_until(lambda: cache._tier.is_fresh)
        cache.barrier()


@pytest.mark.parametrize("answer", ["a word", "an int", "a list", "nothing", "an empty line", "a map", "an error"])
def test_a_senseless_answer_to_tracking_is_no_link(answer, hostile, monkeypatch):
    monkeypatch.setattr(links, "RETRY_APART", 0.01)
    hostile.tracking = SHAPES[answer]
    with DistributedCache(redis_port=hostile.port, timeout=0.5) as cache:
        assert cache.get("k") is None
        wait_until(lambda: len(hostile.links) > 2)
        assert not cache._tier.is_fresh and not cache._tier.is_tracked
        hostile.tracking = b"+OK\r\n"
        wait_until(lambda: cache._tier.is_fresh)


def test_a_server_that_goes_on_talking_nonsense_is_asked_once_in_a_while(hostile):
    with linked(hostile) as cache:
        hostile.pong = b"+what\r\n"
        wait_until(lambda: len(hostile.links) >= 2)
        assert len(hostile.links) <= 3 and cache._core.tracking._next_try


# --- leases -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("milliseconds", [-1, 0, 10**18, 2**63 - 1, -2, 2**63])
@must_end
def test_a_lease_without_a_sign_of_life_is_not_waited_for_for_ever(kind, milliseconds, hostile, monkeypatch):
    from cachebox.distributed._ops import leases

    monkeypatch.setattr(leases, "PATIENCE", 0.3)
    with make(kind, redis_port=hostile.port, timeout=1, invalidation=False) as cache:
        assert cache.get("k") is None
        hostile.answer = b"*3\r\n:2\r\n:%d\r\n$16\r\n%s\r\n" % (milliseconds, b"t" * 16)
        assert cache.get_or_set("k", lambda: "made here") == "made here"


# --- threads ----------------------------------------------------------------------------------------------------------


class Broken(BaseException):
    """An exception that no code expects."""


@pytest.mark.parametrize("error", [MemoryError, Broken, SystemExit, KeyboardInterrupt, RecursionError, TypeError])
@pytest.mark.parametrize("where", ["pass_on", "_ping", "_connect", "_read", "_listen"])
def test_the_link_goes_on_whatever_is_raised_in_it(error, where, hostile, monkeypatch, caplog):
    monkeypatch.setattr(links, "RETRY_APART", 0.01)
    monkeypatch.setattr(links, "TROUBLE_PAUSE", 0.01)
    monkeypatch.setattr(threading, "excepthook", raising)
    with linked(hostile) as cache:
        link = cache._core.tracking
        holder = links if where == "pass_on" else link
        thread, good = link._thread.thread, getattr(holder, where)
        raised = []

        def bad(*args):
            if len(raised) < 3:
                raised.append(1)
                raise error("out of nowhere")
            return good(*args)

        cache._tier.first.set("k", "kept only while the link is heard")
        with caplog.at_level(logging.ERROR, "cachebox"):
            monkeypatch.setattr(holder, where, bad)
            wait_until(lambda: hostile.push(b">2\r\n$10\r\ninvalidate\r\n*0\r\n") or len(raised) == 3)
            wait_until(lambda: cache._tier.is_fresh)
        assert link._thread.thread is thread and thread.is_alive()
        assert cache.get("k") is None  # no call asked the link for anything meanwhile
        said = [record for record in caplog.records if "failed, and starts again" in record.message]
        assert 1 <= len(said) <= 3 and said[0].exc_info[0] is error


@must_end
def test_a_link_whose_thread_ended_all_the_same_is_made_anew(hostile):
    with linked(hostile) as cache:
        link = cache._core.tracking
        thread = link._thread.thread
        link._is_ending = True
        link._wake_up()
        thread.join()
        link._is_ending = False
        assert not link._thread.runs()
        cache.barrier()
        assert link._thread.thread.is_alive()


def test_the_helper_goes_on_whatever_a_task_raises(caplog, monkeypatch):
    from cachebox.distributed._net.background import Background

    monkeypatch.setattr(threading, "excepthook", raising)
    background, done = Background(), threading.Event()

    def bad(error):
        raise error

    with caplog.at_level(logging.ERROR, "cachebox"):
        for error in (MemoryError(), Broken(), SystemExit(), KeyboardInterrupt(), ZeroDivisionError()):
            background.schedule(0.0, lambda error=error: bad(error))
        background.schedule(0.0, done.set)
        assert done.wait(60)
    assert len(caplog.records) == 1  # once per change of state
    background.stop()
    assert not background._thread.runs()


def test_the_helper_asks_its_thread_whether_it_runs():
    from cachebox._platform.thread import Thread
    from cachebox.distributed._net.background import Background

    background, done = Background(), threading.Event()
    ended = Thread("cachebox-background", lambda: None)
    background._thread._threads.append(ended)
    ended.start()
    ended.join()
    background.schedule(0.0, done.set)
    assert done.wait(60)
    background.stop()


def test_a_lease_is_renewed_after_a_renewal_that_failed(hostile, monkeypatch):
    from cachebox.distributed._ops import leases
    from cachebox.distributed._ops.single_flight import new_flight

    monkeypatch.setattr(leases, "RENEWED_EVERY", 0.01)
    with make("sync", redis_port=hostile.port, timeout=1, invalidation=False) as cache:
        held, sent = cache._loader.leases, []

        def send(*args):
            sent.append(1)
            raise MemoryError

        monkeypatch.setattr(held, "_send", send)
        held.keep(b"t" * 16, [], new_flight())
        wait_until(lambda: len(sent) > 2)
        held.let_go(b"t" * 16)


@pytest.mark.parametrize("kind", KINDS)
def test_cached_functions_run_whatever_the_server_says(kind, hostile):
    with make(kind, redis_port=hostile.port, timeout=STALLS, invalidation=False) as cache:
        if kind == "async":

            @cached(cache.cache)
            async def double(n):
                return 2 * n

            def call(n):
                return cache.loop.run_until_complete(double(n))
        else:

            @cached(cache)
            def double(n):
                return 2 * n

            call = double
        assert call(1) == 2
        for shape in ("an int", "a list", "a map", "an exabyte", "an empty line", "not a number", "a lease for ever"):
            hostile.answer = SHAPES[shape]
            forgive(cache)
            assert call(math.pi) == 2 * math.pi
