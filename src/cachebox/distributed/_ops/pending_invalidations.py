"""Pending invalidations: what this process must forget, and could not make the servers forget yet.

Nothing of it is served here meanwhile, because the first tier drops it at once. Before a question about a key is asked,
its pending invalidations are settled: its bucket is cleared, its tags are invalidated, the key is deleted. If that
fails, the key counts as unreachable. The rest is settled in the background, as soon as the servers can be reached.

Invariants: an invalidation is noted before the first tier forgets, and looked up after the permission to store was
taken (`Tier.begin_fill`). So no earlier value can get in between. What a server has carried out settles only what was
noted before it was asked (`mark`): what fails meanwhile concerns later values. In each bucket one caller settles at a
time, because a second, late removal would also remove what was written after the first. The memory is bounded: with
too many pending invalidations, everything is invalidated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from cachebox._platform.section import Section
from cachebox.distributed._net.blocking_driver import Blocking
from cachebox.distributed._net.effects import Call, Effects, Failure, NewWaiter, Wait
from cachebox.distributed._net.health import log
from cachebox.distributed._net.refusals import Unavailable
from cachebox.distributed._wire.keyspace import new_token
from cachebox.distributed._wire.scripts import CLEAR, DELETE, INVALIDATE_TAG, READ, script_call
from cachebox.distributed.errors import BackendUnavailable

if TYPE_CHECKING:
    from cachebox.distributed._ops.operations import Core

MOST_KEYS = 10_000
MOST_RULES = 16
LOOKED_EVERY = 0.005                # seconds between looks whether another caller has settled a bucket
AGAIN = 0.5                         # seconds between tries, in the background or at a server that refuses
RULES_AFTER = 3.0                   # seconds until a rule is settled in the background: it goes through all names


class Rule:
    """An invalidation of all keys that match: a prefix, a pattern, or a predicate on key and value.

    Args:
        name: identifies the rule; a later rule of the same name replaces it.
        matches: called with a key; runs no user code.
        predicate: called with key and value of the keys that match; both must be true. Or None.
        settle: the steps that make the servers forget all of it; raises `BackendUnavailable`.
    """

    def __init__(
        self,
        name: object,
        matches: Callable[[str], object],
        predicate: Callable[[str, Any], object] | None,
        settle: Callable[[Rule], Effects[None]],
    ) -> None:
        self.name = name
        self.matches = matches
        self.predicate = predicate
        self.settle = settle
        self.not_before = time.monotonic() + RULES_AFTER
        self.stamp = 0                          # when it was noted
        self.settled: set[str] = set()          # keys that the servers have forgotten since
        self.cleared: set[int] = set()          # buckets that were cleared since


class PendingInvalidations:
    """The pending invalidations of one cache. Thread-safe."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._stamp = 0                         # counts what was noted
        self._reset()
        self.renew()

    def renew(self) -> None:
        """Reset the lock: at first, and in the child of a fork, which inherits the pending invalidations."""
        self._lock = Section()
        self._busy: set[int] = set()            # buckets in which a caller is settling
        self._is_planned = False
        if self.exists:
            self._plan()

    def _reset(self) -> None:
        self.exists = False
        self._keys: dict[str, int] = {}         # key: when it was noted
        self._tags: dict[str, set[int] | None] = {}         # tag: its buckets; None: all
        self._tags_noted: dict[str, int] = {}               # tag: when it was noted
        self._clears: set[int] | None = set()               # buckets to clear; None: all
        self._clears_noted = 0
        self._rules: dict[object, Rule] = {}
        self._refused: dict[int, tuple[float, Failure]] = {}    # bucket: not to be tried before a time, and why

    # --- adding -------------------------------------------------------------------------------------------------------

    def _next_stamp(self) -> int:
        self._stamp += 1
        return self._stamp

    def add_keys(self, keys: Iterable[str]) -> None:
        """Note keys to forget."""
        with self._lock:
            self._keys.update(dict.fromkeys(keys, self._next_stamp()))
            if len(self._keys) <= MOST_KEYS:
                self._added()
                return
        self.add_all()

    def add_all(self, buckets: Iterable[int] | None = None) -> None:
        """Note that everything, or some buckets, must be forgotten."""
        with self._lock:
            if buckets is None:
                self._reset()
                self._clears = None
            elif self._clears is not None:
                self._clears = self._clears.union(buckets)
            self._clears_noted = self._next_stamp()
            self._added()
        self._core.tier.clear(False)

    def add_tag(self, tag: str, buckets: Iterable[int] | None) -> None:
        """Note that the entries with a tag must be forgotten, everywhere or in some buckets."""
        with self._lock:
            known = self._tags.get(tag, set())
            self._tags[tag] = None if buckets is None or known is None else known.union(buckets)
            self._tags_noted[tag] = self._next_stamp()
            if len(self._tags) <= MOST_KEYS:
                self._added()
                return
        self.add_all()

    def add_rule(self, rule: Rule) -> None:
        """Note a rule, and drop what matches here at once."""
        with self._lock:
            rule.stamp = self._next_stamp()
            self._rules[rule.name] = rule
            too_many = len(self._rules) > MOST_RULES
            self._added()
        tier = self._core.tier
        if too_many:
            self.add_all()
        else:
            tier.void_fills()
            tier.forget_keys([key for key in list(tier.first) if self._is_hit(rule, key)])

    def _is_hit(self, rule: Rule, key: str) -> bool:
        if not rule.matches(key):
            return False
        if rule.predicate is None:
            return True
        try:
            return bool(rule.predicate(key, self._core.give(self._core.tier.look(key, False))))
        except Exception:                       # the predicate raised: nothing says that the value stays
            return True

    def _added(self) -> None:
        if not self.exists:
            log.warning("a server cannot be reached to invalidate entries: they are not served, and invalidated later")
        self.exists = True
        self._plan()

    # --- settling -----------------------------------------------------------------------------------------------------

    @property
    def mark(self) -> int:
        """What was noted so far, for the methods below: taken before a server is asked."""
        return self._stamp

    def has_forgotten(self, keys: Iterable[str], mark: int) -> None:
        """The servers have forgotten these keys."""
        if self.exists:
            with self._lock:
                self._forget(keys, mark)
                self._drop_settled()

    def _forget(self, keys: Iterable[str], mark: int) -> None:
        for key in keys:
            if self._keys.get(key, mark + 1) <= mark:
                del self._keys[key]

    def has_cleared(self, buckets: Iterable[int], are_all: bool, mark: int) -> None:
        """The servers have forgotten these buckets; `are_all`: all of them."""
        if self.exists:
            with self._lock:
                if are_all and self._stamp == mark:
                    self._reset()
                    return
                for bucket in buckets:
                    self._strike(bucket, mark)
                self._drop_settled()

    def has_dropped(self, tag: str, buckets: Iterable[int], mark: int) -> None:
        """The servers have forgotten the entries with a tag."""
        if self.exists:
            with self._lock:
                self._drop_tag(tag, set(buckets), mark)
                self._drop_settled()

    def _drop_tag(self, tag: str, buckets: set[int], mark: int) -> None:
        if self._tags_noted.get(tag, mark + 1) <= mark:
            self._tags[tag] = self._spread(self._tags.get(tag, set())) - buckets

    def has_removed(self, name: object, mark: int) -> None:
        """The servers have forgotten what a rule matches."""
        if self.exists:
            with self._lock:
                rule = self._rules.get(name)
                if rule is not None and rule.stamp <= mark:
                    del self._rules[name]
                self._drop_settled()

    def _spread(self, buckets: set[int] | None) -> set[int]:
        names = self._core.names
        return set(range(len(names.buckets) if names is not None else 1)) if buckets is None else buckets

    def _strike(self, bucket: int, mark: int) -> None:
        names = self._core.names
        if self._clears_noted <= mark:
            self._clears = self._spread(self._clears) - {bucket}
        if names is not None:
            self._forget([key for key in self._keys if names.bucket(key) == bucket], mark)
        for rule in self._rules.values():
            if rule.stamp <= mark:
                rule.cleared.add(bucket)
        for tag in list(self._tags):
            self._drop_tag(tag, {bucket}, mark)

    def _drop_settled(self) -> None:
        for tag in [tag for tag, buckets in self._tags.items() if buckets is not None and not buckets]:
            del self._tags[tag], self._tags_noted[tag]
        if not (self._keys or self._tags or self._rules or self._clears is None or self._clears):
            self._reset()
            log.info("all pending invalidations have reached the servers")

    def settle(self, keys: Iterable[str], deadline: float) -> Effects[dict[int, Failure]]:
        """Settle what is pending for these keys. Returns the buckets in which that failed, and why."""
        names = self._core.names
        if names is None:
            return {}
        groups: dict[int, list[str]] = {}
        for key in keys:
            groups.setdefault(names.bucket(key), []).append(key)
        failures: dict[int, Failure] = {}
        for bucket, members in groups.items():
            failure = yield from self._settle_in(bucket, members, deadline)
            if failure is not None:
                failures[bucket] = failure
        return failures

    def _enter(self, bucket: int, deadline: float) -> Effects[bool]:
        """Become the caller that settles a bucket. Returns False if another one does until the deadline."""
        while True:
            with self._lock:
                if bucket not in self._busy:
                    self._busy.add(bucket)
                    return True
            if time.monotonic() >= deadline:
                return False
            yield Wait((yield NewWaiter()), min(deadline, time.monotonic() + LOOKED_EVERY))

    def _settle_in(self, bucket: int, keys: list[str], deadline: float) -> Effects[Failure | None]:
        if not (yield from self._enter(bucket, deadline)):
            return Failure(TimeoutError("what was to be forgotten is being forgotten"), False, False, is_internal=True)
        try:
            return (yield from self._settle_locked(bucket, keys, deadline))
        finally:
            self._busy.discard(bucket)

    def remove(self, rule: Rule, keys: Iterable[str], deadline: float) -> Effects[None]:
        """Remove keys of a rule from the servers, but not what was written since."""
        core = self._core
        for bucket, members in core.grouped(keys):
            if not (yield from self._enter(bucket, deadline)):
                failure = Failure(TimeoutError("others are settling"), False, False, is_internal=True)
                core.raise_failed([(members, failure)])
            try:
                chosen = tuple(key for key in members if key not in rule.settled)
                if chosen and bucket not in rule.cleared:
                    yield from core.delete_all(chosen, deadline)
            finally:
                self._busy.discard(bucket)

    def _settle_locked(self, bucket: int, keys: list[str], deadline: float) -> Effects[Failure | None]:
        core, names = self._core, self._core.names
        assert names is not None
        with self._lock:
            mark = self._stamp
            until, failure = self._refused.get(bucket, (0.0, None))
            if failure is not None and time.monotonic() < until:
                return failure
            clears = bucket in self._spread(self._clears)
            tags = [] if clears else [tag for tag, where in self._tags.items() if bucket in self._spread(where)]
            due = dict.fromkeys(key for key in keys if key in self._keys)
            rules = [] if clears else [rule for rule in self._rules.values() if bucket not in rule.cleared]
        marks: list[tuple[Rule, str]] = []
        for rule in rules:
            for key in keys:
                if rule.matches(key) and key not in rule.settled:
                    if len(rule.settled) >= MOST_KEYS:
                        return Failure(Unavailable("what was to be forgotten has not been yet"), False, False)
                    outcome = yield from self._is_due(rule, bucket, key, deadline)
                    if type(outcome) is Failure:
                        return self._note(bucket, outcome)
                    if outcome:
                        due[key] = None
                    marks.append((rule, key))
        generation = names.generation(bucket)
        commands = []
        if clears:
            commands.append(script_call(CLEAR, [generation], new_token()))
        for tag in tags:
            commands.append(script_call(INVALIDATE_TAG, [generation, names.tag(bucket, tag)], new_token()))
        if due and not clears:
            commands.append(script_call(DELETE, [generation, *(names.value_in(bucket, key) for key in due)]))
        if commands:
            replies = yield from core.topology.ask([(bucket, command) for command in commands], deadline)
            for reply in replies:
                if type(reply) is Failure:
                    return self._note(bucket, reply)
        with self._lock:
            self._refused.pop(bucket, None)
            if clears:
                self._strike(bucket, mark)
            for tag in tags:
                self._drop_tag(tag, {bucket}, mark)
            self._forget(due, mark)
            for rule, key in marks:
                rule.settled.add(key)
            if self.exists:
                self._drop_settled()
        return None

    def _is_due(self, rule: Rule, bucket: int, key: str, deadline: float) -> Effects[Any]:
        """Whether a rule demands that a matching key be deleted: True, False, or the Failure to find out."""
        if rule.predicate is None:
            return True
        core, names = self._core, self._core.names
        assert names is not None
        command = script_call(READ, [names.generation(bucket), names.value_in(bucket, key)])
        reply = yield from core.topology.ask_one(bucket, command, deadline)
        if type(reply) is Failure:
            return reply
        entry = core.entry_in(key, reply)
        if entry is None:
            return True
        return bool((yield Call(partial(rule.predicate, key, entry[0]), "predicate")))

    def _note(self, bucket: int, failure: Failure) -> Failure:
        if failure.was_sent:                    # a new try would cost at least a round trip each time
            with self._lock:
                self._refused[bucket] = time.monotonic() + AGAIN, failure
        return failure

    # --- in the background --------------------------------------------------------------------------------------------

    def _plan(self) -> None:
        if not self._is_planned and not self._core.is_closed:
            self._is_planned = True
            self._core.chores.schedule(AGAIN, self._work)

    def _work(self) -> None:
        """Settle in the background, and plan the next try if anything is left."""
        self._is_planned = False
        core = self._core
        try:
            if self.exists and not core.is_closed:
                Blocking().run(self._settle_all())
        except BackendUnavailable:
            pass                                # the next try follows
        finally:
            if self.exists:
                self._plan()

    def _settle_all(self) -> Effects[None]:
        core = self._core
        yield from core.begin(core.deadline())
        names = core.names
        if names is None:
            return
        with self._lock:
            keys = list(self._keys)
            buckets = self._spread(self._clears).union(*(self._spread(where) for where in self._tags.values()))
            rules = [rule for rule in self._rules.values() if time.monotonic() >= rule.not_before]
        for bucket in buckets:
            yield from self._settle_in(bucket, [], core.deadline())
        for bucket, members in core.grouped(keys):
            yield from self._settle_in(bucket, members, core.deadline())
        if core.tracking is None and not core.topology.can_be_asked:
            yield from self._probe()
        for rule in rules:
            if not core.topology.can_be_asked:  # it would count as an error each time
                return
            mark = self._stamp
            try:
                yield from rule.settle(rule)
            except BackendUnavailable:
                raise
            except Exception:                   # the predicate raised: no value is known to go
                log.warning("entries to invalidate cannot be found, because a predicate fails", exc_info=True)
            self.has_removed(rule.name, mark)

    def _probe(self) -> Effects[None]:
        """Probe the servers, because no tracking connection finds out whether they serve again."""
        core, names = self._core, self._core.names
        assert names is not None
        for node in core.topology.masters:
            if node.breaker.state != "closed":
                bucket = list(core.topology.owners or ()).index(node)
                generation = names.generation(bucket)
                command = script_call(READ, [generation, generation])
                yield from core.topology.ask_one(bucket, command, core.deadline())
