"""Finish: the one place where an execution ends, whoever ends it.

    submit ──► lease ──► complete ──► *finish* ──► deliver
                         cancel ───────►│
                         expire ───────►│

In one transaction the row leaves the queue, the outcome is written and the delivery is planned, so a crash between
"done" and "told" loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

import asyncpg

from controlplane.domain.event import EventType
from controlplane.domain.execution import Held, Settled, Settlement, Status, Wording
from controlplane.domain.facade import body_of
from controlplane.domain.ids import DeliveryId
from controlplane.domain.notice import TERMINAL_EVENT, Notice, text
from controlplane.domain.placement import span
from controlplane.postgres.lane import Raced
from controlplane.postgres.pool import Connection
from controlplane.stages import suspend

MakeId = Callable[[int], UUID]

# All that an end writes of most executions, in one statement: it leaves the queue, its outcome and its event are there,
# and nobody waits for an answer any more (here and not when it is read: whatever lists what is pending shall never see
# what is over). The caller's lock came before, so this sees every step and question that there will ever be. Those who
# are not in the queue at that attempt get nothing, and nobody is told of them. No ON CONFLICT: the primary key of
# `outcomes` makes a second end an error, never a second answer.
END = """
with item as (
  select *
  from unnest(
    $2::uuid[], $3::smallint[], $4::text[], $5::text[], $6::bytea[], $7::bytea[], $8::text[], $9::bytea[], $10::int[],
    $11::smallint[], $12::bytea[], $13::timestamptz[], $14::smallint[], $15::text[], $16::text[], $17::text[],
    $18::bytea[]
  ) as i(
    id, namespace, status, status_reason, result, error, error_class, error_details, attempt, failures, progress,
    started_at, http_status, run_id, target, event, facts
  )
),
gone as (
  delete from queue q
  using item i
  where q.bucket = $1
    and q.id = i.id
    and q.attempt = i.attempt
  returning q.id
),
concluded as (
  insert into outcomes (
    bucket, id, namespace, status, status_reason, result, error, error_class, error_details, attempt, failures,
    progress, started_at, http_status, finished_at
  )
  select $1, i.id, i.namespace, i.status, i.status_reason, i.result, i.error, i.error_class, i.error_details,
    i.attempt, i.failures, i.progress, i.started_at, i.http_status, clock()
  from item i
  join gone g on g.id = i.id
  returning id
),
closed as (
  update approvals
  set status = 'expired', feedback = 'The execution has ended.', decided_at = clock()
  where bucket = $1
    and execution_id = any($2::uuid[])
    and status = 'pending'
),
told as (
  insert into events (bucket, execution_id, namespace, run_id, target, type, attempt, at, data)
  select $1, i.id, i.namespace, i.run_id, i.target, i.event, i.attempt, clock(), i.facts
  from item i
  join gone g on g.id = i.id
),
owed as (
  insert into deliveries (
    bucket, id, namespace, execution_id, webhook_n, event, host, url, body, state, attempts_max, next_at, created_at
  )
  select $1, d.id, i.namespace, i.id, d.webhook_n, d.event, d.host, d.url, d.body, 'pending', d.attempts_max,
    clock(), clock()
  from unnest(
    $19::uuid[], $20::uuid[], $21::smallint[], $22::text[], $23::text[], $24::text[], $25::bytea[], $26::smallint[]
  ) as d(id, execution_id, webhook_n, event, host, url, body, attempts_max)
  join item i on i.id = d.execution_id
  join gone g on g.id = d.execution_id
  where cardinality($19::uuid[]) > 0
)
select c.id,
  exists (
    select 1
    from steps s
    where s.bucket = $1
      and s.execution_id = c.id
      and (s.status = 'pending' or s.awaited)
    offset 0
  ) as steps_open
from concluded c
"""

# Its children are told later, a few at a time: there may be thousands, and their rows were not locked with this one. A
# child that is accepted meanwhile holds the row of its parent, so it is either seen here or refused.
LEAVE_CHILDREN = """
insert into ended_parents (bucket, id, namespace, status, at)
select $1, p.id, p.namespace, p.status, clock()
from unnest($2::uuid[], $3::smallint[], $4::text[]) as p(id, namespace, status)
where exists (
  select 1
  from queue c
  where c.bucket = $1
    and c.parent_id = p.id
    and c.on_parent_end = 'cancel'
  offset 0
)
"""

# Read before the end, whose moment is that of the transaction.
READ_ANNOUNCED = """
select e.id, e.type, e.context, e.session_key, e.actor_key, e.created_at, clock() as finished_at, w.n, w.url, w.host,
  w.attempts_max
from executions e
join webhooks w on w.bucket = $1 and w.execution_id = e.id
where e.bucket = $1
  and e.id = any($2::uuid[])
  and e.id between $3 and $4
  and w.execution_id = any($2::uuid[])
order by e.id, w.n
"""

EVENT_OF = {
    Status.SUCCEEDED: EventType.COMPLETED,
    Status.FAILED: EventType.FAILED,
    Status.CANCELLED: EventType.CANCELLED,
    Status.TIMEOUT: EventType.TIMED_OUT,
}


def cancelled(held: Held, reason: str | None) -> Settlement:
    """The end of what somebody has cancelled, whoever writes it: the caller, the node or the clock."""
    return Settlement(
        held=held,
        status=Status.CANCELLED,
        status_reason="cancelled",
        error=text(reason or "cancelled"),
        failures=held.failures,
    )


async def settle(conn: Connection, bucket: int, batch: Sequence[Settlement], *, make_id: MakeId) -> list[Settled]:
    """End these executions. The caller holds their queue rows locked and is inside a transaction.

    Moves: any unfinished state → (outcome). Guard: the row must still be there at the attempt that was decided on, and
    the primary key of `outcomes`.
    Raises: Raced when a row was not locked by the caller after all; nothing is written then.
    """
    if not batch:
        return []
    owed = await _owed(conn, bucket, [item for item in batch if item.held.webhooks], make_id)
    rows = await conn.fetch(
        END,
        bucket,
        [item.held.id for item in batch],
        [item.held.namespace for item in batch],
        [item.status.value for item in batch],
        [item.status_reason for item in batch],
        [item.result for item in batch],
        [item.error for item in batch],
        [item.error_class for item in batch],
        [item.error_details for item in batch],
        [item.held.attempt for item in batch],
        [item.failures for item in batch],
        [item.held.progress for item in batch],
        [item.held.started_at for item in batch],
        [item.http_status for item in batch],
        [item.held.run_id for item in batch],
        [item.held.target for item in batch],
        [EVENT_OF[item.status].value for item in batch],
        [_facts(item) for item in batch],
        [id_ for id_, _, _ in owed],
        [row["id"] for _, row, _ in owed],
        [row["n"] for _, row, _ in owed],
        [TERMINAL_EVENT[item.status] for _, _, item in owed],
        [row["host"] for _, row, _ in owed],
        [row["url"] for _, row, _ in owed],
        [body_of(_notice(row, item), Wording.of(row["n"])) for _, row, item in owed],
        [row["attempts_max"] for _, row, _ in owed],
    )
    if len(rows) != len(batch):
        raise Raced
    without_result = [item for item in batch if item.status is not Status.SUCCEEDED]
    if without_result:
        await conn.execute(
            LEAVE_CHILDREN,
            bucket,
            [item.held.id for item in without_result],
            [item.held.namespace for item in without_result],
            [item.status.value for item in without_result],
        )
    children = [(item.held.id, item.status is Status.SUCCEEDED) for item in batch if item.held.parent_id is not None]
    if children or any(row["steps_open"] for row in rows):
        await suspend.end(conn, bucket, [row["id"] for row in rows], children)
    deliveries: dict[UUID, list[DeliveryId]] = {}
    for id_, row, _ in owed:
        deliveries.setdefault(row["id"], []).append(id_)
    return [
        Settled(id=item.held.id, status=item.status, deliveries=tuple(deliveries.get(item.held.id, ())))
        for item in batch
    ]


async def _owed(
    conn: Connection, bucket: int, announced: list[Settlement], make_id: MakeId
) -> list[tuple[DeliveryId, asyncpg.Record, Settlement]]:
    """The deliveries to plan: the id of each, its webhook and what was asked, and the end to tell of."""
    if not announced:
        return []
    by_id = {item.held.id: item for item in announced}
    rows = await conn.fetch(READ_ANNOUNCED, bucket, list(by_id), *span(by_id))
    return [(DeliveryId(make_id(bucket)), row, by_id[row["id"]]) for row in rows]


def _notice(row: asyncpg.Record, item: Settlement) -> Notice:
    return Notice(
        settlement=item,
        type=row["type"],
        context=row["context"],
        session_key=row["session_key"],
        actor_key=row["actor_key"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
    )


def _facts(item: Settlement) -> bytes | None:
    """What the event of an end says beside how it ended."""
    facts = [
        b'"%b":%b' % (name, raw)
        for name, raw in (
            (b"error", item.error),
            (b"error_class", None if item.error_class is None else text(item.error_class)),
            (b"traceback", None if item.traceback is None else text(item.traceback)),
        )
        if raw is not None
    ]
    return b"{" + b",".join(facts) + b"}" if facts else None
