"""Redrive: what has ended, or waits for its time, is sent again. The id and the bytes stay the same.

submit ──► lease ──► complete ──► finish ──► deliver
                                               ▲
                                           *redrive*
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from controlplane.domain.event import EventType
from controlplane.domain.ids import DeliveryId, bucket_of
from controlplane.errors import DeliveryNotFound
from controlplane.postgres.pool import Connection
from controlplane.stages import trip
from controlplane.stages.deliver import fact, tell

LOCK_STATE = """
select state
from deliveries
where bucket = $1
  and id = $2
  and namespace = $3
for update
"""

RETRY = """
update deliveries
set state = 'pending',
  next_at = clock(),
  charged = 0,
  unknown = 0,
  settled_at = null
where bucket = $1
  and id = $2
  and namespace = $3
  and state in ('delivered', 'dead')
returning execution_id, namespace, host
"""

# Only what has stayed as it was: whoever was first has sent it again, and it may have been delivered since.
REDRIVE = """
update deliveries
set state = 'pending',
  next_at = clock(),
  charged = 0,
  unknown = 0,
  settled_at = null
where bucket = $1
  and id = any(array(
    select id
    from deliveries
    where bucket = $1
      and id = any($2::uuid[])
      and namespace = $3
      and state = any($5::text[])
      and settled_at <= $4
    order by id
    for update
  ))
returning id, execution_id
"""

# How many wait at each receiver whose time has come (no more than so many are counted), and for how long the first has.
DUE_AT = """
select h.host, due.waiting, due.late_seconds
from unnest($2::text[]) as h(host)
cross join lateral (
  select count(*) as waiting, coalesce(extract(epoch from clock() - min(d.next_at)), 0)::float8 as late_seconds
  from (
    select next_at
    from deliveries
    where bucket = $1
      and state = 'pending'
      and host = h.host
      and namespace = $4
      and next_at <= clock()
    order by next_at
    limit $3
  ) as d
) as due
"""

HURRY = """
update deliveries
set next_at = clock()
where bucket = $1
  and id = $2
  and namespace = $3
  and state = 'pending'
returning host
"""

EXISTS = "select 1 from deliveries where bucket = $1 and id = $2 and namespace = $3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """How many deliveries are due at a receiver, and how long the first has been."""

    waiting: int
    late_seconds: float


async def lock_state(conn: Connection, delivery_id: DeliveryId, *, namespace: int) -> str | None:
    """How a delivery stands until the caller's transaction ends."""
    state: str | None = await conn.fetchval(LOCK_STATE, bucket_of(delivery_id), delivery_id, namespace)
    return state


async def retry(conn: Connection, delivery_id: DeliveryId, *, namespace: int) -> None:
    """Send this delivery again, now, with the schedule from its beginning; the id and the bytes stay the same.

    Moves: delivered, dead → pending; a pending one is due at once. A host that is left alone is asked once more, now.
    Raises: DeliveryNotFound.
    """
    bucket = bucket_of(delivery_id)
    async with conn.transaction():
        row = await conn.fetchrow(RETRY, bucket, delivery_id, namespace)
        host: str | None = row["host"] if row else await conn.fetchval(HURRY, bucket, delivery_id, namespace)
        if host is not None:
            await trip.end_window(conn, bucket, host, namespace=namespace)
        elif not await conn.fetchval(EXISTS, bucket, delivery_id, namespace):
            raise DeliveryNotFound
        if row is not None:
            await tell(conn, bucket, [(row["execution_id"], fact(delivery_id), EventType.DELIVERY_RETRIED)])


async def redrive(
    conn: Connection,
    bucket: int,
    ids: Sequence[UUID],
    *,
    namespace: int,
    states: Sequence[str],
    settled_before: datetime,
) -> set[UUID]:
    """Send those of these deliveries again, now, that are in one of these states and were so then; says which.

    Moves: dead, delivered → pending, with the schedule from its beginning. Guard: the state in the locked row.
    """
    async with conn.transaction():
        rows = await conn.fetch(REDRIVE, bucket, ids, namespace, settled_before, states)
        await tell(conn, bucket, [(row["execution_id"], fact(row["id"]), EventType.DELIVERY_RETRIED) for row in rows])
    return {row["id"] for row in rows}


async def due_at(
    conn: Connection, bucket: int, hosts: Sequence[str], *, namespace: int, most: int
) -> dict[str, Backlog]:
    """What waits at each of these receivers although its time has come, counted up to `most`."""
    rows = await conn.fetch(DUE_AT, bucket, hosts, most, namespace)
    return {row["host"]: Backlog(waiting=row["waiting"], late_seconds=row["late_seconds"]) for row in rows}
