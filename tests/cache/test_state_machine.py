"""Long rows of random operations, compared with the model step by step.

Every row begins with a random cache: policy (one of them written in Python) × size × lifetimes × weight × callbacks.
After each operation the cache and `model.Model` must agree on its result or exception, on the statistics, on the calls
of the callbacks and their order, on every value and remaining lifetime, and on the order of eviction; and the
cache verifies its own invariants (`_check`).

Hypothesis draws the rows, the same ones every time, and makes a failing one short. `pytest -m slow` takes a million
steps.
"""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from cachebox import MISSING, Cache, cached
from conftest import PythonFIFO
from model import Model, finished

TICK = 2.0**-20         # seconds between two operations: so no two deadlines are ever equal, and no sum is rounded


class Slow:
    """Keys of one hash, which only Python code can compare."""

    def __init__(self, name):
        self.name = name

    def __hash__(self):
        return 1

    def __eq__(self, other):
        return isinstance(other, Slow) and self.name == other.name

    def __repr__(self):
        return f"Slow({self.name!r})"


class MostRecent(PythonFIFO):
    """A policy written in Python: it evicts the entry that was used last."""

    def access(self, key):
        self.order[key] = self.order.pop(key)

    def evict(self):
        return self.order.popitem()[0] if self.order else None

    def __iter__(self):
        return iter(list(reversed(self.order)))


def weigh(key, value):
    if not isinstance(value, int):
        return 1.5
    return 100 if value % 10 == 9 else value % 5 * 0.5


class Pair:
    """A cache and its model."""

    def __init__(self, policy, max_size, default_ttl, time_to_idle, max_weight, listeners, isolate):
        self.now = 1000.0
        self.result = None              # of the function that is cached
        self.told = []
        self.listeners = listeners
        callbacks = {
            "on_evict": lambda key, value: self.told.append((key, value)),
            "on_removal": lambda key, value, cause: self.told.append((key, value, cause.name)),
        }
        self.cache = Cache(
            max_size,
            default_ttl,
            MostRecent if policy == "MRU" else policy,
            time_to_idle=time_to_idle,
            max_weight=max_weight,
            weigher=None if max_weight is None else weigh,
            isolate=isolate,
            clock=self.clock,
            **{name: callbacks[name] for name in listeners},
        )
        self.model = Model(policy, max_size, default_ttl, time_to_idle, max_weight, weigh, self.clock)
        self.decorate()

    def decorate(self):
        self.function = cached(self.cache, key_func=lambda key: key, name="f")(lambda key: self.result)

    def clock(self):
        return self.now

    def both(self, call, call_model=None):
        """Do the same to both, and compare the results, and everything that can be seen afterwards."""
        self.now += TICK
        started = self.now
        results = []
        for call_it, it in ((call, self.cache), (call_model or call, self.model)):
            self.now = started
            try:
                results.append(call_it(it))
            except (KeyError, TypeError, ValueError, Broken) as error:
                results.append(type(error))
        assert results[0] == results[1] and type(results[0]) is type(results[1])
        self.compare()

    def compare(self):
        cache, model = self.cache, self.model
        cache._check()
        expected = [entry[: 2 + part] for entry in model.left for part in self.parts_told()]
        assert self.told == expected
        model.left.clear()
        self.told.clear()
        assert {name: cache.stats.get(name) for name in model.counts} == model.counts
        for key in KEYS:
            assert cache.peek(key, MISSING) == model.peek(key, MISSING)
            assert remaining(cache, key) == remaining(model, key)
        if not any(model.has_expired(entry) for entry in model.entries.values()):   # else looking would change it
            assert list(cache.items()) == model.items()
            assert (len(cache), cache.weight) == (len(model), model.weight())

    def parts_told(self):
        return [name == "on_removal" for name in ("on_evict", "on_removal") if name in self.listeners]

    def separate(self, keys):
        """After an operation on several keys: let their deadlines differ."""
        for key in keys:
            self.both(lambda it, key=key: it.touch(key))


class Broken(Exception):
    pass


def remaining(it, key):
    try:
        return it.ttl(key)
    except KeyError:
        return MISSING


def fresh(key):
    """An equal key, but if possible another object."""
    return Slow(key.name) if isinstance(key, Slow) else key


# --- the operations: what they do to a pair, and what their arguments are drawn from ---------------------------------

KEYS = [0, 1, 2, "a", "b", (1, 2), Slow("x"), Slow("y"), Slow("z")]
VALUES = [0, 1, 2, 3, 4, 9, None, "text"]
SIZES = [None, 1, 2, 3, 5]
TTLS = [None, None, 1, 2.0, 3, timedelta(seconds=5), float("inf")]
SOME_KEYS = [[], KEYS[:1], KEYS[2:5], KEYS[5:8], KEYS[::3]]


def seconds(ttl):
    return ttl.total_seconds() if isinstance(ttl, timedelta) else ttl


def look(pair, name, key):
    calls = {
        "get": lambda it: it.get(fresh(key), "nothing"),
        "c[key]": lambda it: it[fresh(key)],
        "in": lambda it: fresh(key) in it,
        "contains": lambda it: it.contains(fresh(key)),
        "entry": lambda it: described(it, key),
        "delete": lambda it: it.delete(fresh(key)),
        "del": lambda it: it.__delitem__(fresh(key)),
        "pop": lambda it: it.pop(fresh(key)),
        "pop with default": lambda it: it.pop(fresh(key), "nothing"),
    }
    pair.both(calls[name])


def call(pair, name, key, value):
    """A function over the cache, whose keys are its arguments, and what its wrapper can do to one call."""
    function = pair.function
    pair.result = value
    calls = {
        "call": (lambda it: function(fresh(key)), lambda it: it.get_or_set(key, lambda it: (value, False))),
        "peek": (lambda it: function.peek(fresh(key)), lambda it: it.peek(key, MISSING)),
        "refresh": (lambda it: function.refresh(fresh(key)), lambda it: it.refresh_call(key, value)),
        "set": (lambda it: function.set(value, fresh(key)), lambda it: (it.refresh_call(key, value), None)[1]),
        "invalidate": (lambda it: function.invalidate(fresh(key)), lambda it: it.delete(key)),
    }
    pair.both(*calls[name])


def look_from_a_coroutine(pair, name, key, default):
    """Without a loader there is nothing to wait for."""
    calls = {
        "aget": (lambda it: finished(it.aget(fresh(key), default)), lambda it: it.get(key, default)),
        "aget_many": (lambda it: finished(it.aget_many([fresh(key)])), lambda it: it.get_many([key])),
    }
    pair.both(*calls[name])


def described(it, key):
    found = it.entry(fresh(key))
    return None if found is None else (*found[:4], ())          # the function's own tag is not the model's


def add(pair, key, value, ttl):
    pair.both(lambda it: it.add(fresh(key), value, ttl), lambda it: it.add(key, value, seconds(ttl)))


def store(pair, key, value, ttl):
    pair.both(lambda it: it.set(fresh(key), value, ttl), lambda it: it.set(key, value, seconds(ttl)))


def store_by_item(pair, key, value):
    pair.both(lambda it: it.__setitem__(fresh(key), value))


def setdefault(pair, key, value):
    pair.both(lambda it: it.setdefault(fresh(key), value))


def touch(pair, key, ttl):
    pair.both(lambda it: it.touch(fresh(key), ttl), lambda it: it.touch(key, seconds(ttl)))


def increment(pair, key, amount):
    pair.both(lambda it: it.increment(fresh(key), amount))


def compute(pair, key, kind, value):
    def fn(old):
        if kind == "raise":
            raise Broken
        if kind == "delete" or (kind == "delete what is there" and old is not MISSING):
            return MISSING
        return value

    pair.both(lambda it: it.compute(fresh(key), fn))


def get_or_set(pair, key, inside, other, value, ttl):
    """The factory may raise, and may use the cache itself."""

    def run(it):
        pair.now = started + 2 * TICK
        if inside == "raise":
            raise Broken
        if inside == "clear":
            it.clear()
        elif inside == "set":
            it.set(other, 1)
        elif inside == "delete":
            it.delete(other)
        pair.now = started + 3 * TICK
        return value, inside == "clear" or (inside in ("set", "delete") and other == key)

    started = pair.now
    pair.both(
        lambda it: it.get_or_set(fresh(key), lambda: run(it)[0], ttl),
        lambda it: it.get_or_set(key, run, seconds(ttl)),
    )
    pair.now = started + 4 * TICK


def many(pair, name, keys, value, ttl):
    items = {key: value if n else 1 for n, key in enumerate(keys)}
    calls = {
        "get_many": lambda it: it.get_many(keys),
        "set_many": lambda it: it.set_many(items, seconds(ttl)),
        "update": lambda it: it.update(items),
        "delete_many": lambda it: it.delete_many(keys),
    }
    pair.both(calls[name])
    pair.separate(keys)


def whole(pair, name):
    calls = {
        "clear": lambda it: it.clear(),
        "popitem": lambda it: it.popitem(),
        "purge_expired": lambda it: it.purge_expired(),
        "len": len,
        "items": lambda it: list(it.items()),
    }
    pair.both(calls[name])


def resize(pair, size):
    pair.both(lambda it: it.resize(size))


def wait(pair, seconds):
    pair.now += seconds
    pair.compare()


def go_on_with_a_copy(pair):
    pair.now += TICK
    pair.cache = pair.cache.copy()
    pair.model.start_counting_anew()
    pair.decorate()
    pair.compare()


OPERATIONS = [
    (look, ["get", "get", "c[key]", "in", "contains", "entry", "delete", "del", "pop", "pop with default"], KEYS),
    (look, ["get"], KEYS),
    (call, ["call", "call", "peek", "refresh", "set", "invalidate"], KEYS, VALUES),
    (look_from_a_coroutine, ["aget", "aget_many"], KEYS, [None, "nothing"]),
    (store, KEYS, VALUES, TTLS),
    (add, KEYS, VALUES, TTLS),
    (store_by_item, KEYS, VALUES),
    (setdefault, KEYS, VALUES),
    (touch, KEYS, TTLS),
    (increment, KEYS, [1, -1, 10**20]),
    (compute, KEYS, ["store", "delete", "delete what is there", "raise"], VALUES),
    (get_or_set, KEYS, [None, None, "raise", "clear", "set", "delete"], KEYS, VALUES, TTLS),
    (many, ["get_many", "set_many", "update", "delete_many"], SOME_KEYS, VALUES, TTLS),
    (whole, ["clear", "popitem", "purge_expired", "len", "items"]),
    (resize, SIZES),
    (wait, [0.5, 1, 2, 5]),
    (go_on_with_a_copy,),
]

CONFIGURATIONS = {
    "policy": ["LRU", "LFU", "FIFO", "MRU"],
    "max_size": SIZES,
    "default_ttl": [None, None, 3],
    "time_to_idle": [None, None, 2],
    "max_weight": [None, 3],
    "isolate": [False, False, True],
    "listeners": [(), ("on_evict",), ("on_removal",), ("on_evict", "on_removal")],
}


class Machine(RuleBasedStateMachine):
    """`OPERATIONS` as rules."""

    @initialize(**{name: st.sampled_from(choices) for name, choices in CONFIGURATIONS.items()})
    def start(self, **options):
        self.pair = Pair(**options)


def rule_for(operation, *choices):
    def step(self, **drawn):
        operation(self.pair, *[drawn[f"argument_{n}"] for n in range(len(choices))])

    step.__name__ = operation.__name__
    return rule(**{f"argument_{n}": st.sampled_from(given) for n, given in enumerate(choices)})(step)


for number, entry in enumerate(OPERATIONS):
    setattr(Machine, f"step_{number}_{entry[0].__name__}", rule_for(*entry))

def rows(number, steps):
    return settings(
        max_examples=number,
        stateful_step_count=steps,
        derandomize=True,           # the same rows every time
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


class AMillionSteps(Machine):
    pass


TestStateMachine = Machine.TestCase
TestStateMachine.settings = rows(200, 50)
TestAMillionSteps = pytest.mark.slow(AMillionSteps.TestCase)
TestAMillionSteps.settings = rows(10_000, 100)


@pytest.mark.parametrize("seed", range(20))
def test_longer_rows(seed):
    draw = random.Random(seed)
    pair = Pair(**{name: draw.choice(choices) for name, choices in CONFIGURATIONS.items()})
    for _ in range(1000):
        operation, *choices = draw.choice(OPERATIONS)
        operation(pair, *[draw.choice(given) for given in choices])
