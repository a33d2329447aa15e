"""HTML tables for notebooks."""

from __future__ import annotations

from html import escape

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Iterable


def table(title: str, rows: Iterable[tuple[str, str, str]]) -> str:
    """A table of rows; each row is a name, a number and a remark.

    >>> table("Sizes", [("entries", "5", "")])
    '<table><caption>Sizes</caption><tr><th>entries</th><td>5</td><td></td></tr></table>'
    """
    body = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(number)}</td><td>{escape(remark)}</td></tr>"
        for name, number, remark in rows
    )
    return f"<table><caption>{escape(title)}</caption>{body}</table>"
