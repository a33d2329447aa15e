"""What the short ways leave to others; see `quick.pxd`."""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t

from cachebox._engine.table cimport UNCERTAIN, lookup_from, note_use
from cachebox.lock cimport release
from cachebox.store cimport Store


cdef PyObject* ask_about_hit(PyObject* store, uint32_t i, PyObject* value) noexcept:
    """The end of `take_hit` where the policy is to be asked."""
    note_use(<PyObject*>(<Store>store).engine, i)
    release((<Store>store).lock)
    return value


cdef PyObject* go_on(PyObject* store, PyObject* key, uint32_t h, uint32_t slot, uint32_t i) noexcept:
    """`quick_get` where `find_quickly` found i and got to `slot`. Takes over the lock, and releases it."""
    cdef PyObject* value = NULL
    if i == 0:
        i = lookup_from((<Store>store).table, key, h, &slot)
    if i != 0 and i != UNCERTAIN:
        value = quick_use(store, i)
    release((<Store>store).lock)
    return value
