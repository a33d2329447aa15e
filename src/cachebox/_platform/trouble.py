"""What the log is told: that something went wrong, and that it is well again; once each, however often it is met."""

from __future__ import annotations

import logging

from cachebox._platform.guard import report

log = logging.getLogger("cachebox")


class Trouble:
    """Something that is well or not. Safe from any thread. A logging handler may do anything: call it without a lock.

    Args:
        begins: what is logged when it goes wrong; the exception's type and text are added.
        ends: what is logged when it is well again.
        traceback: whether the traceback of the exception is logged, too.
    """

    def __init__(self, begins: str, ends: str, traceback: bool = False) -> None:
        self.is_on = False
        self._begins = begins
        self._ends = ends
        self._traceback = traceback

    def begin(self, error: BaseException) -> None:
        """It has gone wrong, perhaps once more."""
        if not self.is_on:
            self.is_on = True
            tell(logging.WARNING, f"{self._begins}: {text_of(error)}", error if self._traceback else None)

    def end(self) -> None:
        """It is well, perhaps as before."""
        if self.is_on:
            self.is_on = False
            tell(logging.WARNING, self._ends)


def tell(level: int, message: str, error: BaseException | None = None) -> None:
    """Log a message, with the traceback of an error if there is one. What a handler raises is reported, and no more."""
    try:
        log.log(level, "%s", message, exc_info=error)
    except Exception as failure:
        report(failure, log)


def text_of(error: BaseException) -> str:
    """An exception's type, and what it says."""
    try:
        said = str(error)
    except Exception:                   # its own `__str__`
        said = ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
