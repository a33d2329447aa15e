"""Loading many keys together: one step takes their leases, and one step stores their values."""

from __future__ import annotations

from typing import Any

from cachebox.distributed._net.effects import Effects, Failure
from cachebox.distributed._ops import leases
from cachebox.distributed._ops.leases import Group
from cachebox.distributed._ops.operations import Core
from cachebox.distributed._ops.single_flight import Loader, new_flight
from cachebox.distributed._wire.keyspace import new_token
from cachebox.distributed._wire.scripts import COMPLETE_MANY, LEAD_MANY, script_call

Row = tuple[tuple[bytes, bytes], float, tuple[str, ...]]
"""A value to store: encoded, its lifetime in seconds, its tags."""


class LeadOfMany:
    """One load of many keys: a context manager that releases what it holds, however it ends.

    After an exception it gives the leases up in the background, as it always does with those of servers that did not
    answer. Otherwise the caller calls `give_up` if it has not used all of them.
    """

    def __init__(self, core: Core, loader: Loader) -> None:
        self._core = core
        self._loader = loader
        self.token = new_token()
        self.flight = new_flight()
        self._leased: list[Group] = []
        self._doubtful: list[Group] = []        # the server may have granted them, or not have ended them

    def __enter__(self) -> LeadOfMany:
        # before the leases are taken, because a waiter that sees this token must find the flight
        self._loader.flights[self.token] = self.flight
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        left = self._doubtful if error is None else [*self._leased, *self._doubtful]
        if left:
            self._loader.leases.give_up_soon(self.token, left)
        self.let_go()
        self._loader.flights.pop(self.token, None)
        self.flight.give_up()                   # waiters look again

    def keep(self) -> None:
        """Renew the leases while the values are computed."""
        self._loader.leases.keep(self.token, self._leased, self.flight)

    def let_go(self) -> None:
        """Stop renewing the leases."""
        self._loader.leases.let_go(self.token)

    def give_up(self) -> Effects[None]:
        """Give up the leases, so that other callers can lead what was not stored."""
        yield from self._loader.leases.give_up(self.token, self._leased, self._core.deadline())

    def lead(self, keys: list[str]) -> Effects[tuple[list[str], list[str], list[Exception]]]:
        """Ask for leases.

        Returns the keys with a lease, the keys without one, and the errors of servers that did not answer.
        """
        core, tier = self._core, self._core.tier
        deadline = core.deadline()
        mine: list[str] = []
        others: list[str] = []
        failed: list[tuple[list[str], Failure]] = []
        groups = core.grouped(keys)
        commands = []
        for bucket, members in groups:
            names = core.names_of(core.names, bucket, members)
            commands.append((bucket, script_call(LEAD_MANY, names, new_token(), self.token, leases.LEASE_MS)))
        writes = [tier.begin_write(()) for _ in groups]     # of the generations, which the script may make
        # until the answers say which: the server may have granted all of them when this is interrupted
        self._leased = [self._leases_of(bucket, members) for bucket, members in groups if core.names is not None]
        leased: list[Group] = []
        try:
            replies = yield from core.ask(groups, commands, deadline)
        except BaseException:
            for write in writes:
                tier.drop_write(write)
            raise
        for (bucket, members), reply, write in zip(groups, replies, writes, strict=True):
            if type(reply) is Failure:
                tier.drop_write(write)
                failed.append((members, reply))
                if reply.was_sent and core.names is not None:
                    self._doubtful.append(self._leases_of(bucket, members))
                continue
            if reply[:1] == b"1":
                tier.end_write(write, (), [bucket])
            else:
                tier.drop_write(write)
            led = [key for key, answer in zip(members, reply[1:], strict=True) if answer == 51]
            others += [key for key, answer in zip(members, reply[1:], strict=True) if answer != 51]
            mine += led
            if led:
                leased.append(self._leases_of(bucket, led))
        self._leased = leased
        if failed:
            tier.count(errors=1)
        return mine, others, [core.unavailable(reply, members) for members, reply in failed]

    def _leases_of(self, bucket: int, keys: list[str]) -> Group:
        names = self._core.names
        assert names is not None
        return bucket, [names.generation(bucket), *(names.lease(bucket, key) for key in keys)]

    def complete(self, rows: dict[str, Row]) -> Effects[list[tuple[list[str], Failure]]]:
        """Store values, as far as the leases hold: those without tags in one step.

        Returns the keys whose servers did not answer.
        """
        core = self._core
        together = {key: row for key, row in rows.items() if not row[2]}
        groups = core.grouped(together)
        commands = []
        for bucket, members in groups:
            arguments: list[Any] = [self.token]
            for key in members:
                encoded, lifetime, _ = together[key]
                arguments += (*encoded, self._expiry(lifetime))
            script_keys = core.names_of(core.names, bucket, members)
            commands.append((bucket, script_call(COMPLETE_MANY, script_keys, *arguments)))
        replies = (yield from core.send_writes(commands, groups, core.deadline())) if commands else []
        failed = []
        for (bucket, members), reply, write in replies:
            if type(reply) is Failure:
                failed.append((members, reply))
                self._doubtful.append(self._leases_of(bucket, members))
                continue
            stored = [key for key, answer in zip(members, reply, strict=True) if answer == 49]
            core.tier.end_write(write, stored)
            core.tier.count(fills_refused=len(members) - len(stored))
        names = core.names
        for key, (encoded, lifetime, tags) in rows.items():
            if tags and names is not None:
                lease = names.lease(names.bucket(key), key)
                yield from self._loader.complete(
                    key, encoded, self._expiry(lifetime), tags, self.token, lease, core.deadline()
                )
        return failed

    def _expiry(self, lifetime: float) -> bytes:
        return self._core.expiry(lifetime, self._core.kept_of(lifetime))
