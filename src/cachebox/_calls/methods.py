"""Whether a cached function is a method of its first argument, whatever decorators are between it and the class.

If another decorator hides a cached function in a class, it is called as a plain function, with the receiver in front.
So the class is searched. Each of its attributes that can bind (has ``__get__``) and is no static method is followed to
what it refers to: through ``__wrapped__``, closures, defaults and attributes of functions, properties, partial objects,
and objects of decorators written as classes. If that leads to the cached function, it is a method.

Names are ignored, except in two cases. A function written in the body of the class is no decorator's, so its closure
says nothing about what it wraps. A cached function written there is a method, unless a static method leads to it.

The search cannot find a function that was put into the class later and that its decorator keeps outside the class, for
example in a global table.
"""

from __future__ import annotations

import gc
import sys
from types import CodeType, FrameType, FunctionType, MethodType, ModuleType

from cachebox.cache import Cache

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeVar

    _Method = TypeVar("_Method", bound=Callable[..., Any])

HEAP_TYPE = 1 << 9                  # a flag of types that Python code made
BINDS = sys.version_info < (3, 13)      # whether `classmethod` binds what it wraps
LIMIT = 200                         # the most objects to look at behind one attribute
ATOMS: tuple[type, ...] = (str, bytes, int, float, bool, type(None), CodeType, FrameType, ModuleType, Cache)

_names_of = type.__dict__["__dict__"].__get__       # unaffected by metaclasses
_bases_of = type.__dict__["__mro__"].__get__


def is_method_of(wrapper: Any, first: object) -> bool:
    """Whether a cached function, called with `first` as first argument, is a method of it. O(size of its class)."""
    static = False
    instance_of = _bases_of(type(first))
    if issubclass(type(first), type):
        for cls in _heap_types(_bases_of(first)):
            for attribute in list(_names_of(cls).values()):
                if isinstance(attribute, classmethod) and leads_to(attribute.__func__, wrapper, cls):
                    return True
                static = static or (isinstance(attribute, staticmethod) and leads_to(attribute.__func__, wrapper, cls))
    for cls in _heap_types(instance_of):
        for attribute in list(_names_of(cls).values()):
            if attribute is wrapper:
                return True
            if isinstance(attribute, staticmethod):
                static = static or leads_to(attribute.__func__, wrapper, cls)
            elif not isinstance(attribute, (classmethod, type)) and hasattr(type(attribute), "__get__"):
                if leads_to(attribute, wrapper, cls):
                    return True
    if static:
        return False
    written = getattr(innermost(wrapper), "__qualname__", None)
    scope = written.rpartition(".")[0] if isinstance(written, str) else ""
    module = getattr(wrapper, "__module__", None)
    classes = instance_of if not issubclass(type(first), type) else (*_bases_of(first), *instance_of)
    return scope != "" and any(
        cls.__qualname__ == scope and cls.__module__ == module for cls in _heap_types(classes)
    )


def innermost(function: Any) -> Any:
    """The function at the end of a chain of ``__wrapped__``, and of static and class methods."""
    for _ in range(LIMIT):
        inner = getattr(function, "__func__", None) if isinstance(function, (staticmethod, classmethod)) else None
        inner = inner or getattr(function, "__wrapped__", None)
        if inner is None:
            break
        function = inner
    return function


def wraps_static_method(function: Any) -> bool:
    """Whether there is a static method in the chain of ``__wrapped__``."""
    for _ in range(LIMIT):
        if function is None or isinstance(function, staticmethod):
            break
        function = getattr(function, "__wrapped__", None)
    return function is not None


# --- class methods of CPython 3.13 and later --------------------------------------------------------------------------
#
# There `classmethod` does not let what it wraps bind. `Class.method` is the interpreter's own bound method, and
# `Class.method.peek` is read from the wrapper, which does not learn the class. So before such a control is used, a
# wrapper that may be in a class method asks the collector for the bound methods that refer to it.


class CachedClassMethod(classmethod):  # type: ignore[type-arg]
    """A class method whose controls (`invalidate` and the like) know the class, as its calls do."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self.__func__.__get__(type(instance) if owner is None else owner, type)


def control(method: _Method) -> _Method:
    """Mark a method of a wrapper class that works on one call, so that it knows the class of a class method."""
    return method if BINDS else _Control(method)  # type: ignore[return-value]


class _Control:
    """Such a method, if `classmethod` does not let what it wraps bind."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, wrapper: Any, owner: type | None = None) -> Any:
        if wrapper is None:
            return self._method
        bound = bound_by_class(wrapper) if wrapper._may_be_class_method else None
        return MethodType(self._method, wrapper) if bound is None else getattr(bound, self._method.__name__)


def may_be_class_method(function: Any) -> bool:
    """Whether a function is written in a class, so that a class method may wrap it without letting it bind."""
    written = getattr(innermost(function), "__qualname__", None)
    scope = written.rpartition(".")[0] if isinstance(written, str) else ""
    return not BINDS and scope != "" and not scope.endswith("<locals>")


def bound_by_class(wrapper: Any) -> Any:
    """The wrapper bound to the class from which its class method was read; None: it was not read from one.

    Raises RuntimeError if it was read from several classes and those methods were kept. O(objects of the collector).
    """
    referrers = gc.get_referrers(wrapper)
    asked = {
        id(found.__self__): found.__self__
        for found in referrers
        if type(found) is MethodType and found.__func__ is wrapper and isinstance(found.__self__, type)
    }
    classes = [cls for cls in asked.values() if look_for_class_method(wrapper, cls)]
    if len(classes) > 1:
        raise RuntimeError(
            f"{getattr(wrapper, '__qualname__', wrapper)} was read from several classes before it was called: "
            "read it again from the class that is meant"
        )
    if not classes:
        is_known = gc.get_freeze_count() == 0 and not _is_being_written(wrapper)
        if is_known and not any(isinstance(found, classmethod) for found in referrers):
            wrapper._may_be_class_method = False
        return None
    return wrapper.__get__(classes[0], type)


def look_for_class_method(wrapper: Any, cls: type) -> bool:
    """Whether a class has a class method around a wrapper. If so, makes it bind the wrapper from now on."""
    is_one = False
    for owner in _bases_of(cls):
        for name, attribute in list(_names_of(owner).items()):
            if isinstance(attribute, classmethod) and attribute.__func__ is wrapper:
                is_one = True
                if type(attribute) is classmethod:
                    type.__setattr__(owner, name, CachedClassMethod(wrapper))   # bypasses the metaclass
    return is_one


def _is_being_written(wrapper: Any) -> bool:
    """Whether the body of its class still runs in this thread."""
    scope = innermost(wrapper).__qualname__.rpartition(".")[0]
    frame: FrameType | None = sys._getframe()
    while frame is not None and getattr(frame.f_code, "co_qualname", "") != scope:
        frame = frame.f_back
    return frame is not None


def leads_to(start: object, wanted: object, cls: type) -> bool:
    """Whether an attribute of a class wraps a cached function, in few steps."""
    found = [start]
    seen = {id(start)}
    for at in found:
        if at is wanted:
            return True
        for part in () if _is_written_in(at, cls) else _parts(at):
            if id(part) not in seen and not isinstance(part, type) and type(part) not in ATOMS:
                seen.add(id(part))
                found.append(part)
        if len(found) > LIMIT:
            return any(part is wanted for part in found)
    return False


def _parts(at: Any) -> Iterator[object]:
    """The objects that an object may wrap."""
    if type(at) is FunctionType:
        yield from vars(at).values()
        for cell in at.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:                  # a variable without a value yet
                pass
        yield from at.__defaults__ or ()
        yield from (at.__kwdefaults__ or {}).values()
    elif type(at).__module__ == "functools" and type(at).__name__ == "_lru_cache_wrapper":
        yield at.__wrapped__                    # else its entries come first
    elif type(at).__module__ == "cachebox._calls.cached_function":
        yield getattr(at, "__wrapped__", None)
    else:
        yield from gc.get_referents(at)


def _heap_types(types: tuple[type, ...]) -> list[type]:
    return [cls for cls in types if cls.__flags__ & HEAP_TYPE]


def _is_written_in(thing: Any, cls: type) -> bool:
    """Whether a thing is a function written in the body of the class, and so no decorator's."""
    if type(thing) is not FunctionType:
        return False
    written: str = thing.__code__.co_qualname
    return written.rpartition(".")[0] == cls.__qualname__


def is_lasting(instance: object) -> bool:
    """Whether an object is a member of an enumeration, which lives as long as its class."""
    enum = sys.modules.get("enum")
    return enum is not None and isinstance(type(instance), enum.EnumMeta)
