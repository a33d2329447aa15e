"""Leases of many keys, taken in one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachebox.distributed._net.effects import Effects, Failure
from cachebox.distributed._ops import leases
from cachebox.distributed._ops.leases import Group
from cachebox.distributed._wire.keyspace import new_token
from cachebox.distributed._wire.scripts import LEAD_MANY, script_call

if TYPE_CHECKING:
    from cachebox.distributed._ops.operations import Core


class Leading:
    """Who loads many keys together."""

    _core: Core

    def lead(
        self, keys: list[str], token: bytes, leased: list[Group]
    ) -> Effects[tuple[list[str], list[str], list[Exception]]]:
        """Ask for leases, which end up in `leased`. Returns the keys that are ours to load, those that are not, and why
        of some nobody could tell."""
        core, tier = self._core, self._core.tier
        deadline = core.deadline()
        mine: list[str] = []
        others: list[str] = []
        failed: list[tuple[list[str], Failure]] = []
        groups = core.grouped(keys)
        commands = []
        for bucket, members in groups:
            names = core.names_of(core.names, bucket, members)
            commands.append((bucket, script_call(LEAD_MANY, names, new_token(), token, leases.LEASE_MS)))
        writes = [tier.begin_write(()) for _ in groups]     # of the generations, where there are none
        try:
            replies = yield from core.ask(groups, commands, deadline)
        except BaseException:                   # cancelled: the server may have given them all the same
            for write in writes:
                tier.drop_write(write)
            leased += [self.leases_of(bucket, members) for bucket, members in groups if core.names is not None]
            raise
        for (bucket, members), reply, write in zip(groups, replies, writes, strict=True):
            if type(reply) is Failure:
                tier.drop_write(write)
                failed.append((members, reply))
                continue
            if reply[:1] == b"1":
                tier.end_write(write, (), [bucket])
            else:
                tier.drop_write(write)
            led = [key for key, answer in zip(members, reply[1:], strict=True) if answer == 51]
            others += [key for key, answer in zip(members, reply[1:], strict=True) if answer != 51]
            mine += led
            if led:
                leased.append(self.leases_of(bucket, led))
        if failed:
            tier.count(errors=1)
        return mine, others, [core.unavailable(reply, members) for members, reply in failed]

    def leases_of(self, bucket: int, keys: list[str]) -> Group:
        names = self._core.names
        assert names is not None
        return bucket, [names.generation(bucket), *(names.lease(bucket, key) for key in keys)]
