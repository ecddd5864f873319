"""Triggers as they stand, and the events that came in through them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from heapq import merge

import asyncpg

from controlplane.domain.ids import ExecutionId
from controlplane.domain.placement import Placement
from controlplane.domain.trigger import Outcome, Trigger, TriggerEventId, TriggerId
from controlplane.postgres.pool import Connection

READ = """
select id, namespace, name, target, preset, scheme, arguments, event_types, secret_sealed, previous_sealed,
  previous_until, managed_by, paused, paused_reason, created_at, updated_at, clock() as now
from triggers
where bucket = $1
  and namespace = $2
  and name = $3
"""

PAGE = """
select id, namespace, name, target, preset, scheme, arguments, event_types, secret_sealed, previous_sealed,
  previous_until, managed_by, paused, paused_reason, created_at, updated_at
from triggers
where bucket = $1
  and namespace = $2
  and name > $3
  and ($4::text is null or target = $4)
  and ($5::text is null or managed_by = $5)
order by name
limit $6
"""

# Without the bodies, which may be large, and which nobody looks for in a list.
EVENTS = """
select id, key, type, outcome, reason, execution_id, replays, replay_execution_id, ''::bytea as body, '{}' as headers,
  at
from trigger_events
where bucket = $1
  and trigger_id = $2
  and ($3::uuid is null or id < $3)
  and ($4::text is null or outcome = $4)
  and replays >= 0
order by id desc
limit $5
"""

EVENT = """
select id, key, type, outcome, reason, execution_id, replays, replay_execution_id, body, headers, at
from trigger_events
where bucket = $1
  and trigger_id = $2
  and id = $3
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerView:
    """A trigger, and what time it was when it was read."""

    trigger: Trigger
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """What came in, and what became of it. `replay_execution_id`: the latest of its `replays`."""

    id: TriggerEventId
    key: str
    type: str | None
    outcome: Outcome
    reason: str | None
    execution_id: ExecutionId | None
    replays: int
    replay_execution_id: ExecutionId | None
    body: bytes
    headers: Mapping[str, str]
    at: datetime

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> EventView:
        return cls(
            id=TriggerEventId(row["id"]),
            key=row["key"],
            type=row["type"],
            outcome=Outcome(row["outcome"]),
            reason=row["reason"],
            execution_id=row["execution_id"] and ExecutionId(row["execution_id"]),
            replays=row["replays"],
            replay_execution_id=row["replay_execution_id"] and ExecutionId(row["replay_execution_id"]),
            body=row["body"],
            headers=json.loads(row["headers"]),
            at=row["at"],
        )


async def read(conn: Connection, bucket: int, *, namespace: int, name: str) -> TriggerView | None:
    row = await conn.fetchrow(READ, bucket, namespace, name)
    return None if row is None else TriggerView(trigger=Trigger.from_row(row), now=row["now"])


async def page(
    conn: Connection,
    *,
    namespace: int,
    after: str,
    target: str | None,
    managed_by: str | None,
    limit: int,
    placement: Placement,
) -> list[Trigger]:
    """The next triggers by name."""
    parts = [
        [Trigger.from_row(row) for row in await conn.fetch(PAGE, bucket, namespace, after, target, managed_by, limit)]
        for bucket in placement.all()
    ]
    found = merge(*parts, key=lambda one: one.name)
    return [one for one, _ in zip(found, range(limit), strict=False)]


async def events(
    conn: Connection,
    bucket: int,
    trigger_id: TriggerId,
    *,
    before: TriggerEventId | None,
    outcome: Outcome | None,
    limit: int,
) -> list[EventView]:
    """What came in, the newest first, without bodies."""
    rows = await conn.fetch(EVENTS, bucket, trigger_id, before, outcome, limit)
    return [EventView.from_row(row) for row in rows]


async def event(conn: Connection, bucket: int, trigger_id: TriggerId, event_id: TriggerEventId) -> EventView | None:
    row = await conn.fetchrow(EVENT, bucket, trigger_id, event_id)
    return None if row is None else EventView.from_row(row)
