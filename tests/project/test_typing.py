"""What type checkers see: `typing` under mypy, `typing_pyright` under pyright, the stubs under stubtest."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from cachebox import Cache, EvictionPolicy, LRUPolicy

ROOT = Path(__file__).resolve().parents[2]

needs_mypy = pytest.mark.skipif(
    find_spec("mypy") is None, reason="mypy is not installed: it is in the dependency group `lint`"
)


def run(*arguments: str) -> None:
    """Run a module of Python's in the root of the project; its output becomes the test's failure."""
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_mypy
def test_mypy_agrees():
    run("mypy")


@needs_mypy
def test_stubs_match_the_compiled_modules():
    run("mypy.stubtest", "cachebox", "--ignore-disjoint-bases", "--allowlist", "tests/project/typing/stubtest.txt")


@pytest.mark.skipif(
    find_spec("basedpyright") is None, reason="basedpyright is not installed: it is in the dependency group `lint`"
)
def test_pyright_agrees():
    run("basedpyright", "--level", "error")


@pytest.mark.parametrize("base", [Cache[str, int], EvictionPolicy[str], LRUPolicy[str]])
def test_generic_bases_work_at_run_time(base):
    class Derived(base):
        pass

    assert issubclass(Derived, base.__origin__)
