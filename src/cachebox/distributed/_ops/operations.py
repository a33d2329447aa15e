"""The operations of one cache together, and what forks and closing do to them."""

from __future__ import annotations

import math
import time
from typing import Any

from cachebox.distributed._near.near_cache import Tier
from cachebox.distributed._near.tracking import Tracking
from cachebox.distributed._net.background import Background
from cachebox.distributed._net.effects import Effects, Failure
from cachebox.distributed._net.refusals import Unavailable
from cachebox.distributed._net.topology import Topology
from cachebox.distributed._ops.pending_invalidations import PendingInvalidations
from cachebox.distributed._ops.reading import Reading
from cachebox.distributed._ops.writing import Writing
from cachebox.distributed._ops.writing_once import WritingOnce
from cachebox.distributed._wire.codec import LONGEST_KEPT, Codec
from cachebox.distributed.options import seconds_of

REAPED_EVERY = 5.0                  # seconds


class Core(Reading, Writing, WritingOnce):
    """All of a cache, except how it waits."""

    def __init__(
        self,
        topology: Topology,
        codec: Codec,
        tier: Tier,
        *,
        lifetime: float,
        timeout: float,
        max_staleness: float,
        invalidation: bool,
        is_local: bool,
        isolate: bool,
        jitter: float = 0.0,
        stale: float = 0.0,
    ) -> None:
        self.topology = topology
        self.codec = codec
        self.tier = tier
        self.lifetime = lifetime
        self.timeout = timeout
        self.max_staleness = max_staleness
        self.is_local = is_local
        self.isolate = isolate
        self.jitter = jitter
        # milliseconds for which entries are kept after their deadline
        self.kept = min(int(stale * 1000), LONGEST_KEPT)
        self.background = Background()          # for tasks of at most a few round trips
        self.chores = Background("cachebox-chores")         # for those that may take long, and run user code
        self.tracking = None
        if invalidation and not topology.is_exact:
            self.tracking = Tracking(topology, tier, self.background, max_staleness, timeout)
            topology.on_untracked = tier.untracked
        self.is_closed = False
        self.fast_path: Any = None              # of a cache on a folder
        self._reported: set[str] = set()
        self.pending = PendingInvalidations(self)
        self._reaps = False
        if self.tracking is None:
            tier.fresh_until = math.inf
            topology.on_open = self._reap_soon  # there is no tracking thread to do it

    # --- the servers --------------------------------------------------------------------------------------------------

    def check(self) -> Effects[None]:
        """Raise `BackendUnavailable` if no server can be reached."""
        deadline = self.deadline()
        yield from self.begin(deadline)
        replies = yield from self._ping_all(deadline)
        if all(type(reply) is Failure for reply in replies):
            raise self.unavailable(replies[0])

    def _ping_all(self, deadline: float) -> Effects[list[Any]]:
        """The answer or Failure of every server; at least one."""
        owners = self.topology.owners or [None]
        buckets = [owners.index(node) for node in self.topology.masters] or [0]
        return (yield from self.topology.ask([(bucket, [b"PING"]) for bucket in buckets], deadline))

    def barrier(self, timeout: Any) -> Effects[None]:
        """`DistributedCache.barrier`."""
        seconds = self.timeout if timeout is None else seconds_of(timeout, "timeout", infinite=False)
        deadline = time.monotonic() + seconds
        yield from self.begin(deadline)
        if self.topology.is_exact:
            return
        if self.tracking is not None:
            hopeless = timeout is None and self.tracking.state != "up" and self.topology.worst == "open"
            if hopeless or not (yield from self.tracking.barrier(deadline)):
                self.tier.count(errors=1)
                refusal = self.tracking.refusal or self.topology.entry_refusal
                raise self.unavailable(Failure(Unavailable(self.tracking.why, refusal), True, False))
            return
        for reply in (yield from self._ping_all(deadline)):
            if type(reply) is Failure:
                self.tier.count(errors=1)
                raise self.unavailable(reply)
        self.tier.clear(False)

    @property
    def last_error(self) -> str | None:
        """What is wrong with the servers, in their own words if possible; None: nothing known."""
        return (self.tracking.refusal if self.tracking is not None else None) or self.topology.trouble

    def _reap_soon(self) -> None:
        """Schedule the closing of idle connections, unless it is scheduled."""
        if not self._reaps:
            self._reaps = True
            self.background.schedule(REAPED_EVERY, self._reap)

    def _reap(self) -> None:
        self._reaps = False
        if self.topology.reap():
            self._reap_soon()

    # --- forks, and the end -------------------------------------------------------------------------------------------

    def renew(self) -> None:
        """After a fork, in the child: reset to no connections, threads and entries, but ready for use."""
        self.topology.renew()
        self.tier.renew()
        self.tier.first.delete_many(list(self.tier.first))
        self.background.renew()
        self.chores.renew()
        self.pending.renew()
        if self.tracking is not None:
            self.tracking.renew()
        else:
            self.tier.fresh_until = math.inf
        self._reaps = False

    def pause(self) -> None:
        """Before a fork: end the threads, because a fork does not copy them."""
        self.chores.pause()
        self.background.pause()
        if self.tracking is not None:
            self.tracking.pause()
        self.topology.pause()

    def resume(self) -> None:
        """After a fork, in the parent."""
        self.topology.resume()
        self.background.resume()
        self.chores.resume()
        if self.tracking is not None:
            self.tracking.resume()

    def abandon(self) -> None:
        """Release everything without waiting, because the cache was dropped without being closed."""
        self.is_closed = self.background.must_end = self.chores.must_end = True
        self.tier.count()                       # publishes what was counted
        if self.tracking is not None:
            self.tracking.stop_soon()
        self.topology.close()

    def stop(self) -> None:
        """End the threads."""
        self.is_closed = True
        self.tier.count()                       # publishes what was counted
        self.tier.fresh_until = -math.inf
        self.chores.stop()
        self.background.stop()
        if self.tracking is not None:
            self.tracking.stop()

    def close(self) -> None:
        """End the threads, close the connections and drop the entries."""
        self.stop()
        self.topology.close()
        self.tier.clear(False)
