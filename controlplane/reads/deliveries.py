"""Deliveries: of an execution, the newest ones, and one by its id; each with every attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from heapq import merge
from uuid import UUID

import asyncpg

from controlplane.domain.delivery import DeliveryState
from controlplane.domain.ids import DeliveryId
from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Connection

LOOK_MAX = 2_000
"""Rows of a bucket that are looked at for one page, matching or not."""
DEAD = (DeliveryState.DEAD,)

LIST = """
select id, execution_id, event, url, state, attempt, charged, attempts_max, next_at, created_at, settled_at, endpoint_id
from deliveries
where bucket = $1
  and execution_id = $2
  and namespace = $3
  and (webhook_n is distinct from 0 or $4)
order by id
"""

# Along an index of the dead ones alone. Not what a process of a node is told (webhook_n 0).
LIST_DEAD = """
select d.id, d.execution_id, d.event, d.url, d.state, d.attempt, d.charged, d.attempts_max, d.next_at, d.created_at,
  d.settled_at, d.endpoint_id, e.run_id, e.target
from deliveries d
left join lateral (
  select e.target, e.run_id
  from executions e
  where e.bucket = $1
    and e.id = d.execution_id
  limit 1
) as e on true
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
  and ($10::text is null or d.event = $10)
  and ($11::uuid is null or d.endpoint_id = $11)
  and ($12::uuid is null or d.execution_id = $12)
  and ($13::timestamptz is null or d.created_at >= $13)
  and ($14::timestamptz is null or d.created_at < $14)
order by d.id desc
limit $15
"""

# The newest so many, whatever is meant: which of them are is asked of those, so that what nobody means costs no more
# than one page.
LIST_ANY = """
with looked as materialized (
  select d.id, d.namespace, d.webhook_n, d.execution_id, d.event, d.host, d.url, d.state, d.attempt, d.charged,
    d.attempts_max, d.next_at, d.created_at, d.settled_at, d.endpoint_id
  from deliveries d
  where d.bucket = $1
    and ($3::uuid is null or d.id < $3)
  order by d.id desc
  limit $16
)
select seen.rows, seen.last_id, found.id, found.execution_id, found.event, found.url, found.state, found.attempt,
  found.charged, found.attempts_max, found.next_at, found.created_at, found.settled_at, found.endpoint_id, found.run_id,
  found.target
from (select count(*) as rows, (select id from looked order by id limit 1) as last_id from looked) as seen
left join (
  select l.id, l.execution_id, l.event, l.url, l.state, l.attempt, l.charged, l.attempts_max, l.next_at, l.created_at,
    l.settled_at, l.endpoint_id, e.run_id, e.target
  from looked l
  left join lateral (
    select e.target, e.run_id
    from executions e
    where e.bucket = $1
      and e.id = l.execution_id
    limit 1
  ) as e on true
  where l.namespace = $2
    and l.webhook_n is distinct from 0
    and ($4::text is null or e.target = $4)
    and ($5::text is null or starts_with(e.target, $5))
    and ($6::text is null or e.run_id = $6)
    and ($7::text is null or l.host = $7)
    and ($8::timestamptz is null or l.settled_at >= $8)
    and ($9::timestamptz is null or l.settled_at < $9)
    and ($10::text is null or l.event = $10)
    and ($11::uuid is null or l.endpoint_id = $11)
    and ($12::uuid is null or l.execution_id = $12)
    and ($13::timestamptz is null or l.created_at >= $13)
    and ($14::timestamptz is null or l.created_at < $14)
    and ($17::text[] is null or l.state = any($17::text[]))
  order by l.id desc
  limit $15
) as found on true
order by found.id desc
"""

READ = """
select d.id, d.execution_id, d.event, d.url, d.state, d.attempt, d.charged, d.attempts_max, d.next_at, d.created_at,
  d.settled_at, d.endpoint_id, d.body, e.run_id, e.target
from deliveries d
left join executions e on e.bucket = $1 and e.id = d.execution_id
where d.bucket = $1
  and d.id = $2
  and d.namespace = $3
"""

# What keeps these from their hosts, though they be due.
HELD = """
select d.id, greatest(d.next_at, b.held_until) as next_at, b.held_by
from deliveries d
cross join lateral (
  select greatest(open_until, held_until) as held_until,
    case when held_until >= coalesce(open_until, held_until) then 'retry_after' else 'breaker' end as held_by
  from breakers
  where bucket = $1
    and host = d.host
    and namespace = d.namespace
    and greatest(open_until, held_until) > clock()
  limit 1
) as b
where d.bucket = $1
  and d.id = any($2::uuid[])
  and d.state = 'pending'
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
    """The duty to tell one URL about one event. `body`: the very bytes, where they were asked for.

    `held_by`: a word for what keeps it from its host until `next_at`, beyond its own schedule. `next_at` has no end
    while its endpoint is disabled.
    """

    id: DeliveryId
    execution_id: UUID | None
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
    endpoint_id: UUID | None = None
    run_id: str | None = None
    target: str | None = None
    body: bytes | None = None
    held_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFilter:
    """Which deliveries to list; None means any, no states mean all. `ended_…`: when they were settled."""

    states: tuple[DeliveryState, ...] = ()
    event: str | None = None
    target: str | None = None
    node_id: str | None = None
    run_id: str | None = None
    execution_id: UUID | None = None
    endpoint_id: UUID | None = None
    host: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    ended_after: datetime | None = None
    ended_before: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Newest:
    """Some deliveries, and the id to go on below when there may be more."""

    items: tuple[DeliveryView, ...]
    below: UUID | None


async def of_execution(
    conn: Connection, bucket: int, execution_id: UUID, *, namespace: int, callbacks: bool = False
) -> list[DeliveryView]:
    """Every delivery of an execution, oldest first; with `callbacks` also what its own process is told."""
    rows = await conn.fetch(LIST, bucket, execution_id, namespace, callbacks)
    tries = await _attempts(conn, bucket, [row["id"] for row in rows if row["attempt"]])
    return await _with_holds(conn, bucket, [_view(row, tries) for row in rows])


async def read(conn: Connection, bucket: int, id_: UUID, *, namespace: int) -> DeliveryView | None:
    """One delivery with what is sent."""
    row = await conn.fetchrow(READ, bucket, id_, namespace)
    if row is None:
        return None
    tries = await _attempts(conn, bucket, [id_])
    [view] = await _with_holds(conn, bucket, [_view(row, tries)])
    return view


async def newest(
    conn: Connection,
    wanted: DeliveryFilter,
    *,
    namespace: int,
    below: UUID | None,
    limit: int,
    placement: Placement,
    look: int = LOOK_MAX,
) -> Newest:
    """The newest deliveries below an id, at most `limit`; a page may be short although more come after it."""
    node = None if wanted.node_id is None else wanted.node_id + "."
    whose = (below, wanted.target, node, wanted.run_id, wanted.host, wanted.ended_after, wanted.ended_before)
    where = (*whose, wanted.event, wanted.endpoint_id, wanted.execution_id, wanted.created_after, wanted.created_before)
    parts: list[list[DeliveryView]] = []
    floors: list[UUID] = []
    for bucket in placement.all():
        if wanted.states == DEAD:
            rows = await conn.fetch(LIST_DEAD, bucket, namespace, *where, limit + 1)
        else:
            states = [state.value for state in wanted.states] or None
            rows = await conn.fetch(LIST_ANY, bucket, namespace, *where, limit + 1, look, states)
            if rows[0]["rows"] >= look:
                floors.append(rows[0]["last_id"])
        tries = await _attempts(conn, bucket, [row["id"] for row in rows if row["id"] is not None])
        views = [_view(row, tries) for row in rows if row["id"] is not None]
        parts.append(await _with_holds(conn, bucket, views))
    # No further down than every bucket was looked at: what lies below comes with the next page.
    floor = max(floors, default=None)
    merged = merge(*parts, key=lambda one: one.id.int, reverse=True)
    items = [one for one in merged if floor is None or one.id >= floor]
    if len(items) > limit:
        return Newest(items=tuple(items[:limit]), below=items[limit - 1].id)
    return Newest(items=tuple(items), below=floor)


def _view(row: asyncpg.Record, tries: dict[UUID, list[AttemptView]]) -> DeliveryView:
    fields = {name: value for name, value in row.items() if name not in ("rows", "last_id")}
    return DeliveryView(**fields, attempts=tuple(tries.get(row["id"], ())))


async def _with_holds(conn: Connection, bucket: int, views: list[DeliveryView]) -> list[DeliveryView]:
    """The same, and of what waits when it can go at the earliest."""
    pending = [one.id for one in views if one.state == DeliveryState.PENDING]
    held = {row["id"]: row for row in await conn.fetch(HELD, bucket, pending)} if pending else {}
    return [
        replace(one, next_at=held[one.id]["next_at"], held_by=held[one.id]["held_by"]) if one.id in held else one
        for one in views
    ]


async def _attempts(conn: Connection, bucket: int, ids: Sequence[UUID]) -> dict[UUID, list[AttemptView]]:
    tries: dict[UUID, list[AttemptView]] = {}
    for row in await conn.fetch(ATTEMPTS, bucket, ids) if ids else ():
        tries.setdefault(row["delivery_id"], []).append(AttemptView(**dict(row)))
    return tries
