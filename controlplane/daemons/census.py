"""Census: counts now and then what there is, for caps and metrics."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Pool
from controlplane.stages import count

CENSUS_SECONDS = 5.0
MEMORY_SECONDS = 60.0
STORED_SECONDS = 60.0
"""Until the next walk through what is stored; one step of it is made in a tick."""
REST = 20.0
"""A count is not repeated before it has rested for so many times as long as it took."""


class Census:
    """`memory` and `stored`: whether anybody wants to know of it, for all of it has to be read."""

    def __init__(
        self, pool: Pool, placement: Placement, *, memory: Callable[[], bool], stored: Callable[[], bool]
    ) -> None:
        self._pool = pool
        self._placement = placement
        self._memory = memory
        self._stored = stored
        self._took: dict[str, float] = {}

    async def tick(self) -> int:
        """One pass over every bucket. Says nothing to do at once: what was counted rests."""
        for bucket in self._placement.all():
            await self._count("executions", count.executions, bucket, CENSUS_SECONDS)
            await self._count("totals", count.totals, bucket, CENSUS_SECONDS)
            if self._memory():
                await self._count("memory", count.memory, bucket, MEMORY_SECONDS)
            if self._stored():
                async with self._pool.acquire() as conn:
                    await count.stored(conn, bucket, older_than_seconds=STORED_SECONDS)
        return 0

    async def _count(self, name: str, call: Callable[..., Awaitable[bool]], bucket: int, seconds: float) -> None:
        begun = time.monotonic()
        async with self._pool.acquire() as conn:
            if await call(conn, bucket, older_than_seconds=max(seconds, REST * self._took.get(name, 0.0))):
                self._took[name] = time.monotonic() - begun
