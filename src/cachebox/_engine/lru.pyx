"""Least recently used: the entry that was got or set longest ago leaves first.

The order is the table's list, oldest at the front. A hit moves the entry to the back. `table.on_hit` does that itself,
without a call of this class. Every verb is O(1).
"""

from libc.stdint cimport uint32_t

from cachebox._engine.table cimport MOVES_TO_BACK, Engine, move_to_back


cdef class LRU(Engine):

    def __cinit__(self):
        self.table.use = MOVES_TO_BACK
        self.in_list = True

    cdef void on_hit(self, uint32_t i) noexcept nogil:
        """Called only during a recording, when `table.on_hit` calls the engine."""
        move_to_back(&self.table, i)
