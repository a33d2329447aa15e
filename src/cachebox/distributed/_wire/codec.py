"""Values as bytes, and back: what is stored on the server.

The wire format, version 2. A reader that meets another version takes the entry for absent::

    0   2   magic, CB 78
    2   1   version, 02
    3   1   kind of payload: J JSON, M msgpack, P pickle, X the user's own; I an int in decimal, N a counter in decimal
    4   1   flags: 1 signed, 2 tagged
    5   16  generation of the key's bucket when the entry was written
    21  ..  if tagged: how many tags (1 byte), then of each its length (2 bytes, big-endian), itself in UTF-8,
            and its generation (16 bytes)
    ..  32  if signed: HMAC-SHA256 over the kind, the namespace, the key, the tags and the payload; of a counter not
            over the payload, which the server changes
    ..      payload

Generations and tags are put in by the scripts on the server (`scripts`), which also check them. All else is made and
checked here. Invariant: no code of a serializer sees bytes whose kind is not its own, or whose signature is wrong.

JSON and msgpack take many a value for another: what they give back is compared, types included. Pickle and a
serializer of the user's own are trusted.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from cachebox.distributed._wire.equality import is_alike

MAGIC = b"\xcbx"
VERSION = 2
SIGNED, TAGGED = 1, 2
GENERATION_AT = 5
HEAD = 21                           # bytes up to the tags
SIGNATURE = 32
COUNTER, WHOLE = b"N", b"I"
LARGEST_INT = 10**4300              # Python refuses to write longer ones in decimal


class Undecodable(Exception):
    """Bytes that are not what this cache would have written: the entry is as good as absent."""


@runtime_checkable
class Serializer(Protocol):
    """Anything that makes bytes of values and values of bytes."""

    def dumps(self, value: Any, /) -> bytes:
        """The value as bytes."""

    def loads(self, data: bytes, /) -> Any:
        """The value that the bytes stand for."""


class Json:
    """The standard library's JSON."""

    kind = b"J"

    def dumps(self, value: Any) -> bytes:
        """Compact JSON in UTF-8. Raises as `json.dumps` does; NaN and infinities have no JSON."""
        return _encode(value).encode("utf-8", "surrogatepass")

    def loads(self, data: bytes) -> Any:
        """The value of a JSON document."""
        return _decode(data.decode("utf-8", "surrogatepass"))


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_decode = json.JSONDecoder().decode


class Msgpack:
    """msgpack (https://msgpack.org): compact, and it knows bytes."""

    kind = b"M"

    def __init__(self) -> None:
        try:
            import msgpack  # type: ignore[import-untyped,import-not-found,unused-ignore]
        except ImportError as error:
            raise ImportError('serializer="msgpack" needs msgpack: pip install "cachebox-cython[msgpack]"') from error
        self._packb, self._unpackb = msgpack.packb, msgpack.unpackb

    def dumps(self, value: Any) -> bytes:
        """msgpack bytes."""
        data: bytes = self._packb(value, use_bin_type=True)
        return data

    def loads(self, data: bytes) -> Any:
        """The value of msgpack bytes."""
        return self._unpackb(data, raw=False, strict_map_key=False)


class Pickle:
    """The standard library's pickle, which runs code: only ever of bytes with a valid signature."""

    kind = b"P"

    def __init__(self) -> None:
        import pickle

        self._dumps, self._loads = pickle.dumps, pickle.loads

    def dumps(self, value: Any) -> bytes:
        """A pickle that every Python from 3.8 on reads."""
        return self._dumps(value, protocol=5)

    def loads(self, data: bytes) -> Any:
        """What was pickled."""
        return self._loads(data)


NAMED: dict[str, Callable[[], Any]] = {"json": Json, "msgpack": Msgpack, "pickle": Pickle}


class Codec:
    """Values as envelopes, for one namespace.

    Args:
        serializer: a name, or an object with `dumps` and `loads`.
        secret: bytes or str to sign values with, or None.
        namespace: what signatures are bound to, beside the key.

    Thread-safe as far as the serializer is.

    >>> codec = Codec("json", None, "app")
    >>> head, body = codec.encode("k", [1, 2], ())
    >>> codec.decode("k", head + bytes(16) + body)
    [1, 2]
    """

    def __init__(self, serializer: Any, secret: bytes | str | None, namespace: str) -> None:
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
        self.serializer = serializer
        self.kind: bytes = getattr(serializer, "kind", b"X") if type(serializer) in _OWN else b"X"
        self._secret = secret.encode("utf-8", "surrogatepass") if isinstance(secret, str) else secret and bytes(secret)
        self._namespace = namespace.encode("utf-8", "surrogatepass")
        flags = SIGNED if secret is not None else 0
        self._whole_head = MAGIC + bytes([VERSION]) + WHOLE + bytes([flags])
        self.counter_head = MAGIC + bytes([VERSION]) + COUNTER + bytes([flags])
        self._head = MAGIC + bytes([VERSION]) + self.kind + bytes([flags])
        self._plain_start = self._head if secret is None else None

    # --- writing ------------------------------------------------------------------------------------------------------

    def encode(self, key: str, value: Any, tags: Sequence[str] = ()) -> tuple[bytes, bytes]:
        """What goes before the generation, and what goes behind the tags. TypeError: the value would not come back."""
        if type(value) is int and -LARGEST_INT < value < LARGEST_INT:
            head, payload = self._whole_head, b"%d" % value
        else:
            head, payload = self._head, self._payload(value)
        if self._secret is not None:
            return head, self._signature(head[3:4], key, list(map(_in_utf8, tags)), payload) + payload
        return head, payload

    def seal(self, key: str, tags: Sequence[str]) -> bytes:
        """What says that a key is a counter, and goes before its number; nothing where there is no secret."""
        return b"" if self._secret is None else self._signature(COUNTER, key, list(map(_in_utf8, tags)), b"")

    def _payload(self, value: Any) -> bytes:
        try:
            data = self._dumped(value)
            if self.kind in _TRUSTED or is_alike(value, self.serializer.loads(data)):
                return data
        except MemoryError:
            raise
        except Exception as error:
            raise TypeError(f"{self._refused(value)}: {error}") from error
        raise TypeError(f"{self._refused(value)}: it would not come back equal and of the same type")

    def _dumped(self, value: Any) -> bytes:
        data = self.serializer.dumps(value)
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"dumps of the serializer must return bytes, but it made {type(data).__name__} of a value of type "
                f"{type(value).__name__}"
            )
        return bytes(data)

    def _refused(self, value: Any) -> str:
        if self.kind in _TRUSTED:
            return f"a value of type {type(value).__name__} cannot be stored with this serializer"
        culprit = _culprit(value, self._comes_back)
        inside = "" if culprit is value else f" in a value of type {type(value).__name__}"
        return (
            f"a value of type {type(culprit).__name__}{inside} cannot be stored with this serializer"
            f"{_advice(value, self.kind)}"
        )

    def _comes_back(self, value: Any) -> bool:
        try:
            return is_alike(value, self.serializer.loads(self._dumped(value)))
        except Exception:
            return False            # which is the answer: it does not

    def _signature(self, kind: bytes, key: str, tags: Sequence[bytes], payload: bytes) -> bytes:
        assert self._secret is not None
        named = _in_utf8(key)
        about = b"cachebox 2 %b %d %d %d " % (kind, len(self._namespace), len(named), len(tags))
        parts = [about, self._namespace, named]
        for tag in tags:
            parts += (len(tag).to_bytes(2, "big"), tag)
        parts.append(payload)
        return hmac.new(self._secret, b"".join(parts), hashlib.sha256).digest()

    # --- reading ------------------------------------------------------------------------------------------------------

    def decode(self, key: str, data: bytes) -> Any:
        """The value of an envelope. Raises `Undecodable` for anything that this cache would not have written."""
        kind, payload, _ = self.open(key, data)
        return self.loads(kind, payload)

    def open(self, key: str, data: bytes) -> tuple[bytes, bytes, tuple[str, ...]]:
        """The kind of an envelope, its payload, and its tags, checked, but not decoded. Raises `Undecodable`."""
        if self._plain_start is not None and data.startswith(self._plain_start) and len(data) >= HEAD:
            return self.kind, data[HEAD:], ()
        if len(data) < HEAD or data[:2] != MAGIC or data[2] != VERSION:
            raise Undecodable("not an entry of this version")
        kind, flags = data[3:4], data[4]
        if kind not in (self.kind, WHOLE, COUNTER) or flags & ~(SIGNED | TAGGED):
            raise Undecodable("written with another serializer")
        tags, at = _tags_of(data) if flags & TAGGED else ((), HEAD)
        if bool(flags & SIGNED) != (self._secret is not None):
            raise Undecodable("signed, but there is no secret here" if flags & SIGNED else "not signed")
        if not flags & SIGNED:
            payload = data[at:]
        else:
            payload = data[at + SIGNATURE:]
            signature = self._signature(kind, key, tags, b"" if kind == COUNTER else payload)
            if not hmac.compare_digest(data[at:at + SIGNATURE], signature):
                raise Undecodable("the signature is wrong")
        try:
            return kind, payload, tuple([tag.decode("utf-8", "surrogatepass") for tag in tags])
        except UnicodeDecodeError as error:
            raise Undecodable("a tag is no text") from error

    def loads(self, kind: bytes, payload: bytes) -> Any:
        """The value of a payload. Raises `Undecodable`."""
        try:
            if kind in (WHOLE, COUNTER):
                return _decimal(payload)
            return self.serializer.loads(payload)
        except Exception as error:
            raise Undecodable(str(error)) from error


_OWN = (Json, Msgpack, Pickle)
_TRUSTED = (Pickle.kind, b"X")


def _decimal(payload: bytes) -> int:
    digits = payload[1:] if payload[:1] == b"-" else payload
    if not digits.isdigit() or len(digits) > 4300:
        raise ValueError("not an int in decimal")
    return int(payload)


def _tags_of(data: bytes) -> tuple[tuple[bytes, ...], int]:
    """The tags that an envelope names, and where they end. O(number of tags)."""
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


def _advice(value: Any, kind: bytes) -> str:
    """Which other serializer takes a value that this one does not."""
    for name, make in (("msgpack", Msgpack), ("pickle", Pickle)):
        try:
            other = make()
            data = other.dumps(value)
            if other.kind != kind and (other.kind in _TRUSTED or is_alike(value, other.loads(data))):
                return f' (serializer="{name}" can)'
        except Exception:           # not installed, or it does not take it either
            continue
    return ""


def _culprit(value: Any, comes_back: Callable[[Any], bool]) -> Any:
    """The innermost part of a value that does not come back by itself, to be named in an error."""
    seen: set[int] = set()
    while id(value) not in seen:
        seen.add(id(value))
        parts: list[Any] = []
        if type(value) is dict:
            if not all(comes_back({key: None}) for key in value):
                return next(key for key in value if not comes_back({key: None}))
            parts = list(value.values())
        elif type(value) is list or (type(value) is tuple and comes_back(())):
            parts = list(value)
        for part in parts:
            if not comes_back(part):
                value = part
                break
        else:
            return value
    return value
