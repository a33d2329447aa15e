"""What a cache holds, leaving it and coming back, with order, lifetimes and tags."""

from libc.stdint cimport uint64_t

from cachebox._store.store cimport Store


cdef list export(Store store)
cdef object describe(Store store, object key, uint64_t h)
cdef int restore(Store store, list entries) except -1
cdef Py_ssize_t add_entries(Store store, list entries) except -1
cdef bint add_entry(
    Store store, object key, object value, double left, double weight, uint64_t rank, tuple names, bint exactly
) except -1
