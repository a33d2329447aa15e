"""The tracking link: one connection to each server that owns something, on which it says what has changed.

One thread per cache reads them all. To know that a link is alive it sends PING, and since the server answers in order,
the answer also means: all that was written before the PING has been heard of. That is what `barrier` waits for, and
what the freshness of the first tier is counted from.

Invariant: the first tier is emptied after tracking was switched on, and before the first hit after that.
"""

from __future__ import annotations

import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from ssl import SSLWantReadError
from typing import Any

from cachebox.distributed.blocking import Blocking, Channel, open_channel, readable
from cachebox.distributed.effects import Effects, MakeWaiter, Node, Wait
from cachebox.distributed.keyspace import new_token
from cachebox.distributed.resp import CHUNK, INCOMPLETE, Push, ReplyError, packed
from cachebox.distributed.scripts import BY_DIGEST
from cachebox.distributed.servers import FAILURES, left
from cachebox.distributed.tier import Tier
from cachebox.distributed.topology import Topology
from cachebox.threads import Thread

RETRY_APART = 1.0
"""Seconds between attempts to reach a server, and so between the probes of a dead one."""
SWEEPS_APART = 0.5
LONGEST_TRY = 1.5
"""Seconds that one attempt to connect may take, however patient the callers are: the next one may find it well."""


class Line:
    """The link to one server."""

    def __init__(self, node: Node, channel: Channel) -> None:
        self.node = node
        self.channel = channel
        self.sent: deque[tuple[float, list[Request]]] = deque()     # PINGs not answered yet
        self.answered = -math.inf       # when the latest PING that was answered had been sent

    def ping(self, requests: list[Request]) -> None:
        """Ask for an answer; whoever requested it is told."""
        now = time.monotonic()
        self.channel.sock.settimeout(0.2)
        self.channel.sock.sendall(packed("PING"))
        self.sent.append((now, requests))


class Request:
    """Somebody waits until every server has answered."""

    def __init__(self, wake: Callable[[], object], deadline: float) -> None:
        self.wake = wake
        self.deadline = deadline
        self.asked: set[Line] = set()
        self.answered: set[Line] = set()
        self.holds = False


class Link:
    """Hears of changes, and tells the tier.

    Args:
        topology: whom to listen to.
        tier: whom to tell.
        max_staleness: seconds for which hits are served after the last sign of life.
        timeout: seconds that a server has to let us in.
    """

    def __init__(self, topology: Topology, tier: Tier, max_staleness: float, timeout: float) -> None:
        self._topology = topology
        self._tier = tier
        self._max_staleness = max_staleness
        self._timeout = min(timeout, LONGEST_TRY)
        self._pings_apart = min(max(max_staleness / 4, 0.01), 1.0)
        self._given_up_after = max(1.0, 2 * self._timeout)
        topology.link_probes = True
        self._lines: dict[Node, Line] = {}
        self._ears: socket.socket | None = None         # a pair of sockets to wake the thread by
        self._voice: socket.socket | None = None
        self.renew()

    def renew(self) -> None:
        """Begin anew: at first, and in the child of a fork, whose connections are its parent's."""
        self._close_sockets()
        self.has_begun = False                  # whether the first attempt is over
        self._lock = threading.RLock()          # a signal handler or a finalizer may come back at any moment
        self._begun: list[Callable[[], object]] = []
        self._requests: list[Request] = []
        self._lines = {}
        self._next_try: dict[Node, float] = {}
        self._discover_at = 0.0
        self._thread: Thread | None = None
        self._told_to_end = False
        self._is_stopped = False
        self._ears = self._voice = None

    # --- from other threads -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Have the thread run, if it does not."""
        with self._lock:
            if self._thread is None and not self._told_to_end:
                if self._ears is None:
                    self._ears, self._voice = socket.socketpair()
                    self._ears.setblocking(False)
                    self._voice.setblocking(False)
                thread = Thread("cachebox-link", self._run)
                if self._thread is None:        # else a signal handler came in between
                    self._thread = thread
                    thread.start()

    def pause(self) -> None:
        """End the thread, and wait for that; the connections stay. Before a fork."""
        with self._lock:
            self._told_to_end = True
            thread = self._thread
        self._say()
        if thread is not None and thread is not threading.current_thread():
            thread.join(self._timeout + 2.0)

    def resume(self) -> None:
        """After a fork, in the parent."""
        if not self._is_stopped:
            with self._lock:
                self._told_to_end = False
                was_running = self.has_begun or self._lines or self._begun
            if was_running:
                self.start()

    def stop(self) -> None:
        """End the thread and close its connections. May be called twice."""
        self._is_stopped = True
        self.pause()
        self._close_sockets()
        for request in self._requests:
            request.wake()

    def stop_soon(self) -> None:
        """`stop`, without waiting: the thread closes what it has. For caches that nobody closed."""
        self._is_stopped = self._told_to_end = True
        if self._thread is None:
            self._close_sockets()
        self._say()

    def _close_sockets(self) -> None:
        for line in self._lines.values():
            line.channel.close()
        self._lines.clear()
        for end in (self._ears, self._voice):
            if end is not None:
                end.close()
        self._ears = self._voice = None

    def _say(self) -> None:
        voice = self._voice
        if voice is None:
            return
        try:
            voice.send(b".")
        except OSError:                         # full: it has been told; or closed: there is nobody to tell
            pass

    def wait_until_begun(self, deadline: float) -> Effects[None]:
        """Until the first attempt to connect is over, well or badly."""
        waiter = yield MakeWaiter()
        with self._lock:
            if self.has_begun:
                return
            self._begun.append(waiter.wake)
        self.start()
        yield Wait(waiter, deadline)

    def barrier(self, deadline: float) -> Effects[bool]:
        """Until everything written before now has been heard of. False: that cannot be known in time."""
        waiter = yield MakeWaiter()
        request = Request(waiter.wake, deadline)
        with self._lock:
            self._requests.append(request)
        self.start()
        self._say()
        try:
            yield Wait(waiter, deadline)
        finally:
            with self._lock:
                if request in self._requests:
                    self._requests.remove(request)
        return request.holds

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        swept_at = 0.0
        try:
            while not self._told_to_end:
                self._connect()
                self._ping()
                self._listen()
                now = time.monotonic()
                if now > swept_at + SWEEPS_APART:
                    swept_at = now
                    self._tier.sweep()
        finally:
            with self._lock:
                self._thread = None
            if self._is_stopped:
                self._close_sockets()

    def _connect(self) -> None:
        """Connect to whom there is no link, and not too often."""
        topology = self._topology
        now = time.monotonic()
        missing = [node for node in topology.masters if node not in self._lines]
        if now >= self._discover_at and (
            topology.owners is None or topology.is_suspect or (missing and topology.servers.mode != "single")
        ):
            self._discover_at = now + RETRY_APART
            Blocking().run(topology.discover(now + self._timeout, is_probe=True))
            if topology.owners is None and not self.has_begun:
                self._has_begun()
        masters = topology.masters
        for node in [node for node in self._lines if node not in masters]:
            self._lose(self._lines[node])
        for node in masters:
            if node not in self._lines and time.monotonic() >= self._next_try.get(node, 0.0):
                self._next_try[node] = time.monotonic() + RETRY_APART
                self._connect_to(node)
        if masters and not self.has_begun:
            self._has_begun()

    def _has_begun(self) -> None:
        with self._lock:
            self.has_begun = True
            begun, self._begun = self._begun, []
        for wake in begun:
            wake()

    def _connect_to(self, node: Node) -> None:
        deadline = time.monotonic() + self._timeout
        names = self._topology.names
        assert names is not None
        node.breaker.probes()
        channel = None
        try:
            channel = open_channel(node, deadline)
            tracking = packed("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", names.prefix)
            channel.send(tracking + packed("CLIENT", "NO-EVICT", "ON"), deadline)
            reply, _ = channel.receive(2, deadline)         # the second is refused by servers before 7.0
            loads = [packed("SCRIPT", "LOAD", script.text) for script in BY_DIGEST.values()]
            channel.send(b"".join(loads), deadline)         # so that no call has to, when time is short
            channel.receive(len(loads), deadline)
            if names.clustered:                 # or the first writes into each bucket would be news to everybody
                owned = [bucket for bucket, owner in enumerate(self._topology.owners or ()) if owner is node]
                made = [packed("SET", names.generation(bucket), new_token(), "NX") for bucket in owned]
                channel.send(b"".join(made), deadline)
                channel.receive(len(made), deadline)
        except FAILURES:
            if channel is not None:
                channel.close()
            node.breaker.failed()
            self._topology.is_suspect = self._topology.servers.mode != "single"
            return
        node.breaker.succeeded()
        if type(reply) is ReplyError:           # it serves, but does not track: no hits in the first tier
            channel.close()
            return
        line = Line(node, channel)
        self._lines[node] = line
        self._tier.link_is_up()
        if len(self._lines) < len(self._topology.masters):
            self._tier.link_is_lost()
        try:
            line.ping([])
            while line.sent:                    # a first sign of life makes hits possible at once
                channel.sock.settimeout(left(deadline))
                self._read(line)
        except FAILURES:
            self._lose(line)

    def _ping(self) -> None:
        """Ask for a sign of life where it is time to, or where somebody waits for one."""
        now = time.monotonic()
        with self._lock:
            requests = list(self._requests)
        for line in list(self._lines.values()):
            wanted = [request for request in requests if line not in request.asked]
            if line.sent and now > line.sent[0][0] + self._given_up_after:
                self._lose(line)
            elif wanted or (not line.sent and now >= line.answered + self._pings_apart):
                for request in wanted:
                    request.asked.add(line)
                try:
                    line.ping(wanted)
                except FAILURES:
                    self._lose(line)

    def _listen(self) -> None:
        now = time.monotonic()
        times = [now + self._pings_apart]
        times += [line.answered + self._pings_apart for line in self._lines.values() if not line.sent]
        if self._topology.owners is None or self._topology.is_suspect:
            times.append(self._discover_at)
        times += [when for node, when in self._next_try.items() if node not in self._lines]
        by_sock: dict[Any, Line] = {line.channel.sock: line for line in self._lines.values()}
        ears: Any = self._ears
        for sock in readable([*by_sock, ears], max(0.0, min(times) - now)):
            if sock is ears:
                ears.recv(CHUNK)
                continue
            line = by_sock[sock]
            try:
                sock.settimeout(0.0)
                self._read(line)
            except (BlockingIOError, SSLWantReadError):     # TLS had something to tell, but the server had not
                pass
            except FAILURES:
                self._lose(line)

    def _read(self, line: Line) -> None:
        """Take in what has come."""
        replies = line.channel.replies
        data = line.channel.sock.recv(CHUNK)
        if not data:
            raise ConnectionResetError("the server closed the link")
        replies.feed(data)
        while True:
            reply = replies.next()
            if reply is INCOMPLETE:
                return
            if type(reply) is Push:
                self._heard(reply)
            elif line.sent:
                line.answered, requests = line.sent.popleft()
                line.node.breaker.succeeded()
                self._has_answered(line, requests)

    def _heard(self, push: list[Any]) -> None:
        """A message from a server; names of others' namespaces are not ours to care for."""
        if push[0] != b"invalidate":
            return
        if push[1] is None:                     # FLUSHDB, FLUSHALL
            self._tier.wipe()
            return
        names = self._topology.names
        assert names is not None
        for name in push[1]:
            parsed = names.parse(name)
            if parsed is None:
                continue
            bucket, letter, rest = parsed
            if letter == 118:                   # v
                self._tier.heard_of(rest)
            elif letter == 108:                 # l
                self._tier.wake(rest)
            elif letter == 103:                 # g
                self._tier.heard_of_generation(bucket)
            elif letter == 116:                 # t
                self._tier.heard_of_tag(bucket, rest)

    def _has_answered(self, line: Line, requests: list[Request]) -> None:
        lines = self._lines
        masters = self._topology.masters
        for request in requests:
            request.answered.add(line)
            if len(lines) == len(masters) and request.answered.issuperset(lines.values()):
                request.holds = True
                request.wake()
        if len(lines) == len(masters) and self._tier.linked:
            oldest = min(line.answered for line in lines.values())
            self._tier.fresh_until = oldest + self._max_staleness

    def _lose(self, line: Line) -> None:
        """A link has broken, or its server is gone."""
        self._lines.pop(line.node, None)
        line.channel.close()
        self._tier.link_is_lost()
        self._next_try[line.node] = 0.0
        if self._topology.servers.mode != "single":
            self._topology.is_suspect = True


