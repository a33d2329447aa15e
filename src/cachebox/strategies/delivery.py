"""How a batch of writes gets into the store: tries, pauses, and finding out which of them the store refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import uniform
from typing import Any

from cachebox.cache import MISSING
from cachebox.strategies.store import Store
from cachebox.strategies.write_queue import Write

Failed = list[tuple[list[Write], BaseException]]


class Delivery:
    """Delivers batches to a store.

    Args:
        store: the store.
        retries: how often a batch that fails is tried again.
        backoff: seconds before the first of these; each pause is twice the one before.
        max_backoff: seconds that a pause lasts at most. Chance shortens each by up to a half, so that many processes do
        not
            come back at the same time.
        settled: called with writes that the store has.
        refused: called with a write that the store refuses, and its exception.
        pause: called with seconds; returns when they have passed, True, or as soon as nothing is to be tried any more,
        False.
    """

    def __init__(
        self,
        store: Store,
        retries: int,
        backoff: float,
        max_backoff: float,
        settled: Callable[[Sequence[Write]], object],
        refused: Callable[[Write, BaseException], object],
        pause: Callable[[float], bool],
    ) -> None:
        self.store = store
        self.retries = retries
        self.backoff = backoff
        self.max_backoff = max_backoff
        self.settled = settled
        self.refused = refused
        self.pause = pause

    def pauses(self) -> Iterator[float]:
        """The pauses between the tries of one batch, in seconds."""
        for n in range(self.retries):
            longest = min(self.backoff * 2.0 ** min(n, 1000), self.max_backoff)
            yield uniform(longest / 2, longest)

    def deliver(self, batch: list[Write]) -> bool:
        """Deliver writes of different keys. False: it was given up, and those that were not settled are undelivered."""
        failed = self.try_once(batch)
        for seconds in self.pauses():
            if not failed:
                break
            if not self.pause(seconds):
                return False
            failed = self.try_once([write for writes, _ in failed for write in writes])
        for writes, error in failed:
            self.split(writes, error)
        return True

    def split(self, writes: list[Write], error: BaseException) -> None:
        """Halve a batch that keeps failing, so that only the writes that the store refuses are given up."""
        if len(writes) == 1:
            self.refused(writes[0], error)
            return
        for half in (writes[: len(writes) // 2], writes[len(writes) // 2 :]):
            for still_failed, reason in self.try_once(half):
                self.split(still_failed, reason)

    def try_once(self, batch: list[Write]) -> Failed:
        """Send writes to the store. Returns those that failed, as they were sent."""
        saves = [write for write in batch if write.value is not MISSING]
        deletes = [write for write in batch if write.value is MISSING]
        failed: Failed = []
        if saves:
            many = self.store.save_many
            self._send(saves, self._save_one, many and self._save_many, failed)
        if deletes:
            many = self.store.delete_many
            self._send(deletes, self._delete_one, many and self._delete_many, failed)
        return failed

    def _send(
        self,
        writes: list[Write],
        one: Callable[[Write], Any],
        many: Callable[[list[Write]], Any] | None,
        failed: Failed,
    ) -> None:
        if many is not None and len(writes) > 1:
            groups = [writes]
        else:
            groups = [[write] for write in writes]
        for group in groups:
            try:
                if len(group) > 1 and many is not None:
                    many(group)
                else:
                    one(group[0])
            except BaseException as error:      # whatever it is, the store does not have it
                failed.append((group, error))
            else:
                self.settled(group)

    def _save_one(self, write: Write) -> None:
        self.store.save(write.key, write.value)

    def _save_many(self, writes: list[Write]) -> None:
        self.store.save_many({write.key: write.value for write in writes})

    def _delete_one(self, write: Write) -> None:
        try:
            self.store.delete(write.key)
        except KeyError:
            pass                                # there is none: that is what was wanted

    def _delete_many(self, writes: list[Write]) -> None:
        self.store.delete_many([write.key for write in writes])
