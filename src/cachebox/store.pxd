"""The mechanics under `Cache`: entries with their order, ends and weights, changed as one.

Every method says whether it needs the lock. Those that do neither run Python code nor let the lock go, with one
exception that its comment names: finding a key. What leaves the cache goes into the `Operation`; `finish` sees to it.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from cachebox._engine.table cimport UNCERTAIN, Engine, Entry, Table, incref, lookup, note_use
from cachebox.expiry cimport Expiry, coarse_now, is_over, precise_now
from cachebox.foreign cimport Foreign
from cachebox.lock cimport Guard, Lock, acquire, release
from cachebox.operation cimport FAILED, Cause, Operation
from cachebox.stats cimport HITS, CacheStats
from cachebox.tags cimport Label, Labels


cdef enum Mode:                     # what makes an operation more than looking up and counting
    EXPIRES = 1                     # some entry has a deadline
    IDLES = 2                       # a hit moves the deadline
    CLOCKED = 4                     # the clock is the user's: reading it runs Python code
    FOREIGN = 8                     # the policy is the user's
    WEIGHED = 16
    LISTENED = 32                   # there are callbacks
    WATCHED = 64                    # somebody has to learn of a change to some entry
    DEFAULTS = 128                  # entries have a lifetime unless told otherwise
    AHEAD = 256                     # a hit may be the time to load the entry anew
    STALE = 512                     # what has expired is kept for a while, and served while it is loaded anew
    TAGGED = 1024                   # some entry has tags
    PRECISE = 4096                  # the clock is time.monotonic, read without Python
    NEGATIVE = 2048                 # failures are remembered: a write has to forget one

cdef enum Outcome:                  # of a change under the lock
    DONE
    NO_MEMORY                       # nothing was changed
    NO_ROOM                         # the user's policy has to name a victim first, which needs the lock released


cdef struct Leader:                 # whoever loads a missing key: on the stack of its call, or in a coroutine's Lead
    uint32_t i                      # the key's entry, reserved until it lands
    unsigned long thread
    PyObject* lead                  # the coroutine's Lead (borrowed), or NULL
    PyObject* alone                 # its Watch (borrowed), if it does not lead but loads beside who does; or NULL
    PyObject* flight                # what others wait for (owned); NULL: nobody waits


cdef class Watch:
    """Learns whether a key was written. While it is open the key keeps its entry, reserved if need be."""
    cdef Store store
    cdef uint32_t i                 # the entry; 0: not open, or the cache was cleared
    cdef unsigned long thread       # who opened it
    cdef bint ignores_own           # what that thread writes does not count
    cdef bint only_writes           # neither does that the entry expires
    cdef bint touched
    cdef PyObject* next             # the watches in one bucket (borrowed: whoever opened it keeps it alive)

    cdef bint open(self, uint32_t i) noexcept
    cdef void close(self, Operation* op) noexcept


cdef struct Row:                    # an entry, copied out; owns its references
    PyObject* key
    PyObject* value
    double end                      # the deadline that hits do not move
    double deadline
    double span                     # the lifetime that it was given, if the cache keeps that
    double weight
    uint64_t rank
    PyObject** tags                 # Tags, with NULL at their end; NULL: none


cdef class Store:
    cdef Engine engine
    cdef Table* table               # &engine.table
    cdef Lock* lock                 # &guard.lock
    cdef int64_t* counts            # _stats.counts
    cdef int modes
    cdef Py_ssize_t live            # entries that have a value
    cdef Py_ssize_t bound           # the most of them
    cdef Expiry expiry
    cdef double lifetime            # seconds that an entry lives unless told otherwise; infinity: for ever
    cdef double idle                # seconds that it lives without a hit; likewise
    cdef double latest              # the latest time that the user's clock told
    cdef double next_visit          # when the sweeper comes; infinity: it does not know this cache
    cdef double bound_weight        # infinity: entries weigh nothing
    cdef double total_weight
    cdef double* weights            # by entry
    cdef uint32_t weights_known     # entries that `weights` has room for
    cdef PyObject** watches         # a hash table of the open watches, by entry
    cdef uint32_t watch_mask
    cdef uint32_t watch_count
    cdef uint32_t loads             # under way
    cdef Labels labels              # the tags of entries, under the lock
    cdef dict tags                  # tag: its Tag; None: there never were any
    cdef object tags_turn           # a lock around changes of that dict
    cdef uint32_t tags_forks        # the process that made it
    cdef Py_ssize_t tags_limit      # tags in the dict at which to look for unused ones
    cdef int64_t invalidations      # of tags
    cdef double stale               # seconds that an expired entry may still be served; 0.0 unless STALE
    cdef double ahead               # the share of a lifetime in which a hit loads the entry anew
    cdef double eagerness           # ... or XFetch's beta; 0: neither
    cdef double* spans              # by entry, if AHEAD or STALE: the lifetime that it was given
    cdef uint32_t spans_known       # entries that `spans` has room for
    cdef object loader              # what loads a missing key: a Loader, or None
    cdef object failures            # failed loads that are remembered: a Failures, or None
    cdef dict refreshes             # key: the Refresh that is under way; None: the cache has no use for it
    cdef CacheStats statistics
    cdef Guard guard
    cdef object clock
    cdef object weigher
    cdef object on_evict
    cdef object on_removal
    cdef Foreign foreign            # the user's policy, or None
    cdef object known               # the sweeper's weak reference, or None
    cdef object __weakref__

    # without the lock
    cdef int equip(self, Engine engine, Guard guard) except -1
    cdef double now(self, double lifetime) except? -1.0
    cdef double weigh(self, object key, object value) except -1.0
    cdef int finish(self, Operation* op) except -1
    cdef int finish_with(self, Operation* op, PyObject* held) except -1
    cdef object settle(self, Operation* op)
    cdef int take_back(self, Operation* op) except -1
    cdef object notify(self, object key, object value, Cause cause)
    cdef int put(
        self, object key, uint64_t h, object value, double lifetime, double weight, bint only_new, Operation* op
    ) except -1
    cdef int evict_foreign(self, Operation* op) except -1
    cdef void lock_again(self, Operation* op) noexcept nogil
    cdef uint32_t find_victim(self, Operation* op) except FAILED
    cdef Py_ssize_t purge(self, bint stale_too) except -1
    cdef Py_ssize_t size(self) except -1
    cdef int put_tagged(
        self, object key, uint64_t h, object value, double lifetime, double weight, tuple names, Operation* op
    ) except -1
    cdef list find_tags(self, tuple names)
    cdef object turn_of_tags(self)
    cdef int drop_unused_tags(self) except -1
    cdef void remove_forgotten(self, object key, Operation* op) noexcept
    cdef double sweep(self) except? -1.0
    cdef Py_ssize_t copy_rows(self, Row** rows) except -1
    cdef Py_ssize_t copy_foreign_rows(self, Row** rows, double now) except -1
    cdef int empty(self, bint statistics_too) except -1

    # takes the lock and leaves it held; lets it go while keys are compared; an exception leaves it released
    cdef uint32_t find(self, object key, uint64_t h, Operation* op) except FAILED
    cdef uint32_t find_to_change(self, object key, uint64_t h, Operation* op) except FAILED

    # with the lock
    cdef bint is_live(self, uint32_t i, double now) noexcept nogil
    cdef bint prepare(self, bint with_deadline) noexcept nogil
    cdef Outcome remove(self, uint32_t i, Cause cause, Operation* op) noexcept
    cdef Outcome make_room(self, Py_ssize_t entries, double weight, uint32_t kept, double now, Operation* op) noexcept
    cdef Outcome write(
        self, uint32_t i, object key, uint64_t h, object value,
        double lifetime, bint keeps_end, double weight, double now, Operation* op,
    ) noexcept
    cdef void set_end(self, uint32_t i, double end, double now, Operation* op) noexcept nogil
    cdef void note_hit(self, uint32_t i, double now, Operation* op) noexcept nogil
    cdef void give_memory_back(self) noexcept nogil
    cdef void copy_row(self, uint32_t i, Row* row, bint* failed) noexcept
    cdef void take_tags(self, uint32_t i) noexcept
    cdef void give_tags(self, uint32_t i, Label* chain) noexcept
    cdef void drop_reserved(self, uint32_t i, Operation* op) noexcept
    cdef bint is_watched(self, uint32_t i) noexcept
    cdef bint touch_watches(self, uint32_t i, bint expired) noexcept
    cdef Py_ssize_t overdue(self, double now) noexcept nogil
    cdef void close_watches(self) noexcept
    cdef void more_buckets(self) noexcept


cdef void free_rows(Row* rows, Py_ssize_t n) noexcept

cdef uint32_t forks                 # between the first process and this one


cdef inline Leader* leader_of(const Entry* e) noexcept nogil:
    """Who loads the value of a reserved entry, whose links are free for it; NULL: nobody does, it is only watched."""
    return <Leader*><size_t>(<uint64_t>e.prev | (<uint64_t>e.next << 32))


cdef inline void set_leader(Entry* e, Leader* leader) noexcept nogil:
    e.prev = <uint32_t><size_t>leader
    e.next = <uint32_t>(<uint64_t><size_t>leader >> 32)
    e.aux = forks                   # after a fork, leaders of before are not to be looked at: their threads are gone


cdef inline bint leads(Store self, const Leader* leader) noexcept nogil:
    """Whether what a leader loads may be stored: nobody has written, removed or cleared its key. Under the lock."""
    cdef const Entry* e = &self.table.entries[leader.i]
    if leader.alone != NULL:
        return (<Watch>leader.alone).i != 0 and not (<Watch>leader.alone).touched
    return leader.i < self.table.fresh and e.key != NULL and e.value == NULL and leader_of(e) == leader


cdef double as_float(object number) except? -1.0
