"""Pending invalidations: what the server could not be made to forget is not served here, and forgotten there later."""

from __future__ import annotations

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

from both_kinds import KINDS, make
from cachebox import BackendUnavailable, DistributedCache, cached
from cachebox.distributed._near import tracking as link
from cachebox.distributed._ops import pending_invalidations
from in_threads import must_end, wait_until
from redis_servers import Proxy

TIMEOUT = 0.5


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Pending invalidations are settled as soon as possible."""
    monkeypatch.setattr(pending_invalidations, "RULES_AFTER", 0.0)


@pytest.fixture(params=[True, False], ids=["linked", "unlinked"])
def cut_off(request, kind, server, monkeypatch):
    """A cache that holds entries, and a proxy by which it can be cut off from its server, which lives on."""
    monkeypatch.setattr(link, "RETRY_APART", 0.25)
    with (
        Proxy(server.port) as proxy,
        make(kind, redis_port=proxy.port, timeout=TIMEOUT, max_staleness=30, invalidation=request.param) as cache,
        make("sync", redis_port=server.port, timeout=30) as other,
    ):
        for key in ("page:1", "page:2", "user:1"):
            cache.set(key, "old", tags=[key[:4]])
            assert cache.get(key) == cache.get(key) == "old"
        if request.param:
            cache.barrier(timeout=30)
        yield cache, proxy, other


def cut(proxy):
    """Every connection breaks, and so do new ones."""
    proxy.resets = 10**9
    proxy.cut()


def restore(proxy):
    """Connections work again."""
    proxy.resets = 0
    proxy.silent.clear()
    proxy.cut()


def back(cache, proxy, key="user:1", expected="old"):
    """Connections work again, and the cache has noticed."""
    restore(proxy)
    wait_until(lambda: (cache.get("absent"), cache.get(key)) == (None, expected) and cache.stats.breaker == "closed")


FORGETS = {
    "delete": (lambda cache: cache.delete("page:1"), {"page:1"}),
    "delete_many": (lambda cache: cache.delete_many(["page:1", "page:2"]), {"page:1", "page:2"}),
    "prefix": (lambda cache: cache.invalidate_prefix("page:"), {"page:1", "page:2"}),
    "glob": (lambda cache: cache.invalidate_glob("*:2"), {"page:2"}),
    "tag": (lambda cache: cache.invalidate_tag("page"), {"page:1", "page:2"}),
    "where": (lambda cache: cache.invalidate_where(lambda key, value: key.endswith("e:2")), {"page:2"}),
}


@pytest.mark.parametrize("how", FORGETS)
@must_end
def test_it_is_not_served_before_the_server_has_forgotten_it(cut_off, how):
    cache, proxy, other = cut_off
    forget, forgotten = FORGETS[how]
    cut(proxy)
    with pytest.raises(BackendUnavailable):
        forget(cache)
    for key in ("page:1", "page:2", "user:1"):
        assert cache.get(key) == (None if key in forgotten else "old"), "the rest is served as before"
    assert other.get("page:1") == "old", "the server does not know yet"
    back(cache, proxy)
    for key in ("page:1", "page:2"):
        assert cache.get(key) == (None if key in forgotten else "old")
        assert cache.get_many([key]) == ({} if key in forgotten else {key: "old"})
    wait_until(lambda: not cache._core.pending.exists)
    other.barrier(timeout=30)
    assert {key for key in ("page:1", "page:2", "user:1") if other.get(key) is None} == forgotten


@must_end
def test_where_nothing_gets_through(cut_off):
    """Not even an error of the server gets through: the calls time out."""
    cache, proxy, other = cut_off
    proxy.silent.set()
    for forget, _ in FORGETS.values():
        with pytest.raises(BackendUnavailable):
            forget(cache)
        assert cache.get("page:1") is None and cache.get("user:1") == "old"
    back(cache, proxy)
    assert cache.get("page:1") is None
    wait_until(lambda: not cache._core.pending.exists)
    assert other.get("page:1") is None and other.get("user:1") == "old"


@must_end
def test_clear_that_failed(cut_off):
    cache, proxy, other = cut_off
    cut(proxy)
    with pytest.raises(BackendUnavailable):
        cache.clear()
    assert cache.get("user:1") is None
    restore(proxy)

    def stored():
        try:
            cache.set("new", 1)
        except BackendUnavailable:
            return False
        return True

    wait_until(stored)
    assert cache.get("user:1") is None and cache.get("new") == 1
    wait_until(lambda: not cache._core.pending.exists)
    assert cache.get("new") == 1 == other.get("new"), "what was set after it stays"
    assert other.get("user:1") is None


@pytest.mark.parametrize(
    "read",
    [
        lambda cache: cache.get("page:1"),
        lambda cache: cache.get_many(["page:1"]).get("page:1"),
        lambda cache: cache.get_or_set("page:1", lambda: "computed"),
        lambda cache: "page:1" in cache,
        lambda cache: cache.touch("page:1", 60),
    ],
    ids=["get", "get_many", "get_or_set", "in", "touch"],
)
@pytest.mark.parametrize("how", ["delete", "prefix", "tag", "where"])
@must_end
def test_the_first_question_settles_it(cut_off, how, read, monkeypatch):
    """The background does not help: the invalidation is settled before the server is asked for the key."""
    monkeypatch.setattr(pending_invalidations, "AGAIN", 1e6)
    cache, proxy, _ = cut_off
    cut(proxy)
    with pytest.raises(BackendUnavailable):
        cache.invalidate_where(lambda key, value: value == "old" and key != "user:1") if how == "where" else FORGETS[
            how
        ][0](cache)
    back(cache, proxy)
    assert read(cache) in (None, False, "computed")


@must_end
def test_a_counter_starts_again(cut_off, monkeypatch):
    monkeypatch.setattr(pending_invalidations, "AGAIN", 1e6)
    cache, proxy, _ = cut_off
    assert cache.increment("page:n", 5) == 5
    cut(proxy)
    with pytest.raises(BackendUnavailable):
        cache.invalidate_prefix("page:")
    back(cache, proxy)
    assert cache.increment("page:n") == 1
    assert cache.increment("page:n") == 2, "what was written since is not forgotten"


@must_end
def test_what_is_set_afterwards_stays(cut_off):
    cache, proxy, other = cut_off
    cut(proxy)
    for forget, _ in FORGETS.values():
        with pytest.raises(BackendUnavailable):
            forget(cache)
    back(cache, proxy)
    cache.set("page:2", "new")
    assert cache.get("page:2") == "new"
    wait_until(lambda: not cache._core.pending.exists)
    assert cache.get("page:2") == "new" == other.get("page:2")
    assert other.get("page:1") is None and other.get("user:1") == "old"


@must_end
def test_too_many_pending_keys_are_everything(cut_off, monkeypatch):
    monkeypatch.setattr(pending_invalidations, "MOST_KEYS", 10)
    cache, proxy, other = cut_off
    cut(proxy)
    with pytest.raises(BackendUnavailable):
        cache.delete_many([f"x{i}" for i in range(11)])
    assert cache.get("user:1") is None and len(cache._core.pending._keys) == 0
    back(cache, proxy, expected=None)
    wait_until(lambda: not cache._core.pending.exists)
    assert other.get("user:1") is None


@must_end
def test_too_many_rules_are_everything(cut_off, monkeypatch):
    monkeypatch.setattr(pending_invalidations, "MOST_RULES", 2)
    cache, proxy, other = cut_off
    cut(proxy)
    for prefix in ("a", "b", "a", "b"):
        with pytest.raises(BackendUnavailable):
            cache.invalidate_prefix(prefix)
    assert cache.get("user:1") == "old", "the same again is no more"
    with pytest.raises(BackendUnavailable):
        cache.invalidate_prefix("c")
    assert cache.get("user:1") is None
    restore(proxy)
    wait_until(lambda: not cache._core.pending.exists)
    assert other.get("user:1") is None


@must_end
def test_a_time_that_was_too_short_is_made_up_for(kind, server):
    """The server is well, but there was no time for all pages: the rest is removed later."""
    with make(kind, redis_port=server.port, timeout=30) as other:
        for at in range(0, 4_000, 1000):
            other.set_many({f"k{i}": i for i in range(at, at + 1000)})
        with Proxy(server.port) as proxy, make(kind, redis_port=proxy.port, timeout=TIMEOUT) as cache:
            assert cache.get("k3999") == 3999
            proxy.slowness = 0.3 * TIMEOUT
            with pytest.raises(BackendUnavailable):
                cache.invalidate_prefix("k")
            proxy.slowness = 0.0
            assert cache.get("k3999") is None
            wait_until(lambda: not cache._core.pending.exists)
            assert other.get_many([f"k{i}" for i in range(4_000)]) == {}


@must_end
def test_a_failing_predicate_is_reported_and_dropped(cut_off, caplog):
    cache, proxy, _ = cut_off
    calls = []

    def predicate(key, value):
        calls.append(key)
        raise ZeroDivisionError

    cut(proxy)
    with pytest.raises(BackendUnavailable):
        cache.invalidate_where(predicate)
    assert cache.get("user:1") is None, "it cannot be told that it was to stay"
    restore(proxy)
    wait_until(lambda: not cache._core.pending.exists)
    assert [record.levelname for record in caplog.records if "predicate" in record.message] == ["WARNING"]
    wait_until(lambda: cache.get("user:1") == "old")


@must_end
def test_decorated_functions_forget_too(server, monkeypatch):
    monkeypatch.setattr(link, "RETRY_APART", 0.25)
    options = {"timeout": TIMEOUT, "max_staleness": 30}
    with Proxy(server.port) as proxy, DistributedCache(redis_port=proxy.port, **options) as cache:
        calls = []

        @cached(cache, ttl=60)
        def f(x):
            calls.append(x)
            return len(calls)

        assert (f(1), f(1), f(2), f(2)) == (1, 1, 2, 2)
        cut(proxy)
        with pytest.raises(BackendUnavailable):
            f.invalidate(1)
        assert f(1) == 3 and f(2) == 2
        with pytest.raises(BackendUnavailable):
            f.cache_clear()
        assert f(2) == 4
        restore(proxy)
        wait_until(lambda: not cache._core.pending.exists)
        assert f(1) >= 5 and f(2) >= 5


@must_end
def test_what_is_read_meanwhile_is_not_kept(server):
    """A reader that asked before, and gets its answer after, does not bring back an invalidated value."""
    with Proxy(server.port) as proxy, DistributedCache(redis_port=proxy.port, timeout=30, max_staleness=30) as cache:
        cache.set("page:1", "old")
        cache.barrier()
        fill = cache._tier.begin_fill("page:1")
        rule = pending_invalidations.Rule("r", lambda key: key.startswith("page"), None, lambda rule: iter(()))
        cache._core.pending.add_rule(rule)
        assert not cache._tier.store(fill, "old", 60.0)
        fill = cache._tier.begin_fill("page:1")
        cache._core.pending.add_keys(["page:1"])
        cache._tier.forget_keys(["page:1"])
        assert not cache._tier.store(fill, "old", 60.0)
        assert cache.get("page:1") is None


@must_end
@pytest.mark.parametrize("how", ["delete", "clear", "invalidate_tag", "invalidate_prefix", "settled"])
def test_what_fails_while_a_server_answers_stays_to_be_done(how, server, monkeypatch):
    """An answer tells of what was to be forgotten before the question; the failure of another caller came later."""
    with DistributedCache(redis_port=server.port, timeout=30) as cache:
        core, pending = cache._core, cache._core.pending
        monkeypatch.setattr(pending, "_plan", lambda: None)     # nothing is done in the background
        cache.set("k", 1, tags="t")
        cache.barrier()

        def others_fail():
            if how == "invalidate_tag":
                pending.add_tag("t", None)
            elif how == "clear":
                pending.add_all()
            elif how == "invalidate_prefix":
                pending.add_rule(pending_invalidations.Rule(("prefix", "k"), lambda key: key == "k", None, None))
            else:
                pending.add_keys(["k"])

        def left():
            return bool(pending._keys or pending._tags or pending._rules or pending._clears is None or pending._clears)

        ask, asked = core.topology.ask, []

        def asking(commands, *args, **options):
            replies = yield from ask(commands, *args, **options)
            if not asked:
                asked.append(1)
                others_fail()
            return replies

        if how == "settled":
            others_fail()
        monkeypatch.setattr(core.topology, "ask", asking)
        if how == "settled":
            assert core.topology.owners is not None
            cache._driver.run(pending.settle(["k"], core.deadline()))
        elif how == "clear":
            cache.clear()
        elif how == "delete":
            cache.delete("k")
        else:
            getattr(cache, how)("t" if how == "invalidate_tag" else "k")
        assert asked and left() and pending.exists
        monkeypatch.setattr(core.topology, "ask", ask)
        if how == "invalidate_prefix":
            pending.has_removed(("prefix", "k"), pending.mark)
        assert cache.get("k") is None
        assert not left() and not pending.exists
