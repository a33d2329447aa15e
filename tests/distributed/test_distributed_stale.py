"""`stale_ttl`, `jitter`, `compress` and `name` over two tiers, and results that are of their annotation's class."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import pickle
import subprocess
import sys
import threading

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

from both_kinds import KINDS, make
from cachebox import MISSING, DistributedCache, cached, caches
from cachebox.distributed._wire.codec import Codec, Undecodable
from in_threads import Started, wait_for, wait_until
from second_tiers import BOTH

SECOND_TIERS = BOTH

STALE = 1000                        # seconds


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=[None, "secret"])
def cache(request, kind, server):
    with make(kind, **server.at, stale_ttl=STALE, timeout=10, secret=request.param) as made:
        yield made


def end(server, *caches, key="k"):
    """End the lifetime of an entry, which is kept for a while yet."""
    server.set_left(key, 1000 * STALE - 1000)
    for cache in caches:
        cache.barrier()


def unwanted():
    pytest.fail("there is no need for that")


def test_an_entry_is_kept_longer_than_it_lives(cache, server):
    cache.set("k", [1], 100, tags="t")
    client = server.client()
    [name] = [name for name in client.keys() if name.endswith(b"v:k")]
    assert 1090_000 < client.pttl(name) <= 1100_000 and 90 < cache.ttl("k") <= 100
    assert cache.get("k") == [1] and 90 < cache._core.tier.first.ttl("k") <= 100
    assert cache.touch("k", 500) is True and 490 < cache.ttl("k") <= 500 and cache.get("k") == [1]
    assert cache.compute("k", lambda old: [*old, 2]) == [1, 2] and 490 < cache.ttl("k") <= 500
    cache.set("forever", 1)
    assert cache.ttl("forever") is None


def test_what_has_ended_is_absent_for_all_but_those_who_compute(cache, server):
    for call, wanted in (
        (lambda: cache.get("k", "nothing"), "nothing"),
        (lambda: cache.get_many(["k"]), {}),
        (lambda: cache.contains("k"), False),
        (lambda: cache.touch("k"), False),
        (lambda: cache.delete("k"), False),
        (lambda: cache.add("k", 9), True),
        (lambda: cache.increment("k"), 1),
        (lambda: cache.compute("k", lambda old: 7 if old is MISSING else 0), 7),
        (lambda: cache.warm({"k": 5}).loaded, 1),
    ):
        cache.set("k", 3, 100, tags="t")
        end(server, cache)
        assert call() == wanted
    cache.set("k", 3, 100)
    end(server, cache)
    with pytest.raises(KeyError):
        cache.ttl("k")
    cache.set("k", 3, 100, tags="t")
    assert cache.increment("k") == 4 and 90 < cache.ttl("k") <= 100  # an int that is kept becomes a counter


def test_the_old_value_is_served_while_one_process_computes(cache, kind, server):
    secret = "secret" if cache._core.codec._secret else None
    with make(kind, **server.at, stale_ttl=STALE, timeout=10, secret=secret) as other:
        cache.set("k", "old", 100)
        end(server, cache, other)
        begun, go_on = threading.Event(), threading.Event()

        def slow():
            begun.set()
            wait_for(go_on)
            return "new"

        if kind == "sync":
            assert cache.get_or_set("k", slow, 100) == "old"
            wait_for(begun)
            assert other.get_or_set("k", unwanted, 100) == "old" == cache.get_or_set("k", unwanted, 100)
            assert cache.stats.stale_serves + other.stats.stale_serves == 3 and cache.stats.misses == 0
            go_on.set()
            wait_until(lambda: cache.stats.refreshes == 1)
        else:
            go_on.set()
            assert cache.get_or_set("k", slow, 100) == "old"
            cache.loop.run_until_complete(settled(lambda: cache.stats.refreshes == 1))
        other.barrier(), cache.barrier()
        assert other.get_or_set("k", unwanted, 100) == "new" == cache.get("k")
        assert 90 < other.ttl("k") <= 100


async def settled(condition):
    import asyncio

    while not condition():
        await asyncio.sleep(0.001)


def test_the_old_value_is_served_while_the_function_fails(server):
    with DistributedCache(**server.at, stale_ttl=datetime.timedelta(seconds=STALE), timeout=10) as cache:
        runs = []

        def fails(*args):
            runs.append(1)
            raise OSError("down")

        for single_flight in (True, False):
            options = {"key_func": lambda n: "k", "single_flight": single_flight, "name": f"f{single_flight}"}
            function = cached(cache, ttl=100, **options)(fails)
            cache.set("k", "old", 100)
            end(server, cache)
            assert function(1) == "old"
            wait_until(lambda: runs)
            wait_until(lambda: cache.stats.refresh_failures + (not single_flight))
            assert function(1) == "old"
            runs.clear()
            cache.delete("k")
            with pytest.raises(OSError, match="down"):
                function(1)


def test_a_write_or_a_delete_ends_what_is_stale(cache, server):
    for end_it in (
        lambda: cache.delete("k"),
        lambda: cache.invalidate_tag("t"),
        lambda: cache.clear(),
        lambda: cache.invalidate_prefix("k"),
    ):
        cache.set("k", "old", 100, tags="t")
        end(server, cache)
        end_it()
        assert cache.get_or_set("k", lambda: "new", 100) == "new"
        cache.delete("k")


@pytest.mark.parametrize("wrong", [0, -1, float("inf"), "1", True])
def test_stale_ttl_must_be_seconds(wrong):
    with pytest.raises((TypeError, ValueError), match="stale_ttl"):
        DistributedCache(redis_port=1, stale_ttl=wrong)


def test_jitter_only_ever_shortens(kind, server):
    with make(kind, **server.at, jitter=0.5) as cache:
        cache.set_many(dict.fromkeys(map(str, range(50)), 1), 1000)
        cache.warm({f"w{n}": n for n in range(5)})
        for n in range(50):
            cache.add(f"a{n}", 1, 1000)
        for names in (range(50), [f"a{n}" for n in range(50)]):
            lifetimes = [cache.ttl(str(n)) for n in names]
            assert all(450 < ttl <= 1000 for ttl in lifetimes) and max(lifetimes) - min(lifetimes) > 100
        cache.get_or_set("g", int, 1000), cache.touch("0", 1000)
        assert cache.ttl("g") <= 1000 and cache.ttl("0") <= 1000 and cache.ttl("w0") is None
    for wrong in (-0.1, 1.1, float("nan"), "1", True):
        with pytest.raises((TypeError, ValueError), match="jitter"):
            DistributedCache(redis_port=1, jitter=wrong)


def test_values_are_compressed_on_the_server(kind, server):
    with (
        make(kind, **server.at, compress="zlib", isolate=True) as cache,
        make(kind, **server.at) as other,
    ):
        value = {"rows": [{"name": "the same", "n": n} for n in range(500)]}
        cache.set("k", value)
        assert other.get("k") == value == cache.get("k") == cache.get("k")
        assert cache.get_or_set("l", lambda: value) == value == other.get("l") == cache.get("l")
        client = server.client()
        [name] = [name for name in client.keys() if name.endswith(b"v:k")]
        assert client.strlen(name) < 5000


def test_bad_options():
    for options, error in (
        ({"compress": "lz4"}, "compress"),
        ({"name": 5}, "name"),
        ({"name": ""}, "name"),
        ({"isolate": str.lower}, "isolate"),
        ({"invalidation": "no"}, "invalidation"),
        ({"compression": "zlib"}, "compress"),
        ({"stale": 1}, "stale_ttl"),
    ):
        with pytest.raises((TypeError, ValueError), match=error):
            DistributedCache(redis_port=1, **options)


@pytest.mark.parametrize("place", [{"redis_port": 1}, {"url": "redis://127.0.0.1:1"}, {"url": "memory://"}])
def test_the_name_is_the_one_given_wherever_the_server_is(place):
    with DistributedCache(name="mine", **place) as cache, DistributedCache(**place) as nameless:
        assert cache.name == "mine" and nameless.name is None
        assert caches()["mine"] is cache and nameless not in caches().values()


# --- annotations ------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    colour: Colour = Colour.RED


PROGRAM = """
import dataclasses, enum, sys
sys.modules["test_distributed_stale"] = sys.modules["__main__"]
from cachebox import DistributedCache, cached
class Colour(enum.Enum):
    RED = 1
@dataclasses.dataclass(frozen=True)
class Point:
    x: {type}
    colour: Colour = Colour.RED
for kind in (Colour, Point):
    kind.__module__ = "test_distributed_stale"
with DistributedCache(redis_port={port}, timeout=30) as cache:
    @cached(cache, name="f")
    def f(x) -> list[Point]:
        return ["computed"]
    print(f(1), cache.stats.undecodable)
"""


@pytest.mark.parametrize("isolate", [False, True])
def test_annotated_functions_give_back_their_class(kind, isolate, server):
    with (
        make(kind, **server.at, isolate=isolate) as cache,
        make(kind, **server.at, isolate=isolate) as other,
    ):
        runs = []

        def decorated(one):
            if kind == "sync":

                @cached(one, name="f")
                def f(x) -> list[Point]:
                    runs.append(x)
                    return [Point(x)]

                return f

            @cached(one.cache, name="f")
            async def f(x) -> list[Point]:
                runs.append(x)
                return [Point(x)]

            return lambda x: one.loop.run_until_complete(f(x))

        here, there = decorated(cache), decorated(other)
        for _ in range(2):
            assert here(1) == there(1) == [Point(1)] and runs == [1]
        if isolate:
            assert here(1) is not here(1)
        if isolate or kind == "async":          # the processes take a second each
            return
        for annotation, answer in (("int", "[Point(x=1, colour=<Colour.RED: 1>)] 0"), ("str", "['computed'] 1")):
            program = PROGRAM.format(port=server.port, type=annotation)
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
            assert done.stdout.strip() == answer, done.stderr


def test_who_waits_in_a_cache_that_isolates_gets_objects_too(server):
    with DistributedCache(**server.at, isolate=True, timeout=10) as cache:
        begun, go_on = threading.Event(), threading.Event()

        @cached(cache, name="f")
        def f() -> Point:
            begun.set()
            wait_for(go_on)
            return Point(1)

        leader = Started(f)
        wait_for(begun)
        waiters = [Started(f) for _ in range(3)]
        wait_until(lambda: cache.stats.misses == 4)
        go_on.set()
        assert all(one.result() == Point(1) for one in (leader, *waiters))


def test_statistics_have_the_methods_of_those_of_a_cache(kind, server):
    with make(kind, **server.at) as cache:
        cache.get("a")
        before = cache.stats.snapshot()
        cache.set("a", 1), cache.get("a"), cache.get("a"), cache.get("b")
        passed = cache.stats.snapshot() - before
        assert (passed.misses, passed.remote_hits, passed.local_hits) == (1, 1, 1) and passed.hit_rate() == 2 / 3
        assert passed.get("misses") == passed.get_all()["misses"] == 1 and 0 <= passed.uptime < 1000
        assert pickle.loads(pickle.dumps(before)) == before and before.misses == 1 and before != passed
        cache.stats.increment("misses", 5)
        assert cache.stats.misses == 7
        cache.stats.reset()
        assert not any(cache.stats.snapshot().get_all().values()) and cache.stats.hit_rate() == 0.0
        every = cache.stats.get_all()
        assert every == {name: cache.stats.get(name) for name in every}
        assert {"breaker", "link", "last_error"} < set(every)
        cache.get("a"), cache.get("b")
        assert (cache.stats.local_hits, cache.stats.misses) == (1, 1) and "uptime" in cache.stats.report()
        for wrong, error in ((("breaker",), ValueError), (("misses", -1), ValueError), (("misses", "1"), TypeError)):
            with pytest.raises(error):
                cache.stats.increment(*wrong)
        with pytest.raises(ValueError, match="name must be one of"):
            before.get("hits")
        with pytest.raises(TypeError, match="snapshot"):
            pickle.dumps(cache.stats)
        assert {name for name in dir(cache.stats) if not name.startswith("_")} >= {
            "get", "get_all", "increment", "hit_rate", "reset", "report", "snapshot"
        }


def test_kept_entries_of_another_configuration_are_understood(server):
    with (
        DistributedCache(**server.at, stale_ttl=STALE) as cache,
        DistributedCache(**server.at) as plain,
    ):
        cache.set("k", 5, 100)
        assert plain.get("k") == 5 and 90 < plain.ttl("k") <= 100
        end(server, cache, plain)
        assert plain.get("k") is None and plain.get_or_set("k", unwanted) == 5
        plain.set("k", 6, 100)
        assert cache.get("k") == 6 and 90 < cache.ttl("k") <= 100


def test_what_is_kept_is_signed():
    codec = Codec("json", "s", "app")
    head, body = codec.encode("k", [1], (), None, 5000)
    data = head + bytes(16) + body
    assert codec.decode("k", data) == [1] and codec.kept(data) == 5000
    for forged in (data[:21] + b"\0\0\0\1" + data[25:], data[:4] + b"\1" + data[5:21] + data[25:]):
        with pytest.raises(Undecodable):
            codec.decode("k", forged)


def test_a_function_may_ask_for_it_where_the_cache_does_not(server):
    with DistributedCache(redis_port=server.port, timeout=10) as cache:
        results = iter(["old", "new", OSError("down")])

        @cached(cache, ttl=100, name="f", stale_ttl=STALE)
        def f():
            result = next(results)
            if isinstance(result, Exception):
                raise result
            return result

        assert f() == "old" and 90 < cache.ttl("f()") <= 100
        end(server, cache, key="f()")
        assert f() == "old"
        wait_until(lambda: cache.stats.refreshes == 1)
        assert f() == "new" and cache.stats.stale_serves == 1 and 90 < cache.ttl("f()") <= 100
        end(server, cache, key="f()")
        assert f() == "new"  # and its function fails
        wait_until(lambda: cache.stats.refresh_failures == 1)
        f.set("set")
        end(server, cache, key="f()")
        results = iter(["again"])
        assert f() == "set"
        wait_until(lambda: f.peek() == "again")

        @cached(cache, ttl=1000, name="g", refresh_ahead=0.2)
        def g():
            return "new"

        cache.set("g()", "old", 20)
        assert g() == "old"
        wait_until(lambda: cache.stats.refreshes == 3)
        assert g() == "new"
        cache.set("k", 1, 20)
        assert cache.get_or_set("k", unwanted, 1000) == 1  # the cache itself does not refresh


def test_all_that_a_function_has_knows_its_annotation(kind, server):
    with make(kind, redis_port=server.port) as cache, make(kind, redis_port=server.port) as other:

        def decorated(one):
            if kind == "sync":
                return cached(one, name="f")(plain), lambda result: result
            return cached(one.cache, name="f", returns=list[Point])(later), one.loop.run_until_complete

        def plain(x) -> list[Point]:
            return [Point(x)]

        async def later(x):
            return [Point(x)]

        (f, run), (there, run_there) = decorated(cache), decorated(other)
        assert run(f.peek(1)) is MISSING
        run(f.set([Point(5)], 1))
        other.barrier()
        assert run_there(there.peek(1)) == [Point(5)] == run_there(there(1)) == run(f(1))
        assert run(f.refresh(1)) == [Point(1)]
        other.barrier()
        assert run_there(there(1)) == [Point(1)]


def test_a_named_cache_is_known_by_its_name():
    with DistributedCache(redis_port=1, name="prices of the shop") as cache:
        assert caches()["prices of the shop"] is cache
    with DistributedCache(redis_port=1) as cache:
        assert cache not in caches().values()
