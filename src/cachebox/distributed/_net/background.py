"""A thread for what nobody waits for: leases to renew, and the rest of cleared generations to remove.

It starts when there is something to do, and ends a moment after there is not. What a task raises is logged, and the
next task follows. Whether the thread runs is asked of the thread.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

from cachebox._platform.section import Section
from cachebox._platform.thread import Thread

LINGERS = 1.0
"""Seconds that the thread stays when there is nothing to do."""
FINISHES = 3.0
"""Seconds that `stop` leaves it to finish what it has begun."""

log = logging.getLogger("cachebox")


class Background:
    """Runs functions at their time, one after the other. Thread-safe."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Reset: at first, and in the child of a fork."""
        self._lock = Section()
        self._changed = self._lock.condition()
        self._tasks: list[tuple[float, int, Callable[[], object]]] = []
        self._count = itertools.count()
        self._thread: Thread | None = None
        self._is_ending = False
        self._is_paused = False
        self._is_troubled = False               # something was raised, and no task has succeeded since
        self.must_end = False

    def schedule(self, seconds: float, task: Callable[[], object]) -> None:
        """Run a function after some seconds."""
        with self._lock:
            if self._is_ending:
                return
            heapq.heappush(self._tasks, (time.monotonic() + seconds, next(self._count), task))
            self._changed.notify_all()
        self._start()

    def _start(self) -> None:
        """Have the thread run, if it does not and there is something to do. Where none is to be had, the next task
        tries again."""
        with self._lock:
            runs = self._thread is not None and self._thread.runs()
            if runs or self._is_paused or self._is_ending or not self._tasks:
                return
            self._thread = thread = Thread("cachebox-background", self._run)
        with contextlib.suppress(RuntimeError):
            thread.start()

    def pause(self) -> None:
        """End the thread, and wait for that, but keep what is planned. Before a fork."""
        with self._lock:
            self._is_paused = True
            thread = self._thread
            self._changed.notify_all()
        self._join(thread)

    def resume(self) -> None:
        """After a fork, in the parent."""
        self._is_paused = False
        self._start()

    @staticmethod
    def _join(thread: Thread | None) -> None:
        if thread is not None and thread is not threading.current_thread():
            with contextlib.suppress(RuntimeError):     # it has not begun yet, and will see that it must not
                thread.join(FINISHES)

    def _run(self) -> None:
        """Work until there is nothing to do, whatever tasks raise."""
        while True:
            try:
                return self._work()
            except BaseException as error:
                self._note(error)

    def _note(self, error: BaseException) -> None:
        """Say that something was raised, unless that was said already."""
        try:
            if not self._is_troubled:
                self._is_troubled = True
                log.error("a task in the background of a cache failed", exc_info=error)
        except BaseException:                   # nothing is left to be done about it but to go on
            pass

    def _work(self) -> None:
        idle_since = 0.0
        while True:
            with self._lock:
                now = time.monotonic()
                due = self._tasks[0][0] if self._tasks else 0.0
                if self._is_paused:
                    self._thread = None
                    return
                if not self._tasks or due > now:
                    idle_since = 0.0 if self._tasks else idle_since or now
                    if self._is_ending or (idle_since and now >= idle_since + LINGERS):
                        self._thread = None
                        return
                    self._changed.wait((due or idle_since + LINGERS) - now)
                    continue
                _, _, task = heapq.heappop(self._tasks)
            idle_since = 0.0
            task()
            self._is_troubled = False

    def stop(self) -> None:
        """Let it finish what is due, not what is planned, and wait for that, though not for ever."""
        with self._lock:
            self._is_ending = True
            thread = self._thread
            self._changed.notify_all()
        self._join(thread)
        self.must_end = True                    # the next page was one too many
        self._join(thread)
