"""Draining at the end of the process: pending writes are delivered, within a time limit."""

from __future__ import annotations

import atexit
import logging
import time
from typing import Protocol
from weakref import WeakSet

from cachebox._platform.trouble import tell


class Drainable(Protocol):
    """An object that may have something to deliver."""

    closing: bool
    exit_timeout: float

    def begin_to_close(self) -> object:
        """Accept no more, and send everything that is pending."""

    def drain(self, timeout: float) -> bool:
        """Wait until everything is delivered, for at most `timeout` seconds. Returns whether it is."""

    def undelivered(self) -> str:
        """What was not delivered, in words."""


_open: WeakSet[Drainable] = WeakSet()


def drain_at_exit(one: Drainable) -> None:
    """Register an object to be drained when the process ends, if it still exists and is open. The reference is weak."""
    _open.add(one)


def _drain_all() -> None:
    """Drain all objects at the same time, each for at most its `exit_timeout`."""
    still_open = [one for one in list(_open) if not one.closing]
    began = time.monotonic()
    for one in still_open:
        one.begin_to_close()
    for one in still_open:
        if not one.drain(max(began + one.exit_timeout - time.monotonic(), 0.0)):
            tell(logging.ERROR, f"the process ends, and a store lacks {one.undelivered()}")


atexit.register(_drain_all)
