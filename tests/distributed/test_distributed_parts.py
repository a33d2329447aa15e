"""The distributed tier's parts that need no server: protocol, wire format, names, breaker, options."""

from __future__ import annotations

import datetime
import enum
import hmac
import json
import math
import pickle

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

from cachebox import BackendUnavailable
from cachebox.distributed._net.breaker import Breaker
from cachebox.distributed._ops.call_text import written
from cachebox.distributed._wire.codec import HEAD, Codec, Undecodable
from cachebox.distributed._wire.keyspace import KeySpace, Tokens, crc16, glob_escaped
from cachebox.distributed._wire.resp import INCOMPLETE, Push, Replies, ReplyError, packed
from cachebox.distributed.options import checked_tags, milliseconds, seconds_of

# --- the protocol -----------------------------------------------------------------------------------------------------

STREAM = (
    b"+OK\r\n-ERR no\r\n:42\r\n$5\r\na\r\nb\0\r\n$-1\r\n_\r\n#t\r\n,1.5\r\n(12345678901234567890123\r\n"
    b"*2\r\n$1\r\nx\r\n*1\r\n:1\r\n>2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n%1\r\n+a\r\n:1\r\n"
    b"=7\r\ntxt:abc\r\n!5\r\nE bad\r\n"
)
REPLIES = [
    "OK",
    "ERR no",
    42,
    b"a\r\nb\0",
    None,
    None,
    True,
    1.5,
    12345678901234567890123,
    [b"x", [1]],
    [b"invalidate", [b"k"]],
    {"a": 1},
    b"abc",
    "E bad",
]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_replies_are_read_however_they_are_cut(step):
    replies, found = Replies(), []
    for at in range(0, len(STREAM), step):
        replies.feed(STREAM[at : at + step])
        while (reply := replies.next()) is not INCOMPLETE:
            found.append(str(reply) if isinstance(reply, ReplyError) else reply)
    assert found == REPLIES
    assert replies.is_empty


def test_pushes_and_errors_can_be_told_from_replies():
    replies = Replies()
    replies.feed(b">1\r\n+x\r\n-MOVED 1 a:1\r\n")
    assert type(replies.next()) is Push
    assert replies.next().code == "MOVED"


@pytest.mark.parametrize(
    "garbage",
    [b"HTTP/1.1 200\r\n", b"$x\r\n", b"*\r\n", b"+a\n", b"$99999999999999999999\r\n", b"*1\r\n" * 40 + b":1\r\n"],
)
def test_what_is_not_the_protocol_is_an_error(garbage):
    replies = Replies()
    replies.feed(garbage)
    with pytest.raises(ValueError, match="repl"):
        replies.next()


def test_a_large_reply_says_how_much_is_missing():
    replies = Replies()
    replies.feed(b"$1000\r\nabc")
    assert replies.next() is INCOMPLETE
    assert replies.missing == 999


def test_commands_are_packed():
    assert packed("SET", b"k", "ü", 12) == b"*4\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\xc3\xbc\r\n$2\r\n12\r\n"


# --- the wire format --------------------------------------------------------------------------------------------------

GENERATION = bytes(range(16))


def envelope(codec, key, value):
    head, body = codec.encode(key, value, ())
    return head + GENERATION + body


# Written by version 3. They must stay readable in all later versions.
GOLDEN = {
    ("json", None): "cb78034a00000102030405060708090a0b0c0d0e0f7b2261223a5b312c322e352c6e756c6c2c22c3bc225d7d",
    ("msgpack", None): "cb78034d00000102030405060708090a0b0c0d0e0f81a1619401cb4004000000000000c0a2c3bc",
    ("json", "secret"): (
        "cb78034a01000102030405060708090a0b0c0d0e0fe38b166c2482c2a2cefddd495ecb9d8aa41e57d3ef28cf37"
        "b5862c290f879dbc7b2261223a5b312c322e352c6e756c6c2c22c3bc225d7d"
    ),
}
VALUE = {"a": [1, 2.5, None, "ü"]}


def test_golden_json():
    codec = Codec("json", None, "app")
    assert envelope(codec, "k", VALUE).hex() == GOLDEN["json", None]
    assert codec.decode("k", bytes.fromhex(GOLDEN["json", None])) == VALUE


def test_golden_msgpack():
    pytest.importorskip("msgpack")
    codec = Codec("msgpack", None, "app")
    assert envelope(codec, "k", VALUE).hex() == GOLDEN["msgpack", None]
    assert codec.decode("k", bytes.fromhex(GOLDEN["msgpack", None])) == VALUE


def test_golden_signed():
    codec = Codec("json", "secret", "app")
    assert envelope(codec, "k", VALUE).hex() == GOLDEN["json", "secret"]
    assert codec.decode("k", bytes.fromhex(GOLDEN["json", "secret"])) == VALUE


def test_golden_ints_counters_and_pickles():
    signed, plain = Codec("json", "secret", "app"), Codec("json", None, "app")
    start = "000102030405060708090a0b0c0d0e0f"
    of_int = hmac.digest(b"secret", b"cachebox 3 I 0 3 1 0 appk-12", "sha256").hex()
    assert signed.decode("k", bytes.fromhex(f"cb78034901{start}{of_int}2d3132")) == -12
    of_counter = hmac.digest(b"secret", b"cachebox 3 N 0 3 1 0 appk", "sha256").hex()
    for codec in (signed, Codec("pickle", "secret", "app")):
        assert codec.decode("k", bytes.fromhex(f"cb78034e01{start}{of_counter}3132")) == 12
    assert plain.decode("k", bytes.fromhex(f"cb78034e00{start}3132")) == 12
    pickled = (
        "cb78035001000102030405060708090a0b0c0d0e0fb340ebdd1539987fb9f88fb11b742f7334cd1c2a66632f01"
        "6f860aba91b8edde8005950b000000000000004b018f94284b029086942e"
    )
    assert Codec("pickle", "secret", "app").decode("k", bytes.fromhex(pickled)) == (1, {2})


def test_golden_tags():
    codec = Codec("json", "secret", "app")
    head, body = codec.encode("k", [1], ["a", "ü"])
    about = b"cachebox 3 J 0 3 1 2 appk" + b"\0\1a" + b"\0\2\xc3\xbc"
    assert body == hmac.digest(b"secret", about + b"[1]", "sha256") + b"[1]"
    data = head[:4] + b"\3" + GENERATION + b"\2\0\1a" + GENERATION + b"\0\2\xc3\xbc" + GENERATION + body
    assert codec.open("k", data) == (b"J", b"[1]", ("a", "ü"))


@pytest.mark.parametrize(
    "value", [0, -1, 10**30, True, 1.5, "a", "\ud800", None, [], {}, [1, [2, {"x": None}]], "ü" * 1000]
)
@pytest.mark.parametrize("serializer", ["json", "msgpack", "pickle"])
@pytest.mark.parametrize("secret", [None, "secret"])
def test_values_come_back_equal_and_of_the_same_type(value, serializer, secret):
    if serializer == "pickle" and secret is None:
        pytest.skip("pickle needs a secret")
    if serializer == "msgpack":
        pytest.importorskip("msgpack")
    codec = Codec(serializer, secret, "app")
    back = codec.decode("k", envelope(codec, "k", value))
    assert back == value
    assert type(back) is type(value)


class Own:
    def dumps(self, value):
        return repr(value).encode()

    def loads(self, data):
        return eval(data)


class Plain:
    """Equal to nothing but itself."""


class Colour(enum.Enum):
    RED = 1


class Subclass(dict):
    pass


REFUSED = [Plain(), [Plain()], {"a": {"b": (Plain(),)}}, {(1, Plain()): 2}, object, len, Subclass(), {Subclass}, Own]
NAMES = ["Plain", "Plain", "Plain", "Plain", "type", "builtin", "Subclass", "type", "type"]


@pytest.mark.parametrize(("value", "name"), list(zip(REFUSED, NAMES, strict=True)), ids=range(len(NAMES)))
@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_what_would_not_come_back_equal_is_refused_and_its_type_named(serializer, value, name):
    if serializer == "msgpack":
        pytest.importorskip("msgpack")
    with pytest.raises(TypeError, match=rf"\b{name}"):
        Codec(serializer, None, "app").encode("k", value, ())


def test_a_circle_is_refused():
    circle = []
    circle.append(circle)
    with pytest.raises(TypeError, match="list"):
        Codec("json", None, "app").encode("k", circle, ())


def test_pickle_takes_whatever_it_can_write():
    codec = Codec("pickle", "secret", "app")
    for value in [(1, {2}), {1: b"x"}, Colour.RED, datetime.date(2026, 1, 1)]:
        assert codec.decode("k", envelope(codec, "k", value)) == value
    assert type(codec.decode("k", envelope(codec, "k", Plain()))) is Plain
    assert math.isnan(codec.decode("k", envelope(codec, "k", math.nan)))
    with pytest.raises(TypeError, match="function"):
        codec.encode("k", lambda: None, ())


def test_an_own_serializer():
    codec = Codec(Own(), None, "app")
    assert codec.decode("k", envelope(codec, "k", (1, {2}))) == (1, {2})
    with pytest.raises(TypeError, match="must return bytes, but it made str of a value of type list"):
        Codec(json, None, "app").encode("k", [1], ())


@pytest.mark.parametrize(
    ("serializer", "secret", "error", "named"),
    [
        ("yaml", None, ValueError, "serializer"),
        (1, None, TypeError, "serializer"),
        ("pickle", None, ValueError, "secret"),
        ("json", 1, TypeError, "secret"),
        ("json", "", ValueError, "secret"),
        ("json", b"", ValueError, "secret"),
    ],
)
def test_bad_codecs(serializer, secret, error, named):
    with pytest.raises(error, match=named):
        Codec(serializer, secret, "app")


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_every_changed_bit_is_noticed_where_there_is_a_secret(serializer):
    codec = Codec(serializer, "secret", "app")
    good = envelope(codec, "k", ["value"])
    for at in [*range(HEAD - 16), *range(HEAD, len(good))]:  # generations are the server's to check
        for bit in range(8):
            bad = bytearray(good)
            bad[at] ^= 1 << bit
            with pytest.raises(Undecodable):
                codec.decode("k", bytes(bad))
    for n in range(len(good)):
        with pytest.raises(Undecodable):
            codec.decode("k", good[:n])


def test_signatures_are_bound_to_key_namespace_and_secret():
    good = envelope(Codec("json", "secret", "app"), "k", [1])
    assert Codec("json", b"secret", "app").decode("k", good) == [1]
    for secret, namespace, key in [
        ("other", "app", "k"),
        ("secret", "ap", "k"),
        ("secret", "app", "l"),
        ("secret", "appk", ""),
    ]:
        with pytest.raises(Undecodable):
            Codec("json", secret, namespace).decode(key, good)


def test_nothing_is_downgraded():
    signed, plain = Codec("json", "secret", "app"), Codec("json", None, "app")
    with pytest.raises(Undecodable):
        signed.decode("k", envelope(plain, "k", [1]))
    with pytest.raises(Undecodable):
        signed.decode("k", envelope(plain, "k", 1))
    with pytest.raises(Undecodable):
        plain.decode("k", envelope(signed, "k", [1]))


ran = []


class Evil:
    def __reduce__(self):
        return ran.append, (1,)


def test_no_code_of_a_pickle_runs_that_was_not_signed():
    head = b"\xcbx\x03P\x00" + GENERATION
    for codec in (Codec("json", None, "app"), Codec("pickle", "secret", "app")):
        for flags in (0, 1):
            data = head[:4] + bytes([flags]) + GENERATION + bytes(32) + pickle.dumps(Evil())
            with pytest.raises(Undecodable):
                codec.decode("k", data)
    assert ran == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        b"\xcbx\x01J\x00" + GENERATION + b"1",
        b"\xcbx\x03J\x10" + GENERATION + b"1",
        b"\xcbx\x03J\x00" + GENERATION + b"{",
        b"\xcbx\x03I\x00" + GENERATION + b"1e5",
        b"\xcbx\x03J\x02" + GENERATION,
        b"\xcbx\x03J\x02" + GENERATION + b"\x05\xff\xff",
        b"\xcbx\x03N\x01" + GENERATION + bytes(32) + b"1",
        b"\xcbx\x03M\x00" + GENERATION + b"\x01",
    ],
)
def test_what_cannot_be_decoded_is_told_apart(data):
    with pytest.raises(Undecodable):
        Codec("json", None, "app").decode("k", data)


def test_tags_are_skipped_and_can_be_read():
    data = b"\xcbx\x03J\x02" + GENERATION + b"\x02\x00\x01a" + GENERATION + b"\x00\x02\xc3\xbc" + GENERATION + b"[1]"
    assert Codec("json", None, "app").decode("k", data) == [1]
    assert Codec("json", None, "app").open("k", data)[2] == ("a", "ü")


# --- names ------------------------------------------------------------------------------------------------------------


def test_crc_is_the_clusters():
    assert crc16(b"123456789") == 0x31C3
    assert crc16(b"foo") % 16384 == 12182


@pytest.mark.parametrize("namespace", ["app", "app:sub", "a{b}c", "100%", "*?[a-c]", "ü", "a b", "\ud800"])
@pytest.mark.parametrize("clustered", [False, True])
def test_names_can_be_taken_apart(namespace, clustered):
    names = KeySpace(namespace, clustered)
    for key in ["", "k", "a:b", "{x}y", "}v:k", "ü", "\ud800", "*"]:
        bucket = names.bucket(key)
        assert names.parse(names.value(key)) == (bucket, ord("v"), key)
        assert names.parse(names.lease(bucket, key)) == (bucket, ord("l"), key)
        slot = names.slots[bucket]
        inner = names.value(key)[names.value(key).index(b"{") + 1 : names.value(key).index(b"}")]
        assert crc16(inner) % 16384 == slot
    assert names.parse(b"other:{0}v:k") is None


def test_no_namespace_begins_as_another_does():
    namespaces = ["app", "app:", "app:sub", "app:{0}v", "ap", "app%3asub", "app%", "*", "app:{0}v:"]
    prefixes = [KeySpace(namespace, False).prefix for namespace in namespaces]
    for i, one in enumerate(prefixes):
        for j, other in enumerate(prefixes):
            assert i == j or not one.startswith(other)


def test_buckets_are_spread_evenly():
    slots = sorted(KeySpace("app", True).slots)
    assert len(slots) == 128
    assert [slot // 128 for slot in slots] == list(range(128))


def test_globs_are_escaped():
    assert glob_escaped("a*b?[c]\\^-") == b"a\\*b\\?\\[c\\]\\\\\\^\\-"


def test_tokens_differ():
    one, other = Tokens(), Tokens()
    made = {one() for _ in range(1000)} | {other() for _ in range(1000)}
    assert len(made) == 2000
    assert {len(token) for token in made} == {16}


# --- the breaker ------------------------------------------------------------------------------------------------------


def test_the_breaker_opens_probes_once_per_interval_and_closes(clock):
    breaker = Breaker(threshold=2, interval=5.0, clock=clock)
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    assert breaker.state == "closed" and breaker.may_call()
    breaker.failed()
    assert breaker.state == "open" and not breaker.may_call()
    clock.now += 5
    assert [breaker.may_call() for _ in range(5)] == [True, False, False, False, False]
    assert breaker.state == "half-open"
    breaker.failed()
    assert breaker.state == "open" and not breaker.may_call()
    clock.now += 5
    assert breaker.may_call()
    breaker.succeeded()
    assert breaker.state == "closed" and breaker.may_call()


def test_where_others_probe_nobody_is_let_through(clock):
    breaker = Breaker(threshold=1, interval=5.0, clock=clock)
    breaker.failed()
    clock.now += 100
    assert not breaker.may_call(others_probe=True)
    breaker.probes()
    assert breaker.state == "half-open" and not breaker.may_call(others_probe=True)
    breaker.succeeded()
    assert breaker.may_call(others_probe=True)


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0, -1, math.nan, -math.inf])
def test_bad_seconds(bad):
    with pytest.raises(ValueError, match="ttl"):
        seconds_of(bad, "ttl")


@pytest.mark.parametrize("bad", ["1", True, [], object()])
def test_seconds_of_a_wrong_type(bad):
    with pytest.raises(TypeError, match="ttl"):
        seconds_of(bad, "ttl")


def test_lifetimes_for_the_server():
    assert milliseconds(seconds_of(10**400, "ttl")) == b""
    assert milliseconds(0.0001) == b"1"
    assert milliseconds(seconds_of(datetime.timedelta(days=1), "ttl")) == b"86400000"


def test_bad_tags():
    assert checked_tags("red") == ("red",)
    assert checked_tags(["a", "a", "b"]) == ("a", "b")
    for bad in (1, [1], None):
        with pytest.raises(TypeError, match="tags"):
            checked_tags(bad)
    with pytest.raises(ValueError, match="tags"):
        checked_tags([str(n) for n in range(256)])


def test_the_exception_can_be_pickled():
    error = pickle.loads(pickle.dumps(BackendUnavailable("no", keys=["a"], partial={"b": 1})))
    assert (str(error), error.keys, error.partial) == ("no", {"a"}, {"b": 1})


# --- the keys of calls ------------------------------------------------------------------------------------------------


def test_arguments_are_written_by_value():
    values = [
        1,
        "1",
        -1,
        -2,
        1.5,
        None,
        "None",
        b"1",
        (1,),
        [1],
        (1, 2),
        ((1, 2),),
        "a'b",
        "a\\'b",
        ["a", "b"],
        ["a','b"],
        {"a": 1},
        {"a": "1"},
        {1},
        frozenset([2]),
        math.inf,
        math.nan,
        datetime.date(2026, 1, 1),
        Colour.RED,
        1j,
        datetime.timedelta(1),
        "",
        (),
        [],
        {},
    ]
    texts = [written(value) for value in values]
    assert len(set(texts)) == len(values)


def test_classes_are_written_by_name():
    assert written(Plain) == f"type({__name__}.Plain)" != written(f"type({__name__}.Plain)")
    assert written(int) == "type(builtins.int)"


def test_equal_arguments_are_written_alike_unless_typed():
    assert written(1) == written(1.0) == written(True)
    assert len({written(value, typed=True) for value in (1, 1.0, True)}) == 3
    assert written({"a": 1, "b": 2}) == written({"b": 2, "a": 1})
    assert written({"b", "a", "c"}) == written({"c", "b", "a"}) == written(frozenset("abc"))


@pytest.mark.parametrize("value", [object(), Plain(), len, lambda: 1, [Plain()], type("Local", (), {})])
def test_what_has_no_stable_text_is_refused(value):
    with pytest.raises(TypeError, match="key_func"):
        written(value)
