"""Help for tests of programs that cache: a clock that they set. `plugin` has the fixtures for pytest."""

from __future__ import annotations

from _thread import RLock
from math import isfinite

import cachebox._platform  # noqa: F401 (it checks whose files are in this folder)

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["ManualClock"]


class ManualClock:
    """A clock that stands still until a test moves it, for any ``clock=`` argument.

    Args:
        now: the initial time in seconds: a finite number.

    It never goes back. A cache with such a clock is not swept in the background: expired entries leave when they are
    looked up, or when their room is needed. Safe from any thread; every call is O(1).

    >>> from cachebox import Cache
    >>> from cachebox.testing import ManualClock
    >>> clock = ManualClock()
    >>> cache = Cache(default_ttl=60, clock=clock)
    >>> cache["a"] = 1
    >>> clock.advance(60)
    >>> "a" in cache
    False
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = _seconds(now, "now")
        self._lock = RLock()

    def __call__(self) -> float:
        """The time, in seconds."""
        return self._now

    def advance(self, seconds: float | timedelta) -> None:
        """Let time pass: a number of seconds, or a `timedelta`.

        Raises ValueError for a negative or infinite number, TypeError for anything that is no number.
        """
        step = _seconds(seconds, "seconds")
        if step < 0:
            raise ValueError(f"seconds must be 0 or more, not {seconds!r}: time does not go back")
        with self._lock:
            self._now += step

    def __repr__(self) -> str:
        return f"ManualClock({self._now!r})"


def _seconds(given: object, name: str) -> float:
    number = given.total_seconds() if hasattr(given, "total_seconds") else given
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"{name} must be a number of seconds or a timedelta, not {type(given).__name__}")
    if not isfinite(number):
        raise ValueError(f"{name} must be finite, not {given!r}")
    return float(number)
