"""The object that `cached_many` makes of a function of many keys: each key is cached by itself, misses are one call.

Each key stands for a call of a cached function with that one argument, a call which is never made. That function,
`one`, has the keys, the statistics, and the flights by which concurrent callers share. So if several callers miss a key
at the same time, one of them includes it in its call of the function. The others wait for it after their own calls.
"""

from __future__ import annotations

from _functools import partial  # type: ignore[import-not-found]  # functools itself is slow to import
from types import MethodType

from cachebox._calls.cached_function import HasNoKey
from cachebox._calls.disabling import BLOCKS, is_disabled
from cachebox._calls.methods import control, may_be_class_method
from cachebox._calls.signature import dress
from cachebox._platform.absent import ABSENT
from cachebox._platform.awaitables import refuse_awaitable
from cachebox._platform.callers import PULSE, waiter

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping
    from typing import Any

    _Steps = Generator[Any, Any, Any]


class CachedMany:
    """A function of many keys with a cache in front, called like the function: ``f(keys)`` returns a dict.

    It has `cache`, `cache_info`, `cache_clear`, `cache_parameters` and `__wrapped__`, as other cached functions have.
    It also has ``cache_key(key)``; ``peek(keys)``, which returns the cached results as a dict; ``refresh(keys)``, which
    computes them again; ``set(mapping)``, which stores results as if they had been computed; ``invalidate(keys)``,
    which forgets results and returns how many there were.
    """

    __wrapped__: Callable[..., Any]

    def __init__(self, function: Callable[..., Any], one: Any, missing_ttl: float | None, is_async: bool) -> None:
        self._one = one
        one._may_be_class_method = False        # but this object may be
        self._missing_ttl = missing_ttl
        self._is_async = is_async
        self._may_be_class_method = may_be_class_method(function)
        dress(self, function, is_async)

    # --- work on keys, with the receiver of a method in front of them -------------------------------------------------

    def _call(self, prefix: tuple[Any, ...], keys: Iterable[Any], anew: bool = False) -> Any:
        wanted = listed(keys)
        if BLOCKS and is_disabled():
            return self._run(self._uncached(prefix, wanted))
        return self._run(self._steps(prefix, wanted, anew))

    def _run(self, steps: _Steps) -> Any:
        """Do the steps, in this thread or in a coroutine."""
        return self._run_awaited(steps) if self._is_async else run(steps)

    async def _run_awaited(self, steps: _Steps) -> Any:
        from cachebox._loading import tasks

        answer: Any = None
        error: BaseException | None = None
        leads: list[Any] = []
        course = None
        try:
            while True:
                try:
                    asked = steps.send(answer) if error is None else steps.throw(error)
                except StopIteration as ended:
                    return ended.value
                answer = error = None
                try:
                    if type(asked) is not Call:
                        answer = await tasks.over(asked)
                        continue
                    leads = asked.leads
                    for lead in leads:          # one coroutine leads for all keys
                        if course is None:
                            course = lead.begin(*tasks.current())
                        else:
                            lead.follow(course)
                    result = asked.function()
                    answer = await result if hasattr(type(result), "__await__") else result
                except BaseException as raised:
                    error = raised
                finally:
                    if course is not None:
                        course.leave()
                        course = None
        finally:
            steps.close()

    def _uncached(self, prefix: tuple[Any, ...], wanted: list[Any]) -> _Steps:
        """A call that neither reads nor stores."""
        if not wanted:
            return {}
        values = self._checked((yield Call(partial(self.__wrapped__, *prefix, wanted), [])))
        return {key: values[key] for key in wanted if key in values}

    def _steps(self, prefix: tuple[Any, ...], wanted: list[Any], anew: bool) -> _Steps:
        """A call. Yields what is to be called, or a flight to wait for."""
        one = self._one
        found: dict[Any, Any] = {}
        try:
            left = one._find_many(prefix, wanted, found, anew)
        except HasNoKey:
            return (yield from self._uncached(prefix, wanted))
        counted = False
        alone: set[Any] = set()                 # keys for which a wait would be circular
        while left:
            leads: list[tuple[Any, Any, Any]] = []
            waits: list[tuple[Any, Any, Any]] = []
            for key, made in left:
                if anew:
                    leads.append((key, made, one._lead_anew(made, hash(made))))
                    continue
                lead, known = one._join_or_lead(made, hash(made), counted, key in alone)
                if lead is not None:
                    leads.append((key, made, lead))
                elif type(known) is tuple:
                    found[key] = known[0]
                else:
                    waits.append((key, made, known))
            counted = True
            left = []
            if leads:
                yield from self._load(prefix, leads, found)
            for key, made, flight in waits:
                over = yield flight
                if not over:
                    alone.add(key)
                if over and not flight.was_abandoned:
                    found[key] = flight.get()
                else:
                    left.append((key, made))
        return {key: found[key] for key in wanted if found[key] is not ABSENT}

    def _load(self, prefix: tuple[Any, ...], leads: list[tuple[Any, Any, Any]], found: dict[Any, Any]) -> _Steps:
        """Call the function with the keys that this call leads, and store what it returns."""
        one = self._one
        call = partial(self.__wrapped__, *prefix, [key for key, _, _ in leads])
        try:
            values = self._checked((yield Call(call, [lead for _, _, lead in leads])))
            for key, _, _ in leads:
                found[key] = values[key] if key in values else ABSENT
        except BaseException as error:
            for _, _, lead in leads:
                lead.fail(error)
            raise
        failure: BaseException | None = None
        for key, made, lead in leads:
            try:
                if found[key] is ABSENT:
                    one._complete_absent(lead, made, hash(made), ABSENT, self._missing_ttl)
                else:
                    one._complete(lead, made, hash(made), found[key], one._receiver_in(made), (*prefix, key), {})
            except BaseException as error:      # of a `condition` or a weigher: the other keys are stored nevertheless
                lead.fail(error)
                failure = failure or error
        if failure is not None:
            raise failure

    def _checked(self, values: Any) -> Mapping[Any, Any]:
        """The result of the function, checked."""
        refuse_awaitable(self._shown, values)
        if not hasattr(type(values), "keys") or not hasattr(type(values), "__getitem__"):
            raise TypeError(f"{self._shown} must return a mapping of keys to values, not {type(values).__name__}")
        mapping: Mapping[Any, Any] = values
        return mapping

    @property
    def _shown(self) -> str:
        return str(getattr(self, "__qualname__", self.__wrapped__))

    def _peek(self, prefix: tuple[Any, ...], keys: Iterable[Any]) -> Any:
        from cachebox.cache import MISSING

        known = {key: self._one_of(prefix).peek(key) for key in listed(keys)}
        return {key: value for key, value in known.items() if value is not MISSING and value is not ABSENT}

    def _set(self, prefix: tuple[Any, ...], mapping: Mapping[Any, Any]) -> Any:
        one = self._one_of(prefix)
        for key, value in checked_mapping(mapping).items():
            one.set(value, key)

    def _invalidate(self, prefix: tuple[Any, ...], keys: Iterable[Any]) -> Any:
        one = self._one_of(prefix)
        known = [(one.peek(key), one.invalidate(key)) for key in listed(keys)]
        return sum(was_there and value is not ABSENT for value, was_there in known)

    def _one_of(self, prefix: tuple[Any, ...]) -> Any:
        """The function of one key, bound if it is a method."""
        return self._one.__get__(prefix[0], type(prefix[0])) if prefix else self._one

    # --- for users ----------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any) -> Any:
        prefix, keys = args[:-1], args[-1:]         # a method may be called with its receiver in front
        if len(prefix) > 1 or not keys:
            raise TypeError(f"{self._shown} takes the keys in one iterable: {self._shown}([1, 2])")
        return self._call(prefix, *keys)

    @control
    def peek(self, keys: Iterable[Any]) -> Any:
        """The cached results of these keys, as a dict. Makes no call, and counts nothing. O(number of keys)."""
        return self._peek((), keys)

    @control
    def refresh(self, keys: Iterable[Any]) -> Any:
        """Call the function with these keys now, store its results in place of older ones, and return them."""
        return self._call((), keys, True)

    @control
    def set(self, mapping: Mapping[Any, Any]) -> Any:
        """Store these results as if they had been computed. O(number of keys)."""
        return self._set((), mapping)

    @control
    def invalidate(self, keys: Iterable[Any]) -> Any:
        """Forget the results of these keys. Returns how many there were. O(number of keys)."""
        return self._invalidate((), keys)

    @control
    def cache_key(self, key: Any) -> Any:
        """The key under which the cache holds the result of `key`."""
        return self._one.cache_key(key)

    @property
    def cache(self) -> Any:
        """The cache that holds the results."""
        return self._one.cache

    def cache_info(self) -> Any:
        """Hits and misses, by key, and sizes, as functools has them."""
        return self._one.cache_info()

    def cache_parameters(self) -> dict[str, Any]:
        """How the function is cached, as a new dict."""
        return {**self._one.cache_parameters(), "missing_ttl": self._missing_ttl}

    def cache_clear(self) -> Any:
        """Forget all results and set the statistics to zero."""
        return self._one.cache_clear()

    def __set_name__(self, owner: type, name: str) -> None:
        self._may_be_class_method = False

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else BoundMany(self, instance)

    def __getattr__(self, name: str) -> Any:
        if name == "__wrapped__":       # not made yet
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __reduce__(self) -> str:
        return str(self.__wrapped__.__qualname__)

    def __copy__(self) -> CachedMany:
        return self

    def __deepcopy__(self, memo: object) -> CachedMany:
        return self

    def __repr__(self) -> str:
        return f"<cached {self._shown}>"


class BoundMany:
    """A method of many keys, bound to its receiver: ``instance.method(keys)``."""

    def __init__(self, function: CachedMany, instance: Any) -> None:
        self.__func__ = function
        self.__self__ = instance

    def __call__(self, keys: Iterable[Any]) -> Any:
        return self.__func__._call((self.__self__,), keys)

    def peek(self, keys: Iterable[Any]) -> Any:
        """The cached results of these keys, as a dict."""
        return self.__func__._peek((self.__self__,), keys)

    def refresh(self, keys: Iterable[Any]) -> Any:
        """Call the method with these keys now, and store its results."""
        return self.__func__._call((self.__self__,), keys, True)

    def set(self, mapping: Mapping[Any, Any]) -> Any:
        """Store these results as if they had been computed."""
        return self.__func__._set((self.__self__,), mapping)

    def invalidate(self, keys: Iterable[Any]) -> Any:
        """Forget the results of these keys. Returns how many there were."""
        return self.__func__._invalidate((self.__self__,), keys)

    def cache_key(self, key: Any) -> Any:
        """The key under which the cache holds the result of `key`."""
        return self.__func__._one_of((self.__self__,)).cache_key(key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return MethodType

    def __eq__(self, other: object) -> bool:
        if type(other) is not BoundMany:
            return NotImplemented
        return self.__self__ is other.__self__ and self.__func__ is other.__func__

    def __hash__(self) -> int:
        return hash((id(self.__self__), id(self.__func__)))


class Call:
    """A step: the function is to be called, for these leaders."""

    __slots__ = ("function", "leads")

    def __init__(self, function: Callable[[], Any], leads: list[Any]) -> None:
        self.function = function
        self.leads = leads


def run(steps: _Steps) -> Any:
    """Do the steps of a call in this thread."""
    answer: Any = None
    error: BaseException | None = None
    try:
        while True:
            try:
                asked = steps.send(answer) if error is None else steps.throw(error)
            except StopIteration as ended:
                return ended.value
            answer = error = None
            try:
                answer = asked.function() if type(asked) is Call else _over(asked)
            except BaseException as raised:
                error = raised
    finally:
        steps.close()
        error = None                            # it would keep this frame alive


def _over(flight: Any) -> bool:
    """Wait in this thread until a flight is done. False: the caller has to load alone."""
    from cachebox._loading.flight import Wait

    bell = waiter()
    wait = Wait(flight, bell)
    try:
        if wait.may_begin() and wait.begins():
            while not bell.wait(PULSE) and not wait.is_in_vain():
                pass
    finally:
        wait.ends()
    is_done: bool = flight.is_done
    return is_done


def listed(keys: Iterable[Any]) -> list[Any]:
    """The different keys, in order. Raises TypeError if they are no keys."""
    if isinstance(keys, (str, bytes)) or not (hasattr(keys, "__iter__") or hasattr(keys, "__getitem__")):
        raise TypeError(f"keys must be an iterable of keys, not {type(keys).__name__}")
    try:
        return list(dict.fromkeys(keys))
    except TypeError as error:
        raise TypeError(f"keys must be hashable, to be cached each by itself: {error}") from error


def checked_mapping(given: Any) -> Mapping[Any, Any]:
    """A mapping of keys to results. Raises TypeError for anything else."""
    if not hasattr(type(given), "keys") or not hasattr(type(given), "__getitem__"):
        raise TypeError(f"mapping must be a mapping of keys to results, not {type(given).__name__}")
    mapping: Mapping[Any, Any] = given
    return mapping if hasattr(type(given), "items") else {key: given[key] for key in given.keys()}
