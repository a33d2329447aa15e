"""Removing entries by something else than their key."""

from cpython.object cimport PyObject

from cachebox._store.store cimport Store


cdef Py_ssize_t remove_tagged(Store store, object name) except -1
cdef bint remove_value(Store store, object key, PyObject* value) except -1
cdef list every_key(Store store)
