"""Operations that change nothing: `get`, `get_many`, `in` and `ttl`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cachebox.cache import MISSING
from cachebox.distributed._net.effects import Effects, Failure
from cachebox.distributed._ops.entries import Entries
from cachebox.distributed._wire.codec import Undecodable
from cachebox.distributed._wire.replies import NONE, ROW
from cachebox.distributed._wire.scripts import READ, TTL, script_call
from cachebox.distributed._wire.typed import Schema
from cachebox.distributed.options import checked_key, checked_keys


class Reading(Entries):
    """Reads values, from the first tier if it may serve them."""

    is_local: bool                      # whether to serve from the first tier while no server can be asked
    fast_path: Any                      # of a cache on a folder, else None

    def get(self, key: Any, default: Any) -> Effects[Any]:
        """`DistributedCache.get`, after the fast path did not find the key."""
        key = checked_key(key)
        found, _ = yield from self.lookup(key, self.deadline())
        return default if found is MISSING else found

    def lookup(
        self, key: str, deadline: float, counts: bool = True, schema: Schema | None = None
    ) -> Effects[tuple[Any, bool]]:
        """The value of a key or MISSING, from either tier; and whether a server answered or need not be asked."""
        tier = self.tier
        tracking = self.tracking
        if self.is_closed or self.topology.owners is None or (tracking is not None and not tracking.has_begun):
            yield from self.begin(deadline)
        if tier.is_fresh:
            value = self.give(tier.look(key, counts))
            if value is not MISSING:
                return value, True
        fill = tier.begin_fill(key)
        try:
            reply = yield from self.call(READ, key, deadline=deadline)
            if type(reply) is Failure:
                return self._serve_stale(key, reply, counts), False
            size, pttl = ROW.unpack_from(reply)
            data = reply[ROW.size:]
            if size == NONE or self.has_ended(data, pttl):
                tier.end_fill(fill, True)
                tier.count(misses=counts)
                return MISSING, True
            value = self.take_in(fill, data, pttl, schema)
        except Undecodable:
            tier.end_fill(fill, True)
            tier.count(misses=counts, undecodable=counts)
            return MISSING, True
        except BaseException:
            tier.end_fill(fill)
            raise
        if counts:
            tier.count(remote_hits=1)
        return value, True

    def _serve_stale(self, key: str, failure: Failure, counts: bool) -> Any:
        """The first tier's value while no server can be asked, or MISSING; raises if the cache is not to serve it."""
        if not self.is_local:
            self.tier.count(errors=1)
            raise self.unavailable(failure, [key])
        value = self.give(self.tier.look(key, False))
        if value is MISSING:
            self.tier.count(errors=1, misses=counts)
            return MISSING
        self.tier.count(errors=1, stale_serves=counts)
        return value

    def contains(self, key: Any) -> Effects[bool]:
        """The operator ``in``."""
        key = checked_key(key)
        deadline = self.deadline()
        yield from self.begin(deadline)
        if self.tier.is_fresh and self.tier.look(key, False) is not MISSING:
            return True
        reply = yield from self.call(TTL, key, deadline=deadline)
        if type(reply) is Failure:
            return self._serve_stale(key, reply, False) is not MISSING
        return bool(reply != -2)

    def ttl(self, key: Any) -> Effects[float | None]:
        """`DistributedCache.ttl`."""
        key = checked_key(key)
        deadline = self.deadline()
        yield from self.begin(deadline)
        reply = yield from self.call(TTL, key, deadline=deadline)
        if type(reply) is Failure:
            self.tier.count(errors=1)
            if self.is_local and self.tier.look(key, False) is not MISSING:
                return self.tier.first.ttl(key)
            raise self.unavailable(reply, [key])
        if reply == -2:
            raise KeyError(key)
        return None if reply < 0 else reply / 1000

    def get_many(self, keys: Any) -> Effects[dict[str, Any]]:
        """`DistributedCache.get_many`."""
        wanted = checked_keys(keys)
        deadline = self.deadline()
        found, failed = yield from self.read_many(wanted, deadline, True)
        stale = 0
        if failed:
            if self.is_local:
                for key in failed:
                    value = self.give(self.tier.look(key, False))
                    if value is not MISSING:
                        stale += 1
                        found[key] = value
            self.tier.count(errors=1, stale_serves=stale, misses=len(failed) - stale if self.is_local else 0)
            if not self.is_local:
                raise self.unavailable(next(iter(failed.values())), failed, found)
        return {key: found[key] for key in wanted if key in found}

    def read_many(
        self, wanted: Iterable[str], deadline: float, counts: bool, schema: Schema | None = None
    ) -> Effects[tuple[dict[str, Any], dict[str, Failure]]]:
        """The values of the keys that have one, and a Failure for each key whose server did not answer."""
        yield from self.begin(deadline)
        tier = self.tier
        found: dict[str, Any] = {}
        failed: dict[str, Failure] = {}
        absent: list[str] = []
        if tier.is_fresh:
            for key in wanted:
                value = self.give(tier.look(key, counts))
                if value is MISSING:
                    absent.append(key)
                else:
                    found[key] = value
        else:
            absent += wanted
        hits = misses = undecodable = 0
        if absent and self.fast_path is not None and schema is None:
            absent, hits, misses = self.fast_path.get_many(absent, found)
        if not absent:
            if counts:
                tier.count(remote_hits=hits, misses=misses)
            return found, failed
        names = self.topology.names
        groups = self.grouped(absent)
        fills = dict(zip(absent, tier.begin_fills(absent), strict=True))
        rows = []
        try:
            commands = [
                (bucket, script_call(READ, self.names_of(names, bucket, members))) for bucket, members in groups
            ]
            replies = yield from self.ask(groups, commands, deadline)
            for (_, members), reply in zip(groups, replies, strict=True):
                if type(reply) is Failure:
                    failed.update(dict.fromkeys(members, reply))
                    continue
                at = 0
                for key in members:
                    size, pttl = ROW.unpack_from(reply, at)
                    at += ROW.size
                    value = MISSING
                    if size != NONE:
                        data = reply[at:at + size]
                        try:
                            if not self.has_ended(data, pttl):
                                value, row = self.read(fills[key], data, pttl, schema)
                                rows.append(row)
                        except Undecodable:
                            undecodable += 1        # a miss, like an absent key
                        at += size
                    if value is MISSING:
                        misses += 1
                        tier.end_fill(fills[key], True)
                    else:
                        hits += 1
                        found[key] = value
            tier.store_many(rows)
        finally:
            tier.end_fills(fills.values())
            if counts:
                tier.count(remote_hits=hits, misses=misses, undecodable=undecodable)
        return found, failed
