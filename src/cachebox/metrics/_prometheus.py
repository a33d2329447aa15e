"""The exporter for Prometheus.

In a single process, a scrape reads the caches. If several processes share a folder of values
(``PROMETHEUS_MULTIPROC_DIR``), the scraped process knows the others only by their files. So each process writes its
caches' readings into its files, once a second. The sweeper thread does that, because it also handles forks.
"""

from __future__ import annotations

import atexit
import os
import time
import weakref
from typing import TYPE_CHECKING

from cachebox.metrics._readings import METRICS, Metric, readings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

WRITTEN_EVERY = 1.0
"""Seconds between two writings of a process's values, if several processes are scraped together."""

_known: weakref.WeakSet[Any] = weakref.WeakSet()        # the registries that have a collector
_writer: _Writer | None = None


def prometheus(registry: Any = None) -> None:
    """Export all named caches and cached functions to Prometheus, also those created later.

    Args:
        registry: a `CollectorRegistry` of prometheus-client; None: its default one.

    Raises ImportError without the extra ``prometheus``, and TypeError for what is no registry. Calling it again changes
    nothing. A scrape costs some microseconds per cache, and a hit nothing. With ``PROMETHEUS_MULTIPROC_DIR`` set, the
    values are written into the process's files instead, once a second and at its end: call it in each process, or
    before they are forked.
    """
    try:
        import prometheus_client
    except ImportError as error:
        raise ImportError('prometheus needs prometheus-client: pip install "cachebox-cython[prometheus]"') from error
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        _write_from_now_on()
        return
    if registry is None:
        registry = prometheus_client.REGISTRY
    elif not callable(getattr(registry, "register", None)):
        raise TypeError(
            f"registry must be a CollectorRegistry of prometheus-client or None, not {type(registry).__name__}"
        )
    if registry not in _known:
        registry.register(_Collector())
        _known.add(registry)


def name_of(metric: Metric) -> str:
    """The Prometheus name of a metric, without the counter suffix, which the client adds."""
    return f"cachebox_{metric.name}{'_' if metric.unit else ''}{metric.unit}"


def labels_of(metric: Metric) -> list[str]:
    """The names of a metric's labels."""
    return ["cache", metric.label] if metric.label else ["cache"]


class _Collector:
    """Reads all caches at each scrape."""

    def describe(self) -> Iterator[Any]:
        """All metrics, without samples."""
        return iter(self._families().values())

    def collect(self) -> Iterator[Any]:
        """All metrics, with their current values."""
        families = self._families()
        for metric, cache, label, value in readings():
            families[metric.name].add_metric([cache, label] if metric.label else [cache], value)
        return iter(families.values())

    def _families(self) -> dict[str, Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        return {
            metric.name: (CounterMetricFamily if metric.counts else GaugeMetricFamily)(
                name_of(metric), metric.help, labels=labels_of(metric)
            )
            for metric in METRICS
        }


class _Writer:
    """Writes the readings of all caches into the files of this process."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge

        own = CollectorRegistry()               # never scraped itself: the scraper reads the files
        self._metrics: dict[Metric, Any] = {
            metric: Counter(name_of(metric), metric.help, labels_of(metric), registry=own)
            if metric.counts
            else Gauge(
                name_of(metric), metric.help, labels_of(metric), registry=own,
                multiprocess_mode="livemax" if metric.name == "breaker_state" else "livesum",
            )
            for metric in METRICS
        }
        self._written: dict[tuple[Metric, str, str], float] = {}

    def write(self) -> None:
        """Write what has changed. Counters get only the increase, because others write into the same files."""
        now = {(metric, cache, label): value for metric, cache, label, value in readings()}
        for key, value in now.items():
            metric, cache, label = key
            sample = self._metrics[metric].labels(*([cache, label] if metric.label else [cache]))
            before = self._written.get(key, 0)
            if not metric.counts:
                sample.set(value)
            elif value != before:
                sample.inc(value - before if value > before else value)     # else the cache has been cleared
        for metric, cache, label in self._written.keys() - now.keys():
            if not metric.counts:
                self._metrics[metric].labels(*([cache, label] if metric.label else [cache])).set(0)
        self._written = now

    def _sweep(self) -> float:
        """Called by the sweeper thread. Returns the time of the next call."""
        self.write()
        return time.monotonic() + WRITTEN_EVERY


def _write_from_now_on() -> None:
    global _writer
    if _writer is not None:
        return
    from cachebox._store import sweeper

    writer: Any = _Writer()             # the sweeper visits it like a cache
    _writer = writer
    writer.write()
    atexit.register(writer.write)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=writer.write)        # so that the child writes only what it adds itself
    sweeper.schedule(sweeper.register(writer), time.monotonic() + WRITTEN_EVERY)
