"""Where the servers are, and how to connect to one.

redis-py makes the connections: addresses, TLS, credentials, the handshake. Then its socket, or its pair of streams, is
taken over: its clients retry ten times by default, would send an `INCR` twice, and know no deadline for a whole call.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import redis
import redis.asyncio.connection as asyncio_connections
import redis.connection as connections

from cachebox.distributed.resp import Senseless

Address = tuple[str, int]           # of a unix socket: its path, and 0

SENTINEL_PORT = 26379
# What a client's options may say about a server; its timeouts, retries, encodings and parsers are not taken over.
KEPT = {
    "username", "password", "credential_provider", "db", "client_name",
    "socket_keepalive", "socket_keepalive_options", "socket_type",
}


@dataclass
class Servers:
    """The address or addresses given, and what it takes to get in.

    `mode` is "single", "sentinel" or "cluster", or None until a server has told.
    """

    addresses: list[Address]
    mode: str | None = None
    tls: bool = False
    is_path: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    service: str = ""
    sentinel_options: dict[str, Any] = field(default_factory=dict)
    sentinel_tls: bool = False

    def __repr__(self) -> str:
        """Without credentials."""
        named = ", ".join(host if self.is_path else f"{host}:{port}" for host, port in self.addresses)
        return f"{self.service}@{named}" if self.service else named

    def connection(self, address: Address, deadline: float, is_async: bool, for_sentinel: bool = False) -> Any:
        """A redis-py connection that is not connected yet. One that blocks keeps to the deadline while it connects."""
        module = asyncio_connections if is_async else connections
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
    """What makes a blocking connection of redis-py keep to one deadline: its own time-outs are for each step anew."""

    deadline = math.inf

    @property
    def socket_connect_timeout(self) -> float:
        """Asked for before each of the addresses that a name stands for."""
        return left(self.deadline)

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, value: float) -> None:
        pass                            # the deadline says it

    def read_response(self, *args: Any, **options: Any) -> Any:
        """Called for each answer of the handshake."""
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
    """Of a client's options, those that are taken over."""
    return {
        name: value
        for name, value in options.items()
        if value is not None and (name in KEPT or (name.startswith("ssl_") and name != "ssl_ocsp_expected_cert"))
    }


def from_url(url: str) -> Servers:
    """The servers that a URL names.

    ``redis://[user:password@]host[:port][/db]``, ``rediss://`` with TLS, ``unix://[user:password@]/path?db=0``; a
    server that says it belongs to a cluster is asked for the others. ``redis+sentinel://[user:password@]host[:port][,...]
    /service[/db]`` (and ``rediss+sentinel``) asks sentinels. Options such as ``ssl_ca_certs`` go behind a question
    mark.

    >>> from_url("redis+sentinel://one:1,two/mymaster/3").addresses
    [('one', 1), ('two', 26379)]
    """
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, not {type(url).__name__}")
    scheme, _, rest = url.partition("://")
    if scheme in ("redis+sentinel", "rediss+sentinel"):
        return _from_sentinel_url(scheme, rest)
    if scheme not in ("redis", "rediss", "unix"):
        raise ValueError(
            "url must begin with redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel://, "
            f"not with {scheme + '://' if _ else url[:20]!r}"
        )
    given = connections.parse_url(url)  # type: ignore[no-untyped-call,unused-ignore]
    options = kept(given)
    if scheme == "unix":
        return Servers([(given.get("path", ""), 0)], mode="single", is_path=True, options=options)
    address = (given.get("host", "localhost"), int(given.get("port", 6379)))
    return Servers([address], tls=scheme == "rediss", options=options)


def _from_sentinel_url(scheme: str, rest: str) -> Servers:
    credentials, at, tail = rest.rpartition("@")
    hosts, _, path = tail.partition("/")
    path, _, query = path.partition("?")
    service, _, db = path.partition("/")
    if not service:
        raise ValueError("url must name the service behind the sentinels: redis+sentinel://host:26379/SERVICE[/DB]")
    addresses = []
    for host in hosts.split(","):
        split = urlsplit(f"//{host}")
        addresses.append((split.hostname or "localhost", split.port or SENTINEL_PORT))
    options: dict[str, Any] = {name: values[0] for name, values in parse_qs(query).items()}
    if at:
        user, colon, password = credentials.partition(":")
        if user:
            options["username"] = unquote(user)
        if colon:
            options["password"] = unquote(password)
    if db:
        options["db"] = int(db)
    return Servers(
        addresses, mode="sentinel", tls=scheme == "rediss+sentinel", options=kept(options), service=unquote(service)
    )


def from_client(client: Any) -> Servers:
    """The servers that a ready client of redis-py talks to, blocking or asyncio."""
    manager = getattr(client, "nodes_manager", None)
    if manager is not None:
        options = dict(getattr(manager, "connection_kwargs", None) or getattr(client, "connection_kwargs", {}))
        nodes = [*manager.startup_nodes.values(), *getattr(manager, "nodes_cache", {}).values()]
        addresses = list(dict.fromkeys((str(node.host), int(node.port)) for node in nodes))
        kind = options.get("connection_class")
        tls = bool(options.get("ssl")) or (isinstance(kind, type) and "SSL" in kind.__name__)
        return Servers(addresses, mode="cluster", tls=tls, options=kept(options))
    pool = getattr(client, "connection_pool", None)
    if pool is None or not hasattr(pool, "connection_kwargs"):
        raise TypeError(f"client must be a client of redis-py, not {type(client).__name__}")
    options = dict(pool.connection_kwargs)
    kind = getattr(pool, "connection_class", None)
    tls = isinstance(kind, type) and "SSL" in kind.__name__
    sentinels = getattr(pool, "sentinel_manager", None)
    if sentinels is not None:
        of_first = sentinels.sentinels[0].connection_pool
        addresses = [
            (sentinel.connection_pool.connection_kwargs["host"],
            int(sentinel.connection_pool.connection_kwargs["port"])) for sentinel in sentinels.sentinels
        ]
        return Servers(
            addresses,
            mode="sentinel",
            tls=tls,
            options=kept(options),
            service=pool.service_name,
            sentinel_options=kept(of_first.connection_kwargs),
            sentinel_tls="SSL" in of_first.connection_class.__name__,
        )
    if "path" in options:
        return Servers([(options["path"], 0)], mode="single", is_path=True, options=kept(options))
    address = (options.get("host", "localhost"), int(options.get("port", 6379)))
    return Servers([address], tls=tls, options=kept(options))


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
    connection._sock = None             # it is ours now
    return taken


async def connect_async(servers: Servers, address: Address, deadline: float, for_sentinel: bool = False) -> Any:
    """A pair of streams; whoever waits for it keeps to the deadline. Raises as `connect` does."""
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
    """What kind of server answers HELLO like that: "standalone", "sentinel" or "cluster"."""
    value = greeting.get(b"mode", b"standalone") if isinstance(greeting, dict) else b"standalone"
    return value.decode() if isinstance(value, bytes) else str(value)


FAILURES: tuple[type[BaseException], ...] = (OSError, redis.RedisError, ValueError, EOFError, asyncio.TimeoutError)
"""What connecting and talking may raise where the server, or the way to it, is at fault."""


def refuse_nonsense(error: BaseException) -> None:
    """Raise `Senseless` where redis-py stumbled over what the server said during the handshake."""
    if isinstance(error, Exception) and not isinstance(error, (*FAILURES, MemoryError)):
        raise Senseless(f"the handshake failed: {type(error).__name__}: {error}") from error


def is_cut(error: BaseException) -> bool:
    """Whether a connection broke while it was being made, but not because nobody listens or we are not let in."""
    return type(error) is redis.ConnectionError and "connecting to" not in str(error)


def is_timeout(error: BaseException) -> bool:
    """Whether waiting for it took too long."""
    return isinstance(error, (TimeoutError, asyncio.TimeoutError, redis.TimeoutError))


def left(deadline: float) -> float:
    """Seconds to a deadline; TimeoutError where none is left."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("the deadline has passed")
    return seconds
