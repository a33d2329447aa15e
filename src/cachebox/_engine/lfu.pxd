from libc.stdint cimport uint32_t, uint64_t

from cachebox._engine.table cimport Engine


cdef struct Bucket:                 # the entries with equally many uses: a stretch of the table's list
    uint64_t uses
    uint32_t last                   # its most recently used entry, the end of the stretch
    uint32_t count
    uint32_t prev                   # the bucket used less often
    uint32_t next                   # the bucket used more often; in the free chain, the next free bucket


cdef class LFU(Engine):
    cdef Bucket* buckets            # [0] is the sentinel of the chain
    cdef uint32_t size              # buckets allocated, the sentinel included
    cdef uint32_t free              # chain of unused buckets

    cdef void _hit_slow(self, uint32_t i) noexcept nogil
    cdef bint _spare(self) noexcept nogil
    cdef bint _more_buckets(self) noexcept nogil
    cdef void _fewer_buckets(self) noexcept nogil
    cdef uint32_t _open(self, uint64_t uses, uint32_t before) noexcept nogil
    cdef void _leave(self, uint32_t i) noexcept nogil
    cdef void _join(self, uint32_t i, uint32_t bucket) noexcept nogil
