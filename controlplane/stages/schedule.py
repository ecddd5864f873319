"""Schedule: submits by itself, at planned moments.

    *schedule* ──► submit ──► lease ──► complete ──► finish ──► deliver

A tick is a row of its own, and its primary key (the schedule and the planned moment) makes it happen once: whoever
finds it due, however often, and whatever dies in between, for the row, the execution and the step to the next tick are
one transaction. An idempotency key would do the same for a day; the row also remembers what was skipped or missed,
which leaves no execution, and knows what a schedule has still running. Everything of a schedule lives in the bucket of
its name, its executions too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from controlplane.domain.cap import Ceiling
from controlplane.domain.execution import Accepted, Submission
from controlplane.domain.ids import ExecutionId, show
from controlplane.domain.notice import moment
from controlplane.domain.schedule import (
    Definition,
    Outcome,
    Overlap,
    Rule,
    Schedule,
    ScheduleId,
    Served,
    check,
    due_at,
    first_of,
    judge,
    next_after,
    plan,
)
from controlplane.errors import ControlPlaneError, Invalid, ScheduleExists, ScheduleNotFound, Unavailable
from controlplane.postgres.lane import Raced
from controlplane.postgres.pool import Connection
from controlplane.stages import cancel, room, submit

MakeId = Callable[[int], UUID]

FIRE_MAX = 64
FULL_SECONDS = 5.0
"""How long a schedule rests whose namespace has no room."""
"""Schedules of one pass: the inputs of all of them are in memory at once."""
BROKEN_SECONDS = 300.0
"""When a schedule is looked at again whose rule this replica cannot read (a time zone that it does not have)."""

LOCK_NAMED = """
select id, namespace, name, target, input, context, cron, interval_seconds, run_at, time_zone, anchor_at, overlap,
  catch_up, jitter_seconds, priority, retries_max, timeout_seconds, paused, waiting, next_at, last_at, created_at,
  updated_at, clock() as now
from schedules
where bucket = $1
  and namespace = $2
  and name = $3
for update
"""

READ_CLOCK = "select clock()"

INSERT = """
insert into schedules (
  bucket, id, namespace, name, target, input, context, cron, interval_seconds, run_at, time_zone, anchor_at, overlap,
  catch_up, jitter_seconds, priority, retries_max, timeout_seconds, paused, next_at, due_at, created_at, updated_at
)
select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, clock(), clock()
on conflict (bucket, namespace, name) do nothing
returning id, namespace, name, target, input, context, cron, interval_seconds, run_at, time_zone, anchor_at, overlap,
  catch_up, jitter_seconds, priority, retries_max, timeout_seconds, paused, waiting, next_at, last_at, created_at,
  updated_at
"""

REPLACE = """
update schedules
set target = $3, input = $4, context = $5, cron = $6, interval_seconds = $7, run_at = $8, time_zone = $9,
  anchor_at = $10, overlap = $11, catch_up = $12, jitter_seconds = $13, priority = $14, retries_max = $15,
  timeout_seconds = $16, paused = $17, next_at = $18, due_at = $19, updated_at = clock()
where bucket = $1
  and id = $2
returning id, namespace, name, target, input, context, cron, interval_seconds, run_at, time_zone, anchor_at, overlap,
  catch_up, jitter_seconds, priority, retries_max, timeout_seconds, paused, waiting, next_at, last_at, created_at,
  updated_at
"""

REMOVE = """
delete from schedules
where bucket = $1
  and namespace = $2
  and name = $3
returning id
"""

# What nobody will look at again.
CLOSE_ALL = """
update schedule_ticks
set open = false, outcome = case outcome when 'waiting' then 'skipped' else outcome end
where bucket = $1
  and schedule_id = $2
  and (open or outcome = 'waiting')
"""

DUE_TARGETS = """
select namespace, target
from schedules
where bucket = $1
  and not paused
  and due_at <= clock()
order by due_at
limit $2
"""

LOCK_DUE = """
select id, namespace, name, target, input, context, cron, interval_seconds, run_at, time_zone, anchor_at, overlap,
  catch_up, jitter_seconds, priority, retries_max, timeout_seconds, paused, waiting, next_at, last_at, created_at,
  updated_at, clock() as now
from schedules
where bucket = $1
  and not paused
  and due_at <= clock()
order by due_at
limit $2
for update skip locked
"""

WAITING_TARGETS = """
select s.namespace, s.target
from schedules s
where s.bucket = $1
  and not s.paused
  and s.waiting > 0
  and not exists (
    select 1
    from schedule_ticks t
    join queue q on q.bucket = $1 and q.id = t.execution_id
    where t.bucket = $1
      and t.schedule_id = s.id
      and t.open
  )
order by s.id
limit $2
"""

LOCK_WAITING = """
select s.id, s.namespace, s.name, s.target, s.input, s.context, s.cron, s.interval_seconds, s.run_at, s.time_zone,
  s.anchor_at, s.overlap, s.catch_up, s.jitter_seconds, s.priority, s.retries_max, s.timeout_seconds, s.paused,
  s.waiting, s.next_at, s.last_at, s.created_at, s.updated_at
from schedules s
where s.bucket = $1
  and not s.paused
  and s.waiting > 0
  and not exists (
    select 1
    from schedule_ticks t
    join queue q on q.bucket = $1 and q.id = t.execution_id
    where t.bucket = $1
      and t.schedule_id = s.id
      and t.open
  )
order by s.id
limit $2
for update of s skip locked
"""

CLOSE = """
update schedule_ticks t
set open = false
where t.bucket = $1
  and t.schedule_id = any($2::uuid[])
  and t.open
  and not exists (
    select 1
    from queue q
    where q.bucket = $1
      and q.id = t.execution_id
  )
"""

READ_OPEN = """
select schedule_id, execution_id
from schedule_ticks
where bucket = $1
  and schedule_id = any($2::uuid[])
  and open
"""

INSERT_TICKS = """
insert into schedule_ticks (
  bucket, schedule_id, planned_at, by_hand, namespace, outcome, until_at, execution_id, open, at
)
select $1, t.schedule_id, t.planned_at, false, t.namespace, t.outcome, t.until_at, t.execution_id,
  t.execution_id is not null, clock()
from unnest($2::uuid[], $3::timestamptz[], $4::smallint[], $5::text[], $6::timestamptz[], $7::uuid[])
  as t(schedule_id, planned_at, namespace, outcome, until_at, execution_id)
on conflict (bucket, schedule_id, planned_at, by_hand) do nothing
returning schedule_id, planned_at
"""

# At this moment, or just after the last that was run by hand: they come as quickly as people press a button.
INSERT_BY_HAND = """
insert into schedule_ticks (bucket, schedule_id, planned_at, by_hand, namespace, outcome, execution_id, open, at)
select $1, $2, greatest(clock(), $4), true, $3, 'submitted', $5, true, clock()
where not exists (
  select 1
  from schedule_ticks t
  where t.bucket = $1
    and t.execution_id = $5
)
"""

LAST_BY_HAND = """
select max(planned_at)
from schedule_ticks
where bucket = $1
  and schedule_id = $2
  and by_hand
"""

TAKE_WAITING = """
update schedule_ticks t
set outcome = 'submitted', execution_id = w.execution_id, open = true, at = clock()
from unnest($2::uuid[], $3::uuid[]) as w(schedule_id, execution_id)
where t.bucket = $1
  and t.schedule_id = w.schedule_id
  and not t.by_hand
  and t.outcome = 'waiting'
  and t.planned_at = (
    select x.planned_at
    from schedule_ticks x
    where x.bucket = $1
      and x.schedule_id = w.schedule_id
      and x.outcome = 'waiting'
    order by x.planned_at
    limit 1
  )
returning t.schedule_id, t.planned_at
"""

MOVE_ON = """
update schedules s
set next_at = m.next_at, due_at = m.due_at, last_at = coalesce(m.last_at, s.last_at), waiting = s.waiting + m.waiting
from unnest($2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::smallint[])
  as m(id, next_at, due_at, last_at, waiting)
where s.bucket = $1
  and s.id = m.id
"""

POSTPONE = """
update schedules
set due_at = clock() + make_interval(secs => $3)
where bucket = $1
  and id = any($2::uuid[])
"""

# Nothing found to take: then nothing waits, whatever was counted.
COUNT_DOWN = """
update schedules s
set waiting = case when s.id = any($3::uuid[]) then s.waiting - 1 else 0 end
where s.bucket = $1
  and s.id = any($2::uuid[])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """An execution that a schedule has submitted."""

    schedule: Schedule
    execution_id: ExecutionId
    planned_at: datetime


@dataclass(slots=True, kw_only=True)
class Fired:
    """What a pass did. `ended` and `cancelling`: what it cancelled, at once or by telling the node."""

    looked_at: int = 0
    started: list[Started] = field(default_factory=list)
    ended: list[ExecutionId] = field(default_factory=list)
    cancelling: list[ExecutionId] = field(default_factory=list)
    broken: list[tuple[Schedule, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tick:
    schedule: Schedule
    planned_at: datetime
    outcome: Outcome
    until_at: datetime | None = None
    submission: Submission | None = None


Allow = Callable[[Schedule], None]
"""Raises where whoever asks may not touch the schedule that stands there, which is locked."""


def anyone(_: Schedule) -> None:
    """Whoever got this far may touch every schedule."""


async def put(
    conn: Connection,
    bucket: int,
    id_: ScheduleId,
    definition: Definition,
    *,
    namespace: int,
    name: str,
    paused: bool | None,
    replacing: bool,
    ceiling: Ceiling | None = None,
    allow: Allow = anyone,
) -> tuple[Schedule, bool]:
    """From here on the schedule of this name is this one. Says whether it is new. `allow`: of one that is there.

    What is asked for again in the same words changes nothing, also while time goes on: who says when in the same words
    keeps the tick that is planned next. Guard: the unique name, and the locked row.
    Raises: Invalid; CapReached; ScheduleExists where it is another and not to be replaced.
    """
    while True:
        try:
            async with conn.transaction():
                made, new = await _put(conn, bucket, id_, definition, namespace, name, paused, replacing, allow)
                if new:
                    await room.require(conn, ceiling, namespace)
                return made, new
        except Raced:  # somebody else was the first to use this name
            continue


async def pause(conn: Connection, bucket: int, *, namespace: int, name: str, allow: Allow = anyone) -> Schedule:
    """From here on nothing is submitted; what falls into the pause is not made up for, but for a single `run_at`.

    Raises: ScheduleNotFound.
    """
    async with conn.transaction():
        schedule, _ = await _locked(conn, bucket, namespace, name)
        allow(schedule)
        if schedule.paused:
            return schedule
        return await _write(conn, bucket, replace(schedule, paused=True))


async def resume(conn: Connection, bucket: int, *, namespace: int, name: str) -> Schedule:
    """Go on with the next tick after now. Raises: ScheduleNotFound."""
    async with conn.transaction():
        schedule, now = await _locked(conn, bucket, namespace, name)
        if not schedule.paused:
            return schedule
        return await _write(conn, bucket, _resumed(schedule, now))


async def lock(conn: Connection, bucket: int, *, namespace: int, name: str) -> Schedule | None:
    """The schedule as it stands until the caller's transaction ends; None when there is none."""
    row = await conn.fetchrow(LOCK_NAMED, bucket, namespace, name)
    return None if row is None else Schedule.from_row(row)


async def remove(conn: Connection, bucket: int, *, namespace: int, name: str) -> None:
    """Forget the schedule; what it has submitted goes on. Raises: ScheduleNotFound."""
    async with conn.transaction():
        id_ = await conn.fetchval(REMOVE, bucket, namespace, name)
        if id_ is None:
            raise ScheduleNotFound
        await conn.execute(CLOSE_ALL, bucket, id_)


async def run_now(
    conn: Connection,
    bucket: int,
    id_: ExecutionId,
    run_id: str,
    *,
    namespace: int,
    name: str,
    served: Served,
    target: str,
    idempotency_key: str | None,
) -> tuple[Accepted, Schedule]:
    """Submit now, beside whatever is running and also while it is paused; planned ticks come as they would have.

    Guard: the id is the caller's own and the idempotency key holds for this schedule: said twice it is one execution.
    Raises: ScheduleNotFound, IdempotencyConflict.
    """
    while True:
        try:
            async with conn.transaction():
                schedule, now = await _locked(conn, bucket, namespace, name)
                if schedule.definition.target != target:
                    raise Unavailable("The schedule was replaced in this very moment; try again.")
                wish = _submission(schedule, served, now, id_, run_id, by_hand=True)
                keyed = replace(
                    wish, idempotency_key=idempotency_key, idempotency_scope=f"schedule {show('sch', schedule.id)}"
                )
                [accepted] = await submit.accept(conn, [keyed])
                if isinstance(accepted, ControlPlaneError):
                    raise accepted
                if not accepted.replayed:
                    last: datetime | None = await conn.fetchval(LAST_BY_HAND, bucket, schedule.id)
                    least = now if last is None else last + timedelta(microseconds=1)
                    await conn.execute(INSERT_BY_HAND, bucket, schedule.id, namespace, least, id_)
                return accepted, schedule
        except Raced:
            continue


async def wanted(conn: Connection, bucket: int, *, limit: int = FIRE_MAX) -> set[tuple[int, str]]:
    """The targets (with their namespaces) of the schedules that there is something to do for, without a lock."""
    rows = [*await conn.fetch(DUE_TARGETS, bucket, limit), *await conn.fetch(WAITING_TARGETS, bucket, limit)]
    return {(row["namespace"], row["target"]) for row in rows}


async def fire(
    conn: Connection,
    bucket: int,
    *,
    serves: Mapping[tuple[int, str], Served],
    make_id: MakeId,
    limit: int = FIRE_MAX,
    full: Collection[int] = (),
) -> Fired:
    """What is due happens: every tick is decided on, at most one of each schedule submits, and the next is planned.

    `full`: namespaces that have no room now; theirs is looked at again a little later, and caught up with as any delay.
    Moves: nothing → ready. Guard: the locked schedule that is still due, and the primary key of the tick.
    """
    fired = Fired()
    async with conn.transaction():
        rows = await conn.fetch(LOCK_DUE, bucket, limit)
        due = [(one, row["now"]) for row in rows if _key(one := Schedule.from_row(row)) in serves]
        if held := [one.id for one, _ in due if one.namespace in full]:
            await conn.execute(POSTPONE, bucket, held, FULL_SECONDS)
            due = [(one, now) for one, now in due if one.namespace not in full]
        if not due:
            return fired
        fired.looked_at = len(due)
        unfinished = await _unfinished(conn, bucket, [one.id for one, _ in due])
        ticks: list[_Tick] = []
        moves: dict[ScheduleId, tuple[Schedule, datetime | None]] = {}
        for one, now in due:
            try:
                planned = plan(one, now=now)
            except Invalid as error:
                fired.broken.append((one, error.detail))
                continue
            moves[one.id] = (one, planned.next_at)
            if planned.missed is not None:
                since, until = planned.missed
                ticks.append(_Tick(schedule=one, planned_at=since, outcome=Outcome.MISSED, until_at=until))
            outcomes = judge(
                one.definition.overlap, planned.ticks, unfinished=one.id in unfinished, waiting=one.waiting
            )
            for at, outcome in zip(planned.ticks, outcomes, strict=True):
                wish = _wish(one, serves[_key(one)], at, bucket, make_id) if outcome is Outcome.SUBMITTED else None
                ticks.append(_Tick(schedule=one, planned_at=at, outcome=outcome, submission=wish))
        new = await _insert(conn, bucket, ticks)
        others = [
            id_
            for tick in new
            if tick.submission is not None and tick.schedule.definition.overlap is Overlap.CANCEL_OTHER
            for id_ in unfinished.get(tick.schedule.id, ())
        ]
        await _cancel(conn, others, fired, make_id)
        await _submit(conn, bucket, new, fired)
        await _move_on(conn, bucket, moves, new)
        if fired.broken:
            await conn.execute(POSTPONE, bucket, [one.id for one, _ in fired.broken], BROKEN_SECONDS)
    return fired


async def advance(
    conn: Connection,
    bucket: int,
    *,
    serves: Mapping[tuple[int, str], Served],
    make_id: MakeId,
    limit: int = FIRE_MAX,
) -> Fired:
    """Submit the oldest waiting tick of each schedule whose executions have all ended.

    Moves: nothing → ready. Guard: the locked schedule, under whose lock it is looked again, and the tick still waiting.
    """
    fired = Fired()
    async with conn.transaction():
        rows = await conn.fetch(LOCK_WAITING, bucket, limit)
        found = [one for one in map(Schedule.from_row, rows) if _key(one) in serves]
        # Another scheduler may have submitted between the look and the lock: a row that is locked is read anew, what it
        # was compared with is not.
        unfinished = await _unfinished(conn, bucket, [one.id for one in found]) if found else {}
        free = {one.id: one for one in found if one.id not in unfinished}
        if not free:
            return fired
        fired.looked_at = len(free)
        ids = {id_: ExecutionId(make_id(bucket)) for id_ in free}
        taken = await conn.fetch(TAKE_WAITING, bucket, list(ids), list(ids.values()))
        ticks = [
            _Tick(
                schedule=one,
                planned_at=row["planned_at"],
                outcome=Outcome.SUBMITTED,
                submission=_submission(
                    one, serves[_key(one)], row["planned_at"], ids[one.id], show("run", make_id(bucket))
                ),
            )
            for row in taken
            if (one := free[row["schedule_id"]])
        ]
        await _submit(conn, bucket, ticks, fired)
        await conn.execute(COUNT_DOWN, bucket, list(free), [row["schedule_id"] for row in taken])
    return fired


async def _put(
    conn: Connection,
    bucket: int,
    id_: ScheduleId,
    definition: Definition,
    namespace: int,
    name: str,
    paused: bool | None,
    replacing: bool,
    allow: Allow,
) -> tuple[Schedule, bool]:
    row = await conn.fetchrow(LOCK_NAMED, bucket, namespace, name)
    if row is None:
        return await _create(conn, bucket, id_, definition, namespace, name, bool(paused)), True
    there = Schedule.from_row(row)
    allow(there)
    if there.definition.same(definition) and paused in (None, there.paused):
        return there, there.id == id_  # our own earlier try, whose answer was lost
    if not replacing:
        raise ScheduleExists(
            "There is another schedule of this name.",
            where="body.name",
            fix="Replace it (PUT, or --replace), or take another name.",
        )
    check(definition, now=row["now"])
    kept = definition.rule.same_times(there.definition.rule)
    rule = there.definition.rule if kept else _anchored(definition.rule, row["now"])
    new = replace(
        there, definition=replace(definition, rule=rule), next_at=there.next_at if kept else first_of(rule, row["now"])
    )
    if paused is not None and paused != there.paused:
        new = replace(new, paused=True) if paused else _resumed(new, row["now"])
    return await _write(conn, bucket, new), False


async def _create(
    conn: Connection, bucket: int, id_: ScheduleId, definition: Definition, namespace: int, name: str, paused: bool
) -> Schedule:
    now: datetime = await conn.fetchval(READ_CLOCK)
    check(definition, now=now)
    rule = _anchored(definition.rule, now)
    next_at = first_of(rule, now)
    row = await conn.fetchrow(
        INSERT,
        bucket,
        id_,
        namespace,
        name,
        definition.target,
        definition.input,
        definition.context,
        rule.cron,
        rule.interval_seconds,
        rule.run_at,
        rule.time_zone,
        rule.anchor_at,
        definition.overlap.value,
        definition.catch_up.value,
        definition.jitter_seconds,
        definition.priority,
        definition.retries_max,
        definition.timeout_seconds,
        paused,
        next_at,
        None if next_at is None else due_at(id_, next_at, definition.jitter_seconds),
    )
    if row is None:
        raise Raced
    return Schedule.from_row(row)


async def _write(conn: Connection, bucket: int, schedule: Schedule) -> Schedule:
    definition, rule, next_at = schedule.definition, schedule.definition.rule, schedule.next_at
    row = await conn.fetchrow(
        REPLACE,
        bucket,
        schedule.id,
        definition.target,
        definition.input,
        definition.context,
        rule.cron,
        rule.interval_seconds,
        rule.run_at,
        rule.time_zone,
        rule.anchor_at,
        definition.overlap.value,
        definition.catch_up.value,
        definition.jitter_seconds,
        definition.priority,
        definition.retries_max,
        definition.timeout_seconds,
        schedule.paused,
        next_at,
        None if next_at is None else due_at(schedule.id, next_at, definition.jitter_seconds),
    )
    assert row is not None
    return Schedule.from_row(row)


async def _locked(conn: Connection, bucket: int, namespace: int, name: str) -> tuple[Schedule, datetime]:
    row = await conn.fetchrow(LOCK_NAMED, bucket, namespace, name)
    if row is None:
        raise ScheduleNotFound
    return Schedule.from_row(row), row["now"]


def _anchored(rule: Rule, now: datetime) -> Rule:
    """An interval is counted from the whole second in which it was asked for."""
    return replace(rule, anchor_at=now.replace(microsecond=0))


def _resumed(schedule: Schedule, now: datetime) -> Schedule:
    rule = schedule.definition.rule
    single = rule.run_at is not None
    return replace(schedule, paused=False, next_at=schedule.next_at if single else next_after(rule, now))


def _key(schedule: Schedule) -> tuple[int, str]:
    return schedule.namespace, schedule.definition.target


def _wish(schedule: Schedule, served: Served, at: datetime, bucket: int, make_id: MakeId) -> Submission:
    return _submission(schedule, served, at, ExecutionId(make_id(bucket)), show("run", make_id(bucket)))


def _submission(
    schedule: Schedule,
    served: Served,
    planned_at: datetime,
    id_: ExecutionId,
    run_id: str,
    *,
    by_hand: bool = False,
) -> Submission:
    definition = schedule.definition
    retries = definition.retries_max
    origin = {
        "kind": "schedule",
        "schedule": schedule.name,
        "schedule_id": show("sch", schedule.id),
        "planned_at": moment(planned_at),
        "by_hand": by_hand,
    }
    return Submission(
        id=id_,
        namespace=schedule.namespace,
        run_id=run_id,
        root_id=id_,
        target=definition.target,
        type=served.type,
        input=definition.input,
        context=definition.context,
        origin=json.dumps(origin).encode(),
        priority=definition.priority,
        retry=served.retry if retries is None else replace(served.retry, retries_max=retries),
        timeout_seconds=served.timeout_seconds if definition.timeout_seconds is None else definition.timeout_seconds,
        schedule_to_start_seconds=served.schedule_to_start_seconds,
        total_seconds=served.total_seconds,
        heartbeat_seconds=served.heartbeat_seconds,
        concurrency_key=served.concurrency_key,
        line=served.line,
    )


async def _unfinished(conn: Connection, bucket: int, ids: Sequence[ScheduleId]) -> dict[ScheduleId, list[ExecutionId]]:
    """What these schedules, which are locked, have submitted that has not ended."""
    await conn.execute(CLOSE, bucket, ids)
    found: dict[ScheduleId, list[ExecutionId]] = {}
    for row in await conn.fetch(READ_OPEN, bucket, ids):
        found.setdefault(row["schedule_id"], []).append(ExecutionId(row["execution_id"]))
    return found


async def _insert(conn: Connection, bucket: int, ticks: Sequence[_Tick]) -> list[_Tick]:
    """Those of the ticks that have not happened before."""
    rows = await conn.fetch(
        INSERT_TICKS,
        bucket,
        [tick.schedule.id for tick in ticks],
        [tick.planned_at for tick in ticks],
        [tick.schedule.namespace for tick in ticks],
        [tick.outcome.value for tick in ticks],
        [tick.until_at for tick in ticks],
        [None if tick.submission is None else tick.submission.id for tick in ticks],
    )
    new = {(row["schedule_id"], row["planned_at"]) for row in rows}
    return [tick for tick in ticks if (tick.schedule.id, tick.planned_at) in new]


async def _cancel(conn: Connection, ids: Sequence[ExecutionId], fired: Fired, make_id: MakeId) -> None:
    if not ids:
        return
    for done in await cancel.request(conn, ids, reason="The schedule has begun the next.", make_id=make_id):
        if not isinstance(done, ControlPlaneError):
            (fired.ended if done.settled else fired.cancelling).append(done.id)


async def _submit(conn: Connection, bucket: int, ticks: Sequence[_Tick], fired: Fired) -> None:
    wishes = {tick.submission.id: tick for tick in ticks if tick.submission is not None}
    await submit.enqueue(conn, bucket, [tick.submission for tick in wishes.values() if tick.submission is not None])
    fired.started += [
        Started(schedule=tick.schedule, execution_id=id_, planned_at=tick.planned_at) for id_, tick in wishes.items()
    ]


async def _move_on(
    conn: Connection,
    bucket: int,
    moves: Mapping[ScheduleId, tuple[Schedule, datetime | None]],
    new: Sequence[_Tick],
) -> None:
    last = {tick.schedule.id: tick.planned_at for tick in new if tick.submission is not None}
    waits = [tick.schedule.id for tick in new if tick.outcome is Outcome.WAITING]
    await conn.execute(
        MOVE_ON,
        bucket,
        list(moves),
        [next_at for _, next_at in moves.values()],
        [
            None if next_at is None else due_at(one.id, next_at, one.definition.jitter_seconds)
            for one, next_at in moves.values()
        ],
        [last.get(id_) for id_ in moves],
        [waits.count(id_) for id_ in moves],
    )
