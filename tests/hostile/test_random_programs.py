"""Random programs over all features at once; `random_programs` makes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("random_programs.py"))]
SLOWLY = 5 if "ASAN_OPTIONS" in os.environ else 1


def run(*options, seconds):
    """In a process of its own, so that a crash is seen as one."""
    done = subprocess.run(
        [*PROGRAM, *map(str, options)], capture_output=True, text=True, timeout=seconds * SLOWLY, check=False
    )
    assert done.returncode == 0, done.stdout[-200:] + done.stderr[-4000:]


def test_a_few_programs_of_each_kind():
    run("--seeds", 25, "--operations", 400, seconds=300)


@pytest.mark.parametrize("seed", range(1000, 1004))
def test_one_thread(seed):
    run("--seed", seed, "--operations", 2000, "--threads", 1, seconds=120)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(10))
def test_a_million_operations(first):
    for seed in range(20 * first, 20 * first + 20):
        run("--seed", seed, "--operations", 5000, seconds=600)
