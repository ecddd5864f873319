"""Trigger: an outside sender's event becomes an execution.

    event ──► *trigger* ──► submit ──► lease ──► complete ──► finish ──► deliver

The event and its execution are one transaction, and whoever sent it hears of neither before both are there. The unique
key of the event makes it happen once: who says it again, at once or in a month, is told what became of it. Everything
of a trigger lives in the bucket of its name, its executions too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import asyncpg

from controlplane.domain.cap import Ceiling
from controlplane.domain.execution import Accepted, Submission
from controlplane.domain.ids import ExecutionId
from controlplane.domain.trigger import Definition, Incoming, Outcome, Taken, Trigger, TriggerEventId, TriggerId, check
from controlplane.errors import ControlPlaneError, TriggerEventNotFound, TriggerExists, TriggerNotFound
from controlplane.postgres.lane import Raced
from controlplane.postgres.pool import Connection
from controlplane.stages import room, submit

LOCK_NAMED = """
select id, namespace, name, target, preset, scheme, arguments, event_types, secret_sealed, previous_sealed,
  previous_until, managed_by, paused, paused_reason, created_at, updated_at
from triggers
where bucket = $1
  and namespace = $2
  and name = $3
for update
"""

INSERT = """
insert into triggers (
  bucket, id, namespace, name, target, preset, scheme, arguments, event_types, secret_sealed, managed_by, paused,
  created_at, updated_at
)
select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, clock(), clock()
on conflict (bucket, namespace, name) do nothing
returning id, namespace, name, target, preset, scheme, arguments, event_types, secret_sealed, previous_sealed,
  previous_until, managed_by, paused, paused_reason, created_at, updated_at
"""

# A new secret keeps the one before for a while: the sender cannot change it in the same moment.
REPLACE = """
update triggers
set target = $3, preset = $4, scheme = $5, arguments = $6, event_types = $7, managed_by = $8, paused = $9,
  paused_reason = $10, secret_sealed = coalesce($11, secret_sealed),
  previous_sealed = case when $11 is null then previous_sealed when $12::float8 > 0 then secret_sealed end,
  previous_until = case
    when $11 is null then previous_until
    when $12::float8 > 0 then clock() + make_interval(secs => $12)
  end,
  updated_at = clock()
where bucket = $1
  and id = $2
returning id, namespace, name, target, preset, scheme, arguments, event_types, secret_sealed, previous_sealed,
  previous_until, managed_by, paused, paused_reason, created_at, updated_at
"""

REMOVE = """
delete from triggers
where bucket = $1
  and namespace = $2
  and name = $3
returning id
"""

# Whoever removes it waits until what came in is there; whoever else brings an event does not.
SHARE = """
select paused
from triggers
where bucket = $1
  and id = $2
for key share
"""

INSERT_EVENT = """
insert into trigger_events (
  bucket, id, trigger_id, namespace, key, type, outcome, reason, execution_id, body, headers, at
)
select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, clock()
on conflict (bucket, trigger_id, key) do nothing
returning id
"""

READ_SAME = """
select id, outcome, reason, execution_id
from trigger_events
where bucket = $1
  and trigger_id = $2
  and key = $3
"""

LOCK_EVENT = """
select id
from trigger_events
where bucket = $1
  and id = $2
  and trigger_id = $3
for update
"""

REPLAYED = """
update trigger_events
set replays = replays + 1, replay_execution_id = $3
where bucket = $1
  and id = $2
  and replay_execution_id is distinct from $3
"""


Allow = Callable[[Trigger], None]
"""Raises where whoever asks may not touch the trigger that stands there, which is locked."""


def anyone(_: Trigger) -> None:
    """Whoever got this far may touch every trigger."""


async def create(
    conn: Connection,
    bucket: int,
    id_: TriggerId,
    definition: Definition,
    *,
    namespace: int,
    name: str,
    secret_sealed: bytes,
    same_secret: Callable[[Trigger], bool],
    paused: bool,
    ceiling: Ceiling | None = None,
) -> tuple[Trigger, bool]:
    """A new trigger; one of this name that says the same is answered as it stands. Says whether it is new.

    Guard: the unique name. Raises: Invalid; CapReached; TriggerExists where it is another.
    """
    check(definition)
    while True:
        async with conn.transaction():
            row = await conn.fetchrow(
                INSERT,
                bucket,
                id_,
                namespace,
                name,
                definition.target,
                definition.scheme.preset.value,
                definition.scheme_text(),
                json.dumps(dict(definition.arguments)),
                list(definition.event_types),
                secret_sealed,
                definition.managed_by,
                paused,
            )
            if row is not None:
                await room.require(conn, ceiling, namespace)
                return Trigger.from_row(row), True
            row = await conn.fetchrow(LOCK_NAMED, bucket, namespace, name)
        if row is None:
            continue  # removed in between
        there = Trigger.from_row(row)
        if there.id == id_:  # our own earlier try, whose answer was lost
            return there, True
        if there.definition == definition and same_secret(there):
            return there, False
        raise TriggerExists(
            "There is another trigger of this name.", where="body.name", fix="PATCH changes it; or take another name."
        )


async def change(
    conn: Connection,
    bucket: int,
    revise: Callable[[Trigger], tuple[Definition, bytes | None]],
    *,
    namespace: int,
    name: str,
    overlap_seconds: float,
) -> Trigger:
    """From here on it is as `revise` makes it of what stands there, with a new secret where that gives one.

    The secret before goes on to be taken for `overlap_seconds`. Guard: the locked row.
    Raises: TriggerNotFound, and what `revise` does.
    """
    async with conn.transaction():
        there = await _locked(conn, bucket, namespace, name)
        definition, secret_sealed = revise(there)
        check(definition)
        if definition == there.definition and secret_sealed is None:
            return there
        return await _write(
            conn, bucket, replace(there, definition=definition), secret_sealed=secret_sealed, overlap=overlap_seconds
        )


async def pause(
    conn: Connection, bucket: int, *, namespace: int, name: str, reason: str | None, allow: Allow = anyone
) -> Trigger:
    """From here on what comes in is kept and submits nothing. Raises: TriggerNotFound, and what `allow` does."""
    return await _turn(conn, bucket, namespace, name, paused=True, reason=reason, allow=allow)


async def resume(conn: Connection, bucket: int, *, namespace: int, name: str, allow: Allow = anyone) -> Trigger:
    """What comes in submits again; what was held meanwhile can be replayed.

    Raises: TriggerNotFound, and what `allow` does.
    """
    return await _turn(conn, bucket, namespace, name, paused=False, reason=None, allow=allow)


async def lock(conn: Connection, bucket: int, *, namespace: int, name: str) -> Trigger | None:
    """The trigger as it stands until the caller's transaction ends; None when there is none."""
    row = await conn.fetchrow(LOCK_NAMED, bucket, namespace, name)
    return None if row is None else Trigger.from_row(row)


async def remove(conn: Connection, bucket: int, *, namespace: int, name: str) -> None:
    """Close the door; what has come in goes on. Raises: TriggerNotFound."""
    if await conn.fetchval(REMOVE, bucket, namespace, name) is None:
        raise TriggerNotFound


async def take(
    conn: Connection,
    bucket: int,
    trigger_id: TriggerId,
    event: Incoming,
    submission: Submission | None,
    *,
    namespace: int,
    outcome: Outcome,
    reason: str | None,
) -> Taken:
    """The event is kept, and is an execution where it is to be one (`submission`): both, or neither.

    Moves: nothing → ready. Guard: the unique key of the event; the trigger that is still there and not paused.
    Raises: TriggerNotFound.
    """
    while True:
        try:
            async with conn.transaction():
                return await _take(conn, bucket, trigger_id, event, submission, namespace, outcome, reason)
        except Raced:  # forgotten between the two looks
            continue


async def replay(
    conn: Connection, bucket: int, trigger_id: TriggerId, event_id: TriggerEventId, submission: Submission
) -> Accepted:
    """An event that is kept becomes an execution (once more), whatever became of it when it came.

    Guard: the id is the caller's own and the idempotency key holds for this event: said twice it is one execution.
    Raises: TriggerEventNotFound, IdempotencyConflict.
    """
    while True:
        try:
            async with conn.transaction():
                if await conn.fetchval(LOCK_EVENT, bucket, event_id, trigger_id) is None:
                    raise TriggerEventNotFound
                [accepted] = await submit.accept(conn, [submission])
                if isinstance(accepted, ControlPlaneError):
                    raise accepted
                if not accepted.replayed:
                    await conn.execute(REPLAYED, bucket, event_id, accepted.id)
                return accepted
        except Raced:
            continue


async def _take(
    conn: Connection,
    bucket: int,
    trigger_id: TriggerId,
    event: Incoming,
    submission: Submission | None,
    namespace: int,
    outcome: Outcome,
    reason: str | None,
) -> Taken:
    paused: bool | None = await conn.fetchval(SHARE, bucket, trigger_id)
    if paused is None:
        raise TriggerNotFound
    if paused and outcome is Outcome.SUBMITTED:
        submission, outcome = None, Outcome.HELD
    new = await conn.fetchval(
        INSERT_EVENT,
        bucket,
        event.id,
        trigger_id,
        namespace,
        event.key,
        event.type,
        outcome.value,
        reason,
        None if submission is None else submission.id,
        event.body,
        json.dumps(dict(event.headers)),
    )
    if new is None:
        row = await conn.fetchrow(READ_SAME, bucket, trigger_id, event.key)
        if row is None:
            raise Raced
        return _before(row, event.id)
    if submission is None:
        return Taken(id=event.id, outcome=outcome, reason=reason)
    [accepted] = await submit.accept(conn, [submission])
    if isinstance(accepted, ControlPlaneError):
        raise accepted
    return Taken(
        id=event.id,
        outcome=outcome,
        execution_id=accepted.id,
        began=accepted.blocked_by is None,
        blocked=accepted.blocked_by is not None,
    )


def _before(row: asyncpg.Record, id_: UUID) -> Taken:
    execution_id = row["execution_id"]
    ours = row["id"] == id_  # our own earlier try, whose answer was lost: nobody has told of the work yet
    return Taken(
        id=TriggerEventId(row["id"]),
        outcome=Outcome(row["outcome"]),
        execution_id=None if execution_id is None else ExecutionId(execution_id),
        reason=row["reason"],
        duplicate=not ours,
        began=ours and execution_id is not None,
    )


async def _turn(
    conn: Connection, bucket: int, namespace: int, name: str, *, paused: bool, reason: str | None, allow: Allow
) -> Trigger:
    async with conn.transaction():
        there = await _locked(conn, bucket, namespace, name)
        allow(there)
        if there.paused == paused:
            return there
        return await _write(conn, bucket, replace(there, paused=paused, paused_reason=reason))


async def _locked(conn: Connection, bucket: int, namespace: int, name: str) -> Trigger:
    row = await conn.fetchrow(LOCK_NAMED, bucket, namespace, name)
    if row is None:
        raise TriggerNotFound
    return Trigger.from_row(row)


async def _write(
    conn: Connection, bucket: int, new: Trigger, *, secret_sealed: bytes | None = None, overlap: float = 0.0
) -> Trigger:
    row = await conn.fetchrow(
        REPLACE,
        bucket,
        new.id,
        new.definition.target,
        new.definition.scheme.preset.value,
        new.definition.scheme_text(),
        json.dumps(dict(new.definition.arguments)),
        list(new.definition.event_types),
        new.definition.managed_by,
        new.paused,
        new.paused_reason,
        secret_sealed,
        overlap,
    )
    assert row is not None
    return Trigger.from_row(row)
