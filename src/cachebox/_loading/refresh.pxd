"""Refresh-ahead and serve-stale: values are loaded in the background while the old ones are served.

A refresh watches its key from the moment in which a reader finds it due. A write or deletion of the key, or a clear,
makes the refresh void. At most one refresh of a key is in progress, and `Store.refreshes` has it.
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
    cdef double lifetime            # of the old entry, and then of the new one
    cdef bint tagged                # the entry has tags: they go with it, and a value without them must not be stored
    cdef uint32_t forks             # of the process whose pool runs it
    cdef bint by_call               # a decorated call refreshes, not the cache's loader
    cdef Flight flight              # for callers that find no value to serve; None: it has not begun
    cdef object task   # the task that loads, because an event loop refers to it weakly; None: a thread loads
    cdef object goes_on             # a function: whether the task's event loop runs

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
