"""Draws the report's plots, as SVG and as PNG.

The colours are those of Okabe and Ito, which colour-blind people can distinguish; lines differ in their markers, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.figures import FIGURES
from bench.peers import LRU, OURS

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY, PALE, INK = "#9A9A9A", "#DDDDDD", "#333333"
STYLES = [(BLUE, "o", "-"), (INK, "s", "--"), (GREEN, "^", "-."), (RED, "D", ":"), (ORANGE, "v", "-")]
LOOK = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "cachebox",                 # so that the same numbers give the same file
}
Results = dict[str, Any]


def draw(results: list[Results], folder: Path) -> list[str]:
    """Draw the results of several interpreters, and the suites of the first one; returns the names of the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with plt.rc_context(LOOK):
        for name, made in {
            "figures": targets(results),
            "hits": hits(results[0]),
            "growth": growth(results[0]),
            "threads": threads(results),
            "memory": memory(results[0]),
            "folders": folders(results[0]),
        }.items():
            if made is not None:
                save(made, folder, name)
                drawn.append(name)
    return drawn


def draw_folders(result: Results, folder: Path) -> None:
    """Draw the plot of two tiers without a server alone."""
    with plt.rc_context(LOOK):
        made = folders(result)
        if made is None:
            raise ValueError('the results lack the topics that begin with "without a server"')
        save(made, folder, "folders")


def save(canvas: Canvas, folder: Path, name: str) -> None:
    canvas.savefig(folder / f"{name}.svg", metadata={"Date": None}, facecolor="white")
    canvas.savefig(folder / f"{name}.png", dpi=160, facecolor="white")
    plt.close(canvas)


def values(result: Results, title: str) -> dict[str, dict[str, float]]:
    """A topic's values, by group and candidate; the topic is the one whose title begins with `title`."""
    for topic in result["topics"]:
        if topic["title"].startswith(title):
            found: dict[str, dict[str, float]] = topic["values"]
            return found
    return {}


def ours(name: str) -> bool:
    return name == OURS or name.startswith((f"{OURS} L", f"{OURS} F", "@cached", "lru_cache (ours)"))


def bars(axes: Axes, numbers: dict[str, float], baseline: str, start: float = 0) -> None:
    """Horizontal bars, the smallest at the top, each with its number; ours and the baseline stand out."""
    names = sorted(numbers, key=lambda name: -numbers[name])
    colours = [BLUE if ours(name) else INK if name == baseline else GREY for name in names]
    axes.barh(names, [numbers[name] - start for name in names], left=start, color=colours, height=0.68)
    for i, name in enumerate(names):
        number = numbers[name]
        text, left = f"{number:.2f}" if number < 10 else f"{number:.0f}", number < start
        place = {"xytext": (-4 if left else 4, 0), "ha": "right" if left else "left", "va": "center"}
        axes.annotate(text, (number, i), textcoords="offset points", fontsize=9, **place)
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_fontweight("bold" if ours(name) else "normal")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def ratio_bars(axes: Axes, measured: dict[str, float], baseline: str, title: str) -> None:
    """Bars that begin at 1, the baseline: to the left is faster, to the right slower."""
    numbers = {name: value / measured[baseline] for name, value in measured.items() if value is not None}
    axes.set_xscale("log")
    bars(axes, numbers, baseline, start=1)
    axes.axvline(1, color=INK, linewidth=1)
    axes.xaxis.set_major_locator(FixedLocator([0.25, 0.5, 1, 2, 5, 10, 20, 50, 100]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(min(0.8, min(numbers.values()) / 1.7), max(numbers.values()) * 1.6)
    axes.set_xlabel(f"time, as a multiple of {baseline}'s (log scale)")
    axes.set_title(title)


def hits(result: Results) -> Canvas | None:
    looked_up = values(result, "get, hit, str keys, by number")
    called = values(result, "decorated function, hit")
    if not looked_up or not called:
        return None
    canvas, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    ratio_bars(left, looked_up["10³"], "dict", "A hit: get(key), 1000 str keys")
    ratio_bars(right, called["f(x)"], "functools.lru_cache", "A hit of a decorated function: f(x)")
    canvas.suptitle(subtitle(result), fontsize=9, color=GREY, x=0.995, ha="right")
    return canvas


def folders(result: Results) -> Canvas | None:
    second, writing = values(result, "without a server: values"), values(result, "without a server: time per write")
    if not second or not writing:
        return None
    canvas, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.4))
    ratio_bars(left, second["get"], "diskcache", "get, from the second tier")
    ratio_bars(middle, second["set"], "diskcache", "set")
    counts = list(writing)
    for name, colour, marker in ((OURS, BLUE, "o"), ("diskcache", INK, "s")):
        rates = [1e-3 / writing[count][name] for count in counts]
        right.plot([count.split()[0] for count in counts], rates, color=colour, marker=marker, linewidth=2, label=name)
    right.set_ylim(bottom=0)
    right.set_xlabel("writing processes")
    right.set_ylabel("thousand writes per second")
    right.set_title("set, several processes together")
    right.legend(loc="best")
    right.grid(axis="y", color=PALE, linewidth=0.6)
    canvas.suptitle(subtitle(result), fontsize=9, color=GREY, x=0.995, ha="right")
    return canvas


def subtitle(result: Results) -> str:
    python = result["interpreter"]
    return f"CPython {python['version']}, {python['build']} build, {result['machine']['processor']}"


def growth(result: Results) -> Canvas | None:
    panels = {
        "get, a hit": values(result, "growth: get"),
        "filling an empty cache, per entry": values(result, "growth: filling"),
    }
    if not all(panels.values()):
        return None
    canvas, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for panel, (title, groups) in zip(axes, panels.items(), strict=True):
        names = list(dict.fromkeys(name for group in groups.values() for name in group))
        for name, (colour, marker, line) in zip(sorted(names, key=lambda name: name != LRU), STYLES, strict=False):
            sizes = [10 ** (2 + i) for i, group in enumerate(groups.values()) if group.get(name) is not None]
            times = [1e9 * group[name] for group in groups.values() if group.get(name) is not None]
            look = {"color": colour, "marker": marker, "linestyle": line, "markersize": 5}
            panel.plot(sizes, times, linewidth=2.4 if name == LRU else 1.4, label=name, **look)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(FixedLocator([10, 20, 50, 100, 200, 500, 1000, 2000]))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.grid(axis="y", color=PALE, linewidth=0.6)
        panel.set_xlabel("entries")
        panel.set_title(title)
    axes[0].set_ylabel("ns per operation (log scale)")
    axes[0].legend(loc="upper left")
    canvas.suptitle(subtitle(result), fontsize=9, color=GREY, x=0.995, ha="right")
    return canvas


def threads(results: list[Results]) -> Canvas | None:
    """One panel with the GIL and one without, if there are results."""
    found = [(each, values(each, "threads: throughput of gets")) for each in results]
    with_gil = [pair for pair in found if pair[1] and not pair[0]["interpreter"]["free_threaded"]][:1]
    without = [pair for pair in found if pair[1] and pair[0]["interpreter"]["free_threaded"]][:1]
    shown = with_gil + without
    if not shown:
        return None
    canvas, axes = plt.subplots(1, len(shown), figsize=(5.5 * len(shown), 4), sharey=True, squeeze=False)
    for panel, (result, groups) in zip(axes[0], shown, strict=True):
        counts = list(groups)
        names = list(dict.fromkeys(name for group in groups.values() for name in group))
        width = 0.8 / len(counts)
        for i, (count, shade) in enumerate(zip(counts, (SKY, BLUE, INK), strict=False)):
            speeds = [1e-6 / groups[count][name] if name in groups[count] else 0.0 for name in names]
            places = [place + (i - (len(counts) - 1) / 2) * width for place in range(len(names))]
            drawn = panel.bar(places, speeds, width * 0.92, color=shade, label=count)
            panel.bar_label(drawn, [f"{speed:.0f}" for speed in speeds], fontsize=8, padding=2)
        panel.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names], fontsize=9)
        gil = "without the GIL" if result["interpreter"]["free_threaded"] else "with the GIL"
        panel.set_title(f"CPython {result['interpreter']['version']}, {gil}")
        panel.tick_params(axis="x", length=0)
    axes[0][0].set_ylabel("million gets a second, all threads together")
    axes[0][-1].legend(loc="upper right")
    return canvas


def memory(result: Results) -> Canvas | None:
    measured = values(result, "memory").get("int keys", {})
    if not measured:
        return None
    canvas, axes = plt.subplots(figsize=(7.5, 4.2))
    bars(axes, measured, "dict")
    axes.set_xlim(0, max(measured.values()) * 1.08)
    axes.set_xlabel("bytes per entry at a million entries, keys and values not counted (less is better)")
    axes.set_title("Memory")
    return canvas


def targets(results: list[Results]) -> Canvas:
    """All figures of all interpreters, as multiples of the must; a grey bar leads to the moonshot."""
    lines = [figure for figure in FIGURES if any(_share(figure, each) is not None for each in results)]
    canvas, axes = plt.subplots(figsize=(10, 0.27 * len(lines) + 1.4))
    for i, figure in enumerate(reversed(lines)):
        spans = [_goal(figure, each) for each in results]
        span = next((goal for goal in spans if goal), None)
        if span is not None:
            must, moonshot = span
            share = must / moonshot if figure.more else moonshot / must
            axes.barh(i, 1 - share, left=share, color=PALE, height=0.62, zorder=1)
    for each, (colour, marker, _) in zip(results, STYLES, strict=False):
        places, shares = [], []
        for i, figure in enumerate(reversed(lines)):
            share = _share(figure, each)
            if share is not None:
                places.append(i)
                shares.append(share)
        label = f"CPython {each['interpreter']['short']}"
        axes.scatter(shares, places, color=colour, marker=marker, s=26, label=label, zorder=3, alpha=0.9)
    axes.axvline(1, color=INK, linewidth=1, zorder=2)
    axes.set_yticks(range(len(lines)), [_label(figure) for figure in reversed(lines)], fontsize=9)
    axes.set_ylim(-0.7, len(lines) - 0.3)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("measured, as a share of the must (less is better); grey: from the must to the moonshot")
    axes.set_title("The figures")
    canvas.legend(loc="outside upper right", ncols=len(results), columnspacing=1, handletextpad=0.1)
    return canvas


def _label(figure: Any) -> str:
    return f"{figure.path.replace('`', '')} / {figure.against.replace('`', '').partition(' {')[0]}"


def _goal(figure: Any, result: Results) -> tuple[float, float] | None:
    python = result["interpreter"]
    major, minor = python["version"].split(".")[:2]
    goal: tuple[float, float] | None = figure.goal((int(major), int(minor)), python["free_threaded"])
    return goal


def _share(figure: Any, result: Results) -> float | None:
    """A figure as a share of its must; None without a target."""
    value = result["figures"].get(figure.group, {}).get(figure.name)
    goal = _goal(figure, result)
    if value is None or goal is None:
        return None
    return float(goal[0] / value if figure.more else value / goal[0])
