"""The arguments that belong to a call's key: `ignore`, `normalize` and `vary` of `cached`.

The arguments of a call are changed into those of another call, whose key is used. The values of `vary` come first,
ignored arguments are left out, and the rest is normalised if wanted. A hit makes no key of them; see `call_key`.

A normalised call has these arguments: positional parameters by position, with defaults for those left out; the items of
`*args`; keyword-only parameters in their order; the items of `**kwargs`, by name. So all spellings of one call have one
key, and no two calls share a key.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject

from _contextvars import ContextVar

from cachebox._platform.awaitables import refuse_async, refuse_awaitable


cdef extern from *:
    """
    #define cb_item_of(tuple, at) PyTuple_GET_ITEM(tuple, at)
    #define cb_items_in(tuple) (((PyTupleObject *)(tuple))->ob_item)
    #define cb_owned(object) ((PyObject *)(object))
    """
    PyObject* item_of "cb_item_of"(PyObject* tuple, Py_ssize_t at) noexcept
    PyObject** items_in "cb_items_in"(tuple tuple) noexcept
    Py_ssize_t size_of "PyTuple_GET_SIZE"(PyObject* tuple) noexcept
    PyObject* new_reference "Py_NewRef"(PyObject* object) noexcept
    void forget "Py_XDECREF"(PyObject* object) noexcept
    object owned "cb_owned"(PyObject* object)
    PyObject* call_plainly "PyObject_CallNoArgs"(PyObject* callable) except NULL


cdef class _Unset:
    """The type of `UNSET`."""

    def __repr__(self):
        return "UNSET"

    def __reduce__(self):
        return "UNSET"


UNSET = _Unset()
"""Stands in a key for a context variable without a value."""


cdef class _Default:
    """Stands for a default that cannot be hashed, if the parameter was left out."""

    cdef object shown

    def __init__(self, shown):
        self.shown = shown

    def __repr__(self):
        return f"<default {self.shown}>"


cdef object _REQUIRED = object()
cdef PyObject* REQUIRED = <PyObject*>_REQUIRED
cdef PyObject* UNSET_ = <PyObject*>UNSET


cdef class KeyArguments:
    """What `ignore`, `normalize` and `vary` say about the arguments of a function.

    Args:
        function: any callable whose signature can be read; any callable at all if only `vary` is given.
        ignore: names of parameters that do not belong to the key: a str, or an iterable of these.
        normalize: whether all spellings of a call have one key.
        vary: a ContextVar, a callable without arguments, or an iterable of these. Their values belong to the key.
        hashes: whether keys are hashed, so that unhashable defaults need a stand-in.

    Raises ValueError for a name that the function does not have, TypeError for any other argument that makes no sense.
    """

    def __init__(self, function, *, ignore=(), normalize=False, vary=(), hashes=True):
        self.vary = checked_vary(vary)
        names = checked_names(ignore)
        self.normalize = bool(normalize)
        self.names = self.defaults = self.positional = self.keyword_only = ()
        self.index_of = {}
        self.has_rest = self.has_more = True
        if names or normalize:
            self.read(function, names, hashes)
        self.ignored_names = frozenset(names)
        self.ignored = bytes([name in names for name in self.names])
        self.is_ignored = self.ignored
        self.required = REQUIRED
        self.is_quick = len(self.names) == self.by_position <= FEW and not self.vary
        self.source = NULL
        if len(self.vary) == 1 and len(self.names) == self.by_position < FEW and is_variable(<PyObject*>self.vary[0]):
            self.source = <PyObject*>self.vary[0]
        self.takes_one = not self.ignored_names and (not self.normalize or len(self.names) == 1)
        self.ignores_first = self.by_position != 0 and self.is_ignored[0]

    cdef int read(self, object function, tuple ignored, bint hashes) except -1:
        """Read the parameters from the signature."""
        from inspect import Parameter, signature

        shown = getattr(function, "__qualname__", repr(function))
        try:
            parameters = list(signature(function).parameters.values())
        except (TypeError, ValueError):
            what = "normalize" if not ignored else "ignore"
            raise TypeError(f"{what} needs the signature of {shown}, which cannot be read: use key_func") from None
        known = {parameter.name for parameter in parameters}
        kinds = {parameter.kind: parameter.name for parameter in parameters}
        rest, more = kinds.get(Parameter.VAR_POSITIONAL), kinds.get(Parameter.VAR_KEYWORD)
        for name in ignored:
            if name not in known and more is None:
                from difflib import get_close_matches

                close = get_close_matches(name, known, 1, 0.6)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ValueError(f"ignore names {name!r}, but {shown} has no such parameter{hint}")
        named = [parameter for parameter in parameters if parameter.name not in (rest, more)]
        self.names = tuple([parameter.name for parameter in named])
        self.defaults = tuple([default_of(parameter, hashes) for parameter in named])
        self.only_by_position = sum([parameter.kind is Parameter.POSITIONAL_ONLY for parameter in named])
        self.by_position = sum([parameter.kind is not Parameter.KEYWORD_ONLY for parameter in named])
        self.index_of = {name: k for k, name in enumerate(self.names) if k >= self.only_by_position}
        self.positional = tuple([name for name in self.names[:self.by_position] if name not in ignored])
        self.keyword_only = tuple([name for name in self.names[self.by_position:] if name not in ignored])
        self.has_rest, self.has_more = rest is not None, more is not None
        self.ignores_rest, self.ignores_more = rest in ignored, more in ignored
        return 0

    def of(self, tuple args, dict kwargs, bint is_method=False):
        """The arguments of a call that belong to its key: (varied, positional, keywords), or None.

        None: the function does not take these arguments, and will raise. `is_method`: the first one is the receiver,
        which is left out.
        """
        cdef Arguments taken
        cdef tuple flat = args + tuple(kwargs.values()), names = tuple(kwargs)
        cdef Py_ssize_t k, v
        if not self.take(items_in(flat), len(args), <PyObject*>names if names else NULL, is_method, &taken):
            return None
        try:
            v = taken.varied
            keywords = {}
            if taken.names != NULL:
                for k, name in enumerate(<tuple>taken.names):
                    keywords[name] = <object>taken.items[taken.n + k]
            return (
                tuple([<object>taken.items[k] for k in range(v)]),
                tuple([<object>taken.items[k] for k in range(v, taken.n)]),
                keywords,
            )
        finally:
            drop(&taken)

    cdef int take(
        self, PyObject** args, Py_ssize_t n, PyObject* names, Py_ssize_t first, Arguments* taken
    ) except -1:
        """Collect the arguments of a call, from index `first` on, that belong to its key. `drop` them later.

        Returns 0, with nothing to drop, if the function does not take these arguments.
        """
        cdef Py_ssize_t most = len(self.vary) + n + len(self.names) + (size_of(names) if names != NULL else 0)
        cdef int done = -1
        taken.names = NULL
        taken.n = taken.varied = 0
        taken.items = taken.few
        if most > FEW:
            taken.items = <PyObject**>PyMem_Malloc(most * sizeof(PyObject*))
            if taken.items == NULL:
                raise MemoryError("no memory left for the arguments of a call")
        try:
            if self.vary:
                self.vary_by(taken)
            if self.normalize:
                done = self.take_normalized(args, n, names, first, taken)
            else:
                done = self.take_as_given(args, n, names, first, taken)
        finally:
            if done <= 0:
                drop(taken)
        return done

    cdef int vary_by(self, Arguments* taken) except -1:
        cdef PyObject* vary = <PyObject*>self.vary
        cdef PyObject* at
        cdef PyObject* value
        cdef Py_ssize_t k
        for k in range(size_of(vary)):
            at = item_of(vary, k)
            if is_variable(at):
                if get_variable(at, &value) < 0:
                    raise_current()
                if value == NULL:
                    value = new_reference(UNSET_)
            else:
                value = call_plainly(at)
            taken.items[k] = value
            taken.varied = taken.n = k + 1
            if not is_variable(at):
                refuse_awaitable("vary", <object>value)
        return 0

    cdef int take_as_given(
        self, PyObject** args, Py_ssize_t n, PyObject* names, Py_ssize_t first, Arguments* taken
    ) except -1:
        """The arguments that are not ignored, in the spelling of the call."""
        cdef Py_ssize_t k, at = taken.n, keywords = size_of(names) if names != NULL else 0
        cdef list kept
        for k in range(first, n):
            if k < self.by_position:
                if self.is_ignored[k]:
                    continue
            elif self.ignores_rest:
                break
            taken.items[at] = args[k]
            at += 1
        taken.n = at
        if not keywords:
            return 1
        if not self.ignored_names:
            for k in range(keywords):
                taken.items[at + k] = args[n + k]
            taken.names = new_reference(names)
            return 1
        kept = []
        for k in range(keywords):
            name = <object>item_of(names, k)
            if name in self.ignored_names or (self.ignores_more and name not in self.index_of):
                continue
            taken.items[at] = args[n + k]
            at += 1
            kept.append(name)
        if kept:
            names_kept = tuple(kept)
            taken.names = new_reference(<PyObject*>names_kept)
        return 1

    cdef int take_normalized(
        self, PyObject** args, Py_ssize_t n, PyObject* names, Py_ssize_t first, Arguments* taken
    ) except -1:
        cdef PyObject* parameters = <PyObject*>self.names
        cdef PyObject* defaults = <PyObject*>self.defaults
        cdef PyObject* name
        cdef PyObject** values = taken.items + taken.n   # first of all parameters, then of those that belong to the key
        cdef Py_ssize_t k, j, every = size_of(parameters), keywords = size_of(names) if names != NULL else 0
        cdef Py_ssize_t given = min(n, self.by_position), rest = n - given
        cdef dict more = None
        if rest and not self.has_rest:
            return 0
        for k in range(given):
            values[k] = args[k]
        for k in range(given, every):
            values[k] = NULL
        for k in range(keywords):
            name = item_of(names, k)
            j = self.only_by_position
            while j < every and item_of(parameters, j) != name:
                j += 1
            if j == every:                      # names are interned mostly, but need not be
                j = self.index_of.get(<object>name, every)
            if j < every:
                if values[j] != NULL:
                    return 0
                values[j] = args[n + k]
            elif not self.has_more:
                return 0
            elif not self.ignores_more and <object>name not in self.ignored_names:
                if more is None:
                    more = {}
                more[<object>name] = <object>args[n + k]
        for k in range(given, every):
            if values[k] == NULL:
                values[k] = item_of(defaults, k)
                if values[k] == REQUIRED:
                    return 0
        if not self.ignored_names and not first and not rest and every == self.by_position and more is None:
            taken.n += every
            return 1
        return self.arrange(args, n, rest, first, more, taken)

    cdef int arrange(
        self, PyObject** args, Py_ssize_t n, Py_ssize_t rest, Py_ssize_t first, dict more, Arguments* taken
    ) except -1:
        """The end of `take_normalized`: leave out ignored arguments, and put the others in order."""
        cdef PyObject** values = taken.items + taken.n
        cdef Py_ssize_t k, at = 0, kept, every = len(self.names)
        cdef PyObject* only[FEW]
        cdef PyObject** keyword_only = only
        cdef bint on_heap = every - self.by_position > FEW
        if on_heap:
            keyword_only = <PyObject**>PyMem_Malloc((every - self.by_position) * sizeof(PyObject*))
            if keyword_only == NULL:
                raise MemoryError("no memory left for the arguments of a call")
        kept = 0
        for k in range(self.by_position, every):
            if not self.is_ignored[k]:
                keyword_only[kept] = values[k]
                kept += 1
        for k in range(first, self.by_position):
            if not self.is_ignored[k]:
                values[at] = values[k]
                at += 1
        if not self.ignores_rest:
            for k in range(rest):
                values[at] = args[n - rest + k]
                at += 1
        taken.n += at
        for k in range(kept):
            values[at] = keyword_only[k]
            at += 1
        if on_heap:
            PyMem_Free(keyword_only)
        names = self.keyword_only
        if more is not None:
            for name in sorted(more):
                values[at] = <PyObject*>more[name]      # the call holds a reference
                at += 1
            names = (*names, *sorted(more))
        if names:
            taken.names = new_reference(<PyObject*>names)
        return 1


cdef int raise_current() except -1:
    """Let the current exception propagate."""
    return -1


cdef void drop(Arguments* taken) noexcept:
    """Free the arguments of a key."""
    cdef Py_ssize_t k
    for k in range(taken.varied):
        forget(taken.items[k])
    forget(taken.names)
    if taken.items != taken.few:
        PyMem_Free(taken.items)
    taken.names = NULL
    taken.varied = taken.n = 0
    taken.items = taken.few


def checked_names(given):
    """The names of parameters to ignore, as a tuple. Raises TypeError if they are not names."""
    if isinstance(given, str):
        return (given,)
    names = tuple(given) if hasattr(type(given), "__iter__") else None
    if names is None or not all([isinstance(name, str) for name in names]):
        raise TypeError(f"ignore must be names of parameters, such as ('session',), not {given!r}")
    return names


def checked_vary(given):
    """The sources of `vary`, as a tuple. Raises TypeError unless all are context variables or plain callables."""
    if isinstance(given, ContextVar) or callable(given):
        given = (given,)
    sources = tuple(given) if hasattr(type(given), "__iter__") and not isinstance(given, str) else (given,)
    for source in sources:
        if not isinstance(source, ContextVar) and not callable(source):
            raise TypeError(
                f"vary must be context variables, or callables without arguments, not {type(source).__name__}"
            )
        refuse_async("vary", source)
    return sources


cdef object default_of(object parameter, bint hashes):
    default = parameter.default
    if default is parameter.empty:
        return _REQUIRED
    if hashes:
        try:
            hash(default)
        except TypeError:
            return _Default(parameter.name)
    return default
