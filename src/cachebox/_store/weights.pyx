"""Exact weights; `weights.pxd` explains them."""

from libc.float cimport DBL_MAX
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from cachebox._engine.table cimport allocate_zeroed, deallocate, reallocate
from cachebox._platform.lock cimport Lock, acquire, release


cdef enum:
    POINT = 1126                    # bits below the binary point: 53 of them below the smallest exponent, -1073

cdef object UNITS = int(1) << int(POINT)    # units in 1
cdef object MOST_AS_INT = UNITS << 63


cdef inline uint32_t split(double weight, uint64_t* parts) noexcept nogil:
    """Split a float of 0 or more into three limbs. Returns the position of the lowest one."""
    cdef uint64_t bits, mantissa, low, high
    cdef uint32_t bit, shift
    weight = min(weight, DBL_MAX)
    memcpy(&bits, &weight, sizeof(bits))
    mantissa = bits & ((<uint64_t>1 << 52) - 1)
    bit = <uint32_t>(bits >> 52) & 0x7FF        # the exponent of IEEE 754, of the last bit of the mantissa plus 1075
    if bit != 0:
        mantissa |= <uint64_t>1 << 52
    else:
        bit = 1                                 # a subnormal number
    bit += POINT - 1075
    shift = bit & 31
    low = <uint64_t><uint32_t>mantissa << shift
    high = ((mantissa >> 32) << shift) + (low >> 32)
    parts[0] = <uint32_t>low
    parts[1] = <uint32_t>high
    parts[2] = high >> 32
    return bit >> 5


cdef void give(uint32_t* limbs, double weight) noexcept nogil:
    cdef uint64_t parts[3]
    cdef uint64_t carry = 0
    cdef uint32_t at = split(weight, parts), k
    for k in range(at, <uint32_t>LIMBS):
        if k >= at + 3 and carry == 0:
            break
        carry += limbs[k]
        if k < at + 3:
            carry += parts[k - at]
        limbs[k] = <uint32_t>carry
        carry >>= 32


cdef void take(uint32_t* limbs, double weight) noexcept nogil:
    cdef uint64_t parts[3]
    cdef uint64_t left, borrowed = 0
    cdef uint32_t at = split(weight, parts), k
    for k in range(at, <uint32_t>LIMBS):
        if k >= at + 3 and borrowed == 0:
            break
        left = <uint64_t>limbs[k] - borrowed
        if k < at + 3:
            left -= parts[k - at]
        limbs[k] = <uint32_t>left
        borrowed = left >> 63


cdef bint is_enough(const uint32_t* limbs, uint32_t top, double weight) noexcept nogil:
    """Whether these limbs, of which those from `top` on are 0, are at least a weight."""
    cdef uint64_t parts[3]
    cdef uint32_t at = split(weight, parts), k = max(top, at + 3)
    while k > at + 3:
        k -= 1
        if limbs[k] != 0:
            return True
    while k > at:
        k -= 1
        if limbs[k] != parts[k - at]:
            return limbs[k] > parts[k - at]
    return True


cdef bint bind_weight(Weights* w, double bound) noexcept nogil:
    w.room = <uint32_t*>allocate_zeroed(2 * LIMBS, sizeof(uint32_t))
    if w.room == NULL:
        return False
    w.bound = w.room + LIMBS
    give(w.bound, bound)
    give(w.room, bound)
    w.top = LIMBS
    while w.bound[w.top - 1] == 0:
        w.top -= 1
    return True


cdef bint make_room_for_weights(Weights* w, uint32_t capacity) noexcept nogil:
    cdef double* of
    if w.known <= capacity:
        of = <double*>reallocate(w.of, (<size_t>capacity + 1) * sizeof(double))
        if of == NULL:
            return False
        w.of = of
        w.known = capacity + 1
    return True


cdef void less_room_for_weights(Weights* w, uint32_t capacity) noexcept nogil:
    """Return memory: no entry has an index beyond `capacity` any more."""
    cdef double* of
    if w.known > capacity + 1:
        of = <double*>reallocate(w.of, (<size_t>capacity + 1) * sizeof(double))
        if of != NULL:
            w.of = of
            w.known = capacity + 1


cdef bint fits(Weights* w, double weight, double freed) noexcept nogil:
    cdef bint enough
    if weight <= freed:
        return True
    if freed == 0.0:
        return is_enough(w.room, w.top, weight)
    give(w.room, freed)
    enough = is_enough(w.room, w.top, weight)
    take(w.room, freed)
    return enough


cdef void add_weight(Weights* w, double weight) noexcept nogil:
    take(w.room, weight)


cdef void drop_weight(Weights* w, double weight) noexcept nogil:
    give(w.room, weight)


cdef void drop_all_weights(Weights* w) noexcept nogil:
    if w.room != NULL:
        memcpy(w.room, w.bound, LIMBS * sizeof(uint32_t))


cdef void forget_weights(Weights* w) noexcept nogil:
    deallocate(w.of)
    deallocate(w.room)
    memset(w, 0, sizeof(Weights))


cdef bint same_room(const Weights* a, const Weights* b) noexcept nogil:
    return memcmp(a.room, b.room, LIMBS * sizeof(uint32_t)) == 0


cdef object units_of(const uint32_t* limbs):
    cdef object units = 0
    cdef int k
    for k in range(LIMBS - 1, -1, -1):
        units = (units << 32) | limbs[k]
    return units


cdef object number(object units):
    """A number of units as an int if that is whole and below 2**63, else as the nearest float."""
    return units // UNITS if units % UNITS == 0 and units < MOST_AS_INT else units / UNITS


cdef object total_weight(const Weights* w, Lock* lock):
    """The sum of the weights that were added and not dropped."""
    cdef uint32_t[LIMBS] room
    acquire(lock)
    memcpy(room, w.room, sizeof(room))
    release(lock)
    return number(units_of(w.bound) - units_of(room))


cdef object sum_of_weights(list weights):
    cdef uint32_t[LIMBS] total
    cdef double weight
    memset(total, 0, sizeof(total))
    for weight in weights:
        give(total, weight)
    return number(units_of(total))
