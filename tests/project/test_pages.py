"""The pages of the site: every Python block runs as it is pasted into an empty folder, and prints what it says.

A page may speak of a server on this machine: tests have it use one of their own. A block that begins with the name of a
file in a comment (``# app.py``) is part of a recipe, which `test_recipes.py` runs; here it is only imported.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import re
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest

import cachebox

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMISE = re.compile(r"^ *print\(.*\) +# (.*)$", re.MULTILINE)
NAMED = re.compile(r"# (\w+\.py)\n")
SERVER = "redis://localhost:6379"
FOREIGN = re.compile(r"^\s*(?:import|from) +(\w+)", re.MULTILINE)
ON_POSIX = re.compile(r"file://|as_uri|memory://")
ALONE = re.compile(r"settings\.configure\(")             # a process can do it only once


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


EXAMPLES = [
    pytest.param(block, id=f"{page.removesuffix('.md')}-{number}")
    for page in PAGES
    for number, block in enumerate(BLOCK.findall(text_of(page)), 1)
    if not NAMED.match(block)
]


def what_is_missing(block: str) -> str | None:
    """Why a block cannot run here, in words; None: it can."""
    for module in FOREIGN.findall(block):
        if module not in sys.stdlib_module_names and find_spec(module) is None:
            return f"{module} is not installed: the example needs it"
    if sys.platform == "win32" and ON_POSIX.search(block):
        return "there are no folders on Windows yet"
    return None


def prepared(block: str, request) -> str:
    """The block; if it names a server's address, with the address of ours."""
    if (why := what_is_missing(block)) is not None:
        pytest.skip(why)
    if SERVER in block:
        block = block.replace(SERVER, f"redis://127.0.0.1:{request.getfixturevalue('server').port}")
    return block


def promised(block: str) -> list[str]:
    found = PROMISE.findall(block)
    assert len(found) == block.count("print("), "each print has to say what it prints"
    return found


def run_alone(code: str, lines: list[str], folder: Path) -> None:
    """Run a block in a process of its own: it ends well, and prints these lines."""
    (folder / "pasted.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "pasted.py"], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == lines


@pytest.mark.parametrize("block", EXAMPLES)
def test_example(block, request, tmp_path, monkeypatch):
    code = prepared(block, request)
    if ALONE.search(code):
        run_alone(code, promised(block), tmp_path)
        return
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("pasted")
    module.__file__ = str(tmp_path / "pasted.py")
    monkeypatch.setitem(sys.modules, "pasted", module)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "pasted.py", "exec"), vars(module))
    assert printed.getvalue().splitlines() == promised(block)
    vars(module).clear()
    gc.collect()                        # closes objects that were left open: a warning of it is this test's


@pytest.mark.slow
@pytest.mark.parametrize("block", EXAMPLES)
def test_example_in_a_process_of_its_own(block, request, tmp_path):
    run_alone(prepared(block, request), promised(block), tmp_path)


def test_every_example_is_worth_running():
    assert len(EXAMPLES) >= 70
    for example in EXAMPLES:
        (block,) = example.values
        assert PROMISE.search(block) or "def " in block or "assert " in block, f"{example.id} shows nothing"


def test_there_is_one_for_each_strategy():
    text = text_of("strategies.md")
    for section in ("Look-aside", "Read-through", "Refresh-ahead", "Write-through", "Write-behind", "asyncio"):
        part = text.partition(f"\n## {section}")[2].partition("\n## ")[0]
        assert BLOCK.search(part), section


def test_the_example_of_a_store_is_short():
    example = next(block for block in BLOCK.findall(text_of("store.md")) if "sqlalchemy" in block)
    own = example[example.index("class ") : example.index("from cachebox")]
    assert sum(1 for line in own.splitlines() if line.strip() and "def " not in line and "class " not in line) <= 20


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_site_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", BLOCK.sub("", text_of(page))):
        assert target.startswith("https://") or (DOCS / page).parent.joinpath(target).exists(), target


def test_every_page_is_in_the_contents():
    listed = set()
    for page in PAGES:
        for contents in re.findall(r"^```\{toctree\}\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL):
            names = [line for line in contents.splitlines() if line and not line.startswith(":")]
            listed.update((DOCS / page).parent.joinpath(f"{name}.md").relative_to(DOCS).as_posix() for name in names)
    assert listed == {*PAGES} - {"index.md"}


PUBLIC_MODULES = (
    "cachebox", "cachebox.contrib.cachetools", "cachebox.contrib.cachetools.func", "cachebox.contrib.cachetools.keys",
    "cachebox.distributed", "cachebox.keys", "cachebox.metrics", "cachebox.strategies", "cachebox.testing",
)


def test_every_public_name_is_in_the_reference():
    reference = "\n".join(text_of(page) for page in PAGES if page.startswith("api/"))
    described = set(re.findall(r"auto(?:class|function|data|exception|decorator):: +([\w.]+)", reference))
    for module in PUBLIC_MODULES:
        found = importlib.import_module(module)
        names = getattr(found, "__all__", None) or [
            name for name, what in vars(found).items() if name[0] != "_" and getattr(what, "__module__", "") == module
        ]
        assert names, module
        for name in names:
            described_as = {f"{module}.{name}", f"cachebox.{name}"} & described
            assert described_as or f"`{name}`" in reference, f"{module}.{name}"
    assert {f"cachebox.{name}" for name in cachebox.__all__} <= described


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="Sphinx is not installed: it is in the extra `docs`")
    pytest.importorskip("furo", reason="furo is not installed: it is in the extra `docs`")
    pytest.importorskip("myst_parser", reason="myst-parser is not installed: it is in the extra `docs`")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", tmp_path / "trees", DOCS, tmp_path / "site"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "site" / "searchindex.js").exists()
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    loaded = re.search(r"<(?:script|link|img)\b[^>]*(?:src|href)=\"(?:https?:)?//", page)
    assert loaded is None, "the site loads something from elsewhere"
