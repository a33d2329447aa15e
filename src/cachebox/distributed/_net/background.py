"""Threads for work that nobody waits for: one for short tasks such as renewing leases, and one for chores that may take
long, such as removing what cleared generations left.

A thread starts when there is work, and ends a moment after there is none. Whether it runs is asked of the thread
itself. An error of a task is logged, and the next task follows.
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
from cachebox._platform.thread import OnlyThread

LINGERS = 1.0
"""Seconds that the thread stays when there is nothing to do."""
FINISHES = 3.0
"""Seconds that `stop` gives the thread to finish its current task."""

log = logging.getLogger("cachebox")


class Background:
    """Runs functions at their times, one after the other. Thread-safe.

    Args:
        name: of the thread, for debuggers.
    """

    def __init__(self, name: str = "cachebox-background") -> None:
        self._name = name
        self.renew()

    def renew(self) -> None:
        """Reset: at first, and in the child of a fork."""
        self._lock = Section()
        self._changed = self._lock.condition()
        self._tasks: list[tuple[float, int, Callable[[], object]]] = []
        self._count = itertools.count()
        self._thread = OnlyThread(self._name, self._run)
        self._is_ending = False
        self._is_paused = False
        self._is_troubled = False               # a task has raised, and none has succeeded since
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
        """Start the thread, if there is work and it does not run.

        If no thread can be started, the next `schedule` tries again.
        """
        if self._tasks and not (self._is_paused or self._is_ending):
            with contextlib.suppress(RuntimeError):
                self._thread.start()

    def pause(self) -> None:
        """Before a fork: end the thread and wait for its end, but keep what is planned."""
        with self._lock:
            self._is_paused = True
            thread = self._thread.thread
            self._changed.notify_all()
        self._join(thread)

    def resume(self) -> None:
        """After a fork, in the parent."""
        self._is_paused = False
        self._start()

    @staticmethod
    def _join(thread: threading.Thread | None) -> None:
        if thread is not None and thread is not threading.current_thread():
            with contextlib.suppress(RuntimeError):     # it has not begun yet, and ends at once when it does
                thread.join(FINISHES)

    def _run(self) -> None:
        """Work until there is nothing to do, whatever the tasks raise."""
        while True:
            try:
                self._work()
                self._thread.ends()
                return self._start()            # a finalizer may have brought work since the last look
            except BaseException as error:
                self._note(error)

    def _note(self, error: BaseException) -> None:
        """Log an error, unless one was logged since a task last succeeded."""
        try:
            if not self._is_troubled:
                self._is_troubled = True
                log.error("a task in the background of a cache failed", exc_info=error)
        except BaseException:                   # nothing can be done about it but go on
            pass

    def _work(self) -> None:
        idle_since = 0.0
        while True:
            with self._lock:
                now = time.monotonic()
                due = self._tasks[0][0] if self._tasks else 0.0
                if self._is_paused:
                    return
                if not self._tasks or due > now:
                    idle_since = 0.0 if self._tasks else idle_since or now
                    if self._is_ending or (idle_since and now >= idle_since + LINGERS):
                        return
                    self._changed.wait((due or idle_since + LINGERS) - now)
                    continue
                _, _, task = heapq.heappop(self._tasks)
            idle_since = 0.0
            task()
            self._is_troubled = False

    def stop(self) -> None:
        """Finish what is due, but not what is planned. Waits for that for at most twice `FINISHES` seconds."""
        with self._lock:
            self._is_ending = True
            thread = self._thread.thread
            self._changed.notify_all()
        self._join(thread)
        self.must_end = True                    # the current task took too long: it ends after its page
        self._join(thread)
