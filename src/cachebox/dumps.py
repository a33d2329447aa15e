"""`Cache.dump` and `Cache.load`: the entries of a cache in a file.

    magic (16 bytes)   version   serializer   signed?   written at   number of entries   size of the body
    body: for each entry, next victim first:   size   expires at   rank   [key, value, tags] as the serializer has them
    checksum of all that, or its signature (32 bytes)

Times are seconds of the wall clock. The checksum is verified before anything is decoded, so with a secret no byte is
unpickled that was not written by who has it.
"""

from __future__ import annotations

import os
import time
from math import inf
from secrets import token_hex
from struct import Struct

from cachebox.encoding import SIGNATURE, Encoding

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from typing import Any

    from cachebox.cache import Cache

MAGIC = b"\x93CacheBox\r\ndump\x1a"
VERSION = 1
_HEAD = Struct("<16sH8s?dQQ")
_ENTRY = Struct("<IdQ")


def dump(cache: Cache[Any, Any], path: str | os.PathLike[str], serializer: Any, secret: bytes | str | None) -> int:
    """Write the entries of a cache to a file, which replaces an older one in one step. Returns how many."""
    path = os.fspath(path)
    encoding = Encoding(serializer, secret)
    now = time.time()
    body = bytearray()
    n = 0
    for key, value, left, rank, tags in cache._export():
        data = encoding.dumps(key, value, list(tags))
        body += _ENTRY.pack(len(data), now + left, rank)
        body += data
        n += 1
    head = _HEAD.pack(MAGIC, VERSION, encoding.name.encode(), encoding.secret is not None, now, n, len(body))
    content = head + body
    replace(path, content + encoding.sign(content))
    return n


def replace(path: str, content: bytes) -> None:
    """Give a file that content in one step: whatever happens meanwhile, it has the old one or the new one."""
    folder, name = os.path.split(os.path.abspath(path))
    beside = os.path.join(folder, f".{name}.{token_hex(6)}.tmp")
    written = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        with open(written, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
    sync_folder(folder)


def sync_folder(folder: str) -> None:
    """Have a change of names in a folder survive a power loss, where the system can do that."""
    if os.name == "nt":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def load(cache: Cache[Any, Any], path: str | os.PathLike[str], serializer: Any, secret: bytes | str | None) -> int:
    """Add the entries of a file to a cache. Returns how many. ValueError where it is not just as `dump` wrote it."""
    path = os.fspath(path)
    encoding = Encoding(serializer, secret)
    with open(path, "rb") as file:
        content = file.read()
    try:
        entries = _read(memoryview(content), encoding)
    except ValueError as error:
        raise ValueError(f"{path!r}: {error}; nothing was loaded") from error
    return cache._import(entries)


def _read(content: memoryview, encoding: Encoding) -> list[tuple[Any, Any, float, int, tuple[Any, ...]]]:
    """The entries that have not expired, as `Cache._import` takes them."""
    if len(content) < _HEAD.size or content[: len(MAGIC)] != MAGIC:
        raise ValueError("this is not a file that Cache.dump wrote, or only the beginning of one")
    _, version, name, is_signed, _, n, size = _HEAD.unpack_from(content)
    if version != VERSION:
        raise ValueError(f"it has the format {version}, but this release reads format {VERSION}")
    if len(content) != _HEAD.size + size + SIGNATURE:
        raise ValueError("the file is cut off, or something was added to it")
    if is_signed != (encoding.secret is not None):
        raise ValueError("it is signed: give its secret" if is_signed else "it is not signed, but a secret was given")
    if not encoding.verifies(content[:-SIGNATURE], bytes(content[-SIGNATURE:])):
        raise ValueError("the file is damaged, or it was signed with another secret" if is_signed else "it is damaged")
    if name.rstrip(b"\0").decode() != encoding.name:
        raise ValueError(f"it was written with the serializer {name.rstrip(bytes(1)).decode()}, not {encoding.name}")
    entries = []
    now = time.time()
    at = _HEAD.size
    for _ in range(n):
        length, expires, rank = _ENTRY.unpack_from(content, at)
        at += _ENTRY.size
        if expires > now:
            key, value, tags = encoding.loads(bytes(content[at : at + length]), 3)
            left = inf if expires == inf else expires - now
            entries.append((key, value, left, rank, tuple(tags)))
        at += length
    return entries
