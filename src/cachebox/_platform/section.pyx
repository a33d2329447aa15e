"""Sections; `section.pxd` says what they are for."""

from _thread import RLock


cdef extern from *:
    """
    #define cb_enter_call() (Py_EnterRecursiveCall(" while taking a lock") ? -1 : 0)
    #define cb_leave_call() Py_LeaveRecursiveCall()
    #ifdef _MSC_VER
    static __declspec(thread) int cb_sections = 0;
    #else
    static __thread int cb_sections = 0;
    #endif
    """
    int enter_call "cb_enter_call"() except -1
    void leave_call "cb_leave_call"() noexcept
    int sections "cb_sections"      # how many sections this thread is in


cdef enum:
    HEADROOM = 8    # nested calls: more than giving the lock back needs


cdef int check_headroom() except -1:
    """Raise RecursionError if giving a lock back might: a call near the limit takes none."""
    cdef int entered = 0
    try:
        while entered < HEADROOM:
            enter_call()
            entered += 1
    finally:
        while entered > 0:
            leave_call()
            entered -= 1
    return 0


cdef class Section:
    """A re-entrant lock. It works in a `threading.Condition`: a thread that waits on that has left the section."""

    def __cinit__(self):
        self.lock = RLock()
        self.take = self.lock.acquire
        self.give = self.lock.release

    cdef int enter(self) except -1:
        global sections
        check_headroom()
        self.take()
        sections += 1
        return 0

    cdef int leave(self) except -1:
        global sections
        self.give()
        sections -= 1
        return 0

    def __enter__(self):
        self.enter()
        return True

    def __exit__(self, kind, error, traceback):
        self.leave()

    def acquire(self, bint blocking=True, double timeout=-1):
        """Like `threading.RLock.acquire`."""
        global sections
        cdef bint taken
        check_headroom()
        taken = self.take(blocking, timeout)
        if taken:
            sections += 1
        return taken

    def release(self):
        """Like `threading.RLock.release`."""
        self.__exit__(None, None, None)

    def locked(self):
        """Whether a thread is in it; a condition of CPython 3.14 and later asks this."""
        if self.lock._is_owned() or not self.take(False):
            return True
        self.give()
        return False

    def condition(self):
        """A `threading.Condition` of this section."""
        from threading import Condition

        return Condition(self)

    def _is_owned(self):
        return self.lock._is_owned()

    def _release_save(self):
        global sections
        state = self.lock._release_save()
        sections -= state[0]
        return state

    def _acquire_restore(self, state):
        global sections
        self.lock._acquire_restore(state)
        sections += state[0]


cpdef bint in_section() noexcept:
    """Whether this thread is in a section of any object."""
    return sections > 0
