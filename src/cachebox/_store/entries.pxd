"""Entries on their way out of a cache and into one, with order, lifetimes and tags."""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from cachebox._store.store cimport Store


cdef struct EntryCopy:              # a copy of an entry; owns its references
    PyObject* key
    PyObject* value
    double end                      # the deadline that hits do not move
    double deadline
    double ttl                      # the lifetime it was given, if the cache keeps that
    double weight
    uint64_t rank
    uint64_t hash                   # the key's, mixed for the table
    PyObject** tags                 # Tags, with NULL at the end; NULL: none


cdef Py_ssize_t copy_entries(Store store, EntryCopy** rows) except -1
cdef void free_copies(EntryCopy* rows, Py_ssize_t n) noexcept
cdef list snapshot(Store store, bint keys, bint values)
cdef tuple export(Store store)
cdef int copy_into(Store copied, Store store) except -1
cdef object describe(Store store, object key, uint64_t h)
cdef int restore(Store store, tuple columns) except -1
cdef Py_ssize_t add_entries(Store store, list entries) except -1
cdef bint add_entry(
    Store store, object key, object value, double left, double weight, uint64_t rank, tuple names, bint exactly
) except -1
