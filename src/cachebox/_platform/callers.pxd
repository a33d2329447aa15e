"""The caller: a thread or, if greenlet is loaded, one of its greenlets; and how a caller waits."""

from cachebox._platform.lock cimport SharedLock


cdef extern from "pythread.h":
    unsigned long this_thread "PyThread_get_thread_ident"() noexcept nogil


cdef extern from *:
    """
    #define cb_count_of(dict) PyDict_Size(dict)
    """
    Py_ssize_t count_of "cb_count_of"(object) noexcept


cdef dict modules                   # sys.modules
cdef Py_ssize_t modules_seen        # how many there were at the last search for greenlet
cdef object getcurrent              # greenlet's function; None: greenlet is not loaded


cdef class Waiter:
    """One wait of a thread. Any thread may end it, at any moment, by `wake`."""
    cdef object lock
    cdef list unwoken               # one item; the caller that takes it out does the waking
    cdef bint woken


cdef class CallerLock:
    """A re-entrant lock that belongs to a caller, so that greenlets of one thread exclude each other, too."""
    cdef bint strict                # two callers must never have it at the same time
    cdef SharedLock shared_lock     # its lock guards the fields below
    cdef unsigned long thread       # the owner
    cdef object greenlet
    cdef int depth                  # how often the owner took it; 0: it is free
    cdef Py_ssize_t number          # of the owner: grows whenever a free lock is taken
    cdef dict waiting               # the `wake` of each waiter, in order of arrival

    cdef int take(self, unsigned long thread, object greenlet) except -1
    cdef bint enter(self) except -1
    cdef int leave_queue(self, object bell) except -1
    cdef int wake_next(self) except -1


cdef object find_greenlet()


cdef inline object this_greenlet():
    """A weak reference to the running greenlet, always the same object; None if greenlet is not loaded.

    It may run code, because greenlet then ends abandoned greenlets. So never call it under a lock.
    """
    if getcurrent is None and count_of(modules) == modules_seen:
        return None
    return find_greenlet()
