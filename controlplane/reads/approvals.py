"""Approvals: what executions ask of people, and what was decided."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from controlplane.domain.approval import Approval
from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Connection

# The order inside keeps it on the primary key, whatever the statistics say.
LATEST = """
with asked as materialized (
  select execution_id, request_id, namespace, attempt, node_id, status, url, callback_url, feedback, response,
    requested_at, expires_at, decided_at, title, durable
  from approvals
  where bucket = $1
    and execution_id = $2
  order by request_id
)
select execution_id, request_id, attempt, node_id, status, url, callback_url, feedback, response, requested_at,
  expires_at, decided_at, title, durable
from asked
where namespace = $3
order by status = 'pending' desc, requested_at desc
limit 1
"""

OF_REQUEST = """
select namespace, execution_id, request_id, attempt, node_id, status, url, callback_url, feedback, response,
  requested_at, expires_at, decided_at, title, durable
from approvals
where bucket = $1
  and namespace = any($2::smallint[])
  and request_id = $3
order by status = 'pending' desc, requested_at desc
limit $4
"""


# The order keeps it on the primary key. The execution may have ended since: what was asked stays as it was asked.
ASKED = """
select execution_id, request_id, attempt, node_id, status, url, callback_url, feedback, response, requested_at,
  expires_at, decided_at, title, durable
from (
  select execution_id, request_id, namespace, attempt, node_id, status, url, callback_url, feedback, response,
    requested_at, expires_at, decided_at, title, durable
  from approvals
  where bucket = $1
    and execution_id = $2
  order by request_id
  offset 0
) asked
where namespace = $3
  and request_id = $4
"""


async def read(
    conn: Connection, bucket: int, execution_id: UUID, request_id: str, *, namespace: int
) -> Approval | None:
    """What this execution asked under this id."""
    row = await conn.fetchrow(ASKED, bucket, execution_id, namespace, request_id)
    return None if row is None else Approval.from_row(row)


async def latest(conn: Connection, bucket: int, execution_id: UUID, *, namespace: int) -> Approval | None:
    """What this execution waits for, else what it asked last."""
    row = await conn.fetchrow(LATEST, bucket, execution_id, namespace)
    return None if row is None else Approval.from_row(row)


async def of_request(
    conn: Connection, request_id: str, *, namespaces: Sequence[int], limit: int, placement: Placement
) -> list[tuple[int, Approval]]:
    """Every execution's question under this id in these namespaces, with its own: pending ones first, then the newest.

    Of each bucket at most `limit`.
    """
    return [
        (row["namespace"], Approval.from_row(row))
        for bucket in placement.all()
        for row in await conn.fetch(OF_REQUEST, bucket, namespaces, request_id, limit)
    ]
