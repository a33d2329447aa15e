from libc.stdint cimport uint32_t, uint64_t

from cachebox._engine.table cimport Engine
from cachebox._platform.lock cimport SharedLock
from cachebox._store.operation cimport FAILED, Operation


cdef object checked_size(object max_size)


cdef class EvictionPolicy:
    cdef object size                # the property max_size
    cdef bint has_cache             # it serves a cache
    cdef object __weakref__

    cdef bint take(self) noexcept
    cdef void give_back(self) noexcept


cdef class _BuiltInPolicy(EvictionPolicy):
    cdef Engine engine              # its own; never replaced, so an operation may go on with it
    cdef SharedLock shared_lock     # the lock of `engine`, which also guards the fields below
    cdef bint owned_by_cache        # it serves a cache: it only reads the cache's engine
    cdef Engine served              # the cache's engine; None: not yet. Once set, it and `server` are never replaced
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
