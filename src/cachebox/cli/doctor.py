"""``python -m cachebox doctor``: the facts about an installation that a bug report needs.

It must run even if another library's files are in the package's folder. So it imports nothing of the package before it
has checked that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import shutil
import sys
import tempfile
import textwrap
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from cachebox.cli.terminal import Screen

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "doctor"
SUMMARY = "tell what is installed, how it was built, and whether it works here"
DESCRIPTION = """\
Tells the versions, how the compiled part was built, whether the GIL is on,
which distributions have files in the package's folder, which extras are
there, and whether each URL can serve as a second tier. Without a URL a server
on this machine and a temporary folder are tried.

Please put its output into bug reports. It holds no keys, values or passwords.

The exit status is 1 where something does not work that should: a URL that was
given, or the package itself.
"""
JSON_VERSION = 1
DISTRIBUTION = "cachebox-cython"
EXTRAS = (
    "redis", "msgpack", "msgspec", "backports.zstd", "prometheus-client", "opentelemetry-api", "django", "matplotlib",
    "rich",
)
LOCAL_SERVER = "redis://localhost:6379"
NAMESPACE = "cachebox-doctor"
TIMEOUT = 1.0                                   # seconds for each call
GOOD, NOTE, BAD = "good", "note", "bad"
WIDEST = 100


@dataclass
class Finding:
    """One finding: its subject, its state (`GOOD`, `BAD`, or `NOTE` for information), and a text."""

    about: str
    state: str
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "urls",
        metavar="URL",
        nargs="*",
        help="a second tier to try: redis://host:port/db, file:///directory, or another that DistributedCache takes",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def run(arguments: argparse.Namespace) -> int:
    logger = logging.getLogger("cachebox")      # the findings have what it would log
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    findings = list(examine(arguments.urls))
    healthy = all(finding.state != BAD for finding in findings)
    if arguments.json:
        document = {"version": JSON_VERSION, "healthy": healthy, "findings": [asdict(each) for each in findings]}
        json.dump(document, sys.stdout, indent=2)
        print()
    else:
        for line in as_text(findings, Screen(sys.stdout)):
            print(line)
    return 0 if healthy else 1


def examine(urls: list[str]) -> Iterator[Finding]:
    yield about_python()
    yield about_gil()
    yield about_distribution()
    folder = about_folder()
    yield folder
    if folder.state == BAD:                     # nothing of the package can be imported
        return
    yield about_build()
    yield about_extras()
    if urls:
        for url in urls:
            yield about_second_tier(url, BAD)
        return
    yield about_second_tier(LOCAL_SERVER, NOTE)
    with temporary_folder() as path:
        yield about_second_tier(path.as_uri(), BAD if sys.platform.startswith("linux") else NOTE)


def about_python() -> Finding:
    implementation = platform.python_implementation()
    text = f"{implementation} {platform.python_version()}, {platform.platform()}"
    return Finding("python", GOOD if implementation == "CPython" else BAD, text)


def about_gil() -> Finding:
    if not hasattr(sys, "_is_gil_enabled"):
        return Finding("gil", GOOD, "on: this Python always has one")
    if sys._is_gil_enabled():
        import sysconfig

        if sysconfig.get_config_var("Py_GIL_DISABLED"):
            return Finding("gil", NOTE, "on, though this Python can do without: PYTHON_GIL=1, or a module's wish")
        return Finding("gil", GOOD, "on: this Python always has one")
    return Finding("gil", GOOD, "off")


def about_distribution() -> Finding:
    package = Path(__file__).resolve().parents[1]
    try:
        version = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return Finding("package", BAD, f"{package}, which no distribution called {DISTRIBUTION} has installed")
    return Finding("package", GOOD, f"{DISTRIBUTION} {version} in {package}")


def about_folder() -> Finding:
    """Whether other distributions have files in the package's folder."""
    from cachebox import _installation

    owners = sorted(set(metadata.packages_distributions().get("cachebox", [])))
    if (problem := _installation.problem()) is not None:
        return Finding("folder", BAD, f"{problem}. To keep {DISTRIBUTION}: {_installation.MEND}")
    foreign = [name for name in owners if name != DISTRIBUTION]
    if foreign:
        text = f"{' and '.join(foreign)} also installs a package of this name: {_installation.MEND}"
        return Finding("folder", BAD, text)
    return Finding("folder", GOOD, f"no other distribution has files in it, only {DISTRIBUTION}")


def about_build() -> Finding:
    try:
        import cachebox
        from cachebox._platform import _interpreter
    except ImportError as error:
        return Finding("build", BAD, f"the compiled part cannot be imported: {error}")
    del cachebox
    text = f"compiled by {_interpreter.compiler} from Cython {_interpreter.cython}"
    options = _interpreter.options.strip()
    return Finding("build", NOTE if options else GOOD, f"{text}{'; ' * bool(options)}{options}")


def about_extras() -> Finding:
    found, missing = [], []
    for name in EXTRAS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if sys.version_info >= (3, 14) and "backports.zstd" in missing:
        missing.remove("backports.zstd")        # it is in the standard library
    text = f"{', '.join(found) or 'none'}{'; not installed: ' * bool(missing)}{', '.join(missing)}"
    return Finding("extras", GOOD, text)


def about_second_tier(url: str, otherwise: str) -> Finding:
    """Whether a value can be stored and read back; `otherwise` is the state if not."""
    about = without_password(url)
    key = f"probe:{os.getpid()}:{time.time_ns()}"
    begun = time.perf_counter()
    made: list[Path] = missing_folders(url)
    try:
        from cachebox import DistributedCache

        with DistributedCache(url=url, namespace=NAMESPACE, timeout=TIMEOUT, on_unavailable="raise") as cache:
            connected = time.perf_counter()
            cache.set(key, "here", ttl=60)
            cache.barrier()
            found = cache.get(key)
            cache.delete(key)
            took = time.perf_counter() - connected
            link = cache.stats.link
    except ImportError as error:
        return Finding(about, otherwise, str(error))
    except Exception as error:                  # whatever it is, a report should have it
        return Finding(about, otherwise, f"{type(error).__name__}: {error}")
    finally:
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
    if found != "here":
        return Finding(about, otherwise, f"a value that was stored came back as {found!r}")
    if url.startswith("file:"):
        text = f"a folder that processes can share; made ready in {(connected - begun) * 1e3:.0f} ms"
    else:
        text = f"a server that serves; changes are heard of: {link}"
    return Finding(about, GOOD, f"{text}, stored and read back in {took * 1e3:.1f} ms")


def without_password(url: str) -> str:
    """A URL without its password and options, to be shown."""
    scheme, separator, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    user, colon, _ = credentials.partition(":")
    hidden = "***@" * bool(at) if not (user and colon) else f"{user}:***@"
    return f"{scheme}{separator}{hidden}{host}".partition("?")[0]


def missing_folders(url: str) -> list[Path]:
    """The folders that trying a URL would leave behind: the topmost missing one, else the namespace's own."""
    if not url.startswith("file:///"):
        return []
    from urllib.parse import unquote

    path = Path(unquote(url[len("file://"):]), NAMESPACE)
    if path.exists():
        return []
    while not path.parent.exists():
        path = path.parent
    return [path]


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cachebox-doctor-", ignore_cleanup_errors=True) as path:
        yield Path(path, "cache")


def as_text(findings: list[Finding], screen: Screen) -> Iterator[str]:
    """The result for people, line by line."""
    marks = {GOOD: screen.symbol("✓", "ok"), NOTE: screen.symbol("–", "--"), BAD: screen.symbol("✗", "!!")}
    paint = {GOOD: screen.green, NOTE: screen.dim, BAD: screen.red}
    margin = 4 + max(len(each.about) for each in findings if "://" not in each.about) + 2
    for each in findings:
        mark = paint[each.state](marks[each.state].ljust(2))
        lines = textwrap.wrap(each.text, max(24, min(screen.width - 1, WIDEST) - margin), break_on_hyphens=False)
        if "://" in each.about:
            yield f"{mark}  {each.about}"
        else:
            yield f"{mark}  {each.about.ljust(margin - 4)}{lines.pop(0)}"
        yield from (" " * margin + line for line in lines)
