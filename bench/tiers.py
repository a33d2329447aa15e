"""A server of this machine, and the candidates that use it: our distributed tier, redis-py itself, and peers.

The server is started for the first candidate, and killed when the process ends.
"""

from __future__ import annotations

import atexit
import functools
import json
from collections.abc import Callable
from typing import Any

from bench import peers
from bench.measure import Candidate, async_candidate, candidate, run_until_complete, shuffled
from cachebox.cli.errors import CommandError
from cachebox.cli.redis_server import Server, find_server

KEYS = [f"user:{i}" for i in range(1000)]
VALUE = {"id": 12345, "name": "Ada Lovelace", "roles": ["admin", "editor"], "score": 0.75}

OURS, REDIS, DOGPILE, CASHEWS, AIOCACHE = "cachebox", "redis-py", "dogpile.cache", "cashews", "aiocache"


def why_not() -> str:
    """Why nothing can be measured here; empty if it can."""
    if not peers.have(REDIS):
        return "redis-py is not installed: it is in the extra `redis`"
    try:
        find_server()
    except CommandError as error:
        return str(error)
    return ""


@functools.cache
def port() -> int:
    """The port of a running server, which also has the value of every key as redis-py alone would store it."""
    import redis

    server = Server(find_server())
    atexit.register(server.close)
    server.start()
    with redis.Redis(port=server.port) as client:
        client.mset({f"plain:{key}": json.dumps(VALUE) for key in KEYS})
    return server.port


def _ours(**options: Any) -> Any:
    from cachebox import DistributedCache

    cache = DistributedCache(redis_port=port(), **options)
    cache.set_many(dict.fromkeys(KEYS, VALUE))
    cache.barrier()
    return cache


def first_tier() -> list[Candidate]:
    """Hits that need no server, compared with those of a `Cache`."""
    from cachebox import Cache

    plain, both = Cache(), _ours()
    plain.update(dict.fromkeys(KEYS, VALUE))
    both.get_many(KEYS)
    caches = {"Cache": plain, OURS: both}
    return [candidate(name, shuffled(KEYS), "cache.get(key)", cache=cache) for name, cache in caches.items()]


def _only_second(**options: Any) -> Any:
    """A cache whose first tier never has the requested key."""
    return _ours(max_size=1, **options)


def gets() -> list[Candidate]:
    """`get` of a key on the server, with decoding its value."""
    import redis

    batches = shuffled(KEYS, batch=200)
    client = redis.Redis(port=port())
    statements: dict[str, tuple[str, dict[str, Any]]] = {
        REDIS: ("loads(client.get('plain:' + key))", {"client": client, "loads": json.loads}),
        OURS: ("cache.get(key)", {"cache": _only_second()}),
    }
    if region := _dogpile():
        statements[DOGPILE] = ("cache.get(key)", {"cache": region})
    return [candidate(name, batches, statement, **names) for name, (statement, names) in statements.items()]


def many_gets() -> list[Candidate]:
    """`get_many` of a thousand keys, with decoding their values; one operation is all of them."""
    import redis

    client, cache = redis.Redis(port=port()), _only_second()
    names = [f"plain:{key}" for key in KEYS]
    calls: dict[str, Callable[[], Any]] = {
        REDIS: lambda: [json.loads(value) for value in client.mget(names)],
        OURS: lambda: cache.get_many(KEYS),
    }
    if region := _dogpile():
        calls[DOGPILE] = lambda: region.get_multi(KEYS)
    return [candidate(name, [[None]], "call()", call=call) for name, call in calls.items()]


def _dogpile() -> Any:
    if not peers.have(DOGPILE):
        return None
    from dogpile.cache import make_region

    region = make_region().configure("dogpile.cache.redis", arguments={"port": port()})
    region.set_multi(dict.fromkeys(KEYS, VALUE))
    return region


# --- asyncio ----------------------------------------------------------------------------------------------------------


@functools.cache
def _loop() -> Callable[[Any], Any]:
    return run_until_complete()


@functools.cache
def _async_client() -> Any:
    import redis.asyncio

    return redis.asyncio.Redis(port=port())


@functools.cache
def _async_ours() -> Any:
    from cachebox import AsyncDistributedCache

    cache = AsyncDistributedCache(redis_port=port(), max_size=1)
    _loop()(cache.set_many(dict.fromkeys(KEYS, VALUE)))
    return cache


@functools.cache
def _async_peers() -> dict[str, Any]:
    """The installed peers, by name."""
    found: dict[str, Any] = {}
    if peers.have(CASHEWS):
        import cashews

        found[CASHEWS] = cache = cashews.Cache()
        cache.setup(f"redis://localhost:{port()}", client_side=False)
        _loop()(cache.set_many(dict.fromkeys(KEYS, VALUE)))
    if peers.have(AIOCACHE):
        from aiocache.backends.redis import RedisCache
        from aiocache.serializers import JsonSerializer

        found[AIOCACHE] = cache = RedisCache(port=port(), namespace="aio", serializer=JsonSerializer())
        _loop()(cache.multi_set([(key, VALUE) for key in KEYS]))
    return found


def async_gets() -> list[Candidate]:
    statements: dict[str, tuple[str, dict[str, Any]]] = {
        REDIS: ("loads(await client.get('plain:' + key))", {"client": _async_client(), "loads": json.loads}),
        OURS: ("await cache.get(key)", {"cache": _async_ours()}),
    }
    for name, cache in _async_peers().items():
        statements[name] = ("await cache.get(key)", {"cache": cache})
    batches = shuffled(KEYS, batch=200)
    return [async_candidate(name, batches, text, run=_loop(), **names) for name, (text, names) in statements.items()]


def async_many_gets() -> list[Candidate]:
    names = [f"plain:{key}" for key in KEYS]
    statements: dict[str, tuple[str, dict[str, Any]]] = {
        REDIS: (
            "[loads(value) for value in await client.mget(names)]",
            {"client": _async_client(), "names": names, "loads": json.loads},
        ),
        OURS: ("await cache.get_many(keys)", {"cache": _async_ours(), "keys": KEYS}),
    }
    spelt = {CASHEWS: "await cache.get_many(*keys)", AIOCACHE: "await cache.multi_get(keys)"}
    for name, cache in _async_peers().items():
        statements[name] = (spelt[name], {"cache": cache, "keys": KEYS})
    return [async_candidate(name, [[None]], text, run=_loop(), **given) for name, (text, given) in statements.items()]
