"""What `Cache.entry` tells of a key."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Entry(NamedTuple, Generic[K, V]):
    """What a cache knows of one key, at one instant."""

    key: K
    """The key that is stored, which is equal to the one that was asked for."""
    value: V
    ttl: float | None
    """Seconds that it has left to live, whichever of its ends is nearer; None: for ever."""
    weight: float
    """What the weigher said, or the bytes under `max_bytes`; else 1."""
    tags: tuple[Any, ...]
