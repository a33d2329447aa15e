/* Letting other threads run in the middle of long work in C, during which the interpreter switches no threads. */
#ifndef CACHEBOX_PAUSE_H
#define CACHEBOX_PAUSE_H

#include <Python.h>

#if defined(_WIN32)
#  include <windows.h>
#  define cb_nap() Sleep(1)
#else
#  include <time.h>

static inline void
cb_nap(void)
{
    struct timespec a_moment = {0, 50000};
    nanosleep(&a_moment, NULL);
}
#endif

/* Give the GIL to a thread that has waited for a switch interval, if there is one. Call it without a lock. */
static inline void
cb_let_others_in(void)
{
    PyThreadState *state = PyEval_SaveThread();
    PyEval_RestoreThread(state);
}

/* Sleep for some fifty microseconds, so that any thread that waits for the GIL gets it. Call it without a lock. */
static inline void
cb_pause(void)
{
    PyThreadState *state = PyEval_SaveThread();
    cb_nap();
    PyEval_RestoreThread(state);
}

#endif
