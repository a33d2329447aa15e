"""What `Cache.entry` tells of a key."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Entry(NamedTuple, Generic[K, V]):
    """What a cache knows of one key, at one instant."""

    key: K
    value: V
    ttl: float | None
    weight: float
    tags: tuple[Any, ...]


for _name, _text in {
    "key": "The key that is stored, which is equal to the one that was asked for.",
    "value": "The value.",
    "ttl": "Seconds that it has left to live, whichever of its ends is nearer; None: for ever.",
    "weight": "What the weigher said of it, or its bytes under `max_bytes`; else 1.",
    "tags": "The tags that it was set with, in their order.",
}.items():
    getattr(Entry, _name).__doc__ = _text
