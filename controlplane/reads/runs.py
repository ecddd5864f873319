"""Runs: what of them is not finished yet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from controlplane.domain.execution import STATUS_OF_STATE, State, Status
from controlplane.domain.ids import ExecutionId
from controlplane.postgres.pool import Connection

SIZE_MAX = 100_000
"""Executions of one run that are counted."""
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
