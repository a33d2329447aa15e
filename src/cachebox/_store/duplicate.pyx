"""Copies of all that a cache keeps by index; see `duplicate.pxd`."""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from cachebox._engine.table cimport copy_array, type_of
from cachebox._platform.lock cimport acquire, release
from cachebox._store.deadlines cimport Expiry
from cachebox._store.operation cimport Operation, start
from cachebox._store.state cimport EXPIRES, PRECISE, PYTHON_POLICY, TAGGED, USER_CLOCK, WEIGHED
from cachebox._store.store cimport Store
from cachebox._store.weights cimport LIMBS


cdef bint duplicate(Store copied, Store store) except -1:
    """Make an empty cache of the same configuration, which no other thread knows, a copy of another one.

    False: it is still empty, because there is no memory, or because only one entry after the other can be copied. That
    is so for tags, a python policy, AUTO, and a cache that was resized since its configuration was read.
    """
    cdef Operation op
    cdef bint done
    acquire(store.lock)
    done = (
        not store.modes & (TAGGED | PYTHON_POLICY) and store.live <= copied.bound
        and type_of(<PyObject*>copied.engine) == type_of(<PyObject*>store.engine)
        and copy_expiry(&copied.expiry, &store.expiry) and copy_others(copied, store)
        and copied.engine.copy_all(store.engine)
    )
    if done:
        copied.live = store.live
        copied.modes |= store.modes & EXPIRES
        copied.latest = store.latest
    else:
        copied.forget_entries()
    release(store.lock)
    if done and copied.modes & EXPIRES and not copied.modes & (USER_CLOCK | PRECISE):
        start(&op)
        op.wake_sweeper = True
        copied.finish(&op)
    return done


cdef bint copy_expiry(Expiry* to, const Expiry* x) noexcept nogil:
    to.n, to.size, to.known = x.n, x.size, x.known
    return (
        copy_array(<void**>&to.deadlines, x.deadlines, x.size * sizeof(double))
        and copy_array(<void**>&to.entries, x.entries, x.size * sizeof(uint32_t))
        and copy_array(<void**>&to.place, x.place, x.known * sizeof(uint32_t))
        and copy_array(<void**>&to.write_deadlines, x.write_deadlines, x.known * sizeof(double))
    )


cdef bint copy_others(Store copied, Store store) noexcept nogil:
    """Copy the weights, and the lifetimes that were given."""
    if store.modes & WEIGHED:
        if not copy_array(<void**>&copied.weights.of, store.weights.of, store.weights.known * sizeof(double)):
            return False
        copied.weights.known = store.weights.known
        memcpy(copied.weights.room, store.weights.room, LIMBS * sizeof(uint32_t))
    if not copy_array(<void**>&copied.ttls, store.ttls, store.ttls_known * sizeof(double)):
        return False
    copied.ttls_known = store.ttls_known
    return True
