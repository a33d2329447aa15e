"""The weights of entries, and how much more weight fits. Sums are exact, whatever the numbers.

A sum of floats loses low bits, and then the bound does not hold. So the room that is left is kept as one long integer,
in units of the smallest difference between two floats. It has limbs of 32 bits, of which a float covers at most three
(a superaccumulator; R. Neal, "Fast exact summation using small and large superaccumulators", 2015). Every operation is
O(1).
"""

from libc.stdint cimport uint32_t

from cachebox._platform.lock cimport Lock


cdef struct Weights:
    double* of                      # by entry
    uint32_t known                  # entries that `of` has room for
    uint32_t* room                  # the limbs of the room that is left, lowest first; NULL: nothing is weighed
    uint32_t top                    # limbs from here on are 0
    uint32_t* bound                 # the limbs of the most that all entries may weigh together


cdef bint bind_weight(Weights* w, double bound) noexcept nogil      # start weighing; False: no memory
cdef bint make_room_for_weights(Weights* w, uint32_t capacity) noexcept nogil
cdef void less_room_for_weights(Weights* w, uint32_t capacity) noexcept nogil
cdef bint fits(Weights* w, double weight, double freed) noexcept nogil      # whether `weight` fits once `freed` is gone
cdef void add_weight(Weights* w, double weight) noexcept nogil              # it must fit
cdef void drop_weight(Weights* w, double weight) noexcept nogil             # it must have been added
cdef void drop_all_weights(Weights* w) noexcept nogil
cdef void forget_weights(Weights* w) noexcept nogil
cdef bint same_room(const Weights* a, const Weights* b) noexcept nogil
cdef object sum_of_weights(list weights)
cdef object total_weight(const Weights* w, Lock* lock)      # takes `lock`

cdef enum:
    LIMBS = 68                      # of 32 bits: enough for the largest and the smallest exponent of a float
