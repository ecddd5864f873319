"""Lists that look at so many rows and no more, whichever of them match: window by window down the order of the ids."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

import asyncpg

WINDOW_FIRST = 200
WINDOW_MAX = 5_000
"""Rows that one statement of a list looks at, at first and at most."""
LOOKED_MAX = 50_000
"""Rows that are looked at for one page: where few match, it says how far it came."""
BEFORE_ALL, AFTER_ALL = UUID(int=0), UUID(int=2**128 - 1)

Look = Callable[[UUID, int, int], Awaitable[list[asyncpg.Record]]]
"""Of so many rows before an id those that match, at most so many: (before, limit, window).

Each of its rows says beside a match how many were looked at (`rows`) and the last of those (`last_id`); where none
matches there is one row, whose `id` is null.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """What matched, the newest first, and how far it was looked if not far enough."""

    rows: list[asyncpg.Record]
    reached: UUID | None = None


async def walk(look: Look, *, before: UUID, limit: int) -> Walked:
    """Window by window, larger ones after smaller ones, until enough is found or enough was looked at."""
    found: list[asyncpg.Record] = []
    window, looked = max(WINDOW_FIRST, limit), 0
    while True:
        rows = await look(before, limit - len(found), window)
        found += [row for row in rows if row["id"] is not None]
        if len(found) >= limit or rows[0]["rows"] < window:
            return Walked(rows=found)
        before, looked = rows[0]["last_id"], looked + window
        if looked >= LOOKED_MAX:
            return Walked(rows=found, reached=before)
        window = min(4 * window, WINDOW_MAX)
