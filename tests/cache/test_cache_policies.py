"""Policies in a cache: how one is chosen, which calls it gets, what it decides."""

from __future__ import annotations

import random

import pytest

from cachebox import MISSING, AutoPolicy, Cache, EvictionPolicy, FIFOPolicy, LFUPolicy, LRUPolicy

BUILT_IN = {"LRU": LRUPolicy, "LFU": LFUPolicy, "FIFO": FIFOPolicy, "AUTO": AutoPolicy}


class Recording(EvictionPolicy):
    """An LRU in Python that notes its calls."""

    def __init__(self, max_size=None):
        super().__init__(max_size)
        self.order = {}
        self.told = []

    def add(self, key):
        self.told.append(("add", key))
        self.order[key] = None

    def remove(self, key):
        self.told.append(("remove", key))
        del self.order[key]

    def access(self, key):
        self.told.append(("access", key))
        self.order[key] = self.order.pop(key)

    def evict(self):
        key = next(iter(self.order), None)
        self.order.pop(key, None)
        self.told.append(("evict", key))
        return key

    def clear(self):
        self.told.append(("clear",))
        self.order.clear()

    def __len__(self):
        return len(self.order)

    def __contains__(self, key):
        return key in self.order

    def __iter__(self):
        return iter(list(self.order))


# --- choosing one ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["LRU", "lru", "Lfu", "lFU", "fifo", "FIFO"])
def test_a_name_in_any_case(name):
    cache = Cache(policy=name)
    assert cache.policy == name.upper()


def test_a_class(policy):
    cache = Cache(2, policy=BUILT_IN[policy])
    assert cache.policy == policy
    cache.update(a=1, b=2, c=3)
    assert list(cache) == ["b", "c"]


def test_an_instance(policy):
    order = BUILT_IN[policy](2)
    cache = Cache(2, policy=order)
    assert cache.policy is order
    cache.update(a=1, b=2, c=3)
    assert list(order) == list(cache) == ["b", "c"]
    assert len(order) == 2 and "b" in order and "a" not in order


def test_a_class_written_in_python_is_made_with_the_bound_of_the_cache():
    for max_size in (7, None):
        cache = Cache(max_size, policy=Recording)
        assert type(cache.policy) is Recording and cache.policy.max_size == max_size


def test_an_instance_written_in_python():
    order = Recording(2)
    cache = Cache(2, policy=order)
    assert cache.policy is order


def test_an_instance_serves_one_cache(policy):
    for order in (BUILT_IN[policy](2), Recording(2)):
        cache = Cache(2, policy=order)
        with pytest.raises(ValueError, match="policy"):
            Cache(2, policy=order)
        del cache
        with pytest.raises(ValueError, match="policy"):
            Cache(2, policy=order)


def test_a_refused_constructor_leaves_the_instance_to_another_cache(policy):
    for order in (BUILT_IN[policy](2), Recording(2)):
        with pytest.raises(ValueError, match="max_size"):
            Cache(0, policy=order)
        with pytest.raises(TypeError, match="clock"):
            Cache(2, policy=order, clock=5)
        Cache(2, policy=order)["a"] = 1


def test_a_built_in_instance_must_be_empty(policy):
    order = BUILT_IN[policy](2)
    order.add("a")
    with pytest.raises(ValueError, match=r"policy.*empty"):
        Cache(2, policy=order)
    order.clear()
    Cache(2, policy=order)["a"] = 1


def test_the_bound_of_the_cache_holds_not_that_of_the_instance():
    class Custom(LRUPolicy):
        pass

    for kind in (LRUPolicy, LFUPolicy, FIFOPolicy, AutoPolicy, Custom, Recording):
        for bound in (1, 100, None):
            order = kind(bound)
            cache = Cache(3, policy=order)
            cache.update(a=1, b=2, c=3, d=4)
            assert list(cache) == list(order) == ["b", "c", "d"] and order.max_size == 3
            cache.resize(2)
            assert list(cache) == list(order) == ["c", "d"] and order.max_size == 2


def test_a_built_in_instance_that_serves_a_cache_can_only_be_looked_at(policy):
    order = BUILT_IN[policy](5)
    cache = Cache(5, policy=order)
    cache.update(a=1, b=2)
    for call in (
        lambda: order.add("x"),
        lambda: order.remove("a"),
        lambda: order.access("a"),
        order.evict,
        order.clear,
    ):
        with pytest.raises(RuntimeError, match="cache"):
            call()
    assert list(order) == list(cache) == ["a", "b"]


def test_an_instance_outlives_its_cache(policy):
    order = BUILT_IN[policy](5)
    cache = Cache(5, policy=order)
    cache["a"] = 1
    del cache
    assert (len(order), list(order), "a" in order) == (0, [], False)


# --- what the built-in ones decide ----------------------------------------------------------------------------------


def order_after(policy, *steps, max_size=4):
    """The keys of a cache, next victim first, after a row of steps: "a" gets a key, "+a" sets it, "-a" deletes it."""
    cache = Cache(max_size, policy=policy)
    for step in steps:
        if step[0] == "+":
            cache[step[1:]] = None
        elif step[0] == "-":
            del cache[step[1:]]
        else:
            assert cache.get(step, MISSING) is None
    return "".join(cache)


def test_lru_evicts_what_was_least_recently_got_or_set():
    assert order_after("LRU", "+a", "+b", "+c", "+d") == "abcd"
    assert order_after("LRU", "+a", "+b", "+c", "+d", "a", "c") == "bdac"
    assert order_after("LRU", "+a", "+b", "+c", "+d", "+a", "+e") == "cdae"
    assert order_after("LRU", "+a", "+b", "+c", "-b", "+d", "+b", "a") == "cdba"


def test_lfu_evicts_what_was_least_often_used_and_among_equals_the_least_recently_used():
    assert order_after("LFU", "+a", "+b", "+c", "+d") == "abcd"
    assert order_after("LFU", "+a", "+b", "+c", "+d", "b", "b", "a", "d", "a") == "cdba"
    assert order_after("LFU", "+a", "+b", "+c", "+d", "d", "c", "b", "a", "+e") == "ecba"


def test_lfu_counts_an_insert_a_hit_and_an_overwrite_as_one_use_each():
    assert order_after("LFU", "+a", "+a", "+b", "b", "+c") == "cab"
    assert order_after("LFU", "+a", "a", "a", "+b", "+b", "+b", "+c", "c", "+c") == "abc"


def test_lfu_forgets_the_uses_of_what_left():
    assert order_after("LFU", "+a", "a", "a", "a", "+b", "b", "-a", "+a") == "ab"


def test_fifo_evicts_the_oldest_inserted_an_overwrite_keeps_its_place():
    assert order_after("FIFO", "+a", "+b", "+c", "+d", "a", "a", "+a", "b") == "abcd"
    assert order_after("FIFO", "+a", "+b", "+c", "+d", "+a", "+e") == "bcde"


def test_fifo_puts_a_removed_and_added_key_at_the_end():
    assert order_after("FIFO", "+a", "+b", "+c", "-a", "+a") == "bca"
    assert order_after("FIFO", "+a", "+b", "+c", "-b", "+d", "+b", "+e") == "cdbe"


class Model:
    """The three policies, as plain as possible: uses and times of use, and a search."""

    def __init__(self, policy):
        self.policy = policy
        self.rows = {}
        self.time = 0

    def use(self, key):
        self.time += 1
        added, _, uses = self.rows.get(key, (self.time, 0, 0))
        self.rows[key] = (added, self.time, uses + 1)

    def order(self):
        rank = {
            "LRU": lambda row: row[1],
            "LFU": lambda row: (row[2], row[1]),
            "FIFO": lambda row: row[0],
        }[self.policy]
        return sorted(self.rows, key=lambda key: rank(self.rows[key]))


@pytest.mark.parametrize("policy", ["LRU", "LFU", "FIFO"])     # that of AUTO has a model of its own
def test_each_order_is_that_of_a_plain_model(policy):
    choice = random.Random(8)
    cache, model = Cache(20, policy=policy), Model(policy)
    for step in range(4000):
        key = min(int(choice.expovariate(0.08)), 60)
        if choice.random() < 0.5:
            if key not in model.rows and len(model.rows) == 20:
                del model.rows[model.order()[0]]
            model.use(key)
            cache[key] = step
        elif choice.random() < 0.9:
            assert (cache.get(key) is not None) == (key in model.rows)
            if key in model.rows:
                model.use(key)
        else:
            assert cache.delete(key) == (model.rows.pop(key, None) is not None)
        if step % 10 == 0:
            assert list(cache) == model.order()


# --- the calls that a policy gets -------------------------------------------------------------------------------------

TOLD = {
    "set, new, with room": (lambda c: c.set("x", 1), [("add", "x")]),
    "set, new, when full": (lambda c: c.update(x=1, y=2), [("add", "x"), ("evict", "a"), ("add", "y")]),
    "set, overwriting": (lambda c: c.set("a", 1), [("access", "a")]),
    "get": (lambda c: c.get("a"), [("access", "a")]),
    "get of nothing": (lambda c: c.get("x"), []),
    "c[key]": (lambda c: c["a"], [("access", "a")]),
    "get_many": (lambda c: c.get_many("bxa"), [("access", "b"), ("access", "a")]),
    "setdefault": (lambda c: (c.setdefault("a", 1), c.setdefault("x", 1)), [("access", "a"), ("add", "x")]),
    "get_or_set": (lambda c: (c.get_or_set("a", int), c.get_or_set("x", int)), [("access", "a"), ("add", "x")]),
    "increment": (lambda c: (c.increment("a"), c.increment("x")), [("access", "a"), ("add", "x")]),
    "compute": (lambda c: (c.compute("a", str), c.compute("x", str)), [("access", "a"), ("add", "x")]),
    "compute, deleting": (lambda c: c.compute("a", lambda old: MISSING), [("remove", "a")]),
    "delete": (lambda c: (c.delete("a"), c.delete("x")), [("remove", "a")]),
    "pop": (lambda c: (c.pop("a"), c.pop("x", None)), [("remove", "a")]),
    "delete_many": (lambda c: c.delete_many("bxa"), [("remove", "b"), ("remove", "a")]),
    "popitem": (lambda c: c.popitem(), [("evict", "a")]),
    "resize": (lambda c: c.resize(1), [("evict", "a"), ("evict", "b")]),
    "clear": (lambda c: c.clear(), [("clear",)]),
    "touch": (lambda c: c.touch("a", 60), []),
    "peek": (lambda c: c.peek("a"), []),
    "in": (lambda c: "a" in c, []),
    "iteration": (lambda c: (list(c.items()), len(c)), []),
    "a refused set": (lambda c: pytest.raises(ValueError, c.set, "x", 1, 0), []),
}


@pytest.mark.parametrize("call", TOLD)
def test_a_policy_is_told_this_and_nothing_else(call):
    cache = Cache(4, policy=Recording)
    cache.update(a=1, b=2, c=3)
    del cache.policy.told[:]
    act, told = TOLD[call]
    act(cache)
    assert cache.policy.told == told


def test_expiry_is_a_remove(clock):
    cache = Cache(2, policy=Recording, clock=clock)
    notices = (lambda: cache.get("a"), cache.purge_expired, lambda: cache.delete("a"), lambda: len(cache))
    for notice in notices:
        cache.set("a", 1, ttl=5)
        clock.now += 5
        notice()
        assert cache.policy.told == [("add", "a"), ("remove", "a")]
        del cache.policy.told[:]


def test_the_expired_are_removed_before_the_policy_is_asked_for_a_victim(clock):
    cache = Cache(2, policy=Recording, clock=clock)
    cache["a"] = 1
    cache.set("b", 1, ttl=5)
    clock.now += 5
    del cache.policy.told[:]
    cache["c"] = 1
    assert cache.policy.told == [("remove", "b"), ("add", "c")]


def test_overwriting_an_expired_entry_is_a_remove_and_an_add(clock):
    cache = Cache(2, policy=Recording, clock=clock)
    cache.set("a", 1, ttl=5)
    clock.now += 5
    cache["a"] = 2
    assert cache.policy.told == [("add", "a"), ("remove", "a"), ("add", "a")]


def test_a_policy_is_told_only_hashable_keys():
    cache = Cache(2, policy=Recording)
    for call in (
        lambda: cache.set([], 1),
        lambda: cache.get([]),
        lambda: cache.delete([]),
        lambda: cache.update([([], 1)]),
    ):
        with pytest.raises(TypeError):
            call()
    assert cache.policy.told == []


def test_a_policy_is_told_the_key_that_is_stored():
    cache = Cache(2, policy=Recording)
    cache[1] = "int"
    cache[True] = "bool"
    cache.get(1.0)
    del cache[True]
    assert [type(key) for _, key in cache.policy.told] == [int] * 4


def test_a_policy_may_use_its_cache():
    class Nosy(Recording):
        cache = None

        def evict(self):
            for key in list(self.order):
                if self.cache.peek(key) == "worthless":
                    del self.order[key]
                    return key
            assert len(self.cache) == len(self.order)
            return super().evict()

    order = Nosy(2)
    cache = order.cache = Cache(2, policy=order)
    cache.update(a=1, b="worthless")
    cache["c"] = 3
    assert list(cache) == ["a", "c"]
    cache["d"] = 4
    assert list(cache) == ["c", "d"]
    order.cache = None


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_subclass_of_a_built_in_policy_plugs_in(name):
    class Sparing(BUILT_IN[name]):
        """Never evicts "precious"."""

        def evict(self):
            key = super().evict()
            if key == "precious":
                spared, key = key, super().evict()
                self.add(spared)
            return key

    cache = Cache(2, policy=Sparing)
    cache.update(precious=1, a=2, b=3, c=4)
    assert "precious" in cache and len(cache) == len(cache.policy) == 2
    cache.get("precious")
    del cache["precious"]
    cache.clear()
    assert len(cache.policy) == 0
    assert isinstance(cache.policy, Sparing) and "Sparing" in repr(cache)


def test_while_a_policy_is_asked_the_bound_holds():
    class Looking(Recording):
        seen = None

        def evict(self):
            if self.seen is not None:
                self.seen.append((len(self.cache), self.cache.max_size))
            return super().evict()

    cache = Cache(4, policy=Looking)
    cache.update(a=1, b=2, c=3, d=4)
    cache.policy.cache, cache.policy.seen = cache, []
    cache.resize(2)
    cache["e"] = 5
    assert cache.policy.seen and all(size <= bound for size, bound in cache.policy.seen)
    cache.policy.cache = None


class Looks:
    """A key that, while it is compared, notes how full the cache is."""

    def __init__(self, name, cache, seen):
        self.name, self.cache, self.seen = name, cache, seen

    def __hash__(self):
        return 1

    def __eq__(self, other):
        self.seen.append(len(self.cache))
        return self.name == other.name


STORING = {
    "set": lambda cache, key: cache.set(key, 1),
    "set with tags": lambda cache, key: cache.set(key, 1, tags="tag"),
    "update": lambda cache, key: cache.update([(key, 1)]),
    "setdefault": lambda cache, key: cache.setdefault(key, 1),
    "increment": lambda cache, key: cache.increment(key),
    "compute": lambda cache, key: cache.compute(key, lambda old: 1),
    "get_or_set": lambda cache, key: cache.get_or_set(key, lambda: 1),
}


@pytest.mark.parametrize("call", STORING)
def test_nobody_sees_that_the_victim_has_gone_and_the_new_entry_is_not_there_yet(any_policy, call):
    cache, seen = Cache(2, policy=any_policy), []
    cache.set(Looks("a", cache, seen), 1)
    cache.set(Looks("b", cache, seen), 1)
    seen.clear()
    STORING[call](cache, Looks("c", cache, seen))
    assert set(seen) == {2}
    assert [key.name for key in cache] == ["b", "c"]


def test_the_key_that_a_policy_names_may_be_an_equal_one_that_dies_at_once():
    class Dying:
        def __init__(self, name):
            self.name = name

        def __hash__(self):
            return hash(self.name)

        def __eq__(self, other):
            return self.name == other.name

        def __del__(self):
            found.append(cache.pop(self, None))

    class Copying(Recording):
        def evict(self):
            return Dying(super().evict().name)

    found = []
    cache = Cache(2, policy=Copying)
    keys = [Dying(name) for name in "abc"]
    for key in keys:
        cache[key] = key.name
    assert found == [None]              # by then the cache had dropped the key
    assert cache.popitem() == (keys[1], "b")
    assert found == [None, None] and cache == {keys[2]: "c"}
    cache.clear()


def test_a_policy_is_asked_by_popitem_and_orders_iteration():
    class Alphabetical(Recording):
        def evict(self):
            key = min(self.order)
            del self.order[key]
            return key

        def __iter__(self):
            return iter(sorted(self.order))

    cache = Cache(3, policy=Alphabetical)
    cache.update(b=1, a=2, c=3)
    assert list(cache) == ["a", "b", "c"]
    assert cache.popitem() == ("a", 2)
    assert list(cache.items()) == [("b", 1), ("c", 3)]
