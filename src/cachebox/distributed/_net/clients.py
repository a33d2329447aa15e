"""The servers, as a ready client of redis-py or valkey-py knows them.

Only the address, the credentials and similar options of a client are used. So a client with behaviour of its own is
refused, such as a subclass, or one with a connection class of its own: that behaviour would be lost.
"""

from __future__ import annotations

import sys
from typing import Any

from cachebox.distributed._net.servers import Servers, kept

CLIENTS = {
    "redis": ("Redis", "RedisCluster", "asyncio.Redis", "asyncio.RedisCluster"),
    "valkey": ("Valkey", "ValkeyCluster", "asyncio.Valkey", "asyncio.ValkeyCluster"),
}
CONNECTIONS = ("Connection", "SSLConnection", "UnixDomainSocketConnection")
OF_SENTINELS = ("SentinelManagedConnection", "SentinelManagedSSLConnection")
POOLS = ("ConnectionPool", "BlockingConnectionPool")


def _classes(module: str, names: tuple[str, ...]) -> set[type]:
    """The loaded ones of the named classes, of both libraries, blocking and asyncio."""
    found = set()
    for library in CLIENTS:
        for place in (f"{library}.{module}", f"{library}.asyncio.{module}"):
            found |= {getattr(sys.modules.get(place), name, None) for name in names}
    return {kind for kind in found if isinstance(kind, type)}


def _is_own(client: Any) -> bool:
    for library, names in CLIENTS.items():
        for name in names:
            found: Any = sys.modules.get(library)
            for part in name.split("."):
                found = getattr(found, part, None)
            if type(client) is found:
                return True
    return False


def from_client(client: Any) -> Servers:
    """The servers that a client of redis-py or valkey-py talks to, blocking or asyncio. Raises TypeError for others."""
    if not _is_own(client):
        kind = type(client)
        hint = ": pass what its master_for returns" if kind.__name__ == "Sentinel" else ""
        raise TypeError(
            "client must be a Redis, RedisCluster, Valkey or ValkeyCluster of redis-py or valkey-py itself, blocking "
            "or asyncio, because only its address and credentials are used, "
            f"not {kind.__module__}.{kind.__qualname__}{hint}"
        )
    manager = getattr(client, "nodes_manager", None)
    return _of_cluster(client, manager) if manager is not None else _of_one(client.connection_pool)


def _check_class(kind: Any, module: str, names: tuple[str, ...], what: str) -> None:
    if kind not in _classes(module, names):
        raise TypeError(
            f"client must have {what} of the library itself, because others are not used, "
            f"not {getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', kind)}"
        )


def _of_cluster(client: Any, manager: Any) -> Servers:
    options = dict(getattr(manager, "connection_kwargs", None) or getattr(client, "connection_kwargs", {}))
    nodes = [*manager.startup_nodes.values(), *getattr(manager, "nodes_cache", {}).values()]
    named = [options.get("connection_class"), *(getattr(node, "connection_class", None) for node in nodes)]
    kinds = {kind for kind in named if kind is not None}
    for kind in kinds:
        _check_class(kind, "connection", CONNECTIONS, "connections")
    pool = getattr(manager, "connection_pool_class", None)
    if pool is not None:
        _check_class(pool, "connection", POOLS, "a pool")
    addresses = list(dict.fromkeys((str(node.host), int(node.port)) for node in nodes))
    tls = bool(options.get("ssl")) or any("SSL" in kind.__name__ for kind in kinds)
    return Servers(
        addresses,
        mode="cluster",
        tls=tls,
        options=kept(options),
        address_remap=getattr(manager, "address_remap", None),
    )


def _of_one(pool: Any) -> Servers:
    options = dict(pool.connection_kwargs)
    kind = pool.connection_class
    sentinels = getattr(pool, "sentinel_manager", None)
    for name in ("redis_connect_func", "valkey_connect_func"):
        if options.get(name) is not None:
            raise TypeError(f"client must have no {name}, because it is not called")
    tls = isinstance(kind, type) and "SSL" in kind.__name__
    if sentinels is not None:
        _check_class(type(pool), "sentinel", ("SentinelConnectionPool",), "a pool")
        _check_class(kind, "sentinel", OF_SENTINELS, "connections")
        pools = [sentinel.connection_pool for sentinel in sentinels.sentinels]
        for one in pools:
            _check_class(one.connection_class, "connection", CONNECTIONS, "connections")
        return Servers(
            [(str(one.connection_kwargs["host"]), int(one.connection_kwargs["port"])) for one in pools],
            mode="sentinel",
            tls=tls,
            options=kept(options),
            service=pool.service_name,
            sentinel_options=kept(pools[0].connection_kwargs),
            sentinel_tls="SSL" in pools[0].connection_class.__name__,
        )
    _check_class(type(pool), "connection", POOLS, "a pool")
    _check_class(kind, "connection", CONNECTIONS, "connections")
    if "path" in options:
        return Servers([(options["path"], 0)], mode="single", is_path=True, options=kept(options))
    address = (options.get("host", "localhost"), int(options.get("port", 6379)))
    return Servers([address], tls=tls, options=kept(options))
