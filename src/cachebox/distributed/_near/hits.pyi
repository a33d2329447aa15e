"""Types of `cachebox.distributed._near.hits`; the documentation is in the compiled module."""

from typing import Any, TypeVar

from cachebox.distributed._near.near_cache import Tier

_T = TypeVar("_T")

ABSENT: object

class NearCacheBase:
    _tier: Tier
    def _quick(self, key: str, default: Any) -> Any: ...

class BlockingNearCacheBase(NearCacheBase):
    def get(self, key: str, default: Any = None) -> Any: ...

def with_own_get(cls: type[_T]) -> type[_T]: ...
