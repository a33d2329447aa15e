"""The backlog: the writes that a store lacks, in a queue, with a journal and the thread that delivers them.

It knows nothing of a cache. `WriteBehind` adds writes, and asks for the newest of a key.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cachebox._platform.at_fork import renew_in_child
from cachebox._platform.trouble import Trouble
from cachebox.cache import MISSING
from cachebox.strategies.dead_letters import DeadLetter
from cachebox.strategies.delivering import LOOKS_EVERY, Delivering
from cachebox.strategies.draining import drain_at_exit
from cachebox.strategies.errors import QueueFull
from cachebox.strategies.journal import Journal
from cachebox.strategies.store import Store
from cachebox.strategies.unfinished import Unfinished
from cachebox.strategies.until import Until
from cachebox.strategies.watches import Watch, Watches
from cachebox.strategies.write_queue import Write, WriteQueue

_CLOSED = "this WriteBehind has been closed"


class Backlog(Delivering):
    """Writes on their way to a store. Safe from any thread.

    The arguments are those of `WriteBehind`, already checked. `waits`: whether writes wait for room.
    """

    def __init__(
        self, store: Store, queue: WriteQueue, journal: Journal | None, *, waits: bool, exit_timeout: float, **how: Any
    ) -> None:
        super().__init__(store, queue, journal, **how)
        self.exit_timeout = exit_timeout
        self.waits = waits
        self.watches = Watches()                # of callers that read a key to write it
        self.unfinished: dict[Any, Unfinished] = {}     # by key
        self._unsynced: dict[int, _Accepted] = {}       # in the journal, not yet on the disk; by journal number
        self._forked = False
        self._full = Trouble("a journal cannot be written, so writes are refused", "the journal can be written again")
        if journal is not None:
            now = time.monotonic()
            for number, key, value in journal.replayed:
                queue.accept(key, value, now, (number,))
            journal.replayed = []
        drain_at_exit(self)
        renew_in_child(self)
        if queue.pending:
            self.call_thread()

    # --- putting writes in --------------------------------------------------------------------------------------------

    def check_open(self) -> None:
        """Raise RuntimeError if the backlog was closed."""
        if self.closing:
            raise RuntimeError(_CLOSED)

    def accept(self, key: Any, value: Any, numbers: dict[Any, int], watch: Watch | None = None) -> None:
        """Add a write to the journal and the queue, and its number, for `done_with`, to `numbers`.

        If the key was written since `watch` began, nothing is accepted, and `numbers` stays empty. Raises
        RuntimeError after `close`, `QueueFull` if there is no room and writes do not wait, TypeError if the journal
        cannot hold the write, and OSError if the journal cannot be written. Nothing has changed after an error.
        """
        journal = self.journal
        payload = b"" if journal is None else journal.encode(key, value)
        write = None if journal is None or not journal.waits_for_disk else _Accepted(key, value, numbers)
        try:
            while not self._accept_if_there_is_room(key, value, numbers, payload, write, watch):
                if watch is not None and watch.was_written:
                    return
                self.wait_until_there_is_room(key, Until())
            if journal is not None:
                if self._full.is_on:
                    self._full.end()
                if write is None:
                    journal.sync_soon()
                else:
                    self._wait_for_disk(write)
        except BaseException as error:
            # if another thread's sync came first, the write is accepted, and a failed one of our own does not matter
            if write is None or self._withdraw(write) or not isinstance(error, OSError) or not write.is_accepted:
                raise
        if self._is_needed:
            self._start_thread()

    def _accept_if_there_is_room(
        self,
        key: Any,
        value: Any,
        numbers: dict[Any, int],
        payload: bytes,
        write: _Accepted | None,
        watch: Watch | None,
    ) -> bool:
        journal = self.journal
        older = None
        try:
            with self._lock:
                if self.closing or not self.queue.has_room_for(key):
                    self._refuse_to_wait_for_room()
                    return False
                if watch is not None and self._is_promised(key):
                    self._has_progressed.wait(LOOKS_EVERY)      # the disk may refuse it yet
                    return False
                if watch is not None and watch.was_written:
                    return False
                if journal is None:
                    # dropped without the lock, because its __del__ may run
                    older = self._enqueue(key, value, numbers)
                    return True
                journaled = journal.append(payload, value is MISSING)
                try:
                    if write is not None:
                        write.journaled = journaled
                        self._unsynced[journaled] = write
                        self.queue.promised = len(self._unsynced)
                    else:
                        older = self._enqueue(key, value, numbers, journaled)
                except BaseException:
                    if write is None:
                        self._take_back(journaled)
                    raise
        except OSError as error:
            if journal is not None:
                self._full.begin(error)
            raise
        del older
        return True

    def _refuse_to_wait_for_room(self) -> None:
        """Raise if a write must not wait. Needs the lock."""
        if self._forked and self.journal is not None:
            raise RuntimeError("the journal belongs to the process that was forked: open another one")
        self.check_open()
        if not self.waits or self.thread is threading.current_thread():     # the thread would wait for itself
            raise QueueFull(f"{self.queue.max_queue} keys are waiting for the store already (max_queue)")

    def _is_promised(self, key: Any) -> bool:
        """Whether another thread's write of a key is recorded, but not accepted yet. Needs the lock.

        A signal handler does not wait for the call that it has interrupted.
        """
        if not self._unsynced:
            return False
        here = threading.get_ident()
        return key in {write.key for write in list(self._unsynced.values()) if write.thread != here}

    def _take_back(self, journaled: int) -> None:
        """Record in the journal that a write is not accepted, unless the queue has it after all. Needs the lock.

        O(n). Compares no keys, because that may have been what raised.
        """
        writes = [*self.queue.pending.values(), *self.queue.in_flight.values()]
        if self.journal is not None and not any(journaled in write.journaled for write in writes):
            self.journal.take_back(journaled)

    def _withdraw(self, write: _Accepted) -> bool:
        """Forget a write that was to be accepted, in the journal, too. Returns False if it is accepted, or never was in
        the journal."""
        with self._lock:
            was_there = self._unsynced.pop(write.journaled, None) is not None
            self.queue.promised = len(self._unsynced)
            if was_there:
                self._take_back(write.journaled)
            self._has_progressed.notify_all()
        return was_there

    def _enqueue(self, key: Any, value: Any, numbers: dict[Any, int], *journaled: int) -> object:
        """Accept a write that the journal, if any, has. Returns what it replaces. Needs the lock."""
        queue, journal, letters = self.queue, self.journal, self._letters
        number = numbers[key] = queue.accepted + 1      # before any change, because comparing keys may raise
        self._unfinished_of(key).numbers.add(number)
        letter = letters.find(key) if letters.kept else None
        replaced = queue.pending.get(key)
        older: Any = None if replaced is None else replaced.value
        now = time.monotonic()
        write = queue.accept(key, value, now, journaled if letter is None else letter.journaled + journaled)
        self.watches.note((key,))               # readers see the write from here on
        if write.number != number:              # a finalizer has accepted a write in between
            self._unfinished_of(key).numbers.discard(number)
            number = numbers[key] = write.number
        self._begin_unfinished(key, number, value)
        if letter is not None:
            older = older, letters.drop(key)
        if len(write.journaled) > 1 and journal is not None:
            *replaced_numbers, last = write.journaled
            journal.drop(replaced_numbers)
            # a finalizer's write may stand later in the file: it is done with this one, not before
            write.journaled = *[number for number in replaced_numbers if number > last], last
        wakes_at = self._wakes_at
        if len(queue.fresh) == queue.batch_size or (now + queue.max_delay < wakes_at > self._not_before):
            self._call_thread()
        elif now > wakes_at + LOOKS_EVERY:
            self._is_needed = True              # it should have looked by now: it is busy, or it has ended
        return older

    def _wait_for_disk(self, write: _Accepted) -> None:
        """Wait until the disk has the journal's record; then accept the write, in the order of the journal."""
        journal = self.journal
        assert journal is not None
        try:
            if journal.is_doubtful:
                with self._lock:
                    journal.compact()
            journal.sync()
        except OSError as error:
            self._full.begin(error)
            raise
        older: list[object] = []
        with self._lock:
            while write.journaled in self._unsynced:
                first = next(iter(self._unsynced.values()))
                if first.key in first.numbers:  # the thread that was accepting it was interrupted
                    self.done_with({first.key: first.numbers[first.key]})
                try:
                    older.append(self._enqueue(first.key, first.value, first.numbers, first.journaled))
                    first.is_accepted = True
                except Exception as error:      # comparing its key has raised: that is for its own caller
                    if first is write:
                        raise
                    first.error = error
                    self._take_back(first.journaled)
                self._unsynced.pop(first.journaled, None)
                self.queue.promised = len(self._unsynced)
            self._has_progressed.notify_all()
        del older
        if write.error is not None:
            raise write.error

    def wait_until_settled_in(self, key: Any) -> None:
        """Wait until no write of a key is on its way to the disk: such a write is recorded, but not accepted yet."""
        with self._lock:
            while self._is_promised(key):
                self._has_progressed.wait(LOOKS_EVERY)

    def wait_until_there_is_room(self, key: Any, until: Until) -> None:
        """Wait until `accept` may be tried again, or `until` has passed."""
        with self._lock:
            self.blocked_writers += 1
        try:
            while True:
                self.call_thread()
                with self._lock:
                    if self.closing or self.queue.has_room_for(key) or until.left() <= 0.0:
                        return
                    self._has_progressed.wait(LOOKS_EVERY)
        finally:
            with self._lock:
                self.blocked_writers -= 1

    def _unfinished_of(self, key: Any) -> Unfinished:
        """The unfinished writes of a key. Needs the lock."""
        unfinished = self.unfinished.get(key)
        return self.unfinished.setdefault(key, Unfinished()) if unfinished is None else unfinished

    def _begin_unfinished(self, key: Any, number: int, value: Any) -> None:
        """Note the newest write of a key, whose caller is not done. Needs the lock."""
        unfinished = self._unfinished_of(key)
        unfinished.numbers.add(number)
        unfinished.value = value
        unfinished.newest = number

    def outdated(self, numbers: Mapping[Any, int]) -> list[Any]:
        """Those keys of unfinished writes that have a newer write by now. Safe from any thread."""
        outdated = []
        for key, number in numbers.items():
            unfinished = self.unfinished.get(key)
            if unfinished is None or unfinished.newest != number:
                outdated.append(key)
        return outdated

    def done_with(self, numbers: Mapping[Any, int]) -> None:
        """Mark writes as done by their callers."""
        with self._lock:
            for key, number in numbers.items():
                unfinished = self.unfinished.get(key)
                if unfinished is not None:
                    unfinished.numbers.discard(number)
                    # a finalizer may write the key in between, and be done with that write
                    if not unfinished.numbers and self.unfinished.get(key) is unfinished:
                        self.unfinished.pop(key, None)

    # --- dead letters -------------------------------------------------------------------------------------------------

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """The writes that the store refused, oldest first."""
        with self._lock:
            return self._letters.listed()

    def retry_dead_letters(self) -> dict[Any, int]:
        """Accept the dead letters again, even if there is no room. Returns their numbers, for `done_with`."""
        numbers: dict[Any, int] = {}
        with self._lock:
            self.check_open()
            now = time.monotonic()
            for write in self._letters.writes():
                number = self.queue.accept(write.key, write.value, now, write.journaled).number
                self.watches.note((write.key,))
                numbers[write.key] = number
                self._begin_unfinished(write.key, number, write.value)
                self._letters.drop(write.key)
            self.queue.make_all_due(now)
        self.call_thread()
        return numbers

    def discard_dead_letters(self) -> list[DeadLetter]:
        """Forget the dead letters, in the journal, too. Returns them."""
        with self._lock:
            letters = self._letters.listed()
            trouble = self._record_as_done(self._letters.writes())
            self._letters.clear()
        self._note(trouble)
        return letters

    # --- waiting for the store ----------------------------------------------------------------------------------------

    def flush(self, until: Until) -> bool:
        """See `WriteBehind.flush`."""
        self._refuse_to_wait_for_itself("flush")
        with self._lock:
            writes = self.queue.make_all_due(time.monotonic())
        self.call_thread()
        return self._wait_for(writes, until) and not self._letters.kept

    def close(self, until: Until) -> bool:
        """See `WriteBehind.close`."""
        self._refuse_to_wait_for_itself("close")
        self.begin_to_close()
        with self._lock:
            while self._unsynced and until.left() > 0.0:        # writes about to be accepted
                self._has_progressed.wait(min(until.left(), LOOKS_EVERY))
            writes = self.queue.make_all_due(time.monotonic())
            self._call_thread()
        reached = self._wait_for(writes, until) and not self._letters.kept
        with self._lock:
            self._ends_at = time.monotonic()    # the thread must end, if it has not
            self._has_work.notify_all()
            while self._is_served() and until.left() > 0.0:
                self._has_progressed.wait(min(until.left(), LOOKS_EVERY))
            if not self._is_served():
                self._close_journal()           # else the thread closes it when the store returns
        return reached

    def _refuse_to_wait_for_itself(self, what: str) -> None:
        if self.thread is threading.current_thread():
            raise RuntimeError(f"{what} would wait for itself: it was called by the store, or by on_dead_letter")

    def give_up(self, until: Until) -> None:
        """End the wait of those who use `until`."""
        until.at = 0.0
        with self._lock:
            self._has_progressed.notify_all()

    def begin_to_close(self) -> None:
        """Accept no more writes, and send all pending ones at once."""
        with self._lock:
            self.closing = True
            self.queue.make_all_due(time.monotonic())
            self._has_progressed.notify_all()       # wakes writers that wait for room
        self.call_thread()

    @property
    def pending(self) -> int:
        """How many writes the store still lacks, without dead letters."""
        with self._lock:
            return len(self.queue.pending) + len(self.queue.in_flight)

    def drain(self, timeout: float) -> bool:
        """Close, with a time limit: see `draining`."""
        return self.close(Until(timeout))

    def undelivered(self) -> str:
        """The writes that the store lacks, in words."""
        where = "they are lost" if self.journal is None else "they are in the journal"
        return f"{self.pending + len(self.dead_letters)} writes: {where}"

    def _wait_for(self, writes: Sequence[Write], until: Until) -> bool:
        """Wait until these writes are settled. Returns whether the store has them all."""
        reached = True
        for write in writes:
            while True:
                with self._lock:
                    while write.into is not None:
                        write = write.into      # the newer write replaces it
                    if write.reached is not None:
                        break
                    left = until.left()
                    if left <= 0.0 or (self._is_to_end() and not self._is_served()):
                        return False
                    if self._is_served():
                        self._has_progressed.wait(min(left, LOOKS_EVERY))
                        continue
                self.call_thread()
                if not self._is_served() and not self._deliver_here(left):
                    return False
            reached = reached and bool(write.reached)
        return reached

    # --- the end of the process, and forks ----------------------------------------------------------------------------

    def _after_fork(self) -> None:
        """After a fork, in the child: forget the pending writes, which the parent delivers."""
        self._make_locks()
        self.thread = None
        self.blocked_writers = 0
        self.queue.clear()
        self._unsynced = {}
        self.unfinished.clear()
        self._letters.clear()
        self._forked = True
        if self.journal is not None:
            self.journal.abandon()
            self.closing = True


class _Accepted:
    """A write that is recorded, and about to be accepted."""

    __slots__ = ("error", "is_accepted", "journaled", "key", "numbers", "thread", "value")

    def __init__(self, key: Any, value: Any, numbers: dict[Any, int]) -> None:
        self.key = key
        self.value = value
        self.numbers = numbers          # receives its number
        self.journaled = 0              # its number in the journal
        self.thread = threading.get_ident()     # the caller's
        self.is_accepted = False
        self.error: Exception | None = None     # why it could not be accepted
