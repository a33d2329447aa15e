from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "distributed/_embedded/page.h" nogil:
    uint64_t load "cb_load"(const uint64_t* at)
    void store "cb_store"(uint64_t* at, uint64_t value)
    uint32_t load32 "cb_load32"(const uint32_t* at)
    void store32 "cb_store32"(uint32_t* at, uint32_t value)
    void add32 "cb_add32"(uint32_t* at, uint32_t value)
    void add64 "cb_add64"(uint64_t* at, uint64_t value)
    uint8_t load8 "cb_load8"(const uint8_t* at)
    void store8 "cb_store8"(uint8_t* at, uint8_t value)
    void wait_on "cb_wait"(uint32_t* word, uint32_t expected, double seconds)
    void wake_up "cb_wake"(uint32_t* word, int most)
    int lock_file "cb_lock_file"(int fd)
    void unlock_file "cb_unlock_file"(int fd)
    bint is_unlinked "cb_is_unlinked"(int fd)


cdef enum:
    BITS = 16
    BUCKETS = 65536
    CLEAN = 1                       # a flag of the head: the folder was closed, and nothing was written since


cdef struct Bucket:
    uint64_t count                  # even: quiet; odd: a key of the bucket is being changed, or its writer has died
    uint8_t visited[16]             # per value of the hash's next 4 bits: whether a key was used since the hand passed
    uint64_t unused                 # two buckets fill a cache line


cdef struct Head:
    # What outlives the processes. The sum covers all of it but `data`: a wrong number names no file.
    uint64_t magic
    uint64_t data                   # the number in the name of the file with the entries; 0: there is none
    uint8_t secret[16]
    uint8_t boot[16]                # the boot id of the machine when the folder was last opened
    uint64_t state                  # flags, and the sum in the upper half: one store changes both, so no death tears them
    uint32_t is_new                 # whether the first process still looks the folder over: nobody else may use it
    uint32_t unused
    # What changes all the time, under the writer lock.
    uint32_t dirty                  # whether a writer is at work, or has died
    uint32_t wake                   # changes when the writer lock becomes free
    uint32_t waiters
    uint32_t leases                 # whether there may be leases
    uint64_t tag_count              # a counter like a bucket's, for all tags
    uint64_t hand                   # where the hand goes on looking for unused entries
    int64_t budget                  # bytes that may be written before a write checks how full the file is
    uint64_t generation             # the present generation; 0: unknown, SQLite has to be asked
    # What all processes have counted so far. For people alone, because it is not checked.
    uint64_t local_hits
    uint64_t remote_hits
    uint64_t misses


cdef class Page:
    cdef uint8_t* base
    cdef Head* head
    cdef uint64_t* incarnations
    cdef Bucket* buckets
    cdef object view
    cdef readonly object mapping

    cdef int set_flag(self, uint32_t flag, bint value) except -1
    cdef int seal(self, uint32_t flags) except -1
    cdef uint64_t hash_bytes(self, const uint8_t* data, Py_ssize_t size) noexcept
    cdef inline Bucket* bucket_of(self, uint64_t h) noexcept:
        return &self.buckets[h >> (64 - BITS)]

    cdef inline uint8_t* visited_at(self, uint64_t h) noexcept:
        return &self.buckets[h >> (64 - BITS)].visited[(h >> (60 - BITS)) & 15]


cdef inline uint32_t start_of(uint64_t h, uint64_t generation, uint64_t end) noexcept:
    """The start value of an entry's checksum: it depends on hash, generation and deadline."""
    cdef uint64_t mixed = (h ^ generation * <uint64_t>0x9E3779B97F4A7C15) * <uint64_t>0xBF58476D1CE4E5B9 ^ end
    mixed = mixed * <uint64_t>0x94D049BB133111EB
    return <uint32_t>(mixed >> 32)


cdef inline void mark_used(uint8_t* visited) noexcept:
    """Record that a key was used. Reads first: a cache line that nobody writes is shared by all processors."""
    if load8(visited) == 0:
        store8(visited, 1)


cdef inline void begin_change(Page page, uint64_t h) noexcept:
    """A key with that hash is about to change."""
    store32(&page.head.dirty, 1)
    make_odd(&page.bucket_of(h).count)


cdef inline void end_change(Page page, uint64_t h) noexcept:
    """The outcome of the change is decided."""
    make_even(&page.bucket_of(h).count)
    store32(&page.head.dirty, 0)


cdef inline void make_odd(uint64_t* count) noexcept:
    cdef uint64_t found = load(count)
    if not found & 1:
        store(count, found + 1)


cdef inline void make_even(uint64_t* count) noexcept:
    cdef uint64_t found = load(count)
    if found & 1:
        store(count, found + 1)


cdef uint64_t hash_key(Page page, str key) except? 0
