"""``python -m cachebox stats DIRECTORY``: what the caches in a folder hold."""

from __future__ import annotations

import argparse
import json
import os
import sys

from cachebox.cli.errors import CommandError
from cachebox.cli.terminal import Screen

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from typing import Any

NAME = "stats"
SUMMARY = "tell what the caches in a folder hold"
DESCRIPTION = """\
Tells, for each namespace of a directory that DistributedCache(url="file:///...")
uses, how many bytes, entries, tags and computations under way there are, how many
processes use it, and the hits and misses of all processes so far. Entries that have
ended, or were cleared, and are still on the disk count as dead. Oldest is how long
ago the oldest other entry was written. Local hits are those
in a process's own memory; it adds them when it asks the folder, and at its end.
Nothing is changed.
"""
JSON_VERSION = 1
COLUMNS = (
    "bytes", "entries", "dead", "without_end", "oldest", "tags", "leases", "processes", "local_hits", "remote_hits",
    "misses",
)
UNITS = (("d", 86400), ("h", 3600), ("min", 60))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIRECTORY", help="the directory of the URL")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def run(arguments: argparse.Namespace) -> int:
    from cachebox.distributed._embedded.survey import survey

    path = os.path.abspath(arguments.directory)
    try:
        found = survey(path)
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot look into {path!r}: {error}") from error
    if not found:
        raise CommandError(f"there is no cache in {path!r}")
    if arguments.json:
        json.dump({"version": JSON_VERSION, "directory": path, "namespaces": found}, sys.stdout, indent=2)
        print()
    else:
        for line in as_text(found, Screen(sys.stdout)):
            print(line)
    return 0


def as_text(found: list[dict[str, Any]], screen: Screen) -> list[str]:
    """The result as a table."""
    names = [repr(each["namespace"])[1:-1] for each in found]
    widest = max(len("namespace"), *map(len, names))
    titles = [column.replace("_", " ") for column in COLUMNS]
    rows = [[as_age(each[name]) if name == "oldest" else f"{each[name]:,}" for name in COLUMNS] for each in found]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    lines = ["  ".join(map(screen.bold, ["namespace".ljust(widest), *map(str.rjust, titles, widths)]))]
    for name, row in zip(names, rows, strict=True):
        lines.append("  ".join([name.ljust(widest), *map(str.rjust, row, widths)]))
    return lines


def as_age(seconds: float | None) -> str:
    """A time span in its largest unit.

    >>> as_age(7500.0), as_age(0.4), as_age(None)
    ('2 h', '0 s', '-')
    """
    if seconds is None:
        return "-"
    for name, size in UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
