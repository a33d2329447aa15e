"""Flights: a flight is one load that several callers wait for. Its waiters must not wait for themselves."""

from cpython.object cimport PyObject

from cachebox._platform.lock cimport SharedLock


cdef enum FlightState:
    PENDING
    COMPLETED                       # with the loaded value
    RAISED                          # with an error
    ABANDONED                       # the leader was interrupted or lost: another caller has to load


cdef class Flight:
    """What a leader's waiters share. It exists only if there are waiters."""
    cdef SharedLock shared_lock     # its lock guards the fields below
    cdef unsigned long thread       # the leader's thread and greenlet, as in `callers`
    cdef object greenlet
    cdef Course course              # None: no coroutine leads, and no thread acts for the leader
    cdef readonly int state
    cdef object result              # the value or the error
    cdef object traceback           # the error's traceback, as the leader raised it
    cdef dict waiters               # the `wake` of each waiter, in order
    cdef object copier              # of a cache that isolates: each waiter gets a copy

    cdef int wait(self) except -1
    cdef bint stands_still(self, Course course)
    cdef bint is_lost(self) except -1
    cdef int end(self, int state, object result, object traceback) except -1
    cdef object outcome(self)


cdef class Course:
    """A load or a wait for which others act: tasks and threads that carry the course in their context."""
    cdef unsigned long thread
    cdef object greenlet
    cdef bint is_green              # its caller waits in a hub for those that act for it
    cdef object task                # a weak reference to the task that leads; None: a thread leads
    cdef object goes_on             # a function: whether the task's event loop runs
    cdef dict awaited               # the waits of the code that it led to, each with its Flight
    cdef object before              # the token that takes it out of its context
    cdef bint over


cdef class Wait:
    """A wait for a flight. Until it ends, searches for circles can see it."""
    cdef Flight flight
    cdef object waiter              # its Waiter
    cdef object task                # the task that waits; None: a thread or greenlet waits
    cdef unsigned long thread
    cdef object greenlet
    cdef bint is_green              # it waits in a hub
    cdef dict known                 # the dict that registers the wait, or None
    cdef object key
    cdef object before              # the flight that the thread was waiting for when a signal handler began this wait
    cdef object wake                # called in any thread when the flight is done
    cdef list courses               # the courses that led to the code that waits
    cdef double began
    cdef object stands              # where the awaited leaders stood at the last look

    cdef bint is_circular(self, bint is_long) except -1
    cdef bint holds_up(self, Flight at) except -1


cdef PyObject* NOTHING              # stands for "no value", as a loader's result

cdef Flight new_flight(SharedLock shared_lock)
cdef int wake_all(Flight flight) except -1
cdef object raisable(object error)
