"""Dead letters: writes that the store refused at each attempt."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from cachebox._platform.awaitables import plain_call
from cachebox._platform.guard import report
from cachebox._platform.trouble import Trouble, tell, text_of
from cachebox.strategies.write_queue import Write


class DeadLetter(NamedTuple):
    """A write that the store refused at each attempt; the value of a delete is `MISSING`."""

    key: Any
    value: Any
    error: BaseException


class DeadLetters:
    """The dead letters of one `WriteBehind`, at most one per key. Only `tell` may run at the same time as another
    method.

    Args:
        callback: called as ``callback(key, value, error)``, or None.
    """

    def __init__(self, callback: Any) -> None:
        self.callback = callback
        self.kept: dict[Any, tuple[Write, BaseException]] = {}
        self._trouble = Trouble("on_dead_letter has failed", "on_dead_letter works again")

    def keep(self, write: Write, error: BaseException) -> None:
        """Keep a write that the store refuses for good."""
        self.kept[write.key] = write, error

    def find(self, key: Any) -> Write | None:
        """The dead letter's write of a key, or None."""
        kept = self.kept.get(key)
        return None if kept is None else kept[0]

    def drop(self, key: Any) -> object:
        """Remove a key's dead letter. Returns it, so that the caller can release it without a lock."""
        return self.kept.pop(key, None)

    def writes(self) -> list[Write]:
        """The writes of all dead letters, oldest first."""
        return [write for write, _ in list(self.kept.values())]

    def listed(self) -> list[DeadLetter]:
        """All dead letters as users see them, oldest first."""
        return [DeadLetter(write.key, write.value, error) for write, error in list(self.kept.values())]

    def clear(self) -> None:
        """Forget all."""
        self.kept = {}

    def tell(self, write: Write, error: BaseException) -> None:
        """Log a dead letter, and call the user's callback. Without a lock."""
        tell(logging.ERROR, f"a write of {write.key!r} is a dead letter, the store has refused it: {text_of(error)}")
        if self.callback is None:
            return
        try:
            plain_call("on_dead_letter", self.callback, write.key, write.value, error)
        except BaseException as failure:
            report(failure, self.callback)
            self._trouble.begin(failure)
        else:
            self._trouble.end()
