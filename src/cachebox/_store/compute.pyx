"""Read, modify, write, as one step; `compute.pxd` has the overview."""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from cachebox._platform.lock cimport acquire, release
from cachebox._store.operation cimport EXPIRED, EXPLICIT, Operation, start
from cachebox._store.state cimport DONE, NO_MEMORY, Outcome, Watch
from cachebox._store.store cimport Store


cdef Watch new_watch(Store store):
    cdef Watch watch = Watch.__new__(Watch)
    watch.store = store
    return watch


cdef object look_and_watch(Store store, object key, uint64_t h, Watch watch, object missing):
    """The value of a key, or `missing`; and an open watch on the key."""
    cdef Operation op
    cdef double now
    cdef uint32_t i
    old = missing
    start(&op)
    try:
        now = store.now(store.lifetime)
        i = store.find_to_change(key, h, &op)
        if store.is_live(i, now):
            old = <object>store.table.entries[i].value
        elif i != 0 and store.table.entries[i].value != NULL:
            store.remove(i, EXPIRED, &op)
            if store.table.entries[i].key == NULL:
                i = 0
        if i == 0 and store.prepare(False):
            i = store.engine.insert(<PyObject*>key, h)
        opened = i != 0 and watch.open(i)
        if i != 0 and not opened and store.table.entries[i].value == NULL:
            store.drop_reserved(i, &op)
        release(store.lock)
        if not opened:
            raise MemoryError("no memory left to change an entry")
    finally:
        store.finish(&op)
    return old


cdef int stop_watching(Store store, Watch watch) except -1:
    cdef Operation op
    start(&op)
    acquire(store.lock)
    watch.close(&op)
    release(store.lock)
    return store.finish(&op)


cdef bint replace(
    Store store, object key, uint64_t h, Watch watch, object old, object new, double lifetime, double weight,
    object missing,
) except -1:
    """Commit what `compute` computed; False: the key was written meanwhile, so nothing was."""
    cdef Operation op
    cdef Outcome outcome
    cdef double now
    cdef uint32_t i = 0
    cdef bint is_held
    start(&op)
    try:
        now = store.now(lifetime)
        while True:
            outcome = DONE
            if store.foreign is not None:
                store.foreign.enter(&op, store.lock)
            is_held = op.locked
            store.lock_again(&op)
            if watch.i != 0 or watch.touched:
                i = watch.i
            elif is_held:
                i = i if store.table.entries[i].key != NULL else 0
            else:
                release(store.lock)
                i = store.find(key, h, &op)  # fn cleared the cache, and the watch went with its entry
            if not store.is_live(i, now) and i != 0 and store.table.entries[i].value != NULL:
                outcome = store.remove(i, EXPIRED, &op)
                if store.table.entries[i].key == NULL:
                    i = 0
                watch.touched = watch.touched or old is not missing
            if watch.touched or outcome != DONE:
                changed = False
            elif new is missing:
                changed = True
                if i != 0 and store.table.entries[i].value != NULL:
                    outcome = store.remove(i, EXPLICIT, &op)
                    store.give_memory_back()
            else:
                changed = True
                outcome = store.write(i, key, h, new, lifetime, True, weight, now, &op)
            if outcome == DONE:
                watch.close(&op)
            release(store.lock)
            if outcome == DONE:
                if changed and store.failures is not None:
                    store.failures.forget(key)
                return changed
            if outcome == NO_MEMORY:
                stop_watching(store, watch)
                raise MemoryError("no memory left to change an entry")
            store.evict_foreign(&op)
    finally:
        store.finish(&op)
