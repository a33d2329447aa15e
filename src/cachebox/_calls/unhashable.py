"""Error texts for arguments that cannot be hashed."""

from __future__ import annotations

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from cachebox._calls.key_arguments import KeyArguments

_INSTEAD = {"list": "a tuple", "set": "a frozenset", "bytearray": "bytes", "dict": "a tuple of its items"}


def explained(
    function: Any,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    error: Exception,
    is_method: bool,
    chosen: KeyArguments | None,
) -> TypeError | None:
    """The TypeError for a call whose key cannot be made; it names the argument. None: all arguments can be hashed.

    `is_method`: the first one is the receiver. `chosen`: the arguments that belong to the key.
    """
    ignored = chosen.ignored_names if chosen is not None else ()
    for name, value in named(function, args, kwargs)[is_method:]:
        if name.lstrip("*") not in ignored and not _is_hashable(value):
            return TypeError(refusal(function, name, value, str(error), _INSTEAD.get(type(value).__name__)))
    if chosen is not None and chosen.vary:
        shown = getattr(function, "__qualname__", repr(function))
        return TypeError(f"{shown}() varies by something that cannot be part of a key: {error}")
    return None


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def refusal(function: Any, name: str, value: Any, error: str, instead: str | None = None) -> str:
    """The text for an argument that cannot be part of a key, with the three ways out."""
    shown = getattr(function, "__qualname__", repr(function))
    parameter = name.lstrip("*")
    return (
        f"{shown}() cannot be cached by its argument {name}, of type {type(value).__name__}: {error}. Either give "
        f"cached a key_func (cachebox.keys has some), or ignore=({parameter!r},) if it makes no difference, or pass "
        f"{instead or 'something hashable'} instead"
    )


def named(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
    """The arguments of a call, with the names of their parameters."""
    from inspect import Parameter, signature

    names: list[str] = []
    rest = "*args"
    try:
        for parameter in signature(function).parameters.values():
            if parameter.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD):
                names.append(parameter.name)
            elif parameter.kind is Parameter.VAR_POSITIONAL:
                rest = f"*{parameter.name}"
    except (TypeError, ValueError):
        names = [f"number {k + 1}" for k in range(len(args))]
    names += [rest] * (len(args) - len(names))
    return [*zip(names, args, strict=False), *kwargs.items()]
