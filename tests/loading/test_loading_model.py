"""Read-through, refresh-ahead and serve-stale against a model, with an injected clock and a deterministic executor."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachebox import Cache
from cachebox._loading import refresh_pool as workers

KEYS = "abc"
LIFETIME, SHARE, STALE = 10.0, 0.3, 5.0


class Source:
    """The source of values, one by one or together; it can be changed, and can be down."""

    def __init__(self, bulk):
        self.values = {"a": 0}
        self.is_down = False
        self.loads = self.failures = 0
        if bulk:
            self.load_many = self._load_many

    def load(self, key):
        try:
            if self.is_down:
                raise OSError
            value = self.values[key]
        except Exception:
            self.failures += 1
            raise
        self.loads += 1
        return value

    def _load_many(self, keys):
        if self.is_down:
            self.failures += 1
            raise OSError
        self.loads += 1
        return {key: self.values[key] for key in keys if key in self.values}


class Model:
    """The contents of a cache with such a loader, as plainly as possible."""

    def __init__(self, source, share, stale):
        self.source, self.share, self.stale = source, share, stale
        self.now = 0.0
        self.entries = {}               # key: value, when it ends, the lifetime that it was given
        self.refreshes = {}             # key: whether its result is still wanted
        self.lifetimes = {}             # key: the entry's value when its refresh was asked for

    def changed(self, key):
        """Another caller wrote or deleted it."""
        if key in self.refreshes:
            self.refreshes[key] = False

    def store(self, key, value, lifetime=LIFETIME):
        self.changed(key)
        self.entries[key] = value, self.now + lifetime, lifetime

    def delete(self, key):
        self.changed(key)
        return self.live().pop(key, None) is not None and self.entries.pop(key, None) is not None

    def live(self):
        return {key: value for key, (value, end, _) in self.entries.items() if end > self.now}

    def look(self, key):
        """A value that may be served without waiting, in a tuple; it may be due."""
        if key not in self.entries or self.entries[key][1] + self.stale <= self.now:
            self.entries.pop(key, None)
            return None
        value, end, lifetime = self.entries[key]
        if end <= self.now or (self.share and end - self.now < self.share * lifetime):
            self.refreshes.setdefault(key, True)
        return (value,)

    def get(self, key):
        found = self.look(key)
        if found is None:
            if self.source.is_down:
                raise OSError
            if key not in self.source.values:
                raise KeyError(key)
            found = (self.source.values[key],)
            self.store(key, *found)
        return found[0]

    def get_many(self, keys, bulk):
        found, missing = {}, []
        for key in keys:
            served = self.look(key)
            if served is not None:
                found[key] = served[0]
            elif bulk:
                missing.append(key)
            else:
                try:
                    found[key] = self.get(key)
                except KeyError:
                    pass
        if missing and self.source.is_down:
            raise OSError
        for key in missing:
            if key in self.source.values:
                found[key] = self.source.values[key]
                self.store(key, found[key])
        return found

    def refresh(self, key):
        """The executor runs a refresh."""
        wanted = self.refreshes.pop(key)
        if wanted and not self.source.is_down:
            lifetime = self.lifetimes[key]
            if key in self.source.values:
                self.entries[key] = self.source.values[key], self.now + lifetime, lifetime
            else:
                self.entries.pop(key, None)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            "get get item many many set delete clear tick tick change gone down refresh refresh other".split()
        ),
        st.sampled_from(KEYS),
        st.integers(1, 9),
    ),
    max_size=80,
)


def outcome(call):
    """The result of a call, or the class of its exception."""
    try:
        return call()
    except (KeyError, OSError) as error:
        return type(error)


@settings(max_examples=300, deadline=None)
@given(OPERATIONS, st.booleans(), st.sampled_from([0.0, SHARE]), st.sampled_from([0.0, STALE]))
def test_it_loads_refreshes_and_serves_as_a_model_does(operations, bulk, share, stale):
    source = Source(bulk)
    model = Model(source, share, stale)
    model.order = {}
    waiting = []
    cache = Cache(
        None,
        LIFETIME,
        loader=source,
        clock=lambda: model.now,
        refresh_ahead=share or None,
        stale_ttl=stale or None,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "submit", lambda refresh: waiting.append(refresh) or True)
        for call, key, n in operations:
            before = set(model.refreshes)
            loads, failures = source.loads, source.failures
            if call == "get":
                expected = outcome(lambda: model.get(key))
                assert outcome(lambda: cache.get(key, KeyError)) == expected
            elif call == "item":
                expected = outcome(lambda: model.get(key))
                assert outcome(lambda: cache[key]) == expected
            elif call == "many":
                keys = KEYS[:n]
                expected = outcome(lambda: model.get_many(keys, bulk))
                assert outcome(lambda: cache.get_many(keys)) == expected
            elif call == "set":
                cache.set(key, ("set", n), ttl=n)
                model.store(key, ("set", n), float(n))
            elif call == "delete":
                assert cache.delete(key) == model.delete(key)
                model.entries.pop(key, None)
            elif call == "clear":
                cache.clear()
                source.loads = source.failures = 0
                model.entries.clear()
                for known in model.refreshes:
                    model.changed(known)
            elif call == "tick":
                model.now += n / 2
            elif call == "change":
                source.values[key] = n
            elif call == "gone":
                source.values.pop(key, None)
            elif call == "down":
                source.is_down = n < 5
            elif call == "refresh" and waiting:
                refresh = waiting.pop(n % len(waiting))
                waited = next(key for key in model.refreshes if model.order[key] is refresh)
                model.refresh(waited)
                refresh.run()
            elif call == "other":                       # nothing of this loads or refreshes
                assert (key in cache) == (cache.peek(key) is not None) == (key in list(cache))
            for new in [key for key in model.refreshes if key not in before]:
                model.lifetimes[new] = model.entries[new][2]
            model.order = dict(zip(model.refreshes, waiting, strict=True))
            assert dict(cache.items()) == model.live()      # `dict(cache)` would look each key up
            if call in ("tick", "other", "set", "delete"):
                assert (source.loads, source.failures) == (loads, failures)
        assert (cache.stats.load_success, cache.stats.load_failure) == (source.loads, source.failures)
        for refresh in waiting:
            refresh.give_up()
    cache._check()
