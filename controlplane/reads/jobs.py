"""What a job of `/jobs` shows beyond its execution: the beginning of what was asked, and why it is tried again."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from controlplane.domain.placement import by_bucket, span
from controlplane.postgres.pool import Connection

# An input may be large and stored apart: only the first bytes are fetched.
HEADS = """
select id, substring(input from 1 for $4) as head
from executions
where bucket = $1
  and id = any($2::uuid[])
  and id between $5 and $6
  and namespace = $3
"""

SESSION = """
select session_key
from executions
where bucket = $1
  and id = $2
  and namespace = $3
"""

LAST_RETRY = """
select data
from events
where bucket = $1
  and execution_id = $2
  and namespace = $3
  and type = 'execution.retrying'
order by seq desc
limit 1
"""


async def heads(conn: Connection, ids: Sequence[UUID], *, namespace: int, head_bytes: int) -> dict[UUID, bytes]:
    """The first bytes of what was asked of these executions."""
    found: dict[UUID, bytes] = {}
    for bucket, part in by_bucket(ids, lambda id_: id_):
        rows = await conn.fetch(HEADS, bucket, part, namespace, head_bytes, *span(part))
        found |= {row["id"]: row["head"] for row in rows}
    return found


async def session_key(conn: Connection, bucket: int, id_: UUID, *, namespace: int) -> str | None:
    """The session that an execution belongs to; it never changes."""
    key: str | None = await conn.fetchval(SESSION, bucket, id_, namespace)
    return key


async def last_retry(conn: Connection, bucket: int, id_: UUID, *, namespace: int) -> bytes | None:
    """What the event of the newest failure that is tried again says, as JSON bytes."""
    data: bytes | None = await conn.fetchval(LAST_RETRY, bucket, id_, namespace)
    return data
