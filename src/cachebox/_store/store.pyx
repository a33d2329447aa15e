"""The mechanics under `Cache`; `store.pxd` has the overview."""

cimport cython
from cpython.exc cimport PyErr_SetObject, PyErr_WriteUnraisable
from cpython.object cimport PyObject, PyTypeObject, inquiry, traverseproc, visitproc
from libc.float cimport DBL_MAX
from libc.math cimport INFINITY, nextafter
from libc.stdint cimport uint32_t, uint64_t

import os
import sys
from _thread import RLock

from cachebox._engine.table cimport (
    candidate, home,
    Engine, Entry, Moves, Table, allocate, allocate_zeroed, deallocate, decref, drop_detached, hash_of, incref,
    is_too_large, lookup, mixed, note_use, put_value, reallocate, UNCERTAIN, xdecref,
)
from cachebox._platform.callers cimport this_greenlet, this_thread
from cachebox._platform.caught cimport ask, ask_hash, caught
from cachebox._platform.clock cimport coarse_now, precise_now
from cachebox._store.deadlines cimport (
    count_over, deadline, drop_deadline, end_of, forget_all, is_over, less_place, make_place, move_deadline, set_deadline,
)
from cachebox._platform.lock cimport Guard, acquire, release
from cachebox._store.operation cimport (
    EXPIRED, EXPLICIT, FAILED, NO_CAUSE, REPLACED, SIZE, can_leave, drop_all, find_by_comparing, leave, start,
)
from cachebox.stats cimport DELETES, EVICTIONS, HITS, SETS, CacheStats
from cachebox.stats cimport EXPIRED as EXPIRED_ENTRIES
from cachebox._store.tags cimport (
    Label, Tag, copy_tags, free_labels, less_room_for_labels, make_room_for_labels, move_labels, new_labels, peel, peel_all,
    some_dropped, stick,
)
from cachebox._store.durations cimport as_float, lifetime_of
from cachebox._store.sizes cimport size_of_pair
from cachebox._store.weights cimport (
    add_weight, drop_all_weights, drop_weight, fits, forget_weights, less_room_for_weights, make_room_for_weights,
)

from cachebox._platform.awaitables import refuse_awaitable


cdef extern from "_platform/results.h":
    bint is_awaitable "cb_is_awaitable"(PyObject* value) noexcept


cdef extern from "Python.h":
    int add_pending_call "Py_AddPendingCall"(int (*function)(void*) noexcept, void* argument) noexcept


cdef enum:
    PURGED_AT_ONCE = 256            # expired entries that leave under one hold of the lock
    FIRST_BUCKETS = 8               # of watches
    FEW_TAGS = 64                   # unused ones that are not worth looking for
    MOST_TAGS = 1 << 30
    VICTIMS_TOO_MANY = 100          # evictions in one operation beyond the number of entries

cdef double BY_VALUE = -1.0
cdef double BITS_53 = 9007199254740992.0
cdef double CLOCK_LAGS = 0.004      # seconds: a visit right at a deadline would find that it is not there yet
cdef double VISITS_APART = 0.25     # seconds that an entry may be overdue before the sweeper has to hurry

cdef uint32_t forks = 0
cdef uint64_t process = os.getpid()         # whose lifetimes are not shortened as those of its siblings are

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
        free_labels(peel_all(&self.labels))
        forget_all(&self.expiry)
        forget_weights(&self.weights)
        deallocate(self.spans)
        deallocate(self.watches)

    cdef int begin(self, Engine engine) except -1:
        """Get a lock, for all who look at the cache, and counters: these are never replaced."""
        self.guard = Guard.__new__(Guard)
        self.lock = &self.guard.lock
        self.statistics = CacheStats.under(self.guard)
        self.counts = self.statistics.counts
        self.first_engine = engine
        self.equip(engine)
        return 0

    cdef void equip(self, Engine engine) noexcept:
        """Take over an engine instead of one that has never had an entry. Under the lock, once others know the cache."""
        self.engine = engine
        self.table = &engine.table

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
        if self.measures:
            return size_of_pair(key, value)
        if not self.modes & WEIGHED or self.weigher is None:
            return 0.0
        given = self.weigher(key, value)
        weight = as_number(given, "weigher")
        if isinstance(given, int) and given > weight:
            weight = nextafter(weight, INFINITY)        # no float is that number: the bound must hold all the same
        if not weight >= 0.0:
            raise ValueError(f"weigher must return a weight of 0 or more, not {weight}")
        return weight

    cdef double lifetime_for(self, double lifetime, object key, object value) except -1.0:
        """The lifetime of an entry: the one that is given, unless the value has to tell."""
        if lifetime != BY_VALUE or self.ttl_of is None:
            return lifetime
        given = self.ttl_of(key, value)
        refuse_awaitable("default_ttl", given)
        return lifetime_of(given, "what default_ttl returns")

    cdef object copy_of(self, object value):
        """What a caller may have of a value, or the cache of what it is given."""
        if not self.modes & ISOLATED or self.copier is None:
            return value
        copied = self.copier(value)
        refuse_awaitable("isolate", copied) if copied is not value else None
        return copied

    # --- the end of an operation: all that may run Python code ------------------------------------------------------

    cdef int finish(self, Operation* op) except -1:
        """Tell the user's policy and the callbacks what happened, and drop what left."""
        cdef uint32_t k
        if self.unsure:
            self.know_writer()
        if op.n == 0 and not op.in_turn and not op.strays and not op.hurry and op.peeled == NULL:
            return 0
        failure = self.settle(op) if op.in_turn or op.strays else None
        if op.hurry and (<Quietly>call_sweeper)(self) == -1:
            interruption = as_exhaustion(caught())
            failure = interruption if failure is None else failure
        try:
            if self.modes & LISTENED:
                for k in range(op.n):
                    if op.left[k].cause != NO_CAUSE:
                        interruption = self.notify(op.left[k].key, op.left[k].value, op.left[k].cause)
                        failure = interruption if failure is None else failure
        finally:
            drop_all(op)
        if failure is not None:
            raise failure
        return 0

    cdef object settle(self, Operation* op):
        """Tell the user's policy what happened, and let the next one in. Returns what it raised, or None."""
        return None if (<Telling>tell_and_exit)(self, op) != -1 else caught()

    cdef int tell(self, Operation* op) except -1:
        """Tell the user's policy what it has not been told yet. Needs the turn."""
        cdef bint nested = self.foreign.turns > 1
        cdef bint apart = self.foreign.behind or self.foreign.strays
        if self.foreign.depth != 0 or not (apart or nested and (op.told < op.n or op.added != NULL)):
            return self.foreign.tell(op)
        self.reconcile()                        # which tells it of this operation, too
        if nested:
            self.foreign.behind = True          # and of part of the one around this, which must not tell it once more
        op.told = op.n
        xdecref(op.used)
        xdecref(op.added)
        op.used = op.added = NULL
        return 0

    cdef int reconcile(self) except -1:
        """Tell the user's policy of all that it was not told: then it knows exactly the live entries. Needs the turn."""
        policy = self.foreign.policy
        cdef list known, keys = []
        cdef bint agrees = False
        self.foreign.behind = False
        self.foreign.depth += 1
        try:
            known = list(policy)
            keys = every_live_key(self)
            for key in known:
                if not self.holds(key):
                    policy.remove(key)
            if len(policy) != len(keys):
                for key in keys:
                    if key not in policy and self.holds(key):
                        policy.add(key)
            if len(policy) > len(keys):         # it was told of some key twice
                policy.clear()
                for key in keys:
                    policy.add(key)
            agrees = True
        finally:
            self.foreign.depth -= 1
            if not agrees:
                self.foreign.behind = True      # whoever has the turn next tries again
        return 0

    cdef bint holds(self, object key) except -1:
        """Whether a key has an entry, live or expired."""
        cdef Operation op
        cdef bint found
        cdef uint32_t i
        start(&op)
        try:
            i = self.find_itself(key, mixed(self.table, hash_of(<PyObject*>key)), &op)
            found = i != 0 and self.table.entries[i].value != NULL
            release(self.lock)
        finally:
            drop_all(&op)
        return found

    cdef int finish_with(self, Operation* op, PyObject* held) except -1:
        """`finish`, for a caller that is about to return `held`: where this raises it cannot, and drops it."""
        try:
            self.finish(op)
        except:
            xdecref(held)
            raise
        return 0

    cdef object notify(self, PyObject* key, PyObject* value, Cause cause):
        """Run the callbacks for one departure. Returns an exception that has to pass through, or None."""
        cdef PyObject* told
        interruption = None
        on_evict, on_removal = self.on_evict, self.on_removal
        if on_evict is not None:
            told = plain(ask(<PyObject*>on_evict, key, value, NULL), "on_evict")
            xdecref(told)
            interruption = self.judge("on_evict", on_evict, caught() if told == NULL else None)
        if on_removal is not None:
            told = NULL
            if causes or (<int (*)() noexcept>import_causes)() != -1:
                told = plain(ask(<PyObject*>on_removal, key, value, <PyObject*>causes[<int>cause], NULL), "on_removal")
            xdecref(told)
            later = self.judge("on_removal", on_removal, caught() if told == NULL else None)
            interruption = later if interruption is None else interruption
        return interruption

    cdef object judge(self, str what, object callback, object error):
        """What is to become of an exception that a callback raised, if it did: these two pass through, others do not."""
        if error is None:
            self.note_success(what)
            return None
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            return error
        PyErr_SetObject(type(error), error)
        PyErr_WriteUnraisable(callback)
        self.note_failure(what, error)
        return None

    cdef int note_failure(self, str what, object error) except -1:
        """Have the log told that something fails, unless it is known. Never raises."""
        cdef dict made
        try:
            trouble = self.troubles.get(what) if self.troubles is not None else None
            if trouble is None:
                called = f"cache {self.called!r}" if self.called is not None else "a cache without a name"
                made = {}
                trouble = make_trouble(called, what)
                acquire(self.lock)
                if self.troubles is None:
                    self.troubles = made
                release(self.lock)
                trouble = self.troubles.setdefault(what, trouble)
            trouble.begin(error)
        except Exception:
            pass
        return 0

    cdef int note_success(self, str what) except -1:
        """What was done does not fail, or not any more. Never raises."""
        if self.troubles is not None:
            try:
                trouble = self.troubles.get(what)
                if trouble is not None:
                    trouble.end()
            except Exception:
                pass
        return 0

    cdef int take_back(self, Operation* op) except -1:
        """Undo an insertion that the user's policy refused by raising."""
        cdef Operation undone
        start(&undone)
        acquire(self.lock)
        if self.remove_itself(op.added, op.i, NO_CAUSE, &undone):
            self.counts[SETS] -= 1
        release(self.lock)
        drop_all(&undone)
        return 0

    # --- finding: takes the lock, leaves it held, and lets it go while keys are compared ------------------------------

    cdef uint32_t find(self, object key, uint64_t h, Operation* op) except FAILED:
        """The index of the key's entry, live or expired or reserved; 0: none."""
        cdef uint32_t i
        acquire(self.lock)
        i = lookup(self.table, <PyObject*>key, h)
        if i == UNCERTAIN:
            i = find_by_comparing(self.engine, self.lock, key, h, op.n, op)
        return i

    cdef uint32_t find_itself(self, object key, uint64_t h, Operation* op) except FAILED:
        """`find` for a key that is likely to be the very object: others of the same hash need not be compared."""
        cdef uint32_t slot, i
        acquire(self.lock)
        slot = home(self.table, h)
        while True:
            i = candidate(self.table, h, &slot)
            if i == 0:
                break
            if self.table.entries[i].key == <PyObject*>key:
                return i
            slot = (slot + 1) & self.table.mask
        release(self.lock)
        return self.find(key, h, op)

    cdef uint32_t find_to_change(self, object key, uint64_t h, Operation* op) except FAILED:
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
            self.foreign.enter(op, self.lock)
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
        cdef double* spans
        cdef uint32_t capacity
        if not self.engine.reserve(self.bound):
            return False
        capacity = self.table.capacity
        if (with_deadline or self.modes & IDLES) and not make_place(&self.expiry, capacity, self.modes & IDLES):
            return False
        if self.modes & WEIGHED and not make_room_for_weights(&self.weights, capacity):
            return False
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
            drop_weight(&self.weights, self.weights.of[i])
        if self.modes & TAGGED:
            self.take_tags(i, op)
        self.live -= 1
        leave(op, e.key, e.value, cause)
        if self.modes & WATCHED and self.touch_watches(i, cause == EXPIRED):
            incref(e.key)
            e.value = NULL
            reserve(e, NULL)
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
        """Remove what has to go before that much more fits: the expired, then victims, but not the entry `kept`.

        Of that the weight is to be replaced.
        """
        cdef uint32_t victim
        cdef Cause cause
        while self.is_full(entries, weight, kept):
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

    cdef bint is_full(self, Py_ssize_t entries, double weight, uint32_t kept) noexcept nogil:
        if self.live + entries > self.bound:
            return True
        return self.modes & WEIGHED and not fits(&self.weights, weight, self.weights.of[kept] if kept != 0 else 0.0)

    cdef Outcome write(
        self, uint32_t i, object key, uint64_t h, object value,
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
            outcome = self.make_room(0, weight, i, now, op)
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
                drop_weight(&self.weights, self.weights.of[i])
                add_weight(&self.weights, weight)
                self.weights.of[i] = weight
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
                add_weight(&self.weights, weight)
                self.weights.of[i] = weight
        if not (live and keeps_end):
            self.set_lifetime(i, lifetime, now, op)
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

    cdef void set_lifetime(self, uint32_t i, double lifetime, double now, Operation* op) noexcept nogil:
        """Let entry i end after that time, or somewhat earlier if there is a jitter. Needs `prepare`."""
        cdef uint64_t chance
        if self.jitter == 0.0 or lifetime == INFINITY:
            self.set_end(i, end_of(now, lifetime), now, op)
            return
        self.dice += <uint64_t>0x9E3779B97F4A7C15           # splitmix64 (G. Steele and others, 2014)
        chance = self.dice ^ process
        chance = (chance ^ (chance >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
        chance = (chance ^ (chance >> 27)) * <uint64_t>0x94D049BB133111EB
        chance ^= chance >> 31
        self.set_end(i, end_of(now, lifetime * (1.0 - self.jitter * (chance >> 11) / BITS_53)), now, op)

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

    cdef void give_memory_back(self) noexcept:
        """After removals: no more is kept than a small multiple of what is held. Entries may stand elsewhere then."""
        cdef Moves moves
        if is_too_large(self.table) and self.engine.shrink(&moves):
            self.follow(&moves)
            deallocate(moves.pairs)

    cdef void follow(self, Moves* moves) noexcept:
        """The table has shrunk: so does all that is kept beside it, by entry."""
        cdef uint32_t k, i, to, capacity = self.table.capacity
        cdef double* spans
        cdef Reservation* reservation
        for k in range(moves.n):
            i = moves.pairs[2 * k]
            to = moves.pairs[2 * k + 1]
            if self.table.entries[to].value != NULL:
                move_deadline(&self.expiry, i, to)
                move_labels(&self.labels, i, to)
                if self.modes & WEIGHED:
                    self.weights.of[to] = self.weights.of[i]
                if self.spans != NULL:
                    self.spans[to] = self.spans[i]
            else:
                reservation = reservation_of(&self.table.entries[to])
                if reservation != NULL and self.table.entries[to].aux == forks:
                    reservation.i = to
            if self.modes & WATCHED:
                self.move_watches(i, to)
        less_room_for_labels(&self.labels, capacity)
        less_room_for_weights(&self.weights, capacity)
        less_place(&self.expiry, capacity)
        if self.spans_known > capacity + 1:
            spans = <double*>reallocate(self.spans, (<size_t>capacity + 1) * sizeof(double))
            if spans != NULL:
                self.spans = spans
                self.spans_known = capacity + 1

    cdef Py_ssize_t overdue(self, double now) noexcept nogil:
        """How many entries have expired but are still here, for they may be served. O(k) for k of them."""
        return count_over(&self.expiry, 1, now) if self.modes & EXPIRES else 0

    cdef void take_tags(self, uint32_t i, Operation* op) noexcept:
        """Entry i leaves, or gets other tags."""
        op.peeled = peel(&self.labels, i, op.peeled)
        if self.labels.n == 0:
            self.modes &= ~TAGGED

    # --- whole operations, without the lock -------------------------------------------------------------------------

    cdef int put(
        self, object key, uint64_t h, object value, double lifetime, double weight, bint only_new, Operation* op
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
                    self.take_tags(op.i, op)
                if outcome == DONE:
                    self.give_memory_back()     # many may have left for a heavy one
            release(self.lock)
            if outcome == DONE:
                return 0
            if outcome == NO_MEMORY:
                raise MemoryError("no memory left to store an entry")
            self.evict_foreign(op)

    cdef int put_tagged(
        self, object key, uint64_t h, object value, double lifetime, double weight, tuple names, Operation* op
    ) except -1:
        """`put` with tags."""
        cdef double now = self.now(lifetime)
        cdef Outcome outcome = NO_MEMORY
        cdef Label* chain = NULL
        cdef uint32_t i
        cdef bint dropped
        try:
            while True:
                if chain == NULL:
                    chain = new_labels(self.find_tags(names))
                i = self.find_to_change(key, h, op)
                dropped = some_dropped(chain)
                outcome = NO_MEMORY
                if not dropped and self.prepare(True) and make_room_for_labels(&self.labels, self.table.capacity):
                    outcome = self.write(i, key, h, value, lifetime, False, weight, now, op)
                if outcome == DONE:
                    self.give_tags(op.i, chain, op)
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

    cdef void give_tags(self, uint32_t i, Label* chain, Operation* op) noexcept:
        """Entry i, whose tags have been taken away, gets these. Under the lock; takes the chain over."""
        op.peeled = peel(&self.labels, i, op.peeled)
        stick(&self.labels, i, chain)
        if self.labels.n:
            self.modes |= TAGGED

    cdef list find_tags(self, tuple names):
        """The Tag of each of these tags, new ones where there is none."""
        return [self.find_tag(name, True) for name in names]

    cdef Tag find_tag(self, object name, bint makes):
        """The Tag of a tag; where there is none, None, or a new one. Finding and inserting it are one step."""
        cdef Engine tags = self.table_of_tags()
        cdef Tag made = Tag.__new__(Tag, name) if makes else None       # not under the lock, where nothing is allocated
        cdef uint64_t h = mixed(&tags.table, hash_of(<PyObject*>name))
        cdef uint32_t i
        cdef PyObject* found = <PyObject*>made
        cdef bint ready = True
        cdef Operation op
        start(&op)
        try:
            acquire(self.lock)
            i = lookup(&tags.table, <PyObject*>name, h)
            if i == UNCERTAIN:
                i = find_by_comparing(tags, self.lock, name, h, op.n, &op)
            if i == 0 and makes:
                if <Py_ssize_t>tags.table.used >= self.tags_limit:
                    self.drop_unused_tags(&op)
                ready = tags.reserve(MOST_TAGS)
                if ready:
                    i = tags.insert(<PyObject*>name, h)
                    put_value(&tags.table, i, found)
                    tags.admit(i)
            elif i != 0:
                found = tags.table.entries[i].value
            incref(found)
            release(self.lock)
        finally:
            drop_all(&op)
        tag = <object>found
        decref(found)
        if not ready:
            raise MemoryError("no memory left for a tag")
        return tag

    cdef Engine table_of_tags(self):
        """The tags that the cache knows. Made at the first use, and never replaced."""
        cdef Engine made
        if self.tags is None:
            made = Engine.__new__(Engine)
            acquire(self.lock)
            if self.tags is None:
                self.tags_limit = FEW_TAGS
                self.tags = made
            release(self.lock)
        return self.tags

    cdef void drop_unused_tags(self, Operation* op) noexcept:
        """Forget tags that no entry has. Under the lock."""
        cdef Table* t = &self.tags.table
        cdef uint32_t i
        cdef Tag tag
        for i in range(1, t.fresh):
            if t.entries[i].key == NULL:
                continue
            tag = <Tag>t.entries[i].value
            # a load that began before the tag was invalidated must learn of it, even if no entry has the tag now
            if tag.n == 0 and (tag.invalidated == 0 or self.loads == 0) and can_leave(op):
                tag.dropped = True
                self.tags.forget(i)
                leave(op, t.entries[i].key, t.entries[i].value, NO_CAUSE)
                self.tags.release(i)
        self.tags.shrink_alone()
        self.tags_limit = max(<Py_ssize_t>FEW_TAGS, 2 * <Py_ssize_t>t.used)

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
        i = self.find_victim(op, ROUNDS)
        op.locked = self.table.version == op.version
        outcome = self.remove(i, SIZE, op) if i != 0 else DONE      # 0: there is room by now
        if outcome != DONE:
            op.locked = False
            self.foreign.behind = True          # the policy has given the key up, which stays
        if not op.locked:
            release(self.lock)
        if outcome != DONE:
            raise MemoryError("no memory left to remove an entry")
        return 0

    cdef uint32_t find_victim(self, Operation* op, int rounds) except FAILED:
        """Have the user's policy name a victim. Returns its entry (0: there is none), and with the lock held.

        Where it is behind, and names what is gone or nothing, it is asked again, in so many rounds at the most.
        """
        cdef uint32_t i
        cdef Py_hash_t hashed
        if op.strays:
            acquire(self.lock)
            return self.engine.first()          # the oldest entry: the policy cannot be asked
        self.tell(op)                           # what has gone meanwhile it must not name
        key = self.foreign.victim(rounds == 1)
        if key is None:
            return self.find_victim(op, rounds - 1)
        hashed = ask_hash(<PyObject*>key)
        if hashed == -1:
            error = caught()
            self.remove_forgotten(key, op)
            if isinstance(error, TypeError):
                raise RuntimeError(
                    f"policy {type(self.foreign.policy).__name__}: evict() named what is no key"
                ) from error
            raise error
        try:
            i = self.find_itself(key, mixed(self.table, hashed), op)
        except:
            self.remove_forgotten(key, op)
            raise
        if i == 0 or self.table.entries[i].value == NULL:
            release(self.lock)
            if self.foreign.behind and self.foreign.depth == 0 and rounds > 1:      # somebody has removed it meanwhile
                return self.find_victim(op, rounds - 1)
            raise RuntimeError(
                f"policy {type(self.foreign.policy).__name__}: evict() named {key!r}, which is not in the cache"
            )
        if self.table.entries[i].key != <PyObject*>key:     # an equal one, which must not die here, under the lock
            if not can_leave(op):
                self.foreign.behind = True
                release(self.lock)
                raise MemoryError("no memory left to remove an entry")
            incref(<PyObject*>key)
            leave(op, NULL, <PyObject*>key, NO_CAUSE)
        return i

    cdef void remove_forgotten(self, object key, Operation* op) noexcept:
        """The policy gave up a key that cannot be looked up, since its `__hash__` or `__eq__` raises: out it goes. O(n)."""
        acquire(self.lock)
        if not self.remove_itself(<PyObject*>key, 0, SIZE, op):
            self.foreign.behind = True          # it has forgotten an equal one, which stays
        release(self.lock)

    cdef bint remove_itself(self, PyObject* key, uint32_t i, Cause cause, Operation* op) noexcept:
        """Remove the entry with that very key, probably entry i. O(n) if it is not. Returns whether there was one."""
        if i == 0 or i >= self.table.fresh or self.table.entries[i].key != key:
            i = self.table.fresh - 1
            while i != 0 and self.table.entries[i].key != key:
                i -= 1
        return i != 0 and self.table.entries[i].value != NULL and self.remove(i, cause, op) == DONE

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
                    self.foreign.enter(&op, self.lock)
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
            self.foreign.enter(&op, self.lock)
            if not op.strays:
                keys = list(self.foreign.policy)
            else:
                keys = every_live_key(self)
            rows[0] = <Row*>allocate(max(len(keys), 1) * sizeof(Row))
            if rows[0] == NULL:
                raise MemoryError(f"no memory left to copy {len(keys)} entries")
            for key in keys:
                i = self.find_itself(key, mixed(self.table, hash_of(<PyObject*>key)), &op)
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
        row.weight = self.weights.of[i] if self.modes & WEIGHED else 0.0
        row.tags = copy_tags(&self.labels, i, failed)
        row.rank = self.engine.rank(i)

    cdef int empty(self, bint statistics_too) except -1:
        """Forget all entries; nobody is told. Loads that are under way will not be stored."""
        cdef Operation op
        cdef Table old
        greenlet = this_greenlet()
        start(&op)
        try:
            if self.foreign is not None:
                self.foreign.enter(&op, self.lock)
            acquire(self.lock)
            old = self.engine.detach()
            op.peeled = peel_all(&self.labels)
            self.forget_entries()
            self.close_watches(greenlet)
            if statistics_too:
                self.statistics.zero()
            release(self.lock)
            try:
                if self.foreign is not None and not op.strays:
                    self.foreign.clear()
            finally:
                drop_detached(&old)
        finally:
            self.finish(&op)
        return 0

    cdef void forget_entries(self) noexcept nogil:
        """The table has been emptied: so is what is kept beside it, but for the labels. Under the lock."""
        self.live = 0
        self.modes &= ~(EXPIRES | TAGGED)
        forget_all(&self.expiry)
        drop_all_weights(&self.weights)
        less_room_for_weights(&self.weights, 0)
        deallocate(self.spans)
        self.spans = NULL
        self.spans_known = 0

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
        if reservation_of(&self.table.entries[i]) == NULL and not self.is_watched(i) and can_leave(op):
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
        cdef bint watched = False
        while at != NULL:
            if (<Watch>at).i == i:
                watched = True
                if expired and (<Watch>at).only_writes:
                    pass
                else:
                    self.touch_watch(at)
            at = (<Watch>at).next
        return watched

    cdef void touch_watch(self, PyObject* watch) noexcept:
        """The caller has written what is watched. Which greenlet that is cannot be asked under the lock."""
        if not (<Watch>watch).ignores_own or (<Watch>watch).thread != this_thread():
            (<Watch>watch).touched = True
        elif (<Watch>watch).greenlet is not None:
            (<Watch>watch).unsure = self.unsure = True

    cdef int know_writer(self) except -1:
        """Find out, without the lock, whether what this thread has written was written by those who watch it."""
        cdef unsigned long writer = this_thread()
        cdef uint32_t bucket
        cdef PyObject* at
        greenlet = this_greenlet()
        acquire(self.lock)
        self.unsure = False
        if self.watch_count != 0:
            for bucket in range(self.watch_mask + 1):
                at = self.watches[bucket]
                while at != NULL:
                    if (<Watch>at).unsure and (<Watch>at).thread == writer:
                        (<Watch>at).unsure = False
                        (<Watch>at).touched = (<Watch>at).touched or (<Watch>at).greenlet is not greenlet
                    self.unsure = self.unsure or (<Watch>at).unsure
                    at = (<Watch>at).next
        release(self.lock)
        return 0

    cdef void close_watches(self, object greenlet) noexcept:
        """All entries were cleared away, by that greenlet of this thread."""
        cdef unsigned long writer = this_thread()
        cdef uint32_t bucket
        cdef PyObject* at
        if self.watch_count == 0:
            return
        for bucket in range(self.watch_mask + 1):
            at = self.watches[bucket]
            while at != NULL:
                if not (<Watch>at).ignores_own or (<Watch>at).thread != writer or (<Watch>at).greenlet is not greenlet:
                    (<Watch>at).touched = True
                (<Watch>at).i = 0
                at = (<Watch>at).next
            self.watches[bucket] = NULL
        self.watch_count = 0
        self.modes &= ~WATCHED

    cdef void move_watches(self, uint32_t i, uint32_t to) noexcept:
        """Entry i stands at `to` now."""
        cdef PyObject** at = &self.watches[i & self.watch_mask]
        cdef PyObject* moving
        while at[0] != NULL:
            if (<Watch>at[0]).i != i:
                at = &(<Watch>at[0]).next
                continue
            moving = at[0]
            at[0] = (<Watch>moving).next
            (<Watch>moving).i = to
            (<Watch>moving).next = self.watches[to & self.watch_mask]
            self.watches[to & self.watch_mask] = moving

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
        self.greenlet = this_greenlet()

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


cdef list every_live_key(Store store):
    """The keys of all entries that have a value, oldest first. O(n)."""
    cdef PyObject** keys
    cdef Py_ssize_t size, n = 0, k
    cdef uint32_t i
    while True:
        size = store.live
        keys = <PyObject**>allocate((size + 1) * sizeof(PyObject*))
        if keys == NULL:
            raise MemoryError(f"no memory left to copy {size} keys")
        acquire(store.lock)
        if store.live <= size:
            break
        release(store.lock)                     # it grew meanwhile
        deallocate(keys)
    i = store.engine.first()
    while i != 0:
        keys[n] = store.table.entries[i].key
        incref(keys[n])
        n += 1
        i = store.engine.after(i)
    release(store.lock)
    try:
        return [<object>keys[k] for k in range(n)]
    finally:
        for k in range(n):
            decref(keys[k])
        deallocate(keys)


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


ctypedef int (*Quietly)(Store) noexcept
ctypedef int (*Telling)(Store, Operation*) noexcept


cdef int tell_and_exit(Store store, Operation* op) except -1:
    cdef Foreign foreign = store.foreign
    cdef int rounds = ROUNDS
    if op.strays:
        acquire(store.lock)
        op.strays = False
        foreign.strays -= 1 if foreign.strays else 0
        foreign.behind = True
        release(store.lock)
        xdecref(op.used)
        xdecref(op.added)
        op.used = op.added = NULL
    else:
        try:
            store.tell(op)
        finally:
            if op.added != NULL:
                store.take_back(op)
            foreign.exit(op)
    while rounds and foreign.behind and foreign.turn.acquire(False):
        rounds -= 1                             # else whoever has the turn does it, when it is over
        try:
            if foreign.turns or foreign.depth:
                rounds = 0                      # that is the operation, or the method, around this one
            else:
                store.reconcile()
        finally:
            foreign.turn.release()
    return 0


cdef object as_exhaustion(object error):
    """The sweeper could not be called: what says so, where the reason is that there is no memory for a lock."""
    return MemoryError("no memory left to have the entry swept") if isinstance(error, RuntimeError) else error


cdef inline PyObject* plain(PyObject* answer, object name) noexcept:
    """What a callback returned, or NULL with an exception set: one that somebody would have to await is an error."""
    if answer != NULL and is_awaitable(answer) and (<int (*)(PyObject*, object) noexcept>refuse)(answer, name) == -1:
        xdecref(answer)
        return NULL
    return answer


cdef int refuse(PyObject* answer, object name) except -1:
    refuse_awaitable(name, <object>answer)
    return 0


cdef int import_causes() except -1:
    global causes
    importing.acquire()
    try:
        from cachebox.removal import IN_ORDER
    finally:
        importing.release()
    causes = IN_ORDER                           # the module keeps it: whoever comes second sets the same object
    return 0


cdef object make_trouble(str called, str what):
    """What tells the log that something of a cache fails, and that it is well again."""
    importing.acquire()
    try:
        from cachebox._platform.trouble import Trouble
    finally:
        importing.release()
    if what == "refresh":
        begins, ends = "values are not loaded anew in the background, which fails", "values are loaded anew again"
    else:
        begins, ends = f"{what} fails", f"{what} works again"
    return Trouble(f"{called}: {begins}", f"{called}: {ends}", traceback=True)


cdef int import_sweeper() except -1:
    global sweeper
    importing.acquire()
    try:
        from cachebox._store import sweeper as imported
    finally:
        importing.release()
    if hasattr(imported, "IS_WHOLE"):           # else something interrupted this import: the next deadline calls it
        sweeper = imported
    return 0


cdef int call_sweeper(Store store) except -1:
    """Have the sweeper come in time for the earliest deadline."""
    cdef double due
    cdef bint called = False
    if sweeper is None:
        import_sweeper()
        if sweeper is None:
            return 0
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
    try:
        sweeper.schedule(known, due)
        called = True
    finally:
        if not called:                          # the next deadline is to call it again
            store.next_visit = INFINITY
    return 0


cdef int run_pending(void* function) noexcept with gil:
    cdef PyObject* resume = <PyObject*>function
    cdef PyObject* called = ask(resume, NULL)
    if called == NULL:
        PyErr_WriteUnraisable(<object>resume)
    xdecref(called)
    decref(resume)
    return 0


def resume_after_fork():
    """What the sweeper does in the parent after a fork, in the hook that runs for it.

    From 3.13 on CPython counts the threads after the hooks have run, and warns if there are several: so the thread has
    to start a moment later, as soon as the main thread runs Python code again. A hook written in Python is such code.
    """
    cdef PyObject* resume
    module = sys.modules.get("cachebox._store.sweeper")     # `sweeper` is not set before an entry has had a deadline
    if module is None:
        return
    if module.may_resume_later():
        resume = <PyObject*>module.resume
        incref(resume)
        if add_pending_call(run_pending, <void*>resume) == 0:
            return
        decref(resume)
    module.resume()


# --- the collector ----------------------------------------------------------------------------------------------------
# To break a cycle it clears one of the objects in it. Cython would set every attribute to None, `engine` included; a
# finaliser that used the cache after that would crash. So it clears what is safe to lose: entries and callbacks.

cdef int clear_cycles(PyObject* self) noexcept:
    cdef Store store = <Store>self
    cdef Table old, tags
    cdef Label* off
    tags.capacity = 0
    if store.engine is None:
        return 0
    old = store.engine.detach()
    if store.tags is not None:
        tags = store.tags.detach()
    off = peel_all(&store.labels)
    store.forget_entries()
    store.modes &= ~LISTENED
    store.close_watches(None)
    store.on_evict = store.on_removal = store.weigher = store.clock = store.ttl_of = store.copier = None
    store.loader = store.failures = store.refreshes = None
    free_labels(off)
    drop_detached(&old)
    drop_detached(&tags)
    return 0


cdef traverseproc traverse_attributes = (<PyTypeObject*>Store).tp_traverse


cdef int traverse(PyObject* self, visitproc visit, void* arg) noexcept:
    """Labels own their Tags, too. Where no tag could be part of a cycle there is no need to look."""
    cdef Store store = <Store>self
    cdef Label* label
    cdef uint32_t i
    cdef int stop = traverse_attributes(self, visit, arg)
    if stop == 0 and store.labels.n != 0 and store.tags.table.keys_collectable:
        for i in range(store.labels.known):
            label = store.labels.chains[i]
            while label != NULL:
                stop = visit(label.tag, arg)
                if stop:
                    return stop
                label = label.other
    return stop


(<PyTypeObject*>Store).tp_traverse = <traverseproc>traverse
(<PyTypeObject*>Store).tp_clear = <inquiry>clear_cycles


def _before_fork():
    global fork_waited
    fork_waited = importing.acquire(timeout=1.0)


def _after_fork_in_parent():
    if fork_waited:
        importing.release()


def _after_fork_in_child():
    global forks, process
    forks += 1
    process = os.getpid()
    if fork_waited:
        importing.release()
    else:
        importing._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
