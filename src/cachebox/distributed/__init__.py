"""The distributed tier: a `Cache` in the process, and a second tier behind it that processes share.

That is Redis or Valkey, which needs redis-py (``pip install "cachebox-cython[redis]"``), or a folder, which needs
nothing. It is imported only when asked for. The folders, from below::

    _wire       the protocol and values as bytes, names on the server, what it does in one step
    _net        servers, connections and their health; who has which key; drivers for threads and for tasks
    _embedded   a folder in the place of servers
    _near       the first tier, and what keeps it coherent: tracking
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
