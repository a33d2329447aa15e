"""The slow function of the demo: which name of the language does a word resemble most?"""

import builtins
import keyword

MOST_EDITS = 2

NAMES = {
    name: set(name) for name in sorted({*keyword.kwlist, *(name for name in dir(builtins) if not name.startswith("_"))})
}


def edit_distance(a: str, b: str) -> int:
    """The number of letters to insert, drop or replace to turn `a` into `b` (Levenshtein, 1965). O(len(a) * len(b)).

    >>> edit_distance("pritn", "print")
    2
    """
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        above, row, left = row, [i], i
        for other, corner, up in zip(b, above, above[1:], strict=False):
            left = corner if letter == other else 1 + min(corner, up, left)
            row.append(left)
    return row[-1]


def nearest(word: str) -> str:
    """The keyword or builtin name closest to a word; the empty string if it takes more than two edits.

    >>> nearest("pritn"), nearest("retrun"), nearest("cachebox")
    ('print', 'return', '')
    """
    letters = set(word)
    fewest, found = MOST_EDITS + 1, ""
    for name, its_letters in NAMES.items():
        if abs(len(name) - len(word)) < fewest and len(letters - its_letters) < fewest:     # else it takes more edits
            edits = edit_distance(word, name)
            if edits < fewest:
                fewest, found = edits, name
    return found
