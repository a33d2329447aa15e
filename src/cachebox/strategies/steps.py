"""Steps: what the strategies do, as generators that run in the calling thread or in the calling task.

A step yields a function and a tuple of its arguments. It is sent what the function returns; in a task that is awaited
first, where it can be. So the blocking strategies and those for asyncio are one source.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from inspect import isawaitable
from typing import Any, TypeAlias, TypeVar

from cachebox._platform.steps import run

__all__ = ["Steps", "run", "run_awaited"]

T = TypeVar("T")
Steps: TypeAlias = Generator[tuple[Callable[..., Any], tuple[Any, ...]], Any, T]


async def run_awaited(steps: Steps[T]) -> T:
    """Do all steps in this task, and return what they return."""
    try:
        function, arguments = steps.send(None)
        while True:
            try:
                outcome = function(*arguments)
                if isawaitable(outcome):
                    outcome = await outcome
            except BaseException as error:
                function, arguments = steps.throw(error)
            else:
                function, arguments = steps.send(outcome)
    except StopIteration as end:
        result: T = end.value
        return result
