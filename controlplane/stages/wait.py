"""Wait: an attempt keeps its lease while its process waits for something outside, an approval or a child.

leased ──► *wait* ──► leased        the time it waits does not count as active

Whoever waits so keeps lease, fence and memory rights; its process is alive and holds the attempt.
"""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.domain.event import Event, EventType
from controlplane.domain.execution import STATUS_OF_STATE, Held, Status
from controlplane.domain.ids import ExecutionId, bucket_of
from controlplane.domain.lease import Fence
from controlplane.domain.notice import text
from controlplane.domain.target import parse
from controlplane.errors import ExecutionNotFound, LeaseLost, NotItsNode
from controlplane.postgres.pool import Connection
from controlplane.stages import hold, record

AWAITING_CHILD = "awaiting_child"

# Who asks for it has surely been taken. Who is being withdrawn keeps that mark: its process is about to be stopped.
BEGIN = """
update queue
set state = 'waiting',
  status_reason = $4,
  waiting_at = clock(),
  accepted_at = coalesce(accepted_at, sent_at),
  remaining_seconds = extract(
    epoch from case when heartbeat_seconds is null then deadline_at else attempt_deadline_at end - clock()
  ),
  attempt_deadline_at = null,
  deadline_at = total_deadline_at
where bucket = $1
  and id = $2
  and attempt = $3
  and session_id is not null
  and state = 'leased'
  and cancel_requested_at is null
  and status_reason is distinct from 'withdrawing'
returning namespace, run_id, target
"""

RESUME = """
update queue
set state = 'leased',
  status_reason = $5,
  accepted_at = accepted_at + (clock() - waiting_at),
  deadline_at = least(
    clock() + make_interval(secs => remaining_seconds), total_deadline_at,
    clock() + make_interval(secs => heartbeat_seconds)
  ),
  attempt_deadline_at = case
    when heartbeat_seconds is not null then clock() + make_interval(secs => remaining_seconds)
  end,
  remaining_seconds = null,
  waiting_at = null
where bucket = $1
  and id = $2
  and attempt = $3
  and session_id is not null
  and state = 'waiting'
  and status_reason = $4
returning namespace, run_id, target
"""

READ_FINISHED = """
select o.status
from outcomes o
where o.bucket = $1
  and o.id = $2
  and o.namespace = $3
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What an execution shows after its process has spoken of a child, and whether that moved anything."""

    status: Status
    applied: bool


async def hear(
    conn: Connection,
    id_: ExecutionId,
    *,
    namespace: int,
    node_id: str | None,
    attempt: int | None,
    waits: bool,
    message: str | None,
) -> Heard:
    """A process says that the child it awaits has begun or ceased to wait; so its parents see it, up to the root.

    Moves: leased → waiting, or back. Guard: the attempt (the one that runs, when none is named) holds its lease; an
    attempt that waits for something else goes on doing so. Raises: ExecutionNotFound, NotItsNode, LeaseLost.
    """
    bucket = bucket_of(id_)
    async with conn.transaction():
        held = (await hold.lock(conn, bucket, [id_])).get(id_)
        if held is None or held.namespace != namespace:
            ended = await conn.fetchval(READ_FINISHED, bucket, id_, namespace)
            if ended is None:
                raise ExecutionNotFound
            return Heard(status=Status(ended), applied=False)
        check_node(held, node_id)
        if attempt is not None and (held.session_id is None or held.attempt != attempt):
            raise LeaseLost
        fence = Fence(id_, held.attempt)
        if waits:
            applied = await begin(conn, bucket, fence, reason=AWAITING_CHILD, message=message)
        else:
            applied = await resume(conn, bucket, fence, reason=AWAITING_CHILD)
    moved = Status.WAITING if waits else Status.RUNNING
    return Heard(status=moved if applied else STATUS_OF_STATE[held.state], applied=applied)


def check_node(held: Held, node_id: str | None) -> None:
    """Whether the execution runs on the node in whose name somebody speaks; None: nobody's. Raises: NotItsNode."""
    if node_id is not None and parse(held.target).node_id != node_id:
        raise NotItsNode


async def begin(conn: Connection, bucket: int, fence: Fence, *, reason: str, message: str | None = None) -> bool:
    """This attempt waits from here on. Runs inside the transaction of who asks for it. `message`: in its own words.

    Moves: leased → waiting, with its session. Guard: the attempt holds its lease and is not waiting already.
    """
    row = await conn.fetchrow(BEGIN, bucket, fence.execution_id, fence.attempt, reason)
    if row is None:
        return False
    words = b"" if message is None else b',"message":%b' % text(message)
    data = b'{"reason":%b%b}' % (text(reason), words)
    await record.append(conn, bucket, [_event(fence, row["namespace"], row["run_id"], row["target"], data)])
    return True


async def resume(conn: Connection, bucket: int, fence: Fence, *, reason: str, then: str | None = None) -> bool:
    """What this attempt waited for has come. Runs inside the transaction of who brings it. `then`: why it runs now.

    Moves: waiting → leased. Guard: it waits for this very reason and its process still holds it.
    """
    row = await conn.fetchrow(RESUME, bucket, fence.execution_id, fence.attempt, reason, then)
    if row is None:
        return False
    event = _event(
        fence, row["namespace"], row["run_id"], row["target"], b'{"reason":%b}' % text(reason), continued=True
    )
    await record.append(conn, bucket, [event])
    return True


def _event(fence: Fence, namespace: int, run_id: str, target: str, data: bytes, *, continued: bool = False) -> Event:
    return Event(
        execution_id=fence.execution_id,
        namespace=namespace,
        run_id=run_id,
        target=target,
        type=EventType.CONTINUED if continued else EventType.WAITING,
        attempt=fence.attempt,
        data=data,
    )
