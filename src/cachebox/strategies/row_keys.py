"""Keys as bytes, for a table: two keys have the same bytes exactly if they are equal.

A serializer does not guarantee that. Pickles of equal tuples may differ if two items are the same object. And 1, 1.0
and True, which are one key for a dict, differ in JSON. So keys are written here by what makes them equal, independent
of the serializer. A key whose equality is unknown raises TypeError.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from json.encoder import encode_basestring_ascii
from typing import Any
from uuid import UUID

_MOST_DIGITS = 4000
"""The most digits of a number: Python refuses to write longer ints."""


def row_key(key: Any) -> bytes:
    """A key as bytes. O(its size).

    Raises TypeError unless the key is made of None, numbers, str, bytes, tuples, frozensets, dates, times, UUIDs and
    enums; also for classes with an `==` of their own.
    """
    try:
        return _text(key).encode()
    except RecursionError:
        raise TypeError("key must not be nested as deeply as this") from None


def _text(key: Any) -> str:
    kind = type(key)
    if kind is str:
        return encode_basestring_ascii(key)
    if kind is int:
        return _number(key)
    if key is None:
        return "null"
    for known, write in _KINDS.items():
        # a subclass that compares like its base equals the base's value
        if isinstance(key, known) and kind.__eq__ is known.__eq__ and kind.__hash__ in _hashes(known):
            return write(key)
    equals: Any = kind.__eq__
    if isinstance(key, Enum) and equals is object.__eq__:
        return f"enum({kind.__module__}.{kind.__qualname__}.{key.name})"
    raise TypeError(
        f"key must be made of None, numbers, str, bytes, tuples, frozensets, dates, times, UUIDs and enums, because "
        f"equality is not known for others; not of type {kind.__name__}"
    )


def _hashes(known: type) -> tuple[Any, ...]:
    """The hash functions of a subclass that equals its base. Enums of numbers or strings have their own."""
    return known.__hash__, Enum.__hash__


def _number(key: Any) -> str:
    """A real number as the int or the float that it equals, else as a fraction."""
    if key != key:
        raise TypeError("key must not be NaN, which equals nothing")
    if key in _INFINITIES:
        return float.__repr__(float(key))
    if isinstance(key, Decimal) and abs(key.adjusted()) > _MOST_DIGITS:
        raise TypeError(f"key must be a number of at most {_MOST_DIGITS} digits")
    above, below = key.as_integer_ratio()
    if max(abs(above), below) >= _TOO_MUCH:
        raise TypeError(f"key must be a number of at most {_MOST_DIGITS} digits")
    if below == 1:
        return str(above)
    try:
        near = above / below
    except OverflowError:
        return f"{above}/{below}"
    return float.__repr__(near) if near.as_integer_ratio() == (above, below) else f"{above}/{below}"


def _complex(key: complex) -> str:
    return f"complex({_number(key.real)},{_number(key.imag)})" if key.imag else _number(key.real)


def _moment(key: datetime.datetime) -> str:
    if key.tzinfo is None:
        return f"datetime({key.replace(fold=0).isoformat()})"
    if type(key.tzinfo) is not datetime.timezone:       # where clocks are set back, equality has exceptions
        raise TypeError("key must not be a datetime with a time zone other than a datetime.timezone")
    return f"moment({(key - _EPOCH) // _MICROSECOND})"


def _time(key: datetime.time) -> str:
    if key.tzinfo is not None:
        raise TypeError("key must not be a time with a time zone")
    return f"time({key.replace(fold=0).isoformat()})"


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_INFINITIES = (float("inf"), float("-inf"))
_TOO_MUCH = 10**_MOST_DIGITS
_KINDS: dict[type, Callable[[Any], str]] = {
    str: lambda key: encode_basestring_ascii("".join([key])),
    int: lambda key: _number(int(key)),
    float: lambda key: _number(float(key)),
    complex: lambda key: _complex(complex(key)),
    Decimal: _number,
    Fraction: _number,
    bytes: lambda key: f"bytes({bytes(key).hex()})",
    tuple: lambda key: f"({','.join([_text(item) for item in tuple.__iter__(key)])},)",
    frozenset: lambda key: "{" + ",".join(sorted([_text(item) for item in frozenset.__iter__(key)])) + "}",
    datetime.datetime: _moment,
    datetime.date: lambda key: f"date({datetime.date.isoformat(key)})",
    datetime.time: _time,
    datetime.timedelta: lambda key: f"microseconds({key // _MICROSECOND})",
    UUID: lambda key: f"uuid({key.hex})",
}
