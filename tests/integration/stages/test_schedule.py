"""Schedule: a tick happens once, whoever fires it and whatever dies; beside what is running it does as it was told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest

from controlplane.domain.ids import ExecutionId, bucket_of, show
from controlplane.domain.lease import Fence
from controlplane.domain.retry import RetryPolicy
from controlplane.domain.schedule import (
    CATCH_UP_MAX,
    CatchUp,
    Definition,
    Overlap,
    Rule,
    Schedule,
    ScheduleId,
    Served,
    due_at,
)
from controlplane.errors import Invalid, ScheduleExists, ScheduleNotFound
from controlplane.postgres.pool import Connection
from controlplane.stages import prune, schedule
from controlplane.stages.schedule import Fired
from tests.make import (
    NAMESPACE,
    TARGET,
    all_rows,
    counts,
    ended,
    event_types,
    lease,
    make_id,
    make_session,
    move_clock,
    new_execution_id,
    only_row,
    outcome_row,
    queue_row,
    report,
)

POLICY = RetryPolicy(retries_max=4, jitter=0.5, fatal_errors=("Boom",))
SERVES = {(NAMESPACE, TARGET): Served(type="skill", retry=POLICY, timeout_seconds=9.0)}
HOURLY = Rule(interval_seconds=3_600.0)
TICKS = """
select planned_at, outcome
from schedule_ticks
where not by_hand
order by planned_at
"""


async def make_schedule(conn: Connection, rule: Rule = HOURLY, *, name: str = "s", **over: Any) -> Schedule:
    definition = replace(Definition(target=TARGET, input=b'{"x": 1.0}', rule=rule), **over)
    made, _ = await put(conn, definition, name=name)
    return made


async def put(
    conn: Connection, definition: Definition, *, name: str = "s", replacing: bool = False, paused: bool | None = None
) -> tuple[Schedule, bool]:
    id_ = ScheduleId(make_id(0))
    return await schedule.put(
        conn, 0, id_, definition, namespace=NAMESPACE, name=name, paused=paused, replacing=replacing
    )


async def fire(conn: Connection, offset: str | None = None) -> Fired:
    if offset is not None:
        await move_clock(conn, offset)
    return await schedule.fire(conn, 0, serves=SERVES, make_id=make_id)


async def advance(conn: Connection) -> Fired:
    return await schedule.advance(conn, 0, serves=SERVES, make_id=make_id)


async def run_now(conn: Connection, id_: ExecutionId | None = None, *, key: str | None = None) -> ExecutionId:
    accepted, _ = await schedule.run_now(
        conn,
        0,
        id_ or new_execution_id(),
        "run",
        namespace=NAMESPACE,
        name="s",
        served=SERVES[NAMESPACE, TARGET],
        target=TARGET,
        idempotency_key=key,
    )
    return accepted.id


async def row_of(conn: Connection) -> asyncpg.Record:
    return await only_row(conn, "select *, clock() as now from schedules")


async def outcomes(conn: Connection) -> list[str]:
    return [row["outcome"] for row in await conn.fetch(TICKS)]


async def finish_one(conn: Connection, *, limit: int = 1) -> None:
    """A node takes what is ready and returns it."""
    session = await make_session(conn)
    for one in await lease(conn, session, limit=limit):
        await report(conn, Fence(one.execution_id, one.attempt))


async def test_a_tick_submits_what_was_asked(conn: Connection) -> None:
    """Input byte for byte, the reasoner's own policy, a run of its own, and a word of where it comes from."""
    made = await make_schedule(conn, priority=3, context=b" 1")
    [started] = (await fire(conn, "61 minutes")).started

    asked = await only_row(conn, "select * from executions")
    event = await only_row(conn, "select data from events where type = 'execution.queued'")
    assert (asked["id"], asked["input"], asked["context"]) == (started.execution_id, b'{"x": 1.0}', b" 1")
    assert (asked["type"], asked["retries_max"], asked["timeout_seconds"]) == ("skill", 4, 9.0)
    assert (asked["priority"], bucket_of(asked["id"])) == (3, bucket_of(made.id))
    assert orjson.loads(event["data"]) == {
        "kind": "schedule",
        "schedule": "s",
        "schedule_id": show("sch", made.id),
        "planned_at": started.planned_at.isoformat().replace("+00:00", "Z"),
        "by_hand": False,
    }


async def test_its_own_policy_comes_first(conn: Connection) -> None:
    """What the schedule says of retries and time is what is asked; the rest is the reasoner's."""
    await make_schedule(conn, retries_max=0, timeout_seconds=1.5)
    await fire(conn, "61 minutes")

    asked = await only_row(conn, "select * from executions")
    assert (asked["retries_max"], asked["timeout_seconds"]) == (0, 1.5)
    assert RetryPolicy.from_row(asked) == replace(POLICY, retries_max=0)


async def test_nothing_happens_before_its_time(conn: Connection) -> None:
    """A tick is never early."""
    await make_schedule(conn)

    assert await fire(conn, "59 minutes") == Fired()
    assert await counts(conn, "executions", "schedule_ticks") == {"executions": 0, "schedule_ticks": 0}


async def test_a_tick_happens_once(conn: Connection) -> None:
    """Fired again at the same moment there is nothing left to do, and the next is planned."""
    made = await make_schedule(conn)
    await fire(conn, "61 minutes")
    again = await fire(conn)

    row = await row_of(conn)
    assert again == Fired()
    assert row["last_at"] == made.next_at
    assert row["next_at"] == row["due_at"] == row["last_at"] + timedelta(hours=1)
    assert await outcomes(conn) == ["submitted"]


async def test_a_tick_that_has_happened_is_not_repeated(conn: Connection) -> None:
    """Even if the schedule were set back, the key of the tick keeps it from happening again."""
    await make_schedule(conn, overlap=Overlap.CANCEL_OTHER)
    await fire(conn, "61 minutes")
    await conn.execute("update schedules set next_at = last_at, due_at = last_at")

    assert (await fire(conn)).started == []
    assert await counts(conn, "executions", "queue") == {"executions": 1, "queue": 1}
    assert (await row_of(conn))["next_at"] > (await row_of(conn))["now"]


async def test_two_schedulers_at_once(conn: Connection, other: Connection) -> None:
    """What one has in hand the other leaves, and what it has done the other does not find."""
    for n in range(5):
        await make_schedule(conn, name=f"s{n}")
    for each in (conn, other):
        await move_clock(each, "61 minutes")
    async with conn.transaction():
        first = await fire(conn)
        meanwhile = await fire(other)
    after = await fire(other)

    assert (len(first.started), len(meanwhile.started), len(after.started)) == (5, 0, 0)


@pytest.mark.parametrize("overlap", [Overlap.SKIP, Overlap.QUEUE])
async def test_many_schedulers_at_once(database: str, conn: Connection, overlap: Overlap) -> None:
    """Ten minutes of eight schedules by a crowd: each tick is one row, and what it submits one execution."""
    made = [await make_schedule(conn, Rule(interval_seconds=60.0), name=f"s{n}", overlap=overlap) for n in range(8)]
    crowd = [await asyncpg.connect(database) for _ in range(4)]

    async def work(own: Connection) -> int:
        done = 0
        for minute in range(1, 11):
            await move_clock(own, f"{minute} minutes 5 seconds")
            done += len((await fire(own)).started)
            done += len((await advance(own)).started)
        return done

    started = sum(await asyncio.gather(*map(work, crowd)))
    for own in crowd:
        await own.close()

    ticks = await conn.fetch("select schedule_id, planned_at, outcome from schedule_ticks")
    submitted = [row for row in ticks if row["outcome"] == "submitted"]
    assert len({(row["schedule_id"], row["planned_at"]) for row in ticks}) == len(ticks)
    assert len(submitted) == started == len(made)  # the first of each has not ended
    assert await counts(conn, "executions", "queue") == {"executions": started, "queue": started}


async def test_a_crash_before_the_commit_loses_nothing(database: str, conn: Connection) -> None:
    """Whoever comes next finds the tick as it was: due, and without an execution."""
    await make_schedule(conn)
    dying = await asyncpg.connect(database)
    transaction = dying.transaction()
    await transaction.start()
    assert len((await fire(dying, "61 minutes")).started) == 1
    pid = dying.get_server_pid()
    dying.terminate()

    async def left() -> bool:
        return bool(await conn.fetchval("select 1 from pg_stat_activity where pid = $1", pid))

    while await left():  # noqa: ASYNC110 - the server's own pace
        await asyncio.sleep(0.005)

    assert await counts(conn, "executions", "schedule_ticks", "events") == {
        "executions": 0,
        "schedule_ticks": 0,
        "events": 0,
    }
    assert len((await fire(conn, "61 minutes")).started) == 1


async def test_a_crash_after_the_commit_repeats_nothing(conn: Connection, other: Connection) -> None:
    """The answer is lost, the tick is not: the next scheduler has nothing to do."""
    await make_schedule(conn)
    await fire(other, "61 minutes")

    assert await fire(conn, "61 minutes") == Fired()


async def test_skip(conn: Connection) -> None:
    """While one is running ticks come to nothing, and say so; when it has ended, the next submits."""
    await make_schedule(conn)
    await fire(conn, "61 minutes")
    await fire(conn, "121 minutes")
    await finish_one(conn)
    await fire(conn, "181 minutes")

    assert await outcomes(conn) == ["submitted", "skipped", "submitted"]
    assert await counts(conn, "executions", "queue") == {"executions": 2, "queue": 1}


async def test_queue(conn: Connection) -> None:
    """Ticks wait for the one before, and each submits when its turn has come, oldest first."""
    await make_schedule(conn, overlap=Overlap.QUEUE)
    for offset in ("61 minutes", "121 minutes", "181 minutes"):
        await fire(conn, offset)
    waiting = await outcomes(conn), (await row_of(conn))["waiting"], await advance(conn)
    await finish_one(conn)
    first, at_once = await advance(conn), await advance(conn)
    await finish_one(conn)
    await advance(conn)

    assert waiting == (["submitted", "waiting", "waiting"], 2, Fired())
    assert (len(first.started), at_once) == (1, Fired())
    assert first.started[0].planned_at == (await conn.fetch(TICKS))[1]["planned_at"]
    assert await outcomes(conn) == ["submitted"] * 3
    assert (await row_of(conn))["waiting"] == 0


async def test_a_new_tick_does_not_overtake(conn: Connection) -> None:
    """Also when the way is free, it stands behind those that wait."""
    await make_schedule(conn, overlap=Overlap.QUEUE)
    await fire(conn, "61 minutes")
    await fire(conn, "121 minutes")
    await finish_one(conn)

    assert (await fire(conn, "181 minutes")).started == []
    assert await outcomes(conn) == ["submitted", "waiting", "waiting"]


async def test_two_schedulers_do_not_both_advance(database: str, conn: Connection) -> None:
    """However many look at the same moment, one tick of each schedule follows the one that has ended."""
    for n in range(10):
        await make_schedule(conn, overlap=Overlap.QUEUE, name=f"s{n}")
    for offset in ("61 minutes", "121 minutes", "181 minutes", "241 minutes"):
        await fire(conn, offset)
    await finish_one(conn, limit=10)
    crowd = [await asyncpg.connect(database) for _ in range(4)]
    fired = await asyncio.gather(*(advance(own) for own in crowd))
    for own in crowd:
        await own.close()

    assert sum(len(one.started) for one in fired) == await conn.fetchval("select count(*) from queue") == 10
    assert await conn.fetchval("select array_agg(distinct waiting) from schedules") == [2]


async def test_cancel_other(conn: Connection) -> None:
    """What is queued ends at once, what runs is told to stop, and the new one begins in the same moment."""
    await make_schedule(conn, overlap=Overlap.CANCEL_OTHER)
    [first] = (await fire(conn, "61 minutes")).started
    second = await fire(conn, "121 minutes")
    [running] = await lease(conn, await make_session(conn))
    third = await fire(conn, "181 minutes")

    assert (second.ended, second.cancelling) == ([first.execution_id], [])
    assert (third.ended, third.cancelling) == ([], [running.execution_id])
    assert (await outcome_row(conn, first.execution_id))["status"] == "cancelled"
    assert (await queue_row(conn, running.execution_id))["status_reason"] == "cancelling"
    assert await outcomes(conn) == ["submitted"] * 3


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        (CatchUp.NONE, ["missed"]),
        (CatchUp.ONE, ["missed", "submitted"]),
        (CatchUp.ALL, ["submitted", "waiting", "waiting", "waiting"]),
    ],
)
async def test_after_an_outage(conn: Connection, catch_up: CatchUp, expected: list[str]) -> None:
    """Four and a half hours late: nothing, the last, or each in its turn."""
    await make_schedule(conn, overlap=Overlap.QUEUE, catch_up=catch_up)
    await fire(conn, "4 hours 30 minutes")

    row = await row_of(conn)
    assert await outcomes(conn) == expected
    assert timedelta() < row["next_at"] - row["now"] < timedelta(hours=1)


async def test_a_long_outage_is_made_up_for_within_bounds(conn: Connection) -> None:
    """After a month of minutes: one submits, the latest wait, the others are one line."""
    await make_schedule(conn, Rule(cron="* * * * *"), overlap=Overlap.QUEUE, catch_up=CatchUp.ALL)
    await fire(conn, "30 days")

    found = await conn.fetch("select outcome, until_at, planned_at from schedule_ticks order by planned_at")
    assert [row["outcome"] for row in found] == ["missed", "submitted", *["waiting"] * (CATCH_UP_MAX - 1)]
    assert found[0]["until_at"] == found[1]["planned_at"]


async def test_jitter_is_in_the_plan(conn: Connection) -> None:
    """It comes due by its jitter later, and never before its planned moment."""
    made = await make_schedule(conn, jitter_seconds=600.0)
    assert made.next_at is not None

    row = await row_of(conn)
    assert row["due_at"] == due_at(made.id, made.next_at, 600.0)
    assert made.next_at <= row["due_at"] < made.next_at + timedelta(minutes=10)
    assert (await fire(conn, "1 hour 10 minutes")).started[0].planned_at == made.next_at


async def test_once_and_no_more(conn: Connection) -> None:
    """A single moment submits once, and the schedule has nothing left to do."""
    at: datetime = await conn.fetchval("select clock() + interval '1 hour'")
    await make_schedule(conn, Rule(run_at=at))
    await fire(conn, "61 minutes")

    assert await fire(conn, "10 hours") == Fired()
    assert (await row_of(conn))["next_at"] is None
    assert await outcomes(conn) == ["submitted"]


async def test_paused(conn: Connection) -> None:
    """Nothing is submitted, and what fell into the pause is not made up for."""
    await make_schedule(conn)
    await schedule.pause(conn, 0, namespace=NAMESPACE, name="s")
    while_paused = await fire(conn, "5 hours 30 minutes")
    resumed = await schedule.resume(conn, 0, namespace=NAMESPACE, name="s")

    assert while_paused == await fire(conn) == Fired()
    assert resumed.next_at is not None
    assert timedelta() < resumed.next_at - (await row_of(conn))["now"] <= timedelta(minutes=30)


async def test_a_single_moment_outlives_a_pause(conn: Connection) -> None:
    """It would not come again: it is made up for as a missed one is."""
    at: datetime = await conn.fetchval("select clock() + interval '1 hour'")
    await make_schedule(conn, Rule(run_at=at))
    await schedule.pause(conn, 0, namespace=NAMESPACE, name="s")
    await fire(conn, "5 hours")
    await schedule.resume(conn, 0, namespace=NAMESPACE, name="s")

    assert len((await fire(conn)).started) == 1


async def test_pausing_twice_is_pausing(conn: Connection) -> None:
    """And resuming what is not paused leaves the plan alone."""
    made = await make_schedule(conn)
    await move_clock(conn, "30 minutes")

    assert (await schedule.resume(conn, 0, namespace=NAMESPACE, name="s")).next_at == made.next_at
    paused = [await schedule.pause(conn, 0, namespace=NAMESPACE, name="s") for _ in range(2)]
    assert paused[0] == paused[1]


async def test_what_waits_waits_through_a_pause(conn: Connection) -> None:
    """A paused schedule submits nothing at all."""
    await make_schedule(conn, overlap=Overlap.QUEUE)
    await fire(conn, "61 minutes")
    await fire(conn, "121 minutes")
    await finish_one(conn)
    await schedule.pause(conn, 0, namespace=NAMESPACE, name="s")
    while_paused = await advance(conn)
    await schedule.resume(conn, 0, namespace=NAMESPACE, name="s")

    assert while_paused == Fired()
    assert len((await advance(conn)).started) == 1


async def test_run_now(conn: Connection) -> None:
    """Beside the plan, which stays as it is; a planned tick counts it among what is running."""
    made = await make_schedule(conn)
    id_ = await run_now(conn)
    await fire(conn, "61 minutes")

    row = await only_row(conn, "select * from schedule_ticks where by_hand")
    assert (row["execution_id"], row["outcome"]) == (id_, "submitted")
    assert (await row_of(conn))["next_at"] == made.next_at + timedelta(hours=1)
    assert await outcomes(conn) == ["skipped"]
    assert await event_types(conn, id_) == ["execution.queued"]


async def test_run_now_is_heard_once(conn: Connection) -> None:
    """Repeated after a lost answer, by id or by key, it is one execution and one tick."""
    await make_schedule(conn)
    id_ = new_execution_id()

    assert {await run_now(conn, id_), await run_now(conn, id_)} == {id_}
    assert await run_now(conn, key="k") == await run_now(conn, key="k")
    assert await counts(conn, "executions", "schedule_ticks") == {"executions": 2, "schedule_ticks": 2}


async def test_a_key_belongs_to_its_schedule(conn: Connection) -> None:
    """The same key for a submit is another key."""
    await make_schedule(conn)
    id_ = await run_now(conn, key="k")
    await schedule.remove(conn, 0, namespace=NAMESPACE, name="s")
    await make_schedule(conn)

    assert await run_now(conn, key="k") != id_


async def test_run_now_many_times_at_once(database: str, conn: Connection) -> None:
    """Each press of the button is a tick of its own."""
    await make_schedule(conn)
    crowd = [await asyncpg.connect(database) for _ in range(4)]
    ids = await asyncio.gather(*(run_now(own) for own in crowd))
    for own in crowd:
        await own.close()

    assert len(set(ids)) == 4
    assert await counts(conn, "executions", "schedule_ticks") == {"executions": 4, "schedule_ticks": 4}


async def test_created_again_in_the_same_words(conn: Connection) -> None:
    """The plan stays: who deploys every ten minutes keeps an hourly schedule."""
    made = await make_schedule(conn)
    await move_clock(conn, "30 minutes")
    again, new = await put(conn, made.definition, replacing=True)
    created, _ = await put(conn, made.definition)

    assert (again, new) == (made, False)
    assert created == made


async def test_another_of_the_same_name_is_refused(conn: Connection) -> None:
    """Unless it is to be replaced; then what it says of time begins now, and nothing else moves the plan."""
    made = await make_schedule(conn)
    other = replace(made.definition, input=b"[]")
    with pytest.raises(ScheduleExists):
        await put(conn, other)
    changed, _ = await put(conn, other, replacing=True)
    await move_clock(conn, "30 minutes")
    faster, _ = await put(conn, replace(other, rule=Rule(interval_seconds=60.0)), replacing=True)

    assert (changed.id, changed.next_at, changed.definition.input) == (made.id, made.next_at, b"[]")
    assert faster.next_at is not None
    assert abs(faster.next_at - (await row_of(conn))["now"]) <= timedelta(seconds=60)


async def test_two_create_the_same_name_at_once(conn: Connection, other: Connection) -> None:
    """One is made, the other hears of it."""
    definition = Definition(target=TARGET, input=b"{}", rule=HOURLY)
    answers = await asyncio.gather(put(conn, definition), put(other, definition))

    assert sorted(new for _, new in answers) == [False, True]
    assert answers[0][0].id == answers[1][0].id


async def test_what_cannot_be_changes_nothing(conn: Connection) -> None:
    """A refused replacement leaves the schedule as it was."""
    made = await make_schedule(conn)
    with pytest.raises(Invalid):
        await put(conn, replace(made.definition, rule=Rule(cron="nonsense")), replacing=True)

    assert Schedule.from_row(await row_of(conn)) == made


async def test_removed(conn: Connection) -> None:
    """It submits no more; what it has submitted goes on, and a new one of its name is another."""
    made = await make_schedule(conn, overlap=Overlap.QUEUE)
    [started] = (await fire(conn, "61 minutes")).started
    await fire(conn, "121 minutes")
    await schedule.remove(conn, 0, namespace=NAMESPACE, name="s")

    assert await fire(conn, "300 minutes") == await advance(conn) == Fired()
    assert not await ended(conn, started.execution_id)
    assert await all_rows(conn, "select 1 from schedule_ticks where open or outcome = 'waiting'") == []
    assert (await make_schedule(conn)).id != made.id
    with pytest.raises(ScheduleNotFound):
        await schedule.remove(conn, 0, namespace=NAMESPACE, name="t")


async def test_a_rule_that_cannot_be_read_stops_nobody(conn: Connection) -> None:
    """It is looked at again later, and the others fire."""
    await make_schedule(conn, Rule(cron="0 * * * *"), name="broken")
    await make_schedule(conn, name="sound")
    await conn.execute("update schedules set time_zone = 'Mars/Olympus' where name = 'broken'")
    fired = await fire(conn, "61 minutes")
    again = await fire(conn)

    assert [one.schedule.name for one in fired.started] == ["sound"]
    assert [one.name for one, _ in fired.broken] == ["broken"]
    assert again == Fired()


async def test_a_target_nobody_asked_for_is_left(conn: Connection) -> None:
    """Replaced between the look and the lock: the next pass knows what its target is."""
    await make_schedule(conn, target="n.other")
    await move_clock(conn, "61 minutes")

    assert await schedule.wanted(conn, 0) == {(NAMESPACE, "n.other")}
    assert await fire(conn) == Fired()


async def test_a_pass_is_bounded(conn: Connection) -> None:
    """So many schedules, and the rest in the next."""
    for n in range(3):
        await make_schedule(conn, name=f"s{n}")
    await move_clock(conn, "61 minutes")
    passes = [await schedule.fire(conn, 0, serves=SERVES, make_id=make_id, limit=2) for _ in range(3)]

    assert [one.looked_at for one in passes] == [2, 1, 0]


async def test_ticks_are_forgotten(conn: Connection) -> None:
    """When they are old and over; not while one waits or runs."""
    await make_schedule(conn, overlap=Overlap.QUEUE)
    for offset in ("61 minutes", "121 minutes", "181 minutes"):
        await fire(conn, offset)
    await finish_one(conn)
    await advance(conn)
    await move_clock(conn, "31 days")

    assert await prune.drop_ticks(conn, 0, after_seconds=30 * 86_400.0) == 1
    assert await outcomes(conn) == ["submitted", "waiting"]
