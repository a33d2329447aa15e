"""Types of `cachebox.distributed._embedded.noted`."""

from typing import Any

class Noted:
    @property
    def value(self) -> Any: ...

def named(tag: str) -> str: ...
