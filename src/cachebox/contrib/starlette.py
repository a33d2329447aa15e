"""Caching of responses for ASGI applications such as those of Starlette and FastAPI: `ResponseCache`.

It follows RFC 9111, as a shared cache unless ``private=True``, and needs no framework. See ``docs/adapters.md``.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from email.utils import parsedate_to_datetime
from functools import partial
from hashlib import blake2b
from typing import Any, TypeAlias

from cachebox.cache import Cache

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]
Stored: TypeAlias = tuple[int, Headers, bytes, float]       # status, headers, body, when it was made

_STORABLE = frozenset({200, 203, 204, 300, 301, 308, 404, 410, 414})
_IN_NOT_MODIFIED = frozenset({b"cache-control", b"content-location", b"date", b"etag", b"expires", b"vary"})
_DIRECTIVE = re.compile(r'([\w-]+)(?:\s*=\s*(?:"([^"]*)"|([^\s,]*)))?')
_ENTITY_TAG = re.compile(rb'(?:W/)?("[^"]*")')
_log = logging.getLogger("cachebox")


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """All values of a header, in order."""
    return [value for known, value in headers if known.lower() == name]


def _directives(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The directives of Cache-Control: names in lower case, "" for a directive without a value. The first one counts.

    >>> _directives([(b"cache-control", b'no-cache, MAX-AGE="60"')])
    {'no-cache': '', 'max-age': '60'}
    """
    found: dict[str, str] = {}
    for value in _values(headers, b"cache-control"):
        for name, quoted, plain in _DIRECTIVE.findall(value.decode("latin-1")):
            found.setdefault(name.lower(), quoted or plain)
    return found


def _seconds(text: str) -> int:
    """A number of seconds; 0, which is stale at once, for anything else.

    >>> _seconds("60"), _seconds("soon")
    (60, 0)
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0


def _matches(headers: Headers, etags: list[bytes]) -> bool:
    """Whether If-None-Match names the ETag of a response, which is in `etags`."""
    asked = b",".join(_values(headers, b"if-none-match"))
    if asked.strip() == b"*":
        return True
    return any(found in _ENTITY_TAG.findall(asked) for etag in etags for found in _ENTITY_TAG.findall(etag))


class _Exchange:
    """One request whose response may be stored: passes the response on, and keeps a copy of it.

    Nothing is held back: a response in pieces goes on in pieces. A response in one piece gets an ETag, and becomes a
    304 if the client has it already.
    """

    def __init__(self, owner: ResponseCache, scope: Scope, key: str, request: Headers, send: Send) -> None:
        self._owner = owner
        self._scope = scope
        self._key = key
        self._request = request
        self._send = send
        self._start: Message | None = None              # kept until the first piece of the body decides
        self._status = 0
        self._headers: Headers = ()
        self._pieces: list[bytes] | None = []           # None: it is not stored
        self._size = 0
        self._lifetime = 0.0

    async def send(self, message: Message) -> None:
        """The `send` function for the application, instead of the server's."""
        kind = message["type"]
        if kind == "http.response.start":
            self._begin(message)
            if self._pieces is not None:
                self._start = message
                return
        elif kind == "http.response.body" and self._pieces is not None:
            if await self._body(message):
                return
        else:
            self._pieces = None                         # an extension of ASGI: a file, a push
            await self._release()
        await self._send(message)

    async def _release(self) -> None:
        start, self._start = self._start, None
        if start is not None:
            await self._send(start)

    def _begin(self, message: Message) -> None:
        self._status = message["status"]
        self._headers = tuple((bytes(name), bytes(value)) for name, value in message.get("headers", ()))
        self._lifetime = self._owner._lifetime(self._status, self._headers)
        if not self._lifetime > 0 or message.get("trailers"):
            self._pieces = None

    async def _body(self, message: Message) -> bool:
        """Keep one piece. Returns whether the piece was sent."""
        assert self._pieces is not None
        body, more = bytes(message.get("body", b"")), message.get("more_body", False)
        self._size += len(body)
        if self._size > self._owner._max_body:
            self._pieces = None
            await self._release()
            return False
        self._pieces.append(body)
        if more:
            await self._release()
            return False
        whole = b"".join(self._pieces)
        if self._scope["method"] == "GET" and self._status == 200 and not _values(self._headers, b"etag"):
            etag = b'"%s"' % blake2b(whole, digest_size=16).hexdigest().encode()
            self._headers = (*self._headers, (b"etag", etag))
        age = _seconds(b"".join(_values(self._headers, b"age")[:1]).decode("latin-1"))
        headers = tuple((name, value) for name, value in self._headers if name.lower() != b"age")
        stored: Stored = self._status, headers, whole, self._owner._clock() - age
        self._pieces = None
        if self._start is None:
            await self._send(message)
        else:
            self._start = None
            await _answer(stored, age if age else None, self._request, self._send)
        # Stored here, not when the application returns, because its background tasks may take long.
        await self._owner._store(self._scope, self._key, stored, self._lifetime)
        return True


async def _answer(stored: Stored, age: int | None, request: Headers, send: Send) -> None:
    """Send a complete response, or 304 if the client has it."""
    status, headers, body, _ = stored
    if status == 200 and _matches(request, _values(headers, b"etag")):
        status, body = 304, b""
        headers = tuple((name, value) for name, value in headers if name.lower() in _IN_NOT_MODIFIED)
    if age is not None:
        headers = (*headers, (b"age", b"%d" % age))
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


class ResponseCache:
    """ASGI middleware that stores responses to GET and HEAD, and answers with them as long as they are fresh.

    Args:
        app: the application; ``app.add_middleware(ResponseCache, ttl=60)`` passes it.
        cache: the cache for responses: a `Cache`, an `AsyncDistributedCache`, or a `DistributedCache`, which is called
            in asyncio's threads. It stays open. None: a `Cache` of 64 MB.
        ttl: seconds for which a response is fresh that has no ``s-maxage``, ``max-age`` or ``Expires``; None: such
            responses are not stored.
        headers: the names of request headers that belong to the key, in addition to method, scheme, host, path and
            query. A response whose ``Vary`` names another header is not stored.
        tags: tags of the responses for the cache's `invalidate_tag`: an iterable of str, or a callable that returns one
            for the scope of the request; None: none.
        private: False: requests with Authorization are passed on, and responses that set cookies or are ``private`` are
            not stored. True: they are stored, separately for each value of Authorization and Cookie.
        max_body: the most bytes of a body that is stored, an int.
        clock: returns the time in seconds since the epoch, for ``Age``.

    A successful POST, PUT, PATCH or DELETE drops the responses stored for its path. A failing cache is logged, and the
    request goes on without it. Safe for any number of tasks; if several miss at once, each runs the application.

    >>> from cachebox import Cache
    >>> app = ResponseCache(lambda scope, receive, send: ..., cache=Cache(100), ttl=60)
    """

    def __init__(
        self,
        app: Application,
        cache: Any = None,
        ttl: float | None = None,
        headers: Iterable[str] = ("accept", "accept-encoding"),
        tags: Iterable[str] | Callable[[Scope], Iterable[str]] | None = None,
        private: bool = False,
        *,
        max_body: int = 1_000_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if ttl is not None and not ttl > 0:
            raise ValueError(f"ttl must be more than 0 seconds or None, not {ttl!r}")
        if isinstance(headers, str):
            raise TypeError(f"headers must be an iterable of names, not the str {headers!r}")
        if inspect.iscoroutinefunction(tags):
            raise TypeError("tags must be a plain function, not an async one: nobody would await what it returns")
        self.app = app
        self._cache = Cache(None, max_bytes="64MB") if cache is None else cache
        self._ttl = ttl
        names = {name.lower().encode("latin-1") for name in headers}
        self._names = sorted(names | {b"authorization", b"cookie"} if private else names)
        self._tags: Any = tags if callable(tags) else (tags,) if isinstance(tags, str) else tuple(tags or ())
        self._private = private
        self._max_body = max_body
        self._clock = clock
        self._waits = not isinstance(self._cache, Cache)
        self._is_async = inspect.iscoroutinefunction(self._cache.set)
        self._failing = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, from the cache or from the application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] not in ("GET", "HEAD"):
            await self._unsafe(scope, receive, send)
            return
        request: Headers = tuple((bytes(name), bytes(value)) for name, value in scope["headers"])
        asked = _directives(request)
        if self._passes(request, asked):
            await self.app(scope, receive, send)
            return
        key = self._key(scope, request)
        if "no-cache" not in asked:
            stored: Stored | None = await self._ask("get", key)
            if stored is not None:
                age = max(0, int(self._clock() - stored[3]))
                if "max-age" not in asked or age < _seconds(asked["max-age"]):
                    await _answer(stored, age, request, send)
                    return
        await self.app(scope, receive, _Exchange(self, scope, key, request, send).send)

    async def _store(self, scope: Scope, key: str, stored: Stored, lifetime: float) -> None:
        tags = self._tags(scope) if callable(self._tags) else self._tags
        await self._ask("set", key, stored, lifetime, tags=(_path_tag(scope), *tags))

    async def _unsafe(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; if it succeeds, drop the responses stored for the path."""
        succeeded = False

        async def watched(message: Message) -> None:
            nonlocal succeeded
            if message["type"] == "http.response.start":
                succeeded = 200 <= message["status"] < 400 and scope["method"] not in ("OPTIONS", "TRACE")
                if succeeded:
                    await self._ask("invalidate_tag", _path_tag(scope))     # before the client can see the change
            await send(message)

        await self.app(scope, receive, watched)
        if succeeded:
            # responses that others have stored meanwhile
            await self._ask("invalidate_tag", _path_tag(scope))

    def _passes(self, request: Headers, asked: dict[str, str]) -> bool:
        """Whether a request bypasses the cache."""
        present = {name.lower() for name, _ in request}
        return (
            "no-store" in asked
            or not present.isdisjoint((b"range", b"transfer-encoding"))
            or any(value != b"0" for value in _values(request, b"content-length"))
            or (not self._private and b"authorization" in present)
        )

    def _key(self, scope: Scope, request: Headers) -> str:
        """A str that identifies a request: its method, the path, and a digest of everything."""
        chosen = [(name, _values(request, name)) for name in self._names]
        host, path = _values(request, b"host"), _path(scope)
        told = repr((scope.get("scheme", "http"), host, path, scope.get("query_string", b""), chosen))
        return f"{scope['method']} {path[:200]} {blake2b(told.encode(), digest_size=20).hexdigest()}"

    def _lifetime(self, status: int, headers: Headers) -> float:
        """Seconds for which a response is fresh; 0: it is not stored."""
        said = _directives(headers)
        private = self._private
        varies = {name.strip().lower() for value in _values(headers, b"vary") for name in value.split(b",")} - {b""}
        if (
            status not in _STORABLE
            or not said.keys().isdisjoint(("no-store", "no-cache"))
            or (not private and ("private" in said or _values(headers, b"set-cookie")))
            or not varies <= set(self._names)
        ):
            return 0.0
        age = _seconds(b"".join(_values(headers, b"age")[:1]).decode("latin-1"))
        for name in ("max-age",) if private else ("s-maxage", "max-age"):
            if name in said:
                return _seconds(said[name]) - age
        expires = _values(headers, b"expires")
        if expires:
            try:
                return parsedate_to_datetime(expires[0].decode("latin-1")).timestamp() - self._clock()
            except (ValueError, OverflowError):
                return 0.0
        return 0.0 if self._ttl is None else self._ttl

    async def _ask(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the cache. Returns None if it fails, because a response needs no cache."""
        call = partial(getattr(self._cache, name), *arguments, **options)
        try:
            if self._is_async:
                found = await call()
            elif self._waits:
                found = await asyncio.to_thread(call)
            else:
                found = call()
        except Exception:
            if not self._failing:
                _log.warning("the cache of responses fails; requests go on without it", exc_info=True)
            self._failing = True
            return None
        if self._failing and name != "get":         # lookups do not prove that the server is back
            _log.warning("the cache of responses works again")
            self._failing = False
        return found


def _path(scope: Scope) -> str:
    """The path as the client sent it, because ``/a%2Fb`` is not ``/a/b``."""
    raw = scope.get("raw_path")
    return raw.decode("latin-1") if raw else str(scope["path"])


def _path_tag(scope: Scope) -> str:
    return "path " + _path(scope)
