"""The other library that installs a folder of the same name: noticed when building, importing, and by the doctor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cachebox
from cachebox import _installation

PACKAGE = Path(cachebox.__file__).parent
ROOT = Path(__file__).resolve().parents[2]
PUBLIC = (
    "cache", "contrib.cachelib", "contrib.cachetools", "contrib.django", "contrib.starlette", "decorators",
    "distributed", "keys", "metrics", "policies", "protocols", "removal", "stats", "strategies", "testing",
)
FOREIGN_INIT = "from ._core import LRUCache\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder to import from, with a copy of the package that tests may spoil and mend."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE, folder / "cachebox", ignore=shutil.ignore_patterns("*.pyx", "*.pxd", "*.c", "__pycache__"))
    return folder


@pytest.fixture
def theirs(site):
    """Files of the other library, next to ours; taken away in the end."""
    files = [site / "cachebox" / name for name in ("_core.py", "_cachebox.py")]
    for path in files:
        path.write_text("LRUCache = dict\n")
    yield files
    for path in files:
        path.unlink(missing_ok=True)


@pytest.fixture
def without_ours(site):
    """The place of our ``__init__.py``, which is put aside."""
    ours = site / "cachebox" / "__init__.py"
    kept = ours.rename(site / "kept.py")
    yield ours
    kept.replace(ours)


def python(site, *arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
    )


def refused(site, *modules):
    """The error of importing each of the modules: they must all be refused."""
    code = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(error)
    else:
        raise SystemExit(f"{name} was imported")
"""
    done = python(site, "-S", "-c", code, *modules)     # -S: no other package of this name
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(modules)
    return done.stdout.splitlines()


def test_a_folder_of_our_own_is_all_right(site):
    assert _installation.problem() is None
    assert not _installation.foreign_files(str(PACKAGE)), "a file of ours has a name like those of the other library"
    assert not _installation.foreign_files(str(site / "nowhere"))
    done = python(site, "-c", "import cachebox; print(cachebox.__file__)")
    assert done.stdout.strip() == str(site / "cachebox" / "__init__.py"), done.stderr


def test_their_files_under_our_init(site, theirs):
    for said in refused(site, "cachebox", "cachebox.cache"):
        assert "cachebox-cython" in said and "_core.py" in said and _installation.MEND in said


def test_their_init_over_ours(site, theirs, without_ours):
    without_ours.write_text(FOREIGN_INIT)
    assert python(site, "-c", "import cachebox; cachebox.LRUCache").returncode == 0     # theirs alone
    for said in refused(site, *(f"cachebox.{name}" for name in PUBLIC)):
        assert "cachebox-cython" in said and _installation.MEND in said


def test_our_init_taken_away_with_theirs(site, without_ours):
    for said in refused(site, *(f"cachebox.{name}" for name in PUBLIC)):
        assert "no __init__.py" in said and _installation.MEND in said


def test_the_doctor_tells_of_it_under_their_init(site, theirs, without_ours):
    without_ours.write_text(FOREIGN_INIT)
    done = python(site, "-m", "cachebox", "doctor", "--json")
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    (folder,) = (finding for finding in document["findings"] if finding["about"] == "folder")
    assert not document["healthy"] and folder["state"] == "bad" and _installation.MEND in folder["text"]


def test_the_doctor_is_not_needed_under_our_init(site, theirs):
    done = python(site, "-m", "cachebox", "doctor")
    assert done.returncode == 1 and _installation.MEND in done.stderr


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="the sources are not here, only an installed package")
def test_a_build_stops_where_theirs_is_installed(tmp_path):
    pytest.importorskip("Cython", reason="Cython is not installed: a build needs it")
    pytest.importorskip("setuptools", reason="setuptools is not installed: a build needs it")
    (tmp_path / "cachebox").mkdir()
    (tmp_path / "cachebox" / "_core.abi3.so").touch()
    code = f"""
import runpy, sys, sysconfig
sysconfig.get_path = lambda name, *more: {str(tmp_path)!r}
sys.argv = ["setup.py", "build_ext"]
runpy.run_path("setup.py", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "pip uninstall cachebox" in done.stderr and "_core.abi3.so" in done.stderr and "Traceback" not in done.stderr
