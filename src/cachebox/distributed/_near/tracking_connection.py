"""One connection on which a server says what has changed, and what is said on it."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from cachebox.distributed._near.near_cache import Tier
from cachebox.distributed._net.blocking_driver import Channel
from cachebox.distributed._net.effects import Commands, Node
from cachebox.distributed._wire.keyspace import KeySpace
from cachebox.distributed._wire.replies import verify
from cachebox.distributed._wire.resp import Senseless, packed, packed_all


class Line:
    """The link to one server."""

    def __init__(self, node: Node, channel: Channel) -> None:
        self.node = node
        self.channel = channel
        self.made = time.monotonic()
        self.sent: deque[tuple[float, list[Request]]] = deque()     # PINGs not answered yet
        self.answered = -math.inf       # when the latest PING that was answered had been sent

    def ping(self, requests: list[Request]) -> None:
        """Ask for an answer; whoever requested it is told."""
        now = time.monotonic()
        self.channel.sock.settimeout(0.2)
        self.channel.sock.sendall(packed(b"PING"))
        self.sent.append((now, requests))


class Request:
    """Somebody waits until every server has answered."""

    def __init__(self, wake: Callable[[], object], deadline: float) -> None:
        self.wake = wake
        self.deadline = deadline
        self.asked: set[Line] = set()
        self.answered: set[Line] = set()
        self.holds = False


def said(channel: Channel, commands: Commands, deadline: float) -> list[Any]:
    """What a server answers to some commands. Raises what talking to it may raise."""
    channel.send(packed_all(commands), deadline)
    replies = channel.receive(len(commands), deadline)
    verify(commands, replies)
    return replies


def pass_on(push: list[Any], names: KeySpace, tier: Tier) -> None:
    """Tell the first tier of a message from a server. Names of other namespaces are ignored. Raises Senseless."""
    if push[0] not in (b"invalidate", "invalidate"):
        return
    named = push[1] if len(push) == 2 else ()
    if named is None:                       # FLUSHDB, FLUSHALL
        tier.wipe()
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
            tier.heard_of(rest)
        elif letter == 108:                 # l
            tier.wake(rest)
        elif letter == 103:                 # g
            tier.heard_of_generation(bucket)
        elif letter == 116:                 # t
            tier.heard_of_tag(bucket, rest)
