"""Types of `cachebox._simulation.tap`; the documentation is in the compiled module."""

from typing import Any

from cachebox.cache import Cache

class Tap:
    lost: int
    def __init__(self, store: Cache[Any, Any], room: int, sample: float) -> None: ...
    def close(self) -> None: ...
    def take(self) -> bytearray: ...
