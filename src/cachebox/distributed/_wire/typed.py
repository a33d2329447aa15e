"""Values of more types than JSON and msgpack have, as trees of the types that these have, and back.

In a tree a str, a number, a bool, None and a dict with str keys stand for themselves. A list stands for another value:
its first item is a tag that says what, the rest are its parts (`_WRITERS` and `_READERS` have a function for each tag).
A list itself has the tag ``"l"``, so no two values have the same tree.

Reading never imports or calls anything that the bytes name. An enum is looked up in the loaded modules. The program's
own classes come from a schema (`Schema`), which the reader has made of a function's annotation.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import enum
import os.path
import re
import sys
import uuid
from collections.abc import Callable
from itertools import chain, islice
from types import ModuleType
from typing import Any, Protocol, cast

from cachebox.distributed._wire.plain import MAX_DEPTH

Tree = Any
_ATOMS = frozenset((str, bool, type(None)))
_EPOCHLESS = datetime.timedelta(microseconds=1)
_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*").fullmatch
_NOT_FINITE = {text: text for text in ("nan", "inf", "-inf")}
_STRICT = decimal.Context(traps=[decimal.InvalidOperation])


class Schema(Protocol):
    """The classes in a function's annotation, as far as `Writer` and `Reader` need them."""

    @property
    def fingerprint(self) -> str:
        """A text that changes when the annotation, or the fields of a class in it, change."""

    def decompose(self, value: Any) -> tuple[int, list[Any]] | None:
        """The number of a value's class, and the value's parts; None if the schema does not have the class."""

    def compose(self, number: int, parts: list[Any]) -> Any:
        """The value that consists of these parts."""


class Unstorable(TypeError):
    """A value that no tree can stand for.

    Attributes:
        culprit: the innermost part to blame.
    """

    def __init__(self, culprit: Any, why: str = "") -> None:
        super().__init__(why)
        self.culprit = culprit


class Writer:
    """Makes the tree of one value.

    Args:
        binary: whether bytes stand for themselves, as in msgpack.
        schema: the classes that are known in addition to the built-in ones.

    >>> Writer(False).tree((1, {2: b"x"}))
    ['t', 1, ['d', 2, ['b', 'eA==']]]
    """

    def __init__(self, binary: bool, schema: Schema | None = None) -> None:
        self.binary = binary
        self.schema = schema
        self._depth = 0

    def whole(self, value: Any) -> Tree:
        """The tree of a value, together with the schema's fingerprint if there is a schema. Raises `Unstorable`."""
        if self.schema is None:
            return self.tree(value)
        return ["r", self.schema.fingerprint, self.tree(value)]

    def tree(self, value: Any) -> Tree:
        """The tree of a value or a part. O(size of the value). Raises `Unstorable`."""
        kind = type(value)
        if kind in _ATOMS:
            return value
        if kind is int:
            return value if -(1 << 63) <= value < 1 << 63 else ["i", f"{value:x}"]
        if kind is float:
            return value if value - value == 0.0 else ["n", repr(value)]
        if kind is bytes and self.binary:
            return value
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        tag = _TAGS.get(kind)
        found: Tree
        if tag is not None:                     # inline, so that each level costs one frame
            found = [tag, *map(self.tree, value)]
        elif kind is not dict:
            found = self._other(value, kind)
        elif all(map(_is_str, value)):
            found = dict(zip(value, map(self.tree, value.values()), strict=True))
        else:
            found = ["d", *map(self.tree, chain.from_iterable(value.items()))]
        self._depth -= 1
        return found

    def _other(self, value: Any, kind: type) -> Tree:
        write = _WRITERS.get(kind)
        if write is not None:
            return write(self, value)
        if self.schema is not None:
            found = self.schema.decompose(value)
            if found is not None:
                number, parts = found
                return ["o", number, *map(self.tree, parts)]
        if isinstance(kind, enum.EnumMeta):
            return ["e", *written_enum(value)]
        raise Unstorable(value)


class Reader:
    """Makes the value of a tree. Raises any exception if the tree is not one that `Writer` makes.

    >>> Reader().value(["t", 1, ["d", 2, ["b", "eA=="]]])
    (1, {2: b'x'})
    """

    def __init__(self, schema: Schema | None = None) -> None:
        self.schema = schema

    def whole(self, tree: Tree) -> Any:
        """The value of a tree that `Writer.whole` made with the same schema."""
        if self.schema is None:
            return self.value(tree)
        tag, fingerprint, inner = tree
        if tag != "r" or fingerprint != self.schema.fingerprint:
            raise ValueError("written for another annotation")
        return self.value(inner)

    def value(self, tree: Tree) -> Any:
        """The value of a tree. O(size of the tree)."""
        kind = type(tree)
        if kind is list:
            make = _MAKERS.get(tree[0])
            if make is None:
                return _READERS[tree[0]](self, *tree[1:])
            return _all_different(make(map(self.value, islice(tree, 1, None))), len(tree) - 1)
        if kind is dict:
            return dict(zip(tree, map(self.value, tree.values()), strict=True))
        return tree


def _is_str(key: Any) -> bool:
    return type(key) is str


# --- enums ------------------------------------------------------------------------------------------------------------


def written_enum(value: enum.Enum) -> tuple[str, str, str | int]:
    """The module, the qualified name, and the member's name or the number of combined flags. Raises `Unstorable`."""
    kind = type(value)
    module, qualname = kind.__module__, kind.__qualname__
    if module == "__mp_main__":                 # the name of the main module in processes of multiprocessing
        module = "__main__"
    if _loaded_enum(module, qualname) is not kind:
        raise Unstorable(value, "its class is not what its module and name lead to")
    return module, qualname, member_name(value)


def member_name(value: enum.Enum) -> str | int:
    """The name or number that identifies a member in its class. Raises `Unstorable`."""
    kind = type(value)
    name = value._name_
    if type(name) is str and kind._member_map_.get(name) is value:
        return name
    if isinstance(value, enum.Flag) and _combines_plainly(kind):
        number = value._value_
        if type(number) is int and kind(number) is value:
            return number
    raise Unstorable(value, "it is no member of its class")


def member(kind: Any, name: str | int) -> enum.Enum:
    """The member of a class that `member_name` identified. Raises KeyError or ValueError if there is none."""
    if type(name) is str:
        found: enum.Enum = kind._member_map_[name]
        return found
    if not issubclass(kind, enum.Flag) or not _combines_plainly(kind) or type(name) is not int:
        raise ValueError("no member")
    combined: enum.Enum = kind(name)
    if combined._value_ != name:
        raise ValueError("no such flags")
    return combined


def _combines_plainly(kind: Any) -> bool:
    """Whether flags are combined by the standard library's code alone, not the program's."""
    plain = kind._missing_.__func__ is enum.Flag._missing_.__func__  # type: ignore[attr-defined]
    return plain and kind._new_member_ in (object.__new__, int.__new__)


def _loaded_enum(module: Any, qualname: Any) -> type[enum.Enum] | None:
    """An enum of a loaded module. Runs no code of the module, not even its ``__getattr__``."""
    loaded = sys.modules.get(module)
    space: Any = object.__getattribute__(loaded, "__dict__") if isinstance(loaded, ModuleType) else None
    found: Any = None
    for name in qualname.split("."):
        found = space.get(name) if space is not None else None
        space = type.__dict__["__dict__"].__get__(found) if isinstance(found, type) else None
    return cast("type[enum.Enum]", found) if isinstance(found, enum.EnumMeta) else None


def _enum_from(reader: Reader, module: str, qualname: str, name: str | int) -> enum.Enum:
    kind = _loaded_enum(module, qualname)
    if kind is None:
        raise ValueError("no such enum is loaded")
    return member(kind, name)


# --- dates and times --------------------------------------------------------------------------------------------------


def _written_zone(value: Any) -> list[Any]:
    """What follows the text of a datetime or a time: ``fold`` and the time zone, if they are set."""
    zone = value.tzinfo
    if zone is None:
        return [1] if value.fold else []
    if type(zone) is datetime.timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        return [value.fold, [offset // _EPOCHLESS, *name]]
    known = sys.modules.get("zoneinfo")
    if known is not None and type(zone) is known.ZoneInfo and zone.key is not None:
        return [value.fold, zone.key]
    raise Unstorable(zone)


def _zone(given: Any) -> datetime.tzinfo:
    if type(given) is list:
        return datetime.timezone(datetime.timedelta(microseconds=given[0]), *given[1:])
    known = sys.modules.get("zoneinfo")
    if known is None or type(given) is not str or _ZONE(given) is None:
        raise ValueError("no such time zone")
    if "tzdata" not in sys.modules and not any(os.path.isfile(os.path.join(path, given)) for path in known.TZPATH):
        raise ValueError("that time zone would have to be imported")
    found: datetime.tzinfo = known.ZoneInfo(given)
    return found


def _datetime(reader: Reader, text: str, fold: int = 0, zone: Any = None) -> datetime.datetime:
    found = datetime.datetime.fromisoformat(text)
    return found.replace(fold=fold, tzinfo=None if zone is None else _zone(zone))


def _time(reader: Reader, text: str, fold: int = 0, zone: Any = None) -> datetime.time:
    found = datetime.time.fromisoformat(text)
    return found.replace(fold=fold, tzinfo=None if zone is None else _zone(zone))


# --- containers -------------------------------------------------------------------------------------------------------


def _dict(reader: Reader, *parts: Tree) -> dict[Any, Any]:
    parts = tuple(map(reader.value, parts))
    found: dict[Any, Any] = _all_different(dict(zip(parts[::2], parts[1::2], strict=True)), len(parts) // 2)
    return found


def _all_different(found: Any, n: int) -> Any:
    if len(found) != n:
        raise ValueError("one came twice")
    return found


def _object(reader: Reader, number: int, *parts: Tree) -> Any:
    if reader.schema is None:
        raise ValueError("of a class that only an annotation tells of")
    return reader.schema.compose(number, list(map(reader.value, parts)))


_TAGS: dict[type, str] = {list: "l", tuple: "t", set: "s", frozenset: "f"}
_MAKERS: dict[Any, Callable[..., Any]] = {tag: kind for kind, tag in _TAGS.items()}
_WRITERS: dict[type, Callable[[Writer, Any], list[Any]]] = {
    bytes: lambda writer, value: ["b", base64.b64encode(value).decode("ascii")],
    complex: lambda writer, value: ["c", writer.tree(value.real), writer.tree(value.imag)],
    decimal.Decimal: lambda writer, value: ["D", str(value)],
    uuid.UUID: lambda writer, value: ["u", value.hex],
    datetime.datetime: lambda writer, value: ["T", value.replace(tzinfo=None).isoformat(), *_written_zone(value)],
    datetime.date: lambda writer, value: ["Y", value.isoformat()],
    datetime.time: lambda writer, value: ["H", value.replace(tzinfo=None).isoformat(), *_written_zone(value)],
    datetime.timedelta: lambda writer, value: ["R", value.days, value.seconds, value.microseconds],
}
_READERS: dict[str, Callable[..., Any]] = {
    "d": _dict,
    "i": lambda reader, digits: int(digits, 16),
    "n": lambda reader, text: float(_NOT_FINITE[text]),
    "b": lambda reader, text: base64.b64decode(text, validate=True),
    "c": lambda reader, real, imag: complex(reader.value(real), reader.value(imag)),
    "D": lambda reader, text: decimal.Decimal(text, _STRICT),
    "u": lambda reader, digits: uuid.UUID(hex=digits),
    "T": _datetime,
    "Y": lambda reader, text: datetime.date.fromisoformat(text),
    "H": _time,
    "R": lambda reader, days, seconds, microseconds: datetime.timedelta(days, seconds, microseconds),
    "e": _enum_from,
    "o": _object,
}
