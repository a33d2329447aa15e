"""`ABSENT`: what is stored for a key of which a function of many keys said that there is none."""

from __future__ import annotations


class _Absent:
    """The class of `ABSENT`, of which there is one object, in copies and pickles, too."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ABSENT"

    def __reduce__(self) -> str:
        return "ABSENT"

    def __deepcopy__(self, memo: object) -> _Absent:
        return self


ABSENT = _Absent()
