"""Groups of candidates for pytest, measured in turn and shown in one table for each topic.

pytest-benchmark runs one benchmark after the other. To compare candidates that took turns, a group is measured when its
first candidate is asked for, and the samples are played back to pytest-benchmark. Its timer is a `Tape`, which each
"run" winds on by one sample. So its statistics, its JSON and its comparison with earlier runs work as usual, on samples
in seconds per operation.
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

    `build` makes the candidates; `measured` has their timings afterwards, in seconds (or bytes) per operation.
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
        """The timings; measured on the first call. A group that failed is not tried again."""
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
    names: Sequence[str]                        # of candidates; those that cannot be imported are left out
    baseline: str                               # the ratios refer to it
    groups: list[Group]
    note: str = ""
    unit: str = "ns"                            # of the baseline's absolute value: one of UNITS, or "M/s"
    more: bool = False                          # more is better: ratios are inverted
    less: str = ""                              # a candidate whose value is subtracted from all others

    def value(self, group: Group, name: str) -> float | None:
        """The best value of a candidate, in the measured unit, less that of `less`."""
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
        """The names of the measured candidates."""
        return [name for name in self.names if any(name in (group.measured or {}) for group in self.groups)]


UNITS = {"ns": 1e9, "µs": 1e6, "ms": 1e3, "bytes": 1}


def quantity(value: float, unit: str) -> str:
    """A measured value with its unit; "M/s" converts seconds per operation to millions of operations per second."""
    number, name = (1e-6 / value, unit) if unit == "M/s" else (value * UNITS[unit], unit)
    return f"{number:.0f} {name}" if number >= 100 else f"{number:.1f} {name}"


def table(topic: Topic) -> list[list[str]]:
    """Header and rows: the baseline's row has absolute values, all others have ratios to it."""
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
    """The lines of a table for a terminal: names on the left, numbers on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return [lines[0], "  ".join("─" * width for width in widths), *lines[1:]]


def all_topics() -> list[Topic]:
    """The topics of all suites, in the order of their files."""
    files = sorted(Path(__file__).parent.glob("test_*.py"))
    return [topic for path in files for topic in importlib.import_module(f"bench.{path.stem}").TOPICS]


# --- pytest -----------------------------------------------------------------------------------------------------------


@dataclass
class Tape:
    """A timer that plays back earlier measurements to pytest-benchmark."""

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
    """The body of every test of the suites: measure the group if it has not been, and report one of its candidates."""
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
