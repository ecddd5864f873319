"""Bulk: everything that a filter matches is done once, batch by batch, and what comes later is left alone."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from controlplane.domain.bulk import Action, Asked, Bulk, BulkId, BulkState, Count, Filter
from controlplane.domain.delivery import DeliveryState
from controlplane.domain.execution import Status
from controlplane.domain.ids import show_execution
from controlplane.domain.placement import Placement
from controlplane.domain.replay import Reuse
from controlplane.errors import BulkNotFound, IdempotencyConflict, InvalidState
from controlplane.postgres.pool import Connection
from controlplane.reads import bulks, executions
from controlplane.stages import bulk
from controlplane.stages.bulk import BATCH_MAX, DUE_MAX, NOT_TAKING, STUCK_SECONDS, Advanced
from tests.make import (
    NAMESPACE,
    STOCK,
    accept,
    counts,
    ended,
    event_types,
    make_execution,
    make_id,
    move_clock,
    queue_row,
    race,
    report,
    submission,
    webhook,
)

KILL = """
update deliveries
set state = 'dead', settled_at = clock(), charged = 5
"""
SETTLED = """
insert into deliveries (
  bucket, id, namespace, execution_id, webhook_n, event, host, url, body, state, attempts_max, next_at, created_at,
  settled_at
)
select 0, (lpad(to_hex((extract(epoch from clock()) * 1000)::bigint), 12, '0') || '7000800000'
  || lpad(to_hex(n), 7, '0') || '000')::uuid, 1, $1, n, 'execution.failed', $4, 'https://' || $4, '{}', $3, 5, clock(),
  clock(), clock()
from generate_series(2, $2::int + 1) as n
"""
SETTLED_STATES = (DeliveryState.DELIVERED, DeliveryState.DEAD)
ENDPOINT_ID = UUID(int=7)
POISON = """
create function refuse() returns trigger language plpgsql as $$
begin
  if old.id = current_setting('test.poison')::uuid then
    raise exception 'not this one' using errcode = '22023';
  end if;
  return coalesce(new, old);
end $$
"""
DRINK = "create trigger poison before delete on queue for each row execute function refuse()"


def asked(action: Action = Action.CANCEL, *, reuse: Reuse | None = None, **filter_: Any) -> Asked:
    if action is Action.RETRY:
        reuse = reuse or Reuse.SUCCEEDED_BEFORE
    return Asked(namespace=NAMESPACE, action=action, filter=Filter(**filter_), reuse=reuse, reason="because")


async def begin(conn: Connection, what: Asked, *, placement: Placement = STOCK) -> BulkId:
    counted = await bulks.count(conn, what, placement=placement)
    id_, _ = await bulk.begin(conn, BulkId(make_id(0)), what, counted=counted)
    return id_


async def step(conn: Connection, bucket: int = 0) -> Advanced | None:
    return await bulk.advance(conn, bucket, find=bulks.find, read_asked=executions.read_asked, make_id=make_id)


async def whole(conn: Connection, id_: BulkId, *, placement: Placement = STOCK) -> Bulk:
    found = await bulks.read(conn, id_, namespace=NAMESPACE, placement=placement)
    assert found is not None
    return found


async def finish(conn: Connection, id_: BulkId, *, placement: Placement = STOCK) -> Bulk:
    """Go on with everything until this one is over."""
    while (found := await whole(conn, id_, placement=placement)).state is BulkState.RUNNING:
        for bucket in placement.all():
            await step(conn, bucket)
    return found


async def run(conn: Connection, what: Asked) -> Bulk:
    return await finish(conn, await begin(conn, what))


async def dead(conn: Connection, number: int = 1, **over: Any) -> list[UUID]:
    """Executions that have ended, whose webhooks nobody took."""
    made = [await make_execution(conn, "failed", webhooks=(webhook(**over),)) for _ in range(number)]
    await conn.execute(KILL)
    return [one.id for one in made]


async def test_cancels_what_it_matches(conn: Connection) -> None:
    """What rests ends at once, what runs is told to stop, what has ended is left alone; why is said in the events."""
    queued, running = await make_execution(conn), await make_execution(conn, "running")
    await make_execution(conn, "succeeded")

    found = await run(conn, asked(statuses=(Status.QUEUED, Status.RUNNING)))

    assert (found.state, found.matched, found.exact, found.tally.done) == (BulkState.DONE, 2, True, 2)
    assert await ended(conn, queued.id)
    assert (await queue_row(conn, running.id))["cancel_reason"] == "because"
    assert found.began_at is not None
    assert found.ended_at is not None


@pytest.mark.parametrize(
    ("filter_", "number"),
    [
        ({"statuses": (Status.QUEUED,)}, 3),
        ({"statuses": (Status.RUNNING,)}, 1),
        ({"target": "n.echo"}, 3),
        ({"node_id": "m"}, 1),
        ({"run_id": "r"}, 1),
        ({"session_key": "s"}, 1),
        ({"actor_key": "a"}, 1),
        ({"target": "n.echo", "session_key": "s"}, 1),
        ({"run_id": "r", "actor_key": "a"}, 0),
        ({"created_before": datetime(2020, 1, 1, tzinfo=UTC)}, 0),
        ({"created_after": datetime(2020, 1, 1, tzinfo=UTC)}, 4),
        ({"created_after": datetime(2120, 1, 1, tzinfo=UTC)}, 0),
    ],
)
async def test_each_part_of_a_filter_narrows(conn: Connection, filter_: dict[str, Any], number: int) -> None:
    """A dry run says how many there are, and so many are done."""
    await make_execution(conn, run_id="r")
    await make_execution(conn, session_key="s")
    await make_execution(conn, actor_key="a", target="m.echo")
    await make_execution(conn, "running")
    what = asked(**filter_)

    counted = await bulks.count(conn, what, placement=STOCK)
    found = await run(conn, what)

    assert (counted.total, counted.is_exact, len(counted.sample)) == (number, True, number)
    assert (found.matched, found.tally.done) == (number, number)


@pytest.mark.parametrize(
    ("filter_", "number"),
    [
        ({}, 2),
        ({"statuses": (Status.FAILED, Status.CANCELLED)}, 3),
        ({"statuses": (Status.TIMEOUT,)}, 0),
        ({"error_class": "Boom"}, 1),
        ({"error_class": "B*"}, 1),
        ({"error_class": "Boom", "run_id": "r"}, 0),
        ({"error_class": "O*", "run_id": "r"}, 1),
        ({"run_id": "r"}, 1),
        ({"target": "m.echo"}, 1),
        ({"ended_after": datetime(2020, 1, 1, tzinfo=UTC)}, 2),
        ({"ended_before": datetime(2020, 1, 1, tzinfo=UTC)}, 0),
    ],
)
async def test_each_part_of_a_filter_of_what_has_ended(conn: Connection, filter_: dict[str, Any], number: int) -> None:
    """Cancelled ones are retried only when they are named: somebody did not want them."""
    await make_execution(conn, "failed")
    other = await make_execution(conn, "failed", run_id="r", target="m.echo")
    await conn.execute("update outcomes set error_class = 'Other' where id = $1", other.id)
    await make_execution(conn, "cancelled")
    await make_execution(conn, "succeeded")
    what = asked(Action.RETRY, **filter_)

    counted = await bulks.count(conn, what, placement=STOCK)
    found = await run(conn, what)

    assert (counted.total, found.matched, found.tally.done) == (number, number, number)
    assert await counts(conn, "queue") == {"queue": number}


async def test_what_comes_later_is_left_alone(conn: Connection) -> None:
    """What was submitted, and what has failed, after it had begun."""
    running = await make_execution(conn, "running")
    cancelling = await begin(conn, asked(target="n.echo"))
    retrying = await begin(conn, asked(Action.RETRY, target="n.echo"))
    later = await make_execution(conn)
    await make_execution(conn, "failed")

    done = [await finish(conn, one) for one in (cancelling, retrying)]

    assert [one.tally.done for one in done] == [1, 0]
    assert (await queue_row(conn, running.id))["cancel_requested_at"] is not None
    assert (await queue_row(conn, later.id))["cancel_requested_at"] is None


async def test_a_batch_is_bounded_and_each_goes_on_where_the_last_ended(conn: Connection) -> None:
    """Progress is there after every batch."""
    await accept(conn, *[submission() for _ in range(2 * BATCH_MAX + 1)])
    id_ = await begin(conn, asked(target="n.echo"))

    seen = []
    while await step(conn) is not None:
        found = await whole(conn, id_)
        seen.append((found.tally.done, found.matched, found.state))

    assert seen == [
        (BATCH_MAX, 2 * BATCH_MAX + 1, BulkState.RUNNING),
        (2 * BATCH_MAX, 2 * BATCH_MAX + 1, BulkState.RUNNING),
        (2 * BATCH_MAX + 1, 2 * BATCH_MAX + 1, BulkState.DONE),
    ]


async def test_a_retry_is_a_new_execution_in_the_old_run(conn: Connection) -> None:
    """It says in its first event which bulk has asked for it."""
    old = await make_execution(conn, "failed")

    found = await run(conn, asked(Action.RETRY, target="n.echo"))
    [new] = await conn.fetch("select id, run_id, source_execution_id from executions where id <> $1", old.id)
    origin = json.loads(await conn.fetchval("select data from events where execution_id = $1", new["id"]))

    assert (new["run_id"], new["source_execution_id"], found.tally.done) == (old.run_id, old.id, 1)
    assert (origin["kind"], origin["source_execution_id"]) == ("retry", show_execution(old.id))
    assert (origin["reason"], origin["bulk_id"][:5]) == ("because", "bulk_")


async def test_what_was_retried_is_not_retried_again(conn: Connection) -> None:
    """A second bulk takes up the retry that has failed, too, and not its source once more: or they would double."""
    await make_execution(conn, "failed")
    what = asked(Action.RETRY, target="n.echo")
    await run(conn, what)

    found = await run(conn, what)

    assert (found.tally.done, found.tally.skipped) == (0, {"already_retried": 1})
    assert await counts(conn, "executions") == {"executions": 2}


async def test_pauses_and_resumes(conn: Connection) -> None:
    """Those that can be; a second pause finds nothing to hold back, and a resume only what is paused."""
    made = [await make_execution(conn), await make_execution(conn, "running")]
    done = [
        (await run(conn, asked(action, target="n.echo"))).tally.done
        for action in (Action.PAUSE, Action.PAUSE, Action.RESUME, Action.RESUME)
    ]

    assert done == [2, 0, 2, 0]
    assert [(await queue_row(conn, one.id))["state"] for one in made] == ["ready", "leased"]
    assert (await event_types(conn, made[0].id))[1:] == ["execution.paused", "execution.resumed"]


async def settled(conn: Connection, execution_id: UUID, number: int, state: str, *, host: str = "h") -> None:
    """So many more deliveries of this execution, all to one receiver."""
    await conn.execute(SETTLED, execution_id, number, state, host)


async def test_a_thousand_dead_deliveries_are_sent_again(conn: Connection) -> None:
    """Each is due at once, with the schedule from its beginning, and is not touched again when it dies again."""
    [first] = await dead(conn)
    await settled(conn, first, 999, "dead")
    id_ = await begin(conn, asked(Action.REDRIVE_DELIVERIES))
    while (found := await whole(conn, id_)).state is BulkState.RUNNING:
        await step(conn)
        assert await conn.fetchval("select count(*) from deliveries where state = 'pending' and charged = 0") > 0
        await conn.execute(KILL + " where state = 'pending'")

    assert (found.matched, found.tally.done, found.tally.skipped) == (1000, 1000, {})
    assert (await event_types(conn, first)).count("delivery.retried") == 1000


async def test_what_is_fresh_overtakes_ten_thousand_replays(conn: Connection) -> None:
    """A bulk has only a few due at one receiver at once, however slow that is; the newcomer waits behind those."""
    [first] = await dead(conn, url="https://h/hook", host="h")
    await settled(conn, first, 10_000, "delivered")
    id_ = await begin(conn, asked(Action.REDRIVE_DELIVERIES, host="h", states=SETTLED_STATES))
    waits = [(await step(conn)).waits for _ in range(10)]
    fresh = await make_execution(conn, "succeeded", webhooks=(webhook("https://h/hook", host="h"),))
    before = await conn.fetchval(
        """
        select count(*)
        from deliveries
        where state = 'pending' and host = 'h'
          and next_at <= (select next_at from deliveries where execution_id = $1)
        """,
        fresh.id,
    )

    assert before <= DUE_MAX + 1  # which are sent in this order
    assert waits == [True] * 10
    assert (await whole(conn, id_)).tally.done == DUE_MAX


async def test_a_replay_goes_on_where_there_is_room(conn: Connection) -> None:
    """As soon as the receiver has taken some; what it is to be tried again later does not count."""
    [first] = await dead(conn, url="https://h/hook", host="h")
    await settled(conn, first, 99, "delivered")
    id_ = await begin(conn, asked(Action.REDRIVE_DELIVERIES, host="h", states=SETTLED_STATES))
    await step(conn)
    await step(conn)
    assert (await whole(conn, id_)).tally.done == DUE_MAX
    await conn.execute("update deliveries set next_at = clock() + interval '1 hour' where state = 'pending'")
    await step(conn)

    assert (await whole(conn, id_)).tally.done == 2 * DUE_MAX


async def test_a_receiver_that_takes_nothing_holds_nobody_up_for_long(conn: Connection) -> None:
    """After a quarter of an hour the rest of it is left out, and said so; the others get theirs."""
    [first] = await dead(conn, url="https://hung/hook", host="hung")
    await settled(conn, first, 60, "delivered", host="hung")
    await make_execution(conn, "succeeded", webhooks=(webhook("https://h/hook", host="h"),))
    await conn.execute(KILL + " where state = 'pending'")
    id_ = await begin(conn, asked(Action.REDRIVE_DELIVERIES, states=SETTLED_STATES))
    await step(conn)
    assert (await whole(conn, id_)).state is BulkState.RUNNING
    await move_clock(conn, f"{STUCK_SECONDS + 1} seconds")
    await step(conn)
    found = await whole(conn, id_)

    assert (found.state, found.tally.done) == (BulkState.DONE, DUE_MAX + 1)
    assert found.tally.skipped == {NOT_TAKING: 61 - DUE_MAX}
    assert await conn.fetchval("select state from deliveries where host = 'h'") == "pending"


@pytest.mark.parametrize(
    ("filter_", "number"),
    [
        ({"states": (DeliveryState.DELIVERED,)}, 1),
        ({"states": SETTLED_STATES}, 2),
        ({"states": (DeliveryState.DEAD,)}, 1),
        ({"states": SETTLED_STATES, "event": "execution.failed"}, 1),
        ({"states": SETTLED_STATES, "host": "a.example"}, 1),
        ({"states": SETTLED_STATES, "endpoint_id": ENDPOINT_ID}, 1),
        ({"event": "execution.completed"}, 0),
    ],
    ids=["delivered", "both", "dead", "event", "host", "endpoint", "dead of an event"],
)
async def test_which_deliveries_are_replayed(conn: Connection, filter_: dict[str, Any], number: int) -> None:
    """Delivered or dead, and all that is said holds; the dry run says the same number."""
    await dead(conn, url="https://a.example/hook", host="a.example")
    taken = await make_execution(conn, "succeeded", webhooks=(webhook("https://b.example/hook", host="b.example"),))
    await conn.execute(
        "update deliveries set state = 'delivered', settled_at = clock(), endpoint_id = $2, webhook_n = null,"
        " event_seq = 1 where execution_id = $1",
        taken.id,
        ENDPOINT_ID,
    )
    await make_execution(conn, "succeeded", webhooks=(webhook(),))  # not told yet: it is sent anyway
    what = asked(Action.REDRIVE_DELIVERIES, **filter_)
    counted = await bulks.count(conn, what, placement=STOCK)
    found = await run(conn, what)

    assert (counted.total, found.tally.done) == (number, number)


@pytest.mark.parametrize(
    ("filter_", "number"),
    [
        ({}, 2),
        ({"host": "a.example"}, 1),
        ({"target": "n.echo", "host": "b.example"}, 1),
        ({"target": "n.other"}, 0),
        ({"ended_before": datetime(2020, 1, 1, tzinfo=UTC)}, 0),
    ],
)
async def test_filters_of_what_is_dead(conn: Connection, filter_: dict[str, Any], number: int) -> None:
    """A receiver that is back gets what it missed."""
    await dead(conn, url="https://a.example/")
    await dead(conn, url="https://b.example/")

    found = await run(conn, asked(Action.REDRIVE_DELIVERIES, **filter_))

    assert (found.matched, found.tally.done) == (number, number)


async def test_what_dies_later_is_left_alone(conn: Connection) -> None:
    """It had not died when the bulk began, however long ago it was planned."""
    await make_execution(conn, "failed", webhooks=(webhook(),))
    id_ = await begin(conn, asked(Action.REDRIVE_DELIVERIES))
    await conn.execute(KILL)

    found = await finish(conn, id_)

    assert (found.matched, found.tally.done, found.tally.skipped) == (0, 0, {})


async def test_ids_that_are_named(conn: Connection) -> None:
    """Each has an answer: done, or why not."""
    queued, over = await make_execution(conn), await make_execution(conn, "failed")

    cancelled = await run(conn, asked(ids=(queued.id, over.id, make_id(0))))
    retried = await run(conn, asked(Action.RETRY, ids=(queued.id, over.id)))

    assert (cancelled.tally.done, cancelled.tally.skipped) == (1, {"is_failed": 1, "not_found": 1})
    assert retried.tally.done == 2


async def test_a_batch_that_is_not_committed_has_not_happened(conn: Connection) -> None:
    """A server that dies between the work and the commit repeats nothing: its cursor has not moved either."""
    await make_execution(conn, "failed")
    id_ = await begin(conn, asked(Action.RETRY, target="n.echo"))
    dies = conn.transaction()
    await dies.start()
    await step(conn)
    await dies.rollback()
    before = await whole(conn, id_)

    after = await finish(conn, id_)

    assert (before.tally.done, before.state) == (0, BulkState.RUNNING)
    assert after.tally.done == 1
    assert await counts(conn, "queue") == {"queue": 1}


async def test_two_replicas_share_the_work(conn: Connection, other: Connection) -> None:
    """Each source is retried once."""
    for _ in range(BATCH_MAX + 20):
        await make_execution(conn, "failed")
    id_ = await begin(conn, asked(Action.RETRY, target="n.echo"))

    await asyncio.gather(finish(conn, id_), finish(other, id_))

    assert await counts(conn, "queue") == {"queue": BATCH_MAX + 20}
    assert (await whole(conn, id_)).tally.done == BATCH_MAX + 20


async def test_while_one_does_a_batch_the_other_finds_nothing(conn: Connection, other: Connection) -> None:
    """It does not wait for it either."""
    await make_execution(conn)
    id_ = await begin(conn, asked(target="n.echo"))
    async with conn.transaction():
        await step(conn)

        assert await step(other) is None
        assert (await whole(other, id_)).state is BulkState.RUNNING

    assert (await whole(other, id_)).state is BulkState.DONE


async def test_the_one_whose_turn_was_longest_ago_comes_first(conn: Connection) -> None:
    """A short one is over before a long one that was there first."""
    await accept(conn, *[submission() for _ in range(3 * BATCH_MAX)], submission(target="m.echo"))
    long, short = [await begin(conn, asked(target=target)) for target in ("n.echo", "m.echo")]

    await step(conn)
    await step(conn)

    assert [(await whole(conn, one)).state for one in (long, short)] == [BulkState.RUNNING, BulkState.DONE]


async def test_what_cannot_be_done_stops_nothing_else(conn: Connection) -> None:
    """The one is counted with its words; the others are done."""
    made = [await make_execution(conn) for _ in range(5)]
    await conn.execute(POISON)
    await conn.execute(DRINK)
    await conn.execute("select set_config('test.poison', $1, false)", str(made[2].id))

    found = await run(conn, asked(target="n.echo"))

    assert (found.state, found.tally.done, sum(found.tally.failed.values())) == (BulkState.DONE, 4, 1)
    assert [one["id"] for one in found.tally.errors] == [show_execution(made[2].id)]
    assert "not this one" in found.tally.errors[0]["message"]
    assert not await ended(conn, made[2].id)


async def test_a_stop_takes_effect_before_the_next_batch(conn: Connection) -> None:
    """What was done stays done; asking again says the same."""
    await accept(conn, *[submission() for _ in range(2 * BATCH_MAX)])
    id_ = await begin(conn, asked(target="n.echo"))
    await step(conn)

    for _ in range(2):
        await bulk.stop(conn, id_, STOCK.all(), namespace=NAMESPACE)

    assert await step(conn) is None
    found = await whole(conn, id_)
    assert (found.state, found.tally.done) == (BulkState.STOPPED, BATCH_MAX)
    assert await counts(conn, "queue") == {"queue": BATCH_MAX}


async def test_a_stop_waits_for_the_batch_under_way(conn: Connection, other: Connection, observer: Connection) -> None:
    """Nothing of a batch is lost or left uncounted, and no other begins."""
    await accept(conn, *[submission() for _ in range(2 * BATCH_MAX)])
    id_ = await begin(conn, asked(target="n.echo"))

    await race(conn, other, observer, first=step, second=lambda c: bulk.stop(c, id_, STOCK.all(), namespace=NAMESPACE))

    found = await whole(conn, id_)
    assert (found.state, found.tally.done) == (BulkState.STOPPED, BATCH_MAX)
    assert await counts(conn, "queue") == {"queue": BATCH_MAX}


async def test_a_batch_and_a_node_that_reports_wait_for_each_other(
    conn: Connection, other: Connection, observer: Connection
) -> None:
    """What has just ended is left alone; the bulk comes after it and goes on."""
    made = [await make_execution(conn, "running") for _ in range(3)]
    id_ = await begin(conn, asked(target="n.echo"))

    await race(conn, other, observer, first=lambda c: report(c, made[1].fence), second=step)

    found = await whole(conn, id_)
    assert (found.state, found.tally.done, found.tally.skipped) == (BulkState.DONE, 2, {"moved_on": 1})


async def test_a_stop_of_what_is_over_or_unknown_is_refused(conn: Connection) -> None:
    """There is nothing to stop."""
    over = await run(conn, asked())

    with pytest.raises(InvalidState):
        await bulk.stop(conn, over.id, STOCK.all(), namespace=NAMESPACE)
    with pytest.raises(BulkNotFound):
        await bulk.stop(conn, BulkId(make_id(0)), STOCK.all(), namespace=NAMESPACE)


async def test_begun_twice_with_one_key_it_is_begun_once(conn: Connection) -> None:
    """Another request with the key is refused."""
    what, keyed = asked(), bulk.Keyed(key="k", request_hash=b"1")
    counted = Count(matched={0: 0}, exact={0: True}, sample=())
    first = await bulk.begin(conn, BulkId(make_id(0)), what, counted=counted, keyed=keyed)
    again = await bulk.begin(conn, BulkId(make_id(0)), what, counted=counted, keyed=keyed)

    assert (again[0], first[1], again[1]) == (first[0], False, True)
    assert await counts(conn, "bulks") == {"bulks": 1}
    other = replace(keyed, request_hash=b"2")
    with pytest.raises(IdempotencyConflict):
        await bulk.begin(conn, BulkId(make_id(0)), what, counted=counted, keyed=other)


async def test_a_filter_of_a_newer_server_is_not_guessed_at(conn: Connection) -> None:
    """The bulk fails and says why, and nothing is done."""
    made = await make_execution(conn)
    id_ = await begin(conn, asked(target="n.echo"))
    await conn.execute('update bulks set filter = \'{"moon": "full"}\'')

    found = await finish(conn, id_)

    assert (found.state, found.tally.done) == (BulkState.FAILED, 0)
    assert "moon" in (found.error or "")
    assert not await ended(conn, made.id)


async def test_one_that_cannot_be_gone_through_keeps_no_other_waiting(conn: Connection) -> None:
    """It fails with the database's words, and the next one has its turn."""
    made = await make_execution(conn)
    broken, fine = await begin(conn, asked(target="n.other")), await begin(conn, asked(target="n.echo"))

    async def find(conn: Connection, bucket: int, what: Asked, **options: Any) -> Any:
        if what.filter.target == "n.other":
            await conn.execute("select 1 / 0")
        return await bulks.find(conn, bucket, what, **options)

    for _ in range(2):
        await bulk.advance(conn, 0, find=find, read_asked=executions.read_asked, make_id=make_id)

    found = await whole(conn, broken)
    assert (found.state, found.error) == (BulkState.FAILED, "division by zero")
    assert (await whole(conn, fine)).state is BulkState.DONE
    assert await ended(conn, made.id)


async def test_every_bucket_does_its_part(conn: Connection) -> None:
    """Together they are one bulk, which is over when all of them are."""
    placement = Placement(buckets=3, hashed=3)
    await accept(conn, *[submission(bucket=bucket) for bucket in (0, 1, 1, 2)])
    id_ = await begin(conn, asked(target="n.echo"), placement=placement)
    await step(conn, 1)
    half = await whole(conn, id_, placement=placement)

    found = await finish(conn, id_, placement=placement)
    [listed] = await bulks.page(
        conn, namespace=NAMESPACE, state=BulkState.DONE, before=None, limit=5, placement=placement
    )

    assert (half.state, half.tally.done, half.matched) == (BulkState.RUNNING, 2, 4)
    assert (found.tally.done, found.matched, listed) == (4, 4, found)


async def test_what_moves_between_look_and_lock_is_left_alone(conn: Connection) -> None:
    """A filter for what is queued does not cancel what has begun in between."""
    made = await make_execution(conn, "running")
    what = asked(statuses=(Status.QUEUED,))
    await begin(conn, what)

    async def find(*args: Any, **options: Any) -> Any:
        return await bulks.find(args[0], args[1], replace(what, filter=Filter(node_id="n")), **options)

    did = await bulk.advance(conn, 0, find=find, read_asked=executions.read_asked, make_id=make_id)

    assert did is not None
    assert (did.tally.done, did.tally.skipped) == (0, {"moved_on": 1})
    assert (await queue_row(conn, made.id))["cancel_requested_at"] is None
