"""Metrics of all named caches and cached functions, for Prometheus and for OpenTelemetry.

Caches are read when somebody scrapes, so a hit pays nothing for it. They are known weakly: a cache that has ended is
not reported any more. ``docs/seeing.md`` lists the metrics.
"""

from cachebox.metrics._opentelemetry import opentelemetry
from cachebox.metrics._prometheus import prometheus

__all__ = ["opentelemetry", "prometheus"]
