"""The deadlines of entries: a heap in which every entry knows its place.

It is a 4-ary heap with the earliest deadline on top. `place[i]` is the heap position of entry i. So changing or
removing an entry's deadline costs O(log n) and leaves nothing behind. Entries without a deadline cost nothing; if no
entry has one, nothing is allocated.

Invariants: a node's deadline is not before its parent's; `place[entries[p]] == p`; 0 means no place.
"""

from libc.math cimport INFINITY, nextafter
from libc.stdint cimport uint32_t


from cachebox._platform.clock cimport coarse_now, precise_now


cdef struct Expiry:
    double* deadlines               # 1-based, like the places
    uint32_t* entries
    uint32_t* place                 # by entry
    double* write_deadlines         # by entry, only with an idle limit: the deadline that hits do not move
    uint32_t n
    uint32_t size                   # nodes allocated, the unused one at 0 included
    uint32_t known                  # entries that `place` has room for


cdef inline bint has_expired(const Expiry* x, uint32_t i, double now) noexcept nogil:
    """Whether entry i has expired. Call it only while x.n > 0."""
    return i < x.known and x.place[i] != 0 and x.deadlines[x.place[i]] <= now


cdef enum:
    BEYOND_DOUBT = 1                # seconds. The coarse clock is a tick behind, or a few if the machine is busy


cdef inline bint ends_within(const Expiry* x, uint32_t i, double soon, bint precisely) noexcept nogil:
    """Whether entry i expires within `soon` seconds, or has expired. Call it only while x.n > 0.

    The coarse clock, which takes a tenth of the time, is good enough if the entry has more than a second left.
    """
    cdef double end, now
    if i >= x.known or x.place[i] == 0:
        return False
    end = x.deadlines[x.place[i]] - soon
    now = coarse_now()
    if precisely and end - now < BEYOND_DOUBT:
        now = precise_now()
    return end <= now


cdef inline double deadline(const Expiry* x, uint32_t i) noexcept nogil:
    """The deadline of entry i, or infinity."""
    if i < x.known and x.place[i] != 0:
        return x.deadlines[x.place[i]]
    return INFINITY


cdef inline double deadline_after(double now, double lifetime) noexcept nogil:
    """The deadline of a lifetime that begins now. Rounding never prolongs it."""
    cdef double end = now + lifetime
    return nextafter(end, now) if end - now > lifetime else end


cdef bint make_place(Expiry* x, uint32_t capacity, bint idles) noexcept nogil   # for entries 1 .. capacity
cdef void set_deadline(Expiry* x, uint32_t i, double when) noexcept nogil       # needs `make_place`
cdef void drop_deadline(Expiry* x, uint32_t i) noexcept nogil
cdef void move_deadline(Expiry* x, uint32_t i, uint32_t to) noexcept nogil    # after entry i has moved to `to`
cdef void less_place(Expiry* x, uint32_t capacity) noexcept nogil   # no entry has an index beyond `capacity` any more
cdef void forget_all(Expiry* x) noexcept nogil
cdef uint32_t count_over(const Expiry* x, uint32_t p, double now) noexcept nogil
cdef int check_heap(const Expiry* x) except -1
