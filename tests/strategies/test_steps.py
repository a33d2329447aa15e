"""Steps, run in a thread and in a task: the values that are sent, the exceptions that are thrown, and their ends."""

from __future__ import annotations

import asyncio

import pytest

from cachebox import AsyncWriteThrough, Cache
from cachebox._platform.steps import run as run_by
from cachebox.strategies.steps import run, run_awaited


def awaited(steps):
    return asyncio.run(run_awaited(steps))


async def later(value):
    await asyncio.sleep(0)
    return value


def fail(error):
    raise error


@pytest.fixture(params=[run, awaited], ids=["thread", "task"])
def do(request):
    return request.param


def test_what_functions_return_is_sent_and_what_the_steps_return_comes_back(do):
    def steps():
        first = yield len, ("abc",)
        second = yield max, (first, 2)
        return first, second

    def nothing():
        return "at once"
        yield

    assert do(steps()) == (3, 3) and do(nothing()) == "at once"


def test_what_functions_raise_is_thrown_and_may_be_caught(do):
    def steps():
        try:
            yield fail, (KeyError("a"),)
        except KeyError as error:
            caught = error
        finally:
            ended.append(1)
        again = yield str, (caught,)
        try:
            yield fail, (ValueError(again),)
        except ValueError as error:
            return str(error)               # without another step

    ended = []
    assert do(steps()) == "'a'" and ended == [1]


@pytest.mark.parametrize("error", [OSError("down"), KeyboardInterrupt(), RuntimeError("generator raised")])
def test_what_is_not_caught_leaves_the_steps_unchanged(do, error):
    def steps():
        yield fail, (error,)

    with pytest.raises(type(error)) as raised:
        do(steps())
    assert raised.value is error


def test_in_a_thread_a_stop_iteration_of_a_function_is_an_error_as_any_other():
    def steps():
        yield fail, (error,)

    error = StopIteration("mine")
    with pytest.raises(StopIteration) as raised:
        run(steps())
    assert raised.value is error


def test_in_a_task_what_can_be_awaited_is():
    def steps():
        value = yield later, ("now",)
        return value

    assert awaited(steps()) == "now"


def test_steps_that_are_done_by_something_else():
    def steps():
        return (yield "one"), (yield "two")

    assert run_by(steps(), str.upper) == ("ONE", "TWO")
    with pytest.raises(TypeError):
        run(steps())


def test_a_strategy_that_is_awaited_refuses_a_cache_that_blocks():
    class Blocking(dict):
        get_or_set = dict.setdefault
        set = delete = dict.__setitem__

    class Rows(dict):
        save = dict.__setitem__

    with pytest.raises(TypeError, match="would wait in the event loop"):
        AsyncWriteThrough(Blocking(), Rows())
    AsyncWriteThrough(Cache(), Rows())
