"""Cancel: a caller does not want the result any more.

ready, delayed, waiting… ──► *cancel* ──► finish
leased ──► flagged; the node is told, and whatever it says then, or nothing at all, ends as cancelled
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from controlplane.domain.event import Event, EventType
from controlplane.domain.execution import STATUS_OF_STATE, Held, Status
from controlplane.domain.ids import ExecutionId, SessionId
from controlplane.domain.notice import text
from controlplane.domain.placement import by_bucket, span
from controlplane.errors import AlreadyFinished, ControlPlaneError, ExecutionNotFound
from controlplane.postgres.pool import Connection
from controlplane.stages import finish, hold, record

FLAG = """
update queue
set cancel_requested_at = clock(), cancel_reason = $3, status_reason = 'cancelling'
where bucket = $1
  and id = any($2::uuid[])
  and cancel_requested_at is null
returning id
"""

READ_FINISHED = """
select e.id, o.status
from executions e
left join outcomes o on o.bucket = $1 and o.id = e.id and o.id = any($2::uuid[]) and o.id between $3 and $4
where e.bucket = $1
  and e.id = any($2::uuid[])
  and e.id between $3 and $4
"""

READ_CLOCK = "select clock()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """`settled`: it has ended already. Else the node in `session_id` is being told."""

    id: ExecutionId
    previous: Status
    settled: bool
    session_id: SessionId | None
    at: datetime


async def request(
    conn: Connection, ids: Sequence[ExecutionId], *, reason: str | None, make_id: finish.MakeId
) -> list[Cancelled | ControlPlaneError]:
    """From here on these executions can only end as `cancelled`; asking again changes nothing.

    Moves: ready, delayed, blocked, paused, waiting → (outcome); leased → leased, flagged. Guard: the locked row.
    Raises: per item ExecutionNotFound, AlreadyFinished (with its status).
    """
    answers: dict[ExecutionId, Cancelled | ControlPlaneError] = {}
    async with conn.transaction():
        at: datetime = await conn.fetchval(READ_CLOCK)
        for bucket, part in by_bucket(ids, lambda id_: id_):
            locked = await hold.lock(conn, bucket, part)
            resting = [held for held in locked.values() if held.session_id is None]
            leased = [held for held in locked.values() if held.session_id is not None]
            await finish.settle(conn, bucket, [finish.cancelled(held, reason) for held in resting], make_id=make_id)
            if leased:
                new = {row["id"] for row in await conn.fetch(FLAG, bucket, [held.id for held in leased], reason)}
                await record.append(conn, bucket, [_asked(held, reason) for held in leased if held.id in new])
            for held in locked.values():
                answers[held.id] = Cancelled(
                    id=held.id,
                    previous=STATUS_OF_STATE[held.state],
                    settled=held.session_id is None,
                    session_id=held.session_id,
                    at=at,
                )
            finished = {row["id"]: row["status"] for row in await conn.fetch(READ_FINISHED, bucket, part, *span(part))}
            for id_ in part:
                if id_ not in answers:
                    answers[id_] = (
                        AlreadyFinished(f"The execution has already ended: {finished[id_]}.", status=finished[id_])
                        if finished.get(id_)
                        else ExecutionNotFound()
                    )
    return [answers[id_] for id_ in ids]


def _asked(held: Held, reason: str | None) -> Event:
    return record.about(held, EventType.CANCELLING, None if reason is None else b'{"reason":%b}' % text(reason))
