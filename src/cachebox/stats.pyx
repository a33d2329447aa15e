"""Counters of what a cache did.

The cache adds to `counts` itself, under the lock that it holds anyway. So counting costs one addition and loses
nothing.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.string cimport memset

from cachebox._platform.clock cimport coarse_now
from cachebox._platform.lock cimport SharedLock, acquire, release

cdef int64_t MOST_COUNTED = <int64_t>1 << 62      # counting one by one never gets from here to where an int64_t wraps

cdef object NANOSECONDS = 1_000_000_000     # in a second

cdef tuple NAMES = (
    "hits", "misses", "sets", "deletes", "evictions", "expired", "load_success", "load_failure", "load_time",
    "stale_serves", "refreshes", "refresh_failures", "negative_hits",
)


cdef int position(name) except -1:
    for i, known in enumerate(NAMES):
        if name == known:
            return i
    raise ValueError(f"name must be one of {', '.join(NAMES)}, not {name!r}")


cdef object shown(object count, int i):
    """A counter as users see it."""
    return count / NANOSECONDS if i == LOAD_TIME else count


cdef double rate(object hits, object misses) except -1.0:
    return hits / (hits + misses) if hits + misses else 0.0


cdef class StatsSnapshot:
    """The counters at one instant; ``later - earlier`` is what happened in between.

    It has the attributes of `CacheStats`, `get`, `get_all`, `hit_rate`, and `uptime` in seconds.

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
        return shown(self.counts[LOAD_TIME], LOAD_TIME)

    @property
    def stale_serves(self):
        return self.counts[STALE_SERVES]

    @property
    def refreshes(self):
        return self.counts[REFRESHES]

    @property
    def refresh_failures(self):
        return self.counts[REFRESH_FAILURES]

    @property
    def negative_hits(self):
        return self.counts[NEGATIVE_HITS]

    def get(self, name):
        """The counter of that name; an unknown name is a ValueError. O(1)."""
        cdef int i = position(name)
        return shown(self.counts[i], i)

    def get_all(self):
        """All counters by name, as a new dict. O(1)."""
        return {name: shown(self.counts[i], i) for i, name in enumerate(NAMES)}

    def hit_rate(self):
        """Hits per lookup; 0.0 if there were none. O(1)."""
        return rate(self.counts[HITS], self.counts[MISSES])

    def __sub__(self, other):
        cdef StatsSnapshot difference
        if not isinstance(other, StatsSnapshot):
            return NotImplemented
        difference = StatsSnapshot.__new__(StatsSnapshot)
        difference.counts = tuple([now - then for now, then in zip(self.counts, (<StatsSnapshot>other).counts)])
        difference.uptime = self.uptime - (<StatsSnapshot>other).uptime
        return difference

    def __eq__(self, other):
        if not isinstance(other, StatsSnapshot):
            return NotImplemented
        return self.get_all() == other.get_all() and self.uptime == (<StatsSnapshot>other).uptime

    __hash__ = None

    def __repr__(self):
        return f"StatsSnapshot({', '.join([f'{name}={count}' for name, count in self.get_all().items()])})"

    def __reduce__(self):
        return restore, (self.get_all(), self.uptime)


def restore(counts, double uptime):
    cdef StatsSnapshot snapshot = StatsSnapshot.__new__(StatsSnapshot)
    cdef list known = [0] * COUNTERS
    for name, count in counts.items():
        known[position(name)] = round(count * NANOSECONDS) if name == "load_time" else int(count)
    snapshot.counts = tuple(known)
    snapshot.uptime = uptime
    return snapshot


cdef class CacheStats:
    """CacheStats()
--

    Exact counters of a cache: `hits`, `misses`, `sets`, `deletes`, `evictions`, `expired`, and of its loader
    `load_success`, `load_failure` and `load_time`, in seconds.

    A cache has its own, `cache.stats`; one of your own counts what you add to it. All methods are O(1) and safe from
    any thread. Hits and misses are those of `get`, ``cache[key]``, `get_many` (one for each key), `get_or_set`,
    `setdefault` and of cached functions; `pop`, `peek`, ``in`` and iteration count neither. Loads are calls of a
    cache's loader, including refreshes and `warm`; a call of `load_many` is one load. Functions given to `get_or_set`
    and `cached` are not the cache's, and not counted as loads.

    >>> stats = CacheStats()
    >>> stats.increment("hits", 3)
    >>> stats.increment("misses")
    >>> stats.hits, stats.hit_rate()
    (3, 0.75)
    """

    def __cinit__(self):
        self.shared_lock = SharedLock.__new__(SharedLock)
        self.started = coarse_now()

    def __init__(self):
        pass

    @staticmethod
    cdef CacheStats under(SharedLock shared_lock):
        """Counters that the owner of `shared_lock` writes under its lock."""
        cdef CacheStats stats = CacheStats.__new__(CacheStats)
        stats.shared_lock = shared_lock
        return stats

    cdef void zero(self) noexcept:
        """`reset` for a caller that holds the lock."""
        memset(self.counts, 0, sizeof(self.counts))
        self.carried = None                     # it holds ints, so no code runs
        self.started = coarse_now()

    cdef object count(self, int i):
        """A counter, however large."""
        cdef int64_t count
        if self.carried is not None:
            return self.all_counts()[i]
        count = self.counts[i]
        return count

    cdef tuple all_counts(self):
        """All counters, at one instant."""
        cdef int64_t[COUNTERS] counts
        cdef int i
        cdef list carried = None
        acquire(&self.shared_lock.lock)
        for i in range(COUNTERS):
            counts[i] = self.counts[i]
        carried = self.carried
        release(&self.shared_lock.lock)
        if carried is None:
            return tuple([counts[i] for i in range(COUNTERS)])
        return tuple([counts[i] + carried[i] for i in range(COUNTERS)])

    @property
    def hits(self):
        """Lookups that found a live entry."""
        return self.count(HITS)

    @property
    def misses(self):
        """Lookups that found no live entry."""
        return self.count(MISSES)

    @property
    def sets(self):
        """Values stored, including overwrites."""
        return self.count(SETS)

    @property
    def deletes(self):
        """Live entries removed on request: by `delete`, ``del``, `pop`, `popitem`, `delete_many` or `compute`."""
        return self.count(DELETES)

    @property
    def evictions(self):
        """Entries removed to keep `max_size` or `max_weight`, also by `resize`."""
        return self.count(EVICTIONS)

    @property
    def expired(self):
        """Entries removed because their deadline had passed, by whatever call or thread."""
        return self.count(EXPIRED)

    @property
    def load_success(self):
        """Calls of the loader that returned."""
        return self.count(LOAD_SUCCESS)

    @property
    def load_failure(self):
        """Calls of the loader that raised, including a KeyError for "no value"."""
        return self.count(LOAD_FAILURE)

    @property
    def load_time(self):
        """Seconds that all calls of the loader took together, a float."""
        return shown(self.count(LOAD_TIME), LOAD_TIME)

    @property
    def stale_serves(self):
        """Hits that were served an expired value, while it was refreshed or could not be."""
        return self.count(STALE_SERVES)

    @property
    def refreshes(self):
        """Values loaded in the background."""
        return self.count(REFRESHES)

    @property
    def refresh_failures(self):
        """Loads in the background that failed. The old value stays until its deadline."""
        return self.count(REFRESH_FAILURES)

    @property
    def negative_hits(self):
        """Hits that were answered by a remembered failure."""
        return self.count(NEGATIVE_HITS)

    def get(self, name):
        """The counter of that name, an int (`load_time`: a float). Raises ValueError for an unknown name.

        >>> CacheStats().get("hits")
        0
        """
        cdef int i = position(name)
        return shown(self.count(i), i)

    def get_all(self):
        """All counters by name, as a new dict, taken at one instant.

        >>> CacheStats().get_all()              # doctest: +NORMALIZE_WHITESPACE
        {'hits': 0, 'misses': 0, 'sets': 0, 'deletes': 0, 'evictions': 0, 'expired': 0,
         'load_success': 0, 'load_failure': 0, 'load_time': 0.0,
         'stale_serves': 0, 'refreshes': 0, 'refresh_failures': 0, 'negative_hits': 0}
        """
        return self.snapshot().get_all()

    def increment(self, name, amount=1):
        """Add `amount` to the counter of that name: an int that is not negative; for `load_time`, a number of seconds.

        Raises ValueError for an unknown name or a negative amount, TypeError for an amount that is not an int.
        """
        cdef int i = position(name)
        if i == LOAD_TIME and isinstance(amount, (int, float)) and not isinstance(amount, bool):
            if not 0 <= amount < INFINITY:
                raise ValueError(f"amount must be 0 seconds or more, and finite, not {amount}")
            amount = round(amount * NANOSECONDS)
        if not isinstance(amount, int) or isinstance(amount, bool):
            raise TypeError(f"amount must be an int, not {type(amount).__name__}")
        if amount < 0:
            raise ValueError(f"amount must not be negative, not {amount}: counters only grow")
        self.add(i, int(amount))

    cdef int add(self, int i, object amount) except -1:
        """Add to a counter.

        If it would become too large, its count moves to a new list, so that readers see the old or the new.
        """
        cdef bint is_few = amount < MOST_COUNTED, added     # compared here: under the lock nothing may be allocated
        cdef int64_t few = amount if is_few else 0, counted
        cdef list carried, known
        while True:
            acquire(&self.shared_lock.lock)
            added = is_few and self.counts[i] < MOST_COUNTED - few
            if added:
                self.counts[i] += few
            counted = self.counts[i]
            known = self.carried
            release(&self.shared_lock.lock)
            if added:
                return 0
            carried = list(known) if known is not None else [0] * COUNTERS
            carried[i] += counted + amount
            acquire(&self.shared_lock.lock)
            if self.counts[i] == counted and self.carried is known:
                self.counts[i] = 0
                known, self.carried = self.carried, carried
                added = True
            release(&self.shared_lock.lock)
            if added:
                return 0

    def hit_rate(self):
        """Hits per lookup (hits and misses), between 0.0 and 1.0; 0.0 if there were no lookups."""
        counts = self.all_counts()
        return rate(counts[HITS], counts[MISSES])

    def reset(self):
        """Set all counters and the uptime to zero. To measure a stretch of time, subtract two snapshots."""
        acquire(&self.shared_lock.lock)
        self.zero()
        release(&self.shared_lock.lock)

    def snapshot(self):
        """The counters at this instant, as a `StatsSnapshot`, which never changes and can be pickled.

        >>> stats = CacheStats()
        >>> before = stats.snapshot()
        >>> stats.increment("hits", 5)
        >>> (stats.snapshot() - before).hits
        5
        """
        cdef StatsSnapshot snapshot = StatsSnapshot.__new__(StatsSnapshot)
        snapshot.counts = self.all_counts()
        snapshot.uptime = coarse_now() - self.started
        return snapshot

    def report(self):
        """The counters for a person to read: several lines of text, without a line break at the end.

        >>> stats = CacheStats()
        >>> stats.increment("hits", 2999)
        >>> stats.increment("misses")
        >>> print(stats.report())       # doctest: +ELLIPSIS
        Cache statistics
          hits              2,999   100.0% of 3,000 lookups
          misses                1
          sets                  0
          deletes               0
          evictions             0   removed to keep the bound
          expired               0   removed because their deadline passed
          load_success          0
          load_failure          0
          load_time         0.000   seconds
          stale_serves          0   hits on values that had expired
          refreshes             0   values loaded in the background
          refresh_failures      0
          negative_hits         0   hits on remembered failures
          uptime            ... s
        """
        rows, uptime = self.rows()
        width = max([len(count) for _, count, _ in rows])
        lines = [f"  {name:<16} {count:>{width}}   {remark}".rstrip() for name, count, remark in rows]
        return "\n".join(["Cache statistics", *lines, f"  {'uptime':<16} {uptime}"])

    cdef tuple rows(self):
        """The counters for a person to read, in rows of a name, a number and a remark; and the uptime."""
        now = self.snapshot()
        lookups = now.hits + now.misses
        remarks = {
            "hits": f"{now.hit_rate():.1%} of {lookups:,} lookups" if lookups else "no lookups yet",
            "evictions": "removed to keep the bound",
            "expired": "removed because their deadline passed",
            "load_time": "seconds",
            "stale_serves": "hits on values that had expired",
            "refreshes": "values loaded in the background",
            "negative_hits": "hits on remembered failures",
        }
        rows = [
            (name, f"{count:,.3f}" if name == "load_time" else f"{count:,}", remarks.get(name, ""))
            for name, count in now.get_all().items()
        ]
        return rows, spoken(now.uptime)

    def _repr_html_(self):
        """The counters as a table, for notebooks."""
        from cachebox._platform.notebook import table

        rows, uptime = self.rows()
        return table("Cache statistics", [*rows, ("uptime", uptime, "")])

    def __repr__(self):
        counts = ", ".join([f"{name}={count}" for name, count in self.get_all().items()])
        return f"CacheStats({counts}, hit_rate={self.hit_rate():.3f})"

    def __reduce__(self):
        raise TypeError("CacheStats cannot be pickled: it belongs to a living cache; pickle its snapshot() instead")


cdef str spoken(double seconds):
    """A duration in two units, the larger one first."""
    cdef long long whole = <long long>seconds
    if seconds < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
