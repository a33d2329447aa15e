"""Metrics of all named caches and cached functions, for Prometheus and for OpenTelemetry.

Caches are read at each scrape, so a hit pays nothing for it. References to them are weak: a cache that is gone is not
reported any more. ``docs/seeing.md`` lists the metrics.
"""

from cachebox.metrics._opentelemetry import opentelemetry
from cachebox.metrics._prometheus import prometheus

__all__ = ["opentelemetry", "prometheus"]
