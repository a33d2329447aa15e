"""Single flight: of all that miss one key at the same time, one loads it and the others wait for what it gets."""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from cachebox._engine.table cimport Entry
from cachebox._platform.lock cimport Guard
from cachebox._store.operation cimport Operation
from cachebox._store.state cimport Reservation, Watch, reservation_of
from cachebox._store.store cimport Store


cdef enum State:
    FLYING
    LANDED                          # with what was loaded
    CRASHED                         # with an error
    ABANDONED                       # the leader was interrupted, or is lost: somebody else has to load


cdef class Flight:
    """What those who wait for a leader share. It exists only if somebody waits."""
    cdef Guard guard                # its lock guards the rest
    cdef unsigned long thread       # the leader's, and its greenlet, as `callers` has them
    cdef object greenlet
    cdef Course course              # None: no coroutine leads, and nobody acts for the leader
    cdef readonly int state
    cdef object result              # ... or the error
    cdef object traceback           # the error's, as the leader raised it
    cdef dict waiters               # what wakes those who wait: callables, in order
    cdef object copier              # of a cache that isolates: each of those who wait gets a copy

    cdef int wait(self) except -1
    cdef bint stands_still(self, Course course)
    cdef bint is_lost(self) except -1
    cdef int end(self, int state, object result, object traceback) except -1
    cdef object outcome(self)


cdef class Course:
    """A load or a wait that others act for: tasks and threads that carry it in their context."""
    cdef unsigned long thread
    cdef object greenlet
    cdef bint is_green              # it waits in a hub for those who act for it
    cdef object task                # a weak reference to the task that leads; None: a thread does
    cdef object goes_on             # says whether its event loop runs
    cdef dict awaited               # what the code that it led to waits for: Wait: Flight
    cdef object before              # how to leave its context
    cdef bint over


cdef class Leader:
    """Whoever loads a missing key: it owns the flight until it lands. The key's entry points to it."""
    cdef Store store
    cdef Reservation place          # of the key's entry
    cdef unsigned long thread       # who it is, as `callers` has it
    cdef object greenlet
    cdef Watch alone                # its watch, if it does not lead but loads beside who does
    cdef Flight flight              # what others wait for. Under the store's lock; None: nobody waits
    cdef Course course              # a coroutine's. Under the store's lock
    cdef int64_t began              # when, on the store's clock of invalidations


cdef class Wait:
    """Somebody waits for a flight. Until that ends it is known to whoever looks for circles."""
    cdef Flight flight
    cdef object waiter              # what it waits by
    cdef object task                # the task that waits; None: the thread does, or its greenlet
    cdef unsigned long thread
    cdef object greenlet
    cdef bint is_green              # it waits in a hub
    cdef dict known                 # where it stands, if it does, and as what
    cdef object key
    cdef object before              # what the thread was waiting for when a signal handler began to wait
    cdef object wake                # called, in any thread, when the flight is over
    cdef list courses               # those that led to the code that waits
    cdef double began
    cdef object stands              # where the one that is waited for stood when it was last looked for

    cdef bint is_circular(self, bint is_long) except -1
    cdef bint holds_up(self, Flight at) except -1


cdef struct Ticket:
    PyObject* value                 # what the key has after all: a new reference
    bint counted                    # the caller's miss has been counted


cdef PyObject* NOTHING              # what stands for "there is none": what a loader says

cdef Leader new_leader(Store store)
cdef Flight board(Store store, object key, uint64_t h, Leader leader, Ticket* ticket)
cdef Leader leader_by_watch(Store store, Watch watch)
cdef int lead_anew(Store store, object key, uint64_t h, Leader leader) except -1
cdef int land(
    Store store, object key, uint64_t h, Leader leader, object value, double lifetime, double weight, bint stored,
    tuple tags, int64_t began,
) except -1
cdef int crash(Store store, Leader leader, object error) except -1
cdef bint still_leads(Store store, Leader leader) noexcept
cdef Flight new_flight(Guard guard)
cdef int wake_all(Flight flight) except -1


cdef inline bint leads(Store self, Leader leader) noexcept:
    """Whether what a leader loads may be stored: nobody has written, removed or cleared its key. Under the lock."""
    cdef const Entry* e = &self.table.entries[leader.place.i]
    if leader.alone is not None:
        return leader.alone.i != 0 and not leader.alone.touched
    return leader.place.i < self.table.fresh and e.key != NULL and e.value == NULL and reservation_of(e) == &leader.place
