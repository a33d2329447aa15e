"""Real input that every Python has: the words of its own standard library."""

import os
import random
import re
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from cachebox.cli.errors import CommandError

WORD = re.compile(r"[^\W\d]\w*")                # looks like an identifier

NOT_THE_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}


def find_sources(root: str | None = None) -> list[Path]:
    """The library's source files, in an order that is random but always the same."""
    root = root or sysconfig.get_path("stdlib")
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(set(folders) - NOT_THE_LIBRARY)
        found += [Path(folder, name) for name in sorted(files) if name.endswith(".py")]
    if not found:
        raise CommandError(f"this Python has no library sources to read in {root}; try another installation of Python")
    random.Random(0).shuffle(found)             # else whole packages of one style would come in a row
    return found


def read_words(sources: Iterable[Path]) -> list[str]:
    """The words of these files, in their order in the files."""
    words = []
    for source in sources:
        try:
            text = source.read_text(encoding="utf-8", errors="replace")
        except OSError:                         # unreadable, or gone: the others will do
            continue
        words += WORD.findall(text)
    if not words:
        raise CommandError("the library sources of this Python cannot be read; try another installation of Python")
    return words
