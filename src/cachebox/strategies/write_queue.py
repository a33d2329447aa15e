"""The queue of a `WriteBehind`: what the store is to get, and in which order.

At most one write of a key is pending, and at most one is flying, on its way to the store. A write of a key that is
pending replaces its value; one of a key that is flying waits its turn: so writes of a key reach the store in order, and
the last one always does. Nothing here waits or locks: the owner calls one method at a time, and tells the time.
"""

from __future__ import annotations

from itertools import islice
from typing import Any


class Write:
    """A write that was accepted: of a value, or MISSING for a delete."""

    __slots__ = ("accepted", "first", "journaled", "key", "number", "reached", "value")

    def __init__(self, key: Any, value: Any, number: int, accepted: float, journaled: int) -> None:
        self.key = key
        self.value = value
        self.number = number            # of its newest value, in the order in which values were accepted
        self.first = number             # ... and of its oldest
        self.accepted = accepted        # when its oldest value was
        self.journaled = journaled      # the newest value's number in the journal
        self.reached: bool | None = None    # whether the store has it; None: it is under way


class WriteQueue:
    """Writes that wait, by key, oldest first.

    Args:
        batch_size: how many writes go out together.
        max_delay: seconds that a write waits for others.
        max_queue: the most writes that are pending or flying.
    """

    def __init__(self, batch_size: int, max_delay: float, max_queue: int) -> None:
        self.batch_size = batch_size
        self.max_delay = max_delay
        self.max_queue = max_queue
        self.pending: dict[Any, Write] = {}
        self.flying: dict[Any, Write] = {}
        self.accepted = 0               # values, so far
        self.coalesced = 0              # of them, those that were replaced before they went out
        self.hurried = 0                # all up to this number are to go out without waiting for others

    def has_room_for(self, key: Any) -> bool:
        """Whether a write of that key can be accepted. O(1)."""
        return key in self.pending or len(self.pending) + len(self.flying) < self.max_queue

    def accept(self, key: Any, value: Any, now: float, journaled: int) -> Write:
        """Accept a write for which there is room. O(1)."""
        self.accepted = number = self.accepted + 1
        write = self.pending.get(key)
        if write is None:
            write = self.pending[key] = Write(key, value, number, now, journaled)
        else:
            self.coalesced += 1
            write.number = number
            write.journaled = journaled
            write.value = value
        return write

    def find(self, key: Any) -> Write | None:
        """The newest write of a key that the store may lack. O(1), and safe from any thread."""
        write = self.pending.get(key)
        if write is None:
            write = self.flying.get(key)
            if write is None:
                write = self.pending.get(key)       # it may have come, and a flying one gone, between the two looks
        return write

    def due(self, now: float, crowded: bool) -> float:
        """Seconds until a batch is to go out: 0 or less: now; infinity: not before there are writes."""
        if not self.pending:
            return float("inf")
        if crowded or len(self.pending) >= self.batch_size:
            return 0.0
        (oldest,) = self._oldest(1)
        return 0.0 if oldest.first <= self.hurried else oldest.accepted + self.max_delay - now

    def _oldest(self, n: int) -> tuple[Write, ...]:
        while True:
            try:
                return tuple(islice(self.pending.values(), n))
            except RuntimeError:        # a collection has just run a finalizer that writes
                continue

    def take(self) -> list[Write]:
        """The next batch, oldest writes first. They are flying from now on."""
        oldest = self._oldest(self.batch_size + len(self.flying))
        batch = [write for write in oldest if write.key not in self.flying][: self.batch_size]
        for write in batch:
            self.flying[write.key] = write          # in both for a moment, so that whoever looks finds it
            del self.pending[write.key]
        return batch

    def settle(self, write: Write, reached: bool) -> None:
        """A flying write has reached the store, or never will."""
        write.reached = reached
        del self.flying[write.key]

    def hurry(self) -> list[Write]:
        """Let all go out without waiting for others. Returns them."""
        self.hurried = self.accepted
        return [*self.flying.values(), *self.pending.values()]
