"""The operations of one cache together, its servers as a whole, and what forks and the end do to it."""

from __future__ import annotations

import math
import time
from typing import Any

from cachebox.distributed._near.near_cache import Tier
from cachebox.distributed._near.tracking import Link
from cachebox.distributed._net.background import Helper
from cachebox.distributed._net.effects import Effects, Failure
from cachebox.distributed._net.refusals import Unavailable
from cachebox.distributed._net.topology import Topology
from cachebox.distributed._ops.pending_invalidations import Owed
from cachebox.distributed._ops.reading import Reading
from cachebox.distributed._ops.writing import Writing
from cachebox.distributed._ops.writing_once import WritingOnce
from cachebox.distributed._wire.codec import LONGEST_KEPT, Codec
from cachebox.distributed.options import seconds_of

REAPED_EVERY = 5.0                  # seconds


class Core(Reading, Writing, WritingOnce):
    """All that a cache has beside the way it waits."""

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
        self.kept = min(int(stale * 1000), LONGEST_KEPT)    # milliseconds that entries are kept beyond their end
        self.helper = Helper()
        self.link = None
        if invalidation and not topology.is_exact:
            self.link = Link(topology, tier, self.helper, max_staleness, timeout)
        self.is_closed = False
        self.fast_path: Any = None              # of a cache on a folder
        self._reported: set[str] = set()
        self.owed = Owed(self)
        self._reaps = False
        if self.link is None:
            tier.fresh_until = math.inf
            topology.on_open = self._reap_soon  # there is no link's thread to do it

    # --- the servers ------------------------------------------------------------------------------------------------

    def check(self) -> Effects[None]:
        """Raise where no server can be reached."""
        deadline = self.deadline()
        yield from self.begin(deadline)
        replies = yield from self._ping_all(deadline)
        if all(type(reply) is Failure for reply in replies):
            raise self.unavailable(replies[0])

    def _ping_all(self, deadline: float) -> Effects[list[Any]]:
        """What every server answers, or Failures; at least one."""
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
        if self.link is not None:
            hopeless = timeout is None and self.link.state != "up" and self.topology.worst == "open"
            if hopeless or not (yield from self.link.barrier(deadline)):
                self.tier.count(errors=1)
                refusal = self.link.refusal or self.topology.door
                raise self.unavailable(Failure(Unavailable(self.link.why, refusal), True, False))
            return
        for reply in (yield from self._ping_all(deadline)):
            if type(reply) is Failure:
                self.tier.count(errors=1)
                raise self.unavailable(reply)
        self.tier.wipe(False)

    @property
    def last_error(self) -> str | None:
        """What is wrong with the servers, in their words as far as they say so; None: nothing is known to be."""
        return (self.link.refusal if self.link is not None else None) or self.topology.trouble

    def _reap_soon(self) -> None:
        """Have connections closed that will not be used for long."""
        if not self._reaps:
            self._reaps = True
            self.helper.schedule(REAPED_EVERY, self._reap)

    def _reap(self) -> None:
        self._reaps = False
        if self.topology.reap():
            self._reap_soon()

    # --- forks, and the end -----------------------------------------------------------------------------------------

    def renew(self) -> None:
        """In the child of a fork: without connections, threads and entries, but ready to go on."""
        self.topology.renew()
        self.tier.renew()
        self.tier.first.delete_many(list(self.tier.first))
        self.helper.renew()
        self.owed.renew()
        if self.link is not None:
            self.link.renew()
        else:
            self.tier.fresh_until = math.inf
        self._reaps = False

    def pause(self) -> None:
        """Before a fork: without threads, for they would not be copied."""
        self.helper.pause()
        if self.link is not None:
            self.link.pause()
        self.topology.pause()

    def resume(self) -> None:
        """After it, in the parent."""
        self.topology.resume()
        self.helper.resume()
        if self.link is not None:
            self.link.resume()

    def abandon(self) -> None:
        """Nobody uses it any more, and nobody closed it: let everything go, without waiting."""
        self.is_closed = self.helper.must_end = True
        if self.link is not None:
            self.link.stop_soon()
        self.topology.close()

    def stop(self) -> None:
        """End the threads."""
        self.is_closed = True
        self.tier.fresh_until = -math.inf
        self.helper.stop()
        if self.link is not None:
            self.link.stop()

    def close(self) -> None:
        """End the threads, close the connections and drop the entries."""
        self.stop()
        self.topology.close()
        self.tier.wipe(False)
