"""Control from outside the function: `peek`, `refresh`, `set` and `invalidate` of one call, and `disabled`."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import cachebox
from cachebox import MISSING, Cache, DistributedCache, EvictionPolicy, cached, disabled, lru_cache
from in_threads import wait_until

KINDS = ("plain", "shared", "method", "class method", "lasting")


def counted(kind, **options):
    """A cached function of one argument, its calls, and the wrapper that has the cache."""
    calls = []

    def compute(x):
        calls.append(x)
        return [x, len(calls)]

    if kind in ("plain", "shared"):
        f = cached(Cache() if kind == "shared" else None, **options)(compute)
        return f, calls, f

    decorate = cached(**options)

    class Owner:
        @decorate
        def method(self, x):
            return compute(x)

        @classmethod
        @cached(**options)
        def of_class(cls, x):
            return compute(x)

    if kind == "class method":
        return Owner.of_class, calls, Owner.of_class
    import enum

    mixin = type("Mixin", (), {"method": vars(Owner)["method"], "__slots__": ()})
    Lasting = enum.Enum("Lasting", {"ONE": 1}, type=mixin)
    owner = Owner() if kind == "method" else Lasting.ONE
    f = owner.method
    assert f(0) == f(0) and calls == [0]
    calls.clear()
    f.cache_clear()
    return f, calls, f


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def test_peek_makes_no_call_and_counts_nothing(kind):
    f, calls, info = counted(kind)
    assert f.peek(1) is MISSING and calls == []
    result = f(1)
    before = info.cache_info()
    assert f.peek(1) is result and f.peek(2) is MISSING
    assert info.cache_info() == before and calls == [1]
    assert f.invalidate(1) is True
    assert f.peek(1) is MISSING


def test_peek_does_not_promote():
    f = cached(max_size=2)(lambda x: x)
    f(1), f(2)
    assert f.peek(1) == 1
    f(3)
    assert f.peek(1) is MISSING and f.peek(2) == 2


def test_refresh_computes_now_and_stores(kind):
    f, calls, info = counted(kind)
    assert f.refresh(1) == [1, 1] == f(1)
    assert f.refresh(1) == [1, 2] == f(1) == f.peek(1)
    assert calls == [1, 1]
    assert info.cache_info().misses == 0 and info.cache_info().hits == 2


def test_set_stores_as_if_computed(kind):
    f, calls, _ = counted(kind)
    f.set("given", 1)
    assert f(1) == f.peek(1) == "given" and calls == []
    f.set(None, 1)
    assert f(1) is None and calls == []
    assert f.refresh(1) == [1, 1]


def test_set_applies_condition_ttl_and_tags(clock):
    cache = Cache(clock=clock)
    f = cached(
        cache, condition=lambda r: r != "bad", ttl=lambda r: 10 if r == "short" else 0 if r == "never" else None,
        tags=lambda r, x, y=0: [f"x{x}", f"y{y}"],
    )(lambda x, y=0: None)
    f.set("bad", 1)
    f.set("never", 2)
    assert f.peek(1) is MISSING and f.peek(2) is MISSING
    f.set("short", 3, y=4)
    f.set("long", 5)
    assert cache.invalidate_tag("y0") == 1 and f.peek(3, y=4) == "short"
    clock.now += 11
    assert f.peek(3, y=4) is MISSING
    f.set("long", 5)
    assert cache.invalidate_tag("x5") == 1


def test_refresh_applies_condition_and_ttl(clock):
    results = ["good", "bad", "good"]
    f = cached(Cache(clock=clock), condition=lambda r: r != "bad", ttl=10)(lambda: results.pop(0))
    assert f.refresh() == "good" == f.peek()
    assert f.refresh() == "bad" and f.peek() == "good"          # a value that is not to be stored changes nothing
    clock.now += 6
    assert f.refresh() == "good"
    clock.now += 6
    assert f.peek() == "good"


OVER = {"its own cache": lambda: None, "a shared cache": Cache, "two tiers": lambda: DistributedCache(url="memory://")}


@pytest.mark.parametrize("cache", OVER.values(), ids=OVER)
def test_a_refresh_that_fails_changes_nothing(cache):
    fails = []

    @cached(cache(), cache_exceptions=OSError, exception_ttl=60)
    def f():
        if fails:
            raise OSError("down")
        return "up"

    assert f() == "up"
    fails.append(1)
    with pytest.raises(OSError):
        f.refresh()
    assert f() == "up"
    f.invalidate()
    with pytest.raises(OSError):
        f()
    fails.clear()
    with pytest.raises(OSError):
        f()                                     # remembered
    assert f.refresh() == "up" == f()           # a refresh calls the function again, and ends that
    f.invalidate()
    fails.append(1)
    with pytest.raises(OSError):
        f.refresh()
    fails.clear()
    with pytest.raises(OSError):
        f()
    f.set("given")
    assert f() == "given"


def test_a_write_during_a_refresh_wins():
    writes = []

    @cached
    def f():
        writes.pop()()
        return "computed"

    for write, left in ((lambda: f.set("given"), "given"), (f.invalidate, MISSING), (f.cache_clear, MISSING)):
        for old in ("old", MISSING):
            f.cache_clear()
            if old is not MISSING:
                f.set(old)
            writes.append(write)
            assert f.refresh() == "computed"
            assert f.peek() == left


def test_callers_get_the_old_value_while_a_refresh_computes():
    seen = []

    @cached
    def f():
        seen.append(f.peek())
        if len(seen) > 1:
            seen.append(f())                    # a hit
        return len(seen)

    f()
    f.refresh()
    assert seen == [MISSING, 1, 1] and f() == 3


def test_what_was_computed_before_a_refresh_began_is_not_stored_over_it():
    began, go_on = threading.Event(), threading.Event()
    turns = []

    @cached
    def f():
        turns.append(1)
        if len(turns) == 1:
            began.set()
            go_on.wait(60)
            return "old"
        return "new"

    with ThreadPoolExecutor() as pool:
        older = pool.submit(f)
        began.wait(60)
        assert f.refresh() == "new"
        go_on.set()
        assert older.result(60) == "old"
    assert f() == "new"


def test_who_misses_while_a_refresh_computes_shares_it():
    began, go_on = threading.Event(), threading.Event()
    calls = []

    @cached
    def f():
        calls.append(1)
        began.set()
        go_on.wait(60)
        return object()

    with ThreadPoolExecutor() as pool:
        refreshed = pool.submit(f.refresh)
        began.wait(60)
        waiting = pool.submit(f)
        wait_until(lambda: f.cache_info().misses == 1)
        go_on.set()
        assert refreshed.result(60) is waiting.result(60)
    assert calls == [1]


@pytest.mark.parametrize("policy", ["LRU", "FIFO", "LFU", "AUTO"])
def test_a_refresh_of_a_result_that_is_evicted_meanwhile_stores_it(policy):
    inside = []

    @cached(max_size=2, policy=policy)
    def f(x):
        if inside:
            inside.clear()
            for other in range(1, 40):
                f(other)
            assert f.peek(0) is MISSING
            return "new"
        return x

    f(0)
    inside.append(1)
    assert f.refresh(0) == "new" == f.peek(0) and len(f.cache) <= 2


def test_a_refresh_stores_even_if_the_policy_gives_the_old_result_up_for_the_new_one():
    """The new result is heavier, and the policy's next victim is the old one."""

    class Oldest(EvictionPolicy):
        def __init__(self):
            self.order = {}

        def add(self, key):
            self.order[key] = None

        def access(self, key):
            pass

        def remove(self, key):
            del self.order[key]

        def evict(self):
            key = next(iter(self.order))
            del self.order[key]
            return key

    weights = {"small": 1, "large": 3}
    results = iter(["small", "small", "large"])
    cache = Cache(policy=Oldest(), max_weight=4, weigher=lambda key, value: weights[value])

    @cached(cache)
    def f(x):
        return next(results)

    f(0), f(1)
    assert f.refresh(0) == "large" == f.peek(0) and f.peek(1) == "small"


def test_a_refresh_of_a_result_that_is_invalidated_meanwhile_stores_nothing():
    inside = []

    @cached(max_size=2)
    def f(x):
        if inside:
            inside.clear()
            f(1), f(2)                          # evicts the old result first
            f.invalidate(0)
            return "new"
        return x

    f(0)
    inside.append(1)
    assert f.refresh(0) == "new" and f.peek(0) is MISSING


def test_an_expired_result_does_not_hinder_a_refresh(clock):
    values = iter(range(9))
    f = cached(ttl=10, clock=clock)(lambda: next(values))
    assert f() == 0

    clock.now += 10
    assert f.refresh() == 1
    assert f() == 1

    @cached(ttl=10, clock=clock)
    def g():
        clock.now += 20                         # the old one ends while the new one is computed
        return next(values)

    g.set("old")
    assert g.refresh() == 2 == g()


def test_results_that_are_not_stored(recwarn):
    f = cached(lambda: iter("ab"))
    assert list(f.refresh()) == ["a", "b"] and f.peek() is MISSING
    f.set(iter("ab"))
    assert f.peek() is MISSING
    assert len(recwarn) == 1                    # said once

    class Fluent:
        @cached
        def me(self):
            return self

    one = Fluent()
    assert one.me.refresh() is one and one.me.peek() is MISSING
    one.me.set(one)
    assert one.me.peek() is MISSING


def test_an_awaitable_is_no_result():
    async def later():
        pass

    with pytest.raises(TypeError, match="value returned coroutine"):
        cached(later).set(later())


def test_an_instance_without_weak_references():
    class Slotted:
        __slots__ = ()

        @cached
        def method(self, x):
            return [x]

    one = Slotted()
    assert one.method.peek(1) is MISSING
    assert one.method.refresh(1) == [1] and one.method.peek(1) is MISSING
    with pytest.raises(TypeError, match="no weak reference"):
        one.method.set(2, 1)


def test_own_names_are_not_hidden():
    def f(x):
        return x

    f.peek = f.refresh = f.set = f.invalidate = f.cache_clear = "mine"
    g = cached(f)
    g.set(7, 1)
    assert g(1) == 7 == g.peek(1) and g.refresh(1) == 1 and g.invalidate(1) and g.cache_clear() is None
    assert {"peek", "refresh", "set", "invalidate"} <= set(dir(g))


def test_a_cache_below_is_refreshed_as_well():
    calls = []

    @cached
    def below(x):
        calls.append(x)
        return [x]

    above = cached(ttl=5)(below)
    assert above(1) is above(1) is below(1)
    assert above.refresh(1) is below(1) is not None and calls == [1, 1]


def test_lru_cache_has_them_too():
    f = lru_cache(lambda x: [x])
    assert f.peek(1) is MISSING
    f.set("given", 1)
    assert f(1) == "given" and f.refresh(1) == [1] == f(1)
    nothing = lru_cache(maxsize=0)(lambda x: [x])
    nothing.set("given", 1)
    assert nothing.peek(1) is MISSING and nothing.refresh(1) == [1] and nothing.peek(1) is MISSING


def test_with_a_key_func():
    f = cached(key_func=lambda x: x["id"])(lambda x: [x["id"]])
    f.set("given", {"id": 1})
    assert f.peek({"id": 1, "other": 2}) == "given" and f.refresh({"id": 1}) == [1]


# --- async functions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True])
def test_async_functions(begun):
    calls = []

    async def compute(x):
        calls.append(x)
        await asyncio.sleep(0)
        return [x, len(calls)]

    f = cached(lambda x: compute(x)) if begun else cached(compute)

    async def main():
        assert f.peek(1) is MISSING
        assert await f.refresh(1) == [1, 1] == await f(1) == f.peek(1)
        assert await f.refresh(1) == [1, 2] == await f(1)
        f.set("given", 1)
        assert await f(1) == "given" == f.peek(1)
        assert f.invalidate(1) is True
        together = await asyncio.gather(f.refresh(2), f(2), f(2))
        assert together[1] is together[2]
        assert calls.count(2) <= 2 and await f(2) is f.peek(2)

    asyncio.run(main())


def test_a_cancelled_async_refresh_changes_nothing():
    async def main():
        blocked = asyncio.Event()

        @cached
        async def f():
            await blocked.wait()

        f.set("old")
        task = asyncio.create_task(f.refresh())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await f() == "old"
        f.set("newer")
        assert await f() == "newer"

    asyncio.run(main())


def test_async_methods():
    class Owner:
        @cached
        async def method(self, x):
            return [x]

    async def main():
        one, other = Owner(), Owner()
        assert await one.method.refresh(1) is one.method.peek(1)
        assert other.method.peek(1) is MISSING
        other.method.set("given", 1)
        assert await other.method(1) == "given" and await one.method(1) == [1]

    asyncio.run(main())


# --- class methods, asked before they are called ----------------------------------------------------------------------


def class_with(decorate):
    class Base:
        size = 1

        @classmethod
        @decorate
        def of_class(cls, x):
            return [cls.size, x]

        @staticmethod
        @decorate
        def static(x):
            return ["static", x]

        @decorate
        def method(self, x):
            return ["method", x]

    class Larger(Base):
        size = 2

    return Base, Larger


WAYS = {
    "own cache": cached, "shared": lambda f: cached(Cache())(f), "typed": cached(typed=True),
    "key_func": cached(key_func=lambda *args: args), "ignore": lambda f: cached(ignore="x")(f),
    "twice": lambda f: cached(cached(f)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_class_method_knows_its_class_before_its_first_call(way):
    Base, Larger = class_with(WAYS[way])
    assert Larger.of_class.peek(1) is MISSING
    Larger.of_class.set("given", 1)
    assert Larger.of_class(1) == Larger().of_class.peek(1) == "given"
    assert Base.of_class.peek(1) is MISSING and Base.of_class.refresh(1) == [1, 1] == Base.of_class.peek(1)
    assert Base().of_class.invalidate(1) is True and Base.of_class.peek(1) is MISSING
    assert Larger.of_class.cache_key(1) != Base.of_class.cache_key(1)
    assert Base.static.peek(1) is MISSING and Base.static(1) == Base.static.peek(1) == Larger().static.peek(1)
    one = Larger()
    assert one.method.peek(1) is MISSING and one.method(1) == one.method.peek(1) == Base.method.peek(one, 1)


def test_a_class_method_that_was_read_before_its_first_call():
    Base, Larger = class_with(cached)
    kept = Base.of_class
    assert kept(1) == [1, 1] and Larger.of_class(1) == [2, 1]
    assert kept.peek(1) == [1, 1] and kept.invalidate(1) is True and Larger.of_class.peek(1) == [2, 1]


def test_a_class_method_never_answers_for_another_class():
    Base, Larger = class_with(cached)
    kept = [Base.of_class, Larger.of_class]
    if sys.version_info >= (3, 13):             # the wrapper cannot see which of the two classes is asked
        with pytest.raises(RuntimeError, match="read it again"):
            kept[0].set("given", 1)
    else:
        kept[0].set("given", 1)
        assert Base.of_class(1) == "given"
    kept.clear()
    Base.of_class.set("given", 1)
    assert Base.of_class(1) == "given" and Larger.of_class.peek(1) is MISSING and Larger.of_class(1) == [2, 1]


# --- disabled ---------------------------------------------------------------------------------------------------------


def shapes():
    """Cached functions of all shapes, each to call without arguments, and their counts."""
    calls = []

    def compute(*args, **kwargs):
        calls.append(args)
        return len(calls)

    class Owner:
        @cached
        def method(self):
            return compute()

        @cached(typed=True)
        def typed(self, x):
            return compute()

        @classmethod
        @cached
        def of_class(cls):
            return compute()

        @property
        @cached
        def value(self):
            return compute()

    owner = Owner()
    lone = cached(lambda x: compute(x))
    nullary = cached(lambda: compute())
    two = cached(lambda x, y: compute(x, y))
    shared = cached(Cache())(compute)
    by_key = cached(key_func=lambda x: x)(compute)
    ignoring = cached(ignore="y")(lambda x, y: compute(x))
    counted = lru_cache(maxsize=0)(compute)
    functools_like = lru_cache(compute)
    return calls, {
        "lone": (lambda: lone(1), lone), "lone, keyword": (lambda: lone(x=1), lone), "nullary": (nullary, nullary),
        "two": (lambda: two(1, 2), two), "shared": (lambda: shared(1), shared), "key_func": (lambda: by_key(1), by_key),
        "ignoring": (lambda: ignoring(1, 2), ignoring), "lru_cache": (lambda: functools_like(1), functools_like),
        "maxsize=0": (lambda: counted(1), counted), "method": (lambda: owner.method(), Owner.method),
        "bound": (lambda method=owner.method: method(), Owner.method), "typed": (lambda: owner.typed(1), Owner.typed),
        "__call__": (lambda method=owner.method: method.__call__(), Owner.method),
        "class method": (lambda: Owner.of_class(), Owner.of_class), "property": (lambda: owner.value, None),
        "unbound": (lambda: Owner.method(owner), Owner.method), "keywords": (lambda: two(x=1, y=2), two),
    }


@pytest.mark.parametrize("shape", shapes()[1])
@pytest.mark.parametrize("warm", [False, True])
def test_disabled_calls_run_their_function_and_neither_read_store_nor_count(shape, warm):
    calls, known = shapes()
    call, wrapper = known[shape]
    if warm:
        call(), call()
    before = wrapper.cache_info() if wrapper is not None else None
    count = len(calls)
    with disabled():
        with disabled():
            assert call() == count + 1
        assert call() == count + 2
    assert before == (wrapper.cache_info() if wrapper is not None else None)
    if shape != "maxsize=0":
        assert call() == call() == (1 if warm else count + 3)


def test_disabled_async_functions():
    calls = []

    @cached
    async def f():
        calls.append(1)
        return len(calls)

    async def main():
        assert await f() == await f() == 1
        with disabled():
            assert await f() == 2 and await f() == 3
            assert await f.refresh() == 4
        assert await f() == 1

    asyncio.run(main())


def test_only_this_context_is_disabled():
    f = cached(lambda: object())
    seen = {}

    async def main():
        first = f()
        inside, outside = asyncio.Event(), asyncio.Event()

        async def other():
            await inside.wait()
            seen["other task"] = f() is first
            outside.set()

        async def child():
            await outside.wait()
            await asyncio.sleep(0)
            seen["task of the block, later"] = f() is first

        task = asyncio.create_task(other())
        with disabled():
            later = asyncio.create_task(child())
            inside.set()
            await task
            seen["here"] = f() is first
        await later
        seen["after"] = f() is first

    asyncio.run(main())
    assert seen == {"other task": True, "here": False, "task of the block, later": False, "after": True}


def test_threads_are_disabled_by_where_they_were_started():
    f = cached(lambda: object())
    first = f()
    go_on = threading.Event()
    seen = {}

    def look(name):
        go_on.wait(60)
        seen[name] = f() is first
        nested = threading.Thread(target=lambda: seen.setdefault(f"{name}'s child", f() is first))
        nested.start()
        nested.join(60)

    before = ThreadPoolExecutor(1)
    assert before.submit(f).result(60) is first
    outside = threading.Thread(target=look, args=("outside",))
    outside.start()
    with disabled():
        inside = threading.Thread(target=look, args=("inside",))
        inside.start()
        within = ThreadPoolExecutor(1)
        assert within.submit(f).result(60) is not first
        assert before.submit(f).result(60) is first
    go_on.set()
    for thread in (inside, outside):
        thread.join(60)
    assert within.submit(f).result(60) is not first     # to its end
    before.shutdown(), within.shutdown()
    assert seen == {"inside": False, "inside's child": False, "outside": True, "outside's child": True}


def test_nothing_is_left_of_a_block():
    from cachebox._calls.disabling import BLOCKS

    count = len(BLOCKS)
    with disabled():
        assert len(BLOCKS) == count + 1
        thread = threading.Thread(target=int)
        thread.start()
        thread.join(60)
    del thread
    wait_until(lambda: len(BLOCKS) == count)
    block = disabled()
    with block, block:
        pass
    assert len(BLOCKS) == count


def test_control_goes_on_in_a_block():
    f = cached(lambda: object())
    with disabled():
        f.set("given")
        assert f.peek() == "given" and f() != "given" and f.refresh() != "given"
        assert f.peek() == "given" and f.invalidate() is True


@pytest.mark.parametrize("value, is_off", [("1", True), ("yes", True), ("0", False), ("", False)])
def test_a_whole_process_is_disabled_by_its_environment(value, is_off):
    program = (
        "import cachebox, threading; f = cachebox.cached(lambda x: object())\n"
        "print(f(1) is f(1), f.cache_info().misses)\n"
        "t = threading.Thread(target=lambda: print(f(1) is f(1))); t.start(); t.join()"
    )
    environment = {**os.environ, "CACHEBOX_DISABLED": value}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == (["False", "0", "False"] if is_off else ["True", "1", "True"]), done.stderr


def test_it_is_exported():
    assert cachebox.disabled is disabled


# --- above a partial method -------------------------------------------------------------------------------------------


def test_the_controls_of_a_partial_method_know_its_arguments():
    class Shop:
        def price(self, currency, article, rebate=0):
            return [currency, article, rebate]

        in_euros = cached(functools.partialmethod(price, "EUR"))
        reduced = cached(normalize=True)(functools.partialmethod(price, "EUR", rebate=5))

    shop, other = Shop(), Shop()
    assert shop.in_euros.peek("tea") is MISSING
    found = shop.in_euros("tea")
    assert found == ["EUR", "tea", 0] and shop.in_euros.peek("tea") is found is Shop.in_euros.peek(shop, "tea")
    assert other.in_euros.peek("tea") is MISSING
    assert shop.in_euros.cache_key("tea") == Shop.in_euros.cache_key(shop, "tea")
    shop.in_euros.set("set", "tea")
    assert shop.in_euros("tea") == "set" and shop.in_euros.refresh("tea") == found == shop.in_euros("tea")
    assert shop.in_euros.invalidate("tea") and not shop.in_euros.invalidate("tea")
    Shop.in_euros.set("by the class", shop, "tea")
    assert shop.in_euros("tea") == "by the class" and Shop.in_euros.refresh(shop, "tea") == found
    assert Shop.in_euros.invalidate(shop, "tea") and Shop.in_euros.cache_info() == shop.in_euros.cache_info()
    assert shop.reduced("tea") == ["EUR", "tea", 5] == shop.reduced.peek(article="tea")
    shop.reduced.cache_clear()
    assert shop.reduced.peek("tea") is MISSING
    assert list(inspect.signature(shop.in_euros).parameters) == ["article", "rebate"]
    assert not hasattr(shop.in_euros, "unheard_of") and shop.in_euros.__self__ is shop


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_the_controls_of_partial_static_and_class_methods(kind):
    class Shop:
        price = cached(functools.partialmethod(kind(lambda *args: list(args[-2:])), "EUR"))

    assert Shop.price("tea") == ["EUR", "tea"] == Shop().price("tea")
    assert Shop.price.peek("tea") is Shop().price.peek("tea") is Shop.price("tea")
    assert Shop().price.invalidate("tea") and Shop.price.peek("tea") is MISSING
