"""Batch functions over two tiers: what `cached_many(DistributedCache(...))` makes of them.

One look finds the keys that are present. One step takes the leases of the others, unless another caller has them. The
function is called with the leased keys, and one step stores its results, as far as the leases still hold. Keys that
another caller is loading, in any process, are waited for afterwards.
"""

from __future__ import annotations

import typing
from functools import partial
from typing import TYPE_CHECKING, Any

from cachebox._calls.many import CachedMany, checked_mapping, listed
from cachebox._platform.absent import ABSENT
from cachebox.cache import MISSING
from cachebox.distributed._net.asyncio_driver import Async
from cachebox.distributed._net.effects import Call, Effects
from cachebox.distributed._ops.leading import LeadOfMany, Row
from cachebox.distributed._ops.schema import Schema, schema_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class DecisionOfOne:
    """What is decided about the result for one key."""

    def __init__(self, many: DistributedMany, args: tuple[Any, ...], schema: Schema | None) -> None:
        self._many = many
        self._args = args
        self.schema = schema

    share = kept = None

    @property
    def name(self) -> str:
        name: str = self._many._one._name
        return name

    def __call__(self, value: Any) -> tuple[bool, float, tuple[str, ...]]:
        one = self._many._one
        if value is ABSENT:
            lifetime = self._many._missing_seconds
            return lifetime is not None, lifetime or 0.0, () if one._own_tag is None else (one._own_tag,)
        decided: tuple[bool, float, tuple[str, ...]] = one._decide(value, self._args, {})
        return decided

    def lifetime_of(self, value: Any) -> float:
        return self(value)[1]


class DistributedMany(CachedMany):
    """A batch function with a distributed cache in front."""

    def __init__(
        self, function: Any, one: Any, missing_ttl: Any, missing_seconds: float | None, is_async: bool
    ) -> None:
        super().__init__(function, one, missing_ttl, is_async)
        self._missing_seconds = missing_seconds
        self._core = one.cache._core
        self._loader = one.cache._loader
        self._schema_of_one: tuple[Schema | None] | None = None

    @property
    def _schema(self) -> Schema | None:
        """The schema of one result. Made at the first call, because an annotation may name what is defined later."""
        if self._schema_of_one is None:
            returns = self._one._returns
            if returns is None:
                try:
                    arguments = typing.get_args(typing.get_type_hints(self.__wrapped__).get("return"))
                except Exception:               # names that cannot be found
                    arguments = ()
                returns = arguments[1] if len(arguments) == 2 else None
            self._schema_of_one = (None if returns is None else schema_of(returns),)
        return self._schema_of_one[0]

    def _run(self, steps: Effects[Any]) -> Any:
        return Async().run(steps) if self._is_async else self._one._driver.run(steps)

    def _uncached(self, prefix: tuple[Any, ...], wanted: list[Any]) -> Effects[dict[Any, Any]]:
        if not wanted:
            return {}
        values = self._checked((yield Call(partial(self.__wrapped__, *prefix, wanted), "the function")))
        return {key: values[key] for key in wanted if key in values}

    def _steps(self, prefix: tuple[Any, ...], wanted: list[Any], reload: bool) -> Effects[dict[Any, Any]]:
        one, core = self._one, self._core
        names = {key: one._key_of((*prefix, key), {}) for key in wanted}
        found: dict[Any, Any] = {}
        if not wanted:
            return {}
        if reload:
            values = yield from self._uncached(prefix, wanted)
            yield from self._store(prefix, values)
            return values
        there, failed = yield from core.read_many(dict.fromkeys(names.values()), core.deadline(), True, self._schema)
        if failed:
            core.tier.count(errors=1)
            if not core.is_local:
                raise core.unavailable(next(iter(failed.values())), failed, there)
            for name in failed:
                value = core.give(core.tier.look(name, False))
                if value is not MISSING:
                    there[name] = value
                    core.tier.count(stale_serves=1)
        found = {key: there[name] for key, name in names.items() if name in there}
        missing = [key for key in wanted if key not in found]
        with one._lock:
            one._hits += len(found)
            one._misses += len(missing)
        if missing:
            others = yield from self._load_together(prefix, missing, names, found)
            for key in others:
                decide = DecisionOfOne(self, (*prefix, key), self._schema)
                factory = partial(self._load_one_later if self._is_async else self._load_one, prefix, key)
                found[key], _ = yield from self._loader.load(names[key], factory, decide)
        return {key: found[key] for key in wanted if found[key] is not ABSENT}

    def _load_one(self, prefix: tuple[Any, ...], key: Any) -> Any:
        values = self._checked(self.__wrapped__(*prefix, [key]))
        return values[key] if key in values else ABSENT

    async def _load_one_later(self, prefix: tuple[Any, ...], key: Any) -> Any:
        values = self._checked(await self.__wrapped__(*prefix, [key]))
        return values[key] if key in values else ABSENT

    def _load_together(
        self, prefix: tuple[Any, ...], keys: list[Any], names: dict[Any, str], found: dict[Any, Any]
    ) -> Effects[list[Any]]:
        """Call the function with the keys that no other caller is loading. Returns the other keys."""
        core = self._core
        with LeadOfMany(core, self._loader) as lead:
            led, computed, unreached = yield from lead.lead(list(dict.fromkeys([names[key] for key in keys])))
            if unreached and not core.is_local:
                raise unreached[0]
            taken = set(computed)
            mine = [key for key in keys if names[key] not in taken]     # including those whose server did not answer
            if not mine:
                return keys
            lead.keep()
            with lead.flight:
                values = self._checked((yield Call(partial(self.__wrapped__, *prefix, mine), "the function")))
            rows: dict[str, Row] = {}
            leased = set(led)
            for key in mine:
                found[key] = value = values[key] if key in values else ABSENT
                decide = DecisionOfOne(self, (*prefix, key), self._schema)
                is_stored, lifetime, tags = decide(value)
                if is_stored and names[key] in leased:
                    kept = core.kept_of(lifetime)
                    encoded = core.encode_result(names[key], value, tags, decide.name, self._schema, kept)
                    if encoded is not None:
                        rows[names[key]] = encoded, lifetime, tags
            lead.let_go()
            failed = yield from lead.complete(rows)
            if failed and not core.is_local:
                core.raise_failed(failed)
            if len(rows) < len(leased):
                yield from lead.give_up()
            return [key for key in keys if names[key] in taken]

    def _store(self, prefix: tuple[Any, ...], values: Mapping[Any, Any]) -> Effects[None]:
        self._one.__dict__["_schema"] = self._schema    # not the schema of the annotation, which describes the mapping
        for key, value in values.items():
            yield from self._one._store(self._one._key_of((*prefix, key), {}), value, (*prefix, key), {})

    def _peek(self, prefix: tuple[Any, ...], keys: Iterable[Any]) -> Any:
        return self._one._driver.run(self._peeked(prefix, listed(keys)))

    def _peeked(self, prefix: tuple[Any, ...], keys: list[Any]) -> Effects[dict[Any, Any]]:
        names = {key: self._one._key_of((*prefix, key), {}) for key in keys}
        core = self._core
        there, _ = yield from core.read_many(dict.fromkeys(names.values()), core.deadline(), False, self._schema)
        return {key: there[name] for key, name in names.items() if name in there and there[name] is not ABSENT}

    def _set(self, prefix: tuple[Any, ...], mapping: Mapping[Any, Any]) -> Any:
        return self._one._driver.run(self._store(prefix, checked_mapping(mapping)))

    def _invalidate(self, prefix: tuple[Any, ...], keys: Iterable[Any]) -> Any:
        return self._one._driver.run(self._forgotten(prefix, listed(keys)))

    def _forgotten(self, prefix: tuple[Any, ...], keys: list[Any]) -> Effects[int]:
        known = yield from self._peeked(prefix, keys)
        yield from self._core.delete_many([self._one._key_of((*prefix, key), {}) for key in keys])
        return len(known)
