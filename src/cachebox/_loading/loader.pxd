"""Read-through: what a cache with a loader does about missing keys."""

from cpython.object cimport PyObject

from cachebox.stats cimport CacheStats
from cachebox._store.store cimport Store


cdef class Loader:
    """A loader as the cache calls it: it measures and counts, and returns NOTHING for a KeyError."""
    cdef readonly object given      # the callable, or the store
    cdef object one
    cdef readonly object many       # its load_many, or None
    cdef CacheStats statistics
    cdef double mean                # seconds that a load takes, lately; 0: none was measured

    cdef int count(self, bint succeeded, object began) except -1


cdef PyObject* NOTHING              # what stands for "there is none"

cdef int load_all(Store store, Loader loader, list keys, dict found, list left) except -1
cdef int check_loading(dict options) except -1
