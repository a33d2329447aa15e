"""Creating and freeing locks; `lock.h` says why there is a list of them."""

import os


cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED

    cb_lock cb_all_locks = {{0}, &cb_all_locks, &cb_all_locks};

    static void cb_lock_create(cb_lock *lock)
    {
        memset(&lock->mutex, 0, sizeof(PyMutex));
        PyMutex_Lock(&cb_all_locks.mutex);
        lock->prev = &cb_all_locks;
        lock->next = cb_all_locks.next;
        lock->next->prev = cb_all_locks.next = lock;
        PyMutex_Unlock(&cb_all_locks.mutex);
    }

    static void cb_lock_destroy(cb_lock *lock)
    {
        PyMutex_Lock(&cb_all_locks.mutex);
        lock->prev->next = lock->next;
        lock->next->prev = lock->prev;
        PyMutex_Unlock(&cb_all_locks.mutex);
    }

    static void cb_locks_after_fork(void)
    {
        cb_lock *lock = &cb_all_locks;
        do {
            memset(&lock->mutex, 0, sizeof(PyMutex));
            lock = lock->next;
        } while (lock != &cb_all_locks);
    }

    #else

    static void cb_lock_create(cb_lock *lock) { (void)lock; }
    static void cb_lock_destroy(cb_lock *lock) { (void)lock; }
    static void cb_locks_after_fork(void) { }

    #endif
    """
    void create "cb_lock_create"(Lock*)
    void destroy "cb_lock_destroy"(Lock*)
    void after_fork "cb_locks_after_fork"()


cdef class SharedLock:

    def __cinit__(self):
        create(&self.lock)

    def __dealloc__(self):
        destroy(&self.lock)


def _after_fork():
    after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
