"""Delivery: sends writes to the store in batches, and finds the writes that the store refuses.

A failed batch says little: one of its writes may be bad, or the store may be down. So some of its writes are tried
alone. If one succeeds, the store works: the rest is halved again and again, until only the refused writes are left. If
none succeeds, the store seems down: all writes wait, and the next round begins with single writes. They are chosen at
random, so that bad writes cannot hide good ones for long, and a store that is down does not get every write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import SystemRandom
from typing import Any, NamedTuple

from cachebox.cache import MISSING
from cachebox.strategies.store import Store
from cachebox.strategies.write_queue import Write

PROBES = 3
"""Single writes in a row that must fail before the store counts as down."""

_dice = SystemRandom()
"""Not the generator of the module `random`, whose row of numbers is the user's; nor one that a fork would copy."""


class Failed(NamedTuple):
    """A write that the store does not have, and the error."""

    write: Write
    error: BaseException


class _Kind(NamedTuple):
    """How one kind of write is sent."""

    one: Callable[[Write], Any]
    many: Callable[[list[Write]], Any] | None
    thorough: bool


class Delivery:
    """Delivers batches to a store.

    Args:
        store: the store.
        settled: called with writes that the store has.
    """

    def __init__(self, store: Store, settled: Callable[[Sequence[Write]], object]) -> None:
        self.store = store
        self.settled = settled
        self.fruitless = 0
        """Rounds in a row without a success, except for writes that are known to be refused; above 0 the store seems
        down."""
        self.reached = False
        """Whether a write succeeded in this round, or the last one."""
        self._calls = 0
        self._last_success = 0          # the number of that call
        self._in_vain = 0               # single writes in a row that failed
        self._error: BaseException = RuntimeError()     # the error of the last failed single write

    def deliver(self, batch: Sequence[Write], thorough: bool = False) -> list[Failed]:
        """One round: send writes of different keys. Returns those that failed.

        Args:
            batch: the writes.
            thorough: try each write alone before it counts as failed.
        """
        self.reached = False
        self._in_vain = 0
        saves = _Kind(self._save_one, self.store.save_many and self._save_many, thorough)
        deletes = _Kind(self._delete_one, self.store.delete_many and self._delete_many, thorough)
        failed: list[Failed] = []
        for kind, writes in (
            (saves, [write for write in batch if write.value is not MISSING]),
            (deletes, [write for write in batch if write.value is MISSING]),
        ):
            alone = [write for write in writes if write.alone]
            failed += self._send([write for write in writes if not write.alone], kind)
            failed += self._send_each(alone, kind)
        if self.reached:
            self.fruitless = 0
        elif not all(write.alone for write, _ in failed):
            self.fruitless += 1
        return failed

    def _send(self, writes: list[Write], kind: _Kind) -> list[Failed]:
        if len(writes) > 1 and kind.many is not None and not self.fruitless and self._try(writes, kind) is None:
            return []
        if self.fruitless or kind.many is not None:
            _dice.shuffle(writes)
        failed: list[Failed] = []
        for n, write in enumerate(writes):
            if self.reached:
                return failed + self._halve(writes[n:], kind)
            if self._gives_up(kind):
                return failed + [Failed(one, self._error) for one in writes[n:]]
            failed += self._send_each([write], kind)
        return failed

    def _halve(self, writes: list[Write], kind: _Kind) -> list[Failed]:
        """Send writes to a store that works: together if possible, else in ever smaller groups."""
        if len(writes) < 2 or kind.many is None:
            return self._send_each(writes, kind)
        if self._try(writes, kind) is None:
            return []
        middle = len(writes) // 2
        return self._halve(writes[:middle], kind) + self._halve(writes[middle:], kind)

    def _send_each(self, writes: list[Write], kind: _Kind) -> list[Failed]:
        failed: list[Failed] = []
        for write in writes:
            if self._gives_up(kind):
                failed.append(Failed(write, self._error))
                continue
            error = self._try([write], kind)
            if error is None:
                continue
            failed.append(Failed(write, error))
            self._in_vain += 1
            self._error = error
            if 0 < write.failed_in < self._last_success:
                write.alone = True              # others succeeded between its two failures
            write.failed_in = self._calls
        return failed

    def _gives_up(self, kind: _Kind) -> bool:
        return self._in_vain >= PROBES and not kind.thorough

    def _try(self, writes: list[Write], kind: _Kind) -> BaseException | None:
        """Call the store once. Returns its error, or None."""
        self._calls += 1
        try:
            if len(writes) > 1 and kind.many is not None:
                kind.many(writes)
            else:
                kind.one(writes[0])
        except BaseException as error:          # with any error, the store does not have the writes
            return error
        self.reached = True
        self._last_success = self._calls
        self._in_vain = 0
        self.settled(writes)
        return None

    def _save_one(self, write: Write) -> None:
        self.store.save(write.key, write.value)

    def _save_many(self, writes: list[Write]) -> None:
        self.store.save_many({write.key: write.value for write in writes})

    def _delete_one(self, write: Write) -> None:
        try:
            self.store.delete(write.key)
        except KeyError:
            pass                                # the key is absent, as wanted

    def _delete_many(self, writes: list[Write]) -> None:
        self.store.delete_many([write.key for write in writes])


def pause_after(failures: int, backoff: float, max_backoff: float) -> float:
    """Seconds to wait after a number of failures in a row: twice as long each time, up to `max_backoff`.

    Each pause is shortened at random by up to half, so processes do not retry in step.
    """
    longest = min(backoff * 2.0 ** min(failures - 1, 1000), max_backoff)
    return _dice.uniform(longest / 2, longest)
