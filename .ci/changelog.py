"""Collects the fragments of `changelog.d` in CHANGELOG.md, and turns "Unreleased" into a version.

    python .ci/changelog.py gather      fragments become lines under "Unreleased", and are removed
    python .ci/changelog.py X.Y.Z       the same, and "Unreleased" becomes version X.Y.Z of today, in pyproject.toml too
    python .ci/changelog.py check       fail if a fragment has a wrong name, or is empty

A fragment is a file `changelog.d/WORD.KIND.md`: any word, and one of the KINDS. So two branches never change the same
line.
"""

import datetime
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("added", "changed", "fixed", "removed", "security")
HEAD = "## [Unreleased]\n"


def fragments() -> dict[str, list[Path]]:
    """The files of each kind, sorted by name. Raises SystemExit for a file that is no fragment."""
    found: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for path in sorted((ROOT / "changelog.d").glob("*.md")):
        if path.name == "README.md":
            continue
        parts = path.name.split(".")
        if len(parts) != 3 or parts[1] not in KINDS or not path.read_text(encoding="utf-8").strip():
            sys.exit(f"{path.name}: it must be called WORD.KIND.md, KIND one of {', '.join(KINDS)}, and hold some text")
        found[parts[1]].append(path)
    return found


def gather(text: str, found: dict[str, list[Path]]) -> str:
    """The changelog with a line for each fragment, under the heading of its kind."""
    before, head, rest = text.partition(HEAD)
    if not head:
        sys.exit("CHANGELOG.md has no heading 'Unreleased'")
    unreleased, mark, after = rest.partition("\n## ")
    for kind, paths in found.items():
        lines = "".join(f"- {' '.join(path.read_text(encoding='utf-8').split())}\n" for path in paths)
        title = f"### {kind.capitalize()}\n"
        if lines and title in unreleased:
            unreleased = unreleased.replace(f"{title}\n", f"{title}\n{lines}", 1)
        elif lines:
            unreleased = f"{unreleased.rstrip()}\n\n{title}\n{lines}"
    return f"{before}{head}{unreleased}{mark}{after}"


def main(what: str) -> None:
    found = fragments()
    changelog, project = ROOT / "CHANGELOG.md", ROOT / "pyproject.toml"
    if what == "check":
        return
    text = gather(changelog.read_text(encoding="utf-8"), found)
    if what != "gather":
        if not re.fullmatch(r"\d+\.\d+\.\d+", what):
            sys.exit(f"{what!r} is not a version such as 1.2.3")
        text = text.replace(HEAD, f"{HEAD}\n## [{what}] - {datetime.date.today().isoformat()}\n", 1)
        settings = project.read_text(encoding="utf-8")
        project.write_text(re.sub(r'(?m)^version = ".*"$', f'version = "{what}"', settings, count=1), encoding="utf-8")
    changelog.write_text(text, encoding="utf-8")
    for paths in found.values():
        for path in paths:
            path.unlink()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
