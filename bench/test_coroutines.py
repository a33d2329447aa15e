"""Coroutines on a cache itself: hits of `aget`, and a thousand misses that are loaded together."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bench import measure
from bench.measure import Candidate
from bench.suite import Group, Topic, cases, play
from bench.workloads import shuffled, text_keys
from cachebox import Cache, cached

MISSES = 1000


def hits() -> list[Candidate]:
    """Await values that are present."""
    run = measure.run_until_complete()
    keys = text_keys(1000)
    cache = Cache(2000)
    cache.update(dict.fromkeys(keys, True))

    @cached(max_size=2000)
    async def f(key: Any) -> bool:
        return True

    run(measure.compile_async_loop("await f(key)", f=f)(keys))
    return [
        measure.async_candidate("await cache.aget(x)", shuffled(keys), "await cache.aget(key)", run=run, cache=cache),
        measure.async_candidate("@cached, await f(x)", shuffled(keys), "await f(key)", run=run, f=f),
    ]


class Source:
    """Loads many keys in no time."""

    async def load(self, key: Any) -> Any:
        return key

    async def load_many(self, keys: list[Any]) -> dict[Any, Any]:
        await asyncio.sleep(0)
        return dict(zip(keys, keys, strict=True))


class ByHand:
    """What a user would write: a batch that is gathered in one pass of the loop, and stored in a cache."""

    def __init__(self, source: Source) -> None:
        self.cache: Cache[Any, Any] = Cache(None)
        self.source = source
        self.wanted: dict[Any, asyncio.Future[Any]] = {}
        self.task: asyncio.Task[None] | None = None

    async def aget(self, key: Any) -> Any:
        found = self.cache.get(key)
        if found is not None:
            return found
        if not self.wanted:
            self.task = asyncio.get_running_loop().create_task(self.load())
        if key not in self.wanted:
            self.wanted[key] = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self.wanted[key])   # a cancelled caller must not cancel the others

    async def load(self) -> None:
        wanted, self.wanted = self.wanted, {}
        values = await self.source.load_many(list(wanted))
        for key, future in wanted.items():
            self.cache.set(key, values[key])
            future.set_result(values[key])


def misses() -> list[Candidate]:
    """Gather a thousand missing keys, in a new cache each time."""
    run = measure.run_until_complete()
    keys = text_keys(MISSES)

    async def gather(make: Any) -> float:
        cache = make()
        began = time.perf_counter()
        await asyncio.gather(*[cache.aget(key) for key in keys])
        return (time.perf_counter() - began) / MISSES

    return [
        Candidate("cache.aget", lambda: run(gather(lambda: Cache(None, loader=Source())))),
        Candidate("by hand", lambda: run(gather(lambda: ByHand(Source())))),
    ]


HIT = Topic(
    "coroutine, hit",
    ["await cache.aget(x)", "@cached, await f(x)"],
    "@cached, await f(x)",
    [Group("await", hits)],
)
BATCH = Topic(
    "a thousand misses gathered, one load_many, for each key",
    ["cache.aget", "by hand"],
    "by hand",
    [Group("gather", misses)],
    unit="µs",
    note="by hand: a shielded future for each key, one task that loads, and a cache",
)

TOPICS = [HIT, BATCH]


@cases(*TOPICS)
def test_coroutines(benchmark, topic, group, name):
    play(benchmark, topic, group, name)
