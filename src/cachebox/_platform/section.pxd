"""Critical sections that Python code may run in, and whether this thread is in one.

A signal handler, a finalizer or a callback of the collector may run in the middle of any Python code, and so in a
section. A `Section` is re-entrant: whatever it calls of ours, in the same thread, goes on. But it must not wait there
for what another thread does, which may want the section: `in_section()` says so, and then no such wait is begun.
"""


cdef class Section:
    """A re-entrant lock of a thread."""
    cdef object lock
    cdef object take
    cdef object give


cpdef bint in_section() noexcept
