from collections.abc import Callable
from typing import Any

def write(
    content: bytearray,
    keys: list[Any],
    values: list[Any],
    ends: list[float] | None,
    ranks: list[int] | None,
    tags: list[tuple[Any, ...]] | None,
    encode: Callable[..., bytes],
    as_json: bool,
) -> None: ...
