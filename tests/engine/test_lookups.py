"""Lookups compare no more than a dict does, find equal keys that are other objects, and give up only endless ones."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import itertools
import subprocess
import sys
import threading
import uuid
from typing import NamedTuple

import pytest

from cachebox import Cache, cached, lru_cache
from cachebox._calls.call_key import CallKey
from conftest import POLICIES


class Counted:
    """A key with a hash of its choice, which counts its comparisons, and notes the other keys."""

    def __init__(self, name, hash=1, act=None):
        self.name, self.hash, self.act, self.seen = name, hash, act, []

    def __hash__(self):
        return self.hash

    def __eq__(self, other):
        for each, with_what in ((self, other), (other, self)):
            if isinstance(each, Counted):
                each.seen.append(getattr(with_what, "name", with_what))
        if self.act is not None:
            self.act()
        if isinstance(other, Counted) and other.act is not None:
            other.act()
        return isinstance(other, Counted) and self.name == other.name


def found(mapping, key):
    return mapping.get(key, "nothing")


# --- the whole hash ---------------------------------------------------------------------------------------------------


class EqualToAll:
    """Equal to everything: to a dict, two of these are two keys if their hashes differ in a single bit."""

    compared = 0

    def __init__(self, hash):
        self.hash = hash

    def __hash__(self):
        return self.hash

    def __eq__(self, other):
        EqualToAll.compared += 1
        return True


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("values", ["random", "low bits", "high bits"])
def test_keys_whose_hashes_differ_are_never_compared(policy, values):
    n = 60_000
    hashes = {
        "random": [k * 0x9E3779B97F4A7C15 % (2**61 - 1) for k in range(1, n + 1)],
        "low bits": list(range(n)),
        "high bits": [k << 44 for k in range(1, n + 1)],
    }[values]
    EqualToAll.compared = 0
    cache = Cache(None, policy=policy)
    for hash in hashes:
        cache[EqualToAll(hash)] = hash
    assert len(cache) == n
    assert all(cache[EqualToAll(hash)] == hash for hash in hashes[::7])
    assert EqualToAll.compared == len(hashes[::7])


def alike(n):
    """Hashes that the table's factor sends to neighbouring numbers: without its seed they would share half of them."""
    inverse = pow(0x9F3C6EF372FE94F9, -1, 2**64)
    return [k * inverse % 2**64 for k in range(n)]


@pytest.mark.parametrize("kind", ["others first", "primitive keys first", "after growth", "after an eviction"])
def test_half_a_hash_is_not_enough(kind):
    hashes = [value - 2**64 if value >= 2**63 else value for value in alike(3000)]
    hashes = [hash for hash in hashes if hash != -1 and abs(hash) < 2**61 - 1]
    cache, plain = Cache(len(hashes) if kind == "after an eviction" else None), {}
    if kind == "primitive keys first":
        cache.update(dict.fromkeys(hashes, "int"))
        plain.update(dict.fromkeys(hashes, "int"))
    if kind == "after an eviction":
        cache.update(dict.fromkeys(map(str, range(len(hashes)))))
    EqualToAll.compared = 0
    for hash in hashes:
        cache[EqualToAll(hash)] = hash
    ours, EqualToAll.compared = EqualToAll.compared, 0
    for hash in hashes:
        plain[EqualToAll(hash)] = hash
    assert ours == EqualToAll.compared
    assert len(cache) == len(plain)


# --- comparisons, counted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "operation",
    [
        lambda c, k: c.get(k),
        lambda c, k: c[k] if k in c else None,
        lambda c, k: c.set(k, 1),
        lambda c, k: c.pop(k, None),
        lambda c, k: c.setdefault(k, 1),
        lambda c, k: c.peek(k),
        lambda c, k: c.get_or_set(k, int),
        lambda c, k: c.delete(k),
    ],
    ids=["get", "[]", "set", "pop", "setdefault", "peek", "get_or_set", "delete"],
)
def test_an_absent_key_is_compared_once_with_each_of_its_hash(policy, operation):
    cache = Cache(None, policy=policy)
    keys = [Counted(n) for n in range(20)]
    cache.update(dict.fromkeys(keys, 0))
    wanted = Counted("absent")
    operation(cache, wanted)
    assert sorted(wanted.seen) == list(range(20))


def test_a_hit_compares_no_more_than_a_dict():
    for position in (0, 7, 19):
        counts = []
        for mapping in ({}, Cache(None)):
            for n in range(20):
                mapping[Counted(n)] = n
            wanted = Counted(position)
            assert mapping.get(wanted) == position
            assert len(wanted.seen) == len(set(wanted.seen))
            counts.append(len(wanted.seen))
        assert counts[1] <= counts[0]


@pytest.mark.parametrize("position", ["there", "absent"])
@pytest.mark.parametrize(
    "write",
    [
        lambda cache, n: cache.set(f"other {n}", n),
        lambda cache, n: (cache.set("other", n), cache.delete("other")),
        lambda cache, n: cache.update({f"{n} {k}": k for k in range(40)}),
        lambda cache, n: cache.set(("tuple", n), n),
    ],
    ids=["set", "set and delete", "growth", "a key that is no primitive"],
)
def test_other_writes_cost_no_comparison_and_no_lookup(position, write):
    cache = Cache(None)
    for n in range(300):
        cache[Counted(n)] = n
    done = []

    def act():
        done.append(1)
        if len(done) in (1, 2, 150, 295, 299):
            write(cache, len(done))

    wanted = Counted(299 if position == "there" else "absent", act=act)
    assert found(cache, wanted) == (299 if position == "there" else "nothing")
    assert len(wanted.seen) == len(set(wanted.seen))
    cache._check()


def test_many_keys_of_the_hash_that_arrive_during_one_comparison_are_other_writes():
    cache = Cache(None)
    cache[Counted("first")] = 0
    done = []

    def act():
        if not done:
            done.append(1)
            cache.update({Counted(n): n for n in range(500)})

    wanted = Counted("absent", act=act)
    assert found(cache, wanted) == "nothing"
    assert len(wanted.seen) == len(set(wanted.seen)) == 501


def test_threads_that_store_keys_of_one_hash_never_give_each_other_up():
    cache, errors = Cache(None), []

    def store(start):
        try:
            for n in range(start, start + 120):
                cache[Counted(n)] = n
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=store, args=(1000 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(cache) == 480


def test_the_key_that_was_equal_is_found_again_where_it_stands_now():
    """While a key is compared it leaves, and the very object is stored again: that is a change of its entry."""
    cache = Cache(None)
    stored, done = Counted("wanted"), []
    cache[stored] = "old"
    cache[Counted("other")] = "other"

    def act():
        if not done:
            done.append(1)
            del cache[stored]
            cache["elsewhere"] = 0
            cache[stored] = "new"

    assert cache.get(Counted("wanted", act=act)) == "new"


def test_an_exception_of_a_comparison_comes_through():
    class Angry(Exception):
        pass

    def act():
        raise Angry

    cache = Cache(None)
    cache[Counted("stored")] = 1
    for operation in (cache.get, cache.__getitem__, cache.peek):
        with pytest.raises(Angry):
            operation(Counted("wanted", act=act))
    several = cached(max_size=9)(lambda a, b=None: 2)
    several(1, Counted("stored"))
    several(1, b=Counted("stored"))
    with pytest.raises(Angry):
        several(1, Counted("wanted", act=act))
    with pytest.raises(Angry):
        several(1, b=Counted("wanted", act=act))
    assert several(1, Counted("stored")) == 2
    cache._check()
    several.cache._check()


def test_what_comparisons_return_is_taken_for_its_truth():
    class Odd:
        answers = iter(())

        def __hash__(self):
            return 5

        def __eq__(self, other):
            return next(Odd.answers)

    cache = Cache(None)
    cache[Odd()] = "stored"
    for answers, expected in [
        (["yes"], "stored"),
        ([[]], "nothing"),
        ([NotImplemented, 1], "stored"),
        ([NotImplemented, NotImplemented], "nothing"),
        ([NotImplemented, 0], "nothing"),
    ]:
        Odd.answers = iter(answers)
        assert cache.get(Odd(), "nothing") == expected


# --- equal arguments that are other objects ---------------------------------------------------------------------------


class Point(NamedTuple):
    x: int
    y: str


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: int
    y: str


class Color(enum.Enum):
    RED = 1


class Size(enum.IntEnum):
    SMALL = 1


class Zone(datetime.tzinfo):
    """A time zone written in Python, so that comparing runs Python code."""

    def utcoffset(self, when):
        return datetime.timedelta(hours=1)

    def dst(self, when):
        return None


MAKERS = {
    "tuple": lambda n: (n, "a"),
    "nested tuple": lambda n: ((n, ("a",)), 2.5),
    "tuple of Python objects": lambda n: (Frozen(n, "a"), n),
    "frozenset": lambda n: frozenset({n, "a"}),
    "date": lambda n: datetime.date(2000 + n, 1, 1),
    "datetime": lambda n: datetime.datetime(2000 + n, 1, 1),
    "datetime with a zone": lambda n: datetime.datetime(2000 + n, 1, 1, tzinfo=datetime.UTC),
    "datetime with a zone of Python": lambda n: datetime.datetime(2000 + n, 1, 1, tzinfo=Zone()),
    "timedelta": lambda n: datetime.timedelta(seconds=n),
    "Decimal": lambda n: decimal.Decimal(n) / 7,
    "UUID": lambda n: uuid.UUID(int=n),
    "complex": lambda n: complex(n, 1),
    "named tuple": lambda n: Point(n, "a"),
    "frozen dataclass": lambda n: Frozen(n, "a"),
    "enum": lambda n: (Color.RED, Size.SMALL)[n % 2],
    "bytes": lambda n: b"key %d" % n,
    "large int": lambda n: 2**80 + n,
    "float": lambda n: n + 0.5,
    "range": lambda n: range(n),
}
SHAPES = {
    "alone": lambda f, x: f(x),
    "first of two": lambda f, x: f(x, 1),
    "last of three": lambda f, x: f("a", 1, x),
    "twice": lambda f, x: f(x, x),
    "by keyword": lambda f, x: f(x=x),
    "by keyword, beside another": lambda f, x: f(1, y=2, x=x),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(
    "decorator",
    [cached(max_size=99), lru_cache(99), cached(typed=True), cached(Cache(99)), cached(max_size=9, ttl=60)],
    ids=["cached", "lru_cache", "typed", "in a shared cache", "with a TTL"],
)
def test_equal_arguments_are_hits(decorator, kind, shape):
    calls = []

    @decorator
    def f(*args, **kwargs):
        calls.append((args, kwargs))
        return object()

    call, make = SHAPES[shape], MAKERS[kind]
    results = [call(f, make(n)) for n in range(2)]
    before = f.cache_info()
    for _ in range(2):
        assert [call(f, make(n)) for n in range(2)] == results
    assert len(calls) == 2
    assert f.cache_info().hits == before.hits + 4
    assert f.cache_info().misses == before.misses == 2
    f.cache._check()


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("decorator", [cached(max_size=99), lru_cache(99)], ids=["cached", "lru_cache"])
def test_equal_arguments_of_methods_are_hits(decorator, kind):
    calls = []

    class Owner:
        @decorator
        def method(self, x, y=None):
            calls.append(x)
            return object()

    a, b, make = Owner(), Owner(), MAKERS[kind]
    results = [[owner.method(make(n)), owner.method(1, y=make(n))] for owner in (a, b) for n in range(2)]
    assert [[owner.method(make(n)), owner.method(1, y=make(n))] for owner in (a, b) for n in range(2)] == results
    assert len(calls) == 8


@pytest.mark.parametrize(
    "options",
    [{}, {"default_ttl": 60}, {"time_to_idle": 60}, {"max_weight": 9, "weigher": lambda key, value: 1}],
    ids=["plain", "ttl", "idle", "weight"],
)
@pytest.mark.parametrize("kind", MAKERS)
def test_equal_keys_are_hits(kind, options):
    cache, make = Cache(99, **options), MAKERS[kind]
    for n in range(2):
        cache[make(n)] = n
    assert [cache.get(make(n)) for n in range(2)] == [cache[make(n)] for n in range(2)] == [0, 1]
    assert cache.get_many([make(0), make(1)]) == {make(0): 0, make(1): 1}
    assert make(1) in cache
    assert (cache.stats.hits, cache.stats.misses) == (6, 0)
    assert cache.get(("absent", make(0))) is None
    assert cache.stats.misses == 1


def test_what_a_comparison_of_arguments_removes_is_no_hit():
    """The call's key leaves the cache while its argument is compared."""
    calls = []

    @cached(max_size=9)
    def f(a, b):
        calls.append(a)
        return len(calls)

    def clear_once():
        if not cleared:
            cleared.append(1)
            f.cache_clear()

    cleared = []
    f(1, Counted("x"))
    assert f(1, Counted("x", act=clear_once)) == 2
    assert f.cache.get(f.cache_key(1, Counted("x"))) == 2
    f.cache._check()


# --- calls that are to collide ----------------------------------------------------------------------------------------

WORD = 2**64


def signed(value):
    value %= WORD
    return value - WORD if value >= WORD // 2 else value


def usable(pairs):
    """The pairs in which every number is its own hash."""
    return [pair for pair in pairs if all(abs(value) < 2**61 - 1 and value != -1 for value in pair)]


P1, P2, P5 = 11400714785074694791, 14029467366897019727, 2870177450012600261


def linear(n):
    """Pairs of one hash for sums of products with the powers of a known prime."""
    return usable((signed(-k * P1), k) for k in range(n))


def rotated(value):
    return ((value << 31) | (value >> 33)) % WORD


def of_tuples(n):
    """Pairs of one hash for CPython's hash of tuples."""
    return usable((k, signed((12345 - rotated((P5 + k * P2) % WORD) * P1) * pow(P2, -1, WORD))) for k in range(n))


def differential(n):
    """Pairs for the same rounds from any secret beginning: mostly the second number undoes the first's changes."""
    inverse = pow(P2, -1, WORD)
    return usable((signed((k << 40) * inverse), signed(-(rotated(k << 40)) * P1 * inverse)) for k in range(n))


FAMILIES = {
    "linear": linear(8000),
    "as tuples": of_tuples(8000),
    "differential": differential(8000),
    "opposites": [(k, -k) for k in range(2, 2000)],
    "a grid": [(i, j) for i in range(45) for j in range(45)],
    "high bits": [(i << 50, j << 50) for i in range(45) for j in range(45)],
    "highest bits": [tuple(i << 56 for i in each) for each in itertools.product(range(0, 16), repeat=3)],
    "permutations": list(itertools.permutations(range(6))),
    "lengths": [(0,) * n for n in range(300)],
    "many": [(0,) * k + (1,) + (0,) * (150 - k) for k in range(150)],
    "many, swapped": [tuple(1 if i in (k, k + 32) else 0 for i in range(150)) for k in range(100)],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_calls_do_not_collide_for_who_does_not_know_the_secret(family):
    calls = FAMILIES[family]
    assert len(calls) > 99
    assert len({hash(CallKey(call)) for call in calls}) == len(set(calls))


def test_calls_of_equal_hashes_are_compared_as_often_as_functools_does():
    """Ints that are equal modulo 2**61 - 1 hash alike, whatever is done with the hashes."""

    class Number(int):
        compared = 0
        __hash__ = int.__hash__

        def __eq__(self, other):
            Number.compared += 1
            return int(self) == int(other)

    def comparisons(decorator):
        f = decorator(lambda a, b: (a, b))
        Number.compared = 0
        for _ in range(2):
            for k in range(60):
                assert f(1, Number(k * (2**61 - 1))) == (1, k * (2**61 - 1))
        return Number.compared

    theirs = comparisons(functools.lru_cache(1000))
    assert comparisons(cached(max_size=1000)) <= theirs
    assert comparisons(lru_cache(1000)) <= theirs


def test_the_secret_is_another_in_every_process():
    code = "from cachebox._calls.call_key import CallKey; print(hash(CallKey((1, 2))))"
    hashes = {subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout for _ in range(2)}
    assert len(hashes) == 2


def test_a_call_key_equals_its_own_kind_only():
    key = CallKey((1, "a"))
    assert key == CallKey((1.0, "a")) and not key != CallKey((1, "a"))
    assert key != (1, "a") and (1, "a") != key
    assert not key == (1, "a") and not (1, "a") == key
    assert key != CallKey((1, "b")) and key < CallKey((2, "a"))
    assert Cache(9).get(key) is None
