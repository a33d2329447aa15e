"""Replies: however bytes are cut they mean the same, and a reply that fits its command can be worked with."""

from __future__ import annotations

from cachebox.distributed._net.servers import mode_of
from cachebox.distributed._wire import scripts
from cachebox.distributed._wire.replies import NONE, ROW, verify
from cachebox.distributed._wire.resp import INCOMPLETE, Push, Replies, ReplyError, Senseless
from cachebox.distributed._wire.scripts import script_call

KEYS = [b"g", b"a", b"b"]
TOKEN = b"t" * 16
COMMANDS = [
    script_call(scripts.READ, KEYS),
    script_call(scripts.WRITE, KEYS[:2], b"", 1, b"tag", b"head", b"body", b""),
    script_call(scripts.DELETE, KEYS),
    script_call(scripts.TTL, KEYS[:2]),
    script_call(scripts.INCREMENT, KEYS, b"", b"1", b"", b"", b"head", b"", b"", b""),
    script_call(scripts.LEAD, [*KEYS, b"failure"], b"", TOKEN, 5000, b"", b"20"),
    script_call(scripts.COMPLETE, KEYS, TOKEN, b"", b"head", b"body", b"", 1, b"tag"),
    script_call(scripts.LEAD_MANY, KEYS, b"", TOKEN, 5000),
    script_call(scripts.COMPLETE_MANY, KEYS, TOKEN, b""),
    [b"HELLO"],
    [b"CLUSTER", b"SLOTS"],
    [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", b"x"],
    [b"SCAN", b"0"],
    [b"TIME"],
    [b"PING"],
]
NOTHING = ROW.pack(NONE, 0.0)
SEEDS = [
    b"\x01$24\r\n" + NOTHING * 2 + b"\r\n",
    b"\x03$27\r\n" + ROW.pack(3, 5.0) + b"abc" + NOTHING + b"\r\n",
    b"\x00$2\r\n01\r\n:2\r\n:-1\r\n$2\r\n05\r\n",
    b"\x02*3\r\n:1\r\n$5\r\nvalue\r\n:500\r\n*3\r\n:2\r\n:500\r\n$16\r\n"
    + TOKEN
    + b"\r\n*2\r\n:3\r\n:1\r\n*2\r\n:4\r\n$1\r\nx\r\n*1\r\n:5\r\n",
    b"\x05*2\r\n:1\r\n$1\r\n0\r\n*1\r\n:0\r\n$3\r\n013\r\n$2\r\n01\r\n",
    b"\x04%2\r\n$5\r\nproto\r\n:3\r\n$4\r\nmode\r\n$7\r\ncluster\r\n",
    b"\x07*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$4\r\nhost\r\n:6379\r\n",
    b"\x01*2\r\n$4\r\nhost\r\n$4\r\n6379\r\n*2\r\n$1\r\n0\r\n*1\r\n$1\r\nk\r\n*2\r\n$2\r\n17\r\n$1\r\n5\r\n",
    b"\x01-ASK 5 host:1\r\n-MOVED 1 a:1\r\n+PONG\r\n_\r\n#t\r\n,1.5e3\r\n(123\r\n=7\r\ntxt:abc\r\n!3\r\nERR\r\n",
    b"\x02|1\r\n+a\r\n:1\r\n*2\r\n~1\r\n*0\r\n%1\r\n+k\r\n*-1\r\n>1\r\n+x\r\n",
]


def read(data: bytes, step: int) -> tuple[list[object], bool]:
    """The replies in some bytes, fed in pieces; and whether it ended in nonsense."""
    replies, found = Replies(), []
    for at in range(0, len(data), step):
        replies.feed(data[at : at + step])
        try:
            while (reply := replies.next()) is not INCOMPLETE:
                found.append(reply)
        except Senseless:
            return found, True
    return found, False


def one(data: bytes) -> None:
    if len(data) < 2:
        return
    step, data = 1 + data[0] % 9, data[1:]
    whole = read(data, len(data))
    assert repr(read(data, step)) == repr(whole)
    for reply in whole[0]:
        if type(reply) is not Push:
            for command in COMMANDS:
                try:
                    verify([command], [reply])
                except Senseless:
                    continue
                work_with(command, reply)


def work_with(command: list[object], reply: object) -> None:
    """What is done with a reply that has been found good, in short."""
    if isinstance(reply, ReplyError):
        if reply.code == "ASK":
            int(str(reply).split()[2].rpartition(":")[2])
    elif command[0] == b"HELLO":
        assert mode_of(reply).isalpha()
    elif command[0] == b"CLUSTER":
        for first, last, master, *_ in reply:
            assert 0 <= first <= last < 16384 and 0 < master[1] < 65536 and (not master[0] or master[0].decode("ascii"))
    elif command[0] == b"SENTINEL" and reply is not None:
        host, port = reply
        assert host.decode("ascii") and int(port)
    elif command[0] == b"TIME":
        int(reply[0]) + int(reply[1])
    elif command[0] == b"SCAN":
        _, names = reply
        assert all(type(name) is bytes for name in names)
    elif command[0] == b"EVALSHA" and command[1] == scripts.READ.digest:
        at = 0
        for _ in range(2):
            size, left = ROW.unpack_from(reply, at)
            at += ROW.size + (size if size != NONE else 0)
            assert left >= -1
        assert at == len(reply)
    elif command[0] == b"EVALSHA" and command[1] == scripts.TTL.digest:
        assert reply / 1000 >= -0.002
    elif command[0] == b"EVALSHA" and command[1] == scripts.INCREMENT.digest and type(reply) is bytes:
        int(reply[1:])
    elif command[0] == b"EVALSHA" and command[1] == scripts.LEAD.digest:
        assert 1 <= reply[0] <= 5 and (reply[0] != 1 or reply[2] / 1000 >= -0.001)
