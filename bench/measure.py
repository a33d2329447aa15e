"""Times candidates side by side. All timing of this folder happens here.

The method, and why it can be trusted:

- *Loops.* A candidate's statement is compiled into a loop with its own code object, so that no two candidates share the
  interpreter's inline caches. Names are local variables. The quoted time is that of the whole loop. It includes the
  `for`, which is the same in every candidate, so ratios are nearer to 1 than those of the bare calls.
- *Order.* Keys come in random order, from many shuffled batches. Candidates start at different batches, so that none of
  them finds the key objects in the processor's caches because another one has just read them.
- *Rounds.* The candidates of a group take turns within one run, each round in another order, with the garbage collector
  off. The best round is quoted, because other load on the machine can only make a round slower.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

clock = time.perf_counter
MOST = 1_000_000                    # keys that are looked up in turn: far more than fit into a processor's caches


# --- loops ------------------------------------------------------------------------------------------------------------


def compile_loop(statement: str, **names: Any) -> Callable[[Sequence[Any]], float]:
    """A function that runs a statement for every `key` of a batch and returns the seconds it took.

    The statement is one line or several; `names` are the variables that it uses, in addition to `key`.
    """
    return _compile("def loop", statement, names)


def compile_async_loop(statement: str, **names: Any) -> Callable[[Sequence[Any]], Coroutine[Any, Any, float]]:
    """`compile_loop` as a coroutine function, for statements with `await`."""
    return _compile("async def loop", statement, names)


def _compile(head: str, statement: str, names: dict[str, Any]) -> Callable[[Sequence[Any]], Any]:
    lines = [
        f"def make({', '.join(['_clock', *names])}):",
        f"    {head}(_batch, {', '.join(f'{name}={name}' for name in ['_clock', *names])}):",
        "        _start = _clock()",
        "        for key in _batch:",
        *(f"            {line}" for line in statement.splitlines()),
        "        return _clock() - _start",
        "    return loop",
    ]
    scope: dict[str, Any] = {}
    exec(compile("\n".join(lines), f"<benchmark: {statement}>", "exec"), scope)
    made: Callable[[Sequence[Any]], Any] = scope["make"](clock, **names)
    return made


# --- keys -------------------------------------------------------------------------------------------------------------


def shuffled(keys: Sequence[Any], batch: int = 10_000, seed: int = 1) -> list[list[Any]]:
    """Batches with the keys in random order, at least 200,000 keys in all; of more than a million keys only a
    million."""
    source = random.Random(seed)
    stream: list[Any] = []
    while len(stream) < max(min(len(keys), MOST), 20 * batch):
        stream += source.sample(keys, min(len(keys), MOST))
    return [stream[start : start + batch] for start in range(0, len(stream) - batch + 1, batch)]


def in_turn(keys: Sequence[Any], batch: int = 10_000) -> list[list[Any]]:
    """Batches that go through the keys in order. If there are twice as many keys as a cache holds, each key is a new
    one."""
    return [list(keys[start : start + batch]) for start in range(0, len(keys) - batch + 1, batch)]


# --- candidates -------------------------------------------------------------------------------------------------------


@dataclass
class Candidate:
    """Something to time: `sample()` runs it once and returns the seconds per operation."""

    name: str
    sample: Callable[[], float]


def candidate(
    name: str,
    batches: Sequence[Sequence[Any]],
    statement: str,
    *,
    prepare: Callable[[Sequence[Any]], object] | None = None,
    operations: int = 1,
    **names: Any,
) -> Candidate:
    """A candidate that runs a statement over one batch of keys after the other.

    `prepare(batch)` runs before each sample and is not timed. `operations` is the number of operations in the
    statement.
    """
    loop = compile_loop(statement, **names)
    turn = _turns(batches, name)

    def sample() -> float:
        batch = next(turn)
        if prepare is not None:
            prepare(batch)
        return loop(batch) / (len(batch) * operations)

    return Candidate(name, sample)


def async_candidate(
    name: str, batches: Sequence[Sequence[Any]], statement: str, *, run: Callable[[Any], float], **names: Any
) -> Candidate:
    """`candidate` for a statement with `await`; `run` is an event loop's `run_until_complete`."""
    loop = compile_async_loop(statement, **names)
    turn = _turns(batches, name)

    def sample() -> float:
        batch = next(turn)
        return run(loop(batch)) / len(batch)

    return Candidate(name, sample)


def run_until_complete() -> Callable[[Any], Any]:
    """The `run_until_complete` of a new event loop, which is closed when it is no longer needed."""
    import asyncio  # rarely needed, and slow to import

    loop = asyncio.new_event_loop()

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return loop.run_until_complete(work)

    weakref.finalize(run, loop.close)
    return run


def _turns(batches: Sequence[Sequence[Any]], name: str) -> Iterator[Sequence[Any]]:
    """The batches over and over, starting at one that depends on the name."""
    first = random.Random(name).randrange(len(batches))
    return itertools.cycle([*batches[first:], *batches[:first]])


# --- rounds -----------------------------------------------------------------------------------------------------------


@dataclass
class Timing:
    """The samples of one candidate, in seconds per operation."""

    name: str
    samples: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        return min(self.samples)

    @property
    def median(self) -> float:
        return sorted(self.samples)[len(self.samples) // 2]


def interleave(
    candidates: Sequence[Candidate], *, seconds: float = 1.0, least: int = 5, most: int = 2_000, warm_up: bool = True
) -> dict[str, Timing]:
    """Time candidates in turn, for about `seconds` altogether, but at least `least` and at most `most` rounds.

    Returns the timings by name, in the given order. To warm up, every candidate runs once before the first round.
    """
    timings = {each.name: Timing(each.name) for each in candidates}
    if len(timings) < len(candidates):
        raise ValueError("two candidates have the same name")
    with collector_off():
        for each in candidates if warm_up else ():
            each.sample()
        end = clock() + seconds
        order = list(candidates)
        source = random.Random(len(order))
        for done in range(most):
            if done >= least and clock() >= end:
                break
            source.shuffle(order)
            for each in order:
                timings[each.name].samples.append(each.sample())
    return timings


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """Collect once, then switch the collector off."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def ratio(timings: dict[str, Timing], name: str, baseline: str) -> float:
    """A candidate's time as a multiple of the baseline's, by their best rounds."""
    return timings[name].best / timings[baseline].best
