"""Hostile keys, values, callbacks, clocks, policies, arguments: no hang, no crash, and the bound holds.

The scenarios stand in `adversarial/`, each a function of a policy. Each runs under one policy or another, and with
`-m slow` under all others, in a process of its own, which has to end by itself, in time, with status 0:
`python tests/hostile/adversarial MODULE.FUNCTION POLICY`. As many run at the same time as there are processors: a test
waits for its own.
"""

from __future__ import annotations

import ast
import os
import queue
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "adversarial"
POLICIES = ("LRU", "LFU", "FIFO", "AUTO", "InPython")
LIMIT = 60.0 if "ASAN_OPTIONS" not in os.environ else 300.0
COMMAND = [sys.executable, "-W", "ignore::DeprecationWarning", str(FOLDER)]
AT_A_TIME = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def scenarios(module):
    """The names of the functions of a module that take a policy."""
    for node in ast.parse((FOLDER / f"{module}.py").read_text()).body:
        if isinstance(node, ast.FunctionDef) and [argument.arg for argument in node.args.args] == ["policy"]:
            yield f"{module}.{node.name}"


MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__main__", "hostile"))
SCENARIOS = [name for module in MODULES for name in scenarios(module)]
CASES = [
    (name, policy, is_slow)
    for n, name in enumerate(SCENARIOS)
    for policy, is_slow in (
        [(policy, n % len(POLICIES) != k) for k, policy in enumerate(POLICIES)]
        if not name.startswith("wrong.policies")
        else [("InPython", False)]
    )
]


class Runner:
    """Runs scenarios one after the other, in a process that forks for each, if this platform can."""

    def __init__(self):
        self.environment = {**os.environ, "CACHEBOX_TEST_LIMIT": str(LIMIT)}
        self.process = None

    def run(self, name, policy, folder):
        """The status, and the text on stdout and on stderr."""
        if not hasattr(os, "fork"):
            done = subprocess.run(
                [*COMMAND, name, policy], capture_output=True, text=True, timeout=2 * LIMIT, env=self.environment
            )
            return done.returncode, done.stdout, done.stderr
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=self.environment,
                start_new_session=True,
            )
        self.process.stdin.write(f"{name} {policy} {folder}\n")
        self.process.stdin.flush()
        status = self.process.stdout.readline()
        return int(status or -1), (folder / "out").read_text(), (folder / "err").read_text()

    def end(self):
        if self.process is not None:
            if self.process.poll() is None:
                os.killpg(self.process.pid, 9)      # it, and what hangs
            with self.process:
                pass


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory):
    """The outcome of every scenario that was chosen, as futures: they all begin now, in order."""
    idle = queue.SimpleQueue()
    runners = [Runner() for _ in range(AT_A_TIME)]
    for runner in runners:
        idle.put(runner)

    def run(name, policy, folder):
        runner = idle.get()
        try:
            return runner.run(name, policy, folder)
        finally:
            idle.put(runner)

    ours = [item for item in request.session.items if item.path == request.path]
    chosen = [item.callspec.params for item in ours if hasattr(item, "callspec")]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        started = {
            (one["name"], one["policy"]): pool.submit(
                run, one["name"], one["policy"], tmp_path_factory.mktemp("scenario")
            )
            for one in chosen
        }
        yield started
        for future in started.values():
            future.cancel()
        for runner in runners:
            runner.end()


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        pytest.param(name, policy, id=f"{name}-{policy}", marks=[pytest.mark.slow] if is_slow else [])
        for name, policy, is_slow in CASES
    ],
)
def test_survives(name, policy, outcomes):
    if name.startswith("forks.") and not hasattr(os, "fork"):
        pytest.skip("this platform has no fork")
    status, out, err = outcomes[name, policy].result(2 * LIMIT * AT_A_TIME)
    assert (status, out) == (0, "survived\n"), f"{status}\n{out}\n{err}"


def test_there_are_scenarios_in_every_module():
    assert {name.partition(".")[0] for name in SCENARIOS} == set(MODULES) and len(CASES) > 150
