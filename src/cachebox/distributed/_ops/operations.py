"""What the two caches do, as generators: they yield what is to be done (`effects`) and know nothing of how.

Each public operation of the caches is a method here. An operation begins with checking its input, which changes nothing
where it is wrong. The comments of `tier` say what fills and writes are, those of `loading` how one of many computes.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterable, Mapping
from functools import partial
from random import random
from typing import Any

from cachebox._platform.awaitables import refuse_async, refuse_awaitable
from cachebox.cache import MISSING
from cachebox.distributed._near.near_cache import Fill, Tier, Write
from cachebox.distributed._near.tracking import Link
from cachebox.distributed._net.background import Helper
from cachebox.distributed._net.effects import Effects, Failure, Run
from cachebox.distributed._net.refusals import Unavailable, refusal_in
from cachebox.distributed._net.topology import Topology
from cachebox.distributed._ops.pending_invalidations import Owed
from cachebox.distributed._wire.codec import COUNTER, KEPT, LARGEST_INT, LONGEST_KEPT, WHOLE, Codec, Undecodable
from cachebox.distributed._wire.keyspace import KeySpace, new_token
from cachebox.distributed._wire.replies import NONE, ROW
from cachebox.distributed._wire.resp import ReplyError
from cachebox.distributed._wire.scripts import (
    ADD,
    DELETE,
    INCREMENT,
    READ,
    SWAP,
    TOUCH,
    TTL,
    WRITE,
    Script,
    script_call,
)
from cachebox.distributed._wire.typed import Schema
from cachebox.distributed.errors import BackendRefused, BackendUnavailable
from cachebox.distributed.options import LONGEST, checked_key, checked_keys, checked_tags, milliseconds, seconds_of

REAPED_EVERY = 5.0                  # seconds
ATTEMPTS = 16                       # of an increment over connections that break, if the deadline lets it
ATOMS = (str, int, float, bool, bytes, type(None))
MOST_REPORTED = 1000                # functions whose results could not be stored, and of which that was said

log = logging.getLogger("cachebox")


class Packed:
    """A value of a first tier that isolates: decoded anew for every hit."""

    __slots__ = ("kind", "payload", "schema")

    def __init__(self, kind: bytes, payload: bytes, schema: Schema | None) -> None:
        self.kind = kind
        self.payload = payload
        self.schema = schema


class Once:
    """A write that is to be carried out once: how it has gone so far."""

    __slots__ = ("breaks", "token", "was_sent")

    def __init__(self) -> None:
        self.token = new_token()
        self.breaks = 0
        self.was_sent = False


def _plain_result(fn: Any, old: Any) -> Any:
    """What a user's function makes of a value; TypeError where somebody would have to await it."""
    value = fn(old)
    refuse_awaitable("fn", value)
    return value


class Core:
    """All that a cache has beside the way it waits."""

    def __init__(
        self,
        topology: Topology,
        codec: Codec,
        tier: Tier,
        *,
        lifetime: float,
        timeout: float,
        max_staleness: float,
        invalidation: bool,
        is_local: bool,
        isolate: bool,
        jitter: float = 0.0,
        stale: float = 0.0,
    ) -> None:
        self.topology = topology
        self.codec = codec
        self.tier = tier
        self.lifetime = lifetime
        self.timeout = timeout
        self.max_staleness = max_staleness
        self.is_local = is_local
        self.isolate = isolate
        self.jitter = jitter
        self.kept = min(int(stale * 1000), LONGEST_KEPT)    # milliseconds that entries are kept beyond their end
        self.helper = Helper()
        self.link = None
        if invalidation and not topology.is_exact:
            self.link = Link(topology, tier, self.helper, max_staleness, timeout)
        self.is_closed = False
        self.at_once: Any = None                # the short ways, if there are some
        self._reported: set[str] = set()
        self.owed = Owed(self)
        self._reaps = False
        if self.link is None:
            tier.fresh_until = math.inf
            topology.on_open = self._reap_soon  # there is no link's thread to do it

    # --- common -----------------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        return time.monotonic() + self.timeout

    def begin(self, deadline: float) -> Effects[None]:
        """Before an operation asks a server: is it open, and has the link had its first chance?"""
        self.check_open()
        link = self.link
        if link is not None and not link.has_begun:
            yield from link.wait_until_begun(deadline)
        if self.topology.owners is None:
            yield from self.topology.refresh(deadline)

    def check_open(self) -> None:
        """RuntimeError once it has been closed."""
        if self.is_closed:
            raise RuntimeError("this cache is closed")

    @property
    def names(self) -> KeySpace | None:
        return self.topology.names

    def _bucket(self, key: str) -> int:
        names = self.topology.names
        return names.bucket(key) if names is not None else 0

    def call(
        self, script: Script, key: str, *arguments: Any, deadline: float, more: Iterable[bytes] = (), retries: int = 3
    ) -> Effects[Any]:
        """One script about one key: its reply, or a Failure."""
        names = self.topology.names
        if names is None:
            (reply,) = yield from self.topology.ask([(0, [b"PING"])], deadline)
            names = self.topology.names
            if names is None or type(reply) is Failure:
                return reply
        bucket = names.bucket(key)
        if self.owed.exists:
            failures = yield from self.owed.settle((key,), deadline)
            if failures:
                return failures[bucket]
        keys = (names.generation(bucket), names.value_in(bucket, key), *more)
        command = script_call(script, keys, *arguments)
        return (yield from self.topology.ask_one(bucket, command, deadline, retries))

    def ask(self, groups: list[tuple[int, list[str]]], commands: list[Any], deadline: float) -> Effects[list[Any]]:
        """`Topology.ask`: one command about the keys of each group, when what is owed for them has been paid."""
        failures: dict[int, Failure] = {}
        if self.owed.exists:
            failures = yield from self.owed.settle([key for _, members in groups for key in members], deadline)
        if not failures:
            return (yield from self.topology.ask(commands, deadline))
        healthy = [command for command in commands if command[0] not in failures]
        replies = iter((yield from self.topology.ask(healthy, deadline)) if healthy else ())
        return [failures[bucket] if bucket in failures else next(replies) for bucket, _ in commands]

    def unavailable(
        self, failure: Failure, keys: Iterable[str] = (), partial: Mapping[str, Any] | None = None
    ) -> BackendUnavailable:
        """The exception for a failure."""
        servers = self.topology.servers
        refusal = refusal_in(failure.error)
        if refusal is not None:
            kind: type[BackendUnavailable] = BackendRefused
            does, said = "refuses", str(failure.error)
            said = said if refusal in said else refusal
        else:
            answers = type(failure.error) in (ReplyError, Unavailable)
            kind, does = BackendUnavailable, "does not serve" if answers else "could not be reached"
            said = str(failure.error) or "no answer in time"
        error = kind(f"{servers!r} {does}: {said}", keys=keys, partial=partial)
        error.__cause__ = failure.error
        return error

    def give(self, stored: Any) -> Any:
        """What a hit in the first tier returns; MISSING where it cannot be decoded after all."""
        if type(stored) is not Packed:
            return stored
        try:
            return self.codec.loads(stored.kind, stored.payload, stored.schema)
        except Undecodable:
            return MISSING

    def read(
        self, fill: Fill, data: bytes, pttl: float, schema: Schema | None = None
    ) -> tuple[Any, tuple[Fill, Any, float, tuple[str, ...]]]:
        """The value of an entry that was read, and how it is to be stored here. Raises `Undecodable`."""
        kind, payload, tags = self.codec.open(fill.key, data)
        value = self.codec.loads(kind, payload, schema)
        stored = Packed(kind, payload, schema) if self.isolate and type(value) not in ATOMS else value
        lifetime = math.inf if pttl < 0 else (pttl - (self.codec.kept(data) if data[4] & KEPT else 0)) / 1000
        if self.link is None and not self.topology.is_exact:
            lifetime = min(lifetime, self.max_staleness)
        return value, (fill, stored, lifetime, tags)

    def take_in(self, fill: Fill, data: bytes, pttl: float, schema: Schema | None = None) -> Any:
        """The value of an entry that was read, stored in the first tier if it may be. Raises `Undecodable`."""
        value, row = self.read(fill, data, pttl, schema)
        self.tier.store(*row)
        return value

    def entry_in(self, key: str, reply: bytes) -> tuple[Any] | None:
        """The value in what READ answers about one key; None: there is none, or it cannot be decoded."""
        size, _ = ROW.unpack_from(reply)
        if size != NONE:
            try:
                return (self.codec.decode(key, reply[ROW.size:]),)
            except Undecodable:
                pass
        return None

    def has_ended(self, data: bytes, pttl: float) -> bool:
        """Whether an entry that is there is kept only to be served while a newer value is computed."""
        return len(data) > 4 and data[4] & KEPT != 0 and 0 <= pttl <= self.codec.kept(data)

    def jittered(self, lifetime: float) -> float:
        """A lifetime, shortened by chance if that is wanted."""
        return lifetime * (1.0 - self.jitter * random()) if self.jitter else lifetime

    def expiry(self, lifetime: float, kept: int) -> bytes:
        """Milliseconds that the server is to have an entry, as the scripts take them."""
        px = milliseconds(self.jittered(lifetime))
        return b"%d" % (int(px) + kept) if kept and px else px

    def kept_of(self, lifetime: float, kept: int | None = None) -> int:
        """For how many milliseconds an entry of such a lifetime is kept beyond its end, unless `kept` says so."""
        return (self.kept if kept is None else kept) if lifetime <= LONGEST else 0

    # --- reading ----------------------------------------------------------------------------------------------------

    def get(self, key: Any, default: Any) -> Effects[Any]:
        """`DistributedCache.get`, where the short way did not find it."""
        key = checked_key(key)
        found, _ = yield from self.lookup(key, self.deadline())
        return default if found is MISSING else found

    def lookup(
        self, key: str, deadline: float, counts: bool = True, schema: Schema | None = None
    ) -> Effects[tuple[Any, bool]]:
        """The value of a key or MISSING, from wherever it may come from; and whether a server could tell."""
        tier = self.tier
        link = self.link
        if self.is_closed or self.topology.owners is None or (link is not None and not link.has_begun):
            yield from self.begin(deadline)
        if tier.is_fresh:
            value = self.give(tier.look(key, counts))
            if value is not MISSING:
                return value, True
        fill = tier.begin_fill(key)
        try:
            reply = yield from self.call(READ, key, deadline=deadline)
            if type(reply) is Failure:
                return self._serve_stale(key, reply, counts), False
            size, pttl = ROW.unpack_from(reply)
            data = reply[ROW.size:]
            if size == NONE or self.has_ended(data, pttl):
                tier.end_fill(fill, True)
                tier.count(misses=counts)
                return MISSING, True
            value = self.take_in(fill, data, pttl, schema)
        except Undecodable:
            tier.end_fill(fill, True)
            tier.count(misses=counts, undecodable=counts)
            return MISSING, True
        except BaseException:
            tier.end_fill(fill)
            raise
        if counts:
            tier.count(remote_hits=1)
        return value, True

    def _serve_stale(self, key: str, failure: Failure, counts: bool) -> Any:
        """What the first tier has while no server can be asked; raises where that is not wanted."""
        if not self.is_local:
            self.tier.count(errors=1)
            raise self.unavailable(failure, [key])
        value = self.give(self.tier.look(key, False))
        if value is MISSING:
            self.tier.count(errors=1, misses=counts)
            return MISSING
        self.tier.count(errors=1, stale_serves=counts)
        return value

    def contains(self, key: Any) -> Effects[bool]:
        """`in`."""
        key = checked_key(key)
        deadline = self.deadline()
        yield from self.begin(deadline)
        if self.tier.is_fresh and self.tier.look(key, False) is not MISSING:
            return True
        reply = yield from self.call(TTL, key, deadline=deadline)
        if type(reply) is Failure:
            return self._serve_stale(key, reply, False) is not MISSING
        return bool(reply != -2)

    def ttl(self, key: Any) -> Effects[float | None]:
        """`DistributedCache.ttl`."""
        key = checked_key(key)
        deadline = self.deadline()
        yield from self.begin(deadline)
        reply = yield from self.call(TTL, key, deadline=deadline)
        if type(reply) is Failure:
            self.tier.count(errors=1)
            if self.is_local and self.tier.look(key, False) is not MISSING:
                return self.tier.first.ttl(key)
            raise self.unavailable(reply, [key])
        if reply == -2:
            raise KeyError(key)
        return None if reply < 0 else reply / 1000

    def get_many(self, keys: Any) -> Effects[dict[str, Any]]:
        """`DistributedCache.get_many`."""
        wanted = checked_keys(keys)
        deadline = self.deadline()
        found, failed = yield from self.read_many(wanted, deadline, True)
        stale = 0
        if failed:
            if self.is_local:
                for key in failed:
                    value = self.give(self.tier.look(key, False))
                    if value is not MISSING:
                        stale += 1
                        found[key] = value
            self.tier.count(errors=1, stale_serves=stale, misses=len(failed) - stale if self.is_local else 0)
            if not self.is_local:
                raise self.unavailable(next(iter(failed.values())), failed, found)
        return {key: found[key] for key in wanted if key in found}

    def read_many(
        self, wanted: Iterable[str], deadline: float, counts: bool, schema: Schema | None = None
    ) -> Effects[tuple[dict[str, Any], dict[str, Failure]]]:
        """The values of those keys that have one, and those of which nobody could tell."""
        yield from self.begin(deadline)
        tier = self.tier
        found: dict[str, Any] = {}
        failed: dict[str, Failure] = {}
        absent: list[str] = []
        if tier.is_fresh:
            for key in wanted:
                value = self.give(tier.look(key, counts))
                if value is MISSING:
                    absent.append(key)
                else:
                    found[key] = value
        else:
            absent += wanted
        if not absent:
            return found, failed
        names = self.topology.names
        groups = self.grouped(absent)
        fills = dict(zip(absent, tier.begin_fills(absent), strict=True))
        rows = []
        hits = misses = undecodable = 0
        try:
            commands = [
                (bucket, script_call(READ, self.names_of(names, bucket, members))) for bucket, members in groups
            ]
            replies = yield from self.ask(groups, commands, deadline)
            for (_, members), reply in zip(groups, replies, strict=True):
                if type(reply) is Failure:
                    failed.update(dict.fromkeys(members, reply))
                    continue
                at = 0
                for key in members:
                    size, pttl = ROW.unpack_from(reply, at)
                    at += ROW.size
                    value = MISSING
                    if size != NONE:
                        data = reply[at:at + size]
                        try:
                            if not self.has_ended(data, pttl):
                                value, row = self.read(fills[key], data, pttl, schema)
                                rows.append(row)
                        except Undecodable:
                            undecodable += 1        # a miss, as is what is not there
                        at += size
                    if value is MISSING:
                        misses += 1
                        tier.end_fill(fills[key], True)
                    else:
                        hits += 1
                        found[key] = value
            tier.store_many(rows)
        finally:
            tier.end_fills(fills.values())
            if counts:
                tier.count(remote_hits=hits, misses=misses, undecodable=undecodable)
        return found, failed

    def grouped(self, keys: Iterable[str]) -> list[tuple[int, list[str]]]:
        """Keys by bucket, at most so many together."""
        names = self.topology.names
        if names is None or not names.clustered:
            keys = list(keys)
            at_once = self.topology.at_once
            return [(0, keys[at:at + at_once]) for at in range(0, len(keys), at_once)]
        groups: dict[int, list[str]] = {}
        for key in keys:
            groups.setdefault(names.bucket(key), []).append(key)
        return [
            (bucket, members[at:at + self.topology.at_once])
            for bucket, members in groups.items()
            for at in range(0, len(members), self.topology.at_once)
        ]

    @staticmethod
    def names_of(names: KeySpace | None, bucket: int, keys: list[str]) -> list[bytes]:
        if names is None:
            return []
        return [names.generation(bucket), *(names.value_in(bucket, key) for key in keys)]

    # --- writing ----------------------------------------------------------------------------------------------------

    def set(self, key: Any, value: Any, ttl: Any, tags: Any) -> Effects[None]:
        """`DistributedCache.set`."""
        return self._set({checked_key(key): value}, ttl, checked_tags(tags))

    def set_many(self, mapping: Any, ttl: Any, tags: Any) -> Effects[None]:
        """`DistributedCache.set_many`."""
        if not isinstance(mapping, Mapping):
            raise TypeError(f"mapping must be a mapping, not {type(mapping).__name__}")
        return self._set({checked_key(key): value for key, value in mapping.items()}, ttl, checked_tags(tags))

    def _set(self, items: dict[str, Any], ttl: Any, tags: tuple[str, ...]) -> Effects[None]:
        lifetime = self.lifetime_of(ttl)
        kept = self.kept_of(lifetime)
        encoded = {key: self.codec.encode(key, value, tags, None, kept) for key, value in items.items()}
        return self.store(encoded, lifetime, tags, self.deadline())

    def store(
        self,
        encoded: dict[str, tuple[bytes, bytes]],
        lifetime: float,
        tags: tuple[str, ...],
        deadline: float,
        kept: int | None = None,
    ) -> Effects[None]:
        """Write values that are encoded already, perhaps to be kept so many milliseconds beyond their end."""
        kept = self.kept_of(lifetime, kept)
        yield from self.begin(deadline)
        if not encoded:
            return
        commands = []
        groups = self.grouped(encoded)
        for bucket, members in groups:
            arguments: list[Any] = [new_token(), len(tags), *tags]
            for key in members:
                arguments += (*encoded[key], self.expiry(lifetime, kept))
            commands.append((bucket, script_call(WRITE, self.names_of(self.names, bucket, members), *arguments)))
        replies = yield from self._write(commands, groups, deadline)
        failed = []
        for (bucket, members), reply, write in replies:
            if type(reply) is Failure:
                failed.append((members, reply))
                continue
            self.tier.end_write(
                write,
                members,
                [bucket] if reply[:1] == b"1" else (),
                [(bucket, tag) for tag, made in zip(tags, reply[1:], strict=True) if made == 49],
            )
        self.raise_failed(failed)

    def add(self, key: Any, value: Any, ttl: Any, tags: Any) -> Effects[bool]:
        """`DistributedCache.add`."""
        key, tags = checked_key(key), checked_tags(tags)
        lifetime = self.lifetime_of(ttl)
        kept = self.kept_of(lifetime)
        encoded = self.codec.encode(key, value, tags, None, kept)
        deadline = self.deadline()
        yield from self.begin(deadline)
        arguments = (len(tags), *tags, *encoded, self.expiry(lifetime, kept))
        write, reply = yield from self._write_once(ADD, key, arguments, deadline)
        if not reply:
            self.tier.drop_write(write)
            return False
        bucket = self._bucket(key)
        made = [(bucket, tag) for tag, was_made in zip(tags, reply[1:], strict=True) if was_made == 49]
        self.tier.end_write(write, (key,), [bucket] if reply[:1] == b"1" else (), made)
        return True

    def compute(self, key: Any, fn: Any) -> Effects[Any]:
        """`DistributedCache.compute`: read, call, and write if the entry is still the one that was read."""
        key = checked_key(key)
        if not callable(fn):
            raise TypeError(f"fn must be callable, not {type(fn).__name__}")
        refuse_async("fn", fn)
        deadline = self.deadline()
        yield from self.begin(deadline)
        while True:
            reply = yield from self.call(READ, key, deadline=deadline)
            if type(reply) is Failure:
                self.raise_failed([([key], reply)])
            old, tags, digest, keeps, kept = self._seen(key, reply)
            value = yield Run(partial(_plain_result, fn, old))
            head, body = (b"", b"") if value is MISSING else self.codec.encode(key, value, tags, None, kept)
            deadline = self.deadline()
            arguments = (digest, self.expiry(self.lifetime, kept), head, body, keeps)
            write, reply = yield from self._write_once(SWAP, key, arguments, deadline)
            if reply != b"0":
                pushed = (key,) if head or digest else ()
                self.tier.end_write(write, pushed, [self._bucket(key)] if reply[1:] == b"1" else ())
                return value
            self.tier.drop_write(write)         # somebody wrote it meanwhile

    def _seen(self, key: str, reply: bytes) -> tuple[Any, tuple[str, ...], bytes, bytes, int]:
        """What READ has found about one key: the value or MISSING, its tags, the digest of the entry, whether a new
        value is to keep lifetime and tags, and for how many milliseconds that is to be kept beyond its end."""
        size, pttl = ROW.unpack_from(reply)
        kept = self.kept_of(self.lifetime)
        if size == NONE:
            return MISSING, (), b"", b"0", kept
        data = reply[ROW.size:]
        digest = hashlib.sha1(data, usedforsecurity=False).hexdigest().encode()
        try:
            if not self.has_ended(data, pttl):
                kind, payload, tags = self.codec.open(key, data)
                return self.codec.loads(kind, payload), tags, digest, b"1", self.codec.kept(data)
        except Undecodable:
            self.tier.count(undecodable=1)
        return MISSING, (), digest, b"0", kept

    def _write_once(
        self, script: Script, key: str, arguments: tuple[Any, ...], deadline: float
    ) -> Effects[tuple[Write, Any]]:
        """The write of one key by a script that is carried out once, and its reply. Raises where it failed."""
        once = Once()
        write = self.tier.begin_write((key,))
        try:
            reply = yield from self._once(once, script, key, new_token(), *arguments, deadline=deadline)
        except BaseException:
            self.tier.end_write(write)
            raise
        self._end_once(once, key, write, reply)
        return write, reply

    def lifetime_of(self, ttl: Any) -> float:
        """A lifetime that was given for an entry, in seconds."""
        return self.lifetime if ttl is None else seconds_of(ttl, "ttl")

    def encode_result(
        self, key: str, value: Any, tags: tuple[str, ...], name: str, schema: Schema | None, kept: int
    ) -> tuple[bytes, bytes] | None:
        """What a function has computed, encoded; None: it cannot be, which is counted, and said once per function."""
        try:
            return self.codec.encode(key, value, tags, schema, kept)
        except TypeError:
            self.tier.count(unstorable=1)
            if name not in self._reported and len(self._reported) < MOST_REPORTED:
                self._reported.add(name)
                kind = type(value).__name__
                log.warning("%s returned a %s, which this serializer cannot store: it is not cached", name, kind)
            return None

    def check_entry(self, key: Any, value: Any, ttl: Any, tags: Any) -> None:
        """Raise what `set` would raise for these arguments, whatever the server says."""
        self.check_open()
        self.codec.encode(checked_key(key), value, checked_tags(tags))
        if ttl is not None:
            seconds_of(ttl, "ttl")

    def _write(
        self, commands: list[Any], groups: list[tuple[int, list[str]]], deadline: float, deletes: bool = False
    ) -> Effects[list[Any]]:
        """Send commands that change the keys of the groups. Returns (group, reply, write); failed writes are over."""
        tier = self.tier
        writes = [tier.begin_write(tuple(members)) for _, members in groups]
        try:
            if deletes:
                replies = yield from self.topology.ask(commands, deadline)
            else:
                replies = yield from self.ask(groups, commands, deadline)
        except BaseException:
            for write in writes:
                tier.end_write(write)
            raise
        for reply, write in zip(replies, writes, strict=True):
            if type(reply) is Failure:
                tier.end_write(write) if reply.was_sent else tier.drop_write(write)
        return list(zip(groups, replies, writes, strict=True))

    def raise_failed(self, failed: list[tuple[list[str], Failure]]) -> None:
        if failed:
            self.tier.count(errors=1)
            raise self.unavailable(failed[0][1], [key for members, _ in failed for key in members])

    def delete_many(self, keys: Any) -> Effects[int]:
        """`DistributedCache.delete_many`."""
        wanted = checked_keys(keys)
        deadline = self.deadline()
        yield from self.begin(deadline)
        return (yield from self.delete_all(wanted, deadline))

    def delete_all(self, keys: tuple[str, ...], deadline: float) -> Effects[int]:
        """Remove keys; what could not be removed is owed."""
        groups = self.grouped(keys)
        commands = [
            (bucket, script_call(DELETE, self.names_of(self.names, bucket, members))) for bucket, members in groups
        ]
        deleted = 0
        failed = []
        for (_, members), reply, write in (yield from self._write(commands, groups, deadline, True)):
            if type(reply) is Failure:
                failed.append((members, reply))
                self.owed.add_keys(members)
            else:
                deleted += reply
                self.owed.has_forgotten(members)
            self.tier.end_write(write)
        self.raise_failed(failed)
        return deleted

    def delete(self, key: Any) -> Effects[bool]:
        """`DistributedCache.delete`."""
        return bool((yield from self.delete_many((checked_key(key),))))

    def touch(self, key: Any, ttl: Any) -> Effects[bool]:
        """`DistributedCache.touch`."""
        key = checked_key(key)
        px = milliseconds(self.jittered(self.lifetime_of(ttl)))
        deadline = self.deadline()
        yield from self.begin(deadline)
        groups = self.grouped([key])
        commands = [(bucket, script_call(TOUCH, self.names_of(self.names, bucket, [key]), px)) for bucket, _ in groups]
        ((_, reply, write),) = yield from self._write(commands, groups, deadline)
        if type(reply) is Failure:
            self.raise_failed([([key], reply)])
        self.tier.end_write(write, [key] if reply and px else ())
        return bool(reply)

    def increment(self, key: Any, amount: Any) -> Effects[int]:
        """`DistributedCache.increment`."""
        key = checked_key(key)
        if not isinstance(amount, int):
            raise TypeError(f"amount must be an int, not {type(amount).__name__}")
        if not -LARGEST_INT < amount < LARGEST_INT:
            raise ValueError("amount must have at most 4300 digits")
        deadline = self.deadline()
        yield from self.begin(deadline)
        once, fresh = Once(), new_token()
        write = self.tier.begin_write((key,))
        seen: tuple[bytes, bytes, bytes] = self.codec.seal(key, ()), b"", b""
        reply: Any = None
        try:
            while True:
                reply = yield from self._once(
                    once, INCREMENT, key, fresh, b"%d" % int(amount), self.expiry(self.lifetime, 0),
                    self.codec.counter_head, *seen, deadline=deadline,
                )
                if type(reply) is not list:
                    break
                if time.monotonic() >= deadline:
                    reply = Failure(TimeoutError("the entry has always changed meanwhile"), once.was_sent, False)
                    break
                seen = self._judge(key, reply[0])
        except BaseException:
            self.tier.end_write(write)
            raise
        self._end_once(once, key, write, reply)
        self.tier.end_write(write, (key,), [self._bucket(key)] if reply[:1] == b"1" else ())
        return int(reply[1:])

    def _once(
        self, once: Once, script: Script, key: str, fresh: bytes, *arguments: Any, deadline: float
    ) -> Effects[Any]:
        """The reply of a script that is to be carried out once, however often its connection breaks; or a Failure.

        The token makes it safe to send it again after a broken connection. A repetition is refused by the server
        when it comes late: a server that was stalled may have forgotten the token by the time it reads it.
        """
        while True:
            names = self.topology.names
            bucket = self._bucket(key)
            not_after = b""
            if once.breaks:
                now = yield from self.topology.ask_one(bucket, [b"TIME"], deadline, 0)
                if type(now) is Failure:
                    if now.is_broken and time.monotonic() < deadline and once.breaks < ATTEMPTS:
                        once.breaks += 1
                        self.topology.close_idle()
                        continue
                    return now
                left = deadline - time.monotonic()
                not_after = b"%d" % (int(now[0]) * 1000 + int(now[1]) // 1000 + max(1, int(left * 1000)))
            done = [names.done(bucket, once.token)] if names is not None else []
            reply = yield from self.call(
                script, key, fresh, not_after, *arguments, deadline=deadline, more=done, retries=0
            )
            if type(reply) is not Failure:
                return reply
            once.was_sent = once.was_sent or reply.was_sent
            if not (reply.is_broken or self.topology.is_suspect) or time.monotonic() >= deadline:
                return reply
            if reply.is_broken:
                self.topology.close_idle()
            once.breaks += 1
            if once.breaks == ATTEMPTS:
                self.topology.has_failed(bucket)
                return reply

    def _end_once(self, once: Once, key: str, write: Write, reply: Any) -> None:
        """End a write that has failed, if it has, and raise."""
        if type(reply) is Failure:
            self.tier.end_write(write) if once.was_sent else self.tier.drop_write(write)
            self.raise_failed([([key], reply)])

    def _judge(self, key: str, data: bytes) -> tuple[bytes, bytes, bytes]:
        """What is to be said about an entry that the server found where it was to add: the seal that it gets, its
        digest, and whether it is an int, or as good as absent. TypeError where it is neither."""
        digest = hashlib.sha1(data, usedforsecurity=False).hexdigest().encode()
        try:
            kind, payload, tags = self.codec.open(key, data)
            value = self.codec.loads(kind, payload)
        except Undecodable:
            return self.codec.seal(key, ()), digest, b"0"
        if kind not in (WHOLE, COUNTER):
            raise TypeError(f"increment needs an int, but the value of {key!r} is of type {type(value).__name__}")
        return self.codec.seal(key, tags), digest, b"1"

    # --- the whole --------------------------------------------------------------------------------------------------

    def check(self) -> Effects[None]:
        """Raise where no server can be reached."""
        deadline = self.deadline()
        yield from self.begin(deadline)
        replies = yield from self._ping_all(deadline)
        if all(type(reply) is Failure for reply in replies):
            raise self.unavailable(replies[0])

    def _reap_soon(self) -> None:
        """Have connections closed that will not be used for long."""
        if not self._reaps:
            self._reaps = True
            self.helper.schedule(REAPED_EVERY, self._reap)

    def _reap(self) -> None:
        self._reaps = False
        if self.topology.reap():
            self._reap_soon()

    @property
    def last_error(self) -> str | None:
        """What is wrong with the servers, in their words as far as they say so; None: nothing is known to be."""
        return (self.link.refusal if self.link is not None else None) or self.topology.trouble

    def _ping_all(self, deadline: float) -> Effects[list[Any]]:
        """What every server answers, or Failures; at least one."""
        owners = self.topology.owners or [None]
        buckets = [owners.index(node) for node in self.topology.masters] or [0]
        return (yield from self.topology.ask([(bucket, [b"PING"]) for bucket in buckets], deadline))

    def barrier(self, timeout: Any) -> Effects[None]:
        """`DistributedCache.barrier`."""
        seconds = self.timeout if timeout is None else seconds_of(timeout, "timeout", infinite=False)
        deadline = time.monotonic() + seconds
        yield from self.begin(deadline)
        if self.topology.is_exact:
            return
        if self.link is not None:
            hopeless = timeout is None and self.link.state != "up" and self.topology.worst == "open"
            if hopeless or not (yield from self.link.barrier(deadline)):
                self.tier.count(errors=1)
                refusal = self.link.refusal or self.topology.door
                raise self.unavailable(Failure(Unavailable(self.link.why, refusal), True, False))
            return
        for reply in (yield from self._ping_all(deadline)):
            if type(reply) is Failure:
                self.tier.count(errors=1)
                raise self.unavailable(reply)
        self.tier.wipe(False)

    def renew(self) -> None:
        """In the child of a fork: without connections, threads and entries, but ready to go on."""
        self.topology.renew()
        self.tier.renew()
        self.tier.first.delete_many(list(self.tier.first))
        self.helper.renew()
        self.owed.renew()
        if self.link is not None:
            self.link.renew()
        else:
            self.tier.fresh_until = math.inf
        self._reaps = False

    def pause(self) -> None:
        """Before a fork: without threads, for they would not be copied."""
        self.helper.pause()
        if self.link is not None:
            self.link.pause()
        self.topology.pause()

    def resume(self) -> None:
        """After it, in the parent."""
        self.topology.resume()
        self.helper.resume()
        if self.link is not None:
            self.link.resume()

    def abandon(self) -> None:
        """Nobody uses it any more, and nobody closed it: let everything go, without waiting."""
        self.is_closed = self.helper.must_end = True
        if self.link is not None:
            self.link.stop_soon()
        self.topology.close()

    def stop(self) -> None:
        """End the threads."""
        self.is_closed = True
        self.tier.fresh_until = -math.inf
        self.helper.stop()
        if self.link is not None:
            self.link.stop()

    def close(self) -> None:
        """End the threads, close the connections and drop the entries."""
        self.stop()
        self.topology.close()
        self.tier.wipe(False)
