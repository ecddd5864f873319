"""Finish: one transaction takes the row from the queue, writes the outcome and plans the delivery."""

from __future__ import annotations

import json

import asyncpg
import pytest

from controlplane.domain.execution import Settlement, Status, Wording
from controlplane.domain.ids import show_execution
from controlplane.domain.lease import Verdict
from controlplane.domain.retry import RetryPolicy
from controlplane.postgres.lane import Raced
from controlplane.postgres.pool import Connection
from controlplane.stages import complete, finish, hold
from tests.make import (
    Made,
    a_report,
    counts,
    event_types,
    make_execution,
    make_id,
    must,
    no_jitter,
    outcome_row,
    queue_row,
    report,
    webhook,
)


@pytest.fixture
async def made(conn: Connection) -> Made:
    """A running execution with two webhooks."""
    return await make_execution(
        conn,
        "running",
        webhooks=(webhook("https://a.example/hook"), webhook("https://b.example/hook", attempts_max=2)),
        context=b'{ "thread" : 7 }',
        session_key="s",
        actor_key="a",
    )


async def settlement(conn: Connection, made: Made, status: Status = Status.SUCCEEDED) -> Settlement:
    held = (await hold.lock(conn, 0, [made.id]))[made.id]
    return Settlement(held=held, status=status, result=b"1")


async def test_every_webhook_gets_its_delivery(conn: Connection, made: Made) -> None:
    """One delivery per webhook, due at once, with the webhook's own limits."""
    await report(conn, made.fence)
    rows = await conn.fetch("select * from deliveries order by webhook_n")

    assert [(row["webhook_n"], row["host"], row["attempts_max"], row["state"]) for row in rows] == [
        (1, "a.example", 5, "pending"),
        (2, "b.example", 2, "pending"),
    ]
    assert {row["execution_id"] for row in rows} == {made.id}
    assert await conn.fetchval("select bool_and(next_at <= clock()) from deliveries")


async def test_the_body_is_frozen(conn: Connection, made: Made) -> None:
    """The bytes to send are written with the outcome, payloads spliced in as they came."""
    await report(conn, made.fence, result=b'{ "r" : 1.0 }')
    bodies = {row["body"] for row in await conn.fetch("select body from deliveries")}

    [body] = bodies
    told = json.loads(body)
    assert b'"context":{ "thread" : 7 }' in body
    assert b'"result":{ "r" : 1.0 }' in body
    assert (told["event"], told["status"], told["run_id"]) == ("execution.completed", "succeeded", made.run_id)
    assert (told["agent_node_id"], told["reasoner_id"], told["session_id"], told["actor_id"]) == ("n", "echo", "s", "a")


@pytest.mark.parametrize(
    ("wording", "said"),
    [
        (Wording.JOB, b'{"job_id":"%b","status":"completed","result":{ "r" : 1.0 }}'),
        (Wording.TASK, b'{"task_id":"%b","status":"completed","result":{ "r" : 1.0 }}'),
    ],
)
async def test_each_webhook_is_told_in_its_own_words(conn: Connection, wording: Wording, said: bytes) -> None:
    """One execution may tell a façade's caller and one of ours of the same end."""
    hooks = (webhook("https://a.example/"), webhook("https://b.example/", wording=wording))
    made = await make_execution(conn, "running", webhooks=hooks)
    await report(conn, made.fence, result=b'{ "r" : 1.0 }')
    ours, theirs = [row["body"] for row in await conn.fetch("select body from deliveries order by webhook_n")]

    assert json.loads(ours)["event"] == "execution.completed"
    assert theirs == said % show_execution(made.id).encode()


async def test_nothing_is_there_until_everything_is(conn: Connection, other: Connection, made: Made) -> None:
    """Before the commit nobody sees an outcome or a delivery, after it nobody sees the one without the other."""
    tables = ("queue", "outcomes", "deliveries")
    transaction = conn.transaction()
    await transaction.start()
    await report(conn, made.fence)
    before = await counts(other, *tables)
    await transaction.commit()

    assert before == {"queue": 1, "outcomes": 0, "deliveries": 0}
    assert await counts(other, *tables) == {"queue": 0, "outcomes": 1, "deliveries": 2}


async def test_a_crash_before_the_commit_leaves_it_running(conn: Connection, other: Connection, made: Made) -> None:
    """A server that dies between the outcome and the commit has done nothing, and the report can be repeated."""
    transaction = conn.transaction()
    await transaction.start()
    await report(conn, made.fence)
    await other.execute("select pg_terminate_backend($1)", conn.get_server_pid())

    assert (await queue_row(other, made.id))["state"] == "leased"
    assert (await report(other, made.fence)).code == "recorded"


async def test_without_a_webhook_nobody_is_told(conn: Connection) -> None:
    """No webhook, no delivery."""
    await make_execution(conn, "succeeded")

    assert await counts(conn, "deliveries") == {"deliveries": 0}


async def test_says_which_deliveries_are_due(conn: Connection, made: Made) -> None:
    """The caller can wake the dispatcher."""
    async with conn.transaction():
        [settled] = await finish.settle(conn, 0, [await settlement(conn, made)], make_id=make_id)

    ids = [row["id"] for row in await conn.fetch("select id from deliveries order by webhook_n")]
    assert (settled.id, settled.status, list(settled.deliveries)) == (made.id, Status.SUCCEEDED, ids)


async def test_a_row_that_has_moved_is_not_ended(conn: Connection, made: Made) -> None:
    """An end decided on another attempt than the row's is refused whole."""
    async with conn.transaction():
        decided = await settlement(conn, made)
    await conn.execute("update queue set attempt = 2")

    with pytest.raises(Raced):
        async with conn.transaction():
            await finish.settle(conn, 0, [decided], make_id=make_id)
    assert await counts(conn, "queue", "outcomes", "deliveries") == {"queue": 1, "outcomes": 0, "deliveries": 0}


async def test_a_second_end_is_impossible(conn: Connection, made: Made) -> None:
    """Even a row that comes back into the queue by mistake cannot end twice."""
    async with conn.transaction():
        decided = await settlement(conn, made)
        await conn.execute("create temp table kept as select * from queue")
        await finish.settle(conn, 0, [decided], make_id=make_id)
    await conn.execute("insert into queue select * from kept")

    with pytest.raises(asyncpg.UniqueViolationError):
        async with conn.transaction():
            await finish.settle(conn, 0, [decided], make_id=make_id)


async def test_many_ends_in_one_batch(conn: Connection) -> None:
    """Each has its own outcome and its own delivery, and the events stand in order."""
    many = [await make_execution(conn, "running", webhooks=(webhook(),)) for _ in range(8)]
    batch = [a_report(one.fence, result=b"%d" % n) for n, one in enumerate(many)]

    [must(one) for one in await complete.report(conn, batch, make_id=make_id, jitter=no_jitter)]

    for n, one in enumerate(many):
        body = await conn.fetchval("select body from deliveries where execution_id = $1", one.id)
        assert (await outcome_row(conn, one.id))["result"] == b"%d" % n
        assert json.loads(body)["result"] == n
    assert (await event_types(conn, many[0].id))[-1] == "execution.completed"


@pytest.mark.parametrize("error", [b"1" * 5000, b"[" * 5000 + b"]" * 5000, b' "a\\ud800" ', b'{"a": 1}', None])
async def test_no_error_is_too_odd_to_end_with(conn: Connection, made: Made, error: bytes | None) -> None:
    """A long number, a deep nest, half a surrogate: the execution ends and its caller is told."""
    answer = await report(conn, made.fence, Verdict.FAILED, error=error)

    assert answer.status is Status.FAILED
    assert await counts(conn, "deliveries") == {"deliveries": 2}


async def test_a_target_that_is_no_longer_allowed_ends_too(conn: Connection) -> None:
    """The rules for names may change; what was accepted still ends."""
    made = await make_execution(conn, "running", target="old.name.with.dots", webhooks=(webhook(),))

    assert (await report(conn, made.fence)).code == "recorded"


@pytest.mark.parametrize(
    ("verdict", "retries", "failures", "told"),
    [
        (Verdict.SUCCEEDED, 3, 0, 0),
        (Verdict.SUCCEEDED, 3, 2, 2),
        (Verdict.FAILED, 2, 2, 2),
        (Verdict.CANCELLED, 3, 1, 1),
    ],
)
async def test_tells_how_often_it_was_retried(
    conn: Connection, verdict: Verdict, retries: int, failures: int, told: int
) -> None:
    """retry_count is the number of attempts that failed before the last one."""
    made = await make_execution(conn, "running", webhooks=(webhook(),), retry=RetryPolicy(retries_max=retries))
    await conn.execute("update queue set failures = $1", failures)

    await report(conn, made.fence, verdict)

    assert json.loads(await conn.fetchval("select body from deliveries"))["retry_count"] == told
