"""Refresh-ahead and serve-stale; `refresh.pxd` has the overview."""

from cpython.object cimport PyObject
from libc.float cimport DBL_MAX
from libc.math cimport INFINITY
from libc.stdint cimport uint32_t, uint64_t

from cachebox._engine.table cimport decref, incref, on_hit
from cachebox._loading.flight cimport COMPLETED, PENDING, Course, Flight, new_flight, wake_all
from cachebox._loading.loader cimport NOTHING, Loader
from cachebox._platform.lock cimport acquire, release
from cachebox._store.deadlines cimport deadline, deadline_after, set_deadline
from cachebox._store.notices cimport note_failure, note_success
from cachebox._store.operation cimport EXPLICIT, Operation, start
from cachebox._store.state cimport (
    AHEAD, BY_VALUE, DONE, IDLES, NO_MEMORY, PYTHON_POLICY, STALE, TAGGED, Outcome, forks, new_watch,
)
from cachebox._store.store cimport Store
from cachebox.stats cimport HITS, REFRESH_FAILURES, REFRESHES, STALE_SERVES

from cachebox._platform.guard import report


cdef class Refresh:

    def run(self):
        """Load the value in a thread of the pool, and store it unless the key was changed meanwhile."""
        try:
            if self.begin():
                try:
                    value = self.store.loader(self.key)
                except Exception as error:
                    self.failed(error)
                else:
                    self.loaded(value)
        except BaseException as error:          # of a weigher or a callback: no caller waits for it, so it is reported
            report(error, self.run)
        finally:
            self.end()

    def hand_to(self, task, goes_on):
        """Let a task load. `goes_on` says whether its event loop runs."""
        self.task = task
        self.goes_on = goes_on

    def begin(self):
        """Begin. False: the value need not be loaded any more."""
        cdef Flight flight
        if self.is_void() or (self.store.loader is None and not self.by_call):
            return False
        flight = new_flight(self.store.shared_lock)
        if self.task is not None:
            flight.course = Course(self.task, self.goes_on)
            flight.__enter__()
        self.flight = flight
        return True

    def loaded(self, value):
        """Store the new value; or remove the old one, if the loader has none any more."""
        cdef double weight
        self.count(REFRESHES)
        if <PyObject*>value == NOTHING:
            self.complete_nothing()
        else:
            value = self.store.copy_of(value)
            weight = self.store.weigh(self.key, value)
            if self.store.lifetime == BY_VALUE:
                self.lifetime = self.store.lifetime_for(BY_VALUE, self.key, value)
            if weight <= self.store.bound_weight:
                self.complete(value, weight)
        note_success(self.store, "refresh")

    def succeeded(self):
        """Count a refresh by a call, whose result has been stored."""
        self.count(REFRESHES)
        note_success(self.store, "refresh")

    def failed(self, error):
        """Count a failure. The old value stays until its deadline, and a later `get` tries again."""
        self.count(REFRESH_FAILURES)
        note_failure(self.store, "refresh", error)

    @property
    def loader(self):
        return self.store.loader

    def give_up(self):
        """End it without running it."""
        self.end()

    cdef bint is_void(self) noexcept:
        cdef bint void
        acquire(self.store.lock)
        void = self.watch.i == 0 or self.watch.changed
        release(self.store.lock)
        return void

    cdef int count(self, int counter) except -1:
        acquire(self.store.lock)
        self.store.counts[counter] += 1
        release(self.store.lock)
        return 0

    cdef int complete(self, object value, double weight) except -1:
        cdef Store store = self.store
        cdef Operation op
        cdef Outcome outcome
        cdef double now = store.now(self.lifetime), end
        cdef uint32_t i
        start(&op)
        try:
            while True:
                if store.python_policy is not None:
                    store.python_policy.enter(&op, store.lock)
                store.lock_again(&op)
                outcome = DONE
                i = self.watch.i
                if i != 0 and not self.watch.changed and (store.table.entries[i].value != NULL or not self.tagged):
                    end = INFINITY
                    if store.table.entries[i].value != NULL:
                        end = deadline(&store.expiry, i)
                        if store.lifetime != BY_VALUE:
                            self.lifetime = store.ttls[i]   # `touch` may have changed it
                    if end < INFINITY:
                        set_deadline(&store.expiry, i, INFINITY)        # it is replaced, whether it has expired or not
                    outcome = store.write(i, self.key, self.h, value, self.lifetime, False, weight, now, &op)
                    if outcome != DONE and end < INFINITY:
                        set_deadline(&store.expiry, i, end)
                    elif outcome == DONE and store.jitter != 0.0 and store.lifetime != BY_VALUE:
                        # the lifetime has been shortened once
                        store.set_end(op.i, deadline_after(now, self.lifetime), now, &op)
                if outcome == DONE:
                    self.watch.close(&op)
                release(store.lock)
                if outcome == DONE:
                    return 0
                if outcome == NO_MEMORY:
                    raise MemoryError("no memory left to store an entry")
                store.evict_by_policy(&op)
        finally:
            store.finish(&op)

    cdef int complete_nothing(self) except -1:
        """Remove the old value, because the loader has none any more."""
        cdef Store store = self.store
        cdef Operation op
        cdef uint32_t i
        cdef Outcome outcome = DONE
        start(&op)
        try:
            if store.python_policy is not None:
                store.python_policy.enter(&op, store.lock)
            acquire(store.lock)
            i = self.watch.i
            if i != 0 and not self.watch.changed and store.table.entries[i].value != NULL:
                outcome = store.remove(i, EXPLICIT, &op)
            release(store.lock)
            if outcome != DONE:
                raise MemoryError("no memory left to remove an entry")
        finally:
            store.finish(&op)
        return 0

    def end(self):
        """End it. Its waiters look for the value themselves."""
        cdef Operation op
        cdef Flight flight = self.flight
        start(&op)
        acquire(self.store.lock)
        self.watch.close(&op)
        if flight is not None:
            flight.state = COMPLETED
        release(self.store.lock)
        try:
            if self.store.refreshes is not None:
                take_out(self.store.refreshes, self)
        finally:
            self.task = None
            if flight is not None and flight.course is not None:
                flight.course.over = True
                flight.__exit__()
            wake_all(flight)
            self.store.finish(&op)


cdef int take_out(dict refreshes, Refresh refresh) except -1:
    """Remove a refresh from those in progress; not a newer one of its key, which may come at any moment."""
    other = refreshes.pop(refresh.key, refresh)
    if other is not refresh:
        refreshes.setdefault(refresh.key, other)
    return 0


cdef PyObject* get_or_refresh(Store store, object key, uint64_t h) except? NULL:
    """A new reference to a value that may be served, counted as a hit; NULL: there is none, and nothing is counted.

    Starts a refresh if one is due. If no value may be served but a refresh is in progress, waits for that.
    """
    cdef bint joined = False
    cdef PyObject* value
    while True:
        value = get_now(store, key, h)
        if value != NULL or joined or not store.refreshes or (<Loader>store.loader).is_async:
            return value
        if not wait_for_refresh(store.refreshes.get(key)):
            return NULL
        joined = True


cdef object flight_of(Store store, object key):
    """The flight of a key's refresh, for a caller that finds no value to serve; None: no refresh is in progress."""
    cdef Refresh refresh = store.refreshes.get(key) if store.refreshes else None
    if refresh is None or refresh.forks != forks or refresh.flight is None or refresh.flight.lost():
        return None
    return refresh.flight


cdef bint wait_for_refresh(object known) except -1:
    """Wait for a refresh. False: it is not in progress, or it waits for this caller."""
    cdef Refresh refresh = known
    if refresh is None or refresh.forks != forks or refresh.flight is None:
        return False
    return refresh.flight.wait() != PENDING


cdef PyObject* get_now(Store store, object key, uint64_t h) except? NULL:
    cdef bint due = False
    cdef PyObject* value = find_servable(store, key, h, store.ahead, store.stale, &due)
    if due:
        try:
            start_refresh(store, key, h)
        except:
            decref(value)
            raise
    return value


cdef PyObject* find_servable(
    Store store, object key, uint64_t h, double ahead, double stale, bint* due
) except? NULL:
    """A value that may be served, counted as a hit; NULL: there is none. Sets `due`: whether a refresh is due."""
    cdef Operation op
    cdef double now = store.now(0.0), end
    cdef uint32_t i
    cdef PyObject* value = NULL
    due[0] = False
    start(&op)
    try:
        i = store.find_to_change(key, h, &op)
        if i != 0 and store.table.entries[i].value != NULL:
            end = deadline(&store.expiry, i)
            if end + stale > now:
                due[0] = is_due(store, i, now, ahead)
                if end > now:
                    store.note_hit(i, now, &op)
                else:                           # a hit, but it does not extend the idle limit
                    store.counts[HITS] += 1
                    store.counts[STALE_SERVES] += 1
                    on_hit(<PyObject*>store.engine, i)
                    if store.modes & PYTHON_POLICY:
                        op.used = store.table.entries[i].key
                        incref(op.used)
                value = store.table.entries[i].value
                incref(value)
        release(store.lock)
    finally:
        store.finish_with(&op, value)
    return value


cdef bint is_due(Store store, uint32_t i, double now, double ahead) noexcept:
    """Whether entry i, which has a value, is due for a refresh. Needs the lock."""
    cdef double end = deadline(&store.expiry, i)
    if end <= now:
        return True
    if store.modes & IDLES:
        end = store.expiry.write_deadlines[i]   # a hit has just moved the other deadline
    return end < INFINITY and store.modes & AHEAD and end - now < ahead * store.ttls[i]


cdef int start_refresh(Store store, object key, uint64_t h) except -1:
    """Start the refresh of a due entry, unless one is in progress."""
    cdef Refresh refresh = open_refresh(store, key, h, store.ahead, False)
    if refresh is not None:
        if (<Loader>store.loader).is_async:
            from cachebox._loading.awaited import start_refresh as submit
        else:
            from cachebox._loading.refresh_pool import submit
        if not submit(refresh):
            refresh.end()
    return 0


cdef Refresh open_refresh(Store store, object key, uint64_t h, double ahead, bint by_call):
    """A refresh of a due entry, which the caller must begin or end.

    None: one is in progress, or the entry is not due.
    """
    cdef Refresh refresh = Refresh.__new__(Refresh), known
    cdef Operation op
    cdef double now
    cdef uint32_t i
    cdef bint opened = False
    refresh.store = store
    refresh.key = key
    refresh.h = h
    refresh.forks = forks
    refresh.by_call = by_call
    refresh.watch = new_watch(store)
    refresh.watch.outlasts_expiry = True
    while store.refreshes is not None:
        known = store.refreshes.setdefault(key, refresh)
        if known is refresh:
            break
        if known.forks == forks and (known.goes_on is None or known.goes_on()):
            return None
        take_out(store.refreshes, known)   # of the parent process, or of an event loop that has ended: it never ends
    start(&op)
    try:
        now = store.now(0.0)
        i = store.find_to_change(key, h, &op)
        if i != 0 and store.table.entries[i].value != NULL and is_due(store, i, now, ahead):  # it is still due
            refresh.lifetime = store.ttls[i]
            refresh.tagged = store.modes & TAGGED and i < store.links.known and store.links.chains[i] != NULL
            opened = refresh.watch.open(i)
        release(store.lock)
    except:
        refresh.end()
        raise
    finally:
        store.finish(&op)
    if not opened:
        refresh.end()
        return None
    return refresh


cdef int keep_due(Store store, double ahead, double stale) except -1:
    """Make the store keep what cached functions need that serve results during a refresh.

    `ahead` is the share of lifetimes in which a refresh may begin. `stale` is for how many seconds after their
    deadlines results may be served; only these functions get them.
    """
    cdef uint32_t i, known
    cdef int modes = store.modes
    cdef bint prepared
    if store.refreshes is None:
        made = {}
        acquire(store.lock)
        if store.refreshes is None:
            store.refreshes = made
        release(store.lock)
    acquire(store.lock)
    modes = store.modes
    known = store.ttls_known
    store.modes |= (AHEAD if ahead > 0.0 else 0) | (STALE if stale > 0.0 else 0)
    prepared = store.prepare(False)
    if prepared:
        for i in range(known, store.ttls_known):
            store.ttls[i] = 0.0              # existing entries are not due before their deadlines
        store.ahead = max(store.ahead, ahead)
        store.stale = max(store.stale, min(stale, DBL_MAX / 4))
    else:
        store.modes = modes
    release(store.lock)
    if not prepared:
        raise MemoryError("no memory left for the lifetimes of entries")
    return 0
