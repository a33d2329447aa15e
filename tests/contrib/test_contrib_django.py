"""The cache backend for Django, in the process and over a folder."""

from __future__ import annotations

import asyncio
import math
import threading

import pytest

from cachebox import Cache, DistributedCache

pytest.importorskip("django", reason="Django is not installed: it is in the extra `django`")

from django.conf import settings

if not settings.configured:
    settings.configure(SECRET_KEY="of the tests")

from django.core.cache import CacheHandler
from django.core.cache.backends.base import CacheKeyWarning

from cachebox.contrib import django as backend


def configured(location, options=None, **more):
    return {"BACKEND": "cachebox.contrib.django.CacheBoxCache", "LOCATION": location, "OPTIONS": options or {}, **more}


@pytest.fixture(autouse=True)
def _nothing_shared():
    yield
    for cache in backend._shared.values():
        cache.close()
    backend._shared.clear()


@pytest.fixture(params=["process", "folder"])
def location(request, tmp_path):
    return "" if request.param == "process" else tmp_path.as_uri()


@pytest.fixture
def cache(location):
    return CacheHandler({"default": configured(location)})["default"]


def test_one_key(cache):
    assert cache.get("a") is None and cache.get("a", 3) == 3 and not cache.has_key("a") and "a" not in cache
    cache.set("a", {"rows": [1, 2]})
    assert cache.get("a") == {"rows": [1, 2]} and "a" in cache
    assert cache.delete("a") is True and cache.delete("a") is False


def test_none_is_a_value(cache):
    cache.set("a", None)
    assert cache.get("a", 3) is None and cache.has_key("a") and not cache.add("a", 1)
    assert cache.get_or_set("a", lambda: 1) is None


def test_lookups_return_values_of_their_own(cache):
    rows = [1]
    cache.set("a", rows)
    rows.append(2)
    cache.get("a").append(3)
    cache.get_many(["a"])["a"].append(4)
    cache.get_or_set("a", list).append(5)
    assert cache.get("a") == [1]


def test_what_cannot_be_pickled_is_refused(cache):
    with pytest.raises(Exception, match=r"lambda|pickle"):
        cache.set("a", lambda: 1)
    assert cache.get("a", 3) == 3


def test_add(cache):
    assert cache.add("a", 1) is True and cache.add("a", 2) is False and cache.get("a") == 1


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_timeout_of_nothing_stores_nothing(cache, timeout):
    for key in "abc":
        cache.set(key, 1)
    cache.set("a", 2, timeout)
    assert cache.add("b", 2, timeout) is False and cache.add("new", 2, timeout) is True
    assert cache.touch("b", timeout) is True and cache.touch("b", timeout) is False
    assert cache.set_many({"c": 2, "d": 2}, timeout) == []
    assert cache.get_or_set("e", lambda: 7, timeout) == 7
    assert cache.get_many(["a", "b", "c", "d", "e", "new"]) == {}


def left(cache, key):
    """Seconds that a key of the default version lives on."""
    return cache._cache.ttl(cache.make_key(key))


def test_timeouts(cache):
    cache.set("a", 1)
    assert 200 < left(cache, "a") <= 300
    cache.set("a", 1, None)
    assert left(cache, "a") is None
    cache.set("a", 1, 5000)
    assert 4000 < left(cache, "a") <= 5000
    assert cache.touch("a") and 200 < left(cache, "a") <= 300
    assert cache.touch("a", None) and left(cache, "a") is None
    assert cache.incr("a") == 2 and left(cache, "a") is None
    assert not cache.touch("absent")
    cache.set_many({"b": 1}, 5000)
    assert 4000 < left(cache, "b") <= 5000
    cache.get_or_set("c", 1, None)
    assert left(cache, "c") is None


@pytest.mark.parametrize(("setting", "expected"), [(None, math.inf), (60, 60), (0, None)])
def test_the_timeout_of_the_settings(location, setting, expected):
    cache = CacheHandler({"default": configured(location, TIMEOUT=setting)})["default"]
    cache.set("a", 1)
    if expected is None:
        assert not cache.has_key("a")
    else:
        assert left(cache, "a") == (None if expected == math.inf else pytest.approx(expected, abs=50))


def test_incr_and_decr(cache):
    for call in (cache.incr, cache.decr):
        with pytest.raises(ValueError, match="'n' not found"):
            call("n")
    cache.set("n", 41)
    assert cache.incr("n") == 42 and cache.incr("n", 10) == 52 and cache.decr("n") == 51 and cache.decr("n", 11) == 40
    assert cache.incr("n", -10) == 30 == cache.get("n")


def test_incr_is_one_step_over_all_threads(cache):
    cache.set("n", 0)
    threads = [threading.Thread(target=lambda: [cache.incr("n") for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.get("n") == 200


def test_many(cache):
    assert cache.set_many({"a": 1, "b": 2, "c": 3}) == []
    assert cache.get_many(iter(["a", "c", "x"])) == {"a": 1, "c": 3}
    cache.delete_many(iter(["a", "b", "x"]))
    assert cache.get_many(["a", "b", "c"]) == {"c": 3}


def test_get_or_set(cache):
    assert cache.get_or_set("a", lambda: 1) == 1 and cache.get_or_set("a", lambda: 2) == 1
    assert cache.get_or_set("b", 5) == 5 == cache.get("b")
    assert cache.get_or_set("c", None) is None and cache.has_key("c")


def test_versions(cache):
    cache.set("a", 1)
    cache.set("a", 2, version=2)
    assert (cache.get("a"), cache.get("a", version=1), cache.get("a", version=2)) == (1, 1, 2)
    assert cache.get_many(["a"], version=2) == {"a": 2} and cache.incr("a", version=2) == 3
    assert cache.delete("a", version=2) and not cache.has_key("a", version=2) and cache.has_key("a")
    assert cache.incr_version("a") == 2 and cache.get("a") is None and cache.get("a", version=2) == 1
    assert cache.decr_version("a", version=2) == 1 and cache.get("a") == 1


def test_prefixes_tell_the_keys_of_two_sites_apart(location):
    caches = CacheHandler({name: configured(location, KEY_PREFIX=name) for name in ("default", "other")})
    caches["default"].set("a", 1)
    assert caches["other"].get("a") is None
    caches["other"].set("a", 2)
    assert caches["default"].get("a") == 1


def test_a_function_for_keys(location):
    named = configured(location, KEY_FUNCTION=lambda key, prefix, version: f"mine-{key}")
    cache = CacheHandler({"default": named})["default"]
    cache.set("a", 1)
    assert cache._cache.contains("mine-a") and cache.get_many(["a"]) == {"a": 1}


@pytest.mark.parametrize("key", ["with space", "x" * 300, "control\x7f"])
def test_keys_that_memcached_would_refuse_are_warned_of(cache, key):
    with pytest.warns(CacheKeyWarning):
        cache.set(key, 1)
    with pytest.warns(CacheKeyWarning):
        assert cache.get_many([key]) == {key: 1}


def test_clear(cache):
    cache.set_many({"a": 1, "b": 2})
    cache.clear()
    assert cache.get_many(["a", "b"]) == {}


def test_entries_outlive_the_request_and_the_thread(location):
    caches = CacheHandler({"default": configured(location)})
    seen = []

    def in_thread():
        caches["default"].set("a", 1)
        seen.append(caches["default"])
        caches["default"].close()

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert caches["default"] is not seen[0] and caches["default"].get("a") == 1


def test_other_options_are_another_cache():
    caches = CacheHandler({"default": configured(""), "other": configured("", {"name": "django, other"})})
    caches["default"].set("a", 1)
    assert caches["other"].get("a") is None


def test_options_go_to_the_cache(tmp_path):
    options = {"MAX_ENTRIES": 2, "CULL_FREQUENCY": 3, "policy": "FIFO"}
    small = CacheHandler({"default": configured("", options)})["default"]
    for key in "abc":
        small.set(key, 1)
    assert isinstance(small._cache, Cache) and small._cache.max_size == 2 and small._cache.policy == "FIFO"
    assert small.get_many("abc") == {"b": 1, "c": 1}
    with pytest.raises(TypeError, match="polizy"):
        CacheHandler({"default": configured("", {"polizy": "LRU"})})["default"]
    with pytest.raises(ValueError, match="url must begin with"):
        CacheHandler({"default": configured("somewhere")})["default"]


def test_values_on_the_disk_are_signed(tmp_path):
    def at(**options):
        return CacheHandler({"default": configured(tmp_path.as_uri(), options)})["default"]

    at().set("a", {1, 2})
    assert isinstance(at()._cache, DistributedCache)
    assert at(secret=settings.SECRET_KEY, jitter=0.1).get("a") == {1, 2}, "the default is the secret of the settings"
    assert at(secret="another").get("a") is None
    at(serializer="json", namespace="plain").set("a", {"b": [1]})
    assert at(serializer="json", namespace="plain").get("a") == {"b": [1]}


def test_coroutines(cache):
    async def main():
        await cache.aset("a", [1])
        (await cache.aget("a")).append(2)
        assert await cache.aget("a") == [1] and await cache.ahas_key("a") and not await cache.aadd("a", 1)
        assert await cache.atouch("a", None) and left(cache, "a") is None
        assert await cache.adelete("a") and await cache.aget("a", 3) == 3
        await cache.aset("n", 1, None)
        assert await cache.aincr("n", 4) == 5 and await cache.adecr("n") == 4 and left(cache, "n") is None
        with pytest.raises(ValueError, match="not found"):
            await cache.aincr("absent")
        assert await cache.aset_many({"b": 1, "c": 2}) == [] and await cache.aget_many(["b", "c"]) == {"b": 1, "c": 2}
        await cache.adelete_many(["b"])
        assert await cache.aget_or_set("b", lambda: 7) == 7 == await cache.aget("b")
        await cache.aclear()
        assert await cache.aget_many(["b", "c", "n"]) == {}
        await cache.aclose()

    asyncio.run(main())
