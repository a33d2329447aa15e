"""First in, first out: the entry inserted longest ago leaves first.

Hits and new values change nothing (`IGNORED`, the default of a table).

The order is a ring buffer of indices. An entry remembers its place (`prev`), so a removal leaves a hole in O(1).
The ring has at least 1.5 times as many places as the table has entries. So when it is full, at least a third of it is
holes, and closing them costs O(1) amortised per insertion.

Invariants: `ring[e.prev & mask]` is e's index; `tail - head <= mask + 1`; `mask + 1 >= 1.5 * capacity`.
"""

from libc.stdint cimport uint32_t

from cachebox._engine.table cimport Engine, allocate, copy_array, deallocate, expect_to_leave


cdef class FIFO(Engine):

    def __dealloc__(self):
        deallocate(self.ring)

    cdef bint reserve_order(self, uint32_t capacity) noexcept nogil:
        cdef size_t size = 8
        cdef uint32_t at, place = 0, i
        cdef uint32_t* ring
        while size < capacity + ((capacity + 1) >> 1):
            size *= 2
        if self.ring != NULL and size == <size_t>self.mask + 1:
            return True
        ring = <uint32_t*>allocate(size * sizeof(uint32_t))
        if ring == NULL:
            return self.ring != NULL and size <= <size_t>self.mask + 1
        for at in range(self.tail - self.head):
            i = self.ring[(self.head + at) & self.mask]
            if i != 0:
                ring[place] = i
                self.table.entries[i].prev = place
                place += 1
        deallocate(self.ring)
        self.ring = ring
        self.mask = <uint32_t>(size - 1)
        self.head = 0
        self.tail = place
        return True

    cdef void on_insert(self, uint32_t i) noexcept nogil:
        if self.tail - self.head > self.mask:
            self._close_holes()
        self.ring[self.tail & self.mask] = i
        self.table.entries[i].prev = self.tail
        self.tail += 1
        self.ordered += 1

    cdef void on_remove(self, uint32_t i) noexcept nogil:
        self.ring[self.table.entries[i].prev & self.mask] = 0
        self.ordered -= 1

    cdef uint32_t victim(self) noexcept nogil:
        while self.head != self.tail:
            if self.ring[self.head & self.mask] != 0:
                if self.head + 1 != self.tail:
                    # if that is a hole, it has no effect
                    expect_to_leave(&self.table, self.ring[(self.head + 1) & self.mask])
                return self.ring[self.head & self.mask]
            self.head += 1
        return 0

    cdef uint32_t next_victim(self, uint32_t i) noexcept nogil:
        cdef uint32_t at = self.table.entries[i].prev + 1
        while at != self.tail:
            if self.ring[at & self.mask] != 0:
                return self.ring[at & self.mask]
            at += 1
        return 0

    cdef bint copy_order(self, Engine other) noexcept:
        cdef FIFO fifo = <FIFO>other
        if not copy_array(<void**>&self.ring, fifo.ring, (<size_t>fifo.mask + 1) * sizeof(uint32_t)):
            return False
        self.mask, self.head, self.tail, self.ordered = fifo.mask, fifo.head, fifo.tail, fifo.ordered
        return True

    cdef void on_clear(self) noexcept nogil:
        deallocate(self.ring)
        self.ring = NULL
        self.mask = self.head = self.tail = self.ordered = 0

    cdef void on_move(self, uint32_t i, uint32_t to) noexcept nogil:
        self.ring[self.table.entries[to].prev & self.mask] = to

    cdef Py_ssize_t check_order(self) except -1:
        cdef uint32_t at, i, found = 0
        if self.ring == NULL:
            assert self.ordered == 0, f"{self.ordered} entries ordered and no ring"
            return 0
        assert self.tail - self.head <= self.mask + 1, "the ring is longer than its memory"
        assert 2 * (<size_t>self.mask + 1) >= 3 * <size_t>self.table.capacity, "the ring is too small"
        for at in range(self.tail - self.head):
            i = self.ring[(self.head + at) & self.mask]
            if i != 0:
                assert self.table.entries[i].prev == self.head + at, f"entry {i} does not stand where it thinks"
                found += 1
        assert found == self.ordered, f"{found} entries in the ring, {self.ordered} counted"
        return found

    cdef void _close_holes(self) noexcept nogil:
        """Move the remaining indices together, towards the head."""
        cdef uint32_t at = self.head, place = self.head, i
        while at != self.tail:
            i = self.ring[at & self.mask]
            if i != 0:
                self.ring[place & self.mask] = i
                self.table.entries[i].prev = place
                place += 1
            at += 1
        self.tail = place
