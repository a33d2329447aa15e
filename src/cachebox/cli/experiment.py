"""The demo's measurement: a slow function over real words, bare and behind caches.

All contenders take the same words, in turns of a few hundred. So does the bare function, but only every tenth word. So
other load on the machine slows all of them alike, and the measurement can stop after any turn.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cachebox import cached
from cachebox.cli.nearest import nearest

POLICIES = ("LRU", "LFU", "FIFO")
SIZES = (100, 1_000, 5_000)

WORDS_PER_TURN = 500
SAMPLED = 10                                    # the bare function gets one word in ten


@dataclass
class Contender:
    """The function behind one cache, and the seconds that its calls took."""

    policy: str
    size: int
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.function = cached(max_size=self.size, policy=self.policy)(nearest)
        self.cache = self.function.cache

    def take(self, words: Sequence[str]) -> None:
        function = self.function
        begun = time.perf_counter()
        for word in words:
            function(word)
        self.seconds += time.perf_counter() - begun


@dataclass
class Experiment:
    """The measurements so far."""

    contenders: list[Contender] = field(default_factory=list)
    words: int = 0
    distinct: int = 0
    sampled: int = 0
    sampled_seconds: float = 0.0

    @property
    def seconds_per_call(self) -> float:
        """The time of a call of the bare function, by the sample."""
        return self.sampled_seconds / self.sampled if self.sampled else 0.0

    @property
    def uncached_seconds(self) -> float:
        """The time for all the words without a cache, extrapolated from the sample."""
        return self.seconds_per_call * self.words

    @property
    def ceiling(self) -> float:
        """The hit ratio of a cache without a bound: every word is computed once."""
        return 1 - self.distinct / self.words if self.words else 0.0

    def speed_up(self, contender: Contender) -> float:
        return self.uncached_seconds / contender.seconds if contender.seconds else 0.0

    @property
    def best(self) -> Contender:
        """The fastest; of equals, the smallest."""
        return min(self.contenders, key=lambda contender: (contender.seconds, contender.size))

    def take_sample(self, words: Sequence[str]) -> None:
        begun = time.perf_counter()
        for word in words:
            nearest(word)
        self.sampled_seconds += time.perf_counter() - begun
        self.sampled += len(words)


def measure(
    words: Sequence[str],
    seconds: float,
    on_turn: Callable[[float, Experiment], object] = lambda share, experiment: None,
) -> Experiment:
    """Run all contenders over the words until the time or the words run out, for at least one turn.

    After every turn, `on_turn` gets the share that is done and the measurements so far.
    """
    experiment = Experiment([Contender(policy, size) for policy in POLICIES for size in SIZES])
    seen: set[str] = set()
    begun = time.monotonic()
    share = 0.0
    while share < 1.0:
        turn = words[experiment.words:experiment.words + WORDS_PER_TURN]
        experiment.take_sample(turn[::SAMPLED])
        for contender in experiment.contenders:
            contender.take(turn)
        seen.update(turn)
        experiment.words += len(turn)
        experiment.distinct = len(seen)
        share = min(1.0, max((time.monotonic() - begun) / seconds, experiment.words / len(words)))
        on_turn(share, experiment)
    return experiment
