"""``python -m cachebox simulate``: hit ratios of other policies and sizes, on requests from a file."""

from __future__ import annotations

import argparse
import json
import sys
import time

from cachebox.cli.errors import CommandError
from cachebox.cli.terminal import Progress
from cachebox.cli.traces import read

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from cachebox._simulation.simulation import Simulation

NAME = "simulate"
SUMMARY = "hit ratios of other policies and sizes, on requests from a file"
DESCRIPTION = """\
Reads what was asked for, a key per line, and tells which hit ratios caches of
other policies and sizes would have had; a miss is followed by a set. OPT is
Belady's optimum, which knows the future.

FILE is text with a key per line, CSV where --column is given, or little-endian
64-bit numbers (.u64, as cachebox.record writes them); each of them may be
gzipped (.gz). "-" is the standard input.

Progress goes to stderr, the result to stdout.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help='the requests; "-": standard input')
    parser.add_argument("--policy", metavar="NAMES", help="such as LRU,AUTO (default: all)")
    parser.add_argument(
        "--size", metavar="SIZES", help="counts, or per cents of the distinct keys: 100,5000,10%% (default: a row)"
    )
    parser.add_argument(
        "--column", metavar="NAME-OR-NUMBER", help="of a CSV file: a name in its first line, or a number from 1"
    )
    parser.add_argument(
        "--format", choices=("lines", "csv", "u64"), help="what the file holds (default: by name and --column)"
    )
    parser.add_argument("--plot", metavar="FILE", help="write a picture (needs matplotlib)")
    parser.add_argument("--csv", metavar="FILE", help="write policy, size, hit ratio")
    parser.add_argument(
        "--json", metavar="FILE", nargs="?", const="-", help="write a JSON document; without FILE print it, and no text"
    )


def run(arguments: argparse.Namespace) -> int:
    from cachebox._simulation.simulation import simulate

    policies = split(arguments.policy, "--policy")
    sizes = split(arguments.size, "--size")
    with Progress() as progress:
        keys = read(
            arguments.file, arguments.format, arguments.column,
            lambda share, n: progress.show(share / 4, f"read {n:,} requests"),
        )
        begun = time.monotonic()

        def tell(done: int, total: int) -> None:
            progress.show(0.25 + 0.75 * done / total, f"replayed {done:,} of {total:,} requests")

        try:
            found = simulate(keys, policies, sizes, progress=tell)
        except (ValueError, TypeError) as error:
            raise CommandError(str(error)) from None
        elapsed = time.monotonic() - begun
    write_files(arguments, found)
    if arguments.json == "-":
        json.dump(found.document(), sys.stdout, indent=2)
        print()
    else:
        print(found.table())
        print()
        print(found.advice())
        print(f"({elapsed:.1f} s)", file=sys.stderr)
    return 0


def split(text: str | None, option: str) -> list[str] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise CommandError(f"{option} must be a list with commas between, not {text!r}")
    return parts


def write_files(arguments: argparse.Namespace, found: Simulation) -> None:
    """Write the files that were asked for; an error message names the file that cannot be written."""
    for path, write in ((arguments.plot, found.plot), (arguments.csv, found.to_csv), (arguments.json, found.to_json)):
        if path is None or path == "-":
            continue
        try:
            write(path)
        except ImportError as error:
            raise CommandError(str(error)) from None
        except ValueError as error:             # matplotlib does not know the file's suffix
            raise CommandError(f"cannot write {path}: {error}") from None
        except OSError as error:
            raise CommandError(f"cannot write {path}: {error.strerror or error}") from None
