"""The distributed tier: a `Cache` in the process, in front of a second tier that processes share.

The second tier is Redis or Valkey, which needs redis-py (``pip install "cachebox-cython[redis]"``), or a folder, which
needs nothing. This package is imported only when it is used. Its folders, from the bottom up::

    _wire       the protocol, values as bytes, names on the server, scripts
    _net        servers, their health and topology; connections; drivers for threads and for tasks
    _embedded   a folder in the place of servers
    _near       the first tier, and the client tracking that keeps it coherent
    _ops        the operations, as generators that the drivers run
"""

from cachebox.distributed._wire.codec import Serializer
from cachebox.distributed.caches import AsyncDistributedCache, DistributedCache
from cachebox.distributed.errors import BackendRefused, BackendUnavailable
from cachebox.distributed.stats import DistributedStats

__all__ = [
    "AsyncDistributedCache",
    "BackendRefused",
    "BackendUnavailable",
    "DistributedCache",
    "DistributedStats",
    "Serializer",
]
