"""Each call takes effect at one instant between its start and its return.

Threads call methods of a small cache. They note when each call began and returned, and its result. Then there must be
an order of all the calls in which the model of a cache returns the same, and ends with the same entries and statistics.
In that order no call comes before one that had returned when it began (M. Herlihy, J. Wing, "Linearizability", 1990).
"""

from __future__ import annotations

import copy
import random
import time
from dataclasses import dataclass

import pytest

from cachebox import MISSING, Cache, cached
from conftest import PythonFIFO
from in_threads import run_all
from model import Model, finished

THREADS = 3
CALLS = 8
ROUNDS = 5
METHODS = (
    *("get", "get", "set", "set", "delete", "pop", "setdefault", "increment", "compute", "peek", "popitem", "items"),
    *("__contains__", "__getitem__", "__delitem__", "__len__", "add", "entry", "aget"),
    *("f.peek", "f.set", "f.invalidate"),
)


class Slow:
    """A key that only Python code can compare, which lets other threads run: so lookups overlap with everything."""

    def __init__(self, name):
        self.name = name

    def __hash__(self):
        return 1

    def __eq__(self, other):
        time.sleep(0)
        return isinstance(other, Slow) and self.name == other.name

    def __repr__(self):
        return self.name

    def __deepcopy__(self, memo):
        return self


KEYS = {"in C": ("a", "b", "c"), "in Python": (Slow("a"), Slow("b"), Slow("c"))}


pytestmark = pytest.mark.usefixtures("switch_often")


@dataclass
class Call:
    number: int
    method: str
    arguments: tuple
    began: int = 0
    returned: int = 0
    result: object = None

    def __str__(self):
        return f"{self.began}..{self.returned} {self.method}{self.arguments} -> {self.result!r}"


class Both(Cache):
    """A cache, and a function over it whose keys are its arguments."""

    def __init__(self, *options, **named):
        super().__init__(*options, **named)
        self.f = cached(self, key_func=lambda key: key, name="f")(lambda key: None)


IN_THE_MODEL = {"f.invalidate": "delete", "aget": "get"}


def method_of(target, name):
    """A method of a cache or of its function, or the function that does the same to a model."""
    if isinstance(target, Model):
        if name == "f.peek":
            return lambda key: target.peek(key, MISSING)
        if name == "f.set":
            return lambda value, key: target.set(key, value)
        return getattr(target, IN_THE_MODEL.get(name, name))
    if name == "aget":
        return lambda key: finished(target.aget(key))
    return getattr(target.f, name[2:]) if name.startswith("f.") else getattr(target, name)


def outcome(target, call):
    """The result of a call on a cache or on a model, or the class of its exception."""
    try:
        result = method_of(target, call.method)(*call.arguments)
    except KeyError:
        return KeyError
    if call.method == "entry" and result is not None:
        return result[:4]
    return list(result) if call.method == "items" else result


def deepened(old):
    return (0 if old is MISSING else old) + 100


def deleted(old):
    return MISSING


def some_calls(draw, keys, thread):
    """The calls of one thread."""
    for number in range(thread * CALLS, (thread + 1) * CALLS):
        key = draw.choice(keys)
        method = draw.choice(METHODS)
        if method in ("set", "setdefault", "add"):
            yield Call(number, method, (key, draw.randrange(10**6)))
        elif method == "f.set":
            yield Call(number, method, (draw.randrange(10**6), key))
        elif method == "compute":
            yield Call(number, method, (key, draw.choice([deepened, deleted])))
        elif method in ("popitem", "items", "__len__"):
            yield Call(number, method, ())
        else:
            yield Call(number, method, (key,))


def perform(cache, calls):
    for call in calls:
        call.began = time.perf_counter_ns()
        call.result = outcome(cache, call)
        call.returned = time.perf_counter_ns()


def explains(model, calls, final, failed=None):
    """Whether some order of these calls, with which the model goes on, ends in this state."""
    if not calls:
        return (model.items(), model.counts) == final
    failed = set() if failed is None else failed
    here = str((sorted(call.number for call in calls), model.in_order(), model.counts))
    if here in failed:
        return False
    first_return = min(call.returned for call in calls)
    for call in calls:
        if call.began <= first_return:
            then = copy.deepcopy(model)
            left = [other for other in calls if other is not call]
            if outcome(then, call) == call.result and explains(then, left, final, failed):
                return True
    failed.add(here)
    return False


ORDERS = {PythonFIFO: "FIFO"}


def order_of(policy):
    if policy == "AUTO":
        pytest.skip("AUTO remembers keys that have left, which the model does not: it has a model of its own")
    return ORDERS.get(policy, policy)


def check(order, policy, keys, draw):
    cache = Both(2, policy=policy)
    plans = [list(some_calls(draw, keys, thread)) for thread in range(THREADS)]
    run_all(*[lambda plan=plan: perform(cache, plan) for plan in plans])
    calls = sorted([call for plan in plans for call in plan], key=lambda call: call.began)
    counts = cache.stats.get_all()
    model = Model(order, 2, None, None, None, None, clock=time.monotonic)
    final = (list(cache.items()), {name: counts[name] for name in model.counts})
    told = "\n".join(str(call) for call in calls)
    assert explains(model, calls, final), f"no order of these calls explains what they returned:\n{told}\n{final}"


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_some_order_of_the_calls_explains_all_results(any_policy, keys):
    draw = random.Random(7)
    for _ in range(ROUNDS):
        check(order_of(any_policy), any_policy, keys, draw)


@pytest.mark.slow
@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_some_order_explains_many_more(any_policy, keys):
    draw = random.Random()
    for _ in range(500):
        check(order_of(any_policy), any_policy, keys, draw)


def test_a_history_that_no_order_explains_is_found():
    """The check itself can fail: a value was read after its removal had returned."""
    model = Model("LRU", 2, None, None, None, None, clock=time.monotonic)
    wrote = Call(1, "set", ("a", 1), 0, 1)
    removed = Call(2, "delete", ("a",), 2, 3, True)
    read = Call(3, "get", ("a",), 4, 5, 1)
    after = ([], {**model.counts, "sets": 1, "deletes": 1, "hits": 1})
    assert not explains(model, [wrote, removed, read], after)
    read.began = 1
    assert explains(model, [wrote, removed, read], after)
    assert not explains(model, [wrote, removed, read], ([], {**after[1], "hits": 0}))
