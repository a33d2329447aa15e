"""A folder in the place of servers: it has the methods of `topology.Topology` and answers the same calls.

There is one bucket, and its place never changes. No pushes are needed, because a first tier sees by itself whether its
values are still current (`near_cache.follow`). An operation is tried at once. If it would have to wait for another
writer, it yields an effect that waits, so that an event loop goes on.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from cachebox.distributed._embedded.folder import Folder, path_of
from cachebox.distributed._embedded.memory import private_folder
from cachebox.distributed._embedded.operations import OPERATIONS
from cachebox.distributed._embedded.room import LEAST, TooLarge
from cachebox.distributed._embedded.rows import IS_PRESENT, key_of
from cachebox.distributed._embedded.store import DiskFull, Store
from cachebox.distributed._embedded.writer_lock import Busy
from cachebox.distributed._net.effects import Block, Effects, Failure
from cachebox.distributed._net.refusals import Unavailable
from cachebox.distributed._wire.resp import ReplyError
from cachebox.distributed._wire.scripts import COMPLETE, STORING

PAGE = 1000                         # keys that one step looks at
SWEPT = 512                         # entries that one transaction of the background cleaning removes
POLLED_EVERY = 0.01                 # seconds between looks whether another process has finished a load
KEYS_AT = 4                         # where the keys of a command begin, behind the generation's name


class Names:
    """The names of entries, leases and tags: the key, token or tag itself, in UTF-8."""

    clustered = False
    buckets = (b"0",)

    def bucket(self, key: str) -> int:
        return 0

    def generation(self, bucket: int) -> bytes:
        return b""

    def value_in(self, bucket: int, key: str) -> bytes:
        return key.encode("utf-8", "surrogatepass")

    def lease(self, bucket: int, key: str) -> bytes:
        return key.encode("utf-8", "surrogatepass")

    def tag(self, bucket: int, tag: str) -> bytes:
        return tag.encode("utf-8", "surrogatepass")

    def failed(self, bucket: int, token: bytes) -> bytes:
        return token

    def done(self, bucket: int, token: bytes) -> bytes:
        return token


class Directory:
    """The second tier of one cache, in a folder.

    Args:
        store: the entries of the folder.
    """

    is_exact = True
    can_be_asked = True
    is_suspect = False
    tracking_probes = False
    entry_refusal = None
    on_open = None
    polled_every = POLLED_EVERY
    at_once = sys.maxsize

    def __init__(self, store: Store) -> None:
        self.store = store
        self.servers = store.folder
        self.names = Names()
        self.owners = [self]
        self.masters = [self]
        self.trouble: str | None = None         # what is wrong, in words, until something succeeds
        self._is_full = False                   # until a write succeeds: the disk was full

    @property
    def size(self) -> int:
        """Bytes that all files take."""
        return self.servers.size()

    # --- as with servers ----------------------------------------------------------------------------------------------

    @property
    def worst(self) -> str:
        """The state of the worst breaker: always "closed", because a folder has none."""
        return "closed"

    def pause(self) -> None:
        """Before a fork."""
        self.store.pause()

    def resume(self) -> None:
        """After a fork, in the parent."""
        self.store.resume()

    def renew(self) -> None:
        """After a fork, in the child."""
        self.store.renew()

    def reap(self) -> bool:
        """Nothing: there are no connections that the network could forget."""
        return False

    def close_idle(self) -> None:
        """Nothing: there are no connections."""

    def has_failed(self, bucket: int) -> None:
        """Nothing: there is no server to suspect."""

    def close(self) -> None:
        """Close all files."""
        self.store.close()

    def refresh(self, deadline: float) -> Effects[None]:
        """Nothing: the place of every key is known."""
        return
        yield

    # --- asking -------------------------------------------------------------------------------------------------------

    def ask_one(self, bucket: int, command: Sequence[Any], deadline: float, retries: int = 0) -> Effects[Any]:
        """The reply to one command, or a Failure."""
        if command[0] == b"PING":
            try:
                self.store.opened(deadline)
            except Exception as error:
                return self._failed(error)
            return b"PONG"
        operation = OPERATIONS[command[1]]
        end = 3 + command[2]
        keys, arguments = command[KEYS_AT:end], command[end:]
        try:
            return self._done(operation(self.store, keys, -math.inf, *arguments), command[1])
        except Busy as error:
            busy = error
        except Exception as error:
            return self._failed(error)
        if time.monotonic() >= deadline:
            return self._failed(busy)
        return (yield Block(lambda: self._wait(command[1], keys, arguments, deadline)))

    def _wait(self, digest: bytes, keys: Sequence[bytes], arguments: Sequence[Any], deadline: float) -> Any:
        try:
            return self._done(OPERATIONS[digest](self.store, keys, deadline, *arguments), digest)
        except Exception as error:
            return self._failed(error)

    def _done(self, reply: Any, digest: bytes) -> Any:
        if self.trouble is not None and (digest in STORING or digest == COMPLETE.digest or not self._is_full):
            self.trouble, self._is_full = None, False
        return Failure(reply, True, False) if type(reply) is ReplyError else reply

    def _failed(self, error: Exception) -> Failure:
        if isinstance(error, TooLarge):
            return Failure(ReplyError(f"OOM {error}"), False, False)
        if isinstance(error, DiskFull):
            self.trouble, self._is_full = f"OOM {error}", True
            return Failure(ReplyError(self.trouble), False, False)
        if isinstance(error, (Busy, OSError, ValueError)):
            self.trouble = self.trouble if self._is_full else str(error)
            return Failure(Unavailable(str(error)), False, False)
        raise error

    def ask(
        self, commands: Sequence[tuple[int, Sequence[Any]]], deadline: float, retries: int = 0
    ) -> Effects[list[Any]]:
        """For each command its reply, or a Failure."""
        replies = []
        for bucket, command in commands:
            replies.append((yield from self.ask_one(bucket, command, deadline)))
        return replies

    # --- going through all keys ---------------------------------------------------------------------------------------

    def page(self, node: Any, cursor: bytes, letter: str, prefix: str, deadline: float) -> Effects[Any]:
        """As `Topology.page`: keys in the order of their hashes, also those of leases if `letter` contains "l"."""
        def look(execute: Any, page: Any) -> Any:
            start = int(cursor or b"0") if cursor != b"0" else -(1 << 63)
            wanted = f"h >= ? AND {IS_PRESENT}"
            rows = execute(f"SELECT h, k FROM e WHERE {wanted} ORDER BY h LIMIT ?", (start, PAGE)).fetchall()
            end = b"%d" % (rows[-1][0] + 1) if len(rows) == PAGE else b""
            if cursor == b"0" and "l" in letter:
                rows += execute("SELECT h, k FROM l").fetchall()
            keys = [key_of(page, h, key) for h, key in rows]
            return end, tuple(dict.fromkeys(key for key in keys if key.startswith(prefix)))

        try:
            return self.store.read(look, deadline) or (b"", ())
        except Exception as error:
            return self._failed(error)
        yield

    def clean(self, driver: Any, must_end: Callable[[], bool], deadline: Callable[[], float]) -> bool:
        """Remove entries of older generations, some at a time. Returns whether it got to the end."""
        try:
            while not must_end():
                if not self.store.write((), _remove_some, deadline()):
                    return True
        except (Busy, DiskFull, OSError):
            return False
        return True


def _remove_some(execute: Callable[..., Any], page: Any) -> int:
    """Remove some entries and tags of older generations; returns how many."""
    removed = 0
    for table, is_present in (("e", IS_PRESENT), ("t", "g = (SELECT v FROM m WHERE id = 0)")):
        removed += execute(
            f"DELETE FROM {table} WHERE h IN (SELECT h FROM {table} WHERE NOT {is_present} LIMIT ?)", (SWEPT,)
        ).rowcount
    return removed


def open_directory(
    url: str,
    namespace: str,
    limit: int,
    is_durable: bool,
    patience: float,
    tier: Any,
    clock: Callable[[], float] | None,
) -> Directory:
    """The second tier that a URL names, for one first tier. Raises ValueError, PermissionError and other OSErrors."""
    if sys.platform == "win32":
        raise NotImplementedError("url=\"file:///...\" and \"memory://\" are not supported on Windows yet")
    if limit < LEAST:
        raise ValueError(f"size_limit must be at least 32 MiB ({LEAST}), not {limit}")
    is_private = url.lower().startswith("memory:")
    folder = private_folder(url, namespace) if is_private else Folder(path_of(url), namespace)
    tier.follow(None)
    store = Store(folder, limit, is_durable, patience, tier.follow, lambda n: tier.count(evictions=n), clock)
    return Directory(store)
