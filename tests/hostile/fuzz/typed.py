"""Trees of typed values, in JSON and msgpack, packed or not, with the classes of an annotation: what is read can be
written, and is the same again."""

from __future__ import annotations

import collections
import dataclasses
import enum
import math
import sys
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from http import HTTPStatus
from uuid import UUID
from zoneinfo import ZoneInfo

from cachebox.distributed._ops.schema import Schema
from cachebox.distributed._wire.codec import HEAD, Codec, Undecodable
from cachebox.distributed._wire.compression import ZLIB, ZSTD

GENERATION = bytes(16)
Pair = collections.namedtuple("Pair", "left right")
Colour = enum.Enum("Colour", "RED GREEN")
Rights = enum.IntFlag("Rights", "READ WRITE RUN")


@dataclasses.dataclass
class Point:
    x: int
    at: list[Point] | None = None


@dataclasses.dataclass(frozen=True)
class Slotted:
    __slots__ = ("a",)
    a: float


CLASSES = [Point, Slotted, Pair, Colour, Rights]
try:
    import attrs

    @attrs.define
    class Attrs:
        n: int

    CLASSES.append(Attrs)
except ImportError:
    pass
try:
    import pydantic

    class Model(pydantic.BaseModel):
        n: int
        more: dict[str, int] = {}

    CLASSES.append(Model)
except ImportError:
    pass
try:
    import msgspec

    class Struct(msgspec.Struct):
        n: int
        name: str = ""

    CLASSES.append(Struct)
except ImportError:
    pass
SCHEMA = Schema(tuple[tuple(CLASSES)])


def codecs():
    """Those that there are here, each with and without a schema."""
    for serializer in "json", "msgpack":
        for compress in "zlib", "zstd", None:
            try:
                codec = Codec(serializer, None, "app", compress)
            except ImportError:
                continue
            yield from ((codec, None), (codec, SCHEMA))


READERS = list(codecs())
OBJECTS = [Point(1, [Point(2)]), Slotted(2.5), Pair(1, "x"), Colour.RED, Rights.READ | Rights.RUN]
OBJECTS += [cls(1) for cls in CLASSES if cls.__name__ == "Attrs"]
OBJECTS += [cls(n=1) for cls in CLASSES if cls.__name__ in ("Model", "Struct")]
PLAIN = [
    (1, 2.5, "ü", b"x", None, True),
    {1: {2, 3}, (4,): frozenset("ab"), "s": [{"a": []}]},
    [10**30, -(2**63), float("inf"), float("nan"), -0.0, 1 - 2j],
    [Decimal("1.50"), Decimal("-Infinity"), UUID(int=7), HTTPStatus.OK],
    [datetime(2024, 5, 6, 7, 8, 9, 10), date(1, 1, 1), time(1, 2, fold=1), timedelta(-1, 2, 3)],
    [datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=2), "here")), datetime(9999, 1, 1, tzinfo=ZoneInfo("UTC"))],
    ["packed"] * 400,
    [],
]


def seeds():
    """A byte that says who reads, and what of an entry follows the generation, behind its kind and its flags."""
    for i, (codec, schema) in enumerate(READERS):
        for value in [*PLAIN, OBJECTS] if schema is not None else PLAIN:
            for kept in (0, 5000) if value == [] else (0,):
                head, body = codec.encode("k", value, (), schema, kept)
                yield bytes([i]) + head[3:] + body


SEEDS = list(seeds())


def same(one: object, other: object) -> bool:
    """Whether two values are of the same types, and equal, down to their parts."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return math.copysign(1, one) == math.copysign(1, other) and (one == other or (one != one and other != other))
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, (set, frozenset)):
        return sorted(map(repr, one)) == sorted(map(repr, other))
    if isinstance(one, (datetime, time)):
        return one.isoformat() == other.isoformat() and one.fold == other.fold and same(one.tzinfo, other.tzinfo)
    if isinstance(one, Decimal):
        return one.as_tuple() == other.as_tuple()
    if type(one) in CLASSES and not isinstance(one, enum.Enum):
        return same(SCHEMA.decompose(one), SCHEMA.decompose(other))
    return one == other


def one(data: bytes) -> None:
    if len(data) < 3:
        return
    codec, schema = READERS[data[0] % len(READERS)]
    packed = data[2] & (ZLIB | ZSTD)            # the zstd of the package's own may be absent here: that is told apart
    entry = b"\xcbx\x03" + data[1:3] + GENERATION + data[3:]
    loaded = set(sys.modules)
    try:
        kind, payload, _ = codec.open("k", entry)
        value = codec.loads(kind, payload, schema)
    except Undecodable:
        return
    finally:
        new = {name for name in set(sys.modules) - loaded if not name.startswith(("encodings", "zoneinfo"))}
        assert not new, f"{new} were imported"
    assert len(entry) >= HEAD and (packed or len(payload) <= len(data))
    if kind == b"N":
        return                                  # a counter: the server changes it, and nobody writes it
    try:
        head, body = codec.encode("k", value, (), schema)
    except TypeError as error:
        raise AssertionError(f"{value!r} was read, but cannot be written: {error}") from error
    again = codec.decode("k", head + GENERATION + body, schema)
    assert same(value, again), (value, again)
