"""The base of all operations: the state of one cache, and questions to its servers.

The two caches run the operations as generators. An operation yields effects (`effects`), and the driver of the cache
carries them out. An operation checks its input first, and changes nothing if the input is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from cachebox.distributed._near.near_cache import Tier
from cachebox.distributed._net.effects import Effects, Failure
from cachebox.distributed._net.refusals import Unavailable, refusal_in
from cachebox.distributed._net.topology import Topology
from cachebox.distributed._wire.codec import Codec
from cachebox.distributed._wire.keyspace import KeySpace
from cachebox.distributed._wire.resp import ReplyError
from cachebox.distributed._wire.scripts import Script, script_call
from cachebox.distributed.errors import BackendRefused, BackendUnavailable

if TYPE_CHECKING:
    from cachebox.distributed._near.tracking import Tracking
    from cachebox.distributed._ops.pending_invalidations import PendingInvalidations


class Asking:
    """Asks the servers of one cache about keys."""

    topology: Topology
    tier: Tier
    codec: Codec
    tracking: Tracking | None
    pending: PendingInvalidations
    timeout: float                      # seconds
    is_closed: bool

    def deadline(self) -> float:
        return time.monotonic() + self.timeout

    def begin(self, deadline: float) -> Effects[None]:
        """Begin an operation that asks a server: check that the cache is open, and give the tracking its first
        chance to connect."""
        self.check_open()
        tracking = self.tracking
        if tracking is not None and not tracking.has_begun:
            yield from tracking.wait_until_begun(deadline)
        if self.topology.owners is None:
            yield from self.topology.refresh(deadline)

    def check_open(self) -> None:
        """Raise RuntimeError if the cache was closed."""
        if self.is_closed:
            raise RuntimeError("this cache is closed")

    @property
    def names(self) -> KeySpace | None:
        return self.topology.names

    def bucket_of(self, key: str) -> int:
        names = self.topology.names
        return names.bucket(key) if names is not None else 0

    def call(
        self, script: Script, key: str, *arguments: Any, deadline: float, more: Iterable[bytes] = (), retries: int = 3
    ) -> Effects[Any]:
        """The reply to one script about one key, or a Failure."""
        names = self.topology.names
        if names is None:
            (reply,) = yield from self.topology.ask([(0, [b"PING"])], deadline)
            names = self.topology.names
            if names is None or type(reply) is Failure:
                return reply
        bucket = names.bucket(key)
        if self.pending.exists:
            failures = yield from self.pending.settle((key,), deadline)
            if failures:
                return failures[bucket]
        keys = (names.generation(bucket), names.value_in(bucket, key), *more)
        command = script_call(script, keys, *arguments)
        return (yield from self.topology.ask_one(bucket, command, deadline, retries))

    def ask(self, groups: list[tuple[int, list[str]]], commands: list[Any], deadline: float) -> Effects[list[Any]]:
        """`Topology.ask` with one command about the keys of each group, after their pending invalidations were
        settled."""
        failures: dict[int, Failure] = {}
        if self.pending.exists:
            failures = yield from self.pending.settle([key for _, members in groups for key in members], deadline)
        if not failures:
            return (yield from self.topology.ask(commands, deadline))
        healthy = [command for command in commands if command[0] not in failures]
        replies = iter((yield from self.topology.ask(healthy, deadline)) if healthy else ())
        return [failures[bucket] if bucket in failures else next(replies) for bucket, _ in commands]

    def grouped(self, keys: Iterable[str]) -> list[tuple[int, list[str]]]:
        """Keys by bucket, in groups of at most `at_once`."""
        names = self.topology.names
        if names is None or not names.clustered:
            keys = list(keys)
            at_once = self.topology.at_once
            return [(0, keys[at:at + at_once]) for at in range(0, len(keys), at_once)]
        groups: dict[int, list[str]] = {}
        for key in keys:
            groups.setdefault(names.bucket(key), []).append(key)
        return [
            (bucket, members[at:at + self.topology.at_once])
            for bucket, members in groups.items()
            for at in range(0, len(members), self.topology.at_once)
        ]

    @staticmethod
    def names_of(names: KeySpace | None, bucket: int, keys: list[str]) -> list[bytes]:
        if names is None:
            return []
        return [names.generation(bucket), *(names.value_in(bucket, key) for key in keys)]

    def unavailable(
        self, failure: Failure, keys: Iterable[str] = (), partial: Mapping[str, Any] | None = None
    ) -> BackendUnavailable:
        """The exception for a failure."""
        servers = self.topology.servers
        refusal = refusal_in(failure.error)
        if refusal is not None:
            kind: type[BackendUnavailable] = BackendRefused
            does, said = "refuses", str(failure.error)
            said = said if refusal in said else refusal
        else:
            answers = type(failure.error) in (ReplyError, Unavailable)
            kind, does = BackendUnavailable, "does not serve" if answers else "could not be reached"
            said = str(failure.error) or "no answer in time"
        error = kind(f"{servers!r} {does}: {said}", keys=keys, partial=partial)
        error.__cause__ = failure.error
        return error

    def raise_failed(self, failed: list[tuple[list[str], Failure]]) -> None:
        if failed:
            self.tier.count(errors=1)
            raise self.unavailable(failed[0][1], [key for members, _ in failed for key in members])
