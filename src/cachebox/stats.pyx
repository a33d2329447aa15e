"""Counters of what a cache did.

The cache adds to `counts` itself, under the lock that it holds anyway: counting costs one addition and loses nothing.
"""

from libc.stdint cimport int64_t
from libc.string cimport memset

from cachebox.expiry cimport coarse_now
from cachebox.lock cimport Guard, acquire, release

cdef object MOST_AT_ONCE = 2**62

cdef object NANOSECONDS = 1_000_000_000     # in a second

cdef tuple NAMES = (
    "hits", "misses", "sets", "deletes", "evictions", "expired", "load_success", "load_failure", "load_time",
)


cdef int position(name) except -1:
    for i, known in enumerate(NAMES):
        if name == known:
            return i
    raise ValueError(f"name must be one of {', '.join(NAMES)}, not {name!r}")


cdef object shown(const int64_t* counts, int i):
    """A counter as users see it."""
    return counts[i] / <double>1e9 if i == LOAD_TIME else counts[i]


cdef double rate(int64_t hits, int64_t misses) noexcept:
    return hits / <double>(hits + misses) if hits + misses else 0.0


cdef class StatsSnapshot:
    """What the counters stood at, at one instant; ``later - earlier`` is what happened in between.

    Has the attributes of `CacheStats`, `get`, `get_all`, `hit_rate`, and `uptime` in seconds.

    >>> from cachebox import Cache
    >>> cache = Cache()
    >>> before = cache.stats.snapshot()
    >>> cache.set("a", 1)
    >>> (cache.stats.snapshot() - before).sets
    1
    """

    def __init__(self):
        raise TypeError("a StatsSnapshot comes from CacheStats.snapshot()")

    @property
    def hits(self):
        return self.counts[HITS]

    @property
    def misses(self):
        return self.counts[MISSES]

    @property
    def sets(self):
        return self.counts[SETS]

    @property
    def deletes(self):
        return self.counts[DELETES]

    @property
    def evictions(self):
        return self.counts[EVICTIONS]

    @property
    def expired(self):
        return self.counts[EXPIRED]

    @property
    def load_success(self):
        return self.counts[LOAD_SUCCESS]

    @property
    def load_failure(self):
        return self.counts[LOAD_FAILURE]

    @property
    def load_time(self):
        return shown(self.counts, LOAD_TIME)

    def get(self, name):
        """The counter of that name; an unknown one is a ValueError. O(1)."""
        return shown(self.counts, position(name))

    def get_all(self):
        """All counters by name, as a new dict. O(1)."""
        return {name: shown(self.counts, i) for i, name in enumerate(NAMES)}

    def hit_rate(self):
        """Hits per lookup, 0.0 where there were none. O(1)."""
        return rate(self.counts[HITS], self.counts[MISSES])

    def __sub__(self, other):
        cdef StatsSnapshot difference
        cdef StatsSnapshot earlier
        cdef int i
        if not isinstance(other, StatsSnapshot):
            return NotImplemented
        earlier = other
        difference = StatsSnapshot.__new__(StatsSnapshot)
        for i in range(COUNTERS):
            difference.counts[i] = self.counts[i] - earlier.counts[i]
        difference.uptime = self.uptime - earlier.uptime
        return difference

    def __eq__(self, other):
        if not isinstance(other, StatsSnapshot):
            return NotImplemented
        return self.get_all() == other.get_all() and self.uptime == (<StatsSnapshot>other).uptime

    __hash__ = None

    def __repr__(self):
        return f"StatsSnapshot({', '.join(f'{name}={count}' for name, count in self.get_all().items())})"

    def __reduce__(self):
        return restore, (self.get_all(), self.uptime)


def restore(counts, double uptime):
    cdef StatsSnapshot snapshot = StatsSnapshot.__new__(StatsSnapshot)
    for name, count in counts.items():
        snapshot.counts[position(name)] = round(count * NANOSECONDS) if name == "load_time" else count
    snapshot.uptime = uptime
    return snapshot


cdef class CacheStats:
    """CacheStats()
--

    Exact counters of a cache: `hits`, `misses`, `sets`, `deletes`, `evictions`, `expired`, and of its loader
    `load_success`, `load_failure` and `load_time`, in seconds.

    A cache makes its own, `cache.stats`; one of your own counts what you tell it to. All methods are O(1) and safe from
    any thread. Hits and misses are those of `get`, ``cache[key]``, `get_many` (one for each key), `get_or_set`,
    `setdefault` and of cached functions; `pop`, `peek`, ``in`` and iteration count neither. Loads are calls of a cache's
    loader, refreshes and `warm` included, one for each call of `load_many`; functions given to `get_or_set` and `cached`
    are not the cache's, and not counted.

    >>> stats = CacheStats()
    >>> stats.increment("hits", 3)
    >>> stats.increment("misses")
    >>> stats.hits, stats.hit_rate()
    (3, 0.75)
    """

    def __cinit__(self):
        self.guard = Guard.__new__(Guard)
        self.started = coarse_now()

    def __init__(self):
        pass

    @staticmethod
    cdef CacheStats under(Guard guard):
        """Counters that the owner of `guard` writes while it holds its lock."""
        cdef CacheStats stats = CacheStats.__new__(CacheStats)
        stats.guard = guard
        return stats

    cdef void zero(self) noexcept nogil:
        """`reset` for one that holds the lock."""
        memset(self.counts, 0, sizeof(self.counts))
        self.started = coarse_now()

    @property
    def hits(self):
        """Lookups that found a live entry."""
        return self.counts[HITS]

    @property
    def misses(self):
        """Lookups that found none."""
        return self.counts[MISSES]

    @property
    def sets(self):
        """Values stored, overwrites included."""
        return self.counts[SETS]

    @property
    def deletes(self):
        """Live entries removed on request: by `delete`, ``del``, `pop`, `popitem`, `delete_many` or `compute`."""
        return self.counts[DELETES]

    @property
    def evictions(self):
        """Entries removed to keep `max_size` or `max_weight`, by `resize` too."""
        return self.counts[EVICTIONS]

    @property
    def expired(self):
        """Entries removed because their time was over, whoever noticed."""
        return self.counts[EXPIRED]

    @property
    def load_success(self):
        """Calls of the loader that returned."""
        return self.counts[LOAD_SUCCESS]

    @property
    def load_failure(self):
        """Calls of the loader that raised, a KeyError for "there is none" included."""
        return self.counts[LOAD_FAILURE]

    @property
    def load_time(self):
        """Seconds that all calls of the loader took together, a float."""
        return shown(self.counts, LOAD_TIME)

    def get(self, name):
        """The counter of that name, an int (`load_time`: a float); an unknown one is a ValueError that lists the known.

        >>> CacheStats().get("hits")
        0
        """
        return shown(self.counts, position(name))

    def get_all(self):
        """All counters by name, as a new dict, taken at one instant.

        >>> CacheStats().get_all()              # doctest: +NORMALIZE_WHITESPACE
        {'hits': 0, 'misses': 0, 'sets': 0, 'deletes': 0, 'evictions': 0, 'expired': 0,
         'load_success': 0, 'load_failure': 0, 'load_time': 0.0}
        """
        return self.snapshot().get_all()

    def increment(self, name, amount=1):
        """Add `amount`, an int that is not negative (for `load_time`, a number of seconds), to the counter of that name.

        Raises ValueError for an unknown name or a negative amount, TypeError for an amount that is not an int.
        """
        cdef int i = position(name)
        cdef int64_t added
        if i == LOAD_TIME and isinstance(amount, (int, float)) and not isinstance(amount, bool):
            if not 0 <= amount <= MOST_AT_ONCE // NANOSECONDS:
                raise ValueError(f"amount must be from 0 to {MOST_AT_ONCE // NANOSECONDS} seconds, not {amount}")
            amount = round(amount * NANOSECONDS)
        if not isinstance(amount, int) or isinstance(amount, bool):
            raise TypeError(f"amount must be an int, not {type(amount).__name__}")
        if amount < 0:
            raise ValueError(f"amount must not be negative, not {amount}: counters only grow")
        if amount > MOST_AT_ONCE:
            raise ValueError(f"amount must be at most {MOST_AT_ONCE}, not {amount}")
        added = amount
        acquire(&self.guard.lock)
        self.counts[i] += added
        release(&self.guard.lock)

    def hit_rate(self):
        """Hits per lookup (hits and misses), between 0.0 and 1.0; 0.0 where there were no lookups."""
        cdef int64_t hits, misses
        acquire(&self.guard.lock)
        hits, misses = self.counts[HITS], self.counts[MISSES]
        release(&self.guard.lock)
        return rate(hits, misses)

    def reset(self):
        """Set all counters to zero and start the uptime anew. To measure a stretch of time, subtract two snapshots."""
        acquire(&self.guard.lock)
        self.zero()
        release(&self.guard.lock)

    def snapshot(self):
        """The counters at this instant, as a `StatsSnapshot`, which does not change any more and can be pickled.

        >>> stats = CacheStats()
        >>> before = stats.snapshot()
        >>> stats.increment("hits", 5)
        >>> (stats.snapshot() - before).hits
        5
        """
        cdef StatsSnapshot snapshot = StatsSnapshot.__new__(StatsSnapshot)
        cdef int i
        acquire(&self.guard.lock)
        for i in range(COUNTERS):
            snapshot.counts[i] = self.counts[i]
        snapshot.uptime = coarse_now() - self.started
        release(&self.guard.lock)
        return snapshot

    def report(self):
        """The counters as a person wants to read them: several lines of text, without a line break at the end.

        >>> stats = CacheStats()
        >>> stats.increment("hits", 2999)
        >>> stats.increment("misses")
        >>> print(stats.report())       # doctest: +ELLIPSIS
        Cache statistics
          hits         2,999   100.0% of 3,000 lookups
          misses           1
          sets             0
          deletes          0
          evictions        0   removed to keep the bound
          expired          0   removed because their time was over
          load_success     0
          load_failure     0
          load_time    0.000   seconds
          uptime       ... s
        """
        now = self.snapshot()
        lookups = now.hits + now.misses
        rows = [
            ("hits", now.hits, f"{now.hit_rate():.1%} of {lookups:,} lookups" if lookups else "no lookups yet"),
            ("misses", now.misses, ""),
            ("sets", now.sets, ""),
            ("deletes", now.deletes, ""),
            ("evictions", now.evictions, "removed to keep the bound"),
            ("expired", now.expired, "removed because their time was over"),
            ("load_success", now.load_success, ""),
            ("load_failure", now.load_failure, ""),
            ("load_time", now.load_time, "seconds"),
        ]
        rows = [(name, f"{count:,.3f}" if name == "load_time" else f"{count:,}", remark) for name, count, remark in rows]
        width = max(len(count) for _, count, _ in rows)
        lines = [f"  {name:<12} {count:>{width}}   {remark}".rstrip() for name, count, remark in rows]
        return "\n".join(["Cache statistics", *lines, f"  {'uptime':<12} {spoken(now.uptime)}"])

    def __repr__(self):
        counts = ", ".join(f"{name}={count}" for name, count in self.get_all().items())
        return f"CacheStats({counts}, hit_rate={self.hit_rate():.3f})"

    def __reduce__(self):
        raise TypeError("CacheStats cannot be pickled: it belongs to a living cache; pickle its snapshot() instead")


cdef str spoken(double seconds):
    """A duration as people say it: two units, the larger one first."""
    cdef long long whole = <long long>seconds
    if seconds < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
