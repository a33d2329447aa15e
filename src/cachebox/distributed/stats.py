"""Counters of both tiers, and snapshots of them."""

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
    """The counters as properties, for living statistics and for snapshots."""

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
        """Lookups served a stale value: no server could be asked, or no newer value was computed yet."""
        return self._count("stale_serves")

    @property
    def invalidations(self) -> int:
        """Entries of the first tier dropped because the server reported a change."""
        return self._count("invalidations")

    @property
    def fills_refused(self) -> int:
        """Values not stored because their key was changed while they were read or computed."""
        return self._count("fills_refused")

    @property
    def errors(self) -> int:
        """Calls that a server did not serve."""
        return self._count("errors")

    @property
    def refreshes(self) -> int:
        """Values refreshed in the background, by this cache."""
        return self._count("refreshes")

    @property
    def refresh_failures(self) -> int:
        """Refreshes that failed to compute a value, or to store it because no server was reached."""
        return self._count("refresh_failures")

    @property
    def undecodable(self) -> int:
        """Misses because of an entry that this cache would not have written."""
        return self._count("undecodable")

    @property
    def unstorable(self) -> int:
        """Computed values that were returned, but not stored, because the serializer does not take them."""
        return self._count("unstorable")

    @property
    def evictions(self) -> int:
        """Live entries that left a folder when this cache needed room."""
        return self._count("evictions")

    def hit_rate(self) -> float:
        """The share of lookups that were served; 0.0 if there were none."""
        hits = self.local_hits + self.remote_hits + self.stale_serves
        return hits / (hits + self.misses) if hits + self.misses else 0.0


class DistributedSnapshot(_Counted):
    """The counters of a `DistributedStats` at one moment. It does not change, and can be pickled and compared.

    The difference of two snapshots has the counts between them.
    """

    __slots__ = ("_counts", "uptime")

    def __init__(self, counts: Mapping[str, int], uptime: float) -> None:
        self._counts = dict(counts)
        self.uptime = uptime

    def _count(self, name: str) -> int:
        return self._counts[name]

    def get(self, name: str) -> int:
        """One counter by name. Raises ValueError for an unknown name."""
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
    """The counters of one cache object in one process. Exact, also under threads.

    Every lookup of a key (`get`, each key of `get_many`, `get_or_set`, a decorated call) counts one of

    - ``local_hits``: served by the first tier,
    - ``remote_hits``: served by the server,
    - ``stale_serves``: served a stale value, because no server could be asked or no newer value was computed yet,
    - ``misses``: found nowhere, or not decodable.

    Further counters are

    - ``invalidations``: entries of the first tier dropped because the server reported a change,
    - ``fills_refused``: values not stored because their key was changed while they were read or computed,
    - ``errors``: calls that a server did not serve: not reached in time, refused, or not asked because of the breaker,
    - ``refreshes`` and ``refresh_failures``: values refreshed in the background, and refreshes that failed,
    - ``undecodable``: misses because of bytes that this cache would not have written,
    - ``unstorable``: computed values that the serializer does not take, returned without being stored,
    - ``evictions``: live entries that left a folder because it was full.

    ``breaker`` is ``"closed"``, ``"open"`` or ``"half-open"``; of several servers, the state farthest from closed.
    ``link`` says whether the servers' pushes arrive, and ``last_error`` what is wrong, if something is. The methods are
    those of `CacheStats`.
    """

    __slots__ = ("_begun", "_core", "_lock", "_taken_off")

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lock = Section()                  # re-entrant, because a signal handler or a finalizer may come back
        self._taken_off: dict[str, int] = {}    # counts at the last `reset`, minus what `increment` added
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
        """Whether pushes arrive: "up", "down", "refused" (by a server that does not track changes), or "off"."""
        link = self._core.tracking
        if self._core.topology.is_exact:
            return "up"
        return "off" if link is None else link.state

    @property
    def last_error(self) -> str | None:
        """What is wrong with a server, in its own words if it has some; None: nothing, or no longer."""
        return self._core.last_error

    def get(self, name: str) -> int | str | None:
        """One counter or state by name. Raises ValueError for an unknown name."""
        if name not in (*NAMES, *STATES):
            raise ValueError(f"name must be one of {', '.join((*NAMES, *STATES))}, not {name!r}")
        found: int | str | None = getattr(self, name)
        return found

    def get_all(self) -> dict[str, int | str | None]:
        """The counters and the states by name, as a new dict."""
        return {**self._counts(), **{name: getattr(self, name) for name in STATES}}

    def _counts(self) -> dict[str, int]:
        return {name: count - self._taken_off.get(name, 0) for name, count in self._core.tier.counts().items()}

    def increment(self, name: str, amount: int = 1) -> None:
        """Add to a counter. Raises ValueError for an unknown name or a negative amount, TypeError for a non-int."""
        if name not in NAMES:
            raise ValueError(f"name must be one of {', '.join(NAMES)}, not {name!r}")
        if not isinstance(amount, int) or isinstance(amount, bool):
            raise TypeError(f"amount must be an int, not {type(amount).__name__}")
        if amount < 0:
            raise ValueError(f"amount must not be negative, not {amount}: counters only grow")
        with self._lock:
            self._taken_off[name] = self._taken_off.get(name, 0) - amount

    def reset(self) -> None:
        """Set all counters to zero and restart the uptime. To measure a period, subtract two snapshots instead."""
        with self._lock:
            self._taken_off = self._core.tier.counts()
            self._begun = time.monotonic()

    def snapshot(self) -> DistributedSnapshot:
        """The counters at this moment, as a `DistributedSnapshot`."""
        return DistributedSnapshot(self._counts(), time.monotonic() - self._begun)

    def report(self) -> str:
        """The counters and states as lines for people."""
        lines = [f"{name.replace('_', ' '):<18}{count:,}" for name, count in self._counts().items()]
        states = [f"{name.replace('_', ' '):<18}{getattr(self, name) or 'none'}" for name in STATES]
        uptime = f"{'uptime':<18}{time.monotonic() - self._begun:,.0f} s"
        return "\n".join([*lines, f"{'hit rate':<18}{self.hit_rate():.1%}", *states, uptime])

    def __repr__(self) -> str:
        return f"DistributedStats({', '.join(f'{name}={getattr(self, name)}' for name in (*NAMES, *STATES))})"

    def __reduce__(self) -> str:
        raise TypeError("DistributedStats cannot be pickled: it belongs to a living cache; pickle its snapshot()")
