"""Loads for coroutines: `Cache.aget`, `aget_many` and `aget_or_set`, if the fast path did not find the value.

Under asyncio a load runs in a task of its own. So it goes on when one of its waiters is cancelled; it is cancelled with
the last of them. Keys that are missed in one pass of the event loop are loaded together. Threads, and tasks of other
loops, wait for the same load by its flight. Without an asyncio loop, for example under trio, the caller loads in its
own task; if it is cancelled, a waiter takes over.
"""

from __future__ import annotations

import asyncio
import sys
from contextvars import copy_context
from functools import partial
from time import perf_counter_ns
from weakref import ref

from cachebox._loading import fetch, tasks
from cachebox._loading.flight import Course, led
from cachebox._loading.loader import NOTHING_LOADED
from cachebox._loading.refresh_pool import submit
from cachebox._platform.callers import PULSE

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from cachebox._loading.flight import Flight
    from cachebox._loading.loader import Loader
    from cachebox._loading.refresh import Refresh
    from cachebox._loading.single_flight import Leader
    from cachebox.cache import Cache

    _AnyCache: TypeAlias = Cache[Any, Any]
    _Source: TypeAlias = "_ByLoader | _ByFactory"

MOST_AT_ONCE = 1000
"""The most keys that go to one `load_many`."""


# --- what `Cache` calls -----------------------------------------------------------------------------------------------


async def get(cache: _AnyCache, key: Any, default: Any) -> Any:
    """`Cache.aget` of a cache with a loader."""
    value = await _served(cache, key) if cache._refreshes else NOTHING_LOADED
    if value is NOTHING_LOADED:
        request = _Request(cache, key, _ByLoader(cache), loads_of(cache))
        if request.future is None:
            value = await request.value()
        else:                                   # the same as `value()`, inlined because this is the commonest case
            try:
                value = await request.future
            finally:
                request.leave()
    return default if value is NOTHING_LOADED else value


async def get_many(cache: _AnyCache, keys: list[Any]) -> dict[Any, Any]:
    """`Cache.aget_many` of a cache with a loader."""
    source, loads = _ByLoader(cache), loads_of(cache)
    found: dict[Any, Any] = {}
    requests: dict[Any, _Request] = {}
    try:
        for key in keys:
            value = fetch.find(cache, key)
            if value is NOTHING_LOADED and cache._refreshes:
                value = await _served(cache, key)
            if value is not NOTHING_LOADED:
                found[key] = value
            elif key in requests:
                fetch.count_miss(cache)
            else:
                requests[key] = _Request(cache, key, source, loads)
        for key, request in requests.items():
            value = await request.value()
            if value is not NOTHING_LOADED:
                found[key] = value
    finally:
        for request in requests.values():
            request.leave()
    return {key: found[key] for key in keys if key in found}


async def get_or_set(
    cache: _AnyCache, key: Any, factory: Callable[[], Any], lifetime: float, tags: tuple[Any, ...]
) -> Any:
    """`Cache.aget_or_set`, if the value is not there."""
    return await _Request(cache, key, _ByFactory(cache, factory, lifetime, tags), loads_of(cache)).value()


def start_refresh(refresh: Refresh) -> bool:
    """Refresh a value in a task. False: no event loop runs here, so a later call has to."""
    return run_in_task(refresh, partial(_refresh, refresh))


def run_in_task(refresh: Refresh, make: Callable[[], Any]) -> bool:
    """Have a refresh done by a task that runs the coroutine of ``make()``. False: no event loop runs."""
    loop = asyncio._get_running_loop()
    if loop is None:
        return False
    refresh.hand_to(start(make()), partial(tasks.goes_on, ref(loop)))
    return True


async def _refresh(refresh: Refresh) -> None:
    try:
        if refresh.begin():
            refresh.loaded(await _load_one(refresh.loader, refresh.key))
    except Exception as error:
        refresh.failed(error)
    finally:
        refresh.end()


async def _served(cache: _AnyCache, key: Any) -> Any:
    """A value that may be served although it is due for a refresh or has expired."""
    value = fetch.get_now_(cache, key)
    if value is NOTHING_LOADED:
        flight = cache._refreshing(key)
        if flight is not None and await tasks.over(flight):
            value = fetch.get_now_(cache, key)
    return value


def start(coroutine: Any) -> asyncio.Task[None]:
    """A task, never an eager one. The caller must keep it, because an event loop refers to its tasks weakly."""
    return asyncio.Task(coroutine, loop=asyncio.get_running_loop())


# --- where values come from -------------------------------------------------------------------------------------------


class _ByLoader:
    """The cache's loader."""

    __slots__ = ("cache", "loader", "together")
    by_loader = True

    def __init__(self, cache: _AnyCache) -> None:
        self.cache = cache
        self.loader: Loader = cache._loader
        self.together = self.loader.many is not None

    async def load(self, keys: list[Any]) -> dict[Any, Any]:
        """The values of those keys that have one."""
        if self.together:
            return await _load_many(self.loader, keys)
        values = {key: await _load_one(self.loader, key) for key in keys}
        return {key: value for key, value in values.items() if value is not NOTHING_LOADED}

    def complete(self, lead: Leader, key: Any, values: dict[Any, Any]) -> Any:
        """End the load of a key. Returns the result for the caller that began it."""
        value = values.get(key, NOTHING_LOADED)
        fetch.complete_loaded(self.cache, lead, key, value)
        return value


class _ByFactory:
    """A factory that is given with the call."""

    __slots__ = ("cache", "factory", "lifetime", "tags")
    by_loader = together = False

    def __init__(self, cache: _AnyCache, factory: Callable[[], Any], lifetime: float, tags: tuple[Any, ...]) -> None:
        self.cache = cache
        self.factory = factory
        self.lifetime = lifetime
        self.tags = tags

    async def load(self, keys: list[Any]) -> dict[Any, Any]:
        """The value of the one key."""
        value = self.factory()
        return {keys[0]: await value if hasattr(type(value), "__await__") else value}

    def complete(self, lead: Leader, key: Any, values: dict[Any, Any]) -> Any:
        """End the load of a key. Returns the result for the caller that began it."""
        fetch.complete_made(self.cache, lead, key, values[key], self.lifetime, self.tags)
        return values[key]


async def _load_one(loader: Loader, key: Any) -> Any:
    """Load one key. Returns its value, or `NOTHING_LOADED`."""
    try:
        return await _called(loader, loader.one, key)
    except KeyError:
        return NOTHING_LOADED


async def _load_many(loader: Loader, keys: list[Any]) -> dict[Any, Any]:
    """Load many keys. Returns a dict of those that have a value."""
    try:
        values = await _called(loader, loader.many, keys)
    except KeyError:                            # of an unknown key: find out which by loading each
        each = {key: await _load_one(loader, key) for key in keys}
        return {key: value for key, value in each.items() if value is not NOTHING_LOADED}
    if not hasattr(values, "keys"):
        raise TypeError(f"load_many must return a dict, not {type(values).__name__}")
    return {key: values[key] for key in keys if key in values}


async def _called(loader: Loader, function: Callable[[Any], Any], argument: Any) -> Any:
    """The result of a loader, awaited if it is async. A plain loader is called in a thread of the pool."""
    began = perf_counter_ns()
    succeeded = False
    try:
        if loader.is_async:
            result = function(argument)
            if hasattr(type(result), "__await__"):
                result = await result
        else:
            result = await _in_thread(partial(function, argument))
            loader.refuse_awaitable(result)
        succeeded = True
    finally:
        loader.note(succeeded, began)
    return result


async def _in_thread(function: Callable[[], Any]) -> Any:
    """The result of a plain function, called in a thread of the pool."""
    loop = asyncio._get_running_loop()
    if loop is None:
        return await _in_thread_of_trio(function)
    job = _Job(function, loop)
    if not submit(job):
        return function()                       # no thread can be had
    return await job.future


async def _in_thread_of_trio(function: Callable[[], Any]) -> Any:
    trio: Any = sys.modules.get("trio")
    if trio is None or tasks.current()[0] is None:
        return function()                       # there is no known way to wait
    return await trio.to_thread.run_sync(function)


class _Job:
    """A function that a thread of the pool calls while a task waits for the result."""

    def __init__(self, function: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[Any] = loop.create_future()
        self._call: Callable[[], Any] = partial(copy_context().run, function)
        self._loop = loop

    def run(self) -> None:
        """Call it, in the thread."""
        result = raised = None
        try:
            result = self._call()
        except BaseException as error:
            raised = error
        try:
            self._loop.call_soon_threadsafe(_end, self.future, result, raised)
        except RuntimeError:                    # the loop is closed, and the wait has ended with it
            pass


def _end(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done() or future.get_loop().is_closed():      # nothing waits for it any more
        return
    if isinstance(error, StopIteration):        # no future accepts it, and no coroutine may raise it
        replaced = RuntimeError("a loader raised StopIteration")
        replaced.__cause__, error = error, replaced
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


# --- loads ------------------------------------------------------------------------------------------------------------


class Loads:
    """The loads of one cache in one event loop; one of them is gathering the keys of this pass."""

    def __init__(self) -> None:
        self._by_key: dict[Any, _Load] = {}
        self._gathers: _Load | None = None

    def find(self, key: Any, flight: Flight) -> _Load | None:
        """The load of this loop that has that flight."""
        load = self._by_key.get(key)
        return load if load is not None and load.leads[key].joined is flight else None

    def add(self, key: Any, lead: Leader, source: _Source) -> _Load:
        """Have a key loaded, together with others of this pass if possible."""
        load = self._gathers
        if not source.together or load is None or len(load.leads) >= MOST_AT_ONCE or key in load.leads:
            load = _Load(self, source)
            if source.together:
                self._gathers = load
        load.add(key, lead)
        self._by_key[key] = load
        return load

    def gathers_no_more(self, load: _Load) -> None:
        """Let later keys go to another load, because this one begins."""
        if self._gathers is load:
            self._gathers = None

    def forget(self, load: _Load) -> None:
        """Remove a load that has ended."""
        for key in load.leads:
            if self._by_key.get(key) is load:
                del self._by_key[key]


class _Load:
    """Some keys that are loaded together, by a task that begins after the pass of the loop in which it was made."""

    def __init__(self, loads: Loads, source: _Source) -> None:
        self.leads: dict[Any, Leader] = {}
        self.waiting = 0                            # requests of this loop
        self._loads = loads
        self._source = source
        self._futures: dict[Any, asyncio.Future[Any]] = {}      # of the callers that began the loads
        self._has_begun = self._is_over = self._looks = False
        self._task = start(self._run())
        self._course = Course(self._task, tasks.current()[1])

    def add(self, key: Any, lead: Leader) -> None:
        """Add a key."""
        self.leads[key] = lead
        lead.follow(self._course)

    def expect(self, key: Any) -> asyncio.Future[Any]:
        """A future for the caller that began the load of a key."""
        future = self._futures[key] = asyncio.get_running_loop().create_future()
        return future

    async def _run(self) -> None:
        self._has_begun = True
        self._loads.gathers_no_more(self)
        leads = list(self.leads.items())
        self._course.enter()
        try:
            values = await self._source.load([key for key, _ in leads])
            for key, lead in leads:
                self._complete(key, lead, values)
        except BaseException as error:
            for key, lead in leads:
                self._fail(key, lead, error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._course.leave()
            self._forget()

    def _complete(self, key: Any, lead: Leader, values: dict[Any, Any]) -> None:
        try:
            value = self._source.complete(lead, key, values)
        except Exception as error:              # a weigher's, so it concerns this key alone
            self._fail(key, lead, error)
        else:
            self._tell(key, value, None)

    def _fail(self, key: Any, lead: Leader, error: BaseException) -> None:
        fetch.fail_load(self._source.cache, lead, key, error)
        self._tell(key, None, error)

    def _tell(self, key: Any, value: Any, error: BaseException | None) -> None:
        future = self._futures.pop(key, None)
        if future is not None:
            _end(future, value, error)

    def _forget(self) -> None:
        self._is_over = True
        self._loads.gathers_no_more(self)
        self._loads.forget(self)
        self.leads.clear()

    def leave(self) -> None:
        """Note that a request waits no more. The load is cancelled when nothing waits for any of its keys."""
        self.waiting -= 1
        self._end_if_unwanted()

    def _end_if_unwanted(self) -> None:
        if self._is_over or self.waiting or asyncio._get_running_loop() is not self._task.get_loop():
            return                              # the collector may close a waiting coroutine in any thread
        if any(lead.is_awaited for lead in self.leads.values()):    # by threads, or tasks of other loops
            if not self._looks:                 # which do not report that they leave
                self._looks = True
                asyncio.get_running_loop().call_later(PULSE, self._look_again)
        else:
            self._task.cancel()
            if not self._has_begun:             # and never will
                for lead in self.leads.values():
                    lead.fail(None)
                self._forget()

    def _look_again(self) -> None:
        self._looks = False
        self._end_if_unwanted()


def loads_of(cache: _AnyCache) -> Loads | None:
    """The loads of a cache in the running task's event loop; None: it is not a loop of asyncio."""
    loop = asyncio._get_running_loop()
    if loop is None or asyncio.current_task(loop) is None:
        return None
    by_loop: dict[int, tuple[ref[asyncio.AbstractEventLoop], Loads]] = cache._keep_loads(dict)
    known = by_loop.get(id(loop))
    if known is not None and known[0]() is loop:
        return known[1]
    for address, (other, _) in by_loop.copy().items():
        if other() is None:
            by_loop.pop(address, None)
    made = Loads()
    by_loop[id(loop)] = ref(loop), made         # no other thread does this for the loop that runs here
    return made


# --- asking for a value -----------------------------------------------------------------------------------------------


class _Request:
    """A coroutine's request for a key. Making it begins a load, or joins the one in progress."""

    future: asyncio.Future[Any] | None = None       # of the load that this request began
    _counted = False
    _found: Any = None                              # a tuple of the value
    _lead: Leader | None = None                     # if this caller loads
    _flight: Flight | None = None                   # if another caller loads: the flight to wait for
    _load: _Load | None = None                      # if a task of this loop loads: its load

    def __init__(self, cache: _AnyCache, key: Any, source: _Source, loads: Loads | None) -> None:
        self._cache = cache
        self._key = key
        self._source = source
        self._loads = loads
        failure = fetch.known_failure(cache, key)
        if failure is None:
            self._begin(False)
        elif source.by_loader and isinstance(failure, KeyError):
            self._found = (NOTHING_LOADED,)
        else:
            raise failure

    def _begin(self, alone: bool) -> None:
        """Find out which caller loads the key."""
        lead, known = fetch.begin_load(self._cache, self._key, self._counted, alone)
        self._counted = True
        if lead is None and type(known) is tuple:
            self._found = known
        elif lead is None:
            self._flight = known
            self._load = self._loads.find(self._key, known) if self._loads is not None else None
        elif alone or self._loads is None:
            self._lead = lead
        elif led.get():   # acts for another load, so its wait has to be registered like others
            self._loads.add(self._key, lead, self._source)
            return self._begin(False)
        else:
            self._load = self._loads.add(self._key, lead, self._source)
            self.future = self._load.expect(self._key)
        if self._load is not None:
            self._load.waiting += 1

    async def value(self) -> Any:
        """The value of the key, once it is loaded."""
        try:
            while self._found is None:
                if self._lead is not None:
                    return await self._lead_here(self._lead)
                if self.future is not None:
                    return await self.future
                flight, self._flight = self._flight, None
                assert flight is not None
                alone = not await tasks.over(flight)    # then the wait would be circular
                if not alone and not flight.was_abandoned:
                    try:
                        value = flight.get()
                    finally:
                        del flight              # it refers to the error, whose traceback refers to this frame
                    if self._source.by_loader or value is not NOTHING_LOADED:
                        return value
                    # else a loader said that there is no value, but this caller has a factory
                self.leave()
                self._begin(alone)
            return self._found[0]
        finally:
            self.leave()

    async def _lead_here(self, lead: Leader) -> Any:
        course = None
        try:
            course = lead.begin(*tasks.current())
            values = await self._source.load([self._key])
            return self._source.complete(lead, self._key, values)
        except BaseException as error:
            fetch.fail_load(self._cache, lead, self._key, error)
            raise
        finally:
            if course is not None:
                course.leave()
            self._lead = None

    def leave(self) -> None:
        """The caller waits no more."""
        load, self._load, self.future = self._load, None, None
        if load is not None:
            load.leave()
