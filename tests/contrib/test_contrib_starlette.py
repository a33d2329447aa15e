"""The cache of responses, driven by hand as an ASGI server would; it needs no framework."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from cachebox import AsyncDistributedCache, Cache, DistributedCache
from cachebox.contrib.starlette import ResponseCache


class App:
    """An application that counts its calls, and gives the response that the test wants."""

    def __init__(self, *bodies, status=200, headers=()):
        self.bodies = bodies or (b"hello",)
        self.status = status
        self.headers = [(name.encode(), value.encode()) for name, value in headers]
        self.calls = 0

    async def __call__(self, scope, receive, send):
        self.calls += 1
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        for body in self.bodies[:-1]:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": self.bodies[-1]})


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


class Response:
    def __init__(self, messages):
        start, *bodies = messages
        assert [start["type"], *{body["type"] for body in bodies}] == ["http.response.start", "http.response.body"]
        assert not bodies[-1].get("more_body")
        self.status = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        self.pieces = len(bodies)
        self.body = b"".join(body["body"] for body in bodies)

    def __eq__(self, other):
        return (self.status, self.body) == other


async def ask(cached, target="/", method="GET", host="here", **headers):
    path, _, query = target.partition("?")
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        await asyncio.Event().wait()        # Starlette waits here for the client to go away

    raw = [(b"host", host.encode())]
    raw += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "scheme": "http", "path": path, "query_string": query.encode()}
    await cached({**scope, "raw_path": path.encode(), "headers": raw}, receive, send)
    return Response(sent)


def get(cached, *arguments, **headers):
    return asyncio.run(ask(cached, *arguments, **headers))


@pytest.mark.parametrize("kind", ["cache", "blocking", "async"])
def test_over_each_kind_of_cache(kind, tmp_path):
    app, clock = App(b"\xff\x00body", headers=[("x-a", "1")]), Clock()

    async def main():
        cache = {
            "cache": lambda: Cache(10),
            "blocking": lambda: DistributedCache(url=tmp_path.as_uri()),
            "async": lambda: AsyncDistributedCache(url=tmp_path.as_uri()),
        }[kind]()
        cached = ResponseCache(app, cache=cache, ttl=60, clock=clock)
        first = await ask(cached, "/a")
        clock.now += 7
        second = await ask(cached, "/a")
        assert first == second == (200, b"\xff\x00body") and app.calls == 1
        assert "age" not in first.headers and second.headers == {**first.headers, "age": "7"}
        assert second.headers["x-a"] == "1" and second.headers["etag"][0] == second.headers["etag"][-1] == '"'
        not_modified = await ask(cached, "/a", if_none_match=first.headers["etag"])
        assert not_modified == (304, b"") and app.calls == 1
        await ask(cached, "/a", method="POST")
        await ask(cached, "/a")
        assert app.calls == 3
        closed = cache.close()
        if closed is not None:
            await closed

    asyncio.run(main())


def test_what_belongs_to_the_key():
    app = App()
    cached = ResponseCache(app, ttl=60, headers=("Accept", "X-Mine"))
    different = [
        dict(), dict(target="/b"), dict(target="/?q=1"), dict(target="/?q=2"), dict(method="HEAD"), dict(host="there"),
        dict(accept="text/html"), dict(accept="text/plain"), dict(x_mine="1"), dict(target="/a%2Fb"),
        dict(target="/a/b"),
    ]
    for _ in range(2):
        for asked in different:
            get(cached, **asked)
        assert app.calls == len(different)
    get(cached, x_other="1")
    assert app.calls == len(different)


def calls_of_two(app, clock=None, asked=(), later=0.0, **options):
    """How often an application is called for two requests, with `later` seconds between them."""
    clock = clock or Clock()
    cached = ResponseCache(app, cache=Cache(10, clock=clock), clock=clock, **options)
    before = app.calls
    get(cached, **dict(asked))
    clock.now += later
    get(cached, **dict(asked))
    return app.calls - before


@pytest.mark.parametrize(
    ("headers", "fresh", "stale"),
    [
        ({}, 59, 61),
        ({"cache-control": "max-age=10"}, 9, 11),
        ({"Cache-Control": "public, MAX-AGE=10"}, 9, 11),
        ({"cache-control": "s-maxage=5, max-age=10"}, 4, 6),
        ({"cache-control": 'max-age="10"'}, 9, 11),
        ({"cache-control": "max-age=10", "age": "4"}, 5, 7),
        ({"expires": "Mon, 12 Jan 1970 13:46:50 GMT"}, 9, 11),      # the clock begins at 13:46:40
        ({"cache-control": "max-age=10", "expires": "0"}, 9, 11),
    ],
)
def test_how_long_a_response_is_fresh(headers, fresh, stale):
    app = App(headers=headers.items())
    assert calls_of_two(app, ttl=60, later=fresh) == 1
    assert calls_of_two(app, ttl=60, later=stale) == 2


@pytest.mark.parametrize(
    "headers",
    [
        {"cache-control": "no-store"}, {"cache-control": "no-cache"}, {"cache-control": "max-age=60, private"},
        {"cache-control": "max-age=0"}, {"cache-control": "max-age=soon"}, {"cache-control": "s-maxage=0, max-age=60"},
        {"cache-control": 'no-cache="set-cookie"'}, {"set-cookie": "a=1"}, {"vary": "*"}, {"vary": "Accept, Cookie"},
        {"expires": "0"}, {"expires": "Mon, 12 Jan 1970 13:46:40 GMT"}, {"cache-control": "max-age=10", "age": "10"},
    ],
)
def test_responses_that_are_not_stored(headers):
    assert calls_of_two(App(headers=headers.items()), ttl=60) == 2


def test_which_responses_are_stored():
    assert calls_of_two(App(headers=[("vary", "Accept"), ("vary", "accept-encoding,")]), ttl=60) == 1
    for status, expected in [(200, 1), (301, 1), (404, 1), (302, 2), (201, 2), (206, 2), (304, 2), (401, 2), (500, 2)]:
        assert calls_of_two(App(status=status), ttl=60) == expected, status
    assert calls_of_two(App()) == 2, "without `ttl`, only those that say how long"
    assert calls_of_two(App(headers=[("cache-control", "max-age=5")])) == 1


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"cache_control": "no-store"}, 2), ({"cache_control": "no-cache"}, 2), ({"cache_control": "max-age=0"}, 2),
        ({"cache_control": "max-age=5"}, 2), ({"cache_control": "max-age=30"}, 1), ({"range": "bytes=0-1"}, 2),
        ({"authorization": "Basic x"}, 2), ({"content_length": "5"}, 2), ({"content_length": "0"}, 1), ({}, 1),
    ],
)
def test_what_a_request_asks_for(asked, expected):
    assert calls_of_two(App(), asked=asked, later=10, ttl=60) == expected


def test_a_request_without_the_cache_renews_it_or_leaves_it_alone():
    app = App()
    cached = ResponseCache(app, ttl=60)
    get(cached, cache_control="no-store")
    assert get(cached) == (200, b"hello") and app.calls == 2
    app.bodies = (b"new",)
    assert get(cached, authorization="x") == (200, b"new") and get(cached) == (200, b"hello")
    assert get(cached, cache_control="no-cache") == (200, b"new") == get(cached) and app.calls == 4


def test_private_responses_are_for_each_user_alone():
    for headers in ([("set-cookie", "a=1")], [("cache-control", "private, max-age=60")], [("vary", "Cookie")]):
        app = App(headers=headers)
        cached = ResponseCache(app, ttl=60, private=True)
        users = [dict(authorization="a"), dict(authorization="b"), dict(cookie="a"), dict(cookie="b"), dict()]
        for _ in range(2):
            for user in users:
                get(cached, **user)
        assert app.calls == len(users)


def test_entity_tags():
    app = App(headers=[("ETag", 'W/"1,2"'), ("content-length", "5"), ("Cache-Control", "max-age=9")])
    cached = ResponseCache(app)
    for asked, status in [('"x", "1,2"', 304), ('W/"1,2"', 304), ("*", 304), ('"1"', 200), ("1,2", 200), ("", 200)]:
        fresh = get(ResponseCache(app), if_none_match=asked)
        get(cached)
        stored = get(cached, if_none_match=asked)
        assert fresh.status == stored.status == status, asked
        assert fresh.headers["ETag"] == stored.headers["ETag"] == 'W/"1,2"' and stored.headers["age"] == "0"
        if status == 304:
            assert "content-length" not in fresh.headers and fresh.headers["Cache-Control"] == "max-age=9"
    made = [get(ResponseCache(App(body), ttl=60)).headers["etag"] for body in (b"a", b"b", b"a")]
    assert made[0] == made[2] != made[1]
    assert "etag" not in get(ResponseCache(App(b""), ttl=60), method="HEAD").headers, "it would be that of no body"
    assert "etag" not in get(ResponseCache(App(status=404), ttl=60)).headers


def test_bodies_in_pieces_go_on_at_once_and_are_stored_up_to_a_bound():
    seen = []

    class Slow(App):
        async def __call__(self, scope, receive, send):
            async def watched(message):
                await send(message)
                seen.append(message)

            await super().__call__(scope, receive, watched)

    app = Slow(b"one ", b"two ", b"three")
    cached = ResponseCache(app, ttl=60)
    first, second = get(cached), get(cached)
    assert first == second == (200, b"one two three") and (first.pieces, second.pieces) == (3, 1) and app.calls == 1
    assert "etag" in second.headers
    for most, calls in [(13, 1), (12, 2), (5, 2), (0, 2)]:
        app = App(b"one ", b"two ", b"three")
        cached = ResponseCache(app, ttl=60, max_body=most)
        assert get(cached) == get(cached) == (200, b"one two three") and app.calls == calls
    cached = ResponseCache(App(b"too long"), ttl=60, max_body=4)
    assert get(cached) == (200, b"too long")


def test_a_piece_is_sent_before_the_next_one_is_made():
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(3):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            assert len(sent) == number + 2
        raise RuntimeError("broken off")

    async def send(message):
        sent.append(message)

    cache = Cache(10)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    with pytest.raises(RuntimeError, match="broken off"):
        asyncio.run(ResponseCache(app, cache=cache, ttl=60)(scope, None, send))
    assert len(cache) == 0


def test_messages_of_extensions_pass():
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": "/file"})

    async def send(message):
        sent.append(message["type"])

    cache = Cache(10)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    asyncio.run(ResponseCache(app, cache=cache, ttl=60)(scope, None, send))
    assert sent == ["http.response.start", "http.response.pathsend"] and len(cache) == 0


def test_it_is_stored_before_the_application_is_done_in_the_background():
    cache, held = Cache(10), []

    class Background(App):
        async def __call__(self, scope, receive, send):
            await super().__call__(scope, receive, send)
            held.append(len(cache))

    get(ResponseCache(Background(), cache=cache, ttl=60))
    assert held == [1]


@pytest.mark.parametrize(
    ("method", "status", "calls"), [("POST", 200, 3), ("DELETE", 303, 3), ("PUT", 500, 2), ("OPTIONS", 200, 2)]
)
def test_changes_drop_what_is_stored_for_the_path(method, status, calls):
    app = App()
    cached = ResponseCache(app, ttl=60)
    get(cached, "/a?q=1")
    app.status = status
    get(cached, "/a", method=method)
    app.status = 200
    get(cached, "/a?q=1")
    assert app.calls == calls


def test_tags():
    cache, app = Cache(10), App()
    for tags in ("all", ["all", "b"], lambda scope: ["all", scope["path"]]):
        get(ResponseCache(app, cache=cache, ttl=60, tags=tags), "/a")
        assert len(cache) == 1 and cache.invalidate_tag("all") == 1 and len(cache) == 0


def test_other_scopes_pass():
    passed = []

    async def app(scope, receive, send):
        passed.append((scope["type"], receive, send))

    for kind in ("lifespan", "websocket"):
        asyncio.run(ResponseCache(app, ttl=60)({"type": kind}, 1, 2))
    assert passed == [("lifespan", 1, 2), ("websocket", 1, 2)]


def test_a_cache_that_fails_is_logged_once_and_requests_go_on(caplog):
    class Broken(Cache):
        is_broken = True

        def set(self, *arguments, **options):
            if self.is_broken:
                raise OSError("no room")
            super().set(*arguments, **options)

    app, cache = App(), Broken(10)
    cached = ResponseCache(app, cache=cache, ttl=60)
    with caplog.at_level(logging.WARNING, "cachebox"):
        assert get(cached) == get(cached) == (200, b"hello") and app.calls == 2
        cache.is_broken = False
        assert get(cached) == get(cached) == (200, b"hello") and app.calls == 3
    assert [record.getMessage().rpartition(" ")[2] for record in caplog.records] == ["it", "again"]


def test_a_blocking_cache_is_called_in_other_threads(tmp_path):
    threads = set()

    class Watched(DistributedCache):
        def get(self, *arguments):
            threads.add(threading.current_thread())
            return super().get(*arguments)

    with Watched(url=tmp_path.as_uri()) as cache:
        get(ResponseCache(App(), cache=cache, ttl=60))
    assert threads and threading.current_thread() not in threads


def test_bad_arguments():
    with pytest.raises(ValueError, match="ttl must be more than 0"):
        ResponseCache(App(), ttl=0)
    with pytest.raises(TypeError, match="headers must be an iterable"):
        ResponseCache(App(), headers="accept")


def test_under_starlette():
    pytest.importorskip("starlette", reason="starlette is not installed: it is in the group `frameworks`")
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Route

    calls = []

    async def rows(request):
        calls.append(request.url.path)
        return JSONResponse({"n": len(calls)})

    async def stream(request):
        calls.append(request.url.path)

        async def pieces():
            for piece in ("a", "b"):
                yield piece

        return StreamingResponse(pieces())

    app = Starlette(
        routes=[Route("/rows", rows), Route("/stream", stream)], middleware=[Middleware(ResponseCache, ttl=60)]
    )

    async def main():
        for _ in range(2):
            found = await ask(app, "/rows")
            assert found == (200, b'{"n":1}') and found.headers["content-type"] == "application/json"
            assert await ask(app, "/stream") == (200, b"ab")
        assert calls == ["/rows", "/stream"]

    asyncio.run(main())
