"""`DistributedCache.warm`: filling the server and the first tier before the first request.

Keys are processed in batches. One look finds the keys that are present, and brings them into the first tier. One step
takes the leases of the others. Their values are loaded, and one step stores them, as far as the leases still hold. So a
write or a delete in between wins, in any process, and a key that another process loads is not loaded here.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

from cachebox._loading.loader import is_source, lookup_in
from cachebox._loading.warming import BATCH, Order, Tally, Warmed, checked, in_threads, shown
from cachebox.distributed._net.asyncio_driver import Async
from cachebox.distributed._net.blocking_driver import Blocking
from cachebox.distributed._net.effects import Call, Effects
from cachebox.distributed._ops.leading import LeadOfMany, Row
from cachebox.distributed._ops.operations import Core
from cachebox.distributed._ops.single_flight import Loader
from cachebox.distributed.options import checked_key

FEW = 20
"""The batch size if keys are loaded one by one: an interruption may cost that many loads."""


class Source:
    """A loader as users give it, or the values themselves."""

    def __init__(self, given: Any, items: dict[str, Any] | None, may_be_async: bool) -> None:
        self.items = items
        self.one: Any = getattr(given, "load", None)
        self.many = getattr(given, "load_many", None) if self.one is not None else None
        if given is not None and is_source(given) and not inspect.iscoroutinefunction(given.get):
            self.one, self.many = lookup_in(given), getattr(given, "get_many", None)
        if self.one is None:
            self.one = given
        if given is None:
            return
        if not callable(self.one):
            raise TypeError(
                f"loader must be callable, a mapping or a cache, or have a method `load`, not {type(given).__name__}"
            )
        if self.many is not None and not callable(self.many):
            raise TypeError(f"loader.load_many must be callable, not {type(self.many).__name__}")
        if not may_be_async and any(map(inspect.iscoroutinefunction, (self.one, self.many))):
            raise TypeError("loader must not be async: use an AsyncDistributedCache for an async loader")

    def load(self, keys: list[str]) -> Effects[tuple[dict[str, Any], list[Exception]]]:
        """The values of the keys that have one, and the errors of others."""
        if self.items is not None:
            return {key: self.items[key] for key in keys}, []
        if self.many is not None:
            try:
                values = yield Call(partial(self.many, keys), "loader.load_many")
                if not hasattr(values, "keys"):
                    raise TypeError(f"load_many must return a dict, not {type(values).__name__}")
                return {key: values[key] for key in keys if key in values}, []
            except KeyError:
                pass                            # of some key: only asking for each one says which
            except Exception as error:
                return {}, [error]
        found: dict[str, Any] = {}
        errors: list[Exception] = []
        for key in keys:
            try:
                found[key] = yield Call(partial(self.one, key), "loader")
            except KeyError:
                pass
            except Exception as error:
                errors.append(error)
        return found, errors


class Warming:
    """One call of `warm`."""

    def __init__(
        self, core: Core, loader: Loader, keys: Any, given: Any, workers: Any, progress: Any, may_be_async: bool
    ) -> None:
        core.check_open()
        self._core = core
        self._loader = loader
        self._progress = progress
        self._order: Order = checked(
            keys, given is not None, getattr(given, "load_many", None) is not None, workers, progress
        )
        items = self._order.items
        wanted = [checked_key(key) for key in self._order.keys]
        if items is not None:
            items = dict(zip(wanted, items.values(), strict=True))
        self._source = Source(given if items is None else None, items, may_be_async)
        size = BATCH
        if items is None and self._source.many is None:
            size = max(1, min(FEW, -(-len(wanted) // self._order.workers)))
        self._batches = [wanted[at : at + size] for at in range(0, len(wanted), size)]
        self._left: Iterator[list[str]] = iter(self._batches)
        self._tally = Tally(len(wanted), None)

    def run_in_threads(self, driver: Blocking) -> Warmed:
        """Warm, in as many threads as `workers` says."""
        with shown(self._progress) as self._tally.show:
            return in_threads(lambda: driver.run(self._work_off()), self._workers, self._tally)

    async def run_in_tasks(self, driver: Async) -> Warmed:
        """Warm, in as many tasks as `workers` says."""
        with shown(self._progress) as self._tally.show:
            tasks = [asyncio.ensure_future(driver.run(self._work_off())) for _ in range(self._workers)]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            return self._tally.result()

    @property
    def _workers(self) -> int:
        return min(self._order.workers, len(self._batches))

    def _work_off(self) -> Effects[None]:
        while self._tally.ended_by is None:
            with self._tally.lock:
                batch = next(self._left, None)
            if batch is None:
                return
            yield from self._do(batch)

    def _do(self, batch: list[str]) -> Effects[None]:
        """Load all keys of a batch into the server, as far as possible."""
        core = self._core
        keys = list(dict.fromkeys(batch))
        there, unknown = yield from core.read_many(keys, core.deadline(), False)
        missing = [key for key in keys if key not in there and key not in unknown]
        loaded, errors, others = yield from self._load(missing)
        if unknown:                             # their server did not answer; what the other servers have is loaded
            core.tier.count(errors=1)
            errors.insert(0, core.unavailable(next(iter(unknown.values())), unknown))
        for key in others:                      # another caller loads it, or its entry cannot be decoded
            try:
                loaded += yield from self._load_other(key)
            except Exception as error:
                errors.append(error)
        wanted = len(missing) + len(unknown)
        self._tally.note(loaded, wanted - loaded, len(batch) - wanted, errors[0] if errors else None)

    def _load_other(self, key: str) -> Effects[bool]:
        """Load a key like `get_or_set`, which waits for other callers."""
        one, items = self._source.one, self._source.items
        try:
            yield from self._loader.get_or_set(
                key, (lambda: items[key]) if items is not None else partial(one, key), None, ()
            )
        except KeyError:
            return False
        return True

    def _load(self, keys: list[str]) -> Effects[tuple[int, list[Exception], list[str]]]:
        """Load and store the keys that no other caller is loading. Returns how many, the errors, and the other keys."""
        core = self._core
        with LeadOfMany(core, self._loader) as lead:
            mine, others, unreached = yield from lead.lead(keys)
            if not mine:
                return 0, unreached, others
            core.tier.count(misses=len(mine))
            lead.keep()
            with lead.flight:
                values, errors = yield from self._source.load(mine)
                errors += unreached
            rows: dict[str, Row] = {}
            for key, value in values.items():
                try:
                    encoded = core.codec.encode(key, value, (), None, core.kept_of(core.lifetime))
                except Exception as error:
                    errors.append(error)
                else:
                    rows[key] = encoded, core.lifetime, ()
            lead.let_go()
            failed = yield from lead.complete(rows)
            loaded = len(rows) - sum([len(members) for members, _ in failed])
            if failed:
                core.tier.count(errors=1)
                errors.append(core.unavailable(failed[0][1], [key for members, _ in failed for key in members]))
            if loaded < len(mine):
                yield from lead.give_up()
            return loaded, errors, others
