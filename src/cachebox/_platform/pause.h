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

/* Sleep for some fifty microseconds, so that any thread that waits for the GIL gets it. Call it without a lock. */
static inline void
cb_pause(void)
{
    PyThreadState *state = PyEval_SaveThread();
    cb_nap();
    PyEval_RestoreThread(state);
}

#if defined(_MSC_VER)
#  define CB_OF_THIS_THREAD static __declspec(thread)
#else
#  define CB_OF_THIS_THREAD static __thread
#endif

static inline double
cb_seconds(void)
{
#if defined(_WIN32)
    return (double)GetTickCount64() * 1e-3;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
#endif
}

/* Let other threads run if this one has worked for three milliseconds. Call it without a lock, every millisecond or so.

   A thread that waits for the GIL asks for it after five milliseconds in which nobody has offered it. So offers that are
   taken back at once, before that thread is awake, would keep it waiting: this thread sleeps instead, but rarely. */
static inline void
cb_let_others_in(void)
{
#if defined(Py_GIL_DISABLED)
    PyThreadState *state = PyEval_SaveThread();
    PyEval_RestoreThread(state);
#else
    CB_OF_THIS_THREAD double began, last;
    const double now = cb_seconds();
    if (now - last > 0.002)             /* something else happened since: this is the beginning of long work */
        began = now;
    else if (now - began > 0.003) {
        cb_pause();
        began = cb_seconds();
    }
    last = cb_seconds();
#endif
}

#endif
