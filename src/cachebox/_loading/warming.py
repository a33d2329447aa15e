"""`Cache.warm`: filling a cache before the first request."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import NamedTuple

from cachebox._loading import fetch
from cachebox._loading.flight import act_for, delegate, undelegate
from cachebox._platform.awaitables import plain_call, refuse_async
from cachebox._platform.callers import CallerLock, waiter
from cachebox._platform.section import in_section
from cachebox._platform.thread import Thread

TYPE_CHECKING = False               # as everywhere in the package
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from typing import Any

    from cachebox._loading.loader import Loader
    from cachebox.cache import Cache

BATCH = 500
"""The most keys that go to one `load_many`."""
WORKERS = 8
"""Threads that load, for loaders of one key at a time."""


class Warmed(NamedTuple):
    """What `warm` did, in keys."""

    loaded: int
    """Keys that were loaded, or items that were stored."""
    failed: int
    """Keys for which the loader raised or had no value, or whose value the cache refused."""
    skipped: int
    """Keys that had a value already."""
    total: int
    first_error: Exception | None
    """The error of the first key that failed, or None."""


class Order(NamedTuple):
    """The arguments of `warm`, checked."""

    keys: Collection[Any]
    """A list of keys to load, or the keys of the mapping."""
    items: dict[Any, Any] | None
    """The given mapping; None: keys were given."""
    together: bool
    """Whether keys are loaded by `load_many`."""
    workers: int


def checked(keys: Any, can_load: bool, can_load_many: bool, workers: Any, progress: Any) -> Order:
    """Check the arguments of `warm`. Raises TypeError or ValueError if they make no sense."""
    # copying a dict is much faster than reading its items, and nobody else can run meanwhile
    items = dict(keys if type(keys) is dict else keys.items()) if isinstance(keys, Mapping) else None
    if items is None and not hasattr(keys, "__iter__") and not hasattr(keys, "__getitem__"):
        raise TypeError(f"keys must be a mapping or an iterable of keys, not {type(keys).__name__}")
    if items is None and not can_load:
        raise TypeError("warm needs a loader to load keys: give one, or a mapping, or a cache with a loader")
    if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool)):
        raise TypeError(f"workers must be an int or None, not {type(workers).__name__}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be 1 or more, not {workers}")
    if progress not in (None, True, False) and not callable(progress):
        raise TypeError(f"progress must be callable, True or None, not {type(progress).__name__}")
    refuse_async("progress", progress)
    wanted: Collection[Any] = list(keys) if items is None else items.keys()
    for key in wanted:
        hash(key)
    together = items is None and can_load_many
    if workers is None:
        workers = 1 if together or items is not None else WORKERS
    return Order(wanted, items, together, workers)


class Tally:
    """What is done so far, and who is to be shown it. Safe from any thread."""

    def __init__(self, total: int, show: Callable[[int, int], object] | None) -> None:
        self.total = total
        self.show = show
        self.lock = CallerLock()   # re-entrant, because `show` is the user's function, and may warm, too
        self.loaded = self.failed = self.skipped = 0
        self.first_error: Exception | None = None
        self.ended_by: BaseException | None = None      # what `progress` raised, or an interruption

    def note(self, loaded: int = 0, failed: int = 0, skipped: int = 0, error: Exception | None = None) -> None:
        """Add to the counts."""
        with self.lock:
            self.loaded += loaded
            self.failed += failed
            self.skipped += skipped
            if error is not None and self.first_error is None:
                self.first_error = error
            if self.show is not None:
                plain_call("progress", self.show, self.loaded + self.failed + self.skipped, self.total)

    def result(self) -> Warmed:
        """The counts; or raise the exception that ended the work."""
        if self.ended_by is not None:
            raise self.ended_by
        return Warmed(self.loaded, self.failed, self.skipped, self.total, self.first_error)


def in_threads(work_off: Callable[[], object], workers: int, tally: Tally) -> Warmed:
    """Work in several threads; in this one if one is enough."""

    def work() -> None:
        try:
            work_off()
        except BaseException as error:
            tally.ended_by = error
        finally:
            working.pop()
            if not working and bell is not None:
                bell.wake()

    bell = None
    working = [None] * max(workers, 1)                  # such a list changes in one step
    if workers <= 1 or in_section():                    # the other threads may need what this thread holds
        work()
        return tally.result()
    bell = waiter()
    course = delegate(bell)                             # they act for this caller, which waits for them
    threads = [Thread("cachebox-warm", partial(copy_context().run, act_for, course, work)) for _ in range(workers)]
    started = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
        bell.wait()
        for thread in started:
            thread.join()
    except BaseException as error:                      # an interruption, which the others are to see
        tally.ended_by = error
        raise
    finally:
        undelegate(course)
        bell.close()
    return tally.result()


def warm(
    cache: Cache[Any, Any],
    keys: Iterable[Any],
    loader: Loader | None,
    workers: int | None,
    progress: Callable[[int, int], object] | bool | None,
) -> Warmed:
    """`Cache.warm`, which has the documentation."""
    order = checked(keys, loader is not None, loader is not None and loader.many is not None, workers, progress)
    with shown(progress) as show:
        job = _Job(cache, loader, order, Tally(len(order.keys), show))
        return in_threads(job.work_off, min(order.workers, job.pieces), job.tally)


class _Job:
    """One call of `Cache.warm`, done by several threads."""

    def __init__(self, cache: Cache[Any, Any], loader: Loader | None, order: Order, tally: Tally) -> None:
        self.cache = cache
        self.loader = loader
        self.tally = tally
        self.note = tally.note
        work: Collection[Any]
        if order.together:
            keys = list(order.keys)
            work = [keys[at : at + BATCH] for at in range(0, len(keys), BATCH)]
            self.do: Callable[[Any], None] = self.load_batch
        elif order.items is None:
            work, self.do = order.keys, self.load_one
        else:
            work, self.do = order.items.items(), self.store
        self.pieces = len(work)
        self.work = iter(work)

    def work_off(self) -> None:
        """Do one piece after the other, until there is none or another thread has ended the work."""
        while self.tally.ended_by is None:
            with self.tally.lock:
                piece: Any = next(self.work, self)      # `self` stands for the end
            if piece is self:
                return
            self.do(piece)

    def load_one(self, key: Any) -> None:
        if key in self.cache:
            return self.note(skipped=1)
        try:
            found = fetch.load_one(self.cache, key, self.loader)
        except Exception as error:
            return self.note(failed=1, error=error)
        self.note(loaded=found, failed=not found)

    def load_batch(self, keys: list[Any]) -> None:
        missing = [key for key in dict.fromkeys(keys) if key not in self.cache]
        there = len(keys) - len(missing)
        try:
            loaded = fetch.load_many(self.cache, missing, self.loader) if missing else 0
        except Exception as error:
            return self.note(failed=len(missing), skipped=there, error=error)
        self.note(loaded=loaded, failed=len(missing) - loaded, skipped=there)

    def store(self, item: tuple[Any, Any]) -> None:
        try:
            stored = self.cache.add(*item)
        except Exception as error:
            return self.note(failed=1, error=error)
        self.note(loaded=stored, skipped=not stored)


@contextmanager
def shown(progress: Callable[[int, int], object] | bool | None) -> Iterator[Callable[[int, int], object] | None]:
    """The function to call with the progress: the given one, or one that moves a bar on the terminal; or None."""
    if progress is not True:
        yield progress if callable(progress) else None
        return
    if not sys.stderr.isatty():
        yield None
        return
    try:
        from rich.console import Console  # type: ignore[import-not-found, unused-ignore]
        from rich.progress import Progress  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ImportError("progress=True needs rich: install cachebox-cython[cli], or give a function") from error
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("warming", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
