"""`add` and `compute` over two tiers: one step over all threads, tasks and processes, whatever a connection does."""

from __future__ import annotations

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

from both_kinds import KINDS, make
from cachebox import MISSING, BackendUnavailable, DistributedCache
from in_threads import Started, run_all, wait_for, wait_until
from redis_servers import Proxy
from second_tiers import BOTH

SECOND_TIERS = BOTH

@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=[None, "secret"])
def cache(request, kind, server):
    with make(kind, **server.at, secret=request.param, timeout=10) as made:
        yield made


@pytest.fixture
def other(cache, kind, server):
    secret = "secret" if cache._core.codec._secret else None
    with make(kind, **server.at, secret=secret, timeout=10) as made:
        yield made


def add_one(old):
    return 1 if old is MISSING else old + 1


def test_add_stores_where_there_is_none(cache, other):
    assert other.get("k", "nothing") == "nothing"
    assert cache.add("k", [1], 100, tags=["t", "ü"]) is True
    assert other.add("k", [2]) is False and other.get("k") == [1] and 90 < other.ttl("k") <= 100
    assert cache.add("k", [3]) is False and cache.get("k") == [1]
    cache.invalidate_tag("ü")
    other.barrier()
    assert other.get("k") is None and other.add("k", None) is True
    cache.barrier()
    assert cache.get("k", "nothing") is None and cache.add("k", 1) is False
    other.delete("k")
    assert cache.add("k", 5) is True
    cache.clear()
    assert other.add("k", 6) is True and cache.get("k") == 6
    for call in (
        lambda: cache.add(1, 1),
        lambda: cache.add("x", object()),
        lambda: cache.add("x", 1, 0),
        lambda: cache.add("x", 1, tags=5),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()
    assert not cache.contains("x")


def test_compute_replaces_and_deletes(cache, other):
    cache.set("k", 1, 100, tags="t")
    other.get("k")
    assert cache.compute("k", lambda old: [old]) == [1]
    other.barrier()
    assert other.get("k") == [1] and 90 < other.ttl("k") <= 100  # lifetime and tags stay
    assert other.compute("k", lambda old: [*old, 2]) == [1, 2]
    cache.barrier()
    assert cache.get("k") == [1, 2]
    cache.invalidate_tag("t")
    other.barrier()
    assert other.get("k") is None
    seen = []
    assert other.compute("k", lambda old: seen.append(old) or 5) == 5 and seen == [MISSING]
    assert other.ttl("k") is None and cache.increment("k") == 6
    assert cache.compute("k", add_one) == 7 and other.increment("k") == 8
    assert cache.compute("k", lambda old: MISSING) is MISSING
    other.barrier()
    assert other.get("k") is None and cache.compute("k", lambda old: MISSING) is MISSING


def test_compute_runs_again_where_somebody_else_wrote(cache, other):
    writes = iter([lambda: other.set("k", 10), lambda: other.delete("k"), lambda: other.clear(), lambda: None])
    seen = []

    def fn(old):
        seen.append(old)
        Started(next(writes)).result()
        return add_one(old)

    cache.set("k", 1)
    assert cache.compute("k", fn) == 1 and seen == [1, 10, MISSING, MISSING][: len(seen)] and len(seen) >= 3
    assert other.get("k") == 1


def test_what_fn_raises_or_returns_changes_nothing(cache):
    cache.set("k", 1)

    async def coroutine(old):
        return 2

    for fn, error in (
        (lambda old: 1 / 0, ZeroDivisionError),
        (lambda old: object(), TypeError),
        (coroutine, TypeError),
        (lambda old: coroutine(old), TypeError),
        (5, TypeError),
    ):
        with pytest.raises(error):
            cache.compute("k", fn)
    assert cache.get("k") == 1 and cache.ttl("k") is None


def test_what_cannot_be_decoded_is_replaced(cache, server):
    cache.set("k", [1], tags="t")
    client = server.client()
    [name] = [name for name in client.keys() if name.endswith(b"v:k")]
    data = client.get(name)
    for damaged in (data[:-1] + b"!", data[:3] + b"X" + data[4:], b"junk"):
        client.set(name, damaged)
        cache.barrier()
        seen = []
        assert cache.compute("k", lambda old, seen=seen: seen.append(old) or [2]) == [2]
        assert seen == [MISSING] and cache.get("k") == [2]
    client.delete(name)
    client.lpush(name, 1)
    assert cache.compute("k", add_one) == 1 and cache.add("k", 2) is False


def test_one_wins_and_no_step_is_lost_over_threads(cache, other, kind):
    if kind == "async":
        pytest.skip("its loop runs in one thread")
    won = run_all(*[lambda one=one: [one.add(f"k{n}", 1) for n in range(20)] for one in (cache, other) * 2])
    assert [sum(each) for each in zip(*won, strict=True)] == [1] * 20
    run_all(*[lambda one=one: [one.compute("n", add_one) for _ in range(20)] for one in (cache, other) * 2])
    assert cache.get("n") == 80


PROGRAM = """
import sys
from cachebox import MISSING, DistributedCache
with DistributedCache(redis_port=int(sys.argv[1]), timeout=20) as cache:
    won = sum(cache.add(f"k{n}", sys.argv[2]) for n in range(20))
    for _ in range(20):
        cache.compute("n", lambda old: 1 if old is MISSING else old + 1)
print(won)
"""


def test_over_processes(program, server):
    processes = [program(PROGRAM, server.port, n) for n in range(2)]
    assert sum(int(process.communicate(timeout=120)[0]) for process in processes) == 20
    with DistributedCache(**server.at) as cache:
        assert cache.get("n") == 40


@pytest.mark.parametrize("step", ["add", "compute", "delete"])
def test_a_lost_answer_does_not_make_it_happen_twice(kind, step, server):
    with (
        Proxy(server.port) as proxy,
        make(kind, redis_port=proxy.port, timeout=20) as cache,
        make(kind, **server.at) as other,
    ):
        cache.set("n", 5)
        cache.get("n"), cache.get("k"), cache.add("warm", 1)
        from cachebox.distributed._wire.scripts import ADD, SWAP

        proxy.drops_next_reply_to = (ADD if step == "add" else SWAP).digest
        if step == "add":
            assert cache.add("k", 1) is True
        elif step == "compute":
            calls = []
            assert cache.compute("n", lambda old: calls.append(old) or old + 1) == 6 and calls == [5]
        else:
            assert cache.compute("n", lambda old: MISSING) is MISSING
        assert proxy.drops_next_reply_to is None
        cache.barrier()
        wanted = {"add": {"k": 1, "n": 5}, "compute": {"n": 6}, "delete": {}}[step]
        assert other.get_many(["k", "n"]) == wanted == cache.get_many(["k", "n"])


def test_a_load_that_is_under_way_loses(kind, server):
    import threading

    with make(kind, **server.at, timeout=10) as cache, DistributedCache(**server.at) as other:
        for step in (lambda: other.add("k", "added"), lambda: other.compute("k", lambda old: "computed")):
            begun, go_on = threading.Event(), threading.Event()
            def slow(begun=begun, go_on=go_on):
                begun.set()
                wait_for(go_on)

            load = Started(cache.get_or_set, "k", slow)
            wait_until(begun.is_set)
            step()
            go_on.set()
            load.result()
            other.barrier()
            assert other.get("k") in ("added", "computed")
            other.delete("k")


def test_without_a_server_they_raise(kind):
    with make(kind, redis_port=1) as cache:
        for call in (lambda: cache.add("k", 1), lambda: cache.compute("k", add_one)):
            with pytest.raises(BackendUnavailable) as raised:
                call()
            assert raised.value.keys == {"k"}
        assert cache.get("k") is None
