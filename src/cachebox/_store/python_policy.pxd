from libc.stdint cimport uint32_t

from cachebox._platform.lock cimport Lock
from cachebox._store.operation cimport Operation


cdef class PythonPolicy:
    cdef object policy
    cdef object policy_lock         # a re-entrant lock
    # operations that go on without the policy lock; the cache's lock guards this field and `behind`
    cdef uint32_t strays
    cdef bint behind                # the policy was not notified of some change, or not in order
    cdef int depth                  # methods of the policy in progress; the policy lock guards this field and `nesting`
    cdef int nesting                # operations that hold the policy lock, each in the middle of the one before
    cdef object __weakref__

    # without the cache's lock
    cdef int enter(self, Operation* op, Lock* lock) except -1
    cdef int exit(self, Operation* op) except -1
    cdef int notify(self, Operation* op) except -1
    cdef int clear(self) except -1
    cdef object evict(self, bint is_last)
