"""Send: work goes out to a process that is called, and it is written down whether it got there.

submit ──► lease ──► *send* ──► complete ──► finish ──► deliver

An attempt that was sent is under way as long as somebody of ours holds its request (`sent_at` is kept fresh) or its
process has taken it (`accepted_at`). One that is neither may have reached its process or not: nobody knows, and it is
withdrawn (`expire.take_back`) only once its process says that it does not run it, or is dead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from controlplane.domain.ids import ExecutionId, SessionId
from controlplane.domain.lease import Fence, Session
from controlplane.domain.placement import by_bucket
from controlplane.domain.row import Row
from controlplane.errors import ControlPlaneError, LeaseLost
from controlplane.postgres.pool import Connection

UNKNOWN_MAX = 256

ACCEPT = """
update queue q
set accepted_at = coalesce(q.accepted_at, clock())
from unnest($2::uuid[], $3::int[]) as a(id, attempt)
where q.bucket = $1
  and q.id = a.id
  and q.attempt = a.attempt
  and q.session_id is not null
  and q.sent_at is not null
returning q.id, q.attempt
"""

PROLONG = """
update queue q
set sent_at = clock()
from unnest($2::uuid[], $3::int[]) as a(id, attempt)
where q.bucket = $1
  and q.id = a.id
  and q.attempt = a.attempt
  and q.session_id is not null
  and q.sent_at is not null
returning q.id, q.attempt
"""

# So that the process's own word for being stopped is not taken for a person's cancel. Not of an attempt that waits: its
# reason is what it waits for.
WITHDRAW = """
update queue
set status_reason = 'withdrawing'
where bucket = $1
  and id = $2
  and attempt = $3
  and session_id is not null
  and sent_at is not null
  and waiting_at is null
returning id
"""

# A line that an attempt has logged shows that its process took it, whatever became of the answer to the request.
NOTICE_SIGNS = """
update queue q
set accepted_at = q.sent_at
where q.bucket = $1
  and q.id = any(array(
    select id
    from queue
    where bucket = $1
      and sent_at < clock() - make_interval(secs => $2)
      and accepted_at is null
      and session_id is not null
    order by sent_at
    limit $3
    for update skip locked
  ))
  and exists (
    select 1
    from logs l
    where l.bucket = $1
      and l.execution_id = q.id
      and l.attempt = q.attempt
  )
"""

UNANSWERED = """
select id, attempt, session_id
from queue
where bucket = $1
  and sent_at < clock() - make_interval(secs => $2)
  and accepted_at is null
  and session_id is not null
order by sent_at
limit $3
"""

OVERRUN = """
select id, attempt, session_id, extract(epoch from clock() - accepted_at)::float8 as active_seconds
from queue
where bucket = $1
  and accepted_at < clock() - make_interval(secs => $2)
  and state = 'leased'
order by accepted_at
limit $3
"""

HELD = """
select id, attempt
from queue
where bucket = $1
  and session_id = $2
  and state in ('leased', 'waiting')
  and sent_at is not null
"""

CALLED = """
select id, namespace, node_id, instance_id, slots, heartbeat_seconds, lease_seconds, transport, base_url, acknowledges,
  start_to_close_seconds, draining, extract(epoch from clock() - renewed_at)::float8 as silent_seconds
from sessions
where bucket = $1
  and closed_at is null
  and base_url is not null
order by id
"""

CANCELLING = """
select id, attempt, session_id, run_id, cancel_reason, accepted_at is not null as accepted
from queue
where bucket = $1
  and cancel_requested_at is not null
  and session_id is not null
  and sent_at is not null
order by cancel_requested_at
limit $2
"""

RENEW_SERVERLESS = """
update sessions
set renewed_at = clock(), expires_at = clock() + make_interval(secs => lease_seconds)
where bucket = $1
  and id = any(array(
    select id
    from sessions
    where bucket = $1
      and closed_at is null
      and base_url is not null
      and transport = 'serverless'
      and not draining
      and renewed_at < clock() - make_interval(secs => lease_seconds / 4)
    order by id
    for update skip locked
  ))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """A live process that is called, and for how long it has been silent."""

    session: Session
    draining: bool
    silent_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """An attempt that is with a process that is called."""

    fence: Fence
    session_id: SessionId
    active_seconds: float = 0.0
    run_id: str = ""
    reason: str | None = None
    accepted: bool = False


async def accept(conn: Connection, batch: Sequence[Fence]) -> list[ControlPlaneError | None]:
    """Their processes have taken these attempts. Guard: the attempt holds its lease. Raises: per item LeaseLost."""
    taken: set[Fence] = set()
    async with conn.transaction():
        for bucket, part in by_bucket(sorted(batch), lambda fence: fence.execution_id):
            rows = await conn.fetch(
                ACCEPT, bucket, [fence.execution_id for fence in part], [fence.attempt for fence in part]
            )
            taken |= {Fence(ExecutionId(row["id"]), row["attempt"]) for row in rows}
    return [None if fence in taken else LeaseLost() for fence in batch]


async def prolong(conn: Connection, bucket: int, fences: Sequence[Fence]) -> set[Fence]:
    """Somebody of ours still holds the requests of these attempts. Says which of them still hold their lease."""
    part = sorted(fences)
    rows = await conn.fetch(PROLONG, bucket, [fence.execution_id for fence in part], [fence.attempt for fence in part])
    return {Fence(ExecutionId(row["id"]), row["attempt"]) for row in rows}


async def withdraw(conn: Connection, bucket: int, fence: Fence) -> bool:
    """This attempt is about to be stopped by us and not by a person. Says whether it still holds its lease."""
    return await conn.fetchval(WITHDRAW, bucket, fence.execution_id, fence.attempt) is not None


async def unanswered(conn: Connection, bucket: int, *, after_seconds: float) -> list[Sent]:
    """Attempts whose request nobody holds any more and which no process is known to have taken."""
    await conn.execute(NOTICE_SIGNS, bucket, after_seconds, UNKNOWN_MAX)
    return [_sent(row) for row in await conn.fetch(UNANSWERED, bucket, after_seconds, UNKNOWN_MAX)]


async def overrun(conn: Connection, bucket: int, *, after_seconds: float) -> list[Sent]:
    """Attempts that have been active for longer than this, the time that they waited left out."""
    rows = await conn.fetch(OVERRUN, bucket, after_seconds, UNKNOWN_MAX)
    return [_sent(row, active_seconds=row["active_seconds"]) for row in rows]


async def cancelling(conn: Connection, bucket: int) -> list[Sent]:
    """Attempts that their processes are to be told to stop."""
    rows = await conn.fetch(CANCELLING, bucket, UNKNOWN_MAX)
    return [_sent(row, run_id=row["run_id"], reason=row["cancel_reason"], accepted=row["accepted"]) for row in rows]


async def held(conn: Connection, bucket: int, session_id: UUID) -> list[Fence]:
    """What a process that is called holds."""
    rows = await conn.fetch(HELD, bucket, session_id)
    return [Fence(ExecutionId(row["id"]), row["attempt"]) for row in rows]


async def called(conn: Connection, bucket: int) -> list[Called]:
    """Every live process that is called."""
    return [
        Called(session=Session.from_row(row), draining=row["draining"], silent_seconds=row["silent_seconds"])
        for row in await conn.fetch(CALLED, bucket)
    ]


async def renew_serverless(conn: Connection, bucket: int) -> None:
    """Functions that exist only while they are called send no heartbeats: they live as long as one of us does."""
    await conn.execute(RENEW_SERVERLESS, bucket)


def _sent(row: Row, **facts: Any) -> Sent:
    fence = Fence(ExecutionId(row["id"]), row["attempt"])
    return Sent(fence=fence, session_id=SessionId(row["session_id"]), **facts)
