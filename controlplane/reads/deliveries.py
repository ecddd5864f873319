"""Deliveries of an execution, and those that are dead, each with every attempt."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from uuid import UUID

import asyncpg

from controlplane.domain.ids import DeliveryId
from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Connection

LIST = """
select id, execution_id, event, url, state, attempt, charged, attempts_max, next_at, created_at, settled_at,
  endpoint_id
from deliveries
where bucket = $1
  and execution_id = $2
  and namespace = $3
  and (webhook_n is distinct from 0 or $4)
order by id
"""

# Along an index of the dead ones alone.
LIST_DEAD = """
select d.id, d.execution_id, d.event, d.url, d.state, d.attempt, d.charged, d.attempts_max, d.next_at, d.created_at,
  d.settled_at, d.endpoint_id, e.target
from deliveries d
cross join lateral (
  select e.target, e.run_id
  from executions e
  where e.bucket = $1
    and e.id = d.execution_id
  limit 1
) as e
where d.bucket = $1
  and d.state = 'dead'
  and d.namespace = $2
  and d.webhook_n is distinct from 0
  and ($3::uuid is null or d.id < $3)
  and ($4::text is null or e.target = $4)
  and ($5::text is null or starts_with(e.target, $5))
  and ($6::text is null or e.run_id = $6)
  and ($7::text is null or d.host = $7)
  and ($8::timestamptz is null or d.settled_at >= $8)
  and ($9::timestamptz is null or d.settled_at < $9)
order by d.id desc
limit $10
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
    """The duty to tell one URL about one event. `next_at` has no end while its endpoint is disabled."""

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
    endpoint_id: UUID | None
    attempts: tuple[AttemptView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadFilter:
    """Which dead deliveries to list; None means any. `ended_…`: when they died. `before` is the last id before."""

    target: str | None = None
    node_id: str | None = None
    run_id: str | None = None
    host: str | None = None
    ended_after: datetime | None = None
    ended_before: datetime | None = None
    before: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadView:
    """A delivery that nobody took, and what it would have told about."""

    delivery: DeliveryView
    target: str


async def of_execution(
    conn: Connection, bucket: int, execution_id: UUID, *, namespace: int, callbacks: bool = False
) -> list[DeliveryView]:
    """Every delivery of an execution, oldest first; with `callbacks` also what its own process is told."""
    rows = await conn.fetch(LIST, bucket, execution_id, namespace, callbacks)
    tries = await _attempts(conn, bucket, [row["id"] for row in rows])
    return [DeliveryView(**dict(row), attempts=tuple(tries.get(row["id"], ()))) for row in rows]


async def dead(
    conn: Connection, wanted: DeadFilter, *, namespace: int, limit: int, placement: Placement
) -> list[DeadView]:
    """The newest deliveries that are dead, at most `limit`."""
    node = None if wanted.node_id is None else wanted.node_id + "."
    where = (wanted.before, wanted.target, node, wanted.run_id, wanted.host, wanted.ended_after, wanted.ended_before)
    parts = []
    for bucket in placement.all():
        rows = await conn.fetch(LIST_DEAD, bucket, namespace, *where, limit)
        tries = await _attempts(conn, bucket, [row["id"] for row in rows])
        parts.append([_dead(row, tries) for row in rows])
    newest = merge(*parts, key=lambda one: one.delivery.id.int, reverse=True)
    return [one for one, _ in zip(newest, range(limit), strict=False)]


def _dead(row: asyncpg.Record, tries: dict[UUID, list[AttemptView]]) -> DeadView:
    fields = dict(row)
    target: str = fields.pop("target")
    return DeadView(delivery=DeliveryView(**fields, attempts=tuple(tries.get(row["id"], ()))), target=target)


async def _attempts(conn: Connection, bucket: int, ids: list[UUID]) -> dict[UUID, list[AttemptView]]:
    tries: dict[UUID, list[AttemptView]] = {}
    for row in await conn.fetch(ATTEMPTS, bucket, ids) if ids else ():
        tries.setdefault(row["delivery_id"], []).append(AttemptView(**dict(row)))
    return tries
