"""Single flight: of all that miss one key at the same time, one loads it and the others wait for what it gets."""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from cachebox._engine.table cimport Entry
from cachebox._loading.flight cimport Course, Flight
from cachebox._store.operation cimport Operation
from cachebox._store.state cimport Reservation, Watch, reservation_of
from cachebox._store.store cimport Store


cdef class Leader:
    """Whoever loads a missing key: it owns the flight until it lands. The key's entry points to it."""
    cdef Store store
    cdef Reservation place          # of the key's entry
    cdef unsigned long thread       # who it is, as `callers` has it
    cdef object greenlet
    cdef Watch side_load            # its watch, if it does not lead but loads beside who does
    cdef Flight flight              # what others wait for. Under the store's lock; None: nobody waits
    cdef Course course              # a coroutine's. Under the store's lock
    cdef int64_t began              # when, on the store's clock of invalidations


cdef struct Joined:
    PyObject* value                 # what the key has after all: a new reference
    bint counted                    # the caller's miss has been counted


cdef Leader new_leader(Store store)
cdef Flight join_or_lead(Store store, object key, uint64_t h, Leader leader, Joined* joined)
cdef Leader leader_by_watch(Store store, Watch watch)
cdef int lead_anew(Store store, object key, uint64_t h, Leader leader) except -1
cdef int complete(
    Store store, object key, uint64_t h, Leader leader, object value, double lifetime, double weight, bint stored,
    tuple tags, int64_t began,
) except -1
cdef int fail(Store store, Leader leader, object error) except -1
cdef bint still_leads(Store store, Leader leader) noexcept


cdef inline bint may_store(Store self, Leader leader) noexcept:
    """Whether what a leader loads may be stored: nobody has written, removed or cleared its key. Under the lock."""
    cdef const Entry* e = &self.table.entries[leader.place.i]
    if leader.side_load is not None:
        return leader.side_load.i != 0 and not leader.side_load.changed
    return leader.place.i < self.table.fresh and e.key != NULL and e.value == NULL and reservation_of(e) == &leader.place
