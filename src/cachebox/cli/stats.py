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
ended, or were cleared, and are still on the disk count as dead. Local hits are those
in a process's own memory; it adds them when it asks the folder, and at its end.
Nothing is changed.
"""
JSON_VERSION = 1
COLUMNS = (
    "bytes", "entries", "dead", "without_end", "tags", "leases", "processes", "local_hits", "remote_hits", "misses",
)


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
    widths = [max(len(column), *(len(f"{each[column]:,}") for each in found)) for column in COLUMNS]
    titles = [column.replace("_", " ").rjust(width) for column, width in zip(COLUMNS, widths, strict=True)]
    lines = ["  ".join([screen.bold("namespace".ljust(widest)), *map(screen.bold, titles)])]
    for name, each in zip(names, found, strict=True):
        cells = [f"{each[column]:,}".rjust(width) for column, width in zip(COLUMNS, widths, strict=True)]
        lines.append("  ".join([name.ljust(widest), *cells]))
    return lines
