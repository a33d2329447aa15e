from libc.stdint cimport uint32_t

from cachebox._engine.table cimport Engine


cdef class FIFO(Engine):
    cdef uint32_t* ring             # indices in the order of insertion; 0: a hole that a removal left
    cdef uint32_t mask              # len(ring) - 1, a power of two less one
    cdef uint32_t head              # the oldest place is head & mask; both counters only grow (modulo 2**32)
    cdef uint32_t tail              # the next free place is tail & mask
    cdef uint32_t ordered           # places taken that are not holes

    cdef void _close_holes(self) noexcept nogil
