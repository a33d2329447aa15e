"""The load path: one caller loads what is missing, others wait, and the value is stored unless the key was changed.

A `LoadSpec` says what to call and what to do with the value. `fetch` does all of it. Coroutines use its halves:
`begin_load`, and `complete_loaded`, `complete_made` or `fail_load`.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t

from cachebox._loading.loader cimport Loader
from cachebox._loading.single_flight cimport Leader
from cachebox._store.store cimport Store


cdef struct LoadSpec:               # how to load a missing value; borrows everything
    PyObject* function
    PyObject** arguments
    Py_ssize_t n
    PyObject* names
    double lifetime
    PyObject* ttl_of                # a function of the value that returns its ttl; or NULL
    PyObject* condition             # a function of the value that says whether to store it; or NULL
    PyObject* instance              # a value that is not stored, compared by identity; or NULL
    PyObject* tags                  # a tuple of tags, or a function of the value and the arguments; or NULL
    PyObject* failures              # the negative cache for a failure, a Failures; or NULL
    int64_t began                   # the number of the store's invalidations when it began
    bint single_flight
    int single_use                  # what to do with a value that can be consumed only once, see below
    bint functools_rules   # lru_cache's rules: store the value even if the key was written or cleared during the call
    bint keep_first                 # with these rules: keep a value that another call stored first
    int missed                      # set to whether it was a miss; -1: that was never found out


cdef enum:                          # values that can be consumed only once
    STORED                          # store it, like any other
    REFUSED                         # store it; but an awaitable is a TypeError, because a factory must be plain
    RETURNED                        # only return it
    PASSED                          # like RETURNED, and that has happened


cdef extern from "_platform/results.h":
    bint may_pass_once "cb_may_pass_once"(PyObject* value) noexcept
    bint is_awaitable "cb_is_awaitable"(PyObject* value) noexcept

cdef bint passes_once(object value) except -1


cdef PyObject* get_slow(Store store, object key, uint64_t h) except? NULL
cdef PyObject* find_missing(PyObject* self, PyObject* key, uint64_t h, bint compared) except? NULL
cdef object get_many_through(Store store, list keys, list hashes)
cdef object fetch(Store store, object key, uint64_t h, LoadSpec* spec)
cdef object end_load(Store store, object key, uint64_t h, Leader leader, PyObject* value, LoadSpec* spec)
cdef int complete_load(Store store, Leader leader, object key, uint64_t h, object value, LoadSpec* spec) except -1
cdef int remember(Store store, object key, Leader leader, object error, object failures) except -1
cdef int put_result(Store store, object key, uint64_t h, object value, LoadSpec* spec) except -1
cdef object plain_result(str name, object result)


cdef inline void no_arguments(LoadSpec* spec, object factory, double lifetime) noexcept:
    """A value comes from ``factory()``, and is stored for `lifetime`."""
    spec.function = <PyObject*>factory
    spec.arguments = NULL
    spec.n = 0
    spec.names = spec.ttl_of = spec.condition = spec.instance = spec.tags = spec.failures = NULL
    spec.lifetime = lifetime
    spec.single_flight = True
    spec.single_use = REFUSED
    spec.functools_rules = spec.keep_first = False
    spec.missed = -1
