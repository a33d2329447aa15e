"""Rows: how an entry stands in the file, and how it is checked when it is read.

    h   hash of the key
    k   the key, in UTF-8
    g   the stamp: the generation in which it was written, and in the lower half the second since 1970, for people
    x   the deadline in milliseconds; 0: never
    c   the checksum of everything but the key, less 2**31, so that it always takes four bytes
    b   the body: the envelope without magic and version, which all entries share, and without the stamp
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any
from zlib import crc32

from cachebox.distributed._embedded.database import NEVER, Damaged
from cachebox.distributed._embedded.page import Page, sum_start
from cachebox.distributed._wire.codec import HEAD, MAGIC, TAGGED, VERSION

PUT = "REPLACE INTO e VALUES(?, ?, ?, ?, ?, ?)"
FIND_ANY = "SELECT k, g, x, c, b FROM e WHERE h = ?"
FIND_TAG = "SELECT k, v, g FROM t WHERE h = ?"
IS_PRESENT = "g >> 32 = (SELECT v FROM m WHERE id = 0)"
FIND = f"{FIND_ANY} AND {IS_PRESENT}"
START = MAGIC + bytes([VERSION])
"""How each envelope begins."""
KIND_AND_FLAGS = 2
"""The bytes of a body before the payload."""
STAMP_AT = len(START) + KIND_AND_FLAGS
HALF = 1 << 31

Row = tuple[bytes, int, int, int, bytes]


def row_of(h: int, key: bytes, generation: int, end: int, envelope: bytes) -> tuple[Any, ...]:
    """The parameters of `PUT` for an envelope, as it is written now. `envelope`: with anything in place of a stamp."""
    body = envelope[len(START) : STAMP_AT] + envelope[HEAD:]
    stamp = stamp_of(generation)
    total = _sum_of(h, stamp, end, body)
    # `sqlite3` binds a bytearray at once; of bytes it first asks whether they can be adapted, which takes longer
    return h, bytearray(key), stamp, end if end < NEVER else 0, total, bytearray(body)


def stamp_of(generation: int) -> int:
    """The stamp of what is written now."""
    return generation << 32 | int(time.time()) & 0xFFFFFFFF


def check(execute: Callable[..., Any], page: Page, h: int, row: Row, now: int) -> tuple[bytes, int] | None:
    """The envelope and deadline of a row of the present generation; None if it has expired, or a tag was invalidated.

    Raises `Damaged` if the row is not what was written.
    """
    _, stamp, end, found_sum, body = row
    end = end or NEVER
    try:
        is_whole = found_sum == _sum_of(h, stamp, end, body)
    except (TypeError, OverflowError):          # a column has another type than what was written
        is_whole = False
    if not is_whole:
        raise Damaged("an entry is not what was written")
    if end <= now:
        return None
    envelope = envelope_of(body, stamp)
    if has_tags(body):
        for tag, version in tags_in(envelope):
            place = tag_hash(page, tag)
            if execute(FIND_TAG, (place,)).fetchone() != (tag, version, stamp >> 32):
                return None
            page.mark(place)
    return envelope, end


def has_tags(body: bytes) -> bool:
    """Whether the entry with that body has tags. Its first two bytes suffice."""
    return len(body) >= KIND_AND_FLAGS and body[1] & TAGGED != 0


def tag_hash(page: Page, tag: bytes) -> int:
    """The hash of a tag, with which it is stored, counted and marked as used like a key."""
    return page.hash_of(b"\0tag:" + tag)


def key_of(page: Page, h: int, key: bytes) -> str:
    """The key of a row that is read without its body. Its hash is its checksum. Raises `Damaged`."""
    if type(key) is not bytes or page.hash_of(key) != h:
        raise Damaged("a key is not what was written")
    return key.decode("utf-8", "surrogatepass")


def envelope_of(body: bytes, stamp: int) -> bytes:
    """The envelope of a body, with its stamp in place of a generation."""
    return START + body[:KIND_AND_FLAGS] + stamp.to_bytes(16, "big") + body[KIND_AND_FLAGS:]


def _sum_of(h: int, stamp: int, end: int, body: bytes) -> int:
    return crc32(body, sum_start(h, stamp, end)) - HALF


def tags_in(envelope: bytes) -> Iterable[tuple[bytes, bytes]]:
    """The tags of an envelope, each with its version when the envelope was written."""
    at = HEAD + 1
    for _ in range(envelope[HEAD]):
        size = int.from_bytes(envelope[at:at + 2], "big")
        yield envelope[at + 2:at + 2 + size], envelope[at + 2 + size:at + 18 + size]
        at += 18 + size
