from libc.stdint cimport uint64_t

from cachebox._platform.section cimport Section
from cachebox.cache cimport Cache
from cachebox.distributed._embedded.page cimport Page


cdef double LAG                     # seconds cut off from a ttl, because the first tier's clock may lag by 4 ms


cdef class Fill:
    cdef readonly str key
    cdef readonly bint live
    cdef readonly double begun
    cdef uint64_t hash              # if a page is followed: the key's hash, and the counters of key and tags
    cdef uint64_t count
    cdef uint64_t tag_count
    cdef set tags                   # tags that were invalidated since, or None

    cdef bint permits(self, tags) except -1


cdef class Write:
    cdef readonly tuple keys
    cdef set heard                  # keys for which a push has arrived since
    cdef bint clears                # it clears everything: its pushes do not count as invalidations
    cdef object tag                 # the tag that it invalidates, whose pushes do not count either; or None
    cdef bint generation_heard
    cdef bint tags_heard
    cdef long epoch
    cdef long begun                 # by the tier's clock


cdef class Tier:
    cdef readonly Cache first
    cdef public double fresh_until  # monotonic seconds
    cdef bint returns_stored        # whether a hit returns the stored value itself
    cdef bint exact                 # whether what is stored is a Noted, whose value a hit returns
    cdef bint isolates
    cdef bint follows               # whether only values that a page vouches for may be stored
    cdef Page page                  # its counters say whether stored values are current; or None
    cdef readonly Section lock
    cdef dict fills                 # key: [Fill, ...]
    cdef set writes                 # the `Write`s under way
    cdef dict expected              # key: when those writes of this process returned whose pushes are still to come
    cdef long clock                 # counts when writes begin and return
    cdef set expected_generations   # buckets whose pushes are still to come
    cdef set expected_tags          # (bucket, tag) whose pushes are still to come
    cdef dict tags                  # key: its tags, for entries that have some
    cdef dict waiters               # key: [callable, ...]
    cdef readonly long epoch        # number of the tracking connections' state: new with each loss and each connection
    cdef readonly bint is_tracked
    cdef readonly long long invalidations, fills_refused, remote_hits, misses, stale_serves, errors
    cdef readonly long long refreshes, refresh_failures, undecodable, unstorable, evictions
    # of local_hits, remote_hits and misses: what the page's totals have already
    cdef long long published_local_hits, published_remote_hits, published_misses

    cdef int publish(self) except -1
    cdef Fill add_fill(self, str key, double now)
    cdef bint put(self, Fill fill, object value, double lifetime, tags, double now) except -1
    cdef int note_tags(self, str key, tags) except -1
    cdef int drop_fill(self, Fill fill) except -1
    cdef int forget(self, str key) except -1
    cdef list tagged(self, str tag)
    cdef int clear_entries(self) except -1
