"""The distributed tier, compared with redis-py itself and with peers, on a server of this machine.

Read the ratios, not the microseconds: most of those are the round trip to the server.
"""

from __future__ import annotations

from bench import tiers
from bench.suite import Group, Topic, cases, play

FIRST = Topic(
    "distributed: a hit in the first tier",
    ["Cache", tiers.OURS],
    "Cache",
    [Group("get", tiers.first_tier, unfit=tiers.why_not)],
)
SECOND = Topic(
    "distributed: values that are on the server",
    [tiers.OURS, tiers.REDIS, tiers.DOGPILE],
    tiers.REDIS,
    [
        Group("get", tiers.gets, seconds=3, unfit=tiers.why_not),
        Group("get_many(1000)", tiers.many_gets, seconds=3, unfit=tiers.why_not),
    ],
    unit="µs",
)
ASYNCIO = Topic(
    "distributed, asyncio: values that are on the server",
    [tiers.OURS, tiers.REDIS, tiers.CASHEWS, tiers.AIOCACHE],
    tiers.REDIS,
    [
        Group("get", tiers.async_gets, seconds=3, unfit=tiers.why_not),
        Group("get_many(1000)", tiers.async_many_gets, seconds=3, unfit=tiers.why_not),
    ],
    unit="µs",
)

TOPICS = [FIRST, SECOND, ASYNCIO]


@cases(*TOPICS)
def test_distributed(benchmark, topic, group, name):
    play(benchmark, topic, group, name)
