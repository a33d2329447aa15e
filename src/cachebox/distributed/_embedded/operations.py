"""What a second tier can be asked for, over SQLite: one function per script of the servers, with the same answers.

Keys in UTF-8 stand where a server gets names. The functions put tag versions into envelopes, as the scripts do. An
operation that needs the writer lock takes it once and changes everything in one transaction.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

from cachebox.distributed._embedded.database import GENERATION, NEVER, TAG_EPOCH, Damaged, number
from cachebox.distributed._embedded.page import Page
from cachebox.distributed._embedded.room import Cost, cost_of
from cachebox.distributed._embedded.rows import FIND, FIND_TAG, IS_PRESENT, PUT, check, row_of, tag_hash, tags_in
from cachebox.distributed._embedded.store import Execute, Store, new_number
from cachebox.distributed._wire import scripts
from cachebox.distributed._wire.codec import HEAD, LARGEST_INT, TAGGED, Codec
from cachebox.distributed._wire.replies import NONE, ROW
from cachebox.distributed._wire.resp import ReplyError

IN_ONE_LOOK = 250                   # keys of one SELECT
TOKEN = TAG_VERSION = 16            # bytes
LEASE = bytes, int, int, int, int, int      # the columns of a lease that are read
NOTHING = ROW.pack(NONE, 0.0)
_digits = re.compile(rb"-?[0-9]+").fullmatch

Keys = Sequence[bytes]


class Transaction:
    """One transaction, with the steps that all operations share."""

    def __init__(self, execute: Execute, page: Page, now: int) -> None:
        self.execute = execute
        self.page = page
        self.now = now                  # milliseconds
        self._generation: int | None = None

    def deadline_after(self, px: bytes) -> int:
        """The deadline, in milliseconds, of something that lives `px` milliseconds from now; empty: never."""
        return min(self.now + int(px), NEVER) if px else NEVER

    @property
    def generation(self) -> int:
        """The present generation."""
        if self._generation is None:
            self._generation = number(self.execute, GENERATION)
            if self.page.generation not in (0, self._generation):
                raise Damaged("the generation is not what was written")
        return self._generation

    @property
    def epoch(self) -> int:
        """A number that every invalidation of a tag changes."""
        return number(self.execute, TAG_EPOCH)

    def find(self, key: bytes) -> tuple[bytes, int] | None:
        """The envelope of a live entry and its deadline, or None."""
        h = self.page.hash_of(key)
        row = self.execute(FIND, (h,)).fetchone()
        if row is None or row[0] != key:
            return None
        return check(self.execute, self.page, h, row, self.now)

    def put(self, key: bytes, envelope: bytes, end: int, ends_lease: bool = True) -> None:
        """Store a complete envelope, and end the key's lease."""
        h = self.page.hash_of(key)
        self.execute(PUT, row_of(h, key, self.generation, end, envelope))
        if ends_lease and self.page.leases:
            self.end_lease(h)

    def find_present(self, key: bytes) -> tuple[bytes, int] | None:
        """The envelope of an entry that is not stale and its deadline, or None."""
        found = self.find(key)
        return None if found is None or found[1] - Codec.kept(found[0]) <= self.now else found

    def remove(self, key: bytes) -> bool:
        """Remove an entry and end the key's lease. Returns whether the entry was present."""
        found = self.find_present(key) is not None
        h = self.page.hash_of(key)
        self.execute("DELETE FROM e WHERE h = ?", (h,))
        if self.page.leases:
            self.end_lease(h)
        return found

    def envelope(self, head: bytes, block: bytes, body: bytes) -> bytes:
        """An envelope with the block of its tags; the stamp is put in when it is stored."""
        if block:
            head = head[:4] + bytes([head[4] + TAGGED])
        return head + bytes(16) + block + body

    def tagged(self, tags: Sequence[str], fresh: bytes) -> bytes:
        """The block of some tags, with their versions; an unknown tag gets the version `fresh`."""
        if not tags:
            return b""
        block = [bytes([len(tags)])]
        for tag in tags:
            name = tag.encode("utf-8", "surrogatepass")
            h = tag_hash(self.page, name)
            found = self.execute(FIND_TAG, (h,)).fetchone()
            if found is None or found[0] != name or found[2] != self.generation:
                found = name, fresh, self.generation
                self.execute("REPLACE INTO t VALUES(?, ?, ?, ?)", (h, *found))
            elif type(found[1]) is not bytes or len(found[1]) != TAG_VERSION:
                raise Damaged("a tag is not what was written")
            self.page.mark(h)
            block += (len(name).to_bytes(2, "big"), name, found[1])
        return b"".join(block)

    # --- leases -------------------------------------------------------------------------------------------------------

    def lease(self, key: bytes) -> tuple[bytes, int, int, int, int, int] | None:
        """A key's lease: token, generation, tag epoch, deadline, and the holder's place and incarnation."""
        if not self.page.leases:
            return None
        found = self.execute(
            "SELECT token, g, epoch, x, place, incarnation FROM l WHERE h = ? AND k = ?",
            (self.page.hash_of(key), key),
        ).fetchone()
        if found is None:
            return None
        if tuple(map(type, found)) != LEASE or len(found[0]) != TOKEN:
            raise Damaged("a lease is not what was written")
        return found if found[3] > self.now else None

    def take_lease(self, key: bytes, token: bytes, milliseconds: int, place: Any, epoch: int) -> None:
        self.page.leases = True
        self.execute(
            "REPLACE INTO l VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self.page.hash_of(key), key, token, self.generation, epoch, self.now + milliseconds, place.number,
                place.incarnation,
            ),
        )

    def end_lease(self, h: int) -> None:
        """End the lease of a key, whichever process holds it."""
        self.execute("DELETE FROM l WHERE h = ?", (h,))


def _cost(keys: Keys, bodies: Sequence[bytes], tags: Sequence[str] = ()) -> Cost:
    """What it costs to write some entries, all with the same tags."""
    sizes = [len(key) + len(body) + HEAD for key, body in zip(keys, bodies, strict=True)]
    if tags:
        names = [len(tag.encode("utf-8", "surrogatepass")) for tag in tags]
        block = sum(names) + 18 * len(names)
        sizes = [*names, *[size + block for size in sizes]]
    return cost_of(sizes)


def _cost_again(key: bytes, more: int) -> Callable[[Execute, Page], Cost]:
    """What it costs to write an entry again, with at most `more` bytes added to it."""
    def cost(execute: Execute, page: Page) -> Cost:
        found = execute("SELECT length(k) + length(b) FROM e WHERE h = ?", (page.hash_of(key),)).fetchone()
        return cost_of([len(key) + HEAD + more + (found[0] or 0 if found is not None else 0)])

    return cost


# --- reading ----------------------------------------------------------------------------------------------------------

def read(store: Store, keys: Keys, deadline: float) -> bytes:
    """READ: of each key a row, and its envelope."""
    now = store.now_ms()
    if len(keys) == 1:
        found = store.read(lambda execute, page: store.find(execute, page, keys[0], now), deadline)
        return NOTHING if found is None else row(found[0], found[1], now)
    rows: bytes | None = store.read(lambda execute, page: _read_many(execute, page, keys, now), deadline)
    return NOTHING * len(keys) if rows is None else rows


def row(envelope: bytes, end: int, now: int) -> bytes:
    """What READ answers about one entry."""
    return ROW.pack(len(envelope), -1.0 if end >= NEVER else float(end - now)) + envelope


def _read_many(execute: Execute, page: Page, keys: Keys, now: int) -> bytes:
    found: dict[bytes, bytes] = {}
    for at in range(0, len(keys), IN_ONE_LOOK):
        some = keys[at:at + IN_ONE_LOOK]
        marks = ",".join("?" * len(some))
        rows = execute(
            f"SELECT k, g, x, c, b FROM e WHERE h IN ({marks}) AND {IS_PRESENT}",
            [page.hash_of(key) for key in some],
        ).fetchall()
        wanted = set(some)
        for entry in rows:
            if entry[0] in wanted:
                h = page.hash_of(entry[0])
                checked = check(execute, page, h, entry, now)
                if checked is not None:
                    found[entry[0]] = row(checked[0], checked[1], now)
                    page.mark(h)
    return b"".join([found.get(key, NOTHING) for key in keys])


def ttl(store: Store, keys: Keys, deadline: float) -> int:
    """TTL in milliseconds; -1: never expires; -2: absent."""
    now = store.now_ms()
    found = store.read(lambda execute, page: store.find(execute, page, keys[0], now), deadline)
    if found is None or found[1] >= NEVER:
        return -2 if found is None else -1
    left = found[1] - Codec.kept(found[0]) - now
    return left if left > 0 else -2


# --- writing ----------------------------------------------------------------------------------------------------------

def write(store: Store, keys: Keys, deadline: float, fresh: bytes, n: int, *rest: Any) -> bytes:
    """WRITE."""
    tags, rest = rest[:n], rest[n:]

    def run(execute: Execute, page: Page) -> bytes:
        change = Transaction(execute, page, store.now_ms())
        block = change.tagged(tags, fresh)
        entries: Any = zip(keys, rest[::3], rest[1::3], rest[2::3], strict=True)
        if len(keys) > 1:               # in the order of the file, or it would write some of its pages again and again
            entries = sorted(entries, key=lambda entry: page.hash_of(entry[0]))
        for key, head, body, px in entries:
            change.put(key, change.envelope(head, block, body), change.deadline_after(px))
        return b"0" * (1 + n)

    return store.write(keys, run, deadline, cost=_cost(keys, rest[1::3], tags))


def add(store: Store, keys: Keys, deadline: float, fresh: bytes, not_after: bytes, n: int, *rest: Any) -> bytes:
    """ADD. Needs no record that it was done, and neither do the operations below: a transaction happens once."""
    tags, (head, body, px) = rest[:n], rest[n:]

    def run(execute: Execute, page: Page) -> bytes:
        change = Transaction(execute, page, store.now_ms())
        if change.find_present(keys[0]) is not None:
            return b""
        change.put(keys[0], change.envelope(head, change.tagged(tags, fresh), body), change.deadline_after(px))
        return b"0" * (1 + n)

    return store.write(keys[:1], run, deadline, cost=_cost(keys[:1], (body,), tags))


def swap(
    store: Store, keys: Keys, deadline: float, fresh: bytes, not_after: bytes, digest: bytes, px: bytes, head: bytes,
    body: bytes, keeps: bytes,
) -> bytes:
    """SWAP."""
    key = keys[0]

    def run(execute: Execute, page: Page) -> bytes:
        change = Transaction(execute, page, store.now_ms())
        found = change.find(key)
        if (b"" if found is None else _digest(found[0])) != digest:
            return b"0"
        if not head:
            change.remove(key)
        elif found is not None and keeps == b"1":
            change.put(key, change.envelope(head, _block(found[0]), body), found[1])
        else:
            change.put(key, change.envelope(head, b"", body), change.deadline_after(px))
        return b"10"

    return store.write((key,), run, deadline, cost=_cost_again(key, len(body)))


def delete(store: Store, keys: Keys, deadline: float) -> int:
    """DELETE. Returns how many entries were present."""
    def run(execute: Execute, page: Page) -> int:
        change = Transaction(execute, page, store.now_ms())
        return sum([change.remove(key) for key in keys])

    return store.write(keys, run, deadline, forgets=0)


def touch(store: Store, keys: Keys, deadline: float, px: bytes) -> int:
    """TOUCH. Returns 1 if there is an entry."""
    (key,) = keys

    def run(execute: Execute, page: Page) -> int:
        change = Transaction(execute, page, store.now_ms())
        found = change.find_present(key)
        if found is not None:
            end = change.deadline_after(b"%d" % (int(px) + Codec.kept(found[0]))) if px else NEVER
            change.put(key, found[0], end, ends_lease=False)
        return int(found is not None)

    return store.write(keys, run, deadline, cost=_cost_again(key, 0))


def increment(
    store: Store, keys: Keys, deadline: float, fresh: bytes, not_after: bytes, amount: bytes, px: bytes, head: bytes,
    seal: bytes, digest: bytes, verdict: bytes,
) -> Any:
    """INCREMENT."""
    key = keys[0]

    def run(execute: Execute, page: Page) -> Any:
        change = Transaction(execute, page, store.now_ms())
        found = change.find_present(key)
        looked = found is not None and digest != b"" and _digest(found[0]) == digest
        if found is None or (looked and verdict == b"0"):
            change.put(key, change.envelope(head, b"", seal + amount), change.deadline_after(px))
            return b"0" + amount
        data, end = found
        block, kept = _block(data), Codec.kept(data)
        payload = data[21 + len(block):]
        number, kind = payload[len(seal) + (4 if kept else 0):], data[3:4]
        is_plain = data[4] == head[4] and (kind == b"N" or (kind == b"I" and not seal))
        if not (looked or (is_plain and payload[:len(seal)] == seal)) or not (len(number) <= 4300 and _digits(number)):
            return [data]
        total = int(number) + int(amount)
        if not -LARGEST_INT < total < LARGEST_INT:
            return ReplyError("TOOLONG the sum would have too many digits")
        change.put(key, change.envelope(head, block, seal + b"%d" % total), end - kept if end < NEVER else end)
        return b"0%d" % total

    return store.write((key,), run, deadline, cost=_cost_again(key, len(amount) + 128))


def _block(envelope: bytes) -> bytes:
    """The block of tags in an envelope, as bytes."""
    if not envelope[4] & TAGGED:
        return b""
    return envelope[21:22 + sum(len(tag) + 18 for tag, _ in tags_in(envelope))]


def _digest(envelope: bytes) -> bytes:
    return hashlib.sha1(envelope, usedforsecurity=False).hexdigest().encode()


# --- leases -----------------------------------------------------------------------------------------------------------

def lead(
    store: Store, keys: Keys, deadline: float, fresh: bytes, token: bytes, milliseconds: int, no_good: bytes, due: bytes
) -> list[Any]:
    """LEAD."""
    key, awaited = keys[0], keys[2] if len(keys) > 2 else b""
    now = store.now_ms()

    def judge(found: tuple[bytes, int] | None) -> list[Any] | None:
        if found is None or (no_good and _digest(found[0]) == no_good):
            return [5] if due else None
        left = -1 if found[1] >= NEVER else found[1] - now
        return None if due and 0 <= left < int(due) else [1, found[0], left]

    answer = judge(store.read(lambda execute, page: store.find(execute, page, key, now), deadline))
    if answer is not None:
        return answer

    def run(execute: Execute, page: Page) -> list[Any]:
        change = Transaction(execute, page, store.now_ms())
        answer = judge(change.find(key))
        if answer is not None:
            return answer
        if awaited:
            failure = execute("SELECT c, b FROM f WHERE token = ? AND x > ?", (awaited, now)).fetchone()
            if failure is not None:
                if type(failure[1]) is not bytes or failure[0] != crc32(failure[1]):
                    raise Damaged("an error is not what was written")
                return [4, failure[1]]
        lease, place = change.lease(key), store.place
        if lease is not None and lease[1] == change.generation and (
            lease[0] == token or lease[4] < 0 or place.lives(lease[4], lease[5], page)
        ):
            return [2, lease[3] - change.now, lease[0]]
        change.take_lease(key, token, milliseconds, place, change.epoch)
        return [3, 0]

    return store.write((), run, deadline)


def complete(
    store: Store, keys: Keys, deadline: float, token: bytes, fresh: bytes, head: bytes, body: bytes, px: bytes, n: int,
    *tags: str,
) -> list[Any]:
    """COMPLETE."""
    key = keys[0]

    def run(execute: Execute, page: Page) -> list[Any]:
        change = Transaction(execute, page, store.now_ms())
        lease = change.lease(key)
        if lease is None or lease[0] != token:
            return [0]
        if lease[1] != change.generation or (n > 0 and lease[2] != change.epoch):
            change.end_lease(page.hash_of(key))
            return [0]
        change.put(key, change.envelope(head, change.tagged(tags, fresh), body), change.deadline_after(px))
        return [1, b"0" * n]

    return store.write((key,), run, deadline, cost=_cost((key,), (body,), tags))


def fail(
    store: Store, keys: Keys, deadline: float, token: bytes, head: bytes, body: bytes, milliseconds: int
) -> int:
    """FAIL."""
    key, name = keys

    def run(execute: Execute, page: Page) -> int:
        change = Transaction(execute, page, store.now_ms())
        lease = change.lease(key)
        if lease is None or lease[0] != token:
            return 0
        change.end_lease(page.hash_of(key))
        if lease[1] != change.generation:
            return 0
        execute("DELETE FROM f WHERE x <= ?", (change.now,))
        data = head + token + body
        execute("REPLACE INTO f VALUES(?, ?, ?, ?)", (name, change.now + milliseconds, crc32(data), data))
        return 1

    return store.write((), run, deadline, cost=_cost((key,), (body,)))


def lease(store: Store, keys: Keys, deadline: float, token: bytes, milliseconds: bytes) -> int:
    """LEASE: renew leases, or give them up."""
    def run(execute: Execute, page: Page) -> int:
        change = Transaction(execute, page, store.now_ms())
        n = 0
        for key in keys:
            found = change.lease(key)
            if found is None or found[0] != token:
                continue
            n += 1
            if milliseconds:
                until = change.now + int(milliseconds)
                execute("UPDATE l SET x = ? WHERE h = ?", (until, page.hash_of(key)))
            else:
                change.end_lease(page.hash_of(key))
        execute("DELETE FROM l WHERE x <= ?", (change.now,))
        return n

    return store.write((), run, deadline)


def lead_many(
    store: Store, keys: Keys, deadline: float, fresh: bytes, token: bytes, milliseconds: int
) -> bytes:
    """LEAD_MANY."""
    def run(execute: Execute, page: Page) -> bytes:
        change = Transaction(execute, page, store.now_ms())
        epoch, place = change.epoch, store.place
        answers = [b"0"]
        for key in keys:
            held = change.lease(key)
            if change.find_present(key) is not None:
                answers.append(b"1")
            elif held is not None and held[1] == change.generation and held[0] != token and (
                held[4] < 0 or place.lives(held[4], held[5], page)
            ):
                answers.append(b"2")
            else:
                change.take_lease(key, token, milliseconds, place, epoch)
                answers.append(b"3")
        return b"".join(answers)

    return store.write((), run, deadline)


def complete_many(store: Store, keys: Keys, deadline: float, token: bytes, *rest: Any) -> bytes:
    """COMPLETE_MANY."""
    def run(execute: Execute, page: Page) -> bytes:
        change = Transaction(execute, page, store.now_ms())
        answers = []
        for key, head, body, px in zip(keys, rest[::3], rest[1::3], rest[2::3], strict=True):
            held = change.lease(key)
            is_mine = held is not None and held[0] == token
            stores = held is not None and is_mine and held[1] == change.generation
            if stores:
                change.put(key, change.envelope(head, b"", body), change.deadline_after(px))
            elif is_mine:
                change.end_lease(page.hash_of(key))
            answers.append(b"1" if stores else b"0")
        return b"".join(answers)

    return store.write(keys, run, deadline, cost=_cost(keys, rest[1::3]))


# --- everything -------------------------------------------------------------------------------------------------------

def clear(store: Store, keys: Keys, deadline: float, fresh: bytes) -> int:
    """CLEAR: start a new generation."""
    def run(execute: Execute, page: Page) -> int:
        page.generation = 0
        execute("REPLACE INTO m VALUES(?, ?)", (GENERATION, number(execute, GENERATION) + 1))
        return 1

    return store.write(None, run, deadline, tags=True, forgets=1)


def invalidate_tag(store: Store, keys: Keys, deadline: float, fresh: bytes) -> int:
    """INVALIDATE_TAG: give the tag a new version."""
    (tag,) = keys

    def run(execute: Execute, page: Page) -> int:
        execute("REPLACE INTO m VALUES(?, ?)", (TAG_EPOCH, new_number()))
        execute("UPDATE t SET v = ? WHERE h = ? AND k = ?", (fresh, tag_hash(page, tag), tag))
        return 1

    return store.write((b"\0tag:" + tag,), run, deadline, tags=True, forgets=1)


OPERATIONS: dict[bytes, Callable[..., Any]] = {
    scripts.READ.digest: read,
    scripts.TTL.digest: ttl,
    scripts.WRITE.digest: write,
    scripts.ADD.digest: add,
    scripts.SWAP.digest: swap,
    scripts.DELETE.digest: delete,
    scripts.TOUCH.digest: touch,
    scripts.INCREMENT.digest: increment,
    scripts.LEAD.digest: lead,
    scripts.COMPLETE.digest: complete,
    scripts.FAIL.digest: fail,
    scripts.LEASE.digest: lease,
    scripts.LEAD_MANY.digest: lead_many,
    scripts.COMPLETE_MANY.digest: complete_many,
    scripts.CLEAR.digest: clear,
    scripts.INVALIDATE_TAG.digest: invalidate_tag,
}
"""Operations by the digest of their script."""
