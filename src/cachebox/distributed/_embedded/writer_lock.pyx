"""The writer lock: one thread at a time, of all processes, changes a folder.

It is a lock of the kernel on a file, so a process that dies gives it up. Waiters sleep on a word of the page, but look
again every `LOOKED_EVERY` seconds, because a dead holder wakes nobody. The code is compiled so that nothing can
interrupt it between taking the lock and the `finally` that gives it back: no signal handler and no exception set by
another thread.
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
    """The lock was not free in time."""


class Retired(Busy):
    """The lock's file was closed: its number may belong to another file by now."""


cdef class WriterLock:
    """The lock of one folder, as one handle has it.

    Args:
        fd: the lock file, opened by this process and for this handle alone.
        page: where waiters are woken.
    """
    cdef int fd
    cdef Page page
    cdef object within                          # admits one thread of the process at a time
    cdef object owner                           # the thread in it
    cdef Section section                        # so that code under it waits for no other thread
    cdef object closes                          # what closes the file; None: done, or not to be done
    cdef bint is_retired

    def __init__(self, int fd, Page page not None):
        self.fd = fd
        self.page = page
        self.within = native("allocate_lock")()
        self.section = Section()
        self.owner = None
        self.closes = None
        self.is_retired = False

    def run(self, function, double deadline):
        """Call a function with the lock, and return its result. Raises `Busy` if the deadline passes first, `Retired`.

        A deadline in the past means not to wait at all.
        """
        self.enter(deadline)
        try:
            self.owner = get_ident()
            return self.call(function, deadline)
        finally:
            self.leave()

    def retire(self, closes):
        """Let nobody use the lock any more, and call what closes its file: now, or as soon as nobody uses it."""
        self.closes = closes
        self.is_retired = True
        if self.within.acquire(False):
            self.leave()

    def pause(self, function, double deadline):
        """Before a fork: call a function with the lock, and keep this process's other threads out until `resume`."""
        self.enter(deadline)
        try:
            self.owner = get_ident()
            self.call(function, deadline)
        except BaseException:
            self.leave()
            raise

    def resume(self):
        """After a fork, in the parent."""
        self.leave()

    cdef int leave(self) except -1:
        while True:
            self.owner = None
            closes, self.closes = self.closes, None
            try:
                if closes is not None:
                    closes()
            finally:
                self.within.release()
            if self.closes is None or not self.within.acquire(False):
                return 0                        # or another thread is in it, and closes the file when it leaves

    cdef int enter(self, double deadline) except -1:
        cdef double left
        if self.owner == get_ident():
            raise Busy("a write of this very thread is under way")
        if not self.within.acquire(False):
            left = deadline - monotonic()
            if left <= 0 or not self.within.acquire(True, left):
                raise Busy("other threads write all the time")
        if self.is_retired:
            self.leave()
            raise Retired("its file was closed")
        return 0

    cdef object call(self, function, double deadline):
        if not self.take(deadline):
            raise Busy("another process has kept the writer lock all the time")
        try:
            self.section.enter()
            try:
                return function()
            finally:
                self.section.leave()
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
