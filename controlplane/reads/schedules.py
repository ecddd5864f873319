"""Schedules as they stand, and what became of their ticks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from uuid import UUID

from controlplane.domain.ids import ExecutionId
from controlplane.domain.placement import Placement
from controlplane.domain.schedule import Outcome, Schedule, ScheduleId
from controlplane.postgres.pool import Connection

READ = """
select id, namespace, name, target, input, context, cron, interval_seconds, run_at, time_zone, anchor_at, overlap,
  catch_up, jitter_seconds, priority, retries_max, timeout_seconds, paused, waiting, next_at, last_at, created_at,
  updated_at, clock() as now
from schedules
where bucket = $1
  and namespace = $2
  and name = $3
"""

# Without the input, which may be large, and which nobody looks for in a list.
PAGE = """
select id, namespace, name, target, ''::bytea as input, null::bytea as context, cron, interval_seconds, run_at,
  time_zone, anchor_at, overlap, catch_up, jitter_seconds, priority, retries_max, timeout_seconds, paused, waiting,
  next_at, last_at, created_at, updated_at, clock() as now
from schedules
where bucket = $1
  and namespace = $2
  and name > $3
  and ($4::text is null or target = $4)
order by name
limit $5
"""

TICKS = """
select planned_at, by_hand, outcome, until_at, execution_id, at
from schedule_ticks
where bucket = $1
  and schedule_id = $2
  and ($3::timestamptz is null or planned_at < $3)
order by planned_at desc
limit $4
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleView:
    """A schedule, and what time it was when it was read."""

    schedule: Schedule
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TickView:
    """What became of a tick. `by_hand`: it was not planned; somebody ran it. `at`: when that was decided."""

    planned_at: datetime
    by_hand: bool
    outcome: Outcome
    until_at: datetime | None
    execution_id: ExecutionId | None
    at: datetime


async def read(conn: Connection, bucket: int, *, namespace: int, name: str) -> ScheduleView | None:
    row = await conn.fetchrow(READ, bucket, namespace, name)
    return None if row is None else ScheduleView(schedule=Schedule.from_row(row), now=row["now"])


async def page(
    conn: Connection, *, namespace: int, after: str, target: str | None, limit: int, placement: Placement
) -> list[ScheduleView]:
    """The next schedules by name, without their inputs."""
    parts = [
        [
            ScheduleView(schedule=Schedule.from_row(row), now=row["now"])
            for row in await conn.fetch(PAGE, bucket, namespace, after, target, limit)
        ]
        for bucket in placement.all()
    ]
    found = merge(*parts, key=lambda view: view.schedule.name)
    return [view for view, _ in zip(found, range(limit), strict=False)]


async def ticks(
    conn: Connection, bucket: int, schedule_id: ScheduleId, *, before: datetime | None, limit: int
) -> list[TickView]:
    """What became of its ticks, the latest first."""
    return [
        TickView(
            planned_at=row["planned_at"],
            by_hand=row["by_hand"],
            outcome=Outcome(row["outcome"]),
            until_at=row["until_at"],
            execution_id=_execution(row["execution_id"]),
            at=row["at"],
        )
        for row in await conn.fetch(TICKS, bucket, schedule_id, before, limit)
    ]


def _execution(id_: UUID | None) -> ExecutionId | None:
    return None if id_ is None else ExecutionId(id_)
