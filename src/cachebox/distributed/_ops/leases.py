"""The leases of those who compute: kept alive while the factory runs, and given up when there is nothing to store.

A lease is a name on the server that holds a token and expires, so that a dead process does not keep others waiting. One
token may stand for the leases of many keys.
"""

from __future__ import annotations

import time
from typing import Any

from cachebox._loading.flight import Flight
from cachebox.distributed._net.blocking_driver import Blocking
from cachebox.distributed._net.effects import Effects
from cachebox.distributed._ops.operations import Core
from cachebox.distributed._wire import error_codec as failed
from cachebox.distributed._wire.scripts import FAIL, LEASE, script_call

LEASE_MS = 5000
RENEWED_EVERY = 1.25                # seconds

PATIENCE = 8.0
"""Seconds that a lease is waited for which shows no sign of life."""
RENEWED_BY = 0.1
"""Seconds by which the end of a lease has to move for that to be one."""

Group = tuple[int, list[bytes]]
"""A bucket, the name of its generation, and the names of leases there."""


class Patience:
    """How long to wait for a lease of another process, whatever the server says about it."""

    def __init__(self) -> None:
        self._token = b""
        self._end = self._until = 0.0

    def seconds(self, token: bytes, milliseconds: int) -> float:
        """Seconds to wait before asking again; 0: it has shown no sign of life for too long.

        Args:
            token: whose lease it is. Another one's is a sign of life.
            milliseconds: what is left of it. More than was left before is a sign of life, but not an endless lease.
        """
        now = time.monotonic()
        is_sane = 0 < milliseconds <= 1000 * PATIENCE
        end = now + milliseconds / 1000 if is_sane else self._end
        if token != self._token or end > self._end + RENEWED_BY:
            self._until = now + PATIENCE
        self._token, self._end = token, end
        left = max(0.0, self._until - now)
        return min(left, milliseconds / 1000 + 0.01 if is_sane else 1.0)


class Leases:
    """The leases that this process holds for one cache."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.renew()

    def renew(self) -> None:
        """Reset: at first, and in the child of a fork."""
        self._kept: dict[bytes, tuple[list[Group], Flight]] = {}

    def keep(self, token: bytes, groups: list[Group], flight: Flight) -> None:
        """Have leases renewed, until `let_go`, or until nobody can go on with their flight."""
        self._kept[token] = groups, flight
        self._core.background.schedule(RENEWED_EVERY, lambda: self._renew(token))

    def let_go(self, token: bytes) -> list[Group] | None:
        """Stop renewing leases. What is neither stored nor given up expires. Returns them, if they were renewed."""
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
        """The same, in the background, for who cannot wait."""
        self._core.background.schedule(0.0, lambda: self._send(token, groups, b""))

    def _renew(self, token: bytes) -> None:
        groups, flight = self._kept.get(token, (None, None))
        if groups is None or flight is None:
            return
        if flight.lost():
            self.let_go(token)
            self._send(token, groups, b"")
        else:
            # first, whatever the server says
            self._core.background.schedule(RENEWED_EVERY, lambda: self._renew(token))
            self._send(token, groups, b"%d" % LEASE_MS)

    def _send(self, token: bytes, groups: list[Group], milliseconds: bytes) -> None:
        commands = self._commands(token, groups, milliseconds)
        Blocking().run(self._core.topology.ask(commands, self._core.deadline()))

    @staticmethod
    def _commands(token: bytes, groups: list[Group], milliseconds: bytes) -> list[Any]:
        return [(bucket, script_call(LEASE, names, token, milliseconds)) for bucket, names in groups]
