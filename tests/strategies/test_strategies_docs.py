"""The worked examples in docs/ print what their comments say: strategies, store, seeing, testing."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMISE = re.compile(r"^ *print\(.*\) +# (.*)$", re.MULTILINE)

EXAMPLES = [
    pytest.param(example, id=f"{name}-{n}")
    for name in ("caches", "keys", "seeing", "testing", "strategies", "store")
    for n, example in enumerate(BLOCK.findall((DOCS / f"{name}.md").read_text(encoding="utf-8")), 1)
]


def test_there_is_one_for_each_strategy_and_a_store():
    text = (DOCS / "strategies.md").read_text(encoding="utf-8")
    for section in ("Look-aside", "Read-through", "Refresh-ahead", "Write-through", "Write-behind", "asyncio"):
        part = text.partition(f"\n## {section}")[2].partition("\n## ")[0]
        assert BLOCK.search(part), section
    assert len(EXAMPLES) >= 18


@pytest.mark.parametrize("example", EXAMPLES)
def test_example(example, tmp_path):
    if "prometheus" in example:
        pytest.importorskip("prometheus_client", reason="prometheus-client is not installed: the example needs it")
    if "sqlalchemy" in example:
        pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed: the example of a store needs it")
    promised = PROMISE.findall(example)
    assert promised and len(promised) == example.count("print("), "each print has to say what it prints"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example, "docs", "exec"), {"__name__": "docs", "folder": tmp_path})
    assert printed.getvalue().splitlines() == promised


def test_the_example_of_a_store_is_short():
    example = EXAMPLES[-1].values[0]
    own = example[example.index("class ") : example.index("from cachebox")]
    assert sum(1 for line in own.splitlines() if line.strip() and "def " not in line and "class " not in line) <= 20


def test_links_lead_somewhere():
    for name in ("caches.md", "keys.md", "seeing.md", "testing.md", "strategies.md", "store.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", (DOCS / name).read_text(encoding="utf-8")):
            assert (DOCS / target).exists(), target
