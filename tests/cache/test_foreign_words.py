"""Misspelt and foreign names of arguments, numbers that do not let themselves be converted, other caches as loaders."""

from __future__ import annotations

from collections import ChainMap, defaultdict
from types import MappingProxyType

import pytest

from cachebox import Cache, DistributedCache, cached, lru_cache
from conftest import named


@pytest.mark.parametrize(
    "make, wrong, right",
    [
        (Cache, "maxsize", "max_size"), (Cache, "ttl", "default_ttl"), (Cache, "max_sise", "max_size"),
        (Cache, "getsizeof", "weigher"), (Cache, "timer", "clock"), (Cache, "on_remove", "on_removal"),
        (Cache, "refresh_ahed", "refresh_ahead"), (Cache, "default_tll", "default_ttl"),
        (cached, "maxsize", "max_size"), (cached, "key", "key_func"), (cached, "default_ttl", "ttl"),
        (cached, "timeout", "ttl"), (cached, "conditions", "condition"), (cached, "versio", "version"),
        (lru_cache, "max_size", "maxsize"), (lru_cache, "type", "typed"),
        (DistributedCache, "host", "redis_host"), (DistributedCache, "maxsize", "max_size"),
        (DistributedCache, "prefix", "namespace"), (DistributedCache, "serialiser", "serializer"),
    ],
)
def test_a_wrong_name_is_told_the_right_one(make, wrong, right):
    if make is DistributedCache:
        pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")
    with pytest.raises(TypeError, match=f"{wrong!r}: did you mean {right!r}"):
        make(**{wrong: 5})


@pytest.mark.parametrize("make", [Cache, cached, lru_cache])
def test_a_name_that_is_like_no_other_is_refused_too(make):
    with pytest.raises(TypeError, match=r"'qqq'$"):
        make(qqq=5)


class Stubborn:
    """Says that it is a number, and is none."""

    def __init__(self, error):
        self.error = error

    def __float__(self):
        raise self.error

    __index__ = total_seconds = __float__


ERRORS = [ZeroDivisionError("no"), TypeError("no"), AttributeError("no"), KeyError("no"), RuntimeError("no")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_a_conversion_raises_names_the_parameter(error):
    bad = Stubborn(error)
    cache = Cache()
    for name, call in (
        ("max_size", lambda: Cache(max_size=bad)),
        ("default_ttl", lambda: Cache(default_ttl=bad)),
        ("time_to_idle", lambda: Cache(time_to_idle=bad)),
        ("max_weight", lambda: Cache(max_weight=bad, weigher=len)),
        ("refresh_ahead", lambda: Cache(loader=len, refresh_ahead=bad)),
        ("stale_ttl", lambda: Cache(loader=len, stale_ttl=bad)),
        ("exception_ttl", lambda: Cache(cache_exceptions=KeyError, exception_ttl=bad)),
        ("ttl", lambda: cache.set("a", 1, ttl=bad)),
        ("ttl", lambda: cache.set_many({"a": 1}, ttl=bad)),
        ("ttl", lambda: cache.touch("a", ttl=bad)),
        ("ttl", lambda: cache.get_or_set("a", int, ttl=bad)),
        ("ttl", lambda: cached(ttl=bad)(len)),
        ("max_size", lambda: cache.resize(bad)),
        ("weigher", lambda: Cache(max_weight=5, weigher=lambda key, value: bad).set("a", 1)),
        ("clock", lambda: Cache(clock=lambda: bad, default_ttl=5).set("a", 1)),
    ):
        with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b"):
            call()
    assert len(cache) == 0


def test_lifetimes_of_numpy_are_told_what_would_be_right():
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    with pytest.raises(TypeError, match="ttl must be a number of seconds"):
        Cache().set("a", 1, ttl=numpy.timedelta64(5, "s"))


def test_update_takes_keys_before_items():
    class Both:
        def keys(self):
            return ["a"]

        def __getitem__(self, key):
            return key.upper()

        items = property(lambda self: 1 / 0)

    cache = Cache()
    cache.update(Both())
    assert dict(cache) == {"a": "A"}


# --- other caches as loaders ------------------------------------------------------------------------------------------


def of_cache(items):
    cache = Cache()
    cache.update(items)
    return cache


def read_through(items):
    return Cache(loader=items.__getitem__)


class Mapped(dict):
    """A mapping that would make a missing value."""

    def __missing__(self, key):
        raise AssertionError("nobody asked for that")


@pytest.mark.parametrize(
    "make", [dict, of_cache, read_through, ChainMap, MappingProxyType, lambda items: defaultdict(list, items), Mapped],
    ids=lambda make: make.__name__,
)
def test_a_mapping_or_another_cache_may_be_the_loader(make):
    source = make({"a": 1, "none": None})
    cache = Cache(loader=source)
    assert (cache["a"], cache.get("none", 5), cache.get("b", 6)) == (1, None, 6)
    with pytest.raises(KeyError):
        cache["b"]
    assert cache.get_many(["a", "none", "c"]) == {"a": 1, "none": None}
    assert set(source) == {"a", "none"}
    assert set(cache) == {"a", "none"}
    assert Cache().warm(["a", "b"], source).loaded == 1


def test_a_loader_reads_no_files_that_keys_name(tmp_path):
    path = tmp_path / "dump"
    Cache().dump(path)
    assert Cache(loader=Cache()).get(str(path)) is None


def test_a_dict_with_a_method_load_is_a_store():
    class Store(dict):
        def load(self, key):
            return f"loaded {key}"

    assert Cache(loader=Store(a=1))["a"] == "loaded a"


@pytest.mark.parametrize("options", [{"refresh_ahead": 0.5}, {"stale_ttl": 5}], ids=named)
def test_a_cache_that_loads_anew_by_itself_serves_no_functions(options):
    with pytest.raises(TypeError, match="by its loader"):
        cached(Cache(default_ttl=5, loader=str, **options))(len)
    assert cached(Cache(loader=str))(len)("abc") == 3


@pytest.mark.parametrize("options", [{"clock": lambda: 0.0}, {"max_size": 5}, {"policy": "LFU"}], ids=named)
def test_what_the_cache_has_already_is_not_given_again(options):
    with pytest.raises(TypeError, match="cannot go together with cache"):
        cached(Cache(), **options)


def test_a_clock_of_the_functions_own(clock):
    f = cached(ttl=5, clock=clock)(lambda x: [x])
    first = f(1)
    clock.now += 4.9
    assert f(1) is first
    clock.now += 0.1
    assert f(1) is not first


def test_typed_and_a_key_function_exclude_each_other():
    with pytest.raises(TypeError, match="typed"):
        cached(typed=True, key_func=len)


# --- a key function makes the key -------------------------------------------------------------------------------------


def test_the_key_in_the_cache_is_what_key_func_returns():
    cache = Cache()
    f = cached(cache, key_func=lambda x: f"product:{x}")(lambda x: [x])
    g = cached(cache, key_func=lambda x: f"product:{x}", tags="g")(lambda x: ["g", x])
    h = cached(cache)(lambda x: ["h", x])
    assert f(1) is g(1) is cache["product:1"] and f.cache_key(1) == "product:1"
    g(2), h(1)
    cache["product:3"] = "by hand"
    assert f(3) == "by hand"
    f(4)
    cache["product:4"] = "by hand"              # a value stored by hand is no function's result
    f.cache_clear()
    assert set(cache) == {"product:2", "product:3", "product:4", h.cache_key(1)}
    assert f.cache_info()[:2] == (0, 0) and g.cache_info()[:2] == (1, 1)
    assert cache.invalidate_tag("g") == 1 and cache.delete("product:3") is True
    f(5)
    assert cache.invalidate_prefix("product:") == 2 and len(cache) == 1


def test_the_key_over_two_tiers_is_what_key_func_returns(server):
    with DistributedCache(redis_port=server.port, namespace="keys") as cache:
        f = cached(cache, key_func=lambda x: f"product:{x}", name="f")(lambda x: [x])
        g = cached(cache, key_func=lambda x: f"other:{x}", name="g")(lambda x: [x])
        f(1), g(1)
        cache.set("product:2", "by hand")
        assert cache.get("product:1") == [1] and f(2) == "by hand" and f.cache_key(1) == "product:1"
        f.cache_clear()
        cache.barrier()
        assert cache.get("product:1") is None and cache.get("product:2") == "by hand" and cache.get("other:1") == [1]
        f(3)
        assert cache.invalidate_prefix("product:") == 2 and g.invalidate(1) is True
