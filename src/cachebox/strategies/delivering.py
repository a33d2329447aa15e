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
"""Seconds after which a store that seems to be down is asked by a write that it may not have seen yet, at most."""
LOOKS_EVERY = 1.0
"""Seconds after which those who wait for the thread make sure that it is there."""


class Delivering:
    """Delivers what is in a queue, from a thread that is there while there is something to deliver.

    Arguments are those of `WriteBehind`, and have been checked.
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
        self.thread: threading.Thread | None = None     # who delivers: a thread of ours, but where none is to be had
        self._is_needed = True                  # whether to make sure that it is there
        self._wakes_at = 0.0                    # when the thread looks again by itself; infinity: when it is called
        self._not_before = 0.0                  # when the store, which seems to be down, is to be asked again
        self.crowd = 0                          # who waits for room
        self.closing = False
        self._ends_at: float | None = None      # once closing: when to give up
        self._down = Trouble("a store takes no writes, which wait and are tried again", "the store takes writes again")
        self._picky = Trouble(
            "a store refuses a write, but takes others; it is tried again", "the store has what it refused before"
        )
        self._notes = Trouble("a journal cannot be told what the store has", "the journal is in order again")
        self._rewriting = Trouble("a journal cannot be rewritten, and grows", "the journal could be rewritten")

    def _make_locks(self) -> None:
        # It guards all the rest, the queue and the journal. Re-entrant: comparing keys, a signal handler or a
        # finalizer may write in the middle of a write.
        self._lock = Section()
        self._news = self._lock.condition()        # for the thread: there is something to do
        self._progress = self._lock.condition()    # for all others: a write was settled, or the thread ended

    # --- whether the thread is there ----------------------------------------------------------------------------------

    def _is_served(self) -> bool:
        """Whether somebody delivers: that is asked of the thread itself."""
        thread = self.thread
        return thread is not None and (thread.runs() if isinstance(thread, Thread) else thread.is_alive())

    def call_thread(self) -> None:
        """Have the thread look at the queue, if there is something in it."""
        with self._lock:
            self._call_thread()
        self._start_thread()

    def _call_thread(self) -> None:
        """Have a thread that is there look at the queue. Needs the lock."""
        self._wakes_at = 0.0
        self._is_needed = True
        self._news.notify_all()

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
            if not isinstance(error, RuntimeError):     # no thread to be had, or the process is ending
                raise

    def _deliver_here(self, left: float) -> bool:
        """Do for a moment, where no thread of ours is to be had, what it would do. False: it is not to go on."""
        with self._lock:
            if self._is_served():
                return True
            now = time.monotonic()
            wait = max(self.queue.due(now, True), self._not_before - now)
            if wait > 0.0:
                self._progress.wait(min(wait, left, LOOKS_EVERY))
                return bool(self.queue.pending)
            self.thread = threading.current_thread()
        try:
            with self._lock:
                batch = self.queue.take(now)
            self._send(batch)
            return True
        finally:
            with self._lock:
                self._put_back_what_flies()
                self.thread = None
                self._progress.notify_all()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """In the thread: deliver all there is. It may have been interrupted anywhere, and begins anew then."""
        with self._lock:
            if self.thread is not threading.current_thread():
                return                          # the store forked, and this is the child
            self._put_back_what_flies()
            self._progress.notify_all()
        while True:
            batch = self._next_batch()
            if batch is None:
                return
            self._send(batch)
            self._compact_if_worth_it()

    def _put_back_what_flies(self) -> None:
        """Needs the lock."""
        now = time.monotonic()
        for write in list(self.queue.flying.values()):
            self.queue.put_back(write, now)

    def _next_batch(self) -> list[Write] | None:
        """Wait for something to send. None: the thread is to end, and has said so."""
        queue = self.queue
        with self._lock:
            lingers_until = time.monotonic() + LINGERS
            while self.thread is threading.current_thread():
                now = time.monotonic()
                wait = max(queue.due(now, self.crowd > 0), self._not_before - now)
                if self._is_to_end() or (not queue.pending and (self.closing or now >= lingers_until)):
                    if self._ends_at is not None:
                        self._close_journal()
                    self.thread = None
                    self._is_needed = True
                    self._progress.notify_all()
                    return None
                if wait <= 0.0 and queue.pending:
                    self._wakes_at = 0.0
                    return queue.take(now)
                self._wakes_at = now + wait
                self._news.wait(at_most_a_wait(wait) if queue.pending else lingers_until - now)
        return None

    def _is_to_end(self) -> bool:
        return self._ends_at is not None and time.monotonic() >= self._ends_at

    def _send(self, batch: list[Write]) -> None:
        """Deliver a batch, and see to what failed."""
        retries = self.retries
        thorough = retries is not None and max([write.tries for write in batch]) >= retries
        failed = sorted(self._delivery.deliver(batch, thorough), key=lambda each: each.write.first)
        fruitless = self._delivery.fruitless
        dead = []
        with self._lock:
            now = time.monotonic()
            self._not_before = now + min(self._pause_after(fruitless), ASKED_EVERY) if fruitless else 0.0
            due: dict[int, float] = {}          # those that failed together are tried together again
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
            self._progress.notify_all()
        if len(failed) > len(dead) and fruitless:
            self._down.begin(failed[0].error)
        elif self._delivery.reached:
            self._down.end()
        if refused and not dead:
            self._picky.begin(refused[0])
        elif not self.queue.pending:
            self._picky.end()
        for write, error in dead:
            self._letters.tell(write, error)    # before anybody who waits for it hears that it is settled
            with self._lock:
                self.queue.settle(write, False)
                self._progress.notify_all()

    def _pause_after(self, failures: int) -> float:
        return pause_after(failures, self.backoff, self.max_backoff)

    def _settled(self, writes: Sequence[Write]) -> None:
        """The store has these."""
        with self._lock:
            for write in writes:
                self.queue.settle(write, True)
                if self._letters.kept:          # it was told of, and interrupted before it was settled
                    self._letters.drop(write.key)
            trouble = self._record_as_done([write.journaled for write in writes])
            self._progress.notify_all()
        self._note(trouble)

    # --- the journal --------------------------------------------------------------------------------------------------

    def _record_as_done(self, numbers: list[int]) -> OSError | None:
        """In the journal. Where that fails, they may be replayed, which is allowed. Needs the lock."""
        if self.journal is not None and numbers:
            try:
                self.journal.done(numbers)
            except OSError as error:
                return error
        return None

    def _note(self, trouble: BaseException | None) -> None:
        """Tell of the journal's state. Without the lock."""
        if trouble is not None:
            self._notes.begin(trouble)
        else:
            self._notes.end()

    def _compact_if_worth_it(self) -> None:
        """Rewrite the journal without what the store has. Where that fails, it goes on growing."""
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
