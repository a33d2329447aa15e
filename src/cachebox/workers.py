"""The threads that load values anew in the background: one pool for all caches.

It has at most `MOST_THREADS` daemon threads. One starts when there is work and none is idle, and ends when it has been
idle for a while. Nobody ever waits for them: neither the end of the process, nor a fork, beyond the moment that an idle
thread takes to end. What waits in the queue does not grow without bound: what does not fit is not done, and a later
`get` asks for it again.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque

from cachebox.threads import Thread

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from typing import Protocol

    class _Task(Protocol):
        """What is to be run. It raises nothing, and can tell by itself that it is no longer wanted."""

        def run(self) -> None: ...

MOST_THREADS = 8
MOST_WAITING = 10_000
"""Refreshes in the queue."""
LINGERS = 5.0
"""Seconds that a thread stays when there is nothing to do."""
STEPS_ASIDE = 1.0
"""Seconds that a fork waits for idle threads to end."""

_changed = threading.Condition()       # re-entrant: a signal handler or a finalizer may come back
_queue: deque[_Task] = deque()
_threads: set[threading.Thread] = set()
_idle = 0
_told_to_end = False


def submit(task: _Task) -> bool:
    """Have a refresh run in the background, soon. False: there is no room or no thread for it."""
    with _changed:
        if len(_queue) >= MOST_WAITING or (not _start_one() and not _threads):
            return False
        _queue.append(task)
        _changed.notify()
    return True


def _start_one() -> bool:
    """Start a thread if those that are idle have enough to do. Needs `_changed`."""
    if _told_to_end or _idle > len(_queue) or len(_threads) >= MOST_THREADS:
        return bool(_threads)
    thread = Thread("cachebox-refresh", _run)
    _threads.add(thread)
    try:
        thread.start()
    except RuntimeError:                # no thread to be had, or the process is ending
        _threads.discard(thread)
        return False
    return True


def _run() -> None:
    global _idle
    this = threading.current_thread()
    while True:
        with _changed:
            if this not in _threads:
                return                  # what it ran has forked, and this is the child
            _idle += 1
            give_up = time.monotonic() + LINGERS
            while not _queue and not _told_to_end and time.monotonic() < give_up:
                _changed.wait(give_up - time.monotonic())
            _idle -= 1
            if _told_to_end or not _queue:
                _threads.discard(this)
                _changed.notify_all()   # to a fork that waits
                return
            task = _queue.popleft()
        task.run()
        del task                        # it holds a cache


def _end() -> None:
    """Have idle threads end. Those that are loading are daemons: nobody waits for them."""
    global _told_to_end
    with _changed:
        _told_to_end = True
        _changed.notify_all()


def _step_aside() -> None:
    """Before a fork: idle threads end, so that none of ours is there that the fork could warn of."""
    global _told_to_end
    with _changed:
        _told_to_end = True
        idle = [thread for thread in _threads if thread is not threading.current_thread()] if _idle else []
        _changed.notify_all()
        until = time.monotonic() + STEPS_ASIDE
        while _idle and time.monotonic() < until:
            _changed.wait(until - time.monotonic())
    for thread in idle:
        if thread not in _threads:
            thread.join(STEPS_ASIDE)


def _resume() -> None:
    global _told_to_end
    with _changed:
        _told_to_end = False
        if _queue:
            _start_one()


def _resume_in_child() -> None:
    """The refreshes of the parent are the parent's: here they are void, as their caches can tell."""
    global _changed, _threads, _idle, _told_to_end
    _changed = threading.Condition()    # another thread may have held the old one
    _queue.clear()
    _threads = set()
    _idle = 0
    _told_to_end = False


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_step_aside, after_in_parent=_resume, after_in_child=_resume_in_child)
