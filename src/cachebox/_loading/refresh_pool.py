"""The threads that refresh values in the background: one pool for all caches.

It has at most `MOST_THREADS` daemon threads. A thread starts when there is work and none is idle, and ends when it has
been idle for a while. The end of the process does not wait for them. A fork waits only for idle threads to end. The
queue is bounded: a refresh that finds no room is not done, and a later `get` asks for another one.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque

from cachebox._platform.section import Section
from cachebox._platform.thread import Thread

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from typing import Protocol

    class _Task(Protocol):
        """Something to run. It raises nothing, and finds out by itself if it is no longer wanted."""

        def run(self) -> None: ...

MOST_THREADS = 8
MOST_WAITING = 10_000
"""The most refreshes in the queue."""
LINGERS = 5.0
"""Seconds that a thread stays when there is nothing to do."""
STEPS_ASIDE = 1.0
"""Seconds that a fork waits for idle threads to end."""

_lock = Section()
_changed = _lock.condition()
_queue: deque[_Task] = deque()
_threads: dict[Thread, _Task | None] = {}   # with what each is running, so that no work is lost with a thread
_idle: set[Thread] = set()
_is_ending = False


def submit(task: _Task) -> bool:
    """Have a refresh run in the background, soon. False: there is no room or no thread for it."""
    with _lock:
        if len(_queue) >= MOST_WAITING:
            return False
        _queue.append(task)
        _changed.notify_all()
    if _start_one():
        return True
    with _lock:
        try:
            _queue.remove(task)
        except ValueError:              # a thread that has ended since took it
            return True
    return False


def _start_one() -> bool:
    """Start a thread if the idle ones are too few for the queue. Returns whether any thread runs."""
    thread = None
    try:
        with _lock:
            for ended in [known for known in list(_threads) if not known.runs()]:
                _take_back(ended)
            if _is_ending or len(_idle) >= len(_queue) or len(_threads) >= MOST_THREADS:
                return bool(_threads)
            thread = Thread("cachebox-refresh", _run)
            _threads[thread] = None
        thread.start()
    except BaseException as error:
        if thread is not None:
            _threads.pop(thread, None)
        if not isinstance(error, (RuntimeError, MemoryError)):
            raise
        return bool(_threads)           # no thread can be had, or the process is ending
    return True


def _take_back(ended: Thread) -> None:
    """Put the work of a thread that ended unexpectedly back into the queue. Needs the lock."""
    _idle.discard(ended)
    task = _threads.pop(ended, None)
    if task is not None:
        _queue.appendleft(task)


def _run() -> None:
    this = threading.current_thread()
    assert isinstance(this, Thread)
    while True:
        with _lock:
            if this not in _threads:
                return                  # its work has forked, and this is the child
            task = _threads[this]       # the work that was interrupted, if any
            if task is None:
                _wait_for_work(this)
                if _is_ending or not _queue:
                    del _threads[this]
                    _changed.notify_all()   # wakes a fork that waits
                    return
                task = _queue[0]
                _threads[this] = task
                del _queue[0]
        task.run()
        with _lock:
            if this in _threads:
                _threads[this] = None
        del task                        # it holds a reference to a cache


def _wait_for_work(this: Thread) -> None:
    """Needs the lock, and releases it meanwhile."""
    give_up = time.monotonic() + LINGERS
    try:
        _idle.add(this)
        while not _queue and not _is_ending and time.monotonic() < give_up:
            _changed.wait(give_up - time.monotonic())
    finally:
        _idle.discard(this)


def _end() -> None:
    """End idle threads. Busy ones are daemons, for which no thread waits."""
    global _is_ending
    with _lock:
        _is_ending = True
        _changed.notify_all()


def _step_aside() -> None:
    """Before a fork: end idle threads, so that the fork does not warn of a thread of ours."""
    global _is_ending
    with _lock:
        _is_ending = True
        idle = list(_idle)
        _changed.notify_all()
        until = time.monotonic() + STEPS_ASIDE
        while _idle and time.monotonic() < until:
            _changed.wait(until - time.monotonic())
    for thread in idle:
        if thread not in _threads:
            thread.join(STEPS_ASIDE)


def _resume() -> None:
    global _is_ending
    with _lock:
        _is_ending = False
    if _queue:
        _start_one()


def _resume_in_child() -> None:
    """Drop the parent's refreshes. They are void here, as their caches can tell."""
    global _lock, _changed, _threads, _idle, _is_ending
    _lock = Section()           # another thread of the parent may have held the old lock
    _changed = _lock.condition()
    _queue.clear()
    _threads = {}
    _idle = set()
    _is_ending = False


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_step_aside, after_in_parent=_resume, after_in_child=_resume_in_child)
