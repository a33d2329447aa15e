"""The sweeper: a thread that removes expired entries which no caller asks for.

One daemon thread in a process serves all caches, of which it has weak references. It starts with the first deadline,
sleeps until the next one, and ends when none is left.

Rules:

- Its own lock is never held while it takes a cache's; a cache never takes the sweeper's lock while it holds its own.
- It ends before a fork, so that a process with a second thread is never forked because of it. It starts again on both
  sides.
- The collector, a signal handler or a finaliser may run here at any moment, and use a cache. So the lock is re-entrant,
  a collection that may change is copied before it is iterated over, and the wake-up cannot be interrupted.
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
"""Seconds that the thread stays when no deadline is left, because the next one often comes soon."""
STEPS_ASIDE = 2.0
"""Seconds that a fork, or the end of the process, waits for a callback that the thread is running."""
LONGEST_SLEEP = 86400.0
"""The longest sleep, in seconds: a deadline may be farther away than a system call can express."""


class CacheRef(weakref.ref["Cache[Any, Any]"]):
    """A weak reference to a cache. It is hashed by its address, because caches are not hashable."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class WakeUp:
    """Wakes the thread, or the greenlet that takes its place. A ring is kept until the next wait."""

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
_due: dict[CacheRef, float] = {}        # the time of the next visit, by cache
_visited: CacheRef | None = None        # the cache that the thread is visiting, which is not in `_due`
_dead: list[CacheRef] = []              # caches that died since the last look
_thread: Thread | None = None
_idle_since = 0.0                       # 0: there is a cache to visit
_is_ending = False
_looks_at = 0.0                         # when the thread looks at `_due` next by itself; 0: it is about to


def register(cache: Cache[Any, Any]) -> CacheRef:
    """A weak reference to a cache, for `schedule`."""
    # a list's append is one step, because a weak reference's callback may run anywhere
    return CacheRef(cache, _dead.append)


def schedule(known: CacheRef, due: float) -> None:
    """Visit a cache at monotonic time `due`, in seconds, or earlier if that is planned; infinity: no visit."""
    if due == float("inf"):
        return
    with _lock:
        _forget_the_dead()
        _due[known] = min(due, _due.get(known, due))
        if due < _looks_at or not _looks_at:
            _bell.ring()
    _start()


def _forget_the_dead() -> None:
    """Needs the lock.

    Removes at least one dead cache for each new one, so that none pile up while the thread sleeps.
    """
    for _ in range(100):
        if not _dead:
            break
        _due.pop(_dead.pop(), None)


def _start() -> None:
    """Start the thread if it does not run and there is something to do."""
    global _thread, _looks_at
    thread = None
    try:
        with _lock:
            if _is_ending or not _due or (_thread is not None and _thread.runs()):
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
        # No thread can be had, or the process is ending. Reads drop expired entries, and the next deadline tries again.


def _run() -> None:
    global _idle_since, _looks_at, _visited
    _idle_since = 0.0
    while True:
        with _lock:                     # only a call, as `_plan` explains
            ready = _plan()
        if ready is None:
            return
        if not ready:
            _bell.wait(max(0.0, _looks_at - time.monotonic()))
            _looks_at = 0.0
        for known in ready:
            if _is_ending:
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
    """The caches to visit now; an empty list: wait until `_looks_at`; None: end. Needs the lock.

    It is a function of its own because of a fault of CPython. Where not even a small object can be had, CPython enters
    the ``except`` or ``with`` around an instruction beyond the 256th of a function again and again, and releases
    nothing.
    """
    global _thread, _idle_since, _looks_at
    if _thread is not threading.current_thread():
        return None                     # a callback has forked, and this is the child
    _visit_again()
    _forget_the_dead()
    now = time.monotonic()
    due = {known: _due.get(known, now) for known in list(_due)}
    ready = [known for known, when in due.items() if when <= now]
    if _is_ending:
        ready.clear()
    if not ready:
        _idle_since = 0.0 if due else _idle_since or now
        if _is_ending or (_idle_since and now >= _idle_since + LINGERS and not _due):
            _thread = None
            return None
        _looks_at = min(due.values(), default=_idle_since + LINGERS)
    return ready


def _visit_again() -> None:
    """Plan another visit of the cache whose visit was interrupted. Needs the lock."""
    global _visited
    if _visited is not None:
        again = time.monotonic() + LINGERS
        _due[_visited] = min(again, _due.get(_visited, again))
        _visited = None


def _sweep(cache: Cache[Any, Any]) -> float:
    """Visit one cache. Returns the time of the next visit."""
    try:
        return cache._sweep()
    except BaseException:               # a callback's KeyboardInterrupt must not end the sweeping of other caches
        sys.excepthook(*sys.exc_info())
        return time.monotonic() + LINGERS


def _end() -> None:
    """End the thread. Waits for it, but not without end: it may be running a callback that waits for this thread."""
    global _is_ending
    with _lock:
        _is_ending = True
        thread = _thread
        _bell.ring()
    if thread is not None and thread is not threading.current_thread():
        thread.join(STEPS_ASIDE)


def resume() -> None:
    """Start sweeping again, if there is anything to sweep."""
    global _is_ending
    with _lock:
        _is_ending = False
    _start()


def may_resume_later() -> bool:
    """Whether the thread should start only after the fork has returned; see `notices.resume_after_fork`."""
    is_main = threading.current_thread() is threading.main_thread()
    return bool(_due) and is_main and sys.version_info >= (3, 13)


def _resume_in_child() -> None:
    global _lock, _bell, _thread
    _lock, _bell = Section(), WakeUp()  # another thread of the parent may have held the old lock
    _thread = None
    _visit_again()
    resume()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_end, after_in_parent=resume_after_fork, after_in_child=_resume_in_child)
IS_WHOLE = True                         # the module is complete: its import may be interrupted
