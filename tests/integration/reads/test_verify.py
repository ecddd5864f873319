"""Verify: a database that was used as it should be breaks no promise, and each promise that is broken is seen."""

from __future__ import annotations

from uuid import UUID

import pytest

from controlplane.domain.audit import AuditId
from controlplane.domain.execution import Status
from controlplane.domain.ids import ExecutionId
from controlplane.domain.lease import Fence, Verdict
from controlplane.domain.retry import RetryPolicy
from controlplane.domain.step import AskApproval, AwaitEvent, Done
from controlplane.postgres.pool import Connection, Pool
from controlplane.reads import verify
from controlplane.reads.verify import FOUND_MAX, INVARIANTS, violations
from controlplane.stages import cancel, checkpoint, deliver, expire
from tests.integration.stages.test_announce import listen
from tests.integration.stages.test_audit import append as append_audited
from tests.integration.stages.test_audit import entry
from tests.integration.stages.test_deliver import due_now, sent
from tests.integration.stages.test_schedule import make_schedule
from tests.integration.stages.test_trigger import made as make_trigger
from tests.make import (
    Made,
    accept,
    append,
    lease,
    make_id,
    make_process,
    make_session,
    move_clock,
    must,
    report,
    send,
    steps,
    submission,
    suspend,
    webhook,
)

House = dict[str, UUID]

QUEUED = ("n.queued", "queued")
ASK = AskApproval(name="ask", request_id="r", title=None, url=None, expires_seconds=60)
# By invariant: whose id is found, and what is done behind the back of all stages; $1 is that id.
BREAKS: dict[str, tuple[str, str]] = {
    "in_one_place": ("queued", "delete from queue where id = $1"),
    "stands_for_one_thing": ("queued", "update queue set state = 'waiting' where id = $1"),
    "one_lease_per_attempt": ("running", "update queue set attempt = attempt + 1 where id = $1"),
    "not_ahead": ("running", "update steps set attempt = 7 where execution_id = $1"),
    "moves_as_it_may": (
        "running",
        (
            "insert into events (bucket, execution_id, namespace, run_id, target, type, attempt, at)"
            " values (0, $1, 1, 'r', 't', 'execution.started', 2, clock())"
        ),
    ),
    "stands_where_its_story_does": (
        "running",
        "update queue set state = 'ready', session_id = null, leased_at = null where id = $1",
    ),
    "leased_by_its_node": ("running", "update queue set target = 'other.running' where id = $1"),
    "retries_are_counted": ("queued", "update queue set failures = retries_max + 1 where id = $1"),
    "not_before_its_time": ("queued", "update queue set available_at = clock() + interval '1 hour' where id = $1"),
    "ends_once": (
        "done",
        (
            "insert into events (bucket, execution_id, namespace, run_id, target, type, attempt, at)"
            " values (0, $1, 1, 'r', 't', 'execution.failed', 1, clock())"
        ),
    ),
    "cancel_is_the_end": ("queued", "update queue set cancel_requested_at = clock() where id = $1"),
    "signals_are_taken_once": ("done", "update signals set payload = '\"other\"' where execution_id = $1"),
    "signals_are_not_lost": (
        "waiting",
        (
            "insert into signals (bucket, execution_id, id, namespace, event, payload, request_hash, received_at)"
            " values (0, $1, $1, 1, 'go', '1', '', clock())"
        ),
    ),
    "wakes_are_not_lost": (
        "waiting",
        "update steps set status = 'done', value = '1', done_at = clock() where execution_id = $1",
    ),
    "wakes_once": (
        "waiting",
        "delete from events where execution_id = $1 and type = 'execution.suspended'",
    ),
    "calls_know_their_children": ("calling", "update steps set status = 'failed' where execution_id = $1"),
    "steps_say_what_was_done": ("running", "update steps set value = null where execution_id = $1 and kind = 'step'"),
    "belongs_to_somebody": ("done", "delete from executions where id = $1"),
    "stays_in_its_namespace": ("done", "update deliveries set namespace = 2 where execution_id = $1"),
    "a_key_names_one": ("keyed", "delete from executions where id = $1"),
    "nobody_asks_for_the_dead": (
        "asked",
        (
            "with gone as (delete from queue where id = $1) insert into outcomes (bucket, id, namespace, status,"
            " attempt, failures, finished_at) values (0, $1, 1, 'failed', 1, 0, clock())"
        ),
    ),
    "who_is_asked_is_waited_for": (
        "asked",
        "update approvals set status = 'approved', decided_at = clock() where execution_id = $1",
    ),
    "ended_is_told": ("untold", "delete from deliveries where execution_id = $1"),
    "told_what_is_true": ("done", "delete from outcomes where id = $1"),
    "delivered_was_answered": ("delivery", "update deliveries set state = 'dead' where id = $1"),
    "attempts_are_counted": ("delivery", "delete from delivery_attempts where delivery_id = $1"),
    "attempts_belong_to_deliveries": ("delivery", "delete from deliveries where id = $1"),
    "endpoints_are_sealed": ("endpoint", "update endpoints set secret_sealed = 'whsec_open' where id = $1"),
    "triggers_are_sealed": ("trigger", "update triggers set secret_sealed = 'whsec_open' where id = $1"),
    "ticks_are_found": (
        "schedule",
        (
            "insert into schedule_ticks (bucket, schedule_id, planned_at, by_hand, namespace, outcome, open, at)"
            " values (0, $1, clock(), false, 1, 'waiting', false, clock())"
        ),
    ),
    "nobody_keeps_it_open": ("done", "update webhooks set secret_sealed = 'whsec_open' where execution_id = $1"),
    "audit_chain_holds": ("audited", "update audit set actor = 'somebody else' where id = $1"),
    "lists_are_whole": ("running", "delete from memory_items using executions e where e.id = $1 and position = 1"),
}

# The same for what else an invariant says: it has more ways than one to be broken.
MORE_BREAKS: list[tuple[str, str, str]] = [
    ("not_ahead", "running", "update memory set writer_execution_id = $1, writer_attempt = 2"),
    ("moves_as_it_may", "done", "update events set attempt = 1 where execution_id = $1 and type = 'execution.queued'"),
    (
        "stands_where_its_story_does",
        "waiting",
        "update queue set waits_until = null, waits_reason = null where id = $1",
    ),
    ("leased_by_its_node", "running", "update queue set namespace = 2 where id = $1"),
    ("told_what_is_true", "done", "update deliveries set event = 'execution.failed' where execution_id = $1"),
    ("stays_in_its_namespace", "running", "update events set namespace = 2 where execution_id = $1"),
    ("belongs_to_somebody", "done", "insert into listeners (bucket, execution_id, namespace) values (0, $1, 1)"),
]


async def begin(conn: Connection, target: str, *, attempt: int = 1) -> Fence:
    session = await make_session(conn)
    [taken] = await lease(conn, session, (target,))
    assert taken.attempt == attempt
    return Fence(taken.execution_id, taken.attempt)


async def submit(conn: Connection, name: str, **over: object) -> ExecutionId:
    wish = submission(target=f"n.{name}", **over)
    await accept(conn, wish)
    return wish.id


@pytest.fixture
async def house(conn: Connection) -> House:
    """Executions of every kind, brought there by the stages alone."""
    ids: House = {"queued": await submit(conn, "queued"), "keyed": await submit(conn, "keyed", idempotency_key="k")}

    ids["done"] = await submit(conn, "done", webhooks=(webhook(),))
    fence = await begin(conn, "n.done")
    made = Made(submission=submission(id=fence.execution_id), attempt=1)
    await send(conn, fence.execution_id)
    await steps(conn, made, AwaitEvent(name="go", event="go"))
    await report(conn, fence)
    [due] = await due_now(conn)
    [nothing] = await deliver.settle(conn, [sent(due)])
    assert nothing is None
    ids["delivery"] = due.id

    ids["untold"] = await submit(conn, "untold", webhooks=(webhook("https://b.example/"),))
    await report(conn, await begin(conn, "n.untold"))

    ids["cancelled"] = await submit(conn, "cancelled", webhooks=(webhook(),))
    await cancel.request(conn, [ExecutionId(ids["cancelled"])], reason=None, make_id=make_id)

    ids["running"] = await submit(conn, "running")
    fence = await begin(conn, "n.running")
    made = Made(submission=submission(id=fence.execution_id), attempt=1)
    await steps(conn, made, Done(name="a", value=b"1"))
    must((await checkpoint.write(conn, [append(made, b"1", b"2")]))[0])

    for name, op in (("waiting", AwaitEvent(name="go", event="go")), ("asked", ASK)):
        ids[name] = await submit(conn, name)
        fence = await begin(conn, f"n.{name}")
        await steps(conn, Made(submission=submission(id=fence.execution_id), attempt=1), op)
        await suspend(conn, fence, op.name)

    ids["endpoint"] = (await listen(conn)).id
    ids["trigger"] = (await make_trigger(conn)).id
    ids["schedule"] = (await make_schedule(conn)).id

    ids["audited"] = entry().id
    await append_audited(conn, entry(id_=AuditId(ids["audited"])))

    ids["calling"] = await submit(conn, "calling")
    fence = await begin(conn, "n.calling")
    await accept(
        conn, submission(target="n.child", parent_id=fence.execution_id, parent_attempt=1, step="c", run_id="child")
    )
    await report(conn, await begin(conn, "n.child"))
    return ids


async def broken(conn: Connection) -> dict[str, list[UUID]]:
    return {one.name: ids for one, ids in (await verify.broken(conn, [0])).items()}


async def test_what_the_stages_do_breaks_nothing(conn: Connection, house: House) -> None:
    """Queued, running, waiting, asked, told, untold: every promise is kept."""
    assert await broken(conn) == {}
    assert len(house) == 14


async def test_who_is_heard_late_breaks_nothing(conn: Connection) -> None:
    """A called process that was only busy fails after its lease: what was freed waits for its retry."""
    await submit(conn, "busy", retry=RetryPolicy(retries_max=1))
    [taken] = await lease(conn, await make_process(conn), ("n.busy",))
    await move_clock(conn, "1 hour")
    await expire.close_expired(conn, 0, up_seconds=1e9)
    await expire.sweep(conn, 0, make_id=make_id)

    assert (await report(conn, Fence(taken.execution_id, 1), Verdict.FAILED)).status is Status.QUEUED
    assert await broken(conn) == {}


@pytest.mark.parametrize("name", [one.name for one in INVARIANTS])
async def test_what_is_broken_is_found(conn: Connection, house: House, name: str) -> None:
    """Each promise, broken behind the back of all stages, is named with the id of what breaks it."""
    whose, damage = BREAKS[name]
    await conn.execute("set session_replication_role = replica")  # no trigger stands in the way
    await conn.execute(damage, house[whose])

    assert house[whose] in (await broken(conn))[name]


@pytest.mark.parametrize(
    ("name", "whose", "damage"), MORE_BREAKS, ids=[f"{name}-{n}" for n, (name, _, _) in enumerate(MORE_BREAKS)]
)
async def test_in_whatever_way_it_is_broken(conn: Connection, house: House, name: str, whose: str, damage: str) -> None:
    """Each part of what an invariant says is looked at."""
    if name == "belongs_to_somebody":
        await conn.execute("delete from executions where id = $1", house[whose])
    await conn.execute(damage, house[whose])

    assert house[whose] in (await broken(conn))[name]


async def test_no_more_are_read_than_are_named(conn: Connection) -> None:
    """A thousand offenders are found as the first few."""
    for _ in range(FOUND_MAX + 5):
        await submit(conn, "queued")
    await conn.execute("delete from queue")
    [query] = [one.query for one in INVARIANTS if one.name == "in_one_place"]

    assert len(await violations(conn, query, 0)) == FOUND_MAX


async def test_what_comes_after_it_began_is_not_before_its_time(conn: Connection, pool: Pool) -> None:
    """The clock of a transaction stands still while others go on: what they make ready by theirs is no offender."""
    [query] = [one.query for one in INVARIANTS if one.name == "not_before_its_time"]
    async with conn.transaction():
        await conn.execute("select clock()")
        async with pool.acquire() as other:
            await submit(other, "queued")

        assert await violations(conn, query, 0) == []
