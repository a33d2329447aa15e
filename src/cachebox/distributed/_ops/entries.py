"""Entries: values as the server has them, their lifetimes, and what the first tier keeps of them."""

from __future__ import annotations

import logging
import math
from random import random
from typing import Any

from cachebox.cache import MISSING
from cachebox.distributed._near.near_cache import Fill
from cachebox.distributed._ops.asking import Asking
from cachebox.distributed._wire.codec import KEPT, Undecodable
from cachebox.distributed._wire.replies import NONE, ROW
from cachebox.distributed._wire.typed import Schema
from cachebox.distributed.options import LONGEST, checked_key, checked_tags, milliseconds, seconds_of

ATOMS = (str, int, float, bool, bytes, type(None))
MOST_REPORTED = 1000                # functions whose results could not be stored, and of which that was said

log = logging.getLogger("cachebox")


class Packed:
    """A value of a first tier that isolates: decoded anew for every hit."""

    __slots__ = ("kind", "payload", "schema")

    def __init__(self, kind: bytes, payload: bytes, schema: Schema | None) -> None:
        self.kind = kind
        self.payload = payload
        self.schema = schema


class Entries(Asking):
    """Reads and makes entries."""

    lifetime: float                     # seconds that an entry lives unless it is said otherwise
    max_staleness: float
    isolate: bool
    jitter: float
    kept: int                           # milliseconds that entries are kept beyond their end
    _reported: set[str]                 # functions whose results could not be stored

    # --- as they are read -------------------------------------------------------------------------------------------

    def give(self, stored: Any) -> Any:
        """What a hit in the first tier returns; MISSING where it cannot be decoded after all."""
        if type(stored) is not Packed:
            return stored
        try:
            return self.codec.loads(stored.kind, stored.payload, stored.schema)
        except Undecodable:
            return MISSING

    def read(
        self, fill: Fill, data: bytes, pttl: float, schema: Schema | None = None
    ) -> tuple[Any, tuple[Fill, Any, float, tuple[str, ...]]]:
        """The value of an entry that was read, and how it is to be stored here. Raises `Undecodable`."""
        kind, payload, tags = self.codec.open(fill.key, data)
        value = self.codec.loads(kind, payload, schema)
        stored = Packed(kind, payload, schema) if self.isolate and type(value) not in ATOMS else value
        lifetime = math.inf if pttl < 0 else (pttl - (self.codec.kept(data) if data[4] & KEPT else 0)) / 1000
        if self.link is None and not self.topology.is_exact:
            lifetime = min(lifetime, self.max_staleness)
        return value, (fill, stored, lifetime, tags)

    def take_in(self, fill: Fill, data: bytes, pttl: float, schema: Schema | None = None) -> Any:
        """The value of an entry that was read, stored in the first tier if it may be. Raises `Undecodable`."""
        value, row = self.read(fill, data, pttl, schema)
        self.tier.store(*row)
        return value

    def entry_in(self, key: str, reply: bytes) -> tuple[Any] | None:
        """The value in what READ answers about one key; None: there is none, or it cannot be decoded."""
        size, _ = ROW.unpack_from(reply)
        if size != NONE:
            try:
                return (self.codec.decode(key, reply[ROW.size:]),)
            except Undecodable:
                pass
        return None

    def has_ended(self, data: bytes, pttl: float) -> bool:
        """Whether an entry that is there is kept only to be served while a newer value is computed."""
        return len(data) > 4 and data[4] & KEPT != 0 and 0 <= pttl <= self.codec.kept(data)

    # --- as they are written ----------------------------------------------------------------------------------------

    def lifetime_of(self, ttl: Any) -> float:
        """A lifetime that was given for an entry, in seconds."""
        return self.lifetime if ttl is None else seconds_of(ttl, "ttl")

    def jittered(self, lifetime: float) -> float:
        """A lifetime, shortened by chance if that is wanted."""
        return lifetime * (1.0 - self.jitter * random()) if self.jitter else lifetime

    def expiry(self, lifetime: float, kept: int) -> bytes:
        """Milliseconds that the server is to have an entry, as the scripts take them."""
        px = milliseconds(self.jittered(lifetime))
        return b"%d" % (int(px) + kept) if kept and px else px

    def kept_of(self, lifetime: float, kept: int | None = None) -> int:
        """For how many milliseconds an entry of such a lifetime is kept beyond its end, unless `kept` says so."""
        return (self.kept if kept is None else kept) if lifetime <= LONGEST else 0

    def encode_result(
        self, key: str, value: Any, tags: tuple[str, ...], name: str, schema: Schema | None, kept: int
    ) -> tuple[bytes, bytes] | None:
        """What a function has computed, encoded; None: it cannot be, which is counted, and said once per function."""
        try:
            return self.codec.encode(key, value, tags, schema, kept)
        except TypeError:
            self.tier.count(unstorable=1)
            if name not in self._reported and len(self._reported) < MOST_REPORTED:
                self._reported.add(name)
                kind = type(value).__name__
                log.warning("%s returned a %s, which this serializer cannot store: it is not cached", name, kind)
            return None

    def check_entry(self, key: Any, value: Any, ttl: Any, tags: Any) -> None:
        """Raise what `set` would raise for these arguments, whatever the server says."""
        self.check_open()
        self.codec.encode(checked_key(key), value, checked_tags(tags))
        if ttl is not None:
            seconds_of(ttl, "ttl")
