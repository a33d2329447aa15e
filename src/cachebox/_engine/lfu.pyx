"""Least frequently used: the entry with the fewest uses leaves first; among equals, the least recently used one.

An insertion, a hit and a new value are one use each. The table's list holds all entries in eviction order. It consists
of stretches of equal use, one bucket each; the buckets form a chain, fewest uses first. A use moves the entry to the
end of the next stretch. Every verb is O(1) (Shah, Mitra, Matani: "An O(1) algorithm for implementing the LFU cache
eviction scheme", 2010, with one list for all buckets).

Invariants: `uses` grows strictly along the chain; no bucket is empty; `last` ends the bucket's stretch; an entry's
`aux` is its bucket. Either a bucket is free, or the first one holds the entries used once: so `on_insert` never needs
memory.
"""

from libc.stdint cimport uint32_t, uint64_t

from cachebox._engine.table cimport ASKS, Engine, Entry, allocate, copy_array, deallocate, link_after, reallocate, unlink


# the most uses an entry may come with: hits cannot take it to 2**64, which is 0
cdef uint64_t MOST_USES = <uint64_t>1 << 63


cdef class LFU(Engine):

    def __cinit__(self):
        self.table.use = ASKS
        self.ranks_rise = self.in_list = True

    def __dealloc__(self):
        deallocate(self.buckets)

    cdef bint reserve_order(self, uint32_t capacity) noexcept nogil:
        if self.size // 4 > capacity:           # the table has shrunk
            self._fewer_buckets()
        return self.buckets != NULL or self._more_buckets()

    cdef void on_insert(self, uint32_t i) noexcept nogil:
        self.on_insert_ranked(i, 1)

    cdef void on_hit(self, uint32_t i) noexcept nogil:
        cdef Entry* entries = self.table.entries
        cdef Entry* entry = &entries[i]
        cdef uint32_t old = entry.aux, bucket, last, before, behind
        cdef Bucket* b = &self.buckets[old]
        cdef Bucket* following
        bucket = b.next
        following = &self.buckets[bucket]
        if following.uses != b.uses + 1 or b.count == 1:
            self._hit_slow(i)
            return
        # `_leave` and `_join` in one, without reading what is known already: most hits end here
        last, before, behind = following.last, entry.prev, entry.next
        b.count -= 1
        if b.last == i:
            b.last = before
        following.count += 1
        following.last = i
        entry.aux = bucket
        entries[before].next = behind
        entries[behind].prev = before
        behind = entries[last].next
        entries[behind].prev = i
        entry.next = behind
        entry.prev = last
        entries[last].next = i

    cdef void _hit_slow(self, uint32_t i) noexcept nogil:
        """`on_hit` where a bucket has to be opened or is left empty."""
        cdef uint32_t old = self.table.entries[i].aux, bucket = self.buckets[old].next
        cdef uint64_t uses = self.buckets[old].uses + 1
        if self.buckets[bucket].uses == uses:       # the sentinel has 0 uses, which no entry has
            self._leave(i)
        elif not self._spare():
            return                                  # no memory: this use is not counted
        elif self.buckets[old].count == 1:          # the entry is alone in its bucket and overtakes none
            self.buckets[old].uses = uses
            return
        else:
            bucket = self._open(uses, old)
            self._leave(i)
            self.buckets[bucket].last = self.buckets[old].last
        self._join(i, bucket)

    cdef void on_remove(self, uint32_t i) noexcept nogil:
        self._leave(i)

    cdef bint copy_order(self, Engine other) noexcept:
        cdef LFU lfu = <LFU>other
        if not copy_array(<void**>&self.buckets, lfu.buckets, lfu.size * sizeof(Bucket)):
            return False
        self.size, self.free = lfu.size, lfu.free
        return True

    cdef void on_clear(self) noexcept nogil:
        deallocate(self.buckets)
        self.buckets = NULL
        self.size = self.free = 0

    cdef uint64_t rank(self, uint32_t i) noexcept nogil:
        return self.buckets[self.table.entries[i].aux].uses

    cdef void on_insert_ranked(self, uint32_t i, uint64_t rank) noexcept nogil:
        """Insert with `rank` uses, behind all that have as many or fewer.

        The search is O(1) for 1 and for the most uses.
        """
        cdef uint32_t before, bucket
        rank = min(max(rank, <uint64_t>1), <uint64_t>MOST_USES)
        before = 0 if rank == 1 else self.buckets[0].prev
        while before != 0 and self.buckets[before].uses > rank:
            before = self.buckets[before].prev
        bucket = before if before != 0 else self.buckets[0].next
        if self.buckets[bucket].uses != rank:
            if rank != 1 and not self._spare():
                self.on_insert_ranked(i, 1)         # no memory: the uses are forgotten
                return
            bucket = self._open(rank, before)
            self.buckets[bucket].last = self.buckets[before].last if before != 0 else 0
        self._join(i, bucket)

    cdef void on_move(self, uint32_t i, uint32_t to) noexcept nogil:
        cdef Bucket* b = &self.buckets[self.table.entries[to].aux]
        Engine.on_move(self, i, to)
        if b.last == i:
            b.last = to

    cdef Py_ssize_t check_order(self) except -1:
        cdef uint32_t i = 0, bucket = 0, _
        cdef Bucket* b
        cdef Py_ssize_t n = 0, buckets = 0, free = 0
        if self.buckets == NULL:
            return 0
        assert self.free != 0 or self.buckets[self.buckets[0].next].uses == 1, "an insertion would find no bucket"
        while self.buckets[bucket].next != 0:
            assert self.buckets[self.buckets[bucket].next].prev == bucket, f"bucket {bucket} and the next one disagree"
            assert self.buckets[self.buckets[bucket].next].uses > self.buckets[bucket].uses, "uses do not grow"
            bucket = self.buckets[bucket].next
            b = &self.buckets[bucket]
            assert b.count > 0, f"bucket {bucket} is empty"
            for _ in range(b.count):
                assert self.table.entries[self.table.entries[i].next].prev == i, f"links around {i} disagree"
                i = self.table.entries[i].next
                assert self.table.entries[i].aux == bucket, f"entry {i} belongs to another bucket"
            assert b.last == i, f"bucket {bucket} ends at {i}, not at {b.last}"
            n += b.count
            buckets += 1
        assert self.table.entries[i].next == 0, "entries behind the last bucket"
        assert self.buckets[0].prev == bucket, "the chain's end disagrees"
        bucket = self.free
        while bucket != 0:
            free += 1
            assert free < self.size, "the chain of free buckets is a circle"
            bucket = self.buckets[bucket].next
        assert 1 + buckets + free == self.size, "a bucket is lost"
        return n

    cdef bint _spare(self) noexcept nogil:
        """Make sure of two free buckets: one to open, one to keep. False: no memory."""
        return (self.free != 0 and self.buckets[self.free].next != 0) or self._more_buckets()

    cdef bint _more_buckets(self) noexcept nogil:
        cdef uint32_t size = max(<uint32_t>8, 2 * self.size), bucket
        cdef Bucket* buckets = <Bucket*>reallocate(self.buckets, size * sizeof(Bucket))
        if buckets == NULL:
            return False
        if self.buckets == NULL:
            buckets[0].uses = 0
            buckets[0].prev = buckets[0].next = 0
            self.size = 1
        for bucket in range(self.size, size):
            buckets[bucket].next = self.free
            self.free = bucket
        self.buckets = buckets
        self.size = size
        return True

    cdef void _fewer_buckets(self) noexcept nogil:
        """Keep the buckets that hold entries, and one spare. Without memory, keep all of them."""
        cdef uint32_t bucket = self.buckets[0].next, kept = 0, size = 2, i = 0, _
        cdef Bucket* buckets
        while bucket != 0:
            size += 1
            bucket = self.buckets[bucket].next
        buckets = <Bucket*>allocate(size * sizeof(Bucket))
        if buckets == NULL:
            return
        buckets[0] = self.buckets[0]
        bucket = self.buckets[0].next
        while bucket != 0:
            kept += 1
            buckets[kept] = self.buckets[bucket]
            buckets[kept].prev = kept - 1
            buckets[kept - 1].next = kept
            for _ in range(buckets[kept].count):
                i = self.table.entries[i].next
                self.table.entries[i].aux = kept
            bucket = self.buckets[bucket].next
        buckets[kept].next = 0
        buckets[0].prev = kept
        buckets[kept + 1].next = 0
        deallocate(self.buckets)
        self.buckets = buckets
        self.size = size
        self.free = kept + 1

    cdef uint32_t _open(self, uint64_t uses, uint32_t before) noexcept nogil:
        """Take a free bucket and put it behind the bucket `before`. The caller sets its `last`."""
        cdef uint32_t bucket = self.free
        cdef Bucket* b = &self.buckets[bucket]
        self.free = b.next
        b.uses = uses
        b.count = 0
        b.prev = before
        b.next = self.buckets[before].next
        self.buckets[b.next].prev = bucket
        self.buckets[before].next = bucket
        return bucket

    cdef void _leave(self, uint32_t i) noexcept nogil:
        cdef uint32_t bucket = self.table.entries[i].aux
        cdef Bucket* b = &self.buckets[bucket]
        b.count -= 1
        if b.count == 0:
            self.buckets[b.prev].next = b.next
            self.buckets[b.next].prev = b.prev
            b.next = self.free
            self.free = bucket
        elif b.last == i:
            b.last = self.table.entries[i].prev
        unlink(&self.table, i)

    cdef void _join(self, uint32_t i, uint32_t bucket) noexcept nogil:
        """Make entry i the last of a bucket. The bucket's `last` is the place to stand behind."""
        cdef Bucket* b = &self.buckets[bucket]
        link_after(&self.table, i, b.last)
        b.last = i
        b.count += 1
        self.table.entries[i].aux = bucket
