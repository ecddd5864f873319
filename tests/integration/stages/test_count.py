"""The census: of everything how many, counted by one replica for all."""

from __future__ import annotations

import asyncio

import asyncpg

from controlplane.domain.cap import Cap
from controlplane.reads import caps
from controlplane.stages import count
from tests.make import make_execution

DELIVERY = """
insert into deliveries (
  bucket, id, namespace, execution_id, webhook_n, event, host, url, body, state, attempts_max, next_at, created_at
)
select 0, gen_random_uuid(), 1, gen_random_uuid(), 1, 'e', 'h', 'u', '', 'pending', 1,
  clock() + make_interval(secs => $1), clock()
"""
MEMORY = """
insert into memory (bucket, namespace, scope, scope_id, key, value, created_at, updated_at)
select 0, $1, 'global', '', 'k' || n, $2, clock(), clock() from generate_series(1, 3) n
"""


async def counted(conn: asyncpg.Connection, cap: Cap = Cap.EXECUTIONS) -> dict[int, int]:
    _, found = await caps.counted(conn, cap, buckets=[0])
    return {namespace: n for namespace, n in found.items() if n}


async def census(conn: asyncpg.Connection) -> bool:
    await count.executions(conn, 0, older_than_seconds=0)  # the first only says that there is something to count
    return await count.executions(conn, 0, older_than_seconds=0)


async def test_of_every_namespace_how_many(conn: asyncpg.Connection) -> None:
    """And of all together how many in each state; what has ended counts no more."""
    for state in ("queued", "queued", "running", "succeeded"):
        await make_execution(conn, state)
    await conn.execute("update queue set namespace = 7 where state = 'leased'")

    await census(conn)

    totals = await caps.totals(conn, buckets=[0])
    assert await counted(conn) == {1: 2, 7: 1}
    assert (totals["executions.ready"], totals["executions.leased"]) == (2, 1)
    await conn.execute("delete from queue")
    await census(conn)
    assert await counted(conn) == {}
    assert (await caps.totals(conn, buckets=[0]))["executions.ready"] == 0


async def test_a_census_leaves_alone_how_late_the_oldest_is(conn: asyncpg.Connection) -> None:
    """Which another count writes, at another time: whoever watches it would be told now and then that all is well."""
    late = await make_execution(conn, "queued")
    await conn.execute("update queue set available_at = clock() - interval '1 hour' where id = $1", late.id)
    for _ in range(2):
        await count.totals(conn, 0, older_than_seconds=0)
    await census(conn)

    assert (await caps.totals(conn, buckets=[0]))["executions.oldest_ready_seconds"] >= 3_600


async def test_one_counts_for_all(conn: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """Of two that come at once one counts; while it is young nobody counts again."""
    await census(conn)
    both = await asyncio.gather(*(count.executions(one, 0, older_than_seconds=0) for one in (conn, other)))
    young = await count.executions(conn, 0, older_than_seconds=60)

    assert True in both
    assert not young


async def test_who_counts_holds_nobody_up(conn: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """A second one leaves at once what somebody counts."""
    await census(conn)
    async with conn.transaction():
        await count.executions(conn, 0, older_than_seconds=0)

        assert not await asyncio.wait_for(count.executions(other, 0, older_than_seconds=0), 5)


async def test_how_late_the_oldest_is(conn: asyncpg.Connection) -> None:
    """Of what has come due, the one that has waited longest; what is for later is not late."""
    for seconds in (-3600.0, -60.0, 3600.0):
        await conn.execute(DELIVERY, seconds)
    for _ in range(2):
        await count.totals(conn, 0, older_than_seconds=0)

    totals = await caps.totals(conn, buckets=[0])
    assert 3600 <= totals["deliveries.oldest_due_seconds"] < 3700
    assert totals["deliveries.pending"] == 3
    await conn.execute("delete from deliveries where next_at < clock()")
    await count.totals(conn, 0, older_than_seconds=0)
    assert (await caps.totals(conn, buckets=[0]))["deliveries.oldest_due_seconds"] == 0


async def test_how_much_is_in_memory(conn: asyncpg.Connection) -> None:
    """Keys and bytes of each namespace."""
    await conn.execute(MEMORY, 1, b"123")
    await conn.execute(MEMORY, 7, b"12345")
    for _ in range(2):
        await count.memory(conn, 0, older_than_seconds=0)

    assert await counted(conn, Cap.MEMORY_KEYS) == {1: 3, 7: 3}
    assert await counted(conn, Cap.MEMORY_BYTES) == {1: 9, 7: 15}


async def test_how_much_is_stored(conn: asyncpg.Connection) -> None:
    """By steps, of which the last makes it known; the next walk begins anew and forgets what is gone."""
    made = [await make_execution(conn, "succeeded", input=b"12345", context=b"123") for _ in range(5)]
    await conn.execute("update executions set namespace = 7 where id = $1", made[0].id)
    await conn.execute("update outcomes set result = '12'")

    steps = 0
    while not await counted(conn, Cap.STORED_BYTES):
        await count.stored(conn, 0, older_than_seconds=0, limit=2)
        steps += 1

    assert steps == 1 + 3
    assert await counted(conn, Cap.STORED_BYTES) == {1: 40, 7: 10}
    await conn.execute("delete from executions where namespace = 7")
    await count.stored(conn, 0, older_than_seconds=0)
    assert await counted(conn, Cap.STORED_BYTES) == {1: 40}
    assert not await count.stored(conn, 0, older_than_seconds=60)
