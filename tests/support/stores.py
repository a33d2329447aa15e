"""Stores for tests: in memory, and with faults on request."""

from __future__ import annotations

import threading

from in_threads import wait_for


class MemoryStore:
    """Keeps values in a dict and notes every call. `fault(call, keys)` may raise or wait before anything is done."""

    def __init__(self, **values):
        self.values = dict(values)
        self.calls = []
        self.fault = lambda call, keys: None

    def load(self, key):
        self.calls.append(("load", key))
        self.fault("load", [key])
        return self.values[key]

    def save(self, key, value):
        self.calls.append(("save", key, value))
        self.fault("save", [key])
        self.values[key] = value

    def delete(self, key):
        self.calls.append(("delete", key))
        self.fault("delete", [key])
        self.values.pop(key, None)

    def saved(self, key):
        """The values that were sent for a key, in order, including failed calls."""
        return [
            call[2] if call[0] == "save" else call[1][key]
            for call in self.calls
            if (call[0] == "save" and call[1] == key) or (call[0] == "save_many" and key in call[1])
        ]


class BulkStore(MemoryStore):
    def save_many(self, items):
        assert type(items) is dict and len(items) > 0
        self.calls.append(("save_many", dict(items)))
        self.fault("save_many", list(items))
        self.values.update(items)

    def delete_many(self, keys):
        assert type(keys) is list and len(keys) > 0
        self.calls.append(("delete_many", list(keys)))
        self.fault("delete_many", list(keys))
        for key in keys:
            self.values.pop(key, None)


class Gate:
    """A fault that makes every call wait until the gate is open."""

    def __init__(self):
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, call, keys):
        if call != "load":
            self.entered.set()
            wait_for(self.open)
