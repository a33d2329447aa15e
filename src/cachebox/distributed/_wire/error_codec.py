"""Exceptions on their way to other processes: how a computation failed, for those who waited for it.

A failure is an envelope like a value's (`codec`), with the leader's token where the generation would be. It is kept for
a few seconds under that token: so only those who know whom they waited for find it, and nothing is cached.

An exception travels if its class can be found by name and what is in it can be encoded. No code comes with it: the
other process must have loaded the class, and puts the exception together without its `__init__`. Where any of that does
not hold nothing is found, and the next one computes.
"""

from __future__ import annotations

import sys
from typing import Any

from cachebox._platform.exceptions import rebuild_exception, reduce_exception
from cachebox.distributed._wire.codec import Codec

KEPT_MS = 10_000                    # twice what a lease lasts: who waited asks within that


def encode(codec: Codec, key: str, token: bytes, error: Exception) -> tuple[bytes, bytes] | None:
    """What goes before the token, and what goes behind it; None: it cannot travel."""
    kind = type(error)
    if _find(kind.__module__, kind.__qualname__) is not kind:
        return None
    try:
        args, attributes = reduce_exception(error)
        return codec.encode(_name(key, token), [kind.__module__, kind.__qualname__, list(args), attributes], ())
    except Exception:               # TypeError from the codec, or anything from the class: it stays here
        return None


def decode(codec: Codec, key: str, token: bytes, data: bytes) -> Exception | None:
    """The exception; None: it did not arrive."""
    try:
        module, qualname, args, attributes = codec.decode(_name(key, token), data)
        kind = _find(module, qualname)
        return None if kind is None else rebuild_exception(kind, tuple(args), attributes)
    except Exception:               # Undecodable, or anything from a class that is another here
        return None


def _name(key: str, token: bytes) -> str:
    """What a signature is bound to."""
    return f"{token.hex()} failed to compute {key}"


def _find(module: Any, qualname: Any) -> type[Exception] | None:
    """A class of exceptions that has been loaded; None: there is none of that name."""
    found: Any = sys.modules.get(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None
