"""The queue of a `WriteBehind`: the writes for the store, and their order.

At most one write of a key is pending, and at most one is in flight to the store. A new write of a pending key replaces
its value; a new write of a key in flight waits. So writes of a key reach the store in order, and the last one always
does. A failed write becomes pending again, unless a newer one of its key is pending by then. Nothing here waits or
locks: the owner calls one method at a time, and passes the time.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count, islice
from typing import Any


class Write:
    """An accepted write: of a value, or MISSING for a delete."""

    __slots__ = (
        "accepted", "alone", "due", "failed_in", "first", "into", "journaled", "key", "number", "reached", "serial",
        "tries", "value",
    )  # fmt: skip

    def __init__(self, key: Any, value: Any, number: int, accepted: float, journaled: tuple[int, ...]) -> None:
        self.key = key
        self.value = value
        self.number = number            # of its newest value, in the order of acceptance
        self.serial = self.first = number   # of its oldest value
        self.accepted = accepted        # when its oldest value was accepted
        self.journaled = journaled      # numbers in the journal, of the newest value last; its end is the end of all
        self.reached: bool | None = None    # whether the store has it; None: it is under way
        self.into: Write | None = None  # the newer write of its key that replaces it
        self.tries = 0                  # failed attempts with its newest value
        self.failed_in = 0              # the number of the call in which it last failed alone
        self.alone = False              # the store refuses this one, and takes others: send it alone
        self.due: float | None = None   # when to try again; None: it was not tried yet


class WriteQueue:
    """Writes that wait, by key.

    Args:
        batch_size: how many writes go out together.
        max_delay: seconds that a write waits for others.
        max_queue: the most writes that are pending or in flight.
    """

    def __init__(self, batch_size: int, max_delay: float, max_queue: int) -> None:
        self.batch_size = batch_size
        self.max_delay = max_delay
        self.max_queue = max_queue
        self.pending: dict[Any, Write] = {}
        self.in_flight: dict[Any, Write] = {}
        self.promised = 0               # places reserved for writes that are about to be accepted
        self.accepted = 0               # values accepted so far
        self.due_up_to = 0              # writes up to this number go out without waiting for others
        self.fresh: dict[int, Write] = {}   # pending, and not tried yet; by serial, oldest first
        self._again: list[tuple[float, int, Write]] = []    # a heap of failed writes; outdated items stay until popped
        self._plans = count()           # a tie-breaker, so that writes are never compared

    def has_room_for(self, key: Any) -> bool:
        """Whether a write of that key can be accepted. O(1)."""
        return key in self.pending or len(self.pending) + len(self.in_flight) + self.promised < self.max_queue

    def accept(self, key: Any, value: Any, now: float, journaled: tuple[int, ...]) -> Write:
        """Accept a write for which there is room. O(1); O(log n) if an earlier write of the key has failed."""
        self.accepted = number = self.accepted + 1
        write = self.pending.get(key)
        if write is None:
            new = self.fresh[number] = Write(key, value, number, now, journaled)
            try:
                write = self.pending.setdefault(key, new)
            except BaseException:       # comparing keys may raise
                self.fresh.pop(number, None)
                raise
            if write is not new:        # a signal handler or a finalizer has accepted one in between
                self.fresh.pop(number, None)
        else:
            new = None
        if write is not new:
            if write.due is not None:
                self._plan(write, now)
            if number > write.number:
                write.number = number
            write.journaled += journaled        # before the value: an interruption must not leave a value without it
            write.value = value
            write.tries = write.failed_in = 0
            write.alone = False
        return write

    def find(self, key: Any) -> Write | None:
        """The newest write of a key that the store may lack. O(1), and safe from any thread."""
        write = self.pending.get(key)
        if write is None:
            write = self.in_flight.get(key)
            if write is None:
                write = self.pending.get(key)       # between the two looks one may have left, and a new one come
        return write

    def due(self, now: float, crowded: bool) -> float:
        """Seconds until a batch should go out; 0 or less: now; infinity: not until there are writes."""
        again = self._next_again()
        soonest = float("inf") if again is None else again - now
        if self.fresh:
            if crowded or len(self.fresh) >= self.batch_size:
                return 0.0
            (oldest,) = self._oldest(1)
            soonest = min(soonest, 0.0 if oldest.first <= self.due_up_to else oldest.accepted + self.max_delay - now)
        return soonest

    def _next_again(self) -> float | None:
        """When the next failed write is tried again."""
        again = self._again
        while again and again[0][2].due != again[0][0]:
            heappop(again)
        return again[0][0] if again else None

    def _plan(self, write: Write, due: float) -> None:
        """Schedule another attempt of a write."""
        heappush(self._again, (due, next(self._plans), write))
        write.due = due

    def _oldest(self, n: int) -> tuple[Write, ...]:
        while True:
            try:
                return tuple(islice(self.fresh.values(), n))
            except RuntimeError:        # a collection has run a finalizer that writes
                continue

    def take(self, now: float) -> list[Write]:
        """The next batch: due retries, then new writes, oldest first. They are in flight from now on."""
        batch: list[Write] = []
        while len(batch) < self.batch_size:
            again = self._next_again()
            if again is None or again > now:
                break
            write = self._again[0][2]
            self._put_in_flight(write)          # before it leaves the heap, so that it is always somewhere
            heappop(self._again)
            batch.append(write)
        for write in self._oldest(self.batch_size - len(batch)):
            self._put_in_flight(write)
            del self.fresh[write.serial]
            batch.append(write)
        return batch

    def _put_in_flight(self, write: Write) -> None:
        self.in_flight[write.key] = write       # in both for a moment, so that a reader always finds it
        del self.pending[write.key]
        write.due = None

    def settle(self, write: Write, reached: bool) -> None:
        """A write in flight has reached the store, or never will."""
        write.reached = reached
        if self.in_flight.get(write.key) is write:
            del self.in_flight[write.key]

    def put_back(self, write: Write, due: float) -> None:
        """Queue a failed write again, for that time; or the newer write of its key instead."""
        newer = self.pending.get(write.key)
        if newer is None or newer is write:     # `take` was interrupted
            self._plan(write, due)
            self.pending[write.key] = write
        else:
            newer.first = min(newer.first, write.first)
            if newer.due is None:               # callers that wait for the older write wait for this one now
                self.fresh.pop(newer.serial, None)
                self._plan(newer, due)
            newer.journaled = write.journaled + newer.journaled
            write.into = newer
        self.fresh.pop(write.serial, None)
        self.in_flight.pop(write.key, None)

    def make_all_due(self, now: float) -> list[Write]:
        """Let all writes go out at once, without waiting for others or for their next attempt. Returns them."""
        self.due_up_to = self.accepted
        planned = {write.serial: write for _, _, write in self._again if write.due is not None}
        self._again = []
        for write in planned.values():
            self._plan(write, min(now, write.due or now))
        return [*self.in_flight.values(), *self.pending.values()]

    def clear(self) -> None:
        """Forget all writes."""
        self.pending.clear()
        self.in_flight.clear()
        self.fresh.clear()
        self._again.clear()
        self.promised = 0
