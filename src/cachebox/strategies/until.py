"""When to give up waiting."""

from __future__ import annotations

import time
from datetime import timedelta

from cachebox.strategies.options import checked_seconds


class Until:
    """When to give up waiting; another thread may change it. Seconds from now, or a timedelta; None: never.

    Raises ValueError or TypeError for an invalid `timeout`.
    """

    __slots__ = ("at",)

    def __init__(self, timeout: float | timedelta | None = None) -> None:
        self.at = float("inf") if timeout is None else time.monotonic() + checked_seconds("timeout", timeout)

    def left(self) -> float:
        """Seconds until then; negative if it has passed."""
        return self.at - time.monotonic()
