"""The built-in policies on their own: ordered sets of keys that name their next victim. And the base class."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import weakref

import pytest

from cachebox import AutoPolicy, Cache, EvictionPolicy, FIFOPolicy, LFUPolicy, LRUPolicy

CLASSES = [LRUPolicy, LFUPolicy, FIFOPolicy, AutoPolicy]


@pytest.fixture(params=CLASSES, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


class Labelled(LFUPolicy):
    """A subclass with a constructor and attributes of its own."""

    def __init__(self, label, max_size=None):
        super().__init__(max_size)
        self.label = label


def filled(kind, *keys, max_size=None):
    order = kind(max_size)
    for key in keys:
        order.add(key)
    return order


def test_the_built_in_policies_are_eviction_policies(kind):
    assert issubclass(kind, EvictionPolicy)


def test_a_new_policy_is_empty(kind):
    order = kind(3)
    assert (order.max_size, len(order), list(order), order.evict()) == (3, 0, [], None)


def test_max_size_may_be_left_out(kind):
    assert kind().max_size is None
    assert kind(max_size=None).max_size is None
    assert len(filled(kind, *range(1000))) == 1000


@pytest.mark.parametrize(
    "bad, error", [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("3", TypeError), (True, TypeError)]
)
def test_a_bad_max_size_is_refused_by_name(kind, bad, error):
    with pytest.raises(error, match="max_size"):
        kind(bad)


def test_add_puts_a_key_into_the_order(kind):
    order = filled(kind, "a", "b")
    assert (len(order), list(order)) == (2, ["a", "b"])
    assert "a" in order and "c" not in order


def test_adding_a_key_again_is_an_access(kind):
    again, accessed = filled(kind, "a", "b", "c"), filled(kind, "a", "b", "c")
    again.add("a")
    accessed.access("a")
    assert list(again) == list(accessed) and len(again) == 3


def test_adding_to_a_full_policy_drops_its_victim(kind):
    order = filled(kind, "a", "b", "c", max_size=2)
    assert (len(order), "a" in order) == (2, False)


def test_remove_forgets_a_key(kind):
    order = filled(kind, "a", "b", "c")
    assert order.remove("b") is None
    assert list(order) == ["a", "c"]


def test_unknown_keys_are_key_errors(kind):
    order = filled(kind, "a")
    for call in (order.remove, order.access):
        with pytest.raises(KeyError) as raised:
            call("b")
        assert raised.value.args == ("b",)
    assert list(order) == ["a"]


def test_unhashable_keys_are_type_errors(kind):
    order = filled(kind, "a")
    for call in (order.add, order.remove, order.access, order.__contains__):
        with pytest.raises(TypeError, match="unhashable"):
            call([])
    assert list(order) == ["a"]


def test_evict_removes_and_returns_the_next_victim_and_none_at_the_end(kind):
    order = filled(kind, "a", "b", "c")
    order.access("a")
    expected = list(order)
    assert [order.evict() for _ in range(4)] == [*expected, None]
    assert len(order) == 0


def test_none_is_a_key_as_good_as_any(kind):
    order = filled(kind, None)
    assert None in order and len(order) == 1
    assert order.evict() is None and len(order) == 0


def test_clear_forgets_all(kind):
    order = filled(kind, "a", "b")
    order.access("a")
    assert order.clear() is None
    assert (len(order), list(order), order.evict()) == (0, [], None)
    order.add("b")
    order.add("a")
    assert list(order) == ["b", "a"]


def test_iteration_is_over_a_snapshot_next_victim_first(kind):
    order = filled(kind, *"abc")
    running = iter(order)
    order.clear()
    assert list(running) == ["a", "b", "c"]


def test_keys_are_compared_as_a_dict_compares_them(kind):
    order = filled(kind, 1)
    order.add(True)
    order.access(1.0)
    assert len(order) == 1 and "1" not in order
    assert type(order.evict()) is int


def test_lru_order():
    order = filled(LRUPolicy, "a", "b", "c")
    order.access("a")
    assert list(order) == ["b", "c", "a"]


def test_lfu_order_adding_is_a_use():
    order = filled(LFUPolicy, "a", "b", "c")
    for key in "aab":
        order.access(key)
    assert list(order) == ["c", "b", "a"]
    order.add("c")
    order.add("c")
    assert list(order) == ["b", "a", "c"]


def test_fifo_order():
    order = filled(FIFOPolicy, "a", "b", "c")
    order.access("a")
    order.add("a")
    assert list(order) == ["a", "b", "c"]
    order.remove("a")
    order.add("a")
    assert list(order) == ["b", "c", "a"]


def test_long_rows_of_additions_and_removals(kind):
    order = kind(50)
    for n in range(5000):
        order.add(n)
        if n % 3 == 0:
            order.remove(n)
        if n % 1000 == 0:
            order._check()
    assert len(order) == 50
    assert kind is AutoPolicy or list(order) == sorted(order)


class Alike:
    """Keys that all want the same place in the table, or one of few."""

    def __init__(self, name, places=1):
        self.name = name
        self.hash = name % places

    def __hash__(self):
        return self.hash

    def __eq__(self, other):
        return isinstance(other, Alike) and self.name == other.name


@pytest.mark.parametrize("places", [1, 2, 5, 300])
@pytest.mark.parametrize("count", [90, 400])
def test_keys_that_stand_far_from_where_they_belong_are_found_and_removed(kind, count, places):
    keys = [Alike(n, places) for n in range(count)]
    strangers = [f"between {n}" for n in range(count)]
    chance = random.Random(count + places)
    order, held = kind(3 * count), set()
    for turn in range(4 * count):
        key = chance.choice(keys if turn % 3 else strangers)
        if key in held:
            order.remove(key)
            held.remove(key)
        else:
            order.add(key)
            held.add(key)
        if turn % 97 == 0:
            order._check()
    order._check()
    assert set(order) == held and all(key in order for key in held)
    while held:
        held.remove(order.evict())
    order._check()
    assert len(order) == 0


def test_the_repr_shows_sizes_never_keys(kind):
    shown = repr(filled(kind, "secret", max_size=7))
    assert kind.__name__ in shown and "7" in shown and "1" in shown and "secret" not in shown


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda order: pickle.loads(pickle.dumps(order))])
def test_copies_and_pickles_keep_keys_and_order_and_uses(kind, clone):
    order = filled(kind, *"abcd", max_size=5)
    for key in "aabdd":
        order.access(key)
    cloned = clone(order)
    assert type(cloned) is kind and cloned.max_size == 5 and list(cloned) == list(order)
    for key in "ccc":
        order.access(key)
        cloned.access(key)
    assert list(cloned) == list(order)
    cloned.clear()
    assert len(order) == 4


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(kind, protocol):
    assert list(pickle.loads(pickle.dumps(filled(kind, *"ab"), protocol))) == ["a", "b"]


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda order: pickle.loads(pickle.dumps(order))])
def test_a_subclass_keeps_its_attributes(clone):
    order = Labelled("mine", 5)
    order.add("a")
    order.more = [1]
    cloned = clone(order)
    assert (type(cloned), cloned.label, cloned.more, cloned.max_size, list(cloned)) == (Labelled, "mine", [1], 5, ["a"])


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda order: pickle.loads(pickle.dumps(order))])
def test_a_copy_of_a_policy_that_serves_a_cache_serves_nobody_yet(kind, clone):
    order = kind(5)
    cache = Cache(5, policy=order)
    cache["a"] = 1
    cloned = clone(order)
    assert list(cloned) == ["a"]
    cloned.clear()
    other = Cache(5, policy=cloned)
    other["b"] = 1
    assert list(cloned) == ["b"] and list(order) == ["a"]


def test_policies_are_weakly_referenceable_and_collectable(kind):
    class Thing:
        pass

    def cycle():
        thing = Thing()
        thing.order = filled(kind, thing)
        return weakref.ref(thing.order)

    reference = cycle()
    gc.collect()
    assert reference() is None


def test_what_the_built_in_policies_share_is_no_policy():
    with pytest.raises(TypeError):
        LRUPolicy.__mro__[1](5)


def test_a_subclass_of_the_base_class_need_not_call_its_init():
    class Bare(EvictionPolicy):
        def __init__(self):
            pass

    assert Bare().max_size is None
