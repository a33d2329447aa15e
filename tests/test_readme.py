"""The documents: each example of the README prints what its comments say, and what they name is there."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMISE = re.compile(r"^print\(.*\) +# (.*)$", re.MULTILINE)

TEXT = README.read_text(encoding="utf-8")
EXAMPLES = BLOCK.findall(TEXT)


def test_there_are_ten():
    assert len(EXAMPLES) == 10


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


def test_the_architecture_names_every_file_and_no_other():
    document = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    sources = ROOT / "src" / "cachebox"
    files = {path.name for path in sources.iterdir() if path.suffix in (".py", ".pyx", ".h")} - {"__init__.py"}
    named = set(re.findall(r"\b(\w+\.(?:pyx|py|h))\b", document))
    assert files <= named
    assert named - {"__init__.py", "NAME.pyx", "conftest.py", "fuzz_files.py", "setup.py"} <= files
    engines = {path.stem for path in (sources / "_engine").glob("*.pyx")}
    assert all(name in document for name in engines)
