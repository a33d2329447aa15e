"""The parts of `cachebox.testing` that users' tests get: a clock, and fixtures for pytest."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import timedelta
from importlib.metadata import entry_points

import pytest

import cachebox
from cachebox import Cache, cached
from cachebox.testing import ManualClock
from conftest import named
from in_threads import run_all

FOUND = {point.value for point in entry_points(group="pytest11") if point.value.startswith("cachebox.")}


def test_time_passes_when_it_is_told_to():
    clock = ManualClock()
    assert clock() == 0.0
    clock.advance(5)
    clock.advance(0.5)
    clock.advance(timedelta(minutes=1))
    clock.advance(0)
    assert clock() == 65.5 and repr(clock) == "ManualClock(65.5)"
    assert ManualClock(1000)() == 1000.0


@pytest.mark.parametrize("wrong, error", [
    (-1, ValueError), (timedelta(seconds=-1), ValueError), (math.inf, ValueError), (math.nan, ValueError),
    ("5", TypeError), (True, TypeError), (None, TypeError),
], ids=named)
def test_bad_steps_are_refused_and_no_time_passes(wrong, error):
    clock = ManualClock(5)
    with pytest.raises(error, match="seconds"):
        clock.advance(wrong)
    assert clock() == 5.0


def test_no_step_is_lost_between_threads():
    clock = ManualClock()
    run_all(*[lambda: [clock.advance(1) for _ in range(1000)] for _ in range(4)])
    assert clock() == 4000.0


def test_it_governs_caches_and_functions():
    clock = ManualClock()
    cache = Cache(default_ttl=10, time_to_idle=6, clock=clock)
    runs = []
    f = cached(ttl=10, clock=clock)(lambda x: runs.append(x))
    cache["a"] = 1
    f(1)
    clock.advance(5)
    assert cache["a"] == 1 and cache.ttl("a") == 5.0
    clock.advance(5)
    f(1)
    assert "a" not in cache and runs == [1, 1]


def test_the_clock_needs_no_pytest():
    code = "import sys, cachebox.testing; print('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_pytest_finds_the_fixtures_by_an_entry_point():
    if not FOUND:
        pytest.skip("the installed distribution is older than its entry point: install it again")
    assert FOUND == {"cachebox.testing.plugin"}


TESTS = """
from cachebox import Cache, cached

cache = Cache()
runs = []

@cached
def f(x):
    runs.append(x)

def test_before():
    cache["a"] = 1
    f(1)

def test_clear(cachebox_clear):
    assert len(cache) == 0
    f(1)
    assert runs == [1, 1]
    cache["a"] = 2

def test_after():
    assert len(cache) == 0
"""

DISABLED = """
def test_disabled(cachebox_disabled):
    runs.clear()
    f(5), f(5)
    assert runs == [5, 5]

def test_enabled_again():
    runs.clear()
    f(5), f(5)
    assert runs == [5]
"""


def test_the_fixtures_do_what_they_say(tmp_path):
    can_disable = hasattr(cachebox, "disabled")
    (tmp_path / "test_it.py").write_text(TESTS + (DISABLED if can_disable else ""))
    options = ["-q", "-p", "no:cacheprovider", "-W", "error"]
    if not FOUND:
        options += ["-p", "cachebox.testing.plugin"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "test_it.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert f"{5 if can_disable else 3} passed" in done.stdout, done.stdout + done.stderr


def test_a_clock_governs_the_first_tier_and_a_folder():
    clock = ManualClock()
    with cachebox.DistributedCache(url="memory://", default_ttl=10, clock=clock) as cache:
        cache.set("a", 1)
        cache.set("b", 2, ttl=30)
        calls = []
        cached = cachebox.cached(cache, ttl=20)(lambda x: calls.append(x) or x)
        assert (cache.get("a"), cache.get("b"), cached(1), cached(1), calls) == (1, 2, 1, 1, [1])
        clock.advance(9.5)
        assert cache.get("a") == 1 and 0 < cache.ttl("a") <= 0.5
        clock.advance(0.5)
        assert cache.get("a") is None and cache.get("b") == 2 and cache.add("a", 3)
        assert cached(1) == 1 and calls == [1]
        clock.advance(10)
        assert cached(1) == 1 and calls == [1, 1]
        clock.advance(10)
        assert cache.get("b") is None and cache.get_many(["a", "b"]) == {}
        assert cache.touch("b") is False and cache.increment("b") == 1


def test_a_clock_that_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match="clock must be callable"):
        cachebox.DistributedCache(url="memory://", clock=3)
