"""The feed: every delivery once, in the order in which it came to be, and never past what may still come."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from controlplane.domain.delivery import DeliveryState
from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Connection
from controlplane.reads import feed
from controlplane.reads.feed import BEGINNING, PAGE_BYTES_MAX, Feed, FeedFilter, Place
from tests.make import NAMESPACE, STOCK, horizon_passed, make_execution, make_id, move_clock, webhook

INSERT = """
insert into deliveries (
  bucket, id, namespace, execution_id, webhook_n, event, host, url, body, state, attempts_max, next_at, created_at,
  endpoint_id, event_seq
)
values (
  $1, $2, $3, $2, $4, $5, $6, 'https://h', $7, 'pending', 5, clock(), clock(), $8,
  case when $8::uuid is not null then 1 end
)
"""
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
ENDPOINT_ID = UUID(int=7)


async def plan(
    conn: Connection,
    *,
    bucket: int = 0,
    namespace: int = NAMESPACE,
    n: int = 1,
    event: str = "execution.completed",
    host: str = "h",
    body: bytes = b"{}",
    endpoint_id: UUID | None = None,
    id_: UUID | None = None,
) -> UUID:
    """A delivery of its own transaction."""
    id_ = id_ or make_id(bucket)
    of_webhook = n if endpoint_id is None else None
    await conn.execute(INSERT, bucket, id_, namespace, of_webhook, event, host, body, endpoint_id)
    return id_


async def page(
    conn: Connection,
    after: Mapping[int, Place] | None = None,
    *,
    limit: int = 100,
    placement: Placement = STOCK,
    bodies: bool = False,
    look: int = 1_000,
    open_: bool = False,
    **filter_: Any,
) -> Feed:
    """A page of the feed. `open_`: a transaction of the test is under way."""
    if not open_:
        await horizon_passed(conn)
    return await feed.page(
        conn,
        FeedFilter(**filter_),
        after or {},
        namespace=NAMESPACE,
        limit=limit,
        placement=placement,
        bodies=bodies,
        look=look,
    )


def ids(*found: Feed) -> list[UUID]:
    return [one.view.id for part in found for one in part.items]


async def everything(conn: Connection, **over: Any) -> list[UUID]:
    """Page by page until there is no more."""
    found = [await page(conn, **over)]
    while found[-1].more:
        found.append(await page(conn, found[-1].reached, **over))
    return ids(*found)


@pytest.mark.parametrize("over", [{}, {"limit": 2}, {"look": 2}, {"look": 3, "limit": 1}])
async def test_in_order_and_each_once(conn: Connection, over: dict[str, int]) -> None:
    """However it is cut into pages; after the last one there is a place to go on from."""
    made = [await plan(conn) for _ in range(5)]
    end = (await page(conn)).reached
    later = await plan(conn)

    assert await everything(conn, **over) == [*made, later]
    assert ids(await page(conn, end)) == [later]


async def test_a_late_commit_is_not_passed_by(conn: Connection, other: Connection) -> None:
    """What was begun earlier is told earlier: until it has ended, what came after it waits."""
    first = await plan(conn)
    await horizon_passed(conn)
    open_ = other.transaction()
    await open_.start()
    late = await plan(other)
    after = await plan(conn)
    before = await page(conn, open_=True)
    await open_.commit()
    rest = await page(conn, before.reached)

    assert ids(before) == [first]
    assert ids(rest) == [late, after]


async def test_one_transaction_that_hangs_does_not_silence_it(conn: Connection, other: Connection) -> None:
    """What is older than an hour is told, whatever is open elsewhere; but nothing out of its order."""
    hanging = other.transaction()
    await hanging.start()
    await other.execute("select pg_current_xact_id()")
    made = [await plan(conn) for _ in range(3)]
    await conn.execute("update deliveries set created_at = created_at - interval '2 hours' where id <> $1", made[1])
    some = await page(conn, open_=True)
    await move_clock(conn, "2 hours")
    found = await page(conn, some.reached, open_=True)
    await hanging.rollback()

    assert ids(some) == made[:1]
    assert ids(found) == made[1:]


@pytest.mark.parametrize("look", [2, 1_000])
async def test_those_without_a_number_come_first(conn: Connection, look: int) -> None:
    """By their ids; they are from before there were numbers."""
    old = [await plan(conn) for _ in range(3)]
    await conn.execute("update deliveries set xid = null")
    new = [await plan(conn) for _ in range(3)]

    assert await everything(conn, look=look) == old + new


async def test_the_way_to_the_first_number_is_short(conn: Connection) -> None:
    """What came after it is not looked through for others that have none."""
    old = await plan(conn, id_=UUID(int=1 << 80))
    await conn.execute("update deliveries set xid = null")
    await move_clock(conn, "-1 hour")  # of the database, by which its rows are stamped; ids are made now
    new = [await plan(conn) for _ in range(3)]
    found = await page(conn, look=1)
    rest = await page(conn, found.reached, look=3)

    assert ids(found) == [old]
    assert ids(rest) == new


@pytest.mark.parametrize(
    ("filter_", "number"),
    [
        ({}, 3),
        ({"states": (DeliveryState.DELIVERED, DeliveryState.DEAD)}, 1),
        ({"states": (DeliveryState.PENDING,)}, 2),
        ({"event": "execution.failed"}, 1),
        ({"host": "other"}, 1),
        ({"endpoint_id": ENDPOINT_ID}, 1),
        ({"execution_id": UUID(int=0)}, 0),
        ({"created_after": LONG_AGO}, 3),
        ({"created_after": LONG_AGO + timedelta(days=36_500)}, 0),
    ],
    ids=["all", "settled", "pending", "event", "host", "endpoint", "execution", "since then", "not yet"],
)
async def test_filters(conn: Connection, filter_: dict[str, Any], number: int) -> None:
    """All that is said must hold; what does not is passed by."""
    one = await plan(conn, event="execution.failed")
    await plan(conn, host="other")
    await plan(conn, endpoint_id=ENDPOINT_ID)
    await conn.execute("update deliveries set state = 'dead', settled_at = clock() where id = $1", one)
    found = await page(conn, **filter_)

    assert len(found.items) == number
    assert found.reached == (await page(conn)).reached


async def test_what_is_nobody_elses_business(conn: Connection) -> None:
    """Other namespaces, and what processes of nodes are told, are in nobody's feed."""
    await plan(conn, namespace=2)
    await plan(conn, n=0)
    mine = await plan(conn)

    assert await everything(conn) == [mine]


async def test_it_says_what_it_is_about(conn: Connection) -> None:
    """Run, target and the very bytes; a page without bodies has none."""
    made = await make_execution(conn, "succeeded", webhooks=(webhook(),))
    [told] = (await page(conn, bodies=True)).items
    [bare] = (await page(conn)).items

    assert (told.view.execution_id, told.view.run_id, told.view.target) == (made.id, made.run_id, "n.echo")
    assert told.view.body == await conn.fetchval("select body from deliveries")
    assert bare.view.body is None


async def test_a_page_has_so_many_bytes(conn: Connection) -> None:
    """Or one delivery, however large; the next page goes on behind it."""
    made = [await plan(conn, body=b" " * size) for size in (PAGE_BYTES_MAX + 1, 10, PAGE_BYTES_MAX, 10)]
    found = [await page(conn, bodies=True)]
    while found[-1].more:
        found.append(await page(conn, found[-1].reached, bodies=True))

    assert [len(one.items) for one in found] == [1, 1, 1, 1]
    assert ids(*found) == made


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_all_buckets_together(conn: Connection, limit: int) -> None:
    """Each has its place in the cursor; what does not fit comes with the next page."""
    made = [await plan(conn, bucket=n % 2) for n in range(6)]

    assert await everything(conn, placement=Placement(buckets=2, hashed=2), limit=limit) == made


async def test_from_now_on(conn: Connection) -> None:
    """What is there is left out; a place that this database has not reached yet is recognised."""
    await plan(conn)
    await horizon_passed(conn)
    start = await feed.now(conn, STOCK)
    later = await plan(conn)

    assert ids(await page(conn, start)) == [later]
    assert not await feed.is_ahead(conn, start)
    assert not await feed.is_ahead(conn, {0: BEGINNING})
    assert await feed.is_ahead(conn, {0: Place(start[0].xid + 1_000_000, make_id(0))})
