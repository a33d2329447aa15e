"""Single flight; see `flight.pxd`.

The leader reserves the key's entry, and its links point back to the leader. Whoever writes or removes the key or clears
the cache breaks that connection; what the leader gets then goes to its callers, but not into the cache. A load that is
to be done alone, beside one that leads, has a watch on the key instead.

Who waits, waits for a leader; a leader may itself wait for another flight, or for a task or thread that it started and
that waits. A wait that would close a circle must not begin: the caller loads alone instead. To see circles, whoever
waits is entered in `waiting`, and with the leads that led to its code, before it looks.
"""

from _thread import allocate_lock
from _weakref import ref

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

import os

from cachebox._engine.table cimport Entry, incref
from cachebox.lock cimport HAS_GIL, acquire, release
from cachebox.operation cimport EXPIRED, Operation, start
from cachebox.stats cimport MISSES
from cachebox.store cimport DONE, NO_MEMORY, Leader, Store, Watch, forks, leader_of, leads, set_leader
from cachebox.tags cimport Label, free_labels, make_room_for_labels, new_labels, some_dropped, some_invalidated_since


cdef extern from "pythread.h":
    unsigned long this_thread "PyThread_get_thread_ident"() noexcept nogil


cdef extern from *:
    """
    #define CB_TAKE_FLIGHT(reference) ((PyObject *)(reference))
    """
    object take_over "CB_TAKE_FLIGHT"(PyObject*)


if not HAS_GIL:
    from cachebox.shared_errors import one_more as copied_if_need_be


cdef dict waiting = {}              # thread ident or asyncio task: the flight that it waits for
cdef object led_in_context = None   # ContextVar: weak references to Leads, once coroutines have any; see `leading`


# --- waiting ----------------------------------------------------------------------------------------------------------

cdef class Flight:

    cdef int wait(self) except -1:
        """Wait in this thread. Returns the state that the flight ended in, or FLYING: waiting would close a circle."""
        landed = allocate_lock()
        landed.acquire()
        wait = Wait(self, None, landed.release)
        try:
            if not wait.may_begin():
                return FLYING
            if wait.begins():
                landed.acquire()
        finally:
            wait.ends()
        return self.state

    @property
    def was_abandoned(self):
        return self.state == ABANDONED

    def get(self):
        """What a waiter gets, once it is over and was not abandoned."""
        return self.outcome()

    cdef object outcome(self):
        if self.state == CRASHED:
            raise one_more(self.result).with_traceback(self.traceback)  # the leader's: waiters must not lengthen it
        return self.result


cdef class Wait:

    def __init__(self, Flight flight, task, wake):
        self.flight = flight
        self.task = task
        self.who = this_thread() if task is None else task
        self.wake = wake
        self.leads = leading()

    def may_begin(self):
        """Become known to whoever looks for circles. False: it would close one itself."""
        self.before = waiting.get(self.who)
        waiting[self.who] = self.flight
        for lead in self.leads:
            (<Lead>lead).awaited[self] = self.flight
        return not closes_circle(self)

    def begins(self):
        """Have `wake` called when the flight is over. False: it is over already."""
        cdef Flight flight = self.flight
        cdef bint flying
        acquire(&flight.guard.lock)
        flying = flight.state == FLYING
        if flying:
            flight.waiters[self.wake] = None    # such callables are hashed by address: no Python code runs
        release(&flight.guard.lock)
        return flying

    def ends(self):
        """The flight is over, or the wait was given up, or never began."""
        cdef Flight flight = self.flight
        if self.before is None:
            waiting.pop(self.who, None)
        else:
            waiting[self.who] = self.before
        for lead in self.leads:
            (<Lead>lead).awaited.pop(self, None)
        acquire(&flight.guard.lock)
        if flight.state == FLYING:
            flight.waiters.pop(self.wake, None)     # not the last reference, so nothing runs
        release(&flight.guard.lock)


cdef list leading():
    """The Leads that led to the code that runs: in this task, or in one that started it, or its thread."""
    if led_in_context is None:
        return []
    return [lead for lead in [known() for known in led_in_context.get(())] if leads_still(lead)]


cdef bint leads_still(Lead lead) noexcept:
    return lead is not None and lead.leader.i != 0


cdef bint closes_circle(Wait wait) except -1:
    """Whether it would be a wait for oneself."""
    cdef Flight at
    cdef unsigned long thread = this_thread()
    cdef list ahead = [wait.flight]
    cdef set seen = set()
    while ahead:
        at = ahead.pop()
        if at is None or at.state != FLYING or at in seen:
            continue
        seen.add(at)
        task = awaited = None
        if at.lead is not None:
            if at.lead in wait.leads:
                return True
            acquire(&at.guard.lock)
            task = at.lead.task
            awaited = at.lead.awaited
            release(&at.guard.lock)
        if at.thread == thread and (wait.task is None or task is None or task is wait.task):
            return True             # a waiting thread stands still, with all its tasks
        ahead.append(waiting.get(at.thread))
        if task is not None:
            ahead.append(waiting.get(task))
        if awaited is not None:
            ahead.extend((<dict>awaited).values())
    return False


# --- leading ----------------------------------------------------------------------------------------------------------

@cython.no_gc_clear                 # to end, it needs its store
cdef class Lead:

    def __cinit__(self):
        self.leader.lead = <PyObject*>self
        self.awaited = {}

    def __dealloc__(self):
        if self.leader.i != 0 and self.store is not None:
            crash(self.store, &self.leader, None)

    def begin(self, task, tuple led):
        """An asyncio task, or None, leads it. Returns `led`, what led to that task's code, with this lead added."""
        acquire(self.store.lock)
        self.task = task
        release(self.store.lock)
        return (*[known for known in led if leads_still(known())], ref(self))

    def crashed(self, error):
        """The load failed."""
        crash(self.store, &self.leader, error)


cdef Flight board(Store store, object key, uint64_t h, Leader* leader, Ticket* ticket):
    """Find out who loads a missing key.

    Returns the flight to wait for, or None: then `ticket.value` is the value that the key has after all, or that is
    NULL and it is `leader` who loads, alone if it has a watch for that.
    """
    cdef Operation op
    cdef double now
    cdef uint32_t i
    cdef Entry* e
    cdef Leader* other
    cdef Flight flight = None
    cdef bint opened
    while True:
        ticket.value = NULL
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
            if leader.alone == NULL and i != 0 and leader_of(e) != NULL and e.aux == forks:
                other = leader_of(e)
                if other.flight == NULL and flight is not None:
                    flight.thread = other.thread
                    flight.lead = <Lead>other.lead if other.lead != NULL else None
                    other.flight = <PyObject*>flight
                    incref(other.flight)
                known = <object>other.flight if other.flight != NULL else None
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


cdef bint take_off(Store store, uint32_t i, Leader* leader, Operation* op) noexcept:
    """Let the leader load the key of a reserved entry, under the lock. False: no memory."""
    leader.i = i
    leader.thread = this_thread()
    leader.flight = NULL
    if leader.alone == NULL:
        set_leader(&store.table.entries[i], leader)
    elif not (<Watch>leader.alone).open(i):
        leader.i = 0
        store.drop_reserved(i, op)
        return False
    store.loads += 1
    return True


cdef int land(
    Store store, object key, uint64_t h, Leader* leader, object value, double lifetime, double weight, bint stored,
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
                store.foreign.enter(&op)
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
                    outcome = store.write(leader.i, key, h, value, lifetime, False, weight, now, &op)
                if outcome == DONE and chain != NULL:
                    store.give_tags(op.i, chain)
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


cdef bint still_leads(Store store, const Leader* leader) noexcept:
    """Whether nobody has written, removed or cleared the leader's key."""
    cdef bint still
    if leader.i == 0:
        return False
    acquire(store.lock)
    still = leads(store, leader)
    release(store.lock)
    return still


cdef Flight new_flight(Store store):
    """A flight that this thread leads, which nobody finds by itself."""
    cdef Flight flight = Flight.__new__(Flight)
    flight.guard = store.guard
    flight.waiters = {}
    flight.thread = this_thread()
    return flight


cdef int crash(Store store, Leader* leader, object error) except -1:
    """End a load with an exception, which reaches all who wait; one that is not an Exception ends only its leader."""
    cdef Operation op
    cdef Flight flight
    cdef int state = CRASHED if isinstance(error, Exception) else ABANDONED     # may run its class's code: not locked
    if leader.i == 0:
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


cdef Flight end(Store store, Leader* leader, int state, object result, object traceback, Operation* op):
    """The leader leads no more. Returns its flight, if anybody waits, for `wake_all`. Under the lock."""
    cdef Flight flight
    if leader.alone != NULL:
        (<Watch>leader.alone).close(op)
    elif leads(store, leader):
        set_leader(&store.table.entries[leader.i], NULL)
        store.drop_reserved(leader.i, op)
    leader.i = 0
    store.loads -= 1
    if leader.flight == NULL:
        return None
    flight = take_over(leader.flight)
    leader.flight = NULL
    flight.result = result
    flight.traceback = traceback
    flight.state = state
    return flight


cdef object one_more(object error):
    """See `shared_errors`, which only some builds need."""
    return error if HAS_GIL else copied_if_need_be(error)


cdef int wake_all(Flight flight) except -1:
    if flight is not None:
        for wake in flight.waiters:             # nobody joins or leaves any more
            wake()
    return 0


def use_context(variable):
    """The ContextVar that `coroutines` keeps."""
    global led_in_context
    led_in_context = variable


def _after_fork():
    waiting.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
