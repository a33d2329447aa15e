"""Key functions: they make the key of a call. All cost O(number of arguments)."""

from __future__ import annotations

from typing import Any

__all__ = ["hashkey", "methodkey", "typedkey", "typedmethodkey"]


class _Keywords:
    """A marker between positional and keyword arguments. A class, because it is the same object after pickling."""


def hashkey(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """A key of the arguments: calls with equal arguments share it.

    >>> hashkey(1, 2) == hashkey(1.0, 2)
    True
    """
    return (*args, _Keywords, *sorted(kwargs.items())) if kwargs else args


def methodkey(self: Any, /, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """A key of the arguments of a method, without the object."""
    return hashkey(*args, **kwargs)


def typedkey(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """A key of the arguments and their types: ``1`` and ``1.0`` are different calls.

    >>> typedkey(1, 2) == typedkey(1.0, 2)
    False
    """
    types = [type(value) for value in args]
    types += [type(kwargs[name]) for name in sorted(kwargs)]
    return (*hashkey(*args, **kwargs), *types)


def typedmethodkey(self: Any, /, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """A key of the arguments of a method and their types, without the object."""
    return typedkey(*args, **kwargs)
