"""The stores for Litestar and py-key-value: over a folder, by their own protocols, and in an application."""

from __future__ import annotations

import asyncio
import inspect
import sys

import pytest

from cachebox import AsyncDistributedCache
from cachebox.contrib.aiostore import KeyValueStore, LitestarStore

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no folders on Windows yet")


def over_a_folder(test):
    """Run a coroutine function with a cache."""

    async def main():
        async with AsyncDistributedCache(url="memory://") as cache:
            await test(cache)

    asyncio.run(main())


def test_litestar_store():
    async def test(cache):
        store = LitestarStore(cache)
        assert await store.get("a") is None and not await store.exists("a") and await store.expires_in("a") is None
        await store.set("a", "text")
        await store.set("b", b"\x00\xff", expires_in=100)
        assert (await store.get("a"), await store.get("b")) == (b"text", b"\x00\xff")
        assert await store.expires_in("a") is None and 95 <= await store.expires_in("b") <= 100
        await store.get("b", renew_for=1000)
        await store.get("a", renew_for=1000)    # it had no end, and has none
        assert 995 <= await store.expires_in("b") <= 1000 and await store.expires_in("a") is None
        await store.delete("a")
        await store.delete("a")
        assert await store.exists("b") and not await store.exists("a")
        await store.delete_all()
        assert not await store.exists("b")
        async with store as entered:
            assert entered is None

    over_a_folder(test)


def test_key_value_store():
    async def test(cache):
        store = KeyValueStore(cache)
        await store.put("k", {"n": 1})
        await store.put("k", {"n": 2}, collection="c", ttl=100)
        assert (await store.get("k"), await store.get("k", collection="c")) == ({"n": 1}, {"n": 2})
        value, left = await store.ttl("k", collection="c")
        assert value == {"n": 2} and 95 <= left <= 100
        assert await store.ttl("k") == ({"n": 1}, None) and await store.ttl("none") == (None, None)
        await store.put_many(["x", "y"], [{"a": []}, {"b": "text"}], collection="c")
        assert await store.get_many(["y", "none", "x"], collection="c") == [{"b": "text"}, None, {"a": []}]
        assert await store.delete("x") is False and await store.delete("x", collection="c") is True
        assert await store.delete_many(["y", "x", "k"], collection="c") == 2
        assert await store.get("k") == {"n": 1}
        with pytest.raises(ValueError):
            await store.put_many(["x", "y"], [{}])

    over_a_folder(test)


def test_a_litestar_application_keeps_responses_in_it():
    litestar = pytest.importorskip("litestar", reason="Litestar is not installed: it is in the group `frameworks`")
    base = pytest.importorskip("litestar.stores.base")
    for name, method in inspect.getmembers(base.Store, inspect.isfunction):
        if not name.startswith("__"):
            ours = getattr(LitestarStore, name)
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(method).parameters), name
    from litestar.config.response_cache import ResponseCacheConfig

    calls = []

    @litestar.get("/", cache=60)
    async def home() -> dict[str, int]:
        calls.append("/")
        return {"calls": len(calls)}

    async def ask(application):
        sent = []
        scope = {
            "type": "http", "method": "GET", "path": "/", "raw_path": b"/", "root_path": "", "query_string": b"",
            "headers": [], "scheme": "http", "server": ("here", 80), "client": None, "http_version": "1.1", "state": {},
        }

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sent.append(message)

        await application(scope, receive, send)
        return b"".join(message.get("body", b"") for message in sent)

    async def test(cache):
        application = litestar.Litestar(
            [home], stores={"shared": LitestarStore(cache)}, response_cache_config=ResponseCacheConfig(store="shared")
        )
        assert await ask(application) == await ask(application) == b'{"calls":1}'

    over_a_folder(test)


def test_it_is_a_store_of_py_key_value():
    protocols = pytest.importorskip("key_value.aio.protocols", reason="py-key-value-aio is not installed")
    protocol = protocols.AsyncKeyValue

    async def test(cache):
        assert isinstance(KeyValueStore(cache), protocol)
        for name in ("get", "ttl", "put", "delete", "get_many", "ttl_many", "put_many", "delete_many"):
            ours, theirs = (inspect.signature(getattr(each, name)) for each in (KeyValueStore, protocol))
            assert list(ours.parameters) == list(theirs.parameters), name

    over_a_folder(test)
