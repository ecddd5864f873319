"""Submit: what is accepted is in the database once, whatever is repeated or happens at the same moment."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from controlplane.domain.execution import Submission
from controlplane.domain.ids import SessionId
from controlplane.domain.retry import RetryPolicy
from controlplane.errors import IdempotencyConflict, LeaseLost
from controlplane.postgres.pool import Connection
from controlplane.stages import cancel, expire, pause, submit
from tests.make import (
    TARGET,
    accept,
    all_rows,
    counts,
    event_types,
    lease,
    make_execution,
    make_id,
    make_session,
    move_clock,
    must,
    new_execution_id,
    only_row,
    queue_row,
    queued,
    race,
    report,
    submission,
    webhook,
)

INF = float("inf")


def keyed(**over: Any) -> Submission:
    return submission(**({"idempotency_key": "k", "request_hash": b"hash"} | over))


async def test_accepts_into_the_queue(conn: Connection) -> None:
    """An accepted execution is ready, at attempt 0, and its creation is an event."""
    wish = submission(priority=3, timeout_seconds=5.0, retry=RetryPolicy(retries_max=2))

    [accepted] = await accept(conn, wish)
    row = await queue_row(conn, wish.id)

    assert (accepted.id, accepted.run_id, accepted.replayed) == (wish.id, wish.run_id, False)
    assert (row["state"], row["attempt"], row["priority"], row["retries_max"]) == ("ready", 0, 3, 2)
    assert await event_types(conn, wish.id) == ["execution.queued"]


async def test_keeps_payloads_byte_for_byte(conn: Connection) -> None:
    """Input and context come back as the bytes they were sent as."""
    raw = b'{ "a":1.0e5,"b":"\\u0000\\ud800", "b":2 }'
    await accept(conn, submission(input=raw, context=b" [1, 2] "))

    row = await only_row(conn, "select input, context from executions")

    assert (row["input"], row["context"]) == (raw, b" [1, 2] ")


async def test_answers_in_the_order_of_the_batch(conn: Connection) -> None:
    """Items of several buckets are answered in the order they came in."""
    wishes = [submission(bucket=n % 3) for n in range(9)]

    answers = await accept(conn, *wishes)

    assert [answer.id for answer in answers] == [wish.id for wish in wishes]


async def test_the_same_submission_twice_is_one_execution(conn: Connection) -> None:
    """A flush repeated after a lost answer says the same and inserts nothing."""
    wish = submission(webhooks=(webhook(),))
    first = await accept(conn, wish)

    again = await accept(conn, wish)

    assert again == first
    assert await counts(conn, "executions", "queue", "webhooks", "events") == {
        "executions": 1, "queue": 1, "webhooks": 1, "events": 1,
    }  # fmt: skip


async def test_a_repeat_does_not_queue_what_has_finished(conn: Connection) -> None:
    """An execution that ended between the try and its repeat stays ended."""
    made = await make_execution(conn, "succeeded")

    await accept(conn, made.submission)

    assert not await queued(conn, made.id)


async def test_a_repeat_beside_new_ones(conn: Connection) -> None:
    """In one batch a repeated submission and new ones get each their own answer."""
    old, new = submission(), submission(webhooks=(webhook(),))
    [first] = await accept(conn, old)

    answers = await accept(conn, new, old)

    assert [answer.id for answer in answers] == [new.id, old.id]
    assert answers[1] == first


async def test_keeps_webhooks_in_order(conn: Connection) -> None:
    """Each webhook is a row numbered from 1, and the queue row knows how many there are."""
    wish = submission(webhooks=(webhook("https://a.example/"), webhook("https://b.example/")))

    await accept(conn, wish)
    rows = await conn.fetch("select n, host, secret_sealed from webhooks order by n")

    assert [tuple(row) for row in rows] == [(1, "a.example", b"sealed"), (2, "b.example", b"sealed")]
    assert (await queue_row(conn, wish.id))["webhooks"] == 2


async def test_a_used_key_replays(conn: Connection) -> None:
    """A second request with the key gets the first execution and makes none."""
    first, second = keyed(), keyed()
    [accepted] = await accept(conn, first)

    [replayed] = await accept(conn, second)

    assert replayed == replace(accepted, replayed=True)
    assert await counts(conn, "executions", "queue") == {"executions": 1, "queue": 1}


async def test_a_used_key_with_another_request_is_refused(conn: Connection) -> None:
    """The same key with another body is a conflict and changes nothing."""
    await accept(conn, keyed())

    with pytest.raises(IdempotencyConflict):
        await accept(conn, keyed(request_hash=b"other"))
    assert await counts(conn, "executions") == {"executions": 1}


async def test_repeat_of_the_first_use_of_a_key(conn: Connection) -> None:
    """The flush that took the key is not a replay of itself when it is run again."""
    wish = keyed()
    first = await accept(conn, wish)

    assert await accept(conn, wish) == first
    assert first[0].replayed is False


async def test_a_key_is_free_again_after_its_time(conn: Connection) -> None:
    """After 24 hours the key makes a new execution."""
    await accept(conn, keyed())
    await move_clock(conn, "24 hours 1 second")

    [accepted] = await accept(conn, keyed(request_hash=b"other"))

    assert accepted.replayed is False
    assert await counts(conn, "executions", "idempotency_keys") == {"executions": 2, "idempotency_keys": 1}


async def test_a_key_given_with_a_run_is_unique_within_the_run(conn: Connection) -> None:
    """The same key in two runs makes two executions."""
    await accept(conn, keyed(idempotency_scope="run-a"))

    [accepted] = await accept(conn, keyed(idempotency_scope="run-b"))

    assert accepted.replayed is False


async def test_racing_uses_of_one_key_make_one_execution(
    conn: Connection, other: Connection, observer: Connection
) -> None:
    """The second of two concurrent requests waits for the first and replays it."""
    first, second = keyed(), keyed()

    (began,), (waited,) = await race(
        conn, other, observer, first=lambda c: accept(c, first), second=lambda c: accept(c, second)
    )

    assert waited == replace(began, replayed=True)
    assert await counts(conn, "executions", "queue") == {"executions": 1, "queue": 1}


async def test_racing_submissions_of_one_id_are_one_execution(
    conn: Connection, other: Connection, observer: Connection
) -> None:
    """A repeat that overtakes its first try, still uncommitted, waits and says the same."""
    wish = submission(webhooks=(webhook(),))

    began, waited = await race(conn, other, observer, first=lambda c: accept(c, wish), second=lambda c: accept(c, wish))

    assert waited == began
    assert await counts(conn, "executions", "webhooks", "events") == {"executions": 1, "webhooks": 1, "events": 1}


async def test_a_child_of_a_live_attempt_is_accepted(conn: Connection) -> None:
    """The parent's fence holds, so its child is queued in the same run."""
    parent = await make_execution(conn, "running")

    [accepted] = await accept(conn, submission(run_id=parent.run_id, parent_id=parent.id, parent_attempt=1))

    assert accepted.run_id == parent.run_id


@pytest.mark.parametrize("status", ["queued", "succeeded"])
async def test_a_child_of_a_stale_attempt_is_refused(conn: Connection, status: str) -> None:
    """A parent that no longer holds its lease gets no children; its neighbours in the batch are accepted."""
    parent = await make_execution(conn, status)
    child, neighbour = submission(parent_id=parent.id, parent_attempt=1), submission()

    answers = await submit.accept(conn, [child, neighbour])

    assert isinstance(answers[0], LeaseLost)
    assert must(answers[1]).id == neighbour.id
    assert not await queued(conn, child.id)


async def test_a_refused_child_does_not_take_its_key(conn: Connection) -> None:
    """The key of a refused child is free for the attempt that has taken over."""
    parent = await make_execution(conn, "running", attempt=2)
    with pytest.raises(LeaseLost):
        await accept(conn, keyed(parent_id=parent.id, parent_attempt=1))

    [accepted] = await accept(conn, keyed(parent_id=parent.id, parent_attempt=2))

    assert accepted.replayed is False


async def test_repeat_of_an_accepted_child_whose_parent_has_ended(conn: Connection) -> None:
    """A child that was accepted is answered so again, even if the parent lost its lease in between."""
    parent = await make_execution(conn, "running")
    child = submission(parent_id=parent.id, parent_attempt=1)
    first = await accept(conn, child)
    await report(conn, parent.fence)

    assert await accept(conn, child) == first


async def test_a_child_waits_for_a_take_over_and_is_refused(
    conn: Connection, other: Connection, observer: Connection
) -> None:
    """A child whose parent is being completed at this very moment is refused when that commits."""
    parent = await make_execution(conn, "running")
    child = submission(parent_id=parent.id, parent_attempt=1)

    _, [answer] = await race(
        conn,
        other,
        observer,
        first=lambda c: report(c, parent.fence),
        second=lambda c: submit.accept(c, [child]),
    )

    assert isinstance(answer, LeaseLost)


async def test_what_is_accepted_can_be_leased(conn: Connection) -> None:
    """The node gets what was asked, byte for byte."""
    wish = submission(context=b"[]", session_key="s", actor_key="a", timeout_seconds=7.5, parent_id=None, type="skill")
    await accept(conn, wish)

    [got] = await lease(conn, await make_session(conn))

    assert (got.execution_id, got.attempt, got.failures) == (wish.id, 1, 0)
    assert (got.input, got.context, got.type, got.timeout_seconds) == (wish.input, b"[]", "skill", 7.5)
    assert (got.session_key, got.actor_key, got.run_id, got.root_id) == ("s", "a", wish.run_id, wish.id)


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 1e300, 0.0, -1.0])
async def test_a_timeout_that_could_never_be_leased_is_not_stored(conn: Connection, seconds: float) -> None:
    """A deadline that cannot be computed is refused here: in the queue it would fail every claim beside it."""
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await accept(conn, submission(timeout_seconds=seconds))


@pytest.mark.parametrize(
    "rule", [RetryPolicy(delay_seconds=INF), RetryPolicy(factor=INF), RetryPolicy(cap_seconds=INF)]
)
async def test_a_retry_rule_that_could_never_be_followed_is_not_stored(conn: Connection, rule: RetryPolicy) -> None:
    """A wait that cannot be computed is refused here: later it would fail the report of the attempt."""
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await accept(conn, submission(retry=rule))


async def now(conn: Connection) -> datetime:
    moment: datetime = await conn.fetchval("select clock()")
    return moment


async def test_a_delay_is_counted_by_the_database(conn: Connection) -> None:
    """It is delayed, says why and until when, and nobody is given it."""
    wish = submission(delay_seconds=60.0)

    [accepted] = await accept(conn, wish)
    row = await queue_row(conn, wish.id)

    assert (row["state"], row["status_reason"]) == ("delayed", "scheduled")
    assert accepted.scheduled_at == row["available_at"] == accepted.created_at + timedelta(seconds=60)
    assert await lease(conn, await make_session(conn)) == []


async def test_what_was_delayed_is_promoted_when_its_time_has_come(conn: Connection) -> None:
    """Not before; from then on it is ready as anything else, and says no more that it is scheduled."""
    wish = submission(delay_seconds=60.0)
    await accept(conn, wish)

    await move_clock(conn, "59 seconds")
    early = await expire.promote(conn, 0)
    await move_clock(conn, "61 seconds")
    promoted = await expire.promote(conn, 0)
    row = await queue_row(conn, wish.id)

    assert (early.rows, promoted.rows, promoted.ready) == (0, 1, ((1, "n.echo"),))
    assert (row["state"], row["status_reason"]) == ("ready", None)
    assert [one.execution_id for one in await lease(conn, await make_session(conn))] == [wish.id]


@pytest.mark.parametrize(("ahead", "state"), [(60, "delayed"), (0, "ready"), (-3600, "ready")])
async def test_a_moment_that_has_passed_means_now(conn: Connection, ahead: int, state: str) -> None:
    """Whether it has, is decided by the clock of the database, which here is an hour ahead."""
    await move_clock(conn, "1 hour")
    wish = submission(run_at=await now(conn) + timedelta(seconds=ahead))

    [accepted] = await accept(conn, wish)
    row = await queue_row(conn, wish.id)

    assert row["state"] == state
    assert row["available_at"] == (wish.run_at if state == "delayed" else accepted.created_at)


async def test_a_repeat_says_when_it_begins(conn: Connection) -> None:
    """The flush that is repeated after a lost answer and the second use of a key say what was said the first time."""
    wish = keyed(delay_seconds=60.0)
    first = await accept(conn, wish)

    assert await accept(conn, wish) == first
    assert (await accept(conn, keyed(delay_seconds=60.0)))[0].scheduled_at == first[0].scheduled_at


async def test_what_is_scheduled_can_be_cancelled(conn: Connection) -> None:
    """It ends at once, and its time may come."""
    wish = submission(delay_seconds=60.0)
    await accept(conn, wish)

    [done] = await cancel.request(conn, [wish.id], reason=None, make_id=make_id)
    await move_clock(conn, "2 minutes")

    assert must(done).settled
    assert (await expire.promote(conn, 0)).rows == 0


async def test_what_is_scheduled_can_be_paused(conn: Connection) -> None:
    """Let go before its time it is scheduled again, afterwards it is ready."""
    early, late = submission(delay_seconds=60.0), submission(delay_seconds=60.0)
    await accept(conn, early, late)
    for wish in (early, late):
        await pause.request(conn, wish.id, reason=None)

    await pause.resume(conn, early.id)
    again = await queue_row(conn, early.id)
    await move_clock(conn, "2 minutes")
    await pause.resume(conn, late.id)
    ready = await queue_row(conn, late.id)

    assert (again["state"], again["status_reason"]) == ("delayed", "scheduled")
    assert (ready["state"], ready["status_reason"]) == ("ready", None)


async def reserve(conn: Connection, **over: Any) -> UUID:
    fields = {"namespace": 1, "scope": "batch", "key": "k", "request_hash": b"hash"} | over
    return await submit.reserve(conn, fields.pop("id", None) or new_execution_id(), **fields)


async def test_a_reserved_key_keeps_its_first_id(conn: Connection) -> None:
    """Who comes with the same request is given the id that the first one brought."""
    first = new_execution_id()

    assert await reserve(conn, id=first) == first
    assert await reserve(conn) == first


async def test_a_reserved_key_with_another_request_is_refused(conn: Connection) -> None:
    """And keeps its id."""
    first = await reserve(conn)

    with pytest.raises(IdempotencyConflict):
        await reserve(conn, request_hash=b"other")
    assert await reserve(conn) == first


async def test_racing_reservations_of_one_key(conn: Connection, other: Connection, observer: Connection) -> None:
    """The second waits for the first and is given its id."""
    began, waited = await race(conn, other, observer, first=reserve, second=reserve)

    assert waited == began


async def test_a_reserved_key_is_free_again_after_its_time(conn: Connection) -> None:
    """After 24 hours it is reserved anew."""
    first = await reserve(conn)
    await move_clock(conn, "24 hours 1 second")

    assert await reserve(conn, request_hash=b"other") != first


async def test_what_was_accepted_before_is_known_by_its_id_its_key_and_its_step(conn: Connection) -> None:
    """So that it is answered also where there is no room for more; it looks, and changes nothing."""
    parent = await make_execution(conn, "running")
    of = {"parent_id": parent.id, "parent_attempt": 1, "run_id": parent.run_id, "step": "s"}
    plain, key, call = submission(), keyed(), submission(**of)
    await accept(conn, plain, key, call)
    asked = [
        plain,
        keyed(),
        submission(**of),
        submission(),
        keyed(idempotency_key="other"),
        submission(**of | {"step": "t"}),
    ]
    before = await counts(conn)

    said = await submit.before(conn, asked)
    other = await submit.before(conn, [wrong := keyed(request_hash=b"another")])

    assert [one and one.id for one in map(said.get, (one.id for one in asked))] == [plain.id, key.id, call.id] + [
        None
    ] * 3
    assert [said[one.id].replayed for one in asked[:3]] == [False, True, True]
    assert isinstance(other[wrong.id], IdempotencyConflict)
    assert await counts(conn) == before


EVERYTHING: dict[str, dict[str, Any]] = {
    "plain": {},
    "all times": {
        "timeout_seconds": 50.0,
        "total_seconds": 40.0,
        "schedule_to_start_seconds": 5.0,
        "heartbeat_seconds": 7.0,
    },
    "an attempt's time": {"timeout_seconds": 50.0, "schedule_to_start_seconds": 5.0},
    "silence": {"heartbeat_seconds": 7.0},
    "names": {"session_key": "s", "actor_key": "a", "context": b"{}", "priority": 3},
    "told": {"webhooks": (webhook(events=("execution.started",)), webhook())},
    "tried again": {"retry": RetryPolicy(retries_max=3), "origin": b"{}"},
}


@pytest.mark.parametrize("over", EVERYTHING.values(), ids=EVERYTHING)
async def test_who_waits_gets_what_a_claim_would_give(conn: Connection, over: dict[str, Any]) -> None:
    """Row, events and lease are the same as of a claim at that very moment."""
    session = await make_session(conn)
    async with conn.transaction():  # in which the clock stands still
        claimed, matched = submission(**over), submission(**over)
        await accept(conn, claimed)
        [first] = await lease(conn, session)
        [answer] = await submit.accept(conn, [matched], {matched.id: session})
        second = must(answer).lease

        assert second is not None
        named = {"execution_id": claimed.id, "run_id": claimed.run_id, "root_id": claimed.root_id}
        assert replace(second, **named) == first
        assert not must(answer).ready
        rows = [dict(await queue_row(conn, one.id)) | {"id": None, "run_id": None} for one in (claimed, matched)]
        assert rows[0] == rows[1]
        assert await _told(conn, claimed.id) == await _told(conn, matched.id)


async def _told(conn: Connection, id_: UUID) -> list[tuple[Any, ...]]:
    return await all_rows(
        conn,
        "select type, attempt, at, data, namespace, target from events where execution_id = $1 order by seq",
        id_,
    )


@pytest.mark.parametrize("why", ["closed", "draining", "expired", "elsewhere"])
async def test_who_may_not_claim_gets_nothing_that_it_waits_for(conn: Connection, why: str) -> None:
    """It is ready, for whoever comes next."""
    session = await make_session(conn)
    wish = submission()
    if why == "closed":
        await conn.execute("update sessions set closed_at = clock(), closed_reason = 'x' where id = $1", session.id)
    elif why == "draining":
        await conn.execute("update sessions set drain_requested_at = clock() where id = $1", session.id)
    elif why == "expired":
        await move_clock(conn, f"{session.lease_seconds + 1} seconds")
    else:
        session = replace(session, id=SessionId(make_id(1)))
    [answer] = await submit.accept(conn, [wish], {wish.id: session})
    row = await queue_row(conn, wish.id)

    assert must(answer).lease is None
    assert must(answer).ready
    assert (row["state"], row["attempt"], row["session_id"], row["started_at"]) == ("ready", 0, None, None)
    assert await event_types(conn, wish.id) == ["execution.queued"]


@pytest.mark.parametrize(("scope", "node_id", "name"), [("all", "", ""), ("node", "n", "n"), ("reasoner", "n", TARGET)])
async def test_of_what_is_paused_nobody_gets_what_it_waits_for(
    conn: Connection, scope: str, node_id: str, name: str
) -> None:
    """Neither of all, nor of the node, nor of the target."""
    session = await make_session(conn)
    paused, other = submission(), submission(target="n.other")
    await conn.execute(
        "insert into pauses (bucket, namespace, node_id, name, scope, paused_at) values (0, 1, $1, $2, $3, clock())",
        node_id,
        name,
        scope,
    )
    answers = await submit.accept(conn, [paused, other], {paused.id: session, other.id: session})

    assert [must(one).lease is not None for one in answers] == [False, name == TARGET]


async def test_the_repeat_of_a_match_hands_nothing_over(conn: Connection) -> None:
    """Whoever got it the first time has it, or gives it back by not naming it."""
    session, other = await make_session(conn), await make_session(conn)
    wish = submission()
    await submit.accept(conn, [wish], {wish.id: session})
    [again] = await submit.accept(conn, [wish], {wish.id: other})
    row = await queue_row(conn, wish.id)

    assert must(again).lease is None
    assert (row["session_id"], row["attempt"]) == (session.id, 1)
    assert await event_types(conn, wish.id) == ["execution.queued", "execution.started"]


async def test_a_child_may_be_waited_for_too(conn: Connection) -> None:
    """And so may what comes under a key; what was asked under it before is handed to nobody."""
    session = await make_session(conn)
    parent = await make_execution(conn, "running")
    child = submission(parent_id=parent.id, parent_attempt=1, step="s", run_id=parent.submission.run_id)
    first, second = keyed(), keyed()
    answers = await submit.accept(conn, [child, first], {child.id: session, first.id: session})
    [again] = await submit.accept(conn, [second], {second.id: session})

    assert [must(one).lease is not None for one in answers] == [True, True]
    assert (must(again).replayed, must(again).lease) == (True, None)
