"""Suspend: an attempt that only waits gives its lease back, and an attempt goes on when what it waits for has come.

leased ──► *park* ──► waiting without a session ──► *wake* ──► ready (blocked under a limit)

What comes is written to its step: by a signal, a decision or the clock, whose transaction holds the row of the queue
and wakes it at once; or by the end of a child, which must not touch the row of its parent and leaves news instead, for
`fan_in` to look at. Locked in this order: queue, steps (calls among them by execution and name), events.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from controlplane.domain.approval import Approval
from controlplane.domain.event import Event, EventType
from controlplane.domain.execution import Held
from controlplane.domain.ids import ExecutionId
from controlplane.domain.lease import Ready
from controlplane.domain.notice import text
from controlplane.domain.placement import span
from controlplane.domain.step import WAITS_MAX, StepKind, StepStatus, Until, decision_value, reason_of
from controlplane.errors import StepNotFound
from controlplane.postgres.pool import Connection
from controlplane.stages import record

BATCH = 256
SHOWN_MAX = 10
"""Names that an event repeats."""
Place = tuple[UUID, str]
"""Where a way through the steps of a bucket stands: behind this execution and name."""
FIRST: Place = (UUID(int=0), "")

# In the order in which the end of children locks them. A look that waits for such an end sees what it has written.
READ_AWAITED = """
select s.execution_id, s.name, s.kind, s.status,
  s.status = 'pending' and s.kind in ('sleep', 'event') and coalesce(s.due_at <= clock(), false) as due
from unnest($2::uuid[], $3::text[]) as w(execution_id, name)
join steps s on s.bucket = $1 and s.execution_id = w.execution_id and s.name = w.name
order by s.execution_id, s.name
for update of s
"""

MARK = """
update steps s
set awaited = true
from unnest($2::uuid[], $3::text[]) as w(execution_id, name)
where s.bucket = $1
  and s.execution_id = w.execution_id
  and s.name = w.name
  and s.status = 'pending'
"""

# `reason` null: what it waits for is there, and it keeps its place under its limits, unless it waited before and gave
# it back.
# Its deadline is that of the whole from here on; waiting is progress, and the crashes before it are forgiven.
PARK = """
update queue q
set state = case
    when q.pause_requested then 'paused'
    when p.reason is not null then 'waiting'
    when q.state = 'waiting' and q.line is not null then 'blocked'
    else 'ready'
  end,
  available_at = clock(),
  crashes = 0,
  session_id = null,
  leased_at = null,
  deadline_at = q.total_deadline_at,
  attempt_deadline_at = null,
  remaining_seconds = null,
  sent_at = null,
  accepted_at = null,
  waiting_at = case when p.reason is not null then clock() end,
  waits_until = case when p.reason is not null then p.until end,
  waits_reason = p.reason,
  pause_requested = false,
  status_reason = case when q.pause_requested then 'paused' else coalesce(p.reason, 'woken') end
from unnest($2::uuid[], $3::int[], $4::text[], $5::text[]) as p(id, attempt, until, reason)
where q.bucket = $1
  and q.id = p.id
  and q.attempt = p.attempt
returning q.id, q.namespace, q.target, q.state
"""

# Without news: who writes this holds the row of the queue, and wakes it in the same transaction.
FULFIL = """
update steps
set status = 'done', value = $4, timed_out = $5, done_at = clock()
where bucket = $1
  and execution_id = $2
  and name = $3
  and status = 'pending'
"""

# The rows of the queue, because they are locked first everywhere.
DUE = """
select q.id
from steps s
join queue q on q.bucket = $1 and q.id = s.execution_id
where s.bucket = $1
  and s.status = 'pending'
  and s.due_at is not null
  and s.kind <> 'approval'
  and s.due_at <= clock()
order by s.due_at
limit $2
for update of q skip locked
"""

# `coalesce` keeps it away from the index of what is due, which may hold everybody's: these are looked at one by one.
FULFIL_DUE = """
update steps
set status = 'done', timed_out = kind = 'event', done_at = clock()
where bucket = $1
  and execution_id = any($2::uuid[])
  and (status = 'pending' or awaited)
  and status = 'pending'
  and kind in ('sleep', 'event')
  and coalesce(due_at, 'infinity') <= clock()
"""

# Whose awaited steps are done and were not looked at: one index probe for each execution, however many of its steps.
NEWS = """
with recursive told(execution_id) as (
  (
    select execution_id
    from steps
    where bucket = $1
      and news
    order by execution_id
    limit 1
  )
  union all
  select (
    select s.execution_id
    from steps s
    where s.bucket = $1
      and s.news
      and s.execution_id > told.execution_id
    order by s.execution_id
    limit 1
  )
  from told
  where told.execution_id is not null
)
select execution_id
from told
where execution_id is not null
limit $2
"""

TAKE = """
select id
from queue
where bucket = $1
  and id = any($2::uuid[])
order by id
for update skip locked
"""

HEED = """
update steps
set news = false
where bucket = $1
  and execution_id = any($2::uuid[])
  and news
"""

# What is done stays awaited until the execution goes on, so `any` sees it whoever has looked before.
WAKE = """
update queue q
set state = case when q.state = 'paused' then 'paused' when q.line is not null then 'blocked' else 'ready' end,
  available_at = clock(),
  waiting_at = null,
  waits_until = null,
  waits_reason = null,
  status_reason = case when q.state = 'paused' then q.status_reason else 'woken' end
where q.bucket = $1
  and q.id = any($2::uuid[])
  and q.waits_until is not null
  and case q.waits_until
    when 'any' then exists (
      select 1
      from steps s
      where s.bucket = $1
        and s.execution_id = q.id
        and (s.status = 'pending' or s.awaited)
        and s.awaited
        and s.status <> 'pending'
    )
    else not exists (
      select 1
      from steps s
      where s.bucket = $1
        and s.execution_id = q.id
        and s.awaited
        and s.status = 'pending'
    )
  end
returning q.id, q.namespace, q.target, q.run_id, q.attempt, q.state
"""

LOCK_AWAITED = """
select execution_id, name
from steps
where bucket = $1
  and execution_id = any($2::uuid[])
  and (status = 'pending' or awaited)
  and awaited
order by execution_id, name
for update
"""

CALM = """
update steps
set awaited = false, news = false
where bucket = $1
  and execution_id = any($2::uuid[])
  and (status = 'pending' or awaited)
  and awaited
"""

# What ends here: the open steps of an execution, and the call that it is of its parent. The order keeps that look on
# its own index: planned while the table was empty, it went through all open steps of everybody.
ENDING = """
select execution_id, name
from steps
where bucket = $1
  and execution_id = any($2::uuid[])
  and (status = 'pending' or awaited)
union
(
  select execution_id, name
  from steps
  where bucket = $1
    and child_id = any($3::uuid[])
    and child_id is not null
    and status = 'pending'
  order by child_id
)
"""

LOCK_STEPS = """
select s.execution_id, s.name
from unnest($2::uuid[], $3::text[]) as w(execution_id, name)
join steps s on s.bucket = $1 and s.execution_id = w.execution_id and s.name = w.name
order by s.execution_id, s.name
for update of s
"""

# A call goes on without who asked for it, or was cancelled with it: its own end says how.
CLOSE = """
update steps
set status = case when status = 'pending' and kind <> 'call' then 'failed' else status end,
  done_at = case when status = 'pending' and kind <> 'call' then clock() else done_at end,
  awaited = false,
  news = false
where bucket = $1
  and execution_id = any($2::uuid[])
  and (status = 'pending' or awaited)
"""

END_CALLS = """
update steps s
set status = case when c.succeeded then 'done' else 'failed' end, news = s.awaited, done_at = clock()
from unnest($2::uuid[], $3::boolean[]) as c(child_id, succeeded)
where s.bucket = $1
  and s.child_id = c.child_id
  and s.child_id is not null
  and s.status = 'pending'
"""

# Page by page through all that anybody waits for: a look that began anew each time would never come past the first.
OPEN = """
select execution_id, name, kind, child_id, request_id
from steps
where bucket = $1
  and (status = 'pending' or awaited)
  and status = 'pending'
  and (execution_id, name) > ($2, $3)
order by execution_id, name
limit $4
"""

READ_ENDS = """
select id, status = 'succeeded' as succeeded
from outcomes
where bucket = $1
  and id = any($2::uuid[])
  and id between $3 and $4
"""

# The order inside keeps it on the primary key.
READ_DECIDED = """
select execution_id, request_id, attempt, node_id, status, url, callback_url, feedback, response, requested_at,
  expires_at, decided_at, title, durable
from (
  select execution_id, request_id, attempt, node_id, status, url, callback_url, feedback, response, requested_at,
    expires_at, decided_at, title, durable
  from approvals
  where bucket = $1
    and execution_id = any($2::uuid[])
  order by execution_id, request_id
  offset 0
) asked
where status <> 'pending'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What an attempt that is to be parked waits for."""

    held: Held
    waits: tuple[str, ...]
    until: Until


async def park(conn: Connection, bucket: int, wishes: Sequence[Wish]) -> dict[ExecutionId, Ready | StepNotFound | None]:
    """These attempts give their leases back. Runs in the transaction of who locked their rows and checked the fence.

    Moves: leased → waiting without a session; → ready when what is awaited has come, or → blocked when it had given its
    place under a limit back; → paused when that was asked for.
    Guard: the locked row, and the steps locked: what comes later than this look finds the step awaited. Answers for
    each None, the target that has work again, or StepNotFound, and then nothing of it has changed.
    """
    pairs = [(wish.held.id, name) for wish in wishes for name in wish.waits]
    if not wishes:
        return {}
    found = await conn.fetch(READ_AWAITED, bucket, [id_ for id_, _ in pairs], [name for _, name in pairs])
    steps: dict[UUID, dict[str, tuple[StepKind, bool]]] = {}
    for row in found:
        pending = row["status"] == StepStatus.PENDING and not row["due"]
        steps.setdefault(row["execution_id"], {})[row["name"]] = (StepKind(row["kind"]), pending)
    for row in found:
        if row["due"]:
            timed_out = row["kind"] == StepKind.EVENT
            await conn.execute(FULFIL, bucket, row["execution_id"], row["name"], None, timed_out)
    answers: dict[ExecutionId, Ready | StepNotFound | None] = {}
    parked: list[tuple[Wish, str | None]] = []
    for wish in wishes:
        known = steps.get(wish.held.id, {})
        missing = next((name for name in wish.waits if name not in known), None)
        if missing is not None:
            answers[wish.held.id] = StepNotFound(fix="POST it to /api/v1/steps/write first.")
            continue
        open_ = {known[name][0] for name in wish.waits if known[name][1]}
        enough = not open_ or (wish.until is Until.ANY and not all(known[name][1] for name in wish.waits))
        parked.append((wish, None if enough else reason_of(open_)))
        answers[wish.held.id] = None
    await _mark(conn, bucket, [wish for wish, reason in parked if reason is not None])
    if parked:
        rows = await conn.fetch(
            PARK,
            bucket,
            [wish.held.id for wish, _ in parked],
            [wish.held.attempt for wish, _ in parked],
            [wish.until.value for wish, _ in parked],
            [reason for _, reason in parked],
        )
        goes_on = {wish.held.id for wish, reason in parked if reason is None}
        answers |= {
            ExecutionId(row["id"]): Ready(row["namespace"], row["target"], blocked=row["state"] == "blocked")
            for row in rows
            if row["id"] in goes_on
        }
        await record.append(conn, bucket, [event for one in parked for event in _parked(*one)])
    return answers


async def fulfil(
    conn: Connection, bucket: int, execution_id: UUID, name: str, value: bytes | None, *, timed_out: bool = False
) -> bool:
    """What this step waits for has come. The caller holds the row of the queue, and wakes it. Guard: it is pending."""
    return await conn.execute(FULFIL, bucket, execution_id, name, value, timed_out) == "UPDATE 1"


async def wake(conn: Connection, bucket: int, ids: Sequence[UUID]) -> list[Ready]:
    """Let go on what waits no longer, of these; the caller holds their rows. Says which targets have work again.

    Moves: waiting without a session → ready, or → blocked when it has to be let in again; what is paused stays so, and
    goes on when it is resumed. Guard: it waits,
    and enough is done by a look that begins after the rows were locked. News are heeded before that look: what comes
    between them is left for the next.
    """
    await conn.execute(HEED, bucket, ids)
    rows = await conn.fetch(WAKE, bucket, ids)
    if not rows:
        return []
    woken = [row["id"] for row in rows]
    await conn.fetch(LOCK_AWAITED, bucket, woken)
    await conn.execute(CALM, bucket, woken)
    await record.append(
        conn,
        bucket,
        [
            Event(
                execution_id=row["id"],
                namespace=row["namespace"],
                run_id=row["run_id"],
                target=row["target"],
                type=EventType.WOKEN,
                attempt=row["attempt"],
            )
            for row in rows
        ],
    )
    return [
        Ready(row["namespace"], row["target"], blocked=row["state"] == "blocked")
        for row in rows
        if row["state"] != "paused"
    ]


async def wake_due(conn: Connection, bucket: int) -> tuple[int, list[Ready]]:
    """End the sleeps and the waits for events whose time is over. Says how many executions that was, and what is ready.

    Moves: as `wake`. Guard: rows of the queue are taken with `skip locked`, `due_at` is the database's clock's.
    """
    async with conn.transaction():
        ids = sorted({row["id"] for row in await conn.fetch(DUE, bucket, BATCH)})
        if not ids:
            return 0, []
        await conn.execute(FULFIL_DUE, bucket, ids)
        return len(ids), await wake(conn, bucket, ids)


async def fan_in(conn: Connection, bucket: int) -> tuple[int, list[Ready]]:
    """Let go on whose children have ended. Says how many executions were looked at, and what is ready.

    Moves: as `wake`, exactly once however many children end at once: the look begins when the parent's row is held, so
    the last of two sees both. Guard: `skip locked`; news that nobody could look at are there for the next pass.
    """
    told = [row["execution_id"] for row in await conn.fetch(NEWS, bucket, BATCH)]
    if not told:
        return 0, []
    async with conn.transaction():
        ids = [row["id"] for row in await conn.fetch(TAKE, bucket, told)]
        return len(ids), await wake(conn, bucket, ids) if ids else []


async def catch_up(
    conn: Connection, bucket: int, after: Place, *, limit: int = WAITS_MAX
) -> tuple[int, list[Ready], Place]:
    """Tell who waits what a server of the version before has written without a word to any step: ends and decisions.

    Looks at the next `limit` open steps after this place. Says how many were late, what is ready, and where the next
    look begins. Moves: as `wake`, for decisions; `fan_in` does it after this for children. Guard: the steps are
    pending, and rows of the queue are taken with `skip locked`.
    """
    rows = await conn.fetch(OPEN, bucket, *after, limit)
    calls = [row["child_id"] for row in rows if row["child_id"] is not None]
    async with conn.transaction():
        ended = [(row["id"], row["succeeded"]) for row in await conn.fetch(READ_ENDS, bucket, calls, *span(calls))]
        await end(conn, bucket, [], ended)
    told, ready = await _answer(conn, bucket, [row for row in rows if row["kind"] == StepKind.APPROVAL])
    place = FIRST if len(rows) < limit else (rows[-1]["execution_id"], rows[-1]["name"])
    return len(ended) + told, ready, place


async def _answer(conn: Connection, bucket: int, asking: Sequence[asyncpg.Record]) -> tuple[int, list[Ready]]:
    """Answer those of these steps whose questions are decided. Says how many, and what is ready."""
    if not asking:
        return 0, []
    async with conn.transaction():
        ids = [row["id"] for row in await conn.fetch(TAKE, bucket, sorted({row["execution_id"] for row in asking}))]
        found = [Approval.from_row(row) for row in await conn.fetch(READ_DECIDED, bucket, ids)]
        decided: dict[tuple[UUID, str], Approval] = {(one.execution_id, one.request_id): one for one in found}
        told = [
            row["execution_id"]
            for row in asking
            if (approval := decided.get((row["execution_id"], row["request_id"])))
            and await fulfil(conn, bucket, row["execution_id"], row["name"], decision_value(approval))
        ]
        return len(told), await wake(conn, bucket, sorted(set(told))) if told else []


async def reserve(conn: Connection, bucket: int, ending: Sequence[Held], wishes: Sequence[Wish] = ()) -> None:
    """Lock at once what the ends of these and the wishes will touch, for who does them one after the other.

    Else two that end the children of each other's parents, or park those parents, wait for each other in a circle.
    """
    children = [held.id for held in ending if held.parent_id is not None]
    touched = await conn.fetch(ENDING, bucket, [held.id for held in ending], children)
    pairs = [(row["execution_id"], row["name"]) for row in touched]
    await _lock(conn, bucket, pairs + [(wish.held.id, name) for wish in wishes for name in wish.waits])


async def end(conn: Connection, bucket: int, ids: Sequence[UUID], children: Iterable[tuple[UUID, bool]]) -> None:
    """These executions end, and some of them are children (and have succeeded, or not). In the transaction of finish.

    All steps that are touched are locked in one order first: two flushes may end the children of each other's parents.
    """
    calls = dict(children)
    touched = await conn.fetch(ENDING, bucket, ids, list(calls))
    if not touched:
        return
    await _lock(conn, bucket, [(row["execution_id"], row["name"]) for row in touched])
    await conn.execute(CLOSE, bucket, ids)
    if calls:
        await conn.execute(END_CALLS, bucket, list(calls), list(calls.values()))


async def _lock(conn: Connection, bucket: int, pairs: Sequence[tuple[UUID, str]]) -> None:
    await conn.fetch(LOCK_STEPS, bucket, [id_ for id_, _ in pairs], [name for _, name in pairs])


async def _mark(conn: Connection, bucket: int, wishes: Sequence[Wish]) -> None:
    pairs = [(wish.held.id, name) for wish in wishes for name in wish.waits]
    if pairs:
        await conn.execute(MARK, bucket, [id_ for id_, _ in pairs], [name for _, name in pairs])


def _parked(wish: Wish, reason: str | None) -> list[Event]:
    """That it is parked, which a repeated report finds again; and that it goes on at once, where it does."""
    names = b",".join(map(text, wish.waits[:SHOWN_MAX]))
    why = b"" if reason is None else b'"reason":%b,' % text(reason)
    data = b'{%b"until":%b,"waits":[%b],"waits_count":%d}' % (why, text(wish.until.value), names, len(wish.waits))
    events = [record.about(wish.held, EventType.SUSPENDED, data)]
    return events if reason is not None else [*events, record.about(wish.held, EventType.WOKEN)]
