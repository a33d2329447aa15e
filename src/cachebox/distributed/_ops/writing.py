"""Operations that may be repeated if a connection breaks: `set`, `delete` and `touch`, of one key and of many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cachebox.distributed._net.effects import Effects, Failure
from cachebox.distributed._ops.entries import Entries
from cachebox.distributed._wire.keyspace import new_token
from cachebox.distributed._wire.scripts import DELETE, TOUCH, WRITE, script_call
from cachebox.distributed.options import checked_key, checked_keys, checked_tags, milliseconds


class Writing(Entries):
    """Writes values, and drops what they replace from the first tier."""

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
        """Write encoded values. `kept`: the milliseconds for which they are kept after their deadline; None: the
        cache's."""
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
        replies = yield from self.send_writes(commands, groups, deadline)
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

    def send_writes(
        self, commands: list[Any], groups: list[tuple[int, list[str]]], deadline: float, deletes: bool = False
    ) -> Effects[list[Any]]:
        """Send commands that change the keys of the groups. Returns (group, reply, write); failed writes have been
        ended."""
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

    def delete(self, key: Any) -> Effects[bool]:
        """`DistributedCache.delete`."""
        return bool((yield from self.delete_many((checked_key(key),))))

    def delete_many(self, keys: Any) -> Effects[int]:
        """`DistributedCache.delete_many`."""
        wanted = checked_keys(keys)
        deadline = self.deadline()
        yield from self.begin(deadline)
        return (yield from self.delete_all(wanted, deadline))

    def delete_all(self, keys: tuple[str, ...], deadline: float) -> Effects[int]:
        """Remove keys; a removal that fails becomes a pending invalidation."""
        groups = self.grouped(keys)
        commands = [
            (bucket, script_call(DELETE, self.names_of(self.names, bucket, members))) for bucket, members in groups
        ]
        deleted = 0
        failed = []
        mark = self.pending.mark
        for (_, members), reply, write in (yield from self.send_writes(commands, groups, deadline, True)):
            if type(reply) is Failure:
                failed.append((members, reply))
                self.pending.add_keys(members)
            else:
                deleted += reply
                self.pending.has_forgotten(members, mark)
            self.tier.end_write(write)
        self.raise_failed(failed)
        return deleted

    def touch(self, key: Any, ttl: Any) -> Effects[bool]:
        """`DistributedCache.touch`."""
        key = checked_key(key)
        px = milliseconds(self.jittered(self.lifetime_of(ttl)))
        deadline = self.deadline()
        yield from self.begin(deadline)
        groups = self.grouped([key])
        commands = [(bucket, script_call(TOUCH, self.names_of(self.names, bucket, [key]), px)) for bucket, _ in groups]
        ((_, reply, write),) = yield from self.send_writes(commands, groups, deadline)
        if type(reply) is Failure:
            self.raise_failed([([key], reply)])
        self.tier.end_write(write, [key] if reply and px else ())
        return bool(reply)
