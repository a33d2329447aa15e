"""`ABSENT`: the value stored for a key of which a function of many keys said that it has no value."""

from __future__ import annotations


class _Absent:
    """The class of `ABSENT`. It has one object; copying and unpickling return that object."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ABSENT"

    def __reduce__(self) -> str:
        return "ABSENT"

    def __deepcopy__(self, memo: object) -> _Absent:
        return self


ABSENT = _Absent()
