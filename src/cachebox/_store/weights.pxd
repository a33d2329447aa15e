"""What entries weigh, and how much more fits: exactly, whatever the numbers are.

A sum of floats loses low bits, and then the bound does not hold. So what is left of the bound is kept as one long integer,
in units of the smallest difference between two floats, in limbs of 32 bits: a float covers at most three of them (a
superaccumulator; R. Neal, "Fast exact summation using small and large superaccumulators", 2015). Every operation is O(1).
"""

from libc.stdint cimport uint32_t

from cachebox._platform.lock cimport Lock


cdef struct Weights:
    double* of                      # by entry
    uint32_t known                  # entries that `of` has room for
    uint32_t* room                  # the limbs of what is left, lowest first; NULL: nothing is weighed
    uint32_t* bound                 # ... and of the most that all entries may weigh together


cdef bint bind_weight(Weights* w, double bound) noexcept nogil      # begin to weigh; False: no memory
cdef bint make_room_for_weights(Weights* w, uint32_t capacity) noexcept nogil
cdef void less_room_for_weights(Weights* w, uint32_t capacity) noexcept nogil
cdef bint fits(Weights* w, double weight, double freed) noexcept nogil      # once `freed` has gone
cdef void add_weight(Weights* w, double weight) noexcept nogil              # which fits
cdef void drop_weight(Weights* w, double weight) noexcept nogil             # which had been added
cdef void drop_all_weights(Weights* w) noexcept nogil
cdef void forget_weights(Weights* w) noexcept nogil
cdef bint same_room(const Weights* a, const Weights* b) noexcept nogil
cdef object sum_of_weights(list weights)
cdef object total_weight(const Weights* w, Lock* lock)      # takes the lock

cdef enum:
    LIMBS = 68                      # of 32 bits: what a float can have below its largest exponent and above its smallest
