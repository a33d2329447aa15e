"""The servers' addresses, and how to connect to one.

redis-py makes the connections: addresses, TLS, credentials, the handshake. Then its socket or its pair of streams is
taken over, because its clients retry ten times by default, would send an `INCR` twice, and know no deadline for a whole
call. redis-py is imported only when there is a server to connect to.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from cachebox.distributed._wire.resp import Senseless

Address = tuple[str, int]           # of a unix socket: its path, and 0

SENTINEL_PORT = 26379
# The options of a client that are used; its timeouts, retries, encodings and parsers are not.
KEPT = {
    "username", "password", "credential_provider", "db", "client_name",
    "socket_keepalive", "socket_keepalive_options", "socket_type",
}
# TCP keep-alive: it keeps a network from forgetting quiet connections, or finds out that one was forgotten.
KEEPALIVE = {
    getattr(socket, name): value
    for name, value in {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}.items()
    if hasattr(socket, name)
}
_NO_LINGER = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


@dataclass
class Servers:
    """The given addresses, and the credentials and options to connect to them.

    `mode` is "single", "sentinel" or "cluster"; None until a server has said which.
    """

    addresses: list[Address]
    mode: str | None = None
    tls: bool = False
    is_path: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    service: str = ""
    sentinel_options: dict[str, Any] = field(default_factory=dict)
    sentinel_tls: bool = False
    max_connections: int = 64       # to each server
    address_remap: Callable[[Address], Address] | None = None   # translates the addresses that a cluster names

    def __repr__(self) -> str:
        """Without credentials."""
        named = ", ".join(host if self.is_path else f"{host}:{port}" for host, port in self.addresses)
        return f"{self.service}@{named}" if self.service else named

    def connection(self, address: Address, deadline: float, is_async: bool, for_sentinel: bool = False) -> Any:
        """A redis-py connection, not connected yet. A blocking one keeps to the deadline while it connects."""
        module: Any = import_module("redis.asyncio.connection" if is_async else "redis.connection")
        tls = self.sentinel_tls if for_sentinel else self.tls
        options = dict(self.sentinel_options if for_sentinel else self.options)
        if self.is_path and not for_sentinel:
            kind: Any = module.UnixDomainSocketConnection
            options["path"] = address[0]
            for name in ("socket_keepalive", "socket_keepalive_options", "socket_type"):
                options.pop(name, None)
        else:
            kind = module.SSLConnection if tls else module.Connection
            options["host"], options["port"] = address
            options.setdefault("socket_keepalive", True)
            if not isinstance(options.get("socket_keepalive_options"), dict):
                options["socket_keepalive_options"] = KEEPALIVE
        known = _parameters(kind)
        timeout = left(deadline)
        made = (kind if is_async else _in_time(kind))(
            **{name: value for name, value in options.items() if name in known},
            protocol=3,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=None,
            driver_info=None,
        )
        made.deadline = deadline
        return made


class _InTime:
    """A mix-in that makes a blocking connection of redis-py keep to one deadline: its own time-outs start again at
    each step."""

    deadline = math.inf

    @property
    def socket_connect_timeout(self) -> float:
        """The time-out for one address; read before each address that a name stands for."""
        return left(self.deadline)

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, value: float) -> None:
        pass                            # the deadline decides

    def read_response(self, *args: Any, **options: Any) -> Any:
        """Read an answer of the handshake within the deadline."""
        self._sock.settimeout(left(self.deadline))      # type: ignore[attr-defined]
        return super().read_response(*args, **options)  # type: ignore[misc]


_kinds_in_time: dict[type, Any] = {}


def _in_time(kind: type) -> Any:
    """A class of connections that keeps to a deadline."""
    made = _kinds_in_time.get(kind)
    if made is None:
        made = _kinds_in_time[kind] = type(kind.__name__, (_InTime, kind), {})
    return made


def _parameters(kind: type) -> set[str]:
    return {name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters}  # type: ignore[misc]


def kept(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a client that are taken over."""
    return {
        name: value
        for name, value in options.items()
        if value is not None and (name in KEPT or (name.startswith("ssl_") and name != "ssl_ocsp_expected_cert"))
    }


def connect(servers: Servers, address: Address, deadline: float, for_sentinel: bool = False) -> Any:
    """A connected socket, before the deadline. Raises OSError or a redis-py error."""
    connection = servers.connection(address, deadline, False, for_sentinel)
    try:
        connection.connect()
    except BaseException as error:
        connection.disconnect()
        refuse_nonsense(error)
        raise
    taken: Any = connection._get_socket()
    connection._sock = None             # this connection must not close it
    return taken


async def connect_async(servers: Servers, address: Address, deadline: float, for_sentinel: bool = False) -> Any:
    """A pair of streams; the caller keeps to the deadline. Raises as `connect` does."""
    connection = servers.connection(address, deadline, True, for_sentinel)
    try:
        await connection.connect()
    except BaseException as error:
        _abort(connection)
        refuse_nonsense(error)
        raise
    taken = connection._reader, connection._writer
    connection._reader = connection._writer = None
    return taken


def _abort(connection: Any) -> None:
    """Close what a cancelled connection attempt has left, without waiting."""
    writer = connection._writer
    connection._reader = connection._writer = None
    if writer is not None:
        writer.transport.abort()


def mode_of(greeting: Any) -> str:
    """The kind of the server that answered HELLO with `greeting`: "standalone", "sentinel" or "cluster"."""
    value = greeting.get(b"mode", b"standalone") if isinstance(greeting, dict) else b"standalone"
    return value.decode() if isinstance(value, bytes) else str(value)


def forget_unsent(sock: Any) -> None:
    """Have a socket drop, when it is closed, what the server has not received yet.

    Otherwise the system goes on sending it, and a write that was given up would be carried out after later ones.
    """
    with contextlib.suppress(OSError):          # it is closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


def failures() -> tuple[type[BaseException], ...]:
    """The errors of connecting and talking for which the server, or the way to it, is at fault."""
    import redis

    return OSError, redis.RedisError, ValueError, EOFError, asyncio.TimeoutError


def refuse_nonsense(error: BaseException) -> None:
    """Raise `Senseless` if redis-py stumbled over the server's answers during the handshake."""
    if isinstance(error, Exception) and not isinstance(error, (*failures(), MemoryError)):
        raise Senseless(f"the handshake failed: {type(error).__name__}: {error}") from error


def is_cut(error: BaseException) -> bool:
    """Whether a connection broke while it was being made. False if nobody listens, or the server refused it."""
    import redis

    return type(error) is redis.ConnectionError and "connecting to" not in str(error)


def is_timeout(error: BaseException) -> bool:
    """Whether waiting took too long."""
    import redis

    return isinstance(error, (TimeoutError, asyncio.TimeoutError, redis.TimeoutError))


def left(deadline: float) -> float:
    """Seconds until a deadline; TimeoutError if it has passed."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("the deadline has passed")
    return seconds
