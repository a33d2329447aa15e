"""The classes in a function's annotation, so that its results come back as objects of these classes.

Dataclasses, attrs classes, NamedTuples, pydantic models, `msgspec.Struct`s and enums are found anywhere in the
annotation, or in the annotations of their fields. Objects are decomposed into their fields, and composed again like
`pickle` does it: without ``__init__``, so that nothing is computed or validated a second time.

The fingerprint distinguishes annotations. A value that was written under another annotation is not read. So a field
that was renamed, or has got another type, at any depth, turns older entries into misses.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import inspect
import sys
import types
import typing
from collections.abc import Iterable
from typing import Any

from cachebox._calls.naming import module_of
from cachebox.distributed._wire.typed import Unstorable, member, member_name

_CACHED_HASH = "_attrs_cached_hash"
"""Where attrs remembers a hash, which may differ in another process."""


class Schema:
    """The classes of an annotation.

    Args:
        annotation: a class, or anything else that can follow ``->``.

    Immutable, so safe from any thread.

    >>> @dataclasses.dataclass
    ... class Point:
    ...     x: int
    >>> schema = Schema(list[Point])
    >>> number, parts = schema.decompose(Point(3))
    >>> schema.compose(number, parts)
    Point(x=3)
    """

    def __init__(self, annotation: Any) -> None:
        self._records: list[Record] = []
        self._numbers: dict[type, int] = {}
        self._said: dict[Any, str] = {}         # class with fields: its fields as text
        self._within: list[int] = []            # the aliases that are being resolved
        self._says = self._text(annotation)
        about = "\n".join([self._says, *self._said.values()])
        self.fingerprint = hashlib.sha256(about.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def __bool__(self) -> bool:
        """Whether the annotation has a class that cannot be read without it."""
        return bool(self._said)

    def decompose(self, value: Any) -> tuple[int, list[Any]] | None:
        """The number of a value's class, and the value's parts; None if the annotation does not have the class."""
        number = self._numbers.get(type(value))
        return None if number is None else (number, self._records[number].parts(value))

    def compose(self, number: int, parts: list[Any]) -> Any:
        """The value that consists of these parts. Raises any exception if they do not fit."""
        if type(number) is not int or number < 0:
            raise ValueError("no class has that number")
        return self._records[number].made(parts)

    # --- the annotation as text ---------------------------------------------------------------------------------------

    def _text(self, hint: Any) -> str:
        """An annotation as text. Notes the classes in it. O(size of all annotations that it leads to)."""
        if hint is None or hint is type(None):
            return "None"
        if isinstance(hint, (str, typing.ForwardRef)):
            return hint if isinstance(hint, str) else hint.__forward_arg__
        if isinstance(hint, list):              # the arguments of a Callable
            return f"[{', '.join(map(self._text, hint))}]"
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Annotated:
            return self._text(args[0])
        if origin is typing.Literal:
            return f"Literal[{', '.join(map(self._literal, args))}]"
        if origin is typing.Union or origin is types.UnionType:
            return f"Union[{', '.join(sorted(map(self._text, args)))}]"
        if origin is not None:
            return f"{self._text(origin)}[{', '.join(map(self._text, args))}]"
        if isinstance(hint, type):
            self._note(hint)
            return _called(hint)
        name = str(getattr(hint, "__name__", None) or type(hint).__name__)
        for attribute in ("__value__", "__supertype__", "__bound__"):   # of `type X = ...`, NewType, TypeVar
            inner = getattr(hint, attribute, None)
            if inner is not None and id(hint) not in self._within:      # an alias may refer to itself
                self._within.append(id(hint))
                name = f"{name}:{self._text(inner)}"
                self._within.pop()
                break
        return name

    def _literal(self, value: Any) -> str:
        if isinstance(value, enum.Enum):
            return f"{self._text(type(value))}.{value._name_}"
        return repr(value)

    def _note(self, kind: type) -> None:
        """Register a class, if its objects can be decomposed."""
        if kind in self._said or kind.__module__ == "builtins":
            return
        record = record_of(kind)
        if record is not None:
            self._said[kind] = ""               # it may refer to itself
            self._numbers[kind] = len(self._records)
            self._records.append(record)
        elif typing.is_typeddict(kind) or hasattr(kind, "__required_keys__"):
            self._said[kind] = ""
        else:
            return
        hints = _hints(kind)
        names = hints if record is None else record.names
        fields = [f"{name}: {self._text(hints.get(name, Any))}" for name in names]
        self._said[kind] = f"{_called(kind)}({', '.join(fields)})"


def schema_of(annotation: Any) -> Schema | None:
    """The schema of an annotation; None if it needs none."""
    schema = Schema(annotation)
    return schema if schema else None


def schema_of_function(function: Any) -> Schema | None:
    """The schema of a function's results; None if it has no annotation, or needs no schema.

    An annotation that cannot be resolved, because a name in it exists for type checkers only, counts as none.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if not hasattr(function, "__annotations__"):
        function = getattr(type(function), "__call__", None)  # noqa: B004 - it may be of a kind that has none
    try:
        hints = typing.get_type_hints(function, include_extras=True)
        return schema_of(hints["return"]) if "return" in hints else None
    except Exception:                           # anything that evaluating it raises
        return None


def _called(kind: type) -> str:
    return f"{module_of(kind)}.{kind.__qualname__}"


def _hints(kind: type) -> dict[str, Any]:
    model = getattr(kind, "model_fields", None)
    if isinstance(model, dict) and hasattr(kind, "__pydantic_validator__"):
        return {name: field.annotation for name, field in model.items()}
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except Exception:                           # a name that exists for type checkers only
        return dict(inspect.get_annotations(kind))


# --- records ----------------------------------------------------------------------------------------------------------


class Record:
    """How objects of one class are decomposed: dataclasses, and attrs classes.

    Args:
        kind: the class.
        names: its fields, in order.
    """

    def __init__(self, kind: type, names: Iterable[str]) -> None:
        self.kind = kind
        self.names = tuple(names)

    def parts(self, value: Any) -> list[Any]:
        """The values of the fields. Raises `Unstorable` if the object has other attributes, or lacks a field."""
        state: Any = object.__getstate__(value)
        if isinstance(state, tuple):            # of a class with slots
            state = {**(state[0] or {}), **state[1]}
        parts = []
        for name in self.names:
            if name not in state:
                raise Unstorable(value, f"it has no {name}")
            parts.append(state[name])
        for name in state.keys() - frozenset(self.names):
            if name == _CACHED_HASH:
                parts.append(None)
            elif not isinstance(inspect.getattr_static(self.kind, name, None), functools.cached_property):
                raise Unstorable(value, f"it has {name}, which is no field")
        return parts

    def made(self, parts: list[Any]) -> Any:
        """The object with these parts."""
        names = (*self.names, _CACHED_HASH) if len(parts) == len(self.names) + 1 else self.names
        made: Any = object.__new__(self.kind)
        for name, part in zip(names, parts, strict=True):
            object.__setattr__(made, name, part)
        return made


class NamedTupleRecord(Record):
    """A NamedTuple, or a class of `collections.namedtuple`."""

    def parts(self, value: Any) -> list[Any]:
        if getattr(value, "__dict__", None) or len(value) != len(self.names):
            raise Unstorable(value, "it has more than its fields")
        return list(tuple.__iter__(value))

    def made(self, parts: list[Any]) -> Any:
        if len(parts) != len(self.names):
            raise ValueError("another number of fields")
        return tuple.__new__(self.kind, parts)


class EnumRecord(Record):
    """An enum; it need not be importable by name."""

    def parts(self, value: Any) -> list[Any]:
        return [member_name(value)]

    def made(self, parts: list[Any]) -> Any:
        (name,) = parts
        return member(self.kind, name)


class PydanticRecord(Record):
    """A model of pydantic 2: its fields, which of them were set, extra fields, and private attributes."""

    def parts(self, value: Any) -> list[Any]:
        state = object.__getattribute__(value, "__dict__")
        if not all(name in state for name in self.names):
            raise Unstorable(value, "it lacks a field")
        given = sorted(getattr(value, "__pydantic_fields_set__", ()))
        further = [getattr(value, f"__pydantic_{name}__", None) for name in ("extra", "private")]
        parts = [state[name] for name in self.names]
        return [*parts, given, *[None if part is None else dict(part) for part in further]]

    def made(self, parts: list[Any]) -> Any:
        *values, given, extra, private = parts
        if type(given) is not list or not {dict, type(None)}.issuperset((type(extra), type(private))):
            raise ValueError("no state of a model")
        made: Any = object.__new__(self.kind)
        object.__setattr__(made, "__dict__", dict(zip(self.names, values, strict=True)))
        for name, part in (("fields_set", set(given)), ("extra", extra), ("private", private)):
            object.__setattr__(made, f"__pydantic_{name}__", part)
        return made


class StructRecord(Record):
    """A `msgspec.Struct`."""

    def parts(self, value: Any) -> list[Any]:
        if getattr(value, "__dict__", None):
            raise Unstorable(value, "it has more than its fields")
        return [getattr(value, name) for name in self.names]

    def made(self, parts: list[Any]) -> Any:
        made = self.kind(**dict(zip(self.names, parts, strict=True)))
        for name, part in zip(self.names, parts, strict=True):
            # overrides what `__post_init__` has done
            sys.modules["msgspec"].structs.force_setattr(made, name, part)
        return made


def record_of(kind: Any) -> Record | None:
    """How objects of a class are decomposed; None if they are not."""
    if isinstance(kind, enum.EnumMeta):
        return EnumRecord(kind, ())
    if issubclass(kind, tuple):
        names = getattr(kind, "_fields", None)
        return NamedTupleRecord(kind, names) if isinstance(names, tuple) else None
    if hasattr(kind, "__struct_fields__") and "msgspec" in sys.modules:
        return StructRecord(kind, kind.__struct_fields__)
    if kind.__new__ is not object.__new__:
        return None
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return Record(kind, [field.name for field in dataclasses.fields(kind)])
    if hasattr(kind, "__attrs_attrs__"):
        return Record(kind, [field.name for field in kind.__attrs_attrs__])
    if hasattr(kind, "__pydantic_validator__") and isinstance(getattr(kind, "model_fields", None), dict):
        return PydanticRecord(kind, kind.model_fields)
    return None


