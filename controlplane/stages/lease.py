"""Lease: a session takes work. The attempt number that it takes is the fence of everything it will write.

submit ──► *lease* ──► complete ──► finish ──► deliver
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from controlplane.domain.execution import Replay, ReplayMode
from controlplane.domain.fronts import Fronts
from controlplane.domain.ids import ExecutionId
from controlplane.domain.lease import Claim, Lease, Session
from controlplane.domain.pause import unpaused
from controlplane.domain.placement import Placement, by_bucket, span
from controlplane.errors import ControlPlaneError, SessionClosed, SessionDraining
from controlplane.postgres.pool import Connection

LEASES_MAX = 256
Taken = list[asyncpg.Record] | ControlPlaneError
"""The rows that a session got, or why it gets none."""

# A session that ran out but that nobody closed yet still holds its leases: after an outage of ours it renews, and to
# refuse it before that would make its process give up all it runs. What a person holds back is read with it: a pause
# lies in the bucket of its node, as the sessions do, so that it costs a claim no way of its own.
OPEN_SESSIONS = """
select s.id, s.expires_at > clock() as heard_of, s.drain_requested_at is not null as draining,
  array(
    select p.name
    from pauses p
    where p.bucket = $1
      and p.namespace = s.namespace
      and p.node_id in ('', s.node_id)
  ) as paused
from sessions s
where s.bucket = $1
  and s.id = any($2::uuid[])
  and s.closed_at is null
"""

# The room of a process that is called is counted here, with its session held: two replicas that ask at once do not
# both find the last slot. A parent whose child is unfinished holds none, or parents would keep their own children out.
HOLD_CALLED = """
select id, acknowledges
from sessions
where bucket = $1
  and id = any($2::uuid[])
  and closed_at is null
  and not draining
  and drain_requested_at is null
order by id
for no key update skip locked
"""

# `offset 0` keeps the look for children a look for each row: planned as a join while the table was empty, it went on
# reading the whole backlog, at 50,000 rows in 32 ms where this takes 0.3.
COUNT_HELD = """
select count(*)
from queue q
where q.bucket = $1
  and q.session_id = $2
  and q.state = 'leased'
  and not exists (
    select 1
    from queue c
    where c.bucket = $1
      and c.parent_id = q.id
    offset 0
  )
"""

# One index range per target, in order: with 100,000 rows of others in front, `target = any(…)` with the same order took
# 14 ms where this takes 0.4. The update takes its rows by an array: as `id in (select …)`, planned while the table was
# empty, it went on reading the whole backlog. The event is written here and not by `record`, so that this is all that a
# claim writes. `$8`: the session lies in this bucket, too, and says itself whether it may be handed anything, as
# OPEN_SESSIONS would one round trip before. `$10`: the lines of these are looked at not from their beginning but from
# given places on, with nothing in front of them.
CLAIM = """
with open as materialized (
  select t.target
  from unnest($3::text[]) as t(target)
  where not $8::boolean
    or exists (
      select 1
      from sessions
      where bucket = $1
        and id = $5
        and closed_at is null
        and drain_requested_at is null
        and expires_at > clock()
    )
    and not exists (
      select 1
      from pauses
      where bucket = $1
        and namespace = $2
        and node_id in ('', $9)
        and name in ('', $9, t.target)
    )
),
front as materialized (
  select q.id
  from open
  cross join lateral (
    select id
    from queue
    where bucket = $1
      and namespace = $2
      and target = open.target
      and state = 'ready'
    order by priority desc, available_at, id
    limit $4
    for update skip locked
  ) q
  where open.target <> all($10::text[])
  limit $4
),
further as materialized (
  select q.id
  from (
    select f.target, f.priority, f.at
    from unnest($10::text[], $11::smallint[], $12::timestamptz[]) with ordinality as f(target, priority, at, n)
    where f.target in (select target from open)
    order by f.n
  ) as f
  cross join lateral (
    select id
    from queue
    where bucket = $1
      and namespace = $2
      and target = f.target
      and priority = f.priority
      and available_at >= f.at
      and state = 'ready'
    order by available_at, id
    limit $4
    for update skip locked
  ) q
  limit $4
),
pick as materialized (
  select id from front
  union all
  select id from further
),
took as (
  update queue
  set state = 'leased',
    session_id = $5,
    attempt = attempt + 1,
    leased_at = clock(),
    started_at = coalesce(started_at, clock()),
    deadline_at = least(
      clock() + make_interval(secs => timeout_seconds), total_deadline_at,
      clock() + make_interval(secs => heartbeat_seconds)
    ),
    attempt_deadline_at = case
      when heartbeat_seconds is not null then clock() + make_interval(secs => timeout_seconds)
    end,
    sent_at = case when $6::boolean then clock() end,
    accepted_at = null,
    waiting_at = null,
    status_reason = null
  where bucket = $1
    and id = any(array(select id from pick))
  returning id, attempt, failures, namespace, target, run_id, priority, available_at,
    extract(
      epoch from least(clock() + make_interval(secs => timeout_seconds), total_deadline_at) - clock()
    )::float8 as deadline_in_seconds
),
told as (
  insert into events (bucket, execution_id, namespace, run_id, target, type, attempt, at, data)
  select $1, t.id, t.namespace, t.run_id, t.target, 'execution.started', t.attempt, clock(), $7
  from took t
)
select id, attempt, failures, namespace, target, run_id, priority, available_at, deadline_in_seconds
from took
"""

# Read after the commit: what was asked never changes, and by id only the partitions that hold it are opened.
READ_ASKED = """
select id, type, root_id, parent_id, session_key, actor_key, input, context, timeout_seconds,
  heartbeat_seconds, replay_source_run_id, replay_before_id, replay_mode, created_at
from executions
where bucket = $1
  and id = any($2::uuid[])
  and id between $3 and $4
"""

# A first attempt has none and is spared the look.
COUNT_STEPS = """
select execution_id, count(*) as steps
from steps
where bucket = $1
  and execution_id = any($2::uuid[])
group by execution_id
"""


async def claim(
    conn: Connection, batch: Sequence[Claim], placement: Placement, fronts: Fronts | None = None
) -> list[list[Lease] | ControlPlaneError]:
    """Hand ready work to these sessions, the most urgent and then the oldest first, never the same to two.

    Moves: ready → leased, attempt + 1. Guard: `for update skip locked`. A claim by a session that closes at this very
    moment may commit late; the sweep keeps looking at closed sessions and takes it back. One that ran out gets nothing
    until it has renewed. A process that is called gets no more than its slots. Of what is paused nobody gets anything.
    `fronts`: where this process found work last; while looking from the beginning is dear, what has an older place is
    found some seconds later.
    Raises: per item SessionClosed, SessionDraining.
    """
    fronts = fronts or Fronts()
    answers: list[Taken]
    called: dict[UUID, bool] = {}
    buckets = placement.all()
    if len(batch) == 1 and len(buckets) == 1 and not batch[0].session.called:
        answers = [await _claim_alone(conn, buckets[0], batch[0], fronts)]
    else:
        async with conn.transaction():
            answers, called = await _claim_each(conn, batch, placement, fronts)
    taken = [row for rows in answers if isinstance(rows, list) for row in rows]
    asked, steps = await _asked(conn, taken), await _steps(conn, taken)
    return [
        [_lease(row, asked, steps, called.get(item.session.id, False)) for row in sorted(rows, key=_urgency)]
        if isinstance(rows, list)
        else rows
        for item, rows in zip(batch, answers, strict=True)
    ]


async def _claim_alone(conn: Connection, bucket: int, item: Claim, fronts: Fronts) -> Taken:
    """One statement that commits by itself. Only where there is nothing is the session asked why."""
    rows = await _take(conn, bucket, item, item.targets, min(item.limit, LEASES_MAX), fronts, asks=True)
    if rows:
        return rows
    session = _standing(await _open(conn, [item]), item)
    return session if isinstance(session, ControlPlaneError) else rows


async def _claim_each(
    conn: Connection, batch: Sequence[Claim], placement: Placement, fronts: Fronts
) -> tuple[list[Taken], dict[UUID, bool]]:
    """And which of the processes that are called acknowledge."""
    there = await _open(conn, batch)
    called = await _hold_called(conn, batch)
    answers: list[Taken] = []
    for item in batch:
        session = _standing(there, item)
        if isinstance(session, ControlPlaneError):
            answers.append(session)
            continue
        rows: list[asyncpg.Record] = []
        targets = unpaused(item.targets, item.session.node_id, session["paused"])
        room = min(item.limit, LEASES_MAX) if session["heard_of"] and targets else 0
        if item.session.called:
            room = min(room, await _slots_left(conn, item.session, placement)) if item.session.id in called else 0
        for bucket in placement.all():
            if len(rows) >= room:
                break
            rows += await _take(conn, bucket, item, targets, room - len(rows), fronts, asks=False)
        answers.append(rows)
    return answers, called


def _standing(there: dict[UUID, asyncpg.Record], item: Claim) -> asyncpg.Record | ControlPlaneError:
    """How the session of this claim stands among the open ones, or why it is handed nothing."""
    session = there.get(item.session.id)
    if session is None:
        return SessionClosed()
    return SessionDraining() if session["draining"] else session


async def _take(
    conn: Connection, bucket: int, item: Claim, targets: Sequence[str], room: int, fronts: Fronts, *, asks: bool
) -> list[asyncpg.Record]:
    """What this session gets of this bucket. `asks`: it lies in the same, and nobody has looked how it stands."""
    session = item.session
    arguments = (session.id, session.called, session.started, asks, session.node_id)
    places = fronts.of(bucket, session.namespace, targets, now=time.monotonic())
    columns = ([one.target for one in places], [one.priority for one in places], [one.at for one in places])
    rows = await conn.fetch(CLAIM, bucket, session.namespace, targets, room, *arguments, *columns)
    found = [(row["target"], row["priority"], row["available_at"]) for row in rows]
    fronts.took(bucket, session.namespace, found, asked=targets, places=places, cut=len(rows) == room)
    return rows


async def _open(conn: Connection, batch: Sequence[Claim]) -> dict[UUID, asyncpg.Record]:
    """The open ones among these sessions: heard of in time or not, draining or not, and what is paused for them."""
    ids: set[UUID] = {item.session.id for item in batch}
    there: dict[UUID, asyncpg.Record] = {}
    for bucket, part in by_bucket(ids, lambda id_: id_):
        there |= {row["id"]: row for row in await conn.fetch(OPEN_SESSIONS, bucket, part)}
    return there


async def _hold_called(conn: Connection, batch: Sequence[Claim]) -> dict[UUID, bool]:
    """Those of the processes that are called which nobody else claims for right now, held until we are done.

    And whether they acknowledge: one that has just registered with other words is called by those.
    """
    held: dict[UUID, bool] = {}
    for bucket, part in by_bucket({item.session.id for item in batch if item.session.called}, lambda id_: id_):
        held |= {row["id"]: row["acknowledges"] for row in await conn.fetch(HOLD_CALLED, bucket, part)}
    return held


async def _slots_left(conn: Connection, session: Session, placement: Placement) -> int:
    held = 0
    for bucket in placement.all():
        held += await conn.fetchval(COUNT_HELD, bucket, session.id)
    return max(0, session.slots - held)


async def _asked(conn: Connection, rows: list[asyncpg.Record]) -> dict[UUID, asyncpg.Record]:
    asked: dict[UUID, asyncpg.Record] = {}
    for bucket, part in by_bucket([row["id"] for row in rows], lambda id_: id_):
        asked |= {row["id"]: row for row in await conn.fetch(READ_ASKED, bucket, part, *span(part))}
    return asked


async def _steps(conn: Connection, rows: list[asyncpg.Record]) -> dict[UUID, int]:
    """How many steps earlier attempts have left."""
    steps: dict[UUID, int] = {}
    for bucket, part in by_bucket([row["id"] for row in rows if row["attempt"] > 1], lambda id_: id_):
        steps |= {row["execution_id"]: row["steps"] for row in await conn.fetch(COUNT_STEPS, bucket, part)}
    return steps


def _urgency(row: asyncpg.Record) -> tuple[int, datetime, UUID]:
    return -row["priority"], row["available_at"], row["id"]


def _replay(wish: asyncpg.Record) -> Replay | None:
    if wish["replay_source_run_id"] is None:
        return None
    return Replay(
        source_run_id=wish["replay_source_run_id"],
        mode=ReplayMode(wish["replay_mode"]),
        before_id=wish["replay_before_id"],
    )


def _lease(row: asyncpg.Record, asked: dict[UUID, asyncpg.Record], steps: dict[UUID, int], acknowledges: bool) -> Lease:
    wish = asked[row["id"]]
    return Lease(
        execution_id=ExecutionId(row["id"]),
        acknowledges=acknowledges,
        attempt=row["attempt"],
        failures=row["failures"],
        namespace=row["namespace"],
        target=row["target"],
        type=wish["type"],
        run_id=row["run_id"],
        root_id=wish["root_id"],
        parent_id=wish["parent_id"],
        session_key=wish["session_key"],
        actor_key=wish["actor_key"],
        input=wish["input"],
        context=wish["context"],
        timeout_seconds=wish["timeout_seconds"],
        deadline_in_seconds=row["deadline_in_seconds"],
        heartbeat_seconds=wish["heartbeat_seconds"],
        replay=_replay(wish),
        steps=steps.get(row["id"], 0),
        created_at=wish["created_at"],
    )
