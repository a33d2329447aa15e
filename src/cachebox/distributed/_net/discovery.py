"""Which server has which bucket: the servers of one cache, and how to find out what each of them owns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cachebox._platform.section import Section
from cachebox.distributed._net.effects import Effects, Exchange, Failure, Node
from cachebox.distributed._net.refusals import NOT_SERVING, Unavailable
from cachebox.distributed._net.servers import Address, Servers, mode_of
from cachebox.distributed._wire.keyspace import SLOTS, KeySpace
from cachebox.distributed._wire.resp import ReplyError

REFRESH_APART = 0.5                 # seconds


class Discovery:
    """The servers of one cache. `names` and `owners` are None until a server has answered.

    Both are replaced as a whole, so readers need no lock.
    """

    def __init__(self, servers: Servers, namespace: str) -> None:
        self.servers = servers
        self.namespace = namespace
        self.nodes: dict[Address, Node] = {}
        self.owners: list[Node | None] | None = None
        self.names: KeySpace | None = None
        self.tracking_probes = False                # whether the tracking connection finds out when a server is back
        self.is_suspect = False                 # a call saw signs of a change
        self.on_open: Callable[[], object] | None = None    # called before a connection is made
        self.on_untracked: Callable[[], object] | None = None   # called after a server answered that owns nothing yet
        self._refreshed_at = -REFRESH_APART
        self._sentinels = (
            [Node(servers, address, for_sentinel=True) for address in servers.addresses]
            if servers.mode == "sentinel" else []
        )
        self._lock = Section()

    def pause(self) -> None:
        """Before a fork: nothing; the connections stay the parent's."""

    def resume(self) -> None:
        """After a fork, in the parent."""

    def renew(self) -> None:
        """After a fork, in the child."""
        self._lock = Section()
        for node in self._known():
            node.renew()

    def close(self) -> None:
        """Close all connections: the idle ones now, the others when they are given back."""
        for node in self._known():
            node.close(for_good=True)

    def reap(self) -> bool:
        """Close connections that were idle for long. Returns whether any connection is left."""
        nodes = self._known()
        for node in nodes:
            node.pool.reap()
        return any(node.pool.size for node in nodes)

    def close_idle(self) -> None:
        """Close the idle connections: if one broke, the others did, too."""
        for node in self.masters:
            node.close()

    def _known(self) -> list[Node]:
        with self._lock:
            return [*self.nodes.values(), *self._sentinels]

    def node(self, address: Address) -> Node:
        """The node of an address."""
        with self._lock:
            found = self.nodes.get(address)
            if found is None:
                found = self.nodes[address] = Node(self.servers, address)
                found.pool.on_open = self.on_open
            return found

    def has_failed(self, bucket: int) -> None:
        """Report a failure to the breaker of a bucket's server."""
        node = self.owners[bucket] if self.owners is not None else None
        if node is not None:
            node.health.has_failed(ConnectionError("its connections keep breaking"))

    # --- how they are -------------------------------------------------------------------------------------------------

    @property
    def masters(self) -> list[Node]:
        """The servers that own a bucket, each once; empty until a server has answered."""
        return list(dict.fromkeys(node for node in self.owners or () if node is not None))

    @property
    def can_be_asked(self) -> bool:
        """Whether all breakers are closed; True while no server is known."""
        return all(node.breaker.state == "closed" for node in self.masters)

    @property
    def worst(self) -> str:
        """The state of the breaker that is farthest from closed."""
        states = {node.breaker.state for node in self.masters or self.nodes.values()}
        return next((state for state in ("open", "half-open") if state in states), "closed")

    @property
    def entry_refusal(self) -> str | None:
        """Why a server does not let this client in, in its words."""
        asked = self.masters or [*self._known()]
        return next((node.health.entry_refusal for node in asked if node.health.entry_refusal), None)

    @property
    def trouble(self) -> str | None:
        """What is wrong with a server, in words; None: nothing."""
        asked = self.masters or [*self._known()]
        return next((f"{node}: {node.health.words}" for node in asked if node.health.words), None)

    # --- finding out --------------------------------------------------------------------------------------------------

    @property
    def _must_refresh(self) -> bool:
        """Whether a call has to find out the owners: they are unknown, or in doubt and no tracking connection checks
        them."""
        return self.owners is None or (self.is_suspect and not self.tracking_probes)

    def refresh(self, deadline: float) -> Effects[Failure | None]:
        """`discover`, but at most once per REFRESH_APART seconds."""
        if time.monotonic() < self._refreshed_at + REFRESH_APART and self.owners is not None:
            return None
        return (yield from self.discover(deadline))

    def discover(self, deadline: float, is_probe: bool = False) -> Effects[Failure | None]:
        """Find out which server owns which bucket. Returns a Failure if none could say.

        `is_probe`: also ask servers whose breaker is open.
        """
        self._refreshed_at = time.monotonic()
        self.is_suspect = False
        if self.servers.mode == "sentinel":
            return (yield from self._ask_sentinels(deadline))
        failure: Failure | None = None
        # the servers that answered lately go first
        masters = sorted(self.masters, key=lambda node: node.breaker.failures)
        known = [node.address for node in masters]
        for address in dict.fromkeys([*known, *self.servers.addresses]):
            node = self.node(address)
            if is_probe:
                node.breaker.probes()
            elif not node.breaker.may_call(self.tracking_probes):
                failure = failure or refused(node)
                continue
            command = [b"CLUSTER", b"SLOTS"] if self.servers.mode == "cluster" else [b"HELLO"]
            until = deadline
            if self.servers.mode == "cluster":  # a stalled server must leave time for the next one
                until = min(deadline, time.monotonic() + max(0.05, (deadline - time.monotonic()) / 2))
            (outcome,) = yield Exchange([(node, [command])], until)
            if type(outcome) is Failure and outcome.is_broken and outcome.was_reused:
                node.close()
                (outcome,) = yield Exchange([(node, [command])], until)
            if type(outcome) is Failure:
                node.health.has_failed(outcome.error)
                failure = outcome
                continue
            node.breaker.may_try_again()        # it speaks, which does not mean that it serves
            if self.servers.mode is None:
                mode = mode_of(outcome[0])
                if mode == "sentinel":
                    return Failure(Unavailable(f"{node} is a sentinel: use redis+sentinel:// for the URL"), True, False)
                self.servers.mode = "cluster" if mode == "cluster" else "single"
                if self.servers.mode == "cluster":
                    return (yield from self.discover(deadline, is_probe))
            if type(outcome[0]) is ReplyError:
                failure = Failure(outcome[0], True, False)
                if outcome[0].code in NOT_SERVING:
                    node.health.has_failed(outcome[0])
                else:
                    node.health.refused(command, str(outcome[0]))
                continue
            if node.health.is_troubled:
                node.health.grant(command[0].decode())
            if self.servers.mode == "cluster":
                self._set_slots(outcome[0], node)
            else:
                self._set_one(node)
            return None
        return failure

    def _ask_sentinels(self, deadline: float) -> Effects[Failure | None]:
        failure: Failure | None = None
        command = [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self.servers.service]
        for node in self._sentinels:
            if not node.breaker.may_call():
                failure = failure or refused(node)
                continue
            share = min(deadline, time.monotonic() + max(0.05, (deadline - time.monotonic()) / 2))
            (outcome,) = yield Exchange([(node, [command])], share)
            if type(outcome) is Failure:
                node.health.has_failed(outcome.error)
                failure = outcome
                continue
            node.health.serves()
            if type(outcome[0]) is ReplyError:
                node.health.refused((b"SENTINEL",), str(outcome[0]))
                failure = Failure(outcome[0], True, False)
                continue
            node.health.grant("SENTINEL")
            if type(outcome[0]) is list:
                host, port = outcome[0]
                self._set_one(self.node((host.decode(), int(port))))
                return None
            failure = Failure(Unavailable(f"sentinel {node} knows no master {self.servers.service!r}"), True, False)
        return failure

    def _set_one(self, node: Node) -> None:
        if self.names is None or self.names.clustered:
            self.names = KeySpace(self.namespace, clustered=False)
        self.owners = [node]

    def _set_slots(self, ranges: list[Any], asked: Node) -> None:
        names = self.names if self.names is not None and self.names.clustered else KeySpace(self.namespace, True)
        by_slot: list[Node | None] = [None] * SLOTS
        for first, last, master, *_ in ranges:
            host = master[0].decode() if master[0] else asked.address[0]
            by_slot[first:last + 1] = [self._named((host, master[1]))] * (last + 1 - first)
        owners = [by_slot[slot] for slot in names.slots]
        self.names = names
        self.owners = owners
        gone = set(self.nodes) - {node.address for node in owners if node} - set(self.servers.addresses)
        for address in gone:
            self.nodes.pop(address).close(for_good=True)

    def _named(self, address: Address) -> Node:
        """The node for an address that a cluster uses, which may differ from the one to use here."""
        remap = self.servers.address_remap
        if remap is not None:
            host, port = remap(address)
            address = str(host), int(port)
        return self.node(address)


def refused(node: Node) -> Failure:
    """The failure of a call that the breaker does not let through."""
    said = node.health.words
    words = f"{node} is not asked again before it serves{f': {said}' if said else ''}"
    return Failure(Unavailable(words, node.health.entry_refusal), False, False)
