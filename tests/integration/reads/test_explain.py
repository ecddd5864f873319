"""Why an execution waits, from what the stages left in the database: one test for each cause."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from controlplane.domain.approval import WAITING_FOR_APPROVAL
from controlplane.domain.explain import Cause, Explanation, explain
from controlplane.domain.ids import ExecutionId, show, show_execution
from controlplane.domain.lease import Verdict
from controlplane.domain.limit import Rule
from controlplane.domain.pause import Paused
from controlplane.domain.retry import RetryPolicy
from controlplane.domain.standing import AHEAD_MAX
from controlplane.domain.step import AskApproval, AwaitEvent, Sleep, StepOp
from controlplane.postgres.pool import Connection
from controlplane.reads import explain as reads
from controlplane.stages import admit, approve, cancel, expire, limit, pause, submit, wait, withhold
from controlplane.stages.approve import Question
from tests.make import (
    NAMESPACE,
    STOCK,
    Made,
    make_execution,
    make_id,
    make_process,
    make_sent,
    make_session,
    move_clock,
    must,
    queue_row,
    report,
    send,
    steps,
    submission,
    suspend,
)

DRAIN = "update sessions set draining = true"
FORGET_SECONDS = 90.0

CLOSE_AGO = """
update sessions
set closed_at = clock() - make_interval(secs => $1)
where closed_at is null
  and node_id = 'n'
"""

MANY_READY = """
insert into queue (bucket, id, namespace, target, run_id, state, priority, available_at, retries_max, webhooks)
select 0, gen_random_uuid(), 1, 'n.echo', 'run', 'ready', 0, clock() - interval '1 hour', 0, 0
from generate_series(1, $1::int)
"""


async def why(conn: Connection, made: Made) -> Explanation:
    """The answer, for an execution that is there."""
    found = await reads.standing(
        conn, made.id, namespace=NAMESPACE, placement=STOCK, cancel_grace_seconds=10, dispatch_seconds=30
    )
    assert found is not None
    return explain(found)


def second(at: Any) -> str:
    """A moment as sentences say it."""
    return str(at.strftime("%Y-%m-%dT%H:%M:%SZ"))


async def test_an_attempt_that_may_not_be_silent(conn: Connection) -> None:
    """When it is stopped depends on what it does."""
    made = await make_execution(conn, "running", heartbeat_seconds=60.0, timeout_seconds=600.0)
    await conn.execute("update queue set deadline_at = clock() + interval '1 minute'")
    row = await queue_row(conn, made.id)

    found = await why(conn, made)

    assert found.sentence.endswith(
        f"; it is stopped at {second(row['deadline_at'])} if it gives no sign of life by then."
    )
    assert found.facts["attempt_heartbeat_seconds"] == 60


async def test_nobody_has_come_yet(conn: Connection) -> None:
    """A node that registered and never opened a session: when it registered is all that is known."""
    await make_session(conn)
    await conn.execute("delete from sessions")
    made = await make_execution(conn)

    found = await why(conn, made)
    at = await conn.fetchval("select updated_at from nodes")

    assert found.code is Cause.NO_NODE
    assert found.sentence == (
        f"No process of node n, which serves n.echo, is connected; the node registered at {second(at)}."
    )


@pytest.mark.parametrize("forgotten", [False, True])
async def test_everybody_has_gone(conn: Connection, forgotten: bool) -> None:
    """Since when is known right after the last process has gone, and also once its session is forgotten."""
    session = await make_session(conn)
    await expire.leave(conn, session.id, 0, reason="bye", make_id=make_id)
    at = await conn.fetchval("select closed_at from sessions")
    made = await make_execution(conn)
    if forgotten:
        await move_clock(conn, "91 seconds")
        await expire.forget_sessions(conn, 0, after_seconds=FORGET_SECONDS)

    found = await why(conn, made)

    assert await conn.fetchval("select count(*) from sessions") == (0 if forgotten else 1)
    assert (found.code, found.since) == (Cause.NO_NODE, at)
    assert found.sentence.endswith(f"is connected; the last one was gone at {second(at)}.")


async def test_forgetting_keeps_the_latest_end(conn: Connection) -> None:
    """Of several processes the last one counts, and what was known before is not overwritten by what is older."""
    await make_session(conn, "other")
    for ago in (300, 200):
        await make_session(conn)
        await conn.execute(CLOSE_AGO, ago)
    latest = await conn.fetchval("select max(closed_at) from sessions")
    await expire.forget_sessions(conn, 0, after_seconds=FORGET_SECONDS)

    assert await conn.fetch("select id, left_at from nodes order by id") == [("n", latest), ("other", None)]


async def test_the_node_drains(conn: Connection) -> None:
    """A process that takes nothing new does not count as one that serves."""
    await make_session(conn)
    await conn.execute(DRAIN)

    found = await why(conn, await make_execution(conn))

    assert found.sentence == "Node n is draining: it finishes what it runs and takes nothing new."
    assert found.code is Cause.NODE_DRAINING


@pytest.mark.parametrize(
    ("what", "code", "begins"),
    [
        (Paused.all(), Cause.ALL_PAUSED, "Everything"),
        (Paused.node("n"), Cause.NODE_PAUSED, "Node n"),
        (Paused.reasoner("n", "n.echo"), Cause.REASONER_PAUSED, "Reasoner n.echo"),
    ],
)
async def test_it_is_held_back(conn: Connection, what: Paused, code: Cause, begins: str) -> None:
    """By whom, since when and why, whether a process is there or not; of others nothing is said."""
    made = await make_execution(conn)
    await make_session(conn)
    await withhold.pause(conn, [0], Paused.reasoner("n", "n.other"), namespace=NAMESPACE, reason=None, paused_by=None)
    before = await why(conn, made)
    one, _ = await withhold.pause(conn, [0], what, namespace=NAMESPACE, reason="maintenance", paused_by="ops")

    found = await why(conn, made)

    assert before.code is Cause.NEXT
    assert (found.code, found.since) == (code, one.paused_at)
    assert found.sentence == f"{begins} is paused by ops since {second(one.paused_at)}: maintenance."


async def test_a_person_has_asked_the_node_to_drain(conn: Connection) -> None:
    """Who, when and why; a process that came later serves."""
    await make_session(conn)
    made = await make_execution(conn)
    await withhold.drain(conn, 0, namespace=NAMESPACE, node_id="n", reason="update", asked_by="ops")
    at = await conn.fetchval("select drain_requested_at from sessions")

    found = await why(conn, made)
    await make_process(conn)
    later = await why(conn, made)

    assert (found.code, found.since) == (Cause.NODE_DRAINING, at)
    assert found.sentence.startswith(f"Node n was asked to drain by ops at {second(at)} (update): ")
    assert later.code is Cause.NEXT


async def test_the_node_is_late(conn: Connection) -> None:
    """No heartbeat for more than two and a half of them."""
    await make_session(conn)
    made = await make_execution(conn)
    await move_clock(conn, "26 seconds")

    found = await why(conn, made)

    assert found.code is Cause.NODE_LATE
    assert found.sentence == "Node n is late: its last heartbeat came 26 s ago, one is due every 10 s."


async def test_a_called_node_is_silent(conn: Connection) -> None:
    """One that is called and that nothing is heard of may not be there any more."""
    await make_process(conn)
    made = await make_execution(conn)
    await move_clock(conn, "6 seconds")

    found = await why(conn, made)

    assert found.code is Cause.NODE_UNREACHABLE
    assert found.sentence == (
        "Node n, which is called, is silent: its last heartbeat came 6 s ago, one is due every 2 s."
    )


async def test_the_node_is_full(conn: Connection) -> None:
    """Every slot of every process is taken; what takes them is named."""
    first, second_ = await make_session(conn, slots=1), await make_session(conn, slots=1)
    busy = [await make_execution(conn, "running", session=one) for one in (first, second_)]
    before, made = await make_execution(conn), await make_execution(conn)

    found, next_ = await why(conn, made), await why(conn, before)

    assert found.code is Cause.NODE_FULL
    assert found.sentence == "Node n is full: 2 of 2 slots are taken; 1 execution of n.echo is before it."
    assert next_.sentence == "Node n is full: 2 of 2 slots are taken; it is the next."
    assert sorted(found.facts["runs"]) == sorted(show_execution(one.id) for one in busy)  # type: ignore[call-overload]


async def test_a_called_parent_takes_no_slot(conn: Connection) -> None:
    """As the claim counts: else parents would keep their own children out."""
    session = await make_process(conn, slots=1)
    parent = await make_sent(conn, session=session, accepted=True)
    made = await make_execution(conn, parent_id=parent.id)

    found = await why(conn, made)

    assert (found.code, found.facts["slots_taken"]) == (Cause.NEXT, 0)


async def test_others_are_before_it(conn: Connection) -> None:
    """Those that are more urgent, and those as urgent that came earlier; no others."""
    await make_session(conn)
    for over in ({}, {"priority": 1}, {"priority": -1}, {"target": "n.other"}):
        await make_execution(conn, **over)
    made = await make_execution(conn)
    await make_execution(conn)

    found = await why(conn, made)

    assert found.code is Cause.QUEUED_BEHIND
    assert found.sentence == "2 executions of n.echo are before it."


async def test_a_long_queue_is_not_counted_to_its_end(conn: Connection) -> None:
    """A thousand is as many as anybody wants to know."""
    await make_session(conn)
    await conn.execute(MANY_READY, AHEAD_MAX + 10)

    found = await why(conn, await make_execution(conn))

    assert found.sentence == "More than 1,000 executions of n.echo are before it."
    assert (found.facts["ahead"], found.facts["ahead_is_more"]) == (1_000, True)


async def test_the_rate_of_late_makes_an_estimate(conn: Connection) -> None:
    """Five finishes of this target in ten seconds: the third in line begins in about six."""
    session = await make_session(conn)
    for n in range(5):
        done = await make_execution(conn, "running", session=session)
        await report(conn, done.fence)
        other = await make_execution(conn, "running", session=session, target="n.other")
        await report(conn, other.fence)
        await move_clock(conn, f"{2 * n + 2} seconds")
    await make_execution(conn)
    await make_execution(conn)

    found = await why(conn, await make_execution(conn))

    assert found.facts["finishes"] == 5
    assert found.facts["finishes_seconds"] == pytest.approx(10, abs=1)
    assert found.sentence == "2 executions of n.echo are before it, which take about 6 s."


async def test_it_is_the_next(conn: Connection) -> None:
    """Nothing hinders it."""
    await make_session(conn)

    found = await why(conn, await make_execution(conn))

    assert found.sentence == "It is the next of n.echo, and node n has a free slot."


async def test_it_failed_and_is_tried_again(conn: Connection) -> None:
    """When, and after which failure."""
    made = await make_execution(conn, "running", retry=RetryPolicy(retries_max=2, delay_seconds=60))
    await report(conn, made.fence, Verdict.FAILED, error=b'"no way"', error_class="Boom")

    found = await why(conn, made)
    at = (await queue_row(conn, made.id))["available_at"]

    assert found.code is Cause.RETRYING
    assert found.sentence == f"Attempt 1 failed: Boom (no way); it is tried again at {second(at)}, retry 1 of 2."
    assert found.fix == f"See why: GET /api/v1/executions/{show_execution(made.id)}/attempts."


async def test_a_pause_leaves_the_failure_alone(conn: Connection) -> None:
    """What is let go before its retry is tried again then, and says why."""
    made = await make_execution(conn, "running", retry=RetryPolicy(retries_max=2, delay_seconds=60))
    await report(conn, made.fence, Verdict.FAILED, error=b'"no way"', error_class="Boom")
    await pause.request(conn, made.id, reason=None)
    await pause.resume(conn, made.id)

    found = await why(conn, made)

    assert found.code is Cause.RETRYING
    assert found.sentence.startswith("Attempt 1 failed: Boom (no way); it is tried again at ")


@pytest.mark.parametrize(
    ("reason", "code", "words"),
    [
        ("node_unreachable", Cause.NODE_UNREACHABLE, "Node n could not be reached for attempt 1; it is called again"),
        ("node_full", Cause.NODE_FULL, "Node n had no room for attempt 1; it is called again"),
        ("server_unreachable", Cause.TAKEN_BACK, "Attempt 1 was taken back (server_unreachable); it begins again"),
    ],
)
async def test_it_did_not_get_there(conn: Connection, reason: str, code: Cause, words: str) -> None:
    """A call that came to nothing is made again a moment later."""
    made = await make_sent(conn)
    await expire.take_back(conn, 0, [made.fence], reason=reason, crash=False, make_id=make_id, delay_seconds=60)

    found = await why(conn, made)
    at = (await queue_row(conn, made.id))["available_at"]

    assert (found.code, found.sentence) == (code, f"{words} at {second(at)}.")


async def test_it_is_not_to_begin_yet(conn: Connection) -> None:
    """Nothing has failed: it was asked for later."""
    wish = submission(delay_seconds=60.0)
    await submit.accept(conn, [wish])

    found = await why(conn, Made(submission=wish, attempt=0))
    row = await queue_row(conn, wish.id)

    assert (row["state"], row["status_reason"]) == ("delayed", "scheduled")
    assert (found.code, found.sentence) == (Cause.SCHEDULED, f"It begins at {second(row['available_at'])}.")


async def test_a_pause_leaves_the_moment_alone(conn: Connection) -> None:
    """What is let go before its time has come begins then, and says so."""
    wish = submission(delay_seconds=60.0)
    await submit.accept(conn, [wish])
    await pause.request(conn, wish.id, reason=None)
    await pause.resume(conn, wish.id)

    assert (await why(conn, Made(submission=wish, attempt=0))).code is Cause.SCHEDULED


async def test_a_person_paused_it(conn: Connection) -> None:
    """Since when, why, and how it goes on."""
    made = await make_execution(conn)
    turned = await pause.request(conn, made.id, reason="hold on")

    found = await why(conn, made)

    assert (found.code, found.since) == (Cause.PAUSED, turned.at)
    assert found.sentence == f"A person paused it at {second(turned.at)} (hold on)."
    assert found.fix == f"Let it go on: POST /api/v1/executions/{show_execution(made.id)}/resume."


async def test_a_person_pauses_what_runs(conn: Connection) -> None:
    """The attempt goes on to its end."""
    made = await make_execution(conn, "running")
    turned = await pause.request(conn, made.id, reason=None)

    found = await why(conn, made)

    assert found.code is Cause.PAUSING
    assert found.sentence == (
        f"A person paused it at {second(turned.at)}; attempt 1 still goes on to its end on node n, and what comes "
        "after it waits."
    )


async def test_a_limit_holds_it_back(conn: Connection) -> None:
    """Which, who holds it, and how many come before it."""
    await limit.put(conn, 0, Rule(concurrency_max=1), namespace=NAMESPACE, key="key:k")
    holder, _, third = [await make_execution(conn, "blocked", line="key:k", concurrency_key="k") for _ in range(3)]
    [line] = await admit.lines(conn, 0)
    await admit.advance(conn, line, STOCK)

    found = await why(conn, third)

    assert found.code is Cause.BLOCKED
    assert found.sentence == (
        f"key:k allows 1 at once, held by {show_execution(holder.id)}; 1 execution of that line is before it."
    )
    assert found.facts.items() >= {"blocked_by": "key:k", "held": 1, "ahead": 1}.items()


async def test_a_rate_holds_it_back(conn: Connection) -> None:
    """When the next may begin."""
    await limit.put(conn, 0, Rule(rate_max=1, rate_seconds=60.0), namespace=NAMESPACE, key="key:k")
    _, second = [await make_execution(conn, "blocked", line="key:k", concurrency_key="k") for _ in range(2)]
    [line] = await admit.lines(conn, 0)
    await admit.advance(conn, line, STOCK)

    found = await why(conn, second)

    assert found.code is Cause.RATE_LIMITED
    assert found.facts["next_at"] is not None


async def test_others_of_its_run_are_ready_already(conn: Connection) -> None:
    """A crowd leaves room for others."""
    await make_session(conn)
    made = await make_execution(conn, "blocked", fairness_key="run-a")

    found = await why(conn, made)

    assert (found.code, found.facts["fairness_key"]) == (Cause.WAITING_FOR_TURN, "run-a")


@pytest.mark.parametrize("line", ["key:k", None])
async def test_no_room_would_help_what_is_paused(conn: Connection, line: str | None) -> None:
    """What a person holds back says so, also where it stands in a line."""
    await make_session(conn)
    made = await make_execution(conn, "blocked", line=line, concurrency_key=line and "k", fairness_key="run-a")
    what = Paused.reasoner("n", "n.echo")
    await withhold.pause(conn, [0], what, namespace=NAMESPACE, reason=None, paused_by=None)

    assert (await why(conn, made)).code is Cause.REASONER_PAUSED


async def test_no_turn_comes_where_nobody_is(conn: Connection) -> None:
    """Those of its run that are before it wait for a node, and so does it."""
    made = await make_execution(conn, "blocked", fairness_key="run-a")

    assert (await why(conn, made)).code is Cause.NO_NODE


async def test_it_waits_for_people(conn: Connection) -> None:
    """What they are asked, where, and until when."""
    made = await make_execution(conn, "running")
    question = Question(
        execution_id=made.id,
        attempt=1,
        namespace=NAMESPACE,
        request_id="r-1",
        url="https://people.example/r-1",
        callback_url=None,
        expires_seconds=3_600,
    )
    await approve.ask(conn, question, make_id=make_id)

    found = await why(conn, made)
    row = await queue_row(conn, made.id)
    until = await conn.fetchval("select expires_at from approvals")

    assert row["status_reason"] == WAITING_FOR_APPROVAL
    assert found.sentence == (
        f"Attempt 1 waits since {second(row['waiting_at'])} for people to decide r-1; without an answer it goes on as "
        f"expired at {second(until)}."
    )
    assert found.fix == "Decide it: https://people.example/r-1"


async def test_it_waits_for_a_child(conn: Connection) -> None:
    """Which is named; one that has ended is not."""
    made = await make_execution(conn, "running")
    child = await make_execution(conn, parent_id=made.id, target="n.child")
    await make_execution(conn, "succeeded", parent_id=made.id, session=made.session)
    await wait.begin(conn, 0, made.fence, reason=wait.AWAITING_CHILD)

    found = await why(conn, made)
    at = (await queue_row(conn, made.id))["waiting_at"]

    assert found.code is Cause.WAITING_FOR_CHILD
    assert found.sentence == (
        f"Attempt 1 waits since {second(at)} for its unfinished child {show_execution(child.id)} (n.child, ready)."
    )


async def test_it_waits_for_something_else(conn: Connection) -> None:
    """In the words of who waits."""
    made = await make_execution(conn, "running")
    await wait.begin(conn, 0, made.fence, reason="sleeping")

    found = await why(conn, made)
    at = (await queue_row(conn, made.id))["waiting_at"]

    assert (found.code, found.sentence) == (Cause.WAITING, f"Attempt 1 waits since {second(at)} (sleeping).")


async def test_it_is_being_cancelled(conn: Connection) -> None:
    """Since when, why, and when it ends at the latest."""
    made = await make_execution(conn, "running")
    [done] = await cancel.request(conn, [made.id], reason="enough", make_id=make_id)

    found = await why(conn, made)
    at = (await queue_row(conn, made.id))["cancel_requested_at"]

    assert must(done).settled is False
    assert found.code is Cause.CANCELLING
    assert found.sentence == (
        f"A person cancelled it at {second(at)} (enough) while attempt 1 ran; it ends as soon as node n has stopped "
        f"it, at {second(at + timedelta(seconds=10))} at the latest."
    )


async def test_it_is_being_taken_back(conn: Connection) -> None:
    """Its process is about to be told to stop, by us."""
    made = await make_sent(conn, accepted=True)
    await conn.execute("update queue set status_reason = 'withdrawing'")

    found = await why(conn, made)

    assert found.sentence == "Attempt 1 is being taken back from node n."


async def test_its_process_is_gone(conn: Connection) -> None:
    """Until the next pass of the reaper, which frees it."""
    made = await make_execution(conn, "running")
    await move_clock(conn, "31 seconds")
    await expire.close_expired(conn, 0, up_seconds=3_600)

    found = await why(conn, made)
    at = await conn.fetchval("select closed_at from sessions")

    assert found.code is Cause.PROCESS_GONE
    assert found.sentence == (
        f"The process of node n that ran attempt 1 is gone since {second(at)} (expired); the attempt is about to be "
        "taken back."
    )


async def test_its_process_is_late(conn: Connection) -> None:
    """And when it is given up."""
    made = await make_execution(conn, "running")
    await move_clock(conn, "26 seconds")

    found = await why(conn, made)
    until = await conn.fetchval("select expires_at from sessions")

    assert found.code is Cause.NODE_LATE
    assert found.sentence == (
        "Attempt 1 runs on node n, which is late: its last heartbeat came 26 s ago, one is due every 10 s; if none "
        f"comes by {second(until)}, the attempt is taken back and begins again."
    )


async def test_its_called_process_is_silent(conn: Connection) -> None:
    """Only its address can tell whether it is dead or busy."""
    made = await make_sent(conn, accepted=True)
    await move_clock(conn, "6 seconds")

    found = await why(conn, made)

    assert found.code is Cause.NODE_UNREACHABLE
    assert found.sentence.startswith(
        "Attempt 1 is with node n, which is silent: its last heartbeat came 6 s ago, one is due every 2 s; if nobody "
        "answers at its address, or by "
    )


async def test_it_was_sent_and_is_not_acknowledged(conn: Connection) -> None:
    """Nobody knows yet whether it got there."""
    made = await make_sent(conn)

    found = await why(conn, made)
    at = (await queue_row(conn, made.id))["leased_at"]

    assert found.code is Cause.NOT_ACKNOWLEDGED
    assert found.sentence == (
        f"Attempt 1 was sent to node n at {second(at)}, which has not acknowledged it yet; after 30 s the node is "
        "asked what became of it."
    )


async def test_it_runs(conn: Connection) -> None:
    """Where, since when and until when; what was heard of it stands in the facts."""
    made = await make_execution(conn, "running", timeout_seconds=600)
    await conn.execute(
        "insert into logs (bucket, execution_id, namespace, attempt, at, level, message) "
        "values (0, $1, 1, 1, clock() - interval '5 seconds', 'info', 'm')",
        made.id,
    )

    found = await why(conn, made)
    row = await queue_row(conn, made.id)

    assert found.code is Cause.RUNNING
    assert found.sentence == (
        f"Attempt 1 runs on node n since {second(row['leased_at'])}; it times out at {second(row['deadline_at'])}."
    )
    assert found.facts["session_id"] == show("ses", made.session.id)
    assert found.facts["log_age_seconds"] == pytest.approx(5, abs=2)


async def test_it_runs_and_has_children(conn: Connection) -> None:
    """A parent that only awaits its children says so, whether or not its node has told us."""
    made = await make_execution(conn, "running")
    children = [await make_execution(conn, parent_id=made.id) for _ in range(12)]

    found = await why(conn, made)

    assert f", with 12 unfinished children, first {show_execution(children[0].id)} (n.echo, ready)." in found.sentence
    assert len(found.facts["children"]) == 10  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("succeeded", "It succeeded in attempt 1 at {}."),
        ("failed", "It failed in attempt 1 at {} (boom)."),
        ("cancelled", "It was cancelled at {}."),
    ],
)
async def test_it_has_ended(conn: Connection, status: str, words: str) -> None:
    """How, and when."""
    made = await make_execution(conn, status)

    found = await why(conn, made)
    at = await conn.fetchval("select finished_at from outcomes")

    assert (found.code, found.sentence) == (status, words.format(second(at)))


async def test_it_ran_out_of_its_time(conn: Connection) -> None:
    """A timeout is an end of its own."""
    made = await make_execution(conn, "running", timeout_seconds=1)
    await move_clock(conn, "2 seconds")
    await expire.time_out(conn, 0, make_id=make_id)

    found = await why(conn, made)
    at = await conn.fetchval("select finished_at from outcomes")

    assert found.code is Cause.TIMEOUT
    assert found.sentence.startswith(f"It ran out of its time in attempt 1 at {second(at)}: the attempt took longer")


async def test_nobody_elses_is_explained(conn: Connection) -> None:
    """Another namespace knows nothing of it."""
    made = await make_execution(conn)
    asked = {"placement": STOCK, "cancel_grace_seconds": 10, "dispatch_seconds": 30}

    assert await reads.standing(conn, made.id, namespace=2, **asked) is None  # type: ignore[arg-type]
    assert await reads.standing(conn, ExecutionId(UUID(int=0)), namespace=1, **asked) is None  # type: ignore[arg-type]


async def test_an_error_that_python_cannot_read_says_nothing(conn: Connection) -> None:
    """It is JSON all the same, and must not keep the sentence from being said."""
    made = await make_execution(conn, "running", retry=RetryPolicy(retries_max=1, delay_seconds=60))
    await report(conn, made.fence, Verdict.FAILED, error=b"[" * 5_000 + b"]" * 5_000)

    found = await why(conn, made)

    assert found.sentence.startswith("Attempt 1 failed; it is tried again at ")


async def suspended(conn: Connection, *ops: StepOp) -> Made:
    """An execution that has given its lease back and waits for these."""
    made = await make_execution(conn, "running")
    await steps(conn, made, *ops)
    await suspend(conn, made.fence, *(op.name for op in ops))
    return made


async def test_it_sleeps(conn: Connection) -> None:
    """Until when, and with which attempt it goes on."""
    made = await suspended(conn, Sleep(name="nap", seconds=60))

    found = await why(conn, made)
    at = await conn.fetchval("select due_at from steps")

    assert found.code is Cause.SLEEPING
    assert found.sentence == f"It sleeps until {second(at)}; then attempt 2 goes on where it stopped."
    assert found.facts["awaited_steps"] == [{"name": "nap", "kind": "sleep", "due_at": found.facts["goes_on_at"]}]


async def test_it_waits_for_an_event(conn: Connection) -> None:
    """Which, since when, what else, and how to send it."""
    made = await suspended(conn, AwaitEvent(name="go", event="deploy.approved"), Sleep(name="nap", seconds=60))

    found = await why(conn, made)
    since = await conn.fetchval("select waiting_at from queue")

    assert found.code is Cause.WAITING_FOR_EVENT
    assert found.sentence == f"It waits since {second(since)} for the event deploy.approved (and 1 more step)."
    assert (found.since, found.facts["awaited"], found.facts["awaited_done"]) == (since, 2, 0)
    assert str(found.fix).endswith("/signals/deploy.approved.")


async def test_it_waits_for_what_has_not_come(conn: Connection) -> None:
    """Of several things not for the one that has come already, although it began to wait for that."""
    made = await suspended(conn, AwaitEvent(name="go", event="go"), Sleep(name="nap", seconds=60))
    await send(conn, made.id)

    found = await why(conn, made)

    assert found.code is Cause.SLEEPING
    assert found.sentence.startswith("It sleeps until ")


async def test_it_waits_for_people_without_a_lease(conn: Connection) -> None:
    """What they were asked, and until when they may decide."""
    ask = AskApproval(name="ask", request_id="ask", title="Ship?", url=None, expires_seconds=60)
    made = await suspended(conn, ask)

    found = await why(conn, made)

    assert found.code is Cause.WAITING_FOR_APPROVAL
    assert 'for people to decide "Ship?"; without an answer it goes on as expired at' in found.sentence
    assert (found.facts["approval_request_id"], found.facts["title"]) == ("ask", "Ship?")


async def test_it_waits_for_children_without_a_lease(conn: Connection) -> None:
    """How many of how many, and which to ask first."""
    made = await make_execution(conn, "running")
    over = {"run_id": made.run_id, "parent_id": made.id, "parent_attempt": 1, "target": "n.child"}
    await submit.accept(conn, [submission(step=name, **over) for name in ("a", "b", "c")])
    await suspend(conn, made.fence, "a", "b", "c")
    child = await conn.fetchval("select child_id from steps where name = 'a'")
    await cancel.request(conn, [ExecutionId(child)], reason=None, make_id=make_id)

    found = await why(conn, made)
    since = await conn.fetchval("select waiting_at from queue where parent_id is null")

    assert found.code is Cause.WAITING_FOR_CHILD
    assert f"It waits since {second(since)} for all of its children: 2 of 3 have not ended, first " in found.sentence
    assert (found.facts["awaited_done"], found.facts["children_unfinished"]) == (1, 2)
