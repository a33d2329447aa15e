"""Log messages about something that fails and works again: one for each change, however often it is met."""

from __future__ import annotations

import logging

from cachebox._platform.guard import report

log = logging.getLogger("cachebox")


class Trouble:
    """Something that works or fails. Safe from any thread. Call it without a lock: a logging handler may do anything.

    Args:
        begins: the message when it begins to fail; the exception's type and text are added.
        ends: the message when it works again.
        traceback: whether the traceback of the exception is logged, too.
    """

    def __init__(self, begins: str, ends: str, traceback: bool = False) -> None:
        self.is_on = False
        self._begins = begins
        self._ends = ends
        self._traceback = traceback

    def begin(self, error: BaseException) -> None:
        """Note that it failed, perhaps once more."""
        if not self.is_on:
            self.is_on = True
            tell(logging.WARNING, f"{self._begins}: {text_of(error)}", error if self._traceback else None)

    def end(self) -> None:
        """Note that it works, perhaps as before."""
        if self.is_on:
            self.is_on = False
            tell(logging.WARNING, self._ends)


def tell(level: int, message: str, error: BaseException | None = None) -> None:
    """Log a message, with the traceback of an error if there is one. An exception of a handler is only reported."""
    try:
        log.log(level, "%s", message, exc_info=error)
    except Exception as failure:
        report(failure, log)


def text_of(error: BaseException) -> str:
    """An exception's type and text."""
    try:
        said = str(error)
    except Exception:                   # of its own `__str__`
        said = ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
