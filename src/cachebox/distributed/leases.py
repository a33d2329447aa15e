"""The leases of those who compute: kept alive while the factory runs, and given up when there is nothing to store.

A lease is a name on the server that holds a token and expires, so that a dead process does not keep others waiting. One
token may stand for the leases of many keys.
"""

from __future__ import annotations

from typing import Any

from cachebox.distributed import failed
from cachebox.distributed.blocking import Blocking
from cachebox.distributed.core import Core
from cachebox.distributed.effects import Effects
from cachebox.distributed.scripts import FAIL, LEASE, script_call
from cachebox.flight import Flight

LEASE_MS = 5000
RENEWED_EVERY = 1.25                # seconds

Group = tuple[int, list[bytes]]
"""A bucket, the name of its generation, and the names of leases there."""


class Leases:
    """Those that this process has of one cache's keys."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.renew()

    def renew(self) -> None:
        """Begin anew: at first, and in the child of a fork."""
        self._kept: dict[bytes, tuple[list[Group], Flight]] = {}

    def keep(self, token: bytes, groups: list[Group], flight: Flight) -> None:
        """Have leases renewed, until `let_go`, or until nobody can go on with their flight."""
        self._kept[token] = groups, flight
        self._core.helper.schedule(RENEWED_EVERY, lambda: self._renew(token))

    def let_go(self, token: bytes) -> list[Group] | None:
        """Have them renewed no more. What was not stored or given up expires. Returns them, if they were."""
        return self._kept.pop(token, (None, None))[0]

    def give_up(self, token: bytes, groups: list[Group], deadline: float) -> Effects[None]:
        """Let the next one lead. Where that fails, the leases expire."""
        yield from self._core.topology.ask(self._commands(token, groups, b""), deadline)

    def fail(self, key: str, token: bytes, groups: list[Group], error: Exception, deadline: float) -> Effects[None]:
        """`give_up` the lease of one key, and tell those who wait in other processes how its computation failed."""
        core = self._core
        encoded = failed.encode(core.codec, key, token, error)
        if encoded is None:
            yield from self.give_up(token, groups, deadline)
        else:
            assert core.names is not None
            [(bucket, names)] = groups
            names = [*names, core.names.failed(bucket, token)]
            command = script_call(FAIL, names, token, *encoded, failed.KEPT_MS)
            yield from core.topology.ask([(bucket, command)], deadline)

    def give_up_soon(self, token: bytes, groups: list[Group]) -> None:
        """The same, in the helper's thread, for who cannot wait."""
        self._core.helper.schedule(0.0, lambda: self._send(token, groups, b""))

    def _renew(self, token: bytes) -> None:
        groups, flight = self._kept.get(token, (None, None))
        if groups is None or flight is None:
            return
        if flight.lost():
            self.let_go(token)
            self._send(token, groups, b"")
        else:
            self._send(token, groups, b"%d" % LEASE_MS)
            self._core.helper.schedule(RENEWED_EVERY, lambda: self._renew(token))

    def _send(self, token: bytes, groups: list[Group], milliseconds: bytes) -> None:
        commands = self._commands(token, groups, milliseconds)
        Blocking().run(self._core.topology.ask(commands, self._core.deadline()))

    @staticmethod
    def _commands(token: bytes, groups: list[Group], milliseconds: bytes) -> list[Any]:
        return [(bucket, script_call(LEASE, names, token, milliseconds)) for bucket, names in groups]
