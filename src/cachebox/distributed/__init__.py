"""The distributed tier: a `Cache` in the process, and a second tier behind it that processes share.

That is Redis or Valkey, which needs redis-py (``pip install "cachebox-cython[redis]"``), or a folder (`_embedded`),
which needs nothing. It is imported only when asked for. The modules, from below::

    resp       the protocol as bytes                    codec      values as bytes, the wire format
    plain      what JSON gives back as it was           typed      values of other types, as trees
    compression   of payloads                           schema     the classes of a function's annotation
    keyspace   names on the server                      scripts    what the server does in one step
    servers    how to get in                            urls, clients   where they are, as users say it
    breaker    when to stop calling                     health     what is wrong with a server
    pool       the connections to a server
    effects    what the core asks to be done            blocking   doing it in a thread
    awaiting   doing it in a task                       topology   who has what, routing and retries
    tier       the first tier, and who stores there     link       hearing of changes
    helper     what nobody waits for                    leases     who computes what
    core       the operations on keys                   whole      and on all of a namespace
    loading    one computes, the others wait            warming    filling it beforehand
    refreshing what will end soon is computed anew      calls      decorated functions
    common     what makes a cache of these              caches     what users call
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
