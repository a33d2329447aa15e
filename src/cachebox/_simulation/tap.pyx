"""A tap on a cache: it records the hashes of keys where a hit or a new entry is noted."""

from libc.stdint cimport uint32_t, uint64_t

from cachebox._engine.table cimport ASKS, Tape, allocate, allocate_zeroed, deallocate
from cachebox._platform.lock cimport acquire, release
from cachebox._store.store cimport Store


cdef uint64_t widened(uint32_t h) noexcept nogil:
    """64 bits, different for different hashes: the finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    cdef uint64_t bits = h + <uint64_t>0x9E3779B97F4A7C15
    bits = (bits ^ bits >> 30) * <uint64_t>0xBF58476D1CE4E5B9
    bits = (bits ^ bits >> 27) * <uint64_t>0x94D049BB133111EB
    return bits ^ bits >> 31


cdef class Tap:
    """Records the requests of a cache until `close`. Raises RuntimeError if another tap records it already."""

    cdef Store store
    cdef Tape* tape
    cdef uint32_t* spare            # the buffer to record into next

    def __cinit__(self, Store store, uint32_t room, double sample):
        cdef bint taken
        self.store = store
        self.tape = <Tape*>allocate_zeroed(1, sizeof(Tape))
        self.spare = <uint32_t*>allocate(room * sizeof(uint32_t))
        if self.tape != NULL:
            self.tape.hashes = <uint32_t*>allocate(room * sizeof(uint32_t))
        if self.tape == NULL or self.spare == NULL or self.tape.hashes == NULL:
            raise MemoryError("no memory left to record")
        self.tape.room = room
        self.tape.bound = <uint32_t>min(sample * 4294967296.0, 4294967295.0)
        acquire(store.lock)
        taken = store.engine.tape != NULL
        if not taken:
            self.tape.use = store.table.use
            store.table.use = ASKS
            store.engine.tape = self.tape
        release(store.lock)
        if taken:
            raise RuntimeError("this cache is being recorded already: one recording at a time")

    def __dealloc__(self):
        if self.tape != NULL:
            self.close()
            deallocate(self.tape.hashes)
            deallocate(self.tape)
        deallocate(self.spare)

    def close(self):
        """Stop recording. Recorded hashes can still be taken."""
        acquire(self.store.lock)
        if self.store.engine.tape == self.tape:
            self.store.engine.tape = NULL
            self.store.table.use = self.tape.use
        release(self.store.lock)

    def take(self):
        """The hashes recorded since the last call: little-endian 64-bit numbers, as bytes. One thread at a time."""
        cdef uint32_t n, k
        cdef uint64_t number
        cdef unsigned char* out
        cdef int byte
        cdef uint32_t* written = self.tape.hashes
        acquire(self.store.lock)
        n = self.tape.n
        self.tape.hashes = self.spare
        self.tape.n = 0
        release(self.store.lock)
        self.spare = written
        data = bytearray(8 * n)
        out = data
        for k in range(n):
            number = widened(written[k])
            for byte in range(8):
                out[8 * k + byte] = <unsigned char>(number >> 8 * byte)
        return data

    @property
    def lost(self):
        """Requests that came faster than they were taken."""
        return self.tape.lost
