from libc.stdint cimport uint64_t

from cachebox._platform.section cimport Section
from cachebox.cache cimport Cache
from cachebox.distributed._embedded.page cimport Page


cdef double LAG                     # seconds by which a lifetime is cut short: the first tier's clock may lag by 4 ms


cdef class Fill:
    cdef readonly str key
    cdef readonly bint live
    cdef readonly double begun
    cdef uint64_t hash              # where a page is followed: of the key, and the counters of key and tags
    cdef uint64_t count
    cdef uint64_t tag_count
    cdef set tags                   # tags that were invalidated meanwhile, or None

    cdef bint permits(self, tags) except -1


cdef class Write:
    cdef readonly tuple keys
    cdef set heard                  # keys about which something was heard meanwhile
    cdef bint clears                # what it makes the server push is not counted as an invalidation: everything,
    cdef object tag                 # or the entries with this tag, or None
    cdef bint generation_heard
    cdef bint tags_heard
    cdef long link
    cdef long begun                 # by the tier's clock


cdef class Tier:
    cdef readonly Cache first
    cdef public double fresh_until  # monotonic seconds
    cdef bint plain                 # whether a hit hands out what is stored
    cdef bint exact                 # whether it hands out the value of what is stored, which is Noted
    cdef bint isolates
    cdef bint follows               # whether only what a page vouches for may be stored
    cdef Page page                  # whose counters tell whether what is stored is still so; or None
    cdef readonly Section lock
    cdef dict fills                 # key: [Fill, ...]
    cdef set writes                 # Write, under way
    cdef dict own                   # key: when those writes of this process returned whose pushes are still to come
    cdef long clock                 # counts the begins and the returns of writes
    cdef set own_generations        # buckets, likewise
    cdef set own_tags               # (bucket, tag), likewise
    cdef dict tags                  # key: its tags, for entries that have some
    cdef dict waiters               # key: [callable, ...]
    cdef readonly long link         # number of the link, new with every loss and every connection
    cdef readonly bint linked
    cdef readonly long long invalidations, fills_refused, remote_hits, misses, stale_serves, errors
    cdef readonly long long refreshes, refresh_failures, undecodable, unstorable, evictions

    cdef Fill add_fill(self, str key, double now)
    cdef bint put(self, Fill fill, object value, double lifetime, tags, double now) except -1
    cdef int note_tags(self, str key, tags) except -1
    cdef int drop_fill(self, Fill fill) except -1
    cdef int forget(self, str key) except -1
    cdef list tagged(self, str tag)
    cdef int wipe_entries(self) except -1
