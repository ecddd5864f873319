"""Signal: somebody outside tells an execution that something has happened; it is kept until a step takes it.

    *send* ──► (kept) ──► *take*        the execution waits for it later
       └──► fulfils the step ──► wake   it waits for it already

Taken once, in the order in which signals came: the row of the queue is held by whoever sends and by whoever begins to
wait. Locked in this order: queue, signals, steps, events.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from controlplane.domain.event import EventType
from controlplane.domain.execution import STATUS_OF_STATE
from controlplane.domain.ids import ExecutionId, bucket_of, show
from controlplane.domain.lease import Ready
from controlplane.domain.notice import text
from controlplane.domain.step import SIGNALS_MAX
from controlplane.errors import AlreadyFinished, ExecutionNotFound, IdempotencyConflict, InvalidState, SignalsFull
from controlplane.postgres.pool import Connection
from controlplane.stages import hold, record, suspend

READ_KEY = """
select id, request_hash, consumed_at
from signals
where bucket = $1
  and execution_id = $2
  and idempotency_key = $3
"""

COUNT_OPEN = """
select count(*)
from (
  select 1
  from signals
  where bucket = $1
    and execution_id = $2
    and consumed_at is null
  limit $3
) kept
"""

# Names of one call differ by their number (`wait`, `wait#2`, `wait#10`), which the shorter one has the smaller.
WAITS_FOR = """
select name
from steps
where bucket = $1
  and execution_id = $2
  and (status = 'pending' or awaited)
  and status = 'pending'
  and kind = 'event'
  and event = $3
order by created_at, length(name), name
limit 1
"""

KEEP = """
insert into signals (
  bucket, execution_id, id, namespace, event, payload, idempotency_key, request_hash, step, received_at, consumed_at
)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, clock(), case when $9::text is not null then clock() end)
"""

TAKE = """
update signals
set step = $4, consumed_at = clock()
where bucket = $1
  and execution_id = $2
  and seq = (
    select seq
    from signals
    where bucket = $1
      and execution_id = $2
      and event = $3
      and consumed_at is null
    order by seq
    limit 1
  )
returning payload
"""

READ_STATUS = """
select o.status
from executions e
left join outcomes o on o.bucket = $1 and o.id = e.id and o.id = $2
where e.bucket = $1
  and e.id = $2
  and e.namespace = $3
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What somebody tells an execution. `payload` is JSON bytes; the same id or key is the same signal."""

    id: UUID
    execution_id: ExecutionId
    namespace: int
    event: str
    payload: bytes
    idempotency_key: str | None = None

    @property
    def key(self) -> str:
        """What makes it one signal: it may be sent again by ourselves, after a commit whose answer was lost."""
        return self.idempotency_key or show("sig", self.id)

    @property
    def request_hash(self) -> bytes:
        return hashlib.sha256(self.event.encode() + b"\0" + self.payload).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A signal that is kept. `delivered`: a step has taken it. `ready`: the target that has work again."""

    id: UUID
    delivered: bool
    replayed: bool = False
    ready: tuple[Ready, ...] = ()


async def send(conn: Connection, signal: Signal) -> Sent:
    """Once this returns, the execution will be told: now, when it waits for this event, or as soon as it does.

    Moves: waiting without a session → ready, when this is what it waits for. Guard: the locked row, and the key.
    Raises: ExecutionNotFound, AlreadyFinished, InvalidState when it is being cancelled, IdempotencyConflict,
    SignalsFull.
    """
    id_, bucket = signal.execution_id, bucket_of(signal.execution_id)
    async with conn.transaction():
        held = (await hold.lock(conn, bucket, [id_])).get(id_)
        if held is None or held.namespace != signal.namespace:
            return await _ended(conn, bucket, signal)
        before = await _before(conn, bucket, signal)
        if before is not None:
            return before
        if held.cancel_requested:
            raise InvalidState("The execution is being cancelled.", status=STATUS_OF_STATE[held.state].value)
        step: str | None = await conn.fetchval(WAITS_FOR, bucket, id_, signal.event)
        if step is None and await conn.fetchval(COUNT_OPEN, bucket, id_, SIGNALS_MAX) >= SIGNALS_MAX:
            raise SignalsFull(
                f"It keeps {SIGNALS_MAX} signals that it has not waited for.",
                fix="Send more when it has taken some: controlplane executions steps shows what it waits for.",
            )
        key, hash_ = signal.key, signal.request_hash
        namespace, event, payload = signal.namespace, signal.event, signal.payload
        await conn.execute(KEEP, bucket, id_, signal.id, namespace, event, payload, key, hash_, step)
        ready: list[Ready] = []
        if step is not None:
            await suspend.fulfil(conn, bucket, id_, step, payload)
            ready = await suspend.wake(conn, bucket, [id_])
        await record.append(conn, bucket, [record.about(held, EventType.SIGNAL, _fact(signal, step))])
    return Sent(id=signal.id, delivered=step is not None, ready=tuple(ready))


async def take(conn: Connection, bucket: int, execution_id: UUID, *, event: str, step: str) -> bytes | None:
    """The payload of the oldest signal of this event, which is this step's from here on. None: there is none.

    Runs in the transaction of who begins to wait, and holds the row of the queue. Guard: `consumed_at is null`.
    """
    row: asyncpg.Record | None = await conn.fetchrow(TAKE, bucket, execution_id, event, step)
    return None if row is None else bytes(row["payload"])


async def _before(conn: Connection, bucket: int, signal: Signal) -> Sent | None:
    """What was answered to the first signal with this key."""
    row = await conn.fetchrow(READ_KEY, bucket, signal.execution_id, signal.key)
    if row is None:
        return None
    if row["request_hash"] != signal.request_hash:
        raise IdempotencyConflict(
            "This idempotency key was used before with another signal.",
            where="Idempotency-Key",
            fix="Use a new key for a new signal, or send the very same one again.",
        )
    delivered = row["consumed_at"] is not None
    return Sent(id=row["id"], delivered=delivered, replayed=signal.idempotency_key is not None)


def _fact(signal: Signal, step: str | None) -> bytes:
    taken = b"" if step is None else b',"step":%b' % text(step)
    return b'{"signal_id":%b,"event":%b%b}' % (text(show("sig", signal.id)), text(signal.event), taken)


async def _ended(conn: Connection, bucket: int, signal: Signal) -> Sent:
    """A signal that it has taken before its end is answered as it was. Raises: ExecutionNotFound, AlreadyFinished."""
    row = await conn.fetchrow(READ_STATUS, bucket, signal.execution_id, signal.namespace)
    if row is None or row["status"] is None:
        raise ExecutionNotFound
    if (before := await _before(conn, bucket, signal)) is not None:
        return before
    raise AlreadyFinished(f"The execution has already ended: {row['status']}.", status=row["status"])
