"""Writes of whole values. What needs Python code (copies, weights, lifetimes) is computed before, without the lock.

`compute` reads the value and watches the key. The new value is computed without any lock, and stored only if the key
was not written meanwhile. `missing` stands for "no value".
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from cachebox._store.operation cimport Operation
from cachebox._store.state cimport Watch
from cachebox._store.store cimport Store


cdef int put(
    Store store, object key, uint64_t h, object value, double lifetime, double weight, bint only_new, Operation* op
) except -1
cdef int put_tagged(
    Store store, object key, uint64_t h, object value, double lifetime, double weight, tuple names, Operation* op
) except -1
cdef int set_slow(Store store, object key, uint64_t h, object value, double lifetime) except -1
cdef int set_weighed(
    Store store, object key, uint64_t h, object value, double lifetime, double weight, bint only_new
) except -1
cdef int set_tagged(Store store, object key, uint64_t h, object value, double lifetime, tuple tags) except -1
cdef object setdefault_slow(Store store, object key, uint64_t h, object default)
cdef int touch_value(Store store, object key, double lifetime, PyObject* value) except -2
cdef object add_int(Store store, object key, object amount)
cdef object sum_of(object a, object b)
cdef object not_an_int(object key, object value)

cdef object look_and_watch(Store store, object key, uint64_t h, Watch watch, object missing)
cdef int stop_watching(Store store, Watch watch) except -1
cdef bint replace(
    Store store, object key, uint64_t h, Watch watch, object old, object new, double lifetime, double weight,
    object missing,
) except -1
