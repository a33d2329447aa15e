"""Removals: of one key, and of all entries with a tag."""

from cpython.object cimport PyObject

from cachebox._store.store cimport Store


cdef object take(Store store, object key, bint wanted, object missing)
cdef Py_ssize_t remove_tagged(Store store, object name) except -1
cdef bint remove_value(Store store, object key, PyObject* value) except -1
