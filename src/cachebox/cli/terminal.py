"""The abilities of an output stream, and a progress line."""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from typing import TextIO

WIDTH_OF_A_FILE = 80
REDRAWS_APART = 0.1                             # seconds
PLAIN_LINES_APART = 0.25                        # of the whole, if lines cannot be redrawn


class Screen:
    """A stream, and what it can display.

    Colour is used only on a terminal that has it, and without NO_COLOR in the environment (https://no-color.org).
    Non-ASCII characters are used only if the stream's encoding has them.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.is_terminal = stream is not None and stream.isatty()
        self.has_colour = self.is_terminal and not os.environ.get("NO_COLOR") and understands_colour()
        self.has_symbols = can_encode(stream, "━╸─×µ✓✗–")

    @property
    def width(self) -> int:
        """The present number of columns: a window may be resized."""
        given = os.environ.get("COLUMNS", "")
        if given.isdecimal() and int(given) > 0:
            return int(given)
        if self.stream is None or not self.is_terminal:
            return WIDTH_OF_A_FILE
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or WIDTH_OF_A_FILE
        except OSError:
            return WIDTH_OF_A_FILE

    def bold(self, text: str) -> str:
        return self.painted("1", text)

    def dim(self, text: str) -> str:
        return self.painted("2", text)

    def green(self, text: str) -> str:
        return self.painted("1;32", text)

    def red(self, text: str) -> str:
        return self.painted("1;31", text)

    def cyan(self, text: str) -> str:
        return self.painted("36", text)

    def painted(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.has_colour and text else text

    def symbol(self, symbol: str, ascii_instead: str) -> str:
        return symbol if self.has_symbols else ascii_instead

    def bar(self, share: float, width: int) -> tuple[str, str]:
        """A bar of that width: the filled part and the rest, to be painted differently."""
        halves = round(2 * width * min(max(share, 0.0), 1.0))
        if self.has_symbols:
            filled = "━" * (halves // 2) + "╸" * (halves % 2)
            return filled, "─" * (width - len(filled))
        filled = "#" * (halves // 2)
        return filled, "." * (width - len(filled))


class Progress:
    """Shows the progress on stderr: on a terminal as one line that is redrawn, elsewhere as a few plain lines.

    A context manager; it removes the line at the end.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.screen = Screen(sys.stderr if stream is None else stream)
        self.drawn_at = 0.0
        self.next_plain_line = 0.0
        self.drawn = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.drawn:
            self.write("\r\x1b[K")

    def show(self, share: float, text: str) -> None:
        """Show that a share of the work is done, between 0 and 1."""
        if self.screen.is_terminal:
            if time.monotonic() >= self.drawn_at + REDRAWS_APART:
                self.draw(share, text)
        elif share >= self.next_plain_line:
            self.next_plain_line = share - share % PLAIN_LINES_APART + PLAIN_LINES_APART
            self.write(f"{share:4.0%}  {text}\n")

    def draw(self, share: float, text: str) -> None:
        room = self.screen.width - 3            # the terminal may add a ^C, and must not wrap then
        filled, rest = self.screen.bar(share, max(4, min(24, room - 56)))
        plain = f"  {filled}{rest}  {share:4.0%}  {text}"
        tail = plain[:room][2 + len(filled) + len(rest):]
        self.write(f"\r  {self.screen.cyan(filled)}{self.screen.dim(rest)}{tail}\x1b[K")
        self.drawn_at = time.monotonic()
        self.drawn = True

    def write(self, text: str) -> None:
        if self.screen.stream is None:
            return
        try:
            self.screen.stream.write(text)
            self.screen.stream.flush()
        except OSError:                         # nobody reads it: the work goes on without
            self.screen = Screen(None)


def understands_colour() -> bool:
    if os.environ.get("TERM") == "dumb":
        return False
    return sys.platform != "win32" or any(name in os.environ for name in ("WT_SESSION", "ANSICON", "TERM"))


def can_encode(stream: TextIO | None, symbols: str) -> bool:
    try:
        symbols.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
