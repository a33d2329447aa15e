"""Which server has which bucket, and talking to them: routing, retries, redirections, scripts that a server lacks.

Retries stay within the call's deadline, and happen only where they do no harm: a connection that broke (not one that
timed out: that server would be asked twice for what it will do once it is back), or an answer that says nothing was
done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from cachebox._platform.section import Section
from cachebox.distributed._net.effects import Effects, Exchange, Failure, MakeWaiter, Node, Wait
from cachebox.distributed._net.refusals import NOT_SERVING, Unavailable, refusal_in
from cachebox.distributed._net.servers import Address, Servers, mode_of
from cachebox.distributed._wire.keyspace import SLOTS, KeySpace
from cachebox.distributed._wire.resp import ReplyError
from cachebox.distributed._wire.scripts import BY_DIGEST, CLEAN, script_call

RETRIES = 3
PAUSE = 0.03                        # seconds before asking again a server that is busy becoming ready
REFRESH_APART = 0.5                 # seconds
PAGE = 1000                         # names that a server looks at in one step
NOT_NOW = NOT_SERVING | {"TRYAGAIN"}
MOVED_ON = frozenset({"MOVED", "READONLY", "UNKNOWN_NODE"})


class Topology:
    """The servers of one cache. `names` and `owners` are None until a server has been reached.

    Whoever changes them replaces them as a whole, so readers need no lock.
    """

    is_exact = False                    # whether a first tier can see by itself what has changed
    at_once = 1000                      # keys in one call of a script
    size = None                         # a server tells by itself
    news_apart = 0.05                   # seconds between looks where no link brings news

    def __init__(self, servers: Servers, namespace: str) -> None:
        self.servers = servers
        self.namespace = namespace
        self.nodes: dict[Address, Node] = {}
        self.owners: list[Node | None] | None = None
        self.names: KeySpace | None = None
        self.link_probes = False                # whether the tracking link finds out when a server is back
        self.is_suspect = False                 # somebody saw signs of a change
        self.on_open: Callable[[], object] | None = None    # called when a connection is going to be made
        self._refreshed_at = -REFRESH_APART
        self._sentinels = (
            [Node(servers, address, for_sentinel=True) for address in servers.addresses]
            if servers.mode == "sentinel" else []
        )
        self._lock = Section()

    def pause(self) -> None:
        """Before a fork: connections stay, and are the parent's."""

    def resume(self) -> None:
        """After it, in the parent."""

    def renew(self) -> None:
        """In the child of a fork."""
        self._lock = Section()
        for node in self._known():
            node.renew()

    def close(self) -> None:
        """Close all connections that nobody uses."""
        for node in self._known():
            node.close(for_good=True)

    @property
    def door(self) -> str | None:
        """Why a server does not let us in, in its words."""
        asked = self.masters or [*self._known()]
        return next((node.health.door for node in asked if node.health.door), None)

    def reap(self) -> bool:
        """Close the connections that nobody has used for long. Returns whether any are left."""
        nodes = self._known()
        for node in nodes:
            node.pool.reap()
        return any(node.pool.size for node in nodes)

    def _known(self) -> list[Node]:
        with self._lock:
            return [*self.nodes.values(), *self._sentinels]

    @property
    def trouble(self) -> str | None:
        """What is wrong with a server, in words; None: nothing is."""
        asked = self.masters or [*self._known()]
        return next((f"{node}: {node.health.words}" for node in asked if node.health.words), None)

    def close_idle(self) -> None:
        """Close the connections that nobody uses: when one broke, the others did."""
        for node in self.masters:
            node.close()

    def has_failed(self, bucket: int) -> None:
        """Tell the breaker of a bucket's server."""
        node = self.owners[bucket] if self.owners is not None else None
        if node is not None:
            node.health.has_failed(ConnectionError("its connections keep breaking"))

    def node(self, address: Address) -> Node:
        """The node of that address."""
        with self._lock:
            found = self.nodes.get(address)
            if found is None:
                found = self.nodes[address] = Node(self.servers, address)
                found.pool.on_open = self.on_open
            return found

    @property
    def masters(self) -> list[Node]:
        """The servers that own something, each once; empty until one has been reached."""
        return list(dict.fromkeys(node for node in self.owners or () if node is not None))

    @property
    def can_be_asked(self) -> bool:
        """Whether every server is, or none is known yet."""
        return all(node.breaker.state == "closed" for node in self.masters)

    @property
    def worst(self) -> str:
        """The state of the breaker that is farthest from closed."""
        states = {node.breaker.state for node in self.masters or self.nodes.values()}
        return next((state for state in ("open", "half-open") if state in states), "closed")

    # --- finding out ------------------------------------------------------------------------------------------------

    def discover(self, deadline: float, is_probe: bool = False) -> Effects[Failure | None]:
        """Find out who owns what. Returns a Failure where nobody could say.

        `is_probe`: ask those too whose breaker is open.
        """
        self._refreshed_at = time.monotonic()
        self.is_suspect = False
        if self.servers.mode == "sentinel":
            return (yield from self._ask_sentinels(deadline))
        failure: Failure | None = None
        masters = sorted(self.masters, key=lambda node: node.breaker.failures)      # who answered lately goes first
        known = [node.address for node in masters]
        for address in dict.fromkeys([*known, *self.servers.addresses]):
            node = self.node(address)
            if is_probe:
                node.breaker.probes()
            elif not node.breaker.may_call(self.link_probes):
                failure = failure or refused(node)
                continue
            command = [b"CLUSTER", b"SLOTS"] if self.servers.mode == "cluster" else [b"HELLO"]
            until = deadline
            if self.servers.mode == "cluster":  # one that is stalled leaves time for the next
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

    @property
    def _must_refresh(self) -> bool:
        """Whether a call has to find out: nobody knows yet, or there are doubts, and no link that looks into them."""
        return self.owners is None or (self.is_suspect and not self.link_probes)

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
        """The node that a server of a cluster calls so, which may go by another name here."""
        remap = self.servers.address_remap
        if remap is not None:
            host, port = remap(address)
            address = str(host), int(port)
        return self.node(address)

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

    def refresh(self, deadline: float) -> Effects[Failure | None]:
        """`discover`, but not too often."""
        if time.monotonic() < self._refreshed_at + REFRESH_APART and self.owners is not None:
            return None
        return (yield from self.discover(deadline))

    # --- asking -----------------------------------------------------------------------------------------------------

    def ask_one(
        self, bucket: int, command: Sequence[Any], deadline: float, retries: int = RETRIES
    ) -> Effects[Any]:
        """The reply to one command about a bucket, or a Failure."""
        node = self.owners[bucket] if self.owners is not None and not self._must_refresh else None
        if node is not None and node.breaker.state == "closed":
            (outcome,) = yield Exchange([(node, [command])], deadline, not retries)
            if type(outcome) is list and type(outcome[0]) is not ReplyError:
                if node.health.is_troubled:
                    node.health.has_answered(command, outcome[0])
                return outcome[0]
            first: Any = {node: outcome}
        else:
            first = None
        return (yield from self.ask([(bucket, command)], deadline, retries, first))[0]

    def ask(
        self,
        commands: Sequence[tuple[int, Sequence[Any]]],
        deadline: float,
        retries: int = RETRIES,
        first: dict[Node, Any] | None = None,
    ) -> Effects[list[Any]]:
        """For each command, which is about a bucket: its reply, or a Failure. One round trip per server if all is well.

        `first`: what an attempt has brought already. Without `retries`, broken connections are the caller's affair: the
        breaker does not count them, or a cut through the connections of three threads would open it.
        """
        results: list[Any] = [None] * len(commands)
        todo = list(range(len(commands)))
        asking: set[int] = set()
        target: dict[int, Node] = {}
        told: dict[int, Failure] = {}           # those that were told to come later
        breaks, redirections = retries, RETRIES + 1
        is_redirected = False
        while todo:
            if first is None and (self._must_refresh or is_redirected):
                is_redirected = False
                failure = yield from self.refresh(deadline)
                if self.owners is None:
                    for i in todo:
                        results[i] = failure or Failure(Unavailable("no server could be reached"), False, False)
                    return results
            owners = self.owners
            assert owners is not None
            groups: dict[Node, list[int]] = {}
            for i in todo:
                node = target.pop(i, None) or owners[commands[i][0]]
                if node is None:
                    results[i] = Failure(Unavailable("no server has this part of the keys"), False, False)
                elif first is None and node not in groups and not node.breaker.may_call(self.link_probes):
                    results[i] = refused(node)
                else:
                    groups.setdefault(node, []).append(i)
            if not groups:
                return results
            if first is not None:
                outcomes: Any = [first[node] for node in groups]
                first = None
            else:
                requests: list[tuple[Node, Sequence[Sequence[Any]]]] = []
                for node, members in groups.items():
                    sent: list[Sequence[Any]] = []
                    for i in members:
                        sent += [[b"ASKING"], commands[i][1]] if i in asking else [commands[i][1]]
                    requests.append((node, sent))
                outcomes = yield Exchange(requests, deadline, not retries)
            todo = []
            pause = has_broken = False
            missing: dict[Node, set[bytes]] = {}
            for (node, members), outcome in zip(groups.items(), outcomes, strict=True):
                if type(outcome) is Failure:
                    if outcome.is_broken and breaks > 0 and time.monotonic() < deadline:
                        node.close()            # its other connections broke when this one did
                        todo += members
                        has_broken = True
                        continue
                    said = next((told[i].error for i in members if i in told), outcome.error)
                    if not outcome.is_ours and (retries or not outcome.is_broken):
                        node.health.has_failed(said)
                    self.is_suspect = self.is_suspect or (self.servers.mode != "single" and not outcome.is_ours)
                    for i in members:
                        results[i] = told.get(i, outcome)
                    continue
                replies = iter(outcome)
                later: BaseException | None = None
                for i in members:
                    if i in asking:
                        next(replies)
                        asking.discard(i)
                    reply = next(replies)
                    results[i] = reply
                    if type(reply) is not ReplyError:
                        if node.health.is_troubled:
                            node.health.has_answered(commands[i][1], reply)
                        continue
                    code = reply.code
                    if code == "NOSCRIPT":
                        missing.setdefault(node, set()).add(commands[i][1][1])
                    elif code in MOVED_ON and not (code == "READONLY" and self.servers.mode == "single"):
                        is_redirected = self.is_suspect = True
                        self._refreshed_at = -REFRESH_APART
                    elif code == "ASK" and self.servers.mode == "cluster":
                        host, _, port = str(reply).split()[2].rpartition(":")
                        target[i] = self._named((host or node.address[0], int(port)))
                        asking.add(i)
                    elif code in NOT_NOW:
                        pause = True
                        later = reply if code in NOT_SERVING else later
                        told[i] = Failure(reply, False, False)
                        self.is_suspect = self.is_suspect or code == "CLUSTERDOWN"
                    else:
                        results[i] = self._refused(node, commands[i][1], reply)
                        continue
                    results[i] = Failure(reply, False, False)
                    todo.append(i)
                if later is not None and time.monotonic() + PAUSE >= deadline:
                    node.health.has_failed(later)
            if not todo:
                break
            if time.monotonic() + PAUSE * pause >= deadline or redirections <= 0:
                for i in todo:
                    failure = results[i] or Failure(TimeoutError("the deadline has passed"), True, False)
                    node = owners[commands[i][0]]
                    if node is not None and type(failure.error) is ReplyError and failure.error.code == "READONLY":
                        failure = self._refused(node, commands[i][1], failure.error)
                    results[i] = failure
                break
            breaks -= has_broken
            redirections -= not (pause or has_broken)
            if pause:
                yield Wait((yield MakeWaiter()), min(deadline, time.monotonic() + PAUSE))
            for node, digests in missing.items():
                loads = [[b"SCRIPT", b"LOAD", BY_DIGEST[digest].text] for digest in digests]
                (outcome,) = yield Exchange([(node, loads)], deadline)
                answers = outcome if type(outcome) is list else ()
                refusal = next((reply for reply in answers if type(reply) is ReplyError), None)
                if refusal is not None and refusal.code not in NOT_NOW:     # the cause why the script is not there
                    for i in [i for i in todo if commands[i][1][1] in digests]:
                        results[i] = self._refused(node, commands[i][1], refusal)
                        todo.remove(i)
        return results

    # --- going through all names ------------------------------------------------------------------------------------

    def page(self, node: Node, cursor: bytes, letter: str, prefix: str, deadline: float) -> Effects[Any]:
        """Where the next page of a server's names begins (nothing: there is none), and the keys of this one; or a
        Failure. `letter`, `prefix`: of the names that are wanted."""
        names = self.names
        assert names is not None
        command = [b"SCAN", cursor, b"MATCH", names.pattern(letter, prefix), b"COUNT", PAGE]
        outcome: Any = None
        if node.breaker.may_call(self.link_probes):
            (outcome,) = yield Exchange([(node, [command])], deadline)
            if type(outcome) is Failure and outcome.is_broken:
                node.close()
                (outcome,) = yield Exchange([(node, [command])], deadline)
        if type(outcome) is Failure:
            node.health.has_failed(outcome.error)
            return outcome
        if outcome is None:
            return refused(node)
        if type(outcome[0]) is not list:
            node.health.refused((b"SCAN",), str(outcome[0]))
            return Failure(outcome[0], True, False)
        if node.health.is_troubled:
            node.health.has_answered((b"SCAN",), outcome[0])
        cursor, page = outcome[0]
        parsed = [names.parse(name) for name in page]
        keys = dict.fromkeys(found[2] for found in parsed if found is not None and found[2].startswith(prefix))
        return b"" if cursor == b"0" else cursor, tuple(keys)

    def clean(self, driver: Any, must_end: Callable[[], bool], deadline: Callable[[], float]) -> bool:
        """Remove what older generations left, page by page. Returns whether it got to the end."""
        names = self.names
        if names is None:
            return True
        for node in self.masters:
            cursor = b"0"
            while not must_end():
                command = [b"SCAN", cursor, b"MATCH", names.pattern(), b"COUNT", PAGE]
                (outcome,) = driver.do(Exchange([(node, [command])], deadline()))
                if type(outcome) is Failure or type(outcome[0]) is not list:
                    return False
                cursor, page = outcome[0]
                groups: dict[int, list[bytes]] = {}
                for name in page:
                    parsed = names.parse(name)
                    if parsed is not None and chr(parsed[1]) in "vlt":
                        groups.setdefault(parsed[0], []).append(name)
                commands = [
                    (bucket, script_call(CLEAN, [names.generation(bucket), *members]))
                    for bucket, members in groups.items()
                ]
                replies = driver.run(self.ask(commands, deadline())) if commands else []
                if any(type(reply) is Failure for reply in replies):
                    return False
                if cursor == b"0":
                    break
        return True

    @staticmethod
    def _refused(node: Node, command: Sequence[Any], reply: ReplyError) -> Failure:
        """A server refuses a command, which does not mean that it refuses others."""
        words = refusal_in(reply)
        if words is not None:
            if node.health.is_troubled and command[0] == b"EVALSHA":
                node.health.serves()
            node.health.refused(command, words)
        return Failure(reply, True, False)


def refused(node: Node) -> Failure:
    """What a call comes to that the breaker does not let through."""
    said = node.health.words
    words = f"{node} is not asked again before it serves{f': {said}' if said else ''}"
    return Failure(Unavailable(words, node.health.door), False, False)

