"""The names of entries, leases and tags on the server.

Every name of a namespace begins with the namespace and a colon. Colons, braces and per cents of the namespace itself
are written as ``%xx``, so that the names of one namespace never begin like another's. Then comes the *bucket* in
braces, which decides on the cluster's slot, and a letter::

    app:{0}v:KEY    an entry                    app:{0}g        the generation of the bucket
    app:{0}l:KEY    its lease                   app:{0}t:TAG    the generation of a tag, in this bucket
    app:{0}i:TOKEN  a write that was done       app:{0}e        the epoch: changes with every invalidated tag
    app:{0}f:TOKEN  the error of a failed load

A server without a cluster has one bucket. A cluster has 128, spread evenly over its slots. So everything that a script
needs lies in one slot, and `clear` changes a fixed number of generations, no matter how many keys there are.
"""

from __future__ import annotations

import itertools
import os
import re

SLOTS = 16384
CLUSTER_BUCKETS = 128


def _table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1
        table.append(crc & 0xFFFF)
    return table


_CRC = _table()


def crc16(data: bytes) -> int:
    """CRC-16/XMODEM, by which a cluster computes slots. O(n).

    >>> hex(crc16(b"123456789"))
    '0x31c3'
    """
    crc = 0
    for byte in data:
        crc = ((crc << 8) & 0xFFFF) ^ _CRC[(crc >> 8) ^ byte]
    return crc


def cluster_buckets(n: int = CLUSTER_BUCKETS) -> list[bytes]:
    """For each n-th part of the slots, the smallest number whose slot lies in it. O(n log n) expected."""
    found: dict[int, bytes] = {}
    for number in itertools.count():
        name = b"%d" % number
        found.setdefault(crc16(name) % SLOTS * n // SLOTS, name)
        if len(found) == n:
            return [found[part] for part in range(n)]
    raise AssertionError("unreachable")


class KeySpace:
    """The names of one namespace.

    Args:
        namespace: any str.
        clustered: whether there are many buckets.

    >>> names = KeySpace("app:sub", clustered=False)
    >>> names.prefix, names.value("k"), names.generation(0)
    (b'app%3asub:', b'app%3asub:{0}v:k', b'app%3asub:{0}g')
    >>> names.parse(b"app%3asub:{0}v:k")
    (0, 118, 'k')
    """

    def __init__(self, namespace: str, clustered: bool) -> None:
        escaped = re.sub(r"[%:{}]", lambda match: f"%{ord(match[0]):02x}", namespace)
        self.prefix = escaped.encode("utf-8", "surrogatepass") + b":"
        self.clustered = clustered
        self.buckets = cluster_buckets() if clustered else [b"0"]
        self.slots = [crc16(name) % SLOTS for name in self.buckets]
        self._starts = [self.prefix + b"{" + name + b"}" for name in self.buckets]
        self._by_name = {name: bucket for bucket, name in enumerate(self.buckets)}
        self._values = [start + b"v:" for start in self._starts]
        self._generations = [start + b"g" for start in self._starts]

    def bucket(self, key: str) -> int:
        """The bucket of a key. O(length of the key)."""
        return crc16(key.encode("utf-8", "surrogatepass")) % len(self.buckets) if self.clustered else 0

    def generation(self, bucket: int) -> bytes:
        """The name of a bucket's generation."""
        return self._generations[bucket]

    def value(self, key: str) -> bytes:
        """The name of an entry."""
        return self._values[self.bucket(key)] + key.encode("utf-8", "surrogatepass")

    def value_in(self, bucket: int, key: str) -> bytes:
        """The name of an entry whose bucket is known."""
        return self._values[bucket] + key.encode("utf-8", "surrogatepass")

    def lease(self, bucket: int, key: str) -> bytes:
        """The name of a key's lease."""
        return self._starts[bucket] + b"l:" + key.encode("utf-8", "surrogatepass")

    def failed(self, bucket: int, token: bytes) -> bytes:
        """The name of a leader's error."""
        return self._starts[bucket] + b"f:" + token

    def done(self, bucket: int, token: bytes) -> bytes:
        """The name of the record that a write was done."""
        return self._starts[bucket] + b"i:" + token

    def tag(self, bucket: int, tag: str) -> bytes:
        """The name of a tag's generation in a bucket."""
        return self._starts[bucket] + b"t:" + tag.encode("utf-8", "surrogatepass")


    def parse(self, name: bytes) -> tuple[int, int, str] | None:
        """Bucket, letter (as a number) and rest of a name; None if it belongs to another namespace."""
        if not name.startswith(self.prefix):
            return None
        at = len(self.prefix)
        end = name.find(b"}", at)
        bucket = self._by_name.get(name[at + 1:end])
        if bucket is None or name[end + 1:end + 2] not in (b"v", b"l", b"g", b"t", b"i", b"e", b"f"):
            return None
        if name[end + 2:end + 3] != (b"" if name[end + 1] in b"ge" else b":"):
            return None
        try:
            return bucket, name[end + 1], name[end + 3:].decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return None

    def pattern(self, letter: str = "", prefix: str = "") -> bytes:
        """The pattern for SCAN: all names, or those of a letter whose rest begins with a prefix."""
        tail = b"{*}" + letter.encode() + b":" + glob_escaped(prefix) if letter else b""
        return glob_escaped(self.prefix) + tail + b"*"


def glob_escaped(text: bytes | str) -> bytes:
    """Text that a glob pattern takes literally.

    >>> glob_escaped("a*[b]")
    b'a\\\\*\\\\[b\\\\]'
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return re.sub(rb"([*?\[\]\\^-])", rb"\\\1", data)


class Tokens:
    """Makes sixteen bytes that no other process makes: random ones, and a count. Thread-safe; new after a fork."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Start again with new random bytes."""
        self._start = os.urandom(9)
        self._count = itertools.count(int.from_bytes(os.urandom(4), "big"))

    def __call__(self) -> bytes:
        return self._start + next(self._count).to_bytes(7, "big")


new_token = Tokens()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=new_token.renew)
