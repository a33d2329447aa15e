"""Values as bytes, and back: the entries that the server stores.

The wire format, version 3. A reader treats an entry of another version as absent::

    0   2   magic, CB 78
    2   1   version, 03
    3   1   kind of payload: J JSON, M msgpack, j and m JSON and msgpack of a tree (`typed`), P pickle,
            X the user's own; I an int in decimal, N a counter in decimal, A no value: a batch function omitted the key
    4   1   flags: 1 signed, 2 tagged, 4 the payload is compressed by zlib, 8 by zstd, 16 kept
    5   16  generation of the key's bucket when the entry was written
    21  ..  if tagged: the number of tags (1 byte); then for each its length (2 bytes, big-endian), the tag in UTF-8,
            and its generation (16 bytes)
    ..  4   if kept: the milliseconds for which the entry is kept after its deadline, and may be served stale
    ..  32  if signed: HMAC-SHA256 over the kind, the flags except signed and tagged, the namespace, the key, the tags,
            the milliseconds and the payload; of a counter not the payload, because the server changes it
    ..      payload

The scripts on the server (`scripts`) insert and check generations and tags. Everything else is made and checked here.
Invariant: a serializer only gets bytes of its own kind, and only with a valid signature.

JSON and msgpack do not distinguish all values. So they get either a plain value (`plain`), or a tree that stands for it
(`typed`). Pickle and a serializer of the user's own are trusted.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from cachebox._platform.absent import ABSENT
from cachebox.distributed._wire import compression
from cachebox.distributed._wire.compression import ZLIB, ZSTD
from cachebox.distributed._wire.plain import is_plain
from cachebox.distributed._wire.typed import Reader, Schema, Unstorable, Writer

MAGIC = b"\xcbx"
VERSION = 3
SIGNED, TAGGED, KEPT = 1, 2, 16
LONGEST_KEPT = 2**32 - 1            # milliseconds
HEAD = 21                           # bytes before the tags
SIGNATURE = 32
COUNTER, WHOLE, NOTHING = b"N", b"I", b"A"
LARGEST_INT = 10**4300              # Python refuses to write longer ones in decimal


class Undecodable(Exception):
    """Bytes that this cache would not have written: the entry counts as absent."""


@runtime_checkable
class Serializer(Protocol):
    """Anything that turns values into bytes and bytes into values."""

    def dumps(self, value: Any, /) -> bytes:
        """The value as bytes."""

    def loads(self, data: bytes, /) -> Any:
        """The value that the bytes stand for."""


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False)


def _compiled_encoder() -> Callable[[Any, int], tuple[str, ...]] | None:
    """What `JSONEncoder.encode` makes for each value, and calls with it and 0: returns the parts of its text."""
    from json import encoder

    try:
        parts: Callable[[Any, int], tuple[str, ...]] = encoder.c_make_encoder(  # type: ignore[attr-defined]
            None, _encoder.default, encoder.encode_basestring, None, ":", ",", False, False, False
        )
        if "".join(parts({"a": [1, "\u00e9", 0.5, None]}, 0)) == '{"a":[1,"\u00e9",0.5,null]}':
            return parts
    except Exception:                           # this Python lacks the function, or has a different one
        pass
    return None


_parts = _compiled_encoder()
_decoder = json.JSONDecoder()
_scan = _decoder.scan_once  # type: ignore[attr-defined]


class Json:
    """JSON: by msgspec if it is installed; otherwise, and for what msgspec refuses, by the standard library."""

    kind, typed_kind = b"J", b"j"
    is_binary = False

    def __init__(self) -> None:
        try:
            from msgspec import json as fast  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            return
        self._fast_encode, self._fast_decode = fast.encode, fast.decode
        self.scan = self.parts = None

    _fast_encode: Callable[[Any], bytes] | None = None
    _fast_decode: Callable[[bytes], Any] | None = None
    scan: Callable[[str, int], tuple[Any, int]] | None = staticmethod(_scan)
    parts: Callable[[Any, int], tuple[str, ...]] | None = None if _parts is None else staticmethod(_parts)
    """What `loads` and `dumps` call, with a text or a value, and 0; None: something else."""

    def dumps(self, value: Any) -> bytes:
        """Compact JSON in UTF-8 of a plain value."""
        if self._fast_encode is not None:
            try:
                return self._fast_encode(value)
            except Exception:                   # a lone surrogate
                pass
        text = _encoder.encode(value) if _parts is None else "".join(_parts(value, 0))
        return text.encode("utf-8", "surrogatepass")

    def loads(self, data: bytes) -> Any:
        """The value of a JSON document."""
        if self._fast_decode is not None:
            try:
                return self._fast_decode(data)
            except Exception:                   # a lone surrogate, or no JSON of this class
                pass
        text = data.decode("utf-8", "surrogatepass")
        try:                                    # no white space stands around it, so the scanner alone is enough
            value, end = _scan(text, 0)
            if end == len(text):
                return value
        except StopIteration:
            pass
        return _decoder.decode(text)


class Msgpack:
    """msgpack (https://msgpack.org): compact, and able to store bytes."""

    kind, typed_kind = b"M", b"m"
    is_binary = True

    def __init__(self) -> None:
        try:
            import msgpack  # type: ignore[import-untyped,import-not-found,unused-ignore]
        except ImportError as error:
            raise ImportError('serializer="msgpack" needs msgpack: pip install "cachebox-cython[msgpack]"') from error
        self._packb, self._unpackb = msgpack.packb, msgpack.unpackb

    def dumps(self, value: Any) -> bytes:
        """msgpack bytes of a plain value."""
        data: bytes = self._packb(value, use_bin_type=True, unicode_errors="surrogatepass")
        return data

    def loads(self, data: bytes) -> Any:
        """The value of msgpack bytes."""
        return self._unpackb(data, raw=False, unicode_errors="surrogatepass", ext_hook=_no_extension)


def _no_extension(code: int, data: bytes) -> Any:
    raise ValueError("no value here has a type of msgpack's extensions")


class Pickle:
    """The standard library's pickle. It runs code, so it only ever reads bytes with a valid signature."""

    kind = typed_kind = b"P"
    is_binary = True

    def __init__(self) -> None:
        import pickle

        self._dumps, self._loads = pickle.dumps, pickle.loads

    def dumps(self, value: Any) -> bytes:
        """A pickle that every Python from 3.8 on can read."""
        return self._dumps(value, protocol=5)

    def loads(self, data: bytes) -> Any:
        """The pickled value."""
        return self._loads(data)


NAMED: dict[str, Callable[[], Any]] = {"json": Json, "msgpack": Msgpack, "pickle": Pickle}


class Codec:
    """Values as envelopes, for one namespace.

    Args:
        serializer: a name, or an object with `dumps` and `loads`.
        secret: bytes or str to sign values with, or None.
        namespace: what signatures are bound to, in addition to the key.
        compress: ``"zlib"``, ``"zstd"`` or None. Reading does not depend on it: every entry whose method is available
            is read.

    Thread-safe as far as the serializer is.

    >>> codec = Codec("json", None, "app")
    >>> head, body = codec.encode("k", [1, 2], ())
    >>> codec.decode("k", head + bytes(16) + body)
    [1, 2]
    """

    def __init__(
        self, serializer: Any, secret: bytes | str | None, namespace: str, compress: str | None = None
    ) -> None:
        if isinstance(serializer, str):
            if serializer not in NAMED:
                raise ValueError(
                    f"serializer must be one of {', '.join(NAMED)}, or an object with dumps and loads, "
                    f"not {serializer!r}"
                )
            if serializer == "pickle" and secret is None:
                raise ValueError('serializer="pickle" needs secret=: who can write to the server could run code here')
            serializer = NAMED[serializer]()
        elif not (callable(getattr(serializer, "dumps", None)) and callable(getattr(serializer, "loads", None))):
            raise TypeError(
                f"serializer must be one of {', '.join(NAMED)}, or an object with dumps and loads, "
                f"not {type(serializer).__name__}"
            )
        if secret is not None:
            if not isinstance(secret, (bytes, bytearray, str)):
                raise TypeError(f"secret must be bytes, a str or None, not {type(secret).__name__}")
            if not secret:
                raise ValueError("secret must not be empty")
        if compress is not None and not (isinstance(compress, str) and compress in compression.FLAGS):
            kind = ValueError if isinstance(compress, str) else TypeError
            raise kind(f"compress must be 'zlib', 'zstd' or None, not {compress!r}")
        self.serializer = serializer
        own = serializer if type(serializer) in _OWN else None
        self.kind: bytes = own.kind if own is not None else b"X"
        self._typed_kind: bytes = own.typed_kind if own is not None else b"X"
        self.is_trusted = self.kind in _TRUSTED
        self.is_binary = own is not None and own.is_binary
        self._kinds = frozenset((self.kind, self._typed_kind, WHOLE, COUNTER, NOTHING))
        self.method = None if compress is None else compression.method_of(compress)
        self._packs = 0 if compress is None else compression.FLAGS[compress]
        self._secret = secret.encode("utf-8", "surrogatepass") if isinstance(secret, str) else secret and bytes(secret)
        self._namespace = namespace.encode("utf-8", "surrogatepass")
        self._flags = SIGNED if secret is not None else 0
        self.counter_head = self._head_of(COUNTER, 0)
        self._head = self._head_of(self.kind, 0)
        self.plain_start = self._head if secret is None else None
        """The start of an envelope without signature, tags and optional fields; None if entries are signed."""

    def _head_of(self, kind: bytes, packed: int) -> bytes:
        return MAGIC + bytes([VERSION]) + kind + bytes([self._flags | packed])

    # --- writing ------------------------------------------------------------------------------------------------------

    def encode(
        self, key: str, value: Any, tags: Sequence[str] = (), schema: Schema | None = None, kept: int = 0
    ) -> tuple[bytes, bytes]:
        """The envelope's parts before the generation and after the tags. Raises TypeError if the value cannot be
        restored.

        `schema`: the classes that a reader with the same schema knows. `kept`: the milliseconds for which the entry is
        kept after its deadline.
        """
        kind, payload = self._written(value, schema)
        flags = 0
        if self.method is not None and kind != WHOLE:
            smaller = self.method.packed(payload)
            if smaller is not None:
                flags, payload = self._packs, smaller
        beyond = b""
        if kept:
            flags |= KEPT
            beyond = kept.to_bytes(4, "big")
        head = self._head_of(kind, flags) if flags or kind != self.kind else self._head
        if self._secret is not None:
            signature = self._signature(kind, flags, key, list(map(_in_utf8, tags)), beyond + payload)
            return head, beyond + signature + payload
        return head, beyond + payload

    def payload(self, head: bytes, body: bytes) -> tuple[bytes, bytes]:
        """The kind and the payload of what `encode` returned."""
        flags = head[4]
        at = (4 if flags & KEPT else 0) + (SIGNATURE if flags & SIGNED else 0)
        return head[3:4], self._unpacked(flags, body[at:])

    @staticmethod
    def kept(data: bytes) -> int:
        """The milliseconds for which an entry is kept after its deadline; 0 if the envelope is damaged."""
        if len(data) < HEAD or not data[4] & KEPT:
            return 0
        try:
            at = _tags_of(data)[1] if data[4] & TAGGED else HEAD
        except Undecodable:
            return 0
        return int.from_bytes(data[at:at + 4], "big")

    def seal(self, key: str, tags: Sequence[str]) -> bytes:
        """The bytes before a counter's number, which prove that the key is a counter; empty without a secret."""
        return b"" if self._secret is None else self._signature(COUNTER, 0, key, list(map(_in_utf8, tags)), b"")

    def _written(self, value: Any, schema: Schema | None) -> tuple[bytes, bytes]:
        """The kind and the payload of a value."""
        if value is ABSENT:
            return NOTHING, b""
        try:
            if type(value) is int and -LARGEST_INT < value < LARGEST_INT and (schema is None or self.is_trusted):
                return WHOLE, b"%d" % value
            if self.is_trusted or (schema is None and is_plain(value, self.is_binary)):
                return self.kind, self._dumped(value)
            return self._typed_kind, self._dumped(Writer(self.is_binary, schema).whole(value))
        except MemoryError:
            raise
        except Exception as error:
            raise TypeError(self._refused(value, error)) from error

    def _dumped(self, value: Any) -> bytes:
        data = self.serializer.dumps(value)
        if type(data) is bytes:
            return data
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"dumps of the serializer must return bytes, but it made {type(data).__name__} of a value of type "
                f"{type(value).__name__}"
            )
        return bytes(data)

    def _refused(self, value: Any, error: Exception) -> str:
        """The error text for a value that cannot be stored; it names the part to blame."""
        culprit = error.culprit if isinstance(error, Unstorable) else value
        inside = "" if culprit is value else f" in a value of type {type(value).__name__}"
        advice = "" if self.is_trusted else _advice(value)
        why = f": {error}" if str(error) else ""
        return f"a value of type {type(culprit).__name__}{inside} cannot be stored with this serializer{advice}{why}"

    def _signature(self, kind: bytes, flags: int, key: str, tags: Sequence[bytes], payload: bytes) -> bytes:
        assert self._secret is not None
        named = _in_utf8(key)
        about = b"cachebox 3 %b %d %d %d %d " % (kind, flags, len(self._namespace), len(named), len(tags))
        parts = [about, self._namespace, named]
        for tag in tags:
            parts += (len(tag).to_bytes(2, "big"), tag)
        parts.append(payload)
        return hmac.new(self._secret, b"".join(parts), hashlib.sha256).digest()

    # --- reading ------------------------------------------------------------------------------------------------------

    def decode(self, key: str, data: bytes, schema: Schema | None = None) -> Any:
        """The value of an envelope. Raises `Undecodable` for anything that this cache would not have written."""
        kind, payload, _ = self.open(key, data)
        return self.loads(kind, payload, schema)

    def open(self, key: str, data: bytes) -> tuple[bytes, bytes, tuple[str, ...]]:
        """The kind, payload and tags of an envelope: checked, but not decoded. Raises `Undecodable`."""
        if self.plain_start is not None and data.startswith(self.plain_start) and len(data) >= HEAD:
            return self.kind, data[HEAD:], ()
        if len(data) < HEAD or data[:2] != MAGIC or data[2] != VERSION:
            raise Undecodable("not an entry of this version")
        kind, flags = data[3:4], data[4]
        optional = flags & (ZLIB | ZSTD | KEPT)
        if kind not in self._kinds or flags & ~(SIGNED | TAGGED | optional):
            raise Undecodable("written with another serializer")
        tags, at = _tags_of(data) if flags & TAGGED else ((), HEAD)
        if bool(flags & SIGNED) != (self._secret is not None):
            raise Undecodable("signed, but there is no secret here" if flags & SIGNED else "not signed")
        beyond = b""
        if flags & KEPT:
            beyond = data[at:at + 4]
            at += 4
        if not flags & SIGNED:
            payload = data[at:]
        else:
            payload = data[at + SIGNATURE:]
            signature = self._signature(kind, optional, key, tags, b"" if kind == COUNTER else beyond + payload)
            if not hmac.compare_digest(data[at:at + SIGNATURE], signature):
                raise Undecodable("the signature is wrong")
        payload = self._unpacked(flags, payload)
        try:
            return kind, payload, tuple([tag.decode("utf-8", "surrogatepass") for tag in tags])
        except UnicodeDecodeError as error:
            raise Undecodable("a tag is no text") from error

    def _unpacked(self, flags: int, payload: bytes) -> bytes:
        """A payload as the serializer made it. Raises `Undecodable`."""
        if not flags & (ZLIB | ZSTD):
            return payload
        try:
            if flags & ZLIB and flags & ZSTD:
                raise ValueError("compressed in two ways")
            return compression.method_of("zlib" if flags & ZLIB else "zstd").unpacked(payload)
        except Exception as error:              # ImportError: this process does not have the method
            raise Undecodable(str(error)) from error

    def loads(self, kind: bytes, payload: bytes, schema: Schema | None = None) -> Any:
        """The value of a payload. Raises `Undecodable`, also if it was written with another schema or none."""
        try:
            if self.is_trusted or schema is None:
                if kind == self.kind:
                    return self.serializer.loads(payload)
                if kind in (WHOLE, COUNTER):
                    return _decimal(payload)
            if kind == NOTHING:
                return _nothing(payload)
            if schema is not None and not self.is_trusted and kind != self._typed_kind:
                raise ValueError("written for no annotation")
            return Reader(schema).whole(self.serializer.loads(payload))
        except Exception as error:
            raise Undecodable(str(error)) from error


_OWN = (Json, Msgpack, Pickle)
_TRUSTED = (Pickle.kind, b"X")


def _decimal(payload: bytes) -> int:
    digits = payload[1:] if payload[:1] == b"-" else payload
    if not digits.isdigit() or len(digits) > 4300:
        raise ValueError("not an int in decimal")
    return int(payload)


def _nothing(payload: bytes) -> Any:
    if payload:
        raise ValueError("it says that there is no value, and has one")
    return ABSENT


def _tags_of(data: bytes) -> tuple[tuple[bytes, ...], int]:
    """The tags that an envelope names, and the offset of their end. O(number of tags)."""
    tags = []
    at = HEAD + 1
    for _ in range(data[HEAD] if len(data) > HEAD else 1):
        size = int.from_bytes(data[at:at + 2], "big")
        tags.append(data[at + 2:at + 2 + size])
        at += 2 + size + 16
        if at > len(data):
            raise Undecodable("cut off")
    return tuple(tags), at


def _in_utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _advice(value: Any) -> str:
    """A hint at the serializer that takes a value which this one does not; "" if there is none."""
    try:
        Pickle().dumps(value)
    except Exception:                           # pickle does not take it either
        return ""
    return ' (serializer="pickle" can)'
