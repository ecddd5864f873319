"""The log lines of one execution, oldest first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from controlplane.postgres.pool import Connection

LIST = """
select seq, attempt, at, level, event_type, source, message, attributes
from logs
where bucket = $1
  and execution_id = $2
  and namespace = $3
  and seq > $4
  and ($5::int is null or attempt = $5)
order by seq
limit $6
"""

# From the end backwards: how long the log is does not matter.
LIST_BEFORE = """
select seq, attempt, at, level, event_type, source, message, attributes
from logs
where bucket = $1
  and execution_id = $2
  and namespace = $3
  and seq < $4
  and ($5::int is null or attempt = $5)
order by seq desc
limit $6
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineView:
    """One line. `attributes` is JSON bytes."""

    seq: int
    attempt: int
    at: datetime
    level: str
    event_type: str | None
    source: str | None
    message: str
    attributes: bytes | None


async def page(
    conn: Connection,
    bucket: int,
    execution_id: UUID,
    *,
    namespace: int,
    after_seq: int,
    attempt: int | None,
    limit: int,
) -> list[LineView]:
    rows = await conn.fetch(LIST, bucket, execution_id, namespace, after_seq, attempt, limit)
    return [LineView(**dict(row)) for row in rows]


async def before(
    conn: Connection,
    bucket: int,
    execution_id: UUID,
    *,
    namespace: int,
    before_seq: int,
    attempt: int | None,
    limit: int,
) -> list[LineView]:
    """The newest lines before one, the oldest of them first."""
    rows = await conn.fetch(LIST_BEFORE, bucket, execution_id, namespace, before_seq, attempt, limit)
    return [LineView(**dict(row)) for row in reversed(rows)]
