"""The two distributed caches behind one interface, so that one test serves both."""

from __future__ import annotations

import asyncio
import inspect


class Awaited:
    """An `AsyncDistributedCache` for blocking code: every call runs its event loop."""

    def __init__(self, **options):
        from cachebox import AsyncDistributedCache

        self.loop = asyncio.new_event_loop()
        self.cache = AsyncDistributedCache(**options)

    def __getattr__(self, name):
        found = getattr(self.cache, name)
        if not inspect.iscoroutinefunction(found):
            return found

        def call(*args, **kwargs):
            return self.loop.run_until_complete(found(*args, **kwargs))

        return call

    def __contains__(self, key):
        return self.loop.run_until_complete(self.cache.contains(key))

    def close(self):
        if not self.loop.is_closed():
            self.loop.run_until_complete(self.cache.close())
            self.loop.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def make(kind: str, **options):
    """A cache of a kind: "sync" or "async"."""
    from cachebox import DistributedCache

    return DistributedCache(**options) if kind == "sync" else Awaited(**options)


KINDS = ("sync", "async")
