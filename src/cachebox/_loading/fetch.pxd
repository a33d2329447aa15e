"""The load path: one caller loads what is missing, the others wait, and it is stored unless it was changed meanwhile.

A `LoadSpec` says what to call and what becomes of the value. `fetch` does it all; where coroutines load, `begin_load` and
`complete_loaded`, `complete_made` or `fail_load` are its halves.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t

from cachebox._loading.loader cimport Loader
from cachebox._loading.single_flight cimport Leader
from cachebox._store.store cimport Store


cdef struct LoadSpec:               # how to get a value that is missing; borrows everything
    PyObject* function
    PyObject** arguments
    Py_ssize_t n
    PyObject* names
    double lifetime
    PyObject* ttl_of                # the value's time to live, as a function of it; or NULL
    PyObject* condition             # whether to store it, likewise; or NULL
    PyObject* instance              # a value that is this very object is not stored; or NULL
    PyObject* tags                  # a tuple of them, or a function of the value and the arguments; or NULL
    PyObject* failures              # where to remember that it failed: a Failures; or NULL
    int64_t began                   # when, on the store's clock of invalidations
    bint single_flight
    int single_use                  # what becomes of a value that can be consumed only once, see below
    bint functools_rules            # as functools has it: the value is stored whatever happened to the key meanwhile
    bint keep_first                 # ... unless it has another value by now
    int missed                      # tells whether it was a miss; -1: it never came to that


cdef enum:                          # values that can be consumed only once
    STORED                          # are stored, like others
    REFUSED                         # are stored, but for awaitables: a TypeError, for a factory has to be plain
    RETURNED                        # are only returned
    PASSED                          # ... and that has happened


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
    """A value comes from ``factory()`` and lives that long."""
    spec.function = <PyObject*>factory
    spec.arguments = NULL
    spec.n = 0
    spec.names = spec.ttl_of = spec.condition = spec.instance = spec.tags = spec.failures = NULL
    spec.lifetime = lifetime
    spec.single_flight = True
    spec.single_use = REFUSED
    spec.functools_rules = spec.keep_first = False
    spec.missed = -1
