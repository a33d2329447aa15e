"""Groups of candidates for pytest: measured interleaved when the first of a group is asked for, then told to
pytest-benchmark one by one, and shown in one table for each topic.

pytest-benchmark runs one benchmark after the other. To compare candidates that took turns, what was measured is played
back to it: its timer is a `Tape`, which each "run" winds on by one sample. So its statistics, its JSON and its
comparison with earlier runs work as ever, on samples in seconds per operation.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench import measure, peers
from bench.measure import Candidate, Timing


@dataclass
class Group:
    """Candidates that are measured together: one column of a topic's table.

    `build` makes them; `measured` holds the timings afterwards, in seconds (or bytes) per operation.
    """

    name: str
    build: Callable[[], list[Candidate]]
    seconds: float = 1.2
    rounds: tuple[int, int] = (5, 2_000)        # at least and at most
    warm_up: bool = True
    unfit: Callable[[], str] = lambda: ""       # why it cannot be measured here; empty if it can
    measured: dict[str, Timing] | None = None
    failed: bool = False

    def measure(self) -> dict[str, Timing]:
        """The timings; measured the first time. A group that failed is not tried again."""
        if self.failed:
            raise RuntimeError("this group failed before")
        if self.measured is None:
            least, most = self.rounds
            self.failed = True
            self.measured = measure.interleave(
                self.build(), seconds=self.seconds, least=least, most=most, warm_up=self.warm_up
            )
            self.failed = False
        return self.measured


@dataclass
class Topic:
    """Groups with the same candidates: the rows and columns of a table of ratios."""

    title: str
    names: Sequence[str]                        # of candidates; those that cannot be had are left out
    baseline: str                               # what the ratios refer to
    groups: list[Group]
    note: str = ""
    unit: str = "ns"                            # of the baseline's absolute value: one of UNITS, or "M/s"
    more: bool = False                          # more is better: ratios are turned round
    less: str = ""                              # a candidate whose value is taken off all others

    def value(self, group: Group, name: str) -> float | None:
        """The best of a candidate, in the measured unit, less what does not belong to it."""
        measured = group.measured or {}
        if name not in measured:
            return None
        rest = measured[self.less].best if self.less else 0.0
        return measured[name].best - rest

    def ratio(self, group: Group, name: str) -> float | None:
        value, base = self.value(group, name), self.value(group, self.baseline)
        if value is None or base is None:
            return None
        return base / value if self.more else value / base

    def shown(self) -> list[str]:
        """The candidates that have been measured."""
        return [name for name in self.names if any(name in (group.measured or {}) for group in self.groups)]


UNITS = {"ns": 1e9, "µs": 1e6, "ms": 1e3, "bytes": 1}


def quantity(value: float, unit: str) -> str:
    """A measured value with its unit; "M/s" makes millions of operations a second of seconds per operation."""
    number, name = (1e-6 / value, unit) if unit == "M/s" else (value * UNITS[unit], unit)
    return f"{number:.0f} {name}" if number >= 100 else f"{number:.1f} {name}"


def table(topic: Topic) -> list[list[str]]:
    """Header and rows: the baseline's row in absolute values, all others as multiples of them."""
    groups = [group for group in topic.groups if group.measured]
    rows = [["", *(group.name for group in groups)]]
    names = topic.shown()
    for name in [topic.baseline, *(name for name in names if name != topic.baseline)]:
        row = [f"{name} = 1" if name == topic.baseline else name]
        for group in groups:
            value, ratio = topic.value(group, name), topic.ratio(group, name)
            if value is None:
                row.append("")
            elif name == topic.baseline or ratio is None:
                row.append(quantity(value, topic.unit))
            else:
                row.append(f"{ratio:.2f}")
        rows.append(row)
    return rows


def aligned(rows: list[list[str]]) -> list[str]:
    """The lines of a table for a terminal: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return [lines[0], "  ".join("─" * width for width in widths), *lines[1:]]


def all_topics() -> list[Topic]:
    """Those of all suites, in the order of their files."""
    files = sorted(Path(__file__).parent.glob("test_*.py"))
    return [topic for path in files for topic in importlib.import_module(f"bench.{path.stem}").TOPICS]


# --- pytest -----------------------------------------------------------------------------------------------------------


@dataclass
class Tape:
    """A timer that tells pytest-benchmark what was measured before."""

    now: float = 0.0
    samples: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def wind(self) -> None:
        """Let the next sample pass."""
        self.now += self.samples.pop()


TAPE = Tape()


def cases(*topics: Topic) -> pytest.MarkDecorator:
    """Parametrise a test with every candidate of every group of the topics."""
    return pytest.mark.parametrize(
        ("topic", "group", "name"),
        [
            pytest.param(topic, group, name, id=f"{topic.title}, {group.name}-{name}")
            for topic in topics
            for group in topic.groups
            for name in topic.names
        ],
    )


def play(benchmark: Any, topic: Topic, group: Group, name: str) -> None:
    """What every test of the suites does: measure the group if nobody has yet, and report one candidate of it."""
    if why := group.unfit():
        pytest.skip(why)
    timings = group.measure()
    if name not in timings:
        absent = [reason for peer, reason in peers.ABSENT.items() if name.startswith(peer)]
        pytest.skip(f"{name}: {absent[0] if absent else 'it has no such operation, or is not installed'}")
    benchmark.group = f"{topic.title}, {group.name}"
    benchmark.extra_info["ratio"] = topic.ratio(group, name)
    benchmark.extra_info["baseline"] = topic.baseline
    samples = timings[name].samples
    TAPE.samples[:] = samples[::-1]
    benchmark.pedantic(TAPE.wind, rounds=len(samples))
