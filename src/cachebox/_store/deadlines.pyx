"""The heap of deadlines; `deadlines.pxd` shows its shape."""

from libc.stdint cimport uint32_t
from libc.string cimport memset

from cachebox._engine.table cimport deallocate, reallocate


cdef inline void stand(Expiry* x, uint32_t p, double when, uint32_t i) noexcept nogil:
    x.deadlines[p] = when
    x.entries[p] = i
    x.place[i] = p


cdef inline uint32_t parent(uint32_t p) noexcept nogil:
    return (p + 2) >> 2


cdef inline uint32_t first_child(uint32_t p) noexcept nogil:
    return 4 * p - 2


cdef void sift(Expiry* x, uint32_t p, double when, uint32_t i) noexcept nogil:
    """Put entry i, with deadline `when`, where it belongs. Position p is free for it now."""
    cdef uint32_t child, soonest, end
    while p > 1 and x.deadlines[parent(p)] > when:
        stand(x, p, x.deadlines[parent(p)], x.entries[parent(p)])
        p = parent(p)
    while True:
        child = first_child(p)
        if child > x.n:
            break
        end = min(child + 3, x.n)
        soonest = child
        while child < end:
            child += 1
            if x.deadlines[child] < x.deadlines[soonest]:
                soonest = child
        if x.deadlines[soonest] >= when:
            break
        stand(x, p, x.deadlines[soonest], x.entries[soonest])
        p = soonest
    stand(x, p, when, i)


cdef bint make_place(Expiry* x, uint32_t capacity, bint idles) noexcept nogil:
    cdef uint32_t* numbers
    cdef double* times
    cdef uint32_t size
    if x.known <= capacity:
        numbers = <uint32_t*>reallocate(x.place, (<size_t>capacity + 1) * sizeof(uint32_t))
        if numbers == NULL:
            return False
        x.place = numbers
        if idles:
            times = <double*>reallocate(x.write_deadlines, (<size_t>capacity + 1) * sizeof(double))
            if times == NULL:
                return False
            x.write_deadlines = times
        memset(x.place + x.known, 0, (<size_t>capacity + 1 - x.known) * sizeof(uint32_t))
        x.known = capacity + 1
    if x.n + 1 >= x.size:
        size = min(max(<uint32_t>8, 2 * x.size), capacity + 2)
        times = <double*>reallocate(x.deadlines, size * sizeof(double))
        if times == NULL:
            return False
        x.deadlines = times
        numbers = <uint32_t*>reallocate(x.entries, size * sizeof(uint32_t))
        if numbers == NULL:
            return False
        x.entries = numbers
        x.size = size
    return True


cdef void set_deadline(Expiry* x, uint32_t i, double when) noexcept nogil:
    if x.place[i] == 0:
        x.n += 1
        sift(x, x.n, when, i)
    else:
        sift(x, x.place[i], when, i)


cdef void drop_deadline(Expiry* x, uint32_t i) noexcept nogil:
    cdef uint32_t p
    if i >= x.known or x.place[i] == 0:
        return
    p = x.place[i]
    x.place[i] = 0
    x.n -= 1
    if p <= x.n:                    # the last node takes the freed position
        sift(x, p, x.deadlines[x.n + 1], x.entries[x.n + 1])


cdef void move_deadline(Expiry* x, uint32_t i, uint32_t to) noexcept nogil:
    if i >= x.known:
        return
    x.place[to] = x.place[i]
    x.place[i] = 0
    if x.place[to] != 0:
        x.entries[x.place[to]] = to
    if x.write_deadlines != NULL:
        x.write_deadlines[to] = x.write_deadlines[i]


cdef void less_place(Expiry* x, uint32_t capacity) noexcept nogil:
    cdef uint32_t* numbers
    cdef double* times
    cdef uint32_t size = min(max(<uint32_t>8, 2 * x.n), capacity + 2)
    if x.n == 0:
        forget_all(x)
        return
    if x.known > capacity + 1:
        numbers = <uint32_t*>reallocate(x.place, (<size_t>capacity + 1) * sizeof(uint32_t))
        if numbers != NULL:
            x.place = numbers
        if x.write_deadlines != NULL:
            times = <double*>reallocate(x.write_deadlines, (<size_t>capacity + 1) * sizeof(double))
            if times != NULL:
                x.write_deadlines = times
        x.known = capacity + 1
    if x.size > size:
        x.size = size
        times = <double*>reallocate(x.deadlines, size * sizeof(double))
        if times != NULL:
            x.deadlines = times
        numbers = <uint32_t*>reallocate(x.entries, size * sizeof(uint32_t))
        if numbers != NULL:
            x.entries = numbers


cdef void forget_all(Expiry* x) noexcept nogil:
    deallocate(x.deadlines)
    deallocate(x.entries)
    deallocate(x.place)
    deallocate(x.write_deadlines)
    memset(x, 0, sizeof(Expiry))


cdef uint32_t count_over(const Expiry* x, uint32_t p, double now) noexcept nogil:
    """How many entries have expired, at position p of the heap and below it. O(k) for k of them."""
    cdef uint32_t n = 1, child
    if p > x.n or x.deadlines[p] > now:
        return 0
    for child in range(first_child(p), first_child(p) + 4):
        n += count_over(x, child, now)
    return n


cdef int check_heap(const Expiry* x) except -1:
    cdef uint32_t p, i, placed = 0
    for p in range(1, x.n + 1):
        assert p == 1 or x.deadlines[p] >= x.deadlines[parent(p)], f"node {p} is due before its parent"
        assert x.entries[p] < x.known and x.place[x.entries[p]] == p, f"node {p} is not where its entry thinks"
    for i in range(x.known):
        placed += x.place[i] != 0
    assert placed == x.n, f"{placed} entries have a deadline, {x.n} counted"
    return 0
