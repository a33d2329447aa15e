"""Types of `cachebox.distributed._embedded.writer_lock`."""

from collections.abc import Callable
from typing import TypeVar

from cachebox.distributed._embedded.page import Page

T = TypeVar("T")
LOOKED_EVERY: float

class Busy(Exception): ...

class WriterLock:
    def __init__(self, fd: int, page: Page) -> None: ...
    def run(self, function: Callable[[], T], deadline: float) -> T: ...
    def pause(self, function: Callable[[], object], deadline: float) -> None: ...
    def resume(self) -> None: ...
