"""Step: what an execution has done becomes a memo, and what it will wait for is begun. The 200 means committed.

submit ──► lease ──► complete ──► finish ──► deliver
             └── *step* ──► suspend ──► wake ──► lease
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from controlplane.domain.ids import ExecutionId
from controlplane.domain.lease import Fence
from controlplane.domain.placement import by_bucket
from controlplane.domain.step import (
    KIND_OF,
    AskApproval,
    AwaitEvent,
    Done,
    Sleep,
    Step,
    StepKind,
    StepOp,
    StepStatus,
    StepWrite,
    decision_value,
)
from controlplane.errors import ControlPlaneError, LeaseLost
from controlplane.postgres.pool import Connection
from controlplane.stages import approve, hold, signal, suspend

# In one order, so that two flushes of the same steps wait for each other and never in a circle.
KEEP = """
insert into steps (
  bucket, execution_id, name, namespace, kind, status, value, attempt, due_at, event, request_id, created_at, done_at
)
select $1, w.execution_id, w.name, w.namespace, w.kind, case when w.kind = 'step' then 'done' else 'pending' end,
  w.value, w.attempt, clock() + make_interval(secs => w.due_in_seconds), w.event, w.request_id, clock(),
  case when w.kind = 'step' then clock() end
from unnest(
  $2::uuid[], $3::text[], $4::smallint[], $5::text[], $6::bytea[], $7::int[], $8::float8[], $9::text[], $10::text[]
) as w(execution_id, name, namespace, kind, value, attempt, due_in_seconds, event, request_id)
order by w.execution_id, w.name
on conflict (bucket, execution_id, name) do nothing
returning execution_id, name
"""

READ = """
select s.execution_id, s.name, s.kind, s.status, s.value, s.attempt, s.due_at,
  case when s.status = 'pending' and s.due_at is not null then greatest(0, extract(epoch from s.due_at - clock()))
  end::float8 as due_in_seconds,
  s.timed_out, s.event, s.request_id, s.child_id, s.created_at, s.done_at
from unnest($2::uuid[], $3::text[]) as w(execution_id, name)
join steps s on s.bucket = $1 and s.execution_id = w.execution_id and s.name = w.name
"""

Key = tuple[ExecutionId, str]


async def write(conn: Connection, batch: Sequence[StepWrite]) -> list[list[Step] | ControlPlaneError]:
    """Each write stands in the database whole, or not at all; a stale one changes nothing. Answers how steps stand.

    Guard: the queue row of the fence is held; the first write under a name counts, and every other is answered with it.
    An event takes a signal only with the row held `for update`, as whoever sends one does: none is taken twice, and
    none falls between the look and the wait. Raises: per item LeaseLost.
    """
    answers: dict[Fence, list[Step] | ControlPlaneError] = {}
    wrote: dict[Fence, asyncpg.Record] = {}
    async with conn.transaction():
        for bucket, part in by_bucket(batch, lambda item: item.fence.execution_id):
            held = await _hold(conn, bucket, part)
            live = [item for item in part if item.fence in held]
            answers |= {item.fence: LeaseLost() for item in part if item.fence not in held}
            answers |= await _write(conn, bucket, live, held)
            wrote |= held
    await hold.forgive(conn, {fence.execution_id for fence, row in wrote.items() if row["crashes"]})
    await hold.hear(conn, wrote)
    return [answers[item.fence] for item in batch]


async def _hold(conn: Connection, bucket: int, part: Sequence[StepWrite]) -> dict[Fence, asyncpg.Record]:
    """All rows at once and in one strength, or two flushes could wait for each other in a circle."""
    waits = any(isinstance(op, AwaitEvent | AskApproval) for item in part for op in item.ops)
    return await (hold.take if waits else hold.share)(conn, bucket, {item.fence for item in part})


async def _write(
    conn: Connection, bucket: int, live: Sequence[StepWrite], held: dict[Fence, asyncpg.Record]
) -> dict[Fence, list[Step]]:
    if not live:
        return {}
    asked: dict[Key, tuple[StepWrite, StepOp]] = {}
    for item in live:
        for op in item.ops:
            asked.setdefault((item.fence.execution_id, op.name), (item, op))
    rows = await conn.fetch(
        KEEP,
        bucket,
        [id_ for id_, _ in asked],
        [name for _, name in asked],
        [held[item.fence]["namespace"] for item, _ in asked.values()],
        [KIND_OF[type(op)].value for _, op in asked.values()],
        [op.value if isinstance(op, Done) else None for _, op in asked.values()],
        [item.fence.attempt for item, _ in asked.values()],
        [_due_in_seconds(op) for _, op in asked.values()],
        [op.event if isinstance(op, AwaitEvent) else None for _, op in asked.values()],
        [op.request_id if isinstance(op, AskApproval) else None for _, op in asked.values()],
    )
    new = {(ExecutionId(row["execution_id"]), row["name"]) for row in rows}
    for key, (item, op) in asked.items():
        if key in new:
            await _begin(conn, bucket, item, op, held[item.fence])
    known = {key: _memo(item, op) for key, (item, op) in asked.items() if key in new and isinstance(op, Done)}
    known |= await _read(conn, bucket, [key for key in asked if key not in known])
    return {item.fence: [known[item.fence.execution_id, op.name] for op in item.ops] for item in live}


async def _begin(conn: Connection, bucket: int, item: StepWrite, op: StepOp, row: asyncpg.Record) -> None:
    """What a new wait may find there already."""
    id_ = item.fence.execution_id
    if isinstance(op, AwaitEvent):
        payload = await signal.take(conn, bucket, id_, event=op.event, step=op.name)
        if payload is not None:
            await suspend.fulfil(conn, bucket, id_, op.name, payload)
    elif isinstance(op, AskApproval):
        decided = await approve.put(conn, bucket, item.fence, op, namespace=row["namespace"], row=row)
        if decided is not None:
            await suspend.fulfil(conn, bucket, id_, op.name, decision_value(decided))


def _due_in_seconds(op: StepOp) -> float | None:
    if isinstance(op, Sleep):
        return op.seconds
    if isinstance(op, AwaitEvent):
        return op.timeout_seconds
    return op.expires_seconds if isinstance(op, AskApproval) else None


def _memo(item: StepWrite, op: Done) -> Step:
    return Step(
        execution_id=item.fence.execution_id,
        name=op.name,
        kind=StepKind.STEP,
        status=StepStatus.DONE,
        value=op.value,
        attempt=item.fence.attempt,
    )


async def _read(conn: Connection, bucket: int, keys: Sequence[Key]) -> dict[Key, Step]:
    if not keys:
        return {}
    rows = await conn.fetch(READ, bucket, [id_ for id_, _ in keys], [name for _, name in keys])
    return {(step.execution_id, step.name): step for step in map(Step.from_row, rows)}
