"""The tracking connections: one to each server that owns a bucket, on which it pushes what has changed.

One thread per cache reads them all. To see that a connection is alive, it sends PING. Since the server answers in
order, the answer also means that every push from before the PING has been read. `barrier` waits for such an answer, and
the freshness of the first tier is counted from it.

Invariants:

- The first tier is emptied after tracking was switched on, and before the first hit after that.
- A server that violates the protocol loses its connection. It gets a new one at most once per `RETRY_APART` seconds.
- The thread survives every error: it logs the error, drops all connections, and makes new ones. Whether it runs is
  asked of the thread itself. No lock is held while it starts.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from ssl import SSLWantReadError
from typing import Any

from cachebox._platform.section import Section, in_section
from cachebox._platform.thread import BEGINS_WITHIN, OnlyThread
from cachebox.distributed._near.near_cache import Tier
from cachebox.distributed._near.tracking_connection import Request, TrackingConnection, pass_on, said
from cachebox.distributed._net.background import Background
from cachebox.distributed._net.blocking_driver import Blocking, Connection, open_connection, readable
from cachebox.distributed._net.effects import Effects, NewWaiter, Node, Wait
from cachebox.distributed._net.health import log, redacted
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
"""Seconds that one attempt to connect may take, however patient the callers are: the next attempt may succeed at
once."""
TROUBLE_PAUSE = 0.1
"""Seconds until the thread goes on after an error for which no server is to blame."""


class Tracking:
    """Receives the servers' pushes about changes, and applies them to the first tier.

    Args:
        topology: the servers to listen to.
        tier: the first tier.
        background: runs the probes whether a server that answers PING serves again.
        max_staleness: seconds for which hits are served after the last sign of life.
        timeout: seconds that a server has to accept a connection.
    """

    def __init__(
        self, topology: Topology, tier: Tier, background: Background, max_staleness: float, timeout: float
    ) -> None:
        self._topology = topology
        self._background = background
        self._tier = tier
        self._max_staleness = max_staleness
        self._timeout = min(timeout, LONGEST_TRY)
        self._pings_apart = min(max(max_staleness / 4, 0.01), 1.0)
        self._given_up_after = max(1.0, 2 * self._timeout)
        topology.tracking_probes = True
        self._connections: dict[Node, TrackingConnection] = {}
        # pairs of sockets to wake the thread, to receive and to send; the first one is used
        self._wakeups: list[tuple[socket.socket, socket.socket]] = []
        self.renew()

    def renew(self) -> None:
        """Reset: at first, and in the child of a fork, whose connections are its parent's."""
        self._close_sockets()
        self.has_begun = False                  # whether the first attempt has ended
        self._lock = Section()
        self._begun: list[Callable[[], object]] = []
        self._requests: list[Request] = []
        self._connections = {}
        self._next_try: dict[Node, float] = {}
        self._next_probe: dict[Node, float] = {}
        self._why: dict[Node, str] = {}         # why a node has no connection
        self._refusals: dict[Node, str] = {}    # the words in which a node refuses to track
        self._is_up = False                     # the state that was logged last
        self._discover_at = 0.0
        self._thread = OnlyThread("cachebox-link", self._run)
        self._is_ending = False
        self._is_stopped = False
        self._is_troubled = False               # something was raised, and no server has answered since
        self._is_orderly = True                 # whether the thread last ended by its own decision

    # --- from other threads -------------------------------------------------------------------------------------------

    def start(self) -> bool:
        """Start the thread, if it does not run. Returns False if no thread can be started."""
        if self._is_ending:
            return False
        try:
            self._open_wakeup()
            self._thread.start()
        except (RuntimeError, OSError):         # too many threads or sockets, or the process is ending: try later
            return False
        return True

    def _open_wakeup(self) -> None:
        if not self._wakeups:
            pair = socket.socketpair()
            for end in pair:
                end.setblocking(False)
            self._wakeups.append(pair)          # one step: a signal handler may be here, too
            if self._wakeups[:1] != [pair]:
                self._wakeups.remove(pair)      # another caller was faster
                _close(pair)

    def pause(self) -> None:
        """Before a fork: end the thread, and wait for its end; the connections stay."""
        with self._lock:
            self._is_ending = True
            thread = self._thread.thread
        self._wake_up()
        if thread is not None and thread is not threading.current_thread():
            with contextlib.suppress(RuntimeError):     # it has not begun yet, and ends at once when it does
                thread.join(self._timeout + 2.0)

    def resume(self) -> None:
        """After a fork, in the parent."""
        if not self._is_stopped:
            with self._lock:
                self._is_ending = False
                was_running = self.has_begun or self._connections or self._begun
            if was_running:
                self.start()

    def stop(self) -> None:
        """End the thread and close its connections. May be called twice."""
        self._is_stopped = True
        self.pause()
        thread = self._thread.thread
        if thread is None or not thread.is_alive():
            self._close_sockets()               # else the busy thread closes them when it ends
        for request in list(self._requests):
            request.wake()

    def stop_soon(self) -> None:
        """`stop`, without waiting: the thread closes its connections. For caches that nobody closed."""
        self._is_stopped = self._is_ending = True
        if not self._thread.runs():
            self._close_sockets()
        self._wake_up()

    def _close_sockets(self) -> None:
        for link in list(self._connections.values()):
            link.connection.close()
        self._connections.clear()
        pairs, self._wakeups = self._wakeups, []
        for pair in pairs:
            _close(pair)

    def _wake_up(self) -> None:
        for _, send in self._wakeups[:1]:
            with contextlib.suppress(OSError):  # full: the thread will wake; or closed: it has ended
                send.send(b".")

    def wait_until_begun(self, deadline: float) -> Effects[None]:
        """Wait for the end of the first attempt to connect, successful or not."""
        if threading.current_thread() is self._thread.thread or in_section():
            return                              # a finalizer runs in the thread itself, or the thread may wait for us
        waiter = yield NewWaiter()
        self._begun.append(waiter.wake)         # no lock: an interruption here must not hold the thread up
        # one wait after the other, because the caller that was to start the thread may be one that waits for us
        while not self.has_begun and self.start() and time.monotonic() < deadline:
            yield Wait(waiter, min(deadline, time.monotonic() + BEGINS_WITHIN))

    def barrier(self, deadline: float) -> Effects[bool]:
        """Wait until every change made before now has been applied here. Returns False if that cannot be known in
        time, or the thread may wait for what this caller holds."""
        if in_section():
            return False
        waiter = yield NewWaiter()
        request = Request(waiter.wake, deadline)
        self._requests.append(request)
        self.start()
        self._wake_up()
        try:
            yield Wait(waiter, deadline)
        finally:
            with contextlib.suppress(ValueError):       # it was answered
                self._requests.remove(request)
        return request.holds

    @property
    def state(self) -> str:
        """The state of tracking: "up", "down", or "refused" if a server does not track."""
        if self._refusals:
            return "refused"
        return "up" if self._tier.is_tracked and len(self._connections) == len(self._topology.masters) else "down"

    @property
    def refusal(self) -> str | None:
        """Why a server does not track, in its words."""
        return next((f"{node} refuses to track changes: {words}" for node, words in self._refusals.items()), None)

    @property
    def why(self) -> str:
        """Why a barrier cannot hold."""
        why = next((f"{node}: {words}" for node, words in self._why.items() if node not in self._connections), None)
        return why or self._topology.trouble or "the tracking link gave no answer in time"

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_ending:
            try:
                self._work()
            except BaseException as error:
                self._recover(error)
        self._thread.ends()
        if self._is_stopped:
            self._close_sockets()
        elif not self._is_ending:
            self.start()                        # the fork for which the thread was to end has ended already

    def _work(self) -> None:
        if not self._is_orderly:                # the error may have left any connection in the middle of a reply
            for link in list(self._connections.values()):
                self._lose(link, "it is not known what has been read")
        self._is_orderly = False
        swept_at = 0.0
        while not self._is_ending:
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
        """Log an error that is no server's fault, once, and go on with new connections."""
        try:
            if not self.has_begun:
                self._has_begun()
            if not self._is_troubled:
                self._is_troubled = True
                log.error("the tracking link of a cache failed, and starts again", exc_info=error)
            time.sleep(TROUBLE_PAUSE)
        except BaseException:                   # nothing can be done about it but go on
            pass

    def _connect(self) -> None:
        """Connect to masters without a connection, at most once per RETRY_APART seconds each."""
        topology = self._topology
        now = time.monotonic()
        missing = [node for node in topology.masters if node not in self._connections]
        if now >= self._discover_at and (
            topology.owners is None or topology.is_suspect or (missing and topology.servers.mode != "single")
        ):
            self._discover_at = now + RETRY_APART
            Blocking().run(topology.discover(now + self._timeout, is_probe=True))
            if topology.owners is None and not self.has_begun:
                self._has_begun()
        masters = topology.masters
        for node in [node for node in self._connections if node not in masters]:
            self._lose(self._connections[node], "it has nothing any more")
        for known in (self._why, self._refusals, self._next_probe):
            for node in [node for node in known if node not in masters]:
                del known[node]
        for node in masters:
            if node not in self._connections and time.monotonic() >= self._next_try.get(node, 0.0):
                self._next_try[node] = time.monotonic() + RETRY_APART
                self._connect_to(node)
            elif node in self._connections and node.health.is_troubled:
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
        connection = None
        try:
            connection = open_connection(node, deadline)
            reply, _ = said(connection, [           # servers before 7.0 refuse the second command
                [b"CLIENT", b"TRACKING", b"ON", b"BCAST", b"PREFIX", names.prefix],
                [b"CLIENT", b"NO-EVICT", b"ON"],
            ], deadline)
            # loaded now, so that no call has to load one when time is short
            said(connection, [[b"SCRIPT", b"LOAD", script.text] for script in BY_DIGEST.values()], deadline)
            if not self._serves(node, connection, owned[0] if owned else 0, deadline):
                connection.close()
                return
            # otherwise the first write into each bucket would be pushed to everybody
            if names.clustered:
                said(connection, [[b"SET", names.generation(bucket), new_token(), b"NX"] for bucket in owned], deadline)
        except failures() as error:
            if connection is not None:
                connection.close()
            self._why[node] = str(error) or type(error).__name__
            node.health.has_failed(error)
            self._topology.is_suspect = self._topology.servers.mode != "single"
            return
        if type(reply) is ReplyError:           # it serves, but does not track: no hits in the first tier
            connection.close()
            self._is_refused(node, str(reply))
            return
        if self._refusals.pop(node, None) is not None:
            log.info("%s tracks changes now", node)
        link = TrackingConnection(node, connection, names.generation(owned[0]) if names.clustered and owned else None)
        self._connections[node] = link
        self._tier.tracking_began()
        if len(self._connections) < len(self._topology.masters):
            self._tier.tracking_lost()
        try:
            link.ping([])
            while link.sent:                    # a first sign of life makes hits possible at once
                connection.sock.settimeout(left(deadline))
                self._read(link)
        except failures() as error:
            self._lose(link, str(error))
        else:
            self._tell()

    def _serves(self, node: Node, connection: Connection, bucket: int, deadline: float) -> bool:
        """Whether a node carries out scripts, beyond answering PING."""
        names = self._topology.names
        assert names is not None
        generation = names.generation(bucket)
        (reply,) = said(connection, [script_call(READ, [generation, generation])], deadline)
        if type(reply) is ReplyError and reply.code in NOT_SERVING:
            self._why[node] = str(reply)
            node.health.has_failed(reply)
            return False
        node.health.serves()
        return True

    def _probe_soon(self, node: Node) -> None:
        """Schedule a probe of a node that answers PING, but was in trouble."""
        now = time.monotonic()
        is_in_trouble = node.breaker.state != "closed" or node.health.entry_refusal is not None
        if is_in_trouble and now >= self._next_probe.get(node, 0.0):
            self._next_probe[node] = now + RETRY_APART
            self._background.schedule(0.0, lambda: self._probe(node))

    def _probe(self, node: Node) -> None:
        """Probe a node, in the background, which may wait: over a connection of its own, as a call may need one."""
        owners = self._topology.owners or ()
        deadline = time.monotonic() + self._timeout
        place = None if self._is_stopped or node not in owners else node.pool.take_place()
        if place is None:
            return
        node.breaker.probes()
        connection = None
        try:
            connection = open_connection(node, deadline)
            self._serves(node, connection, list(owners).index(node), deadline)
        except failures() as error:
            node.health.has_failed(error)
        finally:
            if connection is not None:
                connection.close()
            place.leave()

    def _is_refused(self, node: Node, words: str) -> None:
        if redacted(words) != redacted(self._refusals.get(node, "")):
            log.error("%s refuses to track changes, so the first tier is off: %s", node, redacted(words))
        self._refusals[node] = words
        self._why[node] = words

    def _tell(self) -> None:
        """Log that all servers are tracked, unless that was logged already."""
        is_up = self.state == "up"
        if is_up and not self._is_up:
            log.info("the tracking link is up: %s", ", ".join(map(repr, self._connections)))
        self._is_up = is_up

    def _ping(self) -> None:
        """Send PING to each server for which it is time, or to which a barrier has a request."""
        now = time.monotonic()
        requests = list(self._requests)
        for link in list(self._connections.values()):
            wanted = [request for request in requests if link not in request.asked]
            if link.sent and now > link.sent[0][0] + self._given_up_after:
                self._lose(link, "no sign of life")
            elif wanted or (not link.sent and now >= link.answered + self._pings_apart):
                for request in wanted:
                    request.asked.add(link)
                try:
                    link.ping(wanted)
                except failures() as error:
                    self._lose(link, str(error))

    def _listen(self) -> None:
        now = time.monotonic()
        times = [now + self._pings_apart]
        times += [link.answered + self._pings_apart for link in self._connections.values() if not link.sent]
        if self._topology.owners is None or self._topology.is_suspect:
            times.append(self._discover_at)
        times += [when for node, when in self._next_try.items() if node not in self._connections]
        by_sock: dict[Any, TrackingConnection] = {link.connection.sock: link for link in self._connections.values()}
        [(recv, _)] = self._wakeups[:1]
        for sock in readable([*by_sock, recv], max(0.0, min(times) - now)):
            if sock is recv:
                recv.recv(CHUNK)
                continue
            link = by_sock[sock]
            try:
                sock.settimeout(0.0)
                self._read(link)
            except (BlockingIOError, SSLWantReadError):     # TLS had something to process, but no data
                pass
            except failures() as error:
                self._lose(link, str(error))

    def _read(self, link: TrackingConnection) -> None:
        """Process what a server has sent."""
        replies = link.connection.replies
        data = link.connection.sock.recv(CHUNK)
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
            elif link.is_answer(reply):
                link.answered, requests = link.sent.popleft()
                self._has_answered(link, requests)
            else:
                raise Senseless(f"a {type(reply).__name__} is no answer to PING, or nobody asked")

    def _has_answered(self, link: TrackingConnection, requests: list[Request]) -> None:
        self._is_troubled = False
        lines = self._connections
        masters = self._topology.masters
        for request in requests:
            request.answered.add(link)
            if len(lines) == len(masters) and request.answered.issuperset(lines.values()):
                request.holds = True
                request.wake()
        if len(lines) == len(masters) and self._tier.is_tracked:
            oldest = min(link.answered for link in lines.values())
            self._tier.fresh_until = oldest + self._max_staleness

    def _lose(self, link: TrackingConnection, why: str) -> None:
        """Drop a connection that broke, or whose server owns nothing any more."""
        self._connections.pop(link.node, None)
        link.connection.close()
        self._tier.tracking_lost()
        self._why[link.node] = why
        if self._is_up:
            log.warning("the tracking link to %s is lost, so hits of the first tier stop: %s", link.node, why)
        self._is_up = False
        self._next_try[link.node] = link.made + RETRY_APART     # at once, unless the connection was new
        if self._topology.servers.mode != "single":
            self._topology.is_suspect = True


def _close(pair: tuple[socket.socket, socket.socket]) -> None:
    for end in pair:
        end.close()
