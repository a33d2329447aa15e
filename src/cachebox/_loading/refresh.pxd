"""Refresh-ahead and serve-stale: values that are loaded anew in the background while the old ones are served.

A refresh watches its key from the moment in which a reader found it due: whoever writes or deletes the key, or clears
the cache, makes it void. At most one is under way for a key, and `Store.refreshes` has it.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from cachebox._loading.flight cimport Flight
from cachebox._store.operation cimport Operation
from cachebox._store.state cimport Watch
from cachebox._store.store cimport Store


cdef class Refresh:
    cdef Store store
    cdef readonly object key
    cdef uint64_t h
    cdef Watch watch
    cdef double lifetime            # what the entry had, and will have
    cdef bint tagged                # once the entry is gone its tags are, and a new value must not go without
    cdef uint32_t forks             # the process whose pool has it
    cdef bint by_call               # a decorated call does it, not the cache's loader
    cdef Flight flight              # for those who find nothing to serve; None: it has not begun
    cdef object task                # that loads, for an event loop knows its tasks only weakly; None: a thread does
    cdef object goes_on             # says whether its event loop runs

    cdef bint is_void(self) noexcept
    cdef int complete(self, object value, double weight) except -1
    cdef int complete_nothing(self) except -1
    cdef int count(self, int counter) except -1


cdef PyObject* get_or_refresh(Store store, object key, uint64_t h) except? NULL
cdef PyObject* get_now(Store store, object key, uint64_t h) except? NULL
cdef PyObject* find_servable(
    Store store, object key, uint64_t h, double ahead, double stale, bint* due
) except? NULL
cdef Refresh open_refresh(Store store, object key, uint64_t h, double ahead, bint by_call)
cdef object flight_of(Store store, object key)
cdef int keep_due(Store store, double ahead, double stale) except -1
