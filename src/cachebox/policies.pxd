from libc.stdint cimport uint32_t, uint64_t

from cachebox._engine.table cimport Engine
from cachebox.lock cimport Guard
from cachebox.operation cimport FAILED, Operation


cdef object checked_size(object max_size)


cdef class EvictionPolicy:
    cdef object size                # the attribute max_size
    cdef bint taken                 # it serves a cache
    cdef object __weakref__


cdef class _Ordered(EvictionPolicy):
    cdef Engine engine
    cdef Guard guard
    cdef bint lent                  # the engine is a cache's: the policy only looks at it

    cdef int refuse_if_lent(self) except -1
    cdef uint32_t find(self, object key, uint64_t h, Operation* op) except FAILED
    cdef void take_out(self, uint32_t i, Operation* op) noexcept
    cdef bint discard(self, object key) except -1
    cdef object rank_of(self, object key)
    cdef int fill(self, keys, ranks) except -1
