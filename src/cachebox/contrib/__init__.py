"""Adapters: CacheBox where another package or a framework expects a cache of its own kind.

Each module imports its framework only when it is imported itself. ``docs/adapters.md`` shows how they are used.
"""
