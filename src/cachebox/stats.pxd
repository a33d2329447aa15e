from libc.stdint cimport int64_t

from cachebox.lock cimport Guard


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
    COUNTERS                        # how many there are


cdef class StatsSnapshot:
    cdef int64_t counts[COUNTERS]
    cdef readonly double uptime


cdef class CacheStats:
    cdef int64_t counts[COUNTERS]   # written under the guard's lock, by the cache directly
    cdef Guard guard
    cdef double started

    @staticmethod
    cdef CacheStats under(Guard guard)
    cdef void zero(self) noexcept nogil
