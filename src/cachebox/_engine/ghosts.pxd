"""Ghosts: a memory of evicted entries. They keep hashes only, in words of four bytes.

    word    [ fingerprint: 14 | uses: 4 | last use: 14 ]        0: empty
    words   [ bucket of eight | bucket of eight | ... ]         a hash has its home in one bucket

A ghost whose bucket is full replaces the oldest ghost there. Two hashes of one bucket with equal fingerprints are one
ghost: one lookup in two thousand finds the ghost of another key, which costs a little hit ratio and nothing else.
"""

from libc.stdint cimport uint32_t, uint64_t


cdef enum:
    BUCKET = 8                      # words
    PER_ENTRY = 3                   # ghosts for each entry
    GHOST_TIME = 0x3FFF             # the part of a time of last use that a ghost keeps: ages are right modulo 2**14


cdef struct Ghosts:
    uint32_t* words                 # NULL: none are kept
    uint32_t allocated              # buckets that have memory
    uint32_t buckets                # buckets in use
    uint32_t hand                   # the word to age next


cdef inline uint32_t scrambled(uint32_t h) noexcept nogil:
    """Other bits of a hash: they choose a ghost's fingerprint and the keys of the sample."""
    return h * <uint32_t>0x9E3779B1


cdef inline uint32_t* bucket_of(const Ghosts* g, uint32_t h) noexcept nogil:
    return &g.words[BUCKET * ((<uint64_t>h * g.buckets) >> 32)]


cdef inline void put_ghost(Ghosts* g, uint32_t h, uint32_t uses, uint32_t last, uint32_t now) noexcept nogil:
    """Add a ghost. Times are in ticks."""
    cdef uint32_t* words
    cdef uint32_t age, place = 0, oldest = 0
    cdef int k
    cdef uint32_t print = scrambled(h) >> 18
    if g.buckets == 0:
        return
    words = bucket_of(g, h)
    for k in range(BUCKET):
        if words[k] == 0 or words[k] >> 18 == print:
            place = k
            break
        age = (now - words[k]) & GHOST_TIME
        if age >= oldest:
            oldest = age
            place = k
    words[place] = print << 18 | uses << 14 | (last & GHOST_TIME)


cdef inline uint32_t take_ghost(Ghosts* g, uint32_t h) noexcept nogil:
    """Remove the ghost of a hash and return its word; 0: there is none."""
    cdef uint32_t* words
    cdef uint32_t word
    cdef int k
    cdef uint32_t print = scrambled(h) >> 18
    if g.buckets == 0:
        return 0
    words = bucket_of(g, h)
    for k in range(BUCKET):
        word = words[k]
        if word != 0 and word >> 18 == print:
            words[k] = 0
            return word
    return 0


cdef inline uint32_t uses_of(uint32_t word) noexcept nogil:
    return word >> 14 & 15


cdef inline void age_ghosts(Ghosts* g, uint32_t steps) noexcept nogil:
    """Halve the uses of the next words."""
    cdef uint32_t _, word, size = g.buckets * BUCKET
    if size == 0:
        return
    for _ in range(steps):
        if g.hand >= size:
            g.hand = 0
        word = g.words[g.hand]
        g.words[g.hand] = (word & <uint32_t>0xFFFC3FFF) | (word >> 1 & <uint32_t>0x0001C000)
        g.hand += 1
