"""The fuzzers' targets (`fuzz/`) for a moment: their seeds, changed at random, but in every run alike."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")

FOLDER = Path(__file__).parent / "fuzz"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__main__")
PIECES = [
    b"\r\n",
    b"-1",
    b"|0\r\n",
    b"*1\r\n" * 40,
    b"%1\r\n",
    b">2\r\n",
    b"9" * 25,
    b"9" * 5000,
    b"[" * 3000,
    b"\xff\xff",
    b"\0",
]


MOMENT = 4000


def mutated(seed: bytes, seeds: list[bytes], chance: random.Random) -> bytes:
    """An input with some changes."""
    data = bytearray(seed)
    for _ in range(chance.choice([0, 1, 1, 1, 2, 3, 8])):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[at : at + chance.randint(1, 40)]
            case 2:
                data[at:at] = chance.choice(PIECES)
            case 3:
                other = chance.choice(seeds)
                data[at : at + chance.randint(0, 10)] = other[chance.randrange(len(other)) :]
            case 4 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case _:
                data[at:at] = data[at : at + chance.randint(1, 30)]
    return bytes(data)


def run(name: str, n: int, seed: int) -> None:
    """A target with its seeds, and with a number of inputs, or with as many as it says are made in a moment."""
    sys.path.insert(0, str(FOLDER))
    try:
        target = importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
        sys.modules.pop(name, None)
    chance = random.Random(seed)
    for data in target.SEEDS:
        target.one(data)
    for i in range(n * getattr(target, "MOMENT", MOMENT) // MOMENT):
        data = mutated(target.SEEDS[i % len(target.SEEDS)], target.SEEDS, chance)
        try:
            target.one(data)
        except BaseException:
            print(f"{name}: {data!r}")
            raise


@pytest.mark.parametrize("name", NAMES)
def test_a_moment(name):
    run(name, MOMENT, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", NAMES)
def test_some_minutes(name, seed):
    run(name, 100_000, 2 + seed)
