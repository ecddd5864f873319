"""Verifier: asks again and again whether what must be true is, and says loudly when it is not.

Only what is cheap to ask: the hot invariants, which read what is unfinished. `controlplane verify` asks all of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping

import asyncpg

from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Connection, Pool
from controlplane.stages import count

log = logging.getLogger(__name__)

Look = Callable[[Connection, str, int], Awaitable[list[str]]]
"""What breaks the invariant of this name in this bucket."""

REST = 20.0
"""Nobody looks again before it has rested for so many times as long as the last look took."""


class Verifier:
    """`promises`: by name, what is broken when `look` finds something. One replica looks for all, each time any."""

    def __init__(
        self, pool: Pool, placement: Placement, *, promises: Mapping[str, str], look: Look, every_seconds: float
    ) -> None:
        self._pool = pool
        self._placement = placement
        self._promises = promises
        self._look = look
        self._every_seconds = every_seconds
        self._took = 0.0

    async def tick(self) -> int:
        """One pass over every bucket whose last one is old enough. Says nothing to do at once."""
        for bucket in self._placement.all():
            async with self._pool.acquire() as conn:
                rested = await count.take_turn(
                    conn, bucket, older_than_seconds=max(self._every_seconds, REST * self._took)
                )
            if rested:
                begun = time.monotonic()
                await self._verify(bucket)
                self._took = time.monotonic() - begun
        return 0

    async def _verify(self, bucket: int) -> None:
        found: dict[str, int | None] = {}
        for name, promise in self._promises.items():
            found[name] = None
            try:
                async with self._pool.acquire() as conn:  # for one query, so that nobody waits for all of them
                    ids = await self._look(conn, name, bucket)
            except (TimeoutError, asyncpg.QueryCanceledError) as error:  # too much to read: the others can be asked
                log.warning("invariant.not_checked", extra={"invariant": name, "bucket": bucket, "error": repr(error)})
                continue
            found[name] = len(ids)
            if ids:
                log.error(
                    "invariant.violated", extra={"invariant": name, "promise": promise, "bucket": bucket, "ids": ids}
                )
        async with self._pool.acquire() as conn:
            await count.violations(conn, bucket, found)
