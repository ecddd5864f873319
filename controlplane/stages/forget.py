"""Forget: a run that is over and old leaves, with everything that belongs to it.

A run is kept together: it leaves when all its executions have been over for as long as their statuses are kept, every
delivery is settled for as long, no idempotency key names any of them, and nothing outside of it refers to it. Parents
and sources are older than what refers to them, so the newest leave first and nothing that stays points into the void.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from uuid import UUID

import asyncpg

from controlplane.domain.delivery import DeliveryState
from controlplane.domain.execution import Status
from controlplane.domain.placement import span
from controlplane.domain.retention import Forgotten, Keep, Why
from controlplane.postgres.pool import Connection

STEP_MAX = 500
"""Executions that one step looks at."""
EXECUTIONS_MAX = 1_000
"""Executions that one step removes: a run has more than the one that was looked at."""
MEMBERS_MAX = 10_000
"""Executions of those runs that are judged at once."""
LINES_MAX = 20_000
"""Events, and log lines, that one step removes."""
DELIVERIES_MAX = 1_000
REST_SECONDS = 600.0
"""Between two passes: what was kept back is looked at again after so long."""
EXECUTIONS = "executions"
START = UUID(int=0)
END = UUID(int=2**128 - 1)

TAKE_WALK = """
select namespace, status, after_id, coalesce(rests_until > clock(), false) as rests
from retention_walks
where bucket = $1
  and subject = $2
for update skip locked
"""

# Only where there is none: beside one that somebody else holds, even `do nothing` would wait for it.
BEGIN_WALK = """
insert into retention_walks (bucket, subject)
select $1, $2
where not exists (
  select 1
  from retention_walks
  where bucket = $1
    and subject = $2
)
on conflict (bucket, subject) do nothing
"""

MOVE_WALK = """
update retention_walks
set namespace = $3, status = $4, after_id = $5,
  rests_until = case when $6::float8 > 0 then clock() + make_interval(secs => $6) end
where bucket = $1
  and subject = $2
"""

ROUSE = """
update retention_walks
set rests_until = null
where bucket = $1
  and rests_until is not null
"""

UNDER_WAY = """
select exists (
  select 1
  from retention_walks
  where bucket = $1
    and subject = any($2::text[])
    and (rests_until > clock()) is not true
)
"""

NEXT_NAMESPACE = """
select namespace
from outcomes
where bucket = $1
  and namespace > $2
order by namespace
limit 1
"""

# Nothing ends before it was accepted: behind an id of that age there is nothing old enough.
WALK = """
select id, finished_at < clock() - make_interval(secs => $5) as over
from outcomes
where bucket = $1
  and namespace = $2
  and status = $3
  and id > $4
  and id < uuid_floor(clock() - make_interval(secs => $5))
order by id
limit $6
"""

RUNS_OF = """
select id, run_id
from executions
where bucket = $1
  and id = any($2::uuid[])
  and id between $3 and $4
"""

MEMBERS = """
select id, run_id
from executions
where bucket = $1
  and namespace = $2
  and run_id = any($3::text[])
"""

# `kept_since`: null when its status is kept for ever.
ENDS = """
select id, finished_at,
  clock() - make_interval(secs => ($4::float8[])[array_position($3::text[], status)]) as kept_since
from outcomes
where bucket = $1
  and id = any($2::uuid[])
  and id between $5 and $6
"""

# All that were told longer ago than anything is kept are of no interest.
TOLD_LATELY = """
select execution_id as id, settled_at
from deliveries
where bucket = $1
  and execution_id = any($2::uuid[])
  and (settled_at < clock() - make_interval(secs => $3)) is not true
"""

KEYED = """
select execution_id as id
from idempotency_keys
where bucket = $1
  and execution_id = any($2::uuid[])
  and expires_at >= clock()
"""

SOURCES = """
select distinct source_execution_id as id, namespace, run_id
from executions
where bucket = $1
  and source_execution_id = any($2::uuid[])
"""

PARENTS = """
select distinct parent_id as id, namespace, run_id
from executions
where bucket = $1
  and parent_id = any($2::uuid[])
"""

REPLAYED = """
select distinct replay_source_run_id as run_id
from executions
where bucket = $1
  and namespace = $2
  and replay_source_run_id = any($3::text[])
  and run_id <> replay_source_run_id
"""

REMEMBERS = """
select distinct scope_id as run_id
from memory
where bucket = $1
  and namespace = $2
  and scope = 'run'
  and scope_id = any($3::text[])
  and updated_at >= clock() - make_interval(secs => $4)
"""

# The newest of them, locked in the order in which a submit locks what it refers to. The newest by `created_at`: by the
# id the primary key was walked back past everybody's executions.
LOCK_NEWEST = """
select id, run_id
from executions
where bucket = $1
  and id = any(array(
    select id
    from executions
    where bucket = $1
      and namespace = $2
      and run_id = any($3::text[])
    order by created_at desc, id desc
    limit $4
  ))
order by id
for update
"""

LOCK_DELIVERIES = """
select id
from deliveries
where bucket = $1
  and id = any(array(
    select id
    from deliveries
    where bucket = $1
      and execution_id = any($2::uuid[])
  ))
order by id
for update
"""

DROP_OUTCOMES = """
delete from outcomes
where bucket = $1
  and id = any($2::uuid[])
  and id between $3 and $4
returning status
"""

DROP_EXECUTIONS = """
delete from executions
where bucket = $1
  and id = any($2::uuid[])
  and id between $3 and $4
"""

# How far a step may go in the lines of these executions, in the order of the key.
LAST_EVENT = """
select execution_id, seq
from events
where bucket = $1
  and execution_id = any($2::uuid[])
order by execution_id, seq
offset $3
limit 1
"""

# What has not been announced stays until it is: somebody may subscribe to it.
DROP_EVENTS = """
delete from events e
where e.bucket = $1
  and e.execution_id = any($2::uuid[])
  and (e.execution_id, e.seq) < ($3, $4)
  and not exists (
    select 1
    from announced a
    where a.bucket = $1
      and (e.xid, e.seq) > (a.xid, a.seq)
  )
"""

UNANNOUNCED = """
select distinct e.execution_id as id
from events e
join announced a on a.bucket = $1
where e.bucket = $1
  and e.execution_id = any($2::uuid[])
  and (e.xid, e.seq) > (a.xid, a.seq)
"""

LAST_LOG = """
select execution_id, seq
from logs
where bucket = $1
  and execution_id = any($2::uuid[])
order by execution_id, seq
offset $3
limit 1
"""

DROP_LOGS = """
delete from logs
where bucket = $1
  and execution_id = any($2::uuid[])
  and (execution_id, seq) < ($3, $4)
"""

DROP_DELIVERIES_OF = """
delete from deliveries
where bucket = $1
  and execution_id = any($2::uuid[])
returning id
"""

DROP_ATTEMPTS = """
delete from delivery_attempts
where bucket = $1
  and delivery_id = any($2::uuid[])
"""

DROP_WEBHOOKS = """
delete from webhooks
where bucket = $1
  and execution_id = any($2::uuid[])
"""

DROP_LISTENERS = """
delete from listeners
where bucket = $1
  and execution_id = any($2::uuid[])
"""

DROP_APPROVALS = """
delete from approvals
where bucket = $1
  and execution_id = any($2::uuid[])
"""

DROP_LOCAL_CALLS = """
delete from local_calls
where bucket = $1
  and execution_id = any($2::uuid[])
"""

DROP_SIGNALS = """
delete from signals
where bucket = $1
  and execution_id = any($2::uuid[])
"""

# A fan-out has a step for each child, so they go in pieces, as lines do.
DROP_STEPS = """
delete from steps s
using (
  select execution_id, name
  from steps
  where bucket = $1
    and execution_id = any($2::uuid[])
  order by execution_id, name
  limit $3
) as d
where s.bucket = $1
  and s.execution_id = d.execution_id
  and s.name = d.name
"""

BELONGS = {
    "signals": DROP_SIGNALS,
    "webhooks": DROP_WEBHOOKS,
    "listeners": DROP_LISTENERS,
    "approvals": DROP_APPROVALS,
    "local_calls": DROP_LOCAL_CALLS,
}
"""What belongs to an execution and leaves with it, a few rows each. A new table gets its line here; what may have
many rows for one execution is removed in steps, as events and logs are."""

RUNS_LEFT = """
select distinct run_id
from executions
where bucket = $1
  and namespace = $2
  and run_id = any($3::text[])
"""

# What belongs to a run leaves with its last execution. Somebody may be writing it just now, in the name of nobody:
# then it is not old any more, and stays.
DROP_MEMORY = """
delete from memory
where bucket = $1
  and namespace = $2
  and scope = 'run'
  and scope_id = any($3::text[])
  and updated_at < clock() - make_interval(secs => $4)
returning scope_id, key
"""

DROP_ITEMS = """
delete from memory_items i
using unnest($3::text[], $4::text[]) as k(scope_id, key)
where i.bucket = $1
  and i.namespace = $2
  and i.scope = 'run'
  and i.scope_id = k.scope_id
  and i.key = k.key
"""

DROP_VECTORS = """
delete from memory_vectors
where bucket = $1
  and namespace = $2
  and scope = 'run'
  and scope_id = any($3::text[])
  and updated_at < clock() - make_interval(secs => $4)
"""

# From execution to execution that still has lines: those whose lines have gone cost nothing any more.
WITH_EVENTS = """
with recursive found(id, n) as (
  (
    select execution_id, 1
    from events
    where bucket = $1
      and execution_id > $2
      and execution_id < uuid_floor(clock() - make_interval(secs => $3))
    order by execution_id
    limit 1
  )
  union all
  select (
    select e.execution_id
    from events e
    where e.bucket = $1
      and e.execution_id > found.id
      and e.execution_id < uuid_floor(clock() - make_interval(secs => $3))
    order by e.execution_id
    limit 1
  ), found.n + 1
  from found
  where found.id is not null
    and found.n < $4
)
select id from found where id is not null
"""

WITH_LOGS = """
with recursive found(id, n) as (
  (
    select execution_id, 1
    from logs
    where bucket = $1
      and execution_id > $2
      and execution_id < uuid_floor(clock() - make_interval(secs => $3))
    order by execution_id
    limit 1
  )
  union all
  select (
    select l.execution_id
    from logs l
    where l.bucket = $1
      and l.execution_id > found.id
      and l.execution_id < uuid_floor(clock() - make_interval(secs => $3))
    order by l.execution_id
    limit 1
  ), found.n + 1
  from found
  where found.id is not null
    and found.n < $4
)
select id from found where id is not null
"""

OVER = """
select id
from outcomes
where bucket = $1
  and id = any($2::uuid[])
  and id between $4 and $5
  and finished_at < clock() - make_interval(secs => $3)
"""

DROP_SETTLED = """
delete from deliveries
where bucket = $1
  and id = any(array(
    select id
    from deliveries
    where bucket = $1
      and state = $2
      and settled_at < clock() - make_interval(secs => $3)
    order by settled_at
    limit $4
    for update skip locked
  ))
returning id
"""


class Lines(NamedTuple):
    """A table of which an execution may have any number of rows."""

    table: str
    last: str
    drop: str


EVENTS = Lines("events", LAST_EVENT, DROP_EVENTS)
LOGS = Lines("logs", LAST_LOG, DROP_LOGS)
LINES = (LOGS, EVENTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """How far the way through one bucket has come: status by status, from the oldest id to the newest."""

    namespace: int = 0
    status: Status | None = None
    after_id: UUID = START


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Executions of one status that are old enough, by what holds their runs; None holds those that would go."""

    status: Status
    why: Counter[Why | None]


async def step(conn: Connection, bucket: int, *, keep: Keep, limit: int = STEP_MAX) -> Forgotten | None:
    """Look at the next few executions that ended long ago, and remove their runs if nothing holds them.

    None when there is nothing to do: the way rests after its last pass, or another replica goes it.
    Moves: (outcome) → nothing. Guard: one replica at a time goes this way, the others pass; what is removed is locked
    first and judged again then, and whoever wants to refer to it waits for that lock (`hold.keep`). Where it stopped is
    written in the same transaction: a crash repeats nothing.
    """
    statuses = keep.statuses()
    if not statuses:
        return None
    async with conn.transaction():
        walk = await _take(conn, bucket, EXECUTIONS)
        if walk is None:
            return None
        if walk.status is None or walk.status not in statuses:
            namespace = await conn.fetchval(NEXT_NAMESPACE, bucket, walk.namespace)
            if namespace is None:
                await _move(conn, bucket, EXECUTIONS, Walk(), rest_seconds=REST_SECONDS)
                return Forgotten()
            walk = Walk(namespace=namespace, status=next(iter(statuses)))
        gone, walk = await _go(conn, bucket, walk, statuses, limit)
        await _move(conn, bucket, EXECUTIONS, walk)
    return gone


async def _go(
    conn: Connection, bucket: int, walk: Walk, statuses: dict[Status, float], limit: int
) -> tuple[Forgotten, Walk]:
    """What this step removed, and where the next begins: here again when it could not remove all."""
    assert walk.status is not None
    seconds = statuses[walk.status]
    rows = await conn.fetch(WALK, bucket, walk.namespace, walk.status.value, walk.after_id, seconds, limit)
    over = [row["id"] for row in rows if row["over"]]
    gone = await _forget_runs_of(conn, bucket, walk.namespace, over, statuses) if over else Forgotten()
    if gone.full:
        return gone, walk
    if len(rows) == limit:
        return gone, replace(walk, after_id=rows[-1]["id"])
    order = list(statuses)
    following = order[order.index(walk.status) + 1 :]
    return gone, Walk(namespace=walk.namespace, status=following[0] if following else None)


async def _forget_runs_of(
    conn: Connection, bucket: int, namespace: int, ids: Sequence[UUID], statuses: dict[Status, float]
) -> Forgotten:
    run_ids = list(dict.fromkeys(row["run_id"] for row in await conn.fetch(RUNS_OF, bucket, ids, *span(ids))))
    free = await _free(conn, bucket, namespace, run_ids, statuses)
    if not free:
        return Forgotten()
    locked = await conn.fetch(LOCK_NEWEST, bucket, namespace, free, EXECUTIONS_MAX)
    await conn.fetch(LOCK_DELIVERIES, bucket, [row["id"] for row in locked])
    # From here on nobody can refer to these or send their deliveries again. Whoever did in between has committed.
    free = await _free(conn, bucket, namespace, free, statuses)
    untold = {row["id"] for row in await conn.fetch(UNANNOUNCED, bucket, [row["id"] for row in locked])}
    waiting = {row["run_id"] for row in locked if row["id"] in untold}
    free = [run_id for run_id in free if run_id not in waiting]
    gone = await _forget(conn, bucket, [row["id"] for row in locked if row["run_id"] in free])
    if gone.executions:
        await _forget_memory(conn, bucket, namespace, free, min(statuses.values()), gone)
    gone.full = gone.full or len(locked) == EXECUTIONS_MAX
    return gone


async def _free(
    conn: Connection, bucket: int, namespace: int, run_ids: Sequence[str], statuses: dict[Status, float]
) -> list[str]:
    held = await holds(conn, bucket, run_ids, statuses, namespace=namespace)
    return [run_id for run_id, why in held.items() if why is None]


async def holds(
    conn: Connection, bucket: int, run_ids: Sequence[str], statuses: dict[Status, float], *, namespace: int
) -> dict[str, Why | None]:
    """What keeps each of these runs, None for those that may go. The caller is inside a transaction.

    One statement for all of them and each reason: a probe per execution and partition cost twice as much, and its plan
    had to be held to nested loops.
    """
    held: dict[str, Why | None] = dict.fromkeys(run_ids)
    members = await conn.cursor(MEMBERS, bucket, namespace, run_ids)
    while page := await members.fetch(MEMBERS_MAX):
        run_of = {row["id"]: row["run_id"] for row in page if held[row["run_id"]] is None}
        held |= await _held(conn, bucket, namespace, run_of, statuses)
    free = [run_id for run_id, why in held.items() if why is None]
    for row in await conn.fetch(REPLAYED, bucket, namespace, free):
        held[row["run_id"]] = Why.SOURCE
    for row in await conn.fetch(REMEMBERS, bucket, namespace, free, min(statuses.values())):
        held[row["run_id"]] = Why.MEMORY
    return held


async def _held(
    conn: Connection, bucket: int, namespace: int, run_of: dict[UUID, str], statuses: dict[Status, float]
) -> dict[str, Why]:
    """The runs among these that one of their executions keeps, and by what."""
    names, seconds = [status.value for status in statuses], list(statuses.values())
    ends = {row["id"]: row for row in await conn.fetch(ENDS, bucket, list(run_of), names, seconds, *span(run_of))}
    held = {run_id: Why.YOUNG for id_, run_id in run_of.items() if id_ in ends and not _old(ends[id_])}
    held |= {run_id: Why.UNFINISHED for id_, run_id in run_of.items() if id_ not in ends}

    def left() -> list[UUID]:
        return [id_ for id_, run_id in run_of.items() if run_id not in held]

    for row in await conn.fetch(TOLD_LATELY, bucket, left(), min(seconds)):
        if row["settled_at"] is None or row["settled_at"] >= ends[row["id"]]["kept_since"]:
            held[run_of[row["id"]]] = Why.DELIVERY
    for row in await conn.fetch(KEYED, bucket, left()):
        held[run_of[row["id"]]] = Why.IDEMPOTENCY_KEY
    for statement, why in ((SOURCES, Why.SOURCE), (PARENTS, Why.CHILD)):
        for row in await conn.fetch(statement, bucket, left()):
            if (row["namespace"], row["run_id"]) != (namespace, run_of[row["id"]]):
                held[run_of[row["id"]]] = why
    return held


def _old(end: asyncpg.Record) -> bool:
    return end["kept_since"] is not None and end["finished_at"] < end["kept_since"]


async def preview(conn: Connection, bucket: int, *, keep: Keep) -> AsyncIterator[Preview]:
    """What a pass would do now, a few executions at a time. Reads only, and all that is old."""
    statuses = keep.statuses()
    namespace = 0
    while statuses and (namespace := await conn.fetchval(NEXT_NAMESPACE, bucket, namespace)) is not None:
        for status, seconds in statuses.items():
            after_id = START
            while rows := await conn.fetch(WALK, bucket, namespace, status.value, after_id, seconds, STEP_MAX):
                after_id = rows[-1]["id"]
                over = [row["id"] for row in rows if row["over"]]
                found = await conn.fetch(RUNS_OF, bucket, over, *span(over))
                runs = list({row["run_id"] for row in found})
                async with conn.transaction():
                    held = await holds(conn, bucket, runs, statuses, namespace=namespace)
                yield Preview(status=status, why=Counter(held[row["run_id"]] for row in found))


async def rouse(conn: Connection, bucket: int) -> None:
    """Begin the next pass of every way now; one that is under way goes on."""
    await conn.execute(ROUSE, bucket)


async def under_way(conn: Connection, bucket: int, *, keep: Keep) -> bool:
    """Whether some pass that this policy asks for has not come to its end."""
    subjects = [
        subject
        for subject, asked in (
            (EXECUTIONS, bool(keep.statuses())),
            (EVENTS.table, keep.events_seconds is not None),
            (LOGS.table, keep.logs_seconds is not None),
        )
        if asked
    ]
    found: bool = await conn.fetchval(UNDER_WAY, bucket, subjects)
    return found


async def _forget(conn: Connection, bucket: int, ids: Sequence[UUID]) -> Forgotten:
    """Remove these executions and all that belongs to them; only lines when there are too many of those for a step."""
    gone = Forgotten()
    for table, last, drop in LINES:
        gone.rows[table], gone.full = await _drop_lines(conn, bucket, ids, last, drop)
        if gone.full:
            return gone
    gone.rows["steps"] = _count(await conn.execute(DROP_STEPS, bucket, ids, LINES_MAX))
    gone.full = gone.rows["steps"] == LINES_MAX
    if gone.full:
        return gone
    deliveries = await conn.fetch(DROP_DELIVERIES_OF, bucket, ids)
    gone.rows["deliveries"] = len(deliveries)
    gone.rows["delivery_attempts"] = _count(
        await conn.execute(DROP_ATTEMPTS, bucket, [row["id"] for row in deliveries])
    )
    for table, statement in BELONGS.items():
        gone.rows[table] = _count(await conn.execute(statement, bucket, ids))
    gone.executions = Counter(row["status"] for row in await conn.fetch(DROP_OUTCOMES, bucket, ids, *span(ids)))
    await conn.execute(DROP_EXECUTIONS, bucket, ids, *span(ids))
    return gone


async def _drop_lines(conn: Connection, bucket: int, ids: Sequence[UUID], last: str, drop: str) -> tuple[int, bool]:
    """How many events or log lines of these went, and whether there are more."""
    end = await conn.fetchrow(last, bucket, ids, LINES_MAX)
    until = (END, 0) if end is None else (end["execution_id"], end["seq"])
    return _count(await conn.execute(drop, bucket, ids, *until)), end is not None


async def _forget_memory(
    conn: Connection, bucket: int, namespace: int, run_ids: Sequence[str], seconds: float, gone: Forgotten
) -> None:
    """Of the runs that have no execution left."""
    left = {row["run_id"] for row in await conn.fetch(RUNS_LEFT, bucket, namespace, run_ids)}
    over = [run_id for run_id in run_ids if run_id not in left]
    keys = await conn.fetch(DROP_MEMORY, bucket, namespace, over, seconds)
    gone.rows["memory"] = len(keys)
    gone.rows["memory_items"] = _count(
        await conn.execute(
            DROP_ITEMS, bucket, namespace, [row["scope_id"] for row in keys], [row["key"] for row in keys]
        )
    )
    gone.rows["memory_vectors"] = _count(await conn.execute(DROP_VECTORS, bucket, namespace, over, seconds))


async def drop_events(
    conn: Connection, bucket: int, *, after_seconds: float, limit: int = STEP_MAX
) -> Forgotten | None:
    """Take the next few executions that have events, and remove those of the ones that ended long ago.

    None as in `step`. Guard: as in `step`; an execution that has ended gets no more events but of its deliveries.
    """
    return await _trim(conn, bucket, EVENTS, WITH_EVENTS, after_seconds, limit)


async def drop_logs(conn: Connection, bucket: int, *, after_seconds: float, limit: int = STEP_MAX) -> Forgotten | None:
    """As `drop_events`, of log lines."""
    return await _trim(conn, bucket, LOGS, WITH_LOGS, after_seconds, limit)


async def _trim(conn: Connection, bucket: int, lines: Lines, find: str, seconds: float, limit: int) -> Forgotten | None:
    async with conn.transaction():
        walk = await _take(conn, bucket, lines.table)
        if walk is None:
            return None
        found = [row["id"] for row in await conn.fetch(find, bucket, walk.after_id, seconds, limit)]
        over = [row["id"] for row in await conn.fetch(OVER, bucket, found, seconds, *span(found))]
        gone = Forgotten()
        if over:
            gone.rows[lines.table], gone.full = await _drop_lines(conn, bucket, over, lines.last, lines.drop)
        ends = not gone.full and len(found) < limit
        if ends:
            walk = Walk()
        elif not gone.full:
            walk = replace(walk, after_id=found[-1])
        await _move(conn, bucket, lines.table, walk, rest_seconds=REST_SECONDS if ends else 0.0)
    return gone


async def drop_deliveries(
    conn: Connection, bucket: int, *, state: DeliveryState, after_seconds: float, limit: int = DELIVERIES_MAX
) -> Forgotten | None:
    """Forget deliveries that were settled like this long ago, with their attempts, before their executions go.

    None when there were none. Guard: `for update skip locked`; one that is sent again just now is not settled any more.
    """
    async with conn.transaction():
        rows = await conn.fetch(DROP_SETTLED, bucket, state.value, after_seconds, limit)
        if not rows:
            return None
        gone = Forgotten(full=len(rows) == limit)
        gone.rows["deliveries"] = len(rows)
        gone.rows["delivery_attempts"] = _count(await conn.execute(DROP_ATTEMPTS, bucket, [row["id"] for row in rows]))
    return gone


async def _take(conn: Connection, bucket: int, subject: str) -> Walk | None:
    row = await conn.fetchrow(TAKE_WALK, bucket, subject)
    if row is None:
        await conn.execute(BEGIN_WALK, bucket, subject)
        row = await conn.fetchrow(TAKE_WALK, bucket, subject)
    if row is None or row["rests"]:
        return None
    status = None if row["status"] is None else Status(row["status"])
    return Walk(namespace=row["namespace"], status=status, after_id=row["after_id"])


async def _move(conn: Connection, bucket: int, subject: str, walk: Walk, *, rest_seconds: float = 0.0) -> None:
    await conn.execute(MOVE_WALK, bucket, subject, walk.namespace, walk.status, walk.after_id, rest_seconds)


def _count(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
