"""The attempts of one execution, read from its events: when each began and where, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import asyncpg

from controlplane.domain.event import EventType
from controlplane.postgres.pool import Connection

STARTED = """
select attempt, at, data, clock() as now
from events
where bucket = $1
  and execution_id = $2
  and namespace = $3
  and type = 'execution.started'
  and attempt > $4
order by seq
limit $5
"""

ENDED = """
select attempt, type, at, data
from events
where bucket = $1
  and execution_id = $2
  and namespace = $3
  and attempt = any($4::int[])
  and type in (
    'execution.retrying', 'lease.released', 'lease.expired', 'execution.completed', 'execution.failed',
    'execution.cancelled', 'execution.timeout', 'execution.suspended'
  )
order by seq
limit $5
"""

LAST_PROGRESS = """
select attempt, data
from events
where bucket = $1
  and execution_id = $2
  and namespace = $3
  and type = 'execution.progress'
order by seq desc
limit 1
"""

OUTCOME = """
select attempt, status_reason
from outcomes
where bucket = $1
  and id = $2
"""

ENDS_MAX = 3
"""Events that may end one attempt: its lease expires, its process speaks late, and then somebody cancels."""


class Ending(StrEnum):
    """How an attempt ended. `retried`: it failed, and another follows. `released`, `expired`: it was taken back.

    `suspended`: it waits, and another goes on when that is over.
    """

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETRIED = "retried"
    RELEASED = "released"
    EXPIRED = "expired"
    SUSPENDED = "suspended"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


ENDING_OF = {
    EventType.RETRYING: Ending.RETRIED,
    EventType.RELEASED: Ending.RELEASED,
    EventType.EXPIRED: Ending.EXPIRED,
    EventType.SUSPENDED: Ending.SUSPENDED,
    EventType.COMPLETED: Ending.SUCCEEDED,
    EventType.FAILED: Ending.FAILED,
    EventType.CANCELLED: Ending.CANCELLED,
    EventType.TIMED_OUT: Ending.TIMEOUT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptView:
    """One attempt. `start` and `end` are what its first and its last event say, JSON bytes, as `progress` is."""

    attempt: int
    started_at: datetime
    ended_at: datetime | None
    ending: Ending
    reason: str | None
    start: bytes | None
    end: bytes | None
    progress: bytes | None
    now: datetime


async def page(
    conn: Connection, bucket: int, execution_id: UUID, *, namespace: int, after: int, limit: int
) -> list[AttemptView]:
    """The attempts after this number, the newest last."""
    started = await conn.fetch(STARTED, bucket, execution_id, namespace, after, limit)
    if not started:
        return []
    numbers = [row["attempt"] for row in started]
    ends: dict[int, asyncpg.Record] = {}
    for row in await conn.fetch(ENDED, bucket, execution_id, namespace, numbers, ENDS_MAX * limit):
        # A process that was silent may still say how it went, and that is how it ended. What is cancelled once its
        # attempt is over changes nothing of it.
        if row["attempt"] not in ends or row["type"] != EventType.CANCELLED:
            ends[row["attempt"]] = row
    progress = await conn.fetchrow(LAST_PROGRESS, bucket, execution_id, namespace)
    outcome = await conn.fetchrow(OUTCOME, bucket, execution_id)
    return [_view(row, ends.get(row["attempt"]), progress, outcome) for row in started]


def _view(
    row: asyncpg.Record,
    end: asyncpg.Record | None,
    progress: asyncpg.Record | None,
    outcome: asyncpg.Record | None,
) -> AttemptView:
    said = progress is not None and progress["attempt"] == row["attempt"]
    ending = Ending.RUNNING if end is None else ENDING_OF[EventType(end["type"])]
    last = outcome is not None and outcome["attempt"] == row["attempt"] and ending in _FINAL
    return AttemptView(
        attempt=row["attempt"],
        started_at=row["at"],
        ended_at=None if end is None else end["at"],
        ending=ending,
        reason=outcome["status_reason"] if outcome is not None and last else None,
        start=row["data"],
        end=None if end is None else end["data"],
        progress=progress["data"] if progress is not None and said else None,
        now=row["now"],
    )


_FINAL = frozenset({Ending.SUCCEEDED, Ending.FAILED, Ending.CANCELLED, Ending.TIMEOUT})
