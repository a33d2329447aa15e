"""Keys and values as bytes, for files: JSON by default, pickle only together with a secret.

Everything must come back equal, types included. So JSON accepts only what it can return: it refuses a tuple, which
would come back as a list, and an int as the key of a dict, which would come back as a str.
"""

from __future__ import annotations

import json
from hashlib import sha256
from hmac import compare_digest, digest
from json.encoder import encode_basestring_ascii

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SIGNATURE = sha256().digest_size
"""The size in bytes of a checksum or a signature."""

JSON_KEYS = frozenset((str, int, float, bool, type(None)))
_PLAIN = frozenset((str, int, bool, type(None)))


class Encoding:
    """How keys and values become bytes, and the secret that signs them.

    Args:
        serializer: ``"json"``, ``"pickle"``, or an object with `dumps`, which returns bytes or a str, and `loads`.
        secret: bytes or a str that is not empty, or None: nothing is signed.

    Raises ValueError or TypeError if these make no sense, such as pickle without a secret.
    """

    def __init__(self, serializer: Any = "json", secret: bytes | str | None = None) -> None:
        if not isinstance(secret, (bytes, str, type(None))):
            raise TypeError(f"secret must be bytes, a str or None, not {type(secret).__name__}")
        self.secret = secret.encode() if isinstance(secret, str) else secret
        if secret is not None and not secret:
            raise ValueError("secret must not be empty")
        self._dumps: Callable[[Any], bytes | str]
        self._loads: Callable[[bytes], Any]
        self.is_json = serializer == "json"
        if serializer == "json":
            self.name, self._dumps, self._loads = "json", _dump_json, _load_json
        elif serializer == "pickle":
            if self.secret is None:
                raise ValueError("serializer 'pickle' needs secret: loading a pickle runs whatever code is in it")
            import pickle

            self.name, self._dumps, self._loads = "pickle", pickle.dumps, pickle.loads
        elif isinstance(serializer, str):
            raise ValueError(f"serializer must be 'json', 'pickle' or have dumps and loads, not {serializer!r}")
        elif not callable(getattr(serializer, "dumps", None)) or not callable(getattr(serializer, "loads", None)):
            raise TypeError(f"serializer must have the methods dumps and loads, which {serializer!r} has not")
        else:
            self.name, self._dumps, self._loads = "own", serializer.dumps, serializer.loads

    def dumps(self, key: object, *rest: object) -> bytes:
        """A key and the values that belong to it as bytes. Raises TypeError if they would not come back equal."""
        if self.is_json:
            if type(key) is str and len(rest) == 2 and rest[1] == [] and type(rest[0]) in _PLAIN:   # the commonest
                return f"[{encode_basestring_ascii(key)},{_dump_json(rest[0])},[]]".encode()
            if type(key) not in JSON_KEYS:
                raise TypeError(
                    f"key must be a str, int, float, bool or None to be written as JSON, not {type(key).__name__}: "
                    f"{key!r}; use another serializer"
                )
            try:
                if type(key) is float:
                    _check(key, "key")
                for value in rest:
                    if type(value) not in _PLAIN:
                        _check(value, "value" if value is rest[0] else "tags")
                return f"[{','.join([_dump_json(part) for part in (key, *rest)])}]".encode()
            except (RecursionError, ValueError) as error:
                raise _too_much(error) from None
        return _as_bytes(self._dumps([key, *rest]))

    def loads(self, data: bytes, n: int) -> list[Any]:
        """Decode what `dumps` returned: a key and n - 1 values. Raises ValueError for anything else."""
        try:
            parts = self._loads(data)
            if not isinstance(parts, (list, tuple)):
                raise TypeError(f"a list was expected, not {type(parts).__name__}")
            if self.is_json and parts and type(parts[0]) not in JSON_KEYS:
                raise TypeError(f"a key cannot be of type {type(parts[0]).__name__}")
            hash(parts[0] if parts else None)
        except MemoryError:
            raise
        except Exception as error:
            raise ValueError(f"the serializer cannot read it: {type(error).__name__}: {error}") from error
        if len(parts) != n:
            raise ValueError(f"it holds {len(parts)} things instead of {n}")
        return list(parts)

    def checked_tags(self, tags: Any) -> tuple[Any, ...]:
        """Check tags that `loads` returned. Raises ValueError if they are no tags."""
        try:
            if not isinstance(tags, (list, tuple)):
                raise TypeError(f"tags must be a list, not {type(tags).__name__}")
            hash(tuple(tags))
        except MemoryError:
            raise
        except Exception as error:
            raise ValueError(f"its tags are none: {type(error).__name__}: {error}") from error
        return tuple(tags)

    def dump_value(self, value: object, place: bytes = b"") -> bytes:
        """A value alone as bytes.

        If there is a secret, they are signed together with `place`, where they will be stored.
        """
        try:
            if self.is_json and type(value) not in _PLAIN:
                _check(value, "value")
            written = self._dumps(value)
        except (RecursionError, ValueError) as error:
            if not self.is_json:
                raise
            raise _too_much(error) from None
        data = _as_bytes(written)
        return self.sign(_at(place, data)) + data if self.secret is not None else data

    def load_value(self, data: bytes, place: bytes = b"") -> Any:
        """Decode what `dump_value` returned.

        Raises ValueError if it cannot be read, or was signed for another place or with another secret.
        """
        if not isinstance(data, bytes):
            raise ValueError(f"bytes were expected, not {type(data).__name__}")
        if self.secret is not None:
            signature, data = data[:SIGNATURE], data[SIGNATURE:]
            if not self.verifies(_at(place, data), signature):
                raise ValueError("it was signed with another secret, or not at all")
        try:
            return self._loads(data)
        except MemoryError:
            raise
        except Exception as error:
            raise ValueError(f"the serializer cannot read it: {type(error).__name__}: {error}") from error

    def sign(self, data: bytes | bytearray | memoryview) -> bytes:
        """The signature of bytes; without a secret, a checksum of the same size."""
        return sha256(data).digest() if self.secret is None else digest(self.secret, data, "sha256")

    def verifies(self, data: bytes | memoryview, signature: bytes) -> bool:
        """Whether `signature` is that of these bytes."""
        return compare_digest(self.sign(data), signature)


def _as_bytes(written: object) -> bytes:
    """The result of a serializer's `dumps`, as bytes. Raises TypeError if it is neither bytes nor a str."""
    if isinstance(written, str):
        return written.encode()
    if not isinstance(written, (bytes, bytearray)):
        raise TypeError(f"serializer.dumps must return bytes or a str, not {type(written).__name__}")
    return bytes(written)


def _at(place: bytes, data: bytes) -> bytes:
    """The bytes that are signed for a value in its place. No two pairs give the same bytes."""
    return len(place).to_bytes(8, "little") + place + data


def _finite(digits: str) -> float:
    """Decode a number of JSON, which has no infinity, though `1e999` would be one."""
    number = float(digits)
    if number - number != 0:
        raise ValueError(f"{digits[:20]} is no number here")
    return number


_decode = json.JSONDecoder(parse_float=_finite, parse_constant=_finite).decode


def _load_json(data: bytes) -> Any:
    return _decode(data.decode())


_encode = json.JSONEncoder(ensure_ascii=True, check_circular=True, allow_nan=False, separators=(",", ":")).encode
_CONSTANTS = {None: "null", False: "false", True: "true"}


def _dump_json(thing: Any) -> str:
    """Encode as JSON. The commonest types take no encoder."""
    kind = type(thing)
    if kind is str:
        return encode_basestring_ascii(thing)
    if kind is int:
        return int.__repr__(thing)
    if thing is None or kind is bool:
        return _CONSTANTS[thing]
    return _encode(thing)


def _too_much(error: Exception) -> TypeError:
    """The exception for a value that contains itself, is nested too deeply, or is an int with too many digits."""
    return TypeError(f"that cannot be written as JSON: {error}; use another serializer")


def _check(value: object, what: str) -> None:
    """Raise TypeError unless JSON returns a value as it is."""
    kind = type(value)
    if kind in _PLAIN:
        return
    if kind is list:
        for item in value:          # type: ignore[attr-defined]  # mypy does not narrow by `type(...) is`
            if type(item) not in _PLAIN:
                _check(item, what)
    elif kind is dict:
        for key, item in value.items():     # type: ignore[attr-defined]  # not narrowed either
            if type(key) is not str:
                raise TypeError(
                    f"{what} must be what JSON can hold, but a dict in it has a key of type {type(key).__name__}; use "
                    "another serializer"
                )
            if type(item) not in _PLAIN:
                _check(item, what)
    elif kind is not float:
        raise TypeError(f"{what} must be what JSON can hold, not of type {kind.__name__}; use another serializer")
    elif value - value != 0:        # type: ignore[operator]  # not narrowed either
        raise TypeError(f"{what} must be what JSON can hold, but {value!r} is no number there; use another serializer")
