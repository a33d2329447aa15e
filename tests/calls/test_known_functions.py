"""Cached functions among `caches`."""

from __future__ import annotations

import gc

from cachebox import Cache, cached, cached_many, caches, clear_all, lru_cache


def made(tenant):
    @cached
    def of_tenant(x):
        return tenant

    return of_tenant


def names_of(*functions):
    known = caches()
    return [[name for name, thing in known.items() if thing is function] for function in functions]


def test_functions_are_known_by_their_names_while_they_live():
    shared = Cache()
    named = cached(name="a name of its own", version=2)(lambda x: x)
    one, other = made("a"), made("b")
    again = made("a")
    old = lru_cache(made)
    many = cached_many(shared, name="many of them")(lambda keys: {})
    found = names_of(named, one, other, again, old, many)
    assert found[0] == ["a name of its own@2"] and found[4] == [f"{__name__}.made"] and found[5] == ["many of them"]
    assert found[1] == [f"{__name__}.made.<locals>.of_tenant{{tenant='a'}}"]
    assert found[2] == [f"{__name__}.made.<locals>.of_tenant{{tenant='b'}}"]
    assert found[3] == [found[1][0] + "#2"]
    del named, one, other, again, old, many
    gc.collect()
    assert not [name for name in caches() if name.startswith((__name__, "a name of its own", "many of them"))]


def test_clear_all_empties_the_caches_of_functions():
    f = made("c")
    f(1)
    many = cached_many(lambda keys: {key: key for key in keys})
    many([1])
    clear_all()
    assert len(f.cache) == len(many.cache) == 0
