"""Executions as they stand now: one row of `executions`, and of exactly one of `queue` and `outcomes`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from typing import NamedTuple
from uuid import UUID

import asyncpg

from controlplane.domain.execution import (
    FINAL,
    STATUS_OF_STATE,
    Conclusion,
    ParentEnd,
    Replay,
    ReplayMode,
    State,
    Status,
    Submission,
)
from controlplane.domain.explain import RETRYING
from controlplane.domain.ids import ExecutionId, within
from controlplane.domain.placement import Placement, by_bucket, span
from controlplane.domain.retry import RetryPolicy
from controlplane.errors import ControlPlaneError, ExecutionNotFound
from controlplane.postgres.pool import Connection
from controlplane.reads.windows import AFTER_ALL, BEFORE_ALL, walk

HELD_MAX = 5_000
"""Executions that processes of one bucket hold which are looked at at once; where there are more, the newest first."""

# Whether telling somebody of the end was tried comes along: who has waited for one then needs no second look.
READ = """
select e.id, e.run_id, e.root_id, e.parent_id, e.source_execution_id, e.target, e.type, e.session_key, e.actor_key,
  e.priority, e.webhooks, e.created_at, e.retries_max, e.retry_delay_seconds, e.retry_factor, e.retry_cap_seconds,
  e.retry_jitter, e.fatal_errors, e.retry_errors, e.timeout_seconds, e.schedule_to_start_seconds, e.total_seconds,
  e.heartbeat_seconds, e.on_parent_end, e.concurrency_key, e.fairness_key, q.deadline_at,
  q.state, q.attempt as queue_attempt, q.failures as queue_failures, q.status_reason as queue_reason, q.available_at,
  q.leased_at, q.started_at as queue_started_at, q.progress as queue_progress, q.progress_at,
  q.cancel_requested_at, q.pause_requested, case when q.state = 'blocked' then q.line end as blocked_by,
  o.status, o.attempt, o.failures, o.status_reason, o.result, o.error, o.error_class, o.error_details, o.progress,
  o.started_at, o.finished_at, o.http_status, a.asked is not null as asked,
  e.webhooks > 0 and o.id is not null and exists (
    select 1
    from deliveries d
    where d.bucket = $1
      and d.execution_id = e.id
      and d.attempt > 0
    offset 0
  ) as told,
  clock() as now
from executions e
left join queue q on q.bucket = $1 and q.id = e.id and q.id = any($2::uuid[])
left join outcomes o on o.bucket = $1 and o.id = e.id and o.id = any($2::uuid[]) and o.id between $4 and $5
left join lateral (select true as asked from approvals where bucket = $1 and execution_id = e.id limit 1) as a on true
where e.bucket = $1
  and e.id = any($2::uuid[])
  and e.id between $4 and $5
  and e.namespace = $3
"""

# A cheap look at many that somebody waits for.
FINISHED = """
select id
from outcomes
where bucket = $1
  and id = any($2::uuid[])
  and id between $3 and $4
"""

READ_INPUT = """
select input, context
from executions
where bucket = $1
  and id = $2
  and namespace = $3
"""

READ_PARENT = """
select run_id, root_id, session_key, actor_key, replay_source_run_id, replay_before_id, replay_mode
from executions
where bucket = $1
  and id = $2
  and namespace = $3
"""

READ_ASKED = """
select id, namespace, run_id, root_id, parent_id, target, type, input, context, session_key, actor_key, priority,
  retries_max, retry_delay_seconds, retry_factor, retry_cap_seconds, retry_jitter, fatal_errors, retry_errors,
  timeout_seconds, schedule_to_start_seconds, total_seconds, heartbeat_seconds, on_parent_end, concurrency_key,
  fairness_key
from executions
where bucket = $1
  and id = $2
  and namespace = $3
"""

KNOWS_RUN = """
select true
from executions
where bucket = $1
  and run_id = $2
  and namespace = $3
limit 1
"""

# So many rows in the order of the ids, and no more: which of them match is asked of those, however few of all do.
# Moments are bounds of ids, too ($3, $7), with some room: they narrow what is looked at, and the row decides.
LIST_ACCEPTED = """
with looked as materialized (
  select e.id, e.namespace, e.target, e.session_key, e.actor_key, e.created_at
  from executions e
  where e.bucket = $1
    and e.id < $3
    and e.id > $7
  order by e.id desc
  limit $12
)
select seen.rows, seen.last_id, found.id
from (select count(*) as rows, (select id from looked order by id limit 1) as last_id from looked) as seen
left join (
  select l.id
  from looked l
  where l.namespace = $2
    and ($4::text is null or l.target = $4)
    and ($5::text is null or starts_with(l.target, $5))
    and ($8::text is null or l.session_key = $8)
    and ($9::text is null or l.actor_key = $9)
    and ($10::timestamptz is null or l.created_at >= $10)
    and ($11::timestamptz is null or l.created_at < $11)
  order by l.id desc
  limit $6
) as found on true
order by found.id desc
"""

LIST_RUN = """
select e.id
from executions e
left join queue q on q.bucket = $1 and q.id = e.id
left join outcomes o on o.bucket = $1 and o.id = e.id
where e.bucket = $1
  and e.namespace = $2
  and e.run_id = $15
  and e.id < $3
  and ($4::text is null or e.target = $4)
  and ($5::text is null or starts_with(e.target, $5))
  and e.id > $7
  and ($8::text is null or e.session_key = $8)
  and ($9::text is null or e.actor_key = $9)
  and ($10::timestamptz is null or e.created_at >= $10)
  and ($11::timestamptz is null or e.created_at < $11)
  and ($12::text is null or o.error_class = $12
    or right($12, 1) = '*' and starts_with(o.error_class, left($12, -1)))
  and ($13::timestamptz is null or o.finished_at >= $13)
  and ($14::timestamptz is null or o.finished_at < $14)
  and ($16::text[] is null or q.state = any($16) or o.status = any($16))
order by e.id desc
limit $6
"""

# As above, of what has not ended. `offset 0`: asked of each row that is left, never of all executions at once.
LIST_QUEUED = """
with looked as materialized (
  select q.id, q.namespace, q.state, q.target
  from queue q
  where q.bucket = $1
    and q.id < $3
    and q.id > $7
  order by q.id desc
  limit $13
)
select seen.rows, seen.last_id, found.id
from (select count(*) as rows, (select id from looked order by id limit 1) as last_id from looked) as seen
left join (
  select l.id
  from looked l
  where l.namespace = $2
    and l.state = any($12::text[])
    and ($4::text is null or l.target = $4)
    and ($5::text is null or starts_with(l.target, $5))
    and (num_nonnulls($8::text, $9::text, $10::timestamptz, $11::timestamptz) = 0 or exists (
      select 1
      from executions e
      where e.bucket = $1
        and e.id = l.id
        and ($8 is null or e.session_key = $8)
        and ($9 is null or e.actor_key = $9)
        and ($10 is null or e.created_at >= $10)
        and ($11 is null or e.created_at < $11)
      offset 0
    ))
  order by l.id desc
  limit $6
) as found on true
order by found.id desc
"""

# What runs is the oldest of what has not ended: behind a million that wait, the walk above finds it last. There is no
# more of it than processes have slots, so it is found by them.
LIST_HELD = """
with looked as materialized (
  select q.id, q.namespace, q.state, q.target
  from queue q
  where q.bucket = $1
    and q.state in ('leased', 'waiting')
    and q.session_id is not null
  order by q.session_id
  limit $13
)
select seen.rows, found.id
from (select count(*) as rows from looked) as seen
left join (
  select l.id
  from looked l
  where l.namespace = $2
    and l.state = any($12::text[])
    and l.id < $3
    and l.id > $7
    and ($4::text is null or l.target = $4)
    and ($5::text is null or starts_with(l.target, $5))
    and (num_nonnulls($8::text, $9::text, $10::timestamptz, $11::timestamptz) = 0 or exists (
      select 1
      from executions e
      where e.bucket = $1
        and e.id = l.id
        and ($8 is null or e.session_key = $8)
        and ($9 is null or e.actor_key = $9)
        and ($10 is null or e.created_at >= $10)
        and ($11 is null or e.created_at < $11)
      offset 0
    ))
  order by l.id desc
  limit $6
) as found on true
order by found.id desc
"""

# As above, status by status along its index; `reads/bulks.py` says why status and id are compared as one.
LIST_FINISHED = """
with looked as materialized (
  select o.id, o.error_class, o.finished_at
  from unnest($15::text[]) as wanted(status)
  cross join lateral (
    select o.id, o.error_class, o.finished_at
    from outcomes o
    where o.bucket = $1
      and o.namespace = $2
      and (o.status, o.id) < (wanted.status, $3)
      and (o.status, o.id) > (wanted.status, $7)
    order by o.status desc, o.id desc
    limit $16
  ) as o
  order by o.id desc
  limit $16
)
select seen.rows, seen.last_id, found.id
from (select count(*) as rows, (select id from looked order by id limit 1) as last_id from looked) as seen
left join (
  select l.id
  from looked l
  cross join lateral (
    select e.target, e.session_key, e.actor_key, e.created_at
    from executions e
    where e.bucket = $1
      and e.id = l.id
    limit 1
  ) as e
  where ($4::text is null or e.target = $4)
    and ($5::text is null or starts_with(e.target, $5))
    and ($8::text is null or e.session_key = $8)
    and ($9::text is null or e.actor_key = $9)
    and ($10::timestamptz is null or e.created_at >= $10)
    and ($11::timestamptz is null or e.created_at < $11)
    and ($12::text is null or l.error_class = $12
      or right($12, 1) = '*' and starts_with(l.error_class, left($12, -1)))
    and ($13::timestamptz is null or l.finished_at >= $13)
    and ($14::timestamptz is null or l.finished_at < $14)
  order by l.id desc
  limit $6
) as found on true
order by found.id desc
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionView:
    """One execution for people and callers. Payloads are JSON bytes; `http_status` is the node's own, of a failure.

    `deadline_at`: the nearest of its deadlines, while it has not ended.
    """

    id: ExecutionId
    run_id: str
    root_id: UUID
    parent_id: UUID | None
    source_execution_id: UUID | None
    target: str
    type: str
    session_key: str | None
    actor_key: str | None
    priority: int
    webhooks: int
    created_at: datetime
    retry: RetryPolicy
    timeout_seconds: float | None
    schedule_to_start_seconds: float | None
    total_seconds: float | None
    heartbeat_seconds: float | None
    on_parent_end: ParentEnd
    deadline_at: datetime | None
    state: State | None
    status: Status
    status_reason: str | None
    attempt: int
    failures: int
    available_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    progress: bytes | None
    progress_at: datetime | None
    result: bytes | None
    error: bytes | None
    error_class: str | None
    error_details: bytes | None
    http_status: int | None
    now: datetime
    concurrency_key: str | None = None
    fairness_key: str | None = None
    blocked_by: str | None = None
    asked: bool = False
    """Whether it has ever asked people for approval."""
    told: bool = False
    """Whether it has ended, and somebody of its webhooks was told or it was tried."""

    @property
    def retries_used(self) -> int:
        """The failure that ends it is followed by no retry."""
        return min(self.failures, self.retry.retries_max)

    @property
    def next_retry_at(self) -> datetime | None:
        """When it is tried again, while it waits for that."""
        return self.available_at if self.state is State.DELAYED and self.status_reason == RETRYING else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which executions to list; None means any. `before` is the last id of the page before.

    An error or a moment of the end leaves out what has not ended.
    """

    statuses: tuple[Status, ...] = ()
    target: str | None = None
    node_id: str | None = None
    run_id: str | None = None
    session_key: str | None = None
    actor_key: str | None = None
    error_class: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    ended_after: datetime | None = None
    ended_before: datetime | None = None
    before: UUID | None = None

    @property
    def of_the_end(self) -> tuple[str | None, datetime | None, datetime | None]:
        """What only something that has ended can be like."""
        return self.error_class, self.ended_after, self.ended_before


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The newest that match. `reached`: how far it was looked, when that was not to the end and found too few."""

    views: list[ExecutionView]
    reached: UUID | None


class Looked(NamedTuple):
    """Ids of one bucket, and how far it was looked if not far enough."""

    ids: list[UUID]
    reached: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """What a child takes over from its parent."""

    run_id: str
    root_id: UUID
    session_key: str | None
    actor_key: str | None
    replay: Replay | None


async def read(conn: Connection, ids: Sequence[UUID], *, namespace: int) -> dict[UUID, ExecutionView]:
    """Those of these executions that exist in the namespace."""
    views: dict[UUID, ExecutionView] = {}
    for bucket, part in by_bucket(ids, lambda id_: id_):
        views |= {row["id"]: _view(row) for row in await conn.fetch(READ, bucket, part, namespace, *span(part))}
    return views


async def read_each(
    conn: Connection, wanted: Sequence[tuple[int, ExecutionId]]
) -> list[ExecutionView | ControlPlaneError]:
    """Each of these executions of a namespace, for many who ask at once."""
    found: dict[tuple[int, UUID], ExecutionView] = {}
    for namespace in {namespace for namespace, _ in wanted}:
        views = await read(conn, list({id_ for space, id_ in wanted if space == namespace}), namespace=namespace)
        found |= {(namespace, id_): view for id_, view in views.items()}
    return [found.get(one) or ExecutionNotFound() for one in wanted]


async def finished(conn: Connection, ids: Sequence[UUID]) -> set[UUID]:
    """Those of these executions that have ended."""
    ended: set[UUID] = set()
    for bucket, part in by_bucket(ids, lambda id_: id_):
        ended |= {row["id"] for row in await conn.fetch(FINISHED, bucket, part, *span(part))}
    return ended


async def read_input(conn: Connection, bucket: int, id_: UUID, *, namespace: int) -> tuple[bytes, bytes | None] | None:
    """What was asked, as the bytes that came: input and context."""
    row = await conn.fetchrow(READ_INPUT, bucket, id_, namespace)
    return None if row is None else (row["input"], row["context"])


async def read_parent(conn: Connection, bucket: int, id_: UUID, *, namespace: int) -> Parent | None:
    row = await conn.fetchrow(READ_PARENT, bucket, id_, namespace)
    if row is None:
        return None
    replay = None
    if row["replay_source_run_id"] is not None:
        replay = Replay(
            source_run_id=row["replay_source_run_id"],
            mode=ReplayMode(row["replay_mode"]),
            before_id=row["replay_before_id"],
        )
    return Parent(
        run_id=row["run_id"],
        root_id=row["root_id"],
        session_key=row["session_key"],
        actor_key=row["actor_key"],
        replay=replay,
    )


async def read_asked(conn: Connection, bucket: int, id_: UUID, *, namespace: int) -> Submission | None:
    """What was asked of an execution, to be asked again; without its webhooks, whose secrets are not kept for that."""
    row = await conn.fetchrow(READ_ASKED, bucket, id_, namespace)
    if row is None:
        return None
    return Submission(
        id=ExecutionId(row["id"]),
        namespace=row["namespace"],
        run_id=row["run_id"],
        root_id=row["root_id"],
        parent_id=row["parent_id"],
        target=row["target"],
        type=row["type"],
        input=row["input"],
        context=row["context"],
        session_key=row["session_key"],
        actor_key=row["actor_key"],
        priority=row["priority"],
        retry=RetryPolicy.from_row(row),
        timeout_seconds=row["timeout_seconds"],
        schedule_to_start_seconds=row["schedule_to_start_seconds"],
        total_seconds=row["total_seconds"],
        heartbeat_seconds=row["heartbeat_seconds"],
        on_parent_end=_on_parent_end(row),
        concurrency_key=row["concurrency_key"],
        fairness_key=row["fairness_key"],
    )


async def knows_run(conn: Connection, bucket: int, run_id: str, *, namespace: int) -> bool:
    """Whether this run has executions in the bucket."""
    return await conn.fetchval(KNOWS_RUN, bucket, run_id, namespace) is True


async def page(
    conn: Connection, wanted: Filter, *, namespace: int, limit: int, placement: Placement
) -> list[ExecutionView]:
    """The newest executions that match, at most `limit`; fewer than there are when they lie far apart."""
    return (await search(conn, wanted, namespace=namespace, limit=limit, placement=placement)).views


async def search(conn: Connection, wanted: Filter, *, namespace: int, limit: int, placement: Placement) -> Page:
    """The newest executions that match, at most `limit`, and how far it was looked for them."""
    found = [await _ids(conn, bucket, wanted, namespace, limit) for bucket in placement.all()]
    reached = max((one.reached for one in found if one.reached is not None), default=None)
    newest = merge(*(one.ids for one in found), key=lambda id_: id_.int, reverse=True)
    ids = [id_ for id_, _ in zip(newest, range(limit), strict=False) if reached is None or id_ >= reached]
    views = await read(conn, ids, namespace=namespace)
    return Page(views=[views[id_] for id_ in ids if id_ in views], reached=reached)


async def _ids(conn: Connection, bucket: int, wanted: Filter, namespace: int, limit: int) -> Looked:
    node = None if wanted.node_id is None else wanted.node_id + "."
    low, high = within(wanted.created_after, wanted.created_before, wanted.ended_before)
    before = min((id_ for id_ in (wanted.before, high) if id_ is not None), default=AFTER_ALL)
    whose, created = (wanted.session_key, wanted.actor_key), (wanted.created_after, wanted.created_before)
    arguments = (bucket, namespace, before, wanted.target, node, limit, low or BEFORE_ALL, *whose, *created)
    over = wanted.of_the_end
    statuses = wanted.statuses or (FINAL if any(over) else ())
    states = [state.value for state, status in STATUS_OF_STATE.items() if status in statuses and not any(over)]
    finals = [status.value for status in statuses if status in FINAL]
    if wanted.run_id is not None:
        any_of = [*states, *finals] if statuses else None
        return Looked([row["id"] for row in await conn.fetch(LIST_RUN, *arguments, *over, wanted.run_id, any_of)])
    if not statuses:
        return await _look(conn, LIST_ACCEPTED, arguments, ())
    queued = await _unfinished(conn, arguments, states) if states else Looked([])
    finished = await _look(conn, LIST_FINISHED, arguments, (*over, finals)) if finals else Looked([])
    ids = sorted({*queued.ids, *finished.ids}, reverse=True)  # one that ends between the two looks is found by both
    return Looked(ids, max((one for one in (queued.reached, finished.reached) if one is not None), default=None))


async def _unfinished(conn: Connection, arguments: tuple[object, ...], states: list[str]) -> Looked:
    """What runs by who holds it, unless that is so much that it is met on the way; the rest window by window."""
    if states == [State.LEASED.value]:
        rows = await conn.fetch(LIST_HELD, *arguments, states, HELD_MAX)
        if rows[0]["rows"] < HELD_MAX:
            return Looked([row["id"] for row in rows if row["id"] is not None])
    return await _look(conn, LIST_QUEUED, arguments, (states,))


async def _look(conn: Connection, statement: str, arguments: tuple[object, ...], more: tuple[object, ...]) -> Looked:
    bucket, namespace, before, target, node, limit, *rest = arguments
    assert isinstance(before, UUID)
    assert isinstance(limit, int)

    async def look(below: UUID, left: int, window: int) -> list[asyncpg.Record]:
        return await conn.fetch(statement, bucket, namespace, below, target, node, left, *rest, *more, window)

    walked = await walk(look, before=before, limit=limit)
    return Looked([row["id"] for row in walked.rows], walked.reached)


def _on_parent_end(row: asyncpg.Record) -> ParentEnd:
    """What was accepted before there was a policy goes on."""
    return ParentEnd.KEEP if row["on_parent_end"] is None else ParentEnd(row["on_parent_end"])


def view_of(end: Conclusion) -> ExecutionView:
    """What `read` finds just after this end, as long as nobody of its webhooks was told."""
    asked, settlement, held = end.submission, end.settlement, end.settlement.held
    assert held.started_at is not None  # in the commit that accepted it
    return ExecutionView(
        id=asked.id,
        run_id=asked.run_id,
        root_id=asked.root_id,
        parent_id=asked.parent_id,
        source_execution_id=asked.source_execution_id,
        target=asked.target,
        type=asked.type,
        session_key=asked.session_key,
        actor_key=asked.actor_key,
        priority=asked.priority,
        webhooks=len(asked.webhooks),
        created_at=held.started_at,
        retry=asked.retry,
        timeout_seconds=asked.timeout_seconds,
        schedule_to_start_seconds=asked.schedule_to_start_seconds,
        total_seconds=asked.total_seconds,
        heartbeat_seconds=asked.heartbeat_seconds,
        on_parent_end=asked.on_parent_end,
        deadline_at=None,
        state=None,
        status=settlement.status,
        status_reason=settlement.status_reason,
        attempt=held.attempt,
        failures=settlement.failures,
        available_at=None,
        started_at=held.started_at,
        finished_at=end.at,
        progress=held.progress,
        progress_at=None,
        result=settlement.result,
        error=settlement.error,
        error_class=settlement.error_class,
        error_details=settlement.error_details,
        http_status=settlement.http_status,
        now=end.at,
        concurrency_key=asked.concurrency_key,
        fairness_key=asked.fairness_key,
        asked=end.approval,
    )


def _view(row: asyncpg.Record) -> ExecutionView:
    state = None if row["state"] is None else State(row["state"])
    ended = state is None
    pausing = bool(row["pause_requested"]) and state is not State.PAUSED
    return ExecutionView(
        id=ExecutionId(row["id"]),
        run_id=row["run_id"],
        root_id=row["root_id"],
        parent_id=row["parent_id"],
        source_execution_id=row["source_execution_id"],
        target=row["target"],
        type=row["type"],
        session_key=row["session_key"],
        actor_key=row["actor_key"],
        priority=row["priority"],
        webhooks=row["webhooks"],
        created_at=row["created_at"],
        retry=RetryPolicy.from_row(row),
        timeout_seconds=row["timeout_seconds"],
        schedule_to_start_seconds=row["schedule_to_start_seconds"],
        total_seconds=row["total_seconds"],
        heartbeat_seconds=row["heartbeat_seconds"],
        on_parent_end=_on_parent_end(row),
        deadline_at=row["deadline_at"],
        state=state,
        status=Status(row["status"]) if state is None else Status.WAITING if pausing else STATUS_OF_STATE[state],
        status_reason=row["status_reason"] if ended else "paused" if pausing else row["queue_reason"],
        attempt=row["attempt"] if ended else row["queue_attempt"],
        failures=row["failures"] if ended else row["queue_failures"],
        available_at=row["available_at"],
        started_at=row["started_at"] if ended else row["queue_started_at"],
        finished_at=row["finished_at"],
        progress=row["progress"] if ended else row["queue_progress"],
        progress_at=row["progress_at"],
        result=row["result"],
        error=row["error"],
        error_class=row["error_class"],
        error_details=row["error_details"],
        http_status=row["http_status"],
        now=row["now"],
        concurrency_key=row["concurrency_key"],
        fairness_key=row["fairness_key"],
        blocked_by=row["blocked_by"],
        asked=row["asked"],
        told=row["told"],
    )
