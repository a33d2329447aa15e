"""Exceptions that several callers get: of a load that others waited for, of a failure that is remembered.

Raising writes into an exception: each frame that it leaves adds to its traceback. With the GIL one thread does that at
a time. Without it, two threads that raise the same object at the same moment may corrupt memory (CPython 3.13 replaces
a traceback without a lock, and so does code that Cython compiled), so there every caller gets a copy.

A copy is made without the class's `__init__`, which need not take what is in `args`, and may do more than set
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
HEAP_TYPE = 1 << 9                  # a flag of types that Python code made
UNSET = object()


def raisable(error: _Raised) -> _Raised:
    """What one more caller may raise where `error` was raised. Raises what `copied` does."""
    return error if HAS_GIL else copy_exception(error)


def copy_exception(error: _Raised) -> _Raised:
    """An exception like this one, without its traceback; raises TypeError or what its class's `__new__` raises."""
    copy = rebuild_exception(type(error), *reduce_exception(error))
    copy.__cause__, copy.__context__ = error.__cause__, error.__context__
    copy.__suppress_context__ = error.__suppress_context__
    return copy


def reduce_exception(error: BaseException) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What its class makes it of, and its attributes: all but the traceback, the cause and the context."""
    kind = type(error)
    args: Any = _built_in(kind).__reduce__(error)[1]    # with what OSError takes out of its `args`
    plain = rebuild_exception(kind, args, {})           # to see which attributes these bring
    attributes = {}
    for base in kind.__mro__:                           # what is not in `__dict__`: `__slots__`, ImportError.name
        for name, member in base.__dict__.items():
            if isinstance(member, MemberDescriptorType) and name != "__suppress_context__":
                value = getattr(error, name, UNSET)
                if value is not UNSET and value is not getattr(plain, name, UNSET):
                    attributes[name] = value
    return args, attributes | error.__dict__


def rebuild_exception(kind: type[_Raised], args: tuple[Any, ...], attributes: dict[str, Any]) -> _Raised:
    """An exception of a class, without its `__init__`."""
    built_in = _built_in(kind)
    error = kind.__new__(kind, *args)
    if type(error) is not kind:
        raise TypeError(f"{kind.__name__}.__new__ made a {type(error).__name__}")
    built_in.__init__(error, *args)
    for name, value in attributes.items():
        if isinstance(getattr(kind, name, None), MemberDescriptorType):
            try:
                setattr(error, name, value)
            except AttributeError:                      # one that cannot be set: `__new__` has
                pass
        else:
            error.__dict__[name] = value
    return error


def _built_in(kind: type[BaseException]) -> type[BaseException]:
    """The class of the interpreter that it is derived from."""
    return next(base for base in kind.__mro__ if not base.__flags__ & HEAP_TYPE)
