"""Values: which are stored, how they come back, and what a secret covers."""

from __future__ import annotations

import collections
import dataclasses
import enum
import gc
import logging
import math
import sys
import typing

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

from both_kinds import KINDS, make
from cachebox import Cache, DistributedCache, cached
from cachebox.distributed._near.near_cache import Tier
from cachebox.distributed._wire.codec import Codec
from in_threads import Started
from second_tiers import BOTH

SECOND_TIERS = BOTH

# --- types ------------------------------------------------------------------------------------------------------------


class State(enum.IntEnum):
    OPEN = 1


class Name(enum.StrEnum):
    EU = "eu"


class Text(str):
    pass


class Numbers(list):
    pass


class Point(typing.NamedTuple):
    x: int


class Frac(float):
    pass


class Flags(enum.IntFlag):
    A = 1


EQUAL_BUT_NOT_ALIKE = [
    Text("x"),
    {Text("k"): 1},
    Numbers([1]),
    Frac(1.5),
    Point(1),
    collections.Counter("aab"),
    collections.OrderedDict(a=1),
    collections.defaultdict(list, a=1),
    [collections.Counter("a")],
]


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
@pytest.mark.parametrize("value", EQUAL_BUT_NOT_ALIKE, ids=range(len(EQUAL_BUT_NOT_ALIKE)))
def test_what_would_come_back_as_another_type_is_refused(serializer, value):
    if serializer == "msgpack":
        pytest.importorskip("msgpack")
    with pytest.raises(TypeError, match='serializer="pickle" can'):
        Codec(serializer, None, "app").encode("k", value, ())


def test_the_error_names_the_part_and_a_serializer_that_can():
    codec = Codec("json", None, "app")
    for value, named in [
        ([1, Point(1)], r"of type Point in a value of type list .*\(serializer=\"pickle\" can\)"),
        ({"a": Text("x")}, r"of type Text in a value of type dict .*\(serializer=\"pickle\" can\)"),
        (collections.Counter("a"), r"of type Counter cannot .*\(serializer=\"pickle\" can\)"),
        ([lambda: 1], r"of type function in a value of type list cannot be stored with this serializer$"),
    ]:
        with pytest.raises(TypeError, match=named):
            codec.encode("k", value, ())


@dataclasses.dataclass(eq=False)
class Handle:
    number: int


class Array:
    """Objects like arrays of numbers: == gives no bool."""

    def __init__(self, data=b"x"):
        self.data = data

    def __eq__(self, other):
        return self

    def __bool__(self):
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = None


class Bytes:
    """A user's serializer, which knows arrays only."""

    def dumps(self, value):
        return value.data

    def loads(self, data):
        return Array(bytes(data))


@pytest.mark.parametrize("kind", KINDS)
def test_pickle_and_own_serializers_are_trusted(kind, server):
    with make(kind, **server.at, serializer="pickle", secret="s") as cache:
        for value in [Handle(7), Array(), math.nan, {"a": Array()}, State.OPEN, collections.Counter("aab"), object()]:
            cache.set("k", value)
            found = cache.get("k")
            assert type(found) is type(value)
        cache.set("k", State.OPEN)
        assert cache.get("k") is State.OPEN
    with make(kind, **server.at, serializer=Bytes(), namespace="own") as cache:
        cache.set("k", Array(b"abc"))
        assert cache.get("k").data == b"abc"


def results(kind, cache, **options):
    """A cached function of either kind, which returns what is in `results.value`."""
    if kind == "sync":

        @cached(cache, **options)
        def unstorable_here(n):
            results.runs += 1
            return results.value

        return unstorable_here

    @cached(cache.cache, **options)
    async def unstorable_here(n):
        results.runs += 1
        return results.value

    return lambda n: cache.loop.run_until_complete(unstorable_here(n))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("single_flight", [True, False])
def test_what_cannot_be_stored_is_returned_all_the_same(kind, single_flight, server, caplog):
    with make(kind, **server.at) as cache:
        function = results(kind, cache, single_flight=single_flight)
        results.runs = 0
        with caplog.at_level(logging.WARNING, "cachebox"):
            for value in [Handle(1), {1, len}, [Array()], Array(), object(), len]:
                results.value = value
                assert function(1) is value and function(1) is value
        assert results.runs == 12 and cache.stats.unstorable == 12
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 1 and "unstorable_here" in said[0]  # once per function
        assert cache.get_or_set("k", lambda: {len}) == {len}
        assert cache.get_or_set("k", lambda: {1: len}, tags="t") == {1: len}
        assert cache.stats.unstorable == 14 and "k" not in cache
        results.value = 5
        assert function(1) == 5 and function(1) == 5 and results.runs == 13
        with pytest.raises(TypeError, match="Handle"):
            cache.set("k", Handle(1))
        with pytest.raises(TypeError):
            cache.set_many({"a": 1, "k": {len}})
        assert "a" not in cache
        assert not [name for name in server.client().keys() if b"}l:" in name]  # no lease is left behind


def test_whoever_waits_for_what_cannot_be_stored_gets_it(server):
    import threading

    with DistributedCache(**server.at) as cache:
        begun, go_on = threading.Event(), threading.Event()

        def slow():
            begun.set()
            go_on.wait(60)
            return {1, len}

        leader = Started(lambda: cache.get_or_set("k", slow))
        assert begun.wait(60)
        waiter = Started(lambda: cache.get_or_set("k", lambda: pytest.fail("somebody computes it")))
        while not any(flight for flight in list(cache._loader.flights.values())):
            pass
        go_on.set()
        assert leader.result() == {1, len}
        try:
            assert waiter.result() == {1, len}
        except pytest.fail.Exception:
            pass  # it came too late, and computed for itself


class Forgetful:
    """A serializer that cannot read what it wrote."""

    def dumps(self, value):
        return b"anything"

    def loads(self, data):
        raise KeyError("what was it?")


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_serializer_that_cannot_read_is_a_miss(kind, isolate, server):
    with make(kind, **server.at, serializer=Forgetful(), isolate=isolate) as cache:
        cache.set("k", "x")
        assert cache.get("k", "nothing") == "nothing"
        assert cache.get_many(["k"]) == {}
        assert cache.get_or_set("k", lambda: "made") == "made"
        assert cache.stats.undecodable == 3 and cache.stats.misses == 3


# --- what a secret covers ---------------------------------------------------------------------------------------------


def names_of(server, namespace="cachebox"):
    client = server.client()
    return {name.partition(b"}v:")[2].decode(): name for name in client.keys(f"{namespace}:*") if b"}v:" in name}


@pytest.mark.parametrize("kind", KINDS)
def test_tags_cannot_be_stripped_added_or_changed(kind, server):
    client = server.client()
    with make(kind, **server.at, secret="s") as cache:
        for key, tags in [("plain", ()), ("one", "a"), ("two", ["a", "b"]), ("int", "a")]:
            cache.set(key, 7 if key == "int" else ["value"], tags=tags)
            assert cache.get(key) in (["value"], 7)
        names = names_of(server)
        good = {key: client.get(name) for key, name in names.items()}
        one = good["one"]
        block = one[21 : 21 + 1 + 2 + 1 + 16]
        forged = {
            "one": [
                one[:4] + b"\1" + one[5:21] + one[21 + len(block) :],  # stripped
                one[:21] + b"\0" + one[21 + len(block) :],  # emptied
                one[:24] + b"c" + one[25:],  # renamed
                one[:21] + b"\2" + block[1:] * 2 + one[21 + len(block) :],  # twice
            ],
            "plain": [good["plain"][:4] + b"\3" + good["plain"][5:21] + block + good["plain"][21:]],
            "two": [good["two"][:21] + b"\1" + good["two"][22 + 19 :]],
            "int": [good["int"][:4] + b"\1" + good["int"][5:21] + good["int"][21 + len(block) :]],
        }
        for key, lies in forged.items():
            for data in lies:
                client.set(names[key], data)
                cache.barrier()
                before = cache.stats.undecodable
                assert cache.get(key, "nothing") == "nothing", (key, data)
                assert cache.get_many([key]) == {}
                # damage that the server itself can see is absence, all other damage is undecodable
                assert cache.stats.undecodable in (before, before + 2)
            client.set(names[key], good[key])
            cache.barrier()
            assert cache.get(key) in (["value"], 7)
        assert cache.invalidate_tag("a") >= 1
        assert cache.get_many(["one", "two", "int"]) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_no_key_becomes_a_counter_that_was_not_one(kind, server):
    client = server.client()
    with make(kind, **server.at, secret="s") as cache:
        cache.set("admin", {"admin": False})
        cache.increment("hits", 3)
        cache.set("int", 5)
        names = names_of(server)
        counter, signed_int = client.get(names["hits"]), client.get(names["int"])
        generation = counter[5:21]
        for data in [
            b"\xcbx\3N\0" + generation + b"1",  # as counters were before
            b"\xcbx\3N\1" + generation + bytes(32) + b"1",
            counter,  # moved from another key
            signed_int,
            b"\xcbx\3I\1" + counter[5:],  # a counter said to be an int
        ]:
            client.set(names["admin"], data)
            cache.barrier()
            before = cache.stats.undecodable
            assert cache.get("admin", "nothing") == "nothing"
            assert cache.stats.undecodable == before + 1
        assert cache.get("hits") == 3 and cache.increment("hits") == 4
        client.set(names["hits"], counter[:-1] + b"9")  # the number itself is the server's
        cache.barrier()
        assert cache.get("hits") == 9


BAD_ENTRIES = {
    "not ours": lambda g: b"junk",
    "another version": lambda g: b"\xcbx\1I\0" + g + b"5",
    "another serializer": lambda g: b"\xcbx\3M\0" + g + b"\5",
    "damaged JSON": lambda g: b"\xcbx\3J\0" + g + b"{",
    "an int that is none": lambda g: b"\xcbx\3I\0" + g + b"5x",
    "an int of very many digits": lambda g: b"\xcbx\3N\0" + g + b"9" * 5000,
    "an empty counter": lambda g: b"\xcbx\3N\0" + g,
    "signed by nobody": lambda g: b"\xcbx\3I\1" + g + bytes(32) + b"5",
    "a tag that is no text": lambda g: b"\xcbx\3I\2" + g + b"\1\0\1\xff" + g + b"5",
    "another generation": lambda g: b"\xcbx\3I\0" + bytes(16) + b"5",
    "cut off": lambda g: b"\xcbx\3I\2" + g + b"\5",
}


@pytest.mark.parametrize("secret", [None, "s"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_decoded_is_absent_for_increment(kind, secret, server):
    client = server.client()
    with make(kind, **server.at, secret=secret) as cache:
        cache.set("k", 5)
        name = names_of(server)["k"]
        generation = client.get(name)[5:21]
        client.set(b"cachebox:{0}t:\xff", generation * 2)  # so that the tag that is no text is alive
        for why, made in BAD_ENTRIES.items():
            client.set(name, made(generation))
            cache.barrier()
            assert cache.get("k", "nothing") == "nothing", why
            assert cache.increment("k", 2) == 2, why
            assert cache.increment("k", 2) == 4, why
            assert cache.get("k") == 4, why
        client.delete(name)
        client.lpush(name, 1)
        cache.barrier()
        assert cache.increment("k") == 1


@pytest.mark.parametrize("secret", [None, "s"])
@pytest.mark.parametrize("kind", KINDS)
def test_increment_keeps_tags_and_lifetimes_under_a_secret(kind, secret, server):
    with (
        make(kind, **server.at, secret=secret) as cache,
        make(kind, **server.at, secret=secret) as other,
    ):
        cache.set("k", 5, 1000, tags=["a", "ü"])
        assert cache.increment("k", 2) == 7
        assert other.increment("k", -10) == -3
        cache.barrier()
        assert cache.get("k") == other.get("k") == -3
        assert 900 < cache.ttl("k") <= 1000
        for value in ("x", [1], 1.5, True, None):
            cache.set("other", value, tags="a")
            with pytest.raises(TypeError, match=f"'other' is of type {type(value).__name__}"):
                cache.increment("other")
            other.barrier()
            assert other.get("other") == value
        cache.invalidate_tag("ü")
        other.barrier()
        assert other.get("k") is None and other.increment("k") == 1
        big = 10**4299
        cache.set("big", big)
        assert cache.increment("big", -1) == big - 1
        with pytest.raises(ValueError, match="amount must have at most 4300 digits"):
            cache.increment("big", 10**4300)


def test_increments_of_a_signed_int_add_up_over_threads(server):
    from in_threads import run_all

    with DistributedCache(**server.at, secret="s", timeout=20) as cache:
        cache.set("k", 100, tags="t")
        run_all(*[lambda: [cache.increment("k") for _ in range(20)] for _ in range(4)])
        assert cache.get("k") == 180


def test_a_tag_has_at_most_65535_bytes(server):
    with DistributedCache(**server.at, secret="s") as cache:
        longest = "ü" * 32767 + "x"
        cache.set("k", 1, tags=longest)
        assert cache.get("k") == 1
        for call in (
            lambda: cache.set("k", 2, tags=longest + "x"),
            lambda: cache.get_or_set("l", lambda: 2, tags=[longest + "x"]),
            lambda: cache.invalidate_tag(longest + "x"),
        ):
            with pytest.raises(ValueError, match="tag"):
                call()
        assert cache.invalidate_tag(longest) == 1 and cache.get("k") is None


def test_signatures_keep_tags_key_and_payload_apart():
    codec = Codec("json", "s", "app")
    bodies = {
        codec.encode(key, value, tags)[1][:32]
        for key, value, tags in [
            ("k", "v", ()),
            ("k", "v", ("a",)),
            ("k", "v", ("a", "b")),
            ("k", "v", ("b", "a")),
            ("k", "v", ("ab",)),
            ("k", "v", ("a\0\1b",)),
            ("ka", "v", ()),
            ("k", "av", ()),
            ("", "v", ("k",)),
        ]
    }
    assert len(bodies) == 9


# --- the first tier, where the collector and finalizers run in the middle --------------------------------------------


class Circle:
    """Garbage whose finalizer the collector runs."""

    def __init__(self, then):
        self.me = self
        self.then = then

    def __del__(self):
        self.then()


def with_garbage(then, threshold, call):
    """Make a call, with the collector running at the allocation number `threshold` in it."""
    gc.collect()
    gc.disable()
    Circle(then)
    gc.set_threshold(threshold, 0, 0)
    gc.enable()
    try:
        return call()
    finally:
        gc.disable()
        gc.set_threshold(700, 10, 10)
        gc.enable()
        gc.collect()


def linked_tier():
    tier = Tier(Cache(10))
    tier.tracking_began()
    return tier


INSIDE = {
    "takes a fill": lambda tier, box: box.append(tier.begin_fill("k")),
    "takes fills": lambda tier, box: box.extend(tier.begin_fills(["j", "k"])),
    "begins a write": lambda tier, box: box.append(tier.begin_write(("k",))),
    "writes": lambda tier, box: tier.end_write(tier.begin_write(("k",)), ("k",)),
    "hears": lambda tier, box: tier.on_invalidate("k"),
    "hears of a tag": lambda tier, box: tier.on_tag(0, "t"),
    "wipes": lambda tier, box: tier.clear(),
    "stores": lambda tier, box: tier.store(tier.begin_fill("k"), "inner", math.inf, ("t",)),
    "loses the link": lambda tier, box: tier.tracking_lost(),
}


@pytest.mark.parametrize("inside", INSIDE)
def test_no_fill_is_lost_while_another_is_taken(inside):
    for threshold in range(1, 12):
        tier, box = linked_tier(), []
        fill = with_garbage(lambda: INSIDE[inside](tier, box), threshold, lambda: tier.begin_fill("k"))
        tier.on_invalidate("k")
        tier.on_invalidate("k")  # the first may be taken for the echo of a write in there
        for one in [fill, *box]:
            if type(one) is type(fill) and one.key == "k":
                assert not one.live
                tier.store(one, "the old value", math.inf)
        assert tier.first.peek("k") in (None, "inner") or inside == "writes"


@pytest.mark.parametrize("inside", ["hears", "hears of a tag", "wipes", "writes", "loses the link"])
@pytest.mark.parametrize("how", ["collector", "finalizer"])
def test_what_is_heard_while_a_value_is_stored_wins(inside, how):
    for threshold in range(1, 12):
        tier = linked_tier()
        ran = []

        def then():
            ran.append(1)
            INSIDE[inside](tier, [])

        if how == "finalizer":
            tier.first.set("k", Finalized(then))  # it is dropped when the new value takes its place
            tier.store(tier.begin_fill("k"), "the old value", math.inf, ("t",))
        else:
            fill = tier.begin_fill("k")
            with_garbage(then, threshold, lambda: tier.store(fill, "the old value", math.inf, ("t",)))
            if sys.version_info < (3, 12) and not ran:
                continue
        if how == "finalizer" and ran:
            assert tier.first.peek("k") is None, inside


class Finalized:
    def __init__(self, then):
        self.then = then

    def __del__(self):
        self.then()


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("outside", ["heard", "tag", "write", "wipe", "lost", "up"])
def test_finalizers_may_do_anything_to_the_tier(inside, outside):
    """Values whose finalizers change the collection that is being walked."""
    tier, box = linked_tier(), []
    for key in "abck":
        tier.store(tier.begin_fill(key), Finalized(lambda: INSIDE[inside](tier, box)), math.inf, ("t", key))
    write = tier.begin_write(("k", "a"))
    fills = tier.begin_fills(["k", "b"])
    {
        "heard": lambda: tier.on_invalidate("k"),
        "tag": lambda: tier.on_tag(0, "t"),
        "write": lambda: tier.end_write(write, ("k", "a")),
        "wipe": lambda: tier.clear(),
        "lost": lambda: (tier.tracking_lost(), tier.clear(False)),
        "up": lambda: tier.tracking_began(),
    }[outside]()
    for fill in fills:
        tier.store(fill, "the old value", math.inf, ("t",))
    if outside in ("tag", "wipe", "lost", "up"):
        assert tier.first.peek("b") != "the old value"
        assert tier.first.peek("k") != "the old value"
    tier.end_write(write)
    for one in box:
        tier.drop_write(one) if hasattr(one, "keys") else tier.end_fill(one)
    tier.clear(False)
    box.clear()
    tier.first._check()
