"""Operations that the server must not carry out twice: `add`, `compute` and `increment`."""

from __future__ import annotations

import hashlib
import time
from functools import partial
from typing import Any

from cachebox._platform.awaitables import plain_call, refuse_async
from cachebox.cache import MISSING
from cachebox.distributed._near.near_cache import Write
from cachebox.distributed._net.effects import Call, Effects, Failure
from cachebox.distributed._ops.entries import Entries
from cachebox.distributed._wire.codec import COUNTER, LARGEST_INT, WHOLE, Undecodable
from cachebox.distributed._wire.keyspace import new_token
from cachebox.distributed._wire.replies import NONE, ROW
from cachebox.distributed._wire.scripts import ADD, INCREMENT, READ, SWAP, Script
from cachebox.distributed.options import checked_key, checked_tags

ATTEMPTS = 16                       # over connections that break, within the deadline


class Once:
    """The progress of a write that is to be carried out once."""

    __slots__ = ("breaks", "token", "was_sent")

    def __init__(self) -> None:
        self.token = new_token()
        self.breaks = 0
        self.was_sent = False


class WritingOnce(Entries):
    """Writes by scripts that are carried out at most once, and exactly once if the operation returns."""

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
        bucket = self.bucket_of(key)
        made = [(bucket, tag) for tag, was_made in zip(tags, reply[1:], strict=True) if was_made == 49]
        self.tier.end_write(write, (key,), [bucket] if reply[:1] == b"1" else (), made)
        return True

    def compute(self, key: Any, fn: Any) -> Effects[Any]:
        """`DistributedCache.compute`: read, call the function, and write if the entry has not changed."""
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
            value = yield Call(partial(plain_call, "fn", fn, old), "fn")
            head, body = (b"", b"") if value is MISSING else self.codec.encode(key, value, tags, None, kept)
            deadline = self.deadline()
            arguments = (digest, self.expiry(self.lifetime, kept), head, body, keeps)
            write, reply = yield from self._write_once(SWAP, key, arguments, deadline)
            if reply != b"0":
                pushed = (key,) if head or digest else ()
                self.tier.end_write(write, pushed, [self.bucket_of(key)] if reply[1:] == b"1" else ())
                return value
            self.tier.drop_write(write)         # another caller wrote it meanwhile

    def _seen(self, key: str, reply: bytes) -> tuple[Any, tuple[str, ...], bytes, bytes, int]:
        """What READ found about one key, and what a new value is to keep of it.

        Returns the value or MISSING, its tags, the entry's digest, whether a new value keeps lifetime and tags, and for
        how many milliseconds the new value is kept after its deadline.
        """
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
        self.tier.end_write(write, (key,), [self.bucket_of(key)] if reply[:1] == b"1" else ())
        return int(reply[1:])

    def _judge(self, key: str, data: bytes) -> tuple[bytes, bytes, bytes]:
        """The caller's verdict on an entry that INCREMENT could not judge.

        Returns the counter's seal, the entry's digest, and whether it is an int, or as good as absent. Raises TypeError
        for any other value.
        """
        digest = hashlib.sha1(data, usedforsecurity=False).hexdigest().encode()
        try:
            kind, payload, tags = self.codec.open(key, data)
            value = self.codec.loads(kind, payload)
        except Undecodable:
            return self.codec.seal(key, ()), digest, b"0"
        if kind not in (WHOLE, COUNTER):
            raise TypeError(f"increment needs an int, but the value of {key!r} is of type {type(value).__name__}")
        return self.codec.seal(key, tags), digest, b"1"

    # --- carried out once ---------------------------------------------------------------------------------------------

    def _write_once(
        self, script: Script, key: str, arguments: tuple[Any, ...], deadline: float
    ) -> Effects[tuple[Write, Any]]:
        """Write one key by a script that is carried out once. Returns the write and the reply; raises if it failed."""
        once = Once()
        write = self.tier.begin_write((key,))
        try:
            reply = yield from self._once(once, script, key, new_token(), *arguments, deadline=deadline)
        except BaseException:
            self.tier.end_write(write)
            raise
        self._end_once(once, key, write, reply)
        return write, reply

    def _once(
        self, once: Once, script: Script, key: str, fresh: bytes, *arguments: Any, deadline: float
    ) -> Effects[Any]:
        """The reply of a script that is to be carried out once, however often its connection breaks; or a Failure.

        The token makes it safe to send the script again after a broken connection. The server refuses a late
        repetition: if the server was stalled, it may have forgotten the token by then.
        """
        while True:
            names = self.topology.names
            bucket = self.bucket_of(key)
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
        """End a write that has failed, and raise."""
        if type(reply) is Failure:
            self.tier.end_write(write) if once.was_sent else self.tier.drop_write(write)
            self.raise_failed([([key], reply)])
