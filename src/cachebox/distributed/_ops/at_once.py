"""The short ways of a cache on a folder: one key, no tags, nothing that would have to be waited for.

Each says whether it has done what was asked for. Where it has not, nothing has happened, and the long way begins.
"""

from __future__ import annotations

from typing import Any

from cachebox.cache import MISSING
from cachebox.distributed._ops.operations import Core


class AtOnce:
    """The short ways of one cache."""

    def __init__(self, core: Core) -> None:
        from cachebox.distributed._near.hits import ABSENT, short_read

        self.absent = ABSENT
        self._read = short_read
        topology: Any = core.topology           # a `Directory`
        self._core = core
        self._store = topology.store

    def get(self, key: Any) -> Any:
        """The value of a key that was not in the first tier; `absent`; or MISSING: not done."""
        core = self._core
        if core.is_closed or core.owed.exists or self._store.has_own_clock:
            return MISSING
        return self._read(core.tier, self._store, core.codec, key)

    def set(self, key: Any, value: Any, ttl: Any) -> bool:
        """Store a value. Raises what `set` raises for bad input."""
        core = self._core
        if core.is_closed or core.owed.exists or type(key) is not str or self._store.is_durable:
            return False
        lifetime = core.lifetime_of(ttl)
        kept = core.kept_of(lifetime)
        head, body = core.codec.encode(key, value, (), None, kept)
        end = self._store.end_of(core.expiry(lifetime, kept))
        if not self._store.put(key.encode("utf-8", "surrogatepass"), head, body, end):
            return False
        core.tier.forget_keys((key,))
        return True
