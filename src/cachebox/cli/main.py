"""The entry point: arguments in, exit status out.

0: success. 1: failure, with a line on stderr that says why. 2: invalid arguments. 130: Ctrl-C. 141: the reader of the
output has gone.

A subcommand is a module with `NAME`, `SUMMARY` (a line for the list of commands), `DESCRIPTION`,
`add_arguments(parser)` and `run(arguments) -> int`. It raises `CommandError` to give up.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence

from cachebox.cli import demo, doctor, simulate, stats
from cachebox.cli.errors import CommandError

COMMANDS = (demo, simulate, stats, doctor)

FAILED, INTERRUPTED, NO_READER = 1, 130, 141

DESCRIPTION = """\
CacheBox is a fast, thread-safe in-memory cache for Python: LRU, LFU, FIFO
and AUTO, lifetimes, statistics, callbacks and decorators.
"""

EPILOG = """\
In Python:
  >>> from cachebox import Cache, cached
  >>> help(Cache)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, given as a list of arguments (None: those of the process). Returns the exit status."""
    try:
        try:
            return run(argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()              # here, because an error at interpreter exit could not be reported
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        return NO_READER
    except CommandError as error:
        say(f"error: {error}")
        return FAILED
    except OSError as error:                    # the output: commands handle errors of their input themselves
        say(f"error: cannot write the output: {error.strerror or error}")
        return FAILED


def run(argv: Sequence[str] | None) -> int:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.version:
        from importlib.metadata import version

        print(f"cachebox-cython {version('cachebox-cython')}, Python {sys.version.split()[0]}")
        return 0
    if arguments.command is None:
        parser.print_help()
        return 0
    status: int = arguments.command.run(arguments)
    return status


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cachebox",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        subparser = commands.add_parser(
            command.NAME,
            help=command.SUMMARY,
            description=command.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        subparser.set_defaults(command=command)
        command.add_arguments(subparser)
    return parser


def say(message: str) -> None:
    """Write a line to stderr, if there is one."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"cachebox: {message}", file=sys.stderr, flush=True)
