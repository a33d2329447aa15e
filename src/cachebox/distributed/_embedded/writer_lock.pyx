"""The writer lock: of all threads of all processes, one at a time changes a folder.

It is a lock of the kernel's on a file, so whoever dies with it has let it go. Those who wait sleep on a word of the page,
but look again every `LOOKED_EVERY` seconds, for the dead wake nobody. It is compiled so that nothing can come between
taking the lock and seeing that it is given back: no signal handler, no exception of another thread's making.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport errno
from libc.stdint cimport uint32_t

from cachebox.distributed._embedded.page cimport Page, add32, load32, lock_file, store32, unlock_file, wait_on, wake_up

from cachebox._platform.section cimport Section

import os
from _thread import get_ident
from time import monotonic

from cachebox._platform.callers import native

LOOKED_EVERY = 0.02


class Busy(Exception):
    """The lock was not to be had in time."""


cdef class WriterLock:
    """The lock of one folder, as one handle of it has it.

    Args:
        fd: of the file, opened by this process and for this alone.
        page: where others are woken.
    """
    cdef int fd
    cdef Page page
    cdef object within                          # one thread of the process at a time
    cdef object owner
    cdef Section section                        # who is in it waits for no other thread

    def __init__(self, int fd, Page page not None):
        self.fd = fd
        self.page = page
        self.within = native("allocate_lock")()
        self.section = Section()
        self.owner = None

    def run(self, function, double deadline):
        """Call a function with the lock, and return what it returns. Raises `Busy` where the deadline passes before.

        A deadline in the past: without waiting at all.
        """
        self.enter(deadline)
        try:
            self.owner = get_ident()
            return self.call(function, deadline)
        finally:
            self.owner = None
            self.within.release()

    def pause(self, function, double deadline):
        """The same, and keep the other threads of this process out afterwards, until `resume`. Before a fork."""
        self.enter(deadline)
        try:
            self.owner = get_ident()
            self.call(function, deadline)
        except BaseException:
            self.owner = None
            self.within.release()
            raise

    def resume(self):
        """After it, in the parent."""
        self.owner = None
        self.within.release()

    cdef int enter(self, double deadline) except -1:
        cdef double left
        if self.owner == get_ident():
            raise Busy("a write of this very thread is under way")
        left = deadline - monotonic()
        if not (self.within.acquire(False) or (left > 0 and self.within.acquire(True, left))):
            raise Busy("other threads write all the time")
        return 0

    cdef object call(self, function, double deadline):
        if not self.take(deadline):
            raise Busy("another process has kept the writer lock all the time")
        try:
            with self.section:
                return function()
        finally:
            unlock_file(self.fd)
            store32(&self.page.head.wake, load32(&self.page.head.wake) + 1)
            if load32(&self.page.head.waiters):
                wake_up(&self.page.head.wake, 1)

    cdef bint take(self, double deadline) except -1:
        cdef uint32_t seen
        cdef double left
        cdef int got
        while True:
            seen = load32(&self.page.head.wake)
            got = lock_file(self.fd)
            if got > 0:
                return True
            if got < 0:
                raise OSError(errno, os.strerror(errno))
            left = deadline - monotonic()
            if left <= 0:
                return False
            if left > LOOKED_EVERY:
                left = LOOKED_EVERY
            add32(&self.page.head.waiters, 1)
            with nogil:
                wait_on(&self.page.head.wake, seen, left)
            add32(&self.page.head.waiters, <uint32_t>-1)
            PyErr_CheckSignals()
