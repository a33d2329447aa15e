"""The writes that a store lacks: a queue, a journal that remembers it, and the thread that delivers them.

What is here knows nothing of a cache. `WriteBehind` puts writes in, and asks which are the newest.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakSet

from cachebox.cache import MISSING
from cachebox.refreshing import report
from cachebox.strategies.delivery import Delivery
from cachebox.strategies.errors import QueueFull
from cachebox.strategies.forks import renew_in_child
from cachebox.strategies.journal import Journal
from cachebox.strategies.options import at_most_a_wait, check_seconds
from cachebox.strategies.store import Store
from cachebox.strategies.write_queue import Write, WriteQueue
from cachebox.threads import Thread

LINGERS = 5.0
"""Seconds that the thread stays when there is nothing to write."""

_CLOSED = "this WriteBehind has been closed"

_open: WeakSet[Backlog] = WeakSet()


class Backlog:
    """Writes on their way to a store. Safe from any thread.

    Arguments are those of `WriteBehind`, and have been checked; `waits`: whether writes wait for room.
    """

    def __init__(
        self,
        store: Store,
        queue: WriteQueue,
        *,
        waits: bool,
        retries: int,
        backoff: float,
        max_backoff: float,
        on_dead_letter: Any,
        journal: Journal | None,
        exit_timeout: float,
    ) -> None:
        self.store = store
        self.queue = queue
        self.journal = journal
        self.exit_timeout = exit_timeout
        self.waits = waits
        self.on_dead_letter = on_dead_letter
        self._delivery = Delivery(
            store, retries, backoff, max_backoff, self._settled, self._refused, self._pause_unless_told_to_end
        )
        self._make_locks()
        self.thread: Thread | None = None
        self._wakes_at = 0.0                    # when the thread looks again by itself; infinity: when it is called
        self.crowd = 0                          # who waits for room
        self.setting: dict[Any, int] = {}       # key: the newest write whose caller is not done with it
        self._lost: dict[Any, None] = {}        # keys whose newest value the store refused
        self.closing = False
        self._ends_at: float | None = None      # once closing: when to give up
        self._forked = False
        if journal is not None:
            now = time.monotonic()
            for number, key, value in journal.replayed:
                queue.accept(key, value, now, number)
            journal.replayed = []
        _open.add(self)
        renew_in_child(self)
        if queue.pending:
            with self._lock:
                self._call_thread()

    def _make_locks(self) -> None:
        # It guards all the rest, the queue and the journal. Re-entrant: comparing keys, a signal handler or a
        # finalizer may write in the middle of a write.
        self._lock = threading.RLock()
        self._news = threading.Condition(self._lock)        # for the thread: there is something to do
        self._progress = threading.Condition(self._lock)    # for all others: a write was settled, or the thread ended

    # --- putting writes in --------------------------------------------------------------------------------------------

    def check_open(self) -> None:
        """RuntimeError once it has been closed."""
        if self.closing:
            raise RuntimeError(_CLOSED)

    def accept(self, key: Any, value: Any) -> int:
        """Put a write into the journal and into the queue. Returns its number, for `done_with`.

        RuntimeError after `close`, `QueueFull` where there is no room and none is waited for, TypeError where the
        journal cannot hold it; then nothing has changed.
        """
        queue, journal = self.queue, self.journal
        payload = b"" if journal is None else journal.encode(key, value)
        with self._lock:
            if self.closing or not queue.has_room_for(key):
                self._wait_for_room(key)
            journaled = 0
            replaced = queue.pending.get(key)
            older = None if replaced is None else replaced.value    # dropped without the lock: that may run its __del__
            if journal is not None:
                journaled = journal.append(payload, value is MISSING)
                if replaced is not None:
                    journal.drop(replaced.journaled)
            now = time.monotonic()
            number = queue.accept(key, value, now, journaled).number
            self.setting[key] = number
            full = len(queue.pending) == queue.batch_size
            if full or now + queue.max_delay < self._wakes_at or self.thread is None:
                self._call_thread()
        del older
        if journal is not None:
            journal.sync()
        return number

    def _wait_for_room(self, key: Any) -> None:
        """Return when a write may be accepted. Needs the lock, and lets it go meanwhile."""
        self.crowd += 1
        try:
            while True:
                if self._forked and self.journal is not None:
                    raise RuntimeError("the journal belongs to the process that was forked: open another one")
                self.check_open()
                if self.queue.has_room_for(key):
                    return
                if not self.waits or self.thread is threading.current_thread():     # which would wait for itself
                    raise QueueFull(f"{self.queue.max_queue} keys are waiting for the store already (max_queue)")
                self._call_thread()
                self._progress.wait()
        finally:
            self.crowd -= 1

    def wait_until_there_is_room(self, key: Any) -> None:
        """Return when `accept` may be tried again."""
        with self._lock:
            self.crowd += 1
            try:
                self._call_thread()
                while not (self.closing or self.queue.has_room_for(key)):
                    self._progress.wait()
            finally:
                self.crowd -= 1

    def done_with(self, numbers: Mapping[Any, int]) -> list[Any]:
        """The callers of these writes are done with them. Returns those of the keys that have a newer write by now."""
        late = []
        with self._lock:
            for key, number in numbers.items():
                # a collection may write the key between the two, and be done with that
                if self.setting.get(key) != number or self.setting.pop(key, None) != number:
                    late.append(key)
        return late

    # --- waiting for the store ----------------------------------------------------------------------------------------

    def flush(self, timeout: float | None) -> bool:
        """See `WriteBehind.flush`."""
        if timeout is not None:
            check_seconds("timeout", timeout)
        until = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            if self.thread is threading.current_thread():
                raise RuntimeError("flush would wait for itself: it was called by the store, or by on_dead_letter")
            writes = self.queue.hurry()
            self._call_thread()
            return self._wait_for(writes, until) and not self._lost

    def close(self, timeout: float | None) -> bool:
        """See `WriteBehind.close`."""
        if timeout is not None:
            check_seconds("timeout", timeout)
        until = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            if self.thread is threading.current_thread():
                raise RuntimeError("close would wait for itself: it was called by the store, or by on_dead_letter")
            writes = self._begin_to_close()
            reached = self._wait_for(writes, until) and not self._lost
            self._ends_at = time.monotonic()    # the thread is to end, if it has not
            self._news.notify_all()
            while self.thread is not None and (until is None or time.monotonic() < until):
                self._progress.wait(None if until is None else at_most_a_wait(until - time.monotonic()))
            if self.thread is None and self.journal is not None:
                self.journal.close()            # else the thread does, when the store lets go of it
        return reached

    def _begin_to_close(self) -> list[Write]:
        """Accept nothing more, and have all go out. Returns what the store lacks. Needs the lock."""
        self.closing = True
        writes = self.queue.hurry()
        self._call_thread()
        self._progress.notify_all()             # those who wait for room
        return writes

    @property
    def pending(self) -> int:
        """How many writes the store lacks."""
        with self._lock:
            return len(self.queue.pending) + len(self.queue.flying)

    def _wait_for(self, writes: Sequence[Write], until: float | None) -> bool:
        """Wait until these writes are settled. Returns whether the store has them all. Needs the lock."""
        for write in writes:
            while write.reached is None:
                if self.thread is None:
                    return False                # there is no thread to be had, or it has given up
                if until is None:
                    self._progress.wait()
                elif time.monotonic() >= until:
                    return False
                else:
                    self._progress.wait(at_most_a_wait(until - time.monotonic()))
        return all(write.reached for write in writes)

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _call_thread(self) -> None:
        """Have the thread look at the queue, if there is something in it. Needs the lock."""
        self._wakes_at = 0.0
        if self.thread is None and self.queue.pending:
            self.thread = Thread("cachebox-write-behind", self._run)
            try:
                self.thread.start()
            except RuntimeError:                # no thread to be had, or the process is ending
                self.thread = None
        self._news.notify()

    def _run(self) -> None:
        queue = self.queue
        this = threading.current_thread()
        try:
            while True:
                with self._lock:
                    if self.thread is not this:
                        return                  # the store forked, and this is the child
                    lingers_until = time.monotonic() + LINGERS
                    while True:
                        now = time.monotonic()
                        wait = queue.due(now, self.crowd > 0)
                        if self._is_to_end() or (not queue.pending and (self.closing or now >= lingers_until)):
                            return
                        if wait <= 0.0:
                            break
                        self._wakes_at = now + wait
                        self._news.wait(at_most_a_wait(wait) if queue.pending else lingers_until - now)
                    self._wakes_at = 0.0
                    batch = queue.take()
                if not self._delivery.deliver(batch):
                    return
                if self.journal is not None and self.journal.wants_compaction():
                    self.compact()
        finally:
            with self._lock:
                if self.thread is this:
                    self.thread = None
                    if self._ends_at is not None and self.journal is not None:
                        self.journal.close()
                    self._progress.notify_all()

    def _is_to_end(self) -> bool:
        return self._ends_at is not None and time.monotonic() >= self._ends_at

    def _pause_unless_told_to_end(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        with self._lock:
            while not self._is_to_end():
                left = until - time.monotonic()
                if left <= 0:
                    return True
                self._news.wait(at_most_a_wait(left))
        return False

    def _settled(self, writes: Sequence[Write]) -> None:
        """The store has these."""
        with self._lock:
            for write in writes:
                self.queue.settle(write, True)
                if self._lost:
                    self._lost.pop(write.key, None)
            self._record_as_done([write.journaled for write in writes])
            self._progress.notify_all()

    def _record_as_done(self, numbers: list[int]) -> None:
        """In the journal. Where that fails, they will be replayed, which is allowed; but somebody must know."""
        if self.journal is not None:
            try:
                self.journal.done(numbers)
            except OSError as error:
                report(error, self.journal.path)

    def _refused(self, write: Write, error: BaseException) -> None:
        """The store will not have this one."""
        handled = False
        try:
            if self.on_dead_letter is None:
                raise error
            self.on_dead_letter(write.key, write.value, error)
            handled = True
        except BaseException as failure:
            report(failure, self.on_dead_letter or self.store.given)
        with self._lock:
            self.queue.settle(write, False)
            self._lost[write.key] = None
            if handled:
                self._record_as_done([write.journaled])
            self._progress.notify_all()

    def compact(self) -> None:
        """Rewrite the journal without what the store has."""
        with self._lock:
            queue = self.queue
            writes = [*queue.flying.values(), *queue.pending.values()]
            assert self.journal is not None
            self.journal.compact([(write.journaled, write.key, write.value) for write in writes])

    # --- the end of the process, and forks ----------------------------------------------------------------------------

    def _after_fork(self) -> None:
        """This is a child: what is pending is the parent's to deliver."""
        self._make_locks()
        self.thread = None
        self.crowd = 0
        self.queue.pending.clear()
        self.queue.flying.clear()
        self.setting.clear()
        self._lost.clear()
        self._forked = True
        if self.journal is not None:
            self.journal.abandon()
            self.closing = True


def _drain_all() -> None:
    """At the end of the process: deliver what is pending, all at the same time, each for at most its `exit_timeout`."""
    still_open = [backlog for backlog in list(_open) if not backlog.closing]
    began = time.monotonic()
    for backlog in still_open:
        with backlog._lock:
            backlog._begin_to_close()
    for backlog in still_open:
        backlog.close(max(began + backlog.exit_timeout - time.monotonic(), 0.0))


atexit.register(_drain_all)
