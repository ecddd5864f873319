"""Log: what an attempt says while it runs: lines, notes and how far it is. Fenced, best effort, never a checkpoint.

submit ──► lease ──► complete ──► finish ──► deliver
             └── *log*

AgentField's SDK waits for none of its lines and notes, so that the last ones overtake the result or come after it: for
a moment the attempt that ended an execution may still speak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from controlplane.domain.event import Event, EventType
from controlplane.domain.lease import Fence
from controlplane.domain.placement import by_bucket, span
from controlplane.errors import ControlPlaneError, LeaseLost
from controlplane.postgres.pool import Connection
from controlplane.stages import hold, record

APPEND = """
insert into logs (bucket, execution_id, namespace, attempt, at, level, event_type, source, message, attributes)
select $1, l.execution_id, l.namespace, l.attempt, coalesce(l.at, clock()), l.level, l.event_type, l.source, l.message,
  l.attributes
from unnest(
  $2::uuid[], $3::smallint[], $4::int[], $5::timestamptz[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bytea[]
) as l(execution_id, namespace, attempt, at, level, event_type, source, message, attributes)
"""

LATE_SECONDS = 60.0
"""For how long the attempt that ended an execution is heard."""

ENDED = """
select o.id, o.attempt, e.namespace, e.run_id, e.target
from outcomes o
join executions e on e.bucket = $1 and e.id = o.id and e.id between $4 and $5
where o.bucket = $1
  and o.id = any($2::uuid[])
  and o.id between $4 and $5
  and o.finished_at > clock() - make_interval(secs => $3)
"""

ADVANCE = """
update queue q
set progress = p.progress,
  progress_at = clock()
from unnest($2::uuid[], $3::int[], $4::bytea[]) as p(id, attempt, progress)
where q.bucket = $1
  and q.id = p.id
  and q.attempt = p.attempt
  and q.session_id is not null
returning q.id, q.attempt, q.namespace, q.run_id, q.target
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One log line. `at` is the node's word for when; None means now. `attributes` is JSON bytes."""

    fence: Fence
    level: str
    message: str
    at: datetime | None = None
    event_type: str | None = None
    source: str | None = None
    attributes: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an attempt is, as JSON bytes `{done?, total?, fraction?, message?}`."""

    fence: Fence
    progress: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A remark for people, kept with the events. `data` is JSON bytes `{message, tags, timestamp}`."""

    fence: Fence
    data: bytes


Entry = Line | Progress | Note


async def append(conn: Connection, batch: Sequence[Entry]) -> list[ControlPlaneError | None]:
    """Keep these in order. Raises: per item LeaseLost; a stale attempt's words change nothing.

    Guard: the queue row is held at this attempt, `for share`, or `for update` where progress is written to it; or the
    execution has ended with this attempt a moment ago.
    """
    held: dict[Fence, asyncpg.Record] = {}
    live: dict[Fence, asyncpg.Record] = {}
    async with conn.transaction():
        for bucket, part in by_bucket(batch, lambda item: item.fence.execution_id):
            found, ended = await _append(conn, bucket, part)
            live |= found
            held |= found | ended
    await hold.hear(conn, live)
    return [None if item.fence in held else LeaseLost() for item in batch]


async def _append(
    conn: Connection, bucket: int, part: list[Entry]
) -> tuple[dict[Fence, asyncpg.Record], dict[Fence, asyncpg.Record]]:
    """Those that hold their lease, and those that ended a moment ago."""
    newest = {item.fence: item for item in part if isinstance(item, Progress)}
    advanced = sorted(newest.values(), key=lambda item: item.fence)
    events: list[Event] = []
    # All rows at once and in one strength: two flushes that took some for update and then others for share would wait
    # for each other in a circle.
    live = await (hold.take if advanced else hold.share)(conn, bucket, {item.fence for item in part})
    if advanced:
        rows = await conn.fetch(
            ADVANCE,
            bucket,
            [item.fence.execution_id for item in advanced],
            [item.fence.attempt for item in advanced],
            [item.progress for item in advanced],
        )
        moved = {Fence(row["id"], row["attempt"]): row for row in rows}
        events += [_event(fence, row, EventType.PROGRESS, newest[fence].progress) for fence, row in moved.items()]
    ended = await _ended(conn, bucket, {item.fence for item in part} - set(live))
    held = live | ended
    lines = [item for item in part if isinstance(item, Line) and item.fence in held]
    if lines:
        await conn.execute(
            APPEND,
            bucket,
            [item.fence.execution_id for item in lines],
            [held[item.fence]["namespace"] for item in lines],
            [item.fence.attempt for item in lines],
            [item.at for item in lines],
            [item.level for item in lines],
            [item.event_type for item in lines],
            [item.source for item in lines],
            [item.message for item in lines],
            [item.attributes for item in lines],
        )
    events += [
        _event(item.fence, held[item.fence], EventType.NOTE, item.data)
        for item in part
        if isinstance(item, Note) and item.fence in held
    ]
    await record.append(conn, bucket, events)
    return live, ended


async def _ended(conn: Connection, bucket: int, fences: set[Fence]) -> dict[Fence, asyncpg.Record]:
    """Those of the fences that ended their execution a moment ago. How far it was is settled: nothing moves an end."""
    if not fences:
        return {}
    ids = [fence.execution_id for fence in fences]
    rows = await conn.fetch(ENDED, bucket, ids, LATE_SECONDS, *span(ids))
    return {fence: row for row in rows if (fence := Fence(row["id"], row["attempt"])) in fences}


def _event(fence: Fence, row: asyncpg.Record, type_: EventType, data: bytes) -> Event:
    return Event(
        execution_id=fence.execution_id,
        namespace=row["namespace"],
        run_id=row["run_id"],
        target=row["target"],
        type=type_,
        attempt=fence.attempt,
        data=data,
    )
