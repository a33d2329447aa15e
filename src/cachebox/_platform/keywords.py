"""Keyword arguments that nobody knows: misspelt ones, and those of other packages."""

from __future__ import annotations

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def refuse_unknown(what: str, unknown: Iterable[str], known: Iterable[str], other_names: Mapping[str, str]) -> None:
    """Raise TypeError for unknown arguments. The text suggests the right name, if one is near."""
    for name in unknown:
        right = other_names.get(name)
        if right is None:
            from difflib import get_close_matches

            right = next(iter(get_close_matches(name, known, 1, 0.6)), None)
        hint = f": did you mean {right!r}?" if right is not None else ""
        raise TypeError(f"{what}() got an unexpected keyword argument {name!r}{hint}")
