"""The functions that the interpreter calls for a call of a cached function."""

from cpython.object cimport PyObject

from cachebox._calls.cached_call cimport CachedCall, vectorcallfunc


cdef vectorcallfunc likely_call(object function) except NULL
cdef vectorcallfunc method_call(CachedCall function) except NULL

cdef PyObject* call_varying(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) noexcept
cdef PyObject* call_selecting(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) noexcept
cdef PyObject* call_otherwise(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) except NULL
cdef PyObject* call_general(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) except NULL
cdef PyObject* call_method(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) except NULL
cdef PyObject* call_counted(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) except NULL
