"""A flight: one load that several callers wait for, and how they wait without waiting for themselves."""

from cpython.object cimport PyObject

from cachebox._platform.lock cimport SharedLock


cdef enum FlightState:
    PENDING
    COMPLETED                       # with what was loaded
    RAISED                          # with an error
    ABANDONED                       # the leader was interrupted, or is lost: somebody else has to load


cdef class Flight:
    """What those who wait for a leader share. It exists only if somebody waits."""
    cdef SharedLock shared_lock     # its lock guards the rest
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


cdef PyObject* NOTHING              # what stands for "there is none": what a loader says

cdef Flight new_flight(SharedLock shared_lock)
cdef int wake_all(Flight flight) except -1
cdef object raisable(object error)
