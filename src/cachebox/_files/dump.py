"""`Cache.dump` and `Cache.load`: the entries of a cache in a file.

    magic (16 bytes)   version   serializer   signed?   written at   number of entries   size of the body
    body: for each entry, next victim first:   size   expires at   rank   [key, value, tags], serialized
    checksum of all that, or its signature (32 bytes)

Times are seconds of the wall clock. The checksum is verified before anything is decoded. So with a secret, no byte is
unpickled that was not written by an owner of the secret.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from math import inf, isfinite, isnan
from secrets import token_hex
from struct import Struct

from cachebox._files.body import write
from cachebox._files.serializer import SIGNATURE, Encoding

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from typing import Any

    from cachebox.cache import Cache

MAGIC = b"\x93CacheBox\r\ndump\x1a"
VERSION = 1
_HEAD = Struct("<16sH8s?dQQ")
_ENTRY = Struct("<IdQ")
_MOST_USES = 1 << 63
"""The most uses of an entry: a larger rank is invalid."""


def dump(cache: Cache[Any, Any], path: str | os.PathLike[str], serializer: Any, secret: bytes | str | None) -> int:
    """Write the entries of a cache to a file, replacing an older one in one step. Returns how many were written."""
    path = os.fspath(path)
    encoding = Encoding(serializer, secret)
    now = time.time()
    keys, values, lefts, ranks, tags = cache._export()
    ends = None if lefts is None else [now + left for left in lefts]
    content = bytearray(_HEAD.size)
    write(content, keys, values, ends, ranks, tags, encoding.dumps, encoding.is_json)
    name, is_signed, size = encoding.name.encode(), encoding.secret is not None, len(content) - _HEAD.size
    _HEAD.pack_into(content, 0, MAGIC, VERSION, name, is_signed, now, len(keys), size)
    content += encoding.sign(content)
    replace(path, content)
    return len(keys)


def replace(path: str, content: bytes | bytearray) -> None:
    """Replace a file's content in one step: at any moment, it has the old content or the new."""
    path = os.path.abspath(path)
    beside, written = create_sibling(path, os.O_WRONLY)
    try:
        with open(written, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with suppress(FileNotFoundError):       # it was interrupted just after the renaming
            os.unlink(beside)
        raise
    sync_folder(os.path.dirname(path))


def create_sibling(path: str, how: int) -> tuple[str, int]:
    """Make a temporary file in the folder of `path`, for its owner alone. Returns its path and the open file.

    Its name cannot be guessed. No link is followed, and no existing file is used.
    """
    folder, name = os.path.split(path)
    beside = os.path.join(folder, f".{name[:50]}.{token_hex(8)}.tmp")
    flags = os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return beside, os.open(beside, how | flags, 0o600)


def sync_folder(folder: str) -> None:
    """Make a change of names in a folder survive a power loss, if the system can do that.

    Raises OSError if the disk refuses it; the change itself stands.
    """
    if os.name == "nt":
        return
    try:
        opened = os.open(folder, os.O_RDONLY)
    except PermissionError:                     # the folder can be written but not read
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):    # not every file system can do it
            text = f"{error.strerror}: the file is in place, but a loss of power may undo that"
            raise OSError(error.errno, text) from error
    finally:
        os.close(opened)


def load(cache: Cache[Any, Any], path: str | os.PathLike[str], serializer: Any, secret: bytes | str | None) -> int:
    """Add the entries of a file to a cache.

    Returns how many. Raises ValueError unless the file is as `dump` wrote it.
    """
    path = os.fspath(path)
    encoding = Encoding(serializer, secret)
    with open(path, "rb") as file:
        content = file.read()
    try:
        written, entries = _read(memoryview(content), encoding)
    except ValueError as error:
        raise ValueError(f"{path!r}: {error}; nothing was loaded") from error
    # No entry lives longer than its remaining life at the writing, even if the wall clock has been set back since.
    now = max(time.time(), written)
    return cache._import(
        [
            (key, value, inf if expires == inf else expires - now, rank, tags)
            for key, value, expires, rank, tags in entries
            if expires > now
        ]
    )


def _read(
    content: memoryview, encoding: Encoding
) -> tuple[float, list[tuple[Any, Any, float, int, tuple[Any, ...]]]]:
    """The time of writing, and each entry's key, value, time of expiry, rank and tags."""
    if len(content) < _HEAD.size or content[: len(MAGIC)] != MAGIC:
        raise ValueError("this is not a file that Cache.dump wrote, or only the beginning of one")
    _, version, name, is_signed, written, n, size = _HEAD.unpack_from(content)
    if version != VERSION:
        raise ValueError(f"it has the format {version}, but this release reads format {VERSION}")
    if len(content) != _HEAD.size + size + SIGNATURE:
        raise ValueError("the file is cut off, or something was added to it")
    if is_signed != (encoding.secret is not None):
        raise ValueError("it is signed: give its secret" if is_signed else "it is not signed, but a secret was given")
    if not encoding.verifies(content[:-SIGNATURE], bytes(content[-SIGNATURE:])):
        raise ValueError("the file is damaged, or it was signed with another secret" if is_signed else "it is damaged")
    if name.rstrip(b"\0") != encoding.name.encode():
        written_with = name.rstrip(b"\0").decode(errors="replace")
        raise ValueError(f"it was written with the serializer {written_with!r}, not {encoding.name!r}")
    if not isfinite(written):
        raise ValueError("it does not say when it was written")
    entries: list[tuple[Any, Any, float, int, tuple[Any, ...]]] = []
    body = content[_HEAD.size : -SIGNATURE]
    at = 0
    for _ in range(n):
        if len(body) - at < _ENTRY.size:
            raise ValueError(f"it holds {len(entries)} entries, but is to hold {n}")
        length, expires, rank = _ENTRY.unpack_from(body, at)
        at += _ENTRY.size
        if length > len(body) - at or isnan(expires) or rank > _MOST_USES:
            raise ValueError(f"the entry at byte {_HEAD.size + at - _ENTRY.size} is none")
        key, value, tags = encoding.loads(bytes(body[at : at + length]), 3)
        entries.append((key, value, expires, rank, encoding.checked_tags(tags)))
        at += length
    if at != len(body):
        raise ValueError(f"it holds more than its {n} entries")
    return written, entries
