"""Runs one scenario: ``python tests/hostile/adversarial MODULE.FUNCTION POLICY``. Prints "survived" at the end.

Without arguments it runs many, each in a process that it forks and that ends as any other: it reads lines with the name
of a scenario, a policy and a folder, writes the scenario's output to the files `out` and `err` there, and answers each
line with the status. That saves starting an interpreter for each.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import sys

from cachebox import AutoPolicy, Cache, FIFOPolicy, LFUPolicy, LRUPolicy
from hostile import POLICIES, ignore_unraisable


def run(scenario, policy):
    module, function = scenario.split(".")
    faulthandler.enable()
    faulthandler.dump_traceback_later(float(os.environ.get("CACHEBOX_TEST_LIMIT", "60")), exit=True)
    ignore_unraisable()
    getattr(importlib.import_module(module), function)(POLICIES[policy])
    gc.callbacks.clear()
    gc.set_threshold(700)
    gc.collect()
    for found in gc.get_objects():
        if isinstance(found, (LRUPolicy, LFUPolicy, FIFOPolicy, AutoPolicy)) or (
            isinstance(found, Cache) and type(found.policy) is str
        ):
            found._check()      # some scenarios tear a policy that is written in Python
    faulthandler.cancel_dump_traceback_later()
    print("survived")


def serve():
    """Fork for each line. Returns in every child, with the scenario and the policy, and with None at the end."""
    for line in sys.stdin:
        scenario, policy, folder = line.rstrip("\n").split(" ", 2)
        child = os.fork()
        if child == 0:
            for number, name, flags in (
                (0, os.devnull, os.O_RDONLY),
                (1, os.path.join(folder, "out"), os.O_WRONLY | os.O_CREAT),
                (2, os.path.join(folder, "err"), os.O_WRONLY | os.O_CREAT),
            ):
                file = os.open(name, flags, 0o600)
                os.dup2(file, number)
                os.close(file)
            return scenario, policy
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


chosen = sys.argv[1:] or serve()
if chosen is not None:
    run(*chosen)
