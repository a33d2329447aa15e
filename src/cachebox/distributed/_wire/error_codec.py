"""Exceptions on their way to other processes: a leader's error, for its waiters.

A failure is an envelope like a value's (`codec`), with the leader's token instead of the generation. It is kept for a
few seconds under that token. So only callers that know the leader they waited for find it, and nothing is cached.

An exception travels if its class can be found by name and its contents can be encoded. No code comes with it: the other
process must have loaded the class, and rebuilds the exception without calling its `__init__`. If any of that fails, the
waiter finds nothing, and the next caller loads.
"""

from __future__ import annotations

import sys
from typing import Any

from cachebox._platform.exceptions import rebuild_exception, reduce_exception
from cachebox.distributed._wire.codec import Codec

KEPT_MS = 10_000                    # twice as long as a lease: a waiter asks within that time


def encode(codec: Codec, key: str, token: bytes, error: Exception) -> tuple[bytes, bytes] | None:
    """The envelope's parts before and after the token; None if the exception cannot travel."""
    kind = type(error)
    if _find(kind.__module__, kind.__qualname__) is not kind:
        return None
    try:
        args, attributes = reduce_exception(error)
        return codec.encode(_name(key, token), [kind.__module__, kind.__qualname__, list(args), attributes], ())
    except Exception:               # TypeError from the codec, or anything from the class: it does not travel
        return None


def decode(codec: Codec, key: str, token: bytes, data: bytes) -> Exception | None:
    """The exception; None if it did not arrive."""
    try:
        module, qualname, args, attributes = codec.decode(_name(key, token), data)
        kind = _find(module, qualname)
        return None if kind is None else rebuild_exception(kind, tuple(args), attributes)
    except Exception:               # Undecodable, or anything from a class that differs here
        return None


def _name(key: str, token: bytes) -> str:
    """The name that a signature is bound to."""
    return f"{token.hex()} failed to compute {key}"


def _find(module: Any, qualname: Any) -> type[Exception] | None:
    """A class of exceptions that has been loaded; None if no loaded class has that name."""
    found: Any = sys.modules.get(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None
