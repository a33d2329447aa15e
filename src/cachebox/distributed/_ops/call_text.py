"""The arguments of calls as text, for keys that are the same in every process and every Python version.

Nothing depends on `hash`, on the `repr` of users' objects, or on addresses. An argument without a stable text raises
TypeError.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import sys
import uuid
from typing import Any

from cachebox._calls.key_arguments import UNSET
from cachebox._calls.naming import module_of


def written(value: Any, typed: bool = False) -> str:
    """A value as text: equal text means equal values. Raises TypeError for values without a stable text. O(size of the
    value).

    `typed`: whether equal values of different types get different texts.

    >>> written(1), written("1"), written(1.0), written(1.0, typed=True)
    ('1', "'1'", '1', '1.0')
    >>> written({"b": [1, None], "a": (2.5, b"x")})
    "{'a':(2.5,x'78'),'b':[1,None]}"
    """
    kind = type(value)
    if kind is str:
        text: str = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{text}'"
    if kind is int:
        return str(value)
    if value is None or value is Ellipsis or value is UNSET:
        return str(value)
    if kind is bool:
        return str(value) if typed else str(int(value))
    if kind is float:
        return str(int(value)) if not typed and math.isfinite(value) and value.is_integer() else repr(value)
    if kind is bytes:
        return f"x'{value.hex()}'"
    if kind is tuple:
        return f"({','.join([written(item, typed) for item in value])})"
    if kind is list:
        return f"[{','.join([written(item, typed) for item in value])}]"
    if kind in (set, frozenset):
        name = kind.__name__ if typed else "set"
        return f"{name}{{{','.join(sorted([written(item, typed) for item in value]))}}}"
    if kind is dict:
        pairs = sorted((written(key, typed), written(item, typed)) for key, item in value.items())
        return f"{{{','.join([f'{key}:{item}' for key, item in pairs])}}}"
    if isinstance(value, type) and _is_importable(value):
        return f"type({module_of(value)}.{value.__qualname__})"
    if isinstance(value, enum.Enum):
        if not _is_importable(kind):            # two classes of one name have different members
            raise _no_text(kind)
        name = f"({value._value_!r})" if value._name_ is None else value._name_     # None: flags without a name
        return f"{module_of(kind)}.{kind.__qualname__}.{name}"
    if kind is complex or kind is decimal.Decimal or kind is uuid.UUID:
        return f"{kind.__name__}({value})"
    if kind in (datetime.date, datetime.time, datetime.datetime):
        return f"{kind.__name__}({value.isoformat()})"
    if kind is datetime.timedelta:
        return f"timedelta({value.days},{value.seconds},{value.microseconds})"
    raise _no_text(kind)


def keyword(name: str) -> str:
    """The name of a keyword argument as text. ``f(**names)`` takes any str, such as one that looks like two arguments.

    >>> keyword("x"), keyword("x=1,y")
    ('x', "'x=1,y'")
    """
    return name if name.isidentifier() else written(str(name))


def _no_text(kind: type) -> TypeError:
    return TypeError(
        f"an argument of type {kind.__name__} has no text that is the same in every process: use key_func to make keys"
    )


def _is_importable(kind: type) -> bool:
    """Whether a class can be found by its module and name: only then do they stand for it in every process."""
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind
