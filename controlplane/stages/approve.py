"""Approve: an attempt asks people, waits, and is told what they decided.

lease ──► *ask* ──► waiting ──► *decide*, *expire_due* ──► leased ──► complete
                                     └──► deliver (the callback)

A question outlives the attempt that asked it: the next attempt asks again under the same id, and finds it still open or
already answered. The answer and the duty to tell it are written in one transaction; where nobody holds the lease any
more there is nobody to tell, and the next attempt is told when it asks. Locked in this order: queue, approvals,
steps, deliveries, events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import asyncpg

from controlplane.domain.approval import (
    CALLBACK_ATTEMPTS_MAX,
    CALLBACK_N,
    WAITING_FOR_APPROVAL,
    Approval,
    Decision,
    callback_body,
    callback_event,
    callback_host,
    reason_after,
)
from controlplane.domain.event import Event, EventType
from controlplane.domain.execution import STATUS_OF_STATE, Held, Status
from controlplane.domain.ids import ExecutionId, bucket_of
from controlplane.domain.lease import Fence, Ready
from controlplane.domain.notice import text
from controlplane.domain.step import AskApproval, decision_value
from controlplane.domain.target import parse
from controlplane.errors import (
    AlreadyFinished,
    ApprovalAlreadyRequested,
    ExecutionNotFound,
    InvalidState,
    LeaseLost,
    NoApprovalRequest,
)
from controlplane.postgres.pool import Connection
from controlplane.stages import hold, record, suspend, wait

MakeId = Callable[[int], UUID]

EXPIRE_BATCH = 64
FEEDBACK_SHOWN_MAX = 1_000
"""How much of the feedback an event repeats, in characters."""

# Ordered as the primary key is, here and below: planned while the table was empty it went through another index, and
# read the questions of everybody.
FIND_ASKED = """
select execution_id, request_id, attempt, node_id, status, url, callback_url, feedback, response, requested_at,
  expires_at, decided_at, title, durable
from approvals
where bucket = $1
  and execution_id = $2
  and (request_id = $3 or status = 'pending')
order by request_id
for update
"""

# A question that outlives its attempt: it is asked once, whoever asks again.
PUT = """
insert into approvals (
  bucket, execution_id, request_id, namespace, attempt, node_id, status, url, title, durable, requested_at, expires_at
)
values ($1, $2, $3, $4, $5, $6, 'pending', $7, $8, true, clock(), clock() + make_interval(secs => $9))
on conflict (bucket, execution_id, request_id) do nothing
returning execution_id, request_id, attempt, node_id, status, url, callback_url, feedback, response, requested_at,
  expires_at, decided_at, title, durable
"""

# The steps that a decision is the answer to: at most as many as an execution asks under one id.
ASKED_BY = """
select execution_id, name
from steps
where bucket = $1
  and execution_id = $2
  and (status = 'pending' or awaited)
  and status = 'pending'
  and kind = 'approval'
  and request_id = $3
order by name
"""

SUPERSEDE = """
update approvals
set status = 'expired',
  feedback = 'Superseded: a later attempt asked something else.',
  decided_at = clock()
where bucket = $1
  and execution_id = $2
  and request_id = $3
  and status = 'pending'
returning execution_id, request_id, attempt, node_id, status, url, callback_url, feedback, response, requested_at,
  expires_at, decided_at, title, durable
"""

ASK = """
insert into approvals (
  bucket, execution_id, request_id, namespace, attempt, node_id, status, url, callback_url, requested_at, expires_at
)
values ($1, $2, $3, $4, $5, $6, 'pending', $7, $8, clock(), clock() + make_interval(secs => $9))
returning execution_id, request_id, attempt, node_id, status, url, callback_url, feedback, response, requested_at,
  expires_at, decided_at, title, durable
"""

# The time that people were given does not begin again because a process died.
ASK_AGAIN = """
update approvals
set attempt = $4, url = coalesce($5, url), callback_url = $6
where bucket = $1
  and execution_id = $2
  and request_id = $3
  and status = 'pending'
returning execution_id, request_id, attempt, node_id, status, url, callback_url, feedback, response, requested_at,
  expires_at, decided_at, title, durable
"""

FIND = """
with asked as materialized (
  select execution_id, request_id, namespace, attempt, node_id, status, url, callback_url, feedback, response,
    requested_at, expires_at, decided_at, title, durable
  from approvals
  where bucket = $1
    and execution_id = $2
  order by request_id
  for update
)
select execution_id, request_id, attempt, node_id, status, url, callback_url, feedback, response, requested_at,
  expires_at, decided_at, title, durable
from asked
where namespace = $3
  and ($4::text is null or request_id = $4)
order by status = 'pending' desc, requested_at desc
limit 1
"""

DECIDE = """
update approvals
set status = $4, feedback = $5, response = $6, decided_at = clock()
where bucket = $1
  and execution_id = $2
  and request_id = $3
  and status = 'pending'
returning execution_id, request_id, attempt, node_id, status, url, callback_url, feedback, response, requested_at,
  expires_at, decided_at, title, durable
"""

# The rows of the queue, because they are locked first everywhere. One that is being cancelled is left to its end.
OVERDUE = """
select q.id
from approvals a
join queue q on q.bucket = $1 and q.id = a.execution_id
where a.bucket = $1
  and a.status = 'pending'
  and a.expires_at < clock()
  and q.cancel_requested_at is null
order by a.expires_at
limit $2
for update of q skip locked
"""

EXPIRE = """
update approvals
set status = 'expired', feedback = 'Nobody decided in time.', decided_at = clock()
where bucket = $1
  and execution_id = any($2::uuid[])
  and status = 'pending'
  and expires_at < clock()
returning execution_id, request_id, attempt, node_id, status, url, callback_url, feedback, response, requested_at,
  expires_at, decided_at, title, durable
"""

# A process that asks again after it was told waits again, so it is told again. A callback that is being sent right now
# may have come too early: it goes out once more, under the next number, and how this one ended nobody will know. The
# row is held before it is written, so that nobody begins to send it in between.
PLAN_CALLBACK = """
with was as materialized (
  select id, namespace, attempt, state
  from deliveries
  where bucket = $1
    and execution_id = $4
    and webhook_n = $5
    and event = $6
  for update
),
planned as (
  insert into deliveries (
    bucket, id, namespace, execution_id, webhook_n, event, host, url, body, state, attempts_max, next_at, created_at
  )
  select $1, $2, $3, $4, $5, $6, $7, $8, $9, 'pending', $10, clock(), clock()
  from (select count(*) from was) as held
  on conflict (bucket, execution_id, webhook_n, event) do update
  set host = excluded.host,
    url = excluded.url,
    body = excluded.body,
    state = 'pending',
    charged = 0,
    unknown = 0,
    next_at = clock(),
    lease_until = null,
    settled_at = null
)
insert into delivery_attempts (bucket, delivery_id, attempt, namespace, outcome, error, at)
select $1, id, attempt, namespace, 'unknown', 'its process asked again before the answer was known', clock()
from was
where state = 'leased'
on conflict (bucket, delivery_id, attempt) do nothing
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
class Question:
    """What an attempt asks. `attempt` None: the one that runs. `callback_url`: where its process is told, checked."""

    execution_id: ExecutionId
    attempt: int | None
    namespace: int
    request_id: str
    url: str | None
    callback_url: str | None
    expires_seconds: float
    node_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A question as it is decided now, and what its execution shows. `processed`: this very call decided it.

    `ready`: the target that has work again.
    """

    approval: Approval
    processed: bool
    status: Status
    ready: tuple[Ready, ...] = ()


async def ask(conn: Connection, question: Question, *, make_id: MakeId) -> Approval:
    """This attempt waits from here on until people have decided, or it is told at once what they decided before.

    Moves: leased → waiting. Guard: the locked row at this attempt; one pending question per execution is a unique
    index. Asked again, by this attempt or a later one, it is the same question: a pending one moves to who asks now, a
    decided one stays decided and its callback is planned. What an earlier attempt asked instead is closed.
    Raises: ExecutionNotFound, AlreadyFinished, NotItsNode, LeaseLost, InvalidState, ApprovalAlreadyRequested.
    """
    bucket, id_ = bucket_of(question.execution_id), question.execution_id
    async with conn.transaction():
        held = (await hold.lock(conn, bucket, [id_])).get(id_)
        if held is None or held.namespace != question.namespace:
            raise await _gone(conn, bucket, id_, question.namespace)
        wait.check_node(held, question.node_id)
        fence = _speaker(held, question.attempt)
        found = [Approval.from_row(row) for row in await conn.fetch(FIND_ASKED, bucket, id_, question.request_id)]
        own = next((one for one in found if one.request_id == question.request_id), None)
        if own is not None and own.status is not Decision.PENDING:
            told = replace(own, attempt=fence.attempt, callback_url=question.callback_url)
            await _call(conn, bucket, told, held.namespace, make_id)
            return told
        await _supersede(conn, bucket, held, [one for one in found if one is not own and not one.durable])
        return await _ask(conn, bucket, held, fence, own, question)


async def put(
    conn: Connection, bucket: int, fence: Fence, op: AskApproval, *, namespace: int, row: asyncpg.Record
) -> Approval | None:
    """A step asks people, and its execution will wait without a lease. Answers with what they have decided already.

    Runs in the transaction of who writes the step and holds the row of the queue. Guard: the primary key; asked again
    under this id it is the same question.
    """
    asked = await conn.fetchrow(
        PUT,
        bucket,
        fence.execution_id,
        op.request_id,
        namespace,
        fence.attempt,
        parse(row["target"]).node_id,
        op.url,
        op.title,
        op.expires_seconds,
    )
    if asked is not None:
        event = Event(
            execution_id=fence.execution_id,
            namespace=namespace,
            run_id=row["run_id"],
            target=row["target"],
            type=EventType.APPROVAL_REQUESTED,
            attempt=fence.attempt,
            data=_fact(Approval.from_row(asked)),
        )
        await record.append(conn, bucket, [event])
        return None
    found = await conn.fetchrow(FIND, bucket, fence.execution_id, namespace, op.request_id)
    assert found is not None  # it was in the way
    approval = Approval.from_row(found)
    return None if approval.status is Decision.PENDING else approval


async def decide(
    conn: Connection,
    id_: ExecutionId,
    *,
    namespace: int,
    request_id: str | None,
    decision: Decision,
    feedback: str | None,
    response: bytes | None,
    make_id: MakeId,
) -> Answered:
    """People have decided. Without a `request_id` it is what the execution waits for, else what it asked last.

    Moves: waiting → leased, when the attempt that asked still holds its lease; else the decision is kept for the next.
    Waiting without a session → ready, when a step has asked and nothing else is missing.
    Guard: the locked row and `status = 'pending'`: of two at once one decides, the other hears what was decided. The
    callback is planned in this transaction. Raises: NoApprovalRequest, ExecutionNotFound, InvalidState when the
    execution is being cancelled; after its end the question is closed, and answered so.
    """
    bucket = bucket_of(id_)
    async with conn.transaction():
        held = (await hold.lock(conn, bucket, [id_])).get(id_)
        row = await conn.fetchrow(FIND, bucket, id_, namespace, request_id)
        if row is None:
            raise await _unasked(conn, bucket, id_, namespace)
        found = Approval.from_row(row)
        if found.status is not Decision.PENDING or held is None:
            return Answered(approval=found, processed=False, status=await _status(conn, bucket, id_, namespace, held))
        if held.cancel_requested:
            raise InvalidState("The execution is being cancelled.", status=STATUS_OF_STATE[held.state].value)
        decided = await conn.fetchrow(
            DECIDE, bucket, id_, found.request_id, decision.value, feedback, response or found.response
        )
        assert decided is not None  # both rows are locked
        approval = Approval.from_row(decided)
        live = await _resolve(conn, bucket, held, approval, make_id)
        ready = await _fulfil(conn, bucket, [approval])
    status = Status.RUNNING if live else Status.QUEUED if ready else STATUS_OF_STATE[held.state]
    return Answered(approval=approval, processed=True, status=status, ready=tuple(ready))


async def expire_due(conn: Connection, bucket: int, *, make_id: MakeId, limit: int = EXPIRE_BATCH) -> int:
    """Close what nobody decided in time, and let go on who waits for it. Says how many.

    Moves: as `decide`, with the decision `expired`. Guard: rows of the queue are taken with `skip locked`.
    """
    async with conn.transaction():
        overdue = [row["id"] for row in await conn.fetch(OVERDUE, bucket, limit)]
        if not overdue:
            return 0
        held = await hold.lock(conn, bucket, overdue)
        expired = [Approval.from_row(row) for row in await conn.fetch(EXPIRE, bucket, list(held))]
        for approval in sorted(expired, key=lambda one: one.execution_id):
            await _resolve(conn, bucket, held[approval.execution_id], approval, make_id)
        await _fulfil(conn, bucket, expired)
    return len(expired)


def _speaker(held: Held, attempt: int | None) -> Fence:
    """The attempt that asks. Raises: LeaseLost, InvalidState."""
    if held.session_id is None or (attempt is not None and held.attempt != attempt):
        if attempt is None:
            raise InvalidState(f"The execution is {held.state.value}.", status=STATUS_OF_STATE[held.state].value)
        raise LeaseLost
    if held.cancel_requested:
        raise InvalidState("The execution is being cancelled.", status=STATUS_OF_STATE[held.state].value)
    return Fence(held.id, held.attempt)


async def _supersede(conn: Connection, bucket: int, held: Held, others: Sequence[Approval]) -> None:
    """Close what an earlier attempt asked; nobody waits for that answer any more."""
    for one in others:
        if one.attempt == held.attempt:
            raise ApprovalAlreadyRequested(approval_request_id=one.request_id)
        row = await conn.fetchrow(SUPERSEDE, bucket, held.id, one.request_id)
        assert row is not None  # locked
        await record.append(
            conn, bucket, [record.about(held, EventType.APPROVAL_DECIDED, _fact(Approval.from_row(row)))]
        )


async def _ask(
    conn: Connection, bucket: int, held: Held, fence: Fence, own: Approval | None, question: Question
) -> Approval:
    if own is None:
        row = await conn.fetchrow(
            ASK,
            bucket,
            held.id,
            question.request_id,
            held.namespace,
            fence.attempt,
            parse(held.target).node_id,
            question.url,
            question.callback_url,
            question.expires_seconds,
        )
    else:
        row = await conn.fetchrow(
            ASK_AGAIN, bucket, held.id, question.request_id, fence.attempt, question.url, question.callback_url
        )
    assert row is not None  # locked
    asked = Approval.from_row(row)
    if not await wait.begin(conn, bucket, fence, reason=WAITING_FOR_APPROVAL) and await wait.resume(
        conn, bucket, fence, reason=wait.AWAITING_CHILD
    ):  # it waited for a child meanwhile: an answer of people is the longer wait
        await wait.begin(conn, bucket, fence, reason=WAITING_FOR_APPROVAL)
    if own is None or own.attempt != fence.attempt:
        await record.append(conn, bucket, [record.about(held, EventType.APPROVAL_REQUESTED, _fact(asked))])
    return asked


async def _resolve(conn: Connection, bucket: int, held: Held, approval: Approval, make_id: MakeId) -> bool:
    """Let go on who waits for this answer, and plan to tell it. Says whether the attempt that asked is still there."""
    live = held.session_id is not None and held.attempt == approval.attempt
    if live:
        then = reason_after(approval.status)
        await wait.resume(conn, bucket, approval.fence, reason=WAITING_FOR_APPROVAL, then=then)
        await _call(conn, bucket, approval, held.namespace, make_id)
    await record.append(conn, bucket, [record.about(held, EventType.APPROVAL_DECIDED, _fact(approval))])
    return live


async def _fulfil(conn: Connection, bucket: int, decided: Sequence[Approval]) -> list[Ready]:
    """Answer the steps that have asked this, and let go on who waits for them. Says which targets have work again."""
    waited: set[UUID] = set()
    for approval in decided:
        for row in await conn.fetch(ASKED_BY, bucket, approval.execution_id, approval.request_id):
            await suspend.fulfil(conn, bucket, row["execution_id"], row["name"], decision_value(approval))
            waited.add(row["execution_id"])
    return await suspend.wake(conn, bucket, sorted(waited)) if waited else []


async def _call(conn: Connection, bucket: int, approval: Approval, namespace: int, make_id: MakeId) -> None:
    """Plan to tell the process; one that gave no address looks for itself."""
    if approval.callback_url is None:
        return
    await conn.execute(
        PLAN_CALLBACK,
        bucket,
        make_id(bucket),
        namespace,
        approval.execution_id,
        CALLBACK_N,
        callback_event(approval.request_id, approval.attempt),
        callback_host(approval.callback_url),
        approval.callback_url,
        callback_body(approval),
        CALLBACK_ATTEMPTS_MAX,
    )


def _fact(approval: Approval) -> bytes:
    """What happened, as the event says it."""
    facts = {
        "approval_request_id": approval.request_id,
        "approval_request_url": approval.url,
        "decision": None if approval.status is Decision.PENDING else approval.status.value,
        "feedback": None if approval.feedback is None else approval.feedback[:FEEDBACK_SHOWN_MAX],
    }
    return b"{" + b",".join(text(name) + b":" + text(said) for name, said in facts.items() if said is not None) + b"}"


async def _gone(conn: Connection, bucket: int, id_: ExecutionId, namespace: int) -> ExecutionNotFound | AlreadyFinished:
    row = await conn.fetchrow(READ_STATUS, bucket, id_, namespace)
    if row is None or row["status"] is None:
        return ExecutionNotFound()
    return AlreadyFinished(
        f"The execution has already ended: {row['status']}.", status=row["status"], error=InvalidState.code
    )


async def _unasked(
    conn: Connection, bucket: int, id_: ExecutionId, namespace: int
) -> ExecutionNotFound | NoApprovalRequest:
    known = await conn.fetchrow(READ_STATUS, bucket, id_, namespace)
    return ExecutionNotFound() if known is None else NoApprovalRequest()


async def _status(conn: Connection, bucket: int, id_: ExecutionId, namespace: int, held: Held | None) -> Status:
    if held is not None:
        return STATUS_OF_STATE[held.state]
    row = await conn.fetchrow(READ_STATUS, bucket, id_, namespace)
    assert row is not None  # it asked
    return Status(row["status"])
