"""An async callable where a plain one is expected is a TypeError, which names the argument, and changes nothing."""

import functools
import warnings

import pytest

import cachebox
import cachebox.keys
from cachebox import Cache, DistributedCache, WriteBehind, WriteThrough, simulate


class Store:
    def __init__(self):
        self.saved = {}

    def load(self, key):
        return self.saved[key]

    def save(self, key, value):
        self.saved[key] = value

    def delete(self, key):
        self.saved.pop(key, None)


async def coroutine_function(*args):
    raise AssertionError("nobody may await this")


class AsyncObject:
    async def __call__(self, *args):
        raise AssertionError("nobody may await this")


@pytest.fixture(autouse=True)
def _nothing_left_to_await():
    """A coroutine that is neither awaited nor closed is a warning when it goes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("wrong", [coroutine_function, AsyncObject(), functools.partial(coroutine_function, 1)])
@pytest.mark.parametrize(
    "name, give",
    [
        ("predicate", lambda wrong: Cache().invalidate_where(wrong)),
        ("progress", lambda wrong: Cache().warm({"a": 1}, progress=wrong)),
        ("progress", lambda wrong: simulate([1, 2], progress=wrong)),
        ("weights", lambda wrong: simulate([1, 2], weights=wrong)),
        ("on_dead_letter", lambda wrong: WriteBehind(Cache(), Store(), on_dead_letter=wrong)),
        ("keys.combine", lambda wrong: cachebox.keys.combine(wrong)),
    ],
)
def test_an_async_callable_is_refused_when_it_is_given(name, give, wrong):
    with pytest.raises(TypeError, match=f"{name} must be a plain function"):
        give(wrong)


def returns_coroutine(*args):
    return coroutine_function(*args)


@pytest.mark.parametrize(
    "name, call",
    [
        ("factory", lambda cache: cache.get_or_set("a", returns_coroutine)),
        ("factory", lambda cache: cache.get_or_set("a", coroutine_function)),
        ("fn", lambda cache: cache.compute("a", returns_coroutine)),
        ("progress", lambda cache: cache.warm({"b": 1}, progress=returns_coroutine)),
        ("predicate", lambda cache: (cache.set("b", 1), cache.invalidate_where(returns_coroutine))),
        ("predicate", lambda cache: cache.invalidate_where(coroutine_function)),
    ],
)
@pytest.mark.parametrize("make", [Cache, lambda: DistributedCache(url="memory://")], ids=["one tier", "two tiers"])
def test_a_coroutine_from_a_plain_callable_is_closed_and_not_stored(make, name, call):
    cache = make()
    with pytest.raises(TypeError, match=name):
        call(cache)
    assert cache.get("a") is None and cache.get("b") in (None, 1)
    getattr(cache, "close", int)()


@pytest.mark.parametrize("loader", [returns_coroutine, coroutine_function])
def test_a_loader_over_two_tiers_may_return_no_coroutine(loader):
    with DistributedCache(url="memory://") as cache:
        if loader is coroutine_function:
            with pytest.raises(TypeError, match="async"):
                cache.warm(["a"], loader)
        else:
            assert isinstance(cache.warm(["a"], loader).first_error, TypeError)
        assert cache.get("a") is None


@pytest.mark.parametrize("kind", [WriteThrough, WriteBehind])
@pytest.mark.parametrize("factory", [returns_coroutine, coroutine_function])
def test_a_coroutine_of_a_factory_reaches_no_store(kind, factory):
    store = Store()
    strategy = kind(Cache(), store)
    with pytest.raises(TypeError, match="factory returned coroutine"):
        strategy.get_or_set("a", factory)
    assert strategy.get("a") is None
    strategy.close()
    assert store.saved == {}


def test_progress_of_a_simulation_may_return_no_coroutine():
    with pytest.raises(TypeError, match="progress returned coroutine"):
        simulate([1, 2], progress=returns_coroutine)
