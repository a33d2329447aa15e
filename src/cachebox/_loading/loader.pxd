"""Read-through: what a cache with a loader does about missing keys."""

from cachebox._loading.flight cimport NOTHING
from cachebox._store.store cimport Store
from cachebox.stats cimport CacheStats


cdef class Loader:
    """A loader as the cache calls it: it measures and counts, and returns NOTHING for a KeyError."""
    cdef readonly object given      # the callable, or the store
    cdef readonly object one        # its load, or itself
    cdef readonly object many       # its load_many, or None
    cdef readonly bint is_async     # what these return has to be awaited
    cdef CacheStats statistics

    cdef int count(self, bint succeeded, object began) except -1

cdef int load_all(Store store, Loader loader, list keys, dict found, list left) except -1
cdef int check_loading(dict options) except -1
