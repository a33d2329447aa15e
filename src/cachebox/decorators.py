"""`cached` and `lru_cache`: functions that remember their results."""

import sys

from cachebox.cache import Cache, tags_as_given
from cachebox.calls import token_of
from cachebox.options import check_failures
from cachebox.wrappers import BoundFunction, CachedFunction, CachedMethod

_CO_GENERATOR, _CO_COROUTINE, _CO_ASYNC_GENERATOR = 0x20, 0x80, 0x200   # as in inspect, which is slow to import
_GIVEN_BY_DEFAULT = object()


def cached(
    cache=None,
    *,
    ttl=None,
    key_func=None,
    max_size=_GIVEN_BY_DEFAULT,
    policy=_GIVEN_BY_DEFAULT,
    typed=False,
    condition=None,
    single_flight=True,
    tags=None,
    cache_exceptions=(),
    exception_ttl=None,
):
    """Remember a function's results: ``@cached``, ``@cached(cache)`` or ``@cached(max_size=..., ttl=...)``.

    Args:
        cache: a `Cache` to keep the results in, which other functions may share, or a `DistributedCache`, which other
            processes share too; None: the function gets its own, of 1000 entries unless `max_size` says otherwise.
        ttl: how long a result lives: seconds (a number greater than 0), a `timedelta`, or a function of the result that
            returns one of these (0 or less: do not store it). None: as long as the cache lets entries live.
        key_func: called with the arguments (a method's include ``self``), returns the key: any hashable object.
        max_size, policy: those of the function's own cache, see `Cache`; not together with `cache`.
        typed: whether ``f(1)`` and ``f(1.0)`` are different calls.
        condition: a function of the result; only where it returns something true is the result stored.
        single_flight: whether concurrent calls with one missing key run the function once and share its result or its
            exception. A recursive call with the same arguments runs the function again instead of waiting for itself.
        tags: of the results, for ``cache.invalidate_tag``: a str, an iterable of hashable tags, or a function that
            returns one of these, called with the result and then the arguments of the call.
        cache_exceptions: classes of exceptions: a call that raised one of these is not made again for `exception_ttl`,
            but raises a copy of it, in this process. None by default.
        exception_ttl: how long such a failure is remembered, given as `ttl` is; None: as long as the cache lets entries
            live.

    Works on functions, ``async def`` functions, methods, and above or below `classmethod` and `staticmethod`. Raises
    TypeError for a generator function, and for options that exclude each other; ValueError or TypeError for a `ttl`,
    `max_size` or `policy` that makes no sense.

    What it returns is called as the function is, and has

    - ``cache``, the `Cache` behind it, and ``__wrapped__``, the function;
    - ``cache_info()``, ``cache_parameters()`` and ``cache_clear()``, as functools has them;
    - ``invalidate(...)``, which forgets the result of the call with these arguments and tells whether there was one;
    - ``cache_key(...)``, the key of that call. On an instance, as in ``a.m.invalidate(x)``, neither takes self.

    Exceptions are not cached; None is. Keys are values, compared by ``==``; ``f(1)`` and ``f(x=1)`` are different
    calls, and unhashable arguments are a TypeError, unless `key_func` makes other keys. A hit hands out the very object
    that was stored. A method's results belong to the instance: they do not keep it alive, go when it goes, and no other
    instance gets them; an instance that takes no weak references is computed every time. A result that is the instance
    is not stored; one that refers to it, such as a list with the instance in it, keeps it as long as it is stored.

    All of it is safe from any thread and any event loop. A hit takes time O(1) in the number of results.

    >>> @cached(max_size=100, ttl=60)
    ... def square(x):
    ...     print("computing")
    ...     return x * x
    >>> square(3), square(3)
    computing
    (9, 9)
    >>> square.cache_info()
    CacheInfo(hits=1, misses=1, maxsize=100, currsize=1)
    >>> square.invalidate(3)
    True
    """

    def decorate(function):
        if isinstance(function, classmethod):
            return CachedClassMethod(make(function.__func__, is_method=True))
        if isinstance(function, staticmethod):
            return staticmethod(make(function.__func__, is_method=False))
        return make(function, is_method=_is_in_class(function) and _starts_with_receiver(function))

    def make(function, is_method):
        is_async = _check_function(function)
        own = Cache(**options) if cache is None else cache
        wrapper = (CachedMethod if is_method and key_func is None else CachedFunction)(
            function,
            own,
            token=None if cache is None else token_of(function),
            typed=typed,
            is_method=is_method,
            single_flight=single_flight,
            ttl=ttl,
            condition=condition,
            key_func=key_func,
            tags=None if tags is None else tags_as_given(tags),
            failures=failures_of(own) if cache_exceptions else None,
            coroutines=_coroutines() if is_async else None,
            on_first_miss=_look_for_classmethod if _is_in_class(function) else None,
            parameters={"maxsize": own.max_size, "typed": typed, "policy": own.policy, "ttl": ttl},
        )
        return _like(wrapper, function, is_async)

    def failures_of(own):
        from cachebox.failures import Failures

        ttl = own.default_ttl if exception_ttl is None else exception_ttl
        return Failures(cache_exceptions, ttl, own.max_size, own._clock)

    if cache is not None and not isinstance(cache, Cache):
        if hasattr(type(cache), "_decorate"):   # a cache of another kind, which knows best how to be used
            if max_size is not _GIVEN_BY_DEFAULT or policy is not _GIVEN_BY_DEFAULT:
                raise TypeError("max_size and policy cannot go together with cache: they are the cache's own")
            _check_callables(key_func=key_func, condition=condition)
            check_failures(cache_exceptions, exception_ttl)
            options = {"ttl": ttl, "key_func": key_func, "typed": typed, "condition": condition}
            if tags is not None:
                options["tags"] = tags
            if cache_exceptions:
                options.update(cache_exceptions=cache_exceptions, exception_ttl=exception_ttl)
            return _decorator_of(cache, single_flight=single_flight, **options)
        if not callable(cache) and not isinstance(cache, (classmethod, staticmethod)):
            hint = f": write cached(max_size={cache})" if type(cache) is int else ""
            raise TypeError(f"cache must be a Cache, or the function to decorate, not {type(cache).__name__}{hint}")
        function, cache = cache, None
    else:
        function = None
    options = {"max_size": max_size, "policy": policy}
    options = {name: value for name, value in options.items() if value is not _GIVEN_BY_DEFAULT}
    if cache is not None and options:
        raise TypeError(f"{' and '.join(options)} cannot go together with cache: they are the cache's own")
    _check_callables(key_func=key_func, condition=condition)
    check_failures(cache_exceptions, exception_ttl)
    if tags is not None:
        tags_as_given(tags)
    return decorate if function is None else decorate(function)


def lru_cache(maxsize=128, typed=False):
    """`functools.lru_cache` with another import line: the same arguments, attributes and semantics, faster.

    Args:
        maxsize: the most results kept, an int; None: no bound; 0 or less: nothing is kept, misses are counted.
        typed: whether arguments of different types are different calls.

    Unlike `cached`, concurrent calls may compute the same result at the same time, and a method's results keep its
    instance alive and are shared by equal instances, as in functools. A hit is O(1), and safe from any thread.

    >>> @lru_cache(maxsize=32)
    ... def fib(n):
    ...     return n if n < 2 else fib(n - 1) + fib(n - 2)
    >>> fib(30), fib.cache_info()
    (832040, CacheInfo(hits=28, misses=31, maxsize=32, currsize=31))
    """

    def decorate(function):
        if not callable(function):
            raise TypeError(f"the first argument must be callable, not {type(function).__name__}")
        wrapper = CachedMethod(
            function,
            Cache(None if maxsize is None else max(int(maxsize), 1)),
            typed=typed,
            only_plain_alone=True,
            binds_weakly=False,
            unwatched=True,
            first_wins=maxsize is not None,
            stores=maxsize != 0,
            parameters={"maxsize": maxsize, "typed": typed},
        )
        return _like(wrapper, function, False)

    if isinstance(maxsize, int):
        maxsize = max(maxsize, 0)
    elif callable(maxsize) and isinstance(typed, bool):
        function, maxsize = maxsize, 128
        return decorate(function)
    elif maxsize is not None:
        raise TypeError("Expected first argument to be an integer, a callable, or None")
    return decorate


class CachedClassMethod(classmethod):
    """A class method whose `invalidate` and `cache_key` know the class, as its calls do."""

    def __get__(self, instance, owner=None):
        return BoundFunction(self.__func__, type(instance) if owner is None else owner)


class _ClassMethodOf(classmethod):
    """The same, where the cache makes its own wrappers."""

    def __get__(self, instance, owner=None):
        return self.__func__.__get__(type(instance) if owner is None else owner, type)


def _check_callables(**given) -> None:
    for name, value in given.items():
        if value is not None and not callable(value):
            raise TypeError(f"{name} must be callable or None, not {type(value).__name__}")


def _decorator_of(cache, **options):
    """What `cached` returns for a cache that makes its own wrappers, by a method `_decorate`."""

    def decorate(function):
        if isinstance(function, classmethod):
            return _ClassMethodOf(decorate(function.__func__))
        if isinstance(function, staticmethod):
            return staticmethod(decorate(function.__func__))
        return cache._decorate(function, is_coroutine=_check_function(function), **options)

    return decorate


def _check_function(function) -> bool:
    """Whether it is an async function; TypeError where it cannot be cached."""
    if not callable(function):
        raise TypeError(f"cached decorates functions, not {type(function).__name__}")
    from functools import partial

    inner = function
    while isinstance(inner, partial):
        inner = inner.func
    inner = getattr(inner, "__func__", inner)
    code = getattr(inner, "__code__", None) or getattr(type(inner).__call__, "__code__", None)
    flags = getattr(code, "co_flags", 0)
    if flags & (_CO_GENERATOR | _CO_ASYNC_GENERATOR):
        raise TypeError(
            f"{getattr(function, '__qualname__', function)} is a generator function: all but the first call would get "
            "an exhausted iterator; return a list or a tuple instead"
        )
    return bool(flags & _CO_COROUTINE) or _is_marked(inner)


def _is_marked(function) -> bool:
    """Whether it has been marked as an async function: then the module that marks them has been imported already."""
    module = sys.modules.get("inspect" if sys.version_info >= (3, 12) else "asyncio.coroutines")
    return hasattr(module, "iscoroutinefunction") and module.iscoroutinefunction(function)


def _is_in_class(function) -> bool:
    """Whether it is written in a class body, and not bound to an instance yet."""
    scope = getattr(function, "__qualname__", "").rpartition(".")[0]
    return scope != "" and not scope.endswith("<locals>") and not hasattr(function, "__self__")


def _starts_with_receiver(function) -> bool:
    """Whether it takes ``self`` or ``cls``: in a class body it is a method then, whatever wraps it."""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_argcount > 0 and code.co_varnames[0] in ("self", "cls")


def _look_for_classmethod(wrapper, first) -> bool:
    """Where a class method wraps the wrapper, Python 3.13 and later do not ask the wrapper to bind: make it so."""
    found = False
    if isinstance(first, type):
        for owner in first.__mro__:
            for name, attribute in list(vars(owner).items()):
                if type(attribute) is classmethod and attribute.__func__ is wrapper:
                    type.__setattr__(owner, name, CachedClassMethod(wrapper))      # whatever the metaclass thinks of it
                    found = True
    return found


def _coroutines():
    from cachebox import coroutines

    return coroutines


def _like(wrapper, function, is_async):
    """Give the wrapper the name and the documentation of what it wraps."""
    from functools import update_wrapper

    update_wrapper(wrapper, function)
    if is_async and sys.version_info >= (3, 12):
        from inspect import markcoroutinefunction

        markcoroutinefunction(wrapper)
    elif is_async:
        from asyncio.coroutines import _is_coroutine

        wrapper._is_coroutine = _is_coroutine
    return wrapper
