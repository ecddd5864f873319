"""Pause: a person holds an execution back, and lets it go on.

ready, delayed, blocked ──► *pause* ──► paused ──► ready (delayed before its time, blocked under a limit)
waiting without a session ──► paused ──► waiting (or ready, if what it waits for came meanwhile)
leased ──► flagged: the attempt that runs goes on to its end; if it ends without being the last, it is parked
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from controlplane.domain.event import EventType
from controlplane.domain.execution import STATUS_OF_STATE, State, Status
from controlplane.domain.ids import ExecutionId, bucket_of
from controlplane.domain.notice import text
from controlplane.errors import AlreadyFinished, ExecutionNotFound, InvalidState
from controlplane.postgres.pool import Connection
from controlplane.stages import hold, record

HOLD_BACK = """
update queue
set state = 'paused', status_reason = 'paused'
where bucket = $1
  and id = $2
  and (state in ('ready', 'delayed', 'blocked') or waits_until is not null)
  and state <> 'paused'
returning clock() as at
"""

FLAG = """
update queue
set pause_requested = true
where bucket = $1
  and id = $2
  and session_id is not null
  and not pause_requested
returning clock() as at
"""

# Why it was delayed is not kept while it is paused: what has failed before is tried again.
LET_GO = """
update queue
set state = case
    when waits_until is not null then 'waiting'
    when available_at > clock() then 'delayed'
    when line is not null then 'blocked'
    else 'ready'
  end,
  status_reason = case
    when waits_until is not null then waits_reason
    when available_at > clock() and attempt = 0 then 'scheduled'
    when available_at > clock() and failures > 0 then 'retrying'
  end
where bucket = $1
  and id = $2
  and state = 'paused'
returning clock() as at
"""

UNFLAG = """
update queue
set pause_requested = false
where bucket = $1
  and id = $2
  and session_id is not null
  and pause_requested
returning clock() as at
"""

READ_FINISHED = """
select e.id, o.status
from executions e
left join outcomes o on o.bucket = $1 and o.id = e.id and o.id = $2
where e.bucket = $1
  and e.id = $2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turned:
    """An execution that was paused or resumed, and what it showed before. `ready`: it has to be leased again."""

    previous: Status
    target: str
    ready: bool
    at: datetime


async def request(conn: Connection, id_: ExecutionId, *, reason: str | None) -> Turned:
    """Hold this execution back. What runs of it runs on; whatever would run next does not.

    Moves: ready, delayed, blocked, waiting without a session → paused; leased → leased, flagged. Guard: the locked row.
    Raises: ExecutionNotFound, AlreadyFinished, InvalidState when it is paused or being cancelled.
    """
    return await _turn(conn, id_, (HOLD_BACK, FLAG), EventType.PAUSED, reason)


async def resume(conn: Connection, id_: ExecutionId) -> Turned:
    """Let this execution go on.

    Moves: paused → ready, delayed, blocked or waiting; leased, flagged → leased. Guard: the locked row.
    Raises: ExecutionNotFound, AlreadyFinished, InvalidState when it is not paused.
    """
    return await _turn(conn, id_, (LET_GO, UNFLAG), EventType.RESUMED, None)


async def _turn(
    conn: Connection, id_: ExecutionId, statements: tuple[str, str], type_: EventType, reason: str | None
) -> Turned:
    bucket = bucket_of(id_)
    async with conn.transaction():
        held = (await hold.lock(conn, bucket, [id_])).get(id_)
        if held is None:
            raise await _gone(conn, bucket, id_)
        at = None if held.cancel_requested else await _move(conn, statements[held.session_id is not None], bucket, id_)
        if at is None:
            word = "being cancelled" if held.cancel_requested else held.state.value
            raise InvalidState(f"The execution is {word}.", status=STATUS_OF_STATE[held.state].value)
        await record.append(
            conn, bucket, [record.about(held, type_, None if reason is None else b'{"reason":%b}' % text(reason))]
        )
    return Turned(previous=STATUS_OF_STATE[held.state], target=held.target, ready=held.state is State.PAUSED, at=at)


async def _move(conn: Connection, statement: str, bucket: int, id_: ExecutionId) -> datetime | None:
    at: datetime | None = await conn.fetchval(statement, bucket, id_)
    return at


async def _gone(conn: Connection, bucket: int, id_: ExecutionId) -> ExecutionNotFound | AlreadyFinished:
    row = await conn.fetchrow(READ_FINISHED, bucket, id_)
    if row is None or row["status"] is None:
        return ExecutionNotFound()
    return AlreadyFinished(
        f"The execution has already ended: {row['status']}.", status=row["status"], error="invalid_state"
    )
