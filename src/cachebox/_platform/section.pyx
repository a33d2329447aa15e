"""Critical sections; `section.pxd` says what for."""

from _thread import RLock


cdef extern from *:
    """
    #ifdef _MSC_VER
    static __declspec(thread) int cb_sections = 0;
    #else
    static __thread int cb_sections = 0;
    #endif
    """
    int sections "cb_sections"


cdef class Section:

    def __cinit__(self):
        lock = RLock()
        self.acquire = lock.acquire
        self.release = lock.release

    def __enter__(self):
        global sections
        self.acquire()
        sections += 1

    def __exit__(self, *raised):
        global sections
        sections -= 1
        self.release()


cpdef bint in_section() noexcept:
    """Whether this thread is in a section of any object."""
    return sections > 0
