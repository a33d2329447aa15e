"""The documents: each example of the README prints what its comments say, and the files that they name exist."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMISE = re.compile(r"^print\(.*\) +# (.*)$", re.MULTILINE)

TEXT = README.read_text(encoding="utf-8")
EXAMPLES = BLOCK.findall(TEXT)
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]


def test_there_are_three_and_the_second_needs_no_server():
    assert len(EXAMPLES) == 3
    assert "as_uri()" in EXAMPLES[1] and "file:///" in EXAMPLES[1]


@pytest.mark.parametrize("example", EXAMPLES, ids=range(1, len(EXAMPLES) + 1))
def test_example(example, tmp_path, monkeypatch):
    if "as_uri()" in example and sys.platform == "win32":
        pytest.skip("there are no folders on Windows yet")
    monkeypatch.chdir(tmp_path)
    promised = PROMISE.findall(example)
    assert promised, "an example has to print something, and to say what"
    assert len(promised) == example.count("print("), "each print has to say what it prints"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example, str(README), "exec"), {"__name__": "readme"})
    assert printed.getvalue().splitlines() == promised


def test_it_names_the_other_distribution():
    assert "`cachebox-cython`" in TEXT and "Do not install both" in TEXT


def test_its_links_are_whole_and_lead_to_the_site_or_the_repository():
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert len(links) >= 15
    for link in links:
        if link.startswith(URLS["Documentation"]):
            path = link.removeprefix(URLS["Documentation"])
            page = path.replace("_images/", "plots/").replace(".html", ".md")
            assert (ROOT / "docs" / page).exists(), link
        else:
            assert link == URLS["Source"], link


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"])
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

