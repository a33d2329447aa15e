"""Whose files are in this folder: the distribution ``cachebox`` is another library, which installs the same folder.

`setup.py` runs this file by itself, so it needs nothing but the standard library.
"""

import os
import sys

FOREIGN = ("_core.", "_cachebox.")
"""Prefixes of the names of files that only the other library has, in all its versions."""

MEND = "pip uninstall -y cachebox && pip install --force-reinstall --no-deps cachebox-cython"
"""Commands after which only our files are in the folder."""


def foreign_files(folder: str) -> list[str]:
    """The names of the other library's files in a folder, sorted; empty if there are none, or no folder."""
    try:
        return sorted(name for name in os.listdir(folder) if name.startswith(FOREIGN))
    except OSError:
        return []


def problem() -> str | None:
    """What is wrong with the folder that this package is imported from, as a sentence; None: nothing."""
    folder = os.path.dirname(os.path.abspath(__file__))
    if foreign := foreign_files(folder):
        return (
            f"{folder!r} also has files of the distribution 'cachebox' ({', '.join(foreign)}), which is another "
            "library and overwrites those of 'cachebox-cython'"
        )
    package = sys.modules.get("cachebox")
    if package is not None and getattr(package, "__file__", None) is None:
        return (
            f"{folder!r} has no __init__.py: the distribution 'cachebox', which is another library, overwrote that of "
            "'cachebox-cython', and took it away when it was uninstalled"
        )
    return None


def check() -> None:
    """Raise ImportError if other files are in the folder; the text has the commands that help."""
    if (found := problem()) is not None:
        raise ImportError(f"{found}. To keep cachebox-cython: {MEND}")
