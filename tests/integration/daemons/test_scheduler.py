"""The scheduler's pass: what it does to the database is the stage's, whom it tells is its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
import pytest

from controlplane.daemons.scheduler import Scheduler
from controlplane.domain.placement import Placement
from controlplane.domain.retry import RetryPolicy
from controlplane.domain.schedule import Definition, Overlap, Rule, ScheduleId, Served
from controlplane.postgres.pool import Connection, Pool
from controlplane.stages import schedule
from tests.make import NAMESPACE, TARGET, counts, make_id


@dataclass
class Told:
    ready: list[tuple[int, str]] = field(default_factory=list)
    ended: list[UUID] = field(default_factory=list)
    cancelling: int = 0

    def scheduler(self, pool: Pool, *, buckets: int = 1) -> Scheduler:
        async def serves(namespace: int, target: str) -> Served:
            return Served(type="reasoner", retry=RetryPolicy(), timeout_seconds=None)

        def cancel() -> None:
            self.cancelling += 1

        def end(ids: Sequence[UUID]) -> None:
            self.ended += ids

        return Scheduler(
            pool,
            Placement(buckets=buckets, hashed=buckets),
            make_id=make_id,
            serves=serves,
            ready=lambda namespace, target: self.ready.append((namespace, target)),
            ended=end,
            cancelling=cancel,
        )


@pytest.fixture
async def later(database: str) -> AsyncIterator[Pool]:
    """A scheduler's connections, on which it is 61 minutes later."""
    async with asyncpg.create_pool(
        database, min_size=1, max_size=2, server_settings={"controlplane.clock_offset": "61 minutes"}
    ) as pool:
        yield pool


async def make_hourly(conn: Connection, name: str = "s", *, bucket: int = 0, overlap: Overlap = Overlap.SKIP) -> None:
    definition = Definition(target=TARGET, input=b"{}", rule=Rule(interval_seconds=3_600.0), overlap=overlap)
    await schedule.put(
        conn,
        bucket,
        ScheduleId(make_id(bucket)),
        definition,
        namespace=NAMESPACE,
        name=name,
        paused=None,
        replacing=False,
    )


async def test_nothing_is_due(conn: Connection, pool: Pool) -> None:
    """A pass that finds nothing says so, and tells nobody."""
    told = Told()
    await make_hourly(conn)

    assert await told.scheduler(pool).tick() == 0
    assert told == Told()


async def test_what_is_due_is_submitted_and_nodes_are_woken(conn: Connection, later: Pool) -> None:
    """In every bucket; a second pass finds nothing more."""
    told = Told()
    for bucket in range(3):
        await make_hourly(conn, f"s{bucket}", bucket=bucket)
    scheduler = told.scheduler(later, buckets=3)

    assert [await scheduler.tick(), await scheduler.tick()] == [3, 0]
    assert told.ready == [(NAMESPACE, TARGET)] * 3
    assert await counts(conn, "queue", "schedule_ticks") == {"queue": 3, "schedule_ticks": 3}


async def test_whoever_waits_for_what_it_cancels_is_told(conn: Connection, later: Pool) -> None:
    """What was still queued has ended when the next has begun."""
    told = Told()
    await make_hourly(conn, overlap=Overlap.CANCEL_OTHER)
    scheduler = told.scheduler(later)
    await scheduler.tick()
    first = await conn.fetchval("select id from queue")
    await conn.execute(
        "update schedules set next_at = last_at + interval '1 second', due_at = last_at + interval '1 second'"
    )

    await scheduler.tick()

    assert told.ended == [first]
    assert told.cancelling == 0
