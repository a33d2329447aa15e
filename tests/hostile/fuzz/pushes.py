"""Messages of servers on the tracking link: whatever they are, the link reads them or loses the connection."""

from __future__ import annotations

from cachebox import Cache
from cachebox.distributed._near.near_cache import Tier
from cachebox.distributed._near.tracking import Tracking, TrackingConnection
from cachebox.distributed._net.background import Background
from cachebox.distributed._net.blocking_driver import Connection
from cachebox.distributed._net.effects import Node
from cachebox.distributed._net.servers import Servers
from cachebox.distributed._net.topology import Topology
from cachebox.distributed._wire.resp import Senseless

NAMES = [
    b"cachebox:{0}v:k",
    b"cachebox:{0}l:k",
    b"cachebox:{0}g",
    b"cachebox:{0}t:tag",
    b"cachebox:{0}e",
    b"other:{0}v:k",
]


def names(*given: bytes) -> bytes:
    texts = b"".join(b"$%d\r\n%s\r\n" % (len(name), name) for name in given)
    return b">2\r\n$10\r\ninvalidate\r\n*%d\r\n%s" % (len(given), texts)


SEEDS = [
    b"\x01" + names(*NAMES),
    b"\x02" + names(NAMES[0]) + b"+PONG\r\n" + names(NAMES[2]),
    b"\x03>2\r\n$10\r\ninvalidate\r\n_\r\n",
    b"\x04>2\r\n+invalidate\r\n*0\r\n>1\r\n+message\r\n",
    b"\x05" + names(b"cachebox:{0}v", b"cachebox:", b"cachebox:{0}v:\xff"),
]


class Sock:
    """A connection that has received some bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.is_closed = False

    def recv(self, n: int) -> bytes:
        return self.data

    def settimeout(self, seconds: float) -> None:
        pass

    def sendall(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True


topology = Topology(Servers([("localhost", 1)], mode="single"), "cachebox")
node = Node(topology.servers, ("localhost", 1))
topology._set_one(node)


def one(data: bytes) -> None:
    if len(data) < 2:
        return
    tier = Tier(Cache(10))
    link = Tracking(topology, tier, Background(), 1.0, 1.0)
    tier.tracking_began()
    fills = tier.begin_fills(["k", "other"])
    tier.store(tier.begin_fill("tagged"), 1, float("inf"), ("tag",))
    step, data = 1 + data[0] * 3, data[1:]
    line = TrackingConnection(node, Connection(Sock(b"")))
    link._connections[node] = line
    try:
        line.ping([])
        for at in range(0, len(data), step):
            line.connection.sock.data = data[at : at + step]
            link._read(line)
    except Senseless as error:
        link._lose(line, str(error))
        assert not tier.is_tracked and not tier.is_fresh and not any(fill.live for fill in fills)
    tier.end_fills(fills)
    tier._check()
