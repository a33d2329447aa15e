"""The leases of leaders: renewed while the loader runs, and given up if there is nothing to store.

A lease is a name on the server that holds a fencing token and expires, so that a dead process does not block others.
One token may stand for the leases of many keys.
"""

from __future__ import annotations

import time
from typing import Any

from cachebox._loading.flight import Flight
from cachebox.distributed._net.blocking_driver import Blocking
from cachebox.distributed._net.effects import Effects, Failure
from cachebox.distributed._ops.operations import Core
from cachebox.distributed._wire import error_codec
from cachebox.distributed._wire.scripts import FAIL, LEASE, script_call

LEASE_MS = 5000
RENEWED_EVERY = 1.25                # seconds

PATIENCE = 8.0
"""Seconds to wait for a lease without a sign of life."""
RENEWED_BY = 0.1
"""Seconds by which the deadline of a lease has to move to count as a sign of life."""

Group = tuple[int, list[bytes]]
"""A bucket, the name of its generation, and the names of leases there."""


class Patience:
    """How long to wait for a lease of another process, whatever the server says about it."""

    def __init__(self) -> None:
        self._token = b""
        self._end = self._until = 0.0

    def seconds(self, token: bytes, milliseconds: int) -> float:
        """Seconds to wait before asking again; 0: the lease has shown no sign of life for too long.

        Args:
            token: the token of the lease. A new token is a sign of life.
            milliseconds: the lease's time left. More than before is a sign of life, unless it is implausibly long.
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
        self._asked: dict[bytes, list[Group]] = {}          # the server may have granted them, and they were not used

    def ask(self, token: bytes, groups: list[Group]) -> None:
        """Said before the server is asked for leases: from now on `end` gives them up."""
        self._asked[token] = groups

    def settled(self, token: bytes) -> None:
        """Said when the server has not granted the leases, or has ended them."""
        self._asked.pop(token, None)

    def end(self, token: bytes) -> None:
        """Said when nobody will use the leases: those that the server may still have are given up in the background.

        So no way on which a leader ends, interruptions and servers that did not answer included, has others wait until
        its lease expires.
        """
        self._kept.pop(token, None)
        groups = self._asked.pop(token, None)
        if groups is not None:
            self.give_up_soon(token, groups)

    def keep(self, token: bytes, groups: list[Group], flight: Flight) -> None:
        """Renew leases until `let_go`, or until nobody can continue their flight."""
        self._kept[token] = groups, flight
        self._core.background.schedule(RENEWED_EVERY, lambda: self._renew(token))

    def let_go(self, token: bytes) -> None:
        """Stop renewing leases."""
        self._kept.pop(token, None)

    def take_over(self, token: bytes, deadline: float) -> Effects[None]:
        """Give up the leases of an abandoned flight, unless its leader does so."""
        self._kept.pop(token, None)
        groups = self._asked.pop(token, None)
        if groups is not None:
            yield from self.give_up(token, groups, deadline)

    def give_up(self, token: bytes, groups: list[Group], deadline: float) -> Effects[None]:
        """Give leases up, so that another caller can lead. If that fails, they expire."""
        replies = yield from self._core.topology.ask(self._commands(token, groups, b""), deadline)
        self._note(token, replies)

    def _note(self, token: bytes, replies: list[Any]) -> None:
        if not any(type(reply) is Failure for reply in replies):
            self.settled(token)

    def fail(self, key: str, token: bytes, groups: list[Group], error: Exception, deadline: float) -> Effects[None]:
        """Give up the lease of one key, and pass the loader's error to the waiters in other processes."""
        core = self._core
        encoded = error_codec.encode(core.codec, key, token, error)
        if encoded is None:
            yield from self.give_up(token, groups, deadline)
        else:
            assert core.names is not None
            [(bucket, names)] = groups
            names = [*names, core.names.failed(bucket, token)]
            command = script_call(FAIL, names, token, *encoded, error_codec.KEPT_MS)
            self._note(token, (yield from core.topology.ask([(bucket, command)], deadline)))

    def give_up_soon(self, token: bytes, groups: list[Group]) -> None:
        """`give_up` in the background, for callers that cannot wait."""
        self._core.background.schedule(0.0, lambda: self._send(token, groups, b""))

    def _renew(self, token: bytes) -> None:
        groups, flight = self._kept.get(token, (None, None))
        if groups is None or flight is None:
            return
        if flight.lost():
            self.let_go(token)
            self._send(token, groups, b"")
        else:
            # schedule first, whatever the server answers
            self._core.background.schedule(RENEWED_EVERY, lambda: self._renew(token))
            self._send(token, groups, b"%d" % LEASE_MS)

    def _send(self, token: bytes, groups: list[Group], milliseconds: bytes) -> None:
        commands = self._commands(token, groups, milliseconds)
        Blocking().run(self._core.topology.ask(commands, self._core.deadline()))

    @staticmethod
    def _commands(token: bytes, groups: list[Group], milliseconds: bytes) -> list[Any]:
        return [(bucket, script_call(LEASE, names, token, milliseconds)) for bucket, names in groups]
