"""The table of metrics, and their readings, independent of the exporter."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cachebox._platform.registry import caches
from cachebox.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any


class Metric(NamedTuple):
    """One metric; each of its samples belongs to a cache."""

    name: str
    """Without the prefix, the unit and the suffix that exporters add."""
    counts: bool
    """Whether it is a counter, which only grows; else it is a gauge."""
    unit: str
    help: str
    label: str = ""
    """The label that distinguishes the samples of one cache; empty: there is one sample."""


class Reading(NamedTuple):
    """The current value of a metric for one cache."""

    metric: Metric
    cache: str
    """The name of the cache."""
    label: str
    value: float


HITS = Metric("hits", True, "", "Lookups that found a value.", "tier")
MISSES = Metric("misses", True, "", "Lookups that found no value.")
STALE_SERVES = Metric("stale_serves", True, "", "Lookups that were served an old value.")
NEGATIVE_HITS = Metric("negative_hits", True, "", "Lookups that were answered by a failure that is remembered.")
SETS = Metric("sets", True, "", "Values stored.")
LOADS = Metric("loads", True, "", "Calls of the loader.", "result")
LOAD_SECONDS = Metric("load", True, "seconds", "Time that the calls of the loader took.")
REFRESHES = Metric("refreshes", True, "", "Values refreshed in the background.", "result")
EVICTIONS = Metric("evictions", True, "", "Entries that left the cache in the process.", "cause")
INVALIDATIONS = Metric("invalidations", True, "", "Entries dropped because another process changed them.")
ERRORS = Metric("errors", True, "", "Calls that no server served.")
ENTRIES = Metric("entries", False, "", "Entries in the process.")
WEIGHT = Metric("weight", False, "", "What the entries in the process weigh.")
BREAKER = Metric("breaker_state", False, "", "The breaker: 0 closed, 1 half-open, 2 open.")

METRICS = (
    HITS, MISSES, STALE_SERVES, NEGATIVE_HITS, SETS, LOADS, LOAD_SECONDS, REFRESHES, EVICTIONS, INVALIDATIONS, ERRORS,
    ENTRIES, WEIGHT, BREAKER,
)
_STATES = {"closed": 0, "half-open": 1, "open": 2}
_COUNTERS: tuple[tuple[Metric, str, str], ...] = (      # of `CacheStats`: metric, label, name of the counter
    (HITS, "local", "hits"),
    (MISSES, "", "misses"),
    (STALE_SERVES, "", "stale_serves"),
    (NEGATIVE_HITS, "", "negative_hits"),
    (SETS, "", "sets"),
    (LOADS, "success", "load_success"),
    (LOADS, "failure", "load_failure"),
    (LOAD_SECONDS, "", "load_time"),
    (REFRESHES, "success", "refreshes"),
    (REFRESHES, "failure", "refresh_failures"),
    (EVICTIONS, "size", "evictions"),
    (EVICTIONS, "expired", "expired"),
    (EVICTIONS, "explicit", "deletes"),
)
_TWO_TIERS: tuple[tuple[Metric, str, str], ...] = (     # the same of `DistributedStats`
    (HITS, "local", "local_hits"),
    (HITS, "remote", "remote_hits"),
    (MISSES, "", "misses"),
    (STALE_SERVES, "", "stale_serves"),
    (REFRESHES, "success", "refreshes"),
    (REFRESHES, "failure", "refresh_failures"),
    (EVICTIONS, "size", "evictions"),
    (INVALIDATIONS, "", "invalidations"),
    (ERRORS, "", "errors"),
)


def readings() -> Iterator[Reading]:
    """The readings of every metric, for all named caches and cached functions. O(1) for each."""
    for name, thing in caches().items():
        if isinstance(thing, Cache):
            yield from _of_cache(name, thing)
        elif hasattr(type(thing), "cache_info"):
            yield from _of_function(name, thing)
        elif hasattr(type(thing), "stats"):
            yield from _of_two_tiers(name, thing)


def _of_cache(name: str, cache: Cache[Any, Any]) -> Iterator[Reading]:
    yield from _counted(name, cache.stats.get_all(), _COUNTERS)
    yield Reading(ENTRIES, name, "", cache._held)
    yield Reading(WEIGHT, name, "", cache._held_weight)


def _of_function(name: str, function: Any) -> Iterator[Reading]:
    """All readings of the cache, if only this function uses it; else the function's own hits and misses."""
    cache = function.cache
    hits, misses = function.cache_info()[:2]
    if isinstance(cache, Cache) and cache.name is None and cache.stats.hits == hits and cache.stats.misses == misses:
        yield from _of_cache(name, cache)
    else:
        yield Reading(HITS, name, "local" if isinstance(cache, Cache) else "any", hits)
        yield Reading(MISSES, name, "", misses)


def _of_two_tiers(name: str, cache: Any) -> Iterator[Reading]:
    counts = cache.stats.get_all()
    yield from _counted(name, counts, _TWO_TIERS)
    first = cache._core.tier.first
    yield Reading(ENTRIES, name, "", first._held)
    yield Reading(BREAKER, name, "", _STATES[counts["breaker"]])


def _counted(name: str, counts: Mapping[str, Any], table: tuple[tuple[Metric, str, str], ...]) -> Iterator[Reading]:
    for metric, label, counter in table:
        if counter in counts:
            yield Reading(metric, name, label, counts[counter])
