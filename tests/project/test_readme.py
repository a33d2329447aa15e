"""The documents: each example of the README prints what its comments say, and what they name is there."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMISE = re.compile(r"^print\(.*\) +# (.*)$", re.MULTILINE)

TEXT = README.read_text(encoding="utf-8")
EXAMPLES = BLOCK.findall(TEXT)


def test_there_are_eleven():
    assert len(EXAMPLES) == 11


@pytest.mark.parametrize("example", EXAMPLES, ids=range(1, len(EXAMPLES) + 1))
def test_example(example):
    promised = PROMISE.findall(example)
    assert promised, "an example has to print something, and to say what"
    assert len(promised) == example.count("print("), "each print has to say what it prints"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example, str(README), "exec"), {"__name__": "readme"})
    assert printed.getvalue().splitlines() == promised


def test_it_names_the_other_distribution():
    assert "`cachebox-cython`" in TEXT and "Do not install both" in TEXT


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text(encoding="utf-8")):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_architecture_names_files_that_exist_and_every_folder():
    document = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    sources = ROOT / "src" / "cachebox"
    files = {path.name for path in ROOT.glob("*.*")} | {"NAME.pyx", "NAME.pxd"}
    files |= {path.name for folder in (sources, ROOT / "tests") for path in folder.rglob("*.*")}
    assert set(re.findall(r"\b(\w+\.(?:pyx|pxd|py|h))\b", document)) <= files
    for path in re.findall(r"`((?:_\w+|distributed|strategies|cli)/[\w/.]+)`", document):
        exists = (sources / path).exists() or any(sources.glob(f"{path.partition('.')[0]}.*"))
        assert exists or "NAME" in path, path
    folders = {path.parent.name for path in sources.rglob("*.py")} - {"cachebox"}
    assert all(f"{folder}/" in document for folder in folders)

