"""Flights, and who waits for them; see `flight.pxd`.

Who waits, waits for a leader; a leader may itself wait for another flight, or for a task or thread that it started and
that waits. A wait that would keep the leader from going on must not begin: the caller loads alone instead. To see
circles, whoever waits is entered in `waiting`, and with the courses that led to its code, before it looks. What nobody
has told shows by where the leader stands, to those who have waited long (`stuck`).

Flights are objects, and nothing here keeps a task alive: what a left event loop was loading is garbage, which
the collector sees and ends. Where somebody keeps it, those who wait find out that its loop does not run, and go on.
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

cdef dict waiting = {}              # thread ident: the flight that the whole thread waits for
cdef dict waiting_in_hubs = {}      # address of a weak reference to a greenlet: the flight that it waits for
cdef dict delegations = {}          # courses of threads that wait until others have acted for them
led = ContextVar("cachebox_led", default=())
"""The courses that led to the code that runs."""


cdef class Flight:

    def __init__(self, task=None, goes_on=None):
        """A flight that the caller leads, and nobody finds by itself; a task's, if there is one."""
        self.shared_lock = SharedLock()
        self.thread = this_thread()
        self.greenlet = this_greenlet()
        self.waiters = {}
        self.course = Course(task, goes_on)

    cdef int wait(self) except -1:
        """Wait in this thread. Returns the state that the flight ended in, or FLYING: the caller has to load alone."""
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
        """What a waiter gets, once it is over and was not abandoned."""
        return self.outcome()

    cdef object outcome(self):
        if self.state == RAISED:
            raise raisable(self.result).with_traceback(self.traceback)  # the leader's: waiters must not lengthen it
        return self.result if self.copier is None or self.result is nothing else self.copier(self.result)

    cdef bint stands_still(self, Course course):
        """Whether its leader waits until others have acted for a course."""
        return course.thread == self.thread and (not course.is_green or course.greenlet is self.greenlet)

    cdef bint is_lost(self) except -1:
        """Whether a task leads that nobody will go on with: it is gone, or its event loop does not run."""
        if self.course is None or self.course.task is None or self.state != PENDING:
            return False
        return self.course.task() is None or not self.course.goes_on()

    def lost(self):
        """Whether it was given up: by its leader, or because nobody will go on with that."""
        if self.is_lost():
            self.give_up()
        return self.state == ABANDONED

    def hand_to(self, task, goes_on):
        """A task leads from now on, of which its event loop says whether it goes on."""
        self.course.goes_on = goes_on
        self.course.task = ref(task)

    def complete(self, result):
        """It is over, with a value."""
        self.end(COMPLETED, result, None)

    def give_up(self):
        """It is over, without a value: the next one leads. Nothing, where it is over already."""
        self.end(ABANDONED, None, None)

    cdef int end(self, int state, object result, object traceback) except -1:
        """The first end counts."""
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
        """It failed, and so does everybody who waits."""
        traceback = error.__traceback__
        try:
            shared = raisable(error)
        except Exception:                       # not to be had: the next one fails for itself
            self.give_up()
        else:
            self.end(RAISED, shared, traceback)

    def __enter__(self):
        """What runs in this context meanwhile acts for the leader."""
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
        """What runs in this context acts for it, until it leaves."""
        self.before = led.set(with_course(led.get(), self))

    def leave(self):
        """The code that acts for it is over."""
        before, self.before = self.before, None
        try:
            led.reset(before)
        except ValueError:                      # another context: of the collector, which closes what nobody waits for
            pass


def acting():
    """Whether the code that runs acts for a load, as far as contexts tell."""
    return any([not (<Course>course).over for course in led.get()])


cdef tuple with_course(tuple known, Course course):
    """The courses that led here, without those that are over, and one more."""
    return (*[other for other in known if not (<Course>other).over], course)


def delegate(waiter):
    """The caller is going to wait, by a waiter, until others have acted for it: a course for their contexts."""
    cdef Course course = Course()
    course.is_green = waiter.is_green
    delegations[course] = None
    return course


def undelegate(Course course):
    """The wait is over."""
    course.over = True
    delegations.pop(course, None)


def act_for(Course course, function):
    """Call a function that acts for whoever has that course."""
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
        """Become known to whoever looks for circles. False: it would be in vain, or the flight is over."""
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
        if self.task is None and in_section():          # the leader may want what this thread has
            return False
        return not self.flight.lost() and not self.is_circular(False)

    def begins(self):
        """Have the waiter woken when the flight is over. False: it is over already."""
        cdef Flight flight = self.flight
        cdef bint flying
        acquire(&flight.shared_lock.lock)
        try:                                    # the dict may find no memory
            flying = flight.state == PENDING
            if flying:
                flight.waiters[self.wake] = None    # such callables are hashed by address: no Python code runs
        finally:
            release(&flight.shared_lock.lock)
        return flying

    def is_in_vain(self):
        """Whether whoever has waited for a while should go on, alone if need be; to be asked now and then."""
        if self.flight.lost() or self.flight.state != PENDING:
            return True
        if monotonic() - self.began < LONG:
            return False
        if (self.flight.course is None or self.flight.course.task is None) and is_gone(self.flight.thread):
            self.flight.give_up()
            return True
        return self.is_circular(True)

    def ends(self):
        """The flight is over, or the wait was given up, or never began."""
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
            flight.waiters.pop(self.wake, None)     # not the last reference, so nothing runs
        release(&flight.shared_lock.lock)
        self.waiter.close()

    cdef bint is_circular(self, bint is_long) except -1:
        """Whether it keeps the one it waits for from going on.

        `is_long`: it has waited for long, and takes leaders that stand at one place for waiting for us.
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
        if self.task is not None:               # the loop goes on, with other tasks
            return task is None or task is self.task
        return not self.is_green or task is not None or not self.waiter.drives(at.greenlet)


cdef bint is_gone(unsigned long thread) except -1:
    from cachebox._platform.stuck import is_gone

    return is_gone(thread)


cdef Flight new_flight(SharedLock shared_lock):
    """A flight that this thread leads, which nobody finds by itself."""
    cdef Flight flight = Flight.__new__(Flight)
    flight.shared_lock = shared_lock
    flight.waiters = {}
    flight.thread = this_thread()
    flight.greenlet = this_greenlet()
    return flight


cdef object raisable(object error):
    """See `exceptions`, which only some builds need."""
    return error if HAS_GIL else copied_if_need_be(error)


cdef int wake_all(Flight flight) except -1:
    if flight is not None:
        for wake in flight.waiters:             # nobody joins or leaves any more
            wake()
    return 0


def _after_fork():
    waiting.clear()
    waiting_in_hubs.clear()
    delegations.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
