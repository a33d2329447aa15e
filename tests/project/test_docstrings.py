"""The documentation in the code: everything public has some, shows its signature, and its examples are true."""

import doctest
import inspect

import pytest

import cachebox
import cachebox.cli.nearest
from cachebox._calls.cached_function import CachedFunction
from cachebox.cache import Cache

EXPORTED = [getattr(cachebox, name) for name in cachebox.__all__]
TYPES = [thing for thing in EXPORTED if isinstance(thing, type)]
TYPES += [type(cachebox.CacheStats().snapshot()), CachedFunction]


def public_things():
    """Everything that a user can ask help for, by name."""
    yield "cachebox", cachebox
    yield "cached", cachebox.cached
    yield "lru_cache", cachebox.lru_cache
    yield "MISSING", type(cachebox.MISSING)
    yield "edit_distance", cachebox.cli.nearest.edit_distance
    yield "nearest", cachebox.cli.nearest.nearest
    for owner in TYPES:
        yield owner.__name__, owner
        for name, attribute in vars(owner).items():
            if not name.startswith("_") and (callable(attribute) or inspect.isdatadescriptor(attribute)):
                yield f"{owner.__name__}.{name}", attribute


PUBLIC = dict(public_things())
UNDOCUMENTED = {"EvictionPolicy.max_size", "StatsSnapshot.uptime"}      # described in their classes
UNDOCUMENTED |= {f"StatsSnapshot.{name}" for name in cachebox.CacheStats().get_all()}


def names(*wanted_of):
    return [name for name, thing in PUBLIC.items() if all(wanted(thing) for wanted in wanted_of)]


def has_examples(thing):
    return ">>>" in (inspect.getdoc(thing) or "")


def is_compiled_method(thing):
    return inspect.ismethoddescriptor(thing)


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - UNDOCUMENTED))
def test_has_a_first_sentence(name):
    first = (inspect.getdoc(PUBLIC[name]) or "").partition("\n\n")[0]
    assert first.rstrip().endswith((".", ":")) or ". " in first, f"{name}: {first!r}"


@pytest.mark.parametrize("name", names(has_examples))
def test_examples(name):
    examples = doctest.DocTestParser().get_doctest(
        inspect.getdoc(PUBLIC[name]), dict(vars(cachebox), Cache=Cache, **vars(cachebox.cli.nearest)), name, None, None
    )
    report = []
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(examples, out=report.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(report)


def test_most_of_what_takes_arguments_has_an_example():
    methods = [name for name in PUBLIC if name.startswith("Cache.") and callable(PUBLIC[name])]
    assert len(methods) > 20
    assert len([name for name in methods if has_examples(PUBLIC[name])]) >= 0.8 * len(methods)


@pytest.mark.parametrize("name", [*names(is_compiled_method), "Cache", "CacheStats", "EvictionPolicy", "LRUPolicy"])
def test_shows_its_signature(name):
    assert inspect.signature(PUBLIC[name])


def test_the_signature_of_the_constructor_is_true():
    """It is written by hand, because Cython writes none for a class."""
    signature = inspect.signature(Cache)
    defaults = {name: parameter.default for name, parameter in signature.parameters.items()}
    made = Cache(**defaults)
    assert (made.max_size, made.default_ttl, made.policy) == (1000, None, "LRU")
    with pytest.raises(TypeError):
        Cache(*defaults.values())               # those behind the star are keywords only
    assert list(defaults)[:4] == ["max_size", "default_ttl", "policy", "on_evict"]
    assert [name for name, parameter in signature.parameters.items() if parameter.kind == parameter.KEYWORD_ONLY] == [
        "time_to_idle", "max_weight", "weigher", "on_removal", "clock", "name", "max_bytes", "jitter", "isolate",
        "loader", "refresh_ahead", "stale_ttl", "cache_exceptions", "exception_ttl",
    ]


def test_a_cache_can_be_parametrised_for_type_checkers():
    assert Cache[str, int].__args__ == (str, int)

    class Words(Cache[str, int]):
        pass

    assert Words(max_size=2).max_size == 2


@pytest.mark.parametrize("weighed", [False, True])
def test_increment_says_what_it_found_instead_of_an_int(weighed):
    cache = Cache(max_weight=10, weigher=lambda key, value: 1) if weighed else Cache()
    cache["name"] = "Ada"
    with pytest.raises(TypeError, match="needs an int, but the value of 'name' is of type str"):
        cache.increment("name")
    assert cache["name"] == "Ada"


def test_a_policy_that_lacks_a_method_says_which():
    class Half(cachebox.EvictionPolicy):
        pass

    cache = Cache(policy=Half)
    with pytest.raises(NotImplementedError, match=r"Half must define add\(key\)"):
        cache["a"] = 1
    assert cache.peek("a") is None
