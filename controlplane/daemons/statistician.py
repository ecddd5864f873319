"""Statistician: has the planner look again at what has grown, so that no plan of an empty queue serves a full one.

And sees whether somebody keeps the database from clearing away what is dead.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from controlplane.postgres.pins import PINNED_SECONDS, oldest_seconds
from controlplane.postgres.pool import Pool
from controlplane.stages import prune

TENFOLD = 10.0
"""So many times the rows of the last look call for another: the wrong index costs that much at the most."""
ROWS_MIN = 1_000.0
"""Whatever is smaller is read fast enough by any index."""
TABLES_MAX = 4
"""In one pass: a look at a table of any size reads up to 30,000 of its pages."""

CLEARED_SECONDS = 60.0
"""After its end: what somebody has held back is there until the next vacuum, which is a minute away at most."""


class Statistician:
    """`pinned` is told with each pass whether somebody has held a snapshot for long, or had a moment ago."""

    def __init__(self, pool: Pool, *, pinned: Callable[[bool], None] = lambda _: None) -> None:
        self._pool = pool
        self._pinned = pinned
        self._pinned_at = float("-inf")
        self._looked_at: frozenset[str] = frozenset()

    async def tick(self) -> int:
        """One pass over all tables. Says how many were looked at again.

        One that comes up in two passes in a row is in other hands: it is not counted, and comes with a later one.
        """
        async with self._pool.acquire() as conn:
            if await oldest_seconds(conn) > PINNED_SECONDS:
                self._pinned_at = time.monotonic()
            self._pinned(time.monotonic() - self._pinned_at < CLEARED_SECONDS)
            grown = await prune.analyze_grown(conn, factor=TENFOLD, rows_min=ROWS_MIN, limit=TABLES_MAX)
        before, self._looked_at = self._looked_at, frozenset(grown)
        return len(self._looked_at - before)
