"""Counters of what the two tiers did, and snapshots of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cachebox._platform.section import Section

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


class _Counted:
    """What can be asked of living counters, and of a snapshot of them."""

    __slots__ = ()

    def _count(self, name: str) -> int:
        raise NotImplementedError

    @property
    def local_hits(self) -> int:
        """Lookups served by the first tier."""
        return self._count("local_hits")

    @property
    def remote_hits(self) -> int:
        """Lookups served by the server."""
        return self._count("remote_hits")

    @property
    def misses(self) -> int:
        """Lookups that found nothing."""
        return self._count("misses")

    @property
    def stale_serves(self) -> int:
        """Lookups served by the first tier because no server could be asked."""
        return self._count("stale_serves")

    @property
    def invalidations(self) -> int:
        """Entries of the first tier dropped because of what the server said."""
        return self._count("invalidations")

    @property
    def fills_refused(self) -> int:
        """Values not stored because their key was changed meanwhile."""
        return self._count("fills_refused")

    @property
    def errors(self) -> int:
        """Calls that a server did not serve."""
        return self._count("errors")

    @property
    def refreshes(self) -> int:
        """Values computed anew in the background, by this cache."""
        return self._count("refreshes")

    @property
    def refresh_failures(self) -> int:
        """Those that could not be computed, or not be stored because no server was reached."""
        return self._count("refresh_failures")

    @property
    def undecodable(self) -> int:
        """Misses where there was an entry, but not one that this cache would have written."""
        return self._count("undecodable")

    @property
    def unstorable(self) -> int:
        """Computed values that were returned, but not stored, because the serializer does not take them."""
        return self._count("unstorable")

    @property
    def evictions(self) -> int:
        """Live entries that left the second tier for want of room, as this cache wrote; of a folder only."""
        return self._count("evictions")

    def hit_rate(self) -> float:
        """The share of lookups that were served; 0.0 where there were none."""
        hits = self.local_hits + self.remote_hits + self.stale_serves
        return hits / (hits + self.misses) if hits + self.misses else 0.0


class DistributedSnapshot(_Counted):
    """The counters of a `DistributedStats` at one moment. It does not change, and can be pickled and compared.

    The difference of two is what was counted between them.
    """

    __slots__ = ("_counts", "uptime")

    def __init__(self, counts: Mapping[str, int], uptime: float) -> None:
        self._counts = dict(counts)
        self.uptime = uptime

    def _count(self, name: str) -> int:
        return self._counts[name]

    def get(self, name: str) -> int:
        """One counter by name. ValueError for a name that is none."""
        if name not in self._counts:
            raise ValueError(f"name must be one of {', '.join(self._counts)}, not {name!r}")
        return self._counts[name]

    def get_all(self) -> dict[str, int]:
        """The counters by name, as a new dict."""
        return dict(self._counts)

    def __sub__(self, other: DistributedSnapshot) -> DistributedSnapshot:
        if not isinstance(other, DistributedSnapshot):
            return NotImplemented
        counts = {name: count - other._counts.get(name, 0) for name, count in self._counts.items()}
        return DistributedSnapshot(counts, self.uptime - other.uptime)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DistributedSnapshot):
            return NotImplemented
        return (self._counts, self.uptime) == (other._counts, other.uptime)

    __hash__ = None  # type: ignore[assignment]  # as for a dict

    def __repr__(self) -> str:
        return f"DistributedSnapshot({', '.join(f'{name}={count}' for name, count in self._counts.items())})"


class DistributedStats(_Counted):
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
    that the serializer does not take, and that were returned without being stored), and ``evictions`` (live entries
    that left a folder for want of room).
    The methods are those of `CacheStats`. ``breaker`` is ``"closed"``, ``"open"`` or ``"half-open"``: of several
    servers', the one farthest from closed.
    ``link`` says whether changes are heard of, and ``last_error`` what is wrong, if something is.
    """

    __slots__ = ("_begun", "_core", "_lock", "_taken_off")

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lock = Section()                  # a signal handler or a finalizer may come back
        self._taken_off: dict[str, int] = {}    # by `reset`; what `increment` adds is less than nothing
        self._begun = time.monotonic()

    def _count(self, name: str) -> int:
        return self._raw(name) - self._taken_off.get(name, 0)

    def _raw(self, name: str) -> int:
        tier = self._core.tier
        found: int = tier.first.stats.hits if name == "local_hits" else getattr(tier, name)
        return found

    @property
    def breaker(self) -> str:
        """The state of the breaker."""
        return self._core.topology.worst

    @property
    def link(self) -> str:
        """Whether changes are heard of: "up", "down", "refused" (by a server that does not track them), or "off"."""
        link = self._core.tracking
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
        return {**self._counts(), "breaker": self.breaker}

    def _counts(self) -> dict[str, int]:
        with self._core.tier.lock:
            return {name: self._count(name) for name in NAMES}

    def increment(self, name: str, amount: int = 1) -> None:
        """Add to a counter. ValueError for a name that is none or an amount below 0, TypeError for one that is no
        int."""
        if name not in NAMES:
            raise ValueError(f"name must be one of {', '.join(NAMES)}, not {name!r}")
        if not isinstance(amount, int) or isinstance(amount, bool):
            raise TypeError(f"amount must be an int, not {type(amount).__name__}")
        if amount < 0:
            raise ValueError(f"amount must not be negative, not {amount}: counters only grow")
        with self._lock:
            self._taken_off[name] = self._taken_off.get(name, 0) - amount

    def reset(self) -> None:
        """Set all counters to zero and start the uptime anew. To measure a stretch of time, subtract two snapshots."""
        with self._core.tier.lock, self._lock:
            self._taken_off = {name: self._raw(name) for name in NAMES}
            self._begun = time.monotonic()

    def snapshot(self) -> DistributedSnapshot:
        """The counters at this moment, as a `DistributedSnapshot`."""
        return DistributedSnapshot(self._counts(), time.monotonic() - self._begun)

    def report(self) -> str:
        """The lines a person wants."""
        lines = [f"{name.replace('_', ' '):<18}{count:,}" for name, count in self._counts().items()]
        states = [f"{name.replace('_', ' '):<18}{getattr(self, name) or 'none'}" for name in STATES]
        uptime = f"{'uptime':<18}{time.monotonic() - self._begun:,.0f} s"
        return "\n".join([*lines, f"{'hit rate':<18}{self.hit_rate():.1%}", *states, uptime])

    def __repr__(self) -> str:
        return f"DistributedStats({', '.join(f'{name}={getattr(self, name)}' for name in (*NAMES, *STATES))})"

    def __reduce__(self) -> str:
        raise TypeError("DistributedStats cannot be pickled: it belongs to a living cache; pickle its snapshot()")
