"""Which entries leave when there is no room: those that were not used since the hand passed them last.

The hand passes the entries in the order of their hashes, which is as good as random. So this is CLOCK, with the bytes
of the page as its bits. It passes the tags, too, by their hashes: a tag goes unless, since it was passed last, the hand
has kept an entry that has it, or such an entry was written or read. Each look leaves a budget of bytes, and a write
looks again only when the budget is spent. So most writes do not look.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from cachebox.distributed._embedded.database import LOG_PAGES, PAGE, Database
from cachebox.distributed._embedded.page import SIZE, Page
from cachebox.distributed._embedded.rows import KIND_AND_FLAGS, envelope_of, has_tags, tag_hash, tags_in

LEAST = 32 << 20
"""The smallest limit, in bytes: the page and the log take a share of it."""
STEP = 512                          # entries that the hand passes in one transaction, at most
TURN = 1 << 63


class TooLarge(Exception):
    """A write needs more room than one write may take."""


class Cost(NamedTuple):
    """What a write adds: bytes to the file, and pages to the log if all of them differ."""

    size: int
    pages: int


NOTHING = Cost(0, 0)


def cost_of(sizes: Iterable[int]) -> Cost:
    """The cost of entries with these sizes in bytes, each including its key."""
    size = pages = 0
    for each in sizes:
        size += each + 64
        pages += 2 + each // PAGE
    return Cost(size, pages)


class Room:
    """The limit of one folder, in bytes.

    Args:
        limit: of the folder, including the page and the log.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        reserve = max(8 << 20, limit // 8)
        self.most_pages = (limit - reserve) // PAGE
        self.most_in_log = (reserve - SIZE - (1 << 18)) // (PAGE + 24)
        """Pages that the log may have, its index included."""

    def make(self, database: Database, page: Page, cost: Cost, now: int, is_pressing: bool = False) -> int:
        """Make sure that `cost` can be written. Returns how many live entries were evicted. Under the writer lock.

        `is_pressing`: a write did not fit, whatever the budget says. Raises TooLarge if one write cannot hold it.
        """
        if cost.pages > self.most_in_log - LOG_PAGES:
            self._check(database, cost)
            database.shorten_log()
        left = page.budget - cost.size - 256
        if left >= 0 and not is_pressing:
            page.budget = left
            return 0
        step = self.most_pages // (16 if is_pressing else 64)
        wanted = self.most_pages - 64 - 2 * (cost.size // PAGE) - step
        evicted, size, passed = 0, database.size(), 0
        while size > wanted and passed < 4 * TURN:
            live, moved = self._pass(database, page, now, (size - wanted) * PAGE)
            evicted += live
            passed += moved
            size = database.size()
        page.budget = max(0, self.most_pages - 64 - size) * PAGE // 2 - cost.size
        return evicted

    def _check(self, database: Database, cost: Cost) -> None:
        pages = min(cost.pages, database.size() + 2 * (cost.size // PAGE) + 16)
        if pages > self.most_in_log or cost.size > (self.most_pages // 2) * PAGE:
            raise TooLarge(
                f"{cost.size:,} bytes are more than one write may have where size_limit is {self.limit:,} bytes"
            )

    @staticmethod
    def _pass(database: Database, page: Page, now: int, needed: int) -> tuple[int, int]:
        """Pass some entries and tags with the hand, until `needed` bytes are free. Returns how many live entries were
        evicted, and how far the hand moved."""
        start = page.hand
        execute = database.writer.execute
        step = max(16, min(STEP, needed // 1024))
        generation = database.generation()
        rows = execute(
            "SELECT h, g >> 32 = ? AND (x = 0 OR x > ?), coalesce(length(k) + length(b), 0) FROM e WHERE h >= ? "
            "ORDER BY h LIMIT ?", (generation, now, start, step)
        ).fetchall()
        gone, kept, live, freed = [], [], 0, 0
        end = -TURN
        for h, lives, size in rows:
            if page.unmark(h) and lives:
                kept.append(h)
                continue
            gone.append(h)
            live += bool(lives)
            freed += size + 32
            if freed >= needed:
                break
        else:
            h = rows[-1][0] if len(rows) == step else TURN - 1
        if h < TURN - 1:
            end = h + 1
        tags = execute("SELECT h, g = ? FROM t WHERE h BETWEEN ? AND ?", (generation, start, h)).fetchall()
        unused = [tag for tag, lives in tags if not (page.unmark(tag) and lives)]
        if tags or execute("SELECT 1 FROM t LIMIT 1").fetchall():
            _mark_tags(database, page, kept)
        if gone or unused:
            page.open(gone + unused)            # otherwise a first tier would keep serving what others find absent
            database.transaction(lambda execute: _delete(execute, gone, unused))
            page.close(gone + unused)
        page.hand = end
        return live, end - start if end > start else TURN - start


def _mark_tags(database: Database, page: Page, hashes: list[int]) -> None:
    """Record that the tags of some entries are used: a tag is needed until the hand has passed all that have it."""
    for h in hashes:
        with database.writer.blobopen("e", "b", h, readonly=True) as blob:
            tagged = has_tags(blob.read(KIND_AND_FLAGS))
        if tagged:
            ((body,),) = database.writer.execute("SELECT b FROM e WHERE h = ?", (h,)).fetchall()
            with contextlib.suppress(IndexError):       # damaged: found when the entry is read
                for tag, _ in tags_in(envelope_of(body, 0)):
                    page.mark(tag_hash(page, tag))


def _delete(execute: Callable[..., Any], hashes: list[int], tags: list[int]) -> None:
    for h in hashes:
        execute("DELETE FROM e WHERE h = ?", (h,))
    for h in tags:
        execute("DELETE FROM t WHERE h = ?", (h,))
