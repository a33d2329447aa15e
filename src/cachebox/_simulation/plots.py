"""The picture of a simulation, drawn by matplotlib."""

from __future__ import annotations

TYPE_CHECKING = False               # as everywhere in the package
if TYPE_CHECKING:
    from os import PathLike
    from typing import Any

    from cachebox._simulation.simulation import Simulation

# Colours that the colour-blind can distinguish (Okabe and Ito, 2008), in an order in which neighbours differ in grey.
LOOKS = {
    "AUTO": ("#D55E00", "-", "o", 2.4),
    "LRU": ("#0072B2", "-", "s", 1.6),
    "LFU": ("#009E73", "--", "^", 1.6),
    "FIFO": ("#CC79A7", "-.", "D", 1.6),
    "OPT": ("#777777", ":", None, 1.6),
}
OTHERS = [("#E69F00", "--", "v", 1.6), ("#56B4E9", "-.", "P", 1.6), ("#000000", "--", "X", 1.6)]


def plot(simulation: Simulation, path: str | PathLike[str] | None = None) -> Any:
    """The figure; also written to `path`, if given."""
    try:
        from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]
        from matplotlib.ticker import (  # type: ignore[import-not-found, unused-ignore]
            FuncFormatter,
            NullFormatter,
            NullLocator,
        )
    except ImportError as error:
        raise ImportError('a plot needs matplotlib: pip install "cachebox-cython[plot]"', name="matplotlib") from error
    figure = Figure(figsize=(7.2, 4.4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    ends = []
    for k, policy in enumerate([*simulation.policies, "OPT"]):
        colour, line, marker, width = LOOKS.get(policy, OTHERS[k % len(OTHERS)])
        heights = [100 * simulation.hit_ratios[policy, size] for size in simulation.sizes]
        axes.plot(simulation.sizes, heights, line, color=colour, marker=marker, markersize=4.5, linewidth=width)
        ends.append((heights[-1], policy, colour))
    axes.set_xscale("log")
    shown = simulation.sizes if len(simulation.sizes) <= 8 else simulation.sizes[:: -(-len(simulation.sizes) // 8)]
    axes.set_xticks(shown)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(bottom=0)
    axes.set_xlabel("size of the cache")
    axes.set_ylabel("hit ratio, %")
    axes.set_title(f"{simulation.requests:,} requests for {simulation.distinct:,} keys", fontsize=10, loc="left")
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    link(axes, ends)
    if path is not None:
        figure.savefig(path)
    return figure


def link(axes: Any, ends: list[tuple[float, str, str]]) -> None:
    """Write each curve's name at its right end, moved apart if the ends are close."""
    low, high = axes.get_ylim()
    apart = (high - low) * 0.055
    at = low - apart
    places = []
    for height, name, colour in sorted(ends):
        at = max(height, at + apart)
        places.append([at, name, colour])
    over = places[-1][0] - high
    if over > 0:                                # push down the names that were pushed over the top
        limit = high
        for place in reversed(places):
            place[0] = min(place[0], limit)
            limit = place[0] - apart
    for at, name, colour in places:
        axes.annotate(
            name, (1.015, at), xycoords=("axes fraction", "data"), color=colour, va="center",
            fontweight="bold" if name == "AUTO" else "normal", annotation_clip=False,
        )
