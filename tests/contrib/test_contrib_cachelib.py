"""The cache for cachelib: timeouts, many keys, counters; in the process, in a folder, on a server, without one."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from importlib.util import find_spec

import pytest

from cachebox.contrib.cachelib import CacheBoxCache
from redis_servers import BINARIES, HAS_CLIENT, Server
from second_tiers import BOTH

needs_cachelib = pytest.mark.skipif(find_spec("cachelib") is None, reason="cachelib is not installed")


@pytest.fixture(scope="module")
def server():
    if not BINARIES or not HAS_CLIENT:
        pytest.skip("no server here, or no redis-py: both are in the extra `test`")
    with Server() as server:
        yield server


@pytest.fixture(params=["process", *BOTH])
def make(request, tmp_path):
    """A function that makes a cache, which is closed at the end."""
    made = []
    location = ""
    if request.param == "folder":
        location = (tmp_path / "cache").as_uri()
    if request.param == "server":
        server = request.getfixturevalue("server")
        server.flush()
        location = f"redis://127.0.0.1:{server.port}/0"

    def make(**options):
        if location:
            options.setdefault("timeout", 30)           # machines may be slow
        made.append(CacheBoxCache(location, **options))
        return made[-1]

    yield make
    for cache in made:
        cache.close()


def test_without_cachelib_the_error_says_what_to_install():
    code = """
import sys
sys.modules["cachelib"] = None              # as if it were not installed
from cachebox.contrib.cachelib import CacheBoxCache
try:
    CacheBoxCache()
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("CacheBoxCache needs cachelib: pip install cachelib", "")


@needs_cachelib
def test_it_is_a_cache_of_cachelib(make):
    from cachelib import BaseCache

    assert isinstance(make(), BaseCache)


@needs_cachelib
def test_one_key(make):
    cache = make()
    assert (cache.get("a"), cache.has("a"), cache.delete("a")) == (None, False, False)
    assert (cache.set("a", [1]), cache.get("a"), cache.has("a")) == (True, [1], True)
    assert (cache.add("a", 2), cache.add("b", 2)) == (False, True)
    assert (cache.get("a"), cache.get("b")) == ([1], 2)
    assert (cache.delete("a"), cache.has("a")) == (True, False)
    assert (cache.clear(), cache.has("b")) == (True, False)
    assert (cache.set("none", None), cache.get("none"), cache.has("none")) == (True, None, True)


@needs_cachelib
def test_what_a_lookup_returns_may_be_changed():
    cache = CacheBoxCache()
    stored = {"cart": []}
    cache.set("session", stored)
    stored["cart"].append("stored")
    cache.get("session")["cart"].append("read")
    assert cache.get("session") == {"cart": []}


@needs_cachelib
def test_many_keys(make):
    cache = make()
    assert cache.set_many({"a": 1, "b": 2}) == ["a", "b"]
    assert cache.get_many("b", "x", "a") == [2, None, 1]
    assert cache.get_dict("b", "x") == {"b": 2, "x": None}
    assert cache.delete_many("a", "x") == ["a", "x"]
    assert cache.get_many("a", "b") == [None, 2]
    assert (cache.get_many(), cache.set_many({}), cache.delete_many()) == ([], [], [])


@needs_cachelib
def test_timeouts(make):
    cache = make(default_timeout=9000)
    lifetimes = {"default": None, "ever": 0, "own": 6000, "delta": timedelta(milliseconds=2_999_001)}
    for key, timeout in lifetimes.items():
        assert cache.set(key, 1, timeout)
        assert cache.add("added " + key, 1, timeout)
    for added in "", "added ":
        left = {key: cache._cache.ttl(added + key) for key in lifetimes}
        assert left.pop("ever") is None
        assert 2000 < left["delta"] <= 3000 < left["own"] <= 6000 < left["default"] <= 9000


@needs_cachelib
@pytest.mark.parametrize("default", [0, timedelta(0)])
def test_a_default_timeout_of_0_is_for_ever(make, default):
    cache = make(default_timeout=default)
    cache.set("a", 1)
    cache.inc("n")
    assert (cache._cache.ttl("a"), cache._cache.ttl("n")) == (None, None)


@needs_cachelib
def test_a_negative_timeout_has_ended_already(make):
    cache = make()
    cache.set("a", 1)
    assert (cache.add("a", 2, -1), cache.add("b", 2, -1)) == (False, True)
    assert (cache.has("a"), cache.has("b")) == (True, False)
    assert (cache.set("a", 2, -1), cache.has("a")) == (True, False)


@needs_cachelib
def test_entries_end():
    now = [0.0]
    cache = CacheBoxCache(default_timeout=10, clock=lambda: now[0])
    cache.set("a", 1)
    cache.set("b", 1, timeout=0)
    now[0] = 10.0
    assert (cache.get_many("a", "b"), cache.has("a"), cache.add("a", 2)) == ([None, 1], False, True)


@needs_cachelib
def test_counters_keep_their_lifetime(make):
    cache = make(default_timeout=100)
    assert (cache.inc("n"), cache.inc("n", 5), cache.dec("n", 2), cache.dec("m")) == (1, 6, 4, -1)
    cache.set("ever", 1, timeout=0)
    assert (cache.inc("ever"), cache._cache.ttl("ever")) == (2, None)
    cache.set("text", "1")
    with pytest.raises(TypeError):
        cache.inc("text")


@needs_cachelib
def test_the_threshold_bounds_what_the_process_holds():
    cache = CacheBoxCache(threshold=2)
    cache.set_many({"a": 1, "b": 2, "c": 3})
    assert cache.get_many("a", "b", "c") == [None, 2, 3]


@needs_cachelib
@pytest.mark.skipif("folder" not in BOTH, reason="folders are not for this system")
def test_processes_that_share_a_folder_share_entries(tmp_path):
    url = (tmp_path / "cache").as_uri()
    one, other = CacheBoxCache(url, timeout=30), CacheBoxCache(url, timeout=30)
    one.set("a", {"b": [1]})
    assert other.get("a") == {"b": [1]}
    other.delete("a")
    assert one.get("a") is None
    one.close()
    other.close()


@needs_cachelib
@pytest.mark.skipif(not HAS_CLIENT, reason="redis-py is not installed")
@pytest.mark.parametrize("mode", ["local", "raise"])
def test_a_server_that_is_not_there_fails_no_request(mode):
    cache = CacheBoxCache("redis://127.0.0.1:1/0", timeout=0.2)
    cache._cache._core.is_local = mode == "local"       # "raise" of the constructor would want the server at once
    assert (cache.get("a"), cache.get_many("a"), cache.has("a")) == (None, [None], False)
    assert (cache.set("a", 1), cache.add("a", 1), cache.set_many({"a": 1})) == (False, False, [])
    assert (cache.delete("a"), cache.delete_many("a"), cache.clear()) == (False, [], False)
    assert (cache.inc("a"), cache.dec("a")) == (None, None)
    cache.ignore_delete_many_errors = False
    with pytest.raises(RuntimeError, match="'a'"):
        cache.delete_many("a")
    cache.close()


@needs_cachelib
@pytest.mark.parametrize(
    "options, error",
    [
        ({"location": None}, TypeError),
        ({"location": "nonsense://"}, ValueError),
        ({"threshold": 0}, ValueError),
        ({"default_timeout": -1}, ValueError),
        ({"nonsense": 1}, TypeError),
    ],
)
def test_bad_arguments_are_refused(options, error):
    with pytest.raises(error):
        CacheBoxCache(**options)


@needs_cachelib
@pytest.mark.skipif(find_spec("flask_caching") is None, reason="Flask-Caching is not installed")
def test_flask_caching_takes_it():
    from flask import Flask
    from flask_caching import Cache

    app = Flask("test")
    cache = Cache(app, config={
        "CACHE_TYPE": "cachebox.contrib.cachelib.CacheBoxCache", "CACHE_OPTIONS": {"threshold": 10},
    })
    calls = []

    @cache.memoize(timeout=60)
    def square(x):
        calls.append(x)
        return x * x

    with app.app_context():
        assert [square(3), square(3)] == [9, 9] and calls == [3]
        cache.delete_memoized(square)
        assert square(3) == 9 and calls == [3, 3]


@needs_cachelib
@pytest.mark.skipif(find_spec("flask_session") is None, reason="Flask-Session is not installed")
def test_flask_session_takes_it():
    from flask import Flask, session
    from flask_session import Session

    app = Flask("test")
    app.config.update(SESSION_TYPE="cachelib", SESSION_CACHELIB=CacheBoxCache())
    Session(app)

    @app.get("/")
    def count():
        session["n"] = session.get("n", 0) + 1
        return str(session["n"])

    client = app.test_client()
    assert [client.get("/").text for _ in range(3)] == ["1", "2", "3"]
    assert app.test_client().get("/").text == "1"
