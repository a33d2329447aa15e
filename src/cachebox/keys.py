"""Key functions for arguments that cannot be hashed, or whose value is elsewhere: arrays, frames and files.

>>> from cachebox import cached, keys
>>> @cached(key_func=keys.array)
... def total(numbers):
...     return sum(numbers)
>>> import array
>>> total(array.array("d", [1, 2])), total(array.array("d", [1, 2]))
(3.0, 3.0)
>>> total.cache_info().hits
1

`array` and `frame` recognise arrays and frames by what they can do: neither numpy nor pandas is ever imported here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable
from hashlib import blake2b
from typing import Any

from cachebox._calls.key_arguments import KeyArguments
from cachebox._platform.awaitables import refuse_async

LONGEST = 64
"""The most bytes of an array that are part of a key; of more bytes, a digest of 32 bytes is."""

KeyFunction = Callable[..., Hashable]


def array(*args: Any, **kwargs: Any) -> Hashable:
    """A key for arguments that may be arrays. Each array counts by its type, dtype, shape and bytes.

    Args:
        args, kwargs: those of the call. Arrays are objects with numpy's array protocol, and buffers. Frames count as
            for `frame`. All other arguments have to be hashable, and count as they are.

    O(size of the arrays): their bytes are read, and hashed with BLAKE2. Arrays of objects count by their items. Raises
    TypeError if an argument is neither hashable nor an array. Safe from any thread.

    >>> array(memoryview(b"ab")) == array(memoryview(b"ab")) != array(memoryview(b"ac"))
    True
    """
    return _key(args, kwargs)


def frame(*args: Any, **kwargs: Any) -> Hashable:
    """A key for arguments that may be frames or series. Each counts by labels, dtypes, index and values.

    Args:
        args, kwargs: those of the call. Frames, series and indices are those of pandas or polars. Arrays count as for
            `array`. All other arguments have to be hashable, and count as they are.

    O(size of the frames); columns of objects take a step of Python for each value. Raises TypeError if an argument is
    neither hashable nor a frame or an array. Safe from any thread.
    """
    return _key(args, kwargs)


def file(path: Any = None, *args: Any, **kwargs: Any) -> Hashable:
    """A key for a call whose first argument is the path of a file: its absolute path, size and time of change.

    Args:
        path: a str, bytes or path object; as a keyword it has to be the first one.
        args, kwargs: the other arguments of the call, which have to be hashable, and count as they are.

    A changed file has another key. An absent file is no error; it has another key when it is created. Asks the file
    system once. Raises TypeError if the first argument is no path. Safe from any thread.

    >>> file("no such file", 1) == file("no such file", 1)
    True
    """
    given = {} if path is None else {"path": path}
    if path is None and kwargs:
        name = next(iter(kwargs))
        given = {name: kwargs.pop(name)}
    if not given:
        raise TypeError("keys.file needs the path of a file as the first argument")
    found = os.path.abspath(os.fspath(next(iter(given.values()))))
    try:
        state = os.stat(found)
    except (FileNotFoundError, NotADirectoryError):
        return ("file", found, None, None, _key(args, kwargs))
    return ("file", found, state.st_size, state.st_mtime_ns, _key(args, kwargs))


class combine:
    """A key function that treats each parameter in its own way, however it is passed.

    Args:
        parts: key functions for the first parameters, in order; None: the argument itself. Before them there may be a
            str, with which every key begins: it separates functions that share a cache.
        ignore: names of parameters that do not belong to the key: a str, or an iterable of these.
        named: key functions by the name of the parameter.

    For parameters without a key function, the argument itself counts. Calls are normalised: keywords, their order and
    left-out defaults make no difference. Raises TypeError if a part is not callable; ValueError, when it decorates a
    function, if that has no such parameter. O(cost of the parts). Safe from any thread.

    >>> from cachebox import cached
    >>> @cached(key_func=combine("size", path=file))
    ... def size(path, unit="bytes"):
    ...     return 0
    >>> size("a"), size(path="a", unit="bytes")
    (0, 0)
    >>> size.cache_info().misses
    1
    """

    def __init__(
        self,
        *parts: str | KeyFunction | None,
        ignore: str | Iterable[str] = (),
        **named: KeyFunction | None,
    ) -> None:
        has_prefix = bool(parts) and isinstance(parts[0], str)
        self._prefix = parts[0] if has_prefix else None
        self._parts: tuple[Any, ...] = parts[has_prefix:]
        for part in (*self._parts, *named.values()):
            if part is not None and not callable(part):
                raise TypeError(f"a part of keys.combine must be a key function or None, not {type(part).__name__}")
            refuse_async("a part of keys.combine", part)
        self._named = named
        self._ignore = ignore
        self._arguments: KeyArguments | None = None
        self._positional: tuple[str, ...] = ()

    def bound_to(self, function: Callable[..., Any]) -> KeyFunction:
        """The key function for one function, whose parameters it knows by name. `cached` calls it."""
        bound = combine(*self._parts, ignore=self._ignore, **self._named)
        bound._prefix = self._prefix
        bound._arguments = arguments = KeyArguments(function, ignore=self._ignore, normalize=True, hashes=False)
        for name in self._named:
            if name not in arguments.names:
                shown = getattr(function, "__qualname__", repr(function))
                raise ValueError(f"keys.combine names {name!r}, but {shown} has no such parameter")
        if len(self._parts) > len(arguments.names):
            raise ValueError(f"keys.combine has {len(self._parts)} parts, for {len(arguments.names)} parameters")
        bound._positional = arguments.positional
        bound._named = {**dict(zip(arguments.names, self._parts, strict=False)), **self._named}
        return bound

    def __call__(self, *args: Any, **kwargs: Any) -> Hashable:
        """The key of a call."""
        taken = None if self._arguments is None else self._arguments.of(args, kwargs)
        if taken is None:                   # not bound to a function, or with arguments that the function will refuse
            positional = zip(self._parts + (None,) * len(args), args, strict=False)
            parts = [_part(value) if part is None else part(value) for part, value in positional]
            keywords = kwargs
        else:
            _, values, keywords = taken
            names = (*self._positional, *[None] * len(values))      # the others are the items of *args
            parts = [self._of(name, value) for name, value in zip(names, values, strict=False)]
        more = tuple((name, self._of(name, value)) for name, value in sorted(keywords.items()))
        return (tuple(parts), more) if self._prefix is None else (self._prefix, tuple(parts), more)

    def _of(self, name: str | None, value: Any) -> Hashable:
        part = self._named.get(name) if name is not None else None
        return _part(value) if part is None else part(value)


# --- parts of keys ----------------------------------------------------------------------------------------------------


def _key(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
    return tuple(map(_part, args)), tuple((name, _part(value)) for name, value in sorted(kwargs.items()))


def _part(value: Any) -> Hashable:
    """The part of a key that stands for an argument."""
    kind = type(value)
    if kind in (str, int, float, bool, bytes, type(None)):
        found: Hashable = value
        return found
    if hasattr(kind, "iloc") or hasattr(kind, "get_columns"):
        return _frame_part(value)
    if hasattr(kind, "dtype") and hasattr(value, "to_numpy"):      # an index, or a series of polars
        return _column_part(value)
    if hasattr(kind, "__array__") and not (value.shape == () and kind.__hash__ is not None):
        return _array_part(value)
    if kind.__hash__ is None or isinstance(value, memoryview):
        try:
            return _buffer_part(memoryview(value), kind)
        except TypeError:
            pass
    try:
        hash(value)
    except TypeError as error:
        raise TypeError(f"an argument of a key is neither hashable, nor an array or a frame: {error}") from None
    return ("tuple", value) if isinstance(value, tuple) else value


def _array_part(value: Any) -> Hashable:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    mask = getattr(value, "mask", None)
    if not hasattr(value, "tobytes") or not hasattr(value.dtype, "hasobject"):
        value = value.__array__()               # of another library: take a numpy array of the same values
    dtype = value.dtype
    written = dtype.str if dtype.fields is None else str(dtype.descr)
    if dtype.hasobject:
        contents: Hashable = _digest(_written(item) for item in value.ravel().tolist())
    else:
        contents = _short(value.tobytes())
    masked = () if mask is None or not hasattr(mask, "tobytes") else (_short(mask.tobytes()),)
    return ("array", kind, written, tuple(value.shape), contents, *masked)


def _buffer_part(value: memoryview, kind: type) -> Hashable:
    return ("array", f"{kind.__module__}.{kind.__qualname__}", value.format, value.shape, _short(value.tobytes()))


def _frame_part(value: Any) -> Hashable:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    index = _column_part(value.index) if hasattr(value, "index") else None
    if not hasattr(value, "columns"):           # a series
        return ("frame", kind, _written(value.name), index, _column_part(value))
    labels = value.columns
    if hasattr(value, "get_columns"):
        columns = value.get_columns()
    else:
        columns = [value.iloc[:, k] for k in range(len(labels))]
        labels = (_column_part(labels),)
    return ("frame", kind, tuple(labels), index, len(value), *map(_column_part, columns))


def _column_part(value: Any) -> Hashable:
    """The part for a column or an index: the names, the dtype, and the values."""
    names = getattr(value, "names", (getattr(value, "name", None),))
    head = (type(value).__qualname__, _written(tuple(names)), str(value.dtype))
    if type(value).__qualname__ == "RangeIndex":
        return ("column", *head, value.start, value.stop, value.step)
    values = getattr(value, "cat", value) if str(value.dtype) == "category" else value
    if hasattr(values, "categories") and hasattr(values, "codes"):
        return ("column", *head, bool(values.ordered), _part(values.categories), _array_part(values.codes.__array__()))
    plain = value.to_numpy()
    if plain.dtype.hasobject:
        return ("column", *head, len(value), _digest(map(_written, plain.tolist())))
    return ("column", *head, _array_part(plain))


def _short(contents: bytes) -> bytes:
    return contents if len(contents) <= LONGEST else blake2b(contents, digest_size=32).digest()


def _digest(texts: Iterable[str]) -> bytes:
    """A digest of texts, which depends on where each of them ends."""
    digest = blake2b(digest_size=32)
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(encoded))
        digest.update(encoded)
    return digest.digest()


def _written(value: Any) -> str:
    """An object in a column or an array as text, which shows type and value."""
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        items = [_written(item) for item in value]
        return f"{kind.__name__}{sorted(items) if kind in (set, frozenset) else items}"
    if kind is dict:
        return f"dict{sorted((_written(key), _written(item)) for key, item in value.items())}"
    if hasattr(kind, "__array__") and getattr(value, "shape", ()) != ():
        return repr(_array_part(value))
    if kind.__repr__ is object.__repr__:  # type: ignore[comparison-overlap]
        from pickle import dumps

        return f"{kind.__module__}.{kind.__qualname__}:{dumps(value, 5).hex()}"
    return f"{kind.__module__}.{kind.__qualname__}:{value!r}"
