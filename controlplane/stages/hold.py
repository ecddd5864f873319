"""Hold rows of the queue, or a node, still while something else is written in their name.

Every write by a node is fenced: it happens only while its attempt holds the lease. A guard alone would let a stale
write commit after a take-over, so the row is locked: `for share` when the write is elsewhere, `for update` when the row
itself will move. (`for key share` is not enough: claim and expire do not change the key.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

import asyncpg

from controlplane.domain.execution import Held, State
from controlplane.domain.ids import ExecutionId, SessionId
from controlplane.domain.lease import Fence
from controlplane.domain.placement import by_bucket, span
from controlplane.postgres.pool import Connection

# `unheard`: to note that something was heard of it would move its deadline by a tenth of its heartbeat or more.
SHARE = """
select id, attempt, namespace, run_id, target, crashes,
  heartbeat_seconds is not null and state = 'leased' and deadline_at < least(
    attempt_deadline_at, total_deadline_at, clock() + make_interval(secs => 0.9 * heartbeat_seconds)
  ) as unheard
from queue
where bucket = $1
  and id = any($2::uuid[])
  and session_id is not null
order by id
for share
"""

TAKE = """
select id, attempt, namespace, run_id, target, crashes,
  heartbeat_seconds is not null and state = 'leased' and deadline_at < least(
    attempt_deadline_at, total_deadline_at, clock() + make_interval(secs => 0.9 * heartbeat_seconds)
  ) as unheard
from queue
where bucket = $1
  and id = any($2::uuid[])
  and session_id is not null
order by id
for update
"""

LOCK = """
select id, namespace, target, run_id, state, attempt, failures, crashes, retries_max, webhooks,
  session_id, leased_at, started_at, cancel_requested_at, cancel_reason, status_reason, progress,
  coalesce(total_deadline_at < clock(), false) as total_passed, parent_id,
  heartbeat_seconds is not null and coalesce(attempt_deadline_at > clock(), true) as heartbeat_next
from queue
where bucket = $1
  and id = any($2::uuid[])
order by id
for update
"""

# After the commit of what was written, because there the row is held for share, and two writes that hold it so and both
# want to update it would wait for each other.
CLEAR_CRASHES = """
update queue
set crashes = 0
where bucket = $1
  and id = any(array(
    select id
    from queue
    where bucket = $1
      and id = any($2::uuid[])
      and crashes > 0
    order by id
    for update
  ))
"""

# Not in the queue: what is referred to may have ended long ago, and what has ended may be forgotten.
KEEP = """
select id
from executions
where bucket = $1
  and id = any($2::uuid[])
  and id between $3 and $4
order by id
for key share
"""

KEEP_NODE = "select 1 from nodes where bucket = $1 and namespace = $2 and id = $3 for key share"

# Also after the commit, and seldom: most attempts have no heartbeat, and of the others one in many writes comes here.
HEAR = """
update queue
set deadline_at = least(attempt_deadline_at, total_deadline_at, clock() + make_interval(secs => heartbeat_seconds))
where bucket = $1
  and id = any(array(
    select id
    from queue
    where bucket = $1
      and id = any($2::uuid[])
      and heartbeat_seconds is not null
      and state = 'leased'
    order by id
    for update
  ))
"""


async def share(conn: Connection, bucket: int, fences: Iterable[Fence]) -> dict[Fence, asyncpg.Record]:
    """Those of the fences that hold their lease, kept from moving until this transaction ends."""
    return await _fenced(conn, SHARE, bucket, fences)


async def take(conn: Connection, bucket: int, fences: Iterable[Fence]) -> dict[Fence, asyncpg.Record]:
    """As `share`, for rows that this transaction writes itself."""
    return await _fenced(conn, TAKE, bucket, fences)


async def lock(conn: Connection, bucket: int, ids: Sequence[UUID]) -> dict[ExecutionId, Held]:
    """The unfinished ones of these executions, locked."""
    return {held.id: held for held in map(from_row, await conn.fetch(LOCK, bucket, ids))}


async def keep(conn: Connection, bucket: int, ids: Iterable[UUID]) -> set[UUID]:
    """Those of these executions, ended or not, that there are; none is forgotten before this transaction ends."""
    wanted = list(set(ids))
    return {row["id"] for row in await conn.fetch(KEEP, bucket, wanted, *span(wanted))} if wanted else set()


async def keep_node(conn: Connection, bucket: int, namespace: int, node_id: str | None) -> bool:
    """Whether there is this node; if so, nobody forgets it before this transaction ends."""
    return await conn.fetchval(KEEP_NODE, bucket, namespace, node_id) is not None


async def forgive(conn: Connection, ids: Iterable[ExecutionId]) -> None:
    """Clears the crash count of executions that make progress."""
    for bucket, part in by_bucket(ids, lambda id_: id_):
        await conn.execute(CLEAR_CRASHES, bucket, part)


async def hear(conn: Connection, held: Mapping[Fence, asyncpg.Record]) -> None:
    """Notes that these attempts, as `share` or `take` found them, have given a sign of life.

    Moves: the deadline of an attempt with a heartbeat, at most ten times in its length.
    """
    await hear_of(conn, {fence.execution_id for fence, row in held.items() if row["unheard"]})


async def hear_of(conn: Connection, ids: Iterable[ExecutionId]) -> None:
    """As `hear`, for those that are due."""
    for bucket, part in by_bucket(ids, lambda id_: id_):
        await conn.execute(HEAR, bucket, part)


def from_row(row: asyncpg.Record) -> Held:
    return Held(
        id=ExecutionId(row["id"]),
        namespace=row["namespace"],
        target=row["target"],
        run_id=row["run_id"],
        state=State(row["state"]),
        attempt=row["attempt"],
        failures=row["failures"],
        crashes=row["crashes"],
        retries_max=row["retries_max"],
        webhooks=row["webhooks"],
        session_id=None if row["session_id"] is None else SessionId(row["session_id"]),
        leased_at=row["leased_at"],
        started_at=row["started_at"],
        cancel_requested=row["cancel_requested_at"] is not None,
        cancel_reason=row["cancel_reason"],
        status_reason=row["status_reason"],
        progress=row["progress"],
        total_passed=row["total_passed"],
        heartbeat_next=row["heartbeat_next"],
        parent_id=row["parent_id"],
    )


async def _fenced(
    conn: Connection, statement: str, bucket: int, fences: Iterable[Fence]
) -> dict[Fence, asyncpg.Record]:
    wanted = set(fences)
    if not wanted:
        return {}
    rows = await conn.fetch(statement, bucket, list({fence.execution_id for fence in wanted}))
    held = {Fence(ExecutionId(row["id"]), row["attempt"]): row for row in rows}
    return {fence: row for fence, row in held.items() if fence in wanted}
