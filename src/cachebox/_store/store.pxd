"""The work under `Cache`: whole operations on a `State`, each holding the lock only while it looks or changes.

What leaves the cache goes into the `Operation`; `finish` deals with it, without the lock.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from cachebox._engine.table cimport Engine
from cachebox._store.operation cimport FAILED, Cause, Operation
from cachebox._store.state cimport State
from cachebox._store.tags cimport Tag


cdef enum:
    ROUNDS = 10   # the most attempts to make a policy agree: each runs keys' ==, which may change the cache


cdef class Store(State):
    # without the lock
    cdef int begin(self, Engine engine) except -1
    cdef double now(self, double lifetime) except? -1.0
    cdef double weigh(self, object key, object value) except -1.0
    cdef double lifetime_for(self, double lifetime, object key, object value) except -1.0
    cdef object copy_of(self, object value)
    cdef PyObject* own_copy(self, PyObject* value) except? NULL
    cdef PyObject* look(self, object key) except? NULL
    cdef PyObject* find_and_use(self, object key, uint64_t h, bint counts) except? NULL
    cdef double weigh_checked(self, object key, object value) except -1.0
    cdef int forget_failure(self, object key) except -1
    cdef int count_hit(self) except -1
    cdef int count_miss(self) except -1
    cdef void note_miss(self, uint64_t h) noexcept
    cdef int finish(self, Operation* op) except -1
    cdef int finish_with(self, Operation* op, PyObject* held) except -1
    cdef object settle(self, Operation* op)
    cdef int take_back(self, Operation* op) except -1
    cdef int notify_policy(self, Operation* op) except -1
    cdef int reconcile(self) except -1
    cdef bint holds(self, object key) except -1
    cdef int evict_by_policy(self, Operation* op) except -1
    cdef void lock_again(self, Operation* op) noexcept nogil
    cdef uint32_t find_victim(self, Operation* op, int rounds) except FAILED
    cdef Py_ssize_t purge(self, bint stale_too, bint politely=*) except -1
    cdef Py_ssize_t size(self) except -1
    cdef list find_tags(self, tuple names)
    cdef Tag find_tag(self, object name, bint makes)
    cdef Tag known_tag(self, object name)
    cdef Tag find_or_make_tag(self, object name, bint makes)
    cdef Engine table_of_tags(self)
    cdef void remove_forgotten(self, object key, Operation* op) noexcept
    cdef double sweep(self) except? -1.0
    cdef int empty(self, bint statistics_too) except -1

    # takes the lock and leaves it held; releases it while keys are compared; an exception leaves it released
    cdef uint32_t find(self, object key, uint64_t h, Operation* op) except FAILED
    cdef uint32_t find_itself(self, object key, uint64_t h, Operation* op) except FAILED
    cdef uint32_t find_to_change(self, object key, uint64_t h, Operation* op) except FAILED

    # with the lock
    cdef void drop_unused_tags(self, Operation* op) noexcept
    cdef bint remove_itself(self, PyObject* key, uint32_t i, Cause cause, Operation* op) noexcept
