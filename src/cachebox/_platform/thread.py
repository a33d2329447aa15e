"""Threads of our own. Exceptions do not end them, and a fork does not happen while one of them ends.

**Going on.** A thread's function is called again after it has raised an exception (`guard`). An asynchronous exception
or a lack of memory may have interrupted it anywhere. CPython checks for asynchronous exceptions when a call returns and
when a loop jumps back. So the code between two calls runs as a whole, and such a function

- takes a lock by ``with lock``, and only a C lock or a C re-entrant lock. A `Condition` has Python code that can be
  interrupted between taking the lock and recording that;
- wakes all waiters of a condition, because one of them may be the rest of an interrupted wait;
- never keeps what it is working on in a local variable only.

Whether a thread exists is asked of the thread (`Thread.runs`), not of a variable. If it has ended nevertheless, the
next caller that needs it makes another one.

**Ending.** `join` may return, and `is_alive` be False, a moment before the system's thread has ended. A fork in that
moment counts the thread, and warns. Worse, an ending thread takes a lock of the C library (glibc's, for looking up host
names), and in the child that lock would never be released. So a fork waits until ended threads are gone.

Invariant: modules whose threads end before a fork import this module first. So this module's hook runs last, after they
have ended.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from _thread import allocate_lock, get_ident

from cachebox._platform.guard import keep_running

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable

is_finalizing = sys.is_finalizing       # the module `sys` is emptied before the last objects die
BEGINS_WITHIN = 1.0                     # the longest time that `start` waits for a thread to begin

_started: set[Thread] = set()           # threads that may still exist in the system


class Thread(threading.Thread):
    """A daemon thread, like all of this package: only its owner waits for it.

    Args:
        name: for debuggers.
        run: called again and again until it returns. Its exceptions are reported through `sys.unraisablehook`.
    """

    def __init__(self, name: str, run: Callable[[], object]) -> None:
        self._begun = allocate_lock()
        self._begun.acquire()
        super().__init__(target=keep_running, args=(self._go, self._begun), name=name, daemon=True)
        self._function = run
        self._starter = get_ident()
        self._made = time.monotonic()
        # taken once: by the thread when it begins, or by a caller that makes another thread
        self._claim = allocate_lock()
        self._goes = self._is_void = False
        self._is_coming = True

    def _go(self) -> None:
        if self._goes or self._claim.acquire(False):
            self._goes = True
            self._function()

    def start(self) -> None:
        """Start it. Raises RuntimeError if no thread can be had or the process is ending. Hold no lock meanwhile."""
        try:
            # A coroutine or another object that dies when the interpreter finalises may start a thread. No thread
            # begins then. CPython 3.11 would wait for that without end; later versions raise by themselves.
            if is_finalizing():
                raise RuntimeError("no thread can begin any more: the interpreter is ending")
            super().start()
            # Before the thread has begun, exceptions could end it, so wait for that. But not without end: the caller
            # may be a signal handler that interrupted `threading` in the start of another thread, and so hold the lock
            # that this thread needs to begin.
            until = time.monotonic() + BEGINS_WITHIN
            while not self._begun.acquire(timeout=0.1) and self.is_alive() and time.monotonic() < until:
                pass
        finally:
            self._is_coming = False
        _started.difference_update([thread for thread in list(_started) if thread.is_gone()])
        _started.add(self)

    def runs(self) -> bool:
        """Whether the thread has not ended: it exists, or another thread is about to start it.

        The caller may be a signal handler or a finalizer that interrupted the very call about to start it, or a thread
        for which such code waits. Then the thread cannot be waited for: the answer is False, and it will never begin.
        """
        if self._is_void:
            return False
        is_late = self._starter == get_ident() or time.monotonic() > self._made + BEGINS_WITHIN
        if not self._is_coming or self._goes or not is_late:
            return self._is_coming or self.is_alive()
        self._is_void = self._claim.acquire(False)
        return not self._is_void

    def is_gone(self) -> bool:
        """Whether the system's thread has ended, too."""
        return not self.is_alive() and not os.path.exists(f"/proc/self/task/{self.native_id}")


class OnlyThread:
    """The only thread that does some work: callers that need it start it, and two of them never run.

    A caller may be a signal handler or a finalizer in the middle of another caller's `start`, and no lock keeps it out.
    So a thread is first entered in a list, by one step that nothing interrupts; the first in the list is the one that
    runs.
    """

    def __init__(self, name: str, run: Callable[[], object]) -> None:
        self._name = name
        self._run = run
        self._threads: list[Thread] = []

    @property
    def thread(self) -> Thread | None:
        """The thread that was started last, unless it has said that it ends."""
        known = self._threads[:1]
        return known[0] if known else None

    def runs(self) -> bool:
        """Whether the thread has not ended; see `Thread.runs`."""
        thread = self.thread
        return thread is not None and thread.runs()

    def start(self) -> None:
        """Start the thread, unless it runs. Raises as `Thread.start` does; hold no lock meanwhile."""
        while not self.runs():
            mine = Thread(self._name, self._run)
            try:
                self._threads.append(mine)
                while (first := self.thread) is not None and first is not mine and not first.runs():
                    self._drop(first)
                if first is mine:
                    mine.start()
                    return
            finally:                            # others may have taken it for the one that runs, so look again
                if not mine.is_alive():
                    self._drop(mine)

    def ends(self) -> None:
        """Said by the thread before it looks a last time whether there is work: who brings some later starts another
        thread."""
        for thread in list(self._threads):
            if thread is threading.current_thread():
                self._drop(thread)

    def _drop(self, thread: Thread) -> None:
        try:
            self._threads.remove(thread)        # one step: threads are compared by identity
        except ValueError:
            pass


def _wait_for_the_ended() -> None:
    for thread in [thread for thread in list(_started) if not thread.is_alive()]:
        for _ in range(200):                # bounded, because its number may have gone to another thread
            if thread.is_gone():
                break
            time.sleep(0.0005)
        _started.discard(thread)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait_for_the_ended, after_in_child=_started.clear)
