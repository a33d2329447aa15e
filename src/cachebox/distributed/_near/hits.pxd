from cpython.object cimport PyObject
from libc.stdint cimport uint64_t


cdef PyObject* exact_get(PyObject* tier, PyObject* key, uint64_t h) noexcept
