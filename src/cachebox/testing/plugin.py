"""Fixtures for pytest, which loads this module by its entry point."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def cachebox_clear() -> Iterator[None]:
    """Clear every living cache of the process, before the test and after it."""
    from cachebox import clear_all

    clear_all()
    yield
    clear_all()


@pytest.fixture
def cachebox_disabled() -> Iterator[None]:
    """Let cached functions run every time in the test: they neither read, store nor count."""
    from cachebox import disabled  # type: ignore[attr-defined, unused-ignore]

    with disabled():
        yield
