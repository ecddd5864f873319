"""Complete: how an attempt went is recorded once, by the attempt that holds the lease, however often it is said."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from controlplane.domain.begun import Begun
from controlplane.domain.execution import Status
from controlplane.domain.lease import Fence, Recorded, Report, ReportCode, Verdict
from controlplane.domain.notice import moment
from controlplane.domain.retry import RetryPolicy
from controlplane.domain.step import AskApproval, Sleep
from controlplane.postgres.pool import Connection
from controlplane.stages import cancel, complete, expire, log, send, wait
from tests.make import (
    LEASE_LOST,
    Made,
    a_report,
    all_rows,
    begin,
    counts,
    ended,
    event_types,
    lease,
    make_execution,
    make_id,
    make_process,
    make_sent,
    make_session,
    move_clock,
    must,
    no_jitter,
    outcome_row,
    queue_row,
    queued,
    race,
    report,
    steps,
    submission,
    webhook,
)

RETRY_ONCE = RetryPolicy(retries_max=1, delay_seconds=5.0)


def recorded(status: Status, code: ReportCode = ReportCode.RECORDED) -> Recorded:
    return Recorded(code=code, status=status)


async def reports(conn: Connection, *batch: Report) -> list[Recorded]:
    return [must(one) for one in await complete.report(conn, batch, make_id=make_id, jitter=no_jitter)]


@pytest.fixture
async def made(conn: Connection) -> Made:
    """A running execution with one retry."""
    return await make_execution(conn, "running", retry=RETRY_ONCE)


async def test_a_success_ends_the_execution(conn: Connection, made: Made) -> None:
    """The row has left the queue, the result stands byte for byte."""
    raw = b'{ "z": 1e999 , "a": "\\ud800"}'

    answer = await report(conn, made.fence, result=raw)
    outcome = await outcome_row(conn, made.id)

    assert answer == recorded(Status.SUCCEEDED)
    assert (outcome["status"], outcome["result"], outcome["attempt"], outcome["failures"]) == ("succeeded", raw, 1, 0)
    assert not await queued(conn, made.id)
    assert await event_types(conn, made.id) == ["execution.queued", "execution.completed"]


async def test_a_success_without_a_result_is_null(conn: Connection, made: Made) -> None:
    """No result is the JSON null."""
    await report(conn, made.fence, result=None)

    assert (await outcome_row(conn, made.id))["result"] == b"null"


async def test_a_failure_with_a_retry_left_waits(conn: Connection, made: Made) -> None:
    """The execution is delayed by its policy, holds no lease, and counts a failure."""
    answer = await report(conn, made.fence, Verdict.FAILED)
    row = await queue_row(conn, made.id)

    assert answer == recorded(Status.QUEUED)
    assert (row["state"], row["failures"], row["attempt"], row["session_id"]) == ("delayed", 1, 1, None)
    assert (row["status_reason"], row["deadline_at"], row["leased_at"]) == ("retrying", None, None)
    assert await conn.fetchval("select extract(epoch from available_at - clock())::float8 from queue") > 4.0


async def test_a_failure_without_a_retry_ends(conn: Connection) -> None:
    """The last failure is the outcome, with everything that was said of it."""
    made = await make_execution(conn, "running")

    answer = await report(conn, made.fence, Verdict.FAILED, error_details=b'{"a":1}')
    outcome = await outcome_row(conn, made.id)

    assert answer == recorded(Status.FAILED)
    assert (outcome["status"], outcome["status_reason"], outcome["failures"]) == ("failed", "user_error", 1)
    assert (outcome["error"], outcome["error_class"], outcome["error_details"]) == (b'"boom"', "Boom", b'{"a":1}')


async def test_retries_are_spent_one_by_one(conn: Connection, made: Made) -> None:
    """One retry means two attempts."""
    await report(conn, made.fence, Verdict.FAILED, retry_after_seconds=0)
    [again] = await lease(conn, made.session)

    answer = await report(conn, Fence(made.id, again.attempt), Verdict.FAILED)

    assert (again.attempt, again.failures) == (2, 1)
    assert answer == recorded(Status.FAILED)
    assert (await outcome_row(conn, made.id))["failures"] == 2


async def test_a_failure_that_is_not_worth_repeating_ends(conn: Connection, made: Made) -> None:
    """`retryable=False` leaves the retries unspent."""
    assert await report(conn, made.fence, Verdict.FAILED, retryable=False) == recorded(Status.FAILED)


@pytest.mark.parametrize(("seconds", "state"), [(0.0, "ready"), (-3.0, "ready"), (60.0, "delayed")])
async def test_the_node_may_say_when_to_retry(conn: Connection, made: Made, seconds: float, state: str) -> None:
    """retry_after_seconds stands in for the policy's wait."""
    await report(conn, made.fence, Verdict.FAILED, retry_after_seconds=seconds)

    assert (await queue_row(conn, made.id))["state"] == state


@pytest.mark.parametrize(
    ("policy", "status"),
    [
        ({"fatal_errors": ("Boom",)}, Status.FAILED),
        ({"fatal_errors": ("Bo*", "Other")}, Status.FAILED),
        ({"fatal_errors": ("Other",)}, Status.QUEUED),
        ({"retry_errors": ("Other", "Another")}, Status.FAILED),
        ({"retry_errors": ("Other", "Boom")}, Status.QUEUED),
    ],
)
async def test_the_class_of_an_error_decides(conn: Connection, policy: Any, status: Status) -> None:
    """What the policy calls fatal ends with retries left, and so does what it does not name where it names some."""
    made = await make_execution(conn, "running", retry=replace(RETRY_ONCE, **policy))

    assert await report(conn, made.fence, Verdict.FAILED) == recorded(status)


async def test_the_node_has_the_last_word_on_what_is_fatal(conn: Connection) -> None:
    """What it says is not to be tried again is not, whatever the policy names."""
    made = await make_execution(conn, "running", retry=replace(RETRY_ONCE, retry_errors=("Boom",)))

    assert await report(conn, made.fence, Verdict.FAILED, retryable=False) == recorded(Status.FAILED)


async def test_a_policy_of_before_there_were_classes(conn: Connection, made: Made) -> None:
    """What an older server accepted is tried again as it was."""
    await conn.execute("update executions set retry_jitter = null, fatal_errors = null, retry_errors = null")

    assert await report(conn, made.fence, Verdict.FAILED) == recorded(Status.QUEUED)


async def test_a_retry_tells_why(conn: Connection, made: Made) -> None:
    """The event of a retry carries the error of the attempt."""
    await report(conn, made.fence, Verdict.FAILED, error=b'{"a":1}', error_class='q"', traceback="T\n")

    assert await conn.fetchval("select data from events where type = 'execution.retrying'") == (
        b'{"retry_in_seconds":5.000,"error":{"a":1},"error_class":"q\\"","traceback":"T\\n"}'
    )


async def test_the_wait_of_many_failures_can_be_computed(conn: Connection) -> None:
    """However steep the policy, the wait is its cap."""
    policy = RetryPolicy(retries_max=1000, delay_seconds=1.0, factor=1e6, cap_seconds=60.0)
    made = await make_execution(conn, "running", retry=policy)
    await conn.execute("update queue set failures = 900")

    assert await report(conn, made.fence, Verdict.FAILED) == recorded(Status.QUEUED)
    assert await conn.fetchval("select available_at < clock() + interval '61 seconds' from queue")


async def test_work_handed_back_is_ready_at_once(conn: Connection, made: Made) -> None:
    """`released` spends no retry."""
    answer = await report(conn, made.fence, Verdict.RELEASED)
    row = await queue_row(conn, made.id)

    assert answer == recorded(Status.QUEUED)
    assert (row["state"], row["failures"], row["session_id"]) == ("ready", 0, None)
    assert (await event_types(conn, made.id))[-1] == "lease.released"


async def test_a_node_may_cancel(conn: Connection, made: Made) -> None:
    """`cancelled` by the node itself is an end."""
    assert await report(conn, made.fence, Verdict.CANCELLED) == recorded(Status.CANCELLED)
    assert (await outcome_row(conn, made.id))["status_reason"] == "cancelled_by_node"


@pytest.mark.parametrize("verdict", list(Verdict))
async def test_saying_it_twice_is_saying_it_once(conn: Connection, made: Made, verdict: Verdict) -> None:
    """The repeat after a lost answer is told what was recorded, and changes nothing."""
    first = await report(conn, made.fence, verdict)
    before = await counts(conn, "queue", "outcomes", "events", "deliveries")

    again = await report(conn, made.fence, verdict)

    assert again == Recorded(code=ReportCode.ALREADY_RECORDED, status=first.status)
    assert await counts(conn, "queue", "outcomes", "events", "deliveries") == before


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.RELEASED])
async def test_a_repeat_after_the_next_lease(conn: Connection, made: Made, verdict: Verdict) -> None:
    """The repeat is known as one even when the next attempt is already running."""
    await report(conn, made.fence, verdict, retry_after_seconds=0)
    await lease(conn, made.session)

    answer = await report(conn, made.fence, verdict)

    assert answer == recorded(Status.QUEUED, ReportCode.ALREADY_RECORDED)
    assert (await queue_row(conn, made.id))["attempt"] == 2


@pytest.mark.parametrize("verdict", [Verdict.SUCCEEDED, Verdict.CANCELLED, Verdict.FAILED])
async def test_what_was_never_recorded_is_not_said_to_be(conn: Connection, made: Made, verdict: Verdict) -> None:
    """A result of an attempt whose work was handed back is lost, and its node is told so."""
    await report(conn, made.fence, Verdict.RELEASED)

    assert await report(conn, made.fence, verdict) == LEASE_LOST


async def test_a_result_after_its_session_left_is_lost(conn: Connection, made: Made) -> None:
    """Closing a session hands its work back; a success that comes after it was recorded nowhere."""
    await expire.leave(conn, made.session.id, 0, reason="bye", make_id=make_id)

    assert await report(conn, made.fence) == LEASE_LOST
    assert (await queue_row(conn, made.id))["state"] == "ready"


@pytest.mark.parametrize("verdict", list(Verdict))
async def test_a_stale_attempt_changes_nothing(conn: Connection, verdict: Verdict) -> None:
    """An attempt that was taken over is told that its lease is lost."""
    made = await make_execution(conn, "running", attempt=3, retry=RETRY_ONCE)
    before = dict(await queue_row(conn, made.id))

    answer = await report(conn, Fence(made.id, 2), verdict)

    assert answer == LEASE_LOST
    assert dict(await queue_row(conn, made.id)) == before


async def test_an_unknown_execution_is_lost(conn: Connection) -> None:
    """A report on nothing we know is no error of ours."""
    assert await report(conn, Fence(submission().id, 1)) == LEASE_LOST


async def test_a_stale_report_that_waits_for_a_take_over(
    conn: Connection, other: Connection, observer: Connection, made: Made
) -> None:
    """A success that waited while its lease was taken over changes nothing."""

    async def take_over(own: Connection) -> None:
        await report(own, made.fence, Verdict.RELEASED)
        await lease(own, made.session)

    _, answer = await race(conn, other, observer, first=take_over, second=lambda c: report(c, made.fence))

    assert answer == LEASE_LOST
    assert (await queue_row(conn, made.id))["attempt"] == 2
    assert not await ended(conn, made.id)


async def test_the_same_report_twice_at_once(conn: Connection, other: Connection, observer: Connection) -> None:
    """A repeat that overtakes its first try waits for it and is told what was recorded; one delivery is planned."""
    made = await make_execution(conn, "running", webhooks=(webhook(),))

    first, second = await race(
        conn, other, observer, first=lambda c: report(c, made.fence), second=lambda c: report(c, made.fence)
    )

    assert (first.code, second.code) == (ReportCode.RECORDED, ReportCode.ALREADY_RECORDED)
    assert await counts(conn, "outcomes", "deliveries") == {"outcomes": 1, "deliveries": 1}


SLEEP = Sleep(name="s", seconds=600.0)
QUESTION = AskApproval(name="s", request_id="r", title=None, url=None, expires_seconds=60.0)


@pytest.mark.parametrize("opened", [SLEEP, QUESTION])
async def test_what_is_opened_in_the_moment_of_the_end_is_closed_with_it(
    conn: Connection, other: Connection, observer: Connection, made: Made, opened: Sleep | AskApproval
) -> None:
    """It is committed after the end has looked, and before it has the row: then it begins anew, with a lock."""

    async def open_(own: Connection) -> None:
        await steps(own, made, opened)

    _, answer = await race(conn, other, observer, first=open_, second=lambda c: report(c, made.fence))

    assert answer == recorded(Status.SUCCEEDED)
    assert await all_rows(conn, "select 1 from steps where status = 'pending' or awaited") == []
    assert await all_rows(conn, "select 1 from approvals where status = 'pending'") == []


async def test_a_success_in_the_moment_of_a_cancel(conn: Connection, other: Connection, observer: Connection) -> None:
    """It was seen without a flag, and has one when it is to end: the flag decides, and nobody is told twice."""
    made = await make_execution(conn, "running", webhooks=(webhook(),))

    async def flag(own: Connection) -> None:
        await cancel.request(own, [made.id], reason="enough", make_id=make_id)

    _, answer = await race(conn, other, observer, first=flag, second=lambda c: report(c, made.fence))

    assert answer == recorded(Status.CANCELLED, ReportCode.DISCARDED)
    assert await counts(conn, "outcomes", "deliveries") == {"outcomes": 1, "deliveries": 1}


async def test_a_success_takes_along_what_its_row_has_become(
    conn: Connection, other: Connection, observer: Connection, made: Made
) -> None:
    """Its progress was told in the moment of its end: the outcome has it."""

    async def advance(own: Connection) -> None:
        await log.append(own, [log.Progress(fence=made.fence, progress=b'{"done":3}')])

    await race(conn, other, observer, first=advance, second=lambda c: report(c, made.fence))

    assert (await outcome_row(conn, made.id))["progress"] == b'{"done":3}'


@pytest.mark.parametrize("known", [False, True])
async def test_an_end_has_one_moment(conn: Connection, known: bool) -> None:
    """The outcome, its event and what is told of it: that of the look, or of what is known without one."""
    begun = Begun()
    made = await begin(conn, begun, webhooks=(webhook(),), context=b'{"c": 1}', session_key="s")
    await report(conn, made.fence, begun=begun if known else None)
    [[finished_at, late, at, body]] = await all_rows(
        conn,
        """
        select o.finished_at, extract(epoch from clock() - o.finished_at)::float8, e.at, d.body
        from outcomes o
        join events e on e.execution_id = o.id and e.type = 'execution.completed'
        join deliveries d on d.execution_id = o.id
        """,
    )
    told = json.loads(body)

    assert finished_at == at
    assert finished_at >= (await outcome_row(conn, made.id))["started_at"]
    assert abs(late) < 1
    assert told["completed_at"] == moment(finished_at)
    assert (told["status"], told["result"], told["context"], told["session_id"]) == (
        "succeeded",
        {"ok": True},
        {"c": 1},
        "s",
    )


async def cancelled_since(conn: Connection, made: Made) -> None:
    await cancel.request(conn, [made.id], reason="enough", make_id=make_id)


async def advanced_since(conn: Connection, made: Made) -> None:
    await log.append(conn, [log.Progress(fence=made.fence, progress=b'{"done":3}')])


async def slept_since(conn: Connection, made: Made) -> None:
    await steps(conn, made, SLEEP)


async def asked_since(conn: Connection, made: Made) -> None:
    await steps(conn, made, QUESTION)


async def the_clock_was_set(conn: Connection, made: Made) -> None:
    await move_clock(conn, "1 hour")


Change = Callable[[Connection, Made], Awaitable[None]]


@pytest.mark.parametrize(
    "change",
    [cancelled_since, advanced_since, slept_since, asked_since, the_clock_was_set],
    ids=lambda one: one.__name__,
)
async def test_what_has_changed_since_it_began_counts(conn: Connection, change: Change) -> None:
    """It ends as it would for somebody who knew nothing of it."""
    ways = []
    for known in (True, False):
        begun = Begun()
        made = await begin(conn, begun, webhooks=(webhook(),))
        await change(conn, made)
        answer = await report(conn, made.fence, begun=begun if known else None)
        row = await outcome_row(conn, made.id)
        late = await conn.fetchval("select abs(extract(epoch from clock() - $1))::float8", row["finished_at"])
        open_ = await all_rows(
            conn,
            """
            select execution_id from steps where status = 'pending' or awaited
            union all
            select execution_id from approvals where status = 'pending'
            """,
        )
        told = await conn.fetchval("select count(*) from deliveries where execution_id = $1", made.id)
        ways.append((answer, row["status"], row["result"], row["progress"], late < 1, open_, told))

    assert ways[0] == ways[1]
    assert ways[0][4:] == (True, [], 1)


async def test_what_is_opened_in_the_moment_of_a_known_end(
    conn: Connection, other: Connection, observer: Connection
) -> None:
    """It is committed before the end has the row, and leaves it the same version."""
    begun = Begun()
    made = await begin(conn, begun)

    async def open_(own: Connection) -> None:
        await steps(own, made, SLEEP)

    _, answer = await race(conn, other, observer, first=open_, second=lambda c: report(c, made.fence, begun=begun))

    assert answer == recorded(Status.SUCCEEDED)
    assert await all_rows(conn, "select 1 from steps where status = 'pending' or awaited") == []


async def test_an_attempt_that_was_known_and_withdrawn_is_too_late(conn: Connection) -> None:
    """Its process left: what it says then is nobody's."""
    begun = Begun()
    made = await begin(conn, begun)
    assert made.leased_by is not None
    await expire.leave(conn, made.leased_by.id, 0, reason="closed", make_id=make_id)

    assert await report(conn, made.fence, begun=begun) == LEASE_LOST
    assert (await queue_row(conn, made.id))["state"] == "ready"


async def test_one_that_changed_takes_none_with_it(conn: Connection) -> None:
    """Known and as they were, known and written since, and not known, in one batch."""
    begun = Begun()
    made = [await begin(conn, begun), await begin(conn, begun), await make_execution(conn, "running")]
    await advanced_since(conn, made[1])
    batch = [a_report(one.fence) for one in made]

    answers = await complete.report(conn, batch, make_id=make_id, jitter=no_jitter, begun=begun)

    assert [replace(must(one), end=None) for one in answers] == [recorded(Status.SUCCEEDED)] * 3
    assert [must(one).end is not None for one in answers] == [True, False, False]
    assert [(await outcome_row(conn, one.id))["progress"] for one in made] == [None, b'{"done":3}', None]


async def test_a_batch_of_everything(conn: Connection) -> None:
    """Ends, retries, releases, repeats and stale reports in one batch are answered each in its place."""
    live = [await make_execution(conn, "running", retry=RETRY_ONCE, bucket=n % 2) for n in range(5)]
    done = await make_execution(conn, "succeeded")
    verdicts = [Verdict.SUCCEEDED, Verdict.FAILED, Verdict.RELEASED, Verdict.CANCELLED, Verdict.FAILED]
    batch = [a_report(one.fence, verdict) for one, verdict in zip(live, verdicts, strict=True)]

    answers = await reports(conn, *batch, a_report(done.fence), a_report(Fence(live[0].id, 9)))

    assert [one.status for one in answers] == [
        Status.SUCCEEDED, Status.QUEUED, Status.QUEUED, Status.CANCELLED, Status.QUEUED, Status.SUCCEEDED, None,
    ]  # fmt: skip
    assert [one.code.value for one in answers[5:]] == ["already_recorded", "lease_lost"]


@pytest.mark.parametrize("verdict", [Verdict.SUCCEEDED, Verdict.FAILED])
async def test_a_result_after_a_cancel_is_discarded(conn: Connection, made: Made, verdict: Verdict) -> None:
    """The flag decides: the end is `cancelled`, and the result is kept where a person can see it."""
    await cancel.request(conn, [made.id], reason="no more", make_id=make_id)

    answer = await report(conn, made.fence, verdict, result=b'{"late":1}')
    outcome = await outcome_row(conn, made.id)

    assert answer == recorded(Status.CANCELLED, ReportCode.DISCARDED)
    assert (outcome["status"], outcome["error"], outcome["result"]) == ("cancelled", b'"no more"', None)
    assert await conn.fetchval("select data from events where type = 'result.discarded'") == (
        b'{"status":"%b","result":{"late":1}}' % verdict.value.encode()
    )


@pytest.mark.parametrize("verdict", [Verdict.CANCELLED, Verdict.RELEASED])
async def test_a_node_that_obeys_a_cancel_discards_nothing(conn: Connection, made: Made, verdict: Verdict) -> None:
    """A node that stopped has no result that could be thrown away."""
    await cancel.request(conn, [made.id], reason=None, make_id=make_id)

    assert await report(conn, made.fence, verdict) == recorded(Status.CANCELLED)
    assert "result.discarded" not in await event_types(conn, made.id)


async def test_a_report_saves_an_expired_session_that_nobody_swept(conn: Connection, made: Made) -> None:
    """The lease is held until it is taken away: a result that comes before the sweep counts."""
    await move_clock(conn, "1 hour")
    await expire.close_expired(conn, 0, up_seconds=1e6)

    assert await report(conn, made.fence) == recorded(Status.SUCCEEDED)


async def test_a_failure_forgets_the_crashes(conn: Connection, made: Made) -> None:
    """An attempt that ended by itself breaks the row of crashes."""
    await conn.execute("update queue set crashes = 5")

    await report(conn, made.fence, Verdict.FAILED)

    assert (await queue_row(conn, made.id))["crashes"] == 0


async def test_the_waiting_time_passes(conn: Connection, made: Made) -> None:
    """A delayed execution is promoted when its time has come, and not before."""
    await report(conn, made.fence, Verdict.FAILED)
    too_early = await expire.promote(conn, 0)
    await move_clock(conn, "6 seconds")

    promoted = await expire.promote(conn, 0)

    assert (too_early.rows, promoted.rows, promoted.ready) == (0, 1, ((1, "n.echo"),))
    assert [one.attempt for one in await lease(conn, await make_session(conn))] == [2]


@pytest.mark.parametrize("status", [None, 418, 503])
async def test_the_status_of_a_failure_is_kept(conn: Connection, status: int | None) -> None:
    """Callers who wait for the end get the status that the reasoner gave its failure."""
    made = await make_sent(conn)

    await report(conn, made.fence, Verdict.FAILED, http_status=status)

    assert (await outcome_row(conn, made.id))["http_status"] == status


@pytest.mark.parametrize("verdict", [Verdict.SUCCEEDED, Verdict.CANCELLED])
async def test_other_ends_have_no_status(conn: Connection, verdict: Verdict) -> None:
    """There is nothing to pass on."""
    made = await make_sent(conn)

    await report(conn, made.fence, verdict)

    assert (await outcome_row(conn, made.id))["http_status"] is None


async def test_only_the_last_failure_has_a_status(conn: Connection) -> None:
    """An attempt that is tried again leaves none behind."""
    made = await make_sent(conn, retry=RETRY_ONCE)
    await report(conn, made.fence, Verdict.FAILED, http_status=418, retry_after_seconds=0)
    [again] = await lease(conn, made.session)

    await report(conn, Fence(made.id, again.attempt), Verdict.FAILED)

    assert (await outcome_row(conn, made.id))["http_status"] is None


async def test_who_stops_because_we_withdraw_it_hands_it_back(conn: Connection) -> None:
    """Nobody wants it cancelled: the process says so of what we told it."""
    made = await make_sent(conn)
    await send.withdraw(conn, 0, made.fence)

    answer = await report(conn, made.fence, Verdict.CANCELLED)
    row = await queue_row(conn, made.id)

    assert answer == recorded(Status.QUEUED)
    assert (row["state"], row["status_reason"], row["failures"], row["crashes"]) == ("ready", "released", 0, 0)
    assert (await event_types(conn, made.id))[-1] == "lease.released"


async def test_a_repeat_of_that_ends_nothing(conn: Connection) -> None:
    """The process says `cancelled` again after a lost answer: by then its attempt is nobody's."""
    made = await make_sent(conn)
    await send.withdraw(conn, 0, made.fence)
    await report(conn, made.fence, Verdict.CANCELLED)

    assert await report(conn, made.fence, Verdict.CANCELLED) == LEASE_LOST
    assert (await queue_row(conn, made.id))["state"] == "ready"


@pytest.mark.parametrize("first", ["cancel", "withdraw"])
async def test_a_person_who_cancels_what_is_withdrawn_decides(conn: Connection, first: str) -> None:
    """Whichever came first."""
    made = await make_sent(conn)
    if first == "withdraw":
        await send.withdraw(conn, 0, made.fence)
    await cancel.request(conn, [made.id], reason="enough", make_id=make_id)
    if first == "cancel":
        await send.withdraw(conn, 0, made.fence)

    assert await report(conn, made.fence, Verdict.CANCELLED) == recorded(Status.CANCELLED)
    assert (await outcome_row(conn, made.id))["error"] == b'"enough"'


async def test_the_next_attempt_is_not_withdrawn(conn: Connection) -> None:
    """The mark ends with the attempt that bore it: there, `cancelled` is the process's own wish."""
    made = await make_sent(conn)
    await send.withdraw(conn, 0, made.fence)
    await report(conn, made.fence, Verdict.RELEASED)
    [again] = await lease(conn, made.session)

    answer = await report(conn, Fence(made.id, again.attempt), Verdict.CANCELLED)

    assert answer == recorded(Status.CANCELLED)


@pytest.mark.parametrize("verdict", [Verdict.SUCCEEDED, Verdict.FAILED])
async def test_a_withdrawn_attempt_may_still_end(conn: Connection, verdict: Verdict) -> None:
    """Its result was on the way when we gave it up: it counts."""
    made = await make_sent(conn)
    await send.withdraw(conn, 0, made.fence)

    assert await report(conn, made.fence, verdict) == recorded(Status(verdict.value))


@pytest.mark.parametrize("verdict", [one for one in Verdict if one is not Verdict.WAITING])
async def test_an_attempt_that_waits_may_end(conn: Connection, verdict: Verdict) -> None:
    """A process that stops waiting by itself says how it went, and it counts."""
    made = await make_sent(conn)
    await wait.begin(conn, 0, made.fence, reason="approval")

    answer = await report(conn, made.fence, verdict)

    status = Status.QUEUED if verdict is Verdict.RELEASED else Status(verdict.value)
    assert answer == recorded(status)


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.RELEASED])
async def test_nothing_is_under_way_after_an_attempt(conn: Connection, verdict: Verdict) -> None:
    """Sent, taken, waiting: all of that was the attempt's, and the next one begins without it."""
    made = await make_sent(conn, accepted=True, retry=RETRY_ONCE)
    await wait.begin(conn, 0, made.fence, reason="approval")

    await report(conn, made.fence, verdict)
    row = await queue_row(conn, made.id)

    assert (row["sent_at"], row["accepted_at"], row["waiting_at"], row["pause_requested"]) == (None, None, None, False)


async def test_a_callback_of_who_was_replaced_is_lost(conn: Connection) -> None:
    """A process that we took for dead reports after its work was freed: that runs elsewhere now."""
    made = await make_sent(conn, session=await make_process(conn, instance_id="old"))
    await make_process(conn, instance_id="new")
    await expire.sweep(conn, 0, make_id=make_id)

    assert await report(conn, made.fence) == LEASE_LOST
    assert (await queue_row(conn, made.id))["state"] == "ready"


async def fall_silent(conn: Connection, made: Made) -> None:
    """The process of this attempt was not heard of for longer than its lease; it may only be busy."""
    await move_clock(conn, "1 hour")
    await expire.close_expired(conn, 0, up_seconds=1e9)
    await expire.sweep(conn, 0, make_id=make_id)
    assert (await queue_row(conn, made.id))["status_reason"] == "node_silent"


@pytest.mark.parametrize("verdict", [Verdict.SUCCEEDED, Verdict.FAILED])
async def test_a_busy_process_is_heard_late(conn: Connection, verdict: Verdict) -> None:
    """What it says after its lease counts, once, as long as nobody else has begun."""
    made = await make_sent(conn, webhooks=(webhook(),))
    await fall_silent(conn, made)

    first, second = [await report(conn, made.fence, verdict) for _ in range(2)]

    assert (first.code, second.code) == (ReportCode.RECORDED, ReportCode.ALREADY_RECORDED)
    assert (await outcome_row(conn, made.id))["status"] == verdict.value
    assert await conn.fetchval("select count(*) from deliveries") == 1


@pytest.mark.parametrize(
    "error",
    [
        b"\"Failed to set memory key 'done': Client error '409 Conflict' for url 'http://cp/api/v1/memory/set'\"",
        b'"409, The parent attempt no longer holds its lease; the child was not accepted."',
        b"\"409: {'error': '409, The parent attempt no longer holds its lease; the child was not accepted.'}\"",
        b"\"Failed to get memory key 'done': All connection attempts failed\"",
        b'"Server disconnected without sending a response."',
    ],
)
async def test_who_was_refused_has_not_failed(conn: Connection, error: bytes) -> None:
    """A process that goes on after its lease fails of our refusing what it writes: that is no end of the work."""
    made = await make_sent(conn)
    await fall_silent(conn, made)

    (answer,) = await reports(conn, Report(fence=made.fence, verdict=Verdict.FAILED, error=error))

    assert answer == LEASE_LOST
    assert (await queue_row(conn, made.id))["state"] == "ready"


async def test_a_busy_process_is_too_late(conn: Connection) -> None:
    """Once another attempt has begun, its fence decides."""
    made = await make_sent(conn)
    await fall_silent(conn, made)
    await lease(conn, await make_session(conn))

    assert await report(conn, made.fence) == LEASE_LOST
    assert (await queue_row(conn, made.id))["attempt"] == 2


@pytest.mark.parametrize("verdict", [Verdict.CANCELLED, Verdict.RELEASED])
async def test_a_busy_process_cannot_take_its_work_away(conn: Connection, verdict: Verdict) -> None:
    """Only an end is heard late: that it was stopped meanwhile says nothing of the attempt that comes."""
    made = await make_sent(conn)
    await fall_silent(conn, made)

    assert await report(conn, made.fence, verdict) == LEASE_LOST
    assert (await queue_row(conn, made.id))["state"] == "ready"


async def test_a_dead_process_is_not_heard(conn: Connection) -> None:
    """Whose address another process has, or nobody, does not come back."""
    made = await make_sent(conn)
    await conn.execute("update sessions set closed_at = clock(), closed_reason = 'refused'")
    await expire.sweep(conn, 0, make_id=make_id)

    assert await report(conn, made.fence) == LEASE_LOST
