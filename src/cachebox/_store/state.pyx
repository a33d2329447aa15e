"""A cache's entries and all that is kept for each, changed together under the cache's lock; see `state.pxd`."""

cimport cython
from cpython.object cimport PyObject, PyTypeObject, inquiry, traverseproc, visitproc
from libc.math cimport INFINITY
from libc.stdint cimport uint32_t, uint64_t

import os
import sys

from cachebox._engine.table cimport (
    Engine, Entry, Moves, Table, allocate, allocate_zeroed, deallocate, decref, drop_detached, incref, is_too_large,
    on_hit, put_value, reallocate,
)
from cachebox._platform.callers cimport this_greenlet, this_thread
from cachebox._platform.lock cimport acquire, release
from cachebox._store.deadlines cimport (
    count_over, deadline_after, drop_deadline, forget_all, has_expired, less_place, make_place, move_deadline,
    set_deadline,
)
from cachebox._store.operation cimport (
    EXPIRED, EXPLICIT, NO_CAUSE, REPLACED, SIZE, drop_all, note_removal, reserve_removal, start,
)
from cachebox._store.tags cimport TagLink, attach, detach, detach_all, free_links, less_room_for_links, move_links
from cachebox._store.weights cimport (
    add_weight, drop_all_weights, drop_weight, fits, forget_weights, less_room_for_weights, make_room_for_weights,
)
from cachebox.stats cimport DELETES, EVICTIONS, HITS, SETS
from cachebox.stats cimport EXPIRED as EXPIRED_ENTRIES


cdef enum:
    FIRST_BUCKETS = 8               # of watches

cdef double BY_VALUE = -1.0
cdef double BITS_53 = 9007199254740992.0
cdef double CLOCK_LAGS = 0.004      # seconds: a visit right at a deadline would find that it has not passed yet
cdef double VISITS_APART = 0.25     # seconds that an expired entry may stay before the sweeper is woken for it

cdef uint32_t forks = 0
# part of the random numbers, so that sibling processes shorten lifetimes differently
cdef uint64_t process = os.getpid()


@cython.no_gc_clear                 # see `clear_cycles`
cdef class State:

    def __cinit__(self):
        self.bound = sys.maxsize
        self.lifetime = self.idle = self.next_visit = self.bound_weight = INFINITY
        self.latest = -INFINITY

    def __dealloc__(self):
        cdef Table old
        if self.engine is not None:
            old = self.engine.detach()          # a policy object may outlive the cache, but its entries must not
            drop_detached(&old)
        free_links(detach_all(&self.links))
        forget_all(&self.expiry)
        forget_weights(&self.weights)
        deallocate(self.ttls)
        deallocate(self.watches)

    cdef void equip(self, Engine engine) noexcept:
        """Use another engine; the old one never had an entry. Needs the lock once other threads know the cache."""
        self.engine = engine
        self.table = &engine.table

    cdef bint is_live(self, uint32_t i, double now) noexcept nogil:
        if i == 0 or self.table.entries[i].value == NULL:
            return False
        return not (self.modes & EXPIRES and has_expired(&self.expiry, i, now))

    cdef bint prepare(self, bint with_deadline) noexcept nogil:
        """Allocate memory for one more entry and all that is kept for it; False: there is none."""
        cdef double* ttls
        cdef uint32_t capacity
        if not self.engine.reserve(self.bound):
            return False
        capacity = self.table.capacity
        if (with_deadline or self.modes & IDLES) and not make_place(&self.expiry, capacity, self.modes & IDLES):
            return False
        if self.modes & WEIGHED and not make_room_for_weights(&self.weights, capacity):
            return False
        if self.modes & (AHEAD | STALE) and self.ttls_known <= capacity:
            ttls = <double*>reallocate(self.ttls, (<size_t>capacity + 1) * sizeof(double))
            if ttls == NULL:
                return False
            self.ttls = ttls
            self.ttls_known = capacity + 1
        return True

    cdef Outcome remove(self, uint32_t i, Cause cause, Operation* op) noexcept:
        """Take a live entry out. If its key is watched, the entry stays as a reserved one."""
        cdef Entry* e = &self.table.entries[i]
        if not reserve_removal(op):
            return NO_MEMORY
        self.engine.on_remove(i)
        if self.modes & EXPIRES:
            drop_deadline(&self.expiry, i)
            if self.expiry.n == 0:
                self.modes &= ~EXPIRES
        if self.modes & WEIGHED:
            drop_weight(&self.weights, self.weights.of[i])
        if self.modes & TAGGED:
            self.take_tags(i, op)
        self.live -= 1
        note_removal(op, e.key, e.value, cause)
        if self.modes & WATCHED and self.mark_changed(i, cause):
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
        """Remove entries until `entries` more, of weight `weight`, fit: first expired ones, then victims.

        The entry `kept` stays; its own weight is about to be replaced.
        """
        cdef uint32_t victim
        cdef Cause cause
        while self.is_full(entries, weight, kept):
            if self.modes & EXPIRES and self.expiry.deadlines[1] <= now and self.expiry.entries[1] != kept:
                victim = self.expiry.entries[1]
                cause = EXPIRED
            elif self.python_policy is not None:
                op.version = self.table.version
                return NO_ROOM
            else:
                victim = self.engine.victim()
                if victim == kept and kept != 0:
                    victim = self.engine.next_victim(victim)
                cause = SIZE
            if victim == 0:
                break                           # only `kept` is left
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
        """Store a value under a key with entry i (0: none). `keeps_end`: an existing deadline stays."""
        cdef Outcome outcome
        cdef Entry* e
        cdef double ttl
        cdef bint live = i != 0 and self.table.entries[i].value != NULL
        if live and self.modes & EXPIRES and has_expired(&self.expiry, i, now):
            if self.remove(i, EXPIRED, op) != DONE:
                return NO_MEMORY
            live = False
            if self.table.entries[i].key == NULL:
                i = 0
        if not self.prepare(lifetime < INFINITY):
            return NO_MEMORY
        if live:
            on_hit(<PyObject*>self.engine, i)
            outcome = self.make_room(0, weight, i, now, op)
            if outcome != DONE:
                return outcome
            if not reserve_removal(op):
                return NO_MEMORY
            e = &self.table.entries[i]
            if self.modes & HAS_CALLBACKS:
                incref(e.key)
                note_removal(op, e.key, e.value, REPLACED)
            else:
                note_removal(op, NULL, e.value, NO_CAUSE)
            if self.modes & WEIGHED and self.weights.of[i] != weight:
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
            self.engine.on_insert(i)
            self.live += 1
            if self.modes & WEIGHED:
                add_weight(&self.weights, weight)
                self.weights.of[i] = weight
        if not (live and keeps_end):
            self.set_lifetime(i, lifetime, now, op)
        elif self.modes & IDLES:
            ttl = self.ttls[i] if self.modes & (AHEAD | STALE) else 0.0
            self.set_end(i, self.expiry.write_deadlines[i], now, op)
            if self.modes & (AHEAD | STALE):
                self.ttls[i] = ttl
        self.mark_changed(i, NO_CAUSE)
        op.i = i
        if self.modes & PYTHON_POLICY:
            incref(self.table.entries[i].key)
            if live:
                op.used = self.table.entries[i].key
            else:
                op.added = self.table.entries[i].key
        self.counts[SETS] += 1
        return DONE

    cdef void set_lifetime(self, uint32_t i, double lifetime, double now, Operation* op) noexcept nogil:
        """Let entry i expire after `lifetime`, or somewhat earlier if there is a jitter. Needs `prepare`."""
        cdef uint64_t chance
        if self.jitter == 0.0 or lifetime == INFINITY:
            self.set_end(i, deadline_after(now, lifetime), now, op)
            return
        self.dice += <uint64_t>0x9E3779B97F4A7C15           # splitmix64 (G. Steele and others, 2014)
        chance = self.dice ^ process
        chance = (chance ^ (chance >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
        chance = (chance ^ (chance >> 27)) * <uint64_t>0x94D049BB133111EB
        chance ^= chance >> 31
        self.set_end(i, deadline_after(now, lifetime * (1.0 - self.jitter * (chance >> 11) / BITS_53)), now, op)

    cdef void set_end(self, uint32_t i, double end, double now, Operation* op) noexcept nogil:
        """Let entry i expire at `end`, or earlier by the idle limit. Needs `prepare`."""
        if self.modes & (AHEAD | STALE):
            self.ttls[i] = end - now
        if self.modes & IDLES:
            self.expiry.write_deadlines[i] = end
            end = min(end, deadline_after(now, self.idle))
        if end < INFINITY:
            set_deadline(&self.expiry, i, end)
            self.modes |= EXPIRES
            if end + self.stale + VISITS_APART < self.next_visit and not self.modes & (USER_CLOCK | PRECISE):
                op.wake_sweeper = True
        elif self.modes & EXPIRES:
            drop_deadline(&self.expiry, i)
            if self.expiry.n == 0:
                self.modes &= ~EXPIRES

    cdef void note_hit(self, uint32_t i, double now, Operation* op) noexcept nogil:
        self.counts[HITS] += 1
        on_hit(<PyObject*>self.engine, i)
        if self.modes & IDLES:
            set_deadline(&self.expiry, i, min(self.expiry.write_deadlines[i], deadline_after(now, self.idle)))
        if self.modes & PYTHON_POLICY:
            op.used = self.table.entries[i].key
            incref(op.used)

    cdef void give_memory_back(self) noexcept:
        """After removals: return memory that exceeds a small multiple of what is used. Entries may move."""
        cdef Moves moves
        if is_too_large(self.table) and self.engine.shrink(&moves):
            self.follow(&moves)
            deallocate(moves.pairs)

    cdef void follow(self, Moves* moves) noexcept:
        """After the table has shrunk: move and shrink all that is kept by index."""
        cdef uint32_t k, i, to, capacity = self.table.capacity
        cdef double* ttls
        cdef Reservation* reservation
        for k in range(moves.n):
            i = moves.pairs[2 * k]
            to = moves.pairs[2 * k + 1]
            if self.table.entries[to].value != NULL:
                move_deadline(&self.expiry, i, to)
                move_links(&self.links, i, to)
                if self.modes & WEIGHED:
                    self.weights.of[to] = self.weights.of[i]
                if self.ttls != NULL:
                    self.ttls[to] = self.ttls[i]
            else:
                reservation = reservation_of(&self.table.entries[to])
                if reservation != NULL and self.table.entries[to].aux == forks:
                    reservation.i = to
            if self.modes & WATCHED:
                self.move_watches(i, to)
        less_room_for_links(&self.links, capacity)
        less_room_for_weights(&self.weights, capacity)
        less_place(&self.expiry, capacity)
        if self.ttls_known > capacity + 1:
            ttls = <double*>reallocate(self.ttls, (<size_t>capacity + 1) * sizeof(double))
            if ttls != NULL:
                self.ttls = ttls
                self.ttls_known = capacity + 1

    cdef Py_ssize_t count_expired(self, double now) noexcept nogil:
        """How many entries have expired but are kept because they may be served stale. O(k) for k of them."""
        return count_over(&self.expiry, 1, now) if self.modes & EXPIRES else 0

    cdef void take_tags(self, uint32_t i, Operation* op) noexcept:
        """Detach the tags of entry i, because it leaves or gets other tags."""
        op.detached = detach(&self.links, i, op.detached)
        if self.links.n == 0:
            self.modes &= ~TAGGED

    cdef void give_tags(self, uint32_t i, TagLink* chain, Operation* op) noexcept:
        """Give entry i a chain of new links, which passes to it, in place of its own. Needs the lock."""
        op.detached = detach(&self.links, i, op.detached)
        attach(&self.links, i, chain)
        if self.links.n:
            self.modes |= TAGGED

    cdef void forget_entries(self) noexcept nogil:
        """After the table was emptied: empty all that is kept by index, except links. Needs the lock."""
        self.live = 0
        self.modes &= ~(EXPIRES | TAGGED)
        forget_all(&self.expiry)
        drop_all_weights(&self.weights)
        less_room_for_weights(&self.weights, 0)
        deallocate(self.ttls)
        self.ttls = NULL
        self.ttls_known = 0

    # --- watches ------------------------------------------------------------------------------------------------------

    cdef void drop_reserved(self, uint32_t i, Operation* op) noexcept:
        """Free a reserved entry that lost its leader or a watch, unless another one still holds it."""
        if reservation_of(&self.table.entries[i]) == NULL and not self.is_watched(i) and reserve_removal(op):
            note_removal(op, self.table.entries[i].key, NULL, NO_CAUSE)
            self.engine.release(i)
            self.give_memory_back()

    cdef bint is_watched(self, uint32_t i) noexcept:
        cdef PyObject* at = self.watches[i & self.watch_mask] if self.modes & WATCHED else NULL
        while at != NULL and (<Watch>at).i != i:
            at = (<Watch>at).next
        return at != NULL

    cdef bint mark_changed(self, uint32_t i, Cause cause) noexcept:
        """Mark the watches of entry i: its key was written, or has left for this cause.

        Returns whether there are any.
        """
        cdef PyObject* at = self.watches[i & self.watch_mask] if self.modes & WATCHED else NULL
        cdef bint watched = False
        while at != NULL:
            if (<Watch>at).i == i:
                watched = True
                if not ((cause == EXPIRED and (<Watch>at).outlasts_expiry)
                        or (cause == SIZE and (<Watch>at).outlasts_eviction)):
                    self.mark_watch(at)
            at = (<Watch>at).next
        return watched

    cdef void mark_watch(self, PyObject* watch) noexcept:
        """Mark a watch after a write of the caller. Under the lock it cannot be asked which greenlet that is."""
        if not (<Watch>watch).ignores_own or (<Watch>watch).thread != this_thread():
            (<Watch>watch).changed = True
        elif (<Watch>watch).greenlet is not None:
            (<Watch>watch).unsure = self.unsure = True

    cdef int know_writer(self) except -1:
        """Find out, without the lock, whether this thread's writes were made by the caller that has the watch."""
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
                        (<Watch>at).changed = (<Watch>at).changed or (<Watch>at).greenlet is not greenlet
                    self.unsure = self.unsure or (<Watch>at).unsure
                    at = (<Watch>at).next
        release(self.lock)
        return 0

    cdef void close_watches(self, object greenlet) noexcept:
        """Close all watches after a clear, which that greenlet of this thread made."""
        cdef unsigned long writer = this_thread()
        cdef uint32_t bucket
        cdef PyObject* at
        if self.watch_count == 0:
            return
        for bucket in range(self.watch_mask + 1):
            at = self.watches[bucket]
            while at != NULL:
                if not (<Watch>at).ignores_own or (<Watch>at).thread != writer or (<Watch>at).greenlet is not greenlet:
                    (<Watch>at).changed = True
                (<Watch>at).i = 0
                at = (<Watch>at).next
            self.watches[bucket] = NULL
        self.watch_count = 0
        self.modes &= ~WATCHED

    cdef void move_watches(self, uint32_t i, uint32_t to) noexcept:
        """Move the watches of an entry that has moved."""
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
        """Double the hash table, so that its chains stay short. Without memory it stays as it is."""
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


@cython.no_gc_clear                 # an open watch needs its store in order to close
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
        """Watch entry i of `store`. Needs the lock. False: no memory."""
        cdef State store = self.store
        cdef PyObject** bucket
        if store.watches == NULL or store.watch_count > 2 * store.watch_mask:
            store.more_buckets()
            if store.watches == NULL:
                return False
        bucket = &store.watches[i & store.watch_mask]
        self.i = i
        self.changed = False
        self.next = bucket[0]
        bucket[0] = <PyObject*>self
        store.watch_count += 1
        store.modes |= WATCHED
        return True

    cdef void close(self, Operation* op) noexcept:
        """Stop watching. Needs the lock."""
        cdef State store = self.store
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


cdef Watch new_watch(State state):
    cdef Watch watch = Watch.__new__(Watch)
    watch.store = state
    return watch


cdef list every_key(State state, bint reserved_too):
    """The keys of all live or expired entries, next victim first; or of reserved ones too, in no order. O(n)."""
    cdef PyObject** keys
    cdef Py_ssize_t size, n = 0, k
    cdef uint32_t i
    while True:
        size = state.table.used
        keys = <PyObject**>allocate((size + 1) * sizeof(PyObject*))
        if keys == NULL:
            raise MemoryError(f"no memory left to copy {size} keys")
        acquire(state.lock)
        if state.table.used <= size:
            break
        release(state.lock)                     # the table grew meanwhile
        deallocate(keys)
    i = 1 if reserved_too else state.engine.victim()
    while i != 0 and i < state.table.fresh:
        if state.table.entries[i].key != NULL:
            keys[n] = state.table.entries[i].key
            incref(keys[n])
            n += 1
        i = i + 1 if reserved_too else state.engine.next_victim(i)
    release(state.lock)
    try:
        return [<object>keys[k] for k in range(n)]
    finally:
        for k in range(n):
            decref(keys[k])
        deallocate(keys)


# --- the collector ----------------------------------------------------------------------------------------------------
# To break a cycle, the collector clears one object in it. Cython would set every attribute to None, `engine` included,
# and a finaliser that used the cache afterwards would crash. So this clears only what is safe to lose: entries and
# callbacks.

cdef int clear_cycles(PyObject* self) noexcept:
    cdef State store = <State>self
    cdef Table old, tags
    cdef TagLink* off
    tags.capacity = 0
    if store.engine is None:
        return 0
    old = store.engine.detach()
    if store.tags is not None:
        tags = store.tags.detach()
    off = detach_all(&store.links)
    store.forget_entries()
    store.modes &= ~HAS_CALLBACKS
    store.close_watches(None)
    store.on_evict = store.on_removal = store.weigher = store.clock = store.ttl_of = store.copier = None
    store.loader = store.failures = store.refreshes = None
    free_links(off)
    drop_detached(&old)
    drop_detached(&tags)
    return 0


cdef traverseproc traverse_attributes = (<PyTypeObject*>State).tp_traverse


cdef int traverse(PyObject* self, visitproc visit, void* arg) noexcept:
    """Visit the Tags that links own, too; not if no tag can be part of a cycle."""
    cdef State store = <State>self
    cdef TagLink* link
    cdef uint32_t i
    cdef int stop = traverse_attributes(self, visit, arg)
    if stop == 0 and store.links.n != 0 and store.tags.table.keys_collectable:
        for i in range(store.links.known):
            link = store.links.chains[i]
            while link != NULL:
                stop = visit(link.tag, arg)
                if stop:
                    return stop
                link = link.next_of_entry
    return stop


(<PyTypeObject*>State).tp_traverse = <traverseproc>traverse
(<PyTypeObject*>State).tp_clear = <inquiry>clear_cycles


def _after_fork_in_child():
    global forks, process
    forks += 1
    process = os.getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
