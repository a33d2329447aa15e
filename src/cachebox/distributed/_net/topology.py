"""Talking to the servers that own the keys: retries, redirections, scripts that a server lacks.

Retries stay within the call's deadline, and happen only if they do no harm. One harmless case is a broken connection,
but not a time-out: the server would be asked twice for what it does once it is back. The other is an answer that says
nothing was done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from cachebox.distributed._net.discovery import REFRESH_APART, Discovery, refused
from cachebox.distributed._net.effects import Effects, Exchange, Failure, NewWaiter, Node, Wait
from cachebox.distributed._net.refusals import NOT_SERVING, Unavailable, refusal_in
from cachebox.distributed._wire.resp import ReplyError
from cachebox.distributed._wire.scripts import BY_DIGEST, CLEAN, script_call

RETRIES = 3
PAUSE = 0.03                        # seconds before asking again a server that is becoming ready
PAGE = 1000                         # names that a server looks at in one step
NOT_NOW = NOT_SERVING | {"TRYAGAIN"}
MOVED_ON = frozenset({"MOVED", "READONLY", "UNKNOWN_NODE"})


class Topology(Discovery):
    """Asks the servers of one cache."""

    is_exact = False                    # whether a first tier can see by itself what has changed
    at_once = 1000                      # keys in one call of a script
    size = None                         # a server reports its size itself
    polled_every = 0.05                 # seconds between looks if no tracking connection brings news

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
        """The reply or a Failure for each command, which is about a bucket. One round trip per server if all is well.

        `first`: the outcomes of a first attempt. Without `retries`, the caller handles broken connections: the breaker
        does not count them, because a cut through the connections of three threads would open it.
        """
        results: list[Any] = [None] * len(commands)
        todo = list(range(len(commands)))
        asking: set[int] = set()
        target: dict[int, Node] = {}
        postponed: dict[int, Failure] = {}          # commands whose server said: later
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
                elif first is None and node not in groups and not node.breaker.may_call(self.tracking_probes):
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
                    said = next((postponed[i].error for i in members if i in postponed), outcome.error)
                    if not outcome.is_internal and (retries or not outcome.is_broken):
                        node.health.has_failed(said)
                    self.is_suspect = self.is_suspect or (self.servers.mode != "single" and not outcome.is_internal)
                    for i in members:
                        results[i] = postponed.get(i, outcome)
                    continue
                replies = iter(outcome)
                later: BaseException | None = None
                for i in members:
                    if i in asking:
                        next(replies)
                        asking.discard(i)
                        if self.on_untracked is not None and node not in self.masters:
                            self.on_untracked()
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
                        postponed[i] = Failure(reply, False, False)
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
                yield Wait((yield NewWaiter()), min(deadline, time.monotonic() + PAUSE))
            for node, digests in missing.items():
                loads = [[b"SCRIPT", b"LOAD", BY_DIGEST[digest].text] for digest in digests]
                (outcome,) = yield Exchange([(node, loads)], deadline)
                answers = outcome if type(outcome) is list else ()
                refusal = next((reply for reply in answers if type(reply) is ReplyError), None)
                if refusal is not None and refusal.code not in NOT_NOW:     # this is why the script is not there
                    for i in [i for i in todo if commands[i][1][1] in digests]:
                        results[i] = self._refused(node, commands[i][1], refusal)
                        todo.remove(i)
        return results

    @staticmethod
    def _refused(node: Node, command: Sequence[Any], reply: ReplyError) -> Failure:
        """The Failure of a command that a server refuses, though it may serve others."""
        words = refusal_in(reply)
        if words is not None:
            if node.health.is_troubled and command[0] == b"EVALSHA":
                node.health.serves()
            node.health.refused(command, words)
        return Failure(reply, True, False)

    # --- going through all names --------------------------------------------------------------------------------------

    def page(self, node: Node, cursor: bytes, letter: str, prefix: str, deadline: float) -> Effects[Any]:
        """The cursor of the next page of a server's names (empty: none) and the keys of this one; or a Failure.

        `letter` and `prefix` select the names.
        """
        names = self.names
        assert names is not None
        command = [b"SCAN", cursor, b"MATCH", names.pattern(letter, prefix), b"COUNT", PAGE]
        outcome: Any = None
        if node.breaker.may_call(self.tracking_probes):
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
