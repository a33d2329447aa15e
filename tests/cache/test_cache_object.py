"""A cache as an object: `repr`, generics, subclasses, weak references, the collector."""

from __future__ import annotations

import gc
import weakref

from cachebox import Cache


def of(policy, **entries):
    cache = Cache(policy=policy)
    cache.update(entries)
    return cache


# --- repr -----------------------------------------------------------------------------------------------------------


def test_the_repr_shows_policy_sizes_and_hit_rate_never_contents(policy):
    cache = Cache(max_size=7, policy=policy)
    cache.update(hidden="secret", other=1)
    cache.get("hidden")
    cache.get("absent")
    shown = repr(cache)
    assert all(part in shown for part in ("Cache", policy, "7", "2", "50.0%"))
    assert "hidden" not in shown and "secret" not in shown


def test_the_repr_works_with_a_contained_cache_and_without_a_bound(any_policy):
    cache = Cache(max_size=None, policy=any_policy)
    cache["self"] = cache
    assert "unbounded" in repr(cache) and "1 entry," in repr(cache) and "0.0%" in repr(cache)


def test_the_repr_names_a_policy_of_the_users(any_policy):
    name = any_policy if isinstance(any_policy, str) else any_policy.__name__
    assert name in repr(Cache(policy=any_policy))


def test_the_repr_runs_no_repr_of_keys_or_values(any_policy):
    class Loud:
        def __repr__(self):
            raise AssertionError

    cache = of(any_policy)
    cache[Loud()] = Loud()
    repr(cache)


# --- subclasses, generics, weak references --------------------------------------------------------------------------


def test_a_cache_is_generic():
    alias = Cache[str, int]
    assert (alias.__origin__, alias.__args__) == (Cache, (str, int))
    cache = alias(max_size=5)
    assert type(cache) is Cache and cache.max_size == 5


def test_a_subclass_is_generic_with_parameters_of_its_own():
    class Sub(Cache):
        pass

    assert Sub[str, int].__origin__ is Sub
    assert type(Sub[str, int]()) is Sub


def test_a_subclass_may_have_its_own_init_attributes_and_methods(any_policy):
    class Named(Cache):
        def __init__(self, name, *args, **options):
            super().__init__(*args, **options)
            self.name = name

        def get(self, key, default="nothing"):
            return super().get(key, default)

    cache = Named("mine", 2, policy=any_policy)
    cache.update(a=1, b=2, c=3)
    assert (cache.name, cache.max_size, cache.get("a"), cache.get("c")) == ("mine", 2, "nothing", 3)
    assert repr(cache).startswith("<Named ")


def test_a_subclass_that_forgets_to_call_init_has_a_working_cache():
    class Forgetful(Cache):
        def __init__(self):
            pass

    cache = Forgetful()
    cache.update(dict.fromkeys(range(1500)))
    assert (len(cache), cache.max_size, cache.policy) == (1000, 1000, "LRU")


def test_a_subclass_may_fill_itself_before_it_is_configured():
    class Early(Cache):
        def __new__(cls, *args, **options):
            cache = super().__new__(cls, *args, **options)
            cache.note = "early"
            return cache

    assert (Early(5).note, Early(5).max_size) == ("early", 5)


def test_a_cache_is_weakly_referenceable(any_policy):
    cache = of(any_policy, a=1)
    reference = weakref.ref(cache)
    assert reference() is cache


def test_a_dropped_cache_is_freed_at_once_with_its_entries(any_policy):
    class Thing:
        pass

    gc.disable()
    try:
        key, value = Thing(), Thing()
        cache = of(any_policy)
        cache[key] = value
        references = [weakref.ref(thing) for thing in (cache, key, value)]
        del key, value, cache
        assert [reference() for reference in references] == [None, None, None]
    finally:
        gc.enable()


def test_what_leaves_a_cache_is_freed_at_once(any_policy):
    class Thing:
        pass

    gc.disable()
    try:
        for leave in (
            lambda cache: cache.delete("a"),
            lambda cache: cache.pop("a"),
            lambda cache: cache.popitem(),
            lambda cache: cache.set("a", 1),
            lambda cache: cache.clear(),
            lambda cache: cache.resize(1) or cache.set("b", 1),
            lambda cache: cache.compute("a", lambda old: 1),
        ):
            cache = of(any_policy)
            cache["a"] = Thing()
            reference = weakref.ref(cache.peek("a"))
            leave(cache)
            assert reference() is None
    finally:
        gc.enable()


def test_cycles_through_a_cache_are_collectable(any_policy):
    class Thing:
        pass

    def cycle():
        cache = of(any_policy)
        thing = Thing()
        thing.cache = cache
        cache[thing] = cache
        cache["callback"] = [lambda: cache]
        return weakref.ref(cache)

    reference = cycle()
    gc.collect()
    assert reference() is None


def test_a_cycle_through_the_callbacks_is_collectable(any_policy):
    def cycle():
        cache = Cache(
            policy=any_policy,
            on_evict=lambda key, value: cache,
            on_removal=lambda key, value, cause: cache,
            max_weight=5,
            weigher=lambda key, value: len(cache),
            clock=lambda: 0.0 * len(repr(cache)),
        )
        cache["a"] = 1
        return weakref.ref(cache)

    reference = cycle()
    gc.collect()
    assert reference() is None
