"""Prune: room is made ahead of time, and what nobody may need any more is forgotten."""

from __future__ import annotations

import asyncpg
import pytest

from controlplane.domain.delivery import DeliveryState
from controlplane.postgres.pool import Connection
from controlplane.stages import checkpoint, deliver, prune, redrive
from tests.integration.stages.test_deliver import due_now, sent
from tests.make import accept, all_rows, counts, make_execution, move_clock, only_row, put, submission, webhook

PARTITIONS = "select count(*)::int from pg_inherits where inhparent = 'executions'::regclass"
DAY = 86_400.0


async def test_makes_partitions_ahead(conn: Connection) -> None:
    """Each further week is one partition of each of the five tables; asking again makes none."""
    before = await conn.fetchval(PARTITIONS)

    made = await prune.ensure_partitions(conn, weeks_ahead=10)
    again = await prune.ensure_partitions(conn, weeks_ahead=10)

    assert (made, again) == (6 * 5, 0)
    assert await conn.fetchval(PARTITIONS) == before + 6


async def test_rows_fall_into_their_weeks(conn: Connection) -> None:
    """What is accepted now lies in a partition of this week, not in the default one."""
    await accept(conn, submission())

    assert await conn.fetchval("select count(*) from executions_default") == 0


async def test_time_goes_on(conn: Connection) -> None:
    """Half a year later there is room again."""
    await move_clock(conn, "26 weeks")

    assert await prune.ensure_partitions(conn, weeks_ahead=4) == 6 * 5


async def test_a_row_in_the_default_partition_stops_one_week_only(conn: Connection) -> None:
    """A week whose partitions came too late stays in the default ones; the weeks after it still get theirs."""
    late = await conn.fetchval("select (uuid_floor(clock() + interval '6 weeks'))")
    await accept(conn, submission(id=late))

    made = await prune.ensure_partitions(conn, weeks_ahead=10)

    assert await conn.fetchval("select count(*) from executions_default") == 1
    assert made == 6 * 5 - 2  # the execution's and the event's


async def test_a_busy_moment_is_not_waited_out(conn: Connection, other: Connection) -> None:
    """When somebody is writing into the table, making partitions gives up instead of queueing everybody behind it."""
    async with other.transaction():
        await other.execute("lock table executions_default in row exclusive mode")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await prune.ensure_partitions(conn, weeks_ahead=10)

    assert await prune.ensure_partitions(conn, weeks_ahead=10) == 6 * 5


async def empty_weeks(conn: Connection, buckets: list[int]) -> list[str]:
    names = []
    while (name := await prune.drop_partition(conn, buckets)) is not None:
        names.append(name)
    return names


async def test_empty_weeks_are_dropped(conn: Connection) -> None:
    """Of each of the five tables, one by one; the last week, this one and those to come stay."""
    weeks = await conn.fetchval(PARTITIONS)
    await move_clock(conn, "26 weeks")
    await prune.ensure_partitions(conn, weeks_ahead=4)

    dropped = await empty_weeks(conn, [0])

    assert len(dropped) == (weeks - 1) * 5  # but for the default one
    assert await conn.fetchval(PARTITIONS) == 6 + 1
    assert await prune.ensure_partitions(conn, weeks_ahead=4) == 0


async def test_a_week_with_an_execution_is_kept(conn: Connection) -> None:
    """And all its tables with it, though nothing was logged in it yet: its events would find no place (I-21)."""
    made = await make_execution(conn, "queued")
    await conn.execute("delete from events")
    await move_clock(conn, "26 weeks")

    dropped = await empty_weeks(conn, [0])

    week = await conn.fetchval("select tableoid::regclass::text from executions where id = $1", made.id)
    suffix = week.removeprefix("executions")
    assert {f"{table}{suffix}" for table in ("executions", "outcomes", "events", "logs")} & set(dropped) == set()
    assert f"delivery_attempts{suffix}" in dropped


async def test_a_week_with_a_delivery_is_kept(conn: Connection) -> None:
    """A delivery that was never tried writes its attempts into the week that it was planned in."""
    await make_execution(conn, "succeeded", webhooks=(webhook(),))
    await move_clock(conn, "26 weeks")

    kept = [name for name in await empty_weeks(conn, [0, 1]) if name.startswith("delivery_attempts")]

    [(week,)] = await all_rows(
        conn,
        "select 'delivery_attempts' || to_char(date_trunc('week', now() at time zone 'UTC'), '_YYYY_MM_DD')",
    )
    assert kept
    assert week not in kept


async def test_a_busy_week_is_dropped_later(conn: Connection, other: Connection) -> None:
    """Whoever reads or writes the table is not made to wait for longer than a fifth of a second."""
    await move_clock(conn, "26 weeks")
    async with other.transaction():
        await other.fetch("select 1 from executions limit 1")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await prune.drop_partition(conn, [0])

    assert await prune.drop_partition(conn, [0]) is not None


async def test_rows_in_a_default_partition_are_told(conn: Connection) -> None:
    """None should ever be there."""
    before = await prune.strays(conn)
    await accept(conn, submission(id=await conn.fetchval("select (uuid_floor(clock() + interval '60 weeks'))")))

    assert (before, await prune.strays(conn)) == ([], ["events", "executions"])


async def test_old_keys_are_dropped(conn: Connection) -> None:
    """In bounded passes, and only those whose time is over."""
    await accept(conn, *(submission(idempotency_key=f"old-{n}") for n in range(5)))
    await move_clock(conn, "23 hours")
    await accept(conn, submission(idempotency_key="new"))
    await move_clock(conn, "25 hours")

    dropped = [await prune.drop_keys(conn, 0, limit=3) for _ in range(3)]

    assert dropped == [3, 2, 0]
    assert await conn.fetchval("select key from idempotency_keys") == "new"


async def test_secrets_of_settled_deliveries_are_erased(conn: Connection) -> None:
    """Long after the last delivery nobody needs the secret; until then it stays."""
    await make_execution(conn, "succeeded", webhooks=(webhook(headers_sealed=b"headers"),))
    [due] = await due_now(conn)
    await move_clock(conn, "2 days")
    waiting = await prune.forget_secrets(conn, 0, after_seconds=DAY)
    await deliver.settle(conn, [sent(due)])
    fresh = await prune.forget_secrets(conn, 0, after_seconds=DAY)
    await move_clock(conn, "4 days")

    erased = [await prune.forget_secrets(conn, 0, after_seconds=DAY) for _ in range(2)]

    assert (waiting, fresh, erased) == (0, 0, [1, 0])
    assert tuple(await only_row(conn, "select secret_sealed, headers_sealed from webhooks")) == (b"", b"")


@pytest.mark.parametrize("status", ["queued", "running", "delayed"])
async def test_secrets_of_unfinished_work_are_kept(conn: Connection, status: str) -> None:
    """A run may take longer than secrets are kept after its end."""
    await make_execution(conn, status, webhooks=(webhook(),))
    await move_clock(conn, "300 days")

    assert await prune.forget_secrets(conn, 0, after_seconds=DAY) == 0


async def test_an_erased_secret_is_not_a_missing_one(conn: Connection) -> None:
    """A delivery sent again after its secret was erased must not go out as if there had never been one."""
    await make_execution(conn, "succeeded", webhooks=(webhook(), webhook(secret_sealed=None)))
    for due in await due_now(conn):
        await deliver.settle(conn, [sent(due, state=DeliveryState.DELIVERED)])
    await move_clock(conn, "4 days")
    await prune.forget_secrets(conn, 0, after_seconds=DAY)
    for row in await conn.fetch("select id from deliveries"):
        await redrive.retry(conn, row["id"], namespace=1)

    again = sorted(await due_now(conn), key=lambda due: due.webhook_n)

    assert [due.secret_sealed for due in again] == [b"", None]


async def test_secrets_are_erased_in_bounded_passes(conn: Connection) -> None:
    """A year of webhooks is not one statement."""
    await conn.execute(
        """
        insert into webhooks (bucket, execution_id, n, namespace, url, host, secret_sealed, attempts_max, created_at)
        select 0, gen_random_uuid(), 1, 1, 'u', 'h', 's', 5, clock() - interval '9 days' from generate_series(1, 25)
        """
    )

    erased = [await prune.forget_secrets(conn, 0, after_seconds=DAY, limit=10) for _ in range(4)]

    assert erased == [10, 10, 5, 0]


async def test_old_changes_are_forgotten(conn: Connection) -> None:
    """In bounded passes, and only those that are older than they are kept."""
    made = await make_execution(conn, "running")
    await checkpoint.write(conn, [put(made, b"1", key=f"old-{n}") for n in range(5)])
    await move_clock(conn, "2 hours")
    await checkpoint.write(conn, [put(made, b"1", key="new")])

    dropped = [await prune.drop_changes(conn, 0, after_seconds=3_600, limit=3) for _ in range(3)]

    assert dropped == [3, 2, 0]
    assert await conn.fetchval("select key from memory_changes") == "new"


async def test_a_change_that_is_being_forgotten_is_passed_over(conn: Connection, other: Connection) -> None:
    """Two janitors do not wait for each other."""
    made = await make_execution(conn, "running")
    await checkpoint.write(conn, [put(made, b"1", key=f"k{n}") for n in range(4)])
    for one in (conn, other):
        await move_clock(one, "2 hours")

    async with other.transaction():
        theirs = await prune.drop_changes(other, 0, after_seconds=60, limit=3)
        ours = await prune.drop_changes(conn, 0, after_seconds=60)

    assert (theirs, ours) == (3, 1)


async def test_says_what_time_it_is(conn: Connection) -> None:
    """The database's clock, with its offset."""
    now = await prune.database_seconds(conn)
    await move_clock(conn, "1 hour")

    assert 3590 < await prune.database_seconds(conn) - now < 3610


async def test_pruning_an_empty_database(conn: Connection) -> None:
    """Nothing to do is nothing done."""
    assert (await prune.drop_keys(conn, 0), await prune.forget_secrets(conn, 0, after_seconds=0)) == (0, 0)
    assert await prune.drop_changes(conn, 0, after_seconds=0) == 0
    assert await counts(conn, "webhooks") == {"webhooks": 0}
