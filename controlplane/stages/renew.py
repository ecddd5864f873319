"""Renew: a process is alive. One row per process and heartbeat, however many executions it runs.

submit ──► lease ──► complete ──► finish ──► deliver
            │ ▲
          *renew*
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from uuid import UUID

import asyncpg

from controlplane.domain.ids import ExecutionId
from controlplane.domain.lease import Beat, Extended, Fence, Session
from controlplane.domain.placement import Placement, by_bucket
from controlplane.errors import ControlPlaneError, SessionClosed
from controlplane.postgres.pool import Connection

# `closed_at is null` and not `expires_at > clock()`: a session that nobody closed yet still holds its leases.
EXTEND = """
update sessions s
set renewed_at = clock(),
  expires_at = clock() + make_interval(secs => s.lease_seconds),
  running = b.running
from unnest($2::uuid[], $3::int[]) as b(id, running)
where s.bucket = $1
  and s.id = b.id
  and s.closed_at is null
returning s.id, s.namespace, s.node_id, s.instance_id, s.slots, s.heartbeat_seconds, s.lease_seconds,
  s.draining or s.drain_requested_at is not null as draining,
  s.transport, s.base_url, s.acknowledges, s.start_to_close_seconds
"""

STILL_HELD = """
select id, attempt
from queue
where bucket = $1
  and id = any($2::uuid[])
  and session_id = $3
"""


# Whoever holds something speaks for itself: its death is to be noticed as soon as if nobody had spoken for it. One that
# is locked is being renewed, closed or told to drain by somebody else, and speaks for itself as well: nobody is waited
# for. `offset 0` keeps the look a look for each row, on the index of what sessions hold.
KEEP = """
update sessions
set renewed_at = clock(),
  expires_at = clock() + make_interval(secs => lease_seconds)
where bucket = $1
  and id = any(array(
    select s.id
    from sessions s
    where s.bucket = $1
      and s.id = any($2::uuid[])
      and s.closed_at is null
      and not s.draining
      and s.drain_requested_at is null
      and not exists (
        select
        from queue q
        where q.bucket = $1
          and q.session_id = s.id
          and q.state in ('leased', 'waiting')
        offset 0
      )
    order by s.id
    for no key update skip locked
  ))
returning id
"""

# In the buckets where the sessions do not lie.
HOLDING = """
select s.id
from unnest($2::uuid[]) as s(id)
where exists (
  select
  from queue q
  where q.bucket = $1
    and q.session_id = s.id
    and q.state in ('leased', 'waiting')
  offset 0
)
"""


async def extend(conn: Connection, batch: Sequence[Beat]) -> list[Extended | ControlPlaneError]:
    """Everything these processes hold is theirs for another lease; they learn what they have lost.

    Guard: a closed session stays closed, its work may be running elsewhere.
    Raises: per item SessionClosed; then open a new session.
    """
    rows: dict[UUID, asyncpg.Record] = {}
    parts = list(by_bucket(sorted(batch, key=lambda beat: beat.session_id), lambda beat: beat.session_id))
    # One statement commits by itself: begin and commit would be two more round trips.
    async with contextlib.nullcontext() if len(parts) == 1 else conn.transaction():
        for bucket, part in parts:
            extended = await conn.fetch(
                EXTEND, bucket, [beat.session_id for beat in part], [beat.count for beat in part]
            )
            rows |= {row["id"]: row for row in extended}
    return [
        _extended(rows[beat.session_id], await _lost(conn, beat)) if beat.session_id in rows else SessionClosed()
        for beat in batch
    ]


async def keep(conn: Connection, ids: Collection[UUID], placement: Placement) -> frozenset[UUID]:
    """Renew those of these sessions that hold nothing, in their name. Answers which they were.

    The others have to speak for themselves: they hold something, shall drain, or are closed. So a session that holds
    something was renewed by itself, or at the latest by a look that began before its claim was committed.
    Guard: a closed session stays closed; who is under somebody else's hands is passed over.
    """
    kept: set[UUID] = set()
    for bucket, part in by_bucket(ids, lambda id_: id_):
        holding: set[UUID] = set()
        for other in placement.all():
            if other != bucket:
                holding |= {row["id"] for row in await conn.fetch(HOLDING, other, part)}
        rows = await conn.fetch(KEEP, bucket, [id_ for id_ in part if id_ not in holding])
        kept |= {row["id"] for row in rows}
    return frozenset(kept)


async def _lost(conn: Connection, beat: Beat) -> tuple[Fence, ...]:
    if not beat.held:
        return ()
    mine: set[Fence] = set()
    for bucket, part in by_bucket(beat.held, lambda fence: fence.execution_id):
        ids = [fence.execution_id for fence in part]
        rows = await conn.fetch(STILL_HELD, bucket, ids, beat.session_id)
        mine |= {Fence(ExecutionId(row["id"]), row["attempt"]) for row in rows}
    return tuple(fence for fence in beat.held if fence not in mine)


def _extended(row: asyncpg.Record, lost: tuple[Fence, ...]) -> Extended:
    return Extended(
        session=Session.from_row(row),
        draining=row["draining"],
        expires_in_seconds=row["lease_seconds"],
        lost=lost,
    )
