"""Single flight; see `single_flight.pxd`.

The leader reserves the key's entry, whose links point back to the leader. A write or removal of the key, or a clear,
breaks that connection. Then the leader's value goes to its callers, but not into the cache. A side load, next to the
leader's, has a watch on the key instead.
"""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from cachebox._engine.table cimport Entry, incref
from cachebox._loading.flight cimport ABANDONED, COMPLETED, PENDING, RAISED, Course, Flight, raisable, wake_all
from cachebox._platform.callers cimport this_greenlet, this_thread
from cachebox._platform.lock cimport acquire, release
from cachebox._store.operation cimport EXPIRED, NO_CAUSE, Operation, start
from cachebox._store.state cimport DONE, NO_MEMORY, Reservation, Watch, forks, new_watch, reservation_of, reserve
from cachebox._store.store cimport Store
from cachebox._store.tags cimport (
    TagLink, free_links, make_room_for_links, new_links, some_dropped, some_invalidated_since,
)
from cachebox.stats cimport MISSES


@cython.freelist(16)
@cython.no_gc_clear                 # it needs its store in order to end
cdef class Leader:

    def __dealloc__(self):
        if self.place.i != 0 and self.store is not None:
            fail(self.store, self, None)

    def begin(self, task, goes_on):
        """Let a coroutine lead, in a task or in none. Its course is in the context until `course.leave()`."""
        course = Course(task, goes_on)
        self.follow(course)
        course.enter()
        return course

    def follow(self, Course course not None):
        """Let a coroutine lead that leads other keys, too."""
        acquire(self.store.lock)
        self.course = course                    # shared only when it is complete
        flight = self.flight
        if flight is not None:
            flight.course = course
        release(self.store.lock)

    def fail(self, error):
        """End the load with a failure."""
        fail(self.store, self, error)

    @property
    def joined(self):
        """The flight that others wait for, or waited for; None: there never were waiters."""
        acquire(self.store.lock)
        flight = self.flight
        release(self.store.lock)
        return flight

    @property
    def is_awaited(self):
        """Whether its flight has waiters at the moment."""
        cdef Flight flight = self.joined
        return flight is not None and len(flight.waiters) != 0


cdef Leader new_leader(Store store):
    """A caller that is going to load a key, or to find out which one does."""
    cdef Leader leader = Leader.__new__(Leader)
    leader.store = store
    leader.place.leader = <PyObject*>leader
    leader.thread = this_thread()
    leader.greenlet = this_greenlet()
    return leader


cdef Flight join_or_lead(Store store, object key, uint64_t h, Leader leader, Joined* joined):
    """Find out which caller loads a missing key.

    Returns the flight to wait for, or None. If it is None and `joined.value` is not NULL, the key has that value after
    all. Otherwise `leader` loads; as a side load if it has a watch for that.
    """
    cdef Operation op
    cdef double now
    cdef uint32_t i
    cdef Entry* e
    cdef Reservation* other
    cdef Flight flight = None
    cdef bint opened, leads_on
    while True:
        joined.value = NULL
        known = None
        start(&op)
        try:
            now = store.now(0.0)
            i = store.find_to_change(key, h, &op)
            e = &store.table.entries[i]
            if e.value != NULL:
                if store.is_live(i, now):
                    if not joined.counted:
                        store.note_hit(i, now, &op)
                    joined.value = e.value
                    incref(joined.value)
                    release(store.lock)
                    return None
                if store.remove(i, EXPIRED, &op) != DONE:
                    release(store.lock)
                    raise MemoryError("no memory left to remove an entry")
                if e.key == NULL:
                    i = 0
            if not joined.counted:
                store.counts[MISSES] += 1
                joined.counted = True
            other = reservation_of(e) if leader.side_load is None and i != 0 and e.aux == forks else NULL
            leads_on = other != NULL
            if leads_on:
                known = (<Leader>other.leader).flight
                if known is None and flight is not None:
                    flight.thread = (<Leader>other.leader).thread
                    flight.greenlet = (<Leader>other.leader).greenlet
                    flight.course = (<Leader>other.leader).course
                    (<Leader>other.leader).flight = known = flight
                leads_on = known is None or (<Flight>known).state == PENDING    # else it was abandoned: the key is free
            if leads_on:
                release(store.lock)
                if known is not None:
                    return known
            else:
                if i == 0 and store.prepare(False):
                    i = store.engine.insert(<PyObject*>key, h)
                opened = i != 0 and start_leading(store, i, leader, &op)
                release(store.lock)
                if not opened:
                    raise MemoryError("no memory left to load an entry")
                return None
        finally:
            store.finish_with(&op, joined.value)
        flight = Flight.__new__(Flight)         # not under the lock, because making an object may run the collector
        flight.shared_lock = store.shared_lock
        flight.waiters = {}
        flight.copier = store.copier


cdef int lead_reload(Store store, object key, uint64_t h, Leader leader) except -1:
    """Let a leader load a key even if it has a value or a leader. The result of that other leader is not stored.

    The old value stays until the new one is stored. A write of the key meanwhile wins.
    """
    cdef Operation op
    cdef uint32_t i
    cdef bint opened
    cdef Watch watch = new_watch(store)
    watch.outlasts_expiry = watch.outlasts_eviction = True
    start(&op)
    try:
        i = store.find_to_change(key, h, &op)
        if i != 0:
            store.mark_changed(i, NO_CAUSE)
            if store.table.entries[i].value != NULL:
                leader.side_load = watch
            else:
                reserve(&store.table.entries[i], NULL)
        elif store.prepare(False):
            i = store.engine.insert(<PyObject*>key, h)
        opened = i != 0 and start_leading(store, i, leader, &op)
        release(store.lock)
        if not opened:
            raise MemoryError("no memory left to load an entry")
    finally:
        store.finish(&op)
    return 0


cdef Leader leader_by_watch(Store store, Watch watch):
    """A leader that has loaded a key under a watch; None: the key was written meanwhile."""
    cdef Leader leader = new_leader(store)
    acquire(store.lock)
    if watch.i != 0 and not watch.changed:
        leader.side_load = watch
        leader.place.i = watch.i
        store.loads += 1
    release(store.lock)
    return leader if leader.place.i != 0 else None


cdef bint start_leading(Store store, uint32_t i, Leader leader, Operation* op) noexcept:
    """Let the leader load the key of a reserved entry. Needs the lock. False: no memory."""
    leader.place.i = i
    if leader.side_load is None:
        reserve(&store.table.entries[i], &leader.place)
    elif not leader.side_load.open(i):
        leader.place.i = 0
        if store.table.entries[i].value == NULL:
            store.drop_reserved(i, op)
        return False
    store.loads += 1
    return True


cdef int complete(
    Store store, object key, uint64_t h, Leader leader, object value, double lifetime, double weight, bint stored,
    tuple tags, int64_t began,
) except -1:
    """End a load with a value. Store it if `stored`, unless the key was changed meanwhile.

    It is not stored either if one of its tags was invalidated since the load `began`.
    """
    cdef Operation op
    cdef double now = store.now(lifetime) if stored else 0.0
    cdef int outcome = DONE
    cdef Flight flight = None
    cdef TagLink* chain = NULL
    cdef list known
    start(&op)
    try:
        while True:
            if tags and stored and chain == NULL:
                known = store.find_tags(tags)               # kept alive until their links are attached
                chain = new_links(known)
            if store.python_policy is not None:
                store.python_policy.enter(&op, store.lock)
            store.lock_again(&op)
            outcome = DONE
            if chain != NULL and some_dropped(chain):
                release(store.lock)
                free_links(chain)
                chain = NULL
                continue
            if stored and may_store(store, leader) and not some_invalidated_since(chain, began):
                if chain != NULL and not make_room_for_links(&store.links, store.table.capacity):
                    outcome = NO_MEMORY
                else:
                    outcome = store.write(entry_of(leader), key, h, value, lifetime, False, weight, now, &op)
                if outcome == DONE and chain != NULL:
                    store.give_tags(op.i, chain, &op)
                    chain = NULL
                    tags = None
            if outcome == DONE:
                flight = end(store, leader, COMPLETED, value, None, &op)
            release(store.lock)
            if outcome == DONE:
                break
            if outcome == NO_MEMORY:
                raise MemoryError("no memory left to store an entry")
            store.evict_by_policy(&op)
        wake_all(flight)
    finally:
        free_links(chain)
        store.finish(&op)
    return 0


cdef inline uint32_t entry_of(Leader leader) noexcept:
    """The entry for a leader's value, if that may be stored. Needs the lock."""
    return leader.place.i if leader.side_load is None else leader.side_load.i


cdef bint still_leads(Store store, Leader leader) noexcept:
    """Whether the leader's key was not written, removed or cleared."""
    cdef bint still
    if leader.place.i == 0:
        return False
    acquire(store.lock)
    still = may_store(store, leader)
    release(store.lock)
    return still


cdef int fail(Store store, Leader leader, object error) except -1:
    """End a load with an exception, which all waiters raise.

    An exception that is no `Exception` is the leader's alone: the flight is abandoned.
    """
    cdef Operation op
    cdef Flight flight
    # may run code of the error's class: not under the lock
    cdef int state = RAISED if isinstance(error, Exception) else ABANDONED
    if leader.place.i == 0:
        return 0                                # it has ended: the exception came later
    traceback = error.__traceback__ if error is not None else None
    if state == RAISED:
        try:
            error = raisable(error)
        except Exception:                       # it cannot be copied: the next caller loads and fails for itself
            state = ABANDONED
    start(&op)
    acquire(store.lock)
    flight = end(store, leader, state, error, traceback, &op)
    release(store.lock)
    wake_all(flight)
    return store.finish(&op)


cdef Flight end(Store store, Leader leader, int state, object result, object traceback, Operation* op):
    """End a leader's load. Returns its flight, if there are waiters, for `wake_all`. Needs the lock."""
    cdef Flight flight
    if leader.side_load is not None:
        leader.side_load.close(op)
    elif may_store(store, leader):
        reserve(&store.table.entries[leader.place.i], NULL)
        store.drop_reserved(leader.place.i, op)
    leader.place.i = 0
    store.loads -= 1
    if leader.course is not None:
        leader.course.over = True
    if leader.flight is None or leader.flight.state != PENDING:
        return None                             # there are no waiters, or they have given up
    flight = leader.flight
    leader.flight = None
    flight.result = result
    flight.traceback = traceback
    flight.state = state
    return flight
