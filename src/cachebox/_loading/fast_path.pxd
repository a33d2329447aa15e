"""The fast paths: a hit, in as few instructions as possible.

A fast path needs no stack frame as long as it only makes tail calls. What it cannot finish it hands, lock included, to
a continuation, whose result it returns. Such cases are an equal key that is another object, Python's `==`, a lifetime,
a miss. The continuation is called through a `noexcept` pointer (`Rest`, `Search`). Cython then adds no error check, so
the C compiler emits a jump and does not inline the call. Exceptions still reach the caller.

Objects are pointers here, because Cython counts references to all that it takes for objects.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from cachebox._engine.table cimport (
    ASKS, MOVES_TO_BACK, UNCERTAIN, Table, candidate, candidate_nearby, decref, expect_to_leave, home, incref,
    is_too_large, likely, lookup, lookup_from, mixed, move_to_back, on_hit, plain_equal, plainly_equal, put_value,
    short_equal, unlikely,
)
from cachebox._loading.single_flight cimport Leader, may_store
from cachebox._platform.lock cimport acquire, release
from cachebox._store.deadlines cimport ends_within
from cachebox._store.state cimport AHEAD, EXPIRES, IDLES, ISOLATED, PRECISE, PYTHON_POLICY, USER_CLOCK, reserve
from cachebox._store.store cimport Store
from cachebox.stats cimport DELETES, EVICTIONS, HITS, MISSES, SETS


cdef extern from "_platform/portable.h" nogil:
    bint knows_hash "cb_knows_hash"(PyObject* key, Py_hash_t* hashed)


cdef inline uint64_t mixed_in(PyObject* store, Py_hash_t hashed) noexcept:
    """A hash, mixed for the store's table."""
    return mixed((<Store>store).table, hashed)


ctypedef PyObject* (*Rest)(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) noexcept
ctypedef PyObject* (*Search)(PyObject* self, PyObject** args, Py_ssize_t n, uint64_t h, uint32_t i) noexcept
ctypedef PyObject* (*ItemRest)(PyObject* self, PyObject* key) noexcept
ctypedef PyObject* (*ItemSearch)(PyObject* self, PyObject* key, uint64_t h, uint32_t i) noexcept


cdef inline bint find_at_once(PyObject* store, PyObject* key, uint64_t h, uint32_t* i) noexcept:
    """Whether a key is the stored object itself, in its home slot or the next. Sets its index. Takes the lock."""
    cdef const Table* t = (<Store>store).table
    acquire((<Store>store).lock)
    i[0] = candidate_nearby(t, h)
    return i[0] <= t.mask and t.entries[i[0]].key == key        # the sentinel's key is NULL


cdef inline uint32_t find_quickly(PyObject* store, PyObject* key, uint64_t h, uint32_t* slot) noexcept:
    """The index of a key. 0: it is not there up to `slot`, where the search has to go on. Needs the lock."""
    cdef const Table* t = (<Store>store).table
    cdef uint32_t i
    cdef int equal
    slot[0] = home(t, h)
    while True:
        i = candidate(t, h, slot)
        if i == 0:
            return 0
        if t.entries[i].key == key:
            return i
        if likely(t.entries[i].hash == <uint32_t>h):
            equal = plainly_equal(t, i, key, h)
            if equal != 0:
                return i if equal > 0 else 0
        slot[0] = (slot[0] + 1) & t.mask


cdef inline bint is_plain_hit(PyObject* store, uint32_t i) noexcept:
    """Whether a hit on entry i needs no more than `take_hit`."""
    return (<Store>store).table.entries[i].value != NULL and not (
        (<Store>store).modes & (EXPIRES | IDLES | USER_CLOCK | PYTHON_POLICY | AHEAD | ISOLATED)
    )


cdef inline bint is_equal_hit(PyObject* store, PyObject* key, uint64_t h, uint32_t i) noexcept:
    """Whether entry i, which `find_at_once` set, is a plain hit after all: the texts are equal. Calls nothing."""
    cdef const Table* t = (<Store>store).table
    return (
        i <= t.mask and is_plain_hit(store, i) and t.entries[i].hash == <uint32_t>h       # the sentinel's value is NULL
        and short_equal(t.entries[i].key, key)
    )


cdef inline PyObject* take_hit(PyObject* store, uint32_t i) noexcept:
    """A hit on entry i: a new reference to its value. Releases the lock."""
    cdef Table* t = (<Store>store).table
    cdef PyObject* value = t.entries[i].value
    cdef int64_t* counts = (<Store>store).counts
    counts[HITS] += 1
    incref(value)
    if likely(t.use == MOVES_TO_BACK):
        move_to_back(t, i)
    elif t.use == ASKS:
        return ask_about_hit(store, i, value)
    release((<Store>store).lock)
    return value


cdef PyObject* ask_about_hit(PyObject* store, uint32_t i, PyObject* value) noexcept
cdef PyObject* go_on(
    PyObject* store, PyObject* key, uint64_t h, uint32_t slot, uint32_t i, bint* compared
) except? NULL


cdef inline PyObject* try_hit(PyObject* store, uint32_t i) noexcept:
    """A hit on entry i: a new reference to its value.

    NULL: it has none, or the hit is not so simple. Needs the lock.
    """
    cdef PyObject* value = (<Store>store).table.entries[i].value
    cdef int64_t* counts = (<Store>store).counts
    cdef int modes = (<Store>store).modes
    cdef double soon = 0.0
    if value == NULL:
        return NULL
    if modes & (EXPIRES | IDLES | USER_CLOCK | PYTHON_POLICY | AHEAD | ISOLATED):
        if modes & (IDLES | USER_CLOCK | PYTHON_POLICY | ISOLATED):
            return NULL
        if modes & AHEAD:   # a deadline so soon counts as passed: the entry may be due for a refresh
            soon = (<Store>store).ahead * (<Store>store).ttls[i]
        if ends_within(&(<Store>store).expiry, i, soon, (modes & PRECISE) != 0):
            return NULL
    counts[HITS] += 1
    on_hit(<PyObject*>(<Store>store).engine, i)
    incref(value)
    return value


cdef inline PyObject* search_and_use(
    PyObject* store, PyObject* key, uint64_t h, uint32_t i, bint* compared
) except? NULL:
    """A hit, after `find_at_once` set i but found no plain hit: a new reference to the value.

    NULL without an exception: a miss, or a hit that is not so simple. `compared` becomes true if it is certainly a
    miss, which took `==` to find out. Takes over the lock, and releases it.
    """
    cdef const Table* t = (<Store>store).table
    cdef uint32_t slot = 0
    cdef PyObject* value
    if unlikely(i > t.mask or (
        t.entries[i].key != key
        and (t.entries[i].hash != <uint32_t>h or i == 0 or plain_equal(t.entries[i].key, key) != 1)
    )):
        i = find_quickly(store, key, h, &slot)
        if i == 0:
            if t.slots[slot] != 0:                              # else no search would find it
                return go_on(store, key, h, slot, 0, compared)
            release((<Store>store).lock)
            return NULL
    value = try_hit(store, i)
    release((<Store>store).lock)
    return value


cdef inline PyObject* try_get(PyObject* store, PyObject* key, uint64_t h) noexcept:
    """A hit that needs no Python code: a new reference to the value. NULL: a miss, or not so simple."""
    cdef uint32_t i
    cdef PyObject* value = NULL
    acquire((<Store>store).lock)
    i = lookup((<Store>store).table, key, h)
    if i != 0 and i != UNCERTAIN:
        value = try_hit(store, i)
    release((<Store>store).lock)
    return value


cdef inline PyObject* get_equal(PyObject* store, PyObject* key, uint64_t h, bint* compared) except? NULL:
    """A hit: a new reference to the value. NULL without an exception: see `go_on`."""
    acquire((<Store>store).lock)
    return go_on(store, key, h, home((<Store>store).table, h), 0, compared)


# --- changes of a cache without modes: no deadlines, weights, callbacks or watches ---------------------------------

cdef inline bint try_miss(Store self, PyObject* key, uint64_t h) noexcept:
    """Count the miss of a key that is certainly missing, in a cache without modes.

    False: `get_slow` has to find out.
    """
    cdef bint missing
    acquire(self.lock)
    missing = self.modes == 0 and lookup(self.table, key, h) == 0
    if missing:
        self.note_miss(h)
    release(self.lock)
    return missing


cdef inline bint try_set(Store self, PyObject* key, uint64_t h, PyObject* value, bint only_new) noexcept:
    """Store a value in a cache without modes. False: the cache has modes, or it takes Python code or memory."""
    cdef Table* t = self.table
    cdef uint32_t slot, i
    cdef PyObject* old_key = NULL
    cdef PyObject* old_value = NULL
    acquire(self.lock)
    slot = home(t, h)
    i = lookup_from(t, key, h, &slot) if self.modes == 0 else UNCERTAIN
    if i == 0:
        if likely(self.live >= self.bound):
            insert_for_victim(self, key, h, slot, value, &old_key, &old_value)
        elif self.engine.reserve(self.bound):
            self.live += 1
            i = self.engine.insert(key, h)
            put_value(t, i, value)
            self.engine.on_insert(i)
        else:
            release(self.lock)
            return False
    elif i == UNCERTAIN or t.entries[i].value == NULL:
        release(self.lock)
        return False
    elif only_new:
        release(self.lock)
        return True
    else:
        old_value = t.entries[i].value
        put_value(t, i, value)
        on_hit(<PyObject*>self.engine, i)
    self.counts[SETS] += 1
    release(self.lock)
    if old_value != NULL:
        decref(old_value)
        if old_key != NULL:
            decref(old_key)
    return True


cdef bint try_set_for(Store self, PyObject* key, uint64_t h, PyObject* value, double lifetime) noexcept
cdef int try_touch(Store self, PyObject* key, uint64_t h, double lifetime) noexcept


cdef inline int try_delete(Store self, PyObject* key, uint64_t h) noexcept:
    """Delete a key of a cache without modes. 1: done; 0: it is absent; -1: it takes Python code, or the cache has modes."""
    cdef Table* t = self.table
    cdef PyObject* old_key
    cdef PyObject* old_value
    cdef uint32_t i
    acquire(self.lock)
    i = lookup(t, key, h) if self.modes == 0 else UNCERTAIN
    if i == 0 or i == UNCERTAIN or t.entries[i].value == NULL:
        release(self.lock)
        return 0 if i == 0 else -1
    self.engine.on_remove(i)
    old_key = t.entries[i].key
    old_value = t.entries[i].value
    self.engine.release(i)
    self.live -= 1
    self.counts[DELETES] += 1
    if unlikely(is_too_large(t)):
        self.give_memory_back()
    release(self.lock)
    decref(old_value)
    decref(old_key)
    return 1


cdef inline uint32_t insert_for_victim(
    Store self, PyObject* key, uint64_t h, uint32_t slot, PyObject* value, PyObject** old_key, PyObject** old_value
) noexcept:
    """Give the next victim's entry to another key. The victim's references pass to the caller."""
    cdef Table* t = self.table
    cdef uint32_t victim
    self.counts[EVICTIONS] += 1
    if likely(t.use == MOVES_TO_BACK):          # LRU, without calls: the front of the list becomes its back
        victim = t.entries[0].next
        expect_to_leave(t, t.entries[victim].next)
        move_to_back(t, victim)
        old_key[0] = t.entries[victim].key
        old_value[0] = t.entries[victim].value
        self.engine.replace(victim, key, h, slot)
        put_value(t, victim, value)
        return victim
    victim = self.engine.victim()
    self.engine.on_remove(victim)
    old_key[0] = t.entries[victim].key
    old_value[0] = t.entries[victim].value
    self.engine.replace(victim, key, h, slot)
    put_value(t, victim, value)
    self.engine.on_insert(victim)
    return victim


cdef inline void room_for_one(Store self, PyObject** key, PyObject** value) noexcept:
    """Make room for one entry in a cache without modes. The victim's references pass to the caller. Needs the lock."""
    cdef uint32_t victim
    if self.live < self.bound:
        self.live += 1
        return
    victim = self.engine.victim()
    self.engine.on_remove(victim)
    key[0] = self.table.entries[victim].key
    value[0] = self.table.entries[victim].value
    self.engine.release(victim)
    self.counts[EVICTIONS] += 1


cdef inline bint try_lead(Store self, PyObject* key, uint64_t h, Leader leader) noexcept:
    """Lead the load of a key that is certainly missing, in a cache without modes.

    False: `join_or_lead` has to find out.
    """
    acquire(self.lock)
    if self.modes == 0 and lookup(self.table, key, h) == 0 and self.engine.reserve(self.bound):
        leader.place.i = self.engine.insert(key, h)
        reserve(&self.table.entries[leader.place.i], &leader.place)
        self.loads += 1
        self.counts[MISSES] += 1
    release(self.lock)
    return leader.place.i != 0


cdef inline bint try_complete(Store self, Leader leader, PyObject* value) noexcept:
    """End a load without waiters, in a cache without modes. False: `complete` has to end it."""
    cdef PyObject* old_key = NULL
    cdef PyObject* old_value = NULL
    acquire(self.lock)
    if self.modes != 0 or leader.flight is not None or leader.side_load is not None or not may_store(self, leader):
        release(self.lock)
        return False
    room_for_one(self, &old_key, &old_value)
    put_value(self.table, leader.place.i, value)
    self.engine.on_insert(leader.place.i)
    leader.place.i = 0
    self.counts[SETS] += 1
    self.loads -= 1
    release(self.lock)
    if old_key != NULL:
        decref(old_key)
        decref(old_value)
    return True
