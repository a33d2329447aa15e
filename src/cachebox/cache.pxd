from cpython.object cimport PyObject
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint32_t, uint64_t

from cachebox._engine.table cimport hash_of, mixed
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


cdef class Cache(Store):
    cdef bint unbounded             # `bound` is none that anybody asked for
    cdef object name_of_policy      # a built-in one's name, or the policy object that was given
    cdef object default_ttl_given
    cdef object time_to_idle_given
    cdef object max_weight_given
    cdef object max_bytes_given
    cdef object isolate_given
    cdef object loads_by_loop       # where coroutines load what is missing; None: they never did
    cdef object stale_ttl_given
    cdef object exception_ttl_given
    cdef bint ready                 # __init__ or __setstate__ has run

    cdef int configure(self, dict options) except -1
    cdef PyObject* get_through(self, object key, uint64_t h) except? NULL
    cdef object get_many_through(self, list keys, list hashes)
    cdef int remember(self, object key, Leader leader, object error, object failures) except -1
    cdef int forget_failure(self, object key) except -1
    cdef PyObject* get_long(self, object key, uint64_t h) except? NULL
    cdef PyObject* find_and_use(self, object key, uint64_t h, bint counts) except? NULL
    cdef PyObject* own_copy(self, PyObject* value) except? NULL
    cdef int touch_value(self, object key, double lifetime, PyObject* value) except -2
    cdef list snapshot(self, bint keys, bint values)
    cdef int set_long(self, object key, uint64_t h, object value, double lifetime) except -1
    cdef int set_tagged(self, object key, uint64_t h, object value, double lifetime, tuple tags) except -1
    cdef int set_weighed(
        self, object key, uint64_t h, object value, double lifetime, double weight, bint only_new
    ) except -1
    cdef double weigh_checked(self, object key, object value) except -1.0
    cdef object take(self, object key, bint wanted)
    cdef PyObject* look(self, object key) except? NULL
    cdef object setdefault_long(self, object key, uint64_t h, object default)
    cdef object fetch(self, object key, uint64_t h, Loading* how)
    cdef object load_unwatched(self, object key, uint64_t h, Loading* how)
    cdef int count_hit(self) except -1
    cdef int count_miss(self) except -1
    cdef object land_or_crash(self, object key, uint64_t h, Leader leader, PyObject* value, Loading* how)
    cdef int keep_due(self, double ahead, double stale) except -1
    cdef int put_result(self, object key, uint64_t h, object value, Loading* how) except -1
    cdef int land(self, Leader leader, object key, uint64_t h, object value, Loading* how) except -1
    cdef object add_int(self, object key, object amount)
    cdef int set_all(self, list items, double lifetime, tuple tags) except -1


cdef inline uint64_t hash_in(Cache self, object key) except? 0:
    """A key's hash, as the cache's table wants it."""
    return mixed(self.table, hash_of(<PyObject*>key))


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
