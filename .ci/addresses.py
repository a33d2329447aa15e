"""Writes the addresses of the site and the repository into the README, from `[project.urls]` of pyproject.toml.

    python .ci/addresses.py             write them
    python .ci/addresses.py check       fail if they are not real, or differ from the README's
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    readme = ROOT / "README.md"
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    text = readme.read_text(encoding="utf-8")
    written = re.sub(r"(?<=\[repository\]\()[^)]*", urls["Source"], text)
    page = r"(?:(?:api|migration|recipes|_images)/)?\w+\.(?:html|svg)"
    written = re.sub(rf"https://[^)]+?/(?={page}\))", urls["Documentation"], written)
    if sys.argv[1:] == ["check"]:
        problems = [f"{name}: {url} is not a real address" for name, url in urls.items() if ".example" in url]
        problems += ["README.md has other addresses: run python .ci/addresses.py"] * (written != text)
        print("\n".join(problems), end="\n" * bool(problems))
        return bool(problems)
    readme.write_text(written, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
