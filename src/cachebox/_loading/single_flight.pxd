"""Single flight: of the callers that miss one key at the same time, one loads it and the others wait for the result."""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from cachebox._engine.table cimport Entry
from cachebox._loading.flight cimport Course, Flight
from cachebox._store.operation cimport Operation
from cachebox._store.state cimport Reservation, Watch, reservation_of
from cachebox._store.store cimport Store


cdef class Leader:
    """A caller that loads a missing key, until the load ends. The key's entry points to it."""
    cdef Store store
    cdef Reservation place          # the reservation of the key's entry
    cdef unsigned long thread       # the caller's thread and greenlet, as in `callers`
    cdef object greenlet
    cdef Watch side_load            # if it is a side load: its watch
    cdef Flight flight              # the store's lock guards it; None: there are no waiters
    cdef Course course              # of a coroutine; the store's lock guards it
    cdef int64_t began              # the number of the store's invalidations when it began


cdef struct Joined:
    PyObject* value                 # the existing value, if there is one after all: a new reference
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
    """Whether a leader's value may be stored: its key was not written, removed or cleared. Needs the lock."""
    cdef const Entry* e = &self.table.entries[leader.place.i]
    if leader.side_load is not None:
        return leader.side_load.i != 0 and not leader.side_load.changed
    return leader.place.i < self.table.fresh and e.key != NULL and e.value == NULL and reservation_of(e) == &leader.place
