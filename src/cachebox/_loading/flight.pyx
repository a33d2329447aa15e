"""Flights and their waiters; see `flight.pxd`.

Deadlock avoidance: a leader may itself be waiting, directly or through a task or thread that it started. A wait that
would close a circle is not begun; the caller loads alone. A waiter registers in `waiting`, and in the courses that led
to its code, before it searches for a circle. So of two waits that would close a circle together, at least one sees it.
Some circles are not registered. After a long wait the waiter guesses them from where the leader stands (`stuck`).

Flights are objects, and nothing here keeps a task alive. So the load of an abandoned event loop is garbage, which the
collector finds and ends. If the loop is kept alive, the waiters find out that it does not run, and go on.
"""

from _contextvars import ContextVar
from _weakref import ref
from time import monotonic

from cpython.object cimport PyObject

import os

from cachebox._platform.callers cimport this_greenlet, this_thread
from cachebox._platform.lock cimport HAS_GIL, SharedLock, acquire, release
from cachebox._platform.section cimport in_section

from cachebox._platform.callers import LONG, PULSE, standing, waiter as new_waiter


if not HAS_GIL:
    from cachebox._platform.exceptions import raisable as copied_if_need_be


cdef object nothing = object()
NOTHING = <PyObject*>nothing

cdef dict waiting = {}              # the flight that a whole thread waits for, by thread ident
cdef dict waiting_in_hubs = {}      # the flight that a greenlet waits for, by the address of a weak reference to it
cdef dict delegations = {}          # courses of threads that wait until others have acted for them
led = ContextVar("cachebox_led", default=())
"""The courses that led to the running code."""


cdef class Flight:

    def __init__(self, task=None, goes_on=None):
        """Make a flight that the caller or its task leads.

        It is not registered: only those that are given it can wait.
        """
        self.shared_lock = SharedLock()
        self.thread = this_thread()
        self.greenlet = this_greenlet()
        self.waiters = {}
        self.course = Course(task, goes_on)

    cdef int wait(self) except -1:
        """Wait in this thread. Returns the state that the flight ended in; PENDING: the caller has to load alone."""
        wait = Wait(self, new_waiter())
        try:
            if wait.may_begin() and wait.begins():
                while not wait.waiter.wait(PULSE) and not wait.is_in_vain():
                    pass
        finally:
            wait.ends()
        return self.state

    @property
    def is_done(self):
        return self.state != PENDING

    @property
    def was_abandoned(self):
        return self.state == ABANDONED

    def get(self):
        """What a waiter gets, once the flight is done and was not abandoned."""
        return self.outcome()

    cdef object outcome(self):
        if self.state == RAISED:
            # the leader's, because waiters must not lengthen it
            raise raisable(self.result).with_traceback(self.traceback)
        return self.result if self.copier is None or self.result is nothing else self.copier(self.result)

    cdef bint stands_still(self, Course course):
        """Whether its leader is the caller that waits until others have acted for `course`."""
        return course.thread == self.thread and (not course.is_green or course.greenlet is self.greenlet)

    cdef bint is_lost(self) except -1:
        """Whether a task leads that will not go on: it is gone, or its event loop does not run."""
        if self.course is None or self.course.task is None or self.state != PENDING:
            return False
        return self.course.task() is None or not self.course.goes_on()

    def lost(self):
        """Whether the load was abandoned: by its leader, or because it will not go on."""
        if self.is_lost():
            self.give_up()
        return self.state == ABANDONED

    def hand_to(self, task, goes_on):
        """Let a task lead from now on. `goes_on` says whether its event loop runs."""
        self.course.goes_on = goes_on
        self.course.task = ref(task)

    def complete(self, result):
        """End it with a value."""
        self.end(COMPLETED, result, None)

    def give_up(self):
        """End it without a value, so that the next caller leads. Does nothing if it has ended."""
        self.end(ABANDONED, None, None)

    cdef int end(self, int state, object result, object traceback) except -1:
        """End it, unless it has ended."""
        acquire(&self.shared_lock.lock)
        first = self.state == PENDING
        if first:
            self.result = result
            self.traceback = traceback
            self.state = state
            if self.course is not None:
                self.course.over = True
        release(&self.shared_lock.lock)
        if first:
            wake_all(self)
        return 0

    def fail(self, error):
        """End it with an error, which every waiter raises."""
        traceback = error.__traceback__
        try:
            shared = raisable(error)
        except Exception:                       # it cannot be copied: the next caller loads and fails for itself
            self.give_up()
        else:
            self.end(RAISED, shared, traceback)

    def __enter__(self):
        """Code that runs in this context until `__exit__` acts for the leader."""
        self.course.before = led.set(with_course(led.get(), self.course))

    def __exit__(self, *raised):
        self.course.leave()


cdef class Course:

    def __init__(self, task=None, goes_on=None):
        self.thread = this_thread()
        self.greenlet = this_greenlet()
        self.task = ref(task) if task is not None else None
        self.goes_on = goes_on
        self.awaited = {}

    def enter(self):
        """Code that runs in this context until `leave` acts for it."""
        self.before = led.set(with_course(led.get(), self))

    def leave(self):
        """End the part of the context that acts for it."""
        before, self.before = self.before, None
        try:
            led.reset(before)
        except ValueError:   # another context: that of the collector, which closes abandoned coroutines
            pass


def acting():
    """Whether the running code acts for a load, as far as contexts tell."""
    return any([not (<Course>course).over for course in led.get()])


cdef tuple with_course(tuple known, Course course):
    """Courses without those that have ended, and with one more."""
    return (*[other for other in known if not (<Course>other).over], course)


def delegate(waiter):
    """A course for the contexts of those that act for this caller, which is about to wait for them with `waiter`."""
    cdef Course course = Course()
    course.is_green = waiter.is_green
    delegations[course] = None
    return course


def undelegate(Course course):
    """End the wait of a delegated course."""
    course.over = True
    delegations.pop(course, None)


def act_for(Course course, function):
    """Call a function that acts for the caller that has the course."""
    before = led.set(with_course(led.get(), course))
    try:
        return function()
    finally:
        led.reset(before)


cdef class Wait:

    def __init__(self, Flight flight, waiter):
        self.flight = flight
        self.waiter = waiter
        self.wake = waiter.wake
        self.task = waiter.task
        self.thread = this_thread()
        self.greenlet = this_greenlet()
        self.is_green = waiter.is_green
        self.courses = [course for course in led.get() if not (<Course>course).over]
        self.began = monotonic()

    def may_begin(self):
        """Register the wait, for searches for circles. False: it would be in vain, or the flight is done."""
        if self.task is None:
            if self.is_green:
                self.known = waiting_in_hubs
                self.key = <size_t><PyObject*>self.greenlet
            else:
                self.known = waiting
                self.key = self.thread
            self.before = self.known.get(self.key)
            self.known[self.key] = self.flight
        for course in self.courses:
            (<Course>course).awaited[self] = self.flight
        if self.task is None and in_section():          # the leader may need what this thread holds
            return False
        return not self.flight.lost() and not self.is_circular(False)

    def begins(self):
        """Have the waiter woken when the flight is done. False: it is done already."""
        cdef Flight flight = self.flight
        cdef bint pending
        acquire(&flight.shared_lock.lock)
        try:                                    # the dict may find no memory
            pending = flight.state == PENDING
            if pending:
                flight.waiters[self.wake] = None    # such callables are hashed by address: no Python code runs
        finally:
            release(&flight.shared_lock.lock)
        return pending

    def is_in_vain(self):
        """Whether the waiter should go on, alone if need be. To be asked once a pulse."""
        if self.flight.lost() or self.flight.state != PENDING:
            return True
        if monotonic() - self.began < LONG:
            return False
        if (self.flight.course is None or self.flight.course.task is None) and is_gone(self.flight.thread):
            self.flight.give_up()
            return True
        return self.is_circular(True)

    def ends(self):
        """End the wait: the flight is done, or the wait was given up or never began."""
        cdef Flight flight = self.flight
        if self.known is not None:
            if self.before is None:
                self.known.pop(self.key, None)
            else:
                self.known[self.key] = self.before
            self.known = None
        for course in self.courses:
            (<Course>course).awaited.pop(self, None)
        acquire(&flight.shared_lock.lock)
        if flight.state == PENDING:
            flight.waiters.pop(self.wake, None)     # not the last reference, so no code runs
        release(&flight.shared_lock.lock)
        self.waiter.close()

    cdef bint is_circular(self, bint is_long) except -1:
        """Whether this wait keeps its leader from going on.

        `is_long`: it has lasted long. Then a leader that stays at one place is taken for waiting for this caller.
        """
        cdef Flight at
        cdef Course course
        cdef list ahead = [self.flight]
        cdef dict stands = {}
        cdef bint waits
        cdef set seen = set()
        while ahead:
            at = ahead.pop()
            if at is None or at.state != PENDING or at in seen:
                continue
            seen.add(at)
            if self.holds_up(at):
                return True
            waits = at.thread in waiting
            ahead.append(waiting.get(at.thread))
            if at.greenlet is not None:
                waits = waits or <size_t><PyObject*>at.greenlet in waiting_in_hubs
                ahead.append(waiting_in_hubs.get(<size_t><PyObject*>at.greenlet))
            if at.course is not None:
                ahead.extend(list(at.course.awaited.values()))
            for course in list(delegations):
                if at.stands_still(course):
                    waits = True
                    ahead.extend(list(course.awaited.values()))
            if is_long and not waits:
                task = at.course.task() if at.course is not None and at.course.task is not None else None
                stands[at] = standing(at.thread, at.greenlet, task)
        if is_long:
            stood, self.stands = self.stands, stands
            for known, place in stands.items():
                if place is not None and stood is not None and stood.get(known) == place:
                    return True
        return False

    cdef bint holds_up(self, Flight at) except -1:
        """Whether the leader of a flight cannot go on while this wait lasts."""
        cdef Course course
        for course in self.courses:
            if course is at.course:
                return True
            if course in delegations and at.stands_still(course):
                return True
        if at.thread != self.thread:
            return False
        task = at.course.task() if at.course is not None and at.course.task is not None else None
        if self.task is not None:               # the event loop goes on, with other tasks
            return task is None or task is self.task
        return not self.is_green or task is not None or not self.waiter.drives(at.greenlet)


cdef bint is_gone(unsigned long thread) except -1:
    from cachebox._platform.stuck import is_gone

    return is_gone(thread)


cdef Flight new_flight(SharedLock shared_lock):
    """A flight that this thread leads. It is not registered."""
    cdef Flight flight = Flight.__new__(Flight)
    flight.shared_lock = shared_lock
    flight.waiters = {}
    flight.thread = this_thread()
    flight.greenlet = this_greenlet()
    return flight


cdef object raisable(object error):
    """`exceptions.raisable`, imported only by builds that need it."""
    return error if HAS_GIL else copied_if_need_be(error)


cdef int wake_all(Flight flight) except -1:
    if flight is not None:
        for wake in flight.waiters:             # the flight is done: no waiter joins or leaves any more
            wake()
    return 0


def _after_fork():
    waiting.clear()
    waiting_in_hubs.clear()
    delegations.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
