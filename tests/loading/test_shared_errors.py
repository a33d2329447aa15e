"""An exception that several callers get: one object with the GIL, without it a copy for each, as like it as can be."""

from __future__ import annotations

import json
import sqlite3
import ssl
import subprocess
import threading
import traceback
import zlib

import pytest

from api_error import Api
from cachebox import Cache, cached
from cachebox._platform.exceptions import HAS_GIL, copy_exception
from in_threads import LIMIT, must_end, run_all


class Slotted(Exception):
    __slots__ = ("_private", "detail", "unset")

    def __init__(self, detail):
        self.detail = detail
        self._private = None


class Missing(OSError):
    def __init__(self, path, why):
        super().__init__(2, why, path)
        self.why = why


class Stubborn(Exception):
    """An exception that cannot be copied."""

    def __new__(cls, *, really):
        return super().__new__(cls)

    def __init__(self, *, really):
        super().__init__()


def raised_by(call, *args):
    try:
        call(*args)
    except Exception as error:
        return error


ERRORS = [
    ValueError("a", 1),
    KeyError("k"),
    StopIteration(5),
    Api(404, reason="gone"),
    Slotted({"a": 1}),
    Missing("file", "why"),
    raised_by(__import__, "nothing_of_that_name"),
    raised_by(lambda: (1).nothing),
    raised_by(lambda: nothing),  # noqa: F821
    raised_by(b"\xff".decode),
    raised_by("\xff".encode, "ascii"),
    raised_by(compile, "a b", "file.py", "exec"),
    raised_by(open, "/no/such/file"),
    raised_by(json.loads, "{"),
    BlockingIOError(11, "why", 5),
    zlib.error("why"),
    ssl.SSLError(1, "why"),
    sqlite3.OperationalError("why"),
    subprocess.CalledProcessError(1, "command", b"out"),
]
group = ExceptionGroup("several", [ValueError(1), KeyError(2)])
group.add_note("a note")
ERRORS.append(group)


def all_of(error):
    """The visible parts of an exception."""
    names = [name for name in dir(error) if not name.startswith("__") and not callable(getattr(error, name, len))]
    return {name: getattr(error, name) for name in [*names, "args", "__dict__", "__suppress_context__"]}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_copy_is_like_the_original(error):
    for copy in (copy_exception(error), copy_exception(copy_exception(error))):
        assert type(copy) is type(error) and copy is not error
        assert all_of(copy) == all_of(error) and str(copy) == str(error) and repr(copy) == repr(error)
        assert copy.__traceback__ is None


def test_a_copy_has_the_same_cause_and_context():
    def fail():
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    error = raised_by(fail)
    copy = copy_exception(error)
    assert copy.__cause__ is error.__cause__ and copy.__context__ is error.__context__
    assert type(copy.__cause__) is KeyError and copy.__suppress_context__


def test_a_copy_changes_nothing_of_the_original():
    error = Api(1, reason="one")
    made = Api.made
    copy = copy_exception(error)
    copy.code, copy.args = 2, ("other",)
    assert error.code == 1 and error.args == ("1: one",) and Api.made == made


def test_what_cannot_be_copied_says_so():
    with pytest.raises(TypeError):
        copy_exception(Stubborn(really=True))


def fails_together(use, make, threads=4, rounds=60):
    """The exception that each thread gets in each round; all of them call at the same moment."""
    barrier = threading.Barrier(threads)
    calls = []
    together = threading.Event()

    def fail():
        calls.append(1)
        together.wait(0.001)
        raise make()

    def work():
        errors = []
        for _ in range(rounds):
            barrier.wait(LIMIT)
            errors.append(raised_by(use, fail))
        return errors

    return list(zip(*run_all(*[work] * threads), strict=True)), len(calls)


WAYS = {
    "get_or_set": lambda cache, function, fail: cache.get_or_set("key", fail),
    "loader": lambda cache, function, fail: cache["key"],
    "cached": lambda cache, function, fail: function(),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@must_end
def test_those_who_wait_get_it(way):
    failing = []
    cache = Cache(loader=lambda key: failing[0]())
    function = cached(lambda: failing[0]())

    def call(fail):
        failing[:] = [fail]
        return way(cache, function, fail)

    rounds, calls = fails_together(call, lambda: Api(404, reason="gone"))
    assert len(rounds) <= calls < 4 * len(rounds)
    for errors in rounds:
        assert [error.code for error in errors] == [404] * 4
        assert len({id(error) for error in errors}) <= 4 and all(type(error) is Api for error in errors)
        for error in errors:
            assert traceback.extract_tb(error.__traceback__)[-1].name == "fail"


@must_end
def test_without_the_gil_nobody_shares_an_object():
    cache = Cache()
    rounds, _ = fails_together(lambda fail: cache.get_or_set("key", fail), lambda: ValueError("why"))
    shared = sum(len({id(error) for error in errors}) < len(errors) for errors in rounds)
    assert bool(shared) == HAS_GIL


@must_end
def test_what_cannot_be_copied_reaches_everybody():
    cache = Cache()
    rounds, calls = fails_together(lambda fail: cache.get_or_set("key", fail), lambda: Stubborn(really=True))
    assert all(type(error) is Stubborn for errors in rounds for error in errors)
    if not HAS_GIL:
        assert calls == 4 * len(rounds) and len({id(error) for errors in rounds for error in errors}) == calls


@pytest.mark.parametrize("make", [lambda: Api(404, reason="gone"), lambda: Stubborn(really=True)])
@must_end
def test_failures_that_are_remembered_reach_everybody(make):
    cache = Cache(loader=lambda key: failing[0](), cache_exceptions=(Exception,), exception_ttl=60)
    failing = []

    def use(fail):
        failing[:] = [fail]
        return cache["key"]

    rounds, calls = fails_together(use, make)
    kind = type(make())
    assert all(type(error) is kind for errors in rounds for error in errors)
    if kind is Api or HAS_GIL:
        assert calls == 1
