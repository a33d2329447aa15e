"""Whatever a server answers: the shape of each reply, and a server that answers everything with every shape."""

from __future__ import annotations

import math
import struct
import time

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

from cachebox.distributed._net.blocking_driver import Connection
from cachebox.distributed._wire import scripts
from cachebox.distributed._wire.replies import SHAPES, verify
from cachebox.distributed._wire.resp import (
    CHUNK,
    DEEPEST,
    INCOMPLETE,
    LARGEST_CHUNK,
    Push,
    Replies,
    ReplyError,
    Senseless,
)
from cachebox.distributed._wire.scripts import script_call
from hostile_servers import bulk

# --- the protocol -----------------------------------------------------------------------------------------------------


def all_of(data, step=None):
    """What a connection makes of some bytes, however they are cut."""
    replies, found = Replies(), []
    for at in range(0, len(data), step or len(data) or 1):
        replies.feed(data[at : at + (step or len(data))])
        while (reply := replies.next()) is not INCOMPLETE:
            found.append(reply)
    return found


SENSELESS = {
    "an empty line": b"\r\n",
    "a line feed alone": b"\n",
    "no carriage return": b"+OK\n",
    "an unknown type": b"\xff\r\n",
    "a map with a list as key": b"%1\r\n*0\r\n+a\r\n",
    "a map with a map as key": b"%1\r\n%0\r\n+a\r\n",
    "a map with an int as key": b"%1\r\n:1\r\n+a\r\n",
    "a map with nothing as key": b"%1\r\n_\r\n+a\r\n",
    "a map with an error as key": b"%1\r\n-ERR\r\n+a\r\n",
    "an empty push": b">0\r\n",
    "a push whose kind is a number": b">2\r\n:1\r\n+a\r\n",
    "a push in a reply": b"*1\r\n>1\r\n+a\r\n",
    "a negative push": b">-1\r\n",
    "a negative map": b"%-1\r\n",
    "a negative set": b"~-1\r\n",
    "a negative attribute": b"|-1\r\n",
    "a length below nothing": b"$-2\r\n",
    "no length": b"$\r\n",
    "a length with a sign": b"$+1\r\n",
    "a length of letters": b"*x\r\n",
    "a length of very many digits": b"$1" + b"0" * 100 + b"\r\n",
    "a streamed text": b"$?\r\n",
    "a text that goes on": b"$1\r\nabc\r\n",
    "a text without a format": b"=3\r\nabc\r\n",
    "a short text with a format": b"=2\r\na:\r\n",
    "a long int": b":" + b"1" * 20 + b"\r\n",
    "a huge int": b"(" + b"1" * 4301 + b"\r\n",
    "an int with a space": b": 1\r\n",
    "an int with an underscore": b":1_0\r\n",
    "an int of no digits": b":-\r\n",
    "a boolean that is none": b"#x\r\n",
    "nothing, and something": b"_x\r\n",
    "a double that is none": b",one\r\n",
    "a double with an underscore": b",1_0.0\r\n",
    "a double without end": b"," + b"1" * 1000 + b"\r\n",
    "too deep": b"*1\r\n" * (DEEPEST + 1) + b":1\r\n",
    "too deep, in attributes": b"|1\r\n" * (DEEPEST + 1) + b"+a\r\n",
    "too deep, in turns": b"*1\r\n%1\r\n+k\r\n" * DEEPEST + b":1\r\n",
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n",
}


@pytest.mark.parametrize("step", [None, 1, 3])
@pytest.mark.parametrize("data", SENSELESS.values(), ids=SENSELESS)
def test_what_is_not_the_protocol_is_senseless(data, step):
    with pytest.raises(Senseless, match=r"repl|push"):
        all_of(data + b"+more\r\n", step)


@pytest.mark.parametrize(
    "data, found",
    [
        (b"|1\r\n+ttl\r\n:5\r\n$1\r\nx\r\n", [b"x"]),
        (b"*2\r\n|1\r\n+a\r\n*1\r\n:1\r\n:1\r\n:2\r\n", [[1, 2]]),
        (b"|0\r\n|0\r\n+OK\r\n", ["OK"]),
        (b"|1\r\n+a\r\n+b\r\n>1\r\n+kind\r\n", [["kind"]]),
        (b"*0\r\n%0\r\n~0\r\n", [[], {}, []]),
        (b"*-1\r\n$-1\r\n_\r\n", [None, None, None]),
        (b"*3\r\n*0\r\n%1\r\n+k\r\n*1\r\n~1\r\n#f\r\n$0\r\n\r\n", [[[], {"k": [[False]]}, b""]]),
        (b",inf\r\n,-inf\r\n,-1.5e3\r\n,.5\r\n"[:-5], [math.inf, -math.inf, -1500.0]),
        (b":-9223372036854775808\r\n(-1" + b"0" * 30 + b"\r\n", [-(2**63), -(10**30)]),
        (b"*1\r\n" * DEEPEST + b":1\r\n", None),
    ],
)
@pytest.mark.parametrize("step", [None, 1, 2, 7])
def test_every_type_is_read_however_it_is_cut(data, found, step):
    read = all_of(data, step)
    assert read == found if found is not None else len(read) == 1


def test_attributes_in_a_row_take_no_stack():
    replies = Replies()
    replies.feed(b"|0\r\n" * 300_000)
    assert replies.next() is INCOMPLETE
    replies.feed(b"+OK\r\n")
    assert replies.next() == "OK"


@pytest.mark.parametrize("start", [b"$", b"*", b"%", b"~", b"|", b">2\r\n$10\r\ninvalidate\r\n*", b"=", b"!"])
def test_what_is_announced_takes_no_memory(start):
    replies = Replies()
    replies.feed(start + b"999999999999999999\r\n:1\r\n"[: 20 if start in b"$=!" else None])
    assert replies.next() is INCOMPLETE
    assert not replies.is_empty


class Recording:
    """A socket that says how many bytes it was asked for."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)
        self.asked = []

    def settimeout(self, seconds):
        pass

    def recv(self, n):
        self.asked.append(n)
        return self.pieces.pop(0) if self.pieces else b""


def test_no_more_than_one_buffer_is_asked_for():
    sock = Recording(b"$999999999999999999\r\n", b"x", b"y" * 100)
    with pytest.raises(ConnectionResetError):
        Connection(sock).receive(1, time.monotonic() + 60)
    assert sock.asked == [CHUNK, *[LARGEST_CHUNK] * 3]


def work_of(data, step):
    """How many bytes the parser looks at: of the kind that is measured, not timed."""
    replies = Replies()
    begun = time.process_time()
    for at in range(0, len(data), step):
        replies.feed(data[at : at + step])
        while replies.next() is not INCOMPLETE:
            pass
    assert replies.is_empty
    return time.process_time() - begun


@pytest.mark.parametrize("kind", ["names", "line", "nested", "text"])
def test_pieces_are_read_once(kind):
    """What arrives in many pieces takes about as long as what arrives in few: it was quadratic."""
    if kind == "names":
        data = b">2\r\n$10\r\ninvalidate\r\n*100000\r\n" + b"$21\r\ncachebox:{0}v:k000001\r\n" * 100_000
    elif kind == "line":
        data = b"+" + b"x" * 3_000_000 + b"\r\n"
    elif kind == "nested":
        data = b"*10000\r\n" + b"*1\r\n*2\r\n:1\r\n%1\r\n+k\r\n*0\r\n" * 10_000
    else:
        data = bulk(b"x" * 3_000_000)
    few = work_of(data, 1_000_000)
    assert work_of(data, 1000) < 50 * few + 2.0  # thousands of pieces: read from the beginning it was minutes


# --- the shapes -------------------------------------------------------------------------------------------------------

ROW = struct.Struct(">Id")
NOTHING = ROW.pack(0xFFFFFFFF, 0.0)
KEYS = [b"g", b"a", b"b"]
TOKEN = b"t" * 16


def call(script, n, *arguments):
    return script_call(script, KEYS[: 1 + n], *arguments)


LEAD = script_call(scripts.LEAD, [*KEYS, b"failure"], b"", TOKEN, 5000, b"", b"20")
LEAD_PLAIN = script_call(scripts.LEAD, KEYS, b"", TOKEN, 5000, b"", b"")
DIGITS = [b"111", b"01", b"133", b"000", b"0000", b"012"]
FIT = [
    (call(scripts.READ, 2), [NOTHING + ROW.pack(3, -1.0) + b"abc", NOTHING * 2, (ROW.pack(0, 5.0)) * 2]),
    (call(scripts.WRITE, 1, b"", 2, b"x", b"y"), [b"000", b"111"]),
    (call(scripts.DELETE, 2), [0, 1, 2]),
    (call(scripts.TTL, 1), [-2, -1, 0, 1, 2, 3, 10**12]),
    (call(scripts.TOUCH, 1, b"5"), [0, 1]),
    (call(scripts.INCREMENT, 1), [b"05", b"1-5", [b"an entry"], b"0" + b"9" * 4300, *DIGITS]),
    (LEAD, [[1, b"v", -1], [1, b"", 7], [2, 5000, TOKEN], [3, 0], [3, 1], [4, b"x"], [5]]),
    (LEAD_PLAIN, [[1, b"v", -1], [1, b"", 7], [2, 5000, TOKEN], [3, 0], [3, 1]]),
    (call(scripts.COMPLETE, 2, TOKEN, b"", b"", b"", b"", 1, b"x"), [[1, b"0"], [0]]),
    (call(scripts.LEAD_MANY, 2), [b"012", b"133", b"111"]),
    (call(scripts.COMPLETE_MANY, 2), [b"01"]),
    (call(scripts.LEASE, 2), [0, 1, 2]),
    (call(scripts.INVALIDATE_TAG, 1), [0, 1]),
    (call(scripts.CLEAN, 2), [0, 1, 2]),
    ([b"SET", b"k", b"v"], ["OK"]),
    ([b"SET", b"k", b"v", b"NX"], ["OK", None]),
    ([b"PING"], ["PONG"]),
    ([b"TIME"], [[b"1700000000", b"999999"]]),
    ([b"SCAN", b"0"], [[b"0", []], [b"17", [b"a", b"b"]]]),
    ([b"SCRIPT", b"LOAD"], [b"0123456789abcdef" * 2 + b"01234567"]),
    ([b"HELLO"], [{b"proto": 3}, {b"proto": 3, b"mode": b"cluster", b"modules": []}]),
    (
        [b"CLUSTER", b"SLOTS"],
        [[], [[0, 5, [b"host", 6379, b"id"]], [6, 16383, [b"", 1], [b"replica", 2]]], [[1, 1, [None, 1]]]],
    ),
    ([b"SENTINEL"], [None, [b"host", b"6379"]]),
    ([b"ASKING"], ["OK"]),
]
STRANGE = [
    None,
    True,
    False,
    3,
    -3,
    2**63,
    1.5,
    math.nan,
    math.inf,
    "",
    "OK?",
    "PONG?",
    b"",
    b"2",
    b"abc",
    b"01x",
    b"0000",
    [],
    [0, 0],
    [1],
    [2],
    [3],
    [4],
    [1, 1, 1],
    [1, b"x", None],
    [2, 5, b"short"],
    [3, 2],
    [[]],
    [None],
    [b"a", b"b"],
    [b"x", []],
    [b"0", [None]],
    [b"0", b"a"],
    {},
    {b"mode": b"standalone"},
    {b"proto": 3, b"mode": b"\xff"},
    {b"proto": b"3"},
    NOTHING,
    NOTHING * 3,
    NOTHING * 2 + b"x",
    NOTHING + ROW.pack(9, 1.0) + b"short",
    ROW.pack(0, math.nan) * 2,
    ROW.pack(0, -2.0) * 2,
    [[0, 99999, [b"h", 1]]],
    [[5, 1, [b"h", 1]]],
    [[0, 1, b"h"]],
    [[0, 1, [b"h", 0]]],
    [[0, 1, [b"h", 65536]]],
    [[0, 1, ["h", 1]]],
    [[0, 16383, [b"h", 1]], [0, 0, [b"h", 1]]],
    [b"host", b"port"],
    [b"host", b"65536"],
    [b"", b"1"],
    [b"\xff", b"1"],
    b"0" + b"9" * 4301,
    b"0x",
    b"2" + b"5",
    [b"a", b"b", b"c"],
    Push([b"x"]),
    [1, b"2"],
    [1, b"00"],
    [True],
    [1.0, b"v", 1],
]


def fits(command, reply):
    try:
        verify([command], [reply])
    except Senseless:
        return False
    return True


@pytest.mark.parametrize("command, good", FIT, ids=[f"{command[0].decode()}-{i}" for i, (command, _) in enumerate(FIT)])
def test_what_may_be_answered_and_what_may_not(command, good):
    assert fits(command, ReplyError("ERR whatever"))
    good_too = {repr(reply) for reply in good}
    for reply in [*STRANGE, *(reply for _, replies in FIT for reply in replies)]:
        assert fits(command, reply) == (repr(reply) in good_too), reply


def test_every_script_has_a_shape():
    assert set(scripts.BY_DIGEST) <= set(SHAPES)


@pytest.mark.parametrize(
    "words", ["ASK", "ASK 1", "ASK x a:1", "ASK 1 a", "ASK 1 a:b", "ASK 1 \xe9:1", "ASK 1 a:123456"]
)
def test_a_redirection_to_nowhere_is_senseless(words):
    assert not fits([b"PING"], ReplyError(words))
    assert fits([b"PING"], ReplyError("ASK 1 a:1")) and fits([b"PING"], ReplyError("MOVED"))


def test_only_scripts_can_be_unknown():
    assert fits(call(scripts.TTL, 1), ReplyError("NOSCRIPT"))
    assert not fits([b"PING"], ReplyError("NOSCRIPT"))


def test_nothing_but_pushes_may_follow():
    for more, is_good in [
        (b"", True),
        (b">1\r\n+news\r\n", True),
        (b">1\r\n+news\r\n+PONG\r\n", False),
        (b"+PONG\r\n", False),
        (b"+PO", False),
    ]:
        rest = Replies()
        rest.feed(more)
        try:
            verify([[b"PING"]], ["PONG"], rest)
        except Senseless:
            assert not is_good
        else:
            assert is_good and rest.is_empty
