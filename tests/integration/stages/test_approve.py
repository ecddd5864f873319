"""Approve: a question is asked once, decided once, and its answer reaches whoever waits for it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from controlplane.domain.approval import CALLBACK_ATTEMPTS_MAX, Approval, Decision
from controlplane.domain.delivery import Attempt, AttemptOutcome, DeliveryState
from controlplane.domain.execution import Status
from controlplane.domain.ids import show_execution
from controlplane.domain.lease import Fence, Verdict
from controlplane.errors import (
    AlreadyFinished,
    ApprovalAlreadyRequested,
    ExecutionNotFound,
    InvalidState,
    LeaseLost,
    NoApprovalRequest,
    NotItsNode,
)
from controlplane.postgres.pool import Connection
from controlplane.reads import approvals, deliveries, verify
from controlplane.stages import approve, cancel, deliver, expire, wait
from controlplane.stages.approve import Answered, Question
from controlplane.stages.deliver import Due, Sent
from tests.make import (
    NAMESPACE,
    STOCK,
    Made,
    all_rows,
    counts,
    ended,
    event_types,
    lease,
    make_execution,
    make_id,
    make_session,
    move_clock,
    new_execution_id,
    only_row,
    outcome_row,
    queue_row,
    race,
    report,
    webhook,
)

CALLBACK = "http://agent.example:8001/webhooks/approval"
OK = Attempt(
    outcome=AttemptOutcome.DELIVERED,
    http_status=200,
    latency_ms=1,
    error=None,
    response_body=b"",
    retry_after_seconds=None,
    final=False,
)


@pytest.fixture
async def made(conn: Connection) -> Made:
    """A running execution with a webhook."""
    return await make_execution(conn, "running", webhooks=(webhook(),))


def question(made: Made, request_id: str = "r-1", **over: Any) -> Question:
    asked = Question(
        execution_id=made.id,
        attempt=made.attempt,
        namespace=NAMESPACE,
        node_id="n",
        request_id=request_id,
        url="https://people.example/r-1",
        callback_url=CALLBACK,
        expires_seconds=3_600,
    )
    return replace(asked, **over)


async def ask(conn: Connection, made: Made, request_id: str = "r-1", **over: Any) -> Approval:
    return await approve.ask(conn, question(made, request_id, **over), make_id=make_id)


async def decide(conn: Connection, made: Made, decision: Decision = Decision.APPROVED, **over: Any) -> Answered:
    said: dict[str, Any] = {"namespace": NAMESPACE, "request_id": None, "feedback": None, "response": None}
    return await approve.decide(conn, made.id, decision=decision, make_id=make_id, **(said | over))


async def next_attempt(conn: Connection, made: Made) -> Made:
    """Its process dies, and another takes the execution up."""
    await conn.execute("update sessions set closed_at = clock(), closed_reason = 'expired' where closed_at is null")
    await expire.sweep(conn, 0, make_id=make_id)
    session = await make_session(conn)
    [leased] = await lease(conn, session)
    return Made(submission=made.submission, attempt=leased.attempt, leased_by=session)


async def callbacks(conn: Connection) -> list[asyncpg.Record]:
    return list(await conn.fetch("select * from deliveries where webhook_n = 0 order by id"))


async def approval_row(conn: Connection, request_id: str = "r-1") -> asyncpg.Record:
    return await only_row(conn, "select * from approvals where request_id = $1", request_id)


async def claim(conn: Connection) -> list[Due]:
    claimed = await deliver.claim_due(
        conn, 0, after=deliver.BEGINNING, full_hosts=(), per_host=9, limit=9, lease_seconds=60
    )
    return list(claimed.due)


async def test_who_asks_waits(conn: Connection, made: Made) -> None:
    """The execution waits for people, and its attempt keeps its lease."""
    asked = await ask(conn, made)
    row = await queue_row(conn, made.id)

    assert (asked.status, asked.request_id, asked.attempt, asked.node_id) == (Decision.PENDING, "r-1", 1, "n")
    assert asked.expires_at == asked.requested_at + timedelta(hours=1)
    assert (row["state"], row["status_reason"]) == ("waiting", "waiting_for_approval")
    assert (row["session_id"], row["attempt"]) == (made.session.id, 1)
    assert (await event_types(conn, made.id))[-2:] == ["execution.waiting", "approval.requested"]
    assert await callbacks(conn) == []


async def test_asking_twice_is_asking_once(conn: Connection, made: Made) -> None:
    """A lost answer costs nothing; the newest address counts."""
    first = await ask(conn, made)
    again = await ask(conn, made, callback_url="http://agent.example:8002/webhooks/approval")

    assert again == replace(first, callback_url="http://agent.example:8002/webhooks/approval")
    assert await counts(conn, "approvals") == {"approvals": 1}
    assert (await event_types(conn, made.id)).count("approval.requested") == 1


async def test_two_ask_at_once(conn: Connection, other: Connection, observer: Connection, made: Made) -> None:
    """One request sent twice makes one row."""
    one, two = await race(conn, other, observer, first=lambda one: ask(one, made), second=lambda one: ask(one, made))

    assert one == two
    assert await counts(conn, "approvals") == {"approvals": 1}


async def test_one_question_at_a_time(conn: Connection, made: Made) -> None:
    """A second one of the same attempt is refused, and the first stays open."""
    await ask(conn, made)

    with pytest.raises(ApprovalAlreadyRequested) as refused:
        await ask(conn, made, "r-2")
    assert refused.value.facts == {"approval_request_id": "r-1"}
    assert await all_rows(conn, "select request_id, status from approvals") == [("r-1", "pending")]


async def test_one_after_the_other(conn: Connection, made: Made) -> None:
    """Once it is decided, the next may be asked, and a decision without a request goes to the open one."""
    await ask(conn, made)
    await decide(conn, made)
    await ask(conn, made, "r-2")
    await decide(conn, made, Decision.REJECTED)

    assert await all_rows(conn, "select request_id, status from approvals order by 1") == [
        ("r-1", "approved"),
        ("r-2", "rejected"),
    ]


@pytest.mark.parametrize("decision", [one for one in Decision if one is not Decision.PENDING])
async def test_a_decision_lets_it_go_on(conn: Connection, made: Made, decision: Decision) -> None:
    """Whatever was decided, the attempt runs again, and what it is to be told is planned."""
    await ask(conn, made)
    answered = await decide(conn, made, decision, feedback="so", response=b'{ "n" : 1.0 }')
    row, approval = await queue_row(conn, made.id), await approval_row(conn)
    [told] = await callbacks(conn)

    assert (answered.processed, answered.status, answered.approval.status) == (True, Status.RUNNING, decision)
    assert (row["state"], row["status_reason"], row["session_id"]) == (
        "leased",
        f"approval_{decision}",
        made.session.id,
    )
    assert (approval["status"], approval["feedback"], approval["response"]) == (decision, "so", b'{ "n" : 1.0 }')
    assert approval["decided_at"] is not None
    assert (told["event"], told["url"], told["host"]) == ("approval.decided:r-1:1", CALLBACK, "node:agent.example:8001")
    assert (told["state"], told["attempts_max"]) == ("pending", CALLBACK_ATTEMPTS_MAX)
    assert json.loads(told["body"]) == {
        "execution_id": f"{show_execution(made.id)}~1",
        "decision": decision.value,
        "new_status": "running",
        "feedback": "so",
        "approval_request_id": "r-1",
        "response": '{ "n" : 1.0 }',
    }
    assert (await event_types(conn, made.id))[-2:] == ["execution.continued", "approval.decided"]


async def test_deciding_twice_is_deciding_once(conn: Connection, made: Made) -> None:
    """The second hears what the first decided, and nobody is told twice."""
    await ask(conn, made)
    await decide(conn, made)
    again = await decide(conn, made, Decision.REJECTED)

    assert (again.processed, again.approval.status, again.status) == (False, Decision.APPROVED, Status.RUNNING)
    assert len(await callbacks(conn)) == 1
    assert (await event_types(conn, made.id)).count("approval.decided") == 1


async def test_two_decide_at_once(conn: Connection, other: Connection, observer: Connection, made: Made) -> None:
    """One wins."""
    await ask(conn, made)
    one, two = await race(
        conn,
        other,
        observer,
        first=lambda one: decide(one, made, Decision.REJECTED),
        second=lambda one: decide(one, made, Decision.APPROVED),
    )

    assert (one.processed, two.processed) == (True, False)
    assert two.approval.status is Decision.REJECTED
    assert len(await callbacks(conn)) == 1


async def test_a_decision_and_the_end_at_once(
    conn: Connection, other: Connection, observer: Connection, made: Made
) -> None:
    """When the execution ends first, there is nothing left to decide, and nobody to tell."""
    await ask(conn, made)
    _, late = await race(
        conn, other, observer, first=lambda one: report(one, made.fence), second=lambda one: decide(one, made)
    )

    assert (late.processed, late.approval.status, late.status) == (False, Decision.EXPIRED, Status.SUCCEEDED)
    assert await callbacks(conn) == []


async def test_who_gave_no_address_is_not_told(conn: Connection, made: Made) -> None:
    """It looks for itself."""
    await ask(conn, made, callback_url=None)
    await decide(conn, made)

    assert await callbacks(conn) == []
    found = await approvals.latest(conn, 0, made.id, namespace=NAMESPACE)
    assert found is not None
    assert found.status is Decision.APPROVED


async def test_a_rejection_ends_nothing(conn: Connection, made: Made) -> None:
    """How the execution ends is for its process to say."""
    await ask(conn, made)
    await decide(conn, made, Decision.REJECTED)
    await report(conn, made.fence, Verdict.SUCCEEDED)

    assert (await outcome_row(conn, made.id))["status"] == "succeeded"


@pytest.mark.parametrize(
    ("over", "refusal"),
    [
        ({"namespace": 2}, ExecutionNotFound),
        ({"node_id": "other"}, NotItsNode),
        ({"attempt": 2}, LeaseLost),
        ({"execution_id": new_execution_id()}, ExecutionNotFound),
    ],
)
async def test_others_may_not_ask(conn: Connection, made: Made, over: dict[str, Any], refusal: type[Exception]) -> None:
    """Another namespace, another node, an attempt that is none, an id of nothing."""
    with pytest.raises(refusal):
        await ask(conn, made, **over)

    assert await counts(conn, "approvals") == {"approvals": 0}
    assert (await queue_row(conn, made.id))["state"] == "leased"


async def test_a_stale_attempt_may_not_ask(conn: Connection, made: Made) -> None:
    """Its successor has the lease."""
    await next_attempt(conn, made)

    with pytest.raises(LeaseLost):
        await ask(conn, made)
    assert await counts(conn, "approvals") == {"approvals": 0}


@pytest.mark.parametrize("status", ["queued", "paused", "delayed"])
async def test_what_does_not_run_may_not_ask(conn: Connection, status: str) -> None:
    """Not even without the attempt's number."""
    made = await make_execution(conn, status)

    with pytest.raises(InvalidState):
        await ask(conn, made, attempt=None)


async def test_the_attempt_may_go_unnamed(conn: Connection, made: Made) -> None:
    """It is the one that runs."""
    assert (await ask(conn, made, attempt=None)).attempt == 1


async def test_what_has_ended_may_not_ask(conn: Connection) -> None:
    """It hears how it ended."""
    made = await make_execution(conn, "failed")

    with pytest.raises(AlreadyFinished) as refused:
        await ask(conn, made)
    assert refused.value.facts == {"status": "failed", "error": "invalid_state"}


async def test_nothing_asked_nothing_decided(conn: Connection, made: Made) -> None:
    """Neither by execution nor by a request that was not asked, nor from another namespace."""
    with pytest.raises(NoApprovalRequest):
        await decide(conn, made)
    await ask(conn, made)
    with pytest.raises(NoApprovalRequest):
        await decide(conn, made, request_id="r-2")
    with pytest.raises(ExecutionNotFound):
        await decide(conn, made, namespace=2)
    with pytest.raises(ExecutionNotFound):
        await decide(conn, replace(made, submission=replace(made.submission, id=new_execution_id())))

    assert (await approval_row(conn))["status"] == "pending"


async def test_the_next_attempt_asks_again(conn: Connection, made: Made) -> None:
    """The same question, still open: it moves to who waits now, with the time that people were given."""
    first = await ask(conn, made)
    second = await next_attempt(conn, made)
    asked = await ask(conn, second, callback_url="http://other.example:9/x", url=None, expires_seconds=9e9)

    assert asked == replace(first, attempt=2, callback_url="http://other.example:9/x")
    assert (await queue_row(conn, made.id))["state"] == "waiting"
    await decide(conn, made)
    [told] = await callbacks(conn)
    assert (told["event"], told["url"]) == ("approval.decided:r-1:2", "http://other.example:9/x")


async def test_decided_while_nobody_held_it(conn: Connection, made: Made) -> None:
    """The decision is kept; the next attempt that asks is told at once and does not wait."""
    await ask(conn, made)
    await conn.execute("update sessions set closed_at = clock(), closed_reason = 'expired'")
    await expire.sweep(conn, 0, make_id=make_id)
    answered = await decide(conn, made, feedback="fine")
    assert (answered.processed, answered.status) == (True, Status.QUEUED)
    assert await callbacks(conn) == []

    second = await next_attempt(conn, made)
    asked = await ask(conn, second)
    [told] = await callbacks(conn)
    assert (asked.status, asked.feedback, asked.attempt) == (Decision.APPROVED, "fine", 2)
    assert (await queue_row(conn, made.id))["state"] == "leased"
    assert told["event"] == "approval.decided:r-1:2"
    assert json.loads(told["body"])["execution_id"] == f"{show_execution(made.id)}~2"


async def test_decided_before_the_next_attempt_asks(conn: Connection, made: Made) -> None:
    """A decision that comes while the next attempt already runs does not move it: it has not asked yet."""
    await ask(conn, made)
    second = await next_attempt(conn, made)
    answered = await decide(conn, made)

    assert (answered.processed, answered.status) == (True, Status.RUNNING)
    assert await callbacks(conn) == []
    assert (await ask(conn, second)).status is Decision.APPROVED


async def test_told_again_when_asked_again(conn: Connection, made: Made) -> None:
    """Who asks after it was told waits again, so what was delivered is due again, under the same id."""
    await ask(conn, made)
    await decide(conn, made)
    [due] = await claim(conn)
    await deliver.settle(conn, [Sent(due=due, attempt=OK, state=DeliveryState.DELIVERED, wait_seconds=0)])
    await ask(conn, made)
    [again] = await claim(conn)

    assert (again.id, again.body, again.attempt, again.charged) == (due.id, due.body, 2, 0)


async def test_asked_again_while_it_is_being_told(conn: Connection, made: Made) -> None:
    """What is under way may have come too early: it goes out once more, and its sender settles nothing."""
    await ask(conn, made)
    await decide(conn, made)
    [due] = await claim(conn)
    await ask(conn, made)
    settles = [Sent(due=due, attempt=OK, state=DeliveryState.DELIVERED, wait_seconds=0)]
    before = await deliver.settle(conn, settles)
    [again] = await claim(conn)
    after = await deliver.settle(conn, settles)

    assert (again.id, again.attempt) == (due.id, 2)
    assert [type(one) for one in (*before, *after)] == [LeaseLost] * 2
    assert await all_rows(conn, "select attempt, outcome from delivery_attempts") == [(1, "unknown")]
    assert await conn.fetch(verify.ATTEMPTS_ARE_COUNTED, 0) == []


async def test_asked_again_in_the_moment_in_which_it_begins_to_be_told(
    conn: Connection, other: Connection, observer: Connection, made: Made
) -> None:
    """Whoever takes it first has it: the other waits, or finds it as it has become."""
    await ask(conn, made)
    await decide(conn, made)
    await race(conn, other, observer, first=claim, second=lambda own: ask(own, made))
    [again] = await claim(conn)

    assert again.attempt == 2
    assert await conn.fetch(verify.ATTEMPTS_ARE_COUNTED, 0) == []


async def test_a_later_attempt_asks_something_else(conn: Connection, made: Made) -> None:
    """What the earlier one asked is closed and says so; nobody is told of it."""
    await ask(conn, made)
    second = await next_attempt(conn, made)
    await ask(conn, second, "r-2")
    closed = await approval_row(conn, "r-1")

    assert (closed["status"], closed["feedback"][:10]) == ("expired", "Superseded")
    assert (await approval_row(conn, "r-2"))["status"] == "pending"
    assert await callbacks(conn) == []
    late = await decide(conn, made, request_id="r-1")
    assert (late.processed, late.approval.status) == (False, Decision.EXPIRED)
    assert (await queue_row(conn, made.id))["state"] == "waiting"


async def test_nobody_decides_in_time(conn: Connection, made: Made) -> None:
    """Then it is decided as expired, once, and the attempt goes on and is told."""
    await ask(conn, made)
    assert await approve.expire_due(conn, 0, make_id=make_id) == 0
    await move_clock(conn, "61 minutes")

    assert await approve.expire_due(conn, 0, make_id=make_id) == 1
    assert await approve.expire_due(conn, 0, make_id=make_id) == 0
    [told] = await callbacks(conn)
    assert json.loads(told["body"])["decision"] == "expired"
    assert (await queue_row(conn, made.id))["state"] == "leased"
    assert (await decide(conn, made)).approval.status is Decision.EXPIRED
    assert (await event_types(conn, made.id)).count("approval.decided") == 1


async def test_expiry_leaves_what_is_in_somebodys_hands(conn: Connection, other: Connection, made: Made) -> None:
    """What is being decided right now is not waited for."""
    await ask(conn, made)
    await move_clock(other, "61 minutes")
    transaction = conn.transaction()
    await transaction.start()
    await decide(conn, made)
    assert await approve.expire_due(other, 0, make_id=make_id) == 0
    await transaction.commit()

    assert await approve.expire_due(other, 0, make_id=make_id) == 0
    assert (await approval_row(conn))["status"] == "approved"


async def test_expiry_is_bounded(conn: Connection) -> None:
    """So many at once, and the rest on the next pass."""
    session = await make_session(conn)
    for _ in range(5):
        await ask(conn, await make_execution(conn, "running", session=session))
    await move_clock(conn, "61 minutes")

    assert await approve.expire_due(conn, 0, make_id=make_id, limit=2) == 2
    assert await approve.expire_due(conn, 0, make_id=make_id, limit=9) == 3


async def test_expiry_while_nobody_holds_it(conn: Connection, made: Made) -> None:
    """The next attempt hears that time is over."""
    await ask(conn, made)
    second = await next_attempt(conn, made)
    await move_clock(conn, "61 minutes")
    await approve.expire_due(conn, 0, make_id=make_id)

    assert await callbacks(conn) == []
    await move_clock(conn, "0")
    assert (await ask(conn, second)).status is Decision.EXPIRED


async def test_what_is_being_cancelled_is_not_decided(conn: Connection, made: Made) -> None:
    """Nor asked, nor expired; it can only end as cancelled, and its webhook is told once."""
    await ask(conn, made)
    await cancel.request(conn, [made.id], reason=None, make_id=make_id)
    with pytest.raises(InvalidState):
        await decide(conn, made)
    with pytest.raises(InvalidState):
        await ask(conn, made)
    await move_clock(conn, "61 minutes")
    assert await approve.expire_due(conn, 0, make_id=make_id) == 0
    await report(conn, made.fence, Verdict.CANCELLED)

    assert (await outcome_row(conn, made.id))["status"] == "cancelled"
    assert await all_rows(conn, "select webhook_n, event from deliveries") == [(1, "execution.failed")]
    assert (await approval_row(conn))["status"] == "expired"
    late = await decide(conn, made)
    assert (late.processed, late.status) == (False, Status.CANCELLED)


@pytest.mark.parametrize("how", ["report", "forced cancel", "cancel while nobody holds it"])
async def test_the_end_closes_what_is_open(conn: Connection, how: str) -> None:
    """However it ends, nothing is left to decide."""
    made = await make_execution(conn, "running", timeout_seconds=60)
    await ask(conn, made)
    if how == "report":
        await report(conn, made.fence)
    elif how == "forced cancel":
        await cancel.request(conn, [made.id], reason=None, make_id=make_id)
        await move_clock(conn, "2 minutes")
        await expire.force_cancel(conn, 0, grace_seconds=10.0, make_id=make_id)
    else:
        await conn.execute("update sessions set closed_at = clock(), closed_reason = 'expired'")
        await expire.sweep(conn, 0, make_id=make_id)
        await cancel.request(conn, [made.id], reason=None, make_id=make_id)

    assert await ended(conn, made.id)
    row = await approval_row(conn)
    assert (row["status"], row["feedback"]) == ("expired", "The execution has ended.")
    assert await callbacks(conn) == []


async def test_an_end_leaves_decisions_alone(conn: Connection, made: Made) -> None:
    """What was decided stays so, of this execution and of others."""
    other = await make_execution(conn, "running")
    await ask(conn, made)
    await decide(conn, made)
    await ask(conn, other, "r-2")
    await report(conn, made.fence)

    assert await all_rows(conn, "select request_id, status from approvals order by 1") == [
        ("r-1", "approved"),
        ("r-2", "pending"),
    ]


async def test_a_callback_nobody_waits_for_is_moot(conn: Connection, made: Made) -> None:
    """Its attempt has ended or lost its lease; a webhook never is."""
    await ask(conn, made)
    await decide(conn, made)
    await report(conn, made.fence)
    due = await claim(conn)

    assert {(one.webhook_n, one.callback, one.moot) for one in due} == {(0, True, True), (1, False, False)}


async def test_a_callback_is_no_webhook(conn: Connection, made: Made) -> None:
    """It is listed only where it is asked for."""
    await ask(conn, made)
    await decide(conn, made)
    await report(conn, made.fence)

    hooks = await deliveries.of_execution(conn, 0, made.id, namespace=NAMESPACE)
    both = await deliveries.of_execution(conn, 0, made.id, namespace=NAMESPACE, callbacks=True)
    assert [one.event for one in hooks] == ["execution.completed"]
    assert [one.event for one in both] == ["approval.decided:r-1:1", "execution.completed"]


async def test_people_are_waited_for_longer_than_children(conn: Connection, made: Made) -> None:
    """An attempt that waits for a child may ask; what the child does then moves nothing."""
    await wait.begin(conn, 0, made.fence, reason=wait.AWAITING_CHILD)
    await ask(conn, made)
    assert (await queue_row(conn, made.id))["status_reason"] == "waiting_for_approval"
    assert not await wait.resume(conn, 0, made.fence, reason=wait.AWAITING_CHILD)
    await decide(conn, made)

    assert (await queue_row(conn, made.id))["state"] == "leased"


async def test_a_request_is_found_in_every_bucket(conn: Connection) -> None:
    """Of its own namespace only; what is still open comes first."""
    placement = replace(STOCK, buckets=2)
    session = await make_session(conn)
    one, two = [await make_execution(conn, "running", session=session, bucket=bucket) for bucket in (0, 1)]
    await ask(conn, one)
    await ask(conn, two)
    await decide(conn, one)

    found = await approvals.of_request(conn, "r-1", namespaces=[NAMESPACE], limit=5, placement=placement)
    assert [(one.execution_id, one.status.value) for _, one in found] == [(one.id, "approved"), (two.id, "pending")]
    assert await approvals.of_request(conn, "r-1", namespaces=[2], limit=5, placement=placement) == []
    assert await approvals.latest(conn, 0, one.id, namespace=2) is None
    assert Fence(two.id, 1) == found[1][1].fence
