"""The lock of a cache. All objects that read the cache's entries share it: the cache, its policy, its statistics.

Rule: between `acquire` and `release` no Python code runs, no call waits, and no reference is dropped.
"""


cdef extern from "_platform/lock.h" nogil:
    ctypedef struct Lock "cb_lock":
        pass
    const bint HAS_GIL "CB_HAS_GIL"
    void acquire "cb_lock_acquire"(Lock*)
    void release "cb_lock_release"(Lock*)


cdef extern from "_platform/pause.h":
    void let_others_in "cb_let_others_in"()
    void pause "cb_pause"()


cdef class SharedLock:
    cdef Lock lock
