"""Types of `cachebox._platform.steps`."""

from collections.abc import Callable, Generator
from typing import Any, TypeVar

_T = TypeVar("_T")

def run(steps: Generator[Any, Any, _T], do: Callable[[Any], Any] | None = None) -> _T: ...
