"""Continuations of the fast paths; see `fast_path.pxd`."""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from cachebox._engine.table cimport (
    Table, candidate, decref, incref, likely, on_hit, plainly_equal, try_equal, unlikely,
)
from cachebox._platform.lock cimport acquire, release
from cachebox._store.operation cimport NO_CAUSE, Operation, drop_all, find_by_comparing, note_removal, start
from cachebox._store.state cimport IDLES, ISOLATED, PYTHON_POLICY, USER_CLOCK
from cachebox._store.store cimport Store


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
