"""Local: calls that a node makes inside its own process are kept beside the execution they belong to.

They have ids of the node's own making. They are shown; nothing runs or waits by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from controlplane.domain.lease import Fence
from controlplane.domain.placement import by_bucket
from controlplane.errors import ControlPlaneError, LeaseLost
from controlplane.postgres.pool import Connection
from controlplane.stages import hold

# What has ended stays so: events come in any order.
KEEP = """
insert into local_calls (
  bucket, execution_id, local_id, namespace, parent_local_id, reasoner_id, status, status_reason, input, result, error,
  duration_ms, created_at, updated_at
)
select $1, c.execution_id, c.local_id, c.namespace, c.parent_local_id, c.reasoner_id, c.status, c.status_reason,
  c.input, c.result, c.error, c.duration_ms, clock(), clock()
from unnest(
  $2::uuid[], $3::text[], $4::smallint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bytea[], $10::bytea[],
  $11::bytea[], $12::bigint[]
) as c(
  execution_id, local_id, namespace, parent_local_id, reasoner_id, status, status_reason, input, result, error,
  duration_ms
)
order by c.execution_id, c.local_id
on conflict (bucket, execution_id, local_id) do update
set status = excluded.status,
  status_reason = excluded.status_reason,
  input = coalesce(excluded.input, local_calls.input),
  result = excluded.result,
  error = excluded.error,
  duration_ms = excluded.duration_ms,
  updated_at = clock()
where local_calls.status not in ('succeeded', 'failed', 'cancelled', 'timeout')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCall:
    """What a node says of one call inside its process. `fence`: the attempt it is part of; payloads are JSON."""

    fence: Fence
    local_id: str
    parent_local_id: str | None
    reasoner_id: str
    status: str
    status_reason: str | None = None
    input: bytes | None = None
    result: bytes | None = None
    error: bytes | None = None
    duration_ms: int | None = None


async def keep(conn: Connection, batch: Sequence[LocalCall]) -> list[ControlPlaneError | None]:
    """Write down the newest word on each call. Guard: the attempt holds its lease. Raises: per item LeaseLost."""
    kept: set[Fence] = set()
    heard: dict[Fence, asyncpg.Record] = {}
    async with conn.transaction():
        for bucket, part in by_bucket(batch, lambda one: one.fence.execution_id):
            held = await hold.share(conn, bucket, {one.fence for one in part})
            newest = {(one.fence, one.local_id): one for one in part if one.fence in held}
            calls = list(newest.values())
            await conn.execute(
                KEEP,
                bucket,
                [one.fence.execution_id for one in calls],
                [one.local_id for one in calls],
                [held[one.fence]["namespace"] for one in calls],
                [one.parent_local_id for one in calls],
                [one.reasoner_id for one in calls],
                [one.status for one in calls],
                [one.status_reason for one in calls],
                [one.input for one in calls],
                [one.result for one in calls],
                [one.error for one in calls],
                [one.duration_ms for one in calls],
            )
            kept |= set(held)
            heard |= held
    await hold.hear(conn, heard)
    return [None if one.fence in kept else LeaseLost() for one in batch]
