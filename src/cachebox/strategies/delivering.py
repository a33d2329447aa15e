"""The thread that delivers the writes of a queue to a store, and records in the journal what the store has."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from cachebox._platform.section import Section
from cachebox._platform.thread import Thread
from cachebox._platform.trouble import Trouble
from cachebox.strategies.dead_letters import DeadLetters
from cachebox.strategies.delivery import Delivery, pause_after
from cachebox.strategies.journal import Journal
from cachebox.strategies.options import at_most_a_wait
from cachebox.strategies.store import Store
from cachebox.strategies.write_queue import Write, WriteQueue

LINGERS = 5.0
"""Seconds that the thread stays when there is nothing to write."""
ASKED_EVERY = 1.0
"""The longest pause in seconds after which a store that seems down gets a write that it may not have seen yet."""
LOOKS_EVERY = 1.0
"""Seconds after which waiting callers check that the thread is there."""


class Delivering:
    """Delivers the writes of a queue, by a thread that exists while there is something to deliver.

    The arguments are those of `WriteBehind`, already checked.
    """

    def __init__(
        self,
        store: Store,
        queue: WriteQueue,
        journal: Journal | None,
        *,
        retries: int | None,
        backoff: float,
        max_backoff: float,
        on_dead_letter: Any,
    ) -> None:
        self.queue = queue
        self.journal = journal
        self.retries = retries
        self.backoff = backoff
        self.max_backoff = max_backoff
        self._delivery = Delivery(store, self._settled)
        self._letters = DeadLetters(on_dead_letter)
        self._make_locks()
        # the delivering thread: the background thread, or a caller's if none can start
        self.thread: threading.Thread | None = None
        self._is_needed = True                  # whether to check that the thread is there
        self._wakes_at = 0.0                    # when the thread looks again by itself; infinity: when called
        self._not_before = 0.0                  # when a store that seems down is asked again
        self.blocked_writers = 0                # how many callers wait for room
        self.closing = False
        self._ends_at: float | None = None      # once closing: when to give up
        self._down = Trouble("a store takes no writes, which wait and are tried again", "the store takes writes again")
        self._picky = Trouble(
            "a store refuses a write, but takes others; it is tried again", "the store has what it refused before"
        )
        self._notes = Trouble("a journal cannot record what the store has", "the journal is in order again")
        self._rewriting = Trouble("a journal cannot be rewritten, and grows", "the journal could be rewritten")

    def _make_locks(self) -> None:
        # Guards everything else, the queue and the journal. Re-entrant, because comparing keys, a signal handler or a
        # finalizer may write in the middle of a write.
        self._lock = Section()
        self._has_work = self._lock.condition()         # for the thread: there is something to do
        self._has_progressed = self._lock.condition()   # for all others: a write was settled, or the thread ended

    # --- whether the thread is there ----------------------------------------------------------------------------------

    def _is_served(self) -> bool:
        """Whether a thread delivers: the thread itself is asked."""
        thread = self.thread
        return thread is not None and (thread.runs() if isinstance(thread, Thread) else thread.is_alive())

    def call_thread(self) -> None:
        """Make the thread look at the queue; start it if there is something in the queue."""
        with self._lock:
            self._call_thread()
        self._start_thread()

    def _call_thread(self) -> None:
        """Make a running thread look at the queue. Needs the lock."""
        self._wakes_at = 0.0
        self._is_needed = True
        self._has_work.notify_all()

    def _start_thread(self) -> None:
        """Start the thread if it is missing and there is something to deliver."""
        thread = None
        self._is_needed = False
        try:
            if self._is_served() or not self.queue.pending:
                return
            with self._lock:
                if self._is_served() or not self.queue.pending or self._is_to_end():
                    return
                self.thread = thread = Thread("cachebox-write-behind", self._run)
            thread.start()
        except BaseException as error:
            with self._lock:
                self._is_needed = True
                if self.thread is thread:
                    self.thread = None
            if not isinstance(error, RuntimeError):     # no thread can be started, or the process is ending
                raise

    def _deliver_here(self, left: float) -> bool:
        """Deliver once from the calling thread, because no other can be started. Returns False if there is nothing
        left."""
        with self._lock:
            if self._is_served():
                return True
            now = time.monotonic()
            wait = max(self.queue.due(now, True), self._not_before - now)
            if wait > 0.0:
                self._has_progressed.wait(min(wait, left, LOOKS_EVERY))
                return bool(self.queue.pending)
            self.thread = threading.current_thread()
        try:
            with self._lock:
                batch = self.queue.take(now)
            self._send(batch)
            return True
        finally:
            with self._lock:
                self._put_back_in_flight()
                self.thread = None
                self._has_progressed.notify_all()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Deliver until nothing is left, in the thread. Starts over after an interruption, which may come anywhere."""
        with self._lock:
            if self.thread is not threading.current_thread():
                return                          # the store forked, and this is the child
            self._put_back_in_flight()
            self._has_progressed.notify_all()
        while True:
            batch = self._next_batch()
            if batch is None:
                return
            self._send(batch)
            self._compact_if_worth_it()

    def _put_back_in_flight(self) -> None:
        """Queue again what was in flight. Needs the lock."""
        now = time.monotonic()
        for write in list(self.queue.in_flight.values()):
            self.queue.put_back(write, now)

    def _next_batch(self) -> list[Write] | None:
        """Wait for a batch to send. None: the thread must end, and is no longer registered."""
        queue = self.queue
        with self._lock:
            lingers_until = time.monotonic() + LINGERS
            while self.thread is threading.current_thread():
                now = time.monotonic()
                wait = max(queue.due(now, self.blocked_writers > 0), self._not_before - now)
                if self._is_to_end() or (not queue.pending and (self.closing or now >= lingers_until)):
                    if self._ends_at is not None:
                        self._close_journal()
                    self.thread = None
                    self._is_needed = True
                    self._has_progressed.notify_all()
                    return None
                if wait <= 0.0 and queue.pending:
                    self._wakes_at = 0.0
                    return queue.take(now)
                self._wakes_at = now + wait
                self._has_work.wait(at_most_a_wait(wait) if queue.pending else lingers_until - now)
        return None

    def _is_to_end(self) -> bool:
        return self._ends_at is not None and time.monotonic() >= self._ends_at

    def _send(self, batch: list[Write]) -> None:
        """Deliver a batch. A failed write is queued again, or becomes a dead letter."""
        retries = self.retries
        thorough = retries is not None and max([write.tries for write in batch]) >= retries
        failed = sorted(self._delivery.deliver(batch, thorough), key=lambda each: each.write.first)
        fruitless = self._delivery.fruitless
        dead = []
        with self._lock:
            now = time.monotonic()
            self._not_before = now + min(self._pause_after(fruitless), ASKED_EVERY) if fruitless else 0.0
            due: dict[int, float] = {}          # writes that failed together are tried together again
            for write, error in failed:
                write.tries += 1
                if retries is not None and write.tries > retries and write.key not in self.queue.pending:
                    self._letters.keep(write, error)
                    dead.append((write, error))
                else:
                    if write.tries not in due:
                        due[write.tries] = now + self._pause_after(write.tries)
                    self.queue.put_back(write, due[write.tries])
            refused = [error for write, error in failed if write.alone]
            self._has_progressed.notify_all()
        if len(failed) > len(dead) and fruitless:
            self._down.begin(failed[0].error)
        elif self._delivery.reached:
            self._down.end()
        if refused and not dead:
            self._picky.begin(refused[0])
        elif not self.queue.pending:
            self._picky.end()
        for write, error in dead:
            self._letters.tell(write, error)    # before a waiter learns that the write is settled
            with self._lock:
                self.queue.settle(write, False)
                self._has_progressed.notify_all()

    def _pause_after(self, failures: int) -> float:
        return pause_after(failures, self.backoff, self.max_backoff)

    def _settled(self, writes: Sequence[Write]) -> None:
        """Settle writes that the store has."""
        with self._lock:
            trouble = self._record_as_done(writes)      # first, because an interruption has unsettled writes sent again
            for write in writes:
                self.queue.settle(write, True)
                if self._letters.kept:          # it was reported, and the thread was interrupted before it was settled
                    self._letters.drop(write.key)
            self._has_progressed.notify_all()
        self._note(trouble)

    # --- the journal --------------------------------------------------------------------------------------------------

    def _record_as_done(self, writes: Sequence[Write]) -> OSError | None:
        """Record in the journal that the store has these writes. If that fails, they may be replayed, which is
        allowed. Needs the lock."""
        numbers = [number for write in writes for number in write.journaled]
        if self.journal is not None and numbers:
            try:
                self.journal.done(numbers)
            except OSError as error:
                return error
        return None

    def _note(self, trouble: BaseException | None) -> None:
        """Log whether the journal works. Without the lock."""
        if trouble is not None:
            self._notes.begin(trouble)
        else:
            self._notes.end()

    def _compact_if_worth_it(self) -> None:
        """Rewrite the journal without what the store has, if that is worth it. If it fails, the journal goes on
        growing."""
        journal = self.journal
        if journal is None or not journal.wants_compaction():
            return
        try:
            with self._lock:
                journal.compact()
        except Exception as error:
            self._rewriting.begin(error)
        else:
            self._rewriting.end()

    def _close_journal(self) -> None:
        if self.journal is not None:
            try:
                self.journal.close()
            except OSError as error:
                self._notes.begin(error)
