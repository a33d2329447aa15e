"""Keys that are compared without calling `==`: bytes, floats, complex numbers, and tuples of such."""

from __future__ import annotations

import collections
import itertools
import math

import pytest

from cachebox import Cache, cached

Pair = collections.namedtuple("Pair", "x y")


class Reversed(tuple):
    """A tuple that is equal to what is not."""

    __slots__ = ()
    __hash__ = tuple.__hash__

    def __eq__(self, other):
        return tuple(self) == tuple(reversed(tuple(other)))


NAN = float("nan")
PLAIN = [
    b"", b"a", b"ab", b"b" * 100, 0.0, -0.0, 1.5, math.inf, NAN, complex(1, 2), complex(2, 1), complex(0.0, -0.0), 1j,
    (), (1,), (1, "a"), ("a", 1), (1, b"a"), (1.0, "a"), (NAN,), (1, (2, 3)), (1, (3, 2)), ((),), Pair(1, "a"),
    Pair("a", 1), Reversed((1, 2)), Reversed((2, 1)), (None, True), (1, None), ("a" * 70, 1), ("\xe9", "\u20ac"),
]  # fmt: skip


def copied(key):
    """An equal key that is another object, as far as Python makes one."""
    if isinstance(key, tuple):
        items = [copied(item) for item in key]
        return type(key)(*items) if isinstance(key, Pair) else type(key)(items)
    if isinstance(key, bytes):
        return bytes(bytearray(key))
    if isinstance(key, (float, complex)):
        return key * 1 if key == key else key
    return key


@pytest.mark.parametrize("n", range(len(PLAIN)))
def test_they_are_found_where_a_dict_finds_them(n):
    key = PLAIN[n]
    cache, model = Cache(), {}
    cache[key] = model[key] = n
    for other in [*PLAIN, *map(copied, PLAIN)]:
        assert cache.get(other, "none") == model.get(other, "none"), (key, other)


def test_all_together_they_are_as_many_as_in_a_dict():
    cache, model = Cache(), {}
    for n, key in enumerate(itertools.chain(PLAIN, map(copied, PLAIN))):
        cache[key] = model[key] = n
    assert len(cache) == len(model)
    assert [cache[key] for key in PLAIN] == [model[key] for key in PLAIN]


@pytest.mark.parametrize("shape", [lambda f, x: f(x), lambda f, x: f("a", 1, x), lambda f, x: f(x=x)])
def test_as_arguments_they_are_known_where_they_are_equal(shape):
    @cached(max_size=None)
    def f(*args, **kwargs):
        return args, kwargs

    keys = [*PLAIN, *map(copied, PLAIN)]
    for key in keys:
        shape(f, key)
    assert f.cache_info().misses == len(dict.fromkeys(keys))


def test_items_that_have_to_be_asked_are_asked():
    asked = []

    class Item:
        def __hash__(self):
            return 7

        def __eq__(self, other):
            asked.append(1)
            return isinstance(other, Item)

    cache = Cache()
    cache[1, Item()] = "found"
    assert cache.get((1, Item())) == "found" and asked
    assert cache.get((2, Item())) is None
