"""Forget: what is over and old leaves with all that belongs to it; what is not over, not told or referred to stays."""

from __future__ import annotations

import inspect
import re
from uuid import UUID

import pytest

from controlplane.domain.delivery import DeliveryState
from controlplane.domain.execution import Replay, ReplayMode, Status, Submission
from controlplane.domain.retention import DAY_SECONDS, Forgotten, Keep, Why
from controlplane.errors import DeliveryNotFound, ExecutionNotFound
from controlplane.postgres.pool import Connection
from controlplane.stages import checkpoint, deliver, forget, redrive, replay, submit
from tests.integration.stages.test_deliver import due_now, sent
from tests.make import (
    NAMESPACE,
    Made,
    accept,
    append,
    counts,
    ended,
    make_execution,
    make_id,
    move_clock,
    put,
    race,
    report,
    submission,
    webhook,
)

MONTH = 30 * DAY_SECONDS
ALL = Keep(succeeded_seconds=MONTH, failed_seconds=MONTH, cancelled_seconds=MONTH, timeout_seconds=MONTH)

FILL = """
with logs as (
  insert into logs (bucket, execution_id, namespace, attempt, at, level, message)
  select 0, $1, 1, 1, clock(), 'info', 'line ' || n from generate_series(1, 3) as n
),
calls as (
  insert into local_calls (bucket, execution_id, local_id, namespace, reasoner_id, status, created_at, updated_at)
  values (0, $1, 'local', 1, 'child', 'running', clock(), clock())
),
steps as (
  insert into steps (bucket, execution_id, name, namespace, kind, status, attempt, created_at, done_at)
  select 0, $1, 'step ' || n, 1, 'step', 'done', 1, clock(), clock() from generate_series(1, 3) as n
),
signals as (
  insert into signals (bucket, execution_id, id, namespace, event, payload, idempotency_key, request_hash, received_at)
  values (0, $1, $1, 1, 'e', 'null', 'k', '', clock())
),
vectors as (
  insert into memory_vectors (bucket, namespace, scope, scope_id, key, embedding, norm, created_at, updated_at)
  values (0, 1, 'run', $2, 'k', '{1}', 1, clock(), clock())
)
insert into approvals (bucket, execution_id, request_id, namespace, attempt, node_id, status, requested_at, decided_at)
values (0, $1, 'r', 1, 1, 'n', 'approved', clock(), clock())
"""
END = """
with gone as (delete from queue where bucket = 0 and id = $1)
insert into outcomes (bucket, id, namespace, status, result, attempt, failures, finished_at)
values (0, $1, 1, $2, '1', 1, 0, clock())
"""
# What refers to an execution but does not belong to it: the first is history of its own, the second expires by itself.
OTHERS = {"schedule_ticks", "idempotency_keys", "trigger_events"}
WITH_EXECUTION = """
select distinct table_name from information_schema.columns
where table_schema = 'public' and column_name = 'execution_id' and table_name !~ '_\\d{4}_|_default'
"""


async def forget_all(conn: Connection, keep: Keep = ALL, *, limit: int = forget.STEP_MAX) -> Forgotten:
    """Whole passes, until the way rests."""
    await forget.rouse(conn, 0)
    gone = Forgotten()
    while (part := await forget.step(conn, 0, keep=keep, limit=limit)) is not None:
        gone.add(part)
    return gone


async def why(conn: Connection, run_id: str, keep: Keep = ALL) -> Why | None:
    async with conn.transaction():
        held = await forget.holds(conn, 0, [run_id], keep.statuses(), namespace=NAMESPACE)
    return held[run_id]


async def make_told(conn: Connection) -> Made:
    """A finished execution whose webhook was told."""
    made = await make_execution(conn, "succeeded", webhooks=(webhook(),))
    for due in await due_now(conn):
        await deliver.settle(conn, [sent(due, state=DeliveryState.DELIVERED)])
    return made


async def make_child(conn: Connection, parent: Made, status: str = "succeeded", **over: object) -> Made:
    return await make_execution(
        conn, status, **{"run_id": parent.run_id, "root_id": parent.id, "parent_id": parent.id, **over}
    )


def a_retry(source: Made, **over: object) -> Submission:
    return submission(**{"run_id": source.run_id, "source_execution_id": source.id, **over})


async def test_everything_of_it_goes(conn: Connection) -> None:
    """The execution, its outcome and events, logs, local calls, approvals, webhook, delivery, and its run's memory."""
    made = await make_execution(conn, "running", webhooks=(webhook(),))
    await checkpoint.write(conn, [append(made, b"1", b"2")])
    await conn.execute(FILL, made.id, made.run_id)
    await report(conn, made.fence)
    [due] = await due_now(conn)
    await deliver.settle(conn, [sent(due, state=DeliveryState.DELIVERED)])
    await move_clock(conn, "31 days")

    gone = await forget_all(conn)

    tables = [row["table_name"] for row in await conn.fetch(WITH_EXECUTION)]
    tables += ["executions", "outcomes", "delivery_attempts", "memory", "memory_items", "memory_vectors"]
    assert {table: n for table, n in (await counts(conn, *tables)).items() if n} == {}
    assert gone.executions == {"succeeded": 1}
    assert (gone.rows["logs"], gone.rows["deliveries"], gone.rows["memory_items"]) == (3, 1, 2)
    assert (gone.rows["steps"], gone.rows["signals"]) == (3, 1)


async def test_no_table_is_left_out(conn: Connection) -> None:
    """Whatever has rows of an execution, it is removed with it: a new table gets its statement in stages/forget.py."""
    removed = set(re.findall(r"delete from (\w+)", inspect.getsource(forget)))

    assert {row["table_name"] for row in await conn.fetch(WITH_EXECUTION)} - OTHERS <= removed


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.TIMEOUT])
async def test_each_status_has_its_age(conn: Connection, status: Status) -> None:
    """What ended otherwise is kept for ever here; what ended so is kept for thirty days from its end."""
    for one in ("succeeded", "failed", "cancelled", "timeout"):
        await conn.execute(END, (await make_execution(conn)).id, one)
    keep = Keep(**{f"{status}_seconds": MONTH})
    await move_clock(conn, "29 days")
    early = await forget_all(conn, keep)
    await move_clock(conn, "31 days")

    assert not early.executions
    assert (await forget_all(conn, keep)).executions == {status: 1}


async def test_nothing_goes_unless_it_is_said(conn: Connection) -> None:
    """Without a setting everything is kept, and nothing is looked for."""
    await make_execution(conn, "succeeded")
    await move_clock(conn, "1000 days")

    assert await forget.step(conn, 0, keep=Keep()) is None
    assert (await counts(conn, "executions", "retention_walks")) == {"executions": 1, "retention_walks": 0}


async def test_age_counts_from_the_end(conn: Connection) -> None:
    """What ran for forty days and ended today is kept for its thirty days."""
    made = await make_execution(conn, "running")
    await move_clock(conn, "40 days")
    await report(conn, made.fence)
    fresh = await forget_all(conn)
    await move_clock(conn, "71 days")

    assert (fresh.any, (await forget_all(conn)).executions) == (False, {"succeeded": 1})


@pytest.mark.parametrize("status", ["queued", "running", "waiting", "delayed", "paused", "blocked"])
async def test_what_is_not_over_is_kept(conn: Connection, status: str) -> None:
    """However old it is, and its whole run with it (I-21)."""
    made = await make_execution(conn, "succeeded")
    await make_child(conn, made, status)
    await move_clock(conn, "1000 days")

    assert not (await forget_all(conn)).any
    assert await why(conn, made.run_id) is Why.UNFINISHED


async def test_a_run_is_kept_together(conn: Connection) -> None:
    """An old parent waits for the youngest of its run."""
    made = await make_execution(conn, "succeeded")
    await move_clock(conn, "20 days")
    await make_child(conn, made)
    await move_clock(conn, "40 days")
    held = await why(conn, made.run_id), (await forget_all(conn)).any
    await move_clock(conn, "51 days")

    assert held == (Why.YOUNG, False)
    assert (await forget_all(conn)).executions == {"succeeded": 2}


async def test_what_was_not_told_is_kept(conn: Connection) -> None:
    """A delivery that is due, or that is being sent, keeps its execution (I-21)."""
    made = await make_execution(conn, "succeeded", webhooks=(webhook(),))
    await move_clock(conn, "100 days")
    pending = (await forget_all(conn)).any, await why(conn, made.run_id)
    await due_now(conn)

    assert pending == (False, Why.DELIVERY)
    assert not (await forget_all(conn)).any


async def test_what_was_told_lately_is_kept(conn: Connection) -> None:
    """A delivery that was sent again yesterday is not over for long."""
    made = await make_told(conn)
    await move_clock(conn, "31 days")
    await redrive.retry(conn, (await conn.fetchval("select id from deliveries")), namespace=1)
    [due] = await due_now(conn)
    await deliver.settle(conn, [sent(due, state=DeliveryState.DELIVERED)])

    assert await why(conn, made.run_id) is Why.DELIVERY


async def test_what_a_key_names_is_kept(conn: Connection) -> None:
    """As long as an idempotency key may be asked for, there is what it answers with (I-21)."""
    made = await make_execution(conn, "succeeded", idempotency_key="k")
    await conn.execute("update idempotency_keys set expires_at = clock() + interval '60 days'")
    await move_clock(conn, "31 days")
    held = await why(conn, made.run_id)
    await move_clock(conn, "61 days")

    assert (held, await why(conn, made.run_id)) == (Why.IDEMPOTENCY_KEY, None)


@pytest.mark.parametrize(
    ("over", "expected"),
    [("source_execution_id", Why.SOURCE), ("parent_id", Why.CHILD), ("replay", Why.SOURCE)],
)
async def test_what_is_referred_to_is_kept(conn: Connection, over: str, expected: Why) -> None:
    """By a run that is kept: as its source, its parent, or what it takes over from (I-21)."""
    made = await make_execution(conn, "succeeded")
    source: object = Replay(source_run_id=made.run_id, mode=ReplayMode.ALL_SUCCEEDED) if over == "replay" else made.id
    later = await make_execution(conn, **{over: source})
    await move_clock(conn, "31 days")
    held = await why(conn, made.run_id), (await forget_all(conn)).any
    await conn.execute(END, later.id, "failed")
    await move_clock(conn, "100 days")

    assert held == (expected, False)
    assert (await forget_all(conn)).executions + (await forget_all(conn)).executions == {"succeeded": 1, "failed": 1}


async def test_what_remembers_lately_is_kept(conn: Connection) -> None:
    """Memory of the run that was written long after its end is young, and its run is kept with it."""
    made = await make_execution(conn, "running")
    await checkpoint.write(conn, [put(made, b"1")])
    await report(conn, made.fence)
    await conn.execute("update memory set updated_at = clock() + interval '20 days'")
    await move_clock(conn, "31 days")

    assert await why(conn, made.run_id) is Why.MEMORY


async def test_other_memory_stays(conn: Connection) -> None:
    """Of sessions, of actors and of everybody: a run's end is not their end."""
    made = await make_execution(conn, "succeeded")
    for scope in ("run", "session", "actor", "global"):
        statement = "insert into memory (bucket, namespace, scope, scope_id, key, value, created_at, updated_at)"
        await conn.execute(statement + " values (0, 1, $1, $2, 'k', '1', clock(), clock())", scope, made.run_id)
    await move_clock(conn, "31 days")

    await forget_all(conn)

    assert {row["scope"] for row in await conn.fetch("select scope from memory")} == {"session", "actor", "global"}


async def test_goes_in_bounded_steps(conn: Connection) -> None:
    """A step looks at a few, and the next begins where it stopped."""
    for _ in range(7):
        await make_execution(conn, "succeeded")
    await move_clock(conn, "31 days")

    removed = [await forget.step(conn, 0, keep=ALL, limit=3) for _ in range(3)]

    assert [part and part.executions["succeeded"] for part in removed] == [3, 3, 1]


async def test_what_stays_is_passed_by(conn: Connection) -> None:
    """What is held is looked at once in a pass and does not hide what comes after it."""
    for _ in range(5):
        held = await make_execution(conn, "succeeded")
        await make_child(conn, held, "queued")
    await make_execution(conn, "succeeded")
    await move_clock(conn, "31 days")

    assert (await forget_all(conn, limit=2)).executions == {"succeeded": 1}


async def test_a_pass_is_followed_by_a_rest(conn: Connection) -> None:
    """Between two passes nothing is looked at; then what was held is looked at again."""
    await forget_all(conn)
    await make_execution(conn, "succeeded")
    await move_clock(conn, "31 days")
    await forget.rouse(conn, 0)
    while await forget.step(conn, 0, keep=ALL) is not None:
        pass
    resting = await forget.step(conn, 0, keep=ALL)
    await move_clock(conn, "32 days")

    assert resting is None
    assert await forget.step(conn, 0, keep=ALL) is not None


async def test_a_crash_repeats_nothing(conn: Connection, other: Connection) -> None:
    """A step that never committed is made again from where the one before it stopped, and all goes once."""
    for _ in range(6):
        await make_execution(conn, "succeeded")
    for one in (conn, other):
        await move_clock(one, "31 days")
    await forget.step(conn, 0, keep=ALL, limit=2)
    dying = other.transaction()
    await dying.start()
    await forget.step(other, 0, keep=ALL, limit=2)
    await dying.rollback()

    assert (await forget_all(conn, limit=2)).executions == {"succeeded": 4}


async def test_two_replicas_do_not_wait_for_each_other(conn: Connection, other: Connection) -> None:
    """One goes the way, the other finds it taken."""
    for one in (conn, other):
        await move_clock(one, "31 days")
    await make_execution(conn, "succeeded")
    await forget.step(conn, 0, keep=ALL)

    async with conn.transaction():
        await forget.step(conn, 0, keep=ALL)
        theirs = await forget.step(other, 0, keep=ALL)

    assert theirs is None


async def test_a_large_run_goes_newest_first(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of it in between has its parents and sources."""
    monkeypatch.setattr(forget, "EXECUTIONS_MAX", 2)
    made = await make_execution(conn, "succeeded")
    children = [await make_child(conn, made) for _ in range(4)]
    await move_clock(conn, "31 days")

    first = await forget.step(conn, 0, keep=ALL)

    assert first is not None
    assert first.full
    assert [await ended(conn, one.id) for one in (made, *children)] == [True, True, True, False, False]
    assert (await forget_all(conn)).executions == {"succeeded": 3}


async def test_many_lines_go_in_steps(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an execution with more log lines than one step removes, those go first and the execution last."""
    monkeypatch.setattr(forget, "LINES_MAX", 2)
    made = await make_execution(conn, "succeeded")
    await conn.execute(FILL, made.id, made.run_id)
    await move_clock(conn, "31 days")

    first = await forget.step(conn, 0, keep=ALL)

    assert first is not None
    assert (first.rows["logs"], await ended(conn, made.id)) == (2, True)
    assert (await forget_all(conn)).executions == {"succeeded": 1}


async def test_a_retry_of_what_goes_is_refused(conn: Connection, other: Connection, observer: Connection) -> None:
    """Asked for while its source is being removed, it waits and finds nothing: nothing is accepted."""
    made = await make_execution(conn, "succeeded")
    await move_clock(conn, "31 days")
    await forget.rouse(conn, 0)

    gone, [answer] = await race(
        conn,
        other,
        observer,
        first=lambda conn: forget.step(conn, 0, keep=ALL),
        second=lambda conn: submit.accept(conn, [a_retry(made)]),
    )

    assert gone is not None
    assert gone.executions == {"succeeded": 1}
    assert isinstance(answer, ExecutionNotFound)
    assert await counts(conn, "executions", "queue") == {"executions": 0, "queue": 0}


async def test_what_is_just_retried_stays(conn: Connection, other: Connection, observer: Connection) -> None:
    """A retry that came first keeps its source."""
    made = await make_execution(conn, "succeeded")
    await move_clock(other, "31 days")

    _, gone = await race(
        conn,
        other,
        observer,
        first=lambda conn: submit.accept(conn, [a_retry(made, run_id="another")]),
        second=lambda conn: forget.step(conn, 0, keep=ALL),
    )

    assert gone is not None
    assert not gone.any
    assert await ended(conn, made.id)


async def test_a_late_child_of_what_goes_is_refused(conn: Connection, other: Connection, observer: Connection) -> None:
    """No execution is accepted under a parent that there is not."""
    made = await make_execution(conn, "succeeded")
    await move_clock(conn, "31 days")

    _, [answer] = await race(
        conn,
        other,
        observer,
        first=lambda conn: forget.step(conn, 0, keep=ALL),
        second=lambda conn: submit.accept(conn, [submission(parent_id=made.id, run_id=made.run_id)]),
    )

    assert isinstance(answer, ExecutionNotFound)


async def test_a_child_that_takes_over_what_goes_runs_instead(
    conn: Connection, other: Connection, observer: Connection
) -> None:
    """The answer that it would have taken over is gone: it is asked again."""
    made = await make_execution(conn, "succeeded", run_id="source")
    wish = submission(replay=Replay(source_run_id="source", mode=ReplayMode.ALL_SUCCEEDED))
    await move_clock(conn, "31 days")

    _, [answer] = await race(
        conn,
        other,
        observer,
        first=lambda conn: forget.step(conn, 0, keep=ALL),
        second=lambda conn: replay.accept(conn, [wish], make_id=make_id),
    )

    assert await conn.fetch("select id from queue where id = $1", wish.id)
    assert not await ended(conn, made.id)
    assert getattr(answer, "source_id", None) is None


async def test_a_delivery_sent_again_stays(conn: Connection, other: Connection, observer: Connection) -> None:
    """Sent again a moment before its execution would have gone, it is sent."""
    await make_told(conn)
    delivery_id = await conn.fetchval("select id from deliveries")
    await move_clock(other, "31 days")

    _, gone = await race(
        conn,
        other,
        observer,
        first=lambda conn: redrive.retry(conn, delivery_id, namespace=1),
        second=lambda conn: forget.step(conn, 0, keep=ALL),
    )

    assert gone is not None
    assert not gone.any
    assert await conn.fetchval("select state from deliveries") == "pending"


async def test_a_delivery_that_goes_is_not_sent_again(
    conn: Connection, other: Connection, observer: Connection
) -> None:
    """Asked for a moment too late, there is no such delivery."""
    await make_told(conn)
    delivery_id = await conn.fetchval("select id from deliveries")
    await move_clock(conn, "31 days")

    async def ask(conn: Connection) -> object:
        try:
            return await redrive.retry(conn, delivery_id, namespace=1)
        except DeliveryNotFound as error:
            return error

    _, answer = await race(conn, other, observer, first=lambda conn: forget.step(conn, 0, keep=ALL), second=ask)

    assert isinstance(answer, DeliveryNotFound)


async def test_logs_and_events_go_before_their_execution(conn: Connection) -> None:
    """By an age of their own, counted from the end of their execution; of what is not over they are all kept."""
    over = await make_execution(conn, "succeeded")
    running = await make_execution(conn, "running")
    for made in (over, running):
        await conn.execute(FILL, made.id, made.run_id)
    await move_clock(conn, "8 days")

    logs = await forget.drop_logs(conn, 0, after_seconds=7 * DAY_SECONDS)
    events = await forget.drop_events(conn, 0, after_seconds=7 * DAY_SECONDS)

    assert (logs and logs.rows, events and set(events.rows)) == ({"logs": 3}, {"events"})
    assert await _executions_with(conn) == ({running.id}, {running.id})


async def _executions_with(conn: Connection) -> tuple[set[UUID], set[UUID]]:
    logs = await conn.fetch("select distinct execution_id as id from logs")
    events = await conn.fetch("select distinct execution_id as id from events")
    return {row["id"] for row in logs}, {row["id"] for row in events}


async def test_the_way_through_logs_goes_on(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """From execution to execution, a bounded number of lines at a time, and then it rests."""
    monkeypatch.setattr(forget, "LINES_MAX", 2)
    for _ in range(3):
        made = await make_execution(conn, "succeeded")
        await conn.execute(FILL, made.id, made.run_id)
    await move_clock(conn, "8 days")
    removed = []

    while (part := await forget.drop_logs(conn, 0, after_seconds=DAY_SECONDS, limit=2)) is not None:
        removed.append(part.rows["logs"])

    assert (sum(removed), max(removed)) == (9, 2)


@pytest.mark.parametrize(("state", "kept"), [(DeliveryState.DELIVERED, "dead"), (DeliveryState.DEAD, "delivered")])
async def test_deliveries_go_before_their_execution(conn: Connection, state: DeliveryState, kept: str) -> None:
    """By an age of their own for each state, with their attempts; what is not settled is kept."""
    await make_execution(conn, "succeeded", webhooks=(webhook(), webhook(), webhook()))
    for due, end in zip(await due_now(conn), (DeliveryState.DELIVERED, DeliveryState.DEAD), strict=False):
        await deliver.settle(conn, [sent(due, state=end)])
    early = await forget.drop_deliveries(conn, 0, state=state, after_seconds=MONTH)
    await move_clock(conn, "31 days")

    gone = await forget.drop_deliveries(conn, 0, state=state, after_seconds=MONTH)

    assert early is None
    assert gone is not None
    assert gone.rows == {"deliveries": 1, "delivery_attempts": 1}
    states = {row["state"] for row in await conn.fetch("select state from deliveries")}
    assert kept in states
    assert state.value not in states


async def test_a_preview_removes_nothing(conn: Connection) -> None:
    """It says by status what would go, and what holds the rest."""
    await make_execution(conn, "succeeded")
    await make_child(conn, await make_execution(conn, "failed"), "queued")
    await move_clock(conn, "31 days")

    seen = {page.status: dict(page.why) async for page in forget.preview(conn, 0, keep=ALL) if page.why}

    assert seen == {Status.SUCCEEDED: {None: 1}, Status.FAILED: {Why.UNFINISHED: 1}}
    assert await counts(conn, "executions") == {"executions": 3}


async def test_other_namespaces_are_walked(conn: Connection) -> None:
    """One after the other, and each sees its own run only."""
    for namespace in (1, 2):
        made = await make_execution(conn, run_id="same")
        await conn.execute("update executions set namespace = $2 where id = $1", made.id, namespace)
        await conn.execute(END, made.id, "failed")
        await conn.execute("update outcomes set namespace = $2 where id = $1", made.id, namespace)
    await move_clock(conn, "31 days")

    assert (await forget_all(conn)).executions == {"failed": 2}


async def test_a_key_answers_as_long_as_it_lives(conn: Connection) -> None:
    """Sent again with its key, the request finds its execution although it is old."""
    [first] = await accept(conn, submission(idempotency_key="k", request_hash=b"h"))
    await conn.execute(END, first.id, "failed")
    await conn.execute("update idempotency_keys set expires_at = clock() + interval '60 days'")
    await move_clock(conn, "31 days")
    await forget_all(conn)

    [again] = await accept(conn, submission(idempotency_key="k", request_hash=b"h"))

    assert (again.id, again.replayed) == (first.id, True)


async def test_what_was_not_announced_stays(conn: Connection) -> None:
    """A run goes only when the announcer has passed its events, and so do its events alone."""
    await make_execution(conn, "succeeded")
    await conn.execute("insert into announced (bucket, xid, seq, moved_at) values (0, '1', 1, clock())")
    await move_clock(conn, "31 days")
    held = await forget_all(conn)
    trimmed = await forget.drop_events(conn, 0, after_seconds=86_400.0)
    await conn.execute("update announced set xid = '9000000000'")
    await forget.rouse(conn, 0)
    gone = await forget_all(conn)

    assert (held.any, trimmed is not None and trimmed.any) == (False, False)
    assert gone.executions == {"succeeded": 1}
