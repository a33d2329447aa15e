"""Which arguments belong to the key of a call: `ignore`, `normalize`, `vary`; and which cannot be part of one."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachebox import MISSING, Cache, cached
from conftest import named

tenant = contextvars.ContextVar("tenant")


# --- normalize --------------------------------------------------------------------------------------------------------


def plain(a, b=2): ...
def positional_only(a, b=2, /, c=3): ...
def keyword_only(a, *, b=2, c): ...
def rest(a, b=2, *more): ...
def more(a, /, b=2, **others): ...
def everything(a, /, b=2, *more, c=3, d, **others): ...


FUNCTIONS = [plain, positional_only, keyword_only, rest, more, everything]
NAMES = st.sampled_from("abcdez")
CALLS = st.tuples(
    st.lists(st.integers(1, 3), max_size=4), st.dictionaries(NAMES, st.integers(1, 3), max_size=4)
)


def bound(function, call):
    """The arguments that a call binds to, with defaults; None if it is no valid call."""
    try:
        function(*call[0], **call[1])       # `bind` of 3.13.0 also takes calls that are none
        found = inspect.signature(function).bind(*call[0], **call[1])
    except TypeError:
        return None
    found.apply_defaults()
    return {name: sorted(v.items()) if isinstance(v, dict) else v for name, v in found.arguments.items()}


@pytest.mark.parametrize("function", FUNCTIONS)
@settings(max_examples=40)
@given(one=CALLS, other=CALLS)
def test_normalised_calls_are_one_exactly_where_they_bind_alike(function, one, other):
    f = cached(normalize=True)(function)
    bindings = bound(function, one), bound(function, other)
    keys = []
    for call, binding in zip((one, other), bindings, strict=True):
        if binding is None:
            with pytest.raises(TypeError):
                f.cache_key(*call[0], **call[1])
            with pytest.raises(TypeError):
                f(*call[0], **call[1])
        else:
            keys.append(f.cache_key(*call[0], **call[1]))
    if len(keys) == 2:
        assert (keys[0] == keys[1]) == (bindings[0] == bindings[1])


@pytest.mark.parametrize("function", FUNCTIONS)
@settings(max_examples=40)
@given(
    one=CALLS, ignored=st.sets(st.sampled_from(["a", "b", "c", "d", "more", "others", "z"])), normalize=st.booleans()
)
def test_a_hit_is_what_the_key_says(function, one, ignored, normalize):
    """Calls and `cache_key` agree, whatever the options; and ignored arguments make no difference."""
    parameters = inspect.signature(function).parameters
    known = ignored & set(parameters)
    if "others" in parameters:
        known = ignored
    if bound(function, one) is None:
        return
    f = cached(ignore=known, normalize=normalize)(function)
    g = cached(Cache(), ignore=known, normalize=normalize, typed=True, vary=lambda: 5)(function)
    args, kwargs = one
    for each in (f, g):
        assert each(*args, **kwargs) is None
        assert each.cache_key(*args, **kwargs) in each.cache and len(each.cache) == 1
        before = each.cache_info().hits
        each(*args, **kwargs)
        assert each.cache_info().hits == before + 1
        other = [value if not _is_ignored(parameters, k, known) else value + 10 for k, value in enumerate(args)]
        changed = {name: value + 10 if name in known else value for name, value in kwargs.items()}
        assert each.cache_key(*other, **changed) == each.cache_key(*args, **kwargs)


def _is_ignored(parameters, k, known):
    for position, (name, parameter) in enumerate(parameters.items()):
        if parameter.kind is parameter.VAR_POSITIONAL and k >= position:
            return name in known
        if position == k:
            return name in known
    return False


def test_spellings_of_one_call():
    calls = []

    @cached(normalize=True)
    def f(x, y=2, *, z=3):
        calls.append((x, y, z))
        return len(calls)

    assert f(1) == f(x=1) == f(1, 2) == f(1, y=2) == f(z=3, y=2, x=1) == 1
    assert f(1, 3) == f(y=3, x=1) == 2
    assert f.invalidate(x=1, z=3) is True and f.peek(1) is MISSING
    f.set("given", y=3, x=1)
    assert f(1, 3) == "given"
    with pytest.raises(TypeError, match="missing"):
        f()
    with pytest.raises(TypeError, match="missing"):
        f.invalidate()


def test_a_default_that_cannot_be_hashed():
    @cached(normalize=True)
    def f(x, y=[]):  # noqa: B006
        return object()

    assert f(1) is f(x=1)
    assert "default y" in repr(f.cache_key(1))
    with pytest.raises(TypeError, match="argument y, of type list"):
        f(1, [])


def test_normalised_methods():
    class Owner:
        @cached(normalize=True)
        def method(self, x, y=2):
            return object()

        @classmethod
        @cached(normalize=True)
        def of_class(cls, x, y=2):
            return object()

        @staticmethod
        @cached(normalize=True)
        def static(x, y=2):
            return object()

    one, other = Owner(), Owner()
    assert one.method(1) is one.method(x=1) is Owner.method(one, 1, 2) is Owner.method(self=one, x=1)
    assert one.method(1) is not other.method(1)
    assert Owner.of_class(1) is one.of_class(x=1, y=2) is not Owner.static(1)
    assert Owner.static(1) is one.static(x=1, y=2)
    assert one.method.invalidate(y=2, x=1) is True


# --- ignore -----------------------------------------------------------------------------------------------------------


def test_ignored_parameters_reach_the_function_but_not_the_key():
    seen = []

    @cached(ignore=("session", "log"))
    def f(x, session=None, *, log=None):
        seen.append((x, session, log))
        return [x]

    first, second = [1], [2]                    # they need not be hashable
    assert f(1, first) is f(1, second) is f(1, session=second) is f(1, log=[3]) is f(1)
    assert f.cache_key(1, first) == 1           # as if there were no other parameter
    f(2, second, log=[4])
    assert seen == [(1, first, None), (2, second, [4])]
    assert f.peek(2, log=[]) == [2] and f.invalidate(1, []) is True
    assert f.refresh(2, "other") is f(2)
    assert seen[-1] == (2, "other", None)


def test_one_name_needs_no_tuple():
    f = cached(ignore="session")(lambda x, session: object())
    assert f(1, 2) is f(1, 3)


def test_ignoring_the_instance_shares_results():
    class Owner:
        @cached(ignore="self")
        def method(self, x):
            return [x]

        @classmethod
        @cached(ignore="cls")
        def of_class(cls, x):
            return [x]

    class Derived(Owner):
        pass

    one, other = Owner(), Owner()
    assert one.method(1) is other.method(1) is Owner.method(one, 1)
    assert Owner.of_class(1) is Derived.of_class(1)
    del one
    assert other.method.peek(1) == [1] and other.method.invalidate(1) is True


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"ignore": "sesion"}, ValueError, r"'sesion'.*no such parameter; did you mean 'session'\?"),
        ({"ignore": ("x", "what")}, ValueError, "'what'"),
        ({"ignore": 1}, TypeError, "ignore must be names"),
        ({"ignore": (1,)}, TypeError, "ignore must be names"),
        ({"vary": "tenant"}, TypeError, "vary must be context variables"),
        ({"vary": (tenant, 1)}, TypeError, "not int"),
        ({"ignore": "x", "key_func": id}, TypeError, "ignore cannot go together with key_func"),
        ({"normalize": True, "key_func": id}, TypeError, "normalize cannot go together with key_func"),
        ({"vary": tenant, "key_func": id}, TypeError, "vary cannot go together with key_func"),
        ({"ignored": "x"}, TypeError, "did you mean 'ignore'"),
        ({"normalise": True}, TypeError, "did you mean 'normalize'"),
    ],
    ids=named,
)
def test_what_makes_no_sense_is_refused_at_decoration(options, error, words):
    with pytest.raises(error, match=words):
        cached(**options)(lambda x, session=None: 0)


def test_an_async_vary_is_refused():
    async def later(): ...

    with pytest.raises(TypeError, match="vary must be a plain function"):
        cached(vary=later)
    f = cached(vary=lambda: later())(lambda: 0)
    with pytest.raises(TypeError, match="vary returned coroutine"):
        f()


def test_a_signature_that_cannot_be_read():
    with pytest.raises(TypeError, match=r"normalize needs the signature of .*key_func"):
        cached(normalize=True)(max)


def test_a_name_that_only_keywords_can_have():
    f = cached(ignore="trace")(lambda **options: object())
    assert f(a=1, trace=1) is f(a=1, trace=2) is f(a=1) is not f(a=2)


# --- vary -------------------------------------------------------------------------------------------------------------


def test_results_vary_by_context():
    calls = []

    @cached(vary=(tenant, lambda: len(language)))
    def f(x):
        calls.append(x)
        return len(calls)

    language = "de"
    assert f(1) == f(1) == 1                    # unset is a value of its own
    token = tenant.set(None)
    assert f(1) == f(1) == 2
    tenant.set("a")
    assert f(1) == 3 == f.peek(1)
    language = "deu"
    assert f(1) == 4
    language = "de"
    assert f(1) == 3
    assert f.invalidate(1) is True and f(1) == 5
    tenant.reset(token)
    assert f(1) == 1
    assert "UNSET" in repr(f.cache_key(1))


def test_a_variable_with_a_default():
    variable = contextvars.ContextVar("variable", default="a")
    f = cached(vary=variable)(lambda: object())
    first = f()
    token = variable.set("a")
    assert f() is first
    variable.set("b")
    assert f() is not first
    variable.reset(token)
    assert f() is first


def test_results_of_methods_and_tasks_vary():
    class Owner:
        @cached(vary=tenant)
        async def method(self, x):
            await asyncio.sleep(0)
            return (tenant.get("none"), x)

    one = Owner()

    async def ask(name, x):
        tenant.set(name)
        return await one.method(x)

    async def main():
        return await asyncio.gather(*[asyncio.create_task(ask(name, 1)) for name in "abab"], one.method(1))

    assert asyncio.run(main()) == [("a", 1), ("b", 1), ("a", 1), ("b", 1), ("none", 1)]
    assert Owner.method.cache_info().currsize == 3


def test_what_a_call_varies_by_that_cannot_be_hashed():
    f = cached(vary=lambda: [])(lambda x: x)
    with pytest.raises(TypeError, match=r"varies by something that cannot be part of a key: unhashable type: 'list'"):
        f(1)


def test_a_vary_that_raises_is_the_callers_to_see():
    f = cached(vary=lambda: 1 / 0)(lambda x: x)
    with pytest.raises(ZeroDivisionError):
        f(1)
    assert len(f.cache) == 0


@pytest.mark.parametrize("options", [{"ignore": "s"}, {"normalize": True}, {"vary": tenant}, {"vary": lambda: 1}])
def test_threads_share_one_computation(options):
    together = threading.Barrier(4)
    calls = []

    @cached(**options)
    def f(x, s=0):
        calls.append(x)
        return object()

    results = []

    def work():
        together.wait(60)
        results.append(f("x"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(results)) == len(calls) == 1


def test_many_arguments():
    f = cached(ignore="k", vary=tenant, normalize=True)(lambda *args, k=0, **kwargs: object())
    args, kwargs = range(100), {f"n{i}": i for i in range(100)}
    assert f(*args, **kwargs) is f(*args, k=5, **dict(reversed(kwargs.items()))) is not f(*args)
    names = ", ".join(f"k{i}={i}" for i in range(40))
    exec(f"def wide(*, {names}): return object()", space := {})
    wide = cached(normalize=True)(space["wide"])
    assert wide() is wide(k3=3, k2=2) is not wide(k3=4)


def test_typed_goes_with_all_of_them():
    f = cached(typed=True, normalize=True, vary=tenant, ignore="s")(lambda x, y=1, s=None: object())
    assert f(1) is f(x=1, y=1, s=2) is not f(1.0)


def test_an_argument_that_does_anything_when_it_is_hashed():
    class Evil:
        def __hash__(self):
            f.cache_clear()
            return 1

        def __eq__(self, other):
            f.cache_clear()
            return True

    f = cached(ignore="s", vary=tenant)(lambda x, s=None: object())
    for _ in range(3):
        f(Evil(), Evil())
        f(x=Evil(), s=Evil())


# --- what cannot be part of a key -------------------------------------------------------------------------------------


class Service:
    @cached
    def method(self, x, y=None):
        return x

    __hash__ = None

    def __eq__(self, other):
        return True


def unhashable(x, y=None, *others, z=None, **more):
    return x


@pytest.mark.parametrize(
    "call, name, kind",
    [
        (lambda f: f([]), "x", "list"),
        (lambda f: f(1, {}), "y", "dict"),
        (lambda f: f(1, y=set()), "y", "set"),
        (lambda f: f(1, 2, 3, []), r"\*others", "list"),
        (lambda f: f(1, z=bytearray()), "z", "bytearray"),
        (lambda f: f(1, w=[]), "w", "list"),
        (lambda f: f((1, [])), "x", "tuple"),
        (lambda f: f.peek([]), "x", "list"),
        (lambda f: f.cache_key([]), "x", "list"),
        (lambda f: f.invalidate(1, []), "y", "list"),
        (lambda f: f.set(0, []), "x", "list"),
        (lambda f: f.refresh([]), "x", "list"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"typed": True}, {"normalize": True}, {"vary": tenant}, {"shared": True}])
def test_an_unhashable_argument_is_named(call, name, kind, options):
    cache = Cache() if options.get("shared") else None
    f = cached(cache, **{k: v for k, v in options.items() if k != "shared"})(unhashable)
    words = rf"unhashable\(\) cannot be cached by its argument {name}, of type {kind}.*key_func.*ignore=.*pass"
    with pytest.raises(TypeError, match=words) as caught:
        call(f)
    assert "unhashable type" in str(caught.value.__cause__)


def test_an_unhashable_argument_of_a_method_is_named_and_not_the_instance():
    one = Service()
    assert one.method(1) == 1
    with pytest.raises(TypeError, match="argument x, of type list"):
        one.method([])
    with pytest.raises(TypeError, match="argument y, of type list"):
        Service.method(one, 1, y=[])
    with pytest.raises(TypeError, match="argument x, of type list"):
        one.method.invalidate([])


def test_ignored_arguments_are_not_blamed():
    f = cached(ignore="s")(lambda s, x: x)
    with pytest.raises(TypeError, match="argument x, of type list"):
        f([], [])


def test_a_type_error_of_a_users_hash_passes():
    class Odd:
        def __init__(self):
            self.asked = 0

        def __hash__(self):
            self.asked += 1
            if self.asked == 1:
                raise TypeError("not the first time")
            return 1

    with pytest.raises(TypeError, match=r"^not the first time$"):
        cached(lambda x: x)(Odd())
