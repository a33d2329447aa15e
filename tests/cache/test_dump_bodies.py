"""The compiled writer of dumps against the serializer, which it must equal byte for byte."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachebox import Cache
from cachebox._files import dump as dumps
from cachebox._files.body import write
from cachebox._files.serializer import Encoding

TEXTS = ["", "a", " ~", '"', "\\", "\x00", "\x1f", "\x7f", "\x80", "é", "日", "\U0001f600", "\ud800"]
TEXTS += ["a" * 1000, "\n" * 1000]
NUMBERS = [0, 9, 10, -1, 2**31, 2**63 - 1, -(2**63), 2**63, 2**64, -(2**63) - 1, 10**30]
KEYS = st.one_of(st.sampled_from([*TEXTS, *NUMBERS, True, False, None, 1.5]), st.text(), st.integers())
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.one_of(KEYS, FLOATS, st.lists(st.text()), st.dictionaries(st.text(), st.integers()))
TAGS = st.lists(st.text(), max_size=2)
ROWS = st.lists(st.tuples(KEYS, VALUES, st.floats(), st.integers(0, 2**64 - 1), TAGS), max_size=20)


def written(rows, n_columns, encode, as_json):
    """What `write` appends to b"before"; the last of its columns are None unless `n_columns` counts them in."""
    content = bytearray(b"before")
    keys, values, *rest = ([row[at] for row in rows] for at in range(5))
    rest = [column if at < n_columns else None for at, column in enumerate(rest)]
    write(content, keys, values, *rest, encode, as_json)
    assert content.startswith(b"before")
    return bytes(content[6:])


def expected(rows, n_columns, encode):
    parts = []
    for key, value, end, rank, tags in rows:
        data = encode(key, value, tags if n_columns > 2 else [])
        end, rank = end if n_columns > 0 else math.inf, rank if n_columns > 1 else 0
        parts.append(dumps._ENTRY.pack(len(data), end, rank) + data)
    return b"".join(parts)


@given(ROWS, st.integers(0, 3))
def test_entries_are_what_the_serializer_writes(rows, n_columns):
    encode = Encoding("json").dumps
    assert written(rows, n_columns, encode, True) == expected(rows, n_columns, encode)


@given(ROWS, st.integers(0, 3))
def test_another_serializer_writes_all_itself(rows, n_columns):
    encode = Encoding("pickle", "secret").dumps
    assert written(rows, n_columns, encode, False) == expected(rows, n_columns, encode)


def test_as_many_entries_as_other_threads_wait_for():
    rows = [(f"key:{at}", at, math.inf, 0, []) for at in range(10_000)]
    encode = Encoding("json").dumps
    assert written(rows, 0, encode, True) == expected(rows, 0, encode)


class Text(str):
    __slots__ = ()


class Number(int):
    pass


@pytest.mark.parametrize(
    ("key", "value"), [(Text("a"), 1), (Number(1), 1), ("a", Text("a")), ("a", Number(1)), ((), 1)]
)
def test_only_exact_types_are_plain(tmp_path, key, value):
    cache = Cache()
    cache.set("before", 1)
    cache.set(key, value)
    with pytest.raises(TypeError, match="use another serializer"):
        cache.dump(tmp_path / "dump")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", TEXTS)
def test_each_str_comes_back_as_key_and_as_value(tmp_path, text):
    cache, other = Cache(), Cache()
    cache.set(text, text)
    assert cache.dump(tmp_path / "dump") == other.load(tmp_path / "dump") == 1
    assert list(other.items()) == [(text, text)]
    body = (tmp_path / "dump").read_bytes()[dumps._HEAD.size + dumps._ENTRY.size : -32]
    assert json.loads(body) == [text, text, []]


def test_an_exception_of_a_serializer_leaves_nothing(tmp_path):
    class Odd:
        def dumps(self, thing):
            if thing[0] == 3:
                raise OSError("no")
            return b"x"

        def loads(self, data):
            raise NotImplementedError

    cache = Cache()
    cache.update({at: at for at in range(5)})
    with pytest.raises(OSError, match="no"):
        cache.dump(tmp_path / "dump", serializer=Odd())
    assert not list(tmp_path.iterdir())
