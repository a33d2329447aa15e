"""Keys: hashable objects, compared as a dict compares them."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest

from cachebox import Cache
from conftest import named


class SameHash:
    """Keys with one hash that are equal only to themselves."""

    def __init__(self, name):
        self.name = name

    def __hash__(self):
        return 7

    def __eq__(self, other):
        return isinstance(other, SameHash) and self.name == other.name


NAN = float("nan")
PAIRS = [
    (1, 1.0),
    (1, True),
    (0, False),
    (0, -0.0),
    (0.0, -0.0),
    (1, "1"),
    (-1, -2),
    ("1", b"1"),
    ("", b""),
    ("a", "b"),
    ("ä", "a\u0308"),
    ("a" * 50, "a" * 49 + "b"),
    (2**70, 2.0**70),
    (2**53, 2.0**53 + 2),
    (2**61 - 1, 0),
    (1, Decimal(1)),
    (0.5, Fraction(1, 2)),
    (1, 1 + 0j),
    (NAN, NAN),
    (NAN, float("nan")),
    (None, 0),
    ((), None),
    ((1, 2), (1.0, 2.0)),
    ((1, (2, "x")), (1, (2, "y"))),
    ((1, NAN), (1, NAN)),
    (frozenset({1, 2}), frozenset({2.0, 1.0})),
    (SameHash("a"), SameHash("a")),
    (SameHash("a"), SameHash("b")),
    (SameHash("a"), 7),
    (int, int),
    (int, float),
    (len, len),
    (range(3), range(0, 3)),
    (..., NotImplemented),
]


@pytest.mark.parametrize("pair", PAIRS, ids=named)
def test_keys_are_compared_as_a_dict_compares_them(any_policy, pair):
    stored, wanted = pair
    same = wanted in {stored: 1}
    cache = Cache(policy=any_policy)
    cache[stored] = 1
    assert (wanted in cache) is same
    assert (cache.get(wanted) == 1) is same
    assert (cache.peek(wanted) == 1) is same
    assert (cache.get_many([wanted]) == {wanted: 1}) is same
    cache[wanted] = 2
    assert len(cache) == (1 if same else 2)
    assert cache.delete(wanted) is True
    assert len(cache) == (0 if same else 1)


def test_an_equal_key_of_another_type_replaces_the_value_but_the_key_stays(any_policy):
    cache = Cache(policy=any_policy)
    cache[1] = "int"
    cache[True] = "bool"
    cache[1.0] = "float"
    [(key, value)] = cache.items()
    assert (type(key), value) == (int, "float")


def test_subclasses_of_str_and_int_are_equal_as_in_a_dict(any_policy):
    class Text(str):
        pass

    class Number(int):
        pass

    class Other(str):
        def __eq__(self, other):
            return False

        __hash__ = str.__hash__

    cache = Cache(policy=any_policy)
    cache["a"], cache[1], cache[Other("b")] = 1, 2, 3
    assert (cache.get(Text("a")), cache.get(Number(1)), cache.get("b")) == (1, 2, None)


def test_many_keys_with_one_hash_stay_apart(any_policy):
    cache = Cache(max_size=40, policy=any_policy)
    for n in range(60):
        cache[SameHash(n)] = n
    kept = sorted(cache.values())
    if any_policy == "AUTO":        # AUTO takes all of them for one ghost that came back
        assert len(kept) == len(cache) == 40 and kept[-1] == 59
    else:
        assert kept == list(range(20, 60))
    for n in range(60):
        assert cache.get(SameHash(n)) == (n if n in kept else None)
    for n in kept[::2]:
        assert cache.delete(SameHash(n)) is True
    assert sorted(cache.values()) == kept[1::2]


@pytest.mark.parametrize("letter", ["a", "\xe9", "\u0436", "\U0001f600"])
def test_texts_of_any_length_and_width_are_found_by_an_equal_one(letter):
    cache = Cache()
    for length in range(75):
        cache[letter * length] = length
    for length in range(75):
        assert cache.get("".join([letter] * length)) == length
        for at in range(length):
            other = letter * at + "z" + letter * (length - at - 1)
            assert other not in cache and cache.get(other) is None


def test_a_key_whose_eq_returns_no_bool_is_judged_by_its_truth(any_policy):
    class Vague:
        def __hash__(self):
            return 1

        def __eq__(self, other):
            return [1] if isinstance(other, Vague) else []

    cache = Cache(policy=any_policy)
    cache[Vague()] = 1
    assert (Vague() in cache, 1 in cache) == (True, False)


def test_an_exception_from_eq_reaches_the_caller_and_changes_nothing(any_policy):
    class Touchy:
        def __hash__(self):
            return 1

        def __eq__(self, other):
            raise LookupError("touchy")

    cache = Cache(policy=any_policy)
    cache[1] = "one"
    for call in (cache.get, cache.__getitem__, cache.delete, cache.pop, cache.ttl, cache.touch, cache.increment):
        with pytest.raises(LookupError, match="touchy"):
            call(Touchy())
    with pytest.raises(LookupError, match="touchy"):
        cache[Touchy()] = 2
    assert list(cache.items()) == [(1, "one")]
    assert cache.stats.get_all() == {**dict.fromkeys(cache.stats.get_all(), 0), "sets": 1}


UNHASHABLE = {
    "get": lambda cache, key: cache.get(key),
    "set": lambda cache, key: cache.set(key, 1),
    "set with a ttl": lambda cache, key: cache.set(key, 1, ttl=1),
    "delete": lambda cache, key: cache.delete(key),
    "in": lambda cache, key: key in cache,
    "c[key]": lambda cache, key: cache[key],
    "c[key] = v": lambda cache, key: cache.__setitem__(key, 1),
    "del c[key]": lambda cache, key: cache.__delitem__(key),
    "peek": lambda cache, key: cache.peek(key),
    "pop": lambda cache, key: cache.pop(key, None),
    "setdefault": lambda cache, key: cache.setdefault(key, 1),
    "get_many": lambda cache, key: cache.get_many(["a", key]),
    "delete_many": lambda cache, key: cache.delete_many(["a", key]),
    "update": lambda cache, key: cache.update([("a", 2), (key, 1)]),
    "get_or_set": lambda cache, key: cache.get_or_set(key, int),
    "increment": lambda cache, key: cache.increment(key),
    "compute": lambda cache, key: cache.compute(key, lambda old: 1),
    "ttl": lambda cache, key: cache.ttl(key),
    "touch": lambda cache, key: cache.touch(key),
}


@pytest.mark.parametrize("call", UNHASHABLE)
def test_an_unhashable_key_is_a_type_error_and_changes_nothing(any_policy, call):
    cache = Cache(policy=any_policy)
    cache["a"] = 1
    for key in ([], {}, set(), ([],)):
        with pytest.raises(TypeError, match="unhashable"):
            UNHASHABLE[call](cache, key)
    assert list(cache.items()) == [("a", 1)]
    assert cache.stats.get_all() == {**dict.fromkeys(cache.stats.get_all(), 0), "sets": 1}


def test_even_an_empty_cache_refuses_an_unhashable_key():
    with pytest.raises(TypeError, match="unhashable"):
        Cache().get([])
