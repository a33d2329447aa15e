"""Counters of what the two tiers did."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cachebox.distributed._ops.operations import Core

NAMES = (
    "local_hits",
    "remote_hits",
    "misses",
    "stale_serves",
    "invalidations",
    "fills_refused",
    "errors",
    "refreshes",
    "refresh_failures",
    "undecodable",
    "unstorable",
    "evictions",
)
STATES = ("breaker", "link", "last_error")


class DistributedStats:
    """What one cache object, in one process, has counted. Exact, also under threads.

    Every lookup of a key (`get`, each key of `get_many`, `get_or_set`, a decorated call) counts one of

    - ``local_hits``: served by the first tier,
    - ``remote_hits``: served by the server,
    - ``stale_serves``: served by the first tier although no server could be asked,
    - ``misses``: found nowhere, or not decodable.

    Beside them are counted ``invalidations`` (entries of the first tier dropped because the server said that something
    changed), ``fills_refused`` (values not stored because their key was changed while they were read or computed),
    ``errors`` (calls that a server did not serve: not reached in time, refused, or not asked because of the breaker),
    ``refreshes`` (values computed anew in the background) and ``refresh_failures`` (where that failed),
    ``undecodable`` (misses because of bytes that this cache would not have written) and ``unstorable`` (computed values
    that the serializer does not take, and that were returned without being stored).
    ``breaker`` is ``"closed"``, ``"open"`` or ``"half-open"``: of several servers', the one farthest from closed.
    ``link`` says whether changes are heard of, and ``last_error`` what is wrong, if something is.
    """

    __slots__ = ("_core",)

    def __init__(self, core: Core) -> None:
        self._core = core

    @property
    def local_hits(self) -> int:
        """Lookups served by the first tier."""
        return self._core.tier.first.stats.hits

    @property
    def remote_hits(self) -> int:
        """Lookups served by the server."""
        return self._core.tier.remote_hits

    @property
    def misses(self) -> int:
        """Lookups that found nothing."""
        return self._core.tier.misses

    @property
    def stale_serves(self) -> int:
        """Lookups served by the first tier because no server could be asked."""
        return self._core.tier.stale_serves

    @property
    def invalidations(self) -> int:
        """Entries of the first tier dropped because of what the server said."""
        return self._core.tier.invalidations

    @property
    def fills_refused(self) -> int:
        """Values not stored because their key was changed meanwhile."""
        return self._core.tier.fills_refused

    @property
    def errors(self) -> int:
        """Calls that a server did not serve."""
        return self._core.tier.errors

    @property
    def refreshes(self) -> int:
        """Values computed anew in the background, by this cache."""
        return self._core.tier.refreshes

    @property
    def refresh_failures(self) -> int:
        """Those that could not be computed, or not be stored because no server was reached."""
        return self._core.tier.refresh_failures

    @property
    def undecodable(self) -> int:
        """Misses where there was an entry, but not one that this cache would have written."""
        return self._core.tier.undecodable

    @property
    def unstorable(self) -> int:
        """Computed values that were returned, but not stored, because the serializer does not take them."""
        return self._core.tier.unstorable

    @property
    def evictions(self) -> int:
        """Live entries that left the second tier for want of room, as this cache wrote; of a folder only."""
        return self._core.tier.evictions

    @property
    def breaker(self) -> str:
        """The state of the breaker."""
        return self._core.topology.worst

    @property
    def link(self) -> str:
        """Whether changes are heard of: "up", "down", "refused" (by a server that does not track them), or "off"."""
        link = self._core.link
        if self._core.topology.is_exact:
            return "up"
        return "off" if link is None else link.state

    @property
    def last_error(self) -> str | None:
        """What is wrong with a server, in its own words where it has some; None: nothing is, or not any more."""
        return self._core.last_error

    def get(self, name: str) -> int | str | None:
        """One of them by name. ValueError for a name that is none."""
        if name not in (*NAMES, *STATES):
            raise ValueError(f"name must be one of {', '.join((*NAMES, *STATES))}, not {name!r}")
        found: int | str | None = getattr(self, name)
        return found

    def get_all(self) -> dict[str, int | str]:
        """The counters and the breaker by name, as a new dict."""
        return {name: getattr(self, name) for name in (*NAMES, "breaker")}

    def hit_rate(self) -> float:
        """The share of lookups that were served; 0.0 where there were none."""
        hits = self.local_hits + self.remote_hits + self.stale_serves
        return hits / (hits + self.misses) if hits + self.misses else 0.0

    def report(self) -> str:
        """The lines a person wants."""
        lines = [f"{name.replace('_', ' '):<18}{getattr(self, name):,}" for name in NAMES]
        states = [f"{name.replace('_', ' '):<18}{getattr(self, name) or 'none'}" for name in STATES]
        return "\n".join([*lines, f"{'hit rate':<18}{self.hit_rate():.1%}", *states])

    def __repr__(self) -> str:
        return f"DistributedStats({', '.join(f'{name}={getattr(self, name)}' for name in (*NAMES, *STATES))})"
