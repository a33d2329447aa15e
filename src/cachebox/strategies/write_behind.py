"""Write-behind: writes are accepted at once, and reach the store soon, in batches."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, Never

from cachebox._files.serializer import Encoding
from cachebox._platform.awaitables import refuse_async
from cachebox._platform.keywords import refuse_unknown
from cachebox.cache import MISSING
from cachebox.strategies.backlog import Backlog
from cachebox.strategies.dead_letters import DeadLetter
from cachebox.strategies.errors import Absent
from cachebox.strategies.journal import Journal
from cachebox.strategies.key_locks import KeyLocks, Locks
from cachebox.strategies.methods import BlockingMethods
from cachebox.strategies.operations import Operations
from cachebox.strategies.options import check_choice, check_int, checked_seconds
from cachebox.strategies.steps import Steps, run
from cachebox.strategies.store import Store, check_entry, check_key, checked_items, checked_keys
from cachebox.strategies.unfinished import UNKNOWN
from cachebox.strategies.until import Until
from cachebox.strategies.watches import Watch
from cachebox.strategies.write_queue import WriteQueue

NO_VALUE = "value must not be MISSING, which stands for a delete: use delete"
_NO_TURN: AbstractContextManager[None] = nullcontext()


OPTIONS = (
    "batch_size", "max_delay", "max_queue", "on_full", "retries", "backoff", "max_backoff", "on_dead_letter", "journal",
    "exit_timeout", "serializer", "secret", "durability",
)
FOREIGN_OPTIONS = {                     # names of these options elsewhere
    "delay": "max_delay", "interval": "max_delay", "flush_interval": "max_delay", "maxsize": "max_queue",
    "queue_size": "max_queue", "max_size": "max_queue", "max_retries": "retries", "path": "journal",
    "timeout": "exit_timeout", "on_error": "on_dead_letter",
}


class WritingBehind(Operations):
    """The operations of `WriteBehind` and `AsyncWriteBehind`."""

    _accept: Callable[..., Any]         # `Backlog.accept`, with the strategy's way of waiting
    _settled_in: Callable[..., Any]     # `Backlog.wait_until_settled_in`, with the strategy's way of waiting
    _locks: Locks       # used if the store cannot load

    def __init__(
        self,
        cache: Any,
        store: Any,
        *,
        batch_size: int = 100,
        max_delay: float | timedelta = 0.1,
        max_queue: int = 10_000,
        on_full: str = "block",
        retries: int | None = None,
        backoff: float | timedelta = 0.1,
        max_backoff: float | timedelta = 30.0,
        on_dead_letter: Any = None,
        journal: str | os.PathLike[str] | None = None,
        exit_timeout: float | timedelta = 10.0,
        serializer: Any = "json",
        secret: bytes | str | None = None,
        durability: str = "process",
        **unknown: Never,
    ) -> None:
        refuse_unknown(type(self).__name__, unknown, OPTIONS, FOREIGN_OPTIONS)
        for name, given, least in (("batch_size", batch_size, 1), ("max_queue", max_queue, 1)):
            check_int(name, given, least)
        if retries is not None:
            check_int("retries", retries, 0)
        max_delay = checked_seconds("max_delay", max_delay)
        exit_timeout = checked_seconds("exit_timeout", exit_timeout)
        backoff = checked_seconds("backoff", backoff, finite=True)
        max_backoff = checked_seconds("max_backoff", max_backoff, finite=True)
        check_choice("on_full", on_full, ("block", "raise"))
        check_choice("durability", durability, ("process", "power"))
        if on_dead_letter is not None and not callable(on_dead_letter):
            raise TypeError(f"on_dead_letter must be callable or None, not {type(on_dead_letter).__name__}")
        refuse_async("on_dead_letter", on_dead_letter)
        super().__init__(cache, store)
        self.exit_timeout = exit_timeout
        self._waits = on_full == "block"
        encoding = Encoding(serializer, secret)
        self._journal = None if journal is None else Journal(journal, encoding, durability)
        if self._journal is not None:
            # a cache that outlived the process may not have got these writes
            self._side.stale.add([key for _, key, _ in self._journal.replayed])
        self._backlog = Backlog(
            self._delivered_to(),
            WriteQueue(batch_size, max_delay, max_queue),
            self._journal,
            waits=self._waits and not self._is_async,
            exit_timeout=exit_timeout,
            retries=retries,
            backoff=backoff,
            max_backoff=max_backoff,
            on_dead_letter=on_dead_letter,
        )
        self._queue = self._backlog.queue
        self._watches = self._backlog.watches
        self._begin()

    def _begin(self) -> None:
        """The rest of the constructor."""

    def _delivered_to(self) -> Store:
        """The store, for the delivering thread."""
        return self._store

    # --- reading ------------------------------------------------------------------------------------------------------

    def _pending(self, key: Any) -> Any:
        write = self._queue.find(key)
        if write is not None:
            return write.value
        if self._store.load is None:
            unfinished = self._backlog.unfinished.get(key)
            if unfinished is not None:          # the store may have it already, and the cache not yet
                return unfinished.value
        return UNKNOWN

    def _may_be_late(self, key: Any) -> bool:
        return bool(self._side.stale) or self._is_unfinished(key)

    def _is_late(self, key: Any) -> Steps[bool]:
        return self._is_unfinished(key) or (yield from self._side.is_stale(key))

    def _is_unfinished(self, key: Any) -> bool:
        """Whether the store may have a write of a key that the cache has not. If it cannot load, see `_pending`."""
        return key in self._backlog.unfinished and self._store.load is not None

    def _load(self, key: Any) -> Steps[Any]:
        write = self._queue.find(key)           # it may have been accepted, and evicted, since `get` looked
        if write is None:
            try:
                value = yield self._store.load, (key,)
            except KeyError:
                value = MISSING
            write = self._queue.find(key)
        if write is not None:
            value = write.value
        if value is MISSING:
            raise Absent(key)
        return value

    # --- writing ------------------------------------------------------------------------------------------------------

    def _turn(self, keys: Iterable[Any]) -> AbstractContextManager[Any]:
        """The locks of keys if the store cannot load, else None.

        Then the cache alone has the values, and must not forget one because two callers write it at the same time. The
        delivering thread takes no lock: the lock's holder may wait for that thread to make room.
        """
        if self._store.load is not None or self._backlog.thread is threading.current_thread():
            return _NO_TURN
        return self._locks.of(keys)

    def _set(self, key: Any, value: Any, ttl: Any, tags: Any) -> Steps[None]:
        check_entry(self.cache, key, value, ttl, tags)
        if value is MISSING:
            raise TypeError(NO_VALUE)
        numbers: dict[Any, int] = {}
        with self._turn((key,)) as turn:
            if turn is not None:
                yield turn.take, ()
            try:
                yield self._accept, (key, value, numbers)
                before = self._side.stale.of((key,)) if self._side.stale.keys else {}
                yield self._side.setting(key, value, ttl, tags)
                if self._side.stale.keys or self._side.stale.of_all is not None:
                    yield from self._side.was_reached(before)
                yield from self._made(numbers)
            except BaseException as error:
                yield from self._failed(numbers, error)
                raise

    def _delete(self, key: Any) -> Steps[bool]:
        check_key(self.cache, key)
        self._store.delete                      # noqa: B018  # raises if the store cannot delete
        numbers: dict[Any, int] = {}
        with self._turn((key,)) as turn:
            if turn is not None:
                yield turn.take, ()
            write = self._queue.find(key)
            had = write is not None and write.value is not MISSING
            try:
                yield self._accept, (key, MISSING, numbers)
                had = (yield from self._side.delete(key)) or had
                yield from self._made(numbers)
            except BaseException as error:
                yield from self._failed(numbers, error)
                raise
        return had

    def _set_many(self, mapping: Any, ttl: Any, tags: Any) -> Steps[None]:
        items = checked_items(self.cache, mapping, ttl, tags)
        for key, value in items.items():
            if value is MISSING:
                raise TypeError(NO_VALUE)
            if self._journal is not None:
                self._journal.encode(key, value)
        self._backlog.check_open()
        numbers: dict[Any, int] = {}
        failure = None
        with self._turn(items) as turn:
            if turn is not None:
                yield turn.take, ()
            try:
                try:
                    for key, value in items.items():
                        yield self._accept, (key, value, numbers)
                except BaseException as error:      # those for which there was room are accepted
                    failure = error
                if numbers:
                    yield from self._side.set_many({key: items[key] for key in numbers}, ttl, tags)
                yield from self._made(numbers)
            except BaseException as error:
                yield from self._failed(numbers, error)
                raise
        if failure is not None:
            raise failure

    def _delete_many(self, keys: Any) -> Steps[int]:
        doomed = checked_keys(self.cache, keys)
        self._backlog.check_open()
        had = 0
        for key in doomed:
            had += yield from self._delete(key)
        return had

    def _change(self, key: Any, change: Callable[[Any], Any], tell: Callable[[Any], Steps[None]]) -> Steps[None]:
        numbers: dict[Any, int] = {}
        with self._turn((key,)) as turn:
            if turn is not None:
                yield turn.take, ()
            while not numbers:
                yield self._settled_in, (key,)
                with self._watches.over((key,)) as watch:
                    value = change((yield from self._newest(key)))
                    if value is MISSING:
                        return
                    try:
                        yield self._accept, (key, value, numbers, watch)
                        if numbers:
                            yield from tell(value)
                            yield from self._made(numbers)
                    except BaseException as error:
                        yield from self._failed(numbers, error)
                        raise

    def _save_unless_written(self, watch: Watch, key: Any, value: Any, ttl: Any, tags: Any) -> Steps[None]:
        if value is MISSING:
            raise TypeError(NO_VALUE)
        numbers: dict[Any, int] = {}
        with self._turn((key,)) as turn:
            if turn is not None:
                yield turn.take, ()
            try:
                yield self._accept, (key, value, numbers, watch)
                if numbers and self._store.load is None:
                    yield from self._show(key, value, ttl, tags)
            finally:
                self._backlog.done_with(numbers)    # if the store can load, the caller puts the value in the cache

    def _made(self, numbers: dict[Any, int]) -> Steps[None]:
        """End accepted writes that were made in the cache.

        If a write is not the newest of its key, a newer one may have reached the cache before it. Then the cache must
        forget the key.
        """
        late = self._backlog.outdated(numbers)
        if late:
            self._side.stale.add(late)          # first, so that nobody reads an older value in between
        self._backlog.done_with(numbers)
        if late:
            yield from self._side.settle()

    def _failed(self, numbers: dict[Any, int], error: BaseException) -> Steps[None]:
        """End writes that may have been accepted, but were not made in the cache, which must forget them."""
        if numbers:
            try:
                yield from self._side.has_failed(list(numbers), error)
            finally:
                self._backlog.done_with(numbers)

    # --- dead letters, and pending writes -----------------------------------------------------------------------------

    def _retry_dead_letters(self) -> Steps[int]:
        numbers = self._backlog.retry_dead_letters()
        if self._store.load is not None:
            self._side.stale.add(list(numbers))             # the cache may have the store's old value by now
        self._backlog.done_with(numbers)
        yield from self._side.settle()
        return len(numbers)

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """The writes that the store refused `retries` + 1 times, oldest first: each has key, value and error. O(n).

        A later write of the key replaces a dead letter. `pending` and `max_queue` do not count them. Their number has
        no bound: each is kept until it is retried or discarded.
        """
        return self._backlog.dead_letters

    def discard_dead_letters(self) -> list[DeadLetter]:
        """Give the dead letters up, in the journal, too: the store will never get them. Returns them. O(n)."""
        return self._backlog.discard_dead_letters()

    @property
    def pending(self) -> int:
        """How many writes the store lacks."""
        return self._backlog.pending

    def __repr__(self) -> str:
        state = "closed" if self._backlog.closing else "open"
        return f"<{type(self).__name__} {state}, {self.pending} pending, of {self.store!r}>"


class WriteBehind(WritingBehind, BlockingMethods):
    """A cache in front of a store that gets every write a little later, from a thread in the background.

    Args:
        cache: any cache with the methods of a `Cache`.
        store: an object with ``load(key)``, ``save(key, value)`` and optionally ``save_many(dict)``, ``delete(key)``
            and ``delete_many(keys)``.
        batch_size: the most writes that go out together: an int from 1 on. That many writes do not wait
            for others.
        max_delay: the most seconds that a write waits for others, 0 or more; infinity: until there are `batch_size`
            writes, or `flush` or `close` is called.
        max_queue: the most keys with writes that the store lacks: an int from 1 on.
        on_full: what a write does if there is no room: ``"block"``: wait; ``"raise"``: raise `QueueFull`.
        retries: how often a failed write is tried again, 0 or more; None: until the store takes it.
        backoff: seconds before the first retry. Each pause is twice as long as the one before, and is shortened at
            random by up to half.
        max_backoff: the longest pause in seconds.
        on_dead_letter: called as ``on_dead_letter(key, value, error)``, in the background, for a write that the store
            refused each time; the value of a delete is `MISSING`. With or without it, such a write is logged, appears
            in `dead_letters`, and stays in the journal.
        journal: the path of a file that keeps accepted writes until the store has them; None: a process that is killed
            loses its pending writes.
        exit_timeout: the most seconds that the end of the process waits for the store.
        serializer, secret: how the journal stores keys and values, see `Cache.dump`.
        durability: ``"process"``: an accepted write survives the end of the process, even by ``kill -9``, and a power
            cut after a second; ``"power"``: `set` returns when the disk has it.

    Raises ValueError or TypeError, with the name of the argument, for an invalid argument; ValueError if the journal is
    another file or damaged; RuntimeError if the journal is open elsewhere.

    **Order.** Writes of one key reach the store in the order in which they were accepted. A pending write is replaced
    by the next write of its key; the last one always arrives. A write may arrive twice: after a failure, and after a
    replay of the journal.

    **Reading.** `get` sees every accepted write, even if the cache has evicted it, and loads the rest from the store.

    **A cache that raises** (such as a distributed one whose server cannot be reached) after a write was accepted makes
    the call raise, but the write stands. The cache's old value of the key is not served: `get` loads the key from the
    store, until the cache has been updated.

    **Failing.** Some writes of a failed batch are tried alone. If one succeeds, the store refuses others: the batch is
    split until only those are left, and they hold up nothing else. If none succeeds, the store seems down: it is asked
    again after growing pauses. Meanwhile the queue fills up, and then writes wait or raise: nothing is dropped, and
    memory is bounded. The logger ``cachebox`` reports the beginning and the end, once each.

    **Ending.** `close`, or the end of a ``with`` block, delivers pending writes. So does the end of the process, for at
    most `exit_timeout` seconds. Undelivered writes stay in the journal, if there is one, and are replayed when it is
    opened again. The child of a fork starts with an empty queue, and cannot use the parent's journal.

    Safe from any thread. `set` is O(1).

    >>> from cachebox import Cache
    >>> class Rows(dict):
    ...     load, save, delete = dict.__getitem__, dict.__setitem__, dict.__delitem__
    >>> rows = Rows()
    >>> with WriteBehind(Cache(), rows) as cache:
    ...     cache.set("a", 1)
    ...     cache.get("a"), cache.flush(), rows["a"]
    (1, True, 1)
    """

    def _begin(self) -> None:
        self._locks = KeyLocks()
        self._accept = self._backlog.accept
        self._settled_in = self._backlog.wait_until_settled_in

    def flush(self, timeout: float | timedelta | None = None) -> bool:
        """Deliver pending writes at once, without waiting for full batches.

        Args:
            timeout: the most seconds to wait, or a `timedelta`; None: no limit.

        Returns True only if every write accepted before the call, also those that the journal replayed, has reached the
        store, perhaps as a later value of its key. Returns False if the time was up, or the store refused a write.
        """
        return self._backlog.flush(Until(timeout))

    def close(self, timeout: float | timedelta | None = None) -> bool:
        """Accept no more writes, and deliver the pending ones. Returns what `flush` would.

        Args:
            timeout: the most seconds to wait, or a `timedelta`; None: no limit. Writes not delivered by then are only
                in the journal, if there is one.

        A second call waits again.
        """
        return self._backlog.close(Until(timeout))

    def retry_dead_letters(self) -> int:
        """Accept the dead letters again, except those whose key was written since. Returns how many. O(n).

        They go out at once, and return to `dead_letters` if the store refuses them again. Raises RuntimeError after
        `close`.
        """
        return run(self._retry_dead_letters())
