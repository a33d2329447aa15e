"""Cached coroutines under trio: tasks share one computation, as under asyncio."""

from __future__ import annotations

import asyncio
import threading

import pytest

from cachebox import cached
from in_threads import Started, wait_for

trio = pytest.importorskip("trio", reason="needs trio, which is not installed")


def gather(*functions):
    """Run coroutine functions as tasks of trio; their results in order."""
    results = [None] * len(functions)

    async def run(i, function):
        results[i] = await function()

    async def main():
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for i, function in enumerate(functions):
                    nursery.start_soon(run, i, function)

    trio.run(main)
    return results


def test_tasks_share_one_computation():
    runs = []

    @cached
    async def f(key):
        runs.append(key)
        await trio.sleep(0.01)
        return key

    assert gather(*[lambda: f(1)] * 5) == [1] * 5 and runs == [1]
    assert gather(lambda: f(1)) == [1] and runs == [1]


def test_an_exception_reaches_all():
    @cached
    async def f(key):
        await trio.sleep(0.01)
        raise LookupError(key)

    async def call():
        with pytest.raises(LookupError):
            await f(1)

    gather(call, call, call)


def test_a_cancelled_leader_hands_over():
    runs = []

    @cached
    async def f(key):
        runs.append(key)
        await trio.sleep(0.02 if len(runs) > 1 else 3600)
        return len(runs)

    async def leader():
        with trio.move_on_after(0.05):
            await f(1)

    async def waiter():
        while not runs:                         # trio starts tasks in any order
            await trio.sleep(0)
        return await f(1)

    assert gather(leader, waiter, waiter)[1:] == [2, 2]


def test_a_cancelled_waiter_leaves_the_others_alone():
    runs = []

    @cached
    async def f(key):
        runs.append(key)
        await trio.sleep(0.05)
        return key

    async def cancelled():
        with trio.move_on_after(0.01):
            await f(2 if not runs else 1)

    assert gather(lambda: f(1), cancelled, lambda: f(1)) == [1, None, 1]


def test_recursion_and_circles_run():
    @cached
    async def f(key, depth=0):
        await trio.sleep(0.01)
        if runs.append(key) or len(runs) < 9:
            await f(-key)
        return key

    runs = []
    assert gather(lambda: f(1), lambda: f(-1)) == [1, -1]


def test_a_loop_of_trio_that_has_ended_holds_no_key():
    runs = []

    @cached
    async def f(key):
        runs.append(key)
        if len(runs) == 1:
            await trio.sleep_forever()
        return key

    kept = f(1)

    async def lead():
        kept.send(None)                         # trio's own steps, and then no task goes on

    trio.run(lead)
    assert gather(lambda: f(1)) == [1] and runs == [1, 1]
    kept.close()


def test_trio_and_asyncio_share_one_computation():
    begun, over = threading.Event(), threading.Event()

    @cached
    async def f(key):
        begun.set()
        while not over.is_set():
            await asyncio.sleep(0.001)
        return "asyncio"

    leader = Started(lambda: asyncio.run(f(1)))
    wait_for(begun)

    async def end():
        await trio.sleep(0.02)
        over.set()

    assert gather(lambda: f(1), end)[0] == leader.result() == "asyncio"
