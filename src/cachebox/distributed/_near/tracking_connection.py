"""One tracking connection, and the exchanges on it."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from cachebox.distributed._near.near_cache import Tier
from cachebox.distributed._net.blocking_driver import Connection
from cachebox.distributed._net.effects import Commands, Node
from cachebox.distributed._net.refusals import NOT_SERVING
from cachebox.distributed._wire.keyspace import KeySpace
from cachebox.distributed._wire.replies import verify
from cachebox.distributed._wire.resp import ReplyError, Senseless, packed, packed_all


class TrackingConnection:
    """The tracking connection to one server.

    Args:
        owned: of a cluster, the name of a generation that the server owns. Then what stands for PING is a command that
            only the owner answers, because a server that has lost its part of the keys goes on answering PING, but its
            pushes may be late, or end.
    """

    def __init__(self, node: Node, connection: Connection, owned: bytes | None = None) -> None:
        self.node = node
        self.connection = connection
        self._ping = packed(b"PING") if owned is None else packed(b"GET", owned)
        self._is_proof = owned is not None
        self.made = time.monotonic()
        self.sent: deque[tuple[float, list[Request]]] = deque()     # PINGs not answered yet
        self.answered = -math.inf       # when the latest answered PING was sent

    def ping(self, requests: list[Request]) -> None:
        """Send PING. Its answer serves these requests."""
        now = time.monotonic()
        self.connection.sock.settimeout(0.2)
        self.connection.sock.sendall(self._ping)
        self.sent.append((now, requests))

    def is_answer(self, reply: Any) -> bool:
        """Whether a reply is one to a PING. Raises ConnectionError if the server has lost its part of the keys."""
        if not self.sent or not self._is_proof:
            return bool(self.sent) and type(reply) is str and reply == "PONG"
        if type(reply) is ReplyError and (reply.code == "MOVED" or reply.code in NOT_SERVING):
            raise ConnectionError(str(reply))
        return reply is None or type(reply) in (bytes, ReplyError)


class Request:
    """A wait for an answer of every server."""

    def __init__(self, wake: Callable[[], object], deadline: float) -> None:
        self.wake = wake
        self.deadline = deadline
        self.asked: set[TrackingConnection] = set()
        self.answered: set[TrackingConnection] = set()
        self.holds = False


def said(connection: Connection, commands: Commands, deadline: float) -> list[Any]:
    """The answers of a server to some commands. Raises what the connection raises."""
    connection.send(packed_all(commands), deadline)
    replies = connection.receive(len(commands), deadline)
    verify(commands, replies)
    return replies


def pass_on(push: list[Any], names: KeySpace, tier: Tier) -> None:
    """Apply a server's push to the first tier. Names of other namespaces are ignored. Raises Senseless."""
    if push[0] not in (b"invalidate", "invalidate"):
        return
    named = push[1] if len(push) == 2 else ()
    if named is None:                       # FLUSHDB, FLUSHALL
        tier.clear()
        return
    if type(named) is not list:
        raise Senseless("an invalidation does not say of what")
    for name in named:
        if type(name) is not bytes:
            raise Senseless(f"a {type(name).__name__} is not the name of an entry")
        parsed = names.parse(name)
        if parsed is None:
            continue
        bucket, letter, rest = parsed
        if letter == 118:                   # v
            tier.on_invalidate(rest)
        elif letter == 108:                 # l
            tier.wake(rest)
        elif letter == 103:                 # g
            tier.on_generation(bucket)
        elif letter == 116:                 # t
            tier.on_tag(bucket, rest)
