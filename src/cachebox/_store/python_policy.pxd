from libc.stdint cimport uint32_t

from cachebox._platform.lock cimport Lock
from cachebox._store.operation cimport Operation


cdef class PythonPolicy:
    cdef object policy
    cdef object policy_lock         # a re-entrant lock
    cdef uint32_t strays            # operations that go on without the turn. Under the cache's lock, as the next one
    cdef bint behind                # such a one has changed the cache, and the policy was not told; or not in order
    cdef int depth                  # of the policy's methods that are under way. For whoever has the turn, as the next one
    cdef int nesting                # operations that have the turn, each in the middle of the one before
    cdef object __weakref__

    # without the cache's lock
    cdef int enter(self, Operation* op, Lock* lock) except -1
    cdef int exit(self, Operation* op) except -1
    cdef int notify(self, Operation* op) except -1
    cdef int clear(self) except -1
    cdef object evict(self, bint is_last)
