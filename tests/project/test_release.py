"""The tools of a release: the gathering of changelog fragments, and the comparison of wheels."""

from __future__ import annotations

import runpy
import zipfile
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / ".ci"
if not TOOLS.is_dir():
    pytest.skip("the tools are not here, only a source distribution", allow_module_level=True)

CHANGELOG = """\
# Changelog

## [Unreleased]

### Added

- Old.

### Fixed

- A fault.

## [0.1.0]

### Added

- The first.
"""


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A repository with two fragments."""
    tool = runpy.run_path(str(TOOLS / "changelog.py"))
    monkeypatch.setitem(tool["main"].__globals__, "ROOT", tmp_path)
    (tmp_path / "changelog.d").mkdir()
    (tmp_path / "changelog.d" / "README.md").write_text("not a fragment")
    (tmp_path / "changelog.d" / "one.added.md").write_text("A thing\nof two lines.\n")
    (tmp_path / "changelog.d" / "two.security.md").write_text("A hole is closed.\n")
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "0.1.0"\n')
    return tmp_path, tool["main"]


def test_fragments_become_lines_of_their_kind(tree):
    folder, main = tree
    main("gather")
    text = (folder / "CHANGELOG.md").read_text()
    unreleased, older = text.split("## [0.1.0]")
    assert "### Added\n\n- A thing of two lines.\n- Old.\n" in unreleased
    assert "### Security\n\n- A hole is closed.\n" in unreleased
    assert older == CHANGELOG.split("## [0.1.0]")[1]
    assert [path.name for path in (folder / "changelog.d").iterdir()] == ["README.md"]


def test_a_version_takes_what_is_unreleased(tree):
    folder, main = tree
    main("1.2.3")
    text = (folder / "CHANGELOG.md").read_text()
    assert text.index("## [Unreleased]") < text.index("## [1.2.3] - ") < text.index("- A thing of two lines.")
    assert 'version = "1.2.3"' in (folder / "pyproject.toml").read_text()


@pytest.mark.parametrize("name, text", [("x.md", "text"), ("x.new.md", "text"), ("x.added.md", " \n")])
def test_a_fragment_that_is_none_is_refused(tree, name, text):
    folder, main = tree
    (folder / "changelog.d" / name).write_text(text)
    with pytest.raises(SystemExit, match=r"WORD\.KIND\.md"):
        main("check")
    assert (folder / "CHANGELOG.md").read_text() == CHANGELOG


def test_wheels_that_differ_are_told(tmp_path, capsys):
    main = runpy.run_path(str(TOOLS / "same_wheels.py"))["main"]
    for name, text in (("a.whl", "1"), ("b.whl", "1"), ("c.whl", "2")):
        with zipfile.ZipFile(tmp_path / name, "w") as wheel:
            wheel.writestr("x.py", text)
    assert main(str(tmp_path / "a.whl"), str(tmp_path / "b.whl")) == 0
    assert main(str(tmp_path / "a.whl"), str(tmp_path / "c.whl")) == 1
    assert "different: x.py" in capsys.readouterr().out
