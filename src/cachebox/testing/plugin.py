"""Fixtures for pytest, which loads this module through its entry point."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import cachebox


@pytest.fixture
def cachebox_clear() -> Iterator[None]:
    """Clear every living cache of the process, before the test and after it."""
    cachebox.clear_all()
    yield
    cachebox.clear_all()


@pytest.fixture
def cachebox_disabled() -> Iterator[None]:
    """Call cached functions every time in the test: they neither read, store nor count."""
    with cachebox.disabled():  # type: ignore[attr-defined, unused-ignore]
        yield
