"""The result of `Cache.entry`."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Entry(NamedTuple, Generic[K, V]):
    """The state of one key's entry, at one instant."""

    key: K
    value: V
    ttl: float | None
    weight: float
    tags: tuple[Any, ...]


for _name, _text in {
    "key": "The stored key, which equals the one that was asked for.",
    "value": "The value.",
    "ttl": "Seconds to its deadline; None: it never expires.",
    "weight": "Its weight by the weigher, or in bytes under `max_bytes`; else 1.",
    "tags": "The tags that it was set with, in their order.",
}.items():
    getattr(Entry, _name).__doc__ = _text
