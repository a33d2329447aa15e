"""Types of `cachebox._simulation.replay`; the documentation is in the compiled module."""

from array import array
from typing import Any

from cachebox.policies import EvictionPolicy

class Numbers: ...

class Replay:
    hits: int
    def __init__(
        self, policy: EvictionPolicy[Any], hashes: array[int], size: float, weights: array[float] | None = None
    ) -> None: ...
    def run(self, requests: memoryview) -> None: ...

class Optimum:
    hits: int
    def __init__(
        self, requests: memoryview, distinct: int, size: float, weights: array[float] | None = None
    ) -> None: ...
    def run(self, count: int) -> None: ...
