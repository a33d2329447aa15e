/* Zeroed memory that is read in random order: where it is large, in pages of 2 MiB, if the system has them.

   A processor knows the places of some thousand pages at a time. A table of millions of entries has more small pages
   than that, so most of its reads would look for two things, the page and the slot. */
#ifndef CACHEBOX_HUGE_PAGES_H
#define CACHEBOX_HUGE_PAGES_H

#include <Python.h>
#include <stdint.h>

#if defined(__linux__)
#  include <sys/mman.h>
#endif

static inline void *
cb_allocate_slots(size_t n, size_t size)
{
    void *memory = PyMem_Calloc(n, size);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const size_t huge = (size_t)1 << 21, page = 4096;
    if (memory != NULL && n * size >= 4 * huge) {
        const uintptr_t start = ((uintptr_t)memory + page - 1) & ~(uintptr_t)(page - 1);
        /* a hint: a system that does not know it has small pages, as before */
        (void)madvise((void *)start, (uintptr_t)memory + n * size - start, MADV_HUGEPAGE);
    }
#endif
    return memory;
}

#endif
