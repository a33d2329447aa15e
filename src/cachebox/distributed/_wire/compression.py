"""Compressed payloads: zlib, and zstd if the interpreter (3.14) or the package `backports.zstd` has it.

A compressed payload begins with its unpacked length, in 4 bytes, big-endian. A reader never unpacks more than that, nor
more than `MOST_UNPACKED`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

LEAST = 2048
"""Bytes from which on a payload is compressed."""
MOST_UNPACKED = 64 << 20
"""Bytes that a payload may unpack to; a larger one is stored as it is."""
_SAVES = 0.8                        # the largest share of the size at which compression is worth it

ZLIB, ZSTD = 4, 8
"""The flags of entries whose payload is compressed."""
FLAGS = {"zlib": ZLIB, "zstd": ZSTD}


class Method:
    """One way to compress."""

    def __init__(self, compress: Callable[[bytes], bytes], decompressor: Callable[[], Any], error: type) -> None:
        self._compress = compress
        self._decompressor = decompressor
        self.error = error

    def packed(self, payload: bytes) -> bytes | None:
        """A payload, compressed; None if that saves too little. O(size)."""
        if not LEAST <= len(payload) <= MOST_UNPACKED:
            return None
        packed = len(payload).to_bytes(4, "big") + self._compress(payload)
        return packed if len(packed) <= _SAVES * len(payload) else None

    def unpacked(self, packed: bytes) -> bytes:
        """The payload. Raises ValueError, or an error of the method, unless `packed` made it."""
        size = int.from_bytes(packed[:4], "big")
        if not LEAST <= size <= MOST_UNPACKED:
            raise ValueError("it would unpack to another size than such payloads have")
        decompressor = self._decompressor()
        payload: bytes = decompressor.decompress(packed[4:], size)
        if len(payload) == size and not decompressor.eof:       # the end of the stream may have bytes of its own
            payload += decompressor.decompress(getattr(decompressor, "unconsumed_tail", b""), 1)
        if len(payload) != size or not decompressor.eof or decompressor.unused_data:
            raise ValueError("it does not unpack to what it says")
        return payload


def method_of(name: str) -> Method:
    """A method by its name. Raises ImportError if this process does not have it; the text says how to get it."""
    if name == "zlib":
        import zlib

        return Method(lambda payload: zlib.compress(payload, 1), zlib.decompressobj, zlib.error)
    zstd = _zstd()
    if zstd is None:
        raise ImportError('compress="zstd" needs Python 3.14 or backports.zstd: pip install "cachebox-cython[zstd]"')
    return Method(lambda payload: zstd.compress(payload, 1), zstd.ZstdDecompressor, zstd.ZstdError)


def _zstd() -> Any:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd  # type: ignore[import-not-found,unused-ignore]
        else:
            from backports import zstd  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return None
    return zstd
