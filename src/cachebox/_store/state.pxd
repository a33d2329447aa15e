"""A cache's entries, and all that is kept for each: order, deadlines, weights, tags, watches. One lock guards them all.

All methods need the lock (but one, whose comment says so) and run no Python code. What leaves the cache goes into the
`Operation`.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from cachebox._engine.table cimport Engine, Entry, Moves, Table, hash_of, mixed
from cachebox._platform.lock cimport Lock, SharedLock
from cachebox._store.deadlines cimport Expiry
from cachebox._store.operation cimport Cause, Operation
from cachebox._store.python_policy cimport PythonPolicy
from cachebox._store.tags cimport TagLink, TagLinks
from cachebox._store.weights cimport Weights
from cachebox.stats cimport CacheStats


cdef enum Mode:                     # what makes an operation more than a lookup and a count
    EXPIRES = 1                     # some entry has a deadline
    IDLES = 2                       # a hit moves the deadline
    USER_CLOCK = 4                  # the clock is the user's: reading it runs Python code
    PYTHON_POLICY = 8               # the policy is the user's
    WEIGHED = 16
    HAS_CALLBACKS = 32              # there are callbacks
    WATCHED = 64                    # an open watch or a leader has to learn of a change to some entry
    DEFAULTS = 128                  # entries get a lifetime by default
    AHEAD = 256                     # a hit may be due for a refresh
    STALE = 512                     # expired entries are kept for a while, and served while they are refreshed
    TAGGED = 1024                   # some entry has tags
    NEGATIVE = 2048                 # failures are remembered: a write has to forget one
    PRECISE = 4096                  # the clock is time.monotonic, read without Python
    ISOLATED = 8192                 # values are copied on their way in and out

# a lifetime that `default_ttl` computes once the value is known; it is negative, as no real lifetime is
cdef double BY_VALUE

cdef enum Outcome:                  # of a change under the lock
    DONE
    NO_MEMORY                       # nothing was changed
    NO_ROOM                         # the python policy has to name a victim first, which needs the lock released


cdef double CLOCK_LAGS
cdef double VISITS_APART


cdef class Watch:
    """Learns whether a key was written. While it is open the key keeps its entry, reserved if need be."""
    cdef State store
    cdef uint32_t i                 # the entry; 0: not open, or the cache was cleared
    cdef unsigned long thread       # of the caller that opened it
    cdef object greenlet
    cdef bint ignores_own           # writes by that caller do not count
    cdef bint unsure                # its thread has written: `know_writer` has to find out which greenlet did
    cdef bint outlasts_expiry       # that the entry expires is no change
    cdef bint outlasts_eviction     # that the entry is evicted is no change
    cdef bint changed
    cdef PyObject* next   # the next watch in its bucket (borrowed: the caller that opened the watch keeps it alive)

    cdef bint open(self, uint32_t i) noexcept
    cdef void close(self, Operation* op) noexcept


cdef class State:
    cdef Engine engine
    cdef Table* table               # &engine.table
    cdef Engine first_engine   # the one it was made with: before __init__ has run, another thread may be reading that
    cdef Lock* lock                 # &shared_lock.lock
    cdef int64_t* counts            # statistics.counts
    cdef int modes
    cdef Py_ssize_t live            # entries that have a value
    cdef Py_ssize_t bound           # the most of them, `max_size`
    cdef bint unbounded             # the user set no `max_size`
    cdef Expiry expiry
    cdef double lifetime            # default lifetime in seconds; infinity: entries never expire; or BY_VALUE
    cdef object ttl_of              # the function that computes the lifetime then, or None
    cdef double jitter              # the share by which a lifetime may be shortened
    cdef uint64_t dice              # the state of the random numbers for that
    cdef double idle                # the idle limit in seconds; infinity: there is none
    cdef double latest              # the latest time that the user's clock has shown
    cdef double next_visit          # when the sweeper comes; infinity: it does not know this cache
    cdef double bound_weight        # infinity: entries weigh nothing
    cdef object max_weight_given    # the bound, as the user gave it; or None
    cdef object max_bytes_given
    cdef Weights weights
    cdef bint measures              # entries weigh what they take in memory
    cdef PyObject** watches         # a hash table of the open watches, by entry
    cdef uint32_t watch_mask
    cdef uint32_t watch_count
    cdef bint unsure                # some watch is unsure
    cdef uint32_t loads             # loads in progress
    cdef TagLinks links             # the tags of entries, under the lock
    cdef Engine tags                # the table of tags, with the Tag of each; None: no tag was ever used
    cdef Py_ssize_t tags_limit      # number of tags at which to look for unused ones
    cdef int64_t invalidations      # invalidations of tags so far
    cdef double stale               # seconds that an expired entry may still be served; 0.0 unless STALE
    cdef double ahead               # the share of a lifetime in which a hit starts a refresh; 0: none
    cdef double* ttls               # by entry, if AHEAD or STALE: the lifetime it was given
    cdef uint32_t ttls_known        # entries that `ttls` has room for
    cdef object loader              # the Loader for missing keys, or None
    cdef object failures            # the negative cache, a Failures; or None
    cdef dict refreshes             # the Refresh in progress, by key; None: the cache never refreshes
    cdef CacheStats statistics
    cdef SharedLock shared_lock
    cdef object clock
    cdef object weigher
    cdef object copier              # what copies values, if ISOLATED
    cdef object on_evict
    cdef object on_removal
    cdef PythonPolicy python_policy  # the user's policy, or None
    cdef object known               # the sweeper's weak reference, or None
    cdef str called                 # the cache's name, or None
    cdef dict troubles   # a Trouble for each thing that the log was warned about, by name; None: no warning yet
    cdef object __weakref__

    cdef void equip(self, Engine engine) noexcept
    cdef bint is_live(self, uint32_t i, double now) noexcept nogil
    cdef bint prepare(self, bint with_deadline) noexcept nogil
    cdef Outcome remove(self, uint32_t i, Cause cause, Operation* op) noexcept
    cdef Outcome make_room(self, Py_ssize_t entries, double weight, uint32_t kept, double now, Operation* op) noexcept
    cdef bint is_full(self, Py_ssize_t entries, double weight, uint32_t kept) noexcept nogil
    cdef Outcome write(
        self, uint32_t i, object key, uint64_t h, object value,
        double lifetime, bint keeps_end, double weight, double now, Operation* op,
    ) noexcept
    cdef void set_lifetime(self, uint32_t i, double lifetime, double now, Operation* op) noexcept nogil
    cdef void set_end(self, uint32_t i, double end, double now, Operation* op) noexcept nogil
    cdef void note_hit(self, uint32_t i, double now, Operation* op) noexcept nogil
    cdef void give_memory_back(self) noexcept
    cdef void follow(self, Moves* moves) noexcept
    cdef Py_ssize_t count_expired(self, double now) noexcept nogil
    cdef void take_tags(self, uint32_t i, Operation* op) noexcept
    cdef void give_tags(self, uint32_t i, TagLink* chain, Operation* op) noexcept
    cdef void forget_entries(self) noexcept nogil

    cdef void drop_reserved(self, uint32_t i, Operation* op) noexcept
    cdef bint is_watched(self, uint32_t i) noexcept
    cdef bint mark_changed(self, uint32_t i, Cause cause) noexcept
    cdef void mark_watch(self, PyObject* watch) noexcept
    cdef void close_watches(self, object greenlet) noexcept
    cdef void move_watches(self, uint32_t i, uint32_t to) noexcept
    cdef void more_buckets(self) noexcept
    cdef int know_writer(self) except -1         # call it without the lock


cdef uint32_t forks                 # number of forks between the first process and this one


cdef struct Reservation:            # a part of a `single_flight.Leader`
    uint32_t i                      # the key's entry, reserved until the load ends; 0: nothing is loaded
    PyObject* leader                # the Leader (borrowed)


cdef inline Reservation* reservation_of(const Entry* e) noexcept nogil:
    """The reservation of the leader of a reserved entry. NULL: there is no leader, the entry is only watched.

    It is kept in the entry's unused links, and borrowed: a leader that ends takes itself out.
    """
    return <Reservation*><size_t>(<uint64_t>e.prev | (<uint64_t>e.next << 32))


cdef inline void reserve(Entry* e, Reservation* reservation) noexcept nogil:
    e.prev = <uint32_t><size_t>reservation
    e.next = <uint32_t>(<uint64_t><size_t>reservation >> 32)
    e.aux = forks                   # after a fork, a leader of the parent must not be used: its thread is gone


cdef inline uint64_t hash_in(State self, object key) except? 0:
    """A key's hash, mixed for the cache's table."""
    return mixed(self.table, hash_of(<PyObject*>key))


cdef Watch new_watch(State state)
cdef list every_key(State state, bint reserved_too)
