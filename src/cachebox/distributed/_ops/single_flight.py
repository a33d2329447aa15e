"""Single flight over all threads, tasks and processes: `get_or_set`.

A caller that finds no value asks the server for the *lease* of the key: a name that holds a fencing token and expires.
One caller gets the lease and leads. The leader calls the factory, and stores the result only if it still has the lease,
in one step. A write, a delete or a clear takes the lease away, so a value computed from older data is never stored. The
lease is renewed while the factory runs. If the leader's process dies, the lease expires, and the next caller leads.

The others wait. In the leader's process they wait for its `Flight`, which also brings the exception. In other processes
they wait for a push about the key (`Tier.wait_for`), then ask again; if the leader failed, they get its error. A wait
that would keep the leader from going on is not begun: the caller runs the factory itself, and does not store the
result. All user code of a load is part of its flight: the factory, the decision about the value, and the serializer.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from cachebox._loading import flight as flights
from cachebox._loading import tasks
from cachebox._loading.flight import Flight
from cachebox._platform.callers import PULSE
from cachebox.cache import MISSING
from cachebox.distributed._net.effects import Call, Effects, Failure, NewWaiter, Wait
from cachebox.distributed._ops import leases
from cachebox.distributed._ops.entries import ATOMS, Packed
from cachebox.distributed._ops.leases import Leases
from cachebox.distributed._ops.operations import Core
from cachebox.distributed._wire import error_codec
from cachebox.distributed._wire.codec import Undecodable
from cachebox.distributed._wire.keyspace import new_token
from cachebox.distributed._wire.replies import NONE, ROW
from cachebox.distributed._wire.resp import Senseless
from cachebox.distributed._wire.scripts import COMPLETE, LEAD, READ
from cachebox.distributed._wire.typed import Schema
from cachebox.distributed.errors import BackendUnavailable
from cachebox.distributed.options import checked_key, checked_tags, seconds_of

if TYPE_CHECKING:
    from cachebox.distributed._ops.refresh import Refreshing

MOST_LOOKS = 5                      # times that one call meets entries that cannot be decoded
# seconds for which a call made by a factory waits for another process, which may wait for that factory
FOREIGN_WAIT = 8.0

def new_flight() -> Flight:
    """A new flight with the calling thread, greenlet or task as its leader."""
    return Flight(*tasks.current())


def _digest(data: bytes) -> bytes:
    """The digest by which the server recognises an undecodable entry."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest().encode()


class Decides(Protocol):
    """Decides what becomes of a computed value."""

    @property
    def name(self) -> str:
        """The name of the function that computes it."""

    @property
    def schema(self) -> Schema | None:
        """The classes of its annotation; None if it needs no schema."""

    @property
    def share(self) -> float | None:
        """The last share of a lifetime in which a value is refreshed; None: the cache's."""

    @property
    def kept(self) -> int | None:
        """The milliseconds for which a value is kept after its deadline; None: the cache's."""

    def __call__(self, value: Any, /) -> tuple[bool, float, tuple[str, ...]]:
        """Whether a value is stored, for how many seconds (infinity: no expiry), and under which tags."""

    def lifetime_of(self, value: Any, /) -> float:
        """The lifetime in seconds that a value got, if it was stored."""


class Decision:
    """A decision that does not depend on the value."""

    schema = share = kept = None

    def __init__(self, lifetime: float, tags: tuple[str, ...], factory: Any) -> None:
        self.lifetime = lifetime
        self.tags = tags
        self._factory = factory

    @property
    def name(self) -> str:
        named = self._factory if hasattr(self._factory, "__qualname__") else type(self._factory)
        return f"{named.__module__}.{named.__qualname__}"

    def __call__(self, value: Any) -> tuple[bool, float, tuple[str, ...]]:
        return True, self.lifetime, self.tags

    def lifetime_of(self, value: Any) -> float:
        return self.lifetime


class Loader:
    """Loads missing values, for one cache."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.leases = Leases(core)
        self.refreshing: Refreshing | None = None
        self.renew()

    def renew(self) -> None:
        """Reset: at first, and in the child of a fork, where the other threads' flights are gone."""
        self.flights: dict[Any, Flight] = {}    # by token; by key while no server can be asked
        self.leases.renew()
        if self.refreshing is not None:
            self.refreshing.renew()

    def refresh_for_functions(self) -> None:
        """Enable refreshing for functions that ask for it, if the cache itself does not refresh."""
        if self.refreshing is None:
            from cachebox.distributed._ops.refresh import Refreshing  # which imports this module

            self.refreshing = Refreshing(self._core, self, 0.0)

    def get_or_set(self, key: Any, factory: Any, ttl: Any, tags: Any) -> Effects[Any]:
        """`DistributedCache.get_or_set`."""
        key = checked_key(key)
        if not callable(factory):
            raise TypeError(f"factory must be callable, not {type(factory).__name__}")
        lifetime = self._core.lifetime if ttl is None else seconds_of(ttl, "ttl")
        value, _ = yield from self.load(key, factory, Decision(lifetime, checked_tags(tags), factory))
        return value

    def load(self, key: str, factory: Callable[[], Any], decide: Decides) -> Effects[tuple[Any, bool]]:
        """The value of a key, loaded if need be; and whether it was missing."""
        core, tier = self._core, self._core.tier
        deadline = core.deadline()
        yield from core.begin(deadline)
        if tier.is_fresh:
            value = core.give(tier.look(key, True))
            if value is not MISSING:
                if self.refreshing is not None:
                    yield from self.refreshing.consider(key, factory, decide, value)
                return value, False
        token = new_token()
        flight = new_flight()
        acts = flights.acting()
        # before the lease is taken: a waiter that sees this token must find the flight
        self.flights[token] = flight
        try:
            with flight:
                return (yield from self._load(key, factory, decide, token, flight, acts, deadline))
        except BaseException as error:
            if not isinstance(error, Exception):
                self._abandon(key, token)
            raise
        finally:
            self.end(token, flight)

    def end(self, token: bytes, flight: Flight) -> None:
        """The end of a load, however it came about."""
        self.flights.pop(token, None)
        self.leases.end(token)
        flight.give_up()

    def reload(self, key: str, factory: Callable[[], Any], decide: Decides) -> Effects[tuple[Any, bool]]:
        """`load`, but a present value does not count, nor one that another caller is loading already."""
        deadline = self._core.deadline()
        yield from self._core.begin(deadline)
        token = new_token()
        flight = new_flight()
        acts = flights.acting()
        self.flights[token] = flight
        try:
            with flight:
                return (yield from self._load(key, factory, decide, token, flight, acts, deadline, reload=True))
        except BaseException as error:
            if not isinstance(error, Exception):
                self._abandon(key, token)
            raise
        finally:
            self.end(token, flight)

    def _abandon(self, key: str, token: bytes) -> None:
        """After an interrupt, wherever it came: give the lease up in case it was granted."""
        self.leases.let_go(token)
        names = self._core.names
        if names is not None:
            bucket = names.bucket(key)
            self.leases.give_up_soon(token, [(bucket, [names.generation(bucket), names.lease(bucket, key)])])

    def load_alone(
        self, key: str, factory: Callable[[], Any], decide: Decides
    ) -> Effects[tuple[Any, bool]]:
        """`load` without waiting for other callers: each one computes and writes."""
        core = self._core
        deadline = core.deadline()
        value, _ = yield from core.lookup(key, deadline, schema=decide.schema)
        if value is not MISSING:
            if self.refreshing is not None:
                yield from self.refreshing.consider(key, factory, decide, value)
            return value, False
        begun = time.monotonic()
        try:
            value = yield Call(factory, "factory")
        except Exception:
            value = yield from self._stale(key, decide)
            if value is MISSING:
                raise
            return value, True
        is_stored, lifetime, tags = decide(value)
        kept = core.kept_of(lifetime, decide.kept)
        encoded = core.encode_result(key, value, tags, decide.name, decide.schema, kept) if is_stored else None
        if encoded is not None:
            try:
                yield from core.store({key: encoded}, lifetime, tags, deadline + time.monotonic() - begun, kept)
            except BackendUnavailable:
                if not core.is_local:
                    raise
        return value, True

    def _stale(self, key: str, decide: Decides) -> Effects[Any]:
        """A stale value, for a caller that could not compute a newer one; else MISSING."""
        core = self._core
        if core.kept or decide.kept:
            reply = yield from core.call(READ, key, deadline=core.deadline())
            if type(reply) is not Failure and ROW.unpack_from(reply)[0] != NONE:
                try:
                    value = core.codec.decode(key, reply[ROW.size:], decide.schema)
                except Undecodable:
                    return MISSING
                core.tier.count(stale_serves=1)
                return value
        return MISSING

    def _load(
        self,
        key: str,
        factory: Callable[[], Any],
        decide: Decides,
        token: bytes,
        flight: Flight,
        acts: bool,
        deadline: float,
        reload: bool = False,
    ) -> Effects[tuple[Any, bool]]:
        """The steps of `load` and `reload`.

        The deadline stands still while the factory runs, and starts again after a wait for another flight.
        """
        core, tier = self._core, self._core.tier
        no_good = b""                           # digest of a value that cannot be decoded
        awaited = b""                           # the token of the leader in another process
        looks = 0                               # at entries that cannot be decoded
        missed = False
        waiter: Any = None
        until = time.monotonic() + FOREIGN_WAIT
        patience = leases.Patience()
        while True:
            if waiter is not None:
                tier.wait_for(key, waiter.wake)
            fill = tier.begin_fill(key)
            reply: Any = None
            try:
                reply = yield from self.lead(key, token, no_good, awaited, deadline)
                if reload and type(reply) is not Failure and reply[0] == 1:
                    no_good = _digest(reply[1])
                    continue
                if type(reply) is not Failure and reply[0] == 1:
                    has_ended = core.has_ended(reply[1], reply[2])
                    try:
                        if has_ended:
                            value = core.codec.decode(key, reply[1], decide.schema)
                        else:
                            value = core.take_in(fill, reply[1], reply[2], decide.schema)
                    except Undecodable:
                        if not looks:
                            tier.count(undecodable=1)
                        looks += 1
                        if looks < MOST_LOOKS:
                            no_good = _digest(reply[1])
                            continue
                        reply = Failure(Senseless("there is always another entry that cannot be decoded"), True, False)
                    else:
                        if has_ended:
                            tier.count(stale_serves=not missed)
                        elif not missed:
                            tier.count(remote_hits=1)
                        if self.refreshing is not None and (has_ended or not missed):
                            kept = core.codec.kept(reply[1])
                            yield from self.refreshing.consider(key, factory, decide, value, reply[2], kept)
                        return value, missed
            finally:
                tier.end_fill(fill)
                if waiter is not None and (type(reply) is not list or reply[0] != 2):
                    tier.wait_no_more(key, waiter.wake)
            if type(reply) is Failure and reload:
                core.tier.count(errors=1)
                if not core.is_local:
                    raise core.unavailable(reply, [key])
                return (yield Call(factory, "factory")), True
            if type(reply) is Failure:
                return (yield from self._without_server(key, factory, reply, missed))
            if reply[0] == 4:
                error = error_codec.decode(core.codec, key, awaited, reply[1])
                if error is not None:
                    raise error
                awaited = b""
                continue
            if not missed:
                missed = True
                tier.count(misses=not reload)
            if reply[0] == 3:
                return (yield from self.load_as_leader(key, factory, decide, token, flight, deadline)), True
            other = self.flights.get(reply[2])
            awaited = reply[2] if other is None and not reload else b""
            if other is not None:
                if waiter is not None:
                    tier.wait_no_more(key, waiter.wake)
                    waiter = None
                waits = yield from self._wait_for(other)
                if not waits:
                    return (yield Call(factory, "factory")), True
                if reload and not other.was_abandoned:
                    deadline = core.deadline()
                    continue
                if not other.was_abandoned:
                    value = core.give(other.get())
                    return (yield Call(factory, "factory")) if value is MISSING else value, True
                deadline = core.deadline()
                self.flights.pop(reply[2], None)
                yield from self.leases.take_over(reply[2], deadline)
                continue
            # ask once more, so that no push between the question and the wait is missed
            if waiter is None:
                waiter = yield NewWaiter()
                continue
            seconds = patience.seconds(reply[2], reply[1])
            if not seconds or (acts and time.monotonic() > until):
                tier.wait_no_more(key, waiter.wake)
                return (yield Call(factory, "factory")), True
            if not tier.is_tracked:
                seconds = min(seconds, core.topology.polled_every)
            if acts:
                seconds = min(seconds, 1.0)
            try:
                yield Wait(waiter, time.monotonic() + seconds)
            finally:
                tier.wait_no_more(key, waiter.wake)
            waiter = yield NewWaiter()
            deadline = core.deadline()

    def _wait_for(self, other: Flight) -> Effects[bool]:
        """Wait for a flight of this process. Returns False if the caller has to compute by itself."""
        waiter = yield NewWaiter()
        wait = flights.Wait(other, waiter)
        try:
            if wait.may_begin() and wait.begins():
                while not (yield Wait(waiter, time.monotonic() + PULSE)) and not wait.is_in_vain():
                    pass
        finally:
            wait.ends()
        return other.is_done

    def lead(
        self, key: str, token: bytes, no_good: bytes, awaited: bytes, deadline: float, due: bytes = b""
    ) -> Effects[Any]:
        """One round trip: the value; else the error of leader `awaited`; else the lease.

        `due` (milliseconds): a value that expires sooner counts as missing, and a missing key is left alone.
        """
        core = self._core
        names = core.names
        more = []
        if names is not None:
            bucket = names.bucket(key)
            more = [names.lease(bucket, key), *([names.failed(bucket, awaited)] if awaited else ())]
            self.leases.ask(token, [(bucket, [names.generation(bucket), more[0]])])
        write = core.tier.begin_write(())       # of the generation, which the script may make
        try:
            reply = yield from core.call(
                LEAD, key, new_token(), token, leases.LEASE_MS, no_good, due, deadline=deadline, more=more
            )
        except BaseException:                   # cancelled: the server may have granted the lease all the same
            core.tier.drop_write(write)
            raise
        if type(reply) is not Failure and reply[0] == 3 and reply[1]:
            core.tier.end_write(write, (), [core.bucket_of(key)])
        else:
            core.tier.drop_write(write)
        if type(reply) is not Failure and reply[0] == 2 and reply[2] == token:
            return [3, 0]                       # a repetition, after the first answer was lost
        if reply.was_sent is False if type(reply) is Failure else reply[0] != 3:
            self.leases.settled(token)
        return reply

    # --- leading ------------------------------------------------------------------------------------------------------

    def load_as_leader(
        self,
        key: str,
        factory: Callable[[], Any],
        decide: Decides,
        token: bytes,
        flight: Flight,
        deadline: float,
    ) -> Effects[Any]:
        """Call the factory, and store the value under the lease."""
        core = self._core
        names = core.names
        assert names is not None
        bucket = names.bucket(key)
        lease = names.lease(bucket, key)
        groups = [(bucket, [names.generation(bucket), lease])]
        self.leases.keep(token, groups, flight)
        begun = time.monotonic()
        try:
            value = yield Call(factory, "factory")
            is_stored, lifetime, tags = decide(value)
            kept = core.kept_of(lifetime, decide.kept)
            encoded = core.encode_result(key, value, tags, decide.name, decide.schema, kept) if is_stored else None
        except BaseException as error:
            self.leases.let_go(token)
            if isinstance(error, Exception):
                deadline += time.monotonic() - begun
                yield from self.leases.fail(key, token, groups, error, deadline)
                flight.fail(error)
            raise
        self.leases.let_go(token)
        deadline += time.monotonic() - begun
        if encoded is None:
            yield from self.leases.give_up(token, groups, deadline)
        else:
            yield from self.complete(key, encoded, core.expiry(lifetime, kept), tags, token, lease, deadline)
        flight.complete(self._shared(encoded, value, decide.schema))
        return value

    def _shared(self, encoded: tuple[bytes, bytes] | None, value: Any, schema: Schema | None) -> Any:
        """The value for waiters: in a cache that isolates, each gets its own copy."""
        if not self._core.isolate or type(value) in ATOMS or encoded is None:
            return value
        return Packed(*self._core.codec.payload(*encoded), schema)

    def complete(
        self,
        key: str,
        encoded: tuple[bytes, bytes],
        px: bytes,
        tags: tuple[str, ...],
        token: bytes,
        lease: bytes,
        deadline: float,
    ) -> Effects[None]:
        """Store a value under its lease, if the lease still holds, and end the lease."""
        core, tier = self._core, self._core.tier
        write = tier.begin_write((key,))
        try:
            reply = yield from core.call(
                COMPLETE, key, token, new_token(), *encoded, px, len(tags), *tags,
                deadline=deadline, more=[lease],
            )
        except BaseException:
            tier.end_write(write)
            raise
        if type(reply) is Failure:
            tier.end_write(write)
            tier.count(errors=1)
            if not core.is_local:
                raise core.unavailable(reply, [key])
            return
        self.leases.settled(token)
        if reply[0]:
            bucket = core.bucket_of(key)
            made = [(bucket, tag) for tag, was_made in zip(tags, reply[1], strict=True) if was_made == 49]
            tier.end_write(write, (key,), (), made)
        else:
            tier.end_write(write)
            tier.count(fills_refused=1)

    # --- without a server ---------------------------------------------------------------------------------------------

    def _without_server(
        self, key: str, factory: Callable[[], Any], failure: Failure, missed: bool
    ) -> Effects[tuple[Any, bool]]:
        """The first tier's value, or one that is computed once per process; nothing is stored."""
        core = self._core
        value = core._serve_stale(key, failure, counts=not missed)
        if value is not MISSING:
            return value, missed
        while True:
            flight = new_flight()
            other = self.flights.setdefault(key, flight)
            if other is flight:
                break
            if not (yield from self._wait_for(other)):
                return (yield Call(factory, "factory")), True
            if not other.was_abandoned:
                return other.get(), True
            if self.flights.get(key) is other:
                self.flights.pop(key, None)     # its leader is not there to do so
        try:
            with flight:
                value = yield Call(factory, "factory")
            flight.complete(value)
        except Exception as error:
            flight.fail(error)
            raise
        finally:
            if self.flights.get(key) is flight:
                self.flights.pop(key, None)
            flight.give_up()
        return value, True
