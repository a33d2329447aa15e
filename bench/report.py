"""Measures everything under one interpreter, and writes a report for several: tables in Markdown, and plots.

    python -m bench.report measure --out results-3.11.json      under each interpreter; some ten minutes
    python -m bench.report write results-*.json                 docs/performance.md, docs/plots, bench/targets.md

`measure` runs the table of figures several times and keeps the median. Each run is a separate process, because the
hashes of str and the seed of our table differ between processes. `write` shows the suites of its first file; of the
other files it shows the table of figures.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from bench import peers, suite
from bench.figures import FIGURES, Figure, Values, shown
from bench.suite import Topic

ROOT = Path(__file__).resolve().parent.parent
Results = dict[str, Any]


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(seconds: float, repeat: int, suites: bool, build: str, wanted: str = "") -> Results:
    """All results that the report needs from one interpreter; or only the topics whose titles begin with `wanted`."""
    runs = []
    for number in range(0 if wanted else repeat):
        print(f"figures, run {number + 1} of {repeat}", file=sys.stderr)
        command = [sys.executable, "-m", "bench.figures", "--json", "--seconds", str(seconds)]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        runs.append(json.loads(done.stdout))
    topics = []
    for topic in suite.all_topics() if suites else []:
        if not topic.title.startswith(wanted):
            continue
        print(topic.title, file=sys.stderr)
        for group in topic.groups:
            if not group.unfit():
                group.measure()
                gc.collect()
        topics.append(as_json(topic))
    for peer in peers.MODULES:
        peers.have(peer)
    return {
        "interpreter": interpreter(build),
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "versions": dict(sorted({**peers.VERSIONS, peers.OURS: peers.module(peers.OURS).__version__}.items())),
        "absent": peers.ABSENT,
        "figures": medians(runs) if runs else {},
        "runs": runs,
        "topics": topics,
    }


def medians(runs: list[dict[str, Values]]) -> dict[str, Values]:
    return {
        group: {name: statistics.median(run[group][name] for run in runs) for name in values}
        for group, values in runs[0].items()
    }


def interpreter(build: str = "") -> dict[str, Any]:
    """A description of this interpreter. `build` names the build, because some distributors' optimised builds do not
    say that they are."""
    optimised = "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS"))
    return {
        "short": "{}.{}".format(*sys.version_info) + ("t" if peers.FREE_THREADED else ""),
        "version": platform.python_version(),
        "compiler": platform.python_compiler(),
        "build": build or ("optimised" if optimised else "plain"),
        "free_threaded": peers.FREE_THREADED,
    }


def machine() -> dict[str, Any]:
    return {"processor": processor(), "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or "unknown"


def as_json(topic: Topic) -> dict[str, Any]:
    return {
        "title": topic.title,
        "baseline": topic.baseline,
        "unit": topic.unit,
        "more": topic.more,
        "note": topic.note,
        "table": suite.table(topic),
        "values": {group.name: {name: topic.value(group, name) for name in topic.shown()} for group in topic.groups},
    }


# --- the table of figures ---------------------------------------------------------------------------------------------

MARKS = {"moonshot": "★", "must": "✓", "missed": "✗", "–": ""}
MARKED = " " + "".join(MARKS.values())


def figures_table(results: list[Results], with_targets: bool = True) -> list[list[str]]:
    """One line for each figure, one column for each interpreter, with targets and marks or without."""
    goals = ["must / moonshot", "on 3.14, 3.15"] if with_targets else []
    rows = [["path", "against", *goals, *(each["interpreter"]["short"] for each in results)]]
    for figure in FIGURES:
        cells = [judged(figure, each).rstrip("" if with_targets else MARKED) for each in results]
        if any(cells):
            against = figure.against.format(dict=dict_bytes(results)) if "{" in figure.against else figure.against
            goals = [pair(figure.targets), pair(figure.newer)] if with_targets else []
            rows.append([figure.path, against, *goals, *cells])
    return rows


def judged(figure: Figure, result: Results) -> str:
    """A measured value, with a mark if the interpreter has a target."""
    value = result["figures"].get(figure.group, {}).get(figure.name)
    if value is None:
        return ""
    return f"{shown(value)} {MARKS[verdict(figure, result)]}".strip()


def goal(figure: Figure, result: Results) -> tuple[float, float] | None:
    """The targets for the result's interpreter."""
    python = result["interpreter"]
    major, minor = python["version"].split(".")[:2]
    return figure.goal((int(major), int(minor)), python["free_threaded"])


def verdict(figure: Figure, result: Results) -> str:
    return figure.verdict(result["figures"][figure.group][figure.name], goal(figure, result))


def dict_bytes(results: list[Results]) -> float:
    found = [each["figures"]["memory"]["dict"] for each in results if "dict" in each["figures"].get("memory", {})]
    return statistics.median(found) if found else float("nan")


def pair(targets: tuple[float, float] | None) -> str:
    return "–" if targets is None else f"{targets[0]:g} / {targets[1]:g}"


def missed(results: list[Results]) -> list[str]:
    """A line for each `must` that was not reached."""
    lines = []
    for figure in FIGURES:
        for each in results:
            if figure.name not in each["figures"].get(figure.group, {}) or verdict(figure, each) != "missed":
                continue
            value, must = each["figures"][figure.group][figure.name], (goal(figure, each) or (0.0, 0.0))[0]
            by = f"{100 * abs(value / must - 1):.0f} % too {'little' if figure.more else 'much'}"
            where = f"CPython {each['interpreter']['short']}"
            lines.append(f"- {figure.path}, against {figure.against}, {where}: {shown(value)}, {by}")
    return lines


# --- pages ------------------------------------------------------------------------------------------------------------


def markdown(rows: list[list[str]], names: int = 1) -> list[str]:
    """A table; the first columns contain names, the others numbers."""
    header, *body = rows
    rule = ["---" if i < names else "--:" for i in range(len(header))]
    return [f"| {' | '.join(row)} |" for row in [header, rule, *body]]


GENERATED = "<!-- written by `python -m bench.report write`; do not edit -->"
METHOD = """\
Ratios compare whole loops, with the cost of the `for` in both: how many times as long `for key in keys: cache.get(key)`
takes as the same loop with the other candidate. Every loop is a code object of its own. Keys come in random order. The
candidates take turns within one run, with the garbage collector off, and the best of many rounds counts. Memory is what
the resident memory of a fresh process grows by. `gc.collect()` and imports are measured in fresh processes, too.
`pytest bench`, in a clone of the repository, measures all of it on your machine.
"""


def performance_page(results: list[Results], drawn: list[str]) -> str:
    """The page for users: ratios on every interpreter, and comparisons with the peers on the first one."""
    first = results[0]
    lines = [
        "# Performance",
        "",
        GENERATED,
        "",
        *METHOD.splitlines(),
        "",
        *about(results),
        "",
        "## On several interpreters",
        "",
        "Times are multiples of the other candidate's. Less is better, except for the throughput of threads. Each",
        f"figure is the median of several runs: {len(first['runs'])}.",
        "",
        *markdown(figures_table(results, with_targets=False), names=2),
        "",
        "## Compared with the peers",
        "",
        f"On CPython {first['interpreter']['short']}. The first line of each table is the measure of the others.",
        "",
    ]
    titles = {
        "hits": "Hits, compared with the peers", "growth": "Growth", "threads": "Threads", "memory": "Memory",
        "folders": "Values in a folder, compared with the peers",
    }
    for name in drawn:
        if name in titles:
            lines += [f"![{titles[name]}](plots/{name}.svg)", ""]
    lines += topics(first)
    return "\n".join(lines).rstrip() + "\n"


def targets_page(results: list[Results]) -> str:
    """The page for contributors: whether the figures reach their targets."""
    lines = [
        "# Targets",
        "",
        GENERATED,
        "",
        "Targets are the figures that the hot paths have to reach. [The site](../docs/performance.md) has the figures",
        "without targets, and says how they were measured.",
        "",
        "Less is better, except for the throughput of threads. ★ reaches the moonshot, ✓ the must, ✗ misses the must.",
        "A figure without a mark has no target for that interpreter. Each figure is the median of several runs:",
        f"{len(results[0]['runs'])}.",
        "",
        "![The figures, against their targets](../docs/plots/figures.svg)",
        "",
        *markdown(figures_table(results), names=3),
        "",
    ]
    if lacking := missed(results):
        lines += ["These figures miss their must:", "", *lacking, ""]
    return "\n".join(lines).rstrip() + "\n"


def about(results: list[Results]) -> list[str]:
    """Machine, interpreters and versions."""
    rows = [["interpreter", "build", "measured", "processor", "cores", "system"]]
    for each in results:
        python, host = each["interpreter"], each["machine"]
        rows.append(
            [
                f"CPython {python['version']}{' without the GIL' if python['free_threaded'] else ''}",
                f"{python['build']}, {python['compiler']}",
                each["date"],
                host["processor"],
                str(host["cores"]),
                host["system"],
            ]
        )
    lines = [*markdown(rows, names=6), ""]
    versions: dict[str, list[str]] = {}
    for each in results:
        text = ", ".join(f"{name} {version}" for name, version in each["versions"].items())
        versions.setdefault(text, []).append(each["interpreter"]["short"])
    for text, on in versions.items():
        lines.append(f"On {', '.join(on)}: {text}.")
    for each in results:
        for peer, why in each["absent"].items():
            lines.append(f"Left out on {each['interpreter']['short']}: {peer} ({why}).")
    return lines


def topics(result: Results) -> list[str]:
    lines = []
    for topic in result["topics"]:
        lines += [f"### {topic['title'][0].upper()}{topic['title'][1:]}", ""]
        lines += [*markdown(topic["table"]), ""]
        if topic["note"]:
            lines += [f"{topic['note'][0].upper()}{topic['note'][1:]}.", ""]
    return lines


def write(files: list[Path], folder: Path) -> None:
    from bench import plots  # not installed everywhere

    results = [json.loads(path.read_text()) for path in files]
    folder.mkdir(parents=True, exist_ok=True)
    drawn = plots.draw(results, folder / "plots")
    (folder / "performance.md").write_text(performance_page(results, drawn), encoding="utf-8")
    (ROOT / "bench" / "targets.md").write_text(targets_page(results), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, dest="command")
    measuring = commands.add_parser("measure", help="measure under this interpreter")
    measuring.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    measuring.add_argument("--repeat", type=int, default=3, help="runs of the table of figures (default: 3)")
    measuring.add_argument("--seconds", type=float, default=1.0, help="for each group of figures (default: 1)")
    measuring.add_argument("--build", default="", help="how the interpreter was built, if it does not say so itself")
    measuring.add_argument("--figures-only", action="store_true", help="leave the suites out")
    measuring.add_argument("--topics", default="", metavar="TITLE", help="only the topics that begin so, no figures")
    drawing = commands.add_parser("folders", help="draw the plot of two tiers without a server alone")
    drawing.add_argument("results", type=Path, help='what `measure --topics "without a server"` wrote')
    drawing.add_argument("--folder", type=Path, default=ROOT / "docs" / "plots", help="where to (default: docs/plots)")
    writing = commands.add_parser("write", help="write the report")
    writing.add_argument("results", type=Path, nargs="+", help="what `measure` wrote; the main one first")
    writing.add_argument("--folder", type=Path, default=ROOT / "docs", help="where to (default: docs)")
    options = parser.parse_args()
    if options.command == "measure":
        results = measure(options.seconds, options.repeat, not options.figures_only, options.build, options.topics)
        options.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    elif options.command == "folders":
        from bench import plots

        plots.draw_folders(json.loads(options.results.read_text()), options.folder)
    else:
        write(options.results, options.folder)


if __name__ == "__main__":
    main()
