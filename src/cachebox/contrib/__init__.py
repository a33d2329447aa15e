"""Adapters: CacheBox behind the interfaces of other libraries and frameworks. ``docs/adapters.md`` shows each."""
