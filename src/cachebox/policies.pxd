from libc.stdint cimport uint32_t, uint64_t

from cachebox._engine.table cimport Engine
from cachebox._platform.lock cimport SharedLock
from cachebox._store.operation cimport FAILED, Operation


cdef object checked_size(object max_size)


cdef class EvictionPolicy:
    cdef object size                # the attribute max_size
    cdef bint has_cache             # it serves a cache
    cdef object __weakref__

    cdef bint take(self) noexcept
    cdef void give_back(self) noexcept


cdef class _BuiltInPolicy(EvictionPolicy):
    cdef Engine engine              # of its own: never replaced, so whoever is at work on it works on
    cdef SharedLock shared_lock     # ... under this lock, which also guards the rest
    cdef bint owned_by_cache        # it only looks at a cache's engine
    cdef Engine served              # that engine, and its lock; None: not yet. Once there, they are never replaced
    cdef SharedLock server

    cdef Engine lend(self)
    cdef Engine new_engine(self)
    cdef int serve(self, Engine engine, SharedLock shared_lock) except -1
    cdef int take_lock(self) except -1
    cdef Engine at_hand(self)
    cdef uint32_t find(self, object key, Operation* op) except FAILED
    cdef void take_out(self, uint32_t i, Operation* op) noexcept
    cdef bint discard(self, object key) except -1
    cdef list ranked(self)
    cdef int fill(self, keys, ranks) except -1
