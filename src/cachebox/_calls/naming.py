"""The names that identify cached functions, in this process and in others.

The name of a function is the one it was given, or else its module and qualified name. The simple values among its free
variables and defaults, which a factory may have put there, and its version are added. Types distinguish values: ``1``,
``1.0`` and ``True`` are three. So functions that a factory makes for two tenants have two names, the same in every
process.

In one process, functions of one name get serial numbers, which no other process knows (`LocalNames`). Over a cache that
processes share, a definition that is run again takes over what the former one left, and other functions of its name are
refused (`SharedNames`).
"""

from __future__ import annotations

import enum
import gc
import hashlib
import os
import sys
import weakref
from functools import partial
from types import CodeType, FrameType, FunctionType, MethodType

from cachebox._calls.methods import innermost
from cachebox._platform.section import Section

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

LONGEST = 200                       # characters of values in a name; longer values are hashed
REMEMBERED = 10_000                 # names with values whose functions have ended
_CO_OPTIMIZED = 0x1                 # as in inspect, which is slow to import
MOST = 50                           # functions among free variables whose own free variables are used

_process = [""]                     # identifies this process


class Claim:
    """A function's claim to a name. It lives as long as the function."""

    __slots__ = ("__weakref__", "identity", "name")

    def __init__(self, identity: Identity, name: str) -> None:
        self.identity = identity
        self.name = name


class Identity:
    """What identifies a function, without regard to other functions.

    Args:
        function: any callable.
        name: the name that the user gave it, a str that is not empty; None: its name in the source.
        version: a simple value; ``"code"``: a fingerprint of its code; None: nothing.
        is_being_defined: whether it is just being defined; else it is not known which code defines it.

    Raises TypeError or ValueError if `name` or `version` makes no sense.
    """

    def __init__(
        self, function: Any, name: str | None = None, version: Any = None, is_being_defined: bool = True
    ) -> None:
        checked_name(name)
        values = dict(_values_of(function))
        module = module_of(_named(function))
        qualname = _qualname_of(_named(function))
        self.given = name
        self.function_name = f"{module}.{qualname}"
        self.is_anonymous = name is None and module == "__main__"
        self.is_simple = all(text is not None for text in values.values())
        self.is_at_module_level = "<" not in qualname
        code = _code_of(function)
        self.place = _place_of(code) if code is not None else None
        self.code = fingerprint(function) if code is not None else None
        self._run = _run_of(function) if is_being_defined else None
        self.name = name if name is not None else self.function_name + _written_values(values)
        if version is not None:
            if version == "code" and type(version) is str:
                if self.code is None:
                    raise TypeError(f'version="code" needs a function written in Python, not {_kind(function)}')
                version = self.code
            else:
                text = simple(version)
                if text is None:
                    raise TypeError(
                        f"version must be a str, a number or another simple value, not {_kind(version)}; "
                        '"code" takes a fingerprint of the function'
                    )
                version = version if type(version) is str else text
            self.name += f"@{version}"

    def is_run_again(self, older: Identity) -> bool:
        """Whether it is the definition of an older one, run again, edited or not."""
        run = self._run() if self._run is not None else None
        return (
            self.is_at_module_level
            and self.function_name == older.function_name
            and run is not None
            and (older._run is None or older._run() is not run)
        )

    def may_take_over(self, older: Identity) -> bool:
        """Whether it may use what a living function of its name has stored."""
        if self.is_run_again(older):
            return True
        return self.given is None and self.is_simple and self.place is not None and self.place == older.place


class LocalNames:
    """The names of functions over caches of this process. No two functions have one name."""

    def __init__(self) -> None:
        self._lock = Section()
        self._used: set[str] = set()                        # names without values, whose number the source limits
        self._valued: dict[str, None] = {}                  # the latest names with values, whose number has no limit
        self._claims: weakref.WeakValueDictionary[str, Claim] = weakref.WeakValueDictionary()
        self._given: weakref.WeakValueDictionary[tuple[int, str], Claim] = weakref.WeakValueDictionary()
        self._serial = 1

    def claim(self, identity: Identity, cache: Any) -> Claim:
        """A name for a function over a cache. Raises ValueError if another living function was given the same name."""
        if identity.given is not None:
            older = _living(self._given, (id(cache), identity.given), identity.is_run_again)
            if older is not None:
                raise ValueError(
                    f"name={identity.given!r} is the name of {older.identity.function_name} already, over the same "
                    "cache: "
                    "give each function a name of its own"
                )
            claim = Claim(identity, identity.name)
            with self._lock:
                self._given[id(cache), identity.given] = claim
            return claim
        with self._lock:
            candidates = [identity.name, f"{identity.name}~{identity.code}"]
            if not identity.is_simple and not identity.is_at_module_level:
                candidates = []                             # nothing distinguishes it from the others of its factory
            for name in candidates:
                if name not in self._used and name not in self._valued and name not in self._claims:
                    break
            else:
                self._serial += 1
                name = f"{identity.name}#{_this_process()}{self._serial}"
            claim = Claim(identity, name)
            self._claims[name] = claim
            if identity.name == identity.function_name and name in candidates:
                self._used.add(name)
            elif name in candidates:
                self._valued[name] = None
                if len(self._valued) > REMEMBERED:
                    del self._valued[next(iter(self._valued))]
            return claim


class SharedNames:
    """The names of functions over one cache that processes share."""

    def __init__(self) -> None:
        self._lock = Section()
        self._claims: weakref.WeakValueDictionary[str, Claim] = weakref.WeakValueDictionary()

    def claim(self, identity: Identity) -> Claim:
        """The name of a function. Raises ValueError if another living function has it."""
        key = identity.name if identity.given is None else identity.given
        older = _living(self._claims, key, identity.may_take_over)
        if older is not None:
            if identity.given is not None:
                raise ValueError(
                    f"name={identity.given!r} is the name of {older.identity.function_name} already, over the same "
                    "cache: "
                    "give each function a name of its own"
                )
            raise ValueError(
                f"another function over this cache is called {identity.name} too, and nothing that is the same in "
                "every process tells them apart: give each a name=, such as name='prices-eu'"
            )
        claim = Claim(identity, identity.name)
        with self._lock:
            self._claims[key] = claim
        return claim


def _living(claims: Any, key: Any, may_have_it: Any) -> Claim | None:
    """The claim that prevents another one, or None."""
    for attempt in range(2):
        older: Claim | None = claims.get(key)
        if older is None or may_have_it(older.identity):
            return None
        if attempt == 0:
            del older
            gc.collect()                        # the function may be garbage in a cycle
    return older


def checked_name(name: Any) -> None:
    """Raise TypeError or ValueError if `name` cannot be the name of a function."""
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name must be a str or None, not {_kind(name)}")
    if name == "":
        raise ValueError("name must not be empty")


# --- values -----------------------------------------------------------------------------------------------------------


def simple(value: Any) -> str | None:
    """A simple value as text that shows its type; None: it is not simple.

    >>> simple(1), simple(True), simple(("a", 1.0)), simple([])
    ('1', 'True', "('a',1.0)", None)
    """
    kind = type(value)
    if value is None or kind in (str, bytes, int, float, bool):
        return repr(value)
    if kind is tuple:
        parts = [simple(item) for item in value]
        return None if None in parts else f"({','.join(part for part in parts if part is not None)})"
    if isinstance(value, enum.Enum):
        return f"{kind.__module__}.{kind.__qualname__}.{value._name_ or value._value_!r}"
    return None


def _values_of(function: Any) -> list[tuple[str, str | None]]:
    """Names and texts of a function's free variables and defaults; None for a value without text.

    Those of functions among them count as well, and those of the function that a decorator wraps, because they may have
    the values that matter.
    """
    found: list[tuple[str, str | None]] = []
    ahead = [("", function)]
    seen: set[int] = set()
    for prefix, at in ahead:
        if id(at) in seen:
            continue
        seen.add(id(at))
        if len(seen) > MOST:
            found.append(("...", None))
            break
        wrapped = getattr(at, "__wrapped__", None)
        for name, value in _held_by(at):
            if value is wrapped and value is not None:
                continue                        # the loop comes to the wrapped function by itself
            text = simple(value)
            if text is None and isinstance(value, type) and _is_importable(value):
                found.append((f"{prefix}{name}:", f"{value.__module__}.{value.__qualname__}"))
            elif text is None and isinstance(value, FunctionType):
                ahead.append((f"{prefix}{name}.", value))
            found.append((prefix + name, text))
        inner = at.func if isinstance(at, partial) else at.__func__ if isinstance(at, MethodType) else wrapped
        if inner is not None:
            ahead.append((f"{prefix}^", inner))
    return found


def _held_by(at: Any) -> Iterator[tuple[str, Any]]:
    """The values that a callable holds in addition to its code."""
    if isinstance(at, FunctionType):
        code = at.__code__
        for name, cell in zip(code.co_freevars, at.__closure__ or (), strict=True):
            try:
                yield name, cell.cell_contents
            except ValueError:                  # no value yet: the function itself, its class, or unknown
                if name not in (at.__name__, "__class__"):
                    yield name, cell
        defaults = at.__defaults__ or ()
        yield from zip(code.co_varnames[code.co_argcount - len(defaults):code.co_argcount], defaults, strict=True)
        yield from (at.__kwdefaults__ or {}).items()
    elif isinstance(at, partial):
        yield from ((str(k), value) for k, value in enumerate(at.args))
        yield from at.keywords.items()
    elif isinstance(at, MethodType):
        yield "__self__", at.__self__
    elif _code_of(at) is not None:
        yield "__self__", at                    # a callable object, which may hold anything


def _written_values(values: dict[str, str | None]) -> str:
    known = [f"{name}={text}" for name, text in values.items() if text is not None]
    written = ",".join(known)
    if len(written) > LONGEST:
        written = hashlib.sha256(written.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{{{written}}}" if known else ""


def _is_importable(kind: type) -> bool:
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind


def _kind(thing: object) -> str:
    return type(thing).__name__


# --- where it is ------------------------------------------------------------------------------------------------------


def _qualname_of(function: Any) -> str:
    found = getattr(function, "__qualname__", None)
    return found if isinstance(found, str) else type(function).__qualname__


def module_of(function: Any) -> str:
    """The name of a module that is the same in every process; "__main__" if there is none.

    The program's main module is named by its spec, or else by its path.
    """
    module = getattr(function, "__module__", None)
    if module not in ("__main__", "__mp_main__"):
        return str(module)
    names = getattr(function, "__globals__", None) or vars(sys.modules.get(module, sys))
    spec = getattr(names.get("__spec__"), "name", None)
    if spec:
        return str(spec)
    path = names.get("__file__")
    if isinstance(path, str) and not path.startswith("<"):      # the name of standard input
        digest = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()
        return f"__main__[{digest[:16]}]"
    return "__main__"


def _named(function: Any) -> Any:
    """The function that has the name: a partial object has none."""
    while isinstance(function, partial):
        function = function.func
    return function


def _code_of(function: Any) -> CodeType | None:
    """The code of a function, or of the `__call__` of another callable."""
    function = innermost(_named(function))
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        code = getattr(getattr(type(function), "__call__", None), "__code__", None)  # noqa: B004
    return code if type(code) is CodeType else None


def _place_of(code: CodeType) -> tuple[Any, ...]:
    return code.co_filename, code.co_firstlineno, tuple(code.co_positions()), code.co_code


def _run_of(function: Any) -> weakref.ref[CodeType] | None:
    """The code of the module or notebook cell that is running and defines the function."""
    names = getattr(innermost(_named(function)), "__globals__", None)
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        # A function's `f_locals` would be a copy, which keeps its variables alive.
        is_module = not frame.f_code.co_flags & _CO_OPTIMIZED
        if is_module and frame.f_globals is names and frame.f_locals is names:
            return weakref.ref(frame.f_code)
        frame = frame.f_back
    return None


def _this_process() -> str:
    if not _process[0]:
        _process[0] = f"{os.urandom(6).hex()}."
    return _process[0]


def _in_child() -> None:
    _process[0] = ""


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


# --- fingerprints -----------------------------------------------------------------------------------------------------


def fingerprint(function: Any) -> str:
    """A digest of a function's code: byte code, constants and names, including those of inner functions.

    It is the same in every process of one Python version. Wrapped functions count, line numbers do not.
    """
    digest = hashlib.sha256()
    for code in _codes_of(function):
        digest.update(_written_code(code).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def _codes_of(function: Any) -> list[CodeType]:
    """The code of a function, of those it wraps, and of the functions among its free variables."""
    found: list[CodeType] = []
    ahead = [function]
    for at in ahead:
        if len(found) > MOST:
            break
        code = at.__code__ if isinstance(at, FunctionType) else _code_of(at)
        if code is not None and code not in found:
            found.append(code)
        ahead += [value for _, value in _held_by(at) if isinstance(value, FunctionType)]
        inner = at.func if isinstance(at, partial) else getattr(at, "__wrapped__", None)
        if inner is not None:
            ahead.append(inner)
    return found


def _written_code(code: CodeType) -> str:
    return repr((
        code.co_code.hex(),
        getattr(code, "co_exceptiontable", b"").hex(),
        code.co_flags,
        (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount),
        (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars),
        [_written_constant(constant) for constant in code.co_consts],
    ))


def _written_constant(constant: Any) -> str:
    if isinstance(constant, CodeType):
        return _written_code(constant)
    if type(constant) is tuple:
        return f"({','.join(map(_written_constant, constant))})"
    if type(constant) is frozenset:             # its order differs between processes
        return f"{{{','.join(sorted(map(_written_constant, constant)))}}}"
    return f"{type(constant).__name__}:{constant!r}"
