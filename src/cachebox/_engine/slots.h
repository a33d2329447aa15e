/* Operations on four slots at a time, without branches. Each returns a set (bit k: slot k). The length of a run of
   slots is random, so no branch predictor guesses its end. A loop over single slots is mispredicted in one search of
   three, and then no later instruction overlaps with the wait for memory. */
#ifndef CACHEBOX_SLOTS_H
#define CACHEBOX_SLOTS_H

#include <stdint.h>

#define CB_NEAR_BITS 7              /* the top bits of a fingerprint: the last bits of the entry's home slot */
#define CB_FAR (1u << CB_NEAR_BITS) /* steps; at half load one insertion in 10^10 has so long a probe distance */

#if defined(__SSE2__) || defined(_M_X64)
#  include <emmintrin.h>
#  define CB_LOAD(slots) _mm_loadu_si128((const __m128i *)(slots))
#  define CB_SET(lanes) ((uint32_t)_mm_movemask_ps(_mm_castsi128_ps(lanes)))

/* The slots whose word equals `wanted` in the bits of `compared`. */
static inline uint32_t
cb_match4(const uint32_t *slots, uint32_t wanted, uint32_t compared)
{
    __m128i differ = _mm_xor_si128(CB_LOAD(slots), _mm_set1_epi32((int)wanted));
    return CB_SET(_mm_cmpeq_epi32(_mm_and_si128(differ, _mm_set1_epi32((int)compared)), _mm_setzero_si128()));
}

/* The slots whose entries may move back into a hole `steps` (>= 1) before `slots[0]`, which is slot `at` of the table:
   those whose probe distance, read from the fingerprint, reaches the hole. Bits of empty slots are undefined. */
static inline uint32_t
cb_movable4(const uint32_t *slots, uint32_t at, uint32_t steps, uint32_t mask)
{
    const __m128i each = _mm_set_epi32(3, 2, 1, 0);
    __m128i end = _mm_srli_epi32(CB_LOAD(slots), 32 - CB_NEAR_BITS);
    __m128i way = _mm_sub_epi32(_mm_add_epi32(_mm_set1_epi32((int)at), each), end);
    way = _mm_and_si128(way, _mm_set1_epi32((int)(mask & (CB_FAR - 1))));
    return CB_SET(_mm_cmpgt_epi32(way, _mm_add_epi32(_mm_set1_epi32((int)(steps - 1)), each)));
}

#  undef CB_LOAD
#  undef CB_SET
#else
static inline uint32_t
cb_match4(const uint32_t *slots, uint32_t wanted, uint32_t compared)
{
    uint32_t k, set = 0;
    for (k = 0; k < 4; k++) {
        set |= (uint32_t)(((slots[k] ^ wanted) & compared) == 0) << k;
    }
    return set;
}

static inline uint32_t
cb_movable4(const uint32_t *slots, uint32_t at, uint32_t steps, uint32_t mask)
{
    uint32_t k, set = 0;
    for (k = 0; k < 4; k++) {
        uint32_t way = (at + k - (slots[k] >> (32 - CB_NEAR_BITS))) & mask & (CB_FAR - 1);
        set |= (uint32_t)(way >= steps + k) << k;
    }
    return set;
}
#endif

/* The first member of a set that is not empty. */
static inline uint32_t
cb_lowest_bit(uint32_t set)
{
#if defined(__GNUC__) || defined(__clang__)
    return (uint32_t)__builtin_ctz(set);
#else
    return (set & 1) ? 0 : (set & 2) ? 1 : (set & 4) ? 2 : 3;
#endif
}

/* The members before the first member of another set; all of them if that set is empty. */
static inline uint32_t
cb_bits_before(uint32_t set, uint32_t other)
{
    return set & ((other & (0u - other)) - 1u);
}

#endif
