"""Types of `cachebox.distributed._near.short_read`."""

from typing import Any

from cachebox.distributed._near.near_cache import Tier

ABSENT: object

def short_read(tier: Tier, store: Any, codec: Any, key: object) -> Any: ...
