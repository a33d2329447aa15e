"""Decorated functions: hits by kind of arguments, of methods and of coroutines; and what a miss adds to a call."""

from __future__ import annotations

from bench.peers import FUNCTOOLS, RUST, decorators
from bench.suite import Group, Topic, cases, play
from bench.workloads import KEY_OPTIONS, async_calls, calls, method_calls, missed_calls, option_calls

NAMES = ["@cached", "lru_cache (ours)", FUNCTOOLS, RUST, "cachetools", "moka-py", "theine"]
ARGUMENTS = {
    "f()": "",
    "f(x)": "key",
    "f(x, y)": "key, 1",
    "f(x, y, z)": "key, 1, 2",
    "f(x, y=1)": "key, y=1",
    "f(y=x, z=1)": "y=key, z=1",
}

HIT = Topic(
    "decorated function, hit",
    NAMES,
    FUNCTOOLS,
    [
        *(
            Group(title, lambda arguments=arguments: calls(arguments, decorators(*NAMES)))
            for title, arguments in ARGUMENTS.items()
        ),
        Group("a.method(x)", lambda: method_calls(decorators(*NAMES))),
    ],
    note="cachetools without a lock; functools and lru_cache keep a method's instance alive, @cached does not",
)
ASYNC_NAMES = ["@cached", "async-lru", RUST, "moka-py", "theine"]
ASYNC = Topic(
    "decorated coroutine function, hit",
    ASYNC_NAMES,
    "async-lru",
    [Group("await f(x)", lambda: async_calls(decorators(*ASYNC_NAMES)))],
)
MISS = Topic(
    "decorated function, miss that evicts, less the call itself",
    NAMES,
    FUNCTOOLS,
    [Group("f(x)", lambda: missed_calls(decorators(*NAMES)), seconds=2)],
    less="plain",
)

OPTIONS = Topic(
    "decorated function, hit, by options about its keys",
    ["plain", *KEY_OPTIONS],
    "plain",
    [Group("f(x)", option_calls)],
    note="f(x, session) with `ignore`; `vary` reads one context variable; `normalize` adds a default",
)

TOPICS = [HIT, ASYNC, MISS, OPTIONS]


@cases(*TOPICS)
def test_calls(benchmark, topic, group, name):
    play(benchmark, topic, group, name)
