"""The thread that removes expired entries which nobody asks for.

One daemon thread per process serves every cache. It starts with the first deadline, knows caches weakly, sleeps until
the next one is due, and ends when none is left.

Rules: its own lock is never held while it takes a cache's (a cache never takes the sweeper's while holding its own);
before a fork it ends, so that nobody forks a process with a second thread on its account, and restarts on both sides.
The collector, a signal handler or a finaliser may run at any moment here, and use a cache: so the lock is re-entrant,
what may change is not iterated over, and the thread is woken by something that nothing can interrupt.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref

from cachebox._platform.callers import waiter
from cachebox._platform.section import Section
from cachebox._platform.thread import Thread
from cachebox._store.notices import resume_after_fork

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from typing import Any

    from cachebox._platform.callers import Waiter
    from cachebox.cache import Cache

LINGERS = 1.0
"""Seconds that the thread stays when no deadline is left: the next one often comes soon."""
STEPS_ASIDE = 2.0
"""Seconds that a fork, or the end of the process, waits for a callback that the thread is running."""
LONGEST_SLEEP = 86400.0
"""Seconds that the thread sleeps at a time: a deadline may be farther away than a system call can express."""


class CacheRef(weakref.ref["Cache[Any, Any]"]):
    """A cache that the sweeper knows. Caches are not hashable, so one is known by this object, which it keeps."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class WakeUp:
    """Wakes the thread, or the greenlet that stands for it. Once rung it stays so until somebody has waited for it."""

    def __init__(self) -> None:
        self._rings = False
        self._waiter: Waiter | None = None

    def ring(self) -> None:
        self._rings = True
        sleeper = self._waiter
        if sleeper is not None:
            sleeper.wake()

    def wait(self, seconds: float) -> None:
        sleeper = self._waiter = waiter()
        try:
            if not self._rings:
                sleeper.wait(min(seconds, LONGEST_SLEEP))
        finally:
            self._waiter = None
            self._rings = False
            sleeper.close()


_lock = Section()
_bell = WakeUp()
_due: dict[CacheRef, float] = {}        # when to visit whom
_visited: CacheRef | None = None        # whom the thread is visiting, who is not in `_due`
_dead: list[CacheRef] = []              # died since the last look
_thread: Thread | None = None
_idle_since = 0.0                       # 0: there is somebody to visit
_told_to_end = False
_looks_at = 0.0                         # when the thread looks at `_due` again by itself; 0: it is about to


def register(cache: Cache[Any, Any]) -> CacheRef:
    """What a cache is to be known by, for as long as it lives."""
    return CacheRef(cache, _dead.append)  # a list's append is one step: a weak reference's callback may run anywhere


def schedule(known: CacheRef, due: float) -> None:
    """Visit a cache at that monotonic time, in seconds, or earlier if that is planned already; infinity: no need to."""
    if due == float("inf"):
        return
    with _lock:
        _forget_the_dead()
        _due[known] = min(due, _due.get(known, due))
        if due < _looks_at or not _looks_at:
            _bell.ring()
    _start()


def _forget_the_dead() -> None:
    """Needs the lock. For each cache that comes at least one goes, so that none pile up while the thread sleeps."""
    for _ in range(100):
        if not _dead:
            break
        _due.pop(_dead.pop(), None)


def _start() -> None:
    """Start the thread if it is missing and there is something to do."""
    global _thread, _looks_at
    thread = None
    try:
        with _lock:
            if _told_to_end or not _due or (_thread is not None and _thread.runs()):
                return
            _thread = thread = Thread("cachebox-sweeper", _run)
            _looks_at = 0.0
        thread.start()
    except BaseException as error:
        with _lock:
            if _thread is thread:
                _thread = None
        if not isinstance(error, (RuntimeError, MemoryError)):
            raise
        # no thread to be had, or the process is ending: reads drop what expired, and the next deadline tries again


def _run() -> None:
    global _idle_since, _looks_at, _visited
    _idle_since = 0.0
    while True:
        with _lock:                     # a call, and no more: see `_plan`
            ready = _plan()
        if ready is None:
            return
        if not ready:
            _bell.wait(max(0.0, _looks_at - time.monotonic()))
            _looks_at = 0.0
        for known in ready:
            if _told_to_end:
                break
            with _lock:
                _visited = known
                _due.pop(known, None)
            cache = known()
            if cache is not None:
                schedule(known, _sweep(cache))
            _visited = None
            del cache


def _plan() -> list[CacheRef] | None:
    """Whom to visit now; none: to wait until `_looks_at`; None: to end. Needs the lock.

    A function of its own, because of a fault of CPython's: where not even a small object is to be had, it enters the
    ``except`` or ``with`` around an instruction beyond the 256th of a function again and again, and lets go of nothing.
    """
    global _thread, _idle_since, _looks_at
    if _thread is not threading.current_thread():
        return None                     # a callback forked, and this is the child
    _visit_again()
    _forget_the_dead()
    now = time.monotonic()
    due = {known: _due.get(known, now) for known in list(_due)}
    ready = [known for known, when in due.items() if when <= now]
    if _told_to_end:
        ready.clear()
    if not ready:
        _idle_since = 0.0 if due else _idle_since or now
        if _told_to_end or (_idle_since and now >= _idle_since + LINGERS and not _due):
            _thread = None
            return None
        _looks_at = min(due.values(), default=_idle_since + LINGERS)
    return ready


def _visit_again() -> None:
    """Plan another visit where one was interrupted. Needs the lock."""
    global _visited
    if _visited is not None:
        again = time.monotonic() + LINGERS
        _due[_visited] = min(again, _due.get(_visited, again))
        _visited = None


def _sweep(cache: Cache[Any, Any]) -> float:
    """Visit one cache, and say when to come again."""
    try:
        return cache._sweep()
    except BaseException:               # a callback's KeyboardInterrupt must not end the sweeping of others
        sys.excepthook(*sys.exc_info())
        return time.monotonic() + LINGERS


def _end() -> None:
    """Have the thread end, and wait for it, but not for ever: it may be running a callback that waits for us."""
    global _told_to_end
    with _lock:
        _told_to_end = True
        thread = _thread
        _bell.ring()
    if thread is not None and thread is not threading.current_thread():
        thread.join(STEPS_ASIDE)


def resume() -> None:
    """Sweep again, if there is anything to sweep."""
    global _told_to_end
    with _lock:
        _told_to_end = False
    _start()


def may_resume_later() -> bool:
    """Whether the thread should not start before the fork has returned; see `notices.resume_after_fork`."""
    is_main = threading.current_thread() is threading.main_thread()
    return bool(_due) and is_main and sys.version_info >= (3, 13)


def _resume_in_child() -> None:
    global _lock, _bell, _thread
    _lock, _bell = Section(), WakeUp()  # another thread may have held the old lock
    _thread = None
    _visit_again()
    resume()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_end, after_in_parent=resume_after_fork, after_in_child=_resume_in_child)
IS_WHOLE = True                         # the module, which may be interrupted while it is being imported
