"""`cachebox.metrics`: the numbers that Prometheus and OpenTelemetry get."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cachebox import Cache, cached
from cachebox.metrics import opentelemetry, prometheus
from cachebox.metrics._prometheus import labels_of, name_of
from cachebox.metrics._readings import METRICS, readings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def full_name(metric):
    return name_of(metric) + ("_total" if metric.counts else "")


def used():
    """A cache that has done a bit of everything."""
    def load(key):
        if key == "broken":
            raise KeyError(key)
        return key

    cache = Cache(2, name="metrics:used", loader=load, max_weight=100, weigher=lambda key, value: 10)
    for key in ("a", "a", "b", "c"):
        cache[key]
    cache.get("broken")
    del cache["c"]
    return cache


@pytest.fixture
def scrape():
    client = pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")
    registry = client.CollectorRegistry()
    prometheus(registry)

    def values(name):
        """The samples of a cache: a dict from (metric, other labels) to value."""
        return {
            (sample.name, *(value for label, value in sample.labels.items() if label != "cache")): sample.value
            for family in registry.collect() for sample in family.samples
            if sample.labels["cache"] == name
        }

    values.registry = registry
    return values


def test_a_cache_is_scraped(scrape):
    cache = used()
    assert scrape("metrics:used") == {
        ("cachebox_hits_total", "local"): 1,
        ("cachebox_misses_total",): 4,
        ("cachebox_stale_serves_total",): 0,
        ("cachebox_negative_hits_total",): 0,
        ("cachebox_sets_total",): 3,
        ("cachebox_loads_total", "success"): 3,
        ("cachebox_loads_total", "failure"): 1,
        ("cachebox_load_seconds_total",): cache.stats.load_time,
        ("cachebox_refreshes_total", "success"): 0,
        ("cachebox_refreshes_total", "failure"): 0,
        ("cachebox_evictions_total", "size"): 1,
        ("cachebox_evictions_total", "expired"): 0,
        ("cachebox_evictions_total", "explicit"): 1,
        ("cachebox_entries",): 1,
        ("cachebox_weight",): 10,
    }
    before = cache.stats.get_all()
    scrape("metrics:used")
    assert cache.stats.get_all() == before
    del cache
    assert scrape("metrics:used") == {}


def test_what_is_scraped_can_be_read_as_text(scrape):
    from prometheus_client import generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    cache = used()
    text = generate_latest(scrape.registry).decode()
    families = list(text_string_to_metric_families(text))
    assert {family.name for family in families} == {name_of(metric) for metric in METRICS}
    assert all(family.documentation for family in families)
    assert len(cache) == 1


def test_asking_again_changes_nothing_and_registries_are_apart(scrape):
    prometheus(scrape.registry)
    from prometheus_client import CollectorRegistry

    prometheus(CollectorRegistry())


def test_two_tiers_are_scraped(server, scrape):
    from cachebox import DistributedCache
    from cachebox._platform.registry import register

    with DistributedCache(redis_port=server.port, namespace="metrics") as cache:
        register("metrics:tiers", cache)
        cache.set("a", 1)
        cache.get("a"), cache.get("a"), cache.get("x")
        found = scrape("metrics:tiers")
    assert found["cachebox_hits_total", "remote"] == 1 and found["cachebox_hits_total", "local"] == 1
    assert found["cachebox_misses_total",] == 1 and found["cachebox_breaker_state",] == 0
    assert found["cachebox_entries",] == 1


def test_functions_are_scraped(scrape):
    from cachebox._platform.registry import register

    own, shared_cache = cached(lambda x: x), Cache()
    shared = cached(shared_cache)(lambda x: x)
    register("metrics:own", own), register("metrics:shared", shared)
    own(1), own(1), shared(1), shared_cache.get("x")
    assert scrape("metrics:own")["cachebox_hits_total", "local"] == 1
    assert scrape("metrics:own")["cachebox_entries",] == 1
    assert scrape("metrics:shared") == {("cachebox_hits_total", "local"): 0, ("cachebox_misses_total",): 1}


def test_opentelemetry_observes_the_same():
    pytest.importorskip("opentelemetry.sdk.metrics", reason="opentelemetry-sdk is not installed")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    opentelemetry(provider.get_meter("test"))
    cache = used()

    def observed():
        (resource,) = reader.get_metrics_data().resource_metrics
        ((metrics,),) = [[scope.metrics] for scope in resource.scope_metrics]
        return {
            (metric.name, *(value for name, value in point.attributes.items() if name != "cache")): point.value
            for metric in metrics for point in metric.data.data_points if point.attributes["cache"] == "metrics:used"
        }

    def read():
        return {
            (f"cachebox.{found.metric.name}", *([found.label] if found.metric.label else [])): found.value
            for found in readings() if found.cache == "metrics:used"
        }

    assert observed() == read() and observed()["cachebox.hits", "local"] == 1
    cache.get("a")
    assert observed() == read()
    provider.shutdown()


def test_without_the_packages_it_is_said_how_to_install_them():
    code = """
    import sys
    sys.modules["prometheus_client"] = sys.modules["opentelemetry"] = None      # as if they were not installed
    from cachebox.metrics import opentelemetry, prometheus
    for export in (prometheus, opentelemetry):
        try:
            export()
        except ImportError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert "cachebox-cython[prometheus]" in done.stdout and "cachebox-cython[opentelemetry]" in done.stdout


MULTIPROCESS = """
import os, sys
from cachebox import Cache
from cachebox.metrics import prometheus
from cachebox.metrics import _prometheus

_prometheus.WRITTEN_EVERY = 0.01
cache = Cache(name="metrics:shared")
cache.get("x")
prometheus()
cache.get("x"), cache.set("a", 1)
children = []
for n in range(2):
    child = os.fork()
    if child == 0:
        cache.get("a"), cache.get("x")
        cache.clear()                   # counters begin anew, what was counted stays counted
        cache.get("x")
        sys.exit()
    children.append(child)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
_prometheus._writer.write()
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

registry = CollectorRegistry()
MultiProcessCollector(registry)
print(*[int(registry.get_sample_value(name, labels)) for name, labels in (
    ("cachebox_misses_total", {"cache": "metrics:shared"}),
    ("cachebox_hits_total", {"cache": "metrics:shared", "tier": "local"}),
    ("cachebox_sets_total", {"cache": "metrics:shared"}),
)])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_several_processes_are_scraped_together(tmp_path):
    pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", MULTIPROCESS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    # Two misses of the parent, and at least one of each child, which had no time to write its counts before its clear.
    assert done.returncode == 0, done.stderr
    misses, hits, sets = map(int, done.stdout.split())
    assert 4 <= misses <= 6 and 0 <= hits <= 2 and sets == 1


# --- the documents ----------------------------------------------------------------------------------------------------


def test_the_dashboard_names_metrics_and_labels_that_there_are():
    text = (DOCS / "grafana.json").read_text(encoding="utf-8")
    named = set(re.findall(r"\bcachebox_\w+", text))
    assert named == {full_name(metric) for metric in METRICS}
    labels = {metric_label for metric in METRICS for metric_label in labels_of(metric)}
    for panel in json.loads(text)["panels"]:
        for target in panel["targets"]:
            for by in re.findall(r"by \(([^)]*)\)", target["expr"]):
                assert set(by.split(", ")) <= labels
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels


def test_the_page_lists_all_metrics():
    text = (DOCS / "seeing.md").read_text(encoding="utf-8")
    for metric in METRICS:
        assert f"`{full_name(metric)}`" in text, metric
    assert set(re.findall(r"`(cachebox_\w+)`", text)) == {full_name(metric) for metric in METRICS}


def test_what_is_no_registry_and_no_meter_is_refused():
    pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")
    with pytest.raises(TypeError, match=r"registry must be a CollectorRegistry .* not int"):
        prometheus(5)
    pytest.importorskip("opentelemetry.metrics", reason="opentelemetry-api is not installed")
    with pytest.raises(TypeError, match=r"meter must be a Meter .* not int"):
        opentelemetry(5)
