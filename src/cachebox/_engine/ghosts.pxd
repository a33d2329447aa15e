"""Ghosts: what is remembered of entries that were evicted. Hashes only, in words of four bytes.

    word    [ fingerprint: 14 | uses: 4 | last use: 14 ]        0: empty
    words   [ bucket of eight | bucket of eight | ... ]         a hash has its home in one bucket

A ghost that finds its bucket full takes the place of the oldest there. Two hashes of one bucket whose fingerprints are
equal are one ghost: one in two thousand lookups finds a stranger's, which costs a little hit ratio and nothing else.
"""

from libc.stdint cimport uint32_t, uint64_t


cdef enum:
    BUCKET = 8                      # words
    PER_ENTRY = 3                   # ghosts
    GHOST_TIME = 0x3FFF             # of a time of last use, what a ghost keeps: ages are right modulo 2**14


cdef struct Ghosts:
    uint32_t* words                 # NULL: none are kept
    uint32_t allocated              # buckets that there is memory for
    uint32_t buckets                # ... that are in use
    uint32_t hand                   # the word that is aged next


cdef inline uint32_t scrambled(uint32_t h) noexcept nogil:
    """Other bits of a hash: those that choose a ghost's fingerprint and who is in the sample."""
    return h * <uint32_t>0x9E3779B1


cdef inline uint32_t* bucket_of(const Ghosts* g, uint32_t h) noexcept nogil:
    return &g.words[BUCKET * ((<uint64_t>h * g.buckets) >> 32)]


cdef inline void put_ghost(Ghosts* g, uint32_t h, uint32_t uses, uint32_t last, uint32_t now) noexcept nogil:
    """Remember a hash. Times are in ticks."""
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
    """The word of a hash, which is forgotten; 0: there is none."""
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
