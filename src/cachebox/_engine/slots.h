/* Four slots at a time. Where a run of slots ends is a matter of chance, which no processor guesses: a loop over single
   slots is mispredicted in one search of three, and then nothing that comes after it overlaps with its waiting for memory.
   What is asked of four slots is answered by a set of them (bit k: slot k), without a branch. */
#ifndef CACHEBOX_SLOTS_H
#define CACHEBOX_SLOTS_H

#include <stdint.h>

#define CB_NEAR_BITS 7              /* of a tag, on top: the last bits of the home of the entry */
#define CB_FAR (1u << CB_NEAR_BITS) /* steps; at half load one insertion in 10^10 goes so far */

#if defined(__SSE2__) || defined(_M_X64)
#  include <emmintrin.h>
#  define CB_LOAD(slots) _mm_loadu_si128((const __m128i *)(slots))
#  define CB_SET(lanes) ((uint32_t)_mm_movemask_ps(_mm_castsi128_ps(lanes)))

/* Those whose word is `wanted` in the bits of `compared`. */
static inline uint32_t
cb_match4(const uint32_t *slots, uint32_t wanted, uint32_t compared)
{
    __m128i differ = _mm_xor_si128(CB_LOAD(slots), _mm_set1_epi32((int)wanted));
    return CB_SET(_mm_cmpeq_epi32(_mm_and_si128(differ, _mm_set1_epi32((int)compared)), _mm_setzero_si128()));
}

/* Those whose entries' homes, by their tags, are not behind a hole so many steps (1 or more) before the first of the
   four, which is slot `at` of the table. Says nothing of empty ones. */
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

/* The first of a set that is not empty. */
static inline uint32_t
cb_lowest_bit(uint32_t set)
{
#if defined(__GNUC__) || defined(__clang__)
    return (uint32_t)__builtin_ctz(set);
#else
    return (set & 1) ? 0 : (set & 2) ? 1 : (set & 4) ? 2 : 3;
#endif
}

/* Those before the first of another set; all where that is empty. */
static inline uint32_t
cb_bits_before(uint32_t set, uint32_t other)
{
    return set & ((other & (0u - other)) - 1u);
}

#endif
