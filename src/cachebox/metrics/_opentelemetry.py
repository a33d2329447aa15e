"""The exporter for OpenTelemetry: instruments that read the caches at each collection."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from cachebox.metrics._readings import METRICS, Metric, Reading, readings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

ONE_ROUND = 1.0
"""Seconds within which all callbacks of one collection run."""


def opentelemetry(meter: Any = None) -> None:
    """Have OpenTelemetry observe all named caches and cached functions, also those created later.

    Args:
        meter: a `Meter` of OpenTelemetry; None: the global provider's meter ``cachebox``.

    Raises ImportError without the extra ``opentelemetry``, and TypeError for what is no meter. Instruments are called
    ``cachebox.hits`` and so on; their attributes are the labels of the Prometheus metrics. A collection costs some
    microseconds per cache, and a hit nothing. Call it once per meter.
    """
    try:
        from opentelemetry import metrics
    except ImportError as error:
        raise ImportError(
            'opentelemetry needs opentelemetry-api: pip install "cachebox-cython[opentelemetry]"'
        ) from error
    if meter is None:
        meter = metrics.get_meter("cachebox")
    elif not callable(getattr(meter, "create_observable_counter", None)):
        raise TypeError(f"meter must be a Meter of OpenTelemetry or None, not {type(meter).__name__}")
    round_of = _Round()
    for metric in METRICS:
        make = meter.create_observable_counter if metric.counts else meter.create_observable_gauge
        make(
            f"cachebox.{metric.name}",
            callbacks=[partial(_observe, round_of, metric)],
            unit="s" if metric.unit == "seconds" else "",
            description=metric.help,
        )


class _Round:
    """The readings of one collection: it asks for one metric after the other, but the caches are read once."""

    def __init__(self) -> None:
        self._left: dict[Metric, list[Reading]] = {}
        self._read_at = 0.0

    def take(self, metric: Metric) -> list[Reading]:
        """The readings of a metric. A second question for the same metric begins another round."""
        found = self._left.pop(metric, None)
        if found is None or time.monotonic() - self._read_at > ONE_ROUND:
            self._read_at = time.monotonic()
            left: dict[Metric, list[Reading]] = {each: [] for each in METRICS}
            for reading in readings():
                left[reading.metric].append(reading)
            found = left.pop(metric)
            self._left = left
        return found


def _observe(round_of: _Round, metric: Metric, options: Any) -> Iterator[Any]:
    from opentelemetry.metrics import Observation

    for _, cache, label, value in round_of.take(metric):
        attributes = {"cache": cache}
        if metric.label:
            attributes[metric.label] = label
        yield Observation(value, attributes)
