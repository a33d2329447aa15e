"""Who calls: a thread, and where greenlet is loaded a greenlet of it; and how a caller waits."""

from cachebox._platform.lock cimport SharedLock


cdef extern from "pythread.h":
    unsigned long this_thread "PyThread_get_thread_ident"() noexcept nogil


cdef extern from *:
    """
    #define cb_count_of(dict) PyDict_Size(dict)
    """
    Py_ssize_t count_of "cb_count_of"(object) noexcept


cdef dict modules                   # sys.modules
cdef Py_ssize_t modules_seen        # how many there were when greenlet was looked for
cdef object getcurrent              # greenlet's; None: it has not been loaded


cdef class Waiter:
    """What a thread waits for, once: to be woken, by any thread, at any moment."""
    cdef object lock
    cdef list unwoken               # one item; who takes it out wakes
    cdef bint woken


cdef class Turn:
    """A re-entrant lock that belongs to a caller: greenlets of one thread take turns, too."""
    cdef bint strict                # two must not have it at the same time, whatever happens
    cdef SharedLock shared_lock     # its lock guards the rest
    cdef unsigned long thread       # the owner
    cdef object greenlet
    cdef int depth                  # how often it was taken; 0: nobody has it
    cdef dict waiting               # what wakes those who wait: callables, in order

    cdef int take(self, unsigned long thread, object greenlet) except -1
    cdef bint enter(self) except -1
    cdef int leave_line(self, object bell) except -1
    cdef int wake_next(self) except -1


cdef object find_greenlet()


cdef inline object this_greenlet():
    """A weak reference to the greenlet that runs, always the same one; None where greenlet is not loaded.

    It may run code: greenlet ends those that were left when it is asked. So never under a lock.
    """
    if getcurrent is None and count_of(modules) == modules_seen:
        return None
    return find_greenlet()
