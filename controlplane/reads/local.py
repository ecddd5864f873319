"""Calls that nodes made inside their own processes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from controlplane.postgres.pool import Connection

# `offset 0`, here and below: what stands inside is found by itself. Planned in one while the tables were empty, each
# went through another index, and on reading all that there came to be.
PAGE = """
select local_id, parent_local_id, reasoner_id, status, status_reason, result, error, duration_ms, created_at, updated_at
from (
  select local_id, namespace, parent_local_id, reasoner_id, status, status_reason, result, error, duration_ms,
    created_at, updated_at
  from local_calls
  where bucket = $1
    and execution_id = $2
  order by local_id
  offset 0
) c
where namespace = $3
order by created_at, local_id
limit $4
"""

# A call that is older than the lease there is now was made by an attempt before it.
OWNER = """
select c.execution_id,
  case
    when q.session_id is not null and c.created_at >= q.leased_at then q.attempt
    else greatest(coalesce(q.attempt, 1) - 1, 1)
  end as attempt
from (
  select execution_id, created_at
  from local_calls
  where bucket = $1
    and namespace = $2
    and local_id = $3
  offset 0
) c
left join queue q on q.bucket = $1 and q.id = c.execution_id
order by c.created_at desc
limit 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalView:
    """One call inside a process. Payloads are JSON bytes."""

    local_id: str
    parent_local_id: str | None
    reasoner_id: str
    status: str
    status_reason: str | None
    result: bytes | None
    error: bytes | None
    duration_ms: int | None
    created_at: datetime
    updated_at: datetime


async def page(conn: Connection, bucket: int, execution_id: UUID, *, namespace: int, limit: int) -> list[LocalView]:
    """The calls of one execution, oldest first."""
    return [LocalView(**dict(row)) for row in await conn.fetch(PAGE, bucket, execution_id, namespace, limit)]


async def owner(conn: Connection, bucket: int, *, namespace: int, local_id: str) -> tuple[UUID, int] | None:
    """The execution that this call is part of, and the attempt that made it; one that is over holds no lease."""
    row = await conn.fetchrow(OWNER, bucket, namespace, local_id)
    return None if row is None else (row["execution_id"], row["attempt"])
