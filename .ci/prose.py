"""Finds words in comments and docstrings for which the glossary of ARCHITECTURE.md, or plain English, has a better one.

    python .ci/prose.py             the files of CHECKED
    python .ci/prose.py PATH ...    these files and folders

Prints a line for each finding, and fails if there is one. Code is not looked at, nor are words between backticks.
"""

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECKED = ("ARCHITECTURE.md", "src/cachebox/*.*", *(
    f"src/cachebox/{folder}/**/*.*" for folder in ("_calls", "_engine", "_files", "_loading", "_platform", "_store")
))
SOURCES = {".py", ".pyi", ".pyx", ".pxd"}
INSTEAD = {                             # a pattern, and what to write
    r"whoever": "name the subject: the caller, the thread, the task",
    r"who (asks|calls|comes|has|holds|leads|needs|reads|takes|waits|wants|writes)": "name the subject, and use 'that'",
    r"anew": "again, or 'a new ...'",
    r"for ever": "without end, or never",
    r"(is|are|was|were) over(?! [\d`])": "has ended, has passed, is done",
    r"(am|are|be|been|being|is|was|were) told": "is notified of, learns, is given",
    r"besides?": "next to, in addition to",
    r"ditto|likewise|as above": "say it again",
    r"so many": "that many, or name the number",
    r", for (he|it|nobody|she|there|they|we|you)": "because",
    r"departures?": "removal",
    r"(has|have|had|gets?|takes?|without) the turn": "the policy lock",
    r"foreign polic(y|ies)": "python policy",
    r"(long|short) ways?": "slow path, fast path",
    r"land(s|ed|ing)?": "complete, store",
}
PATTERNS = [(re.compile(rf"(?<!\w){pattern}\b", re.IGNORECASE), words) for pattern, words in INSTEAD.items()]


def comments(path: Path) -> Iterator[tuple[int, str]]:
    """The number and text of each line of prose in a file: all lines of a page, comments and docstrings of a source."""
    if path.suffix not in SOURCES | {".h", ".md"}:
        return
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield from enumerate(text.split("\n"), 1)
    elif path.suffix == ".h":
        for found in re.finditer(r"/\*.*?\*/", text, re.DOTALL):
            yield from enumerate(found[0].split("\n"), text.count("\n", 0, found.start()) + 1)
    else:
        begins = True                   # a statement, which a docstring is by itself
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and begins):
                yield from enumerate(token.string.split("\n"), token.start[0])
            if token.type not in (tokenize.COMMENT, tokenize.NL):
                begins = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)


def findings(path: Path) -> Iterator[str]:
    for number, line in comments(path):
        prose = re.sub(r"`[^`]*`", "``", line)
        if re.match(r"\s*# \.\.\. ", prose):
            yield f"{number}: a comment that needs its neighbour: say it in full"
        for pattern, words in PATTERNS:
            if found := pattern.search(prose):
                yield f"{number}: {found[0]!r}: write {words}"


def main(given: list[str]) -> int:
    wanted = [path for name in given for path in ([Path(name)] if Path(name).is_file() else Path(name).rglob("*.*"))]
    paths = wanted if given else [path for pattern in CHECKED for path in ROOT.glob(pattern)]
    found = [f"{path.resolve().relative_to(ROOT)}:{text}" for path in sorted(paths) for text in findings(path)]
    print("\n".join(found) or "no words to replace")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
