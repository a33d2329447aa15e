"""An adaptive order: five modes over the same lists, and a shadow that finds the mode with the best hit ratio.

An entry stands in the *window* or in the *main* part. The main part is a *protected* list and, behind it, one on
*probation*. All modes work on these lists, so a change of mode moves no entry.

    mode                    window  a hit in the window                     the victim
    LRU                     all     to the head of its list                 the tail that was used longest ago
    LIRS by times           1 %     as good as the main part's tail? swap   the window's tail
    S3-FIFO                 25 %    only counts                             the window's tail, unless it was used twice;
                                                                            the main part's, unless it was used
    W-TinyLFU, small        1 %     to the head of the window               the window's tail or the main part's: the one
    W-TinyLFU, large        30 %    to the head of the window               that was used less often

    aux     [ last use: 24 | uses: 4 | hits: 2 | list: 2 ]

Times are in *ticks*. A tick is a number of misses, such that a cache turns over in 2,000 ticks; hits do not move the
clock. "As good as" is LIRS's test without its stack: the time between the entry's last two uses was shorter than the
age of the main part's tail.

S. Jiang, X. Zhang, "LIRS", SIGMETRICS 2002. J. Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023.
G. Einziger, R. Friedman, B. Manes, "TinyLFU", ACM Transactions on Storage 2017.
"""

from libc.stdint cimport uint32_t, uint64_t

from cachebox._engine.ghosts cimport Ghosts
from cachebox._engine.shadow cimport LISTS, List, Mode, Shadow
from cachebox._engine.table cimport Engine


cdef class AUTO(Engine):
    cdef uint32_t tail[LISTS]       # the next victims
    cdef uint32_t head[LISTS]
    cdef uint32_t count[LISTS]
    cdef Mode mode
    cdef uint32_t now               # the time, shifted to its place in `aux`
    cdef uint32_t requests          # requests for which no entry has been aged yet
    cdef uint32_t chosen            # the entry that `victim` or `next_victim` named, if nothing has happened since
    cdef uint32_t size              # entries of a full cache, as far as is known
    cdef uint32_t window            # the most entries that the window is to hold
    cdef uint32_t main              # the most entries for the main part: `size - window`
    cdef uint32_t tick              # misses in one tick
    cdef uint32_t misses            # misses in the current tick
    cdef uint32_t hand              # the entry to age next
    cdef uint32_t chance
    cdef uint32_t short             # evictions in a row from a cache that was far from full
    cdef bint bounded               # `expect` has set `size`
    cdef bint begun                 # the first mode is chosen
    cdef bint ruled                 # an entry came since the last eviction: the mode names the next victim
    cdef uint32_t from_window       # entries at the tails that get a second chance if `chosen` is evicted
    cdef uint32_t from_main
    cdef uint32_t lead              # the entry that `victim` named, out of turn
    cdef uint32_t walked            # the entry that `next_victim` named
    cdef uint32_t at[LISTS]         # how far `next_victim` has got in each list
    cdef Ghosts ghosts
    cdef Shadow shadow

    cdef void set_seed(self, uint64_t seed) noexcept nogil
    cdef void _fit(self, uint32_t size) noexcept nogil
    cdef void _begin(self) noexcept nogil
    cdef void _set_mode(self, Mode mode) noexcept nogil
    cdef void _show(self, uint32_t h, bint missed) noexcept nogil
    cdef uint32_t _by_mode(self) noexcept nogil
    cdef uint32_t _second_chances(self) noexcept nogil
    cdef void _put_back(self) noexcept nogil
    cdef void _settle(self, List list) noexcept nogil
    cdef void _age(self) noexcept nogil
