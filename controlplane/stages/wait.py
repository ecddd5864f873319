"""Wait: an attempt keeps its lease while its process waits for something outside, an approval or a child.

leased ──► *wait* ──► leased        the time it waits does not count as active

Whoever waits so keeps lease, fence and memory rights; its process is alive and holds the attempt.
"""

from __future__ import annotations

from controlplane.domain.event import Event, EventType
from controlplane.domain.lease import Fence
from controlplane.domain.notice import text
from controlplane.postgres.pool import Connection
from controlplane.stages import record

# Who asks for it has surely been taken. Who is being withdrawn keeps that mark: its process is about to be stopped.
BEGIN = """
update queue
set state = 'waiting', status_reason = $4, waiting_at = clock(), accepted_at = coalesce(accepted_at, sent_at)
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
  status_reason = null,
  accepted_at = accepted_at + (clock() - waiting_at),
  waiting_at = null
where bucket = $1
  and id = $2
  and attempt = $3
  and session_id is not null
  and state = 'waiting'
  and status_reason = $4
returning namespace, run_id, target
"""


async def begin(conn: Connection, bucket: int, fence: Fence, *, reason: str) -> bool:
    """This attempt waits from here on. Runs inside the transaction of who asks for it.

    Moves: leased → waiting, with its session. Guard: the attempt holds its lease and is not waiting already.
    """
    row = await conn.fetchrow(BEGIN, bucket, fence.execution_id, fence.attempt, reason)
    if row is None:
        return False
    data = b'{"reason":%b}' % text(reason)
    await record.append(conn, bucket, [_event(fence, row["namespace"], row["run_id"], row["target"], data)])
    return True


async def resume(conn: Connection, bucket: int, fence: Fence, *, reason: str) -> bool:
    """What this attempt waited for has come. Runs inside the transaction of who brings it.

    Moves: waiting → leased. Guard: it waits for this very reason and its process still holds it.
    """
    row = await conn.fetchrow(RESUME, bucket, fence.execution_id, fence.attempt, reason)
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
