"""Exceptions that several callers raise: those of a load with waiters, and those of remembered failures.

Raising writes into an exception: each frame that it leaves is added to its traceback. With the GIL one thread does that
at a time. Without it, two threads that raise the same object at the same moment may corrupt memory, because CPython
3.13 and code compiled by Cython replace a traceback without a lock. So there every caller raises a copy.

A copy is made without the class's `__init__`, which may take other arguments than `args` and do more than set
attributes.
"""

from __future__ import annotations

import sys
from types import MemberDescriptorType

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from typing import Any, TypeVar

    _Raised = TypeVar("_Raised", bound=BaseException)

HAS_GIL = bool(getattr(sys, "_is_gil_enabled", lambda: True)())
HEAP_TYPE = 1 << 9                  # a flag of types that Python code defined
UNSET = object()


def raisable(error: _Raised) -> _Raised:
    """The exception that one more caller may raise for `error`. Raises what `copy_exception` raises."""
    return error if HAS_GIL else copy_exception(error)


def copy_exception(error: _Raised) -> _Raised:
    """A copy of an exception, without its traceback. Raises TypeError, or what its class's `__new__` raises."""
    copy = rebuild_exception(type(error), *reduce_exception(error))
    copy.__cause__, copy.__context__ = error.__cause__, error.__context__
    copy.__suppress_context__ = error.__suppress_context__
    return copy


def reduce_exception(error: BaseException) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that its class makes it of, and its attributes without traceback, cause and context."""
    kind = type(error)
    args: Any = _built_in(kind).__reduce__(error)[1]    # of OSError these include what it takes out of its `args`
    plain = rebuild_exception(kind, args, {})           # to see which attributes the arguments set
    attributes = {}
    for base in kind.__mro__:   # attributes that are not in `__dict__`: `__slots__`, ImportError.name
        for name, member in base.__dict__.items():
            if isinstance(member, MemberDescriptorType) and name != "__suppress_context__":
                value = getattr(error, name, UNSET)
                if value is not UNSET and value is not getattr(plain, name, UNSET):
                    attributes[name] = value
    return args, attributes | error.__dict__


def rebuild_exception(kind: type[_Raised], args: tuple[Any, ...], attributes: dict[str, Any]) -> _Raised:
    """Make an exception of class `kind` without calling its `__init__`."""
    built_in = _built_in(kind)
    error = kind.__new__(kind, *args)
    if type(error) is not kind:
        raise TypeError(f"{kind.__name__}.__new__ made a {type(error).__name__}")
    built_in.__init__(error, *args)
    for name, value in attributes.items():
        if isinstance(getattr(kind, name, None), MemberDescriptorType):
            try:
                setattr(error, name, value)
            except AttributeError:                      # read-only: `__new__` has set it
                pass
        else:
            error.__dict__[name] = value
    return error


def _built_in(kind: type[BaseException]) -> type[BaseException]:
    """The first class in its hierarchy that the interpreter itself defines."""
    return next(base for base in kind.__mro__ if not base.__flags__ & HEAP_TYPE)
