"""The caller, and how it waits; `callers.pxd` has the overview.

A thread waits by the interpreter's own lock, even if `_thread.allocate_lock` has been replaced. A greenlet that a hub
switches to (gevent's, eventlet's) waits in its hub, which runs other greenlets meanwhile. Any other greenlet can only
wait with its whole thread.
"""

import sys
from _weakref import ref
from time import monotonic

from cachebox._platform.lock cimport SharedLock, acquire, release


modules = sys.modules
modules_seen = -1
getcurrent = None

LONG = 3.0
"""Seconds after which a waiter asks whether the callers it waits for may be waiting for it."""
PULSE = 0.5
"""Seconds between two looks at whether the awaited callers still exist."""


cdef object find_greenlet():
    global modules_seen, getcurrent
    if getcurrent is None:
        modules_seen = count_of(modules)
        getcurrent = getattr(modules.get("greenlet"), "getcurrent", None)
        if getcurrent is None:
            return None
    try:
        return ref(getcurrent())
    except RuntimeError:                        # the process is ending
        return None


def native(name):
    """A function of `_thread`: the interpreter's own, even if gevent or eventlet has replaced it."""
    for module, original in (("gevent.monkey", "get_original"), ("eventlet.patcher", "original")):
        if module in modules:
            find = getattr(modules[module], original, None)
            if find is not None:
                return find("_thread", name) if original == "get_original" else getattr(find("_thread"), name)
    import _thread

    return getattr(_thread, name)


cdef object allocate_lock = native("allocate_lock")


cdef class Waiter:
    is_green = False
    task = None

    def __cinit__(self):
        self.lock = allocate_lock()
        self.lock.acquire()
        self.unwoken = [None]

    def wake(self):
        """End the wait. May be called more than once, and from a signal handler or a finalizer."""
        try:
            self.unwoken.pop()
        except IndexError:
            return
        self.lock.release()

    def wait(self, seconds=None):
        """Wait until `wake` is called: True; or until the seconds have passed: False."""
        if not self.woken:
            self.woken = self.lock.acquire(True, -1 if seconds is None else min(max(seconds, 0.0), 86400.0))
        return self.woken

    def close(self):
        """The wait will not be used any more."""


def waiter():
    """A new waiter for this caller: it waits with its thread, or in the hub that switches to it."""
    if this_greenlet() is not None:
        from cachebox._platform.greenlets import waiter_in_hub

        in_hub = waiter_in_hub(getcurrent())
        if in_hub is not None:
            return in_hub
    return Waiter()


def who():
    """The caller: the ident of its thread, and a weak reference to its greenlet or None."""
    greenlet = this_greenlet()
    return this_thread(), greenlet


def standing(thread, greenlet, task=None):
    """`stuck.standing` or `stuck.standing_of_task`, imported here because it is rarely needed."""
    from cachebox._platform import stuck

    return stuck.standing(thread, greenlet) if task is None else stuck.standing_of_task(thread, task)


cdef class CallerLock:

    def __init__(self, strict=False):
        self.strict = strict
        self._at_fork_reinit()

    def _at_fork_reinit(self):
        self.shared_lock = SharedLock()
        self.depth = 0
        self.greenlet = None
        self.waiting = {}

    def acquire(self, blocking=True, double timeout=-1.0):
        """Take the lock, or take it once more. False: not in time, or never.

        The owner may be unable to go on: it is another greenlet of the same thread, or it waits for the caller. Then
        the lock is taken nevertheless, unless it is `strict`: to be let in early is better than never. An owner is
        taken for stuck only after it has had the lock for long: one that follows another goes on.
        """
        cdef unsigned long thread = this_thread()
        cdef double began = monotonic(), since = began, waited, pause
        cdef Py_ssize_t number = -1
        cdef bint free, follows
        mine = this_greenlet()
        bell = wake = stands = None
        while True:
            acquire(&self.shared_lock.lock)
            try:                                    # the dict may find no memory
                owner, owners = self.greenlet, self.thread
                follows = self.number != number
                number = self.number
                free = self.depth == 0 or (owners == thread and owner is mine)
                if free:
                    self.take(thread, mine)
                elif bell is not None:
                    self.waiting[wake] = None       # such callables are hashed by address: no Python code runs
            finally:
                release(&self.shared_lock.lock)
            if free:
                return True
            if not blocking:
                return False
            if bell is None:
                bell = waiter()
                wake = bell.wake
                if owners == thread and not (bell.is_green and bell.drives(owner)):
                    return not self.strict and self.enter()
                continue
            if follows:
                since, stands = monotonic(), None
            waited = monotonic() - began
            if 0.0 <= timeout <= waited:
                self.leave_queue(bell)
                return False
            pause = PULSE if timeout < 0.0 else min(PULSE, timeout - waited)
            try:
                woken = bell.wait(pause)
            except:
                self.leave_queue(bell)
                raise
            if woken:
                bell = waiter()
                wake = bell.wake
            elif monotonic() - since > LONG and not self.strict:
                stood, stands = stands, standing(owners, owner)
                if stands is not None and stands == stood:
                    self.leave_queue(bell)
                    return self.enter()

    cdef int take(self, unsigned long thread, object greenlet) except -1:
        """Needs the lock."""
        if self.depth == 0:
            self.thread = thread
            self.greenlet = greenlet
            self.number += 1
        self.depth += 1
        return 0

    cdef bint enter(self) except -1:
        """Take the lock together with its owner, or alone if the owner has given it back."""
        cdef unsigned long thread = this_thread()
        mine = this_greenlet()
        acquire(&self.shared_lock.lock)
        owner = self.greenlet   # holds a reference, so that the last one is not dropped under the lock
        self.take(thread, mine)
        release(&self.shared_lock.lock)
        return owner is not self

    cdef int leave_queue(self, object bell) except -1:
        wake = bell.wake                            # may make an object: not under the lock
        acquire(&self.shared_lock.lock)
        left = self.waiting.pop(wake, bell)
        release(&self.shared_lock.lock)
        if left is not None:                        # this waiter has been woken: pass that on to the next one
            self.wake_next()
        return 0

    cdef int wake_next(self) except -1:
        wake = None
        acquire(&self.shared_lock.lock)
        if self.depth == 0:
            for first in self.waiting:
                wake = first
                break
            if wake is not None:
                del self.waiting[wake]              # not the last reference
        release(&self.shared_lock.lock)
        if wake is not None:
            wake()
        return 0

    def release(self):
        cdef bint over
        acquire(&self.shared_lock.lock)
        owner = self.greenlet   # holds a reference, so that the last one is not dropped under the lock
        self.depth -= 1
        if self.depth == 0:
            self.greenlet = None
        over = self.depth == 0
        release(&self.shared_lock.lock)
        if over and owner is not self:
            self.wake_next()

    def __enter__(self):
        self.acquire()

    def __exit__(self, *raised):
        self.release()
