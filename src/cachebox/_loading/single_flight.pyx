"""Single flight; see `single_flight.pxd`.

The leader reserves the key's entry, and its links point back to the leader. Whoever writes or removes the key or clears
the cache breaks that connection; what the leader gets then goes to its callers, but not into the cache. A load that is
to be done alone, beside one that leads, has a watch on the key instead.

Who waits, waits for a leader; a leader may itself wait for another flight, or for a task or thread that it started and
that waits. A wait that would keep the leader from going on must not begin: the caller loads alone instead. To see
circles, whoever waits is entered in `waiting`, and with the courses that led to its code, before it looks. What nobody
has told shows by where the leader stands, to those who have waited long (`stuck`).

Leaders and flights are objects, and nothing here keeps a task alive: what a left event loop was loading is garbage, which
the collector sees and ends. Where somebody keeps it, those who wait find out that its loop does not run, and go on.
"""

from _contextvars import ContextVar
from _weakref import ref
from time import monotonic

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

import os

from cachebox._engine.table cimport Entry, incref
from cachebox._platform.callers cimport this_greenlet, this_thread
from cachebox._platform.section cimport in_section
from cachebox._platform.lock cimport HAS_GIL, Guard, acquire, release
from cachebox._store.operation cimport EXPIRED, Operation, start
from cachebox.stats cimport MISSES
from cachebox._store.state cimport DONE, NO_MEMORY, Reservation, forks, reservation_of, reserve
from cachebox._store.store cimport Store
from cachebox._store.tags cimport Label, free_labels, make_room_for_labels, new_labels, some_dropped, some_invalidated_since

from cachebox._platform.callers import LONG, PULSE, standing, waiter as new_waiter


if not HAS_GIL:
    from cachebox._platform.exceptions import one_more as copied_if_need_be


cdef object nothing = object()
NOTHING = <PyObject*>nothing

cdef dict waiting = {}              # thread ident: the flight that the whole thread waits for
cdef dict waiting_in_hubs = {}      # address of a weak reference to a greenlet: the flight that it waits for
cdef dict delegations = {}          # courses of threads that wait until others have acted for them
led = ContextVar("cachebox_led", default=())
"""The courses that led to the code that runs."""


# --- waiting ----------------------------------------------------------------------------------------------------------

cdef class Flight:

    def __init__(self, task=None, goes_on=None):
        """A flight that the caller leads, and nobody finds by itself; a task's, if there is one."""
        self.guard = Guard()
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
    def is_over(self):
        return self.state != FLYING

    @property
    def was_abandoned(self):
        return self.state == ABANDONED

    def get(self):
        """What a waiter gets, once it is over and was not abandoned."""
        return self.outcome()

    cdef object outcome(self):
        if self.state == CRASHED:
            raise one_more(self.result).with_traceback(self.traceback)  # the leader's: waiters must not lengthen it
        return self.result if self.copier is None or self.result is nothing else self.copier(self.result)

    cdef bint stands_still(self, Course course):
        """Whether its leader waits until others have acted for a course."""
        return course.thread == self.thread and (not course.is_green or course.greenlet is self.greenlet)

    cdef bint is_lost(self) except -1:
        """Whether a task leads that nobody will go on with: it is gone, or its event loop does not run."""
        if self.course is None or self.course.task is None or self.state != FLYING:
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

    def land(self, result):
        """It is over, with a value."""
        self.end(LANDED, result, None)

    def give_up(self):
        """It is over, without a value: the next one leads. Nothing, where it is over already."""
        self.end(ABANDONED, None, None)

    cdef int end(self, int state, object result, object traceback) except -1:
        """The first end counts."""
        acquire(&self.guard.lock)
        first = self.state == FLYING
        if first:
            self.result = result
            self.traceback = traceback
            self.state = state
            if self.course is not None:
                self.course.over = True
        release(&self.guard.lock)
        if first:
            wake_all(self)
        return 0

    def crash(self, error):
        """It failed, and so does everybody who waits."""
        traceback = error.__traceback__
        try:
            shared = one_more(error)
        except Exception:                       # not to be had: the next one fails for itself
            self.give_up()
        else:
            self.end(CRASHED, shared, traceback)

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
        acquire(&flight.guard.lock)
        flying = flight.state == FLYING
        if flying:
            flight.waiters[self.wake] = None    # such callables are hashed by address: no Python code runs
        release(&flight.guard.lock)
        return flying

    def is_in_vain(self):
        """Whether whoever has waited for a while should go on, alone if need be; to be asked now and then."""
        if self.flight.lost() or self.flight.state != FLYING:
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
        acquire(&flight.guard.lock)
        if flight.state == FLYING:
            flight.waiters.pop(self.wake, None)     # not the last reference, so nothing runs
        release(&flight.guard.lock)
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
            if at is None or at.state != FLYING or at in seen:
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


# --- leading ----------------------------------------------------------------------------------------------------------

@cython.freelist(16)
@cython.no_gc_clear                 # to end, it needs its store
cdef class Leader:

    def __dealloc__(self):
        if self.place.i != 0 and self.store is not None:
            crash(self.store, self, None)

    def begin(self, task, goes_on):
        """A coroutine leads, of an asyncio task or of none. Its course is part of the context until `course.leave()`."""
        course = Course(task, goes_on)
        self.follow(course)
        course.enter()
        return course

    def follow(self, Course course not None):
        """A coroutine leads that leads others, too."""
        acquire(self.store.lock)
        self.course = course                    # not shared before it is whole
        flight = self.flight
        if flight is not None:
            flight.course = course
        release(self.store.lock)

    def crashed(self, error):
        """The load failed."""
        crash(self.store, self, error)

    @property
    def joined(self):
        """What others wait for, or did; None: nobody ever has."""
        acquire(self.store.lock)
        flight = self.flight
        release(self.store.lock)
        return flight

    @property
    def is_awaited(self):
        """Whether somebody waits for its flight just now."""
        cdef Flight flight = self.joined
        return flight is not None and len(flight.waiters) != 0


cdef Leader new_leader(Store store):
    """Somebody who is going to load a key, or to find out who does."""
    cdef Leader leader = Leader.__new__(Leader)
    leader.store = store
    leader.place.leader = <PyObject*>leader
    leader.thread = this_thread()
    leader.greenlet = this_greenlet()
    return leader


cdef Flight board(Store store, object key, uint64_t h, Leader leader, Ticket* ticket):
    """Find out who loads a missing key.

    Returns the flight to wait for, or None: then `ticket.value` is the value that the key has after all, or that is
    NULL and it is `leader` who loads, alone if it has a watch for that.
    """
    cdef Operation op
    cdef double now
    cdef uint32_t i
    cdef Entry* e
    cdef Reservation* other
    cdef Flight flight = None
    cdef bint opened, leads_on
    while True:
        ticket.value = NULL
        known = None
        start(&op)
        try:
            now = store.now(0.0)
            i = store.find_to_change(key, h, &op)
            e = &store.table.entries[i]
            if e.value != NULL:
                if store.is_live(i, now):
                    if not ticket.counted:
                        store.note_hit(i, now, &op)
                    ticket.value = e.value
                    incref(ticket.value)
                    release(store.lock)
                    return None
                if store.remove(i, EXPIRED, &op) != DONE:
                    release(store.lock)
                    raise MemoryError("no memory left to remove an entry")
                if e.key == NULL:
                    i = 0
            if not ticket.counted:
                store.counts[MISSES] += 1
                ticket.counted = True
            other = reservation_of(e) if leader.alone is None and i != 0 and e.aux == forks else NULL
            leads_on = other != NULL
            if leads_on:
                known = (<Leader>other.leader).flight
                if known is None and flight is not None:
                    flight.thread = (<Leader>other.leader).thread
                    flight.greenlet = (<Leader>other.leader).greenlet
                    flight.course = (<Leader>other.leader).course
                    (<Leader>other.leader).flight = known = flight
                leads_on = known is None or (<Flight>known).state == FLYING     # else it was given up: the key is free
            if leads_on:
                release(store.lock)
                if known is not None:
                    return known
            else:
                if i == 0 and store.prepare(False):
                    i = store.engine.insert(<PyObject*>key, h)
                opened = i != 0 and take_off(store, i, leader, &op)
                release(store.lock)
                if not opened:
                    raise MemoryError("no memory left to load an entry")
                return None
        finally:
            store.finish_with(&op, ticket.value)
        flight = Flight.__new__(Flight)         # not under the lock: making an object may run the collector
        flight.guard = store.guard
        flight.waiters = {}
        flight.copier = store.copier


cdef int lead_anew(Store store, object key, uint64_t h, Leader leader) except -1:
    """Let a leader load a key whatever value it has, and whoever is loading it: what those get is not stored.

    The value stays until the new one lands, and whoever writes the key meanwhile wins.
    """
    cdef Operation op
    cdef uint32_t i
    cdef bint opened
    cdef Watch watch = Watch.__new__(Watch)
    watch.store = store
    watch.only_writes = True
    start(&op)
    try:
        i = store.find_to_change(key, h, &op)
        if i != 0:
            store.touch_watches(i, False)
            if store.table.entries[i].value != NULL:
                leader.alone = watch
            else:
                reserve(&store.table.entries[i], NULL)
        elif store.prepare(False):
            i = store.engine.insert(<PyObject*>key, h)
        opened = i != 0 and take_off(store, i, leader, &op)
        release(store.lock)
        if not opened:
            raise MemoryError("no memory left to load an entry")
    finally:
        store.finish(&op)
    return 0


cdef Leader leader_by_watch(Store store, Watch watch):
    """Somebody who has loaded a key that was watched meanwhile; None: it was written."""
    cdef Leader leader = new_leader(store)
    acquire(store.lock)
    if watch.i != 0 and not watch.touched:
        leader.alone = watch
        leader.place.i = watch.i
        store.loads += 1
    release(store.lock)
    return leader if leader.place.i != 0 else None


cdef bint take_off(Store store, uint32_t i, Leader leader, Operation* op) noexcept:
    """Let the leader load the key of a reserved entry, under the lock. False: no memory."""
    leader.place.i = i
    if leader.alone is None:
        reserve(&store.table.entries[i], &leader.place)
    elif not leader.alone.open(i):
        leader.place.i = 0
        if store.table.entries[i].value == NULL:
            store.drop_reserved(i, op)
        return False
    store.loads += 1
    return True


cdef int land(
    Store store, object key, uint64_t h, Leader leader, object value, double lifetime, double weight, bint stored,
    tuple tags, int64_t began,
) except -1:
    """End a load with a value, and store it, unless the key was changed meanwhile or it is not to be `stored`.

    Nor is it stored if one of its tags was invalidated since the load `began`.
    """
    cdef Operation op
    cdef double now = store.now(lifetime) if stored else 0.0
    cdef int outcome = DONE
    cdef Flight flight = None
    cdef Label* chain = NULL
    cdef list known
    start(&op)
    try:
        while True:
            if tags and stored and chain == NULL:
                known = store.find_tags(tags)               # kept alive until their labels are stuck
                chain = new_labels(known)
            if store.foreign is not None:
                store.foreign.enter(&op, store.lock)
            store.lock_again(&op)
            outcome = DONE
            if chain != NULL and some_dropped(chain):
                release(store.lock)
                free_labels(chain)
                chain = NULL
                continue
            if stored and leads(store, leader) and not some_invalidated_since(chain, began):
                if chain != NULL and not make_room_for_labels(&store.labels, store.table.capacity):
                    outcome = NO_MEMORY
                else:
                    outcome = store.write(entry_of(leader), key, h, value, lifetime, False, weight, now, &op)
                if outcome == DONE and chain != NULL:
                    store.give_tags(op.i, chain, &op)
                    chain = NULL
                    tags = None
            if outcome == DONE:
                flight = end(store, leader, LANDED, value, None, &op)
            release(store.lock)
            if outcome == DONE:
                break
            if outcome == NO_MEMORY:
                raise MemoryError("no memory left to store an entry")
            store.evict_foreign(&op)
        wake_all(flight)
    finally:
        free_labels(chain)
        store.finish(&op)
    return 0


cdef inline uint32_t entry_of(Leader leader) noexcept:
    """Where the key stands whose value a leader has loaded, if it may be stored. Under the lock."""
    return leader.place.i if leader.alone is None else leader.alone.i


cdef bint still_leads(Store store, Leader leader) noexcept:
    """Whether nobody has written, removed or cleared the leader's key."""
    cdef bint still
    if leader.place.i == 0:
        return False
    acquire(store.lock)
    still = leads(store, leader)
    release(store.lock)
    return still


cdef Flight new_flight(Guard guard):
    """A flight that this thread leads, which nobody finds by itself."""
    cdef Flight flight = Flight.__new__(Flight)
    flight.guard = guard
    flight.waiters = {}
    flight.thread = this_thread()
    flight.greenlet = this_greenlet()
    return flight


cdef int crash(Store store, Leader leader, object error) except -1:
    """End a load with an exception, which reaches all who wait; one that is not an Exception ends only its leader."""
    cdef Operation op
    cdef Flight flight
    cdef int state = CRASHED if isinstance(error, Exception) else ABANDONED     # may run its class's code: not locked
    if leader.place.i == 0:
        return 0                                # it has ended: what was raised came after that
    traceback = error.__traceback__ if error is not None else None
    if state == CRASHED:
        try:
            error = one_more(error)
        except Exception:                       # not to be had: the next one fails for itself
            state = ABANDONED
    start(&op)
    acquire(store.lock)
    flight = end(store, leader, state, error, traceback, &op)
    release(store.lock)
    wake_all(flight)
    return store.finish(&op)


cdef Flight end(Store store, Leader leader, int state, object result, object traceback, Operation* op):
    """The leader leads no more. Returns its flight, if anybody waits, for `wake_all`. Under the lock."""
    cdef Flight flight
    if leader.alone is not None:
        leader.alone.close(op)
    elif leads(store, leader):
        reserve(&store.table.entries[leader.place.i], NULL)
        store.drop_reserved(leader.place.i, op)
    leader.place.i = 0
    store.loads -= 1
    if leader.course is not None:
        leader.course.over = True
    if leader.flight is None or leader.flight.state != FLYING:
        return None                             # nobody waits, or those who did have given it up
    flight = leader.flight
    leader.flight = None
    flight.result = result
    flight.traceback = traceback
    flight.state = state
    return flight


cdef object one_more(object error):
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
