"""Finding a key by Python's `==`, which may do anything; and the room for what leaves."""

from cpython.object cimport Py_EQ, PyObject, PyObject_RichCompareBool
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from cachebox._engine.table cimport (
    Engine, Table, allocate, candidate, deallocate, home, incref, plain_equal, reallocate, xdecref,
)
from cachebox.lock cimport Lock, acquire, release
from cachebox.tags cimport Label, free_labels

cdef enum:
    MOST_RESTARTS = 100


cdef bint more_room(Operation* op) noexcept nogil:
    cdef Departure* left
    if op.left == op.few:
        left = <Departure*>allocate(4 * sizeof(op.few))
        if left != NULL:
            memcpy(left, op.few, sizeof(op.few))
    else:
        left = <Departure*>reallocate(op.left, 2 * op.size * sizeof(Departure))
    if left == NULL:
        return False
    op.size *= 4 if op.left == op.few else 2
    op.left = left
    return True


cdef void drop_all(Operation* op) noexcept:
    """Drop what the operation still holds. Runs any code that objects run when they die."""
    cdef uint32_t k
    cdef Label* peeled = op.peeled
    op.peeled = NULL
    free_labels(peeled)
    for k in range(op.n):
        xdecref(op.left[k].key)
        xdecref(op.left[k].value)
    op.n = 0
    if op.left != op.few:
        deallocate(op.left)
        op.left = op.few
        op.size = 4
    xdecref(op.used)
    xdecref(op.added)
    op.used = op.added = NULL


cdef uint32_t find_by_comparing(Engine engine, Lock* lock, object key, uint32_t h, Operation* op) except FAILED:
    """The index of `key` or 0, where `lookup` was uncertain. Takes and leaves the lock held; an exception releases it.

    Python's `==` runs without the lock and may change everything, this cache included. Three rules make that harmless:

    - While it runs we own a reference to the key compared, so that no other key can come to have its address.
    - If it says "equal", the entry must still hold that very key; else the search starts over, a bounded number of
      times.
    - If it says "different" and the table has changed meanwhile, the search goes over the run again, but skips what has
      been compared: other writes can delay a lookup by a second look at the slots, never by a second comparison.
      Only so many keys more than there were at the beginning are compared: `==` might store another one each time.
    """
    cdef Table* t = &engine.table
    cdef PyObject* wanted = <PyObject*>key
    cdef PyObject* stored
    cdef uint32_t slot, i, k, first_compared = op.n, expected
    cdef uint64_t version
    cdef int equal, restarts = 0
    cdef Py_ssize_t patience = <Py_ssize_t>t.used + MOST_RESTARTS
    while True:
        version = t.version
        slot = home(t, h)
        expected = first_compared   # keys stand in the same order at the second look, so this one comes next
        while True:
            i = candidate(t, h, &slot)
            stored = t.entries[i].key
            if i == 0 or stored == wanted:
                return i
            if t.entries[i].hash == h:
                equal = plain_equal(stored, wanted)
                if equal > 0:
                    return i
                if equal < 0:
                    if expected < op.n and op.left[expected].value == stored:
                        expected += 1
                        equal = 0
                    else:
                        for k in range(first_compared, op.n):
                            if op.left[k].value == stored:
                                equal = 0
                                break
                if equal < 0:
                    if not can_leave(op):
                        release(lock)
                        raise MemoryError("no memory left to look a key up")
                    if patience == 0:
                        release(lock)
                        raise RuntimeError(
                            f"gave up a lookup: each time, comparing the key brought another one of the same hash; "
                            f"{type(key).__name__}.__eq__ must not do that"
                        )
                    patience -= 1
                    incref(stored)
                    release(lock)
                    try:
                        equal = PyObject_RichCompareBool(<object>stored, key, Py_EQ)
                    except:
                        xdecref(stored)
                        raise
                    acquire(lock)
                    if equal and i < t.fresh and t.entries[i].key == stored:
                        xdecref(stored)         # not the last one: the entry has one
                        return i
                    if t.version == version:
                        xdecref(stored)         # likewise
                    elif equal:
                        release(lock)
                        xdecref(stored)
                        restarts += 1
                        if restarts > MOST_RESTARTS:
                            raise RuntimeError(
                                f"gave up a lookup after {MOST_RESTARTS} restarts: each time, comparing the key "
                                f"removed the entry it was compared with; {type(key).__name__}.__eq__ must not do that"
                            )
                        acquire(lock)
                        break
                    else:
                        leave(op, NULL, stored, NO_CAUSE)
                        break
            slot = (slot + 1) & t.mask
