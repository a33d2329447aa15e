"""Entries of a server: each is what was written, or undecodable; with a secret nothing else passes for one."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from uuid import UUID

from cachebox.distributed._wire import error_codec
from cachebox.distributed._wire.codec import TAGGED, Codec, Undecodable

GENERATION = bytes(range(16))
CODECS = [
    Codec("json", None, "app", "zlib"),
    Codec("json", "secret", "app", "zlib"),
    Codec("pickle", "secret", "app"),
]
try:
    CODECS.append(Codec("msgpack", None, "app"))
except ImportError:
    pass
VALUES = [
    ([1, {"a": [None, True, 2.5, "ü"]}], ()),
    ("text", ("t",)),
    (12, ("a", "ü")),
    (-(10**30), ()),
    ({}, ("t" * 300,)),
    ((1, {2: b"x"}, frozenset([Decimal("1.5"), UUID(int=5)])), ()),
    ([datetime.fromisoformat("2024-05-06T07:08:09.000010+02:00"), timedelta(1), 1j, 10**30, float("inf")], ("t",)),
    (["compressed"] * 500, ("a",)),
    ({"status": HTTPStatus.OK}, ()),
]


def written(codec: Codec, value: object, tags: tuple[str, ...]) -> bytes:
    """An entry as it lies on a server."""
    head, body = codec.encode("k", value, tags)
    if not tags:
        return head + GENERATION + body
    parts = [len(tag.encode()).to_bytes(2, "big") + tag.encode() + GENERATION for tag in tags]
    return head[:4] + bytes([head[4] + TAGGED]) + GENERATION + bytes([len(tags)]) + b"".join(parts) + body


GOOD = {(i, written(codec, *value)): value for i, codec in enumerate(CODECS) for value in VALUES}
COUNTERS = [(i, codec.counter_head + GENERATION + codec.seal("k", ()) + b"17") for i, codec in enumerate(CODECS)]
TOKEN = b"t" * 16
FAILURES = []
for i, codec in enumerate(CODECS):
    head, body = error_codec.encode(codec, "k", TOKEN, ValueError("no", 5)) or (b"", b"")
    FAILURES.append((i, head + TOKEN + body))
SEEDS = [bytes([i]) + data for i, data in [*GOOD, *COUNTERS, *FAILURES]]


def one(data: bytes) -> None:
    if not data:
        return
    which, data = data[0] % len(CODECS), data[1:]
    codec = CODECS[which]
    error = error_codec.decode(codec, "k", TOKEN, data)
    assert error is None or isinstance(error, Exception)
    try:
        kind, payload, tags = codec.open("k", data)
        value = codec.loads(kind, payload)
    except Undecodable:
        return
    if which in (1, 2):  # signed: it was written, or is a counter, whose number is the server's
        assert kind == b"N" or any((value, tags) == good for (i, _), good in GOOD.items() if i == which), (
            kind,
            payload,
            tags,
        )
    assert all(type(tag) is str for tag in tags)
