"""Removing entries by something else than their key; `invalidation.pxd` has the overview."""

from cpython.object cimport PyObject
from libc.math cimport INFINITY
from libc.stdint cimport uint32_t

from cachebox._engine.table cimport allocate, deallocate, decref, hash_of, incref, mixed
from cachebox._platform.lock cimport acquire, release
from cachebox._store.operation cimport EXPIRED, EXPLICIT, Operation, start
from cachebox._store.state cimport DONE, Outcome
from cachebox._store.store cimport Store
from cachebox._store.tags cimport Tag


cdef enum:
    REMOVED_AT_ONCE = 256           # entries that leave under one hold of the lock


cdef Py_ssize_t remove_tagged(Store store, object name) except -1:
    """Remove all entries that have a tag. Returns how many live ones. O(k) for k of them, in small portions."""
    cdef Operation op
    cdef Tag tag
    cdef Py_ssize_t left, removed = 0
    cdef double now
    cdef uint32_t i
    cdef int portion
    if store.loads == 0 and store.tags is None:
        hash_of(<PyObject*>name)
        return 0
    tag = store.find_tag(name, store.loads != 0)        # a load under way must learn of it, even if no entry has the tag
    if tag is None:
        return 0
    now = store.now(INFINITY)
    acquire(store.lock)
    while tag.dropped:                          # since it was found
        release(store.lock)
        tag = store.find_tag(name, True)
        acquire(store.lock)
    store.invalidations += 1
    tag.invalidated = store.invalidations
    left = tag.n                                # those that come after the call began may stay
    release(store.lock)
    while left > 0:
        portion = 0
        start(&op)
        try:
            if store.foreign is not None:
                store.foreign.enter(&op, store.lock)
            acquire(store.lock)
            while portion < REMOVED_AT_ONCE and left > 0:
                if tag.n == 0:
                    left = 0
                    break
                i = tag.ring.next.entry
                live = store.is_live(i, now)
                if store.remove(i, EXPLICIT if live else EXPIRED, &op) != DONE:
                    release(store.lock)
                    raise MemoryError("no memory left to remove an entry")
                store.touch_watches(i, False)
                removed += live
                portion += 1
                left -= 1
            store.give_memory_back()
            release(store.lock)
        finally:
            store.finish(&op)
    return removed


cdef bint remove_value(Store store, object key, PyObject* value) except -1:
    """Remove a key if it has that very value. Returns whether it had."""
    cdef Operation op
    cdef double now
    cdef uint32_t i
    cdef Outcome outcome = DONE
    cdef bint found = False
    start(&op)
    try:
        now = store.now(INFINITY)
        i = store.find_to_change(key, mixed(store.table, hash_of(<PyObject*>key)), &op)
        found = store.is_live(i, now) and store.table.entries[i].value == value
        if found:
            outcome = store.remove(i, EXPLICIT, &op)
            store.give_memory_back()
        release(store.lock)
        if outcome != DONE:
            raise MemoryError("no memory left to remove an entry")
    finally:
        store.finish(&op)
    return found


cdef list every_key(Store store):
    """All keys, those that are only being loaded included, in no order. O(n)."""
    cdef PyObject** keys
    cdef Py_ssize_t size, n = 0, k
    cdef uint32_t i
    while True:
        size = store.table.used
        keys = <PyObject**>allocate(max(size, <Py_ssize_t>1) * sizeof(PyObject*))
        if keys == NULL:
            raise MemoryError(f"no memory left to copy {size} keys")
        acquire(store.lock)
        if store.table.used <= size:
            break
        release(store.lock)                     # it grew meanwhile
        deallocate(keys)
    for i in range(1, store.table.fresh):
        if store.table.entries[i].key != NULL:
            keys[n] = store.table.entries[i].key
            incref(keys[n])
            n += 1
    release(store.lock)
    try:
        return [<object>keys[k] for k in range(n)]
    finally:
        for k in range(n):
            decref(keys[k])
        deallocate(keys)
