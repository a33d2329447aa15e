"""Single flight: of all that miss one key at the same time, one loads it and the others wait for what it gets."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from cachebox.lock cimport Guard
from cachebox.operation cimport Operation
from cachebox.store cimport Leader, Store, Watch


cdef enum State:
    FLYING
    LANDED                          # with what was loaded
    CRASHED                         # with an error
    ABANDONED                       # the leader was interrupted: somebody else has to load


cdef class Flight:
    """What those who wait for a leader share. It exists only if somebody waits."""
    cdef Guard guard                # its lock guards the rest
    cdef unsigned long thread       # the leader's
    cdef Lead lead                  # of a coroutine; None: the thread itself leads
    cdef int state
    cdef object result              # ... or the error
    cdef object traceback           # the error's, as the leader raised it
    cdef dict waiters               # what wakes those who wait: callables, in order

    cdef int wait(self) except -1
    cdef object outcome(self)


cdef class Lead:
    """A load that a coroutine leads, or does alone."""
    cdef Store store
    cdef Leader leader
    cdef Watch alone                # its watch, if it does not lead
    cdef int64_t began              # when, on the store's clock of invalidations
    cdef object task                # the asyncio task, or None. Under the store's lock, as the next one
    cdef dict awaited               # what the code that it led to waits for: Wait: Flight
    cdef object __weakref__


cdef class Wait:
    """Somebody waits for a flight. Until that ends it is known to whoever looks for circles."""
    cdef Flight flight
    cdef object who                 # a thread's ident, or an asyncio task
    cdef object task                # the task, or None
    cdef object before              # what the thread was waiting for when a signal handler began to wait
    cdef object wake                # called, in any thread, when the flight is over
    cdef list leads                 # the Leads that led to the code that waits


cdef struct Ticket:
    PyObject* value                 # what the key has after all: a new reference
    bint counted                    # the caller's miss has been counted


cdef Flight board(Store store, object key, uint64_t h, Leader* leader, Ticket* ticket)
cdef int land(
    Store store, object key, uint64_t h, Leader* leader, object value, double lifetime, double weight, bint stored,
    tuple tags, int64_t began,
) except -1
cdef int crash(Store store, Leader* leader, object error) except -1
cdef bint still_leads(Store store, const Leader* leader) noexcept
cdef Flight new_flight(Store store)
cdef int wake_all(Flight flight) except -1
