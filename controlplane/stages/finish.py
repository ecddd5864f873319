"""Finish: the one place where an execution ends, whoever ends it.

    submit ──► lease ──► complete ──► *finish* ──► deliver
                         cancel ───────►│
                         expire ───────►│

In one transaction the row leaves the queue, the outcome is written and the delivery is planned, so a crash between
"done" and "told" loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from controlplane.domain.begun import Hook, Seen
from controlplane.domain.event import EventType
from controlplane.domain.execution import Conclusion, Held, Settled, Settlement, Status, Wording
from controlplane.domain.facade import body_of
from controlplane.domain.ids import DeliveryId, ExecutionId
from controlplane.domain.lease import Fence
from controlplane.domain.notice import TERMINAL_EVENT, Notice, text
from controlplane.domain.placement import span
from controlplane.postgres.lane import Raced
from controlplane.postgres.pool import Connection
from controlplane.stages import hold, suspend

MakeId = Callable[[int], UUID]


class Owed(NamedTuple):
    """A delivery to plan: its id, the end to tell of, whom, and in which bytes."""

    id: DeliveryId
    end: Settlement
    hook: Hook
    body: bytes


# All that an end writes of most executions, in one statement: it leaves the queue, its outcome and its event are there,
# and nobody waits for an answer any more (here and not when it is read: whatever lists what is pending shall never see
# what is over). Those who are not in the queue at that attempt get nothing, and nobody is told of them. No ON CONFLICT:
# the primary key of `outcomes` makes a second end an error, never a second answer.
#
# After a lock by the caller this sees every step and question that there will ever be. Without one, `version` says
# which version of the row was seen: nobody has written it since. Who held it meanwhile without writing it may have left
# a step or a question behind, which this sees only through `has_open`; it ends with a division by zero then, so that
# nothing of it stays. `$28`: when it ends, as it is told; by the database's clock that has to be now.
# A question is sought in the order of its key, or a plan made while there was none would go through all of them.
END = """
with item as (
  select *
  from unnest(
    $2::uuid[], $3::smallint[], $4::text[], $5::text[], $6::bytea[], $7::bytea[], $8::text[], $9::bytea[], $10::int[],
    $11::smallint[], $12::bytea[], $13::timestamptz[], $14::smallint[], $15::text[], $16::text[], $17::text[],
    $18::bytea[], $27::xid[]
  ) as i(
    id, namespace, status, status_reason, result, error, error_class, error_details, attempt, failures, progress,
    started_at, http_status, run_id, target, event, facts, version
  )
),
gone as (
  delete from queue q
  using item i
  where q.bucket = $1
    and q.id = i.id
    and q.attempt = i.attempt
    and (i.version is null or q.xmin = i.version)
    and ($28::timestamptz is null or abs(extract(epoch from clock() - $28)) < 1)
  returning q.id, i.version
),
concluded as (
  insert into outcomes (
    bucket, id, namespace, status, status_reason, result, error, error_class, error_details, attempt, failures,
    progress, started_at, http_status, finished_at
  )
  select $1, i.id, i.namespace, i.status, i.status_reason, i.result, i.error, i.error_class, i.error_details,
    i.attempt, i.failures, i.progress, i.started_at, i.http_status, coalesce($28::timestamptz, clock())
  from item i
  join gone g on g.id = i.id
  returning id, attempt
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
  select $1, i.id, i.namespace, i.run_id, i.target, i.event, i.attempt, coalesce($28::timestamptz, clock()), i.facts
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
select c.id, c.attempt,
  case
    when g.version is not null then 1 / (not has_open($1, c.id))::int = 0
    else exists (
      select 1
      from steps s
      where s.bucket = $1
        and s.execution_id = c.id
        and (s.status = 'pending' or s.awaited)
      offset 0
    )
  end as steps_open,
  g.version is not null and (
    select true
    from approvals a
    where a.bucket = $1
      and a.execution_id = c.id
    order by a.request_id
    limit 1
  ) is not null as approval
from concluded c
join gone g on g.id = c.id
"""

# What an end has to know, where nobody holds the row for it. It is told as of this moment.
LOOK = """
select q.id, q.namespace, q.target, q.run_id, q.state, q.attempt, q.failures, q.crashes, q.retries_max, q.webhooks,
  q.session_id, q.leased_at, q.started_at, q.cancel_requested_at, q.cancel_reason, q.status_reason, q.progress,
  coalesce(q.total_deadline_at < clock(), false) as total_passed, q.parent_id,
  q.heartbeat_seconds is not null and coalesce(q.attempt_deadline_at > clock(), true) as heartbeat_next,
  q.xmin as version, has_open($1, q.id) as open, clock() as finished_at, w.n, w.url, w.host, w.attempts_max,
  e.type, e.context, e.session_key, e.actor_key, e.created_at
from queue q
left join webhooks w on w.bucket = $1 and w.execution_id = q.id and q.webhooks > 0
left join executions e on e.bucket = $1 and e.id = w.execution_id and e.id between $3 and $4
where q.bucket = $1
  and q.id = any($2::uuid[])
order by q.id, w.n
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
    owed = await _announced(conn, bucket, [item for item in batch if item.held.webhooks], make_id)
    rows = await _end(conn, bucket, batch, owed)
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
    return _settled(batch, owed)


async def look(conn: Connection, bucket: int, ids: Sequence[ExecutionId]) -> dict[ExecutionId, Seen]:
    """The unfinished ones of these executions, for `settle_seen`."""
    found: dict[ExecutionId, Seen] = {}
    for row in await conn.fetch(LOOK, bucket, ids, *span(ids)):
        held = hold.from_row(row)
        seen = found.setdefault(
            held.id,
            Seen(held=held, version=row["version"], open=row["open"], at=row["finished_at"], hooks=[]),
        )
        if row["n"] is not None:
            seen.hooks.append(_hook(row))
    return found


async def settle_seen(
    conn: Connection, bucket: int, batch: Sequence[tuple[Settlement, Seen]], *, make_id: MakeId
) -> dict[Fence, Conclusion | None]:
    """End these successes, none of them a child or with anything open, in one statement that commits by itself.

    Says which have ended, none where something was opened since they were seen, and how, where all of it is known.
    Moves: as `settle`. Guard: nobody has written the row since then, and the moment that is told of is this one.
    """
    if not batch:
        return {}
    batch = sorted(batch, key=lambda item: item[0].held.id)  # in which everybody locks them
    at = max(seen.at for _, seen in batch)
    owed = [_owed(make_id(bucket), item, hook, at) for item, seen in batch for hook in seen.hooks]
    ends = [item for item, _ in batch]
    try:
        rows = await _end(conn, bucket, ends, owed, [seen.version for _, seen in batch], at)
    except asyncpg.DivisionByZeroError:
        return {}
    approval_of = {Fence(ExecutionId(row["id"]), row["attempt"]): row["approval"] for row in rows}
    return {
        fence: None
        if seen.submission is None
        else Conclusion(submission=seen.submission, settlement=item, at=at, approval=approval_of[fence])
        for item, seen in batch
        if (fence := Fence(item.held.id, item.held.attempt)) in approval_of
    }


async def _end(
    conn: Connection,
    bucket: int,
    batch: Sequence[Settlement],
    owed: Sequence[Owed],
    versions: Sequence[int | None] = (),
    at: datetime | None = None,
) -> list[asyncpg.Record]:
    return await conn.fetch(
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
        [one.id for one in owed],
        [one.end.held.id for one in owed],
        [one.hook.n for one in owed],
        [TERMINAL_EVENT[one.end.status] for one in owed],
        [one.hook.host for one in owed],
        [one.hook.url for one in owed],
        [one.body for one in owed],
        [one.hook.attempts_max for one in owed],
        versions,
        at,
    )


def _settled(batch: Sequence[Settlement], owed: Sequence[Owed]) -> list[Settled]:
    deliveries: dict[UUID, list[DeliveryId]] = {}
    for one in owed:
        deliveries.setdefault(one.end.held.id, []).append(one.id)
    return [
        Settled(id=item.held.id, status=item.status, deliveries=tuple(deliveries.get(item.held.id, ())))
        for item in batch
    ]


async def _announced(conn: Connection, bucket: int, announced: list[Settlement], make_id: MakeId) -> list[Owed]:
    if not announced:
        return []
    by_id = {item.held.id: item for item in announced}
    rows = await conn.fetch(READ_ANNOUNCED, bucket, list(by_id), *span(by_id))
    return [_owed(make_id(bucket), by_id[row["id"]], _hook(row), row["finished_at"]) for row in rows]


def _hook(row: asyncpg.Record) -> Hook:
    return Hook(
        n=row["n"],
        url=row["url"],
        host=row["host"],
        attempts_max=row["attempts_max"],
        type=row["type"],
        context=row["context"],
        session_key=row["session_key"],
        actor_key=row["actor_key"],
        created_at=row["created_at"],
    )


def _owed(id_: UUID, end: Settlement, hook: Hook, at: datetime) -> Owed:
    notice = Notice(
        settlement=end,
        type=hook.type,
        context=hook.context,
        session_key=hook.session_key,
        actor_key=hook.actor_key,
        created_at=hook.created_at,
        finished_at=at,
    )
    return Owed(DeliveryId(id_), end, hook, body_of(notice, Wording.of(hook.n)))


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
