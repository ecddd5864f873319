"""Deliver: what is due is claimed fairly, settled once, and never forgotten when a dispatcher dies."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest

from controlplane.domain.delivery import Attempt, AttemptOutcome, DeliveryState
from controlplane.domain.ids import DeliveryId
from controlplane.errors import DeliveryNotFound, LeaseLost
from controlplane.postgres.pool import Connection, Pool
from controlplane.stages import deliver, redrive
from controlplane.stages.deliver import Due, Sent
from tests.make import Made, counts, event_types, make_execution, make_id, move_clock, only_row, report, webhook

INSERT = """
insert into deliveries (
  bucket, id, namespace, execution_id, webhook_n, event, host, url, body, state, attempts_max, next_at, created_at
)
select 0, gen_random_uuid(), 1, gen_random_uuid(), 1, 'execution.completed', h.host, 'https://' || h.host, '{}',
  'pending', 5, clock() + h.wait, clock()
from unnest($1::text[], $2::interval[]) as h(host, wait)
"""

OK = Attempt(
    outcome=AttemptOutcome.DELIVERED,
    http_status=200,
    latency_ms=12,
    error=None,
    response_body=b"thanks",
    retry_after_seconds=None,
    final=False,
)
REFUSED = replace(OK, outcome=AttemptOutcome.FAILED, http_status=500, error="status: 500")


async def pending(conn: Connection, *hosts: str, wait: str = "0") -> None:
    seconds = timedelta(seconds=float(wait))
    await conn.execute(INSERT, list(hosts), [seconds] * len(hosts))


async def walk(
    conn: Connection,
    *,
    bucket: int = 0,
    after: deliver.Place = deliver.BEGINNING,
    full_hosts: tuple[str, ...] = (),
    per_host: int = 4,
    limit: int = 100,
    lease_seconds: float = 60.0,
) -> deliver.Claimed:
    return await deliver.claim_due(
        conn,
        bucket,
        after=after,
        full_hosts=full_hosts,
        per_host=per_host,
        limit=limit,
        lease_seconds=lease_seconds,
    )


async def due_now(conn: Connection) -> list[Due]:
    return list((await walk(conn)).due)


def sent(
    due: Due, attempt: Attempt = OK, state: DeliveryState = DeliveryState.DELIVERED, wait_seconds: float = 0.0
) -> Sent:
    return Sent(due=due, attempt=attempt, state=state, wait_seconds=wait_seconds)


async def row_of(conn: Connection, id_: DeliveryId) -> asyncpg.Record:
    row = await only_row(conn, "select * from deliveries where id = $1", id_)
    assert row is not None
    return row


async def attempts(conn: Connection, id_: DeliveryId) -> list[tuple[int, str]]:
    rows = await conn.fetch("select attempt, outcome from delivery_attempts where delivery_id = $1 order by 1", id_)
    return [(row["attempt"], row["outcome"]) for row in rows]


@pytest.fixture
async def made(conn: Connection) -> Made:
    """A finished execution whose webhook has a secret and headers."""
    hook = webhook("https://a.example/hook", headers_sealed=b"headers")
    return await make_execution(conn, "succeeded", webhooks=(hook,))


@pytest.fixture
async def due(conn: Connection, made: Made) -> Due:
    """Its delivery, claimed."""
    [one] = await due_now(conn)
    return one


async def test_what_is_due_is_leased(conn: Connection, made: Made) -> None:
    """A claim takes the next attempt and everything that sending needs."""
    [got] = await due_now(conn)
    row = await row_of(conn, got.id)

    assert (got.execution_id, got.attempt, got.charged, got.attempts_max) == (made.id, 1, 0, 5)
    assert (got.host, got.url, got.event) == ("a.example", "https://a.example/hook", "execution.completed")
    assert (got.secret_sealed, got.headers_sealed, got.body) == (b"sealed", b"headers", row["body"])
    assert (row["state"], row["attempt"]) == ("leased", 1)
    assert got.now_seconds > 1.7e9


async def test_nothing_is_claimed_twice(conn: Connection, due: Due) -> None:
    """What is being sent is not sent by another."""
    assert await due_now(conn) == []


async def test_what_is_not_due_waits(conn: Connection) -> None:
    """Before its time a delivery is left alone."""
    await pending(conn, "a.example", wait="60")

    assert await due_now(conn) == []
    await move_clock(conn, "61 seconds")
    assert len(await due_now(conn)) == 1


async def test_concurrent_claims_share_nothing(conn: Connection, pool: Pool) -> None:
    """Two dispatchers never send the same delivery."""
    await pending(conn, *(f"h{n % 7}.example" for n in range(60)))

    async def drain() -> list[DeliveryId]:
        taken: list[DeliveryId] = []
        async with pool.acquire() as own:
            while got := (await walk(own, limit=5)).due:
                taken += [one.id for one in got]
        return taken

    taken = [id_ for part in await asyncio.gather(drain(), drain(), drain()) for id_ in part]

    assert len(taken) == len(set(taken)) == 60


async def test_a_busy_host_delays_nobody(conn: Connection) -> None:
    """One host with a thousand due deliveries takes its few places, twenty others get theirs in the same claim."""
    await pending(conn, *["m.example"] * 1000, *(f"{letter}.example" for letter in "abcdefghijnopqrstuvw"))

    claimed = await walk(conn, per_host=4, limit=64)
    hosts = Counter(one.host for one in claimed.due)

    assert (len(hosts), hosts["m.example"]) == (21, 4)


async def test_the_oldest_of_a_host_first(conn: Connection) -> None:
    """Within one host what was due first goes first."""
    for wait in ("-10", "-30", "-20"):
        await pending(conn, "a.example", wait=wait)

    due = (await walk(conn, per_host=2)).due
    left = await conn.fetchval(
        "select clock() - next_at < interval '15 seconds' from deliveries where state = 'pending'"
    )

    assert (len(due), left) == (2, True)


async def test_full_hosts_are_left_out(conn: Connection) -> None:
    """A host that has no place free is passed over."""
    await pending(conn, "a.example", "b.example", "c.example")

    claimed = await walk(conn, full_hosts=("b.example",))

    assert sorted(one.host for one in claimed.due) == ["a.example", "c.example"]


async def test_the_walk_goes_on_where_it_stopped(conn: Connection) -> None:
    """A claim cut by its limit is continued behind the last host it took, and comes round in the end."""
    await pending(conn, "a.example", "b.example", "c.example", "d.example")

    first = await walk(conn, limit=2)
    second = await walk(conn, limit=3, after=first.after)

    assert sorted(one.host for one in first.due) == ["a.example", "b.example"]
    assert sorted(one.host for one in second.due) == ["c.example", "d.example"]
    assert (first.after, second.after) == (("b.example", 1), deliver.BEGINNING)


async def test_hosts_that_wait_do_not_hide_those_behind_them(conn: Connection) -> None:
    """However many dead receivers stand in front, the walk passes them and reaches the healthy ones."""
    await pending(conn, *(f"dead-{n:04}.example" for n in range(450)), wait="60")
    await pending(conn, "healthy.example")
    after, passes = deliver.BEGINNING, 0
    found: list[str] = []

    while not found and passes < 10:
        claimed = await walk(conn, after=after)
        after, found, passes = claimed.after, [one.host for one in claimed.due], passes + 1

    assert (found, passes) == (["healthy.example"], 3)


async def test_the_walk_ends(conn: Connection) -> None:
    """When nothing is due anywhere the walk says so instead of going round for ever."""
    await pending(conn, *(f"dead-{n:04}.example" for n in range(450)), wait="60")
    after, seen = deliver.BEGINNING, []

    for _ in range(4):
        after = (await walk(conn, after=after)).after
        seen.append(after)

    assert seen == [("dead-0199.example", 1), ("dead-0399.example", 1), deliver.BEGINNING, ("dead-0199.example", 1)]


async def test_a_success_is_written_down(conn: Connection, made: Made, due: Due) -> None:
    """The delivery is settled, its attempt recorded, and an event tells of it."""
    assert await deliver.settle(conn, [sent(due)]) == [None]
    row = await row_of(conn, due.id)
    tried = await only_row(conn, "select * from delivery_attempts")

    assert (row["state"], row["charged"], row["lease_until"]) == ("delivered", 1, None)
    assert row["settled_at"] is not None
    assert (tried["outcome"], tried["http_status"], tried["latency_ms"], tried["response_body"]) == (
        "delivered", 200, 12, b"thanks",
    )  # fmt: skip
    assert (await event_types(conn, made.id))[-1] == "delivery.delivered"


async def test_a_host_that_may_have_more(conn: Connection) -> None:
    """A claim says whether of some host it took as much as it might."""
    await pending(conn, *["a.example"] * 4, *["b.example"] * 3)

    assert [(await walk(conn, per_host=n)).more for n in (2, 2, 2)] == [True, True, False]


async def test_a_failure_waits_for_its_turn(conn: Connection, made: Made, due: Due) -> None:
    """It is pending again, and due after its wait."""
    await deliver.settle(conn, [sent(due, REFUSED, DeliveryState.PENDING, 30.0)])
    early = await due_now(conn)
    await move_clock(conn, "31 seconds")
    [again] = await due_now(conn)

    assert early == []
    assert (again.id, again.attempt, again.charged, again.body) == (due.id, 2, 1, due.body)
    assert await attempts(conn, due.id) == [(1, "failed")]


async def test_the_last_failure_is_the_end(conn: Connection, made: Made, due: Due) -> None:
    """A dead delivery is not tried again, and an event tells of it."""
    await deliver.settle(conn, [sent(due, REFUSED, DeliveryState.DEAD)])
    await move_clock(conn, "1 year")

    assert await due_now(conn) == []
    assert (await event_types(conn, made.id))[-1] == "delivery.dead"


@pytest.mark.parametrize("state", [DeliveryState.DELIVERED, DeliveryState.PENDING, DeliveryState.DEAD])
async def test_settling_twice_says_the_same(conn: Connection, due: Due, state: DeliveryState) -> None:
    """The repeat after a lost answer is no lost lease, and is not counted again."""
    item = sent(due, OK if state is DeliveryState.DELIVERED else REFUSED, state, 60.0)
    first = await deliver.settle(conn, [item])
    before = await row_of(conn, due.id), await counts(conn, "events", "delivery_attempts")

    again = await deliver.settle(conn, [item])

    assert first == again == [None]
    assert (await row_of(conn, due.id), await counts(conn, "events", "delivery_attempts")) == before


async def test_a_dead_dispatcher_is_not_charged(conn: Connection, due: Due) -> None:
    """Nobody knows whether the receiver was told: it is due again at once, with its schedule unspent."""
    early = await deliver.reclaim(conn, 0)
    await move_clock(conn, "61 seconds")
    taken = await deliver.reclaim(conn, 0)
    [again] = await due_now(conn)

    assert (early, taken) == (0, 1)
    assert (again.attempt, again.charged) == (2, 0)
    assert await attempts(conn, due.id) == [(1, "unknown")]


async def test_a_dispatcher_that_comes_back_late_changes_nothing(conn: Connection, due: Due) -> None:
    """Its attempt was given up; the one that is under way now decides."""
    await move_clock(conn, "61 seconds")
    await deliver.reclaim(conn, 0)
    [again] = await due_now(conn)

    [late] = await deliver.settle(conn, [sent(due)])

    assert isinstance(late, LeaseLost)
    assert (await row_of(conn, due.id))["state"] == "leased"
    assert await deliver.settle(conn, [sent(again)]) == [None]
    assert await attempts(conn, due.id) == [(1, "unknown"), (2, "delivered")]


async def test_a_delivery_that_kills_its_dispatcher_dies(conn: Connection, made: Made) -> None:
    """After too many unknown ends in a row it is dead, and an event tells of it."""
    for n in range(1, deliver.UNKNOWN_MAX + 2):
        assert len(await due_now(conn)) == 1
        await move_clock(conn, f"{n * 61} seconds")
        await deliver.reclaim(conn, 0)

    assert await conn.fetchval("select state from deliveries") == "dead"
    assert (await event_types(conn, made.id))[-1] == "delivery.dead"


async def test_an_answer_breaks_the_row_of_unknown_ends(conn: Connection, made: Made) -> None:
    """Only so many in a row count; a dispatcher that dies now and then kills no delivery."""
    for n in range(1, deliver.UNKNOWN_MAX + 5):
        [one] = await due_now(conn)
        if n == deliver.UNKNOWN_MAX - 1:
            await deliver.settle(conn, [sent(one, REFUSED, DeliveryState.PENDING)])
        await move_clock(conn, f"{n * 61} seconds")
        await deliver.reclaim(conn, 0)

    assert await conn.fetchval("select state from deliveries") == "pending"


async def settle_dead(conn: Connection, tries: int = 5) -> DeliveryId:
    """The only delivery, after so many failures."""
    for n in range(1, tries + 1):
        [one] = await due_now(conn)
        state = DeliveryState.DEAD if n == tries else DeliveryState.PENDING
        await deliver.settle(conn, [sent(one, REFUSED, state)])
    return one.id


async def test_a_retry_by_hand_begins_the_schedule_again(conn: Connection, made: Made) -> None:
    """A dead delivery is due at once with all its attempts, however often somebody asks for it."""
    for _ in range(4):
        id_ = await settle_dead(conn)
        await redrive.retry(conn, id_, namespace=1)

    [again] = await due_now(conn)

    assert (again.id, again.attempt, again.charged, again.attempts_max) == (id_, 21, 0, 5)
    assert (await event_types(conn, made.id))[-1] == "delivery.retried"


async def test_a_delivered_one_can_be_sent_again(conn: Connection, made: Made, due: Due) -> None:
    """The same id and the same bytes."""
    await deliver.settle(conn, [sent(due)])

    await redrive.retry(conn, due.id, namespace=1)
    [again] = await due_now(conn)

    assert (again.id, again.body, again.attempt) == (due.id, due.body, 2)


async def test_a_retry_hurries_a_pending_one(conn: Connection, made: Made, due: Due) -> None:
    """What waits is due now; its count of attempts goes on."""
    await deliver.settle(conn, [sent(due, REFUSED, DeliveryState.PENDING, 300.0)])

    await redrive.retry(conn, due.id, namespace=1)
    [again] = await due_now(conn)

    assert (again.id, again.charged) == (due.id, 1)


async def test_a_retry_of_one_being_sent_changes_nothing(conn: Connection, due: Due) -> None:
    """It is being sent already."""
    before = await row_of(conn, due.id)

    await redrive.retry(conn, due.id, namespace=1)

    assert await row_of(conn, due.id) == before


@pytest.mark.parametrize("namespace", [1, 2])
async def test_an_unknown_delivery_is_not_found(conn: Connection, due: Due, namespace: int) -> None:
    """Nor is one of another namespace."""
    id_ = DeliveryId(make_id(0)) if namespace == 1 else due.id

    with pytest.raises(DeliveryNotFound):
        await redrive.retry(conn, id_, namespace=namespace)


async def test_a_batch_is_answered_in_order(conn: Connection) -> None:
    """Settled, stale and again settled, in two buckets."""
    for bucket in (1, 0):
        await make_execution(conn, "succeeded", webhooks=(webhook(),), bucket=bucket)
    [zero] = await due_now(conn)
    [one] = (
        await deliver.claim_due(conn, 1, after=deliver.BEGINNING, full_hosts=(), per_host=4, limit=9, lease_seconds=60)
    ).due

    answers = await deliver.settle(conn, [sent(one), sent(replace(zero, attempt=7)), sent(zero)])

    assert [type(answer) for answer in answers] == [type(None), LeaseLost, type(None)]


async def test_a_finished_execution_has_one_delivery_however_it_is_reported(conn: Connection) -> None:
    """Repeated reports plan nothing twice."""
    made = await make_execution(conn, "succeeded", webhooks=(webhook(),))
    await report(conn, made.fence)

    assert await counts(conn, "deliveries") == {"deliveries": 1}
