"""Removals: of one key, of many, of all entries with a tag, and of those for which a lower bound has no room."""

from cachebox._store.store cimport Store


cdef object take(Store store, object key, bint wanted, object missing)
cdef Py_ssize_t remove_tagged(Store store, object name) except -1
cdef Py_ssize_t remove_values(Store store, list pairs) except -1
cdef bint change_bound(Store store, Py_ssize_t bound, bint unbounded) except -1
