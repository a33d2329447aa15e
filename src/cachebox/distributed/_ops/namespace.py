"""Operations on a whole namespace: `clear`, tags, prefixes, predicates; and freeing the memory of dead entries.

Nothing here holds up the server. The part that must happen at once only replaces generations. Names are found page by
page (SCAN), never by KEYS.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from fnmatch import translate
from functools import partial
from typing import Any

from cachebox.distributed._net.blocking_driver import Blocking
from cachebox.distributed._net.effects import Call, Effects, Failure, Node
from cachebox.distributed._net.health import log
from cachebox.distributed._ops.operations import Core
from cachebox.distributed._ops.pending_invalidations import Rule
from cachebox.distributed._wire.codec import Undecodable
from cachebox.distributed._wire.keyspace import new_token
from cachebox.distributed._wire.replies import NONE, ROW
from cachebox.distributed._wire.scripts import CLEAR, INVALIDATE_TAG, READ, TTL, script_call
from cachebox.distributed.errors import BackendUnavailable
from cachebox.distributed.options import checked_tags, seconds_of

CLEANINGS = 5                       # tries to free memory while the server does not answer
CLEANINGS_APART = 1.0               # seconds


class Namespace:
    """The operations of one cache that concern more than some keys."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def clear(self) -> Effects[None]:
        """`DistributedCache.clear`: a new generation for every bucket. The entries of old ones are removed in the
        background."""
        deadline = self._core.deadline()
        yield from self._core.begin(deadline)
        names = self._core.topology.names
        buckets = range(len(names.buckets)) if names is not None else range(1)
        token = new_token()
        commands = [(b, script_call(CLEAR, [names.generation(b)] if names is not None else [], token)) for b in buckets]
        mark = self._core.pending.mark
        write = self._core.tier.begin_write((), True)
        try:
            replies = yield from self._core.topology.ask(commands, deadline)
        except BaseException:
            self._core.tier.drop_write(write)
            self._core.tier.clear(False)
            raise
        done = [bucket for bucket, reply in zip(buckets, replies, strict=True) if type(reply) is not Failure]
        failures = [reply for reply in replies if type(reply) is Failure]
        self._core.pending.has_cleared(done, not failures, mark)
        if done:
            self._core.tier.end_write(write, (), done)
            self._core.chores.schedule(0.0, lambda: self._clean(CLEANINGS))
        else:
            self._core.tier.drop_write(write)
        if failures:
            self._core.pending.add_all(set(buckets) - set(done) if done else None)
            self._core.raise_failed([([], failures[0])])

    def _clean(self, tries: int) -> None:
        """In the background: remove what older generations left, page by page."""
        if self._cleans() or self._core.chores.must_end:
            return
        if tries > 1:
            self._core.chores.schedule(CLEANINGS_APART, lambda: self._clean(tries - 1))
        else:
            log.warning("what was cleared still takes memory on the servers: %s", self._core.last_error or "no answer")

    def _cleans(self) -> bool:
        """Remove what older generations left. Returns whether everything was removed."""
        core = self._core
        return core.topology.clean(Blocking(), lambda: core.chores.must_end, core.deadline)

    def invalidate_tag(self, tag: Any) -> Effects[int]:
        """`DistributedCache.invalidate_tag`: a new generation of the tag in every bucket."""
        (tag,) = checked_tags(tag) if isinstance(tag, str) else checked_tags([tag])
        deadline = self._core.deadline()
        yield from self._core.begin(deadline)
        names = self._core.topology.names
        fresh = new_token()
        commands = []
        for bucket in range(len(names.buckets)) if names is not None else range(1):
            keys = [names.generation(bucket), names.tag(bucket, tag)] if names is not None else []
            commands.append((bucket, script_call(INVALIDATE_TAG, keys, fresh)))
        tier = self._core.tier
        held = tier.has_tag(tag)
        mark = self._core.pending.mark
        write = tier.begin_write((), False, tag)
        try:
            replies = yield from self._core.topology.ask(commands, deadline)
        except BaseException:
            tier.drop_tag(tag)
            tier.drop_write(write)
            raise
        failures = [reply for reply in replies if type(reply) is Failure]
        done = [bucket for bucket, reply in enumerate(replies) if type(reply) is not Failure]
        self._core.pending.has_dropped(tag, done, mark)
        if failures:
            self._core.pending.add_tag(tag, set(range(len(replies))) - set(done) if done else None)
        tier.drop_tag(tag)
        tier.end_write(write, (), (), [(bucket, tag) for bucket, reply in enumerate(replies) if reply == 1])
        if failures:
            self._core.raise_failed([([], failures[0])])
        return held

    def invalidate_prefix(self, prefix: Any, timeout: Any = None) -> Effects[int]:
        """`DistributedCache.invalidate_prefix`: one deadline for all pages of names."""
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a str, not {type(prefix).__name__}")
        return (yield from self._remove_named(prefix, lambda key: True, ("prefix", prefix), timeout))

    def invalidate_glob(self, pattern: Any, timeout: Any = None) -> Effects[int]:
        """`DistributedCache.invalidate_glob`: the server only compares the part before the first wildcard."""
        if not isinstance(pattern, str):
            raise TypeError(f"pattern must be a str, not {type(pattern).__name__}")
        prefix = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
        matches = re.compile(translate(pattern)).match
        return (yield from self._remove_named(prefix, matches, ("glob", pattern), timeout))

    def _remove_named(
        self, prefix: str, matches: Callable[[str], object], name: object, timeout: Any
    ) -> Effects[int]:
        deadline = self._deadline(timeout)
        settle = partial(self._settle_named, prefix)
        mark = self._core.pending.mark
        rule = Rule(name, lambda key: key.startswith(prefix) and matches(key), None, settle)
        try:
            removed = yield from self._remove_pages(prefix, rule, lambda: deadline, False)
            self._core.pending.has_removed(name, mark)
            return removed
        except BackendUnavailable:
            self._core.pending.add_rule(rule)
            raise

    def _settle_named(self, prefix: str, rule: Rule) -> Effects[None]:
        """Remove what is left of a rule; each page has its own deadline."""
        yield from self._remove_pages(prefix, rule, self._core.deadline, True)

    def _remove_pages(
        self, prefix: str, rule: Rule, deadline: Callable[[], float], is_pending: bool
    ) -> Effects[int]:
        removed = 0
        for node in (yield from self._masters(deadline())):
            cursor = b"0"
            while cursor:
                cursor, keys = yield from self._page(node, cursor, "[vl]", prefix, deadline())
                chosen = tuple(filter(rule.matches, keys))
                if chosen and is_pending:
                    yield from self._core.pending.remove(rule, chosen, deadline())
                elif chosen:
                    removed += yield from self._core.delete_all(chosen, deadline())
        return removed

    def invalidate_where(self, predicate: Callable[[str, Any], object], timeout: Any = None) -> Effects[int]:
        """`DistributedCache.invalidate_where`: nothing is removed before all entries have been checked."""
        if not callable(predicate):
            raise TypeError(f"predicate must be callable, not {type(predicate).__name__}")
        core = self._core
        rule = Rule(object(), lambda key: True, predicate, self._settle_where)
        deadline = self._deadline(timeout)
        chosen: dict[str, None] = {}
        try:
            for node in (yield from self._masters(deadline)):
                cursor = b"0"
                while cursor:
                    cursor, keys = yield from self._page(node, cursor, "v", "", deadline)
                    entries = yield from self._read(keys, deadline)
                    begun = time.monotonic()
                    chosen |= yield from self._chosen(rule, entries)
                    deadline += time.monotonic() - begun
            return (yield from core.delete_all(tuple(chosen), deadline)) if chosen else 0
        except BackendUnavailable:
            core.pending.add_rule(rule)
            raise

    def _chosen(self, rule: Rule, entries: Iterable[tuple[str, Any]]) -> Effects[dict[str, None]]:
        """The keys of the entries for which the predicate is true."""
        assert rule.predicate is not None
        chosen: dict[str, None] = {}
        for key, value in entries:
            if (yield Call(partial(rule.predicate, key, value), "predicate")):
                chosen[key] = None
        return chosen

    def _settle_where(self, rule: Rule) -> Effects[None]:
        """Remove what is left of a rule; each page has its own deadline."""
        core = self._core
        for node in (yield from self._masters(core.deadline())):
            cursor = b"0"
            while cursor:
                cursor, keys = yield from self._page(node, cursor, "v", "", core.deadline())
                entries = yield from self._read(keys, core.deadline())
                chosen = yield from self._chosen(rule, entries)
                if chosen:
                    yield from core.pending.remove(rule, chosen, core.deadline())

    def _deadline(self, timeout: Any) -> float:
        seconds = self._core.timeout if timeout is None else seconds_of(timeout, "timeout", infinite=False)
        return time.monotonic() + seconds

    def _masters(self, deadline: float) -> Effects[list[Node]]:
        """The servers to go through."""
        core = self._core
        yield from core.begin(deadline)
        if core.topology.names is None:
            reply = yield from core.call(TTL, "", deadline=deadline)
            if type(reply) is Failure:
                core.raise_failed([([], reply)])
        return core.topology.masters

    def _page(
        self, node: Node, cursor: bytes, letter: str, prefix: str, deadline: float
    ) -> Effects[tuple[bytes, tuple[str, ...]]]:
        """The cursor of the next page (empty: none), and the keys of this one."""
        found = yield from self._core.topology.page(node, cursor, letter, prefix, deadline)
        if type(found) is Failure:
            self._core.raise_failed([([], found)])
        following, keys = found
        return following, keys

    def _read(self, keys: Iterable[str], deadline: float) -> Effects[list[tuple[str, Any]]]:
        """The entries of some keys; counts nothing, and stores nothing in the first tier."""
        core = self._core
        groups = core.grouped(keys)
        commands = [
            (bucket, script_call(READ, core.names_of(core.names, bucket, members))) for bucket, members in groups
        ]
        replies = yield from core.topology.ask(commands, deadline)
        entries = []
        for (_, members), reply in zip(groups, replies, strict=True):
            if type(reply) is Failure:
                core.raise_failed([(members, reply)])
            at = 0
            for key in members:
                size, _ = ROW.unpack_from(reply, at)
                at += ROW.size
                if size != NONE:
                    try:
                        entries.append((key, core.codec.decode(key, reply[at:at + size])))
                    except Undecodable:
                        pass                    # as good as absent
                    at += size
        return entries
