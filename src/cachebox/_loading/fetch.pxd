"""The load path: one caller loads what is missing, the others wait, and it is stored unless it was changed meanwhile.

A `Loading` says what to call and what becomes of the value. `fetch` does it all; where coroutines load, `begin_load` and
`land_loaded`, `land_made` or `fail_load` are its halves.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t

from cachebox._loading.loader cimport Loader
from cachebox._loading.single_flight cimport Leader
from cachebox._store.store cimport Store


cdef struct Loading:                # how to get a value that is missing; borrows everything
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
    bint unwatched                  # as functools has it: the value is stored whatever happened to the key meanwhile
    bint first_wins                 # ... unless it has another value by now
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


cdef PyObject* get_long(Store store, object key, uint64_t h) except? NULL
cdef PyObject* find_missing(PyObject* self, PyObject* key, uint64_t h, bint compared) except? NULL
cdef object get_many_through(Store store, list keys, list hashes)
cdef object fetch(Store store, object key, uint64_t h, Loading* how)
cdef object land_or_crash(Store store, object key, uint64_t h, Leader leader, PyObject* value, Loading* how)
cdef int land(Store store, Leader leader, object key, uint64_t h, object value, Loading* how) except -1
cdef int remember(Store store, object key, Leader leader, object error, object failures) except -1
cdef int put_result(Store store, object key, uint64_t h, object value, Loading* how) except -1
cdef object plain_result(str name, object result)


cdef inline void no_arguments(Loading* how, object factory, double lifetime) noexcept:
    """A value comes from ``factory()`` and lives that long."""
    how.function = <PyObject*>factory
    how.arguments = NULL
    how.n = 0
    how.names = how.ttl_of = how.condition = how.instance = how.tags = how.failures = NULL
    how.lifetime = lifetime
    how.single_flight = True
    how.single_use = REFUSED
    how.unwatched = how.first_wins = False
    how.missed = -1
