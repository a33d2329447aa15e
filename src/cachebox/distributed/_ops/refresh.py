"""Refresh-ahead over both tiers: a value near its deadline is computed again in the background, while it is still
served.

`get_or_set` and decorated calls know how a value is made and how long it lives. So they can tell that a hit is in the
last share of its lifetime, and then they `consider` it. A refresh asks the server for the key's lease, like a caller
that misses, but gets it although there is a value. So only one process computes. A write, a delete or a clear in
between takes the lease away, and nothing is stored over it. A caller that misses the key waits for the refresh.

Invariant: at most one refresh of a key is under way in a process (`_again`). While another process computes, the server
is asked once in `PAUSE` seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from cachebox._loading.flight import Flight, led
from cachebox._platform.section import Section
from cachebox.distributed._net.effects import Effects, Failure, Spawn
from cachebox.distributed._net.health import log
from cachebox.distributed._ops.operations import Core
from cachebox.distributed._ops.single_flight import Decides, Loader, new_flight
from cachebox.distributed._wire.keyspace import new_token

PAUSE = 1.0
"""Seconds until the server is asked again about a key that another process computes, or whose server did not answer."""
MANY = 256
"""Size of `_again` from which elapsed pauses are dropped."""


class Refreshing:
    """The refreshes of one cache: in the last `share` of a lifetime."""

    def __init__(self, core: Core, loader: Loader, share: float) -> None:
        self._core = core
        self._loader = loader
        self._share = share
        self.renew()

    def renew(self) -> None:
        """Reset: at first, and in the child of a fork, where the parent's threads are gone."""
        self._lock = Section()
        self._fails = False                     # whether a failure was logged, and none has succeeded since
        # key: time before which it is not refreshed; infinity while a refresh runs
        self._again: dict[str, float] = {}
        self._flights: dict[str, Flight] = {}   # key: the flight of its refresh, which may be lost

    def consider(
        self,
        key: str,
        factory: Callable[[], Any],
        decide: Decides,
        value: Any,
        pttl: float | None = None,
        kept: int | None = None,
    ) -> Effects[None]:
        """Start a refresh of a key whose value was found, if it is due. O(1).

        `pttl`: the milliseconds for which the server still has the value (negative: no expiry). The last `kept` of them
        lie after its deadline. None: ask the first tier.
        """
        if kept is None:
            kept = self._core.kept if decide.kept is None else decide.kept
        share = self._share if decide.share is None else decide.share
        left = self._left_here(key) if pttl is None else math.inf if pttl < 0 else (pttl - kept) / 1000
        if left == math.inf:
            return
        due = share * decide.lifetime_of(value) if share else 0.0
        if (left <= 0.0 or left < due < math.inf) and self._begin(key):
            before = kept + (max(1, int(due * 1000)) if due < math.inf else 1)
            started = yield Spawn(partial(self._refresh, key, factory, decide, before))
            if not started:
                self._end(key, PAUSE)

    def _left_here(self, key: str) -> float:
        """Seconds that an entry of the first tier has to live; infinity if that says nothing about the server's."""
        if self._core.tracking is None and not self._core.topology.is_exact:            # cut short to `max_staleness`
            return math.inf
        try:
            left = self._core.tier.first.ttl(key)
        except KeyError:
            return math.inf
        return math.inf if left is None else left

    def _begin(self, key: str) -> bool:
        now = time.monotonic()
        with self._lock:
            if self._lasts(key, now):
                return False
            if len(self._again) >= MANY:
                self._again = {other: again for other, again in list(self._again.items()) if again > now}
            self._again[key] = math.inf
        return True

    def _lasts(self, key: str, now: float) -> bool:
        """Whether a pause or a refresh of the key is not over."""
        flight = self._flights.get(key)
        return self._again.get(key, 0.0) > now and (flight is None or not flight.lost())

    def _end(self, key: str, pause: float) -> None:
        with self._lock:
            if pause:
                self._again[key] = time.monotonic() + pause
            else:
                self._again.pop(key, None)

    def _refresh(self, key: str, factory: Callable[[], Any], decide: Decides, before: int) -> Effects[None]:
        """In the background: compute a value, unless another caller does or has done so, or the key is gone.

        `before`: a value that the server has for fewer milliseconds is computed again.
        """
        core, loader = self._core, self._loader
        token, flight = new_token(), new_flight()
        pause = 0.0
        counted: dict[str, int] = {}
        led.set(())                             # the caller that started this does not wait for it
        self._flights[key] = flight
        # before the lease is taken: a waiter that sees this token must find the flight
        loader.flights[token] = flight
        try:
            if core.is_closed:
                return
            deadline = core.deadline()
            reply = yield from loader.lead(key, token, b"", b"", deadline, b"%d" % before)
            if type(reply) is Failure:
                counted = {"errors": 1}
                pause = PAUSE
            elif reply[0] == 2:
                pause = PAUSE
            elif reply[0] == 3:
                with flight:
                    yield from loader.load_as_leader(key, factory, decide, token, flight, deadline)
                counted = {"refreshes": 1}
                self._fails = False
        except Exception:                       # counted; the old value lives on, and a later hit tries again
            counted = {"refresh_failures": 1}
            if not self._fails:
                self._fails = True
                log.warning("a value could not be refreshed in the background", exc_info=True)
        finally:
            loader.end(token, flight)
            if self._flights.get(key) is flight:    # else another refresh took over
                del self._flights[key]
                self._end(key, pause)
            core.tier.count(**counted)          # last, because a test that sees the count may start the next refresh
