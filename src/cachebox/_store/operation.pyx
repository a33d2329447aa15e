"""Finding a key by Python's `==`, which may do anything; and memory for removals."""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from cachebox._engine.table cimport (
    Engine, Table, allocate, candidate, deallocate, home, incref, plainly_equal, reallocate, rich_equal, xdecref,
)
from cachebox._platform.lock cimport Lock, acquire, release
from cachebox._store.tags cimport TagLink, free_links

cdef enum:
    MOST_ROUNDS = 100


cdef bint more_room(Operation* op) noexcept nogil:
    cdef Removal* removed
    if op.removed == op.few:
        removed = <Removal*>allocate(4 * sizeof(op.few))
        if removed != NULL:
            memcpy(removed, op.few, sizeof(op.few))
    else:
        removed = <Removal*>reallocate(op.removed, 2 * op.size * sizeof(Removal))
    if removed == NULL:
        return False
    op.size *= 4 if op.removed == op.few else 2
    op.removed = removed
    return True


cdef void drop_all(Operation* op) noexcept:
    """Drop what the operation still holds. May run any code, because objects die."""
    cdef uint32_t k
    cdef TagLink* detached = op.detached
    op.detached = NULL
    free_links(detached)
    for k in range(op.n):
        xdecref(op.removed[k].key)
        xdecref(op.removed[k].value)
    op.n = 0
    if op.removed != op.few:
        deallocate(op.removed)
        op.removed = op.few
        op.size = 4
    xdecref(op.used)
    xdecref(op.added)
    op.used = op.added = NULL


cdef uint32_t find_by_comparing(
    Engine engine, Lock* lock, object key, uint64_t h, uint32_t first, Operation* op
) except FAILED:
    """The index of `key` or 0, after an uncertain `lookup`. Takes and leaves the lock held; an exception releases it.

    Python's `==` runs without the lock and may change everything, this cache included. Three rules make that harmless:

    - All keys with the hash are noted before one is compared, with a reference to each: so no other key can get its
      address. Those in `op` from `first` on have been compared already.
    - If `==` says "equal", the entry must still hold that very key; else the search starts over.
    - A key is compared only once, whatever is written meanwhile. Keys with the hash that came after the others had been
      noted are compared in the next round.

    If each of many rounds found a new key, the lookup is given up, because `==` might make it go on without end.
    """
    cdef Table* t = &engine.table
    cdef PyObject* stored
    cdef uint32_t i, at = op.n
    cdef int rounds = 0, equal
    while True:
        i = note_candidates(t, <PyObject*>key, h, first, op)
        if i == FAILED:
            release(lock)
            raise MemoryError("no memory left to look a key up")
        if i != 0 or at == op.n:
            return i
        rounds += 1
        if rounds > MOST_ROUNDS:
            release(lock)
            raise RuntimeError(
                f"gave up a lookup after {MOST_ROUNDS} restarts: each time, comparing keys brought other keys of the same "
                f"hash, or removed the one that was equal; {type(key).__name__}.__eq__ must not do that"
            )
        while at < op.n:
            stored = op.removed[at].value
            i = op.removed[at].i
            at += 1
            if not holds(t, i, stored):
                op.removed[at - 1].i = 0        # it has left or moved; if it moved, the next round compares it
                continue
            release(lock)
            equal = rich_equal(stored, <PyObject*>key)
            acquire(lock)
            if equal:
                if holds(t, i, stored):
                    return i
                op.removed[at - 1].i = 0        # wherever it is now, it is the key that is searched for
                break


cdef inline bint holds(const Table* t, uint32_t i, PyObject* key) noexcept:
    """Whether an entry still has that key, to which the caller owns a reference."""
    return i < t.fresh and t.entries[i].key == key


cdef uint32_t note_candidates(Table* t, PyObject* key, uint64_t h, uint32_t first, Operation* op) noexcept:
    """Note all keys that only `==` can tell from `key` and that were not compared yet. Needs the lock.

    Returns the key's index if no comparison is needed, 0 if one is, FAILED if there is no memory.
    """
    cdef uint32_t slot = home(t, h), i, known = op.n, expected = first
    cdef PyObject* stored
    cdef int equal
    while True:
        i = candidate(t, h, &slot)
        stored = t.entries[i].key
        if i == 0 or stored == key:
            return i
        if t.entries[i].hash == <uint32_t>h:
            equal = plainly_equal(t, i, key, h)
            if equal > 0:
                return i
            if equal < 0 and not was_noted(op, first, known, stored, &expected):
                if not reserve_removal(op):
                    return FAILED
                incref(stored)
                note_removal(op, NULL, stored, NO_CAUSE)
                op.removed[op.n - 1].i = i
        slot = (slot + 1) & t.mask


cdef bint was_noted(const Operation* op, uint32_t first, uint32_t end, PyObject* key, uint32_t* expected) noexcept:
    """Whether a key has been compared.

    The keys stand in the same order in each round, so the one after the last match is tried first.
    """
    cdef uint32_t k = expected[0], left = end - first
    while left > 0:
        if k == end:
            k = first
        if op.removed[k].value == key and op.removed[k].i != 0:
            expected[0] = k + 1
            return True
        k += 1
        left -= 1
    return False
