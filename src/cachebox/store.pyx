"""The mechanics under `Cache`; `store.pxd` has the overview."""

cimport cython
from cpython.exc cimport PyErr_SetObject, PyErr_WriteUnraisable
from cpython.object cimport PyObject, PyTypeObject, inquiry
from libc.float cimport DBL_MAX
from libc.math cimport INFINITY
from libc.stdint cimport uint32_t, uint64_t

import os
import sys
from _thread import RLock

from cachebox._engine.table cimport (
    Engine, Entry, Table, allocate, allocate_zeroed, deallocate, decref, drop_detached, hash_of, incref, lookup, mixed,
    note_use, put_value, reallocate, UNCERTAIN, xdecref,
)
from cachebox.expiry cimport (
    coarse_now, count_over, deadline, drop_deadline, end_of, forget_all, is_over, make_place, precise_now, set_deadline,
)
from cachebox.lock cimport Guard, acquire, release
from cachebox.operation cimport (
    EXPIRED, EXPLICIT, FAILED, NO_CAUSE, REPLACED, SIZE, can_leave, drop_all, find_by_comparing, leave, start,
)
from cachebox.stats cimport DELETES, EVICTIONS, HITS, SETS, CacheStats
from cachebox.stats cimport EXPIRED as EXPIRED_ENTRIES
from cachebox.tags cimport (
    Label, Tag, copy_tags, free_labels, make_room_for_labels, new_labels, peel, peel_all, some_dropped, stick,
)

from cachebox.awaitables import refuse_awaitable


cdef extern from "results.h":
    bint is_awaitable "cb_is_awaitable"(PyObject* value) noexcept


cdef extern from "pythread.h":
    unsigned long this_thread "PyThread_get_thread_ident"() noexcept nogil


cdef extern from "Python.h":
    int add_pending_call "Py_AddPendingCall"(int (*function)(void*) noexcept, void* argument) noexcept


cdef enum:
    PURGED_AT_ONCE = 256            # expired entries that leave under one hold of the lock
    FIRST_BUCKETS = 8               # of watches
    FEW_TAGS = 64                   # unused ones that are not worth looking for
    VICTIMS_TOO_MANY = 100          # evictions in one operation beyond the number of entries

cdef double CLOCK_LAGS = 0.004      # seconds: a visit right at a deadline would find that it is not there yet
cdef double VISITS_APART = 0.25     # seconds that an entry may be overdue before the sweeper has to hurry

cdef uint32_t forks = 0

cdef tuple causes = ()              # RemovalCause, in the order of Cause, once a callback has needed it
cdef object sweeper = None          # the module, once an entry has had a deadline
cdef object importing = RLock()     # held while it is imported: no fork may copy a module that will never be whole
cdef bint fork_waited = False


@cython.no_gc_clear                 # see `clear_cycles`
cdef class Store:

    def __cinit__(self):
        self.bound = sys.maxsize
        self.lifetime = self.idle = self.next_visit = self.bound_weight = INFINITY
        self.latest = -INFINITY

    def __dealloc__(self):
        cdef Table old
        if self.engine is not None:
            old = self.engine.detach()          # a policy of its own may outlive the cache, its entries must not
            drop_detached(&old)
        peel_all(&self.labels)
        forget_all(&self.expiry)
        deallocate(self.weights)
        deallocate(self.spans)
        deallocate(self.watches)

    cdef int equip(self, Engine engine, Guard guard) except -1:
        """Take over an engine, and the lock of all who look at it."""
        self.statistics = CacheStats.under(guard)
        self.counts = self.statistics.counts
        self.guard = guard
        self.lock = &guard.lock
        self.engine = engine
        self.table = &engine.table
        return 0

    # --- time and weight: may run the user's code -----------------------------------------------------------------

    cdef double now(self, double lifetime) except? -1.0:
        """The time in seconds, for an operation that gives an entry `lifetime`."""
        cdef double told
        if not self.modes & CLOCKED or self.clock is None:
            return precise_now() if self.modes & PRECISE else coarse_now()
        if lifetime == INFINITY and not self.modes & (EXPIRES | IDLES):
            return self.latest                  # nothing depends on it
        told = as_number(self.clock(), "clock")
        if told != told:
            raise ValueError("clock must return a number of seconds, not NaN")
        told = min(max(told, -DBL_MAX), DBL_MAX)    # no end is the sum of two infinities, which would be NaN
        acquire(self.lock)
        if told > self.latest:                  # a clock that steps back revives nothing
            self.latest = told
        told = self.latest
        release(self.lock)
        return told

    cdef double weigh(self, object key, object value) except -1.0:
        """What the entry would weigh."""
        cdef double weight
        if not self.modes & WEIGHED or self.weigher is None:
            return 0.0
        weight = as_number(self.weigher(key, value), "weigher")
        if not weight >= 0.0:
            raise ValueError(f"weigher must return a weight of 0 or more, not {weight}")
        return weight

    # --- the end of an operation: all that may run Python code ------------------------------------------------------

    cdef int finish(self, Operation* op) except -1:
        """Tell the user's policy and the callbacks what happened, and drop what left."""
        cdef uint32_t k
        if op.n == 0 and not op.in_turn and not op.hurry:
            return 0
        failure = self.settle(op) if op.in_turn else None
        try:
            if op.hurry:
                call_sweeper(self)
            if self.modes & LISTENED:
                for k in range(op.n):
                    if op.left[k].cause != NO_CAUSE:
                        interruption = self.notify(<object>op.left[k].key, <object>op.left[k].value, op.left[k].cause)
                        failure = interruption if failure is None else failure
        finally:
            drop_all(op)
        if failure is not None:
            raise failure
        return 0

    cdef object settle(self, Operation* op):
        """Tell the user's policy what happened, and let the next one in. Returns what it raised, or None."""
        try:
            try:
                self.foreign.tell(op)
            finally:
                if op.added != NULL:
                    self.take_back(op)
                self.foreign.exit(op)
        except BaseException as error:
            return error
        return None

    cdef int finish_with(self, Operation* op, PyObject* held) except -1:
        """`finish`, for a caller that is about to return `held`: where this raises it cannot, and drops it."""
        try:
            self.finish(op)
        except:
            xdecref(held)
            raise
        return 0

    cdef object notify(self, object key, object value, Cause cause):
        """Run the callbacks for one departure. Returns an exception that has to pass through, or None."""
        global causes
        interruption = None
        if self.on_evict is not None:
            try:
                answer = self.on_evict(key, value)
                if is_awaitable(<PyObject*>answer):
                    refuse_awaitable("on_evict", answer)
            except BaseException as error:
                interruption = passed_on(error, self.on_evict)
        if self.on_removal is not None:
            if not causes:
                with importing:
                    from cachebox.removal import IN_ORDER

                causes = IN_ORDER               # the module keeps it: whoever comes second sets the same object
            try:
                answer = self.on_removal(key, value, causes[<int>cause])
                if is_awaitable(<PyObject*>answer):
                    refuse_awaitable("on_removal", answer)
            except BaseException as error:
                later = passed_on(error, self.on_removal)
                interruption = later if interruption is None else interruption
        return interruption

    cdef int take_back(self, Operation* op) except -1:
        """Undo an insertion that the user's policy refused by raising."""
        cdef Operation undone
        start(&undone)
        acquire(self.lock)
        if op.i < self.table.fresh and self.table.entries[op.i].key == op.added:
            if self.table.entries[op.i].value != NULL and self.remove(op.i, NO_CAUSE, &undone) == DONE:
                self.counts[SETS] -= 1
        release(self.lock)
        drop_all(&undone)
        return 0

    # --- finding: takes the lock, leaves it held, and lets it go while keys are compared ------------------------------

    cdef uint32_t find(self, object key, uint32_t h, Operation* op) except FAILED:
        """The index of the key's entry, live or expired or reserved; 0: none."""
        cdef uint32_t i
        acquire(self.lock)
        i = lookup(self.table, <PyObject*>key, h)
        if i == UNCERTAIN:
            i = find_by_comparing(self.engine, self.lock, key, h, op)
        return i

    cdef uint32_t find_to_change(self, object key, uint32_t h, Operation* op) except FAILED:
        """`find`, and the turn with the user's policy. Keys are compared before it is taken, unless it is contested."""
        cdef uint32_t i
        cdef uint64_t version
        if op.locked:                           # a victim has left since, and nothing else has happened
            op.locked = False
            return op.wanted if self.table.entries[op.wanted].key != NULL else 0
        i = self.find(key, h, op)
        if self.foreign is None:
            return i
        if not op.in_turn:
            version = self.table.version
            release(self.lock)
            self.foreign.enter(op)
            acquire(self.lock)
            if self.table.version != version:
                release(self.lock)
                i = self.find(key, h, op)
        op.wanted = i
        return i

    cdef void lock_again(self, Operation* op) noexcept nogil:
        """Take the lock, unless `evict_foreign` left it held."""
        if op.locked:
            op.locked = False
        else:
            acquire(self.lock)

    # --- changes, under the lock ----------------------------------------------------------------------------------

    cdef bint is_live(self, uint32_t i, double now) noexcept nogil:
        if i == 0 or self.table.entries[i].value == NULL:
            return False
        return not (self.modes & EXPIRES and is_over(&self.expiry, i, now))

    cdef bint prepare(self, bint with_deadline) noexcept nogil:
        """Memory for one more entry and all that goes with it; False: there is none."""
        cdef double* weights
        cdef double* spans
        cdef uint32_t capacity
        if not self.engine.reserve(self.bound):
            return False
        capacity = self.table.capacity
        if (with_deadline or self.modes & IDLES) and not make_place(&self.expiry, capacity, self.modes & IDLES):
            return False
        if self.modes & WEIGHED and self.weights_known <= capacity:
            weights = <double*>reallocate(self.weights, (<size_t>capacity + 1) * sizeof(double))
            if weights == NULL:
                return False
            self.weights = weights
            self.weights_known = capacity + 1
        if self.modes & (AHEAD | STALE) and self.spans_known <= capacity:
            spans = <double*>reallocate(self.spans, (<size_t>capacity + 1) * sizeof(double))
            if spans == NULL:
                return False
            self.spans = spans
            self.spans_known = capacity + 1
        return True

    cdef Outcome remove(self, uint32_t i, Cause cause, Operation* op) noexcept:
        """Take a live entry out. If somebody watches the key, the entry stays behind as a reserved one."""
        cdef Entry* e = &self.table.entries[i]
        if not can_leave(op):
            return NO_MEMORY
        self.engine.forget(i)
        if self.modes & EXPIRES:
            drop_deadline(&self.expiry, i)
            if self.expiry.n == 0:
                self.modes &= ~EXPIRES
        if self.modes & WEIGHED:
            self.total_weight -= self.weights[i]
        if self.modes & TAGGED:
            self.take_tags(i)
        self.live -= 1
        if self.live == 0:
            self.total_weight = 0.0             # weights may be fractions, and their sum inexact
        leave(op, e.key, e.value, cause)
        if self.modes & WATCHED and self.touch_watches(i, cause == EXPIRED):
            incref(e.key)
            e.value = NULL
            set_leader(e, NULL)
        else:
            self.engine.release(i)
        if cause == SIZE:
            self.counts[EVICTIONS] += 1
        elif cause == EXPIRED:
            self.counts[EXPIRED_ENTRIES] += 1
        elif cause == EXPLICIT:
            self.counts[DELETES] += 1
        return DONE

    cdef Outcome make_room(self, Py_ssize_t entries, double weight, uint32_t kept, double now, Operation* op) noexcept:
        """Remove what has to go before that much more fits: the expired, then victims, but not the entry `kept`."""
        cdef uint32_t victim
        cdef Cause cause
        while self.live + entries > self.bound or self.total_weight + weight > self.bound_weight:
            if self.modes & EXPIRES and self.expiry.deadlines[1] <= now and self.expiry.entries[1] != kept:
                victim = self.expiry.entries[1]
                cause = EXPIRED
            elif self.foreign is not None:
                op.version = self.table.version
                return NO_ROOM
            else:
                victim = self.engine.first()
                if victim == kept and kept != 0:
                    victim = self.engine.after(victim)
                cause = SIZE
            if victim == 0:
                break                           # nothing but `kept` is left
            if self.remove(victim, cause, op) != DONE:
                return NO_MEMORY
        return DONE

    cdef Outcome write(
        self, uint32_t i, object key, uint32_t h, object value,
        double lifetime, bint keeps_end, double weight, double now, Operation* op,
    ) noexcept:
        """Store a value under a key whose entry is i (0: it has none). `keeps_end`: where there is one to keep."""
        cdef Outcome outcome
        cdef Entry* e
        cdef double span
        cdef bint live = i != 0 and self.table.entries[i].value != NULL
        if live and self.modes & EXPIRES and is_over(&self.expiry, i, now):
            if self.remove(i, EXPIRED, op) != DONE:
                return NO_MEMORY
            live = False
            if self.table.entries[i].key == NULL:
                i = 0
        if not self.prepare(lifetime < INFINITY):
            return NO_MEMORY
        if live:
            note_use(<PyObject*>self.engine, i)
            outcome = self.make_room(0, weight - self.weights[i] if self.modes & WEIGHED else 0.0, i, now, op)
            if outcome != DONE:
                return outcome
            if not can_leave(op):
                return NO_MEMORY
            e = &self.table.entries[i]
            if self.modes & LISTENED:
                incref(e.key)
                leave(op, e.key, e.value, REPLACED)
            else:
                leave(op, NULL, e.value, NO_CAUSE)
            if self.modes & WEIGHED:
                self.total_weight += weight - self.weights[i]
                self.weights[i] = weight
            put_value(self.table, i, <PyObject*>value)
        else:
            outcome = self.make_room(1, weight, 0, now, op)
            if outcome != DONE:
                return outcome
            if i == 0:
                i = self.engine.insert(<PyObject*>key, h)
            put_value(self.table, i, <PyObject*>value)
            self.engine.admit(i)
            self.live += 1
            if self.modes & WEIGHED:
                self.total_weight += weight
                self.weights[i] = weight
        if not (live and keeps_end):
            self.set_end(i, end_of(now, lifetime), now, op)
        elif self.modes & IDLES:
            span = self.spans[i] if self.modes & (AHEAD | STALE) else 0.0
            self.set_end(i, self.expiry.lifetimes[i], now, op)
            if self.modes & (AHEAD | STALE):
                self.spans[i] = span
        self.touch_watches(i, False)
        op.i = i
        if self.modes & FOREIGN:
            incref(self.table.entries[i].key)
            if live:
                op.used = self.table.entries[i].key
            else:
                op.added = self.table.entries[i].key
        self.counts[SETS] += 1
        return DONE

    cdef void set_end(self, uint32_t i, double end, double now, Operation* op) noexcept nogil:
        """Let entry i end then, or earlier if nobody asks for it. Needs `prepare`."""
        if self.modes & (AHEAD | STALE):
            self.spans[i] = end - now
        if self.modes & IDLES:
            self.expiry.lifetimes[i] = end
            end = min(end, end_of(now, self.idle))
        if end < INFINITY:
            set_deadline(&self.expiry, i, end)
            self.modes |= EXPIRES
            if end + self.stale + VISITS_APART < self.next_visit and not self.modes & (CLOCKED | PRECISE):
                op.hurry = True
        elif self.modes & EXPIRES:
            drop_deadline(&self.expiry, i)
            if self.expiry.n == 0:
                self.modes &= ~EXPIRES

    cdef void note_hit(self, uint32_t i, double now, Operation* op) noexcept nogil:
        self.counts[HITS] += 1
        note_use(<PyObject*>self.engine, i)
        if self.modes & IDLES:
            set_deadline(&self.expiry, i, min(self.expiry.lifetimes[i], end_of(now, self.idle)))
        if self.modes & FOREIGN:
            op.used = self.table.entries[i].key
            incref(op.used)

    cdef void give_memory_back(self) noexcept nogil:
        """After removals: an empty cache keeps no more than a little."""
        if self.table.used == 0:
            self.engine.shrink()
            if self.table.capacity == 0:
                forget_all(&self.expiry)
                deallocate(self.weights)
                self.weights = NULL
                self.weights_known = 0
                deallocate(self.spans)
                self.spans = NULL
                self.spans_known = 0
                if self.labels.n == 0:
                    deallocate(self.labels.chains)
                    self.labels.chains = NULL
                    self.labels.known = 0

    cdef Py_ssize_t overdue(self, double now) noexcept nogil:
        """How many entries have expired but are still here, for they may be served. O(k) for k of them."""
        return count_over(&self.expiry, 1, now) if self.modes & EXPIRES else 0

    cdef void take_tags(self, uint32_t i) noexcept:
        """Entry i leaves, or gets other tags."""
        peel(&self.labels, i)
        if self.labels.n == 0:
            self.modes &= ~TAGGED

    # --- whole operations, without the lock -------------------------------------------------------------------------

    cdef int put(
        self, object key, uint32_t h, object value, double lifetime, double weight, bint only_new, Operation* op
    ) except -1:
        """The long way of `set`: store a value, if `only_new` only where there is none. The caller finishes `op`."""
        cdef double now = self.now(lifetime)
        cdef Outcome outcome
        cdef uint32_t i
        while True:
            outcome = DONE
            i = self.find_to_change(key, h, op)
            if not (only_new and self.is_live(i, now)):
                outcome = self.write(i, key, h, value, lifetime, False, weight, now, op)
                if outcome == DONE and self.modes & TAGGED:
                    self.take_tags(op.i)
            release(self.lock)
            if outcome == DONE:
                return 0
            if outcome == NO_MEMORY:
                raise MemoryError("no memory left to store an entry")
            self.evict_foreign(op)

    cdef int put_tagged(
        self, object key, uint32_t h, object value, double lifetime, double weight, tuple names, Operation* op
    ) except -1:
        """`put` with tags."""
        cdef double now = self.now(lifetime)
        cdef Outcome outcome = NO_MEMORY
        cdef Label* chain = NULL
        cdef uint32_t i
        cdef bint dropped
        cdef list tags
        try:
            while True:
                if chain == NULL:
                    tags = self.find_tags(names)            # kept alive until their labels are stuck
                    chain = new_labels(tags)
                i = self.find_to_change(key, h, op)
                dropped = some_dropped(chain)
                outcome = NO_MEMORY
                if not dropped and self.prepare(True) and make_room_for_labels(&self.labels, self.table.capacity):
                    outcome = self.write(i, key, h, value, lifetime, False, weight, now, op)
                if outcome == DONE:
                    self.give_tags(op.i, chain)
                    chain = NULL
                release(self.lock)
                if outcome == DONE:
                    return 0
                if dropped:
                    free_labels(chain)
                    chain = NULL
                elif outcome == NO_MEMORY:
                    raise MemoryError("no memory left to store an entry")
                else:
                    self.evict_foreign(op)
        finally:
            free_labels(chain)

    cdef void give_tags(self, uint32_t i, Label* chain) noexcept:
        """Entry i, whose tags have been taken away, gets these. Under the lock; takes the chain over."""
        peel(&self.labels, i)
        stick(&self.labels, i, chain)
        if self.labels.n:
            self.modes |= TAGGED

    cdef list find_tags(self, tuple names):
        """The Tag of each of these tags, new ones where there is none."""
        cdef list found = []
        cdef Tag tag
        with self.turn_of_tags():
            if len(self.tags) >= self.tags_limit:
                self.drop_unused_tags()
            for name in names:
                tag = self.tags.get(name)
                if tag is None:
                    tag = self.tags[name] = Tag.__new__(Tag, name)
                found.append(tag)
        return found

    cdef object turn_of_tags(self):
        """The lock around changes of `tags`, which it makes, too: one for all threads, and another after a fork."""
        cdef dict tags
        acquire(self.lock)
        turn = self.tags_turn
        if turn is not None and self.tags_forks == forks:
            release(self.lock)
            return turn
        release(self.lock)
        made, tags = RLock(), {}
        acquire(self.lock)
        known = self.tags_turn
        if known is None or self.tags_forks != forks:
            self.tags_turn = made
            self.tags_forks = forks         # whoever has the turn in the parent is not here
            if self.tags is None:
                self.tags = tags
                self.tags_limit = FEW_TAGS
            known = made
        release(self.lock)
        return known

    cdef int drop_unused_tags(self) except -1:
        """Forget tags that no entry has. Needs the turn."""
        cdef Tag tag
        for name, tag in list(self.tags.items()):
            acquire(self.lock)
            # a load that began before the tag was invalidated must learn of it, even if no entry has the tag now
            tag.dropped = tag.n == 0 and (tag.invalidated == 0 or self.loads == 0)
            release(self.lock)
            if tag.dropped:
                del self.tags[name]
        self.tags_limit = max(FEW_TAGS, 2 * len(self.tags))
        return 0

    cdef int evict_foreign(self, Operation* op) except -1:
        """Have the user's policy name a victim, and remove it.

        If that is all that has happened since there was no room, the lock stays held (`op.locked`): the victim leaves and
        what it made room for comes at the same instant. Whoever calls this goes on with `find_to_change` or `lock_again`.
        """
        cdef uint32_t i
        cdef Outcome outcome
        if op.victims == 0:
            op.victims = self.live + VICTIMS_TOO_MANY
        op.victims -= 1
        if op.victims == 0:                     # whatever it does, an operation ends
            raise RuntimeError(f"policy {type(self.foreign.policy).__name__}: evict() stores as much as it gives up")
        i = self.find_victim(op)
        op.locked = self.table.version == op.version
        outcome = self.remove(i, SIZE, op)
        if outcome != DONE:
            op.locked = False
        if not op.locked:
            release(self.lock)
        if outcome != DONE:
            raise MemoryError("no memory left to remove an entry")
        return 0

    cdef uint32_t find_victim(self, Operation* op) except FAILED:
        """Have the user's policy name a victim. Returns its entry, and with the lock held."""
        cdef uint32_t i
        cdef Py_hash_t hashed
        self.foreign.tell(op)                   # what has gone meanwhile it must not name
        key = self.foreign.victim()
        try:
            hashed = hash_of(<PyObject*>key)
        except TypeError as error:
            self.remove_forgotten(key, op)
            raise RuntimeError(f"policy {type(self.foreign.policy).__name__}: evict() named what is no key") from error
        except:
            self.remove_forgotten(key, op)
            raise
        try:
            i = self.find(key, mixed(self.table, hashed), op)
        except:
            self.remove_forgotten(key, op)
            raise
        if i == 0 or self.table.entries[i].value == NULL:
            release(self.lock)
            raise RuntimeError(
                f"policy {type(self.foreign.policy).__name__}: evict() named {key!r}, which is not in the cache"
            )
        if self.table.entries[i].key != <PyObject*>key:     # an equal one, which must not die here, under the lock
            if not can_leave(op):
                release(self.lock)
                raise MemoryError("no memory left to remove an entry")
            incref(<PyObject*>key)
            leave(op, NULL, <PyObject*>key, NO_CAUSE)
        return i

    cdef void remove_forgotten(self, object key, Operation* op) noexcept:
        """The policy gave up a key that cannot be looked up, since its `__hash__` or `__eq__` raises: out it goes. O(n)."""
        cdef uint32_t i
        acquire(self.lock)
        for i in range(1, self.table.fresh):
            if self.table.entries[i].key == <PyObject*>key and self.table.entries[i].value != NULL:
                self.remove(i, SIZE, op)
                break
        release(self.lock)

    cdef Py_ssize_t purge(self, bint stale_too) except -1:
        """Remove what has expired by now, but perhaps not what may still be served. Returns how many entries.

        In small portions, so that nobody waits long for the lock.
        """
        cdef Operation op
        cdef double now
        cdef Py_ssize_t purged = 0, most = self.expiry.n    # a callback may store what is over at once, for ever
        cdef int portion = PURGED_AT_ONCE
        if not self.modes & EXPIRES:
            return 0
        now = self.now(0.0)
        if not stale_too:
            now -= self.stale
        while portion == PURGED_AT_ONCE and purged < most:
            portion = 0
            start(&op)
            try:
                if self.foreign is not None:
                    self.foreign.enter(&op)
                acquire(self.lock)
                while portion < PURGED_AT_ONCE and self.modes & EXPIRES and self.expiry.deadlines[1] <= now:
                    if self.remove(self.expiry.entries[1], EXPIRED, &op) != DONE:
                        break
                    portion += 1
                self.give_memory_back()
                release(self.lock)
            finally:
                self.finish(&op)
            purged += portion
        return purged

    cdef Py_ssize_t size(self) except -1:
        """How many live entries there are, once what has expired is gone. O(k log n) for k expired ones."""
        cdef double now
        cdef Py_ssize_t size
        if not self.modes & EXPIRES:
            return self.live
        self.purge(False)
        if not self.modes & STALE:
            return self.live
        now = self.now(0.0)
        acquire(self.lock)
        size = self.live - self.overdue(now)
        release(self.lock)
        return size

    cdef Py_ssize_t copy_rows(self, Row** rows) except -1:
        """The live entries, next victim first, into new memory that `free_rows` frees. Returns how many."""
        cdef Py_ssize_t size, n = 0
        cdef double now = self.now(INFINITY)
        cdef uint32_t i
        cdef bint failed = False
        rows[0] = NULL
        if self.foreign is not None:
            return self.copy_foreign_rows(rows, now)
        while True:
            size = self.live
            rows[0] = <Row*>allocate(max(size, <Py_ssize_t>1) * sizeof(Row))
            if rows[0] == NULL:
                raise MemoryError(f"no memory left to copy {size} entries")
            acquire(self.lock)
            if self.live <= size:
                break
            release(self.lock)                  # it grew meanwhile
            deallocate(rows[0])
        i = self.engine.first()
        while i != 0:
            if self.is_live(i, now):
                self.copy_row(i, &rows[0][n], &failed)
                n += 1
            i = self.engine.after(i)
        release(self.lock)
        if failed:
            free_rows(rows[0], n)
            raise MemoryError("no memory left to copy tags")
        return n

    cdef Py_ssize_t copy_foreign_rows(self, Row** rows, double now) except -1:
        """`copy_rows` where the order is known to a policy written in Python."""
        cdef Py_ssize_t n = 0
        cdef Operation op
        cdef uint32_t i
        cdef bint failed = False
        start(&op)
        try:
            self.foreign.enter(&op)
            keys = list(self.foreign.policy)
            rows[0] = <Row*>allocate(max(len(keys), 1) * sizeof(Row))
            if rows[0] == NULL:
                raise MemoryError(f"no memory left to copy {len(keys)} entries")
            for key in keys:
                i = self.find(key, mixed(self.table, hash_of(<PyObject*>key)), &op)
                if self.is_live(i, now):
                    self.copy_row(i, &rows[0][n], &failed)
                    n += 1
                release(self.lock)
            if failed:
                raise MemoryError("no memory left to copy tags")
        except:
            free_rows(rows[0], n)
            rows[0] = NULL
            raise
        finally:
            self.finish(&op)
        return n

    cdef void copy_row(self, uint32_t i, Row* row, bint* failed) noexcept:
        cdef Entry* e = &self.table.entries[i]
        incref(e.key)
        incref(e.value)
        row.key = e.key
        row.value = e.value
        row.deadline = deadline(&self.expiry, i)
        row.end = self.expiry.lifetimes[i] if self.modes & IDLES else row.deadline
        row.span = self.spans[i] if self.modes & (AHEAD | STALE) else INFINITY
        row.weight = self.weights[i] if self.modes & WEIGHED else 0.0
        row.tags = copy_tags(&self.labels, i, failed)
        row.rank = self.engine.rank(i)

    cdef int empty(self, bint statistics_too) except -1:
        """Forget all entries; nobody is told. Loads that are under way will not be stored."""
        cdef Operation op
        cdef Table old
        start(&op)
        try:
            if self.foreign is not None:
                self.foreign.enter(&op)
            acquire(self.lock)
            old = self.engine.detach()
            self.live = 0
            self.total_weight = 0.0
            peel_all(&self.labels)
            self.modes &= ~(EXPIRES | TAGGED)
            self.give_memory_back()
            self.close_watches()
            if statistics_too:
                self.statistics.zero()
            release(self.lock)
            try:
                if self.foreign is not None:
                    self.foreign.policy.clear()
            finally:
                drop_detached(&old)
        finally:
            self.finish(&op)
        return 0

    cdef double sweep(self) except? -1.0:
        """Remove what has expired. Returns when the sweeper is to come again, infinity: not before it is called."""
        self.purge(False)
        acquire(self.lock)
        if self.modes & EXPIRES:
            self.next_visit = max(self.expiry.deadlines[1] + self.stale + CLOCK_LAGS, coarse_now() + VISITS_APART)
        else:
            self.next_visit = INFINITY
        release(self.lock)
        return self.next_visit

    # --- watches, under the lock --------------------------------------------------------------------------------------

    cdef void drop_reserved(self, uint32_t i, Operation* op) noexcept:
        """A reserved entry lost its leader or its last watch: if nothing else holds it, free it."""
        if leader_of(&self.table.entries[i]) == NULL and not self.is_watched(i) and can_leave(op):
            leave(op, self.table.entries[i].key, NULL, NO_CAUSE)
            self.engine.release(i)
            self.give_memory_back()

    cdef bint is_watched(self, uint32_t i) noexcept:
        cdef PyObject* at = self.watches[i & self.watch_mask] if self.modes & WATCHED else NULL
        while at != NULL and (<Watch>at).i != i:
            at = (<Watch>at).next
        return at != NULL

    cdef bint touch_watches(self, uint32_t i, bint expired) noexcept:
        """The key of entry i was written or removed, or has expired. Returns whether anybody watches it."""
        cdef PyObject* at = self.watches[i & self.watch_mask] if self.modes & WATCHED else NULL
        cdef unsigned long writer = this_thread()
        cdef bint watched = False
        while at != NULL:
            if (<Watch>at).i == i:
                watched = True
                if expired and (<Watch>at).only_writes:
                    pass
                elif not ((<Watch>at).ignores_own and (<Watch>at).thread == writer):
                    (<Watch>at).touched = True
            at = (<Watch>at).next
        return watched

    cdef void close_watches(self) noexcept:
        """All entries were cleared away."""
        cdef unsigned long writer = this_thread()
        cdef uint32_t bucket
        cdef PyObject* at
        if self.watch_count == 0:
            return
        for bucket in range(self.watch_mask + 1):
            at = self.watches[bucket]
            while at != NULL:
                if not ((<Watch>at).ignores_own and (<Watch>at).thread == writer):
                    (<Watch>at).touched = True
                (<Watch>at).i = 0
                at = (<Watch>at).next
            self.watches[bucket] = NULL
        self.watch_count = 0
        self.modes &= ~WATCHED

    cdef void more_buckets(self) noexcept:
        """Keep the chains short; without memory they stay as they are."""
        cdef uint32_t size = 2 * (self.watch_mask + 1) if self.watches != NULL else FIRST_BUCKETS, bucket
        cdef PyObject** buckets = <PyObject**>allocate_zeroed(size, sizeof(PyObject*))
        cdef PyObject* at
        cdef PyObject* next
        if buckets == NULL:
            return
        if self.watches != NULL:
            for bucket in range(self.watch_mask + 1):
                at = self.watches[bucket]
                while at != NULL:
                    next = (<Watch>at).next
                    (<Watch>at).next = buckets[(<Watch>at).i & (size - 1)]
                    buckets[(<Watch>at).i & (size - 1)] = at
                    at = next
            deallocate(self.watches)
        self.watches = buckets
        self.watch_mask = size - 1


@cython.no_gc_clear                 # an open watch needs its store to close
cdef class Watch:

    def __cinit__(self):
        self.thread = this_thread()

    def __dealloc__(self):
        cdef Operation op
        if self.i != 0 and self.store is not None:
            start(&op)
            acquire(self.store.lock)
            self.close(&op)
            release(self.store.lock)
            drop_all(&op)

    cdef bint open(self, uint32_t i) noexcept:
        """Watch entry i of `store`, under its lock; False: no memory."""
        cdef Store store = self.store
        cdef PyObject** bucket
        if store.watches == NULL or store.watch_count > 2 * store.watch_mask:
            store.more_buckets()
            if store.watches == NULL:
                return False
        bucket = &store.watches[i & store.watch_mask]
        self.i = i
        self.touched = False
        self.next = bucket[0]
        bucket[0] = <PyObject*>self
        store.watch_count += 1
        store.modes |= WATCHED
        return True

    cdef void close(self, Operation* op) noexcept:
        """Watch no longer, under the lock."""
        cdef Store store = self.store
        cdef PyObject** at
        cdef uint32_t i = self.i
        if i == 0:
            return
        self.i = 0
        at = &store.watches[i & store.watch_mask]
        while at[0] != <PyObject*>self:
            at = &(<Watch>at[0]).next
        at[0] = self.next
        store.watch_count -= 1
        if store.watch_count == 0:
            store.modes &= ~WATCHED
        if store.table.entries[i].value == NULL:
            store.drop_reserved(i, op)


cdef void free_rows(Row* rows, Py_ssize_t n) noexcept:
    cdef Py_ssize_t k
    cdef PyObject** tag
    for k in range(n):
        decref(rows[k].key)
        decref(rows[k].value)
        tag = rows[k].tags
        while tag != NULL and tag[0] != NULL:
            decref(tag[0])
            tag += 1
        deallocate(rows[k].tags)
    deallocate(rows)


cdef double as_number(object told, str teller) except? -1.0:
    if isinstance(told, bool) or not hasattr(type(told), "__float__"):
        refuse_awaitable(teller, told)
        raise TypeError(f"{teller} must return a number, not {type(told).__name__}")
    try:
        return as_float(told)
    except Exception as error:
        raise TypeError(f"{teller} must return a number; {type(told).__name__} is none: {error}") from error


cdef double as_float(object number) except? -1.0:
    """`float`, but what is too large for one is infinite."""
    try:
        return float(number)
    except OverflowError:
        return INFINITY if number > 0 else -INFINITY


cdef object passed_on(object error, object callback):
    """What is to become of an exception that a callback raised: these two pass through, the others are reported."""
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return error
    PyErr_SetObject(type(error), error)
    PyErr_WriteUnraisable(callback)
    return None


cdef int call_sweeper(Store store) except -1:
    """Have the sweeper come in time for the earliest deadline."""
    global sweeper
    cdef double due
    if sweeper is None:
        with importing:
            from cachebox import sweeper as imported

        if not hasattr(imported, "IS_WHOLE"):   # something interrupted this very import: the next deadline will call it
            return 0
        sweeper = imported
    acquire(store.lock)
    known = store.known
    release(store.lock)
    made = sweeper.know(store) if known is None else None
    acquire(store.lock)
    if store.known is None:
        store.known = made
    known = store.known
    due = store.expiry.deadlines[1] + store.stale + CLOCK_LAGS if store.modes & EXPIRES else INFINITY
    store.next_visit = due
    release(store.lock)
    sweeper.schedule(known, due)
    return 0


cdef int run_pending(void* function) noexcept with gil:
    called = <object><PyObject*>function
    decref(<PyObject*>function)
    try:
        called()
    except BaseException:
        PyErr_WriteUnraisable(called)
    return 0


def resume_after_fork():
    """What the sweeper does in the parent after a fork, in the hook that runs for it.

    From 3.13 on CPython counts the threads after the hooks have run, and warns if there are several: so the thread has
    to start a moment later, as soon as the main thread runs Python code again. A hook written in Python is such code.
    """
    cdef PyObject* resume
    if sweeper is None:
        return
    if sweeper.may_resume_later():
        resume = <PyObject*>sweeper.resume
        incref(resume)
        if add_pending_call(run_pending, <void*>resume) == 0:
            return
        decref(resume)
    sweeper.resume()


# --- the collector ----------------------------------------------------------------------------------------------------
# To break a cycle it clears one of the objects in it. Cython would set every attribute to None, `engine` included; a
# finaliser that used the cache after that would crash. So it clears what is safe to lose: entries and callbacks.

cdef int clear_cycles(PyObject* self) noexcept:
    cdef Store store = <Store>self
    cdef Table old
    if store.engine is None:
        return 0
    old = store.engine.detach()
    store.live = 0
    store.total_weight = 0.0
    peel_all(&store.labels)
    store.modes &= ~(EXPIRES | LISTENED | TAGGED)
    store.close_watches()
    store.give_memory_back()
    store.on_evict = store.on_removal = store.weigher = store.clock = None
    store.loader = store.failures = store.refreshes = store.tags = store.tags_turn = None
    drop_detached(&old)
    return 0


(<PyTypeObject*>Store).tp_clear = <inquiry>clear_cycles


def _before_fork():
    global fork_waited
    fork_waited = importing.acquire(timeout=1.0)


def _after_fork_in_parent():
    if fork_waited:
        importing.release()


def _after_fork_in_child():
    global forks
    forks += 1
    if fork_waited:
        importing.release()
    else:
        importing._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
