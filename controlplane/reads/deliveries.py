"""Deliveries of an execution, each with every attempt."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from controlplane.domain.ids import DeliveryId
from controlplane.postgres.pool import Connection

LIST = """
select id, execution_id, event, url, state, attempt, charged, attempts_max, next_at, created_at, settled_at
from deliveries
where bucket = $1
  and execution_id = $2
  and namespace = $3
  and (webhook_n > 0 or $4)
order by id
"""

ATTEMPTS = """
select delivery_id, attempt, outcome, http_status, latency_ms, error, response_body, at
from delivery_attempts
where bucket = $1
  and delivery_id = any($2::uuid[])
order by delivery_id, attempt
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptView:
    """One try. `response_body` is what the receiver said, clipped."""

    delivery_id: UUID
    attempt: int
    outcome: str
    http_status: int | None
    latency_ms: int | None
    error: str | None
    response_body: bytes | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryView:
    """The duty to tell one URL about one event."""

    id: DeliveryId
    execution_id: UUID
    event: str
    url: str
    state: str
    attempt: int
    charged: int
    attempts_max: int
    next_at: datetime
    created_at: datetime
    settled_at: datetime | None
    attempts: tuple[AttemptView, ...]


async def of_execution(
    conn: Connection, bucket: int, execution_id: UUID, *, namespace: int, callbacks: bool = False
) -> list[DeliveryView]:
    """Every delivery of an execution, oldest first; with `callbacks` also what its own process is told."""
    rows = await conn.fetch(LIST, bucket, execution_id, namespace, callbacks)
    if not rows:
        return []
    tries: dict[UUID, list[AttemptView]] = {}
    for row in await conn.fetch(ATTEMPTS, bucket, [row["id"] for row in rows]):
        tries.setdefault(row["delivery_id"], []).append(AttemptView(**dict(row)))
    return [DeliveryView(**dict(row), attempts=tuple(tries.get(row["id"], ()))) for row in rows]
