"""``python -m cachebox demo``: measures the value of a cache, on words that every Python comes with."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
import time

from cachebox.cli.terminal import Progress, Screen

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from cachebox.cli.experiment import Contender, Experiment

NAME = "demo"
SUMMARY = "measure what caching is worth, on real words"
DESCRIPTION = """\
Takes the words of this Python's standard library and finds, for each, the
keyword or builtin name that is spelt most like it: a slow function in pure
Python. It runs behind LRU, LFU and FIFO caches of three sizes and, to compare,
on a sample of the words without a cache.

Progress goes to stderr, the result to stdout.
"""

DEFAULT_SECONDS, LEAST_SECONDS, MOST_SECONDS = 15.0, 0.1, 3600.0
JSON_VERSION = 1
WIDEST_PROSE = 96
MARGIN = 12                                     # the column where facts begin


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds",
        type=seconds,
        default=DEFAULT_SECONDS,
        metavar="N",
        help=f"measure for about N seconds; more time, more words (default: {DEFAULT_SECONDS:g})",
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--processes",
        action="store_true",
        help="share results between processes through a folder; one process is killed meanwhile",
    )
    kind.add_argument(
        "--redis",
        action="store_true",
        help="share results between processes through a real server, which is killed meanwhile (needs redis-py)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not LEAST_SECONDS <= number <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(
            f"must be a number of seconds between {LEAST_SECONDS:g} and {MOST_SECONDS:g}, not {text!r}"
        )
    return number


def run(arguments: argparse.Namespace) -> int:
    if arguments.processes:
        from cachebox.cli import processes_demo

        return processes_demo.run(arguments.seconds, arguments.json)
    if arguments.redis:
        from cachebox.cli import redis_demo

        return redis_demo.run(arguments.seconds, arguments.json)
    from cachebox.cli.experiment import measure
    from cachebox.cli.words import find_sources, read_words

    begun = time.monotonic()
    with Progress() as progress:
        progress.show(0.0, "reading the standard library")
        sources = find_sources()
        words = read_words(sources)
        experiment = measure(words, arguments.seconds, lambda share, so_far: progress.show(share, news(so_far)))
    elapsed = time.monotonic() - begun
    if arguments.json:
        json.dump(as_document(experiment, len(sources), len(words), elapsed), sys.stdout, indent=2)
        print()
    else:
        screen = Screen(sys.stdout)
        for line in as_text(experiment, screen, len(sources), len(words), elapsed):
            print(line.rstrip())
    return 0


def news(experiment: Experiment) -> str:
    best = experiment.best
    return f"{experiment.words:,} words, {best.policy} {best.size:,}: {experiment.speed_up(best):.1f} times as fast"


def as_document(experiment: Experiment, files: int, words: int, elapsed: float) -> dict[str, Any]:
    """The result for machines. Times are in seconds."""
    from cachebox import __version__

    def about(contender: Contender) -> dict[str, Any]:
        counts = contender.cache.stats.get_all()
        return {
            "policy": contender.policy,
            "size": contender.size,
            "hit_ratio": contender.cache.stats.hit_rate(),
            "calls_saved": counts["hits"],
            "seconds": contender.seconds,
            "speed_up": experiment.speed_up(contender),
            "stats": counts,
        }

    return {
        "version": JSON_VERSION,
        "cachebox": __version__,
        "python": sys.version.split()[0],
        "source": {"files": files, "words": words},
        "measured": {"words": experiment.words, "distinct": experiment.distinct},
        "uncached": {
            "sampled_calls": experiment.sampled,
            "sampled_seconds": experiment.sampled_seconds,
            "seconds_per_call": experiment.seconds_per_call,
            "extrapolated_seconds": experiment.uncached_seconds,
        },
        "runs": [about(contender) for contender in experiment.contenders],
        "best": {"policy": experiment.best.policy, "size": experiment.best.size},
        "unbounded_hit_ratio": experiment.ceiling,
        "elapsed_seconds": elapsed,
    }


def as_text(experiment: Experiment, screen: Screen, files: int, words: int, elapsed: float) -> Iterator[str]:
    """The result for people, line by line."""
    times, micro = screen.symbol("×", "x"), screen.symbol("µ", "u")
    best = experiment.best
    facts = {
        "task": "find the keyword or builtin name spelt most like a word, at most two edits away, in pure Python",
        "words": f"{experiment.words:,} measured, {experiment.distinct:,} of them different; the standard library of "
        f"Python {sys.version.split()[0]} has {words:,} in {files:,} files",
        "uncached": f"{experiment.seconds_per_call * 1e6:.1f} {micro}s a call, by a sample of {experiment.sampled:,}: "
        f"{experiment.uncached_seconds:.1f} s for all words, which is extrapolated; the speed-ups refer to it",
        "ceiling": f"{experiment.ceiling:.1%} of the calls are for a word seen before: no cache can save more",
    }
    yield ""
    yield "  " + screen.bold("CacheBox demo")
    yield ""
    for title, fact in facts.items():
        head, *tail = textwrap.wrap(fact, max(24, min(screen.width - 1, WIDEST_PROSE) - MARGIN))
        yield f"  {screen.dim(title.ljust(MARGIN - 2))}{head}"
        yield from (" " * MARGIN + line for line in tail)
    yield ""
    yield from table(experiment, screen, times)
    yield ""
    yield f"  The fastest: {screen.bold(f'{best.policy} with {best.size:,} entries')}"
    yield ""
    yield from ("  " + line for line in best.cache.stats.report().splitlines())
    yield ""
    yield screen.dim(f"  {elapsed:.1f} s in all")


def table(experiment: Experiment, screen: Screen, times: str) -> Iterator[str]:
    """One line per contender. A narrow screen leaves out columns that repeat others in other words."""
    titles = {"policy": 6, "size": 6, "hit ratio": 9, "calls saved": 11, "time": 7, "speed-up": 8}
    for optional in ("calls saved", "time"):
        if 2 + sum(titles.values()) + 2 * len(titles) > screen.width:
            del titles[optional]
    bar = min(24, screen.width - 4 - sum(titles.values()) - 2 * len(titles))
    head = "  ".join(title.ljust(width) if title == "policy" else title.rjust(width) for title, width in titles.items())
    yield "  " + screen.bold(head)
    for contender in experiment.contenders:
        stats = contender.cache.stats
        cells = {
            "policy": contender.policy,
            "size": f"{contender.size:,}",
            "hit ratio": f"{stats.hit_rate():.1%}",
            "calls saved": f"{stats.hits:,}",
            "time": f"{contender.seconds:.2f} s",
            "speed-up": f"{experiment.speed_up(contender):.1f} {times}",
        }
        line = "  ".join(
            cells[title].ljust(width) if title == "policy" else cells[title].rjust(width)
            for title, width in titles.items()
        )
        if contender is experiment.best:
            line = screen.green(line)
        if bar >= 8:
            filled, rest = screen.bar(stats.hit_rate(), bar)
            line += "   " + screen.cyan(filled) + screen.dim(rest)
        yield "  " + line
