"""`simulate`: the hit ratios of other policies and sizes on given requests."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable, Iterable, Mapping

from cachebox._platform.awaitables import plain_call, refuse_async
from cachebox._simulation.replay import Optimum, Replay
from cachebox.cache import Cache
from cachebox.policies import BUILT_IN, EvictionPolicy

TYPE_CHECKING = False               # as everywhere in the package
if TYPE_CHECKING:
    from os import PathLike
    from typing import Any

OPT = "OPT"
SIZES = 7                           # in the default row: the keys halved again and again
BLOCKS = 20                         # of the requests; how results differ between blocks shows how sure they are
MOST_REQUESTS = 2**32 - 1


def simulate(
    keys: Iterable[Any],
    policies: Iterable[str | type[EvictionPolicy[Any]]] | str | None = None,
    sizes: Iterable[int | str] | int | str | None = None,
    *,
    weights: Callable[[Any], float] | Mapping[Any, float] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Simulation:
    """The hit ratios that caches would have on these requests, by policy and size.

    Args:
        keys: the requested keys, in order: any iterable of hashable keys. A miss is followed by a `set`.
        policies: names of built-in policies, or classes of your own; None: all built-in ones.
        sizes: counts of entries, or texts such as "10%" of the distinct keys; None: a row of halves. With `weights`
            they are weights, and per cents refer to the weight of all keys.
        weights: the weight of an entry: a callable of the key, or a mapping. An entry heavier than the size is never
            held.
        progress: called with the number of requests done and their total, over all policies and sizes.

    Built-in policies run on the same engines as in `Cache`. They are compared with Belady's optimum, "OPT", which knows
    the future. Raises ValueError if there is no request, a size is not positive, or a policy is unknown. O(n) for n
    requests, policy and size; O(n log n) for the optimum. Safe from any thread.

    >>> found = simulate([1, 2, 3] * 100, policies=["LRU", "AUTO"], sizes=[2])
    >>> found.hit_ratios["LRU", 2], round(found.hit_ratios["OPT", 2], 2)
    (0.0, 0.66)
    """
    chosen = checked_policies(policies)
    weigh = checked_weights(weights)
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be callable, not {type(progress).__name__}")
    refuse_async("progress", progress)
    numbers: dict[Any, int] = {}
    requests = array("I", (numbers.setdefault(key, len(numbers)) for key in keys))
    if not requests:
        raise ValueError("keys must hold at least one request, there is none")
    if len(requests) > MOST_REQUESTS:
        raise ValueError(f"keys must hold less than 2**32 requests, not {len(requests):,}")
    heavy = None if weigh is None else array("d", (checked_weight(weigh(key), key) for key in numbers))
    rows = checked_sizes(sizes, len(numbers) if heavy is None else sum(heavy))
    task = Task(requests, numbers, heavy, progress, (len(chosen) + 1) * len(rows) * len(requests))
    hits = {(name, size): task.run(policy, size) for size in rows for name, policy in [*chosen.items(), (OPT, None)]}
    return Simulation(len(requests), len(numbers), list(chosen), rows, hits)


class Task:
    """The requests, as numbers of keys, and the progress."""

    def __init__(self, requests: Any, numbers: dict[Any, int], weights: Any, progress: Any, total: int) -> None:
        self.requests = memoryview(requests)
        self.keys = list(numbers)
        self.hashes = array("q", map(hash, numbers))
        self.weights = weights
        self.progress = progress
        self.done, self.total = 0, total
        ends = [len(requests) * (k + 1) // BLOCKS for k in range(BLOCKS)]
        self.blocks = list(zip([0, *ends], ends, strict=False))

    def run(self, policy: Any, size: float) -> list[int]:
        """The hits in each block."""
        if policy is None:
            optimum = Optimum(self.requests, len(self.keys), size, self.weights)
            return self.count(optimum, lambda begin, end: optimum.run(end - begin))
        if policy in BUILT_IN.values():
            replay = Replay(policy(None if self.weights else int(size)), self.hashes, size, self.weights)
            return self.count(replay, lambda begin, end: replay.run(self.requests[begin:end]))
        slow = OnCache(policy, size, self.keys, self.weights)
        return self.count(slow, lambda begin, end: slow.run(self.requests[begin:end]))

    def count(self, counter: Any, run: Callable[[int, int], None]) -> list[int]:
        hits = []
        for begin, end in self.blocks:
            before = counter.hits
            run(begin, end)
            hits.append(counter.hits - before)
            self.done += end - begin
            if self.progress is not None:
                plain_call("progress", self.progress, self.done, self.total)
        return hits


class OnCache:
    """A policy written in Python, replayed in a cache."""

    def __init__(self, policy: type[EvictionPolicy[Any]], size: float, keys: list[Any], weights: Any) -> None:
        self.keys, self.weights, self.size = keys, weights, size
        self.cache: Cache[Any, int]
        if weights is None:
            self.cache = Cache(int(size), policy=policy)
        else:
            self.cache = Cache(None, policy=policy, max_weight=size, weigher=lambda key, number: weights[number])

    @property
    def hits(self) -> int:
        return self.cache.stats.hits

    def run(self, numbers: memoryview) -> None:
        get, store = self.cache.get, self.cache.set
        for number in numbers:
            key = self.keys[number]
            if get(key) is None and (self.weights is None or self.weights[number] <= self.size):
                store(key, number)


# --- checked arguments ------------------------------------------------------------------------------------------------


def checked_policies(policies: Any) -> dict[str, Any]:
    """The policies by name."""
    if policies is None:
        return dict(BUILT_IN)
    if isinstance(policies, (str, type)):
        policies = [policies]
    chosen: dict[str, Any] = {}
    for policy in policies:
        if isinstance(policy, str) and policy.strip().upper() in BUILT_IN:
            chosen[policy.strip().upper()] = BUILT_IN[policy.strip().upper()]
        elif isinstance(policy, type) and issubclass(policy, EvictionPolicy):
            name = next((name for name, known in BUILT_IN.items() if known is policy), policy.__name__)
            chosen[name] = policy
        elif not (isinstance(policy, str) and policy.strip().upper() == OPT):   # OPT is always compared
            error = ValueError if isinstance(policy, str) else TypeError
            raise error(f"policies must be names ({', '.join(BUILT_IN)}) or EvictionPolicy classes, not {policy!r}")
    if not chosen:
        raise ValueError(f"policies must name at least one of {', '.join(BUILT_IN)}")
    return chosen


def checked_weights(weights: Any) -> Callable[[Any], Any] | None:
    refuse_async("weights", weights)
    if weights is None or callable(weights):
        weigh: Callable[[Any], Any] | None = weights
        return weigh
    if isinstance(weights, Mapping):
        return weights.__getitem__
    raise TypeError(f"weights must be a callable or a mapping, not {type(weights).__name__}")


def checked_weight(weight: Any, key: Any) -> float:
    if isinstance(weight, bool) or not hasattr(type(weight), "__float__"):
        raise TypeError(f"weights must give numbers, not {type(weight).__name__} for {key!r}")
    number = float(weight)
    if not 0.0 <= number < math.inf:
        raise ValueError(f"weights must be 0 or more and finite, not {number} for {key!r}")
    return number


def checked_sizes(sizes: Any, whole: float) -> list[Any]:
    """The sizes in growing order, each once. `whole`: the size of a cache that holds everything."""
    if sizes is None:
        return sorted({max(1, round(whole / 2**k)) for k in range(1, SIZES + 1)})
    if isinstance(sizes, (int, str, float)):
        sizes = [sizes]
    found = sorted({checked_size(size, whole) for size in sizes})
    if not found:
        raise ValueError("sizes must hold at least one size, there is none")
    return found


def checked_size(size: Any, whole: float) -> int:
    if isinstance(size, str):
        text = size.strip().replace("_", "")
        match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*%", text)
        if match:
            size = max(1, round(whole * float(match[1]) / 100)) if float(match[1]) > 0 else 0
        elif text.isdecimal():
            size = int(text)
        else:
            raise ValueError(f"a size must be a count, or a text as '10%' of the distinct keys, not {size!r}")
    if isinstance(size, bool) or not hasattr(type(size), "__index__"):
        raise TypeError(f"a size must be an int, or a text as '10%', not {type(size).__name__}")
    count = size.__index__()
    if count < 1:
        raise ValueError(f"a size must be at least 1, not {count}")
    return min(int(count), 2**62)


# --- the result -------------------------------------------------------------------------------------------------------


class Simulation:
    """The result of `simulate`.

    Attributes:
        hit_ratios: by policy and size, from 0 to 1; "OPT" is Belady's optimum.
        requests: the number of requests.
        distinct: the number of different keys.
        policies, sizes: the simulated ones, sizes in growing order.
    """

    def __init__(
        self,
        requests: int,
        distinct: int,
        policies: list[str],
        sizes: list[int],
        hits: dict[tuple[str, int], list[int]],
    ) -> None:
        self.requests, self.distinct = requests, distinct
        self.policies, self.sizes = policies, sizes
        self.hit_ratios = {cell: sum(counts) / requests for cell, counts in hits.items()}
        self._hits = hits

    def best(self, size: int | None = None) -> str:
        """The policy with the best hit ratio at a size, or on average if no size is given; never "OPT".

        Raises KeyError for a size that was not simulated.
        """
        if size is not None and size not in self.sizes:
            raise KeyError(f"size {size!r} was not simulated, but {', '.join(map(str, self.sizes))}")
        sizes = self.sizes if size is None else [size]
        return max(self.policies, key=lambda policy: sum(self.hit_ratios[policy, each] for each in sizes))

    def rows(self) -> list[tuple[str, ...]]:
        """A heading, and the hit ratios of each size in per cent; a star marks the best."""
        rows = [("size", *self.policies, OPT)]
        for size in self.sizes:
            best = max(self.hit_ratios[policy, size] for policy in self.policies)
            shown = [
                f"{100 * self.hit_ratios[policy, size]:.2f}{'*' if self.hit_ratios[policy, size] == best else ' '}"
                for policy in self.policies
            ]
            rows.append((f"{size:,}", *shown, f"{100 * self.hit_ratios[OPT, size]:.2f}"))
        return rows

    def table(self) -> str:
        """The hit ratios in per cent, as a text; a star marks the best of each size."""
        rows = self.rows()
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        head = f"{self.requests:,} requests for {self.distinct:,} keys; hit ratios in per cent"
        return "\n".join([head, *(line.rstrip() for line in lines)])

    def advice(self) -> str:
        """One sentence: what another policy or a larger size would save, and how sure that is."""
        from cachebox._simulation.advice import advice_on

        return advice_on(self.policies, self.sizes, self._hits, self.requests)

    def plot(self, path: str | PathLike[str] | None = None) -> Any:
        """Curves of hit ratios over sizes: a matplotlib figure, also written to `path`, if given.

        Raises ImportError without matplotlib: ``pip install "cachebox-cython[plot]"``.
        """
        from cachebox._simulation.plots import plot

        return plot(self, path)

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write a CSV file with the columns policy, size, hit_ratio."""
        import csv

        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("policy", "size", "hit_ratio"))
            writer.writerows((policy, size, repr(ratio)) for (policy, size), ratio in self.hit_ratios.items())

    def to_json(self, path: str | PathLike[str]) -> None:
        """Write the result as one JSON document."""
        import json

        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.document(), file, indent=2)
            file.write("\n")

    def document(self) -> dict[str, Any]:
        """The whole result, for JSON."""
        return {
            "requests": self.requests,
            "distinct": self.distinct,
            "hit_ratios": [
                {"policy": policy, "size": size, "hit_ratio": ratio}
                for (policy, size), ratio in self.hit_ratios.items()
            ],
            "advice": self.advice(),
        }

    def _repr_html_(self) -> str:
        from html import escape

        head, *rows = self.rows()
        cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
        body = "".join(
            "<tr>" + "".join(
                f"<td><b>{cell[:-1]}</b></td>" if cell.endswith("*") else f"<td>{cell}</td>" for cell in row
            ) + "</tr>"
            for row in rows
        )
        caption = f"{self.requests:,} requests for {self.distinct:,} keys; hit ratios in per cent"
        return (
            f"<table><caption>{caption}</caption><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"
            f"<p>{escape(self.advice())}</p>"
        )

    def __repr__(self) -> str:
        sizes = "size" if len(self.sizes) == 1 else "sizes"
        return f"<Simulation of {self.requests:,} requests: {', '.join(self.policies)} at {len(self.sizes)} {sizes}>"
