"""Values of all types that "json" and "msgpack" take: they come back equal, and of the same types, through bytes."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import http
import json
import math
import re
import subprocess
import sys
import typing
import uuid
import zoneinfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

from cachebox.distributed._ops.schema import schema_of, schema_of_function
from cachebox.distributed._wire import compression
from cachebox.distributed._wire.codec import Codec, Undecodable
from cachebox.distributed._wire.plain import MAX_DEPTH, is_plain

GENERATION = bytes(range(16))


def sealed(codec, value, schema=None):
    head, body = codec.encode("k", value, (), schema)
    return head + GENERATION + body


def through(codec, value, schema=None):
    """A value after a round trip through bytes."""
    return codec.decode("k", sealed(codec, value, schema), schema)


def codecs():
    found = [Codec("json", None, "app"), Codec("json", "secret", "app", "zlib")]
    try:
        found.append(Codec("msgpack", None, "app"))
    except ImportError:
        pass
    return found


def same(a, b):
    """Whether two values are equal and of the same types all through; a NaN is a NaN."""
    if type(a) is not type(b):
        return False
    if type(a) is float:
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (a != a and b != b)
    if type(a) is complex:
        return same(a.real, b.real) and same(a.imag, b.imag)
    if type(a) is decimal.Decimal:
        return str(a) == str(b)
    if type(a) in (list, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if type(a) in (set, frozenset):
        return len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)
    if type(a) is dict:
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if type(a) in (datetime.datetime, datetime.time):
        zones = [(z.utcoffset(None), str(z)) if type(z) is datetime.timezone else z for z in (a.tzinfo, b.tzinfo)]
        return a.replace(tzinfo=None) == b.replace(tzinfo=None) and a.fold == b.fold and zones[0] == zones[1]
    return a == b


class Colour(enum.Enum):
    RED = "r"
    BLUE = (1, 2)

    @property
    def name(self):
        return "something else"


class State(enum.IntEnum):
    OPEN = 1


class Region(enum.StrEnum):
    EU = "eu"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


zones = st.one_of(
    st.none(),
    st.just(datetime.UTC),
    st.builds(datetime.timezone, st.timedeltas(datetime.timedelta(hours=-23), datetime.timedelta(hours=23))),
    st.builds(lambda name: datetime.timezone(datetime.timedelta(hours=1), name), st.text(max_size=3)),
    st.sampled_from(["Europe/Berlin", "America/New_York", "UTC"]).map(zoneinfo.ZoneInfo),
)
atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(1 << 70), 1 << 70),
    st.sampled_from([1 << 63, -(1 << 63), (1 << 63) - 1]),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters(codec=None, categories=None), max_size=6),
    st.sampled_from(["\ud800", "\udc00", "\ud83d\ude00", "r", "l", ""]),
    st.binary(max_size=6),
    st.decimals(),
    st.sampled_from([decimal.Decimal(text) for text in ("sNaN5", "-0", "1E+500", "1.10", "-Infinity")]),
    st.uuids(),
    st.datetimes(timezones=zones, allow_imaginary=True),
    st.datetimes().map(lambda found: found.replace(fold=1)),
    st.dates(),
    st.times(timezones=zones.filter(lambda zone: not isinstance(zone, zoneinfo.ZoneInfo))),
    st.timedeltas(),
    st.sampled_from([*Colour, *State, *Region, Rights.READ, Rights.READ | Rights.WRITE, Rights(0)]),
    st.sampled_from([http.HTTPStatus.OK, re.IGNORECASE, re.IGNORECASE | re.MULTILINE]),
)
hashables = st.recursive(
    atoms.filter(lambda value: type(value) is not decimal.Decimal or not value.is_snan()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)
    ),
    max_leaves=4,
)
values = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(hashables, max_size=3),
        st.frozensets(hashables, max_size=3),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.dictionaries(hashables, inner, max_size=3),
    ),
    max_leaves=12,
)


@given(values)
@settings(max_examples=300, deadline=None)
def test_every_value_comes_back_as_it_was(value):
    for codec in codecs():
        assert same(through(codec, value), value)


@given(values, st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_are_undecodable_or_another_value_and_nothing_else(value, data):
    for codec in codecs():
        whole = bytearray(sealed(codec, value))
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
        try:
            codec.decode("k", bytes(whole[: data.draw(st.integers(0, len(whole)))]))
        except Undecodable:
            pass


trees = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from("ltsfdinbcDuTYHReor")
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.builds(lambda tag, rest: [tag, *rest], st.sampled_from("ltsfdinbcDuTYHReor"), st.lists(inner, max_size=4)),
        st.dictionaries(st.text(max_size=3), inner, max_size=2),
    ),
    max_leaves=10,
)


@given(trees)
@settings(max_examples=300, deadline=None)
def test_hostile_trees_name_no_code_and_import_nothing(tree):
    codec = Codec("json", None, "app")
    before = set(sys.modules)
    try:
        codec.loads(b"j", json.dumps(tree).encode())
    except Undecodable:
        pass
    assert set(sys.modules) == before


HOSTILE = [
    ["e", "os", "system", "x"],
    ["e", "this", "s", "x"],
    ["e", "antigravity", "x", "y"],
    ["e", "cachebox", "DistributedCache", "x"],
    ["e", __name__, "Colour", "GREEN"],
    ["e", __name__, "Colour", "mro"],
    ["e", __name__, "Rights", 8],
    ["e", __name__, "State", 1],
    ["e", __name__, "Codec", "encode"],
    ["e", 1, 2, 3],
    ["o", 0, 1],
    ["r", "x", 1],
    ["T", "2024-01-01", 0, "../../etc/passwd"],
    ["T", "2024-01-01", 0, "No/Where"],
    ["T", "2024-01-01", 0, [10**30]],
    ["n", "5"],
    ["b", "!!!!"],
    ["R", 10**12, 0, 0],
    ["D", "x"],
    ["s", 1, 1],
    ["d", 1, 2, 1, 3],
    ["d", 1],
    ["d", ["l"], 1],
    ["c", "x", 1],
    [[]],
    [],
    [None],
]


@pytest.mark.parametrize("tree", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_tree(tree):
    with pytest.raises(Undecodable):
        Codec("json", None, "app").loads(b"j", json.dumps(tree).encode())


def test_an_enum_of_a_module_that_is_not_loaded_is_undecodable():
    written = sealed(Codec("json", None, "app"), http.HTTPStatus.OK)
    program = (
        "import sys; from cachebox.distributed._wire.codec import Codec, Undecodable\n"
        "sys.modules.pop('http', None)\n"
        f"data = bytes.fromhex({written.hex()!r})\n"
        "try: Codec('json', None, 'app').decode('k', data)\n"
        "except Undecodable: print('undecodable', 'http' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["undecodable", "False"]


@pytest.mark.parametrize("number", [10**4299, 10**4300, -(10**5000), 1 << 100_000], ids=range(4))
def test_ints_of_any_size(number):
    for codec in codecs():
        for value in (number, [number], {number: -number}):
            assert through(codec, value) == value


def local_enum():
    return enum.Enum("Local", "A").A


class Subclass(dict):
    pass


class Zone(datetime.tzinfo):
    pass


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5


UNSTORABLE = [
    (local_enum(), "Local"),
    ([1, Subclass(a=1)], r"Subclass in a value of type list .*serializer=\"pickle\" can"),
    ({"a": {1: Point(1)}}, "Point in a value of type dict"),
    (object(), "object"),
    (datetime.datetime(2024, 1, 1, tzinfo=Zone()), "Zone in a value of type datetime"),
    (bytearray(b"x"), "bytearray"),
    ((lambda: 1,), "function in a value of type tuple"),
]


@pytest.mark.parametrize("value, named", UNSTORABLE, ids=range(len(UNSTORABLE)))
def test_what_cannot_be_stored_is_a_type_error_that_names_the_part(value, named):
    for codec in codecs():
        with pytest.raises(TypeError, match=named):
            codec.encode("k", value, ())


def test_nesting_has_a_bound():
    for wrap in (lambda inner: [inner], lambda inner: (inner,), lambda inner: {1: inner}, lambda inner: {"a": inner}):
        value = None
        for _ in range(200):
            value = wrap(value)
        for codec in codecs():
            assert repr(through(codec, value)) == repr(value)
        for _ in range(100_000):
            value = wrap(value)
        for codec in codecs():
            with pytest.raises(TypeError, match=r"nested|recursion"):
                codec.encode("k", value, ())
    circular = []
    circular.append(circular)
    with pytest.raises(TypeError, match=f"nested more than {MAX_DEPTH} deep"):
        Codec("json", None, "app").encode("k", circular, ())


def test_what_is_plain_costs_no_tags():
    for value in ([1, {"a": [None, True, 2.5, "ü"]}], "r", [], {}, -(1 << 63)):
        assert is_plain(value, False) and is_plain(value, True)
    for value in (1 << 63, math.nan, math.inf, (1,), {1: 2}, [{"a": {1}}], State.OPEN, Subclass(), Region.EU):
        assert not is_plain(value, True)
    head, body = Codec("json", None, "app").encode("k", [1, {"a": None}], ())
    assert head[3:4] == b"J" and body == b'[1,{"a":null}]'


# --- compression ------------------------------------------------------------------------------------------------------

METHODS = ["zlib", "zstd"] if compression._zstd() is not None else ["zlib"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("secret", [None, "secret"])
def test_large_values_are_compressed_where_that_saves_a_fifth(method, secret):
    codec, plain = Codec("json", secret, "app", method), Codec("json", secret, "app")
    noise = "".join(chr(33 + (n * n * 7919 >> 7) % 90) for n in range(4000))
    rows = {"rows": [(1, "x")] * 999}
    for value, is_smaller in [("a" * 2046, True), ("a" * 2045, False), (noise, None), (rows, True)]:
        packed, unpacked = sealed(codec, value), sealed(plain, value)
        if is_smaller is not None:
            assert (len(packed) < 0.8 * len(unpacked)) is is_smaller
        assert codec.decode("k", packed) == plain.decode("k", packed) == codec.decode("k", unpacked) == value


def test_a_process_without_the_method_finds_it_undecodable(monkeypatch):
    import zlib

    data = sealed(Codec("json", None, "app", "zlib"), "a" * 5000)
    as_zstd = data[:4] + bytes([8]) + data[5:]
    monkeypatch.setattr(compression, "_zstd", lambda: None)
    with pytest.raises(Undecodable):
        Codec("json", None, "app").decode("k", as_zstd)
    with pytest.raises(ImportError, match=r"zstd"):
        Codec("json", None, "app", "zstd")
    assert zlib.decompress(data[25:]) == b'"' + b"a" * 5000 + b'"'


@pytest.mark.parametrize("method", METHODS)
def test_what_is_unpacked_has_a_bound(method, monkeypatch):
    codec = Codec("json", None, "app", method)
    bomb = sealed(codec, "a" * 3_000_000)
    assert len(bomb) < 20_000
    with monkeypatch.context() as patched:
        patched.setattr(compression, "MOST_UNPACKED", 1_000_000)
        with pytest.raises(Undecodable):
            codec.decode("k", bomb)
        assert len(sealed(codec, "a" * 3_000_000)) > 3_000_000  # so it is stored as it is
    for size in (0, 1, 2048, 2_999_999, 3_000_003, 2**32 - 1):
        with pytest.raises(Undecodable):
            codec.decode("k", bomb[:21] + size.to_bytes(4, "big") + bomb[25:])
    for cut in (22, 25, 40, len(bomb) - 1):
        with pytest.raises(Undecodable):
            codec.decode("k", bomb[:cut])
    with pytest.raises(Undecodable):
        codec.decode("k", bomb + b"x")


def test_the_flag_of_compression_is_signed():
    codec = Codec("json", "secret", "app", "zlib")
    data = sealed(codec, "a" * 5000)
    for flags in (1, 9, 13):
        with pytest.raises(Undecodable):
            codec.decode("k", data[:4] + bytes([flags]) + data[5:])


@pytest.mark.parametrize("wrong", ["lz4", "", True, 3])
def test_compress_must_be_a_method(wrong):
    with pytest.raises((ValueError, TypeError), match="compress must be 'zlib', 'zstd' or None"):
        Codec("json", None, "app", wrong)


# --- annotations ------------------------------------------------------------------------------------------------------


class Pair(typing.NamedTuple):
    left: Point
    right: Colour | None


class Row(typing.TypedDict):
    pair: Pair
    when: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Tree:
    name: str
    children: list[Tree]


@dataclasses.dataclass
class Lazy:
    x: int

    def __post_init__(self):
        raise AssertionError("objects are put together without __init__")


def f_point() -> Point: ...
def f_rows() -> dict[str, list[Row]] | None: ...
def f_tree() -> Tree: ...
async def f_async() -> typing.Annotated[tuple[Pair, ...], "described"]: ...
def f_literal() -> typing.Literal[Colour.RED]: ...
def f_plain() -> dict[str, int]: ...
def f_unresolved() -> NotThere: ...  # noqa: F821
def f_nothing(): ...


POINT, PAIR = Point(1, -0.0), Pair(Point(2), Colour.BLUE)
ANNOTATED = [
    (f_point, POINT),
    (f_point, [POINT]),
    (f_rows, {"a": [{"pair": PAIR, "when": datetime.datetime(2024, 5, 6)}]}),
    (f_rows, None),
    (f_tree, Tree("a", [Tree("b", []), Tree("c", [Tree("d", [])])])),
    (f_async, (PAIR, PAIR)),
    (f_literal, Colour.RED),
]


@pytest.mark.parametrize("function, value", ANNOTATED, ids=range(len(ANNOTATED)))
def test_annotated_results_come_back_as_what_they_are(function, value):
    schema = schema_of_function(function)
    for codec in codecs():
        back = through(codec, value, schema)
        assert back == value and repr(back) == repr(value) and type(back) is type(value)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="aliases that name themselves came with Python 3.12")
def test_aliases_are_looked_into_once():
    space = {"Point": Point}
    exec("type Nested = Point | list[Nested]\ndef f() -> Nested: ...", space)
    schema = schema_of_function(space["f"])
    value = [POINT, [POINT]]
    assert through(Codec("json", None, "app"), value, schema) == value


def test_an_annotation_that_raises_says_nothing():
    class Hostile(type):
        __hash__ = None

    def f() -> Hostile("Kind", (), {}): ...

    assert schema_of_function(f) is None
    new = typing.NewType("new", Point)
    assert through(Codec("json", None, "app"), POINT, schema_of(dict[str, new])) == POINT


@pytest.mark.parametrize("function", [f_plain, f_unresolved, f_nothing, len, print])
def test_other_annotations_need_no_schema(function):
    assert schema_of_function(function) is None


def test_put_together_without_init():
    value = object.__new__(Lazy)
    value.x = 3
    assert through(Codec("json", None, "app"), value, schema_of(Lazy)).x == 3


def test_frameworks_types_come_back():
    attrs = pytest.importorskip("attrs")
    msgspec = pytest.importorskip("msgspec")
    pydantic = pytest.importorskip("pydantic")

    @attrs.frozen(cache_hash=True)
    class Slotted:
        p: Point

    @attrs.define(slots=False)
    class Open:
        s: Slotted
        n: int = attrs.field(alias="number")

    class Struct(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
        some_id: uuid.UUID
        tags: frozenset[str] = frozenset()

    class Model(pydantic.BaseModel):
        model_config = {"extra": "allow", "arbitrary_types_allowed": True}
        o: Open
        struct: Struct
        n: int = pydantic.Field(default=3, alias="other")
        _private: int = pydantic.PrivateAttr(4)

        @pydantic.computed_field
        def twice(self) -> int:
            return 2 * self.n

    class Root(pydantic.RootModel[list[int]]):
        pass

    struct = Struct(some_id=uuid.UUID(int=5), tags=frozenset("a"))
    model = Model(o=Open(Slotted(POINT), 7), struct=struct, further=(1, 2))
    model._private = 9
    schema = schema_of(typing.Union[Model, Root, Open, Slotted, Struct])  # noqa: UP007
    for value in (model, Root([1, 2]), Open(Slotted(POINT), 7), struct):
        for codec in codecs():
            back = through(codec, value, schema)
            assert back == value and type(back) is type(value) and repr(back) == repr(value)
    back = through(Codec("json", None, "app"), model, schema)
    assert back._private == 9 and back.model_fields_set == model.model_fields_set and back.twice == 6
    assert hash(through(Codec("json", None, "app"), Slotted(5), schema)) == hash(Slotted(5))


def versions():
    """Classes that all are called the same, each with other fields."""

    def named(**fields):
        kind = dataclasses.make_dataclass("Versioned", fields.items())
        kind.__module__, kind.__qualname__ = "app", "Versioned"
        return kind

    def inner(**fields):
        kind = dataclasses.make_dataclass("Inner", fields.items())
        kind.__module__, kind.__qualname__ = "app", "Inner"
        return kind

    def typed(**fields):
        kind = typing.TypedDict("Keys", fields)
        kind.__module__ = "app"
        return kind

    return [
        named(x=int), named(x=str), named(y=int), named(x=int, y=int), named(x=list[int]), named(x=int | None),
        named(x=inner(a=int)), named(x=inner(a=str)), named(x=list[inner(a=int)]), named(x=list[inner(b=int)]),
        typed(x=int), typed(x=str), list[typed(x=int)], list[typed(x=inner(a=int))],
    ]  # fmt: skip


def test_other_fields_or_types_are_undecodable():
    schemas = [schema_of(kind) for kind in versions()]
    again = [schema_of(kind) for kind in versions()]
    codec = Codec("json", None, "app")
    for i, schema in enumerate(schemas):
        assert schema.fingerprint == again[i].fingerprint
        data = sealed(codec, {"x": 1}, schema)
        assert codec.decode("k", data, again[i]) == {"x": 1}
        for other in (None, *schemas[:i], *schemas[i + 1 :]):
            with pytest.raises(Undecodable):
                codec.decode("k", data, other)
    for plain in ({"x": 1}, 5, (1,)):
        with pytest.raises(Undecodable):  # written by a version of the function that had no annotation
            codec.decode("k", sealed(codec, plain), schemas[0])


def test_objects_with_more_than_their_fields_are_unstorable():
    @dataclasses.dataclass
    class Known:
        x: int

        @functools.cached_property
        def slow(self):
            return self.x + 1

    value = Known(1)
    assert value.slow == 2
    codec, schema = Codec("json", None, "app"), schema_of(Known)
    assert through(codec, value, schema).slow == 2  # what is remembered is computed again
    value.more = 1
    with pytest.raises(TypeError, match="more"):
        codec.encode("k", value, (), schema)
    del value.more, value.x
    with pytest.raises(TypeError, match="no x"):
        codec.encode("k", value, (), schema)
