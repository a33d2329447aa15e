"""Fuzzers of everything that is read from files: dumps, journals, keys, values, pickled state.

They are guided by coverage, with atheris (``pip install atheris``), for as long as you like:

    python tests/hostile/fuzz_files.py dump -max_total_time=600

Without it the tests use seeded mutation of samples: `mutations`. A target takes bytes. It raises if something is read
that no file of ours can have, if a file that cannot be read is no ValueError that names the file, if such a file has
changed something, or if a cache is unsound afterwards.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import struct
import sys
import tempfile
from decimal import Decimal
from fractions import Fraction


def imported():
    """The modules that read, which atheris is to see into."""
    from cachebox._files import dump as dumps
    from cachebox._files import serializer as encoding
    from cachebox.strategies import journal, row_keys

    return dumps, encoding, journal, row_keys


class Choices:
    """Bytes as a row of choices; at their end, zeros."""

    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, n):
        taken = self.data[self.at : self.at + n]
        self.at += n
        return taken.ljust(n, b"\0")

    def number(self, n=1):
        return int.from_bytes(self.take(n), "little")

    def text(self):
        return self.take(self.number() % 64)

    def __bool__(self):
        return self.at < len(self.data)


def folder():
    """A place for files, in memory if the system has that."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


POLICIES = ("LRU", "LFU", "FIFO", "AUTO")
EDGES = (0, 1, 2, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
ENDS = (math.inf, -math.inf, math.nan, 0.0, 1e300, 5e-324, 4e9, 1.7e9)


# --- dumps ------------------------------------------------------------------------------------------------------------

def dump(data):
    """A file: raw, or a body whose head and checksum are right, or entries whose numbers fit."""
    from cachebox import Cache
    from cachebox._files import dump as dumps

    choices = Choices(data)
    kind, policy = choices.number() % 3, POLICIES[choices.number() % 4]
    if kind == 0:
        content = choices.data[choices.at :]
    else:
        n, body = choices.number() % 8, b""
        if kind == 1:
            body = choices.data[choices.at :]
        else:
            n = 0
            while choices and n < 50:
                (end,) = struct.unpack("<d", choices.take(8))
                end = ENDS[choices.number() % len(ENDS)] if choices.number() % 2 else end
                rank = EDGES[choices.number() % len(EDGES)] if choices.number() % 2 else choices.number(8)
                entry = choices.text()
                body += dumps._ENTRY.pack(len(entry), end, rank) + entry
                n += 1
        written = ENDS[choices.number() % len(ENDS)]
        content = dumps._HEAD.pack(dumps.MAGIC, 1, b"json", False, written, n, len(body)) + body
        content += hashlib.sha256(content).digest()
    cache = Cache(5, policy=policy, default_ttl=1000)
    cache.set("old", 0, tags=("t",))
    with tempfile.NamedTemporaryFile(dir=folder(), suffix=".dump") as file:
        file.write(content)
        file.flush()
        try:
            cache.load(file.name)
        except ValueError as error:
            assert file.name in str(error), error
            assert dict(cache) == {"old": 0} and cache.stats.sets == 1
    use(cache)


def use(cache):
    """Whatever was read, the cache is sound, and stays so."""
    cache._check()
    for n in range(8):
        for key in list(cache):
            cache.get(key)
        try:
            cache[n] = n
        except ValueError:                      # a state with a bound in bytes may leave no room for any entry
            assert cache.max_bytes is not None and not cache
        cache._check()
    assert cache.max_size is None or len(cache) <= cache.max_size
    cache.invalidate_tag("t")
    cache.clear()
    cache._check()


# --- journals ---------------------------------------------------------------------------------------------------------

def journal(data):
    """A file: raw, or records whose checksums are right."""
    from cachebox._files.serializer import Encoding
    from cachebox.cache import MISSING
    from cachebox.strategies import journal as journals

    choices = Choices(data)
    content = struct.pack("<16sH?13s", journals.MAGIC, 1, False, b"json")
    if choices.number() % 2:
        content = choices.data[choices.at :]
    else:
        while choices:
            kind = choices.number() % 5
            number = EDGES[choices.number() % len(EDGES)] if choices.number() % 4 == 0 else choices.number() % 8
            content += journals._record(kind, number, choices.text())
        content = content[: len(content) - choices.number() % 4]
    with tempfile.TemporaryDirectory(dir=folder()) as place:
        path = f"{place}/journal"
        with open(path, "wb") as file:
            file.write(content)
        try:
            read = journals.Journal(path, Encoding(), "process")
        except ValueError as error:
            assert path in str(error), error
            with open(path, "rb") as file:
                assert file.read() == content
            return
        expected = {key: value for _, key, value in read.replayed}
        expected["one more"] = 1
        read.append(read.encode("one more", 1), False)
        for rewrites in (False, True):
            if rewrites:
                read.compact()
            read.close()
            read = journals.Journal(path, Encoding(), "process")
            assert {key: value for _, key, value in read.replayed} == expected
        for key, value in expected.items():         # and what was read can be written
            read.append(read.encode(key, value), value is MISSING)
        read.close()


# --- keys and values --------------------------------------------------------------------------------------------------

def a_key(choices, depth=0):
    """A key of some kind, of small parts, so that many are equal."""
    kind, n = choices.number() % 14, choices.number()
    small = n % 7 - 3
    if kind < 8 or depth > 3:
        return (
            small, float(small), bool(n % 2), small / 2, Fraction(small, 1 + n % 3), Decimal(small) / 2,
            complex(small, n % 2), str(small), bytes([n]), None, "null", (), EDGES[n % len(EDGES)], ENDS[n % len(ENDS)],
        )[(kind + n) % 14]  # fmt: skip
    parts = [a_key(choices, depth + 1) for _ in range(n % 3)]
    return tuple(parts) if kind < 11 else frozenset(parts)


def key(data):
    """Two keys: their bytes are the same if they are equal, and only then."""
    from cachebox.strategies.row_keys import row_key

    choices = Choices(data)
    one, other = a_key(choices), a_key(choices)
    try:
        rows = row_key(one), row_key(other)
    except TypeError as error:
        assert "NaN" in str(error), error
        return
    assert (rows[0] == rows[1]) == (one == other), (one, other)


def value(data):
    """Bytes as the serializer reads them: the value can be written, and comes back as it is."""
    from cachebox._files.serializer import Encoding

    encoding = Encoding()
    for read in (lambda: encoding.loads(data, 3), lambda: [0, encoding.load_value(data), []]):
        try:
            parts = read()
        except ValueError:
            continue
        try:
            written = encoding.dumps(*parts)
        except TypeError as error:              # may be read, but not written: a list in a dict's key has no JSON
            raise AssertionError(error) from error
        assert repr(encoding.loads(written, 3)) == repr(parts)
    signed = Encoding("json", "secret")
    try:
        signed.load_value(data, b"place")
    except ValueError:
        return
    raise AssertionError("bytes that nobody signed were believed")


# --- pickled state ----------------------------------------------------------------------------------------------------

LEAVES = (None, True, 0, -1, 2**63, 2**64, 1e308, "a", b"a", (), [], {}, "LFU", ("t",), ([],), object())


def state(data):
    """The state of a cache with some of its parts replaced: refused, or a sound cache."""
    from cachebox import Cache

    choices = Choices(data)
    cache = Cache(4, 100, POLICIES[choices.number() % 4], time_to_idle=50 if choices.number() % 2 else None)
    cache.update(a=1, b=2)
    cache.set("c", 3, ttl=5, tags=("t", "u"))
    cache.get("a")
    parts = cache.__reduce__()[2]
    columns, options = [column and list(column) for column in parts["entries"]], parts["options"]
    while choices:
        where, what = choices.number(), choices.number()
        leaf = (*LEAVES, *EDGES, *ENDS)[choices.number() % (len(LEAVES) + len(EDGES) + len(ENDS))]
        if where < 16:
            options[list(options)[what % len(options)]] = leaf
        elif where < 24:
            parts[list(parts)[what % len(parts)]] = leaf
        elif where < 32 and columns:
            columns[what % len(columns)] = leaf
        elif where < 40 and columns:
            columns.pop(what % len(columns))
        elif columns and isinstance(columns[what % len(columns)], list):
            column = columns[what % len(columns)]
            if column and where < 200:
                column[where % len(column)] = leaf
            else:
                column.append(leaf)
    if isinstance(parts.get("entries"), tuple):
        parts["entries"] = tuple(columns)
    damaged = Cache.__new__(Cache)
    try:
        damaged.__setstate__(parts)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, MemoryError):
        return
    use(damaged)


TARGETS = {"dump": dump, "journal": journal, "key": key, "value": value, "state": state}


# --- samples and mutations --------------------------------------------------------------------------------------------

def samples(name):
    """The shape of a target's inputs: mutations begin with these."""
    from cachebox import Cache

    if name == "dump":
        cache = Cache()
        cache.set("a", [1, {"b": None}], tags=("t",))
        cache.set(2, "x", ttl=50)
        with tempfile.TemporaryDirectory(dir=folder()) as place:
            cache.dump(f"{place}/dump")
            with open(f"{place}/dump", "rb") as file:
                whole = file.read()
        entries = b"\0\0\0\1\x0c[\"a\",1,[]]  \1\1\0\0\0\0\0\0\0\0\1\3\x0e[2,{},[\"t\"]]   "
        return [b"\0\0" + whole, b"\1\1\2" + whole[51:-32], b"\2\1\0" + entries, b"\2\2\0" + entries * 3]
    if name == "journal":
        records = b"\1\1\1\x08[\"a\",1] \1\1\2\x08[\"b\",2] \2\1\3\x06[\"a\"]  \3\0\0\x08\1\0\0\0\0\0\0\0"
        return [b"\0" + records, b"\0" + records * 3, b"\1" + records]
    if name == "key":
        return [bytes(range(20)), b"\0\0\1\1", b"\x09\2\0\1\1\1\x09\2\1\1\0\1", b"\x0d\2\0\1\0\2\x0d\2\0\2\0\1"]
    if name == "value":
        return [b'["a",1.5e3,["t"]]', b'[null,{"a":[true,false]},[]]', b'["\\ud800",-0,[[]]]', b"[1e999,NaN,[]]"]
    tiny = list(Cache().__reduce__()[2]["options"]).index("max_bytes"), len(LEAVES) + EDGES.index(2)
    return [
        bytes([0, 0, 60, 1, 5]), bytes([1, 1, 190, 0, 30, 50, 2, 12]), bytes([2, 0, 3, 4, 5, 220, 1, 0]),
        bytes([0, 0, 0, *tiny]),
    ]  # fmt: skip


def mutated(data, chance):
    """A sample with a few changes."""
    data = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randint(0, len(data))
        kind = chance.randrange(6)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        elif kind == 1 and data:
            data[at % len(data)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, *b'"[]{},:eN-9'))
        elif kind == 2:
            data[at:at] = chance.randbytes(chance.randint(1, 8))
        elif kind == 3:
            del data[at : at + chance.randint(1, 8)]
        elif kind == 4:
            data[at:at] = data[at // 2 : at // 2 + chance.randint(1, 40)]
        else:
            data[at : at + 8] = chance.choice(EDGES).to_bytes(8, "little")
    return bytes(data)


def mutations(name, n, seed):
    """Feed a target n mutated samples, some of them of others that were mutated before."""
    chance = random.Random(f"{name} {seed}")
    pool = samples(name)
    for data in pool:
        TARGETS[name](data)
    for _ in range(n):
        data = mutated(chance.choice(pool), chance)
        TARGETS[name](data)
        if chance.random() < 0.05 and len(data) < 2000:
            pool.append(data)


def main():
    import atheris

    name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["cachebox", "json"]):
        imported()
    with tempfile.TemporaryDirectory() as corpus:
        for n, data in enumerate(samples(name)):
            with open(f"{corpus}/{n}", "wb") as file:
                file.write(data)
        atheris.Setup([sys.argv[0], *options, corpus], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
