"""The tracking link: one connection to each server that owns something, on which it says what has changed.

One thread per cache reads them all. To know that a link is alive it sends PING, and since the server answers in order,
the answer also means: all that was written before the PING has been heard of. That is what `barrier` waits for, and
what the freshness of the first tier is counted from.

Invariants:

- The first tier is emptied after tracking was switched on, and before the first hit after that.
- A server that says something senseless loses its connection, and gets a new one, at most one per `RETRY_APART`.
- The thread goes on whatever is raised in it: it says so, drops all connections, and makes new ones. Whoever needs it
  asks the thread whether it runs. No lock is held while it starts.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from ssl import SSLWantReadError
from typing import Any

from cachebox._platform.section import Section
from cachebox._platform.thread import Thread
from cachebox.distributed._near.near_cache import Tier
from cachebox.distributed._near.tracking_connection import Line, Request, pass_on, said
from cachebox.distributed._net.background import Helper
from cachebox.distributed._net.blocking_driver import Blocking, Channel, open_channel, readable
from cachebox.distributed._net.effects import Effects, MakeWaiter, Node, Wait
from cachebox.distributed._net.health import log, told
from cachebox.distributed._net.refusals import NOT_SERVING
from cachebox.distributed._net.servers import failures, left
from cachebox.distributed._net.topology import Topology
from cachebox.distributed._wire.keyspace import new_token
from cachebox.distributed._wire.resp import CHUNK, INCOMPLETE, Push, ReplyError, Senseless
from cachebox.distributed._wire.scripts import BY_DIGEST, READ, script_call

RETRY_APART = 1.0
"""Seconds between attempts to reach a server, and so between the probes of a dead one."""
SWEEPS_APART = 0.5
LONGEST_TRY = 1.5
"""Seconds that one attempt to connect may take, however patient the callers are: the next one may find it well."""
TROUBLE_PAUSE = 0.1
"""Seconds until the thread goes on after something was raised in it that no server is to blame for."""


class Link:
    """Hears of changes, and tells the tier.

    Args:
        topology: whom to listen to.
        tier: whom to tell.
        helper: who finds out whether a server that speaks serves again.
        max_staleness: seconds for which hits are served after the last sign of life.
        timeout: seconds that a server has to let us in.
    """

    def __init__(self, topology: Topology, tier: Tier, helper: Helper, max_staleness: float, timeout: float) -> None:
        self._topology = topology
        self._helper = helper
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
        self._lock = Section()
        self._begun: list[Callable[[], object]] = []
        self._requests: list[Request] = []
        self._lines = {}
        self._next_try: dict[Node, float] = {}
        self._next_probe: dict[Node, float] = {}
        self._why: dict[Node, str] = {}         # why there is no line to a node
        self._refusals: dict[Node, str] = {}    # in which words a node does not track
        self._is_up = False                     # what was told to the logger
        self._discover_at = 0.0
        self._thread: Thread | None = None
        self._told_to_end = False
        self._is_stopped = False
        self._is_troubled = False               # something was raised, and no server has answered since
        self._is_orderly = True                 # whether the thread has ended because it was told to
        self._ears = self._voice = None

    # --- from other threads -----------------------------------------------------------------------------------------

    def start(self) -> bool:
        """Have the thread run, if it does not. False: there is none to be had."""
        with self._lock:
            if self._told_to_end:
                return False
            if self._thread is not None and self._thread.runs():
                return True
            self._thread = thread = Thread("cachebox-link", self._run)
        try:
            self._open_ears()
            thread.start()
        except (RuntimeError, OSError):         # too many threads or sockets, or the process is ending: later, perhaps
            return False
        finally:
            if not thread.is_alive() and self._thread is thread:
                self._thread = None
        return True

    def _open_ears(self) -> None:
        if self._ears is None:
            ears, voice = socket.socketpair()
            ears.setblocking(False)
            voice.setblocking(False)
            with self._lock:
                if self._ears is None:
                    self._ears, self._voice = ears, voice
                    return
            ears.close()                        # somebody was faster
            voice.close()

    def pause(self) -> None:
        """End the thread, and wait for that; the connections stay. Before a fork."""
        with self._lock:
            self._told_to_end = True
            thread = self._thread
        self._say()
        if thread is not None and thread is not threading.current_thread():
            with contextlib.suppress(RuntimeError):     # it has not begun yet, and will see that it must not
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
        for request in list(self._requests):
            request.wake()

    def stop_soon(self) -> None:
        """`stop`, without waiting: the thread closes what it has. For caches that nobody closed."""
        self._is_stopped = self._told_to_end = True
        thread = self._thread
        if thread is None or not thread.runs():
            self._close_sockets()
        self._say()

    def _close_sockets(self) -> None:
        for line in list(self._lines.values()):
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
        if threading.current_thread() is self._thread:
            return                              # a finalizer came there
        waiter = yield MakeWaiter()
        self._begun.append(waiter.wake)         # no lock: whoever is interrupted here must not hold the thread up
        if not self.has_begun and self.start():
            yield Wait(waiter, deadline)

    def barrier(self, deadline: float) -> Effects[bool]:
        """Until everything written before now has been heard of. False: that cannot be known in time."""
        waiter = yield MakeWaiter()
        request = Request(waiter.wake, deadline)
        self._requests.append(request)
        self.start()
        self._say()
        try:
            yield Wait(waiter, deadline)
        finally:
            with contextlib.suppress(ValueError):       # it was answered
                self._requests.remove(request)
        return request.holds

    @property
    def state(self) -> str:
        """"up"; "refused", where a server does not track; or "down"."""
        if self._refusals:
            return "refused"
        return "up" if self._tier.linked and len(self._lines) == len(self._topology.masters) else "down"

    @property
    def refusal(self) -> str | None:
        """Why a server does not track, in its words."""
        return next((f"{node} refuses to track changes: {words}" for node, words in self._refusals.items()), None)

    @property
    def why(self) -> str:
        """Why nothing can be said about what was heard."""
        why = next((f"{node}: {words}" for node, words in self._why.items() if node not in self._lines), None)
        return why or self._topology.trouble or "the tracking link gave no answer in time"

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._told_to_end:
            try:
                self._work()
            except BaseException as error:
                self._recover(error)
        if self._is_stopped:
            self._close_sockets()

    def _work(self) -> None:
        if not self._is_orderly:                # what was raised may have left any of them in the middle of a reply
            for line in list(self._lines.values()):
                self._lose(line, "it is not known what has been read")
        self._is_orderly = False
        swept_at = 0.0
        while not self._told_to_end:
            self._connect()
            self._ping()
            self._listen()
            now = time.monotonic()
            if now > swept_at + SWEEPS_APART:
                swept_at = now
                self._tier.sweep()
                self._topology.reap()
        self._is_orderly = True

    def _recover(self, error: BaseException) -> None:
        """Something was raised that no server is to blame for: say so, once, and go on with new connections."""
        try:
            if not self.has_begun:
                self._has_begun()
            if not self._is_troubled:
                self._is_troubled = True
                log.error("the tracking link of a cache failed, and begins anew", exc_info=error)
            time.sleep(TROUBLE_PAUSE)
        except BaseException:                   # nothing is left to be done about it but to go on
            pass

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
            self._lose(self._lines[node], "it has nothing any more")
        for known in (self._why, self._refusals, self._next_probe):
            for node in [node for node in known if node not in masters]:
                del known[node]
        for node in masters:
            if node not in self._lines and time.monotonic() >= self._next_try.get(node, 0.0):
                self._next_try[node] = time.monotonic() + RETRY_APART
                self._connect_to(node)
            elif node in self._lines and node.health.is_troubled:
                self._probe_soon(node)
        if masters and not self.has_begun:
            self._has_begun()

    def _has_begun(self) -> None:
        self.has_begun = True
        with contextlib.suppress(IndexError):
            while True:
                self._begun.pop()()

    def _connect_to(self, node: Node) -> None:
        deadline = time.monotonic() + self._timeout
        names = self._topology.names
        assert names is not None
        owned = [bucket for bucket, owner in enumerate(self._topology.owners or ()) if owner is node]
        node.breaker.probes()
        channel = None
        try:
            channel = open_channel(node, deadline)
            reply, _ = said(channel, [              # the second is refused by servers before 7.0
                [b"CLIENT", b"TRACKING", b"ON", b"BCAST", b"PREFIX", names.prefix],
                [b"CLIENT", b"NO-EVICT", b"ON"],
            ], deadline)
            # so that no call has to, when time is short
            said(channel, [[b"SCRIPT", b"LOAD", script.text] for script in BY_DIGEST.values()], deadline)
            if not self._serves(node, channel, owned[0] if owned else 0, deadline):
                channel.close()
                return
            if names.clustered:                 # or the first writes into each bucket would be news to everybody
                said(channel, [[b"SET", names.generation(bucket), new_token(), b"NX"] for bucket in owned], deadline)
        except failures() as error:
            if channel is not None:
                channel.close()
            self._why[node] = str(error) or type(error).__name__
            node.health.has_failed(error)
            self._topology.is_suspect = self._topology.servers.mode != "single"
            return
        if type(reply) is ReplyError:           # it serves, but does not track: no hits in the first tier
            channel.close()
            self._is_refused(node, str(reply))
            return
        if self._refusals.pop(node, None) is not None:
            log.info("%s tracks changes now", node)
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
        except failures() as error:
            self._lose(line, str(error))
        else:
            self._tell()

    def _serves(self, node: Node, channel: Channel, bucket: int, deadline: float) -> bool:
        """Whether a node does what calls ask for, and not only speaks."""
        names = self._topology.names
        assert names is not None
        generation = names.generation(bucket)
        (reply,) = said(channel, [script_call(READ, [generation, generation])], deadline)
        if type(reply) is ReplyError and reply.code in NOT_SERVING:
            self._why[node] = str(reply)
            node.health.has_failed(reply)
            return False
        node.health.serves()
        return True

    def _probe_soon(self, node: Node) -> None:
        """Have it found out whether a node serves again that speaks with the link, and lets others in."""
        now = time.monotonic()
        if now >= self._next_probe.get(node, 0.0) and (node.breaker.state != "closed" or node.health.door is not None):
            self._next_probe[node] = now + RETRY_APART
            self._helper.schedule(0.0, lambda: self._probe(node))

    def _probe(self, node: Node) -> None:
        """In the helper's thread, which may wait: by a connection of its own, as a call may need one."""
        owners = self._topology.owners or ()
        deadline = time.monotonic() + self._timeout
        if self._is_stopped or node not in owners or not node.pool.take_place():
            return
        node.breaker.probes()
        channel = None
        try:
            channel = open_channel(node, deadline)
            self._serves(node, channel, list(owners).index(node), deadline)
        except failures() as error:
            node.health.has_failed(error)
        finally:
            if channel is not None:
                channel.close()
            node.pool.give_place()

    def _is_refused(self, node: Node, words: str) -> None:
        if told(words) != told(self._refusals.get(node, "")):
            log.error("%s refuses to track changes, so the first tier is off: %s", node, told(words))
        self._refusals[node] = words
        self._why[node] = words

    def _tell(self) -> None:
        """Tell whether changes are heard of, where that is news."""
        is_up = self.state == "up"
        if is_up and not self._is_up:
            log.info("the tracking link is up: %s", ", ".join(map(repr, self._lines)))
        self._is_up = is_up

    def _ping(self) -> None:
        """Ask for a sign of life where it is time to, or where somebody waits for one."""
        now = time.monotonic()
        requests = list(self._requests)
        for line in list(self._lines.values()):
            wanted = [request for request in requests if line not in request.asked]
            if line.sent and now > line.sent[0][0] + self._given_up_after:
                self._lose(line, "no sign of life")
            elif wanted or (not line.sent and now >= line.answered + self._pings_apart):
                for request in wanted:
                    request.asked.add(line)
                try:
                    line.ping(wanted)
                except failures() as error:
                    self._lose(line, str(error))

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
            except failures() as error:
                self._lose(line, str(error))

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
                names = self._topology.names
                assert names is not None
                pass_on(reply, names, self._tier)
            elif line.sent and type(reply) is str and reply == "PONG":
                line.answered, requests = line.sent.popleft()
                self._has_answered(line, requests)
            else:
                raise Senseless(f"a {type(reply).__name__} is no answer to PING, or nobody asked")

    def _has_answered(self, line: Line, requests: list[Request]) -> None:
        self._is_troubled = False
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

    def _lose(self, line: Line, why: str) -> None:
        """A link has broken, or its server is gone."""
        self._lines.pop(line.node, None)
        line.channel.close()
        self._tier.link_is_lost()
        self._why[line.node] = why
        if self._is_up:
            log.warning("the tracking link to %s is lost, so hits of the first tier stop: %s", line.node, why)
        self._is_up = False
        self._next_try[line.node] = line.made + RETRY_APART     # at once, unless it has just been made
        if self._topology.servers.mode != "single":
            self._topology.is_suspect = True
