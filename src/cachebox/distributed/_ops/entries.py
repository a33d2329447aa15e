"""Entries: values as the server has them, their lifetimes, and what the first tier keeps of them."""

from __future__ import annotations

import logging
import math
from random import SystemRandom
from typing import Any

from cachebox.cache import MISSING
from cachebox.distributed._near.near_cache import Fill
from cachebox.distributed._ops.asking import Asking
from cachebox.distributed._wire.codec import KEPT, Undecodable
from cachebox.distributed._wire.replies import NONE, ROW
from cachebox.distributed._wire.typed import Schema
from cachebox.distributed.options import LONGEST, checked_key, checked_tags, milliseconds, seconds_of

ATOMS = (str, int, float, bool, bytes, type(None))
MOST_REPORTED = 1000                # functions with unstorable results that are remembered, so that each is logged once

log = logging.getLogger("cachebox")
_dice = SystemRandom()              # see `delivery`


class Packed:
    """A value in a first tier that isolates: every hit decodes it again."""

    __slots__ = ("kind", "payload", "schema")

    def __init__(self, kind: bytes, payload: bytes, schema: Schema | None) -> None:
        self.kind = kind
        self.payload = payload
        self.schema = schema


class Entries(Asking):
    """Reads and makes entries."""

    lifetime: float                     # seconds that an entry lives by default
    max_staleness: float
    isolate: bool
    jitter: float
    kept: int                           # milliseconds for which entries are kept after their deadline
    _reported: set[str]                 # functions whose unstorable results were logged

    # --- as they are read ---------------------------------------------------------------------------------------------

    def give(self, stored: Any) -> Any:
        """The value of a hit in the first tier; MISSING if it cannot be decoded."""
        if type(stored) is not Packed:
            return stored
        try:
            return self.codec.loads(stored.kind, stored.payload, stored.schema)
        except Undecodable:
            return MISSING

    def read(
        self, fill: Fill, data: bytes, pttl: float, schema: Schema | None = None
    ) -> tuple[Any, tuple[Fill, Any, float, tuple[str, ...]]]:
        """The value of an entry from the server, and the row to store it in the first tier. Raises `Undecodable`."""
        kind, payload, tags = self.codec.open(fill.key, data)
        value = self.codec.loads(kind, payload, schema)
        stored = Packed(kind, payload, schema) if self.isolate and type(value) not in ATOMS else value
        lifetime = math.inf if pttl < 0 else (pttl - (self.codec.kept(data) if data[4] & KEPT else 0)) / 1000
        if self.tracking is None and not self.topology.is_exact:
            lifetime = min(lifetime, self.max_staleness)
        return value, (fill, stored, lifetime, tags)

    def take_in(self, fill: Fill, data: bytes, pttl: float, schema: Schema | None = None) -> Any:
        """The value of an entry from the server, stored in the first tier if it may be. Raises `Undecodable`."""
        value, row = self.read(fill, data, pttl, schema)
        self.tier.store(*row)
        return value

    def entry_in(self, key: str, reply: bytes) -> tuple[Any] | None:
        """The value in READ's answer about one key, in a tuple; None if there is none, or it cannot be decoded."""
        size, _ = ROW.unpack_from(reply)
        if size != NONE:
            try:
                return (self.codec.decode(key, reply[ROW.size:]),)
            except Undecodable:
                pass
        return None

    def has_ended(self, data: bytes, pttl: float) -> bool:
        """Whether an entry is stale: kept only to be served while a newer value is computed."""
        return len(data) > 4 and data[4] & KEPT != 0 and 0 <= pttl <= self.codec.kept(data)

    # --- as they are written ------------------------------------------------------------------------------------------

    def lifetime_of(self, ttl: Any) -> float:
        """A user's ttl in seconds, or the default."""
        return self.lifetime if ttl is None else seconds_of(ttl, "ttl")

    def jittered(self, lifetime: float) -> float:
        """A lifetime, shortened at random if the cache has a jitter."""
        return lifetime * (1.0 - self.jitter * _dice.random()) if self.jitter else lifetime

    def expiry(self, lifetime: float, kept: int) -> bytes:
        """The milliseconds for which the server stores an entry, as the scripts take them."""
        px = milliseconds(self.jittered(lifetime))
        return b"%d" % (int(px) + kept) if kept and px else px

    def kept_of(self, lifetime: float, kept: int | None = None) -> int:
        """The milliseconds for which an entry with this lifetime is kept after its deadline. `kept` overrides the
        cache's."""
        return (self.kept if kept is None else kept) if lifetime <= LONGEST else 0

    def encode_result(
        self, key: str, value: Any, tags: tuple[str, ...], name: str, schema: Schema | None, kept: int
    ) -> tuple[bytes, bytes] | None:
        """A function's result, encoded; None if it cannot be.

        An unstorable result is counted, and logged once per function.
        """
        try:
            return self.codec.encode(key, value, tags, schema, kept)
        except TypeError:
            self.tier.count(unstorable=1)
            if name not in self._reported and len(self._reported) < MOST_REPORTED:
                self._reported.add(name)
                kind = type(value).__name__
                text = "%s returned a value of type %s, which this serializer cannot store: it is not cached"
                log.warning(text, name, kind)
            return None

    def check_entry(self, key: Any, value: Any, ttl: Any, tags: Any) -> None:
        """Raise what `set` would raise for these arguments, without asking the server."""
        self.check_open()
        self.codec.encode(checked_key(key), value, checked_tags(tags))
        if ttl is not None:
            seconds_of(ttl, "ttl")
