/* The lock of a cache.

   With the GIL there is nothing to take: code between acquire and release neither runs Python code nor releases the
   GIL, so no other thread can see the state between. Without the GIL the lock is a PyMutex, which takes five
   nanoseconds if no thread waits for it.

   fork() copies a lock in its current state. CPython stops all threads before it forks, and a thread cannot stop
   between acquire and release. But a lock may just have been handed to a thread that has not woken up yet. So every
   lock is in a list, and the child frees them all. */
#ifndef CACHEBOX_LOCK_H
#define CACHEBOX_LOCK_H

#include <Python.h>

#ifdef Py_GIL_DISABLED
#define CB_HAS_GIL 0

typedef struct cb_lock {
    PyMutex mutex;
    struct cb_lock *next, *prev;
} cb_lock;

extern cb_lock cb_all_locks;        /* the sentinel of a ring of all locks; its mutex guards the ring */

static inline void cb_lock_acquire(cb_lock *lock) { PyMutex_Lock(&lock->mutex); }
static inline void cb_lock_release(cb_lock *lock) { PyMutex_Unlock(&lock->mutex); }

#else
#define CB_HAS_GIL 1

typedef struct cb_lock { char nothing; } cb_lock;

static inline void cb_lock_acquire(cb_lock *lock) { (void)lock; }
static inline void cb_lock_release(cb_lock *lock) { (void)lock; }

#endif
#endif
