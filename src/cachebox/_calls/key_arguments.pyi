"""Types of `cachebox._calls.key_arguments`."""

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

class KeyArguments:
    names: tuple[str, ...]
    positional: tuple[str, ...]
    vary: tuple[ContextVar[Any] | Callable[[], Any], ...]
    ignored_names: frozenset[str]
    normalize: bool
    ignores_first: bool

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        ignore: str | Iterable[str] = (),
        normalize: bool = False,
        vary: Any = (),
        hashes: bool = True,
    ) -> None: ...
    def of(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], is_method: bool = False
    ) -> tuple[tuple[Any, ...], tuple[Any, ...], dict[str, Any]] | None: ...

class _Unset: ...

UNSET: _Unset

def checked_names(given: Any) -> tuple[str, ...]: ...
def checked_vary(given: Any) -> tuple[Any, ...]: ...
