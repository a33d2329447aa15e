"""Servers that answer what a test wants: sane answers at first, anything else from then on."""

from __future__ import annotations

import contextlib
import socket
import threading

from cachebox.distributed._wire import scripts

NONE = b"\xff" * 4 + bytes(8)
GREETING = b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n"


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


def of_script(args) -> bytes:
    """The answer of an empty database to a script."""
    digest, keys = args[1], int(args[2]) - 1
    rest = args[3 + int(args[2]) :]
    return {
        scripts.READ.digest: lambda: bulk(NONE * keys),
        scripts.WRITE.digest: lambda: bulk(b"0" * (1 + int(rest[1]))),
        scripts.TTL.digest: lambda: b":-2\r\n",
        scripts.INCREMENT.digest: lambda: bulk(b"0" + rest[2]),
        scripts.ADD.digest: lambda: bulk(b"0" * (1 + int(rest[2]))),
        scripts.SWAP.digest: lambda: bulk(b"10"),
        scripts.LEAD.digest: lambda: b"*2\r\n:3\r\n:0\r\n",
        scripts.COMPLETE.digest: lambda: b"*2\r\n:1\r\n" + bulk(b"0" * int(rest[5])),
        scripts.LEAD_MANY.digest: lambda: bulk(b"0" + b"3" * keys),
        scripts.COMPLETE_MANY.digest: lambda: bulk(b"1" * keys),
    }.get(digest, lambda: b":0\r\n")()


class Hostile:
    """A server in threads of this process.

    Set `answer` to bytes that every command gets, except those of tracking connections; `greeting`: the answer to
    HELLO; `pong`, `tracking`: the answers to PING and CLIENT TRACKING of a tracking connection. `push` sends bytes to
    the last tracking connection.
    """

    def __init__(self) -> None:
        self.answer: bytes | None = None
        self.greeting = GREETING
        self.pong = b"+PONG\r\n"
        self.tracking = b"+OK\r\n"
        self.then_closes = False
        self.links: list[socket.socket] = []  # every tracking connection that ever was
        self.closed_by_client = 0
        self.pings = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        try:
            while line := stream.readline():
                args = []
                for _ in range(int(line[1:])):
                    args.append(stream.read(int(stream.readline()[1:])))
                    stream.read(2)
                connection.sendall(self._said(args, connection))
                if self.then_closes and self.answer is not None:
                    connection.shutdown(socket.SHUT_RDWR)
        except (OSError, ValueError):
            pass
        self.closed_by_client += 1
        connection.close()

    def _said(self, args: list[bytes], connection: socket.socket) -> bytes:
        name = args[0].upper()
        if name == b"HELLO":
            return self.greeting
        if name == b"CLIENT":
            if args[1].upper() == b"TRACKING":
                self.links.append(connection)
                return self.tracking
            return b"+OK\r\n"
        if connection in self.links and name == b"PING":
            self.pings += 1
            return self.pong
        if self.answer is not None and connection not in self.links:
            return self.answer
        if name == b"EVALSHA":
            return of_script(args)
        if name == b"SCRIPT":
            return bulk(b"0" * 40)
        if name == b"SCAN":
            return b"*2\r\n$1\r\n0\r\n*0\r\n"
        if name == b"TIME":
            return b"*2\r\n$1\r\n1\r\n$1\r\n0\r\n"
        return b"+PONG\r\n" if name == b"PING" else b"+OK\r\n"

    def push(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # that connection is closed already
            self.links[-1].sendall(data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)       # wakes the accepting thread
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
