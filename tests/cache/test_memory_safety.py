"""Nothing that user code does at a bad moment corrupts a cache: kinds of faults, each in several shapes.

The collector, a finalizer, a key's `==` or another thread may act between a question and the step that uses its answer.
So the step that acts asks again, and it owns what others refer to.
"""

from __future__ import annotations

import copy
import gc
import itertools
import math
import pickle
import random
import subprocess
import sys
import threading
import weakref

import pytest

from cachebox import Cache, cached, lru_cache
from cachebox._calls.cached_function import CachedFunction, CachedMethod
from cachebox.policies import BUILT_IN
from conftest import POLICIES, Clock, PythonFIFO
from in_threads import run_all

WAIT = 60.0


class Key:
    """Compared by Python, all of one hash; `on_compare` is called once, during a comparison."""

    on_compare = None

    def __init__(self, n):
        self.n = n

    def __hash__(self):
        return 7

    def __eq__(self, other):
        act, Key.on_compare = Key.on_compare, None
        if act is not None:
            act()
        return isinstance(other, Key) and self.n == other.n


@pytest.fixture(autouse=True)
def disarmed():
    yield
    Key.on_compare = None


# --- tags: found and made in one step ---------------------------------------------------------------------------------


class Tag:
    """A tag whose `__hash__` or `__eq__` does something, at its n-th call."""

    def __init__(self):
        self.calls = 0
        self.acts_at = 0
        self.act = None
        self.where = ""

    def called(self, where):
        if where == self.where:
            self.calls += 1
            if self.calls == self.acts_at:
                self.act()

    def __hash__(self):
        self.called("hash")
        return 1

    def __eq__(self, other):
        self.called("eq")
        return self is other


@pytest.mark.parametrize("where", ["hash", "eq"])
@pytest.mark.parametrize("deed", ["set", "invalidate", "clear", "drop unused"])
def test_a_tag_that_uses_the_cache_while_it_is_looked_up(policy, where, deed):
    for call in range(1, 9):
        cache = Cache(100, policy=policy)
        tag, other = Tag(), Tag()
        cache.set("first", 0, tags=[other])
        tag.act = {
            "set": lambda: cache.set("inner", 1, tags=[tag]),
            "invalidate": lambda: cache.invalidate_tag(tag),
            "clear": cache.clear,
            "drop unused": lambda: [cache.set("x", 1, tags=str(n)) for n in range(300)],
        }[deed]
        tag.where, tag.acts_at = where, call
        cache.set("outer", 2, tags=[tag])
        cache._check()
        tag.where = ""
        tagged = [key for key in ("outer", "inner") if key in cache]
        assert cache.invalidate_tag(tag) == len(tagged), (call, tagged)
        assert not {"outer", "inner"} & set(cache), call
        cache._check()


def test_a_finalizer_that_sets_the_same_tag_while_it_is_being_made():
    cache = Cache(100_000)

    class Session:
        def __init__(self, n):
            self.itself = self
            self.n = n

        def __del__(self):
            cache.set(("closed", self.n), True, tags=f"session {self.n}")

    for n, threshold in enumerate(itertools.chain(range(1, 40), range(1, 40))):
        gc.collect()
        gc.disable()
        Session(n)
        gc.set_threshold(threshold, 0, 0)
        gc.enable()
        cache.set(("open", n), True, tags=f"session {n}")
        gc.disable()
        gc.collect()
        gc.set_threshold(700, 10, 10)
        gc.enable()
        assert cache.invalidate_tag(f"session {n}") == 2
    assert len(cache) == 0


def test_threads_that_tag_invalidate_and_forget_tags(switch_often):
    cache = Cache(50)
    stop = threading.Event()

    def work(seed):
        dice = random.Random(seed)
        while not stop.is_set():
            cache.set(dice.randrange(60), 1, tags=[dice.randrange(200), "all"])
            cache.invalidate_tag(dice.randrange(200))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for n in range(2000):
        cache.set("mine", n, tags=("mine", n))
        assert cache.invalidate_tag("mine") == 1 or "mine" not in cache
    stop.set()
    for thread in threads:
        thread.join(WAIT)
    cache._check()
    cache.invalidate_tag("all")
    assert len(cache) == 0


def test_a_tag_in_a_cycle_with_its_cache_is_collected():
    class Name:
        pass

    cache = Cache(10)
    name = Name()
    name.cache = cache
    cache.set("a", 1, tags=[name])
    gone = weakref.ref(name)
    del cache, name
    gc.collect()
    assert gone() is None


# --- policies as objects ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["add", "remove", "access", "__contains__"])
def test_a_policy_that_is_lent_in_the_middle_of_its_method(policy, verb):
    order = BUILT_IN[policy]()
    order.add(Key(1))
    made = []

    def lend():
        order.clear()
        made.append(Cache(1, policy=order))
        made[0][Key(5)] = "v"

    Key.on_compare = lend
    try:
        getattr(order, verb)(Key(2))
    except (RuntimeError, KeyError):
        assert verb != "__contains__"
    else:
        assert verb == "__contains__"
    [cache] = made
    assert len(cache) == len(order) == 1
    cache._check()
    for n in range(100):
        cache[n % 7] = n
        cache.get(n % 3)
        cache._check()
    assert list(order) == list(cache)
    with pytest.raises(RuntimeError, match="serves a cache"):
        order.add(3)


def test_a_policy_used_by_a_thread_while_another_one_lends_it(policy, switch_often):
    for _ in range(60):
        order = BUILT_IN[policy]()
        caches = []

        def use(order=order):
            for n in range(40):
                try:
                    order.add(Key(n % 3))
                    order.remove(Key(n % 3))
                except (KeyError, RuntimeError):
                    pass

        def lend(order=order, caches=caches):
            for _ in range(200):
                try:
                    caches.append(Cache(2, policy=order))
                    break
                except ValueError:
                    continue

        threads = [threading.Thread(target=target) for target in (use, lend, lend)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        assert len(caches) <= 1, "one policy serves two caches"
        for cache in caches:
            cache.update({n: n for n in range(9)})
            cache._check()
            assert list(order) == list(cache)


def test_ranks_of_a_pickled_policy_that_no_policy_could_have():
    from cachebox.policies import restore

    for ranks in ([0, 0, 0], [2**64 - 1, 2**64 - 2, 1], [2**63, 5, 2**63]):
        for name in POLICIES:
            order = restore(BUILT_IN[name], 10, ["a", "b", "c"], ranks)
            for key in "abcabc":
                order.access(key)
                order._check()
            assert sorted(order) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="twice"):
        restore(BUILT_IN["LRU"], 10, ["a", "a"], [1, 1])
    with pytest.raises(OverflowError):
        restore(BUILT_IN["LFU"], 10, ["a"], [-1])


@pytest.mark.parametrize("rank", [0, 1, 2**63, 2**64 - 1])
def test_ranks_that_an_import_or_a_pickle_brings(policy, rank):
    cache = Cache(10, policy=policy)
    cache._import([(n, n, math.inf, rank, ()) for n in range(5)])
    state = cache.__reduce__()[2]
    state["entries"] = (*state["entries"][:5], [rank] * 5, *state["entries"][6:])
    copied = Cache.__new__(Cache)
    copied.__setstate__(state)
    for it in (cache, copied):
        for n in range(40):
            it.get(n % 6)
            it._check()
            it[n] = n
        it._check()


# --- __init__ ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deed", ["store", "store and delete", "look", "count"])
def test_a_policy_class_that_uses_the_cache_it_is_made_for(policy, deed):
    class Subclass(Cache):
        pass

    class Meta(type(BUILT_IN[policy])):
        def __call__(cls, size):
            for n in range(3):
                if deed.startswith("store"):
                    cache[n] = n
                if deed.endswith("delete"):
                    del cache[n]
                cache.get(n)
                len(cache)
            return BUILT_IN[policy](size)

    class Policy(BUILT_IN[policy], metaclass=Meta):
        pass

    cache = Subclass.__new__(Subclass)
    if deed.startswith("store"):
        with pytest.raises(RuntimeError, match="__init__"):
            cache.__init__(2, policy=Policy)
        assert cache.max_size == 1000
    else:
        cache.__init__(2, policy=Policy)
        assert cache.max_size == 2
    for n in range(3000):
        cache[n] = n
        cache.get(n // 2)
    assert len(cache) == cache.max_size
    cache._check()


@pytest.mark.parametrize("option", ["loader", "max_weight", "refresh_ahead", "default_ttl"])
def test_options_whose_checks_use_the_cache(option):
    cache = Cache.__new__(Cache)

    class Sneaky(float):
        def __float__(self):
            cache["sneaked in"] = 1
            return 0.5

        @property
        def load(self):
            cache["sneaked in"] = 1
            return len

    options = {option: Sneaky(0.5)}
    if option == "max_weight":
        options["weigher"] = lambda key, value: 1
    if option == "refresh_ahead":
        options["loader"] = len
    try:
        cache.__init__(1, **options)
    except RuntimeError:
        assert cache.max_size == 1000
    cache["a"] = cache["b"] = 1
    assert len(cache) <= cache.max_size
    cache._check()


def test_a_subclass_that_others_use_before_its_init_has_run(policy, switch_often):
    class Registered(Cache):
        def __init__(self, *args, **kwargs):
            shown.append(self)
            super().__init__(*args, **kwargs)

    for _ in range(100):
        shown = []
        stop = threading.Event()

        def use(shown=shown, stop=stop):
            n = 0
            while not stop.is_set():
                for cache in shown:
                    n += 1
                    cache[n] = n
                    cache.get(n - 1)

        thread = threading.Thread(target=use)
        thread.start()
        try:
            cache = Registered(3, policy=policy, time_to_idle=100)
        except RuntimeError:
            [cache] = shown
        stop.set()
        thread.join(WAIT)
        cache.update({n: n for n in range(10)})
        assert len(cache) <= cache.max_size
        cache._check()


def test_a_second_init_changes_nothing(any_policy):
    cache = Cache(3, policy=any_policy)
    with pytest.raises(RuntimeError, match="__init__"):
        cache.__init__(5)
    cache["a"] = 1
    with pytest.raises(RuntimeError, match="__init__"):
        cache.__init__(5, policy="FIFO")
    order = BUILT_IN["LRU"]()
    with pytest.raises(RuntimeError, match="__init__"):
        cache.__init__(5, policy=order)
    Cache(2, policy=order)["x"] = 1     # it was not taken
    assert cache.max_size == 3
    assert dict(cache) == {"a": 1}


# --- the turn of a policy written in Python ---------------------------------------------------------------------------


class InADict(PythonFIFO):
    """Its own dict compares keys, too: while the operation holds the policy lock."""


@pytest.mark.parametrize("nth", [1, 3, 4, 6])
@pytest.mark.parametrize(
    "call",
    [
        lambda cache: cache.set(Key(9), 1),
        lambda cache: cache.get(Key(2)),
        lambda cache: cache.delete(Key(2)),
        lambda cache: list(cache.items()),
        lambda cache: cache.popitem(),
        lambda cache: cache.update({n: n for n in range(12)}),
        lambda cache: cache.resize(1),
        lambda cache: cache.compute(Key(2), lambda old: 5),
        lambda cache: cache.clear(),
    ],
)
def test_comparing_keys_may_wait_for_a_thread_that_uses_the_cache(call, nth, monkeypatch):
    cache = Cache(10, policy=InADict)
    for n in range(4):
        cache[Key(n)] = n
    left = [nth]
    done = []

    def other():
        cache["other"] = 1
        cache.pop(Key(1), None)
        done.append(True)

    def compared():
        left[0] -= 1
        if left[0]:
            Key.on_compare = compared
            return
        thread = threading.Thread(target=other, daemon=True)
        thread.start()
        thread.join(WAIT)
        assert done, "the other thread waits for this one"

    Key.on_compare = compared
    call(cache)
    Key.on_compare = None
    cache["afterwards"] = 1
    cache._check()
    assert list(cache.policy) == list(cache)


def test_evict_may_wait_for_a_thread_that_uses_the_cache():
    class Waiting(PythonFIFO):
        def evict(self):
            for cache in self.caches:
                thread = threading.Thread(target=lambda: (cache.clear(), cache.update(x=1, y=2, z=3)), daemon=True)
                self.caches = []
                thread.start()
                thread.join(WAIT)
                assert not thread.is_alive()
            return super().evict()

    cache = Cache(2, policy=Waiting)
    cache.update(a=1, b=2)
    cache.policy.caches = [cache]
    cache["c"] = 3
    assert len(cache) <= 2
    cache["d"] = 4
    cache._check()
    assert sorted(cache.policy) == sorted(cache)


# --- weights, numbers, memory -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "heavy", "light"),
    [(2**53, 2**53 - 5, 1), (1.0, 1.0 - 2**-53, 1e-17), (1e308, 9e307, 1e291), (2**60 + 1, 2**60, 1)],
)
def test_weights_are_exact_however_far_apart(policy, bound, heavy, light):
    from fractions import Fraction

    cache = Cache(None, policy=policy, max_weight=bound, weigher=lambda key, value: value)
    cache["heavy"] = heavy
    for n in range(60):
        cache[n] = light
        cache.get("heavy")
        assert sum(map(Fraction, cache.values())) <= Fraction(bound)
    cache._check()
    for key in list(cache):
        del cache[key]
    assert cache.weight == 0
    cache["whole"] = bound if bound != 2**60 + 1 else 2**60
    assert cache.weight == cache["whole"]


def test_fractions_that_come_and_go_leave_nothing_behind():
    dice = random.Random(5)
    cache = Cache(None, max_weight=10, weigher=lambda key, value: value)
    for _ in range(20_000):
        cache[dice.randrange(50)] = dice.random() * 10.0 ** dice.randrange(-20, 1)
    for key in range(50):
        cache.delete(key)
    cache["nothing"] = 0
    assert cache.weight == 0
    assert type(cache.weight) is int


@pytest.mark.parametrize("how", ["resize", "delete", "expire", "invalidate", "popitem", "weigh"])
def test_memory_follows_the_entries(any_policy, how):
    clock = Clock()
    options = {"max_weight": 10_000, "weigher": lambda key, value: value} if how == "weigh" else {}
    cache = Cache(None, policy=any_policy, clock=clock, **options)
    small = Cache(None, policy=any_policy, clock=clock, **options)
    watched = []
    many = 10_000 if any_policy is not PythonFIFO else 3000
    for n in range(many):
        if how in ("expire", "invalidate"):
            cache.set(n, 1, ttl=5 if n < many - 20 else 50, tags="old" if n < many - 20 else ())
        else:
            cache[n] = 1
    full = sys.getsizeof(cache)
    if how == "resize":
        cache.resize(20)
        cache.resize(None)
    elif how == "delete":
        cache.delete_many(range(many - 20))
    elif how == "expire":
        clock.now += 10
        cache.purge_expired()
    elif how == "invalidate":
        cache.invalidate_tag("old")
    elif how == "popitem":
        while len(cache) > 20:
            cache.popitem()
    else:
        cache["heavy"] = 9_980
    cache._check()
    small.update(dict.fromkeys(range(20), 1))
    assert len(cache) <= 21
    assert sys.getsizeof(cache) < max(full / 10, 4 * sys.getsizeof(small))
    for n in range(500):
        cache.set(n, 1, ttl=5, tags=("a", "b"))
        cache.get(n // 2)
    cache._check()
    assert not watched


@pytest.mark.parametrize("before", [0, 1, 5])
def test_a_load_and_a_compute_under_way_while_entries_move(any_policy, before):
    """A key that is being loaded has a place in the table, and so has a watched key; both move with the rest."""
    cache = Cache(None, policy=any_policy, default_ttl=1000)

    def shrink(result):
        cache.delete_many(range(before, 995))
        cache._check()
        return result

    cache.update({n: n for n in range(1000)})
    assert cache.get_or_set("loaded", lambda: shrink("new")) == "new"
    assert cache["loaded"] == "new"
    cache.update({n: n for n in range(1000)})
    assert cache.compute(999, lambda old: shrink(old + 1)) == 1000
    cache.update({n: n for n in range(990)})
    assert cache.compute("computed", lambda old: shrink("c")) == "c"
    cache.update({n: n for n in range(990)})

    def nested():
        assert cache.get_or_set("outer", lambda: shrink("inner")) == "inner"    # alone, next to the leader
        return "outer"

    assert cache.get_or_set("outer", nested) == "outer"
    assert cache["loaded"] == "new"
    assert cache["computed"] == "c"
    assert (cache[999], cache[998]) == (1000, 998)
    cache._check()


def test_growing_and_shrinking_all_the_time(any_policy):
    dice = random.Random(3)
    cache = Cache(None, policy=any_policy, time_to_idle=500)
    model = {}
    for _ in range(60 if any_policy is not PythonFIFO else 20):
        keys = [dice.randrange(5000) for _ in range(dice.choice([3, 40, 900]))]
        if dice.random() < 0.5:
            for key in keys:
                cache.set(key, key, tags=(key % 5,))
                model[key] = key
        else:
            for key in [*keys, *dice.sample(sorted(model), int(len(model) * dice.random()))]:
                cache.delete(key)
                model.pop(key, None)
        cache._check()
    assert dict(cache) == model


def test_counters_do_not_wrap():
    stats = Cache().stats
    for _ in range(5):
        stats.increment("hits", 2**62)
    stats.increment("hits", 2**200)
    stats.increment("misses", 2**63)
    assert stats.hits == stats.get("hits") == 5 * 2**62 + 2**200
    assert stats.misses == 2**63
    before = stats.snapshot()
    stats.increment("hits")
    assert (stats.snapshot() - before).hits == 1
    assert pickle.loads(pickle.dumps(before)) == before
    assert stats.hit_rate() == pytest.approx(1.0)
    stats.increment("load_time", 1e12)
    assert stats.load_time == 1e12
    stats.reset()
    assert stats.hits == 0


# --- copies, endings, what is private ---------------------------------------------------------------------------------


class Slotted(Cache):
    __slots__ = ("__mangled", "x")


class SlottedFurther(Slotted):
    __slots__ = ("y",)


class SlottedWithDict(Slotted):
    pass


@pytest.mark.parametrize("kind", [Slotted, SlottedFurther, SlottedWithDict])
def test_slots_of_subclasses_are_copied_and_pickled(kind):
    cache = kind(5)
    cache["a"] = 1
    cache.x = [1]
    cache._Slotted__mangled = "m"
    if kind is not Slotted:
        cache.y = "y"
    for copied in (copy.copy(cache), cache.copy(), pickle.loads(pickle.dumps(cache)), copy.deepcopy(cache)):
        assert (copied.x, copied._Slotted__mangled, dict(copied)) == ([1], "m", {"a": 1})
        assert kind is Slotted or copied.y == "y"
    assert not hasattr(copy.copy(kind(5)), "x")


def with_options(function):
    return cached(typed=True)(function)


def as_method(function):
    function.__qualname__ = "Class.method"
    return cached(function)


# CPython 3.11 nests fifty deallocations, so a short chain shows on a small stack whether ours do so, too. Others nest
# as many as they believe the usual stack to bear.
STACK, LINKS = (256 * 1024, 5_000) if sys.version_info < (3, 12) else (8 << 20, 30_000)


def on_that_stack(function):
    usual = threading.stack_size(STACK)
    try:
        run_all(function)
    finally:
        threading.stack_size(usual)


@pytest.mark.parametrize("decorator", [as_method, with_options, cached, lru_cache])
def test_a_long_chain_of_cached_functions_is_freed(decorator):
    def free():
        function = len
        for _ in range(LINKS):
            following = decorator(lambda x: x)
            following.previous = function
            function = following
        assert type(following) is (CachedMethod if decorator in (as_method, lru_cache) else CachedFunction)
        gone = weakref.ref(function)
        del function, following
        gc.collect()
        assert gone() is None

    on_that_stack(free)


def test_a_long_chain_of_methods_and_caches_is_freed():
    def free():
        value = None
        for _ in range(2 * LINKS):
            cache = Cache(2)
            cache["value"] = value
            value = cache.get
        gone = weakref.ref(cache)
        del cache, value
        gc.collect()
        assert gone() is None

    on_that_stack(free)


def test_private_classes_are_whole_or_refuse_to_be_made():
    program = """
import cachebox, gc
from cachebox._calls.cached_function import CachedFunction, CachedMethod, BoundFunction
from cachebox.policies import _BuiltInPolicy
for kind in (CachedFunction, CachedMethod, BoundFunction):
    try:
        kind.__new__(kind)
    except TypeError:
        pass
    else:
        raise AssertionError(kind)
function = CachedFunction.__new__(CachedFunction, len, cachebox.Cache(2))
bound = BoundFunction.__new__(BoundFunction, function, 1)
for call in (
    repr, lambda it: it.cache_clear(), lambda it: it.cache_info(), lambda it: it.cache_key(1),
    lambda it: it.invalidate(1),
    lambda it: it("x"), lambda it: it.__get__(1, int),
):
    for it in (function, bound):
        try:
            call(it)
        except (TypeError, AttributeError, KeyError):
            pass
order = _BuiltInPolicy.__new__(_BuiltInPolicy)
order.add(1); order.add(2); order.access(1); order._check()
assert sorted(order) == [1, 2]
class Careless(_BuiltInPolicy):
    def __init__(self, size=None): pass
cache = cachebox.Cache(2, policy=Careless)
cache.update({n: n for n in range(5)})
cache._check()
gc.collect()
print("survived")
"""
    command = [sys.executable, "-X", "faulthandler", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT)
    assert done.stdout.strip() == "survived", done.stderr


