"""Everything that is read from files, fed with mutated samples: see `fuzz_files`, which has the long form."""

from __future__ import annotations

import fuzz_files
import pytest


@pytest.mark.parametrize("name", fuzz_files.TARGETS)
@pytest.mark.parametrize("n", [1500, pytest.param(100_000, marks=pytest.mark.slow)])
def test_mutated_samples(name, n):
    fuzz_files.mutations(name, n, seed=n)


def test_a_target_that_finds_something_fails(monkeypatch):
    """The other tests are worth something only if faults that are put in are found."""
    from cachebox._files import serializer as encoding
    from cachebox.strategies import row_keys

    for module, name, fault, target in (
        (row_keys, "_number", repr, "key"),
        (encoding, "_decode", encoding.json.loads, "value"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, fault)
            with pytest.raises(AssertionError):
                fuzz_files.mutations(target, 1500, seed=1)
