"""What is known of where one execution stands at one moment: facts, of which `domain/explain.py` makes a sentence.

Every look is bounded and goes by an index, bucket by bucket: who asks why must not make it slower.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from uuid import UUID

import asyncpg

from controlplane.domain.approval import WAITING_FOR_APPROVAL
from controlplane.domain.event import EventType
from controlplane.domain.execution import STATUS_OF_STATE, State, Status
from controlplane.domain.explain import RETRYING
from controlplane.domain.ids import ExecutionId, SessionId, bucket_of
from controlplane.domain.lease import Transport
from controlplane.domain.limit import KEY, TURN, range_of
from controlplane.domain.pause import Pause
from controlplane.domain.placement import Placement
from controlplane.domain.standing import (
    AHEAD_MAX,
    CHILDREN_MAX,
    SHOWN_MAX,
    Awaited,
    Child,
    Failure,
    Hold,
    Line,
    Node,
    Process,
    Standing,
    Waits,
    Word,
)
from controlplane.domain.step import WAITS_MAX, StepKind, StepStatus, Until, reason_of
from controlplane.postgres.pool import Connection
from controlplane.reads import approvals, limits, pauses

PROCESSES_MAX = 50
"""Processes of a node that are looked at."""
HELD_MAX = 1_000
"""Executions that are counted in one process."""
CLOSED_LOOK_MAX = 1_000
"""The newest sessions among which one that closed a moment ago is looked for."""
TURNS_MAX = 1_000
"""Fairness keys that are counted in a line."""
FINISHES_LOOK_MAX = 1_000
"""The newest events among which finishes are counted."""
FINISHES_SECONDS = 900.0
"""How long ago a finish may be that still says something of the rate."""

READ = """
select e.id, e.target, e.type, e.created_at, e.retries_max, clock() as now,
  q.state, q.priority, q.attempt as queue_attempt, q.failures as queue_failures, q.status_reason as queue_reason,
  q.available_at, q.session_id, q.leased_at, q.deadline_at, q.waiting_at, q.accepted_at, q.progress_at,
  case
    when q.deadline_at is distinct from least(q.attempt_deadline_at, q.total_deadline_at) then q.heartbeat_seconds
  end as heartbeat_seconds,
  q.cancel_requested_at, q.cancel_reason, q.pause_requested, q.waits_until, q.line, q.fairness_key,
  o.status, o.attempt, o.failures, o.status_reason, o.error, o.finished_at
from executions e
left join queue q on q.bucket = $1 and q.id = e.id and q.id = $2
left join outcomes o on o.bucket = $1 and o.id = e.id and o.id = $2
where e.bucket = $1
  and e.id = $2
  and e.namespace = $3
"""

HOLDER = """
select id, transport, slots, heartbeat_seconds, renewed_at, expires_at,
  draining or drain_requested_at is not null as draining, drain_requested_at, drain_requested_by, drain_reason,
  acknowledges, closed_at, closed_reason
from sessions
where bucket = $1
  and id = $2
"""

NODE = """
select registered_at, updated_at, left_at
from nodes
where bucket = $1
  and namespace = $2
  and id = $3
"""

PROCESSES = """
select id, transport, slots, heartbeat_seconds, renewed_at, expires_at,
  draining or drain_requested_at is not null as draining, drain_requested_at, drain_requested_by, drain_reason,
  acknowledges, closed_at, closed_reason
from sessions
where bucket = $1
  and namespace = $2
  and node_id = $3
  and closed_at is null
limit $4
"""

# A session is forgotten soon after it has closed, and then its node says when that was; before, it is among the newest.
CLOSED_LATELY = """
select max(closed_at)
from (
  select namespace, node_id, closed_at
  from sessions
  where bucket = $1
  order by id desc
  limit $4
) s
where namespace = $2
  and node_id = $3
"""

# Counted as a claim counts: in a process that is called, who waits or has an unfinished child takes no slot.
HELD = """
select s.id, count(*) filter (where q.takes_slot) as held, (array_agg(q.id order by q.leased_at))[1:$5::int] as runs
from unnest($2::uuid[], $3::boolean[]) as s(id, called)
cross join lateral (
  select q.id, q.leased_at,
    not s.called or q.state = 'leased' and not exists (
      select 1
      from queue c
      where c.bucket = $1
        and c.parent_id = q.id
      offset 0
    ) as takes_slot
  from queue q
  where q.bucket = $1
    and q.session_id = s.id
    and q.state in ('leased', 'waiting')
  order by q.session_id
  limit $4
) q
group by s.id
"""

# Two ranges of one index, each read only as far as it is counted; what comes after it is not looked at.
AHEAD = """
select (
  select count(*)
  from (
    select 1
    from queue
    where bucket = $1
      and namespace = $2
      and target = $3
      and state = 'ready'
      and priority > $4
    order by priority desc
    limit $7
  ) a
) + (
  select count(*)
  from (
    select 1
    from queue
    where bucket = $1
      and namespace = $2
      and target = $3
      and state = 'ready'
      and priority = $4
      and (available_at, id) < ($5, $6)
    order by available_at
    limit $7
  ) b
)
"""

FINISHES = """
select count(*) as finishes, coalesce(extract(epoch from clock() - min(at)), 0)::float8 as seconds
from (
  select namespace, target, type, at
  from events
  where bucket = $1
  order by events.xid desc, events.seq desc
  limit $4
) e
where namespace = $2
  and target = $3
  and type in ('execution.completed', 'execution.failed', 'execution.cancelled', 'execution.timeout')
  and at > clock() - make_interval(secs => $5)
"""

# Of its own fairness key what comes before it; of the others in its line only what is more urgent.
AHEAD_IN_LINE = """
select (
  select count(*)
  from (
    select 1
    from queue
    where bucket = $1
      and namespace = $2
      and line = $3
      and state = 'blocked'
      and priority > $4
    order by priority desc
    limit $8
  ) a
) as urgent, (
  select count(*)
  from (
    select 1
    from queue
    where bucket = $1
      and namespace = $2
      and line = $3
      and state = 'blocked'
      and priority = $4
      and coalesce(fairness_key, '') collate "C" = $5
      and (available_at, id) < ($6, $7)
    order by available_at, id
    limit $8
  ) b
) as own
"""

# How many fairness keys of its priority take turns in its line, one index probe for each.
TURNS = """
with recursive turns(turn) as (
  (
    select coalesce(fairness_key, '') collate "C"
    from queue
    where bucket = $1
      and namespace = $2
      and line = $3
      and state = 'blocked'
      and priority = $4
    order by coalesce(fairness_key, '') collate "C"
    limit 1
  )
  union all
  select next.turn
  from turns
  cross join lateral (
    select coalesce(q.fairness_key, '') collate "C" as turn
    from queue q
    where q.bucket = $1
      and q.namespace = $2
      and q.line = $3
      and q.state = 'blocked'
      and q.priority = $4
      and coalesce(q.fairness_key, '') collate "C" > turns.turn
    order by coalesce(q.fairness_key, '') collate "C"
    limit 1
  ) next
)
select count(*)
from (
  select turn
  from turns
  limit $5
) t
"""

HOLDERS_BY_TARGET = """
select id, leased_at
from (
  select id, leased_at
  from queue
  where bucket = $1
    and namespace = $2
    and limited
    and state in ('ready', 'leased')
    and target collate "C" >= $3
    and target collate "C" < $4
  limit $5
) q
order by leased_at nulls last, id
limit $6
"""

HOLDERS_BY_KEY = """
select id, leased_at
from (
  select id, leased_at
  from queue
  where bucket = $1
    and namespace = $2
    and concurrency_key = $3
    and state in ('ready', 'leased')
  limit $4
) q
order by leased_at nulls last, id
limit $5
"""

LAST_OF_TYPE = """
select attempt, at, data
from events
where bucket = $1
  and execution_id = $2
  and namespace = $3
  and type = $4
order by seq desc
limit 1
"""

LAST_LINE = """
select at
from logs
where bucket = $1
  and execution_id = $2
  and namespace = $3
order by seq desc
limit 1
"""

CHILDREN = """
select id, target, state, count(*) over () as unfinished
from (
  select id, target, state
  from queue
  where bucket = $1
    and parent_id = $2
    and namespace = $3
  order by parent_id
  limit $4
) q
order by id
limit $5
"""

# What has not come yet first, and of that what comes by itself the soonest; counted is no more than may be awaited.
AWAITED = """
select name, kind, status, due_at, event, child_id, count(*) over () as steps,
  count(*) filter (where status <> 'pending') over () as done,
  count(*) filter (where kind = 'call') over () as calls,
  count(*) filter (where kind = 'call' and status <> 'pending') over () as calls_done,
  count(*) filter (where kind = 'call' and status = 'pending') over () as call_open,
  count(*) filter (where kind = 'event' and status = 'pending') over () as event_open,
  count(*) filter (where kind = 'approval' and status = 'pending') over () as approval_open,
  count(*) filter (where kind = 'sleep' and status = 'pending') over () as sleep_open
from (
  select name, kind, status, due_at, event, child_id
  from steps
  where bucket = $1
    and execution_id = $2
    and (status = 'pending' or awaited)
    and awaited
    and namespace = $3
  limit $4
) s
order by status = 'pending' desc, due_at, name
limit $5
"""


async def standing(
    conn: Connection,
    id_: ExecutionId,
    *,
    namespace: int,
    placement: Placement,
    cancel_grace_seconds: float,
    dispatch_seconds: float,
) -> Standing | None:
    """Where this execution stands, everything as of one moment. None: the namespace does not know it."""
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        row = await conn.fetchrow(READ, bucket_of(id_), id_, namespace)
        if row is None:
            return None
        found = _standing(row, cancel_grace_seconds, dispatch_seconds)
        match found.state:
            case State.READY:
                return await _with_queue(conn, found, row, namespace, placement)
            case State.BLOCKED:
                return await _with_hold(conn, found, row, namespace, placement)
            case State.DELAYED if found.status_reason == RETRYING:
                return replace(found, failure=await _failure(conn, id_, namespace))
            case State.PAUSED:
                return replace(found, pause=await _pause(conn, id_, namespace))
            case State.LEASED | State.WAITING:
                return await _with_attempt(conn, found, row, namespace)
        return found


async def _with_hold(
    conn: Connection, found: Standing, row: asyncpg.Record, namespace: int, placement: Placement
) -> Standing:
    held = await _pauses(conn, found, namespace, placement)
    if held:
        return replace(found, pauses=held)
    line, priority, turn = row["line"], row["priority"], row["fairness_key"] or ""
    if line.startswith(TURN):  # those before it are ready, and what keeps them keeps it
        found = replace(found, node=await _node(conn, found.node_id, namespace, placement))
    own = urgent = 0
    finishes, seconds = 0, 0.0
    turns = await conn.fetchval(TURNS, bucket_of(found.id), namespace, line, priority, TURNS_MAX)
    for bucket in placement.all():
        place = (priority, turn, row["available_at"], found.id, AHEAD_MAX + 1)
        ahead = await conn.fetchrow(AHEAD_IN_LINE, bucket, namespace, line, *place)
        assert ahead is not None
        own, urgent = own + ahead["own"], urgent + ahead["urgent"]
        late = await conn.fetchrow(FINISHES, bucket, namespace, found.target, FINISHES_LOOK_MAX, FINISHES_SECONDS)
        if late is not None:
            finishes, seconds = finishes + late["finishes"], max(seconds, late["seconds"])
    around = 1 if line.startswith(TURN) else max(1, turns)
    hold = Hold(line=line, ahead=urgent + own * around, turns=turns)
    if line.endswith(found.target):  # else what has ended of late says nothing of the line
        hold = replace(hold, finishes=finishes, seconds=seconds)
    if not line.startswith(TURN):
        view = await limits.read(conn, namespace=namespace, key=line, placement=placement)
        if view is not None:
            holders = await _holders(conn, namespace, line, placement)
            hold = replace(hold, limit=view.limit, held=view.held, holders=holders)
    return replace(found, hold=hold, fairness_key=row["fairness_key"])


async def _holders(conn: Connection, namespace: int, key: str, placement: Placement) -> tuple[ExecutionId, ...]:
    ids: list[ExecutionId] = []
    for bucket in placement.all():
        rows = await (
            conn.fetch(HOLDERS_BY_KEY, bucket, namespace, key.removeprefix(KEY), HELD_MAX, SHOWN_MAX)
            if key.startswith(KEY)
            else conn.fetch(HOLDERS_BY_TARGET, bucket, namespace, *range_of(key), HELD_MAX, SHOWN_MAX)
        )
        ids += [ExecutionId(row["id"]) for row in rows]
    return tuple(ids[:SHOWN_MAX])


async def _with_queue(
    conn: Connection, found: Standing, row: asyncpg.Record, namespace: int, placement: Placement
) -> Standing:
    held = await _pauses(conn, found, namespace, placement)
    if held:
        return replace(found, pauses=held)
    node = await _node(conn, found.node_id, namespace, placement)
    if not any(not one.draining for one in node.processes):
        return replace(found, node=node)
    ahead, finishes, seconds = 0, 0, 0.0
    for bucket in placement.all():
        place = (row["priority"], row["available_at"], found.id, AHEAD_MAX + 1)
        ahead += await conn.fetchval(AHEAD, bucket, namespace, found.target, *place)
        late = await conn.fetchrow(FINISHES, bucket, namespace, found.target, FINISHES_LOOK_MAX, FINISHES_SECONDS)
        if late is not None:
            finishes, seconds = finishes + late["finishes"], max(seconds, late["seconds"])
    return replace(found, node=node, line=Line(ahead=ahead, finishes=finishes, seconds=seconds))


async def _pauses(conn: Connection, found: Standing, namespace: int, placement: Placement) -> tuple[Pause, ...]:
    bucket = placement.of_key(namespace, found.node_id)
    return tuple(await pauses.about(conn, bucket, namespace=namespace, node_id=found.node_id, target=found.target))


async def _node(conn: Connection, node_id: str, namespace: int, placement: Placement) -> Node:
    bucket = placement.of_key(namespace, node_id)
    row = await conn.fetchrow(NODE, bucket, namespace, node_id)
    rows = await conn.fetch(PROCESSES, bucket, namespace, node_id, PROCESSES_MAX)
    left_at = None if row is None else row["left_at"]
    if not rows:
        lately = await conn.fetchval(CLOSED_LATELY, bucket, namespace, node_id, CLOSED_LOOK_MAX)
        left_at = max((at for at in (left_at, lately) if at is not None), default=None)
    return Node(
        id=node_id,
        registered_at=None if row is None else row["updated_at"],
        left_at=left_at,
        processes=await _with_held(conn, [_process(one) for one in rows], placement),
    )


async def _with_held(conn: Connection, processes: list[Process], placement: Placement) -> tuple[Process, ...]:
    if not processes:
        return ()
    asked = ([one.id for one in processes], [one.called for one in processes])
    held: dict[UUID, int] = {}
    runs: dict[UUID, tuple[ExecutionId, ...]] = {}
    for bucket in placement.all():
        for row in await conn.fetch(HELD, bucket, *asked, HELD_MAX, SHOWN_MAX):
            held[row["id"]] = held.get(row["id"], 0) + row["held"]
            runs[row["id"]] = runs.get(row["id"], ()) + tuple(map(ExecutionId, row["runs"]))
    return tuple(replace(one, held=held.get(one.id, 0), runs=runs.get(one.id, ())) for one in processes)


async def _with_attempt(conn: Connection, found: Standing, row: asyncpg.Record, namespace: int) -> Standing:
    bucket, id_ = bucket_of(found.id), found.id
    children = await conn.fetch(CHILDREN, bucket, id_, namespace, CHILDREN_MAX + 1, SHOWN_MAX)
    session_id: UUID | None = row["session_id"]
    holder = None if session_id is None else await conn.fetchrow(HOLDER, bucket_of(session_id), session_id)
    if row["waits_until"] is not None:
        found = await _with_waits(conn, found, row["waits_until"], namespace)
    asks = found.status_reason == WAITING_FOR_APPROVAL
    return replace(
        found,
        holder=None if holder is None else _process(holder),
        children=tuple(
            Child(id=ExecutionId(one["id"]), target=one["target"], state=State(one["state"])) for one in children
        ),
        children_count=children[0]["unfinished"] if children else 0,
        log_at=await conn.fetchval(LAST_LINE, bucket, id_, namespace),
        pause=await _pause(conn, id_, namespace) if found.pause_requested else None,
        approval=await approvals.latest(conn, bucket, id_, namespace=namespace) if asks else None,
    )


async def _with_waits(conn: Connection, found: Standing, until: str, namespace: int) -> Standing:
    """The row says why it began to wait; said is what it still waits for."""
    rows = await conn.fetch(AWAITED, bucket_of(found.id), found.id, namespace, WAITS_MAX, SHOWN_MAX)
    counts = {name: rows[0][name] if rows else 0 for name in ("steps", "done", "calls", "calls_done")}
    waits = Waits(
        until=Until(until),
        **counts,
        first=tuple(
            Awaited(
                name=row["name"],
                kind=StepKind(row["kind"]),
                due_at=row["due_at"],
                event=row["event"],
                child_id=None if row["child_id"] is None else ExecutionId(row["child_id"]),
            )
            for row in rows
            if row["status"] == StepStatus.PENDING
        ),
    )
    kinds = (StepKind.APPROVAL, StepKind.EVENT, StepKind.CALL, StepKind.SLEEP)
    open_: set[StepKind] = {kind for kind in kinds if rows and rows[0][f"{kind.value}_open"]}
    return replace(found, waits=waits, status_reason=reason_of(open_) if open_ else found.status_reason)


async def _failure(conn: Connection, id_: ExecutionId, namespace: int) -> Failure | None:
    row = await conn.fetchrow(LAST_OF_TYPE, bucket_of(id_), id_, namespace, EventType.RETRYING.value)
    if row is None:
        return None
    said = _said(row["data"])
    error, kind, after = said.get("error"), said.get("error_class"), said.get("retry_after_seconds")
    return Failure(
        attempt=row["attempt"],
        at=row["at"],
        error=None if error is None else json.dumps(error).encode(),
        error_class=kind if isinstance(kind, str) else None,
        retry_after_seconds=after if isinstance(after, int | float) else None,
    )


async def _pause(conn: Connection, id_: ExecutionId, namespace: int) -> Word | None:
    row = await conn.fetchrow(LAST_OF_TYPE, bucket_of(id_), id_, namespace, EventType.PAUSED.value)
    if row is None:
        return None
    reason = _said(row["data"]).get("reason")
    return Word(at=row["at"], reason=reason if isinstance(reason, str) else None)


def _said(data: bytes | None) -> dict[str, object]:
    """What an event says. One nested too deep for Python, or with a number too long for it, says nothing."""
    try:
        said: object = json.loads(data) if data else None
    except (ValueError, RecursionError):
        said = None
    return said if isinstance(said, dict) else {}


def _standing(row: asyncpg.Record, cancel_grace_seconds: float, dispatch_seconds: float) -> Standing:
    state = None if row["state"] is None else State(row["state"])
    ended = state is None
    pausing = bool(row["pause_requested"])
    cancelled_at: datetime | None = row["cancel_requested_at"]
    return Standing(
        id=ExecutionId(row["id"]),
        now=row["now"],
        target=row["target"],
        type=row["type"],
        status=Status(row["status"]) if state is None else Status.WAITING if pausing else STATUS_OF_STATE[state],
        state=state,
        status_reason=row["status_reason"] if ended else row["queue_reason"],
        attempt=row["attempt"] if ended else row["queue_attempt"],
        failures=row["failures"] if ended else row["queue_failures"],
        retries_max=row["retries_max"],
        created_at=row["created_at"],
        available_at=row["available_at"],
        leased_at=row["leased_at"],
        deadline_at=row["deadline_at"],
        heartbeat_seconds=row["heartbeat_seconds"],
        waiting_at=row["waiting_at"],
        accepted=row["accepted_at"] is not None,
        progress_at=row["progress_at"],
        pause_requested=pausing,
        cancel=None if cancelled_at is None else Word(at=cancelled_at, reason=row["cancel_reason"]),
        cancel_grace_seconds=cancel_grace_seconds,
        dispatch_seconds=dispatch_seconds,
        ended_at=row["finished_at"],
        error=row["error"],
    )


def _process(row: asyncpg.Record) -> Process:
    asked_at: datetime | None = row["drain_requested_at"]
    return Process(
        id=SessionId(row["id"]),
        transport=Transport(row["transport"]),
        slots=row["slots"],
        heartbeat_seconds=row["heartbeat_seconds"],
        renewed_at=row["renewed_at"],
        expires_at=row["expires_at"],
        draining=row["draining"],
        drain=None if asked_at is None else Word(at=asked_at, reason=row["drain_reason"], by=row["drain_requested_by"]),
        acknowledges=row["acknowledges"],
        closed_at=row["closed_at"],
        closed_reason=row["closed_reason"],
    )
