"""Renew: a process is alive. One row per process and heartbeat, however many executions it runs.

submit ──► lease ──► complete ──► finish ──► deliver
            │ ▲
          *renew*
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from uuid import UUID

import asyncpg

from controlplane.domain.ids import ExecutionId
from controlplane.domain.lease import Beat, Extended, Fence, Session
from controlplane.domain.placement import by_bucket
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
