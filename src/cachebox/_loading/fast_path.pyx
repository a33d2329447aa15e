"""Continuations of the fast paths; see `fast_path.pxd`."""

from cpython.object cimport PyObject
from libc.math cimport INFINITY
from libc.stdint cimport uint32_t, uint64_t

from cachebox._engine.table cimport (
    UNCERTAIN, Table, candidate, decref, home, incref, likely, lookup, lookup_from, on_hit, plainly_equal, put_value,
    try_equal, unlikely,
)
from cachebox._platform.clock cimport coarse_now, precise_now
from cachebox._platform.lock cimport acquire, release
from cachebox._store.deadlines cimport deadline_after, drop_deadline, make_place, set_deadline
from cachebox._store.operation cimport NO_CAUSE, Operation, drop_all, find_by_comparing, note_removal, start
from cachebox._store.state cimport (
    DEFAULTS, EXPIRES, IDLES, ISOLATED, PRECISE, PYTHON_POLICY, USER_CLOCK, VISITS_APART,
)
from cachebox._store.store cimport Store
from cachebox.stats cimport SETS


cdef PyObject* ask_about_hit(PyObject* store, uint32_t i, PyObject* value) noexcept:
    """The end of `take_hit` if the policy is to be called."""
    on_hit(<PyObject*>(<Store>store).engine, i)
    release((<Store>store).lock)
    return value


cdef PyObject* go_on(
    PyObject* store, PyObject* key, uint64_t h, uint32_t slot, uint32_t i, bint* compared
) except? NULL:
    """The rest of a search for a hit. Entry i was found at `slot`; if i is 0, the search goes on from there.

    Keys are compared by `==` if need be, which runs without the lock. NULL without an exception: there is no such key,
    or the hit takes more than `try_hit`. `compared` becomes true if keys were compared and the key is absent, so that
    they are not compared twice. Takes over the lock, and releases it.
    """
    cdef Table* t = (<Store>store).table
    cdef PyObject* stored
    cdef PyObject* value
    cdef uint64_t version
    cdef int equal
    while i == 0:
        i = candidate(t, h, &slot)
        stored = t.entries[i].key
        if stored == key:                       # the sentinel's key is NULL
            break
        if i == 0:
            release((<Store>store).lock)
            return NULL
        if likely(t.entries[i].hash == <uint32_t>h):
            equal = plainly_equal(t, i, key, h)
            if equal > 0:
                break
            if equal < 0:
                if (<Store>store).modes & (IDLES | USER_CLOCK | PYTHON_POLICY | ISOLATED):  # a hit takes more anyway
                    release((<Store>store).lock)
                    return NULL
                version = t.version
                incref(stored)
                release((<Store>store).lock)
                equal = try_equal(stored, key)
                if unlikely(equal < 0):
                    decref(stored)
                    return NULL
                acquire((<Store>store).lock)
                if unlikely(not equal or t.version != version):
                    return go_on_comparing(store, key, h, i, stored, equal, compared)
                decref(stored)                  # not the last reference: the entry has one
                break
        slot = (slot + 1) & t.mask
        i = 0
    value = try_hit(store, i)
    release((<Store>store).lock)
    return value


cdef PyObject* go_on_comparing(
    PyObject* store, PyObject* key, uint64_t h, uint32_t i, PyObject* stored, bint equal, bint* compared
) except? NULL:
    """`go_on` after the key of entry i differed, or the table was written meanwhile.

    Takes over the lock and the reference.
    """
    cdef Operation op
    cdef PyObject* value = NULL
    start(&op)
    note_removal(&op, NULL, stored, NO_CAUSE)
    op.removed[0].i = 0 if equal else i
    try:
        if not equal or i >= (<Store>store).table.fresh or (<Store>store).table.entries[i].key != stored:
            i = find_by_comparing((<Store>store).engine, (<Store>store).lock, <object>key, h, 0, &op)
        if i != 0:
            value = try_hit(store, i)
        release((<Store>store).lock)
        compared[0] = i == 0
    finally:
        drop_all(&op)
    return value


# --- changes of a cache that has deadlines, and no other modes ---------------------------------------------------------

cdef inline double end_of(Store self, double lifetime, double* now) noexcept:
    """The deadline of a lifetime that begins now."""
    now[0] = precise_now() if self.modes & PRECISE else coarse_now()
    return deadline_after(now[0], lifetime) if lifetime < INFINITY else INFINITY


cdef inline bint can_end_at(Store self, double end, double now) noexcept:
    """Whether an entry can get that deadline by `put_end`. Needs the lock."""
    return (
        not self.modes & ~(DEFAULTS | EXPIRES | PRECISE) and (not self.modes & EXPIRES or self.expiry.deadlines[1] > now)
        and (end == INFINITY or self.modes & PRECISE or end + VISITS_APART >= self.next_visit)
    )


cdef inline void put_end(Store self, uint32_t i, double end) noexcept:
    """Let entry i expire at `end`. Needs `make_place`."""
    if end < INFINITY:
        set_deadline(&self.expiry, i, end)
        self.modes |= EXPIRES
    elif self.modes & EXPIRES:
        drop_deadline(&self.expiry, i)
        if self.expiry.n == 0:
            self.modes &= ~EXPIRES


cdef int try_touch(Store self, PyObject* key, uint64_t h, double lifetime) noexcept:
    """Let an entry live for `lifetime` seconds from now. 1: done; 0: there is none; -1: as False of `try_set_for`."""
    cdef double now = 0.0, end
    cdef uint32_t i = UNCERTAIN
    if self.modes & ~(DEFAULTS | EXPIRES | PRECISE) or self.jitter != 0.0 or lifetime <= 0.0:
        return -1
    end = end_of(self, lifetime, &now)
    acquire(self.lock)
    if can_end_at(self, end, now):
        i = lookup(self.table, key, h)
    if i == UNCERTAIN or i != 0 and end < INFINITY and not make_place(&self.expiry, self.table.capacity, False):
        release(self.lock)
        return -1
    if self.table.entries[i].value == NULL:     # the sentinel's, too
        i = 0
    else:
        put_end(self, i, end)
    release(self.lock)
    return i != 0


cdef bint try_set_for(Store self, PyObject* key, uint64_t h, PyObject* value, double lifetime) noexcept:
    """Store a value for `lifetime` seconds, in a cache that has no modes but lifetimes.

    False: the cache has other modes, or it takes Python code, memory, or a call of the sweeper; or an entry has expired,
    which has to leave first.
    """
    cdef Table* t = self.table
    cdef double now = 0.0, end
    cdef uint32_t slot, i = UNCERTAIN
    cdef PyObject* old_key = NULL
    cdef PyObject* old_value = NULL
    if self.modes & ~(DEFAULTS | EXPIRES | PRECISE) or self.jitter != 0.0 or lifetime <= 0.0:   # 0 or less: by value
        return False
    end = end_of(self, lifetime, &now)
    acquire(self.lock)
    if can_end_at(self, end, now):
        slot = home(t, h)
        i = lookup_from(t, key, h, &slot)
    if (
        i == UNCERTAIN or i != 0 and t.entries[i].value == NULL
        or i == 0 and self.live < self.bound and not self.engine.reserve(self.bound)
        or end < INFINITY and not make_place(&self.expiry, t.capacity, False)
    ):
        release(self.lock)
        return False
    if i == 0:
        if self.live >= self.bound:
            i = insert_for_victim(self, key, h, slot, value, &old_key, &old_value)
        else:
            self.live += 1
            i = self.engine.insert(key, h)
            put_value(t, i, value)
            self.engine.on_insert(i)
    else:
        old_value = t.entries[i].value
        put_value(t, i, value)
        on_hit(<PyObject*>self.engine, i)
    put_end(self, i, end)
    self.counts[SETS] += 1
    release(self.lock)
    if old_value != NULL:
        decref(old_value)
        if old_key != NULL:
            decref(old_key)
    return True
