/* Monotonic seconds.
 * `cb_now`: the cheapest clock of the platform, at most 4 ms behind; on Linux one read of shared memory.
 * `cb_precise_now`: the same as Python's `time.monotonic`, if we know how that is made (CB_HAS_PRECISE_CLOCK). */
#ifndef CACHEBOX_CLOCK_H
#define CACHEBOX_CLOCK_H

#include <Python.h>

#if defined(_WIN32)
#  include <windows.h>

#  define CB_HAS_PRECISE_CLOCK 0

static inline double
cb_now(void)
{
    static double period = 0.0;
    LARGE_INTEGER count;
    if (period == 0.0) {
        LARGE_INTEGER frequency;
        QueryPerformanceFrequency(&frequency);
        period = 1.0 / (double)frequency.QuadPart;
    }
    QueryPerformanceCounter(&count);
    return (double)count.QuadPart * period;
}

#else
#  include <time.h>

#  if defined(CLOCK_MONOTONIC_COARSE)
static inline clockid_t
cb_clock(void)
{
    static clockid_t chosen = CLOCK_REALTIME;       /* not chosen yet; a race writes the same value twice */
    if (chosen == CLOCK_REALTIME) {
        struct timespec tick;
        int known = clock_getres(CLOCK_MONOTONIC_COARSE, &tick) == 0;
        chosen = known && tick.tv_sec == 0 && tick.tv_nsec <= 4000000 ? CLOCK_MONOTONIC_COARSE : CLOCK_MONOTONIC;
    }
    return chosen;
}
#  else
#    define cb_clock() CLOCK_MONOTONIC
#  endif

static inline double
cb_now(void)
{
    struct timespec t;
    clock_gettime(cb_clock(), &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#  if defined(__linux__)
#    define CB_HAS_PRECISE_CLOCK 1

static inline double
cb_precise_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
#  else
#    define CB_HAS_PRECISE_CLOCK 0
#  endif
#endif

#if !CB_HAS_PRECISE_CLOCK
#  define cb_precise_now cb_now         /* never called */
#endif
#endif
