"""`cached_many` over two tiers."""

from __future__ import annotations

import asyncio
import dataclasses
import threading

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

from both_kinds import KINDS
from cachebox import AsyncDistributedCache, BackendUnavailable, DistributedCache, cached_many, disabled
from in_threads import wait_until
from redis_servers import free_port
from second_tiers import BOTH

SECOND_TIERS = BOTH


@pytest.fixture
def cache(server):
    with DistributedCache(**server.at) as cache:
        yield cache


@dataclasses.dataclass
class User:
    number: int


class Counted:
    def __init__(self):
        self.asked = []

    def __call__(self, keys):
        self.asked.append(list(keys))
        return {key: [key] for key in keys if key >= 0}


def test_what_is_missing_is_one_call_in_every_process(cache, server):
    count = Counted()
    f = cached_many(cache, missing_ttl=60, name="f")(count)
    assert f([1, 2, -1]) == {1: [1], 2: [2]} and count.asked == [[1, 2, -1]]
    assert f([2, 1, -1]) == {2: [2], 1: [1]} and len(count.asked) == 1
    with DistributedCache(**server.at) as elsewhere:
        other = Counted()
        g = cached_many(elsewhere, missing_ttl=60, name="f")(other)
        assert list(g([3, -1, 1])) == [3, 1] and other.asked == [[3]]
        assert f([3]) == {3: [3]} and len(count.asked) == 1
        assert g.invalidate([1, -1, 9]) == 1
        cache.barrier()
        assert f([1, -1]) == {1: [1]} and count.asked[1:] == [[1, -1]]
    assert f([]) == {} and f.cache_info()[:2] == (4, 5)


def test_control(cache):
    count = Counted()
    f = cached_many(cache)(count)
    assert f.peek([1]) == {} and f.refresh([1, -1]) == {1: [1]} == f([1])
    f.set({1: "given", 2: "two"})
    assert f([1, 2]) == {1: "given", 2: "two"} == f.peek([1, 2])
    assert f.refresh([1]) == {1: [1]} == f([1]) and f.invalidate([1, 2]) == 2
    count.asked.clear()
    with disabled():
        assert f([1]) == {1: [1]}
    assert f.peek([1]) == {} and count.asked == [[1]]
    f([1])
    f.cache_clear()
    assert f.peek([1]) == {} and f.cache_key(1).endswith("(1)")


def test_lifetimes_conditions_and_tags(cache):
    f = cached_many(
        cache, ttl=lambda result: 0 if result == "never" else 60, condition=lambda result: result != "bad",
        tags=lambda result, key: "tagged" if key == "tagged" else (),
    )(lambda keys: {key: key for key in keys})
    assert len(f(["never", "bad", "tagged", "plain"])) == 4
    assert f.peek(["never", "bad", "tagged", "plain"]) == {"tagged": "tagged", "plain": "plain"}
    assert 0 < cache.ttl(f.cache_key("plain")) <= 60
    cache.invalidate_tag("tagged")
    assert f.peek(["tagged", "plain"]) == {"plain": "plain"}


def test_values_of_the_annotated_type(cache, server):
    def load(keys: list[int]) -> dict[int, User]:
        return {key: User(key) for key in keys if key > 0}

    f = cached_many(cache, missing_ttl=60, name="users")(load)
    assert f([1, 2, -1]) == {1: User(1), 2: User(2)}
    with DistributedCache(**server.at) as elsewhere:
        def load_elsewhere(keys: list[int]) -> dict[int, User]:
            raise AssertionError

        g = cached_many(elsewhere, missing_ttl=60, name="users")(load_elsewhere)
        assert g([2, 1, -1]) == {2: User(2), 1: User(1)}
        g.set({7: User(7)})
        assert g([7]) == {7: User(7)} == g.peek([7, -1])


@pytest.mark.parametrize("how", [{}, {"secret": "s"}, {"secret": "s", "serializer": "pickle"}, {"compress": "zlib"}])
def test_no_value_is_taken_for_an_absent_one(how, server):
    values = {1: "\0cachebox: there is none", 2: None, 3: "", 4: "ABSENT", 5: b"", 6: 0}

    def load(keys):
        return {key: values[key] for key in keys if key in values}

    def never(keys):
        raise AssertionError(keys)

    with DistributedCache(**server.at, **how) as cache, DistributedCache(**server.at, **how) as elsewhere:
        f = cached_many(cache, missing_ttl=60, name="f")(load)
        assert f([*values, 7]) == values == f([*values, 7])
        assert f([8]) == {}
        g = cached_many(elsewhere, missing_ttl=60, name="f")(never)
        for _ in range(2):                              # from the second tier, then from the first
            assert g([7, *values, 8]) == values == g.peek([*values, 7, 8])
        assert elsewhere.stats.undecodable == 0


def test_what_somebody_else_computes_is_waited_for(cache, server):
    began, go_on = threading.Event(), threading.Event()
    asked = []

    def slow(keys):
        asked.append(list(keys))
        began.set()
        go_on.wait(60)
        return {key: [key] for key in keys}

    f = cached_many(cache, name="f")(slow)
    results = {}
    with DistributedCache(**server.at) as elsewhere:
        g = cached_many(elsewhere, name="f")(slow)
        first = threading.Thread(target=lambda: results.setdefault("f", f([1, 2])))
        first.start()
        began.wait(60)
        others = [threading.Thread(target=lambda h=h, n=n: results.setdefault(n, h([2, 3]))) for h, n in ((g, "g"),)]
        for thread in others:
            thread.start()
        wait_until(lambda: [3] in asked)
        go_on.set()
        for thread in (first, *others):
            thread.join(60)
    assert results == {"f": {1: [1], 2: [2]}, "g": {2: [2], 3: [3]}} and asked == [[1, 2], [3]]


def test_a_failure_leaves_nothing_behind(cache):
    fails = [1]

    @cached_many(cache)
    def f(keys):
        if fails:
            raise OSError("down")
        return dict.fromkeys(keys, "up")

    with pytest.raises(OSError, match="down"):
        f([1, 2])
    fails.clear()
    assert f([1, 2]) == {1: "up", 2: "up"} == f.peek([1, 2])


def test_a_write_meanwhile_wins(cache):
    @cached_many(cache)
    def f(keys):
        f.set({1: "given"})
        f.invalidate([2])
        return dict.fromkeys(keys, "computed")

    assert f([1, 2, 3]) == dict.fromkeys([1, 2, 3], "computed")
    assert f.peek([1, 2, 3]) == {1: "given", 3: "computed"}


def test_without_a_server():
    count = Counted()
    with DistributedCache(redis_port=free_port()) as cache:
        f = cached_many(cache)(count)
        assert f([1, -1]) == {1: [1]} == f([1, -1]) and count.asked == [[1, -1]] * 2
    with pytest.raises(BackendUnavailable):
        DistributedCache(redis_port=free_port(), on_unavailable="raise")


@pytest.mark.parametrize("kind", KINDS)
def test_async_functions(kind, server):
    async def main():
        asked = []
        cache = (DistributedCache if kind == "sync" else AsyncDistributedCache)(**server.at)

        @cached_many(cache, missing_ttl=60)
        async def f(keys):
            asked.append(list(keys))
            await asyncio.sleep(0.01)
            return {key: [key] for key in keys if key >= 0}

        async def awaited(result):
            return await result if kind == "async" else result

        try:
            results = await asyncio.gather(f([1, 2]), f([2, 3, -1]), f([]))
            assert results == [{1: [1], 2: [2]}, {2: [2], 3: [3]}, {}]
            assert sorted(key for keys in asked for key in keys) == [-1, 1, 2, 3]
            assert await f([-1, 2]) == {2: [2]} and sorted(key for keys in asked for key in keys) == [-1, 1, 2, 3]
            assert await awaited(f.peek([1, -1])) == {1: [1]}
            await awaited(f.set({1: "given"}))
            assert await f([1]) == {1: "given"} and await awaited(f.invalidate([1, 2])) == 2
            assert await f.refresh([1]) == {1: [1]} == await f([1])
        finally:
            await awaited(cache.close())

    asyncio.run(main())
