"""Types of `cachebox.distributed._wire.plain`; the documentation is in the compiled module."""

MAX_DEPTH: int

def is_plain(value: object, binary: bool) -> bool: ...
