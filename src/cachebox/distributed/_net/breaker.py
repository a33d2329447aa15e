"""When to stop calling a server that does not answer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from cachebox._platform.section import Section

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"


class Breaker:
    """Counts failures in a row; from `threshold` on it is open and lets nobody through but one probe per `interval`.

    Args:
        threshold: failures in a row that open it.
        interval: seconds between probes.
        clock: returns the time in seconds.

    Where somebody else probes (the tracking link), `may_call` lets nobody through while it is open, and `succeeded`,
    told by whoever probed, closes it. Thread-safe; every method is O(1).

    >>> breaker = Breaker(threshold=2, interval=1.0, clock=lambda: 0.0)
    >>> breaker.failed(), breaker.failed()
    (False, True)
    >>> breaker.state, breaker.may_call()
    ('open', False)
    >>> breaker.succeeded()
    True
    >>> breaker.state
    'closed'
    """

    def __init__(
        self, threshold: int = 3, interval: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._threshold = threshold
        self._interval = interval
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Closed, as at the beginning; after a fork too, when another thread may have held the lock."""
        self._lock = Section()
        self.failures = 0
        self._probed_at = 0.0
        self.state = CLOSED

    def may_call(self, others_probe: bool = False) -> bool:
        """Whether to try. Where it is open, True is given once per interval, and makes the caller the probe."""
        if self.state == CLOSED:
            return True
        with self._lock:
            if self.state == CLOSED:
                return True
            now = self._clock()
            if others_probe or now < self._probed_at + self._interval:
                return False
            self._probed_at = now
            self.state = HALF_OPEN
            return True

    def succeeded(self) -> bool:
        """The server served. Returns whether that is news: it was not closed."""
        if not self.failures and self.state == CLOSED:
            return False
        with self._lock:
            was = self.state
            self.failures = 0
            self.state = CLOSED
        return was != CLOSED

    def failed(self) -> bool:
        """It did not. Returns whether that is news: it was closed, and is open now."""
        with self._lock:
            was = self.state
            self.failures += 1
            if self.failures >= self._threshold or was != CLOSED:
                if was != OPEN:
                    self._probed_at = self._clock()
                self.state = OPEN
            return was == CLOSED and self.state == OPEN

    def may_try_again(self) -> None:
        """There is a sign of life: the next call need not wait for its turn to probe."""
        with self._lock:
            self._probed_at = -math.inf

    def probes(self) -> None:
        """Somebody begins to probe."""
        with self._lock:
            if self.state == OPEN:
                self.state = HALF_OPEN
