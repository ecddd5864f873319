"""Executions as they stand now: one row of `executions`, and of exactly one of `queue` and `outcomes`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from uuid import UUID

import asyncpg

from controlplane.domain.execution import FINAL, STATUS_OF_STATE, Replay, ReplayMode, State, Status, Submission
from controlplane.domain.ids import ExecutionId
from controlplane.domain.placement import Placement, by_bucket
from controlplane.domain.retry import RetryPolicy
from controlplane.postgres.pool import Connection

READ = """
select e.id, e.run_id, e.root_id, e.parent_id, e.source_execution_id, e.target, e.type, e.session_key, e.actor_key,
  e.priority, e.webhooks, e.created_at, e.timeout_seconds, e.concurrency_key, e.fairness_key,
  q.state, q.attempt as queue_attempt, q.failures as queue_failures, q.status_reason as queue_reason, q.available_at,
  q.leased_at, q.started_at as queue_started_at, q.progress as queue_progress, q.progress_at,
  q.cancel_requested_at, q.pause_requested, case when q.state = 'blocked' then q.line end as blocked_by,
  o.status, o.attempt, o.failures, o.status_reason, o.result, o.error, o.error_class, o.error_details, o.progress,
  o.started_at, o.finished_at, o.http_status,
  clock() as now
from executions e
left join queue q on q.bucket = $1 and q.id = e.id and q.id = any($2::uuid[])
left join outcomes o on o.bucket = $1 and o.id = e.id and o.id = any($2::uuid[])
where e.bucket = $1
  and e.id = any($2::uuid[])
  and e.namespace = $3
"""

# A cheap look at many that somebody waits for.
FINISHED = """
select id
from outcomes
where bucket = $1
  and id = any($2::uuid[])
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
  timeout_seconds, schedule_to_start_seconds, total_seconds, concurrency_key, fairness_key
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

LIST_ACCEPTED = """
select e.id
from executions e
where e.bucket = $1
  and e.namespace = $2
  and ($3::uuid is null or e.id < $3)
  and ($4::text is null or e.target = $4)
  and ($5::text is null or starts_with(e.target, $5))
order by e.id desc
limit $6
"""

LIST_RUN = """
select e.id
from executions e
left join queue q on q.bucket = $1 and q.id = e.id
left join outcomes o on o.bucket = $1 and o.id = e.id
where e.bucket = $1
  and e.namespace = $2
  and e.run_id = $7
  and ($3::uuid is null or e.id < $3)
  and ($4::text is null or e.target = $4)
  and ($5::text is null or starts_with(e.target, $5))
  and ($8::text[] is null or q.state = any($8) or o.status = any($8))
order by e.id desc
limit $6
"""

LIST_QUEUED = """
select q.id
from queue q
where q.bucket = $1
  and q.namespace = $2
  and q.state = any($7::text[])
  and ($3::uuid is null or q.id < $3)
  and ($4::text is null or q.target = $4)
  and ($5::text is null or starts_with(q.target, $5))
order by q.id desc
limit $6
"""

LIST_FINISHED = """
select o.id
from outcomes o
join executions e on e.bucket = $1 and e.id = o.id
where o.bucket = $1
  and o.namespace = $2
  and o.status = any($7::text[])
  and ($3::uuid is null or o.id < $3)
  and ($4::text is null or e.target = $4)
  and ($5::text is null or starts_with(e.target, $5))
order by o.id desc
limit $6
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionView:
    """One execution for people and callers. Payloads are JSON bytes; `http_status` is the node's own, of a failure."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which executions to list; None means any. `before` is the last id of the page before."""

    statuses: tuple[Status, ...] = ()
    target: str | None = None
    node_id: str | None = None
    run_id: str | None = None
    before: UUID | None = None


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
        views |= {row["id"]: _view(row) for row in await conn.fetch(READ, bucket, part, namespace)}
    return views


async def finished(conn: Connection, ids: Sequence[UUID]) -> set[UUID]:
    """Those of these executions that have ended."""
    ended: set[UUID] = set()
    for bucket, part in by_bucket(ids, lambda id_: id_):
        ended |= {row["id"] for row in await conn.fetch(FINISHED, bucket, part)}
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
        concurrency_key=row["concurrency_key"],
        fairness_key=row["fairness_key"],
    )


async def knows_run(conn: Connection, bucket: int, run_id: str, *, namespace: int) -> bool:
    """Whether this run has executions in the bucket."""
    return await conn.fetchval(KNOWS_RUN, bucket, run_id, namespace) is True


async def page(
    conn: Connection, wanted: Filter, *, namespace: int, limit: int, placement: Placement
) -> list[ExecutionView]:
    """The newest executions that match, at most `limit`."""
    newest = merge(
        *[await _ids(conn, bucket, wanted, namespace, limit) for bucket in placement.all()],
        key=lambda id_: id_.int,
        reverse=True,
    )
    ids = [id_ for id_, _ in zip(newest, range(limit), strict=False)]
    views = await read(conn, ids, namespace=namespace)
    return [views[id_] for id_ in ids if id_ in views]


async def _ids(conn: Connection, bucket: int, wanted: Filter, namespace: int, limit: int) -> list[UUID]:
    node = None if wanted.node_id is None else wanted.node_id + "."
    arguments = (bucket, namespace, wanted.before, wanted.target, node, limit)
    states = [state.value for state, status in STATUS_OF_STATE.items() if status in wanted.statuses]
    finals = [status.value for status in wanted.statuses if status in FINAL]
    if wanted.run_id is not None:
        any_of = [*states, *finals] if wanted.statuses else None
        return [row["id"] for row in await conn.fetch(LIST_RUN, *arguments, wanted.run_id, any_of)]
    if not wanted.statuses:
        return [row["id"] for row in await conn.fetch(LIST_ACCEPTED, *arguments)]
    ids: list[UUID] = []
    if states:
        ids += [row["id"] for row in await conn.fetch(LIST_QUEUED, *arguments, states)]
    if finals:
        ids += [row["id"] for row in await conn.fetch(LIST_FINISHED, *arguments, finals)]
    return sorted(set(ids), reverse=True)  # one that ends between the two looks is found by both


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
    )
