"""Prints a table of ratios as soon as all groups of a topic are measured, instead of pytest-benchmark's own tables."""

from __future__ import annotations

import pytest

from bench import peers, suite


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "default")    # warnings of the peers are not errors
    config.addinivalue_line("filterwarnings", "ignore::ResourceWarning")    # connections last as long as the process
    config.addinivalue_line("filterwarnings", "ignore:Benchmark fixture was not used")      # by a test that skips
    config.option.benchmark_quiet = True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=suite.TAPE))


def topic_of(item):
    return item.callspec.params.get("topic") if hasattr(item, "callspec") else None


class Printer:
    """Prints a topic's table after its last test, because a test must not print."""

    def __init__(self, reporter):
        self.reporter = reporter
        self.ended = None

    @pytest.hookimpl
    def pytest_runtest_protocol(self, item, nextitem):
        topic = topic_of(item)
        self.ended = topic if nextitem is None or topic_of(nextitem) is not topic else None

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self):
        topic, self.ended = self.ended, None
        if topic is None or not topic.shown():
            return
        write = self.reporter.write_line
        self.reporter.ensure_newline()
        write("")
        write(topic.title, bold=True)
        for line in suite.aligned(suite.table(topic)):
            write(f"  {line}")
        if topic.note:
            write(f"  {topic.note}")
        write("")


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        session.config.pluginmanager.register(Printer(reporter))


def pytest_terminal_summary(terminalreporter):
    for peer, why in peers.ABSENT.items():
        terminalreporter.write_line(f"left out: {peer}: {why}")
    versions = ", ".join(f"{name} {version}" for name, version in sorted(peers.VERSIONS.items()))
    terminalreporter.write_line(f"peers: {versions}")
