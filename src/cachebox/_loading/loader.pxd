"""Read-through: how a cache with a loader gets missing keys."""

from cachebox._loading.flight cimport NOTHING
from cachebox._store.store cimport Store
from cachebox.stats cimport CacheStats


cdef class Loader:
    """A loader as the cache calls it: it measures and counts calls, and returns NOTHING for a KeyError."""
    cdef readonly object given      # the callable or the store, as the user gave it
    cdef readonly object one        # the function for one key: the store's `load`, or `given` itself
    cdef readonly object many       # the function for many keys, `load_many`; or None
    cdef readonly bint is_async     # what they return has to be awaited
    cdef CacheStats statistics

    cdef int count(self, bint succeeded, object began) except -1

cdef int load_all(Store store, Loader loader, list keys, dict found, list left) except -1
cdef int check_loading(dict options) except -1
