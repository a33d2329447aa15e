"""Runs one scenario: ``python tests/adversarial MODULE.FUNCTION POLICY``. Prints "survived" at the end."""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import sys

from hostile import POLICIES, ignore_unraisable

from cachebox import Cache, FIFOCache, LFUCache, LRUCache

module, function = sys.argv[1].split(".")
faulthandler.enable()
faulthandler.dump_traceback_later(float(os.environ.get("CACHEBOX_TEST_LIMIT", "60")), exit=True)
ignore_unraisable()
getattr(importlib.import_module(module), function)(POLICIES[sys.argv[2]])
gc.callbacks.clear()
gc.set_threshold(700)
gc.collect()
for found in gc.get_objects():
    if isinstance(found, (LRUCache, LFUCache, FIFOCache)) or (isinstance(found, Cache) and type(found.policy) is str):
        found._check()          # some scenarios tear a policy that is written in Python
faulthandler.cancel_dump_traceback_later()
print("survived")
