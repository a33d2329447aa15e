"""The causes for which an entry leaves a cache."""

from enum import Enum

import cachebox._platform  # noqa: F401 (it checks whose files are in this folder)


class RemovalCause(Enum):
    """Why an entry left the cache. `on_removal` is given it.

    >>> from cachebox import Cache
    >>> causes = []
    >>> cache = Cache(max_size=1, on_removal=lambda key, value, cause: causes.append((key, cause.name)))
    >>> cache.update(a=1, b=2)
    >>> cache.delete("b")
    True
    >>> causes
    [('a', 'SIZE'), ('b', 'EXPLICIT')]
    """

    SIZE = "size"
    """Evicted to keep `max_size` or `max_weight`."""
    EXPIRED = "expired"
    """Its deadline passed."""
    EXPLICIT = "explicit"
    """Removed on request: by `delete`, `del`, `pop`, `popitem`, `delete_many` or `compute`."""
    REPLACED = "replaced"
    """Another value was stored under its key, or the same one again."""


IN_ORDER = (RemovalCause.SIZE, RemovalCause.EXPIRED, RemovalCause.EXPLICIT, RemovalCause.REPLACED)
"""The causes, numbered as in the compiled part."""
