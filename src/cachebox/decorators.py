"""`cached` and `lru_cache`: functions that remember their results."""

from cachebox._calls.cached_function import CachedFunction, CachedMethod
from cachebox._calls.methods import CachedClassMethod
from cachebox._platform.awaitables import is_marked, refuse_async
from cachebox._platform.keywords import refuse_unknown
from cachebox._platform.registry import register
from cachebox._store.options import check_failures
from cachebox.cache import Cache, tags_as_given

_CO_GENERATOR, _CO_COROUTINE, _CO_ASYNC_GENERATOR = 0x20, 0x80, 0x200   # as in inspect, which is slow to import


class _ByDefault:
    """Stands for an option that was not given."""

    def __init__(self, shown):
        self._shown = shown

    def __repr__(self):
        return self._shown


_SIZE, _POLICY = _ByDefault("1000"), _ByDefault("'LRU'")


def cached(
    cache=None,
    *,
    ttl=None,
    key_func=None,
    max_size=_SIZE,
    policy=_POLICY,
    typed=False,
    condition=None,
    single_flight=True,
    tags=None,
    cache_exceptions=(),
    exception_ttl=None,
    clock=None,
    name=None,
    version=None,
    ignore=(),
    normalize=False,
    vary=(),
    returns=None,
    time_to_idle=None,
    refresh_ahead=None,
    stale_ttl=None,
    jitter=0.0,
    isolate=False,
    **unknown,
):
    """Cache a function's results: ``@cached``, ``@cached(cache)`` or ``@cached(max_size=..., ttl=...)``.

    Args:
        cache: a `Cache` for the results, which other functions may share, or a `DistributedCache`, which other
            processes share, too; None: the function gets its own, of 1000 entries unless `max_size` says otherwise.
        ttl: how long a result lives: seconds (a number greater than 0), a `timedelta`, or a function of the result that
            returns one of these (0 or less: do not store it). None: as long as the cache lets entries live.
        key_func: called with the arguments (a method's include ``self``), returns the key of the result: any hashable
            object (a `DistributedCache` needs a str). Functions that share a cache and return equal keys share
            results.
        max_size, policy, clock, time_to_idle, jitter, isolate: those of the function's own cache, see `Cache`; not
            together with `cache`.
        typed: whether ``f(1)`` and ``f(1.0)`` are different calls; not together with `key_func`.
        condition: a function of the result; the result is stored only if it returns a true value.
        single_flight: whether concurrent calls with one missing key run the function once and share its result or its
            exception. A recursive call with the same arguments runs the function again instead of waiting for itself.
        tags: of the results, for ``cache.invalidate_tag``: a str, an iterable of hashable tags, or a function that
            returns one of these, called with the result and then the arguments of the call.
        cache_exceptions: classes of exceptions. A call that raised one of these is not made again for `exception_ttl`,
            but raises a copy of it, in this process. None by default.
        exception_ttl: how long such a failure is remembered, given like `ttl`; None: as long as the cache lets entries
            live.

        name: the function's name in the keys of a shared `cache`, and in dumps. None: its module and qualified name,
            together with the simple values among its free variables and defaults. So functions that a factory makes
            for different values have different names.
        version: a part of the name: results of another version are not found. ``"code"`` takes a fingerprint of the
            function's code.
        ignore: names of parameters that do not belong to the key, such as ``("session",)``, however they are passed.
        normalize: whether ``f(1)``, ``f(x=1)`` and ``f(1, y=default)`` are one call.
        vary: a `ContextVar`, a callable without arguments, or several: their values belong to the key.
        returns: the type of the results, if a `DistributedCache` is to return that type; None: the function's
            annotation.
        refresh_ahead: a share of a result's lifetime, between 0 and 1. In that share, at its end, a call returns the
            older result, and is made again in the background, in its own context and with its own arguments.
        stale_ttl: how long after its deadline a result is still returned, given like `ttl`, while it is refreshed in
            the background, or the function fails. Neither of the two goes together with a `cache` that has a loader.

    Works on functions, ``async def`` functions, methods, and above or below `classmethod`, `staticmethod`, `property`
    and other decorators. A plain function that returns an awaitable is cached as an async one. Results that can be
    consumed only once (iterators, context managers of contextlib) are returned and not stored; a UserWarning says so
    once.

    Raises TypeError for a generator function, for an async function where a plain one is expected, for options that
    exclude each other, and for a call with an argument that cannot be hashed; ValueError or TypeError for a `ttl`,
    `max_size` or `policy` that makes no sense; ValueError for unknown names of parameters, and for a `name` that
    another living function over the same cache has.

    The returned object is called like the function, and has

    - ``cache``, the `Cache` with the results, and ``__wrapped__``, the function;
    - ``cache_info()``, ``cache_parameters()`` and ``cache_clear()``, as functools has them;
    - ``invalidate(...)``, which forgets the result of the call with these arguments and returns whether there was one;
    - ``peek(...)``, the result of that call, or `MISSING`; ``refresh(...)``, which makes it now and stores its result;
      ``set(value, ...)``, which stores `value` as its result;
    - ``cache_key(...)``, the key of that call. On an instance, as in ``a.m.invalidate(x)``, none of these takes self.

    Exceptions are not cached; None is. Keys are values, compared by ``==``. ``f(1)`` and ``f(x=1)`` are different
    calls unless `normalize` is given. Unhashable arguments are a TypeError, unless `key_func` makes other keys. A hit
    returns the very object that was stored. A method's results belong to its instance: they do not keep it alive, are
    removed when it dies, and are returned for no other instance. If an instance allows no weak references, each call
    is computed. A result that is the instance is not stored. One that refers to it, such as a list with the instance
    in it, keeps it alive as long as it is stored.

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

    is_known = unknown.pop("_is_known", True)
    refuse_unknown("cached", unknown, _OPTIONS, _OTHER_NAMES)
    options = {
        "max_size": max_size, "policy": policy, "clock": clock, "time_to_idle": time_to_idle,
        "jitter": None if jitter == 0.0 else jitter, "isolate": None if isolate is False else isolate,
    }
    options = {option: given for option, given in options.items() if given is not None or option == "max_size"}
    options = {option: given for option, given in options.items() if not isinstance(given, _ByDefault)}
    refreshing = {"refresh_ahead": refresh_ahead, "stale_ttl": stale_ttl}
    refreshing = {option: given for option, given in refreshing.items() if given is not None}
    function = None
    if cache is not None and not isinstance(cache, Cache) and not hasattr(type(cache), "_decorate"):
        if not callable(cache) and not isinstance(cache, _DESCRIPTORS) and type(cache).__module__ != "functools":
            hint = f": write cached(max_size={cache})" if type(cache) is int else ""
            raise TypeError(f"cache must be a Cache, or the function to decorate, not {type(cache).__name__}{hint}")
        function, cache = cache, None
    if cache is not None and options:
        raise TypeError(f"{' and '.join(options)} cannot go together with cache: they are the cache's own")
    if isinstance(cache, Cache) and cache._refreshes:
        raise TypeError(
            "a cache with refresh_ahead or stale_ttl cannot be the cache of a function: it would refresh results by "
            "its loader, not by the function"
        )
    if refreshing:
        from cachebox._loading.loader import check_refreshing

        check_refreshing(refreshing)
        if isinstance(cache, Cache) and cache._loader is not None:
            raise TypeError(
                f"{' and '.join(refreshing)} cannot go together with a cache that has a loader, which refreshes values"
            )
    _check_callables(key_func=key_func, condition=condition)
    for option, given in (("key_func", key_func), ("condition", condition), ("ttl", ttl), ("tags", tags)):
        refuse_async(option, given)
    selects = {"typed": typed, "ignore": ignore, "normalize": normalize, "vary": vary}
    for option, given in selects.items():
        if key_func is not None and given is not False and given != ():
            raise TypeError(f"{option} cannot go together with key_func, which makes the keys as it likes")
    selects.pop("typed")
    if ignore != () or vary != ():
        from cachebox._calls.key_arguments import checked_names, checked_vary

        selects["ignore"], selects["vary"] = checked_names(ignore), checked_vary(vary)
    if name is not None or version is not None:
        from cachebox._calls.naming import checked_name

        checked_name(name)
    check_failures(cache_exceptions, exception_ttl)
    if tags is not None:
        tags_as_given(tags)

    def make(function):
        is_async = _check_function(function)
        make_key = key_func.bound_to(function) if hasattr(type(key_func), "bound_to") else key_func
        is_shared = cache is not None and not isinstance(cache, Cache)
        key_arguments = _key_arguments(function, selects, not is_shared)
        if is_shared:                           # the cache knows how it is to be used
            further = {} if tags is None else {"tags": tags}
            if key_arguments is not None:
                further["key_arguments"] = key_arguments
            if returns is not None:
                further["returns"] = returns
            further.update(refreshing)
            if cache_exceptions:
                further.update(cache_exceptions=cache_exceptions, exception_ttl=exception_ttl)
            shared = cache._decorate(
                function, is_coroutine=is_async, ttl=ttl, key_func=make_key, typed=typed, condition=condition,
                single_flight=single_flight, name=name, version=version, **further,
            )
            return _known(shared, name, version) if is_known else shared
        own = Cache(**options) if cache is None else cache
        claim = None if cache is None else _claim(function, cache, name, version)
        own_tag = f"cachebox:{claim.name}" if claim is not None and key_func is not None else None
        by_instance = key_func is None and (key_arguments is None or not key_arguments.ignores_first)
        wrapper = (CachedMethod if by_instance and _is_called_as_method(function) else CachedFunction)(
            function,
            own,
            function_id=None if claim is None else claim.name,
            claim=claim,
            typed=typed,
            single_flight=single_flight,
            ttl=ttl,
            condition=condition,
            key_func=make_key,
            key_arguments=key_arguments,
            tags=_with_own(own_tag, None if tags is None else tags_as_given(tags)),
            own_tag=own_tag,
            failures=failures_of(own) if cache_exceptions else None,
            coroutines=_coroutines() if is_async else None,
            first_name=_first_name(function),
            parameters={"maxsize": own.max_size, "typed": typed, "policy": own.policy, "ttl": ttl},
            **refreshing,
        )
        _like(wrapper, function, is_async)
        return _known(wrapper, name, version) if is_known else wrapper

    def failures_of(own):
        from cachebox._loading.negative_cache import Failures

        ttl = own.default_ttl if exception_ttl is None else exception_ttl
        return Failures(cache_exceptions, Cache(own.max_size, ttl, clock=own._clock))

    def decorate(function):
        return _around(make, function)

    return decorate if function is None else decorate(function)


_OPTIONS = (
    "cache", "ttl", "key_func", "max_size", "policy", "typed", "condition", "single_flight", "tags", "cache_exceptions",
    "exception_ttl", "clock", "name", "version", "ignore", "normalize", "vary", "returns", "time_to_idle",
    "refresh_ahead", "stale_ttl", "jitter", "isolate",
)
_OTHER_NAMES = {                        # names of these options in other packages
    "key": "key_func", "make_key": "key_func", "key_builder": "key_func", "hash_func": "key_func",
    "maxsize": "max_size", "size": "max_size", "capacity": "max_size", "max_entries": "max_size",
    "default_ttl": "ttl", "expire": "ttl", "expiry": "ttl", "timeout": "ttl", "seconds": "ttl",
    "time_to_live": "ttl", "timer": "clock", "prefix": "name", "namespace": "name", "eviction_policy": "policy",
    "ignored": "ignore", "exclude": "ignore", "ignore_args": "ignore", "normalise": "normalize", "vary_on": "vary",
    "tti": "time_to_idle", "stale": "stale_ttl", "copy": "isolate", "result_type": "returns",
    "lock": "single_flight", "should_cache_fn": "condition", "unless": "condition", "exceptions": "cache_exceptions",
}
_DESCRIPTORS = (classmethod, staticmethod, property)
cached.__text_signature__ = (
    "(cache=None, *, ttl=None, key_func=None, max_size=1000, policy='LRU', typed=False, condition=None, "
    "single_flight=True, tags=None, cache_exceptions=(), exception_ttl=None, clock=None, name=None, version=None, "
    "ignore=(), normalize=False, vary=(), returns=None, time_to_idle=None, refresh_ahead=None, stale_ttl=None, "
    "jitter=0.0, isolate=False)"
)


def cached_many(
    cache=None,
    *,
    ttl=None,
    missing_ttl=None,
    key_func=None,
    max_size=_SIZE,
    policy=_POLICY,
    typed=False,
    condition=None,
    tags=None,
    clock=None,
    name=None,
    version=None,
    vary=(),
    returns=None,
    time_to_idle=None,
    jitter=0.0,
    isolate=False,
    **unknown,
):
    """Cache the results of a function of many keys, ``f(keys) -> mapping``, each by itself.

    Args:
        cache: a `Cache` or a `DistributedCache` for the results; None: the function gets its own.
        ttl: how long the result of a key lives: seconds, a `timedelta`, or a function of that result.
        missing_ttl: how long it is remembered that the mapping had no result for a key, given like `ttl`; None: it is
            not remembered.
        key_func, condition, tags: as for `cached`, called for one key and its result.
        max_size, policy, typed, clock, name, version, vary, returns, time_to_idle, jitter, isolate: as for `cached`;
            `returns` is the type of one result.

    The function is called with a list of the keys that are not cached, if there are any. It returns a mapping, which
    may leave out keys; additional keys are ignored. The caller gets a dict of the keys that have a result. Concurrent
    callers share: each key is loaded by one of them. Works on plain and ``async def`` functions and methods.

    Raises TypeError for keys that cannot be hashed, for a str in place of many keys, and if the function returns no
    mapping; otherwise as `cached` does. O(number of keys), and at most one call; over two tiers, one round trip for
    cached keys.

    >>> @cached_many(ttl=60)
    ... def squares(numbers):
    ...     print("computing", numbers)
    ...     return {n: n * n for n in numbers}
    >>> squares([1, 2])
    computing [1, 2]
    {1: 1, 2: 4}
    >>> squares([2, 3])
    computing [3]
    {2: 4, 3: 9}
    """

    refuse_unknown("cached_many", unknown, _OPTIONS_OF_MANY, {**_OTHER_NAMES, "negative_ttl": "missing_ttl"})
    options = {
        "ttl": ttl, "key_func": key_func, "max_size": max_size, "policy": policy, "typed": typed,
        "condition": condition, "tags": tags, "clock": clock, "name": name, "version": version, "vary": vary,
        "returns": returns, "time_to_idle": time_to_idle, "jitter": jitter, "isolate": isolate,
    }
    function = None
    if cache is not None and not isinstance(cache, Cache) and not hasattr(type(cache), "_decorate"):
        function, cache = cache, None
    if missing_ttl is not None:
        check_missing_ttl(missing_ttl)
    decorate_one = cached(cache, _is_known=False, **options)

    def make(function):
        one = decorate_one(function)
        if hasattr(type(one), "_many"):         # of a function over another kind of cache, which knows how
            return _known(one._many(missing_ttl), name, version)
        from cachebox._calls.many import CachedMany

        return _known(CachedMany(function, one, missing_ttl, _check_function(function)), name, version)

    def decorate(function):
        return _around(make, function)

    return decorate if function is None else decorate(function)


_OPTIONS_OF_MANY = (
    "cache", "ttl", "missing_ttl", "key_func", "max_size", "policy", "typed", "condition", "tags", "clock", "name",
    "version", "vary", "returns", "time_to_idle", "jitter", "isolate",
)
cached_many.__text_signature__ = (
    "(cache=None, *, ttl=None, missing_ttl=None, key_func=None, max_size=1000, policy='LRU', typed=False, "
    "condition=None, tags=None, clock=None, name=None, version=None, vary=(), returns=None, time_to_idle=None, "
    "jitter=0.0, isolate=False)"
)


def check_missing_ttl(given):
    """Raise TypeError or ValueError if `given` is no lifetime."""
    from cachebox._loading.loader import check_refreshing

    try:
        check_refreshing({"stale_ttl": given})
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("stale_ttl", "missing_ttl")) from None


def lru_cache(maxsize=128, typed=False, **unknown):
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

    refuse_unknown("lru_cache", unknown, ("maxsize", "typed"), {"max_size": "maxsize", "size": "maxsize"})

    def decorate(function):
        if not callable(function):
            raise TypeError(f"the first argument must be callable, not {type(function).__name__}")
        wrapper = CachedMethod(
            function,
            Cache(None if maxsize is None else max(int(maxsize), 1)),
            typed=typed,
            only_plain_alone=True,
            binds_weakly=False,
            functools_rules=True,
            keep_first=maxsize is not None,
            stores=maxsize != 0,
            parameters={"maxsize": maxsize, "typed": typed},
        )
        return _known(_like(wrapper, function, False))

    if isinstance(maxsize, int):
        maxsize = max(maxsize, 0)
    elif callable(maxsize) and isinstance(typed, bool):
        function, maxsize = maxsize, 128
        return decorate(function)
    elif maxsize is not None:
        raise TypeError("Expected first argument to be an integer, a callable, or None")
    return decorate


lru_cache.__text_signature__ = "(maxsize=128, typed=False)"


def _key_arguments(function, selects, hashes):
    """The arguments of a function that belong to its keys; None: all of them, as they are."""
    if not any(selects.values()):
        return None
    from cachebox._calls.key_arguments import KeyArguments

    return KeyArguments(function, hashes=hashes, **selects)


def _around(make, function):
    """Cache the function in the object of another decorator that is below this one."""
    if isinstance(function, classmethod):
        return CachedClassMethod(_around(make, function.__func__))
    if isinstance(function, staticmethod):
        return staticmethod(_around(make, function.__func__))
    if isinstance(function, property):
        if function.fget is None:
            raise TypeError("cached decorates a property that can be read: this one has no getter")
        return function.getter(_around(make, function.fget))
    if type(function).__module__ == "functools" and not callable(function):
        from functools import cached_property, partialmethod

        if isinstance(function, partialmethod):
            from cachebox._calls.partial_methods import CachedPartialMethod

            return CachedPartialMethod(_around(make, function.func), *function.args, **function.keywords)
        if isinstance(function, cached_property):
            raise TypeError("cached cannot decorate a cached_property, which keeps its value itself: use property")
        raise TypeError(f"cached must stand below {type(function).__name__}, not above it")
    return make(function)


def _claim(function, cache, name, version):
    """The claim to a name of a function over a cache of this process."""
    from cachebox._calls.naming import Identity

    return _names().claim(Identity(function, name, version), cache)


def _names():
    global _local_names
    if _local_names is None:
        from cachebox._calls.naming import LocalNames

        names = LocalNames()
        _local_names = _local_names or names
    return _local_names


_local_names = None


def _with_own(own_tag, tags):
    """The tags of a function's results, together with the tag by which `cache_clear` finds them."""
    if own_tag is None or tags is None:
        return tags if own_tag is None else (own_tag,)
    if not callable(tags):
        return (*tags, own_tag)

    def tags_of(*args, **kwargs):
        given = tags(*args, **kwargs)
        if hasattr(type(given), "__await__"):
            return given                        # a mistake that the caller finds
        return (own_tag, *(() if given is None else (given,) if isinstance(given, str) else given))

    return tags_of


def _first_name(function):
    """The name of the first parameter, if a call may pass it as a keyword."""
    from cachebox._calls.methods import innermost

    code = getattr(innermost(function), "__code__", None)
    if getattr(code, "co_argcount", 0) > getattr(code, "co_posonlyargcount", 0) == 0:
        return code.co_varnames[0]
    return None


def _is_called_as_method(function):
    """Whether a function is written in a class body, so that the interpreter need not bind it."""
    return _scope_of(function) != ""


def _scope_of(function):
    """The name of the class in whose body a function is written; "" if there is none or the function is bound."""
    qualname = getattr(function, "__qualname__", "")
    scope = qualname.rpartition(".")[0] if isinstance(qualname, str) else ""
    return "" if scope.endswith("<locals>") or hasattr(function, "__self__") else scope


def is_received(wrapper, first):
    """Whether a function, called with `first` as first argument, is a method of it. The class tells."""
    from cachebox._calls.methods import innermost, is_method_of, look_for_class_method

    if isinstance(first, type) and look_for_class_method(wrapper, first):
        wrapper._become_method()
        return True
    if not is_method_of(wrapper, first):
        return False
    if _scope_of(innermost(wrapper)):           # so it is a method, however it is called
        wrapper._become_method()
    return True


def warn_of_slots(wrapper, instance):
    """Warn that results of a method are not cached, because a tool made the class and its slots."""
    cls = type(instance)
    if isinstance(instance, tuple) and hasattr(cls, "_fields"):
        cure = "give cached a key_func, such as key_func=lambda self: self, which caches by value"
    elif "__dataclass_fields__" in vars(cls):
        cure = "write dataclass(slots=True, weakref_slot=True), or give cached a key_func"
    else:
        return
    import warnings

    warnings.warn(
        f"{getattr(wrapper, '__qualname__', wrapper)} is computed every time: a {cls.__name__} takes no weak "
        f"reference, so its results could not be removed when it dies; {cure}",
        UserWarning,
        stacklevel=2,
    )


def _check_callables(**given) -> None:
    for name, value in given.items():
        if value is not None and not callable(value):
            raise TypeError(f"{name} must be callable or None, not {type(value).__name__}")


def _check_function(function) -> bool:
    """Whether a function is async. Raises TypeError if it cannot be cached."""
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
    return bool(flags & _CO_COROUTINE) or is_marked(inner)


def _coroutines():
    from cachebox._calls import coroutines

    return coroutines


def _known(wrapper, name=None, version=None):
    """Register a cached function for `caches`."""

    def named(wrapper):
        from cachebox._calls.naming import Identity

        return Identity(wrapper.__wrapped__, name, version, False).name

    register(named, wrapper)
    return wrapper


def _like(wrapper, function, is_async):
    from cachebox._calls.signature import dress

    dress(wrapper, function, is_async)
    return wrapper
