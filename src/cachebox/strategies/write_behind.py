"""Write-behind: writes are accepted at once, and reach the store soon, in batches."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any
from weakref import WeakSet

from cachebox.cache import MISSING
from cachebox.encoding import Encoding
from cachebox.refreshing import report
from cachebox.strategies.cache_side import CacheSide
from cachebox.strategies.delivery import Delivery
from cachebox.strategies.errors import Absent, QueueFull
from cachebox.strategies.journal import Journal
from cachebox.strategies.options import at_most_a_wait, check_choice, check_int, check_seconds
from cachebox.strategies.store import Store, check_cache, check_entry, check_key, checked_items, checked_keys
from cachebox.strategies.write_queue import Write, WriteQueue

LINGERS = 5.0
"""Seconds that the thread stays when there is nothing to write."""

_CLOSED = "this WriteBehind has been closed"

_open: WeakSet[WriteBehind] = WeakSet()


class WriteBehind:
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
        retries: how often a batch that failed is tried again, 0 or more.
        backoff: seconds before the first of these; each pause is twice the one before, and chance shortens it by up to
            half.
        max_backoff: seconds that a pause lasts at most.
        on_dead_letter: called as ``on_dead_letter(key, value, error)``, in the background, for a write that the store
            refused each time; the value of a delete is `MISSING`. Without it such a write is reported through
            `sys.unraisablehook`, and stays in the journal.
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

    **Failing.** A batch is tried again and then split, until only the writes that the store refuses are left. Meanwhile
    the queue fills up, and then writes wait or raise: nothing is dropped, and memory is bounded.

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
        max_delay: float = 0.1,
        max_queue: int = 10_000,
        on_full: str = "block",
        retries: int = 5,
        backoff: float = 0.1,
        max_backoff: float = 30.0,
        on_dead_letter: Any = None,
        journal: str | os.PathLike[str] | None = None,
        exit_timeout: float = 10.0,
        serializer: Any = "json",
        secret: bytes | str | None = None,
        durability: str = "process",
    ) -> None:
        for name, given, least in (("batch_size", batch_size, 1), ("max_queue", max_queue, 1), ("retries", retries, 0)):
            check_int(name, given, least)
        for name, number in (("max_delay", max_delay), ("exit_timeout", exit_timeout)):
            check_seconds(name, number)
        for name, number in (("backoff", backoff), ("max_backoff", max_backoff)):
            check_seconds(name, number, finite=True)
        check_choice("on_full", on_full, ("block", "raise"))
        check_choice("durability", durability, ("process", "power"))
        if on_dead_letter is not None and not callable(on_dead_letter):
            raise TypeError(f"on_dead_letter must be callable or None, not {type(on_dead_letter).__name__}")
        self.cache = check_cache(cache)
        self.store = store
        self.exit_timeout = exit_timeout
        self._store = Store(store, "sync")
        self._waits = on_full == "block"
        self._on_dead_letter = on_dead_letter
        self._side = CacheSide(cache)
        self._queue = WriteQueue(batch_size, max_delay, max_queue)
        self._delivery = Delivery(
            self._store, retries, backoff, max_backoff, self._settled, self._refused, self._pause_unless_told_to_end
        )
        self._lock = threading.Lock()           # guards all below, the queue and the journal
        self._news = threading.Condition(self._lock)    # for the thread: there is something to do
        self._progress = threading.Condition(self._lock)    # for all others: a write was settled, or the thread ended
        self._thread: threading.Thread | None = None
        self._wakes_at = 0.0                    # when the thread looks again by itself; infinity: when it is called
        self._crowd = 0                         # who waits for room
        self._setting: dict[Any, int] = {}      # key: the newest write that is on its way into the cache
        self._lost: dict[Any, None] = {}        # keys whose newest value the store refused
        self._closing = False
        self._ends_at: float | None = None      # once closing: when to give up
        self._forked = False
        self._journal = None
        if journal is not None:
            self._journal = Journal(journal, Encoding(serializer, secret), durability)
            now = time.monotonic()
            for number, key, value in self._journal.replayed:
                self._queue.accept(key, value, now, number)
            # a cache that outlived the process may not have heard of these
            self._side.doubts.add([key for _, key, _ in self._journal.replayed])
            self._journal.replayed = []
        else:
            Encoding(serializer, secret)
        _open.add(self)
        if self._queue.pending:
            with self._lock:
                self._call_thread()

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, key: Any, default: Any = None) -> Any:
        """The newest value that was accepted, from the queue or the cache, else from the store; else `default`.

        One load per key at a time, as in `Cache.get_or_set`. Raises what the store raises, but for KeyError.
        """
        write = self._queue.find(key)
        if write is not None:
            value = write.value
            return default if value is MISSING else value
        # a write that is on its way into the cache may be in the store by now, and no longer in the queue
        is_late = key in self._setting or self._side.doubted(key)
        if self._store.load is None:
            return default if is_late else self.cache.get(key, default)
        try:
            return self._load(key) if is_late else self.cache.get_or_set(key, partial(self._load, key))
        except Absent:
            return default

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
        number = self._accept(key, value)
        try:
            self._side.set(key, value, ttl, tags)
        finally:
            self._has_set({key: number})

    def delete(self, key: Any) -> bool:
        """Accept the delete of a key for the store, and delete it from the cache. True where one of the cache and the
        queue had a value. O(1). Raises as `set` does, and TypeError where the store cannot delete.
        """
        check_key(self.cache, key)
        self._store.delete                      # noqa: B018  # raises where there is none
        write = self._queue.find(key)
        had = write is not None and write.value is not MISSING
        number = self._accept(key, MISSING)
        try:
            return self._side.delete(key) or had
        finally:
            self._has_set({key: number})

    def set_many(self, mapping: Any, ttl: Any = None) -> None:
        """`set` for every item of a mapping, after all of them have been checked."""
        items = checked_items(mapping)
        for key, value in items.items():
            check_entry(self.cache, key, value, ttl, ())
            self._check_value(key, value)
        self._check_open()
        numbers: dict[Any, int] = {}
        try:
            for key, value in items.items():
                numbers[key] = self._accept(key, value)
        finally:                                # also of those that there was room for
            try:
                if numbers:
                    self._side.set_many({key: items[key] for key in numbers}, ttl)
            finally:
                self._has_set(numbers)

    def delete_many(self, keys: Any) -> int:
        """`delete` for every key. Returns how many of them had a value in the cache or in the queue."""
        doomed = checked_keys(self.cache, keys)
        self._check_open()
        return sum([self.delete(key) for key in doomed])

    def _check_value(self, key: Any, value: Any) -> None:
        """TypeError where a value cannot be accepted."""
        if value is MISSING:
            raise TypeError("value must not be MISSING, which stands for a delete: use delete")
        if self._journal is not None:
            self._journal.encode(key, value)

    def _check_open(self) -> None:
        if self._closing:
            raise RuntimeError(_CLOSED)

    def _accept(self, key: Any, value: Any) -> int:
        """Put a write into the journal and into the queue. Returns its number."""
        queue, journal = self._queue, self._journal
        payload = b"" if journal is None else journal.encode(key, value)
        with self._lock:
            if self._closing or not queue.has_room_for(key):
                self._wait_for_room(key)
            journaled = 0
            if journal is not None:
                replaced = queue.pending.get(key)
                journaled = journal.append(payload, value is MISSING)
                if replaced is not None:
                    journal.drop(replaced.journaled)
            now = time.monotonic()
            number = queue.accept(key, value, now, journaled).number
            self._setting[key] = number
            full = len(queue.pending) == queue.batch_size
            if full or now + queue.max_delay < self._wakes_at or self._thread is None:
                self._call_thread()
        if journal is not None:
            journal.sync()
        return number

    def _wait_for_room(self, key: Any) -> None:
        """Return when a write may be accepted. Needs the lock, and lets it go meanwhile."""
        self._crowd += 1
        try:
            while True:
                if self._forked and self._journal is not None:
                    raise RuntimeError("the journal belongs to the process that was forked: open another one")
                if self._closing:
                    raise RuntimeError(_CLOSED)
                if self._queue.has_room_for(key):
                    return
                if not self._waits or self._thread is threading.current_thread():   # which would wait for itself
                    raise QueueFull(f"{self._queue.max_queue} keys are waiting for the store already (max_queue)")
                self._call_thread()
                self._progress.wait()
        finally:
            self._crowd -= 1

    def _wait_until_there_is_room(self, key: Any) -> None:
        """Return when `_accept` may be tried again."""
        with self._lock:
            self._crowd += 1
            try:
                self._call_thread()
                while not (self._closing or self._queue.has_room_for(key)):
                    self._progress.wait()
            finally:
                self._crowd -= 1

    def _has_set(self, numbers: Mapping[Any, int]) -> None:
        """Writes have just been made in the cache, or have failed there. Where a write is not the newest of its key, a
        newer one may have reached the cache before it: then the cache has to forget the key."""
        late = self._late(numbers)
        if late:
            self._side.forget(late)

    def _late(self, numbers: Mapping[Any, int]) -> list[Any]:
        """Those of these keys that have a newer write by now."""
        late = []
        with self._lock:
            for key, number in numbers.items():
                if self._setting.get(key) == number:
                    del self._setting[key]
                else:
                    late.append(key)
        return late

    # --- delivering ---------------------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> bool:
        """Deliver what is pending, without waiting for more to go with it.

        Args:
            timeout: seconds to wait at most; None: as long as it takes.

        Returns True only where everything that was accepted before the call has reached the store, be it as a later
        value of its key, what the journal replayed included. False where the time was over, or the store refused
        something.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        until = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            if self._thread is threading.current_thread():
                raise RuntimeError("flush would wait for itself: it was called by the store, or by on_dead_letter")
            writes = self._queue.hurry()
            self._call_thread()
            return self._wait_for(writes, until) and not self._lost

    def close(self, timeout: float | None = None) -> bool:
        """Accept nothing more, and deliver what is pending. Returns what `flush` would.

        Args:
            timeout: seconds to wait at most; None: as long as it takes. What was not delivered by then is only in the
                journal, if there is one.

        Called again, it waits again.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        until = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            if self._thread is threading.current_thread():
                raise RuntimeError("close would wait for itself: it was called by the store, or by on_dead_letter")
            self._closing = True
            writes = self._queue.hurry()
            self._call_thread()
            self._progress.notify_all()         # those who wait for room
            reached = self._wait_for(writes, until) and not self._lost
            self._ends_at = time.monotonic()    # the thread is to end, if it has not
            self._news.notify_all()
            while self._thread is not None and (until is None or time.monotonic() < until):
                self._progress.wait(None if until is None else at_most_a_wait(until - time.monotonic()))
            if self._thread is None and self._journal is not None:
                self._journal.close()           # else the thread does, when the store lets go of it
        return reached

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pending(self) -> int:
        """How many writes the store lacks."""
        with self._lock:
            return len(self._queue.pending) + len(self._queue.flying)

    def __repr__(self) -> str:
        state = "closed" if self._closing else "open"
        return f"<WriteBehind {state}, {self.pending} pending, of {self.store!r}>"

    def _wait_for(self, writes: Sequence[Write], until: float | None) -> bool:
        """Wait until these writes are settled. Returns whether the store has them all. Needs the lock."""
        for write in writes:
            while write.reached is None:
                if self._thread is None:
                    return False                # there is no thread to be had, or it has given up
                if until is None:
                    self._progress.wait()
                elif time.monotonic() >= until:
                    return False
                else:
                    self._progress.wait(at_most_a_wait(until - time.monotonic()))
        return all(write.reached for write in writes)

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _call_thread(self) -> None:
        """Have the thread look at the queue, if there is something in it. Needs the lock."""
        self._wakes_at = 0.0
        if self._thread is None and self._queue.pending:
            self._thread = threading.Thread(target=self._run, name="cachebox-write-behind", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:                # no thread to be had, or the process is ending
                self._thread = None
        self._news.notify()

    def _run(self) -> None:
        queue = self._queue
        this = threading.current_thread()
        try:
            while True:
                with self._lock:
                    if self._thread is not this:
                        return                  # the store forked, and this is the child
                    lingers_until = time.monotonic() + LINGERS
                    while True:
                        now = time.monotonic()
                        wait = queue.due(now, self._crowd > 0)
                        if self._is_to_end() or (not queue.pending and (self._closing or now >= lingers_until)):
                            return
                        if wait <= 0.0:
                            break
                        self._wakes_at = now + wait
                        self._news.wait(at_most_a_wait(wait) if queue.pending else lingers_until - now)
                    self._wakes_at = 0.0
                    batch = queue.take()
                if not self._delivery.deliver(batch):
                    return
                if self._journal is not None and self._journal.wants_compaction():
                    self._compact()
        finally:
            with self._lock:
                if self._thread is this:
                    self._thread = None
                    if self._ends_at is not None and self._journal is not None:
                        self._journal.close()
                    self._progress.notify_all()

    def _is_to_end(self) -> bool:
        return self._ends_at is not None and time.monotonic() >= self._ends_at

    def _pause_unless_told_to_end(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        with self._lock:
            while not self._is_to_end():
                left = until - time.monotonic()
                if left <= 0:
                    return True
                self._news.wait(at_most_a_wait(left))
        return False

    def _settled(self, writes: Sequence[Write]) -> None:
        """The store has these."""
        with self._lock:
            for write in writes:
                self._queue.settle(write, True)
                if self._lost:
                    self._lost.pop(write.key, None)
            self._record_as_done([write.journaled for write in writes])
            self._progress.notify_all()

    def _record_as_done(self, numbers: list[int]) -> None:
        """In the journal. Where that fails, they will be replayed, which is allowed; but somebody must know."""
        if self._journal is not None:
            try:
                self._journal.done(numbers)
            except OSError as error:
                report(error, self._journal.path)

    def _refused(self, write: Write, error: BaseException) -> None:
        """The store will not have this one."""
        handled = False
        try:
            if self._on_dead_letter is None:
                raise error
            self._on_dead_letter(write.key, write.value, error)
            handled = True
        except BaseException as failure:
            report(failure, self._on_dead_letter or self.store)
        with self._lock:
            self._queue.settle(write, False)
            self._lost[write.key] = None
            if handled:
                self._record_as_done([write.journaled])
            self._progress.notify_all()

    def _compact(self) -> None:
        with self._lock:
            queue = self._queue
            writes = [*queue.flying.values(), *queue.pending.values()]
            assert self._journal is not None
            self._journal.compact([(write.journaled, write.key, write.value) for write in writes])

    # --- the end of the process, and forks ----------------------------------------------------------------------------

    def _after_fork(self) -> None:
        """This is a child: what is pending is the parent's to deliver."""
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)
        self._progress = threading.Condition(self._lock)
        self._thread = None
        self._crowd = 0
        self._queue.pending.clear()
        self._queue.flying.clear()
        self._setting.clear()
        self._side.doubts.renew()
        self._forked = True
        if self._journal is not None:
            self._journal.abandon()
            self._closing = True


def _drain_all() -> None:
    """At the end of the process: deliver what is pending, all at the same time, each for at most its `exit_timeout`."""
    still_open = [behind for behind in list(_open) if not behind._closing]
    began = time.monotonic()
    for behind in still_open:
        with behind._lock:
            behind._closing = True
            behind._queue.hurry()
            behind._call_thread()
            behind._progress.notify_all()
    for behind in still_open:
        behind.close(max(began + behind.exit_timeout - time.monotonic(), 0.0))


def _after_fork_in_child() -> None:
    for behind in list(_open):
        behind._after_fork()


atexit.register(_drain_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
