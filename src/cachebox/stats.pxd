from libc.stdint cimport int64_t

from cachebox._platform.lock cimport SharedLock


cdef enum:
    HITS
    MISSES
    SETS
    DELETES
    EVICTIONS
    EXPIRED
    LOAD_SUCCESS
    LOAD_FAILURE
    LOAD_TIME                       # nanoseconds
    STALE_SERVES
    REFRESHES
    REFRESH_FAILURES
    NEGATIVE_HITS
    COUNTERS                        # how many there are


cdef class StatsSnapshot:
    cdef tuple counts               # Python ints
    cdef readonly double uptime


cdef class CacheStats:
    cdef int64_t counts[COUNTERS]   # written under the lock, by the cache directly
    cdef list carried               # what was taken out of `counts` before it became too large for them; or None
    cdef SharedLock shared_lock
    cdef double started

    cdef object count(self, int i)
    cdef tuple all_counts(self)
    cdef tuple rows(self)
    cdef int add(self, int i, object amount) except -1

    @staticmethod
    cdef CacheStats under(SharedLock shared_lock)
    cdef void zero(self) noexcept
