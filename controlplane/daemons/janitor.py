"""Janitor: makes partitions ahead, forgets what is over, and keeps the clock that ids are stamped with."""

from __future__ import annotations

import contextlib
import time

import asyncpg

from controlplane.domain.placement import Placement
from controlplane.observe.gauges import BREAKERS_OPEN
from controlplane.postgres.pool import Pool
from controlplane.stages import audit, deliver, prune, trip

DAY_SECONDS = 86_400.0
TICKS_SECONDS = 30 * DAY_SECONDS
"""How long it is remembered what became of the ticks of schedules."""
BREAKERS_SECONDS = DAY_SECONDS
"""How long it is remembered that a host has failed when nothing is sent there any more."""
BULKS_SECONDS = 30 * DAY_SECONDS
"""How long it is remembered what bulks have done."""


class DatabaseClock:
    """The database's time without asking it: ids must fall into the partitions that its clock made.

    Counted on from there by what no step of our own wall clock touches.
    """

    def __init__(self) -> None:
        self._ahead_seconds = 0.0

    def set(self, database_seconds: float) -> None:
        self._ahead_seconds = database_seconds - time.monotonic()

    def milliseconds(self) -> int:
        return int((time.monotonic() + self._ahead_seconds) * 1000)


class Janitor:
    def __init__(
        self,
        pool: Pool,
        placement: Placement,
        clock: DatabaseClock,
        *,
        weeks_ahead: int,
        secret_days: float,
        changes_seconds: float,
        trigger_events_days: float,
        audit_days: float | None = None,
    ) -> None:
        self._pool = pool
        self._placement = placement
        self._clock = clock
        self._weeks_ahead = weeks_ahead
        self._secret_seconds = secret_days * DAY_SECONDS
        self._changes_seconds = changes_seconds
        self._trigger_events_seconds = trigger_events_days * DAY_SECONDS
        self._audit_seconds = None if audit_days is None else audit_days * DAY_SECONDS

    async def tick(self) -> int:
        """One pass; the work of a busy moment is left for the next."""
        async with self._pool.acquire() as conn:
            self._clock.set(await prune.database_seconds(conn))
            did = breakers_open = 0
            with contextlib.suppress(asyncpg.LockNotAvailableError):  # a busy moment; there are weeks of time
                await prune.ensure_partitions(conn, weeks_ahead=self._weeks_ahead)
            for bucket in self._placement.all():
                did += await prune.drop_keys(conn, bucket)
                did += await prune.forget_secrets(conn, bucket, after_seconds=self._secret_seconds)
                did += await prune.drop_ticks(conn, bucket, after_seconds=TICKS_SECONDS)
                did += await prune.drop_bulks(conn, bucket, after_seconds=BULKS_SECONDS)
                did += await prune.drop_trigger_events(conn, bucket, after_seconds=self._trigger_events_seconds)
                if self._audit_seconds is not None:
                    did += await audit.forget(conn, bucket, after_seconds=self._audit_seconds)
                did += await deliver.give_up(conn, bucket)
                did += await prune.drop_breakers(conn, bucket, after_seconds=BREAKERS_SECONDS)
                breakers_open += await trip.count_open(conn, bucket)
                dropped = await prune.drop_changes(conn, bucket, after_seconds=self._changes_seconds)
                did += dropped if dropped == prune.CHANGES_MAX else 0  # a few more are over already: at the next pass
        BREAKERS_OPEN.set(breakers_open)
        return did
