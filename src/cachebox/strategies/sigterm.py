"""Draining on SIGTERM, on request."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


def drain_on_sigterm() -> None:
    """Let SIGTERM end the process like ``sys.exit(143)``, so that every `WriteBehind` is drained as at any exit.

    Call it once, in the main thread; in other threads it raises ValueError, like `signal.signal`. Without it, SIGTERM
    ends a process at once, and only a journal keeps pending writes. An earlier Python handler is called first. The
    drain takes each `WriteBehind` at most its `exit_timeout`.
    """
    before = signal.getsignal(signal.SIGTERM)

    def leave(number: int, frame: FrameType | None) -> Any:
        if callable(before) and before is not signal.default_int_handler:
            before(number, frame)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
