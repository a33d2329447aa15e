"""Sections: locks under which Python code may run, and whether this thread is in one.

A signal handler, a finalizer or a callback of the collector may run in the middle of any Python code, and so in a
section. A `Section` is re-entrant, so calls that such code makes, in the same thread, go on. But they must not wait for
another thread, because that may wait for the section. `in_section()` tells, and then such a wait is not begun.
"""


cdef class Section:
    """A re-entrant lock that belongs to a thread."""
    cdef object lock
    cdef object take
    cdef object give

    cdef int enter(self) except -1              # `with`, for compiled code
    cdef int leave(self) except -1


cpdef bint in_section() noexcept
cdef int check_headroom() except -1
