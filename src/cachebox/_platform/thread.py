"""Threads of our own: they go on whatever is raised in them, and a fork does not come into their end.

**Going on.** A thread's function is called again when it has raised something (`guard`). It may have been interrupted
anywhere, by an asynchronous exception or for want of memory. CPython looks for such exceptions when a call returns and
where a loop goes back: so what stands between two calls is done as a whole, and such a function

- takes a lock by ``with lock``, where that is a C lock or a C re-entrant one (a `Condition` has Python code that can be
  interrupted between taking the lock and saying so), and wakes all that wait for a condition, for one of them may be
  the rest of a wait that was interrupted;
- never has what it is working on in a local variable only.

Whether a thread is there is asked of the thread (`Thread.runs`), not of a variable: if it has ended all the same,
whoever needs it next makes another one.

**Ending.** `join` may return, and `is_alive` be False, a moment before the system's thread has ended. A fork in that
moment counts it, and warns. Worse: an ending thread takes a lock of the C library's (glibc's, about how names of hosts
are looked up), and the child would have it locked for ever. So a fork waits until the threads that have ended are gone.

Invariant: what steps aside before a fork imports this first, so that this comes last, when they have ended.
"""

from __future__ import annotations

import os
import threading
import time
from _thread import allocate_lock, get_ident

from cachebox._platform.guard import keep_running

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable

BEGINS_WITHIN = 1.0                     # seconds that the start of a thread waits for it to begin

_started: set[Thread] = set()           # those of which it is not known that they are gone


class Thread(threading.Thread):
    """A daemon thread, as all here are: nobody but its owner waits for it.

    Args:
        name: for debuggers.
        run: called again and again until it returns; what it raises is reported through `sys.unraisablehook`.
    """

    def __init__(self, name: str, run: Callable[[], object]) -> None:
        self._begun = allocate_lock()
        self._begun.acquire()
        super().__init__(target=keep_running, args=(self._go, self._begun), name=name, daemon=True)
        self._function = run
        self._starter = get_ident()
        self._claim = allocate_lock()       # taken once: by the thread when it begins, or by who makes another instead
        self._goes = self._is_void = False
        self._is_coming = True

    def _go(self) -> None:
        if self._goes or self._claim.acquire(False):
            self._goes = True
            self._function()

    def start(self) -> None:
        """RuntimeError where no thread is to be had, or the process is ending. Do not hold a lock meanwhile."""
        try:
            super().start()
            # Before it has begun, exceptions could end it. But it is not waited for without end: who has interrupted
            # `threading` in the start of another thread (a signal handler) holds the lock that this one needs to begin.
            until = time.monotonic() + BEGINS_WITHIN
            while not self._begun.acquire(timeout=0.1) and self.is_alive() and time.monotonic() < until:
                pass
        finally:
            self._is_coming = False
        _started.difference_update([thread for thread in list(_started) if thread.is_gone()])
        _started.add(self)

    def runs(self) -> bool:
        """Whether it has not ended: it is there, or another thread is about to start it.

        Where the caller has interrupted the very call that was about to start it (a signal handler, a finalizer), it
        cannot be waited for: the answer is no, and it will never begin.
        """
        if self._is_void:
            return False
        if not self._is_coming or self._starter != get_ident() or self._goes:
            return self._is_coming or self.is_alive()
        self._is_void = self._claim.acquire(False)
        return not self._is_void

    def is_gone(self) -> bool:
        """Whether the system's thread has ended, too."""
        return not self.is_alive() and not os.path.exists(f"/proc/self/task/{self.native_id}")


def _wait_for_the_ended() -> None:
    for thread in [thread for thread in list(_started) if not thread.is_alive()]:
        for _ in range(200):                # not for ever: its number may have gone to another thread
            if thread.is_gone():
                break
            time.sleep(0.0005)
        _started.discard(thread)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait_for_the_ended, after_in_child=_started.clear)
