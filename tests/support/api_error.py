"""An exception like those of libraries: its constructor does not take its `args`."""

from __future__ import annotations


class Api(Exception):
    """Its `args` are not what its constructor takes."""

    made = 0

    def __init__(self, code, *, reason):
        type(self).made += 1
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
