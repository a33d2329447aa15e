"""A thread for what nobody waits for: leases to renew, and the rest of cleared generations to remove.

It starts when there is something to do, and ends a moment after there is not.
"""

from __future__ import annotations

import heapq
import itertools
import sys
import threading
import time
from collections.abc import Callable

from cachebox.threads import Thread

LINGERS = 1.0
"""Seconds that the thread stays when there is nothing to do."""
FINISHES = 3.0
"""Seconds that `stop` leaves it to finish what it has begun."""


class Helper:
    """Runs functions at their time, one after the other. Thread-safe."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin anew: at first, and in the child of a fork."""
        self._changed = threading.Condition()
        self._tasks: list[tuple[float, int, Callable[[], object]]] = []
        self._count = itertools.count()
        self._thread: Thread | None = None
        self._told_to_end = False
        self._is_paused = False
        self.must_end = False

    def schedule(self, seconds: float, task: Callable[[], object]) -> None:
        """Run a function in so many seconds."""
        with self._changed:
            if self._told_to_end:
                return
            heapq.heappush(self._tasks, (time.monotonic() + seconds, next(self._count), task))
            self._start()
            self._changed.notify()

    def _start(self) -> None:
        """Needs the lock, which a signal handler or a finalizer may take again meanwhile."""
        if self._thread is None and not self._is_paused:
            thread = Thread("cachebox-helper", self._run)
            if self._thread is None:
                self._thread = thread
                thread.start()

    def pause(self) -> None:
        """End the thread, and wait for that, but keep what is planned. Before a fork."""
        with self._changed:
            self._is_paused = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(FINISHES)

    def resume(self) -> None:
        """After a fork, in the parent."""
        with self._changed:
            self._is_paused = False
            if self._tasks and not self._told_to_end:
                self._start()

    def _run(self) -> None:
        idle_since = 0.0
        while True:
            with self._changed:
                now = time.monotonic()
                due = self._tasks[0][0] if self._tasks else 0.0
                if self._is_paused:
                    self._thread = None
                    return
                if not self._tasks or due > now:
                    idle_since = 0.0 if self._tasks else idle_since or now
                    if self._told_to_end or (idle_since and now >= idle_since + LINGERS):
                        self._thread = None
                        return
                    self._changed.wait((due or idle_since + LINGERS) - now)
                    continue
                _, _, task = heapq.heappop(self._tasks)
            idle_since = 0.0
            try:
                task()
            except Exception:
                sys.excepthook(*sys.exc_info())

    def stop(self) -> None:
        """Let it finish what is due, not what is planned, and wait for that, though not for ever."""
        with self._changed:
            self._told_to_end = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(FINISHES)
            self.must_end = True                # the next page was one too many
            thread.join(FINISHES)
