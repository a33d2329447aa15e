"""The circuit breaker: when to stop calling a server that does not answer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from cachebox._platform.section import Section

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"


class Breaker:
    """Counts failures in a row; from `threshold` on it is open, and lets only one probe through per `interval`.

    Args:
        threshold: failures in a row that open it.
        interval: seconds between probes.
        clock: returns the time in seconds.

    If the tracking connection probes, `may_call` lets no call through while the breaker is open, and the probe closes
    it by calling `succeeded`. Thread-safe; every method is O(1).

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
        """Close the breaker; also after a fork, because another thread may have held the lock."""
        self._lock = Section()
        self.failures = 0
        self._probed_at = 0.0
        self.state = CLOSED

    def may_call(self, others_probe: bool = False) -> bool:
        """Whether a call may go through. While the breaker is open, one caller per interval gets True: it is the
        probe."""
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
        """The server has served. Returns whether this closed the breaker."""
        if not self.failures and self.state == CLOSED:
            return False
        with self._lock:
            was = self.state
            self.failures = 0
            self.state = CLOSED
        return was != CLOSED

    def failed(self) -> bool:
        """The server has not served. Returns whether this opened the breaker."""
        with self._lock:
            was = self.state
            self.failures += 1
            if self.failures >= self._threshold or was != CLOSED:
                if was != OPEN:
                    self._probed_at = self._clock()
                self.state = OPEN
            return was == CLOSED and self.state == OPEN

    def may_try_again(self) -> None:
        """After a sign of life: let the next call probe at once."""
        with self._lock:
            self._probed_at = -math.inf

    def probes(self) -> None:
        """A probe begins."""
        with self._lock:
            if self.state == OPEN:
                self.state = HALF_OPEN
