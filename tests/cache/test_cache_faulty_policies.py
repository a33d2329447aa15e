"""Policies written in Python that are faulty: the error names them, the bound holds, the cache stays usable."""

from __future__ import annotations

import pytest

from cachebox import MISSING, Cache, EvictionPolicy
from conftest import PythonFIFO


class Faulty(PythonFIFO):
    """Does what its attribute `fault` says; until it is set, it works."""

    fault = None

    def evict(self):
        return super().evict() if self.fault is None else self.fault()


def boom(*_):
    raise OSError("boom")


@pytest.mark.parametrize(
    "victim",
    [lambda: None, lambda: "never stored", lambda: [], lambda: float("nan")],
    ids=["none", "an unknown key", "an unhashable key", "a NaN"],
)
def test_a_policy_that_names_no_victim_of_the_cache_gets_a_runtime_error_with_its_name(victim):
    cache = Cache(2, policy=Faulty)
    cache.update(a=1, b=2)
    cache.policy.fault = victim
    counted = cache.stats.get_all()
    for call in (
        lambda: cache.set("c", 3),
        lambda: cache.setdefault("c", 3),
        lambda: cache.get_or_set("c", lambda: 3),
        lambda: cache.increment("c", 3),
        lambda: cache.compute("c", lambda old: 3),
        lambda: cache.resize(1),
        lambda: cache.popitem(),
    ):
        with pytest.raises(RuntimeError, match="Faulty"):
            call()
    assert cache.max_size == 2
    assert dict(cache.items()) == {"a": 1, "b": 2}
    assert (cache.stats.sets, cache.stats.evictions) == (counted["sets"], counted["evictions"])
    cache.policy.fault = None
    cache["c"] = 3
    assert list(cache) == ["b", "c"]


def test_a_policy_that_names_a_key_that_just_left():
    cache = Cache(2, policy=Faulty)
    cache.update(a=1, b=2, c=3)
    cache.policy.fault = lambda: "a"
    with pytest.raises(RuntimeError, match=r"Faulty.*'a'"):
        cache["d"] = 4
    assert dict(cache.items()) == {"b": 2, "c": 3}


def test_an_exception_from_evict_reaches_the_caller_and_nothing_is_stored():
    cache = Cache(2, policy=Faulty)
    cache.update(a=1, b=2)
    cache.policy.fault = boom
    with pytest.raises(OSError, match="boom"):
        cache["c"] = 3
    cache["a"] = 4
    assert dict(cache.items()) == {"a": 4, "b": 2}


def test_an_exception_from_add_reaches_the_caller_and_nothing_is_stored():
    class Refusing(PythonFIFO):
        def add(self, key):
            if key == "refused":
                raise OSError("boom")
            super().add(key)

    told = []
    cache = Cache(3, policy=Refusing, on_evict=lambda key, value: told.append(key))
    cache["a"] = 1
    for call in (
        lambda: cache.set("refused", 1),
        lambda: cache.increment("refused"),
        lambda: cache.setdefault("refused", 1),
        lambda: cache.compute("refused", lambda old: 1),
        lambda: cache.get_or_set("refused", lambda: 1),
    ):
        with pytest.raises(OSError, match="boom"):
            call()
    assert dict(cache.items()) == {"a": 1} and cache.stats.sets == 1 and told == []


def test_an_exception_from_access_reaches_the_caller_and_the_cache_stays_usable():
    class Refusing(PythonFIFO):
        def access(self, key):
            raise OSError("boom")

    cache = Cache(2, policy=Refusing)
    cache["a"] = 1
    for call in (lambda: cache.get("a"), lambda: cache["a"], lambda: cache.set("a", 2), lambda: cache.increment("a")):
        with pytest.raises(OSError, match="boom"):
            call()
    cache.update(b=2, c=3)
    assert dict(cache.items()) == {"b": 2, "c": 3}


def test_an_exception_from_remove_reaches_the_caller_and_the_entry_is_gone():
    class Refusing(PythonFIFO):
        def remove(self, key):
            super().remove(key)
            raise OSError("boom")

    cache = Cache(2, policy=Refusing)
    for call in (lambda: cache.delete("a"), lambda: cache.pop("a"), lambda: cache.compute("a", lambda old: MISSING)):
        cache["a"] = 1
        with pytest.raises(OSError, match="boom"):
            call()
        assert "a" not in cache and len(cache) == 0


def test_an_exception_from_clear_or_iter_reaches_the_caller():
    class Refusing(PythonFIFO):
        def clear(self):
            super().clear()
            raise OSError("boom")

        def __iter__(self):
            if "b" in self.order:
                raise OSError("boom")
            return super().__iter__()

    cache = Cache(2, policy=Refusing)
    cache.update(a=1, b=2)
    with pytest.raises(OSError, match="boom"):
        list(cache)
    with pytest.raises(OSError, match="boom"):
        cache.clear()
    assert len(cache) == 0


def test_the_base_class_alone_is_no_policy():
    cache = Cache(2, policy=EvictionPolicy)
    with pytest.raises(NotImplementedError, match="EvictionPolicy"):
        cache["a"] = 1
    assert cache.get("a") is None


@pytest.mark.parametrize("method", ["add", "remove", "access", "evict", "clear", "__len__", "__contains__", "__iter__"])
def test_a_method_that_is_missing_is_named(method):
    class Incomplete(EvictionPolicy):
        pass

    arguments = [] if method in ("evict", "clear", "__len__", "__iter__") else ["a"]
    with pytest.raises(NotImplementedError, match=rf"Incomplete must define {method}\("):
        getattr(Incomplete(), method)(*arguments)
