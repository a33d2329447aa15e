"""Hostile keys, values, callbacks, clocks, policies, arguments: no hang, no crash, and the bound holds.

The scenarios stand in `adversarial/`, each a function of a policy. Each runs under every policy in a process of its
own, which has to end by itself, in time, with status 0: `python tests/adversarial MODULE.FUNCTION POLICY`.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "adversarial"
POLICIES = ("LRU", "LFU", "FIFO", "InPython")
LIMIT = 60.0 if "ASAN_OPTIONS" not in os.environ else 300.0


def scenarios(module):
    """The names of the functions of a module that take a policy."""
    for node in ast.parse((FOLDER / f"{module}.py").read_text()).body:
        if isinstance(node, ast.FunctionDef) and [argument.arg for argument in node.args.args] == ["policy"]:
            yield f"{module}.{node.name}"


MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__main__", "hostile"))
CASES = [
    (name, policy)
    for module in MODULES
    for name in scenarios(module)
    for policy in (POLICIES if not name.startswith("wrong.policies") else POLICIES[-1:])
]


@pytest.mark.parametrize(("name", "policy"), CASES, ids=[f"{name}-{policy}" for name, policy in CASES])
def test_survives(name, policy):
    if name.startswith("forks.") and not hasattr(os, "fork"):
        pytest.skip("this platform has no fork")
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(FOLDER), name, policy],
        capture_output=True,
        text=True,
        timeout=2 * LIMIT,
        env={**os.environ, "CACHEBOX_TEST_LIMIT": str(LIMIT)},
    )
    assert (done.returncode, done.stdout) == (0, "survived\n"), f"{done.returncode}\n{done.stdout}\n{done.stderr}"


def test_there_are_scenarios_in_every_module():
    assert {name.partition(".")[0] for name, _ in CASES} == set(MODULES) and len(CASES) > 150
