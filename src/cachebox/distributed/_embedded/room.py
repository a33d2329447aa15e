"""What leaves when there is no room: what was not used since the hand came by last.

The hand goes through the entries in the order of their hashes, which is as good as none: so it is CLOCK, with the page's
bytes for its bits. A write asks only when the bytes are spent that the last look had left, so most writes ask nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cachebox.distributed._embedded.database import LOG_PAGES, PAGE, Database
from cachebox.distributed._embedded.page import SIZE, Page

LEAST = 32 << 20
"""The smallest bound, in bytes: the page and the log take a share of it."""
STEP = 512                          # entries that the hand passes in one transaction
TURN = 1 << 63


class TooLarge(Exception):
    """It would need more room than one write may take."""


class Room:
    """The bound of one folder, in bytes.

    Args:
        limit: of the folder, the page and the log included.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        reserve = max(8 << 20, limit // 8)
        self.most_pages = (limit - reserve) // PAGE
        self.most_at_once = reserve - SIZE - LOG_PAGES * PAGE - (1 << 18)
        """Bytes that one transaction may write: they go into the log, beside what is there."""

    def check(self, cost: int) -> None:
        """TooLarge where one write could not be held."""
        if cost > self.most_at_once:
            raise TooLarge(
                f"{cost:,} bytes are more than one write may have where size_limit is {self.limit:,} bytes: "
                f"at most {self.most_at_once:,}"
            )

    def make(self, database: Database, page: Page, cost: int, now: int, is_pressing: bool = False) -> int:
        """See that so many bytes can be written. Returns how many live entries had to leave. Under the writer lock.

        `is_pressing`: it did not fit, whatever was believed.
        """
        cost += 256
        left = page.budget - cost
        if left >= 0 and not is_pressing:
            page.budget = left
            return 0
        wanted = self.most_pages - 64 - 2 * (cost // PAGE) - self.most_pages // (16 if is_pressing else 64)
        evicted, size, passed = 0, database.size(), 0
        while size > wanted and passed < 4 * TURN:
            gone, live, moved = self._pass(database, page, now)
            evicted += live
            passed += moved
            size = database.size() if gone else size
        if size > wanted and not database.writer.execute("SELECT 1 FROM e LIMIT 1").fetchall():
            database.transaction(lambda execute: execute("DELETE FROM t"))     # tags of what is gone
            size = database.size()
        page.budget = max(0, self.most_pages - 64 - size) * PAGE // 2 - cost
        return evicted

    @staticmethod
    def _pass(database: Database, page: Page, now: int) -> tuple[int, int, int]:
        """The hand passes some entries. Returns how many left, how many of these were alive, and how far it came."""
        start = page.hand
        writer = database.writer
        rows = writer.execute("SELECT h, g, x FROM e WHERE h >= ? ORDER BY h LIMIT ?", (start, STEP)).fetchall()
        ((generation,),) = writer.execute("SELECT v FROM m WHERE id = 0").fetchall()
        live = {h for h, g, x in rows if g == generation and x > now}
        used = page.unmark(h for h, _, _ in rows if h in live)
        gone = [h for h, _, _ in rows if h not in used]
        if gone:
            page.open(gone)                     # or a first tier would go on with what another finds absent
            database.transaction(lambda execute: _delete(execute, gone))
            page.close(gone)
        end = rows[-1][0] + 1 if len(rows) == STEP and rows[-1][0] < TURN - 1 else -TURN
        page.hand = end
        return len(gone), len(live.difference(used)), end - start if end > start else TURN - start


def _delete(execute: Callable[..., Any], hashes: list[int]) -> None:
    for h in hashes:
        execute("DELETE FROM e WHERE h = ?", (h,))
