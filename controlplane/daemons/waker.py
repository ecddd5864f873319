"""Waker: lets go on what waits without a lease, when its time has come or its children have ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from controlplane.domain.lease import Ready
from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Pool
from controlplane.stages import suspend

CATCH_UP_SECONDS = 60.0
"""How often it looks for ends and decisions that were written without a word to who waits for them."""


class Waker:
    """`woken` is told what has work again. `spacing_seconds` lies before every pass.

    Every end of an execution hints at it, and thousands may end in a second: one pass looks at all of them. Whose time
    has come no hint says: that is looked for every `due_seconds`.
    """

    def __init__(
        self,
        pool: Pool,
        placement: Placement,
        *,
        woken: Callable[[Sequence[Ready]], None],
        spacing_seconds: float = 0.0,
        due_seconds: float = 0.0,
    ) -> None:
        self._pool = pool
        self._placement = placement
        self._woken = woken
        self._spacing_seconds = spacing_seconds
        self._due_seconds = due_seconds
        self._due_at = time.monotonic()
        self._catch_up_at = time.monotonic() + CATCH_UP_SECONDS
        self._caught_up: dict[int, suspend.Place] = {}

    async def tick(self) -> int:
        """One bounded pass over every bucket. Says how many executions it looked at."""
        await asyncio.sleep(self._spacing_seconds)
        looked = 0
        catches_up, time_has_come = time.monotonic() >= self._catch_up_at, time.monotonic() >= self._due_at
        passes = (suspend.wake_due, suspend.fan_in) if time_has_come else (suspend.fan_in,)
        for bucket in self._placement.all():
            async with self._pool.acquire() as conn:
                if catches_up:
                    after = self._caught_up.get(bucket, suspend.FIRST)
                    late, ready, self._caught_up[bucket] = await suspend.catch_up(conn, bucket, after)
                    looked += late
                    self._woken(ready)
                for pass_ in passes:
                    count, ready = await pass_(conn, bucket)
                    looked += count
                    self._woken(ready)
        if time_has_come and not looked:
            self._due_at = time.monotonic() + self._due_seconds
        if catches_up:
            self._catch_up_at = time.monotonic() + CATCH_UP_SECONDS
        return looked
