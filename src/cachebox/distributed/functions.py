"""Cached functions over a distributed cache: what `cached(DistributedCache(...))` returns.

The key of a call is a str that is the same in every process and every Python version. It consists of the function's
module and qualified name, and of the arguments, written out by value. Equal arguments give the same key, unless the
function is `typed`. Nothing depends on `hash`, on the `repr` of users' objects, or on addresses. An argument that
cannot be written this way raises TypeError.
"""

from __future__ import annotations

import datetime
import functools
import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

from cachebox._calls.cache_info import CacheInfo
from cachebox._calls.disabling import BLOCKS, is_disabled
from cachebox._calls.key_arguments import KeyArguments
from cachebox._calls.methods import control, may_be_class_method
from cachebox._calls.naming import Claim, Identity, SharedNames
from cachebox._calls.signature import dress
from cachebox._calls.unhashable import named, refusal
from cachebox._platform.awaitables import is_context, warn_of_one_shot
from cachebox._platform.section import Section
from cachebox._store.options import check_failures
from cachebox.cache import Cache
from cachebox.distributed._net.asyncio_driver import Async
from cachebox.distributed._net.blocking_driver import Blocking
from cachebox.distributed._ops.call_text import keyword, written
from cachebox.distributed._ops.function_calls import AsyncCalls, CallDecision, Consumed, Remembered, sync_result
from cachebox.distributed._ops.schema import Schema, schema_of, schema_of_function
from cachebox.distributed._wire.codec import LONGEST_KEPT
from cachebox.distributed.options import Seconds, checked_tags, seconds_of


class DistributedFunction:
    """A function with a distributed cache in front, called like the function."""

    __wrapped__: Callable[..., Any]
    _is_cached_function = True
    # the cache's driver; calls of an async function are tasks over either kind of cache
    _driver: Any = Blocking()

    def __init__(
        self,
        cache: Any,
        claim: Claim,
        function: Callable[..., Any],
        *,
        is_async: bool,
        ttl: Any,
        key_func: Callable[..., Any] | None,
        typed: bool,
        condition: Callable[[Any], object] | None,
        single_flight: bool,
        tags: Any = (),
        cache_exceptions: Any = (),
        exception_ttl: Any = None,
        key_arguments: KeyArguments | None = None,
        returns: Any = None,
        refresh_ahead: float | None = None,
        stale_ttl: Seconds | None = None,
    ) -> None:
        dress(self, function, is_async)
        self._cache = cache
        self._claim = claim             # reserves the name for as long as the function lives
        self._name = claim.name.translate({ord("%"): "%25", ord("("): "%28"})
        self._is_async = is_async
        self._may_be_class_method = may_be_class_method(function)
        self._warned = False
        self._ttl = ttl
        self._lifetime = None if ttl is None or callable(ttl) else seconds_of(ttl, "ttl")
        self._key_func = key_func
        self._key_arguments = key_arguments
        self._typed = typed
        self._condition = condition
        self._single_flight = single_flight
        self._tags = tags if callable(tags) else checked_tags(tags)
        self._own_tag = None if key_func is None else f"cachebox:{self._name}"      # of entries under any keys
        self._failures = None           # remembered exceptions, of this process
        if cache_exceptions:
            from cachebox._loading.negative_cache import Failures

            lives = cache.default_ttl if exception_ttl is None else exception_ttl
            check_failures(cache_exceptions, lives)
            self._failures = Failures(cache_exceptions, Cache(cache.max_size, lives))
        self._returns = returns
        self._share = refresh_ahead
        stale = None if stale_ttl is None else seconds_of(stale_ttl, "stale_ttl", infinite=False)
        self._kept_ms = None if stale is None else min(int(stale * 1000), LONGEST_KEPT)
        if refresh_ahead is not None or stale is not None:
            cache._loader.refresh_for_functions()
        self._forgotten = 0             # how often failures were forgotten
        self._lock = Section()
        self._hits = self._misses = 0

    # --- keys ---------------------------------------------------------------------------------------------------------

    @control
    def cache_key(self, *args: Any, **kwargs: Any) -> str:
        """The key of the call with these arguments. Raises TypeError if one of them has no stable text."""
        return self._key_of(args, kwargs)

    def _key_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        if self._key_func is not None:
            key = sync_result("key_func", self._key_func(*args, **kwargs))
            return str(key) if isinstance(key, str) else f"{self._name}:{written(key)}"
        typed = self._typed
        varied: tuple[Any, ...] = ()
        positional, keywords = args, kwargs
        if self._key_arguments is not None:
            chosen = self._key_arguments.of(args, kwargs)
            if chosen is None:
                # raises a TypeError that says what is wrong with them
                inspect.signature(self.__wrapped__).bind(*args, **kwargs)
                raise TypeError(f"{self!r} does not take these arguments")
            varied, positional, keywords = chosen
        try:
            parts = [written(value, typed) for value in positional]
            parts += [f"{keyword(name)}={written(value, typed)}" for name, value in keywords.items()]
        except TypeError as error:
            raise self._explained(args, kwargs, error) from error
        variant = f"{','.join([written(value, typed) for value in varied])};" if varied else ""
        return f"{self._name}({variant}{','.join(parts)})"

    def _explained(self, args: tuple[Any, ...], kwargs: dict[str, Any], error: TypeError) -> TypeError:
        """The TypeError for an argument without a stable text: it names the argument and what to do."""
        ignored = self._key_arguments.ignored_names if self._key_arguments is not None else ()
        for name, value in named(self.__wrapped__, args, kwargs):
            try:
                if name.lstrip("*") not in ignored:
                    written(value, self._typed)
            except TypeError:
                return TypeError(refusal(self.__wrapped__, name, value, str(error)))
        return error

    @functools.cached_property
    def _schema(self) -> Schema | None:
        """The classes of its results. Made at the first call, because an annotation may name what is defined later."""
        return schema_of_function(self.__wrapped__) if self._returns is None else schema_of(self._returns)

    # --- calling ------------------------------------------------------------------------------------------------------

    def _decide(self, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, float, tuple[str, ...]]:
        """Whether a result is stored, for how long, and under which tags."""
        if self._condition is not None and not sync_result("condition", self._condition(value)):
            return False, 0.0, ()
        lifetime = self._lifetime_of(value)
        if lifetime <= 0.0:
            return False, 0.0, ()
        tags = self._tags
        if callable(tags):
            tags = checked_tags(sync_result("tags", tags(value, *args, **kwargs)))
        return True, lifetime, tags if self._own_tag is None else (*tags, self._own_tag)

    def _lifetime_of(self, value: Any) -> float:
        """The seconds for which a result is stored; 0: not at all."""
        if self._lifetime is not None:
            return self._lifetime
        given = sync_result("ttl", self._ttl(value)) if callable(self._ttl) else None
        if given is None:
            lifetime: float = self._cache._core.lifetime
            return lifetime
        number = given.total_seconds() if isinstance(given, datetime.timedelta) else given
        if isinstance(number, (int, float)) and number <= 0:
            return 0.0
        return seconds_of(given, "what ttl returned")

    def _steps(self, key: str, args: tuple[Any, ...], kwargs: dict[str, Any], reload: bool) -> Any:
        """The steps of a call, for the drivers. `reload`: call even if there is a result."""
        run = functools.partial(self._run, self._function(reload), args, kwargs)
        if self._failures is not None:
            run = functools.partial(self._tried, key, run)
        return (yield from self._loaded(key, run, CallDecision(self, args, kwargs), reload))

    def _loaded(self, key: str, run: Callable[[], Any], decide: CallDecision, reload: bool) -> Any:
        loader = self._cache._loader
        if reload:
            return (yield from loader.reload(key, run, decide))
        return (yield from (loader.load if self._single_flight else loader.load_alone)(key, run, decide))

    def _function(self, reload: bool) -> Callable[..., Any]:
        """The function that computes a result. If it is a cached function itself, `reload` refreshes it."""
        function: Any = self.__wrapped__
        if reload and hasattr(type(function), "_is_cached_function"):
            refresh: Callable[..., Any] = function.refresh
            return refresh
        return self.__wrapped__

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call."""
        return self._kept(function(*args, **kwargs))

    def _kept(self, value: Any) -> Any:
        """The result, if it can be stored. Raises Consumed if it can be consumed only once."""
        kind = type(value)
        if hasattr(kind, "__await__") or hasattr(kind, "__next__") or hasattr(kind, "__anext__") or is_context(value):
            raise Consumed(value)
        return value

    def _report(self, value: Any) -> None:
        """Warn once that results can be consumed only once."""
        if not self._warned:
            self._warned = True
            warn_of_one_shot(getattr(self, "__qualname__", repr(self.__wrapped__)), value)

    def _tried(self, key: str, run: Callable[[], Any]) -> Any:
        """Make a call, unless it failed a moment ago."""
        forgotten = self._forgotten
        self._raise_known(key)
        try:
            return run()
        except Exception as error:
            self._remember(key, error, forgotten)
            raise

    def _raise_known(self, key: str) -> None:
        error = self._failures.find(key) if self._failures is not None else None
        if error is not None:
            raise Remembered(error)

    def _remember(self, key: str, error: Exception, forgotten: int) -> None:
        """Remember a failed call, unless failures were forgotten since it began. `forgotten`: the count at its
        beginning."""
        assert self._failures is not None
        with self._lock:
            if forgotten == self._forgotten:
                self._failures.remember(key, error)

    def _forget_failures(self, key: str | None = None) -> None:
        """Forget the failure of one key, or all."""
        if self._failures is not None:
            with self._lock:
                self._forgotten += 1
                if key is None:
                    self._failures.clear()
                else:
                    self._failures.forget(key)

    def _count(self, missed: bool) -> None:
        with self._lock:
            if missed:
                self._misses += 1
            else:
                self._hits += 1

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if BLOCKS and is_disabled():
            return self.__wrapped__(*args, **kwargs)
        if self._is_async:
            return AsyncCalls(self).call(args, kwargs)
        return self._call(args, kwargs, False)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any], reload: bool) -> Any:
        key = self._key_of(args, kwargs)
        missed: bool | None = None if reload else True
        try:
            if reload:
                self._forget_failures(key)
            value, missed = self._driver.run(self._steps(key, args, kwargs, reload))
        except Consumed as passed:
            value = passed.value
            if hasattr(type(value), "__await__"):           # an async function after all
                self._is_async = True
                return AsyncCalls(self, value).call(args, kwargs, reload)
            self._report(value)
        except Remembered as known:
            missed = False
            raise known.error from None
        finally:
            if not reload:
                self._count(bool(missed))
        return value

    def _many(self, missing_ttl: Any) -> Any:
        """Called by `cached_many`, which uses this function for the keys of single results."""
        from cachebox.distributed._ops.many_calls import DistributedMany

        seconds = None if missing_ttl is None else seconds_of(missing_ttl, "missing_ttl")
        return DistributedMany(self.__wrapped__, self, missing_ttl, seconds, self._is_async)

    # --- for users ----------------------------------------------------------------------------------------------------

    @property
    def cache(self) -> Any:
        """The cache that holds the results."""
        return self._cache

    def cache_info(self) -> CacheInfo:
        """This function's hits and misses in this process, and the bound and size of the cache's first tier."""
        return CacheInfo(self._hits, self._misses, self._cache.max_size, len(self._cache._core.tier.first))

    def cache_parameters(self) -> dict[str, Any]:
        """How the function is cached, as a new dict: maxsize, typed, policy and ttl."""
        cache = self._cache
        return {"maxsize": cache.max_size, "typed": self._typed, "policy": cache.policy, "ttl": self._ttl}

    def cache_clear(self, timeout: Seconds | None = None) -> Any:
        """Forget all results of this function, in every process, and set its counters to zero.

        Args:
            timeout: seconds for the whole scan; None: the cache's, which is enough for about a million names.
        """
        if timeout is not None:
            seconds_of(timeout, "timeout", infinite=False)
        with self._lock:
            self._hits = self._misses = 0
        self._forget_failures()
        return self._driver.run(self._forget_results(timeout))

    def _forget_results(self, timeout: Seconds | None) -> Any:
        if self._own_tag is not None:
            yield from self._cache._of_all.invalidate_tag(self._own_tag)
        else:
            yield from self._cache._of_all.invalidate_prefix(self._name + "(", timeout)

    @control
    def invalidate(self, *args: Any, **kwargs: Any) -> Any:
        """Forget the result of the call with these arguments, in every process. Returns whether there was one."""
        key = self._key_of(args, kwargs)
        self._forget_failures(key)
        return self._driver.run(self._cache._core.delete(key))

    @control
    def peek(self, *args: Any, **kwargs: Any) -> Any:
        """The result of the call with these arguments, or `MISSING` if none is cached. Counts nothing.

        Makes no call. One round trip if the first tier does not have it.
        """
        return self._driver.run(self._peek(self._key_of(args, kwargs)))

    def _peek(self, key: str) -> Any:
        core = self._cache._core
        value, _ = yield from core.lookup(key, core.deadline(), False, self._schema)
        return value

    @control
    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        """Make the call with these arguments now, store its result for every process, and return it. Counts nothing.

        If another caller in any process is computing the result, this waits for it, then computes once more. A write or
        delete of the result meanwhile wins, and an exception changes nothing. The refresh of an async function must be
        awaited.
        """
        if BLOCKS and is_disabled():
            return self._function(True)(*args, **kwargs)
        return AsyncCalls(self).call(args, kwargs, True) if self._is_async else self._call(args, kwargs, True)

    @control
    def set(self, value: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Store `value` as the result of the call with these arguments, as if it had been computed. One round trip.

        `condition`, `ttl` and `tags` apply. Raises TypeError for a value that the serializer cannot restore;
        `BackendUnavailable` if the server was not reached.
        """
        sync_result("value", value)
        try:
            self._kept(value)
        except Consumed:
            self._report(value)
            return self._driver.run(_nothing())
        return self._driver.run(self._store(self._key_of(args, kwargs), value, args, kwargs))

    def _store(self, key: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        core = self._cache._core
        is_stored, lifetime, tags = self._decide(value, args, kwargs)
        if is_stored:
            kept = core.kept_of(lifetime, self._kept_ms)
            encoded = core.codec.encode(key, value, tags, self._schema, kept)
            self._forget_failures(key)
            yield from core.store({key: encoded}, lifetime, tags, core.deadline(), kept)

    def __set_name__(self, owner: type, name: str) -> None:
        self._may_be_class_method = False

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else BoundDistributedFunction(self, instance)

    def __getattr__(self, name: str) -> Any:
        if name == "__wrapped__":       # not set yet
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)      # `__code__` of a function, `delay` of a task

    def __dir__(self) -> list[str]:
        return sorted({*dir(type(self)), *vars(self)})

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The class that frameworks and `inspect` see: that of functions. `type` tells the truth."""
        return FunctionType if isinstance(self.__wrapped__, FunctionType) else type(self)

    def __reduce__(self) -> str:
        return str(self.__wrapped__.__qualname__)

    def __copy__(self) -> DistributedFunction:
        return self

    def __deepcopy__(self, memo: object) -> DistributedFunction:
        return self

    def __repr__(self) -> str:
        return f"<cached {getattr(self.__wrapped__, '__qualname__', self.__wrapped__)}>"


class AsyncDistributedFunction(DistributedFunction):
    """A cached function over an asyncio cache: `invalidate`, `peek`, `set` and `cache_clear` are awaited, too."""

    _driver: Any = Async()


class BoundDistributedFunction:
    """A cached method bound to its instance, which `key_func` gets as the first argument."""

    def __init__(self, function: DistributedFunction, instance: Any) -> None:
        self.__func__ = function
        self.__self__ = instance
        self._kind = type(function)     # its methods are called, because the function's own might look for its class

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)

    def cache_key(self, *args: Any, **kwargs: Any) -> str:
        """The key of this call."""
        return self._kind.cache_key(self.__func__, self.__self__, *args, **kwargs)

    def invalidate(self, *args: Any, **kwargs: Any) -> Any:
        """Forget the result of this call, in every process."""
        return self._kind.invalidate(self.__func__, self.__self__, *args, **kwargs)

    def peek(self, *args: Any, **kwargs: Any) -> Any:
        """The result of this call, or `MISSING`."""
        return self._kind.peek(self.__func__, self.__self__, *args, **kwargs)

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        """Make this call now, and store its result."""
        return self._kind.refresh(self.__func__, self.__self__, *args, **kwargs)

    def set(self, value: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Store a value as the result of this call."""
        return self._kind.set(self.__func__, value, self.__self__, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)

    def __dir__(self) -> list[str]:
        return sorted({*dir(type(self)), *dir(self.__func__)})

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return MethodType

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BoundDistributedFunction):
            return NotImplemented
        return self.__self__ is other.__self__ and self.__func__ is other.__func__

    def __hash__(self) -> int:
        return hash((id(self.__self__), id(self.__func__)))


def _nothing() -> Any:
    """Steps that do nothing."""
    yield from ()


def decorated(
    cache: Any,
    names: SharedNames,
    function: Any,
    *,
    is_coroutine: bool,
    name: str | None = None,
    version: Any = None,
    **options: Any,
) -> Any:
    """A function with a cache in front."""
    identity = Identity(function, name, version)
    if identity.is_anonymous and cache.namespace == "cachebox":
        raise ValueError(
            f"{identity.function_name} has no file, so other programs may have one of that name: give cached a name=, "
            "or the cache a namespace= of its own"
        )
    kind = DistributedFunction if isinstance(cache._driver, Blocking) else AsyncDistributedFunction
    return kind(cache, names.claim(identity), function, is_async=is_coroutine, **options)
