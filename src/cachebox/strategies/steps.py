"""Steps: the strategies' operations, as generators that run in the calling thread or the calling task.

A step yields a function and a tuple of its arguments, and is sent the function's result. In a task an awaitable result
is awaited first. So the blocking and the asyncio strategies share one source.
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
    """Run all steps in this task, and return their result."""
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
