"""`isolate=`: a cache that hands out copies. `max_bytes=` and `sizeof`: one bound by the memory that it takes."""

from __future__ import annotations

import asyncio
import collections
import copy
import datetime
import decimal
import enum
import fractions
import pickle
import sys
import threading
import uuid
from pathlib import Path

import pytest

from cachebox import MISSING, Cache, cached, sizeof
from conftest import named
from in_threads import run_all, wait_until

# --- copies -----------------------------------------------------------------------------------------------------------


def stored_by(way, cache, value):
    """Store a value in one of the possible ways. Returns what that call handed out, or MISSING."""
    if way == "set":
        cache.set("a", value)
    elif way == "c[key]":
        cache["a"] = value
    elif way == "set with tags":
        cache.set("a", value, tags="t")
    elif way == "add":
        cache.add("a", value)
    elif way == "set_many":
        cache.set_many({"a": value}, ttl=5)
    elif way == "update":
        cache.update({"a": value})
    elif way == "setdefault":
        return cache.setdefault("a", value)
    elif way == "get_or_set":
        return cache.get_or_set("a", lambda: value)
    elif way == "compute":
        return cache.compute("a", lambda old: value)
    elif way == "aget_or_set":
        return asyncio.run(awaited(lambda: cache.aget_or_set("a", lambda: value)))
    return MISSING


async def awaited(call):
    return await call()


WAYS_IN = [
    "set", "c[key]", "set with tags", "add", "set_many", "update", "setdefault", "get_or_set", "compute", "aget_or_set",
]
WAYS_OUT = {
    "get": lambda cache: cache.get("a"),
    "c[key]": lambda cache: cache["a"],
    "peek": lambda cache: cache.peek("a"),
    "entry": lambda cache: cache.entry("a").value,
    "get_many": lambda cache: cache.get_many(["a"])["a"],
    "setdefault": lambda cache: cache.setdefault("a", None),
    "get_or_set": lambda cache: cache.get_or_set("a", list),
    "values": lambda cache: next(iter(cache.values())),
    "items": lambda cache: next(iter(cache.items()))[1],
    "aget": lambda cache: asyncio.run(awaited(lambda: cache.aget("a"))),
    "aget_many": lambda cache: asyncio.run(awaited(lambda: cache.aget_many(["a"])))["a"],
    "aget_or_set": lambda cache: asyncio.run(awaited(lambda: cache.aget_or_set("a", list))),
    "compute's old value": lambda cache: seen_by_compute(cache),
}


def seen_by_compute(cache):
    seen = []
    with pytest.raises(ZeroDivisionError):
        cache.compute("a", lambda old: seen.append(old) or 1 / 0)
    return seen[0]


@pytest.mark.parametrize("way", WAYS_IN)
def test_what_was_stored_is_the_caches_own(way, any_policy):
    cache = Cache(policy=any_policy, isolate=True)
    value = {"list": [1]}
    handed_out = stored_by(way, cache, value)
    if handed_out is not MISSING:
        assert handed_out == {"list": [1]}
        handed_out["list"].append(2)
    value["list"].append(3)
    assert cache["a"] == {"list": [1]}


@pytest.mark.parametrize("options", [{}, {"default_ttl": 60}, {"loader": str}], ids=named)
@pytest.mark.parametrize("way", WAYS_OUT)
def test_what_is_handed_out_is_the_callers_own(way, options, any_policy):
    cache = Cache(policy=any_policy, isolate=True, **options)
    cache["a"] = [[1]]
    for _ in range(2):
        got = WAYS_OUT[way](cache)
        assert got == [[1]]
        got[0].append(2)
    assert cache["a"] == [[1]]
    cache._check()


def test_each_of_those_who_wait_for_one_computation_gets_a_copy():
    cache = Cache(isolate=True)
    began = threading.Event()

    def make():
        began.set()
        while cache.stats.misses < 3:
            threading.Event().wait(0.001)
        return [1]

    got = run_all(*[lambda: cache.get_or_set("a", make)] * 3)
    assert got == [[1]] * 3 and len({id(value) for value in got}) == 3
    for value in got:
        value.append(2)
    assert cache["a"] == [1]


def test_each_of_the_tasks_that_wait_for_one_load_gets_a_copy():
    async def load(key):
        await asyncio.sleep(0)
        return [key]

    async def main():
        cache = Cache(isolate=True, loader=load)
        got = await asyncio.gather(*[cache.aget("a") for _ in range(3)])
        assert got == [["a"]] * 3 and len({id(value) for value in got}) == 3
        for value in got:
            value.append(2)
        assert cache["a"] == ["a"]

    asyncio.run(main())


class Service:
    pass


@pytest.mark.parametrize("options", [{}, {"default_ttl": 60}], ids=named)
def test_functions_over_such_a_cache_hand_out_copies(options):
    cache = Cache(isolate=True, **options)
    f = cached(cache)(lambda *args: [*args])
    Service.m = cached(cache)(lambda self, x: [x])

    @cached(cache)
    async def g(x):
        return [x]

    async def h():
        return await g(1)

    service = Service()
    for call in (lambda: f(1), lambda: f(1, 2), lambda: service.m(1), lambda: asyncio.run(h())):
        first = call()
        kept = list(first)
        for _ in range(3):
            got = call()
            assert got == kept and got is not first
            got.append(5)
    assert cache.stats.misses == 4 and cache.stats.hits == 12


def test_a_refreshed_value_is_the_caches_own(clock):
    value = [1]
    cache = Cache(default_ttl=10, loader=lambda key: value, refresh_ahead=0.5, isolate=True, clock=clock)
    assert cache["a"] == [1]
    clock.now += 6
    value.append(2)
    assert cache["a"] == [1]
    wait_until(lambda: cache.stats.refreshes == 1 and not cache._refreshing("a"))
    value.append(3)
    assert cache["a"] == [1, 2]


class Colour(enum.Enum):
    RED = 1


def test_what_cannot_change_is_not_copied():
    cache = Cache(isolate=True)
    for value in (
        None, True, 5, 10**30, 1.5, 1j, "text", b"bytes", (), (1, ("a", frozenset([2]))), frozenset([(1, 2)]), range(3),
        datetime.datetime.now(), datetime.date.today(), datetime.timedelta(1), datetime.UTC,
        decimal.Decimal("1.1"), fractions.Fraction(1, 3), uuid.uuid4(), Path("a"), Colour.RED, len, Cache,
        test_what_cannot_change_is_not_copied,
    ):
        cache["a"] = value
        assert cache["a"] is value and cache.get("a") is value
    cache["a"] = value = (1, [2])
    assert cache["a"] == value and cache["a"][1] is not value[1]


def test_a_callable_copies_in_its_own_way():
    class Item:
        def __init__(self, parts):
            self.parts = parts

    cache = Cache(isolate=copy.copy)
    item = Item([1])
    cache["a"] = item
    assert cache["a"] is not item and cache["a"].parts is item.parts


@pytest.mark.parametrize("wrong", [5, "yes", asyncio.sleep], ids=named)
def test_isolate_is_a_bool_or_a_plain_callable(wrong):
    with pytest.raises(TypeError, match="isolate"):
        Cache(isolate=wrong)


def test_what_a_copy_raises_reaches_the_caller_and_the_cache_stays_whole():
    class Unique:
        def __deepcopy__(self, memo):
            raise TypeError("only one of me")

    cache = Cache(isolate=True)
    with pytest.raises(TypeError, match="only one"):
        cache["a"] = Unique()
    assert "a" not in cache
    with pytest.raises(TypeError, match="only one"):
        cache.get_or_set("a", Unique)
    assert "a" not in cache
    cache._check()


def test_copies_and_pickles_of_the_cache_isolate_too():
    cache = Cache(isolate=True)
    cache["a"] = [1]
    for other in (cache.copy(), pickle.loads(pickle.dumps(cache))):
        other["a"].append(2)
        assert other["a"] == cache["a"] == [1]


# --- bytes ------------------------------------------------------------------------------------------------------------


class Sized:
    def __sizeof__(self):
        return 1000


class Array:
    nbytes = 5000


class View:
    nbytes = 100

    def __sizeof__(self):
        return 4000


class Frame:
    def __init__(self, usage):
        self.usage = usage

    def memory_usage(self, deep=False):
        assert deep
        return self.usage


class Sum:
    def sum(self):
        return 7000


SHARED = "a text that is shared by several"
Point = collections.namedtuple("Point", "x y")


def total(*things):
    return sum(map(sys.getsizeof, things))


@pytest.mark.parametrize("thing, size", [
    *[(thing, sys.getsizeof(thing)) for thing in (
        "", "a", "abc" * 100, "é", "日本", "\U0001f600", "\udc80", 0, 1, -1, 2**30 - 1, 2**30, -(2**30), 2**62, 2**100,
        True, 1.5, 1j, None, ..., b"", b"abc", bytearray(b"abc"), (), [], {}, set(), frozenset(), range(5), object(),
        len, int, sys, Sized(), memoryview(b"abc"), slice(1, 2), type("T", (str,), {})("abc"), Colour.RED,
    )],
    ([1000], total([1000], 1000)),
    ((1000, "b"), total((1000, "b"), 1000, "b")),
    ({"k": 2000}, total({"k": 2000}, "k", 2000)),
    ({1000, "b"}, total({1000, "b"}, 1000, "b")),
    (frozenset([1000]), total(frozenset([1000]), 1000)),
    ([[["deep"]]], total([[]], [[]], [[]], "deep")),
    ((SHARED, SHARED, (SHARED,)), total((1, 2, 3), SHARED, (1,))),
    (Point(1000, "y"), total(Point(1, 2), 1000, "y")),
    (collections.OrderedDict(k=2000), total(collections.OrderedDict(k=2000), "k", 2000)),
    (collections.defaultdict(list, k=2000), total(collections.defaultdict(list, k=2000), "k", 2000)),
    (collections.deque([1000]), total(collections.deque([1000]), 1000)),
    (Array(), total(Array()) + 5000),
    (View(), total(View())),
    (Frame(9000), 9000),
    (Frame(Sum()), 7000),
], ids=lambda value: named(value)[:30])
def test_sizeof_is_what_getsizeof_says_of_all_parts(thing, size):
    assert sizeof(thing) == size


def test_a_list_in_itself_counts_once():
    thing = [1000]
    thing.append(thing)
    assert sizeof(thing) == total(thing, 1000)


def test_a_subclass_has_no_say_in_what_its_container_holds():
    class Liar(list):
        def __iter__(self):
            raise AssertionError("asked")

    assert sizeof(Liar([1000])) == total(Liar([1000]), 1000)


def test_depth_is_no_problem():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert sizeof(deep) == 100_000 * sys.getsizeof([1]) + sys.getsizeof([])
    while deep:
        deep = deep[0]


def test_arrays_count_with_their_data():
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    array = numpy.zeros(10_000)
    assert 80_000 <= sizeof(array) < 80_500
    assert sizeof(array[:5000]) >= 40_000


@pytest.mark.parametrize("given, size", [
    (1000, 1000), ("1KB", 1000), ("1 kib", 1024), ("256MB", 256 * 10**6), ("2MiB", 2 * 2**20), ("1.5GB", 1_500_000_000),
    ("1GiB", 2**30), ("2TB", 2 * 10**12), ("500B", 500), (" .5 MB ", 500_000),
])
def test_the_bound_is_a_number_or_a_text(given, size):
    cache = Cache(max_bytes=given)
    assert cache.max_size is None and cache.max_bytes == size
    cache.set("a", "b")
    assert cache.weight == sizeof("a") + sizeof("b") == cache.entry("a").weight


@pytest.mark.parametrize("given, error", [
    (0, ValueError), (-1, ValueError), ("0MB", ValueError), ("MB", ValueError), ("5", ValueError), ("5 XB", ValueError),
    ("-5MB", ValueError), ("", ValueError), ("1e3MB", ValueError), (1.5, TypeError), (True, TypeError), ([], TypeError),
], ids=named)
def test_bad_bounds_are_refused(given, error):
    with pytest.raises(error, match="max_bytes"):
        Cache(max_bytes=given)


@pytest.mark.parametrize("other", [{"max_weight": 5}, {"weigher": len}, {"max_weight": 5, "weigher": len}], ids=named)
def test_other_bounds_on_weight_are_excluded(other):
    with pytest.raises(TypeError, match="max_bytes"):
        Cache(max_bytes=1000, **other)


def test_the_bound_on_entries_may_be_given_as_well():
    cache = Cache(2, max_bytes="1MB")
    cache.update(a=1, b=2, c=3)
    assert list(cache) == ["b", "c"] and cache.max_size == 2
    assert Cache(1000, max_bytes="1MB").max_size == 1000


def test_entries_leave_when_the_bytes_are_used_up(any_policy):
    one = sizeof("k0") + sizeof("v" * 1000)
    cache = Cache(max_bytes=3 * one, policy=any_policy)
    for n in range(9):
        cache[f"k{n}"] = "v" * 1000
        assert cache.weight <= 3 * one
    assert len(cache) == 3 and cache.stats.evictions == 6
    with pytest.raises(ValueError, match="max_bytes"):
        cache["big"] = "v" * 4000
    assert len(cache) == 3
    assert cache.get_or_set("big", lambda: "v" * 4000) == "v" * 4000 and "big" not in cache
    cache._check()


def test_what_key_and_value_share_counts_once():
    cache = Cache(max_bytes=10_000)
    text = "t" * 1000
    cache[text] = text
    assert cache.weight == sizeof(text)
    cache[text] = [text]
    assert cache.weight == sizeof([text])


def test_copies_and_pickles_keep_the_bound():
    cache = Cache(max_bytes="1MB")
    cache["a"] = [1, 2, 3]
    for other in (cache.copy(), pickle.loads(pickle.dumps(cache))):
        assert (other.max_bytes, other.max_size, other.weight) == (10**6, None, cache.weight)
        assert list(other) == ["a"]


def test_an_isolated_value_counts_like_the_one_that_was_given():
    cache = Cache(max_bytes=10**6, isolate=True)
    cache["a"] = value = [[1000], "text"]
    assert cache.weight == sizeof("a") + sizeof(copy.deepcopy(value))
