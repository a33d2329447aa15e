"""A simulation's result in one sentence, and how sure it is.

The requests are cut into blocks. The saving differs from block to block. Leaving out each block in turn gives a
standard error (the jackknife: J. W. Tukey, 1958); twice that error gives the range. Neighbouring blocks are alike, so
the error is a rough one.
"""

from __future__ import annotations

import math

FEW = 20 * 50                       # requests: blocks of less than 50 say nothing


def advice_on(
    policies: list[str], sizes: list[int], hits: dict[tuple[str, int], list[int]], requests: int
) -> str:
    base = "LRU" if "LRU" in policies else policies[0]
    at = (len(sizes) - 1) // 2
    size = sizes[at]
    blocks = len(hits[base, size])
    asked = [requests * (k + 1) // blocks - requests * k // blocks for k in range(blocks)]

    def loads(policy: str, size: int) -> list[int]:
        return [count - hit for count, hit in zip(asked, hits[policy, size], strict=True)]

    before = loads(base, size)
    if sum(before) == 0:
        return f"At size {size:,} {base} has no loads to save."
    parts = []
    others = [policy for policy in policies if policy != base]
    if others:
        best = min(others, key=lambda policy: sum(loads(policy, size)))
        parts.append(f"{best} at size {size:,} {saving(before, loads(best, size), requests)} of {base}'s loads")
    if at + 1 < len(sizes):
        factor = sizes[at + 1] / size
        times = "twice the size" if factor == 2 else f"{factor:.3g} times the size"
        more = saving(before, loads(base, sizes[at + 1]), requests)
        parts.append(f"{base} at {times} {more}" + ("" if parts else " of its loads"))
    if not parts:
        return f"Nothing to compare: only {base} at size {size:,} was simulated."
    text = "; ".join(parts)
    if requests < FEW:
        return f"{text}, but {requests:,} requests are too few to be sure of anything."
    return f"{text} (ranges: how much it varied over the requests)."


def saving(before: list[int], after: list[int], requests: int) -> str:
    """Words such as "saves 11 % (9 to 13 %)"."""
    share = 1 - sum(after) / sum(before)
    verb = "saves" if share >= 0 else "adds"
    if requests < FEW:
        return f"{verb} {abs(share):.0%}".replace("%", " %")
    low, high = spread(before, after)
    if low <= 0 <= high:
        return f"saves nothing for certain ({low:+.1%} to {high:+.1%})".replace("%", " %")
    low, high = sorted((abs(low), abs(high)))
    return f"{verb} {abs(share):.1%} ({low:.1%} to {high:.1%})".replace("%", " %")


def spread(before: list[int], after: list[int]) -> tuple[float, float]:
    """The range that contains the saved share with about 95 % certainty."""
    all_before, all_after = sum(before), sum(after)
    share = 1 - all_after / all_before
    without = [
        1 - (all_after - y) / (all_before - x) for x, y in zip(before, after, strict=True) if all_before > x
    ]
    n = len(without)
    if n < 2:
        return -1.0, 1.0
    mean = sum(without) / n
    error = math.sqrt((n - 1) / n * sum((each - mean) ** 2 for each in without))
    return share - 2 * error, share + 2 * error
