"""Runs: what grew from one submission, how far it is, and what of it is not finished yet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from uuid import UUID

import asyncpg

from controlplane.domain.execution import STATUS_OF_STATE, State, Status
from controlplane.domain.ids import ExecutionId
from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Connection
from controlplane.reads.windows import AFTER_ALL, walk

SIZE_MAX = 100_000
"""Executions of one run that are counted."""
LISTED_SIZE_MAX = 1_000
"""Executions of each run that are counted in a list of runs."""
ACTIVE_LOOK_MAX = 10_000
"""Unfinished executions that are looked at for the list of active runs, the newest first."""

SIZE = """
select count(*)
from (
  select 1
  from executions
  where bucket = $1
    and namespace = $2
    and run_id = $3
  limit $4
) e
"""

# The first execution of each run stands for it. Only roots are asked whether they are, with one probe each, and of the
# newest so many only: a run that somebody submits to again and again has as many roots, of which one is the first.
PAGE = """
with looked as materialized (
  select e.id, e.namespace, e.run_id, e.root_id, e.target
  from executions e
  where e.bucket = $1
    and e.id < $3
  order by e.id desc
  limit $6
)
select seen.rows, seen.last_id, found.id, found.run_id
from (select count(*) as rows, (select id from looked order by id limit 1) as last_id from looked) as seen
left join (
  select l.id, l.run_id
  from looked l
  where l.namespace = $2
    and l.id = l.root_id
    and ($4::text is null or l.target = $4)
    and not exists (
      select 1
      from executions o
      where o.bucket = $1
        and o.namespace = $2
        and o.run_id = l.run_id
        and o.id < l.id
      offset 0
    )
  order by l.id desc
  limit $5
) as found on true
order by found.id desc
"""

COUNTS = """
select e.run_id, coalesce(q.state, o.status) as stands, count(*) as executions
from unnest($3::text[]) as r(run_id)
cross join lateral (
  select id, run_id
  from executions
  where bucket = $1
    and namespace = $2
    and run_id = r.run_id
  limit $4
) e
left join queue q on q.bucket = $1 and q.id = e.id
left join outcomes o on o.bucket = $1 and o.id = e.id
where q.state is not null
  or o.status is not null
group by e.run_id, coalesce(q.state, o.status)
"""

# `offset 0` keeps it inside the run: ordered by id it was planned along the primary key and read all executions.
FIRSTS = """
select e.run_id, e.id, e.parent_id, e.target, e.type, e.created_at, q.state, q.pause_requested,
  q.status_reason as queue_reason, q.attempt as queue_attempt, q.started_at as queue_started_at, o.status,
  o.status_reason, o.attempt, o.started_at, o.finished_at, o.error_class, clock() as now
from unnest($3::text[]) as r(run_id)
cross join lateral (
  select m.id, m.run_id, m.parent_id, m.target, m.type, m.created_at
  from (
    select id, run_id, parent_id, target, type, created_at
    from executions
    where bucket = $1
      and namespace = $2
      and run_id = r.run_id
    offset 0
  ) m
  order by m.id
  limit 1
) e
left join queue q on q.bucket = $1 and q.id = e.id
left join outcomes o on o.bucket = $1 and o.id = e.id
where q.state is not null
  or o.status is not null
"""

# Oldest first, so that a parent comes before its children; without payloads.
MEMBERS = """
select e.id, e.parent_id, e.target, e.type, e.created_at, q.state, q.pause_requested, q.status_reason as queue_reason,
  q.attempt as queue_attempt, q.started_at as queue_started_at, o.status, o.status_reason, o.attempt, o.started_at,
  o.finished_at, o.error_class, clock() as now
from (
  select id, parent_id, target, type, created_at
  from executions
  where bucket = $1
    and namespace = $2
    and run_id = $3
    and ($4::uuid is null or id > $4)
  order by id
  limit $5
) e
left join queue q on q.bucket = $1 and q.id = e.id
left join outcomes o on o.bucket = $1 and o.id = e.id
where q.state is not null
  or o.status is not null
order by e.id
"""

# Newest first: a child is younger than its parent.
UNFINISHED = """
select e.id
from executions e
join queue q on q.bucket = $1 and q.id = e.id
where e.bucket = $1
  and e.namespace = $2
  and e.run_id = $3
  and ($4::uuid is null or e.id < $4)
order by e.id desc
limit $5
"""

ACTIVE = """
select q.run_id, q.state, count(*) as executions,
  (array_agg(q.id order by q.id))[1] as oldest_id,
  (array_agg(q.id order by q.id desc))[1] as newest_id,
  max(greatest(q.leased_at, q.progress_at)) as active_at
from (
  select id, run_id, state, leased_at, progress_at
  from queue
  where bucket = $1
    and namespace = $2
    and ($3::text is null or starts_with(target, $3))
  order by id desc
  limit $4
) q
group by q.run_id, q.state
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveRun:
    """A run with unfinished executions: how many at each status, and the oldest and newest of those."""

    run_id: str
    counts: dict[Status, int]
    oldest_id: ExecutionId
    newest_id: ExecutionId
    active_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One execution of a run, as a line of its tree."""

    id: ExecutionId
    parent_id: UUID | None
    target: str
    type: str
    status: Status
    status_reason: str | None
    attempt: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error_class: str | None
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run: its first execution, and how many of its executions are at each status, as far as they are counted."""

    run_id: str
    root: Member
    counts: dict[Status, int]
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """The newest runs that match. `reached`: how far it was looked, when that was not to the end and found too few."""

    views: list[RunView]
    reached: UUID | None


async def page(
    conn: Connection,
    *,
    namespace: int,
    target: str | None,
    before: UUID | None,
    limit: int,
    placement: Placement,
) -> RunPage:
    """The newest runs, at most `limit`. A run whose first execution is a child of another run is not among them."""
    newest: list[tuple[UUID, str, int]] = []
    reached: UUID | None = None
    for bucket in placement.all():
        look = partial(_look, conn, bucket, namespace, target)
        walked = await walk(look, before=before or AFTER_ALL, limit=limit)
        newest += [(row["id"], row["run_id"], bucket) for row in walked.rows]
        reached = max((one for one in (reached, walked.reached) if one is not None), default=None)
    # No further down than every bucket was looked at: what lies below comes with the next page.
    newest = [one for one in sorted(newest, reverse=True)[:limit] if reached is None or one[0] >= reached]
    views: dict[str, RunView] = {}
    for bucket in {bucket for _, _, bucket in newest}:
        names = [run_id for _, run_id, there in newest if there == bucket]
        views |= await _views(conn, bucket, names, namespace, size_max=LISTED_SIZE_MAX)
    return RunPage(views=[views[run_id] for _, run_id, _ in newest if run_id in views], reached=reached)


async def _look(
    conn: Connection, bucket: int, namespace: int, target: str | None, before: UUID, limit: int, window: int
) -> list[asyncpg.Record]:
    return await conn.fetch(PAGE, bucket, namespace, before, target, limit, window)


async def read(conn: Connection, bucket: int, run_id: str, *, namespace: int) -> RunView | None:
    """How far a run is."""
    return (await _views(conn, bucket, [run_id], namespace, size_max=SIZE_MAX)).get(run_id)


async def members(
    conn: Connection, bucket: int, run_id: str, *, namespace: int, after: UUID | None, limit: int
) -> list[Member]:
    """Executions of a run after this one, the oldest first: parents before their children."""
    rows = await conn.fetch(MEMBERS, bucket, namespace, run_id, after, limit)
    return [_member(row) for row in rows]


async def _views(
    conn: Connection, bucket: int, names: list[str], namespace: int, *, size_max: int
) -> dict[str, RunView]:
    counts: dict[str, dict[Status, int]] = {}
    for row in await conn.fetch(COUNTS, bucket, namespace, names, size_max):
        of_run = counts.setdefault(row["run_id"], {})
        status = _status(row["stands"])
        of_run[status] = of_run.get(status, 0) + row["executions"]
    return {
        row["run_id"]: RunView(
            run_id=row["run_id"],
            root=_member(row),
            counts=counts.get(row["run_id"], {}),
            truncated=sum(counts.get(row["run_id"], {}).values()) >= size_max,
        )
        for row in await conn.fetch(FIRSTS, bucket, namespace, names)
    }


def _status(stands: str) -> Status:
    """The status of a state of the queue, or of an outcome."""
    return STATUS_OF_STATE[State(stands)] if stands in list(State) else Status(stands)


def _member(row: asyncpg.Record) -> Member:
    state = None if row["state"] is None else State(row["state"])
    ended = state is None
    pausing = bool(row["pause_requested"]) and state is not State.PAUSED
    return Member(
        id=ExecutionId(row["id"]),
        parent_id=row["parent_id"],
        target=row["target"],
        type=row["type"],
        status=Status(row["status"]) if state is None else Status.WAITING if pausing else STATUS_OF_STATE[state],
        status_reason=row["status_reason"] if ended else "paused" if pausing else row["queue_reason"],
        attempt=row["attempt"] if ended else row["queue_attempt"],
        created_at=row["created_at"],
        started_at=row["started_at"] if ended else row["queue_started_at"],
        finished_at=row["finished_at"],
        error_class=row["error_class"],
        now=row["now"],
    )


async def size(conn: Connection, bucket: int, run_id: str, *, namespace: int) -> int:
    """How many executions a run has, as far as they are counted."""
    found: int = await conn.fetchval(SIZE, bucket, namespace, run_id, SIZE_MAX)
    return found


async def unfinished(
    conn: Connection, bucket: int, run_id: str, *, namespace: int, before: UUID | None = None, limit: int
) -> list[ExecutionId]:
    """Executions of a run that have not ended, children before their parents."""
    rows = await conn.fetch(UNFINISHED, bucket, namespace, run_id, before, limit)
    return [ExecutionId(row["id"]) for row in rows]


async def active(conn: Connection, bucket: int, *, namespace: int, node_id: str | None = None) -> list[ActiveRun]:
    """Runs that have unfinished executions (of this node), those with the newest first."""
    node = None if node_id is None else node_id + "."
    runs: dict[str, ActiveRun] = {}
    for row in await conn.fetch(ACTIVE, bucket, namespace, node, ACTIVE_LOOK_MAX):
        found = runs.get(row["run_id"])
        status = STATUS_OF_STATE[State(row["state"])]
        counts = {} if found is None else found.counts
        moments = [at for at in (row["active_at"], None if found is None else found.active_at) if at is not None]
        runs[row["run_id"]] = ActiveRun(
            run_id=row["run_id"],
            counts=counts | {status: counts.get(status, 0) + row["executions"]},
            oldest_id=ExecutionId(row["oldest_id"] if found is None else min(found.oldest_id, row["oldest_id"])),
            newest_id=ExecutionId(row["newest_id"] if found is None else max(found.newest_id, row["newest_id"])),
            active_at=max(moments, default=None),
        )
    return sorted(runs.values(), key=lambda run: run.newest_id, reverse=True)
