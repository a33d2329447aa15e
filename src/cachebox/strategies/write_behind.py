"""Write-behind: writes are accepted at once, and reach the store soon, in batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from inspect import iscoroutinefunction
from types import TracebackType
from typing import Any

from cachebox._files.serializer import Encoding
from cachebox.cache import MISSING
from cachebox.strategies.backlog import Backlog
from cachebox.strategies.cache_methods import UNKNOWN, CacheMethods
from cachebox.strategies.cache_side import CacheSide
from cachebox.strategies.dead_letters import DeadLetter
from cachebox.strategies.errors import Absent
from cachebox.strategies.journal import Journal
from cachebox.strategies.options import check_choice, check_int, checked_seconds
from cachebox.strategies.store import Store, check_cache, check_entry, check_key, checked_items, checked_keys
from cachebox.strategies.until import Until
from cachebox.strategies.watches import Watch
from cachebox.strategies.write_queue import WriteQueue


class WriteBehind(CacheMethods):
    """A cache in front of a store that gets every write a little later, from a thread in the background.

    Args:
        cache: any cache with the methods of a `Cache`.
        store: an object with ``load(key)``, ``save(key, value)`` and perhaps ``save_many(dict)``, ``delete(key)`` and
            ``delete_many(keys)``.
        batch_size: the most writes that go out together: an int from 1 on. So many do not wait for others.
        max_delay: seconds that a write waits for others at most, 0 or more; infinity: until there are `batch_size`, or
            `flush` or `close` is called.
        max_queue: the most keys with writes that the store lacks: an int from 1 on.
        on_full: what a write does for which there is no room: ``"block"``: wait; ``"raise"``: raise `QueueFull`.
        retries: how often a write that failed is tried again, 0 or more; None: until the store takes it.
        backoff: seconds before the first of these; each pause is twice the one before, and chance shortens it by up to
            half.
        max_backoff: seconds that a pause lasts at most.
        on_dead_letter: called as ``on_dead_letter(key, value, error)``, in the background, for a write that the store
            refused each time; the value of a delete is `MISSING`. With or without it, such a write is logged, stands in
            `dead_letters`, and stays in the journal.
        journal: the path of a file that keeps what was accepted until the store has it; None: a process that is killed
            loses what is pending.
        exit_timeout: seconds that the end of the process waits for the store at most.
        serializer, secret: how the journal has keys and values, see `Cache.dump`.
        durability: ``"process"``: what was accepted survives the end of the process, by ``kill -9`` too, and a loss of
            power a second later; ``"power"``: `set` returns when the disk has it.

    Raises ValueError or TypeError, with the name of the argument, where one makes no sense; ValueError where the
    journal is another file, or damaged, and RuntimeError where somebody else has it open.

    **Order.** Writes of one key reach the store in the order in which they were accepted. One that is pending when the
    next is accepted is replaced by it; the last one always arrives. A write may arrive twice: after a failure, and
    after a replay of the journal.

    **Reading.** `get` sees every write that was accepted, whether the cache still has it or not, and loads the rest
    from the store.

    **A cache that raises** (a distributed one whose server cannot be reached) when the write has been accepted makes
    the call raise, but the write stands. What the cache still has under the key is not served: `get` loads it from the
    store, until the cache could be told.

    **Failing.** Of a batch that fails some writes are tried alone. If one gets through, the store refuses others: the
    batch is split until only those are left, and they hold up nothing else. If none does, the store seems to be down:
    it is asked again after pauses that grow. Meanwhile the queue fills up, and then writes wait or raise: nothing is
    dropped, and memory is bounded. The logger ``cachebox`` says once that it began, and once that it is over.

    **Ending.** `close`, or the end of a ``with`` block, delivers what is pending; so does the end of the process, for
    at most `exit_timeout` seconds. What could not be delivered is in the journal, if there is one, and is replayed when
    that is opened again. A process that was forked starts with an empty queue, and cannot use the parent's journal.

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
    ) -> None:
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
        if iscoroutinefunction(on_dead_letter):
            raise TypeError("on_dead_letter must be a plain function: nobody would await a coroutine function")
        self.cache = check_cache(cache)
        self.store = store
        self.exit_timeout = exit_timeout
        self._store = Store(store, "sync")
        self._side = CacheSide(cache)
        encoding = Encoding(serializer, secret)
        self._journal = None if journal is None else Journal(journal, encoding, durability)
        if self._journal is not None:
            # a cache that outlived the process may not have heard of these
            self._side.doubts.add([key for _, key, _ in self._journal.replayed])
        self._backlog = Backlog(
            self._store,
            WriteQueue(batch_size, max_delay, max_queue),
            self._journal,
            waits=on_full == "block",
            exit_timeout=exit_timeout,
            retries=retries,
            backoff=backoff,
            max_backoff=max_backoff,
            on_dead_letter=on_dead_letter,
        )
        self._queue = self._backlog.queue
        self._watches = self._backlog.watches

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, key: Any, default: Any = None) -> Any:
        """The newest value that was accepted, from the queue or the cache, else from the store; else `default`.

        One load per key at a time, as in `Cache.get_or_set`. Raises what the store raises, but for KeyError.
        """
        value = self._pending(key)
        if value is not UNKNOWN:
            return default if value is MISSING else value
        is_late = self._is_late(key)
        if self._store.load is None:
            return default if is_late else self.cache.get(key, default)
        try:
            return self._load(key) if is_late else self.cache.get_or_set(key, partial(self._load, key))
        except Absent:
            return default

    def _pending(self, key: Any) -> Any:
        write = self._queue.find(key)
        return UNKNOWN if write is None else write.value

    def _is_late(self, key: Any) -> bool:
        # a write that is on its way into the cache may be in the store by now, and no longer in the queue
        return key in self._backlog.setting or self._side.doubted(key)

    def _load(self, key: Any) -> Any:
        write = self._queue.find(key)           # it may have been accepted, and evicted, since `get` looked
        if write is None:
            try:
                value = self._store.load(key)
            except KeyError:
                value = MISSING
            write = self._queue.find(key)
        if write is not None:
            value = write.value
        if value is MISSING:
            raise Absent(key)
        return value

    # --- writing ------------------------------------------------------------------------------------------------------

    def set(self, key: Any, value: Any, ttl: Any = None, *, tags: Any = ()) -> None:
        """Accept a value for the store, and set it in the cache. Arguments are those of `Cache.set`. O(1).

        Raises RuntimeError after `close`, `QueueFull` where there is no room and none is waited for, TypeError where
        the journal cannot hold the key or the value, OSError where the journal cannot be written, and what `Cache.set`
        raises for bad input; then nothing has changed.
        """
        check_entry(self.cache, key, value, ttl, tags)
        if value is MISSING:
            raise TypeError("value must not be MISSING, which stands for a delete: use delete")
        numbers: dict[Any, int] = {}
        try:
            self._backlog.accept(key, value, numbers)
            self._side.set(key, value, ttl, tags)
            self._made(numbers)
        except BaseException:
            self._failed(numbers)
            raise

    def delete(self, key: Any) -> bool:
        """Accept the delete of a key for the store, and delete it from the cache. True where one of the cache and the
        queue had a value. O(1). Raises as `set` does, and TypeError where the store cannot delete.
        """
        check_key(self.cache, key)
        self._store.delete                      # noqa: B018  # raises where there is none
        write = self._queue.find(key)
        had = write is not None and write.value is not MISSING
        numbers: dict[Any, int] = {}
        try:
            self._backlog.accept(key, MISSING, numbers)
            had = self._side.delete(key) or had
            self._made(numbers)
        except BaseException:
            self._failed(numbers)
            raise
        return had

    def set_many(self, mapping: Any, ttl: Any = None, *, tags: Any = ()) -> None:
        """`set` for every item of a mapping, after all of them have been checked."""
        items = checked_items(self.cache, mapping, ttl, tags)
        for key, value in items.items():
            self._check_value(key, value)
        self._backlog.check_open()
        numbers: dict[Any, int] = {}
        failure = None
        try:
            try:
                for key, value in items.items():
                    self._backlog.accept(key, value, numbers)
            except BaseException as error:      # those that there was room for are accepted
                failure = error
            if numbers:
                self._side.set_many({key: items[key] for key in numbers}, ttl, tags)
            self._made(numbers)
        except BaseException:
            self._failed(numbers)
            raise
        if failure is not None:
            raise failure

    def delete_many(self, keys: Any) -> int:
        """`delete` for every key. Returns how many of them had a value in the cache or in the queue."""
        doomed = checked_keys(self.cache, keys)
        self._backlog.check_open()
        return sum([self.delete(key) for key in doomed])

    def _change(self, key: Any, change: Callable[[Any], Any], tell: Callable[[Any], None]) -> None:
        while True:
            self._backlog.wait_until_settled_in(key)
            with self._watches.over((key,)) as watch:
                value = change(self._newest(key))
                if value is MISSING:
                    return
                numbers: dict[Any, int] = {}
                try:
                    self._backlog.accept(key, value, numbers, watch)
                    if numbers:
                        tell(value)
                        self._made(numbers)
                        return
                except BaseException:
                    self._failed(numbers)
                    raise

    def _save_unless_written(self, watch: Watch, key: Any, value: Any) -> None:
        if value is MISSING:
            raise TypeError("value must not be MISSING, which stands for a delete: use delete")
        numbers: dict[Any, int] = {}
        self._backlog.accept(key, value, numbers, watch)
        if numbers:
            self._backlog.done_with(numbers)    # the cache gets it from the caller

    def _check_value(self, key: Any, value: Any) -> None:
        """TypeError where a value cannot be accepted."""
        if value is MISSING:
            raise TypeError("value must not be MISSING, which stands for a delete: use delete")
        if self._journal is not None:
            self._journal.encode(key, value)

    def _made(self, numbers: Mapping[Any, int]) -> None:
        """Accepted writes have been made in the cache. Where one is not the newest of its key, a newer one may have
        reached the cache before it: then the cache has to forget the key."""
        late = self._backlog.done_with(numbers)
        if late:
            self._side.forget(late)

    def _failed(self, numbers: Mapping[Any, int]) -> None:
        """Writes may have been accepted, but were not made in the cache, which has to forget them."""
        if numbers:
            self._backlog.done_with(numbers)
            self._side.forget(list(numbers))

    # --- delivering ---------------------------------------------------------------------------------------------------

    def flush(self, timeout: float | timedelta | None = None) -> bool:
        """Deliver what is pending, without waiting for more to go with it.

        Args:
            timeout: seconds to wait at most, or a `timedelta`; None: as long as it takes.

        Returns True only where everything that was accepted before the call has reached the store, be it as a later
        value of its key, what the journal replayed included. False where the time was over, or the store refused
        something.
        """
        return self._backlog.flush(Until(timeout))

    def close(self, timeout: float | timedelta | None = None) -> bool:
        """Accept nothing more, and deliver what is pending. Returns what `flush` would.

        Args:
            timeout: seconds to wait at most, or a `timedelta`; None: as long as it takes. What was not delivered by
                then is only in the journal, if there is one.

        Called again, it waits again.
        """
        return self._backlog.close(Until(timeout))

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """The writes that the store has refused `retries` + 1 times: ``(key, value, error)`` each, oldest first. O(n).

        A later write of the key takes the place of a dead letter. They are not counted by `pending` and `max_queue`.
        """
        return self._backlog.dead_letters

    def retry_dead_letters(self) -> int:
        """Accept the dead letters anew, but for those whose key was written since. Returns how many. O(n).

        They go out at once, and are in `dead_letters` again if the store goes on refusing them. RuntimeError after
        `close`.
        """
        numbers = self._backlog.retry_dead_letters()
        self._failed(numbers)                   # by now the cache may have what the store had instead
        return len(numbers)

    def discard_dead_letters(self) -> list[DeadLetter]:
        """Give the dead letters up, in the journal, too: the store will never get them. Returns them. O(n)."""
        return self._backlog.discard_dead_letters()

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pending(self) -> int:
        """How many writes the store lacks."""
        return self._backlog.pending

    def __repr__(self) -> str:
        state = "closed" if self._backlog.closing else "open"
        return f"<WriteBehind {state}, {self.pending} pending, of {self.store!r}>"
