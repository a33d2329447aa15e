"""A slow model of `Cache` in plain Python that does what the documentation promises, for comparison.

It is a dict of entries. The order is found by sorting, room is made in a loop, and time is a number that the test sets.
It is used by one thread, so there are no locks. Every method does what the method of `Cache` with that name does.

The model also says *when* an expired entry leaves, because statistics and callbacks show it: when a changing operation
comes across it, when room is needed, and all expired entries when an operation counts or lists entries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cachebox import MISSING

COUNTERS = ("hits", "misses", "sets", "deletes", "evictions", "expired")

# The sort key of an entry: the smallest is the next victim.
ORDERS = {
    "LRU": lambda entry: entry.used,
    "LFU": lambda entry: (entry.uses, entry.used),
    "FIFO": lambda entry: entry.inserted,
    "MRU": lambda entry: -entry.used,
}


def finished(coroutine):
    """The result of a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as over:
        return over.value
    finally:
        coroutine.close()
    raise AssertionError("it waits")


@dataclass
class Entry:
    key: object
    value: object
    weight: float
    end: float              # the deadline that hits do not move
    deadline: float         # the deadline, or earlier with a time to idle
    inserted: int           # event numbers, which grow
    used: int
    uses: int = 1


class Model:
    def __init__(self, order, max_size, default_ttl, time_to_idle, max_weight, weigh, clock):
        self.order = ORDERS[order]
        self.is_built_in = order != "MRU"
        self.bound = math.inf if max_size is None else max_size
        self.lifetime = math.inf if default_ttl is None else default_ttl
        self.idle = math.inf if time_to_idle is None else time_to_idle
        self.bound_weight = math.inf if max_weight is None else max_weight
        self.is_weighed = max_weight is not None
        self.weigh = weigh if self.is_weighed else lambda key, value: 0.0
        self.clock = clock
        self.entries = {}
        self.events = 0
        self.left = []          # (key, value, cause) of all removals, in order
        self.counts = dict.fromkeys(COUNTERS, 0)

    # --- what the methods are made of ---------------------------------------------------------------------------------

    def tick(self):
        self.events += 1
        return self.events

    def has_expired(self, entry):
        return entry.deadline <= self.clock()

    def live(self, key):
        entry = self.entries.get(key)
        return None if entry is None or self.has_expired(entry) else entry

    def in_order(self):
        return sorted(self.entries.values(), key=self.order)

    def remove(self, entry, cause):
        del self.entries[entry.key]
        self.left.append((entry.key, entry.value, cause))
        counter = {"SIZE": "evictions", "EXPIRED": "expired", "EXPLICIT": "deletes"}[cause]
        self.counts[counter] += 1

    def remove_if_expired(self, key):
        entry = self.entries.get(key)
        if entry is not None and self.has_expired(entry):
            self.remove(entry, "EXPIRED")

    def purge(self):
        over = [entry for entry in self.entries.values() if self.has_expired(entry)]
        for entry in sorted(over, key=lambda entry: entry.deadline):
            self.remove(entry, "EXPIRED")
        return len(over)

    def total_weight(self):
        return sum(entry.weight for entry in self.entries.values())

    def make_room(self, more, weight, kept=None):
        """Remove entries until the new one fits: first expired ones, then victims, but not the entry `kept`."""
        while len(self.entries) + more > self.bound or self.total_weight() + weight > self.bound_weight:
            over = [entry for entry in self.entries.values() if self.has_expired(entry)]
            if over:
                self.remove(min(over, key=lambda entry: entry.deadline), "EXPIRED")
                continue
            victims = [entry for entry in self.in_order() if entry is not kept or not self.is_built_in]
            if not victims:
                return
            self.remove(victims[0], "SIZE")
            if victims[0] is kept:      # a policy written in Python may name the key that is being set
                return

    def set_end(self, entry, end):
        entry.end = end
        entry.deadline = min(end, self.clock() + self.idle)

    def use(self, entry):
        entry.used = self.tick()
        entry.uses += 1

    def hit(self, entry):
        self.counts["hits"] += 1
        self.use(entry)
        entry.deadline = min(entry.end, self.clock() + self.idle)
        return entry.value

    def checked_weight(self, key, value):
        weight = self.weigh(key, value)
        if weight > self.bound_weight:
            raise ValueError("too heavy")
        return weight

    def write(self, key, value, lifetime, weight, keeps_end=False):
        self.remove_if_expired(key)
        entry = self.entries.get(key)
        if entry is not None:
            self.make_room(0, weight - entry.weight, kept=entry)
            entry = self.entries.get(key)
        if entry is None:
            self.make_room(1, weight)
            now = self.tick()
            entry = self.entries[key] = Entry(key, value, weight, math.inf, math.inf, inserted=now, used=now)
            keeps_end = False
        else:
            self.use(entry)
            self.left.append((entry.key, entry.value, "REPLACED"))
            entry.value = value
            entry.weight = weight
        self.set_end(entry, entry.end if keeps_end else self.clock() + lifetime)
        self.counts["sets"] += 1

    def lifetime_of(self, ttl):
        return self.lifetime if ttl is None else ttl

    # --- the methods of Cache -----------------------------------------------------------------------------------------

    def get(self, key, default=None):
        entry = self.live(key)
        if entry is not None:
            return self.hit(entry)
        self.counts["misses"] += 1
        self.remove_if_expired(key)
        return default

    def __getitem__(self, key):
        found = self.get(key, MISSING)
        if found is MISSING:
            raise KeyError(key)
        return found

    def set(self, key, value, ttl=None):
        self.write(key, value, self.lifetime_of(ttl), self.checked_weight(key, value))

    def __setitem__(self, key, value):
        self.set(key, value)

    def pop(self, key, *default):
        entry = self.live(key)
        self.remove_if_expired(key)
        if entry is not None:
            self.remove(entry, "EXPLICIT")
            return entry.value
        if not default:
            raise KeyError(key)
        return default[0]

    def delete(self, key):
        return self.pop(key, MISSING) is not MISSING

    def __delitem__(self, key):
        self.pop(key)

    def __contains__(self, key):
        return self.live(key) is not None

    def peek(self, key, default=None):
        entry = self.live(key)
        return default if entry is None else entry.value

    def setdefault(self, key, default=None):
        entry = self.live(key)
        if entry is not None:
            return self.hit(entry)
        weight = self.checked_weight(key, default)
        self.counts["misses"] += 1
        self.write(key, default, self.lifetime, weight)
        return default

    def add(self, key, value, ttl=None):
        if self.live(key) is not None:
            return False
        self.write(key, value, self.lifetime_of(ttl), self.checked_weight(key, value))
        return True

    def contains(self, key):
        return key in self

    def entry(self, key):
        entry = self.live(key)
        if entry is None:
            return None
        left = None if entry.deadline == math.inf else entry.deadline - self.clock()
        return (entry.key, entry.value, left, entry.weight if self.is_weighed else 1, ())

    def get_or_set(self, key, factory, ttl=None):
        entry = self.live(key)
        if entry is not None:
            return self.hit(entry)
        self.counts["misses"] += 1
        self.remove_if_expired(key)
        value, is_void = factory(self)      # a factory also says whether it wrote, deleted or cleared the key
        weight = self.weigh(key, value)
        if not is_void and weight <= self.bound_weight:
            self.write(key, value, self.lifetime_of(ttl), weight)
        return value

    def refresh_call(self, key, value):
        """A cached function's `refresh`, and its `set`, which loads nothing: neither a hit nor a miss."""
        weight = self.weigh(key, value)
        if weight <= self.bound_weight:
            self.write(key, value, self.lifetime, weight)
        return value

    def compute(self, key, fn):
        self.remove_if_expired(key)
        entry = self.live(key)
        new = fn(MISSING if entry is None else entry.value)
        if new is not MISSING:
            self.write(key, new, self.lifetime, self.checked_weight(key, new), keeps_end=True)
        elif entry is not None:
            self.remove(entry, "EXPLICIT")
        return new

    def increment(self, key, amount=1):
        def add(old):
            if old is not MISSING and not isinstance(old, int):
                raise TypeError("not an int")
            return (0 if old is MISSING else old) + amount

        return self.compute(key, add)

    def ttl(self, key):
        entry = self.live(key)
        if entry is None:
            raise KeyError(key)
        return None if entry.deadline == math.inf else entry.deadline - self.clock()

    def touch(self, key, ttl=None):
        entry = self.live(key)
        if entry is not None:
            self.set_end(entry, self.clock() + self.lifetime_of(ttl))
        return entry is not None

    def get_many(self, keys):
        found = {key: self.get(key, MISSING) for key in keys}
        return {key: value for key, value in found.items() if value is not MISSING}

    def set_many(self, mapping, ttl=None):
        weights = {key: self.checked_weight(key, value) for key, value in mapping.items()}
        for key, value in mapping.items():
            self.write(key, value, self.lifetime_of(ttl), weights[key])

    def update(self, mapping):
        self.set_many(mapping)

    def delete_many(self, keys):
        return sum(self.delete(key) for key in keys)

    def clear(self):
        self.entries.clear()
        self.counts = dict.fromkeys(COUNTERS, 0)

    def popitem(self):
        self.purge()
        if not self.entries:
            raise KeyError("empty")
        victim = self.in_order()[0]
        self.remove(victim, "EXPLICIT")
        return victim.key, victim.value

    def purge_expired(self):
        return self.purge()

    def resize(self, max_size):
        self.bound = math.inf if max_size is None else max_size
        self.make_room(0, 0.0)

    def __len__(self):
        self.purge()
        return len(self.entries)

    def items(self):
        self.purge()
        return [(entry.key, entry.value) for entry in self.in_order()]

    def weight(self):
        self.purge()
        return self.total_weight() if self.is_weighed else len(self.entries)

    def start_counting_anew(self):
        """The difference between a copy and its original."""
        self.purge()
        self.counts = dict.fromkeys(COUNTERS, 0)
