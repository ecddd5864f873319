"""Archivist: removes what is over and older than it is kept, a bounded step at a time; the janitor does the rest."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

import asyncpg

from controlplane.domain.delivery import DeliveryState
from controlplane.domain.placement import Placement
from controlplane.domain.retention import Forgotten, Keep
from controlplane.postgres.pool import Connection, Pool
from controlplane.stages import forget, prune

log = logging.getLogger(__name__)

Step = Callable[[Connection, int], Awaitable[Forgotten | None]]


class Archivist:
    def __init__(self, pool: Pool, placement: Placement, keep: Keep) -> None:
        self._pool = pool
        self._placement = placement
        self._keep = keep
        self._strays: list[str] = []

    async def tick(self) -> int:
        """One step of every way in every bucket, and one partition; more at once while there was something to do."""
        did = 0
        for step in steps(self._keep):
            for bucket in self._placement.all():
                async with self._pool.acquire() as conn:
                    gone = await step(conn, bucket)
                if gone is not None:
                    did += 1
                    tell(gone, bucket=bucket)
        async with self._pool.acquire() as conn:
            did += await drop_partition(conn, self._placement) is not None
            strays = await prune.strays(conn)
        if strays and strays != self._strays:
            log.error("partitions.default_not_empty", extra={"tables": strays})
        self._strays = strays
        return did


def steps(keep: Keep) -> list[Step]:
    """What this policy asks for: lines and deliveries first, they are many."""
    found: list[Step] = []
    if keep.logs_seconds is not None:
        found.append(partial(forget.drop_logs, after_seconds=keep.logs_seconds))
    if keep.events_seconds is not None:
        found.append(partial(forget.drop_events, after_seconds=keep.events_seconds))
    for state, seconds in (
        (DeliveryState.DELIVERED, keep.delivered_seconds),
        (DeliveryState.DEAD, keep.dead_seconds),
    ):
        if seconds is not None:
            found.append(partial(forget.drop_deliveries, state=state, after_seconds=seconds))
    if keep.statuses():
        found.append(partial(forget.step, keep=keep))
    return found


async def drop_partition(conn: Connection, placement: Placement) -> str | None:
    """Drop one empty week, if there is one and nobody is in its way."""
    try:
        name = await prune.drop_partition(conn, list(placement.all()))
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
        return None  # a busy moment; it is empty, so there is no hurry
    if name is not None:
        log.info("partition.dropped", extra={"partition": name})
    return name


def tell(gone: Forgotten, *, bucket: int) -> None:
    """What was removed, in one line; nothing where there was nothing."""
    if gone.any:
        rows = {table: count for table, count in gone.rows.items() if count}
        log.info("retention.removed", extra={"bucket": bucket, "executions": dict(gone.executions), "rows": rows})
